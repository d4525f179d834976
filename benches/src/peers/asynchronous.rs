//! What the peers that run on tokio have in common: the runtimes, and many calls in flight.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime as TokioRuntime};
use tokio::task::JoinSet;
use tokio::time;

use super::Caller;
use crate::harness::case::Runtime;
use crate::harness::window::{Calls, Latencies, Window};
use crate::{Failure, Result};

/// A client on a tokio runtime. Each of `calls` has one call in flight.
#[derive(Debug)]
pub(super) struct AsyncCaller<C> {
    runtime: TokioRuntime,
    calls: Vec<C>,
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
    pub(super) fn new(runtime: TokioRuntime, calls: Vec<C>) -> Self {
        Self { runtime, calls }
    }
}

impl<C: Calls + Send + 'static> Caller for AsyncCaller<C> {
    fn call_during(&mut self, mut window: Window) -> Result<Latencies> {
        if let [calls] = &mut self.calls[..] {
            self.runtime.block_on(window.drive_async(calls))?;
            return Ok(window.latencies());
        }
        let window = window.share();
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for mut calls in self.calls.drain(..) {
                let window = window.clone();
                tasks.spawn(async move {
                    window.drive_async(&mut calls).await?;
                    Ok::<_, Failure>(calls)
                });
            }
            while let Some(ended) = tasks.join_next().await {
                self.calls.push(ended??);
            }
            Ok(window.latencies())
        })
    }

    fn idle(&mut self, duration: Duration) -> Result<()> {
        self.runtime.block_on(async { time::sleep(duration).await });
        Ok(())
    }
}
