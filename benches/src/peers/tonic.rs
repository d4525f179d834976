//! tonic over a Unix domain socket: gRPC as Rust programs use it between neighbours today.
//!
//! It is given what a careful user would give it: `bytes` fields as [`Bytes`], payload buffers that are used again,
//! HTTP/2 windows larger than anything in flight (so that no call waits for a window update), frames of the length that
//! suits it best, and no limit on message sizes. With its defaults it is measured too.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::asynchronous::{AsyncCaller, runtime};
use super::{Caller, Peer, Setting};
use crate::harness::case::{Runtime, Work};
use crate::harness::window::Calls;
use crate::pool::Pool;
use crate::{Result, pattern};

use generated::Payload;
use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

#[expect(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "what tonic generates is not ours to mend"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/tonic/bench.v1.rs"));
}

/// The window of a stream and of a connection: 256 calls of the largest size fit.
const WINDOW: u32 = (1 << 31) - 1;

/// The length of HTTP/2 frames at which tonic was fastest with large payloads: 16 KiB, its default, costs more reads and
/// writes; from 256 KiB on, both sides wait longer for whole frames than they gain.
const FRAME_LEN: u32 = 64 << 10;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tonic {
    runtime: Runtime,
    tuned: bool,
}

impl Tonic {
    /// tonic as the module describes it.
    pub(super) fn tuned(runtime: Runtime) -> Self {
        Self {
            runtime,
            tuned: true,
        }
    }

    /// tonic with its defaults, except for the limits on message sizes.
    pub(super) fn with_defaults() -> Self {
        Self {
            runtime: Runtime::CurrentThread,
            tuned: false,
        }
    }

    fn server(self) -> Server {
        if !self.tuned {
            return Server::builder();
        }
        Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME_LEN)
    }

    async fn connect(self, socket: &Path) -> Result<Channel> {
        let mut endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
        if self.tuned {
            endpoint = endpoint
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_frame_size(FRAME_LEN);
        }
        Ok(endpoint.connect().await?)
    }

    fn buffers(self, len: usize) -> Buffers {
        if self.tuned {
            Buffers::Pooled(Pool::new(len))
        } else {
            Buffers::Fresh(len)
        }
    }
}

impl Peer for Tonic {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        runtime(self.runtime)?.block_on(async {
            let listener = UnixListener::bind(&setting.socket)?;
            ready()?;
            let service = EchoServer::new(Service {
                buffers: self.buffers(setting.case.size),
            })
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
            let incoming = UnixListenerStream::new(listener);
            self.server()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await?;
            Ok(())
        })
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let Setting { case, socket, .. } = setting;
        let runtime = runtime(self.runtime)?;
        let channel = runtime.block_on(Self::connect(*self, &socket))?;
        let client = EchoClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let buffers = self.buffers(case.size);
        let kept = buffers.filled(0);
        let calls = TonicCalls {
            client,
            work: case.work,
            buffers,
            seeds: Arc::default(),
            kept,
        };
        Ok(Box::new(AsyncCaller::new(runtime, calls, case.in_flight)))
    }
}

/// Where payloads are written.
#[derive(Clone, Debug)]
enum Buffers {
    /// Into buffers that are used again.
    Pooled(Pool),
    /// Into a new buffer of this length each time.
    Fresh(usize),
}

impl Buffers {
    /// A payload with the pattern of `seed`.
    fn filled(&self, seed: u64) -> Bytes {
        match self {
            Self::Pooled(pool) => {
                let mut payload = pool.take();
                pattern::fill(&mut payload, seed);
                payload.freeze()
            }
            Self::Fresh(len) => {
                let mut payload = vec![0; *len];
                pattern::fill(&mut payload, seed);
                payload.into()
            }
        }
    }
}

struct Service {
    buffers: Buffers,
}

#[tonic::async_trait]
impl Echo for Service {
    async fn exchange(
        &self,
        request: Request<Payload>,
    ) -> std::result::Result<Response<Payload>, Status> {
        let seed = pattern::verified_seed(&request.into_inner().data)
            .ok_or_else(|| Status::data_loss("the request arrived with wrong bytes"))?;
        Ok(Response::new(Payload {
            data: self.buffers.filled(pattern::answer(seed)),
        }))
    }

    async fn forward(
        &self,
        request: Request<Payload>,
    ) -> std::result::Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

#[derive(Clone)]
struct TonicCalls {
    client: EchoClient<Channel>,
    work: Work,
    buffers: Buffers,
    seeds: Arc<AtomicU64>,
    /// The payload that is forwarded, as it last arrived.
    kept: Bytes,
}

impl fmt::Debug for TonicCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TonicCalls")
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

impl Calls for TonicCalls {
    async fn call(&mut self) -> Result<()> {
        match self.work {
            Work::Exchange => {
                let seed = self.seeds.fetch_add(1, Relaxed);
                let payload = Payload {
                    data: self.buffers.filled(seed),
                };
                let answer = self.client.exchange(payload).await?.into_inner();
                if pattern::matches(&answer.data, pattern::answer(seed)) {
                    Ok(())
                } else {
                    Err("an answer arrived with wrong bytes".into())
                }
            }
            Work::Forward => {
                let payload = Payload {
                    data: self.kept.clone(),
                };
                self.kept = self.client.forward(payload).await?.into_inner().data;
                Ok(())
            }
        }
    }
}
