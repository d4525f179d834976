//! shmipc-rpc, with each way to wait.
//!
//! Both sides write payloads of 4 KiB and more into memory lent by the session, from where they are linked rather than
//! copied; shorter ones are ordinary `Bytes`, since a copy is cheaper than a loan. Everything else is as a user gets it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use shmipc_rpc::{Channel, Config, Listener, Request, Response, Server, Status};
use shmipc_transport::Wait;

use super::asynchronous::{AsyncCaller, runtime};
use super::{Caller, Peer, Setting};
use crate::harness::case::{Runtime, Waiting, Work};
use crate::harness::window::Calls;
use crate::{Failure, Result, pattern};

use generated::Payload;
use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

#[expect(
    unreachable_pub,
    reason = "what is generated may be made public by whoever includes it"
)]
mod generated {
    shmipc_rpc::include_proto!("bench.v1");
}

/// The shortest payload that is written into lent memory.
const LENT_MIN: usize = 4096;

/// A payload of our own.
fn written(len: usize, seed: u64) -> Bytes {
    let mut payload = vec![0; len];
    pattern::fill(&mut payload, seed);
    payload.into()
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shmipc {
    waiting: Waiting,
}

impl Shmipc {
    pub(super) fn new(waiting: Waiting) -> Self {
        Self { waiting }
    }

    fn config(self) -> Result<Config> {
        let wait = match self.waiting {
            Waiting::Adaptive => Wait::Adaptive,
            Waiting::Block => Wait::Block,
            Waiting::Busy => Wait::Busy,
        };
        Ok(Config::builder().wait(wait).build()?)
    }
}

impl Peer for Shmipc {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        runtime(Runtime::CurrentThread)?.block_on(async {
            let listener = Listener::bind_with(setting.socket.as_path(), self.config()?)?;
            ready()?;
            Server::builder()
                .add_service(EchoServer::new(Service))
                .serve_with_listener(listener)
                .await?;
            Ok(())
        })
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let Setting { case, socket, .. } = setting;
        let runtime = runtime(Runtime::CurrentThread)?;
        let calls = runtime.block_on(async {
            let channel = Channel::builder(socket.as_path())
                .config(self.config()?)
                .connect()
                .await?;
            let kept = match case.work {
                Work::Exchange => Bytes::new(),
                Work::Forward => {
                    let mut kept = channel.alloc(case.size).await?;
                    pattern::fill(&mut kept, 0);
                    kept.freeze()
                }
            };
            Ok::<_, Failure>(ShmipcCalls {
                client: EchoClient::new(channel.clone()),
                channel,
                work: case.work,
                size: case.size,
                seeds: Arc::default(),
                kept,
            })
        })?;
        Ok(Box::new(AsyncCaller::new(runtime, calls, case.in_flight)))
    }
}

struct Service;

impl Echo for Service {
    async fn exchange(
        &self,
        request: Request<Payload>,
    ) -> std::result::Result<Response<Payload>, Status> {
        let received = &request.get_ref().data;
        let seed = pattern::verified_seed(received)
            .ok_or_else(|| Status::data_loss("the request arrived with wrong bytes"))?;
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
}

#[derive(Clone)]
struct ShmipcCalls {
    client: EchoClient,
    channel: Channel,
    work: Work,
    size: usize,
    seeds: Arc<AtomicU64>,
    /// The payload that is forwarded, as it last arrived.
    kept: Bytes,
}

impl fmt::Debug for ShmipcCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmipcCalls")
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

impl Calls for ShmipcCalls {
    async fn call(&mut self) -> Result<()> {
        match self.work {
            Work::Exchange => {
                let seed = self.seeds.fetch_add(1, Relaxed);
                let data = if self.size < LENT_MIN {
                    written(self.size, seed)
                } else {
                    let mut lent = self.channel.alloc(self.size).await?;
                    pattern::fill(&mut lent, seed);
                    lent.freeze()
                };
                let answer = self.client.exchange(Payload { data }).await?.into_inner();
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
