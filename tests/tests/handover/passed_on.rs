//! The same where the listening socket itself is passed on.

use std::{os::unix::fs::MetadataExt, path::Path};

use shmipc_transport::{InheritError, Listener};
use tests::{LONG, echo::Place, service::Named};

use crate::{Clients, Other, say, told_to_stop};

const ROUNDS: usize = 20;

/// Where successors come to.
fn door(socket: &Path) -> std::path::PathBuf {
    socket.with_extension("next")
}

/// A server that is the successor of another, but for the first, and serves until it has a successor, or is told to stop.
pub(crate) async fn heir(socket: &Path, name: &str) {
    let listener = if name == "0" {
        Listener::bind(socket).unwrap()
    } else {
        loop {
            match Listener::inherit(door(socket)).await {
                // The predecessor does not wait for anybody yet.
                Err(InheritError::Connect(_)) => tokio::task::yield_now().await,
                inherited => break inherited.unwrap(),
            }
        }
    };
    say("ready");
    let hand_over = listener.hand_over().unwrap();
    let server = Named::server(name);
    let shutdown = async {
        tokio::select! {
            offered = hand_over.offer(door(socket)) => offered.unwrap(),
            () = told_to_stop() => {}
        }
    };
    let serving = server.serve_with_listener_and_shutdown(listener, shutdown);
    let served = tokio::time::timeout(LONG, serving).await;
    served.expect("it ends").unwrap();
    say("done");
    // What waits for the end of the standard input cannot be cancelled.
    std::process::exit(0);
}

#[test]
fn no_call_fails_while_processes_pass_their_socket_on() {
    let place = Place::new();
    let start = |round: usize| {
        let mut server = Other::start(&format!("heir {round}"), &place.path());
        server.says("ready");
        server
    };
    let mut current = start(0);
    let inode = || std::fs::metadata(place.path()).unwrap().ino();
    let before = inode();
    let mut clients = Clients::start(&place);
    for round in 1..=ROUNDS {
        let successor = start(round);
        let mut predecessor = std::mem::replace(&mut current, successor);
        clients.are_served_by(round);
        predecessor.says("done");
        predecessor.ends();
        assert_eq!(inode(), before, "not even the file is another");
    }
    clients.stop(ROUNDS);
    current.stop();
    current.says("done");
    current.ends();
    assert_eq!(place.files(), 0, "the last one takes the socket along");
}
