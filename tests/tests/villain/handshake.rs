//! Lies on the socket before there is a session.

use shmipc_transport::{
    ConnectError,
    ConnectError::PeerMisbehaved as Misbehaved,
    InvalidGeometry, InvalidMessage, PeerMisbehaved,
    PeerMisbehaved::{Geometry, RegionLength, Socket, Unsealed},
};
use tests::{
    alone, process,
    villain::{Ending, Memory, Message, OUTBOX_LEN, Role, SEALS, Script, at, kind},
};

use crate::stage::Stage;

/// A lie told in the handshake, and how it is called by its victim.
struct Opening {
    name: &'static str,
    tell: fn(&mut Script),
    is_found: fn(&ConnectError) -> bool,
}

macro_rules! openings {
    ($($name:literal: $tell:expr => $found:pat),* $(,)?) => {
        &[$(Opening { name: $name, tell: $tell, is_found: |error| matches!(error, $found) }),*]
    };
}

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
            "more returns": |s| constant(s, at::RETURNS_LEN, 1 << 30) => Misbehaved(Geometry(InvalidGeometry::RingLength(_))),
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
