//! shmipc-rpc, with each way to wait, and behind layers.
//!
//! Both sides write payloads of 4 KiB and more into memory lent by the session, from where they are linked rather than
//! copied; shorter ones are ordinary `Bytes`, since a copy is cheaper than a loan. Everything else is as a user gets it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use shmipc_rpc::{
    Channel, Config, Listener, Request, Response, ResponseStream, Sender, Server, Status, Streaming,
};
use shmipc_transport::Wait;
use tokio_stream::StreamExt as _;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use super::asynchronous::{AsyncCaller, runtime};
use super::{Caller, Peer, Setting};
use crate::harness::case::{Case, Runtime, Waiting, Work};
use crate::harness::window::Calls;
use crate::{Result, pattern};

use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};
use generated::{Payload, Subscription};

#[expect(
    unreachable_pub,
    reason = "what is generated may be made public by whoever includes it"
)]
pub(super) mod generated {
    shmipc_rpc::include_proto!("bench.v1");
}

/// The shortest payload that is written into lent memory.
const LENT_MIN: usize = 4096;

/// A timeout and a limit that are never reached.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONCURRENCY: usize = 1024;

/// A payload of our own.
pub(super) fn written(len: usize, seed: u64) -> Bytes {
    let mut payload = vec![0; len];
    pattern::fill(&mut payload, seed);
    payload.into()
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shmipc {
    waiting: Waiting,
    layered: bool,
}

impl Shmipc {
    pub(super) fn new(waiting: Waiting) -> Self {
        Self {
            waiting,
            layered: false,
        }
    }

    /// With a server behind the layers that most have: traces, a timeout and a concurrency limit.
    pub(super) fn layered() -> Self {
        Self {
            waiting: Waiting::Adaptive,
            layered: true,
        }
    }

    async fn calls(self, setting: &Setting) -> Result<ShmipcCalls> {
        let channel = Channel::builder(setting.socket.as_path())
            .config(config(self.waiting)?)
            .connect()
            .await?;
        let Case { work, size, .. } = setting.case;
        let kept = match work {
            Work::Forward => {
                let mut kept = channel.alloc(size).await?;
                pattern::fill(&mut kept, 0);
                kept.freeze()
            }
            Work::Exchange | Work::Untouched | Work::Crowd | Work::Converse | Work::Watch => {
                Bytes::new()
            }
        };
        Ok(ShmipcCalls {
            client: EchoClient::new(channel.clone()),
            channel,
            case: setting.case,
            seeds: Arc::default(),
            kept,
        })
    }
}

/// The settings of both sides.
pub(super) fn config(waiting: Waiting) -> Result<Config> {
    let wait = match waiting {
        Waiting::Adaptive => Wait::Adaptive,
        Waiting::Block => Wait::Block,
        Waiting::Busy => Wait::Busy,
    };
    Ok(Config::builder().wait(wait).build()?)
}

impl Peer for Shmipc {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        runtime(Runtime::CurrentThread)?.block_on(async {
            let listener = Listener::bind_with(setting.socket.as_path(), config(self.waiting)?)?;
            ready()?;
            let service = EchoServer::new(Service);
            if self.layered {
                Server::builder()
                    .layer(TraceLayer::new_for_grpc())
                    .layer(TimeoutLayer::new(TIMEOUT))
                    .layer(GlobalConcurrencyLimitLayer::new(CONCURRENCY))
                    .add_service(service)
                    .serve_with_listener(listener)
                    .await?;
            } else {
                Server::builder()
                    .add_service(service)
                    .serve_with_listener(listener)
                    .await?;
            }
            Ok(())
        })
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let Case {
            work, in_flight, ..
        } = setting.case;
        let runtime = runtime(Runtime::CurrentThread)?;
        Ok(match work {
            Work::Exchange | Work::Forward => {
                let calls = runtime.block_on(self.calls(&setting))?;
                Box::new(AsyncCaller::new(runtime, vec![calls; in_flight]))
            }
            Work::Crowd => {
                let calls = runtime.block_on(async {
                    let mut calls = Vec::with_capacity(in_flight);
                    for _ in 0..in_flight {
                        calls.push(self.calls(&setting).await?);
                    }
                    Result::Ok(calls)
                });
                Box::new(AsyncCaller::new(runtime, calls?))
            }
            Work::Converse => {
                let calls =
                    runtime.block_on(async { self.calls(&setting).await?.converse().await });
                Box::new(AsyncCaller::new(runtime, vec![calls?]))
            }
            Work::Watch => {
                let calls = runtime.block_on(async { self.calls(&setting).await?.watch().await });
                Box::new(AsyncCaller::new(runtime, vec![calls?]))
            }
            Work::Untouched => return Err("payloads of calls are not left untouched".into()),
        })
    }
}

