//! A server and calls, for threads.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::BufMut;
use shmipc_transport::{
    Address, Config, Flush, PoolError, SendBuf,
    blocking::{Clients, Listener, PooledStream, Session, SessionPool, Stopper},
};

use super::{PATIENCE, all, pattern, send_back};

pub(crate) fn late() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

/// Waits until `is_so`, which nobody tells.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < late, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A server that sends everything back, until it is stopped.
pub(crate) struct Server {
    pub(crate) clients: Clients,
    stopper: Stopper,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Takes the place of whoever listens there.
    pub(crate) fn start(address: impl Into<Address>, config: Config) -> Self {
        let listener = Listener::take_over_with(address, config).unwrap();
        let (clients, stopper) = (listener.clients().clone(), listener.stopper());
        let accepting = thread::spawn(move || {
            while let Ok(session) = listener.accept() {
                thread::spawn(move || echo(&session));
            }
            for session in listener.close() {
                thread::spawn(move || echo(&session));
            }
        });
        Self {
            clients,
            stopper,
            accepting,
        }
    }

    /// Listens no more, and waits until the last session is over.
    pub(crate) fn leave(self) {
        self.stopper.stop();
        self.accepting.join().unwrap();
        assert!(self.clients.drain(late()), "not all sessions end");
        assert!(self.clients.is_empty());
    }

    /// Listens no more, and ends all sessions.
    pub(crate) fn break_off(self) {
        self.stopper.stop();
        self.accepting.join().unwrap();
        self.clients.close();
    }
}

/// Sends every message of every stream back, until the session ends.
pub(crate) fn echo(session: &Session) {
    while let Ok(mut stream) = session.accept_stream() {
        thread::spawn(move || {
            send_back(&mut stream);
            // It fails if the client wants no more.
            drop(stream.finish());
        });
    }
}

/// One call, on a stream that is still open afterwards.
pub(crate) fn called(pool: &SessionPool, sent: &[u8]) -> Result<PooledStream, PoolError> {
    let fill = |message: &mut SendBuf| message.put_slice(sent);
    let mut stream = pool.stream_with_until(sent.len(), Flush::More, late(), fill)?;
    let mut reply = Vec::new();
    while reply.len() < sent.len() {
        let part = stream.recv_until(late()).unwrap();
        reply.extend(all(part.expect("a reply")));
    }
    assert!(reply == sent, "it came back changed");
    Ok(stream)
}

/// One call of many that differ in size, on a stream that is given back.
pub(crate) fn call(pool: &SessionPool, number: usize) {
    let sizes = [8, 5000, 100_000];
    let sent = pattern(sizes[number % sizes.len()], number);
    called(pool, &sent).unwrap().give_back();
}
