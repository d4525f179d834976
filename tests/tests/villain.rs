//! A peer that lies in every field, one lie at a time: only its own session ends, and says why.

mod stage;

use shmipc_transport::{
    ConnectError, HeadOverrun, InvalidGeometry, InvalidMessage, InvalidRecord, PeerMisbehaved,
    SessionLost,
};
use stage::Stage;
use tests::{
    alone, process,
    villain::{
        Ending, INLINE, Memory, Message, OUTBOX_LEN, Record, Role, SEALS, Script, Segment, Villain,
        YOURS, at, kind, record, words,
    },
};

/// A lie told in the handshake, and how it is called by its victim.
struct Opening {
    name: &'static str,
    tell: fn(&mut Script),
    is_found: fn(&ConnectError) -> bool,
}

/// A lie told in a session, and how it is called by its victim.
struct Lie {
    name: &'static str,
    tell: fn(&mut Villain),
    is_found: fn(&PeerMisbehaved) -> bool,
}

macro_rules! openings {
    ($($name:literal: $tell:expr => $found:pat),* $(,)?) => {
        &[$(Opening { name: $name, tell: $tell, is_found: |error| matches!(error, $found) }),*]
    };
}

macro_rules! lies {
    ($($name:literal: $tell:expr => $found:pat),* $(,)?) => {
        &[$(Lie { name: $name, tell: $tell, is_found: |reason| matches!(reason, $found) }),*]
    };
}

use ConnectError::PeerMisbehaved as Misbehaved;
use PeerMisbehaved::{
    CreditExceeded, CreditOverflow, Geometry, OutOfRegion, RegionAnnouncement, RegionLength,
    SentAfterEnd, Socket, StreamId, TooManySegments, TooManyStreams, UnknownRegion, UnknownToken,
    Unsealed,
};
use PeerMisbehaved::{Head, Record as Invalid, Returns};

fn constant(script: &Script, at: u32, value: u32) {
    script.outbox.store(at, value);
}

/// Replaces the memory that is passed.
fn memory(script: &mut Script, memory: Memory, claimed_len: u64) {
    let doorbell = script.messages[1].fds.remove(1);
    script.messages[1] = Message::outbox(claimed_len, vec![memory.fd(), doorbell]);
    script.outbox = memory;
}

