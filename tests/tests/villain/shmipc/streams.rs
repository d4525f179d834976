//! Lies about streams.

use std::collections::BTreeSet;

use shmipc_transport::PeerMisbehaved::{
    CreditExceeded, CreditOverflow, Pong, SentAfterEnd, StreamId, TooManyStreams,
};
use tests::{
    alone, in_time,
    villain::{
        Role,
        shmipc::{Dialect, Element, ShmipcVillain, kind, record},
    },
};

use super::{Oddity, STREAMS_MAX, borne, borne_in, session, shmipc_lies, stage, told, told_in};

fn said(villain: &mut ShmipcVillain, stream: u32, offset: u32, status: u32) {
    villain.put(Element {
        stream,
        offset,
        status,
    });
}

/// A stream of the victim's, which it has opened with 8 KiB in two slices.
fn theirs(villain: &mut ShmipcVillain) -> u32 {
    villain.message().expect("the victim opens a stream").0
}

#[test]
fn no_stream_has_the_number_0() {
    alone(async {
        told(shmipc_lies! {
            "a message": |v| { v.send(0, b"echo"); } => StreamId { stream: 0 },
            "a close": |v| v.say(kind::CLOSE, &[0; 4]) => StreamId { stream: 0 },
        })
        .await;
    });
}

#[test]
fn what_our_records_say_of_streams_must_be_possible() {
    alone(async {
        told_in(Dialect::Records, shmipc_lies! {
            "a message on a stream that only the victim may open": |v| { let stream = v.stream() + 1001; v.send(stream, b"e"); }
                => StreamId { .. },
            "a reset of a stream that was never opened": |v| { let stream = v.stream(); said(v, stream + 20, 0, record::RESET) }
                => StreamId { .. },
            "credit for a stream that was never opened": |v| { let stream = v.stream(); said(v, stream + 20, 1, record::CREDIT) }
                => StreamId { .. },
            "a stream far ahead": |v| { let stream = v.stream(); v.send(stream + (1 << 30), b"e"); } => StreamId { .. },
            "more streams than may be opened before the ends of as many are heard of": |v|
                for _ in 0..=2 * STREAMS_MAX { let stream = v.stream(); flooded(v, stream); }
                => TooManyStreams { max: STREAMS_MAX },
            "a message behind the last": |v| {
                let (stream, offset) = (v.stream(), v.buffers.write(b"n"));
                said(v, stream, offset, record::LAST_MESSAGE);
                v.send(stream, b"more");
            } => SentAfterEnd { .. },
            "more credit than the window": |v| { let stream = theirs(v); said(v, stream, u32::MAX, record::CREDIT) } => CreditOverflow { .. },
            "more messages than credit": |v| { let stream = v.prod(b"n"); for _ in 0..64 { flooded(v, stream); } }
                => CreditExceeded { .. },
            "an answer to no ping": |v| said(v, 7, 7, record::PONG) => Pong { .. },
        })
        .await;
    });
}

/// Sends a message without memory, of which the victim reads nothing.
fn flooded(villain: &mut ShmipcVillain, stream: u32) {
    villain.fall_back(stream, 0, b"n");
}

#[test]
fn hazard_h66_streams_that_only_clients_may_open_are_not_opened_by_servers() {
    alone(async {
        let oddities: &[Oddity] = &[
            (
                "hazard C5: a message on a stream that was never opened",
                |v| {
                    if v.role == Role::Server {
                        for stream in [1, 100, u32::MAX] {
                            v.send(stream, b"e");
                        }
                    }
                },
            ),
            ("a close of a stream that was never opened", |v| {
                for stream in [1000u32, u32::MAX] {
                    v.say(kind::CLOSE, &stream.to_be_bytes());
                    said(v, stream, 0, 1);
                }
            }),
        ];
        for dialect in Dialect::those(Dialect::is_native) {
            borne_in(dialect, oddities).await;
        }
    });
}

#[test]
fn hazard_l9_what_comes_for_a_stream_that_is_over_is_put_back() {
    alone(async {
        borne(&[("more than there are slices", |v| {
            let stream = v.prod(b"d");
            for _ in 0..20 {
                v.send(stream, b"late");
                v.wait_for_short_slices();
            }
        })])
        .await;
    });
}

#[test]
fn hazard_h46_streams_beyond_the_limit_are_closed() {
    alone(async {
        let mut stage = stage(Dialect::V3).await;
        let (mut villain, victim) = session(&mut stage, Role::Client, Dialect::V3).await;
        let streams: Vec<_> = (0..3 * STREAMS_MAX).map(|_| villain.stream()).collect();
        let mut refused = BTreeSet::new();
        for &stream in &streams {
            flooded(&mut villain, stream);
            while let Some(element) = villain.peek() {
                assert_eq!(element.status & 0xff, 1, "the victim says nothing else");
                refused.insert(element.stream);
            }
        }
        in_time("the victim closes those that are too many", async {
            while refused.len() < streams.len() - STREAMS_MAX as usize {
                match villain.peek() {
                    Some(element) => drop(refused.insert(element.stream)),
                    None => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        assert!(streams.ends_with(&refused.into_iter().collect::<Vec<_>>()));
        assert!(!victim.is_closed());
        stage.bystander_is_well("too many streams").await;
    });
}
