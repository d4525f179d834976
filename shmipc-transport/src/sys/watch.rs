//! What a thread that waits for a peer sleeps on: its doorbell, the socket, the peer's process, and its own colleagues.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
    },
    unistd::write,
};

use super::doorbell::Doorbell;

/// The descriptors of a session, for one thread at a time to sleep on.
///
/// An event of the doorbell, or an interruption, while nobody sleeps is kept for the next sleep.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: Epoll,
    doorbell: Doorbell,
    _process: Option<OwnedFd>,
    interrupt: Arc<Interrupt>,
}

/// Wakes the thread that sleeps on a [`Watch`], or is about to.
#[derive(Debug)]
pub(crate) struct Interrupt(EventFd);

/// Why a sleep ended. All of it may be false: then time was up, or somebody interrupted it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    pub(crate) doorbell: bool,
    /// The socket is readable, or closed.
    pub(crate) socket: bool,
    /// The peer's process has ended.
    pub(crate) process: bool,
}

const DOORBELL: u64 = 0;
const SOCKET: u64 = 1;
const PROCESS: u64 = 2;
const INTERRUPT: u64 = 3;

impl Watch {
    /// Watches a doorbell, the socket of its session, and, if there is such a descriptor, the peer's process.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn new(
        doorbell: Doorbell,
        socket: impl AsFd,
        process: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interrupt = Arc::new(Interrupt::new()?);
        let (level, edge) = (
            EpollFlags::EPOLLIN,
            EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
        );
        // Each write is an edge of its own, so that neither counter need ever be read. The datagrams of a doorbell that is
        // a socket are taken, though, and those that are left are none the worse for not being told of again.
        epoll.add(doorbell.as_fd(), EpollEvent::new(edge, DOORBELL))?;
        epoll.add(&interrupt.0, EpollEvent::new(edge, INTERRUPT))?;
        epoll.add(socket, EpollEvent::new(level, SOCKET))?;
        if let Some(process) = &process {
            epoll.add(process, EpollEvent::new(level, PROCESS))?;
        }
        Ok(Self {
            epoll,
            doorbell,
            _process: process,
            interrupt,
        })
    }

    /// What interrupts a sleep.
    pub(crate) fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Sleeps until something happens, at most for `timeout`, which is rounded up to milliseconds. `None` is without end.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says. A signal is no error, and ends the sleep.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<Seen> {
        let timeout = timeout.map_or(EpollTimeout::NONE, |timeout| {
            EpollTimeout::try_from(millis(timeout)).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); 4];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut seen = Seen::default();
        for event in events.iter().take(count) {
            match event.data() {
                DOORBELL => {
                    seen.doorbell = true;
                    self.doorbell.silence();
                }
                SOCKET => seen.socket = true,
                PROCESS => seen.process = true,
                _ => {}
            }
        }
        Ok(seen)
    }
}

impl Interrupt {
    fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(1, flags)?))
    }

    /// Ends the sleep that there is, or else the next one at once.
    pub(crate) fn raise(&self) {
        // Adding nothing always fits, and is an edge all the same.
        while let Err(Errno::EINTR) = write(&self.0, &0u64.to_ne_bytes()) {}
    }
}

/// A time in whole milliseconds, not less than it is.
pub(crate) fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::{core::wire::negotiation::DoorbellKind, sys::doorbell::PeerDoorbell};

    const LONG: Option<Duration> = Some(Duration::from_secs(60));
    const NOW: Option<Duration> = Some(Duration::ZERO);

    struct Scene {
        watch: Watch,
        theirs: PeerDoorbell,
        other: UnixStream,
        _socket: UnixStream,
    }

    fn scene(kind: DoorbellKind) -> Scene {
        let (ours, theirs) = Doorbell::create(kind).unwrap();
        let (socket, other) = UnixStream::pair().unwrap();
        let watch = Watch::new(ours, &socket, None).unwrap();
        // What is readable from the start is seen once.
        while watch.sleep(NOW).unwrap() != Seen::default() {}
        watch.sleep(NOW).unwrap();
        Scene {
            watch,
            theirs: PeerDoorbell::accept(theirs, kind).unwrap(),
            other,
            _socket: socket,
        }
    }

    #[test]
    fn each_ring_ends_one_sleep_even_if_it_came_before() {
        for kind in [DoorbellKind::EventFd, DoorbellKind::Socket] {
            let scene = scene(kind);
            for _ in 0..1000 {
                scene.theirs.ring();
                assert!(scene.watch.sleep(LONG).unwrap().doorbell, "{kind:?}");
                assert_eq!(scene.watch.sleep(NOW).unwrap(), Seen::default());
            }
        }
    }

    #[test]
    fn an_interruption_ends_one_sleep_and_is_nothing_else() {
        let scene = scene(DoorbellKind::EventFd);
        for _ in 0..1000 {
            scene.watch.interrupt().raise();
            assert_eq!(scene.watch.sleep(LONG).unwrap(), Seen::default());
        }
    }

    #[test]
    fn a_closed_socket_is_seen_every_time() {
        let scene = scene(DoorbellKind::EventFd);
        drop(scene.other);
        for _ in 0..3 {
            assert!(scene.watch.sleep(LONG).unwrap().socket);
        }
    }

    #[test]
    fn times_are_rounded_up_and_bounded() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_millis(2)), 2);
        assert_eq!(millis(Duration::MAX), i32::MAX);
    }
}