#[test]
fn lies_about_the_outbox() {
    alone(async {
        let lies: &[Opening] = openings! {
            "another magic": |s| constant(s, at::MAGIC, 1) => Misbehaved(Geometry(InvalidGeometry::Magic(1))),
            "another version": |s| constant(s, at::VERSION, 2) => Misbehaved(Geometry(InvalidGeometry::Version(2))),
            "ring in the header": |s| constant(s, at::RING_OFFSET, 0) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "ring misaligned": |s| constant(s, at::RING_OFFSET, 4097) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "ring over the returns": |s| constant(s, at::RING_OFFSET, 8192) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "ring beyond the end": |s| constant(s, at::RING_OFFSET, u32::MAX - 63) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "no ring": |s| constant(s, at::RING_LEN, 0) => Misbehaved(Geometry(InvalidGeometry::RingLength(0))),
            "odd ring": |s| constant(s, at::RING_LEN, 65_535) => Misbehaved(Geometry(InvalidGeometry::RingLength(65_535))),
            "short ring": |s| constant(s, at::RING_LEN, 4096) => Misbehaved(Geometry(InvalidGeometry::RingLength(4096))),
            "longer ring": |s| constant(s, at::RING_LEN, 128 << 10) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "longest ring": |s| constant(s, at::RING_LEN, 1 << 31) => Misbehaved(Geometry(InvalidGeometry::RingLength(_))),
            "returns in the ring": |s| constant(s, at::RETURNS_OFFSET, 4096) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "returns misaligned": |s| constant(s, at::RETURNS_OFFSET, 69_634) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "returns beyond the end": |s| constant(s, at::RETURNS_OFFSET, OUTBOX_LEN) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "no returns": |s| constant(s, at::RETURNS_LEN, 0) => Misbehaved(Geometry(InvalidGeometry::RingLength(0))),
            "few returns": |s| constant(s, at::RETURNS_LEN, 2048) => Misbehaved(Geometry(InvalidGeometry::RingLength(2048))),
            "odd returns": |s| constant(s, at::RETURNS_LEN, 4097) => Misbehaved(Geometry(InvalidGeometry::RingLength(4097))),
            "more returns": |s| constant(s, at::RETURNS_LEN, 1 << 30) => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "no streams": |s| constant(s, at::STREAMS_MAX, 0) => Misbehaved(Geometry(InvalidGeometry::Window)),
            "no messages": |s| constant(s, at::WINDOW_MESSAGES, 0) => Misbehaved(Geometry(InvalidGeometry::Window)),
            "no bytes": |s| constant(s, at::WINDOW_BYTES, 0) => Misbehaved(Geometry(InvalidGeometry::Window)),
            "unsealed": |s| memory(s, Memory::create(OUTBOX_LEN, nix::fcntl::SealFlag::empty()), OUTBOX_LEN.into())
                => Misbehaved(Unsealed { seals: 0 }),
            "may shrink": |s| memory(s, Memory::create(OUTBOX_LEN, SEALS.difference(nix::fcntl::SealFlag::F_SEAL_SHRINK)), OUTBOX_LEN.into())
                => Misbehaved(Unsealed { .. }),
            "may grow": |s| memory(s, Memory::create(OUTBOX_LEN, SEALS.difference(nix::fcntl::SealFlag::F_SEAL_GROW)), OUTBOX_LEN.into())
                => Misbehaved(Unsealed { .. }),
            "may be written": |s| memory(s, Memory::create(OUTBOX_LEN, SEALS.difference(nix::fcntl::SealFlag::F_SEAL_FUTURE_WRITE)), OUTBOX_LEN.into())
                => Misbehaved(Unsealed { .. }),
            "shorter than claimed": |s| memory(s, Memory::sealed(4096), OUTBOX_LEN.into()) => Misbehaved(RegionLength { actual: 4096, .. }),
            "longer than claimed": |s| memory(s, Memory::sealed(2 * OUTBOX_LEN), OUTBOX_LEN.into()) => Misbehaved(RegionLength { .. }),
            "too short for a header": |s| memory(s, Memory::sealed(64), 64) => Misbehaved(Geometry(InvalidGeometry::TooSmall(64))),
            "too short for its rings": |s| {
                let short = Memory::sealed(4096);
                short.write(0, &s.outbox.read(0, 36));
                memory(s, short, 4096);
            } => Misbehaved(Geometry(InvalidGeometry::Placement { .. })),
            "claims nothing": |s| memory(s, Memory::sealed(OUTBOX_LEN), 0) => Misbehaved(RegionLength { claimed: 0, .. }),
            "claims everything": |s| memory(s, Memory::sealed(OUTBOX_LEN), u64::MAX) => Misbehaved(RegionLength { .. }),
            "not a memory file": |s| s.messages[1].fds.swap(0, 1) => Misbehaved(Unsealed { .. }),
            "a file instead of a doorbell": |s| s.messages[1].fds[1] = tempfile::tempfile().unwrap().into() => Misbehaved(PeerMisbehaved::Doorbell),
            "a pipe instead of a doorbell": |s| s.messages[1].fds[1] = std::io::pipe().unwrap().1.into() => Misbehaved(PeerMisbehaved::Doorbell),
        };
        told_in_the_handshake(lies).await;
    });
}

/// Replaces a message by raw bytes.
fn bytes(script: &mut Script, message: usize, bytes: &[u8]) {
    script.messages[message].bytes = bytes.to_vec();
}

/// Changes a byte of a message.
fn byte(script: &mut Script, message: usize, at: usize, value: u8) {
    script.messages[message].bytes[at] = value;
}

