//! What a process has spent so far.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};
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
    /// Memory that is resident, in bytes. Of what was spent between two readings: at the second.
    pub resident: u64,
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
            resident: resident()?,
        })
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            allocations: self.allocations - earlier.allocations,
            resident: self.resident,
        }
    }
}

fn resident() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).ok_or("statm has more fields")?;
    let page_len = sysconf(SysconfVar::PAGE_SIZE)?.ok_or("pages have a length")?;
    Ok(pages.parse::<u64>()? * u64::try_from(page_len)?)
}

fn duration(time: TimeVal) -> Result<Duration> {
    let seconds = u64::try_from(time.tv_sec())?;
    let micros = u64::try_from(time.tv_usec())?;
    Ok(Duration::from_secs(seconds) + Duration::from_micros(micros))
}
