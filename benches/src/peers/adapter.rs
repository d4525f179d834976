//! Clients and servers that tonic generated, over shmipc-rpc.

use shmipc_rpc::{Channel, Listener, Server};

use super::asynchronous::{AsyncCaller, runtime};
use super::shmipc::config;
use super::tonic::{Buffers, EchoServer, Service, TonicCalls};
use super::{Caller, Peer, Setting};
use crate::Result;
use crate::harness::case::{Runtime, Waiting};
use crate::pool::Pool;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct TonicAdapter;

impl Peer for TonicAdapter {
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        runtime(Runtime::CurrentThread)?.block_on(async {
            let config = config(Waiting::Adaptive)?;
            let listener = Listener::bind_with(setting.socket.as_path(), config)?;
            ready()?;
            let buffers = Buffers::Pooled(Pool::new(setting.case.size));
            Server::builder()
                .add_tonic_service(EchoServer::new(Service { buffers }))
                .serve_with_listener(listener)
                .await?;
            Ok(())
        })
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let Setting { case, socket, .. } = setting;
        let runtime = runtime(Runtime::CurrentThread)?;
        let channel = runtime.block_on(async {
            let config = config(Waiting::Adaptive)?;
            let channel = Channel::builder(socket.as_path()).config(config);
            Result::Ok(channel.connect().await?)
        })?;
        let calls = TonicCalls::new(channel, case, Buffers::Pooled(Pool::new(case.size)));
        Ok(Box::new(AsyncCaller::new(
            runtime,
            vec![calls; case.in_flight],
        )))
    }
}
