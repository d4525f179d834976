//! Streams of the `shmipc` crate, as its own benchmark uses them: on each of them a message goes to and fro.
//!
//! Each message has a slice of its own, and there are more slices than streams, so that none ever waits for memory.

use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use shmipc::buffer::BufferReader;
use shmipc::config::{Config, SizePercentPair};
use shmipc::consts::MemMapType;
use shmipc::session::{SessionManager, SessionManagerConfig};
use shmipc::stream::Stream;
use shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};
use shmipc::{Error, Listener};

use super::asynchronous::{AsyncCaller, runtime};
use super::{Caller, Peer, Setting};
use crate::harness::case::{Case, Runtime, Wire, Work};
use crate::harness::window::Calls;
use crate::{Failure, Result, pattern};

/// How often a queue is looked into, where nobody is woken: as in the crate's own benchmark.
pub(super) const INTERVAL: Duration = Duration::from_micros(100);

/// The capacity of a queue.
pub(super) const QUEUE: u32 = 1 << 16;

/// What a slice has beyond the payload, as in shmipc's own benchmarks.
const SLICE_SPARE: usize = 256;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreign {
    wire: Wire,
}

/// The memory for payloads of a case, in bytes: more slices than there are messages under way, one for each stream at both ends, which
/// shmipc-go holds until the next message comes, and what we keep. No more than need be, since touching it for the first time takes long.
pub(super) fn memory(case: &Case) -> u32 {
    if case.size < 4 << 20 {
        256 << 20
    } else {
        1 << 30
    }
}

/// The capacity of a slice of a case.
pub(super) fn slice(case: &Case) -> Result<u32> {
    Ok(u32::try_from(case.size + SLICE_SPARE)?)
}

impl Foreign {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire }
    }

    fn config(self, setting: &Setting) -> Result<Config> {
        let config = Config {
            queue_cap: QUEUE,
            share_memory_buffer_cap: memory(&setting.case),
            share_memory_path_prefix: prefix(&setting.socket),
            buffer_slice_sizes: vec![SizePercentPair {
                size: slice(&setting.case)?,
                percent: 100,
            }],
            mem_map_type: match self.wire {
                Wire::V2 => MemMapType::MemMapTypeDevShmFile,
                Wire::V3 | Wire::V4Eventfd | Wire::V4Polling => MemMapType::MemMapTypeMemFd,
            },
            ..Config::default()
        };
        Ok(match self.wire {
            Wire::V2 | Wire::V3 => config,
            Wire::V4Eventfd => config.with_v4_eventfd(),
            Wire::V4Polling => config.with_v4_event_queue_polling(INTERVAL),
        })
    }
}

/// What the names of shared memory begin with: they lie beside the socket.
pub(super) fn prefix(socket: &Path) -> String {
    socket.with_file_name("memory").display().to_string()
}

impl Peer for Foreign {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        let config = self.config(&setting)?;
        runtime(Runtime::TwoWorkers)?.block_on(async {
            let address = SocketAddr::from_pathname(&setting.socket)?;
            let mut listener = Listener::new(DefaultUnixListen, address, config).await?;
            ready()?;
            loop {
                let stream = listener.accept().await?;
                tokio::spawn(End::new(stream, setting.case).answer());
            }
        })
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let config = SessionManagerConfig::new().with_config(self.config(&setting)?);
        let runtime = runtime(Runtime::TwoWorkers)?;
        let calls = runtime.block_on(async {
            let address = SocketAddr::from_pathname(&setting.socket)?;
            let manager = SessionManager::new(config, DefaultUnixConnect, address).await?;
            let open = |_| {
                let end = End::new(manager.get_stream()?, setting.case);
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
        loop {
            let seed = self.receive().await?;
            self.stream.recv_buf().release_previous_read();
            self.send(pattern::answer(seed)).await?;
        }
    }

    /// Receives a message and returns its seed; of one that is not touched, 0.
    async fn receive(&mut self) -> Result<u64> {
        if !self.touched {
            self.stream.discard(self.size).await?;
            return Ok(0);
        }
        let payload = self.stream.read_exact_bytes(self.size).await?;
        pattern::verified_seed(&payload).ok_or_else(|| "a message arrived with wrong bytes".into())
    }

    async fn send(&mut self, seed: u64) -> Result<()> {
        let place = self.stream.reserve(self.size)?;
        if self.touched {
            pattern::fill(place, seed);
        }
        loop {
            match self.stream.flush(false).await {
                // What was written is still there.
                Err(Error::QueueFull) => {}
                done => return Ok(done?),
            }
        }
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
        self.end.stream.release_read_and_reuse();
        if self.end.touched && seed != pattern::answer(self.seed) {
            return Err("an answer arrived with wrong bytes".into());
        }
        Ok(())
    }
}
