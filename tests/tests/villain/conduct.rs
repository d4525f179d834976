//! Peers that break no rule of form, and do harm all the same: full doorbells, endless work, memory never given back.

use shmipc_transport::{PeerMisbehaved, SessionLost};
use tests::{
    alone, process,
    villain::{Message, Record, Role, Script, at, record},
};

use crate::stage::Stage;

#[test]
fn goodbyes_are_told_apart() {
    alone(async {
        let mut stage = Stage::new().await;
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = stage.session(role).await;
            villain.push(Record::control(record::BYE, 0, &[]));
            let lost = tests::in_time("bye", session.closed()).await;
            assert!(matches!(lost, SessionLost::ClosedByPeer), "{lost:?}");
            let (mut villain, session) = stage.session(role).await;
            villain.say(&Message {
                bytes: vec![0, 0, 0],
                fds: Vec::new(),
            });
            drop(villain);
            let lost = tests::in_time("death", session.closed()).await;
            assert!(matches!(lost, SessionLost::PeerDied), "{lost:?}");
        }
    });
}

/// Whoever is rung for must not be able to hold up whoever rings.
#[test]
fn a_full_and_blocking_doorbell_holds_nobody_up() {
    alone(async {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        let mut stage = Stage::new().await;
        for role in [Role::Client, Role::Server] {
            let mut script = Script::new(role);
            let full = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
            full.write(u64::MAX - 1).unwrap();
            script.messages[1].fds[1] = full.into();
            let (ending, session) = stage.open(script).await;
            let mut villain = ending.session();
            let session = stage.cast(session).await;
            villain.own.store(at::STARVED, 1);
            for i in 0..8 {
                villain.own.store(at::SLEEP, 2 * i + 1);
                villain.open(record::MESSAGE, b"e");
                villain.message();
            }
            session.close();
            villain.wait_to_be_left();
            stage.bystander_is_well("a full doorbell").await;
        }
    });
}

/// Opening streams and giving them up is free for the villain, so it must cost the victim nothing that lasts.
#[test]
fn streams_given_up_before_anybody_accepts_them_do_not_pile_up() {
    alone(async {
        let mut stage = Stage::new().await;
        for role in [Role::Client, Role::Server] {
            let (ending, session) = stage.open(Script::new(role)).await;
            // Nobody accepts streams.
            let session = stage.taken(session).await;
            let mut villain = ending.session();
            let before = process::resident();
            for _ in 0..50_000 {
                let id = villain.open(record::MESSAGE, &[0; 2048]);
                villain.push(Record::control(record::RESET, id, &[0]));
            }
            tests::until("everything was read", || {
                villain.theirs.load(at::HEAD) == villain.tail()
            })
            .await;
            let growth = process::resident().saturating_sub(before);
            assert!(
                growth < 16 << 20,
                "{growth} bytes for streams that are over"
            );
            assert!(!session.is_closed());
            stage.bystander_is_well("given up").await;
        }
    });
}

/// A villain that makes its victim talk, and never listens.
#[test]
fn a_peer_that_never_listens_is_given_up() {
    alone(async {
        let mut stage = Stage::new().await;
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = stage.session(role).await;
            let before = process::resident();
            let most = Stage::STREAMS_MAX as usize / 2;
            while !session.is_closed() {
                // Each is dropped by the victim, which says so.
                villain.open(record::MESSAGE, b"d");
                while !session.is_closed()
                    && (villain.theirs.load(at::HEAD) != villain.tail()
                        || most < session.stats().streams_open)
                {
                    std::thread::yield_now();
                }
                assert!(villain.next_stream() < 1 << 20, "nobody minds");
            }
            let lost = session.closed().await;
            assert!(
                matches!(
                    lost,
                    SessionLost::PeerMisbehaved(PeerMisbehaved::NotConsuming { .. })
                ),
                "{lost:?}"
            );
            let growth = process::resident().saturating_sub(before);
            assert!(
                growth < 32 << 20,
                "{growth} bytes for one that never listens"
            );
            stage.bystander_is_well("never listens").await;
        }
    });
}

/// A villain that takes memory and never gives it back.
#[test]
fn a_peer_that_returns_nothing_gets_no_more_than_the_maximum() {
    alone(async {
        let mut stage = Stage::new().await;
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = stage.session(role).await;
            let most = Stage::MEMORY_MAX / 8192;
            for _ in 0..most + 5 {
                let stream = villain.open(record::MESSAGE | record::END, b"A");
                let _ = stream;
            }
            let mut served = 1; // The first is sent without being asked for.
            villain.message();
            while served < most {
                villain.message();
                served += 1;
            }
            tests::until("all memory is in use", || {
                session.stats().arena_used == u64::from(Stage::MEMORY_MAX)
            })
            .await;
            assert_eq!(session.stats().segments_under_way, most);
            stage.bystander_is_well("returns nothing").await;
            // Giving back helps at once.
            villain.give_back(0);
            villain.message();
            assert!(!session.is_closed());
        }
    });
}
