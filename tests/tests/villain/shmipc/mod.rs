//! The same over shmipc's own link, as everybody speaks it and with our records: all that a peer can do to the memory that it shares
//! with its victim, and to the socket, ends its own session, or is a lack of memory.

mod floods;
mod handshake;
mod leftovers;
mod lists;
mod messages;
mod queues;
mod siblings;
mod socket;
mod streams;

use std::{path::Path, time::Duration};

use shmipc_transport::{
    Config, ConfigBuilder, LinkKind, PeerMisbehaved, Session, SessionLost, Shmipc, ShmipcMapping,
    ShmipcWakes,
};
use tests::{
    process,
    villain::{
        Role,
        shmipc::{Dialect, ShmipcScript, ShmipcVillain},
    },
};

use crate::stage::Stage;

/// A lie told in a session, and how it is called by its victim.
struct Lie {
    name: &'static str,
    tell: fn(&mut ShmipcVillain),
    is_found: fn(&PeerMisbehaved) -> bool,
}

macro_rules! shmipc_lies {
    ($($name:literal: $tell:expr => $found:pat),* $(,)?) => {
        &[$($crate::shmipc::Lie { name: $name, tell: $tell, is_found: |reason| matches!(reason, $found) }),*]
    };
}

use shmipc_lies;

/// The streams that victims accept natively.
const STREAMS_MAX: u32 = 80;

/// Streams that victims open, for villains that cannot open any.
const VICTIMS_STREAMS: usize = 3;

/// What victims of a villain that speaks `dialect` are configured for.
fn config(dialect: Dialect, files: &Path, further: impl FnOnce(Shmipc) -> Shmipc) -> ConfigBuilder {
    let mapping = if dialect.has_files() {
        ShmipcMapping::File
    } else {
        ShmipcMapping::Memfd
    };
    let wakes = if dialect == Dialect::V4Polling {
        ShmipcWakes::Polling(Duration::from_millis(1))
    } else {
        ShmipcWakes::EventFd
    };
    // Queues and lists so short that all of them is used, and no slices are kept to be used again.
    let shmipc = Shmipc::default()
        .buffer_len(64 << 10)
        .slices([(1024, 20), (4096, 80)])
        .queue_len(16)
        .mapping(mapping)
        .wakes(wakes)
        .directory(files);
    let link = match dialect.version() {
        2 => LinkKind::ShmipcV2,
        3 => LinkKind::ShmipcV3,
        _ => LinkKind::ShmipcV4,
    };
    let builder = Config::builder().links([link]).shmipc(further(shmipc));
    builder.streams_max(STREAMS_MAX)
}

/// Victims of a villain that speaks `dialect`.
async fn stage(dialect: Dialect) -> Stage {
    stage_with(dialect, |shmipc| shmipc, |config| config).await
}

/// The same with other settings: of the link, and of all else.
async fn stage_with(
    dialect: Dialect,
    further: impl FnOnce(Shmipc) -> Shmipc,
    settings: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
) -> Stage {
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = settings(config(dialect, files.path(), further));
    Stage::over(config.build().unwrap(), files, dialect.is_tcp()).await
}

/// Both ends of a session after an honest handshake.
async fn session(stage: &mut Stage, role: Role, dialect: Dialect) -> (ShmipcVillain, Session) {
    let script = ShmipcScript::new(role, dialect, stage.files());
    let (ending, outcome) = stage.play(role, |socket| script.play(socket)).await;
    let session = stage.cast_with(outcome, VICTIMS_STREAMS).await;
    (ending.session(), session)
}

/// Tells each lie in a session of its own, in all dialects, as its client and as its server.
async fn told(lies: &[Lie]) {
    for dialect in Dialect::ALL {
        told_in(dialect, lies).await;
    }
}

/// The same where victims are lent what they receive, and so hold it.
async fn told_to_holders(lies: &[Lie]) {
    for dialect in Dialect::those(|dialect| !dialect.is_tcp()) {
        told_in(dialect, lies).await;
    }
}

async fn told_in(dialect: Dialect, lies: &[Lie]) {
    told_on(stage(dialect).await, dialect, lies).await;
}

/// The same to victims on such a stage.
async fn told_on(mut stage: Stage, dialect: Dialect, lies: &[Lie]) {
    let before = process::Holdings::count();
    for lie in lies {
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = session(&mut stage, role, dialect).await;
            (lie.tell)(&mut villain);
            let lost = tests::in_time(lie.name, session.closed()).await;
            match lost {
                SessionLost::PeerMisbehaved(reason) if (lie.is_found)(&reason) => {}
                other => panic!("{} ({role:?}, {dialect:?}) ended in {other:?}", lie.name),
            }
            villain.wait_to_be_left();
            drop((villain, session));
            stage.bystander_is_well(lie.name).await;
        }
    }
    before.are_back("after lies").await;
}

/// Waits until the victim has opened its streams, and so takes no slices any more but for answers. Returns a stream.
fn stream_after_theirs(villain: &mut ShmipcVillain) -> u32 {
    let stream = villain.stream();
    let others = match (villain.role, villain.dialect.is_native()) {
        // Only clients open any.
        (Role::Client, true) => 0,
        // The first is the one.
        (Role::Server, true) => VICTIMS_STREAMS - 1,
        (_, false) => VICTIMS_STREAMS,
    };
    for _ in 0..others {
        villain.message().expect("the victim opens a stream");
    }
    stream
}

/// Something odd, and how it is done.
type Oddity = (&'static str, fn(&mut ShmipcVillain));

/// Does each oddity in a session of its own, which must go on as if nothing had been.
async fn borne(oddities: &[Oddity]) {
    for dialect in Dialect::ALL {
        borne_in(dialect, oddities).await;
    }
}

async fn borne_in(dialect: Dialect, oddities: &[Oddity]) {
    let mut stage = stage(dialect).await;
    let before = process::Holdings::count();
    for (name, tell) in oddities {
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = session(&mut stage, role, dialect).await;
            tell(&mut villain);
            let stream = villain.prod(b"echo");
            let echo = loop {
                match villain.message() {
                    Some((of, message)) if of == stream => break message,
                    Some(_) => {}
                    None => panic!("{name} ({role:?}, {dialect:?}): the victim hung up"),
                }
            };
            assert_eq!(echo, b"echo", "{name} ({role:?}, {dialect:?})");
            assert!(!session.is_closed(), "{name} ({role:?}, {dialect:?})");
            drop(villain);
            let lost = tests::in_time(name, session.closed()).await;
            // Natively, hanging up is how a session is closed.
            let is_natural = if dialect.is_native() {
                matches!(lost, SessionLost::ClosedByPeer)
            } else {
                matches!(lost, SessionLost::PeerDied)
            };
            assert!(is_natural, "{name} ({role:?}, {dialect:?}): {lost:?}");
            drop(session);
            stage.bystander_is_well(name).await;
        }
    }
    before.are_back("after oddities").await;
}
