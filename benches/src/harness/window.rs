//! The time in which calls are counted, and what is recorded of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::Result;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(100);

/// Three decimal digits of every latency are kept.
const PRECISION: u8 = 3;

/// When to stop calling.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// With the first call that ends at or after this long.
    After(Duration),
    /// With the call that makes it so many.
    Calls(u64),
}

/// Something that makes calls, one after the other.
pub trait Calls {
    /// Makes one call.
    ///
    /// # Errors
    ///
    /// Fails if the call fails, or its answer arrives damaged.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// A window of calls: tells the caller when to stop and keeps the latencies.
#[derive(Debug)]
pub struct Window {
    end: End,
    started: Instant,
    calls: u64,
    latencies: Histogram<u64>,
}

/// A window that several tasks of one client share.
#[derive(Clone, Debug)]
pub struct SharedWindow(Arc<Mutex<Window>>);

/// What a window recorded.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Latencies {
    /// Calls that were completed.
    pub calls: u64,
    /// From the beginning of the first call to the end of the last.
    pub elapsed: Duration,
    /// Half of the calls took no longer, in nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100 calls took no longer, in nanoseconds.
    pub p99_ns: u64,
    /// 999 of 1000 calls took no longer, in nanoseconds.
    pub p999_ns: u64,
}

impl Window {
    /// Makes a window that opens now.
    ///
    /// # Errors
    ///
    /// None in practice: fails if the histogram's bounds are out of order.
    pub fn open(end: End) -> Result<Self> {
        let highest = u64::try_from(LATENCY_MAX.as_nanos())?;
        let latencies = Histogram::new_with_bounds(1, highest, PRECISION)?;
        Ok(Self {
            end,
            started: Instant::now(),
            calls: 0,
            latencies,
        })
    }

    /// Calls, one after the other, until the window closes.
    ///
    /// # Errors
    ///
    /// Fails with the first call that fails.
    pub fn drive(&mut self, mut call: impl FnMut() -> Result<()>) -> Result<()> {
        let mut call_started = self.restart();
        loop {
            call()?;
            let now = Instant::now();
            if self.record(call_started, now) {
                return Ok(());
            }
            call_started = now;
        }
    }

    /// Calls, one after the other, until the window closes.
    ///
    /// # Errors
    ///
    /// Fails with the first call that fails.
    pub async fn drive_async(&mut self, calls: &mut impl Calls) -> Result<()> {
        let mut call_started = self.restart();
        loop {
            calls.call().await?;
            let now = Instant::now();
            if self.record(call_started, now) {
                return Ok(());
            }
            call_started = now;
        }
    }

    /// When the window closes.
    #[must_use]
    pub const fn end(&self) -> End {
        self.end
    }

    /// Gives the window to several tasks.
    #[must_use]
    pub fn share(mut self) -> SharedWindow {
        self.restart();
        SharedWindow(Arc::new(Mutex::new(self)))
    }

    /// What was recorded, up to now.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        Latencies {
            calls: self.calls,
            elapsed: self.started.elapsed(),
            p50_ns: self.latencies.value_at_quantile(0.5),
            p99_ns: self.latencies.value_at_quantile(0.99),
            p999_ns: self.latencies.value_at_quantile(0.999),
        }
    }

    /// Begins the time of the window anew: its memory has been made by now.
    fn restart(&mut self) -> Instant {
        self.started = Instant::now();
        self.started
    }

    /// Records a call, and says whether the window is over with it.
    fn record(&mut self, call_started: Instant, now: Instant) -> bool {
        let latency = now.duration_since(call_started).as_nanos();
        self.latencies
            .saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
        self.calls += 1;
        match self.end {
            End::After(duration) => duration <= now.duration_since(self.started),
            End::Calls(calls) => calls <= self.calls,
        }
    }
}

impl SharedWindow {
    /// Calls, one after the other, until the window closes for all.
    ///
    /// # Errors
    ///
    /// Fails with the first call that fails.
    pub async fn drive_async(&self, calls: &mut impl Calls) -> Result<()> {
        let mut call_started = Instant::now();
        loop {
            calls.call().await?;
            let now = Instant::now();
            if self.lock().record(call_started, now) {
                return Ok(());
            }
            call_started = now;
        }
    }

    /// What was recorded, up to now.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.lock().latencies()
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The median time that a call seems to take when it does nothing: what reading the clock and recording cost.
///
/// # Errors
///
/// As [`Window::open`].
pub fn overhead() -> Result<Duration> {
    let mut window = Window::open(End::Calls(1_000_000))?;
    window.drive(|| Ok(()))?;
    Ok(Duration::from_nanos(window.latencies().p50_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_calls_ends_with_the_last_of_them() {
        let mut window = Window::open(End::Calls(10)).unwrap();
        let mut calls = 0;
        window
            .drive(|| {
                calls += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(calls, 10);
        assert_eq!(window.latencies().calls, 10);
    }

    #[test]
    fn a_window_of_time_ends_after_a_call() {
        let mut window = Window::open(End::After(Duration::ZERO)).unwrap();
        window.drive(|| Ok(())).unwrap();
        assert_eq!(window.latencies().calls, 1);
    }
}