#[test]
fn lies_in_the_handshake() {
    alone(async {
        let lies: &[Opening] = openings! {
            "nothing at all": |s| s.messages.clear() => ConnectError::Closed { .. },
            "half of a header": |s| { s.messages.truncate(1); bytes(s, 0, &[0, 0, 0]) } => ConnectError::Closed { .. },
            "no outbox": |s| s.messages.truncate(1) => ConnectError::Closed { .. },
            "half of an outbox": |s| { s.messages.truncate(2); s.messages[1].bytes.truncate(12) } => ConnectError::Closed { .. },
            "never ready": |s| s.messages.truncate(2) => ConnectError::Closed { .. },
            "another language": |s| bytes(s, 0, b"GET / HTTP/1.1\r\n\r\n") => Misbehaved(Socket(InvalidMessage::Magic(_))),
            "another version byte": |s| byte(s, 0, 6, 4) => Misbehaved(Socket(InvalidMessage::Version(4))),
            "an unknown type": |s| byte(s, 0, 7, 77) => Misbehaved(Socket(InvalidMessage::UnknownType(77))),
            "shorter than a header": |s| { byte(s, 0, 3, 7); byte(s, 0, 2, 0) } => Misbehaved(Socket(InvalidMessage::Length { .. })),
            "a negotiation of 4 GiB": |s| byte(s, 0, 0, 255) => Misbehaved(Socket(InvalidMessage::Length { .. })),
            "no negotiation": |s| { s.messages.remove(0); } => Misbehaved(Socket(InvalidMessage::OutOfTurn { .. })),
            "ready at once": |s| s.messages.swap(0, 2) => Misbehaved(Socket(InvalidMessage::OutOfTurn { .. })),
            "ready before the outbox": |s| s.messages.swap(1, 2) => Misbehaved(Socket(InvalidMessage::OutOfTurn { .. })),
            "a negotiation instead of an outbox": |s| s.messages[1] = Message::new(kind::NEGOTIATION, b"{}")
                => Misbehaved(Socket(InvalidMessage::OutOfTurn { .. })),
            "a region instead of an outbox": |s| { let memory = Memory::sealed(4096); s.messages[1] = Message::region(0, 4096, vec![memory.fd()]) }
                => Misbehaved(Socket(InvalidMessage::OutOfTurn { .. })),
            "two outboxes": |s| { let fds = s.messages[1].fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
                s.messages[2] = Message::outbox(OUTBOX_LEN.into(), fds) } => Misbehaved(Socket(InvalidMessage::OutOfTurn { .. })),
            "an outbox of another layout": |s| byte(s, 1, 27, 2) => Misbehaved(Socket(InvalidMessage::Layout(2))),
            "an outbox too short": |s| s.messages[1].bytes = Message::new(kind::OUTBOX, &[0; 19]).bytes
                => Misbehaved(Socket(InvalidMessage::TooShort { .. })),
            "an outbox too long": |s| { let mut body = s.messages[1].bytes.split_off(8); body.push(0);
                s.messages[1].bytes = Message::new(kind::OUTBOX, &body).bytes } => Misbehaved(Socket(InvalidMessage::TrailingBytes(1))),
            "ready with a body": |s| s.messages[2] = Message::new(kind::READY, &[0]) => Misbehaved(Socket(InvalidMessage::TrailingBytes(1))),
            "an outbox without descriptors": |s| s.messages[1].fds.clear() => Misbehaved(Socket(InvalidMessage::Descriptors { received: 0, .. })),
            "an outbox with one descriptor": |s| s.messages[1].fds.truncate(1) => Misbehaved(Socket(InvalidMessage::Descriptors { received: 1, .. })),
            "an outbox with three": |s| { let fd = s.outbox.fd(); s.messages[1].fds.push(fd) } => Misbehaved(Socket(InvalidMessage::TooManyDescriptors)),
            "a hundred descriptors": |s| for _ in 0..98 { let fd = s.outbox.fd(); s.messages[1].fds.push(fd) }
                => Misbehaved(Socket(InvalidMessage::TooManyDescriptors)),
            "a negotiation with a descriptor": |s| { let fd = s.outbox.fd(); s.messages[0].fds.push(fd) }
                => Misbehaved(Socket(InvalidMessage::Descriptors { .. })),
            "ready with a descriptor": |s| { let fd = s.outbox.fd(); s.messages[2].fds.push(fd) }
                => Misbehaved(Socket(InvalidMessage::Descriptors { .. })),
        };
        told_in_the_handshake(lies).await;
    });
}

