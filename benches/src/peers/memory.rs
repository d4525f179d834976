//! The limit of large messages: two processes that spin, and write and read one shared buffer for each direction.
//!
//! Every byte is written once and read once in each direction, into and from the very memory that both share. What a
//! transport adds to this is its own.

use std::os::fd::OwnedFd;

use super::{Caller, Peer, Setting};
use crate::Result;
use crate::harness::case::Case;
use crate::harness::window::{Latencies, Window};
use crate::shared;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory;

impl Peer for Memory {
    fn resources(&self, case: &Case) -> Result<Vec<OwnedFd>> {
        Ok(vec![shared::create(case.size)?])
    }

    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        let len = setting.case.size;
        let [memory] = setting.descriptors()?;
        let mut server = shared::Server::map(memory, len)?;
        ready()?;
        loop {
            server.answer_area()?;
        }
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let len = setting.case.size;
        let [memory] = setting.descriptors()?;
        Ok(Box::new(Client {
            end: shared::Client::map(memory, len)?,
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
            self.end.exchange_area(self.seed)
        })?;
        Ok(window.latencies())
    }
}
