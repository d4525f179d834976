//! The control socket, and what peers may send through it.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream as StdStream,
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::net::UnixStream;

use super::*;
use crate::core::num::RegionId;

/// A control socket and the bare socket at its other end.
fn pair() -> (ControlSocket, StdStream) {
    let (ours, theirs) = StdStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (
        ControlSocket::new(UnixStream::from_std(ours).unwrap()),
        theirs,
    )
}

fn some_file() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn region(id: u32) -> Transmit<OwnedFd> {
    Message::Region(Region {
        id: RegionId(id),
        len: 4096,
        memory: some_file(),
        anchor: None,
    })
    .encode()
}

fn lent(id: u32, memory: &OwnedFd) -> Region<BorrowedFd<'_>> {
    Region {
        id: RegionId(id),
        len: 4096,
        memory: memory.as_fd(),
        anchor: None,
    }
}

fn send_raw(socket: &StdStream, bytes: &[u8], fds: &[OwnedFd]) {
    let fds = fds.iter().map(AsFd::as_fd).collect::<Vec<_>>();
    assert_eq!(send(socket.as_fd(), bytes, &fds).unwrap(), bytes.len());
}

fn pending(socket: &ControlSocket) -> Result<(Vec<u32>, SocketState), ReceiveError> {
    let mut ids = Vec::new();
    let state = socket.recv_pending(|region| {
        let flags = FdFlag::from_bits_retain(fcntl(&region.memory, FcntlArg::F_GETFD).unwrap());
        assert!(
            flags.contains(FdFlag::FD_CLOEXEC),
            "no child may inherit what a peer sent"
        );
        ids.push(region.id.0);
        Ok(())
    })?;
    Ok((ids, state))
}

fn invalid(result: Result<(Vec<u32>, SocketState), ReceiveError>) -> String {
    match result {
        Err(ReceiveError::Misbehaved(reason)) => format!("{reason:?}"),
        other => panic!("{other:?}"),
    }
}

/// How many descriptors are open for the object that `fd` refers to.
fn references(fd: &OwnedFd) -> usize {
    let own = nix::sys::stat::fstat(fd).unwrap();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| nix::sys::stat::stat(&entry.unwrap().path()).ok())
        .filter(|other| (other.st_dev, other.st_ino) == (own.st_dev, own.st_ino))
        .count()
}

#[tokio::test]
async fn regions_arrive_in_order_each_with_its_descriptor() {
    let (socket, other) = pair();
    assert_eq!(pending(&socket).unwrap(), (vec![], SocketState::Drained));
    for id in 0..3 {
        let Transmit { bytes, fds } = region(id);
        send_raw(&other, &bytes, &fds);
    }
    assert_eq!(
        pending(&socket).unwrap(),
        (vec![0, 1, 2], SocketState::Drained)
    );
    drop(other);
    assert_eq!(pending(&socket).unwrap(), (vec![], SocketState::Closed));
}

#[tokio::test]
async fn parts_of_messages_are_kept() {
    let (socket, other) = pair();
    let Transmit { bytes, fds } = region(5);
    let mut fds = fds.as_slice();
    for byte in &bytes {
        assert_eq!(pending(&socket).unwrap(), (vec![], SocketState::Drained));
        send_raw(&other, &[*byte], fds);
        fds = &[];
    }
    assert_eq!(pending(&socket).unwrap(), (vec![5], SocketState::Drained));
}

#[tokio::test]
async fn a_flood_is_taken_in_portions() {
    let (socket, other) = pair();
    for id in 0..65 {
        let Transmit { bytes, fds } = region(id);
        send_raw(&other, &bytes, &fds);
    }
    assert_eq!(
        pending(&socket).unwrap(),
        ((0..64).collect(), SocketState::More)
    );
    assert_eq!(pending(&socket).unwrap(), (vec![64], SocketState::Drained));
}

#[tokio::test]
async fn readiness_is_reported_after_everything_was_taken() {
    let (socket, other) = pair();
    let _ = pending(&socket).unwrap();
    let Transmit { bytes, fds } = region(1);
    let (readable, ()) = tokio::join!(std::future::poll_fn(|cx| socket.poll_readable(cx)), async {
        tokio::task::yield_now().await;
        send_raw(&other, &bytes, &fds);
    });
    readable.unwrap();
    assert_eq!(pending(&socket).unwrap(), (vec![1], SocketState::Drained));
}

#[tokio::test]
async fn descriptors_too_many_or_too_few_are_misbehaviour_and_closed() {
    let bytes = region(1).bytes;
    // A file of its own, so that others at work in this process do not count.
    let file = OwnedFd::from(tempfile::tempfile().unwrap());
    for (count, expected) in [
        (0, "received: 0"),
        (2, "received: 2"),
        (3, "TooManyDescriptors"),
        (4, "TooManyDescriptors"),
        (200, "TooManyDescriptors"),
    ] {
        let (socket, other) = pair();
        let fds = (0..count)
            .map(|_| file.try_clone().unwrap())
            .collect::<Vec<_>>();
        send_raw(&other, &bytes, &fds);
        drop(fds);
        let message = invalid(pending(&socket));
        assert!(message.contains(expected), "{count} descriptors: {message}");
        drop(socket);
        assert_eq!(references(&file), 1, "{count} descriptors");
    }
}

