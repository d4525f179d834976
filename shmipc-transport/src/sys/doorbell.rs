//! Doorbells: what a side sleeps on, and its peer rings.
//!
//! There are two kinds. An *eventfd* is the fastest, but whether a write to it may block is a property of the open file,
//! which its owner shares: a peer that clears `O_NONBLOCK` and fills the counter makes whoever rings it wait for ever. So
//! it is only for a peer of our own user, which could stop us by `ptrace` just as well. With anybody else, a doorbell is
//! a *Unix datagram socket*, where each call says for itself that it must not block. (Not a stream, because closing the
//! other end of one makes it readable for good, which would keep its owner awake.)
//!
//! Nothing is ever learnt from what a doorbell carries: being woken means to look at shared memory (O20).
#![expect(
    unsafe_code,
    reason = "tokio wants a promise about the descriptor that it watches"
)]

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, readlink},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, getsockname, recv, send,
            socketpair,
        },
    },
    unistd::write,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{core::wire::negotiation::DoorbellKind, error::PeerMisbehaved};

/// Rings taken off a socket at a time.
///
/// An honest peer rings once per sleep, so there are seldom two; a dishonest one must not keep us busy.
const RINGS_PER_WAKE: usize = 64;

/// A doorbell of our own, before anybody watches it.
#[derive(Debug)]
pub(crate) struct Doorbell {
    kind: DoorbellKind,
    fd: OwnedFd,
}

impl Doorbell {
    /// Makes a doorbell for us to sleep on, and the descriptor by which the peer rings it.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn create(kind: DoorbellKind) -> io::Result<(Self, OwnedFd)> {
        let (fd, theirs) = match kind {
            DoorbellKind::EventFd => {
                let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
                // Above zero for good, so that it is readable at each ring, though a ring adds nothing.
                let fd = OwnedFd::from(EventFd::from_value_and_flags(1, flags)?);
                let theirs = fd.try_clone()?;
                (fd, theirs)
            }
            DoorbellKind::Socket => {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)?
            }
        };
        Ok((Self { kind, fd }, theirs))
    }

    /// Takes an eventfd over by which the peer wakes us. It need never be read.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved::Doorbell`] if it is anything else.
    pub(crate) fn of_eventfd(fd: OwnedFd) -> Result<Self, PeerMisbehaved> {
        let kind = DoorbellKind::EventFd;
        if may_be_eventfd(&fd) {
            Ok(Self { kind, fd })
        } else {
            Err(PeerMisbehaved::Doorbell)
        }
    }

    /// Watches it.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub(crate) fn watch(self) -> io::Result<WatchedDoorbell> {
        Ok(WatchedDoorbell {
            kind: self.kind,
            fd: watch(self.fd)?,
        })
    }

    /// Makes room for the next ring, after one was heard. Look at shared memory *after* that.
    pub(crate) fn silence(&self) {
        take_rings(self.kind, &self.fd);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A doorbell of our own, which wakes the task that watches it.
#[derive(Debug)]
pub(crate) struct WatchedDoorbell {
    kind: DoorbellKind,
    fd: AsyncFd<OwnedFd>,
}

impl WatchedDoorbell {
    /// Ready once after each time that it was rung. Look at shared memory *after* that.
    pub(crate) fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Ok(mut rung) = ready!(self.fd.poll_read_ready(cx)) else {
            // The runtime shuts down; nobody will be woken any more.
            return Poll::Pending;
        };
        take_rings(self.kind, self.fd.get_ref());
        rung.clear_ready();
        Poll::Ready(())
    }
}

