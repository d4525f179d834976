//! `proto/probe/v1/probe.proto`, as generated for each side, and what its answers are.

/// For this project.
pub(crate) mod ours {
    #![allow(unreachable_pub, clippy::all, reason = "generated")]
    shmipc_rpc::include_proto!("probe.v1");
}

/// For tonic.
pub(crate) mod theirs {
    #![allow(
        missing_docs,
        unreachable_pub,
        elided_lifetimes_in_paths,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    include!(concat!(env!("OUT_DIR"), "/tonic/probe.v1.rs"));
}

/// The descriptors of all of it, encoded.
pub(crate) const DESCRIPTORS: &str = concat!(env!("OUT_DIR"), "/probe.bin");

/// Metadata whose keys begin with this is sent back.
pub(crate) const ECHOED: &str = "x-probe";

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::HeaderMap;
use tokio_stream::Stream;

/// How many handlers wait without end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hanging(Arc<AtomicUsize>);

/// Counts one handler while it exists.
#[derive(Debug)]
pub(crate) struct Hangs(Arc<AtomicUsize>);

impl Hanging {
    /// Counts them.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more.
    pub(crate) fn one(&self) -> Hangs {
        self.0.fetch_add(1, Ordering::Relaxed);
        Hangs(Arc::clone(&self.0))
    }

    /// Waits without end.
    pub(crate) async fn forever<T>(&self) -> T {
        let _one = self.one();
        std::future::pending().await
    }
}

impl Drop for Hangs {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The end of a stream: at once, or never.
pub(crate) struct Tail<T> {
    hangs: Option<Hangs>,
    item: std::marker::PhantomData<fn() -> T>,
}

impl<T> Tail<T> {
    /// Ends at once, unless it hangs.
    pub(crate) fn new(hangs: Option<Hangs>) -> Self {
        Self {
            hangs,
            item: std::marker::PhantomData,
        }
    }
}

impl<T> Stream for Tail<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        match self.hangs {
            Some(_) => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

/// Returns what is to be sent back of metadata.
pub(crate) fn echoed(metadata: &HeaderMap) -> HeaderMap {
    let mut echoed = HeaderMap::new();
    for (key, value) in metadata {
        if key.as_str().starts_with(ECHOED) {
            echoed.append(key, value.clone());
        }
    }
    echoed
}
