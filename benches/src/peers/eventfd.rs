//! The limit of sleeping: the lines of [`limit`](super::limit), with a blocking eventfd in each direction to wait on.
//!
//! Each call costs each side one `write` and one `read`, and each side sleeps until the other wakes it.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};

use super::{Caller, Peer, Setting};
use crate::Result;
use crate::harness::case::Case;
use crate::harness::window::{Latencies, Window};
use crate::shared;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eventfd;

impl Peer for Eventfd {
    fn resources(&self, _: &Case) -> Result<Vec<OwnedFd>> {
        let bell = || EventFd::from_value_and_flags(0, EfdFlags::empty()).map(OwnedFd::from);
        Ok(vec![shared::create(0)?, bell()?, bell()?])
    }

    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()> {
        let [memory, requests, responses] = setting.descriptors()?;
        let mut server = shared::Server::map(memory, 0)?;
        ready()?;
        loop {
            server.answer_line(|| ring(&responses), || sleep(&requests))?;
        }
    }

    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>> {
        let [memory, requests, responses] = setting.descriptors()?;
        Ok(Box::new(Client {
            end: shared::Client::map(memory, 0)?,
            requests,
            responses,
            seed: 0,
        }))
    }
}

#[derive(Debug)]
struct Client {
    end: shared::Client,
    requests: OwnedFd,
    responses: OwnedFd,
    seed: u64,
}

impl Caller for Client {
    fn call_during(&mut self, mut window: Window) -> Result<Latencies> {
        window.drive(|| {
            self.seed += 1;
            self.end.exchange_line(
                self.seed,
                || ring(&self.requests),
                || sleep(&self.responses),
            )
        })?;
        Ok(window.latencies())
    }
}

fn ring(bell: impl AsFd) -> Result<()> {
    write(bell, &1_u64.to_ne_bytes())?;
    Ok(())
}

fn sleep(bell: impl AsFd) -> Result<()> {
    read(bell, &mut [0; 8])?;
    Ok(())
}
