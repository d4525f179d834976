//! How far apart the processors are at the moment, and samples that are all taken where they are close.
//!
//! A hypervisor moves the processors of a virtual machine: for a while two of them share a core and its caches, and then they
//! lie on cores that are far apart, where each line that passes between them takes several times as long. What is compared
//! ought to have been measured at one distance.

use std::thread;
use std::time::{Duration, Instant};

use super::case::{Case, PeerKind, Placement};
use super::session::{self, Sample};
use super::suite::SMALL;
use crate::Result;

/// By how much round trips differ at the most that are of one distance.
const SAME: u64 = 2;

/// How long one look at the distance takes.
const LOOK: Duration = Duration::from_millis(5);

/// Time between two looks while the processors are far apart.
const PAUSE: Duration = Duration::from_millis(250);

/// How often a sample is taken once more because the processors have moved meanwhile.
const RETAKES_MAX: usize = 3;

/// Sees to it that samples are taken while the processors are as close as they ever are, as long as there is patience.
#[derive(Debug)]
pub(super) struct Distance<L> {
    /// The round trip of a line between two processors, in nanoseconds.
    look: L,
    shortest: u64,
    /// How much more time may be spent on waiting and on taking samples once more.
    patience: Duration,
    /// Samples that were taken at another distance, for want of patience.
    far: u64,
}

/// Looks at the limit between two processors. Between a processor and itself there is no distance.
pub(super) fn look() -> Result<u64> {
    if thread::available_parallelism()?.get() < 2 {
        return Ok(0);
    }
    let limit = Case::exchange(PeerKind::Limit, SMALL).placed(Placement::Apart);
    let sample = session::sample(limit, LOOK, LOOK)?;
    let latencies = sample.latencies.ok_or("the limit was not measured")?;
    Ok(latencies.p50_ns)
}

impl<L: FnMut() -> Result<u64>> Distance<L> {
    pub(super) fn new(patience: Duration, look: L) -> Self {
        Self {
            look,
            shortest: u64::MAX,
            patience,
            far: 0,
        }
    }

    /// Takes a sample, once the processors are close. Takes it once more if they are not any longer.
    pub(super) fn sample(&mut self, mut take: impl FnMut() -> Result<Sample>) -> Result<Sample> {
        for _ in 0..RETAKES_MAX {
            let before = self.settle()?;
            let began = Instant::now();
            let sample = take()?;
            let after = self.measure()?;
            if self.is_close(before) && self.is_close(after) {
                return Ok(sample);
            }
            if self.patience.is_zero() {
                self.far += 1;
                return Ok(sample);
            }
            self.spend(began.elapsed());
        }
        self.far += 1;
        take()
    }

    /// How many samples were taken at another distance.
    pub(super) fn far(&self) -> u64 {
        self.far
    }

    /// Waits until the processors are close, or there is no more patience. Returns how far apart they are.
    fn settle(&mut self) -> Result<u64> {
        loop {
            let round_trip = self.measure()?;
            if self.is_close(round_trip) || self.patience.is_zero() {
                return Ok(round_trip);
            }
            thread::sleep(PAUSE);
            self.spend(PAUSE);
        }
    }

    fn measure(&mut self) -> Result<u64> {
        let round_trip = (self.look)()?;
        self.shortest = self.shortest.min(round_trip);
        Ok(round_trip)
    }

    /// Whether they were as close as they ever are, as far as is known by now.
    fn is_close(&self, round_trip: u64) -> bool {
        round_trip <= SAME * self.shortest
    }

    fn spend(&mut self, time: Duration) {
        self.patience = self.patience.saturating_sub(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::counters::Counters;

    fn samples(round_trips: &[u64], patience: Duration) -> (u64, u64) {
        let mut looks = round_trips.iter();
        let look = || {
            looks
                .next()
                .copied()
                .ok_or_else(|| "one look too many".into())
        };
        let mut distance = Distance::new(patience, look);
        let mut taken = 0;
        let take = || {
            taken += 1;
            Ok(Sample {
                latencies: None,
                client: Counters::default(),
                server: Counters::default(),
            })
        };
        distance.sample(take).unwrap();
        (taken, distance.far())
    }

    #[test]
    fn a_sample_is_taken_where_the_processors_are_close() {
        let patience = Duration::from_secs(60);
        assert_eq!(samples(&[100, 150], patience), (1, 0));
        // They were far apart, and nobody knew better until they came together.
        assert_eq!(samples(&[480, 100, 100, 100], patience), (2, 0));
        // They have moved meanwhile, and come back.
        assert_eq!(samples(&[100, 480, 480, 100, 100], patience), (2, 0));
    }

    #[test]
    fn without_patience_a_sample_is_taken_all_the_same() {
        assert_eq!(samples(&[100, 480], Duration::ZERO), (1, 1));
        let moves = [100, 480].repeat(RETAKES_MAX);
        let taken = 1 + RETAKES_MAX as u64;
        assert_eq!(samples(&moves, Duration::from_secs(60)), (taken, 1));
    }
}
