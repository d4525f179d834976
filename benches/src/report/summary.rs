//! One row out of the samples of all rounds: the median of each figure.

use crate::harness::case::Case;
use crate::harness::session::Sample;
use crate::harness::suite::Findings;
use crate::harness::window::Latencies;

/// The median over the rounds of each figure of a case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summary {
    pub(super) p50_ns: f64,
    /// The smallest and the largest median that a round found.
    pub(super) p50_range_ns: (f64, f64),
    pub(super) p99_ns: f64,
    pub(super) p999_ns: f64,
    /// Calls, or messages of a call that is a stream.
    pub(super) calls_per_second: f64,
    /// Memory of the server's that was resident at the end, in bytes.
    pub(super) server_resident: f64,
    pub(super) client: Cost,
    pub(super) server: Cost,
}

/// What a side spends on calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) cpu_seconds_per_million_calls: f64,
    pub(super) allocations_per_call: f64,
    pub(super) bytes_per_call: f64,
}

impl Summary {
    /// The summary of `case`, or `None` if no round measured it.
    pub(super) fn of(findings: &Findings, case: Case) -> Option<Self> {
        let samples: Vec<_> = findings
            .samples
            .get(&case)?
            .iter()
            .filter_map(|sample| Some((sample.latencies?, sample)))
            .collect();
        let over = |figure: &dyn Fn(&Latencies, &Sample) -> f64| {
            sorted(
                samples
                    .iter()
                    .map(|(latencies, sample)| figure(latencies, sample))
                    .collect(),
            )
        };
        let median = |figure: &dyn Fn(&Latencies, &Sample) -> f64| middle(&over(figure));
        let p50s = over(&|latencies, _| nanoseconds(latencies.p50_ns));
        Some(Self {
            p50_ns: middle(&p50s)?,
            p50_range_ns: (*p50s.first()?, *p50s.last()?),
            p99_ns: median(&|latencies, _| nanoseconds(latencies.p99_ns))?,
            p999_ns: median(&|latencies, _| nanoseconds(latencies.p999_ns))?,
            calls_per_second: median(&|latencies, _| calls_per_second(case, latencies))?,
            server_resident: median(&|_, sample| count(sample.server.resident))?,
            client: Cost {
                cpu_seconds_per_million_calls: median(&|l, s| {
                    s.client.cpu.as_secs_f64() * 1e6 / count(l.calls)
                })?,
                allocations_per_call: median(&|l, s| {
                    count(s.client.allocations.count) / count(l.calls)
                })?,
                bytes_per_call: median(&|l, s| count(s.client.allocations.bytes) / count(l.calls))?,
            },
            server: Cost {
                cpu_seconds_per_million_calls: median(&|l, s| {
                    s.server.cpu.as_secs_f64() * 1e6 / count(l.calls)
                })?,
                allocations_per_call: median(&|l, s| {
                    count(s.server.allocations.count) / count(l.calls)
                })?,
                bytes_per_call: median(&|l, s| count(s.server.allocations.bytes) / count(l.calls))?,
            },
        })
    }
}

/// What two figures were in the round in which their ratio was the median of all rounds.
///
/// The machine may have moods that last for seconds, such as what its neighbours do. What is compared within a round was measured
/// in the same one, mostly; the medians of either by itself need not have been.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) ours: f64,
    pub(super) theirs: f64,
}

impl Pair {
    /// Of figures round by round; `None` if there is no round with both.
    pub(super) fn median(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let pairs = ours.iter().zip(theirs);
        let mut pairs: Vec<_> = pairs
            .map(|(&ours, &theirs)| Self { ours, theirs })
            .collect();
        pairs.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        pairs.get(pairs.len().saturating_sub(1) / 2).copied()
    }

    /// Of what a case does in a second, and of what the best of others does. `None` unless all were measured.
    pub(super) fn of_rates(findings: &Findings, ours: Case, theirs: &[Case]) -> Option<Self> {
        let rates = |case: &Case| {
            rounds(findings, *case, |latencies| {
                calls_per_second(*case, latencies)
            })
        };
        let best = theirs.iter().map(rates).reduce(|best, rates| {
            let both = best.into_iter().zip(rates);
            both.map(|(best, rate)| best.max(rate)).collect()
        });
        Self::median(&rates(&ours), &best?)
    }

    pub(super) fn ratio(self) -> f64 {
        self.ours / self.theirs
    }
}

/// A figure of a case, round by round.
pub(super) fn rounds(
    findings: &Findings,
    case: Case,
    figure: impl Fn(&Latencies) -> f64,
) -> Vec<f64> {
    let samples = findings.samples.get(&case).into_iter().flatten();
    samples
        .filter_map(|sample| sample.latencies.as_ref())
        .map(figure)
        .collect()
}

/// Calls, or messages of a call that is a stream, in a second.
fn calls_per_second(case: Case, latencies: &Latencies) -> f64 {
    count(latencies.calls * case.timed_together()) / latencies.elapsed.as_secs_f64()
}

/// The middle of sorted values; of an even number of them, the mean of the two in the middle.
fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = sorted.get(sorted.len() / 2 - 1)?;
    Some((lower + upper) / 2.0)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// A count as a real number: exact up to 2^53, which no counter here reaches.
#[expect(clippy::cast_precision_loss, reason = "see the documentation")]
pub(super) fn count(value: u64) -> f64 {
    value as f64
}

fn nanoseconds(value: u64) -> f64 {
    count(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_of_one_round() {
        assert!(Pair::median(&[], &[1.0]).is_none());
        // A machine that was half as fast in the first round for us, and in the second for them.
        let pair = Pair::median(&[1.0, 2.0, 1.0], &[1.0, 2.0, 2.0]).unwrap();
        assert_eq!((pair.ours, pair.theirs), (1.0, 1.0));
        let pair = Pair::median(&[3.0, 8.0, 1.0], &[1.0, 2.0, 1.0]).unwrap();
        assert_eq!((pair.ours, pair.theirs), (3.0, 1.0));
    }

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&sorted(vec![9.0, 1.0, 2.0])), Some(2.0));
        assert_eq!(middle(&sorted(vec![9.0, 1.0, 2.0, 4.0])), Some(3.0));
    }
}
