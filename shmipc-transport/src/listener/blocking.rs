//! Accepting sessions in threads, with many handshakes at once in the one that waits.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tracing::{debug, warn};

pub use super::handover::blocking::HandOver;
use super::{
    acceptor::{Chain, PAUSE, is_fatal},
    bind::{self, SocketFile},
    check_links, handover,
};
use crate::{
    Address, Config,
    blocking::Session,
    core::sync::{AtomicBool, Ordering, lock},
    error::{AcceptError, BindError, HandOverError, InheritError},
    session::Joining,
    sys::{endpoint::Listening, watch::millis},
};

/// Waits for sessions at an address, in the calling thread. Needs no runtime and makes no thread.
///
/// Dropping it gives the address back and hangs up on clients in the middle of a handshake. Sessions that were accepted
/// live on.
#[derive(Debug)]
pub struct Listener {
    /// The first field, and so dropped first: nobody finds a file behind which nobody listens.
    file: Option<SocketFile>,
    socket: Listening,
    address: Address,
    config: Config,
    front: Mutex<Front>,
    stopper: Stopper,
    /// Set once a successor has the socket.
    passed_on: Arc<AtomicBool>,
}

/// Stops a [`Listener`] from another thread. Clones stop the same one.
#[derive(Clone, Debug)]
pub struct Stopper {
    /// Readable for good once it is stopped.
    stopped: Arc<EventFd>,
}

/// Handshakes under way. They go on while somebody accepts.
#[derive(Debug, Default)]
struct Front {
    joining: Vec<Joining>,
    /// No connection is taken before this time, because the system lacked something.
    paused_until: Option<Instant>,
}

/// What a look at all sockets came to.
enum Look {
    Stopped,
    /// There may be a new connection.
    Connection,
    /// Handshakes may go on, or time has passed.
    Other,
}

impl Listener {
    /// Listens at `address`, with the default [`Config`]. See [`Listener::bind`](crate::Listener::bind) about the socket
    /// file and who may connect.
    ///
    /// # Errors
    ///
    /// Returns [`BindError`], which names the address, if it cannot be used or somebody else uses it.
    pub fn bind(address: impl Into<Address>) -> Result<Self, BindError> {
        Self::bind_with(address, Config::default())
    }

