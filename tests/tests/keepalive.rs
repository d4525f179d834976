//! Peers that live and do not answer.

use std::{path::Path, time::Duration};

use shmipc_rpc::{Channel, Code, Keepalive, client::Caller};
use shmipc_transport::{Config, Session, SessionLost};
use tests::{
    alone,
    echo::Place,
    in_time,
    other::{self, Other},
    service::{ANSWER, HANG, Named, Packet, ask, request},
};
use tokio::{sync::mpsc, time::sleep};

/// Short, because tests wait for it, and long enough for a process to be scheduled where there is much else to do.
const TIMEOUT: Duration = Duration::from_secs(5);

const KEEPALIVE: Keepalive = Keepalive::new(Duration::from_millis(20), TIMEOUT);

/// What the second process does. Nothing, in the first.
#[test]
fn other_process() {
    let Some((role, socket)) = other::role() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "server" => {
                let server = Named::server("other")
                    .take_over(true)
                    .start(socket.as_path());
                let _server = server.await.unwrap();
                other::ready();
                std::future::pending::<()>().await;
            }
            "client" => {
                let caller = Caller::new(Channel::connect(socket).await.unwrap());
                ask(&caller, "there?").await.unwrap();
                other::ready();
                let _ = caller.unary::<_, Packet>(&HANG, request("")).await;
            }
            unknown => panic!("nobody plays {unknown}"),
        }
    });
}

/// Starts the second process.
fn start(role: &str, socket: &Path) -> Other {
    Other::start("other_process", role, socket)
}

async fn connect(place: &Place) -> Caller {
    let connecting = Channel::builder(place.path())
        .keepalive(KEEPALIVE)
        .connect();
    Caller::new(in_time("connecting", connecting).await.unwrap())
}

#[test]
fn calls_of_a_stopped_server_fail_and_the_next_goes_to_its_successor() {
    alone(async {
        let place = Place::new();
        let stuck = start("server", &place.path());
        let caller = connect(&place).await;
        assert_eq!(ask(&caller, "there?").await.unwrap(), "other");
        let calls: Vec<_> = [&HANG, &ANSWER, &HANG]
            .into_iter()
            .map(|method| {
                let caller = caller.clone();
                tokio::spawn(async move { caller.unary::<_, Packet>(method, request("")).await })
            })
            .collect();
        stuck.stop();
        for (call, may_be_answered) in calls.into_iter().zip([false, true, false]) {
            match in_time("the end", call).await.unwrap() {
                Ok(_) => assert!(may_be_answered),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    let message = "the peer did not answer a ping within 5s";
                    assert_eq!(status.message(), message);
                }
            }
        }
        let _successor = start("server", &place.path());
        assert_eq!(ask(&caller, "again").await.unwrap(), "other");
    });
}

#[test]
fn a_server_gets_rid_of_a_stopped_client() {
    alone(async {
        let place = Place::new();
        let (connected, mut peers) = mpsc::unbounded_channel();
        let server = Named::server("here")
            .keepalive(KEEPALIVE)
            .on_session(move |peer| drop(connected.send(peer)));
        let _server = server.start(place.path()).await.unwrap();
        let path = place.path();
        let client = tokio::task::spawn_blocking(move || start("client", &path));
        let client = client.await.unwrap();
        let peer = in_time("a client", peers.recv()).await.unwrap();
        // The call may be under way when it stops, or may not be yet: without one, nobody minds.
        tests::until("a call runs", || client_waits(&client)).await;
        client.stop();
        let lost = in_time("the end", peer.closed()).await;
        assert!(
            matches!(lost, SessionLost::Unresponsive { timeout } if timeout == TIMEOUT),
            "{lost:?}"
        );
    });
}

/// Whether all threads of a process sleep.
fn client_waits(client: &Other) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap();
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        state == Some('S')
    })
}

#[test]
fn a_slow_handler_is_waited_for() {
    alone(async {
        let place = Place::new();
        let _server = start("server", &place.path());
        let caller = connect(&place).await;
        let mut slow = request("");
        slow.set_timeout(TIMEOUT + TIMEOUT / 2);
        let call = caller.unary::<_, Packet>(&HANG, slow);
        let status = in_time("the deadline", call).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert_eq!(ask(&caller, "there?").await.unwrap(), "other");
    });
}

#[test]
fn an_idle_session_is_left_alone_unless_that_is_wished_for() {
    alone(async {
        let place = Place::new();
        let server = start("server", &place.path());
        let session = |keepalive| {
            let config = Config::builder().keepalive(keepalive).build().unwrap();
            Session::connect_with(place.path(), config)
        };
        let quiet = in_time("connecting", session(KEEPALIVE)).await.unwrap();
        let lively = in_time("connecting", session(KEEPALIVE.while_idle(true)));
        let lively = lively.await.unwrap();
        // Whatever connecting has led to is over by then.
        in_time("an answer", quiet.ping()).await.unwrap();
        let rung = quiet.stats().doorbells_rung;
        server.stop();
        let lost = in_time("the end", lively.closed()).await;
        assert!(matches!(lost, SessionLost::Unresponsive { .. }), "{lost:?}");
        sleep(TIMEOUT / 2).await;
        assert!(!quiet.is_closed());
        assert_eq!(quiet.stats().doorbells_rung, rung, "nothing was sent");
    });
}
