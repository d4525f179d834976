//! Peers that send more than anybody reads: memory stays bounded, and bystanders do not notice.

use shmipc_transport::{PeerMisbehaved, SessionLost};
use tests::{
    alone, in_time, process,
    villain::{
        Role,
        shmipc::{Dialect, Element, ShmipcVillain, frame, kind, record},
    },
};

use super::{session, stage};

/// What a session takes of private memory at most before it pauses, and one message more.
const HELD_MAX: usize = 96 << 20;

/// A message that falls back on a stream which nobody reads.
fn unread(stream: u32, len: usize) -> Vec<u8> {
    let mut body = stream.to_be_bytes().to_vec();
    body.extend([0; 4]);
    body.resize(8 + len, b'n');
    body
}

#[test]
fn hazard_h46_what_nobody_reads_is_left_in_the_socket() {
    alone(async {
        let mut stage = stage(Dialect::V3).await;
        // The shorter the messages, the more each takes beside its bytes.
        for len in [1, 100, 1 << 20] {
            let (mut villain, session) = session(&mut stage, Role::Client, Dialect::V3).await;
            let before = process::resident();
            let stream = villain.prod(b"n");
            let one = frame(Dialect::V3, kind::FALLBACK, &unread(stream, len));
            let mut many = frame(Dialect::V3, kind::FALLBACK, &[0; 8]);
            many.bytes = one.bytes.repeat((1 << 20) / one.bytes.len() + 1);
            let taken = villain.flood(&many, 2 * HELD_MAX);
            assert!(taken < HELD_MAX, "{taken} bytes of {len} were taken");
            let grown = usize::try_from(process::resident().saturating_sub(before)).unwrap();
            assert!(
                grown < 2 * HELD_MAX,
                "{taken} bytes of {len}: {grown} are held"
            );
            assert!(!session.is_closed());
            stage.bystander_is_well("a flood").await;
            drop(villain);
            session.close();
        }
    });
}

/// More than any limit lets a victim keep.
const PINGS: u32 = 1 << 19;

/// Takes all slices, once the victim has opened its streams.
fn hoard(villain: &mut ShmipcVillain) {
    for _ in 0..super::VICTIMS_STREAMS {
        villain.message().expect("the victim opens a stream");
    }
    for list in villain.buffers.lists.clone() {
        // The last is never handed out.
        for _ in 1..list.count {
            let _hoarded = villain.buffers.take(&list);
        }
    }
}

#[test]
fn hazard_h46_answers_to_pings_that_nobody_reads_end_the_session() {
    alone(async {
        for dialect in Dialect::those(|dialect| !dialect.is_native()) {
            answers_end(dialect).await;
        }
    });
}

async fn answers_end(dialect: Dialect) {
    let mut stage = stage(dialect).await;
    let (mut villain, session) = session(&mut stage, Role::Client, dialect).await;
    hoard(&mut villain);
    let stream = villain.stream();
    villain.fall_back(stream, 0, b"echo");
    assert_eq!(villain.fallback(), (stream, b"echo".to_vec()));
    // From now on, answers go over the socket as well.
    let was_left = (1..PINGS).any(|nonce| {
        let ping = Element {
            stream: nonce,
            offset: 0,
            status: record::PING,
        };
        !villain.put(ping)
    });
    assert!(was_left, "{dialect:?}: {PINGS} answers are kept");
    let lost = in_time("the end", session.closed()).await;
    assert!(
        matches!(
            lost,
            SessionLost::PeerMisbehaved(PeerMisbehaved::NotConsuming { .. })
        ),
        "{dialect:?}: {lost:?}"
    );
    stage.bystander_is_well("a flood of pings").await;
}
