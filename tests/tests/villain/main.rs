//! A peer that lies in every field, one lie at a time: only its own session ends, and says why.

mod conduct;
mod forwarded;
mod handshake;
mod memory;
mod oddities;
mod records;
mod shmipc;
mod stage;

use shmipc_transport::{PeerMisbehaved, SessionLost};
use stage::Stage;
use tests::{
    process,
    villain::{Record, Role, Script, Segment, Villain, record},
};

/// A lie told in a session, and how it is called by its victim.
struct Lie {
    name: &'static str,
    tell: fn(&mut Villain),
    is_found: fn(&PeerMisbehaved) -> bool,
}

macro_rules! lies {
    ($($name:literal: $tell:expr => $found:pat),* $(,)?) => {
        &[$($crate::Lie { name: $name, tell: $tell, is_found: |reason| matches!(reason, $found) }),*]
    };
}

use lies;

/// Tells each lie in a session of its own, as its client and as its server.
async fn told(lies: &[Lie]) {
    told_by(Script::new, lies).await;
}

/// The same after a handshake that is not the usual one.
async fn told_by(script: fn(Role) -> Script, lies: &[Lie]) {
    let mut stage = Stage::new().await;
    let before = process::Holdings::count();
    for lie in lies {
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = stage.session_of(script(role)).await;
            (lie.tell)(&mut villain);
            let lost = tests::in_time(lie.name, session.closed()).await;
            match lost {
                SessionLost::PeerMisbehaved(reason) if (lie.is_found)(&reason) => {}
                other => panic!("{} ({role:?}) ended in {other:?}", lie.name),
            }
            villain.wait_to_be_left();
            drop((villain, session));
            stage.bystander_is_well(lie.name).await;
        }
    }
    before.are_back("after lies").await;
}

/// A record of `kind` with a body of zeros.
fn zeros(villain: &mut Villain, kind: u8, len: usize) {
    let body = vec![0; len];
    villain.push(Record {
        kind,
        body,
        stream: 1,
        ..Record::default()
    });
}

/// Sends a message of one segment on a stream whose messages are kept.
fn hoarded(villain: &mut Villain, segment: Segment) {
    let stream = villain.open(record::MESSAGE, b"h");
    villain.push(Record::segments(stream, &[segment]));
}

const PAGE: Segment = Segment {
    region: 0,
    token: 7,
    offset: 0,
    len: 4096,
};

#[test]
fn words_are_in_the_order_of_this_machine() {
    assert_eq!(tests::villain::words(&[1]), 1u32.to_ne_bytes());
}
