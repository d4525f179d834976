//! Streams of shmipc-transport, without RPC: on each of them a message goes to and fro.

use bytes::Buf;
use shmipc_transport::{
    Config, Flush, LinkKind, Listener, RecvBuf, SendHalf, Session, Shmipc, ShmipcMapping,
    ShmipcWakes, Stream,
};

use super::asynchronous::{AsyncCaller, runtime};
use super::foreign::{INTERVAL, QUEUE, memory, slice};
use super::{Caller, Peer, Setting};
use crate::harness::case::{Case, Runtime, Wire, Work};
use crate::harness::window::Calls;
use crate::{Failure, Result, pattern};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// `None` is the outbox link.
    wire: Option<Wire>,
}

impl Streams {
    pub(super) fn over_the_outbox() -> Self {
        Self { wire: None }
    }

    /// Over the link that speaks shmipc's own protocol, with memory as its other implementations have it.
    pub(super) fn over(wire: Wire) -> Self {
        Self { wire: Some(wire) }
    }

    fn config(self, setting: &Setting) -> Result<Config> {
        let Some(wire) = self.wire else {
            return Ok(Config::default());
        };
        let link = match wire {
            Wire::V2 => LinkKind::ShmipcV2,
            Wire::V3 => LinkKind::ShmipcV3,
            Wire::V4Eventfd | Wire::V4Polling => LinkKind::ShmipcV4,
        };
        let mapping = match wire {
            Wire::V2 => ShmipcMapping::File,
            Wire::V3 | Wire::V4Eventfd | Wire::V4Polling => ShmipcMapping::Memfd,
        };
        let wakes = match wire {
            Wire::V2 | Wire::V3 => ShmipcWakes::Socket,
            Wire::V4Eventfd => ShmipcWakes::EventFd,
            Wire::V4Polling => ShmipcWakes::Polling(INTERVAL),
        };
        let folder = setting.socket.parent().ok_or("a socket lies in a folder")?;
        let shmipc = Shmipc::default()
            .buffer_len(memory(&setting.case))
            .queue_len(QUEUE)
            .slices([(slice(&setting.case)?, 100)])
            .mapping(mapping)
            .wakes(wakes)
            .directory(folder);
        Ok(Config::builder().links([link]).shmipc(shmipc).build()?)
    }
}

impl Peer for Streams {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        runtime(Runtime::CurrentThread)?.block_on(async {
            let config = self.config(&setting)?;
            let listener = Listener::bind_with(setting.socket.as_path(), config)?;
            ready()?;
            let session = listener.accept().await?;
            loop {
                let stream = session.accept_stream().await?;
                let end = End::new(stream, setting.case);
                tokio::spawn(end.answer());
            }
        })
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let runtime = runtime(Runtime::CurrentThread)?;
        let calls = runtime.block_on(async {
            let config = self.config(&setting)?;
            let session = Session::connect_with(setting.socket.as_path(), config).await?;
            let open = |_| {
                let end = End::new(session.open_stream()?, setting.case);
                Ok::<_, Failure>(Client { end, seed: 0 })
            };
            (0..setting.case.in_flight).map(open).collect::<Result<_>>()
        })?;
        Ok(Box::new(AsyncCaller::new(runtime, calls)))
    }
}

/// One end of one stream.
#[derive(Debug)]
struct End {
    stream: Stream,
    size: usize,
    touched: bool,
}

impl End {
    fn new(stream: Stream, case: Case) -> Self {
        Self {
            stream,
            size: case.size,
            touched: case.work != Work::Untouched,
        }
    }

    /// Answers until the client is gone.
    async fn answer(mut self) -> Result<()> {
        while let Some(message) = self.stream.recv().await? {
            let seed = self.seed(message)?;
            self.send(pattern::answer(seed)).await?;
        }
        Ok(())
    }

    /// The seed of a message; of one that is not touched, 0.
    fn seed(&self, mut message: RecvBuf) -> Result<u64> {
        if message.len() != self.size {
            return Err("a message of another length arrived".into());
        }
        if !self.touched {
            return Ok(0);
        }
        let seed = if message.chunk().len() == self.size {
            pattern::verified_seed(message.chunk())
        } else {
            pattern::verified_seed(&message.copy_to_bytes(self.size))
        };
        seed.ok_or_else(|| "a message arrived with wrong bytes".into())
    }

    async fn send(&mut self, seed: u64) -> Result<()> {
        let Self { size, touched, .. } = *self;
        let write = |place: &mut &mut [u8]| {
            let (payload, rest) = std::mem::take(place).split_at_mut(size);
            if touched {
                pattern::fill(payload, seed);
            }
            *place = rest;
        };
        if size <= SendHalf::SHORT_MAX
            && self
                .stream
                .try_send_exact_then_recv(size, Flush::More, write)?
        {
            return Ok(());
        }
        let mut message = self.stream.buffer(size);
        let mut place = message.reserve(size)?;
        if touched {
            pattern::fill(&mut place, seed);
        }
        place.commit(size);
        self.stream.send(message, Flush::More).await?;
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
        let answer = self.end.stream.recv().await?;
        let seed = self
            .end
            .seed(answer.ok_or("the server ended the stream")?)?;
        if self.end.touched && seed != pattern::answer(self.seed) {
            return Err("an answer arrived with wrong bytes".into());
        }
        Ok(())
    }
}