#[tokio::test]
async fn only_regions_come_after_the_handshake() {
    for message in [
        Message::<OwnedFd>::Ready,
        Message::Negotiation(b"{}".to_vec()),
    ] {
        let (socket, mut other) = pair();
        other.write_all(&message.encode().bytes).unwrap();
        assert!(invalid(pending(&socket)).contains("OutOfTurn"));
    }
    let (socket, mut other) = pair();
    other.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(invalid(pending(&socket)).contains("Magic"));
}

#[tokio::test]
async fn a_full_socket_would_block_and_recovers() {
    let (ours, theirs) = pair();
    theirs.set_nonblocking(true).unwrap();
    let theirs = ControlSocket::new(UnixStream::from_std(theirs).unwrap());
    let file = some_file();
    let mut sent = 0;
    loop {
        match ours.send_region(lent(sent, &file)) {
            Ok(true) => sent += 1,
            Ok(false) => break,
            // The limit on descriptors in flight came first.
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(0 < sent);
    let mut received = Vec::new();
    while received.len() < usize::try_from(sent).unwrap() {
        received.extend(pending(&theirs).unwrap().0);
    }
    assert_eq!(received, (0..sent).collect::<Vec<_>>());
    assert!(ours.send_region(lent(sent, &file)).unwrap());
    drop(theirs);
    assert!(
        ours.send_region(lent(0, &file)).is_err(),
        "the peer is gone"
    );
}

/// Section 12.1 of shmipc's reference for versions 2 and 3: one byte, with the buffer region and the queue region.
#[test]
fn descriptors_travel_as_in_the_reference_of_shmipc() {
    let (ours, theirs) = StdStream::pair().unwrap();
    let socket = ControlSocket::bare(Connection::Unix(ours));
    let [buffer, queue] = ["/dev/null", "/dev/zero"].map(|path| File::open(path).unwrap());
    let sent = socket.try_send(&[0], &[buffer.as_fd(), queue.as_fd()]);
    assert_eq!(sent.unwrap(), 1);
    let mut bytes = [0xff; 2];
    let mut control = cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(theirs.as_raw_fd(), &mut parts, Some(&mut control), flags);
    assert_eq!(received.unwrap().bytes, 1);
    assert_eq!(bytes, [0, 0xff]);
    let fds: Vec<_> = descriptors(&control)
        // SAFETY: as in `receive`.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    // On 64 bits: the length, `SOL_SOCKET`, `SCM_RIGHTS`, and the descriptors as they are numbered here.
    let head = [0x18, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
    let numbers = fds.iter().flat_map(|fd| fd.as_raw_fd().to_le_bytes());
    let expected: Vec<u8> = head.into_iter().chain(numbers).collect();
    assert_eq!(control[..24], expected);
    let device = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).unwrap().st_rdev;
    let arrived: Vec<_> = fds.iter().map(|fd| device(fd.as_fd())).collect();
    assert_eq!(arrived, [device(buffer.as_fd()), device(queue.as_fd())]);
}

#[test]
fn control_data_is_listed_to_its_end_and_not_beyond() {
    assert_eq!(descriptors(&[]).count(), 0);
    assert_eq!(descriptors(&[0; 24]).count(), 0);
    let mut control = Vec::new();
    let mut message = |len: usize, kind: i32, data: &[i32]| {
        control.extend(len.to_ne_bytes());
        control.extend(libc::SOL_SOCKET.to_ne_bytes());
        control.extend(kind.to_ne_bytes());
        control.extend(data.iter().flat_map(|fd| fd.to_ne_bytes()));
    };
    message(28, libc::SCM_CREDENTIALS, &[9, 9, 9, 0]);
    message(20, libc::SCM_RIGHTS, &[3, 0]);
    message(24, libc::SCM_RIGHTS, &[4, 5]);
    message(1000, libc::SCM_RIGHTS, &[6, 7]);
    assert_eq!(descriptors(&control).collect::<Vec<_>>(), [3, 4, 5]);
}

#[test]
fn what_a_full_tcp_connection_holds_is_known_until_the_peer_has_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    let socket = ControlSocket::bare(Connection::Tcp(ours));
    assert!(!socket.passes_descriptors());
    assert!(!socket.has_unacknowledged());
    let mut sent = 0;
    while let Ok(len) = socket.try_send(&[7; 64 << 10], &[]) {
        sent += len;
    }
    assert!(socket.has_unacknowledged());
    theirs.read_exact(&mut vec![0; sent]).unwrap();
    // The last acknowledgement may be under way.
    while socket.has_unacknowledged() {
        std::thread::yield_now();
    }
    let (ours, _theirs) = StdStream::pair().unwrap();
    let socket = ControlSocket::bare(Connection::Unix(ours));
    socket.try_send(b"theirs already", &[]).unwrap();
    assert!(!socket.has_unacknowledged());
}