    /// Listens at `address`, with settings for the listener and all its sessions.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub fn bind_with(address: impl Into<Address>, config: Config) -> Result<Self, BindError> {
        let address = address.into();
        check_links(&address, &config)?;
        Self::new(bind::bind(&address)?, config)
    }

    fn new(bound: bind::Bound, config: Config) -> Result<Self, BindError> {
        let bind::Bound {
            file,
            socket,
            address,
        } = bound;
        let failed = |source: io::Error| BindError::Io {
            action: "prepare the socket",
            address: address.clone(),
            source,
        };
        // Readiness may pass before the connection is taken: somebody else may share the socket.
        socket.set_nonblocking().map_err(failed)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stopped = EventFd::from_flags(flags).map_err(|errno| failed(io::Error::from(errno)))?;
        let passed_on = Arc::default();
        Ok(Self {
            file: file.map(|file| file.unless(&passed_on)),
            socket,
            address,
            config,
            front: Mutex::default(),
            stopper: Stopper {
                stopped: Arc::new(stopped),
            },
            passed_on,
        })
    }

    /// Takes the listening socket of a predecessor that [offers](HandOver::offer) it at `address`. See
    /// [`Listener::inherit_with`](crate::Listener::inherit_with). The predecessor may be one with tasks.
    ///
    /// # Errors
    ///
    /// Returns [`InheritError`] if nobody offers a listening socket there. The predecessor goes on then.
    pub fn inherit_with(address: impl Into<Address>, config: Config) -> Result<Self, InheritError> {
        let bound = handover::blocking::inherit(&address.into(), &config)?;
        Ok(Self::new(bound, config)?)
    }

    /// Returns what passes the listening socket on to a successor, while this listener accepts in other threads.
    ///
    /// Once it was passed on, [`accept`](Self::accept) returns the sessions whose clients were shaking hands, and then
    /// [`AcceptError::Stopped`].
    ///
    /// # Errors
    ///
    /// Returns [`HandOverError`] if the process lacks descriptors.
    pub fn hand_over(&self) -> Result<HandOver, HandOverError> {
        HandOver::new(
            &self.socket,
            &self.address,
            self.file.as_ref(),
            &self.passed_on,
            &self.stopper,
            self.config.handshake_timeout(),
        )
        .map_err(HandOverError::Socket)
    }

    /// Returns the next session with a client that was admitted and has shaken hands.
    ///
    /// Handshakes run side by side in the calling thread, so a client that stalls delays nobody; up to
    /// [`handshakes_max`](crate::ConfigBuilder::handshakes_max) of them. They and new connections only make progress while
    /// somebody calls this method, so call it again soon. One thread at a time accepts; others wait for their turn. What
    /// goes wrong with one client is logged at `debug` and otherwise ignored; while the process lacks file descriptors, the
    /// listener pauses.
    ///
    /// # Errors
    ///
    /// Returns [`AcceptError`] if the listening socket itself does not work any more, or the listener was stopped.
    pub fn accept(&self) -> Result<Session, AcceptError> {
        match self.accept_until(None)? {
            Some(session) => Ok(session),
            // Without a deadline, there is no other end to it.
            None => Err(AcceptError::Stopped),
        }
    }

    /// As [`accept`](Self::accept), but returns `None` if there was no session before `deadline`. Waiting for the turn to
    /// accept is not limited by it.
    ///
    /// # Errors
    ///
    /// As for [`accept`](Self::accept).
    pub fn accept_until(&self, deadline: Option<Instant>) -> Result<Option<Session>, AcceptError> {
        let mut front = lock(&self.front);
        loop {
            if let Some(session) = front.advance(&self.config) {
                return Ok(Some(session));
            }
            match self.look(&mut front, deadline)? {
                // Who began to shake hands before the socket was passed on is still served here.
                Look::Stopped if self.is_passed_on() && !front.joining.is_empty() => {}
                Look::Stopped => return Err(AcceptError::Stopped),
                Look::Connection => self.take_connection(&mut front)?,
                Look::Other => {}
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(front.advance(&self.config));
            }
        }
    }

    /// Returns the address that was bound, with the port that was given if none was asked for.
    #[must_use]
    pub const fn local_address(&self) -> &Address {
        &self.address
    }

    /// Returns what stops this listener from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    fn is_passed_on(&self) -> bool {
        self.passed_on.load(Ordering::Acquire)
    }

    /// Waits until something may be done.
    fn look(&self, front: &mut Front, deadline: Option<Instant>) -> Result<Look, AcceptError> {
        let now = Instant::now();
        if front.paused_until.is_some_and(|until| until <= now) {
            front.paused_until = None;
        }
        let mut timeout = [deadline, front.paused_until]
            .into_iter()
            .flatten()
            .min()
            .map(|moment| moment.saturating_duration_since(now));
        let is_passed_on = self.is_passed_on();
        if is_passed_on && front.joining.is_empty() {
            return Ok(Look::Stopped);
        }
        let has_room =
            front.joining.len() < self.config.handshakes_max() && front.paused_until.is_none();
        let takes = has_room && !is_passed_on;
        let stopping = if is_passed_on {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        };
        let mut fds = vec![PollFd::new(self.stopper.stopped.as_fd(), stopping)];
        let connections = if takes {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        };
        fds.push(PollFd::new(self.socket.as_fd(), connections));
        for joining in &front.joining {
            let (fd, left) = joining.wants();
            fds.push(fd);
            timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
        }
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout: Duration| {
            PollTimeout::try_from(millis(timeout)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Look::Other),
            Err(errno) => return Err(AcceptError::Socket(Arc::new(errno.into()))),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        Ok(match &fds[..] {
            [stopped, ..] if is_ready(stopped) => Look::Stopped,
            [_, socket, ..] if takes && is_ready(socket) => Look::Connection,
            _ => Look::Other,
        })
    }

    fn take_connection(&self, front: &mut Front) -> Result<(), AcceptError> {
        match self.socket.accept() {
            Ok(connection) => match Joining::begin(connection, &self.config) {
                Ok(joining) => front.joining.push(joining),
                Err(error) => debug!(error = %Chain(&error), "a client failed to shake hands"),
            },
            Err(error) if is_fatal(&error) => return Err(AcceptError::Socket(Arc::new(error))),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted => {}
                _ => {
                    warn!(%error, "cannot accept connections for the moment");
                    front.paused_until = Some(Instant::now() + PAUSE);
                }
            },
        }
        Ok(())
    }
}

