//! Lies on the socket of a session.

use shmipc_transport::{
    InvalidMessage::{Length, Magic, OutOfTurn, UnknownType, Version},
    InvalidShmipc::Status,
    PeerMisbehaved::{Shmipc, Socket},
};
use tests::{
    alone,
    villain::{
        Message,
        shmipc::{Dialect, ShmipcVillain, frame, kind, names, record},
    },
};

use super::{borne, shmipc_lies, told, told_in};

/// Says a message that has one byte changed.
fn altered(villain: &mut ShmipcVillain, kind: u8, at: usize, value: u8) {
    let mut message = frame(villain.dialect, kind, &[0; 9]);
    message.bytes[at] = value;
    villain.say_message(&message);
}

/// Says that a message has `len` bytes, and no more.
fn announced(villain: &mut ShmipcVillain, kind: u8, len: u32) {
    let mut message = frame(villain.dialect, kind, &[0; 64]);
    message.bytes[..4].copy_from_slice(&len.to_be_bytes());
    villain.say_message(&message);
}

/// A message on the socket in the place of one in shared memory.
fn fallback(villain: &mut ShmipcVillain, status: u32, payload: &[u8]) {
    let stream = villain.prod(b"h");
    villain.fall_back(stream, status, payload);
}

#[test]
fn heads_that_lie() {
    alone(async {
        told(shmipc_lies! {
            "another magic": |v| altered(v, kind::POLLING, 4, 0) => Socket(Magic(0x0058)),
            "a version that there is not": |v| altered(v, kind::POLLING, 6, 5) => Socket(Version(5)),
            "a type that there is not": |v| altered(v, 11, 7, 11) => Socket(UnknownType(11)),
            "a type of our other link": |v| altered(v, 34, 7, 34) => Socket(UnknownType(34)),
            "the last type": |v| altered(v, 255, 7, 255) => Socket(UnknownType(255)),
            "garbage": |v| v.say_message(&Message { bytes: b"garbage!".to_vec(), fds: Vec::new() }) => Socket(Magic(_)),
        })
        .await;
    });
}

#[test]
fn hazard_h26_h57_lengths_that_no_message_has() {
    alone(async {
        told(shmipc_lies! {
            "nothing": |v| announced(v, kind::POLLING, 0) => Socket(Length { len: 0, .. }),
            "less than a head": |v| announced(v, kind::CLOSE, 7) => Socket(Length { len: 7, .. }),
            "polling with a body": |v| announced(v, kind::POLLING, 9) => Socket(Length { .. }),
            "half of a stream": |v| announced(v, kind::CLOSE, 10) => Socket(Length { .. }),
            "a stream and more": |v| announced(v, kind::CLOSE, 13) => Socket(Length { .. }),
            "a fallback of a head": |v| announced(v, kind::FALLBACK, 8) => Socket(Length { len: 8, .. }),
            "a fallback without a status": |v| announced(v, kind::FALLBACK, 15) => Socket(Length { len: 15, .. }),
            "a fallback of more than 32 MiB": |v| announced(v, kind::FALLBACK, (32 << 20) + 1) => Socket(Length { .. }),
            "a fallback of 4 GiB": |v| announced(v, kind::FALLBACK, u32::MAX) => Socket(Length { .. }),
            "half of an epoch": |v| announced(v, kind::HOT_RESTART, 12) => Socket(Length { .. }),
            "an acknowledgement of nothing": |v| announced(v, kind::HOT_RESTART_ACK, 8) => Socket(Length { .. }),
            "a negotiation without end": |v| announced(v, kind::NEGOTIATION, u32::MAX) => Socket(Length { .. }),
            "names without any": |v| announced(v, kind::MEMFD_NAMES, 11) => Socket(Length { .. }),
            "paths without end": |v| announced(v, kind::FILE_PATHS, 1 << 20) => Socket(Length { .. }),
        })
        .await;
    });
}

#[test]
fn hazard_h25_what_belongs_into_the_handshake() {
    alone(async {
        told(shmipc_lies! {
            "another version": |v| v.say(kind::VERSION, &[]) => Socket(OutOfTurn { .. }),
            "other names": |v| { let names = names(v.dialect, b"queue", b"buffer"); v.say_message(&names) } => Socket(OutOfTurn { .. }),
            "a name that is longer than the message": |v| v.say(kind::MEMFD_NAMES, &[0, 200, b'q', 0, 1, b'b'])
                => Socket(shmipc_transport::InvalidMessage::TooShort { .. }),
            "a name of nothing": |v| v.say(kind::FILE_PATHS, &[0, 0, 0, 0]) => Socket(shmipc_transport::InvalidMessage::Path),
            "mapped again": |v| v.say(kind::MAPPED, &[]) => Socket(OutOfTurn { .. }),
            "ready again": |v| v.say(kind::READY, &[]) => Socket(OutOfTurn { .. }),
            "another negotiation": |v| v.say(kind::NEGOTIATION, b"{}") => Socket(OutOfTurn { .. }),
        })
        .await;
    });
}

#[test]
fn statuses_on_the_socket_that_nobody_has() {
    alone(async {
        told(shmipc_lies! {
            "closed, with a payload": |v| fallback(v, 1, b"x") => Shmipc(Status { status: 1 }),
            "everything": |v| fallback(v, u32::MAX, b"x") => Shmipc(Status { .. }),
        })
        .await;
        told_in(
            Dialect::Records,
            shmipc_lies! {
                "a reset without a code": |v| fallback(v, record::RESET, b"") => Shmipc(Status { status: record::RESET }),
                "a reset with two": |v| fallback(v, record::RESET, &[0; 8]) => Shmipc(Status { .. }),
                "credit over the socket": |v| fallback(v, record::CREDIT, &[0; 4]) => Shmipc(Status { .. }),
            },
        )
        .await;
    });
}

#[test]
fn hazard_h27_what_is_odd_and_harmless_on_the_socket() {
    alone(async {
        borne(&[
            ("hot restarts, whoever says it", |v| {
                for kind in [kind::HOT_RESTART, kind::HOT_RESTART_ACK] {
                    for epoch in [0, u64::MAX] {
                        v.say(kind, &epoch.to_be_bytes());
                    }
                }
            }),
            ("woken for nothing", |v| {
                for _ in 0..100 {
                    v.say(kind::POLLING, &[]);
                }
            }),
            ("any version that there is", |v| {
                for version in 0..=4 {
                    let mut message = frame(v.dialect, kind::POLLING, &[]);
                    message.bytes[6] = version;
                    v.say_message(&message);
                }
            }),
            ("hazard V11: descriptors that nobody asked for", |v| {
                let fds = (0..200).map(|_| v.queues.fd()).collect();
                let message = Message {
                    fds,
                    ..frame(v.dialect, kind::POLLING, &[])
                };
                v.say_message(&message);
            }),
            (
                "hazard H47: a stream that is closed, and closed again",
                |v| {
                    let stream = v.prod(b"h");
                    for _ in 0..3 {
                        v.say(kind::CLOSE, &stream.to_be_bytes());
                    }
                    v.fall_back(stream, 0, b"late");
                },
            ),
        ])
        .await;
    });
}
