//! Lies in records, about streams, and on the socket of a session.

use shmipc_transport::{
    InvalidMessage, InvalidRecord,
    PeerMisbehaved::{
        CreditExceeded, CreditOverflow, Pong, Record as Invalid, SentAfterEnd, Socket, StreamId,
        TooManyStreams,
    },
};
use tests::{
    alone,
    villain::{INLINE, Message, OUTBOX_LEN, Record, Segment, kind, record},
};

use crate::{lies, stage::Stage, told, zeros};

#[test]
fn lies_in_the_head_of_a_record() {
    alone(async {
        told(lies! {
        "kind 0": |v| { v.push_raw(16, &[0; 12]); } => Invalid(InvalidRecord::Kind(0)),
        "kind 12": |v| zeros(v, 12, 0) => Invalid(InvalidRecord::Kind(12)),
        "kind 255": |v| { v.push_raw(u32::MAX, &[255; 12]); } => Invalid(InvalidRecord::Kind(255)),
        "a pad beyond the ring": |v| { v.push(Record { kind: record::PAD, claimed_len: Some(64 << 10), ..Record::default() }); }
            => Invalid(InvalidRecord::Length(65_536)),
        "data beyond the ring": |v| { v.push(Record { claimed_len: Some(0x00ff_ffff), ..Record::data(v.next_stream(), 1, &[]) }); }
            => Invalid(InvalidRecord::Length(0x00ff_ffff)),
        "data too long": |v| { v.push(Record { claimed_len: Some(4000), ..Record::data(v.next_stream(), 1, &[]) }); }
            => Invalid(InvalidRecord::Length(_)),
        "inline too long": |v| { v.push(Record { claimed_len: Some(2049), ..Record::data(v.next_stream(), 1, &[]) }); }
            => Invalid(InvalidRecord::InlineBytes),
        "reset without a code": |v| zeros(v, record::RESET, 0) => Invalid(InvalidRecord::BodyLength { .. }),
        "reset with two": |v| zeros(v, record::RESET, 8) => Invalid(InvalidRecord::BodyLength { .. }),
        "half a credit": |v| zeros(v, record::CREDIT, 4) => Invalid(InvalidRecord::BodyLength { .. }),
        "go-away with a body": |v| zeros(v, record::GO_AWAY, 1) => Invalid(InvalidRecord::BodyLength { .. }),
        "bye with a body": |v| zeros(v, record::BYE, 16) => Invalid(InvalidRecord::BodyLength { .. }),
        "half a region": |v| zeros(v, record::REGION_ADDED, 4) => Invalid(InvalidRecord::BodyLength { .. }),
        "two regions dropped": |v| zeros(v, record::REGION_DROPPED, 8) => Invalid(InvalidRecord::BodyLength { .. }),
        "a return of nothing": |v| zeros(v, record::RETURN, 0) => Invalid(InvalidRecord::BodyLength { .. }),
        "half a ping": |v| zeros(v, 10, 4) => Invalid(InvalidRecord::BodyLength { .. }),
        "a pong without a ping": |v| zeros(v, 11, 8) => Pong { nonce: 0 },
        "no flags": |v| { v.open(0, b"e"); } => Invalid(InvalidRecord::Flags(0)),
        "unknown flags": |v| { v.open(1 | 4, b"e"); } => Invalid(InvalidRecord::Flags(5)),
        "all flags": |v| { v.open(u16::MAX, b"e"); } => Invalid(InvalidRecord::Flags(_)),
        "an end with a body": |v| { v.open(record::END, b"e"); } => Invalid(InvalidRecord::Flags(_)),
        "too many segments": |v| { v.push(Record { segments: 65, ..Record::data(v.next_stream(), 1, &[0; 65 * 16]) }); }
            => Invalid(InvalidRecord::Segments(65)),
        "more segments than body": |v| { v.push(Record { segments: 2, ..Record::data(v.next_stream(), 1, &[0; 31]) }); }
            => Invalid(InvalidRecord::Segments(2)),
        "inline bytes that no segment names": |v| {
            let inline = Segment { region: INLINE, len: 1, ..Segment::default() };
            let mut record = Record::segments(v.next_stream(), &[inline]);
            record.body.extend([1, 2]);
            v.push(record);
        } => Invalid(InvalidRecord::InlineBytes),
        "inline bytes that are not there": |v| {
            let inline = Segment { region: INLINE, len: u32::MAX, ..Segment::default() };
            v.push(Record::segments(v.next_stream(), &[inline]));
        } => Invalid(InvalidRecord::InlineBytes),
    })
    .await;
    });
}