/// Makes room for the next ring.
fn take_rings(kind: DoorbellKind, fd: &OwnedFd) {
    match kind {
        // Each write to an eventfd is an edge of its own, so its counter need never be read.
        DoorbellKind::EventFd => {}
        // So is each datagram, but they take room, and a full socket cannot be rung. Whatever is left over here is
        // older than the look at shared memory that follows, and leaves room for the next ring.
        DoorbellKind::Socket => {
            let take = || recv(fd.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_ok();
            (0..RINGS_PER_WAKE).take_while(|_| take()).count();
        }
    }
}

/// The doorbell of a peer, checked so that ringing it never blocks.
pub(crate) struct PeerDoorbell {
    kind: DoorbellKind,
    fd: OwnedFd,
    /// What a ring of an eventfd adds.
    adds: u64,
}

impl PeerDoorbell {
    /// Takes what the peer has passed. `agreed` is the kind that was negotiated; a socket will always do.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved::Doorbell`] if it is anything else.
    pub(crate) fn accept(fd: OwnedFd, agreed: DoorbellKind) -> Result<Self, PeerMisbehaved> {
        let kind = if is_unix_socket(&fd) {
            DoorbellKind::Socket
        } else {
            DoorbellKind::EventFd
        };
        match (kind, agreed) {
            (DoorbellKind::Socket, _) => Ok(Self { kind, fd, adds: 0 }),
            (DoorbellKind::EventFd, DoorbellKind::EventFd) if may_be_eventfd(&fd) => {
                Ok(Self { kind, fd, adds: 0 })
            }
            _ => Err(PeerMisbehaved::Doorbell),
        }
    }

    /// Takes an eventfd over whose owner reads it, and so is woken by what is added. Only from our own user: see above.
    ///
    /// # Errors
    ///
    /// Returns [`PeerMisbehaved::Doorbell`] if it is anything else.
    pub(crate) fn of_eventfd(fd: OwnedFd) -> Result<Self, PeerMisbehaved> {
        let kind = DoorbellKind::EventFd;
        let is_eventfd = may_be_eventfd(&fd) && set_nonblocking(&fd).is_ok();
        is_eventfd
            .then_some(Self { kind, fd, adds: 1 })
            .ok_or(PeerMisbehaved::Doorbell)
    }

    /// Rings it, without ever waiting.
    ///
    /// Failure is not reported: `EAGAIN` says that it is ringing already, and whatever else a peer may have done to it
    /// only keeps that peer asleep.
    pub(crate) fn ring(&self) {
        let ring = || match self.kind {
            // Wakes whoever watches, as any write does; but adding nothing always fits, so that it never waits, however
            // full the peer has made the counter and whatever it has done to `O_NONBLOCK`.
            DoorbellKind::EventFd => write(&self.fd, &self.adds.to_ne_bytes()),
            DoorbellKind::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.fd.as_raw_fd(), &[1], flags)
            }
        };
        while let Err(Errno::EINTR) = ring() {}
    }
}

impl fmt::Debug for PeerDoorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerDoorbell")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Watches a descriptor that becomes readable: a doorbell of ours, or the peer's process.
///
/// # Errors
///
/// Whatever the kernel says.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, stays the same descriptor until it is dropped, and is dropped by the `AsyncFd` only.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

/// Whether `fd` is a socket on which every call can be made not to block.
pub(super) fn is_unix_socket(fd: &impl AsFd) -> bool {
    // Fails for whatever is not a socket, and for addresses of another family.
    getsockname::<UnixAddr>(fd.as_fd().as_raw_fd()).is_ok()
}

fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Two eventfds that begin at zero, as shmipc's protocol passes them.
///
/// # Errors
///
/// Whatever the kernel says.
pub(crate) fn eventfds() -> io::Result<[OwnedFd; 2]> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let make = || EventFd::from_value_and_flags(0, flags).map(OwnedFd::from);
    Ok([make()?, make()?])
}

/// Whether `fd` is an eventfd as far as one can tell. Asked of our own user only, so that it guards against mistakes:
/// where there is no `/proc`, the peer is believed.
fn may_be_eventfd(fd: &impl AsFd) -> bool {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    readlink(link.as_str()).map_or(true, |target| target == "anon_inode:[eventfd]")
}

#[cfg(test)]
mod tests {
    use std::{fs::File, future::poll_fn, net::UdpSocket, time::Duration};

    use nix::fcntl::FdFlag;
    use tokio::time::timeout;

    use super::*;

    const KINDS: [DoorbellKind; 2] = [DoorbellKind::EventFd, DoorbellKind::Socket];

    /// Both ends of a doorbell.
    fn doorbell(kind: DoorbellKind) -> (WatchedDoorbell, PeerDoorbell) {
        let (ours, theirs) = Doorbell::create(kind).unwrap();
        (
            ours.watch().unwrap(),
            PeerDoorbell::accept(theirs, kind).unwrap(),
        )
    }

    async fn rung(doorbell: &WatchedDoorbell) -> bool {
        let rung = poll_fn(|cx| doorbell.poll_rung(cx));
        timeout(Duration::from_secs(60), rung).await.is_ok()
    }