#[test]
fn a_client_that_cannot_negotiate_is_told_so_and_a_server_is_found_out() {
    alone(async {
        let lies: &[Opening] = openings! {
            "no json": |s| s.messages[0] = Message::new(kind::NEGOTIATION, b"{") => Misbehaved(Socket(InvalidMessage::Negotiation { .. })),
            "an empty document": |s| s.messages[0] = Message::new(kind::NEGOTIATION, b"") => Misbehaved(Socket(InvalidMessage::Negotiation { .. })),
            "nothing in it": |s| s.messages[0] = Message::new(kind::NEGOTIATION, b"{}") => Misbehaved(Socket(InvalidMessage::Negotiation { .. })),
            "not text": |s| s.messages[0] = Message::new(kind::NEGOTIATION, &[0xff; 60_000]) => Misbehaved(Socket(InvalidMessage::Negotiation { .. })),
            "depth": |s| s.messages[0] = Message::new(kind::NEGOTIATION, "[".repeat(60_000).as_bytes())
                => Misbehaved(Socket(InvalidMessage::Negotiation { .. })),
        };
        told_in_the_handshake(lies).await;
    });
}

/// Tells each lie to a server and to a client.
async fn told_in_the_handshake(lies: &[Opening]) {
    let mut stage = Stage::new().await;
    let before = process::Holdings::count();
    for lie in lies {
        for role in [Role::Client, Role::Server] {
            let mut script = Script::new(role);
            (lie.tell)(&mut script);
            let (ending, session) = stage.open(script).await;
            if let Ending::Session(villain) = ending {
                // The victim had said that it is ready before it heard the lie.
                villain.wait_to_be_left();
            }
            match session {
                // The listener logs it and goes on.
                None => assert_eq!(role, Role::Client, "{}", lie.name),
                Some(Ok(session)) => panic!("{} ({role:?}) got {session:?}", lie.name),
                Some(Err(error)) => assert!((lie.is_found)(&error), "{}: {error:?}", lie.name),
            }
            stage.bystander_is_well(lie.name).await;
        }
    }
    before.are_back("after lies in the handshake").await;
}