#[test]
fn lies_about_streams() {
    alone(async {
        told(lies! {
        "stream 0": |v| { v.push(Record::data(0, 1, b"e")); } => StreamId { stream: 0 },
        "a stream of the victim's": |v| { let id = v.foreign_stream(); v.push(Record::data(id, 1, b"e")); } => StreamId { .. },
        "reset of a stream that was never opened": |v| { let id = v.next_stream(); v.push(Record::control(record::RESET, id, &[1])); }
            => StreamId { .. },
        "reset of a stream that the victim never opened": |v| { let id = v.foreign_stream(); v.push(Record::control(record::RESET, id, &[1])); }
            => StreamId { .. },
        "credit for a stream that was never opened": |v| { let id = v.next_stream(); v.push(Record::control(record::CREDIT, id, &[0, 0])); }
            => StreamId { .. },
        "credit for a stream that the victim never opened":
            |v| { let id = v.foreign_stream(); v.push(Record::control(record::CREDIT, id, &[0, 0])); } => StreamId { .. },
        "too many streams": |v| for _ in 0..=Stage::STREAMS_MAX { v.open(record::MESSAGE, b"n"); }
            => TooManyStreams { max: Stage::STREAMS_MAX },
        "data after the end": |v| {
            let id = v.open(record::MESSAGE | record::END, b"n");
            v.push(Record::data(id, record::MESSAGE, b"more"));
        } => SentAfterEnd { .. },
        "two ends": |v| {
            let id = v.open(record::MESSAGE | record::END, b"n");
            v.push(Record::data(id, record::END, b""));
        } => SentAfterEnd { .. },
        "more messages than credit": |v| {
            let id = v.open(record::MESSAGE, b"n");
            for _ in 0..32 { v.push(Record::data(id, record::MESSAGE, b"")); }
        } => CreditExceeded { .. },
        "more bytes than credit": |v| {
            v.add_region(0, 1 << 20);
            let id = v.open(record::MESSAGE, b"n");
            for token in 0..5 { v.push(Record::segments(id, &[Segment { region: 0, token, offset: 0, len: 1 << 20 }])); }
        } => CreditExceeded { .. },
        "one message too many granted": |v| { let id = v.message().stream; v.push(Record::control(record::CREDIT, id, &[2, 8192])); }
            => CreditOverflow { .. },
        "one byte too many granted": |v| { let id = v.message().stream; v.push(Record::control(record::CREDIT, id, &[1, 8193])); }
            => CreditOverflow { .. },
        "everything granted": |v| { let id = v.message().stream; v.push(Record::control(record::CREDIT, id, &[u32::MAX, u32::MAX])); }
            => CreditOverflow { .. },
    })
    .await;
    });
}

#[test]
fn lies_on_the_socket_of_a_session() {
    alone(async {
        told(lies! {
        "another negotiation": |v| v.say(&Message::new(kind::NEGOTIATION, b"{}")) => Socket(InvalidMessage::OutOfTurn { .. }),
        "another ready": |v| v.say(&Message::new(kind::READY, &[])) => Socket(InvalidMessage::OutOfTurn { .. }),
        "another outbox": |v| { let fds = vec![v.own.fd(), v.own.fd()]; v.say(&Message::outbox(OUTBOX_LEN.into(), fds)) }
            => Socket(InvalidMessage::OutOfTurn { .. }),
        "an unknown type": |v| v.say(&Message::new(36, &[])) => Socket(InvalidMessage::UnknownType(36)),
        "garbage": |v| v.say(&Message { bytes: b"garbage!".to_vec(), fds: Vec::new() }) => Socket(InvalidMessage::Magic(_)),
        "a short region": |v| { let fds = vec![v.own.fd()]; v.say(&Message { fds, ..Message::new(kind::REGION, &[0; 11]) }) }
            => Socket(InvalidMessage::TooShort { .. }),
        "a long region": |v| { let fds = vec![v.own.fd()]; v.say(&Message { fds, ..Message::new(kind::REGION, &[0; 13]) }) }
            => Socket(InvalidMessage::TrailingBytes(1)),
        "a region of 4 GiB of header": |v| { let mut message = Message::region(0, 1, Vec::new()); message.bytes[0] = 255; v.say(&message) }
            => Socket(InvalidMessage::Length { .. }),
        "a region without memory": |v| v.say(&Message::region(0, 4096, Vec::new())) => Socket(InvalidMessage::Descriptors { received: 0, .. }),
        "a region with two": |v| { let fds = vec![v.own.fd(), v.own.fd()]; v.say(&Message::region(0, 4096, fds)) }
            => Socket(InvalidMessage::Descriptors { received: 2, .. }),
        "a region with three": |v| { let fds = (0..3).map(|_| v.own.fd()).collect(); v.say(&Message::region(0, 4096, fds)) }
            => Socket(InvalidMessage::TooManyDescriptors),
        "a region with two hundred": |v| { let fds = (0..200).map(|_| v.own.fd()).collect(); v.say(&Message::region(0, 4096, fds)) }
            => Socket(InvalidMessage::TooManyDescriptors),
    })
    .await;
    });
}
