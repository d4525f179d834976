//! What the peers that run on tokio have in common: the runtimes, and many calls in flight.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime as TokioRuntime};
use tokio::task::JoinSet;
use tokio::time;

use super::Caller;
use crate::Result;
use crate::harness::case::Runtime;
use crate::harness::window::{Calls, Latencies, Window};

/// A client on a tokio runtime. Clones of `calls` share the connection; each has one call in flight.
#[derive(Debug)]
pub(super) struct AsyncCaller<C> {
    runtime: TokioRuntime,
    calls: C,
    in_flight: usize,
}

/// Builds a runtime.
pub(super) fn runtime(kind: Runtime) -> Result<TokioRuntime> {
    let mut builder = match kind {
        Runtime::CurrentThread => Builder::new_current_thread(),
        Runtime::TwoWorkers => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(2);
            builder
        }
    };
    Ok(builder.enable_all().build()?)
}

impl<C> AsyncCaller<C> {
    pub(super) fn new(runtime: TokioRuntime, calls: C, in_flight: usize) -> Self {
        Self {
            runtime,
            calls,
            in_flight,
        }
    }
}

impl<C: Calls + Clone + Send + 'static> Caller for AsyncCaller<C> {
    fn call_during(&mut self, mut window: Window) -> Result<Latencies> {
        if self.in_flight == 1 {
            self.runtime.block_on(window.drive_async(&mut self.calls))?;
            return Ok(window.latencies());
        }
        let window = window.share();
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..self.in_flight {
                let (window, mut calls) = (window.clone(), self.calls.clone());
                tasks.spawn(async move { window.drive_async(&mut calls).await });
            }
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
            Ok(window.latencies())
        })
    }

    fn idle(&mut self, duration: Duration) -> Result<()> {
        self.runtime.block_on(async { time::sleep(duration).await });
        Ok(())
    }
}
