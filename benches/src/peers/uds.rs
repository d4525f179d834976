//! A Unix domain socket, blocking, with a length before each message: what a program without a framework would write.
//!
//! Buffers are allocated once. A message is written with one `write` and, if it fits the socket's buffer, read with one
//! `read`; the socket's buffers are as large as the kernel grants without privilege.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{setsockopt, sockopt};

use super::{Caller, Peer, Setting};
use crate::harness::case::{Case, Work};
use crate::harness::window::{Latencies, Window};
use crate::{Result, pattern};

/// The length before each message, as a little endian number of this many bytes.
const PREFIX_LEN: usize = 8;

/// The buffer to ask for; the kernel grants at most `net.core.wmem_max`.
const SOCKET_BUFFER: usize = 8 << 20;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket;

impl Peer for Socket {
    fn resources(&self, _: &Case) -> Result<Vec<OwnedFd>> {
        let (one, other) = UnixStream::pair()?;
        for socket in [&one, &other] {
            setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
            setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
        }
        Ok(vec![one.into(), other.into()])
    }

    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        let case = setting.case;
        let [socket, _] = setting.descriptors()?;
        let mut end = End::new(socket, case);
        ready()?;
        loop {
            let seed = end.receive()?;
            end.send(pattern::answer(seed))?;
        }
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let case = setting.case;
        let [_, socket] = setting.descriptors()?;
        Ok(Box::new(Client {
            end: End::new(socket, case),
            seed: 0,
        }))
    }
}

#[derive(Debug)]
struct Client {
    end: End,
    seed: u64,
}

impl Caller for Client {
    fn call_during(&mut self, mut window: Window) -> Result<Latencies> {
        window.drive(|| {
            self.seed += 1;
            self.end.send(self.seed)?;
            let seed = self.end.receive()?;
            if seed == pattern::answer(self.seed) || !self.end.touched {
                Ok(())
            } else {
                Err("an answer arrived with wrong bytes".into())
            }
        })?;
        Ok(window.latencies())
    }
}

#[derive(Debug)]
struct End {
    socket: UnixStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    touched: bool,
}

impl End {
    fn new(socket: OwnedFd, case: Case) -> Self {
        let buffer = vec![0; PREFIX_LEN + case.size];
        Self {
            touched: case.work != Work::Untouched,
            socket: socket.into(),
            outgoing: buffer.clone(),
            incoming: buffer,
        }
    }

    fn send(&mut self, seed: u64) -> Result<()> {
        let (prefix, payload) = self.outgoing.split_at_mut(PREFIX_LEN);
        prefix.copy_from_slice(&(payload.len() as u64).to_le_bytes());
        if self.touched {
            pattern::fill(payload, seed);
        }
        self.socket.write_all(&self.outgoing)?;
        Ok(())
    }

    /// Receives one message and returns its seed; of one that is not touched, 0. Its length must be the one that was agreed on.
    fn receive(&mut self) -> Result<u64> {
        let mut received = 0;
        while received < self.incoming.len() {
            let more = self.socket.read(&mut self.incoming[received..])?;
            if more == 0 {
                return Err("the other end closed the socket".into());
            }
            received += more;
        }
        let (prefix, payload) = self.incoming.split_at(PREFIX_LEN);
        if prefix != (payload.len() as u64).to_le_bytes() {
            return Err("a message of another length arrived".into());
        }
        if !self.touched {
            return Ok(0);
        }
        pattern::verified_seed(payload).ok_or_else(|| "a message arrived with wrong bytes".into())
    }
}
