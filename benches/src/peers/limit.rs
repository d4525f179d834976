//! The limit of small messages: two processes that spin on one cache line for each direction.
//!
//! 64 bytes travel each way: 56 of payload, all written and all verified, and the count that announces them. No message
//! passing between two processors of this machine can be faster than the lines themselves.

use std::os::fd::OwnedFd;

use super::{Caller, Peer, Setting};
use crate::Result;
use crate::harness::case::Case;
use crate::harness::window::{Latencies, Window};
use crate::shared::{self, spin};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit;

impl Peer for Limit {
    fn resources(&self, _: &Case) -> Result<Vec<OwnedFd>> {
        Ok(vec![shared::create(0)?])
    }

    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        let [memory] = setting.descriptors()?;
        let mut server = shared::Server::map(memory, 0)?;
        ready()?;
        loop {
            server.answer_line(|| Ok(()), spin)?;
        }
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let [memory] = setting.descriptors()?;
        Ok(Box::new(Client {
            end: shared::Client::map(memory, 0)?,
            seed: 0,
        }))
    }
}

#[derive(Debug)]
struct Client {
    end: shared::Client,
    seed: u64,
}

impl Caller for Client {
    fn call_during(&mut self, mut window: Window) -> Result<Latencies> {
        window.drive(|| {
            self.seed += 1;
            self.end.exchange_line(self.seed, || Ok(()), spin)
        })?;
        Ok(window.latencies())
    }
}
