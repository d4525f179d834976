//! Peers that send more than anybody reads: memory stays bounded, and bystanders do not notice.

use tests::{
    alone, process,
    villain::{
        Role,
        shmipc::{Dialect, frame, kind},
    },
};

use super::{config, session};
use crate::stage::Stage;

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
        let mut stage = Stage::with(config(Dialect::V3)).await;
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
