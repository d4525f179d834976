//! Accepting sessions in threads, with many handshakes at once in the one that waits.

mod front;

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags},
    sys::eventfd::{EfdFlags, EventFd},
};
use tracing::warn;

use self::front::Front;
pub use super::handover::blocking::HandOver;
use super::{
    acceptor::{PAUSE, empty_queue, is_fatal},
    bind::{self, SocketFile},
    check_links, handover,
};
use crate::{
    Address, Config, Restart,
    blocking::{Clients, Session},
    core::sync::{AtomicBool, Ordering, lock},
    error::{AcceptError, BindError, HandOverError, InheritError, RestartError},
    sys::endpoint::{Connection, Listening},
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
    clients: Clients,
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

    /// Listens at the path `address` in the place of a server that may still listen there, with tasks or with threads. See
    /// [`Listener::take_over_with`](crate::Listener::take_over_with).
    ///
    /// # Errors
    ///
    /// Returns [`BindError`], which names the address, if it cannot be used or a file is there that is no socket. The path may have at most
    /// 106 bytes.
    pub fn take_over_with(address: impl Into<Address>, config: Config) -> Result<Self, BindError> {
        let address = address.into();
        check_links(&address, &config)?;
        Self::new(bind::take_over(&address)?, config)
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
            clients: Clients::default(),
            front: Mutex::default(),
            stopper: Stopper {
                stopped: Arc::new(stopped),
            },
            passed_on,
        })
    }

    /// Takes the listening socket of a predecessor that [offers](HandOver::offer) it at `address`, with the default [`Config`].
    ///
    /// # Errors
    ///
    /// As for [`inherit_with`](Self::inherit_with).
    pub fn inherit(address: impl Into<Address>) -> Result<Self, InheritError> {
        Self::inherit_with(address, Config::default())
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
    /// somebody calls this method, so call it again soon; what clients have waited in between does not count against their time.
    /// One thread at a time accepts; others wait for their turn. What
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
        front.come_back();
        let accepted = self.accept_at(&mut front, deadline);
        front.leave();
        accepted
    }

    fn accept_at(
        &self,
        front: &mut Front,
        deadline: Option<Instant>,
    ) -> Result<Option<Session>, AcceptError> {
        loop {
            if let Some(session) = front.advance(&self.config, &self.clients) {
                return Ok(Some(session));
            }
            match self.look(front, deadline)? {
                // Who began to shake hands before the socket was passed on is still served here.
                Look::Stopped if self.is_passed_on() && !front.joining.is_empty() => {}
                Look::Stopped => return Err(AcceptError::Stopped),
                Look::Connection => self.take_connection(front)?,
                Look::Other => {}
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(front.advance(&self.config, &self.clients));
            }
        }
    }

    /// The live sessions that were accepted here.
    #[must_use]
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Tells all clients to move to the successor at this address; see [`Clients::hot_restart`].
    ///
    /// # Errors
    ///
    /// See [`RestartError`]. Nobody was told.
    pub fn hot_restart(&self, epoch: u64, timeout: Duration) -> Result<Restart, RestartError> {
        self.clients.hot_restart(epoch, timeout)
    }

    /// Stops listening: gives the address back, unless a successor has taken it over, and returns those who have
    /// connected before. If the socket was [handed over](HandOver), those who wait in its queue are left to the successor.
    ///
    /// Dropping the listener would hang up on clients that wait to be accepted, or are in the middle of a handshake. Threads that accept
    /// are [stopped](Self::stopper) before.
    ///
    /// ```no_run
    /// use std::{thread, time::{Duration, Instant}};
    /// use shmipc_transport::blocking::Listener;
    ///
    /// # fn serve(session: shmipc_transport::blocking::Session) {}
    /// # fn run(is_replaced: impl FnOnce() + Send + 'static) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("/run/route.sock")?;
    /// let (clients, stopper) = (listener.clients().clone(), listener.stopper());
    /// thread::spawn(move || {
    ///     is_replaced(); // A successor has begun with `Listener::take_over_with`.
    ///     let restart = clients.hot_restart(1, Duration::from_secs(10));
    ///     stopper.stop();
    ///     restart // What has come of it.
    /// });
    /// // While the clients move, they are served.
    /// while let Ok(session) = listener.accept() {
    ///     thread::spawn(move || serve(session));
    /// }
    /// let clients = listener.clients().clone();
    /// for session in listener.close() {
    ///     thread::spawn(move || serve(session));
    /// }
    /// if !clients.drain(Some(Instant::now() + Duration::from_secs(10))) {
    ///     clients.close();
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use = "dropping it hangs up on the clients"]
    pub fn close(self) -> Leftover {
        let Self {
            file,
            socket,
            address: _,
            config,
            clients,
            front,
            stopper: _,
            passed_on,
        } = self;
        // Before the queue is emptied, so that nobody else queues up.
        drop(file);
        let takes_queue = !passed_on.load(Ordering::Acquire);
        let queue = takes_queue.then_some(socket);
        Leftover {
            waiting: queue.map_or_else(VecDeque::new, empty_queue),
            front: front.into_inner().unwrap_or_else(PoisonError::into_inner),
            config,
            clients,
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
        let timeout = [deadline, front.paused_until]
            .into_iter()
            .flatten()
            .min()
            .map(|moment| moment.saturating_duration_since(now));
        let is_passed_on = self.is_passed_on();
        if is_passed_on && front.joining.is_empty() {
            return Ok(Look::Stopped);
        }
        let takes = front.has_room(&self.config) && front.paused_until.is_none() && !is_passed_on;
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
        front
            .wait(&mut fds, timeout)
            .map_err(|error| AcceptError::Socket(Arc::new(error)))?;
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        Ok(match &fds[..] {
            [stopped, ..] if is_ready(stopped) => Look::Stopped,
            [_, socket, ..] if takes && is_ready(socket) => Look::Connection,
            _ => Look::Other,
        })
    }

    fn take_connection(&self, front: &mut Front) -> Result<(), AcceptError> {
        match self.socket.accept() {
            Ok(connection) => front.begin(connection, &self.config),
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

/// The clients that had connected to a [`Listener`] when it was [closed](Listener::close): yields the sessions of those that were admitted
/// and have shaken hands.
///
/// All handshakes go on in the calling thread while it waits for the next one. That takes no longer than the
/// [time for a handshake](crate::ConfigBuilder::handshake_timeout), unless there are more clients than may shake hands at once.
///
/// Dropping it hangs up on those that are left.
#[derive(Debug)]
pub struct Leftover {
    waiting: VecDeque<Connection>,
    front: Front,
    config: Config,
    clients: Clients,
}

impl Iterator for Leftover {
    type Item = Session;

    fn next(&mut self) -> Option<Session> {
        let Self {
            waiting,
            front,
            config,
            clients,
        } = self;
        front.come_back();
        let next = front.next(waiting, config, clients);
        front.leave();
        next
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
mod tests;