    /// Whether it is silent, once the runtime has asked the kernel.
    async fn silent(doorbell: &WatchedDoorbell) -> bool {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if poll_fn(|cx| Poll::Ready(doorbell.poll_rung(cx).is_ready())).await {
                return false;
            }
        }
        true
    }

    #[tokio::test]
    async fn each_ring_wakes_and_silence_does_not() {
        for kind in KINDS {
            let (ours, theirs) = doorbell(kind);
            for _ in 0..1000 {
                theirs.ring();
                assert!(rung(&ours).await);
            }
            assert!(silent(&ours).await, "{kind:?} goes on ringing");
        }
    }

    #[tokio::test]
    async fn descriptors_are_not_inherited() {
        for kind in KINDS {
            let (ours, theirs) = Doorbell::create(kind).unwrap();
            for fd in [&ours.fd, &theirs] {
                let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
                assert!(flags.contains(FdFlag::FD_CLOEXEC));
            }
        }
    }

    #[tokio::test]
    async fn a_socket_that_its_owner_has_filled_and_made_blocking_does_not_hold_us_up() {
        let (ours, theirs) = doorbell(DoorbellKind::Socket);
        for fd in [ours.fd.get_ref(), &theirs.fd] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        }
        let fill = || send(theirs.fd.as_raw_fd(), &[1; 1000], MsgFlags::MSG_DONTWAIT);
        while fill().is_ok() {}
        for _ in 0..1000 {
            theirs.ring(); // Returns at once, or this test never ends.
        }
        assert!(rung(&ours).await, "its owner wakes all the same");
        theirs.ring();
        assert!(rung(&ours).await, "and there is room for the next ring");
    }

    #[tokio::test]
    async fn a_flood_is_taken_in_bounded_portions() {
        let (ours, theirs) = doorbell(DoorbellKind::Socket);
        for _ in 0..10_000 {
            theirs.ring();
        }
        // However many there is room for, the doorbell falls silent after a few wakes.
        while !silent(&ours).await {}
        theirs.ring();
        assert!(rung(&ours).await);
    }

    #[tokio::test]
    async fn a_peer_that_closes_or_shuts_its_end_does_not_keep_us_awake() {
        let (ours, theirs) = doorbell(DoorbellKind::Socket);
        let how = nix::sys::socket::Shutdown::Both;
        nix::sys::socket::shutdown(theirs.fd.as_raw_fd(), how).unwrap();
        theirs.ring();
        drop(theirs);
        while !silent(&ours).await {}
    }

    #[test]
    fn an_eventfd_is_taken_from_our_own_user_only() {
        let eventfd = || Doorbell::create(DoorbellKind::EventFd).unwrap().1;
        assert!(PeerDoorbell::accept(eventfd(), DoorbellKind::EventFd).is_ok());
        assert!(matches!(
            PeerDoorbell::accept(eventfd(), DoorbellKind::Socket),
            Err(PeerMisbehaved::Doorbell)
        ));
    }

    #[test]
    fn a_socket_is_taken_from_anybody_and_nothing_else_from_nobody() {
        for agreed in KINDS {
            let socket = Doorbell::create(DoorbellKind::Socket).unwrap().1;
            assert!(PeerDoorbell::accept(socket, agreed).is_ok());
            let (_read, pipe) = nix::unistd::pipe().unwrap();
            let others = [
                File::open("/dev/null").unwrap().into(),
                OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap()),
                pipe,
            ];
            for fd in others {
                assert!(matches!(
                    PeerDoorbell::accept(fd, agreed),
                    Err(PeerMisbehaved::Doorbell)
                ));
            }
        }
    }

    /// Who has not read an eventfd for long is awake, and has no need of one more ring.
    #[test]
    fn hazard_c8_an_eventfd_that_is_full_wakes_and_does_not_hold_us_up() {
        let [fd, _other] = eventfds().unwrap();
        // As its owner can have made it: full, and such that writing waits.
        write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let theirs = PeerDoorbell::of_eventfd(fd.try_clone().unwrap()).unwrap();
        theirs.ring(); // Returns at once, or this test never ends.
        let mut counter = [0; 8];
        nix::unistd::read(&fd, &mut counter).unwrap();
        assert_eq!(u64::from_ne_bytes(counter), u64::MAX - 1);
        theirs.ring();
        nix::unistd::read(&fd, &mut counter).unwrap();
        assert_eq!(u64::from_ne_bytes(counter), 1, "and there is room again");
    }

    /// Sections 7.3 and 15.3 of shmipc's reference for version 4.
    #[test]
    fn a_shmipc_peer_is_rung_as_in_the_reference() {
        let [fd, _other] = eventfds().unwrap();
        let bell = PeerDoorbell::of_eventfd(fd.try_clone().unwrap()).unwrap();
        let mut counter = [0xff; 8];
        let mut read = || nix::unistd::read(&fd, &mut counter).map(|_| counter);
        assert_eq!(read(), Err(Errno::EAGAIN), "it begins at zero");
        bell.ring();
        assert_eq!(read(), Ok([1, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(read(), Err(Errno::EAGAIN), "and is no semaphore");
        bell.ring();
        bell.ring();
        assert_eq!(read(), Ok([2, 0, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn ringing_nobody_is_harmless() {
        for kind in KINDS {
            let (ours, theirs) = Doorbell::create(kind).unwrap();
            let theirs = PeerDoorbell::accept(theirs, kind).unwrap();
            drop(ours);
            theirs.ring();
        }
    }
}
