//! How a server describes its services, so that tools can call them without their `.proto` files: gRPC's server reflection protocol
//! (feature `reflection`).
//!
//! What is described is known from encoded `google.protobuf.FileDescriptorSet`s, which the code generator embeds on request, as a
//! constant of each package (`embed_descriptor_set`). Generic clients such as `grpcurl` ask for them; the protocol of old
//! (`v1alpha`) is spoken, too, because some still do so in that.
//!
//! # Examples
//!
//! ```no_run
//! # mod health { pub const FILE_DESCRIPTOR_SET: &[u8] = b""; }
//! use shmipc_rpc::{Server, reflection};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let reflection = reflection::Builder::new()
//!     .register_encoded_file_descriptor_set(health::FILE_DESCRIPTOR_SET)
//!     .build()?;
//! Server::builder()
//!     // .add_service(…)
//!     .add_reflection(reflection)
//!     .serve("/run/search.sock")
//!     .await?;
//! # Ok(())
//! # }
//! ```

mod index;
mod service;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

pub use self::service::ReflectionService;
use self::{index::Index, service::Listed};

/// The protocol, and a client for it.
///
/// Generated: what `shmipc-codegen` makes of `proto/grpc/reflection/v1`. A test of the workspace compares it.
pub mod v1 {
    include!("generated/grpc.reflection.v1.rs");
}

/// The protocol of old: the services only. The messages are those of [`v1`], which differ in nothing but the name of their
/// package.
///
/// Generated, as [`v1`] is.
pub mod v1alpha {
    include!("generated/grpc.reflection.v1alpha.rs");
}

/// Why descriptors cannot be used.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum InvalidDescriptors {
    /// What was registered is no `google.protobuf.FileDescriptorSet`.
    #[error("these bytes are not an encoded google.protobuf.FileDescriptorSet")]
    Malformed(#[from] prost::DecodeError),
    /// Two files have the same name, and not the same content. Register only one of them.
    #[error("there are two different files named {name:?}")]
    Conflict {
        /// The name of the file.
        name: String,
    },
}

/// Collects descriptors. The protocol's own are there from the start.
#[derive(Clone, Debug)]
pub struct Builder {
    sets: Vec<Bytes>,
}

impl Builder {
    /// Begins with the descriptors of the protocol itself.
    #[must_use]
    pub fn new() -> Self {
        let sets = [v1::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET];
        Self {
            sets: sets.map(Bytes::from_static).into(),
        }
    }

    /// Adds the files of an encoded `google.protobuf.FileDescriptorSet`. What they import should be there, too, in this set or another.
    /// A file may be in several.
    #[must_use]
    pub fn register_encoded_file_descriptor_set(mut self, set: impl Into<Bytes>) -> Self {
        self.sets.push(set.into());
        self
    }

    /// Reads what was registered.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidDescriptors`] if a set cannot be decoded, or files of one name differ.
    pub fn build(self) -> Result<Reflection, InvalidDescriptors> {
        let mut index = Index::default();
        for set in self.sets {
            index.add_set(set)?;
        }
        Ok(Reflection {
            index: Arc::new(index),
        })
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

/// Descriptors, and the services that hand them out. Made by [`Builder::build`].
///
/// [`Server::add_reflection`](crate::Server::add_reflection) is the way to serve it, and for threads
/// [`blocking::Server::add_reflection`](crate::blocking::Server::add_reflection). A clone shares the descriptors.
#[derive(Clone, Debug)]
pub struct Reflection {
    index: Arc<Index>,
}

impl Reflection {
    /// Makes the service of the protocol alone. It lists all services that it has the descriptors of.
    pub fn v1(&self) -> v1::server_reflection_server::ServerReflectionServer<ReflectionService> {
        v1::server_reflection_server::ServerReflectionServer::new(self.service(Listed::Described))
    }

    /// Makes the service of the protocol of old alone. It lists all services that it has the descriptors of.
    pub fn v1alpha(
        &self,
    ) -> v1alpha::server_reflection_server::ServerReflectionServer<ReflectionService> {
        let service = self.service(Listed::Described);
        v1alpha::server_reflection_server::ServerReflectionServer::new(service)
    }

    /// Makes what answers, and lists the services of a server.
    pub(crate) fn of_server(&self, names: &Arc<ServiceNames>) -> Arc<ReflectionService> {
        Arc::new(self.service(Listed::Served(Arc::clone(names))))
    }

    fn service(&self, listed: Listed) -> ReflectionService {
        ReflectionService::new(Arc::clone(&self.index), listed)
    }
}

/// The names of a server's services, which may become more until it serves.
#[derive(Debug, Default)]
pub(crate) struct ServiceNames(Mutex<Vec<&'static str>>);

impl ServiceNames {
    pub(crate) fn add(&self, name: &'static str) {
        // A list is never left half changed.
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.push(name);
    }

    fn all(&self) -> Vec<&'static str> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }
}
