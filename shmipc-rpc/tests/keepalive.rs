//! A peer whose handlers are busy still answers pings.

mod common;

use std::time::Duration;

use shmipc_rpc::{Channel, Keepalive, Request, Response, Server, client::Caller};

use crate::common::{Packet, RUN, in_time, lab, packet};

#[tokio::test]
async fn a_handler_that_blocks_a_thread_of_several_does_not_look_stuck() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("lab.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let service = lab(|request| async move {
        if request.get_ref().text == "block" {
            // As if it computed, for much longer than a ping may take; the runtime is told, and leaves its other tasks to others.
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_secs(6)));
        }
        Ok(Response::new(request.into_inner()))
    });
    let server = Server::builder().add_service(service);
    let server = runtime.spawn(server.start(path.clone())).await;
    let _server = server.expect("no panic").expect("nobody listens there");
    let keepalive = Keepalive::new(Duration::from_millis(10), Duration::from_secs(5));
    let connecting = Channel::builder(path).keepalive(keepalive).connect();
    let caller = Caller::new(in_time(connecting).await.expect("the server listens"));
    for text in ["block"; 2] {
        let call = caller.unary::<_, Packet>(&RUN, Request::new(packet(text)));
        let answer = in_time(call).await.expect("it is slow, not stuck");
        assert_eq!(answer.into_inner(), packet(text));
    }
    runtime.shutdown_background();
}