impl Front {
    /// Goes on with all handshakes, and returns a session if one of them is done.
    fn advance(&mut self, config: &Config) -> Option<Session> {
        let mut index = 0;
        while index < self.joining.len() {
            match self.joining.swap_remove(index).advance(config) {
                Ok(Ok(session)) => return Some(Session::new(session)),
                Ok(Err(joining)) => {
                    self.joining.push(joining);
                    let last = self.joining.len() - 1;
                    self.joining.swap(index, last);
                    index += 1;
                }
                Err(error) => debug!(error = %Chain(&error), "a client failed to shake hands"),
            }
        }
        None
    }
}

impl Stopper {
    /// Ends all [`accept`](Listener::accept)s, those under way and those to come, with [`AcceptError::Stopped`]. The address
    /// is given back when the listener is dropped.
    pub fn stop(&self) {
        // Fails only if it has been stopped very often.
        let _ = self.stopped.write(1);
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpStream, os::unix::net::UnixStream, thread};

    use super::*;
    use crate::{LinkKind, Shmipc, core::shmipc::frames::Frame};

    #[test]
    fn stalled_clients_delay_nobody_and_rubbish_is_shown_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = Listener::bind(path.as_path()).unwrap();
        let _stalled = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        let mut rubbish = UnixStream::connect(&path).unwrap();
        rubbish.write_all(b"PRI * HTTP/2.0\r\n\r\n").unwrap();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..20)
                .map(|_| scope.spawn(|| Session::connect(path.as_path()).unwrap()))
                .collect();
            let sessions: Vec<_> = (0..20).map(|_| listener.accept().unwrap()).collect();
            for (client, session) in clients.into_iter().zip(&sessions) {
                assert_eq!(client.join().unwrap().peer(), session.peer());
            }
        });
    }

    #[test]
    fn hazard_h41_who_stalls_in_the_middle_of_shmipcs_own_handshake_delays_nobody() {
        let files = tempfile::tempdir_in("/dev/shm").unwrap();
        let shmipc = Shmipc::default().directory(files.path());
        let config = Config::builder().links([LinkKind::ShmipcV3]).shmipc(shmipc);
        let config = config.build().unwrap();
        for place in [
            Address::from(files.path().join("socket")),
            "tcp://127.0.0.1:0".into(),
        ] {
            let listener = Listener::bind_with(place, config.clone()).unwrap();
            let hello = Frame::Version(3).encode(3);
            let mut stalled: Box<dyn Write> = match listener.local_address() {
                Address::Tcp(port) => Box::new(TcpStream::connect(port).unwrap()),
                _ => Box::new(UnixStream::connect(files.path().join("socket")).unwrap()),
            };
            stalled.write_all(&hello).unwrap();
            thread::scope(|scope| {
                let clients: Vec<_> = (0..5)
                    .map(|_| {
                        let address = listener.local_address().clone();
                        let config = config.clone();
                        scope.spawn(|| Session::connect_with(address, config).unwrap())
                    })
                    .collect();
                let sessions: Vec<_> = (0..5).map(|_| listener.accept().unwrap()).collect();
                for client in clients {
                    drop(client.join().unwrap());
                }
                drop(sessions);
            });
        }
    }

    #[test]
    fn beyond_the_limit_clients_wait_in_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let config = Config::builder()
            .handshakes_max(1)
            .handshake_timeout(Duration::from_millis(50))
            .build()
            .unwrap();
        let listener = Listener::bind_with(path.as_path(), config).unwrap();
        let _stalled = UnixStream::connect(&path).unwrap();
        thread::scope(|scope| {
            let client = scope.spawn(|| Session::connect(path.as_path()).unwrap());
            let session = listener.accept().unwrap();
            assert_eq!(client.join().unwrap().peer(), session.peer());
        });
    }

    #[test]
    fn a_listener_can_be_stopped_and_waits_no_longer_than_it_should() {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(directory.path().join("socket")).unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(listener.accept_until(Some(soon)).unwrap().is_none());
        let stopper = listener.stopper();
        thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept());
            stopper.stop();
            assert!(matches!(
                accepting.join().unwrap(),
                Err(AcceptError::Stopped)
            ));
        });
        assert!(matches!(listener.accept(), Err(AcceptError::Stopped)));
    }
}
