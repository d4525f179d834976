//! What a thread that waits for a peer sleeps on: its doorbell, the socket, the peer's process, and its own colleagues.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    task::Wake,
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

use super::{doorbell::Doorbell, timer::Timer};
use crate::core::sync::{AtomicU32, Ordering};

/// The descriptors of a session, for one thread at a time to sleep on.
///
/// An event of the doorbell, or an interruption, while nobody sleeps is kept for the next sleep.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: Epoll,
    /// `None` if it is the socket that wakes us, or nothing.
    doorbell: Option<Doorbell>,
    /// What is asked of the socket, as [`Concern::code`] has it.
    asked: AtomicU32,
    /// For times below a millisecond, if there are to be any.
    timer: Option<Timer>,
    _process: Option<OwnedFd>,
    interrupt: Arc<Interrupt>,
}

/// What a sleep is to learn of the socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Concern {
    /// Whether it is readable. If not, its closing may end one sleep all the same.
    pub(crate) reading: bool,
    /// Whether it is writable.
    pub(crate) writing: bool,
}

impl Concern {
    /// What there is to know of a socket that nothing is kept for.
    pub(crate) const READING: Self = Self {
        reading: true,
        writing: false,
    };

    fn code(self) -> u32 {
        u32::from(self.reading) | u32::from(self.writing) << 1
    }

    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.reading);
        flags.set(EpollFlags::EPOLLOUT, self.writing);
        // That it is closed cannot be kept from us, but from being told again and again.
        flags.set(EpollFlags::EPOLLET, !self.reading);
        flags
    }
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
    /// The socket is writable.
    pub(crate) writable: bool,
    /// The peer's process has ended.
    pub(crate) process: bool,
}

const DOORBELL: u64 = 0;
const SOCKET: u64 = 1;
const PROCESS: u64 = 2;
const INTERRUPT: u64 = 3;
const TIMER: u64 = 4;

/// The finest time that epoll knows.
const COARSE: Duration = Duration::from_millis(1);

impl Watch {
    /// Watches a doorbell, if there is one, the socket of its session, and, if there is such a descriptor, the peer's process. With a
    /// timer, it also sleeps for less than a millisecond.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn new(
        doorbell: Option<Doorbell>,
        socket: impl AsFd,
        process: Option<OwnedFd>,
        timer: Option<Timer>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interrupt = Arc::new(Interrupt::new()?);
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        // Each write is an edge of its own, so that neither counter need ever be read. The datagrams of a doorbell that is
        // a socket are taken, though, and those that are left are none the worse for not being told of again.
        if let Some(doorbell) = &doorbell {
            epoll.add(doorbell.as_fd(), EpollEvent::new(edge, DOORBELL))?;
        }
        epoll.add(&interrupt.0, EpollEvent::new(edge, INTERRUPT))?;
        let concern = Concern::READING;
        epoll.add(socket, EpollEvent::new(concern.flags(), SOCKET))?;
        if let Some(process) = &process {
            epoll.add(process, EpollEvent::new(EpollFlags::EPOLLIN, PROCESS))?;
        }
        if let Some(timer) = &timer {
            epoll.add(timer, EpollEvent::new(edge, TIMER))?;
        }
        Ok(Self {
            epoll,
            doorbell,
            asked: AtomicU32::new(concern.code()),
            timer,
            _process: process,
            interrupt,
        })
    }

    /// What interrupts a sleep.
    pub(crate) fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Says what the next sleeps are to learn of `socket`, which is the one that it was made with. Costs a system call where that is
    /// something else than before. Only for whoever sleeps next.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn concern(&self, socket: impl AsFd, concern: Concern) -> io::Result<()> {
        // Relaxed: one thread at a time, which a lock has let in.
        if self.asked.load(Ordering::Relaxed) == concern.code() {
            return Ok(());
        }
        let mut event = EpollEvent::new(concern.flags(), SOCKET);
        self.epoll.modify(socket, &mut event)?;
        self.asked.store(concern.code(), Ordering::Relaxed);
        Ok(())
    }

    /// Sleeps until something happens, at most for `timeout`, which is rounded up to milliseconds where there is no timer. `None` is
    /// without end.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says. A signal is no error, and ends the sleep.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<Seen> {
        let is_fine = |timeout: &Duration| !timeout.is_zero() && *timeout < COARSE;
        let timeout = match (&self.timer, timeout.filter(is_fine)) {
            (Some(timer), Some(fine)) => {
                timer.set(fine)?;
                None
            }
            _ => timeout,
        };
        let timeout = timeout.map_or(EpollTimeout::NONE, |timeout| {
            EpollTimeout::try_from(millis(timeout)).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); 5];
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
                    self.doorbell.as_ref().inspect(|bell| bell.silence());
                }
                SOCKET => {
                    let events = event.events();
                    seen.writable = events.contains(EpollFlags::EPOLLOUT);
                    seen.socket = events.intersects(!EpollFlags::EPOLLOUT);
                }
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

impl Wake for Interrupt {
    fn wake(self: Arc<Self>) {
        self.raise();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}

/// A time in whole milliseconds, not less than it is.
pub(crate) fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;
    use crate::{core::wire::negotiation::DoorbellKind, sys::doorbell::PeerDoorbell};

    const LONG: Option<Duration> = Some(Duration::from_secs(60));
    const NOW: Option<Duration> = Some(Duration::ZERO);

    struct Scene {
        watch: Watch,
        theirs: PeerDoorbell,
        other: UnixStream,
        socket: UnixStream,
    }

    fn scene(kind: DoorbellKind) -> Scene {
        let (ours, theirs) = Doorbell::create(kind).unwrap();
        let (socket, other) = UnixStream::pair().unwrap();
        let watch = Watch::new(Some(ours), &socket, None, None).unwrap();
        // What is readable from the start is seen once.
        while watch.sleep(NOW).unwrap() != Seen::default() {}
        watch.sleep(NOW).unwrap();
        Scene {
            watch,
            theirs: PeerDoorbell::accept(theirs, kind).unwrap(),
            other,
            socket,
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
    fn of_a_socket_is_told_what_was_asked_for() {
        let mut scene = scene(DoorbellKind::EventFd);
        let ask = |scene: &Scene, reading, writing| {
            let concern = Concern { reading, writing };
            scene.watch.concern(&scene.socket, concern).unwrap();
            scene.watch.sleep(NOW).unwrap()
        };
        let seen = |socket, writable| Seen {
            socket,
            writable,
            ..Seen::default()
        };
        assert_eq!(ask(&scene, true, true), seen(false, true));
        assert_eq!(ask(&scene, true, false), Seen::default());
        scene.other.write_all(b"x").unwrap();
        assert_eq!(ask(&scene, false, false), Seen::default());
        assert_eq!(ask(&scene, true, true), seen(true, true));
        scene.socket.set_nonblocking(true).unwrap();
        scene.socket.read_exact(&mut [0]).unwrap();
        scene.other.shutdown(std::net::Shutdown::Both).unwrap();
        ask(&scene, false, false);
        assert_eq!(
            ask(&scene, false, false),
            Seen::default(),
            "told once at most"
        );
        assert_eq!(ask(&scene, true, false), seen(true, false));
    }

    #[test]
    fn times_are_rounded_up_and_bounded() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_millis(2)), 2);
        assert_eq!(millis(Duration::MAX), i32::MAX);
    }
}
