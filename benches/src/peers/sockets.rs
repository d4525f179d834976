//! Unix domain sockets on tokio, one for each stream: on each of them a message goes to and fro.
//!
//! Messages have the same length, so that none is announced. Buffers are allocated once.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::asynchronous::{AsyncCaller, runtime};
use super::{Caller, Peer, Setting};
use crate::harness::case::{Case, Runtime, Work};
use crate::harness::window::Calls;
use crate::{Result, pattern};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sockets;

impl Peer for Sockets {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        runtime(Runtime::CurrentThread)?.block_on(async {
            let listener = UnixListener::bind(&setting.socket)?;
            ready()?;
            loop {
                let (socket, _) = listener.accept().await?;
                tokio::spawn(End::new(socket, setting.case).answer());
            }
        })
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let runtime = runtime(Runtime::CurrentThread)?;
        let calls = runtime.block_on(async {
            let mut calls = Vec::with_capacity(setting.case.in_flight);
            for _ in 0..setting.case.in_flight {
                let socket = UnixStream::connect(&setting.socket).await?;
                let end = End::new(socket, setting.case);
                calls.push(Client { end, seed: 0 });
            }
            Result::Ok(calls)
        })?;
        Ok(Box::new(AsyncCaller::new(runtime, calls)))
    }
}

/// One end of one socket.
#[derive(Debug)]
struct End {
    socket: UnixStream,
    buffer: Vec<u8>,
    touched: bool,
}

impl End {
    fn new(socket: UnixStream, case: Case) -> Self {
        Self {
            socket,
            buffer: vec![0; case.size],
            touched: case.work != Work::Untouched,
        }
    }

    /// Answers until the client is gone.
    async fn answer(mut self) -> Result<()> {
        loop {
            let seed = self.receive().await?;
            self.send(pattern::answer(seed)).await?;
        }
    }

    /// Receives a message and returns its seed; of one that is not touched, 0.
    async fn receive(&mut self) -> Result<u64> {
        self.socket.read_exact(&mut self.buffer).await?;
        if !self.touched {
            return Ok(0);
        }
        pattern::verified_seed(&self.buffer)
            .ok_or_else(|| "a message arrived with wrong bytes".into())
    }

    async fn send(&mut self, seed: u64) -> Result<()> {
        if self.touched {
            pattern::fill(&mut self.buffer, seed);
        }
        self.socket.write_all(&self.buffer).await?;
        Ok(())
    }
}

#[derive(Debug)]
struct Client {
    end: End,
    seed: u64,
}

impl Calls for Client {
    async fn call(&mut self) -> Result<()> {
        self.seed += 1;
        self.end.send(self.seed).await?;
        let seed = self.end.receive().await?;
        if self.end.touched && seed != pattern::answer(self.seed) {
            return Err("an answer arrived with wrong bytes".into());
        }
        Ok(())
    }
}
