//! What a process has spent so far.

use std::ops::Sub;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::alloc::{self, Allocations};

/// What a process has spent, or spent between two readings.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Counters {
    /// Processor time, user and system together, of all threads.
    pub cpu: Duration,
    /// Heap allocations.
    pub allocations: Allocations,
}

impl Counters {
    /// Reads the counters of this process.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses `getrusage`.
    pub fn read() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu = duration(usage.user_time())? + duration(usage.system_time())?;
        Ok(Self {
            cpu,
            allocations: alloc::so_far(),
        })
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            allocations: self.allocations - earlier.allocations,
        }
    }
}

fn duration(time: TimeVal) -> Result<Duration> {
    let seconds = u64::try_from(time.tv_sec())?;
    let micros = u64::try_from(time.tv_usec())?;
    Ok(Duration::from_secs(seconds) + Duration::from_micros(micros))
}