struct Service;

impl Echo for Service {
    async fn exchange(
        &self,
        request: Request<Payload>,
    ) -> std::result::Result<Response<Payload>, Status> {
        let received = &request.get_ref().data;
        let seed = verified_seed(received)?;
        let (len, seed) = (received.len(), pattern::answer(seed));
        let data = if len < LENT_MIN {
            written(len, seed)
        } else {
            let mut lent = request.alloc(len).await?;
            pattern::fill(&mut lent, seed);
            lent.freeze()
        };
        Ok(Response::new(Payload { data }))
    }

    async fn forward(
        &self,
        request: Request<Payload>,
    ) -> std::result::Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn watch(
        &self,
        request: Request<Subscription>,
    ) -> std::result::Result<Response<impl ResponseStream<Payload>>, Status> {
        let Subscription { len, seed } = request.into_inner();
        let payload = move |seed| {
            Ok(Payload {
                data: written(len as usize, seed),
            })
        };
        Ok(Response::new(tokio_stream::iter((seed..).map(payload))))
    }

    async fn converse(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> std::result::Result<Response<impl ResponseStream<Payload>>, Status> {
        let answer = |payload: std::result::Result<Payload, Status>| {
            let received = payload?.data;
            let seed = pattern::answer(verified_seed(&received)?);
            Ok(Payload {
                data: written(received.len(), seed),
            })
        };
        Ok(Response::new(request.into_inner().map(answer)))
    }
}

fn verified_seed(payload: &[u8]) -> std::result::Result<u64, Status> {
    pattern::verified_seed(payload)
        .ok_or_else(|| Status::data_loss("the request arrived with wrong bytes"))
}

#[derive(Clone)]
struct ShmipcCalls {
    client: EchoClient,
    channel: Channel,
    case: Case,
    seeds: Arc<AtomicU64>,
    /// The payload that is forwarded, as it last arrived.
    kept: Bytes,
}

impl ShmipcCalls {
    async fn converse(self) -> Result<Conversation> {
        let (requests, sink) = Sender::for_requests();
        let responses = self.client.converse(sink).await?.into_inner();
        Ok(Conversation {
            requests,
            responses,
            size: self.case.size,
            seed: 0,
        })
    }

    async fn watch(self) -> Result<Watching> {
        let len = u32::try_from(self.case.size)?;
        let responses = self.client.watch(Subscription { len, seed: 0 }).await?;
        Ok(Watching {
            responses: responses.into_inner(),
            together: self.case.timed_together(),
            seed: 0,
        })
    }
}

impl fmt::Debug for ShmipcCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmipcCalls")
            .field("case", &self.case)
            .finish_non_exhaustive()
    }
}

impl Calls for ShmipcCalls {
    async fn call(&mut self) -> Result<()> {
        if let Work::Forward = self.case.work {
            let payload = Payload {
                data: self.kept.clone(),
            };
            self.kept = self.client.forward(payload).await?.into_inner().data;
            return Ok(());
        }
        let seed = self.seeds.fetch_add(1, Relaxed);
        let data = if self.case.size < LENT_MIN {
            written(self.case.size, seed)
        } else {
            let mut lent = self.channel.alloc(self.case.size).await?;
            pattern::fill(&mut lent, seed);
            lent.freeze()
        };
        let answer = self.client.exchange(Payload { data }).await?.into_inner();
        pattern::verify(&answer.data, pattern::answer(seed))
    }
}

/// One message each way, in turns.
#[derive(Debug)]
struct Conversation {
    requests: Sender<Payload>,
    responses: Streaming<Payload>,
    size: usize,
    seed: u64,
}

impl Calls for Conversation {
    async fn call(&mut self) -> Result<()> {
        self.seed += 1;
        let data = written(self.size, self.seed);
        self.requests.send(&Payload { data }).await?;
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
