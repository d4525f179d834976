//! Several sessions over one region of slices, as session managers of other implementations have them.

use std::time::Instant;

use shmipc_transport::Session;
use tests::{
    LONG, alone, echo, in_time,
    villain::{
        Role,
        shmipc::{Buffers, Dialect, ShmipcScript, ShmipcVillain},
    },
};

use super::stage;
use crate::stage::Stage;

/// So many that some of those that were received are kept to be used again.
const LISTS: [(u32, u32); 2] = [(1024, 64), (4096, 64)];
const ALL: u32 = 128;

/// A session over slices that others have as well.
async fn sibling(stage: &mut Stage, all: &ShmipcScript) -> (ShmipcVillain, Session) {
    let mut script = ShmipcScript::new(Role::Client, all.dialect, stage.files());
    script.share(all);
    let (ending, outcome) = stage.play(Role::Client, |socket| script.play(socket)).await;
    (ending.session(), stage.taken(outcome).await)
}

/// Waits until so many slices are free.
async fn are_free(buffers: &Buffers, expected: u32) {
    let start = Instant::now();
    while buffers.free() != expected {
        let free = buffers.free();
        assert!(
            start.elapsed() < LONG,
            "{free} slices of {expected} are free"
        );
        tokio::task::yield_now().await;
    }
}

#[test]
fn hazard_h16_h17_what_a_session_leaves_behind_is_there_for_its_siblings() {
    alone(async {
        for dialect in Dialect::ALL {
            let mut stage = stage(dialect).await;
            let mut all = ShmipcScript::new(Role::Client, dialect, stage.files());
            all.bring_lists(&LISTS);
            let (_survivor, surviving) = sibling(&mut stage, &all).await;
            let (mut villain, session) = sibling(&mut stage, &all).await;
            // Copied as they are received, so that their slices are kept.
            let stream = villain.prod(b"short");
            for _ in 1..10 {
                villain.send(stream, b"short");
            }
            let mut ours = in_time("a stream", session.accept_stream()).await.unwrap();
            for _ in 0..10 {
                let short = in_time("a message", ours.recv()).await.unwrap();
                assert_eq!(echo::all(short.unwrap()), b"short");
            }
            // Lent, except to those who know nobody, and held beyond the end of the session; and one that nobody receives.
            for _ in 0..3 {
                villain.send(stream, &[1; 4000]);
            }
            let mut held = Vec::new();
            for _ in 0..2 {
                held.push(in_time("a message", ours.recv()).await.unwrap().unwrap());
            }
            session.close();
            // What is in the queue then stays there.
            for _ in 0..2 {
                villain.send(stream, &[2; 4000]);
                villain.send(stream, b"unread");
            }
            drop((ours, session));
            let lent = if dialect.is_tcp() { 0 } else { 2 };
            are_free(&all.buffers, ALL - lent).await;
            drop(held);
            are_free(&all.buffers, ALL).await;
            assert!(!surviving.is_closed(), "{dialect:?}");
        }
    });
}
