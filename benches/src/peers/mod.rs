//! The transports, behind one interface.

mod adapter;
mod asynchronous;
mod blocking;
mod eventfd;
mod foreign;
pub mod go;
mod limit;
mod memory;
mod shmipc;
mod sockets;
mod streams;
mod tonic;
mod uds;

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::harness::case::{Case, PeerKind};
use crate::harness::window::{Latencies, Window};

/// A transport that can be measured.
pub trait Peer: Debug {
    /// Makes what both processes must share from birth. Called in the process that starts them.
    ///
    /// # Errors
    ///
    /// Fails if the kernel grants it not.
    fn resources(&self, case: &Case) -> Result<Vec<OwnedFd>> {
        let _ = case;
        Ok(Vec::new())
    }

    /// Answers calls until the process is ended. Calls `ready` once a client can connect.
    ///
    /// # Errors
    ///
    /// Fails if it cannot begin, or a request arrives damaged.
    fn serve(&self, setting: Setting, ready: &dyn Fn() -> Result<()>) -> Result<()>;

    /// Connects to the server.
    ///
    /// # Errors
    ///
    /// Fails if the server cannot be reached.
    fn connect(&self, setting: Setting) -> Result<Box<dyn Caller>>;
}

/// A connected client.
pub trait Caller {
    /// Calls until the window closes, with as many calls in flight as the case asks for.
    ///
    /// # Errors
    ///
    /// Fails if a call fails, or an answer arrives damaged.
    fn call_during(&mut self, window: Window) -> Result<Latencies>;

    /// Keeps the connection and does nothing.
    ///
    /// # Errors
    ///
    /// None, unless the peer has one.
    fn idle(&mut self, duration: Duration) -> Result<()> {
        thread::sleep(duration);
        Ok(())
    }
}

/// What a process knows of the case that it is an end of.
#[derive(Debug)]
pub struct Setting {
    /// The case.
    pub case: Case,
    /// What [`Peer::resources`] made.
    pub descriptors: Vec<OwnedFd>,
    /// A path that is free for a socket.
    pub socket: PathBuf,
}

impl Setting {
    /// The descriptors, if they are `N`.
    ///
    /// # Errors
    ///
    /// Fails if they are more or fewer.
    pub fn descriptors<const N: usize>(self) -> Result<[OwnedFd; N]> {
        self.descriptors
            .try_into()
            .map_err(|_| "the parent left another number of descriptors open".into())
    }
}

/// The peer of a kind.
#[must_use]
pub fn of(kind: PeerKind) -> Box<dyn Peer> {
    match kind {
        PeerKind::Limit => Box::new(limit::Limit),
        PeerKind::Memory => Box::new(memory::Memory),
        PeerKind::Eventfd => Box::new(eventfd::Eventfd),
        PeerKind::Socket => Box::new(uds::Socket),
        PeerKind::Tonic(runtime) => Box::new(tonic::Tonic::tuned(runtime)),
        PeerKind::TonicDefaults => Box::new(tonic::Tonic::with_defaults()),
        PeerKind::Shmipc(waiting) => Box::new(shmipc::Shmipc::new(waiting)),
        PeerKind::Blocking(waiting) => Box::new(blocking::Blocking::new(waiting)),
        PeerKind::Layered => Box::new(shmipc::Shmipc::layered()),
        PeerKind::TonicAdapter => Box::new(adapter::TonicAdapter),
        PeerKind::Outbox => Box::new(streams::Streams::over_the_outbox()),
        PeerKind::Link(wire) => Box::new(streams::Streams::over(wire)),
        PeerKind::LinkToGo => Box::new(go::FromUs),
        PeerKind::Crate(wire) => Box::new(foreign::Foreign::new(wire)),
        PeerKind::Go(wire) => Box::new(go::Go::new(wire)),
        PeerKind::Sockets => Box::new(sockets::Sockets),
    }
}
