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
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::client::GrpcService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::asynchronous::{AsyncCaller, runtime};
use super::{Caller, Peer, Setting};
use crate::harness::case::{Case, Runtime, Work};
use crate::harness::window::Calls;
use crate::pool::Pool;
use crate::{Failure, Result, pattern};

use generated::echo_client::EchoClient;
pub(super) use generated::echo_server::EchoServer;
use generated::{Payload, Subscription, echo_server::Echo};

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
        let calls = TonicCalls::new(channel, case, self.buffers(case.size));
        Ok(match case.work {
            Work::Exchange | Work::Forward => {
                Box::new(AsyncCaller::new(runtime, vec![calls; case.in_flight]))
            }
            Work::Crowd => return Err("tonic is not measured with a crowd".into()),
            Work::Untouched => return Err("payloads of calls are not left untouched".into()),
            Work::Converse => {
                let calls = runtime.block_on(calls.converse())?;
                Box::new(AsyncCaller::new(runtime, vec![calls]))
            }
            Work::Watch => {
                let calls = runtime.block_on(calls.watch())?;
                Box::new(AsyncCaller::new(runtime, vec![calls]))
            }
        })
    }
}

/// Where payloads are written.
#[derive(Clone, Debug)]
pub(super) enum Buffers {
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

pub(super) struct Service {
    pub(super) buffers: Buffers,
}

type Responses<T> = std::pin::Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

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

    type WatchStream = Responses<Payload>;

    async fn watch(
        &self,
        request: Request<Subscription>,
    ) -> std::result::Result<Response<Self::WatchStream>, Status> {
        let Subscription { seed, .. } = request.into_inner();
        let buffers = self.buffers.clone();
        let payload = move |seed| {
            Ok(Payload {
                data: buffers.filled(seed),
            })
        };
        Ok(Response::new(Box::pin(tokio_stream::iter(
            (seed..).map(payload),
        ))))
    }

    type ConverseStream = Responses<Payload>;

    async fn converse(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> std::result::Result<Response<Self::ConverseStream>, Status> {
        let buffers = self.buffers.clone();
        let answer = move |payload: std::result::Result<Payload, Status>| {
            let seed = pattern::verified_seed(&payload?.data)
                .ok_or_else(|| Status::data_loss("a request arrived with wrong bytes"))?;
            Ok(Payload {
                data: buffers.filled(pattern::answer(seed)),
            })
        };
        Ok(Response::new(Box::pin(request.into_inner().map(answer))))
    }
}

/// Calls of a client that tonic generated, over any transport.
#[derive(Clone)]
pub(super) struct TonicCalls<C> {
    client: EchoClient<C>,
    case: Case,
    buffers: Buffers,
    seeds: Arc<AtomicU64>,
    /// The payload that is forwarded, as it last arrived.
    kept: Bytes,
}

impl TonicCalls<Channel> {
    async fn converse(mut self) -> Result<Conversation> {
        let (requests, queue) = mpsc::channel(1);
        let responses = self.client.converse(ReceiverStream::new(queue)).await?;
        Ok(Conversation {
            requests,
            responses: responses.into_inner(),
            buffers: self.buffers,
            seed: 0,
        })
    }

    async fn watch(mut self) -> Result<Watching> {
        let len = u32::try_from(self.case.size)?;
        let responses = self.client.watch(Subscription { len, seed: 0 }).await?;
        Ok(Watching {
            responses: responses.into_inner(),
            together: self.case.timed_together(),
            seed: 0,
        })
    }
}

/// What tonic-generated clients can call over.
pub(super) trait Transport:
    GrpcService<
        tonic::body::Body,
        ResponseBody: http_body::Body<Data = Bytes, Error: Into<Failure> + Send> + Send,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> Transport for T where
    T: GrpcService<
            tonic::body::Body,
            ResponseBody: http_body::Body<Data = Bytes, Error: Into<Failure> + Send> + Send,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

impl<C: Transport> TonicCalls<C> {
    pub(super) fn new(channel: C, case: Case, buffers: Buffers) -> Self {
        let client = EchoClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Self {
            client,
            case,
            kept: buffers.filled(0),
            buffers,
            seeds: Arc::default(),
        }
    }
}

impl<C> fmt::Debug for TonicCalls<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TonicCalls")
            .field("case", &self.case)
            .finish_non_exhaustive()
    }
}

/// One message each way, in turns.
#[derive(Debug)]
struct Conversation {
    requests: mpsc::Sender<Payload>,
    responses: Streaming<Payload>,
    buffers: Buffers,
    seed: u64,
}

impl Calls for Conversation {
    async fn call(&mut self) -> Result<()> {
        self.seed += 1;
        let data = self.buffers.filled(self.seed);
        self.requests.send(Payload { data }).await?;
        let answer = self.responses.message().await?.ok_or("it does not end")?;
        pattern::verify(&answer.data, pattern::answer(self.seed))
    }
}

/// Messages of the server's, as they come.
#[derive(Debug)]
struct Watching {
    responses: Streaming<Payload>,
    together: u64,
    seed: u64,
}

impl Calls for Watching {
    async fn call(&mut self) -> Result<()> {
        for _ in 0..self.together {
            let payload = self.responses.message().await?.ok_or("it does not end")?;
            pattern::verify(&payload.data, self.seed)?;
            self.seed += 1;
        }
        Ok(())
    }
}

impl<C: Transport> Calls for TonicCalls<C> {
    async fn call(&mut self) -> Result<()> {
        match self.case.work {
            Work::Exchange | Work::Untouched | Work::Crowd | Work::Converse | Work::Watch => {
                let seed = self.seeds.fetch_add(1, Relaxed);
                let payload = Payload {
                    data: self.buffers.filled(seed),
                };
                let answer = self.client.exchange(payload).await?.into_inner();
                pattern::verify(&answer.data, pattern::answer(seed))
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
