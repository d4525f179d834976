//! Reports through the [`metrics`](https://docs.rs/metrics) crate: what [`Stats`] says, for whatever records metrics in this program.
//!
//! A session that is driven by a task reports when it begins, then every [30 s](ConfigBuilder::metrics_interval) while it is used,
//! and once at its end; any session when it is [asked to](crate::Session::report_metrics). One of
//! [`blocking`](crate::blocking) has no timer: it reports when it begins, is asked, and ends.
//!
//! All sessions report under the same names, and what they report adds up. To tell some of them apart, give them a
//! [label](ConfigBuilder::metrics_label). There is no label for the peer: there may be any number of those.
//!
//! Install the recorder before the first session is made: what was reported before is not reported again. [`METRICS`] lists the
//! names, and so does `docs/metrics.md`.

mod table;

use std::{sync::Arc, time::Duration};

use ::metrics::{SharedString, Unit};

pub use table::METRICS;

use crate::{ConfigBuilder, SessionLost, Stats};

/// What a metric is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// What there is at the moment, of all sessions together.
    Gauge,
    /// One value of each session with each report.
    Histogram,
}

/// A metric that is reported.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, as the recorder gets it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What is counted or measured: `count`, `bytes` or `seconds`.
    pub unit: &'static str,
    /// What it says.
    pub description: &'static str,
    /// Where it comes from.
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Total(fn(&Stats) -> u64),
    /// At the end of a session, it has nothing any more.
    Level(fn(&Stats) -> u64),
    Sample(fn(&Stats) -> Option<f64>),
    /// Sessions that are open.
    Sessions,
    /// Sessions that have ended, with the label `reason`.
    Ended,
}

/// When and as what sessions report.
#[derive(Clone, Debug)]
pub(crate) struct Reports {
    pub(crate) label: Option<Arc<str>>,
    pub(crate) interval: Option<Duration>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            label: None,
            interval: Some(Duration::from_secs(30)),
        }
    }
}

impl ConfigBuilder {
    /// What sessions have for the label `session` in their reports. Default: none, and no such label.
    ///
    /// Each label costs the recorder as much as all metrics together, so it is for a few kinds of sessions, and not for each.
    pub fn metrics_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.config.reports.label = Some(label.into());
        self
    }

    /// How often a session reports that is driven by a task. Default: every 30 s. `None`: only at its beginning and its end, and when it
    /// is [asked to](crate::Session::report_metrics). Less than 1 ms counts as that.
    ///
    /// Costs a timer, and a look at each metric. A session without streams that has had nothing to report since the last time has no
    /// timer.
    pub fn metrics_interval(mut self, interval: Option<Duration>) -> Self {
        let least = Duration::from_millis(1);
        self.config.reports.interval = interval.map(|interval| interval.max(least));
        self
    }
}

/// What has become of a session since its last report.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) before: Stats,
    pub(crate) now: Stats,
    pub(crate) is_first: bool,
    /// Why it has ended, if it has.
    pub(crate) end: Option<&'static str>,
}

impl Report {
    /// Passes it to the recorder, which is somebody else's code: with no lock held.
    pub(crate) fn emit(&self, label: Option<&Arc<str>>) {
        let labels: Vec<_> = label
            .map(|label| {
                ::metrics::Label::new("session", SharedString::from_shared(Arc::clone(label)))
            })
            .into_iter()
            .collect();
        for metric in METRICS {
            if self.is_first {
                metric.describe();
            }
            self.emit_one(metric, labels.clone());
        }
    }

    fn emit_one(&self, metric: &Metric, mut labels: Vec<::metrics::Label>) {
        let name = metric.name;
        match metric.source {
            Source::Total(get) => {
                let grown = get(&self.now).saturating_sub(get(&self.before));
                if grown != 0 || self.is_first {
                    ::metrics::counter!(name, labels).increment(grown);
                }
            }
            Source::Level(get) => {
                let level = |stats| i64::try_from(get(stats)).unwrap_or(i64::MAX);
                let now = if self.end.is_some() {
                    0
                } else {
                    level(&self.now)
                };
                self.shift(name, now - level(&self.before), labels);
            }
            Source::Sample(get) => {
                if let Some(sample) = get(&self.now) {
                    ::metrics::histogram!(name, labels).record(sample);
                }
            }
            Source::Sessions => {
                let change = i64::from(self.is_first) - i64::from(self.end.is_some());
                self.shift(name, change, labels);
            }
            Source::Ended => {
                if let Some(reason) = self.end {
                    labels.push(::metrics::Label::from_static_parts("reason", reason));
                    ::metrics::counter!(name, labels).increment(1);
                }
            }
        }
    }

    /// Moves what is the sum of several sessions.
    fn shift(&self, name: &'static str, change: i64, labels: Vec<::metrics::Label>) {
        if change != 0 || self.is_first {
            #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
            ::metrics::gauge!(name, labels).increment(change as f64);
        }
    }
}

impl Metric {
    fn describe(&self) {
        let unit = match self.unit {
            "bytes" => Unit::Bytes,
            "seconds" => Unit::Seconds,
            _ => Unit::Count,
        };
        let Self {
            name, description, ..
        } = *self;
        match self.kind {
            Kind::Counter => ::metrics::describe_counter!(name, unit, description),
            Kind::Gauge => ::metrics::describe_gauge!(name, unit, description),
            Kind::Histogram => ::metrics::describe_histogram!(name, unit, description),
        }
    }
}

/// The label of an end.
pub(crate) fn reason(lost: &SessionLost) -> &'static str {
    match lost {
        SessionLost::ClosedHere => "closed_here",
        SessionLost::ClosedByPeer => "closed_by_peer",
        SessionLost::PeerDied => "peer_died",
        SessionLost::PeerMisbehaved(_) => "peer_misbehaved",
        SessionLost::Unresponsive { .. } => "unresponsive",
        SessionLost::Io { .. } => "io",
    }
}
