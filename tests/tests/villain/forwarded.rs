//! Lies about memory of somebody else's that the villain passes on.

use std::{io::Read, os::unix::net::UnixStream};

use nix::{errno::Errno, fcntl::SealFlag, unistd::Uid};
use shmipc_transport::{
    InvalidMessage,
    PeerMisbehaved::{
        Anchor, OutOfRegion, RegionAnnouncement, RegionLength, Socket, UnknownRegion, Unsealed,
    },
};
use tests::{
    alone, in_time, process,
    villain::{MEMORY_MAX, Memory, Message, Record, Role, SEALS, Script, Segment, Villain, record},
};

use crate::{PAGE, hoarded, lies, stage::Stage, told, told_by};

/// Passes a page on that the villain has made itself, as its user does not matter.
fn pass_on(villain: &mut Villain) -> UnixStream {
    villain.add_forwarded(0, &Memory::sealed(4096), 4096)
}

fn anchor() -> std::os::fd::OwnedFd {
    UnixStream::pair().unwrap().0.into()
}

#[test]
fn lies_about_memory_of_others() {
    alone(async {
        told_by(Script::forwarding, lies! {
            "an unsealed region": |v| {
                let memory = Memory::create(4096, SealFlag::empty());
                v.add_forwarded(0, &memory, 4096);
            } => Unsealed { seals: 0 },
            "a region that others may write": |v| {
                let memory = Memory::create(4096, SEALS.difference(SealFlag::F_SEAL_FUTURE_WRITE));
                v.add_forwarded(0, &memory, 4096);
            } => Unsealed { .. },
            "a region that may shrink": |v| {
                let memory = Memory::create(4096, SEALS.difference(SealFlag::F_SEAL_SHRINK));
                v.add_forwarded(0, &memory, 4096);
            } => Unsealed { .. },
            "a region of another length": |v| { v.add_forwarded(0, &Memory::sealed(4096), 8192); } => RegionLength { claimed: 8192, actual: 4096 },
            "an announcement of another length": |v| {
                v.say(&Message::forwarded(0, 4096, vec![Memory::sealed(4096).fd(), anchor()]));
                v.push(Record::control(record::REGION_ADDED, 0, &[0, 8192]));
            } => RegionAnnouncement { region: 0 },
            "no memory at all": |v| v.say(&Message::forwarded(0, 4096, vec![anchor(), anchor()])) => Unsealed { .. },
            "a file for an anchor": |v| {
                let memory = Memory::sealed(4096);
                v.say(&Message::forwarded(0, 4096, vec![memory.fd(), memory.fd()]));
            } => Anchor,
            "a pipe for an anchor": |v| {
                let pipe = std::io::pipe().unwrap().1;
                v.say(&Message::forwarded(0, 4096, vec![Memory::sealed(4096).fd(), pipe.into()]));
            } => Anchor,
            "no anchor": |v| v.say(&Message::forwarded(0, 4096, vec![Memory::sealed(4096).fd()]))
                => Socket(InvalidMessage::Descriptors { received: 1, .. }),
            "two anchors": |v| v.say(&Message::forwarded(0, 4096, vec![Memory::sealed(4096).fd(), anchor(), anchor()]))
                => Socket(InvalidMessage::TooManyDescriptors),
            "an anchor for its own memory": |v| v.say(&Message::region(0, 4096, vec![Memory::sealed(4096).fd(), anchor()]))
                => Socket(InvalidMessage::Descriptors { received: 2, .. }),
            "a region twice": |v| { pass_on(v); pass_on(v); } => RegionAnnouncement { region: 0 },
            "a region under an id of its own": |v| { v.add_region(0, 4096); pass_on(v); } => RegionAnnouncement { region: 0 },
            "too many regions": |v| {
                let memory = Memory::sealed(4096);
                for id in 0..65 { v.add_forwarded(id, &memory, 4096); }
            } => RegionAnnouncement { region: 64 },
            "too many at a time": |v| {
                let memory = Memory::sealed(4096);
                for id in 0..65 { v.add_forwarded(id, &memory, 4096); }
                v.push(Record::control(record::REGION_DROPPED, 0, &[3]));
            } => RegionAnnouncement { region: 64 },
            "beyond the end": |v| { pass_on(v); hoarded(v, Segment { len: 4097, ..PAGE }); } => OutOfRegion(_),
            "far beyond the end": |v| { pass_on(v); hoarded(v, Segment { offset: u32::MAX, len: MEMORY_MAX, ..PAGE }); } => OutOfRegion(_),
            "after it was dropped": |v| {
                pass_on(v);
                v.push(Record::control(record::REGION_DROPPED, 0, &[0]));
                hoarded(v, PAGE);
            } => UnknownRegion { region: 0 },
        })
        .await;
    });
}

#[test]
fn memory_of_others_that_was_not_agreed_on() {
    alone(async {
        told(lies! {
            "a region of somebody else's": |v| { pass_on(v); } => RegionAnnouncement { region: 0 },
        })
        .await;
    });
}

/// Sends a page of memory that was passed on, and returns what the victim has made of it: the bytes that were lent.
async fn lent_of(stage: &mut Stage, role: Role, memory: &Memory) -> u64 {
    let (mut villain, session) = stage.session_of(Script::forwarding(role)).await;
    let _watch = villain.add_forwarded(0, memory, 4096);
    hoarded(&mut villain, PAGE);
    let received = || session.stats().bytes_received;
    tests::until("the page arrives", || 4096 < received()).await;
    session.stats().bytes_lent
}

#[test]
fn memory_of_another_users_is_not_lent() {
    alone(async {
        let mut stage = Stage::new().await;
        for role in [Role::Client, Role::Server] {
            let ours = Memory::sealed(4096);
            assert_eq!(lent_of(&mut stage, role, &ours).await, 4096);
            let theirs = Memory::sealed(4096);
            match nix::unistd::fchown(theirs.fd(), Some(Uid::from_raw(65_534)), None) {
                Ok(()) => assert_eq!(lent_of(&mut stage, role, &theirs).await, 0),
                // Only root can play two users; for others a unit test of the policy has to do.
                Err(error) => assert_eq!(error, Errno::EPERM),
            }
        }
    });
}

#[test]
fn an_anchor_is_held_for_as_long_as_anybody_may_read() {
    alone(async {
        let mut stage = Stage::new().await;
        let before = process::Holdings::count();
        for role in [Role::Client, Role::Server] {
            let (mut villain, session) = stage.session_of(Script::forwarding(role)).await;
            let memory = Memory::sealed(4096);
            let mut watch = villain.add_forwarded(0, &memory, 4096);
            watch.set_nonblocking(true).unwrap();
            let mut is_held = move || matches!(watch.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
            let mut stream = session.open_stream().unwrap();
            tests::echo::send(&mut stream, b"hello", shmipc_transport::Flush::More).await;
            let id = loop {
                let record = villain.message();
                if record.body == b"hello" {
                    break record.stream;
                }
            };
            villain.push(Record::segments(id, &[PAGE]));
            let mut message = in_time("the page", stream.recv()).await.unwrap().unwrap();
            let held = bytes::Buf::copy_to_bytes(&mut message, 4096);
            villain.push(Record::control(record::REGION_DROPPED, 0, &[0]));
            villain.push(Record::control(record::BYE, 0, &[]));
            in_time("the end", session.closed()).await;
            drop((message, stream, villain, session));
            assert!(is_held(), "the bytes are there");
            assert_eq!(held.len(), 4096);
            drop(held);
            tests::until("it is released", || !is_held()).await;
        }
        before.are_back("after anchors").await;
    });
}