/// Tells each lie in a session of its own, as its client and as its server.
async fn told(lies: &[Lie]) {
    let mut stage = Stage::new().await;
    let before = process::Holdings::count();
    for lie in lies {
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = stage.session(role).await;
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

#[test]
fn lies_in_the_head_of_a_record() {
    alone(async {
        told(lies! {
        "kind 0": |v| { v.push_raw(16, &[0; 12]); } => Invalid(InvalidRecord::Kind(0)),
        "kind 10": |v| zeros(v, 10, 0) => Invalid(InvalidRecord::Kind(10)),
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
fn lies_about_the_villains_own_memory() {
    alone(async {
        told(lies! {
        "a region that never was": |v| hoarded(v, PAGE) => UnknownRegion { region: 0 },
        "a region that is gone": |v| { v.add_region(0, 4096); v.push(Record::control(record::REGION_DROPPED, 0, &[0])); hoarded(v, PAGE); }
            => UnknownRegion { region: 0 },
        "beyond the end": |v| { v.add_region(0, 4096); hoarded(v, Segment { len: 4097, ..PAGE }); } => OutOfRegion(_),
        "across the end": |v| { v.add_region(0, 4096); hoarded(v, Segment { offset: 1, ..PAGE }); } => OutOfRegion(_),
        "far beyond the end": |v| { v.add_region(0, 4096); hoarded(v, Segment { offset: u32::MAX, len: u32::MAX, ..PAGE }); } => OutOfRegion(_),
        "nothing, beyond the end": |v| { v.add_region(0, 4096); hoarded(v, Segment { offset: 4097, len: 0, ..PAGE }); } => OutOfRegion(_),
        "a token twice": |v| { v.add_region(0, 4096); hoarded(v, PAGE); hoarded(v, PAGE); } => TooManySegments { .. },
        "too many segments under way": |v| {
            v.add_region(0, 1 << 20);
            let segments: Vec<_> = (0..64).map(|token| Segment { region: 0, token, offset: 0, len: 1 }).collect();
            for round in 0..65 {
                let stream = v.open(record::MESSAGE, b"h");
                let named: Vec<_> = segments.iter().map(|s| Segment { token: s.token + 64 * round, ..*s }).collect();
                if !v.push(Record::segments(stream, &named)) {
                    return;
                }
                v.push(Record::control(record::RESET, stream, &[0]));
            }
        } => TooManySegments { .. },
        "a message longer than memory can be": |v| {
            v.add_region(0, 1 << 27);
            let segments: Vec<_> = (0..64).map(|token| Segment { region: 0, token, offset: 0, len: 1 << 27 }).collect();
            v.push(Record::segments(v.next_stream(), &segments));
        } => PeerMisbehaved::MessageLength { .. },
        "a region that was not passed": |v| { v.push(Record::control(record::REGION_ADDED, 0, &[0, 4096])); } => RegionAnnouncement { region: 0 },
        "a region under another id": |v| {
            v.say(&Message::region(1, 4096, vec![Memory::sealed(4096).fd()]));
            v.push(Record::control(record::REGION_ADDED, 0, &[2, 4096]));
        } => RegionAnnouncement { region: 2 },
        "a region of another length": |v| {
            v.say(&Message::region(1, 4096, vec![Memory::sealed(4096).fd()]));
            v.push(Record::control(record::REGION_ADDED, 0, &[1, 8192]));
        } => RegionAnnouncement { region: 1 },
        "a region twice": |v| { v.add_region(0, 4096); v.add_region(0, 4096); } => RegionAnnouncement { region: 0 },
        "too many regions": |v| for id in 0..1025 { v.add_region(id, 4096); } => RegionAnnouncement { .. },
        "too many regions passed": |v| {
            let memory = Memory::sealed(4096);
            for id in 0..1100 { v.say(&Message::region(id, 4096, vec![memory.fd()])); }
        } => RegionAnnouncement { .. },
        "a region dropped that never was": |v| { v.push(Record::control(record::REGION_DROPPED, 0, &[3])); } => UnknownRegion { region: 3 },
        "a region dropped twice": |v| {
            v.add_region(0, 4096);
            for _ in 0..2 { v.push(Record::control(record::REGION_DROPPED, 0, &[0])); }
        } => UnknownRegion { region: 0 },
        "an unsealed region": |v| {
            let memory = Memory::create(4096, nix::fcntl::SealFlag::F_SEAL_GROW);
            v.say(&Message::region(0, 4096, vec![memory.fd()]));
        } => Unsealed { .. },
        "a region of another length than its file": |v| v.say(&Message::region(0, 8192, vec![Memory::sealed(4096).fd()]))
            => RegionLength { claimed: 8192, actual: 4096 },
        "an empty region": |v| v.say(&Message::region(0, 0, vec![Memory::sealed(0).fd()])) => RegionLength { .. },
    })
    .await;
    });
}

/// The segment that the victim has sent at the beginning.
fn lent(villain: &mut Villain) -> Segment {
    villain.message().named()[0]
}

/// Has the victim use its memory, and so look at what has come back.
fn prod(villain: &mut Villain) {
    villain.open(record::MESSAGE, b"a");
}

/// Sends a segment of the victim's memory back to it.
fn send_back(villain: &mut Villain, change: impl Fn(&mut Segment)) {
    let mut segment = lent(villain);
    change(&mut segment);
    segment.region |= YOURS;
    villain.push(Record::segments(villain.next_stream(), &[segment]));
}

#[test]
fn lies_about_the_victims_memory() {
    alone(async {
        told(lies! {
        "a token that never was": |v| send_back(v, |s| s.token += 1) => UnknownToken { .. },
        "a token of another generation": |v| send_back(v, |s| s.token ^= 1 << 16) => UnknownToken { .. },
        "another region": |v| send_back(v, |s| s.region += 1) => UnknownToken { .. },
        "before its start": |v| send_back(v, |s| s.offset = s.offset.wrapping_sub(1)) => UnknownToken { .. },
        "beyond its end": |v| send_back(v, |s| s.len += 1) => UnknownToken { .. },
        "far beyond its end": |v| send_back(v, |s| { s.offset = u32::MAX; s.len = u32::MAX }) => UnknownToken { .. },
        "after its return": |v| {
            let segment = lent(v);
            v.push(Record::control(record::RETURN, 0, &[segment.token]));
            let yours = Segment { region: segment.region | YOURS, ..segment };
            v.push(Record::segments(v.next_stream(), &[yours]));
        } => UnknownToken { .. },
        "a return record of nothing": |v| { v.push(Record::control(record::RETURN, 0, &[5])); } => UnknownToken { token: 5 },
        "a return record twice": |v| {
            let token = lent(v).token;
            for _ in 0..2 { v.push(Record::control(record::RETURN, 0, &[token])); }
        } => UnknownToken { .. },
        "a return of an unknown token": |v| { lent(v); v.give_back(0xdead); prod(v) } => UnknownToken { token: 0xdead },
        "a return twice": |v| {
            let token = lent(v).token;
            prod(v);
            v.message();
            v.give_back(token);
            v.give_back(token);
            prod(v);
        } => UnknownToken { .. },
        "more returns than segments": |v| { lent(v); v.own.store(at::RETURNED, 2); prod(v) } => Returns(_),
        "fewer returns than before": |v| { lent(v); v.own.store(at::RETURNED, u32::MAX); prod(v) } => Returns(_),
        "progress beyond the end": |v| {
            v.own.store(at::HEAD, 0x00ff_0000);
            fill_the_victims_ring(v);
        } => Head(HeadOverrun { head: 0x00ff_0000, .. }),
        "progress backwards": |v| {
            // The victim looks when it lacks space, so it must lack some twice.
            fill_the_victims_ring(v);
            while v.peek().is_some() {}
            v.announce();
            while v.peek().is_none() { std::thread::yield_now(); }
            v.own.store(at::HEAD, v.head().wrapping_sub(32 << 10));
            fill_the_victims_ring(v);
        } => Head(_),
    })
    .await;
    });
}

/// Has the victim send more than its ring holds.
fn fill_the_victims_ring(villain: &mut Villain) {
    let mut message = vec![b'e'; 2048];
    message[1] = 0;
    for _ in 0..Stage::STREAMS_MAX / 2 - 2 {
        villain.open(record::MESSAGE | record::END, &message);
    }
}

#[test]
fn lies_on_the_socket_of_a_session() {
    alone(async {
        told(lies! {
        "another negotiation": |v| v.say(&Message::new(kind::NEGOTIATION, b"{}")) => Socket(InvalidMessage::OutOfTurn { .. }),
        "another ready": |v| v.say(&Message::new(kind::READY, &[])) => Socket(InvalidMessage::OutOfTurn { .. }),
        "another outbox": |v| { let fds = vec![v.own.fd(), v.own.fd()]; v.say(&Message::outbox(OUTBOX_LEN.into(), fds)) }
            => Socket(InvalidMessage::OutOfTurn { .. }),
        "an unknown type": |v| v.say(&Message::new(35, &[])) => Socket(InvalidMessage::UnknownType(35)),
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

/// Something odd, and how it is done.
type Oddity = (&'static str, fn(&mut Villain));

/// What no honest peer does, and harms nobody.
#[test]
fn oddities_are_borne() {
    alone(async {
        let mut stage = Stage::new().await;
        let before = process::Holdings::count();
        let oddities: &[Oddity] = &[
            ("pads", |v| {
                for len in [0, 16, 1000] {
                    zeros(v, record::PAD, len)
                }
            }),
            ("asleep with every value", |v| {
                for value in [1, 3, u32::MAX, 0, 2] {
                    v.own.store(at::SLEEP, value)
                }
            }),
            ("starved with every value", |v| {
                for value in [1, 3, u32::MAX, 0, 2] {
                    v.own.store(at::STARVED, value)
                }
            }),
            ("constants that change", |v| {
                for word in 0..9 {
                    v.own.store(4 * word, u32::MAX)
                }
            }),
            ("go-away twice", |v| {
                for _ in 0..2 {
                    zeros(v, record::GO_AWAY, 0)
                }
            }),
            ("no credit", |v| {
                let id = v.open(1, b"n");
                v.push(Record::control(record::CREDIT, id, &[0, 0]));
            }),
            ("news of a stream that is over", |v| {
                let id = v.open(record::MESSAGE, b"n");
                for body in [&[1], &[2]] {
                    v.push(Record::control(record::RESET, id, body));
                }
                v.push(Record::control(record::CREDIT, id, &[9, 9]));
                v.push(Record::data(id, record::MESSAGE, b"late"));
            }),
            ("ids with gaps", |v| {
                let id = v.next_stream() + 100;
                v.push(Record::data(id, 3, b"n"));
                v.push(Record::control(record::RESET, id, &[1]));
            }),
            ("an empty segment", |v| {
                v.add_region(9, 4096);
                hoarded(
                    v,
                    Segment {
                        region: 9,
                        token: 1,
                        offset: 4096,
                        len: 0,
                    },
                )
            }),
            ("overlapping segments", |v| {
                v.add_region(8, 4096);
                hoarded(v, Segment { region: 8, ..PAGE });
                hoarded(
                    v,
                    Segment {
                        region: 8,
                        token: 8,
                        offset: 1,
                        len: 9,
                    },
                )
            }),
            ("a segment changed after it was sent", |v| {
                v.add_region(7, 4096);
                hoarded(
                    v,
                    Segment {
                        region: 7,
                        token: 9,
                        ..PAGE
                    },
                )
            }),
        ];
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = stage.session(role).await;
            villain.message();
            // Opened first, because ids only count up.
            let echo = villain.open(record::MESSAGE, b"e");
            assert_eq!(villain.message().body, b"e");
            for (name, tell) in oddities {
                tell(&mut villain);
                villain.push(Record::data(echo, record::MESSAGE, name.as_bytes()));
                let reply = loop {
                    let message = villain.message();
                    if message.stream == echo {
                        break message;
                    }
                };
                assert_eq!(reply.body, name.as_bytes(), "{name} ({role:?})");
                villain.push(Record::control(record::CREDIT, echo, &[0, 0]));
                assert!(!session.is_closed(), "{name} ({role:?})");
            }
            drop(villain);
            let lost = tests::in_time("hanging up", session.closed()).await;
            assert!(matches!(lost, SessionLost::PeerDied), "{lost:?}");
            stage.bystander_is_well("oddities").await;
        }
        before.are_back("after oddities").await;
    });
}

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

#[test]
fn words_are_in_the_order_of_this_machine() {
    assert_eq!(words(&[1]), 1u32.to_ne_bytes());
}
