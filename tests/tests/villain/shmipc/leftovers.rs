//! What is left of sessions that are over, and of peers that were killed in the middle of a handshake: nothing.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};

use shmipc_transport::Session;
use tests::{
    alone,
    echo::Place,
    in_time,
    other::{self, Other, ready},
    process::Holdings,
    until,
    villain::{
        Role,
        shmipc::{Dialect, ShmipcScript},
    },
};

use super::{session, stage};
use crate::stage::Stage;

/// What the second process does. Nothing, in the first.
#[test]
fn other_process() {
    let Some((said, socket)) = other::role() else {
        return;
    };
    let words: Vec<_> = said.split(' ').collect();
    let [role, dialect, count, files] = words[..] else {
        panic!("nobody plays {said}");
    };
    let dialect = Dialect::ALL[dialect.parse::<usize>().unwrap()];
    let script = |role| ShmipcScript::new(role, dialect, Path::new(files));
    let count = count.parse().unwrap();
    let _stalled = match role {
        "client" => {
            let connected = UnixStream::connect(&socket).unwrap();
            let stalled = script(Role::Client).stall(connected, count);
            ready();
            stalled
        }
        _ => {
            let listener = UnixListener::bind(&socket).unwrap();
            ready();
            script(Role::Server).stall(listener.accept().unwrap().0, count)
        }
    };
    loop {
        std::thread::park();
    }
}

/// Starts a villain that says so many messages.
fn start(stage: &Stage, role: &str, number: usize, count: usize, socket: &Path) -> Other {
    let files = stage.files().display();
    let said = format!("{role} {number} {count} {files}");
    Other::start("shmipc::leftovers::other_process", &said, socket)
}

/// The dialects that are spoken over Unix sockets, with their numbers.
fn over_unix() -> impl Iterator<Item = (usize, Dialect)> {
    let all = Dialect::ALL.into_iter().enumerate();
    all.filter(|(_, dialect)| !dialect.is_tcp())
}

/// How many messages there are to say.
fn messages(stage: &Stage, role: Role, dialect: Dialect) -> usize {
    ShmipcScript::new(role, dialect, stage.files())
        .messages
        .len()
}

#[test]
fn hazard_h41_h59_l4_clients_killed_at_each_step_of_the_handshake() {
    alone(async {
        for (number, dialect) in over_unix() {
            let mut stage = stage(dialect).await;
            let before = Holdings::count();
            let all = messages(&stage, Role::Client, dialect);
            for count in 0..=all {
                let villain = start(&stage, "client", number, count, stage.path());
                // Who has said everything has a session, which ends with its process.
                let mut sessions = Vec::new();
                if count == all {
                    sessions.push(stage.taken(None).await);
                }
                villain.kill();
                for session in sessions {
                    in_time("the end", session.closed()).await;
                }
                let what = format!("{dialect:?}: a client killed after {count} messages");
                before.are_back(&what).await;
                stage.bystander_is_well(&what).await;
            }
        }
    });
}

#[test]
fn hazard_h64_l5_servers_killed_at_each_step_of_the_handshake() {
    alone(async {
        for (number, dialect) in over_unix() {
            let stage = stage(dialect).await;
            let before = Holdings::count();
            for count in 0..=messages(&stage, Role::Server, dialect) {
                let place = Place::new();
                let villain = start(&stage, "server", number, count, &place.path());
                let connecting = Session::connect_with(place.path(), stage.victims());
                let connecting = tokio::spawn(connecting);
                // As much of the handshake happens as can; when exactly it ends is nobody's matter.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                villain.kill();
                if let Ok(session) = in_time("the end", connecting).await.unwrap() {
                    in_time("the end", session.closed()).await;
                }
                let what = format!("{dialect:?}: a server killed after {count} messages");
                before.are_back(&what).await;
                until(&what, || stage.names().is_empty()).await;
                stage.bystander_is_well(&what).await;
            }
        }
    });
}

/// Neither does the listener keep them, nor their own tasks, nor whoever forgets to close them.
#[test]
fn hazard_l1_l2_sessions_that_are_over_are_gone() {
    alone(async {
        for dialect in Dialect::ALL {
            let mut stage = stage(dialect).await;
            let before = Holdings::count();
            for role in [Role::Client, Role::Server].repeat(5) {
                let (mut villain, session) = session(&mut stage, role, dialect).await;
                let stream = villain.prod(b"echo");
                while villain.message().is_some_and(|(of, _)| of != stream) {}
                drop((session, villain));
            }
            before
                .are_back("after sessions that nobody has closed")
                .await;
        }
    });
}
