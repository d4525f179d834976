//! shmipc-rpc without a runtime: calls and handlers block their thread.

use std::fmt;

use bytes::Bytes;
use shmipc_rpc::blocking::{Channel, Server, Streaming};
use shmipc_rpc::{Request, Response, Status};
use shmipc_transport::blocking::Listener;

use super::shmipc::{config, written};
use super::{Caller, Peer, Setting};
use crate::harness::case::{Case, Waiting, Work};
use crate::harness::window::{Latencies, Window};
use crate::{Result, pattern};

use super::shmipc::generated::echo_blocking::{Echo, EchoClient, EchoServer};
use super::shmipc::generated::{Payload, Subscription};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    waiting: Waiting,
}

impl Blocking {
    pub(super) fn new(waiting: Waiting) -> Self {
        Self { waiting }
    }
}

impl Peer for Blocking {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        let listener = Listener::bind_with(setting.socket.as_path(), config(self.waiting)?)?;
        ready()?;
        Server::builder()
            .add_service(EchoServer::new(Service))
            .serve_with_listener(listener)?;
        Ok(())
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let Case { work, size, .. } = setting.case;
        let (Work::Exchange, 1) = (work, setting.case.in_flight) else {
            return Err("blocking calls are measured one at a time".into());
        };
        let channel = Channel::builder(setting.socket.as_path())
            .config(config(self.waiting)?)
            .connect()?;
        Ok(Box::new(Client {
            client: EchoClient::new(channel),
            size,
            seed: 0,
        }))
    }
}

struct Client {
    client: EchoClient,
    size: usize,
    seed: u64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Caller for Client {
    fn call_during(&mut self, mut window: Window) -> Result<Latencies> {
        window.drive(|| {
            self.seed += 1;
            let data = written(self.size, self.seed);
            let answer = self.client.exchange(Payload { data })?.into_inner();
            pattern::verify(&answer.data, pattern::answer(self.seed))
        })?;
        Ok(window.latencies())
    }
}

struct Service;

impl Echo for Service {
    fn exchange(
        &self,
        request: Request<Payload>,
    ) -> std::result::Result<Response<Payload>, Status> {
        answer(&request.into_inner().data).map(Response::new)
    }

    fn forward(&self, request: Request<Payload>) -> std::result::Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    fn watch(
        &self,
        request: Request<Subscription>,
    ) -> std::result::Result<
        Response<impl Iterator<Item = std::result::Result<Payload, Status>> + Send + 'static>,
        Status,
    > {
        let Subscription { len, seed } = request.into_inner();
        let payload = move |seed| {
            Ok(Payload {
                data: written(len as usize, seed),
            })
        };
        Ok(Response::new((seed..).map(payload)))
    }

    fn converse(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> std::result::Result<
        Response<impl Iterator<Item = std::result::Result<Payload, Status>> + Send + 'static>,
        Status,
    > {
        let payloads = request.into_inner();
        Ok(Response::new(
            payloads.map(|payload| answer(&payload?.data)),
        ))
    }
}

fn answer(received: &Bytes) -> std::result::Result<Payload, Status> {
    let seed = pattern::verified_seed(received)
        .ok_or_else(|| Status::data_loss("a request arrived with wrong bytes"))?;
    Ok(Payload {
        data: written(received.len(), pattern::answer(seed)),
    })
}
