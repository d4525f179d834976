//! When a session reports what it has done to whatever records metrics.

use std::{
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use tokio::time::{Sleep, sleep};

use super::{Session, Shared};
use crate::{
    core::sync::lock,
    metrics::{Report, reason},
    stats::Stats,
};

/// What was reported so far.
#[derive(Debug, Default)]
pub(super) struct Reporter(Mutex<Reported>);

#[derive(Debug, Default)]
struct Reported {
    last: Stats,
    has_begun: bool,
    has_ended: bool,
}

impl Shared {
    /// Reports what has changed. Returns whether anything has. Called with no lock held: the recorder is somebody else's code.
    pub(crate) fn report(&self) -> bool {
        self.report_as(false)
    }

    /// Reports for the last time, once.
    pub(crate) fn report_end(&self) {
        self.report_as(true);
    }

    fn report_as(&self, ends: bool) -> bool {
        let report = {
            let mut reported = lock(&self.reporter.0);
            if reported.has_ended {
                return false;
            }
            // Under this lock, so that two reports at once do not overlap.
            let now = self.stats();
            let report = Report {
                before: reported.last,
                now,
                is_first: !reported.has_begun,
                end: ends.then(|| self.lost().map_or("closed_here", reason)),
            };
            reported.last = now;
            (reported.has_begun, reported.has_ended) = (true, ends);
            report
        };
        report.emit(self.config.reports.label.as_ref());
        report.is_first || report.before != report.now
    }
}

impl Session {
    /// Reports now what the session has done and holds, besides what it reports by itself. See [`metrics`](crate::metrics).
    ///
    /// Costs about as much as [`stats`](Self::stats), and what the recorder does, in this thread. After the session's last report it does
    /// nothing.
    pub fn report_metrics(&self) {
        self.shared().report();
    }
}

/// The timer of a session's reports.
#[derive(Debug, Default)]
pub(super) struct Beat {
    timer: Option<Pin<Box<Sleep>>>,
    has_begun: bool,
    /// Whether there is no timer until there is a stream.
    is_dormant: bool,
}

impl Beat {
    /// Reports if it is time to. Called by the driver, with no lock held.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) {
        if !self.has_begun {
            self.has_begun = true;
            shared.report();
        }
        let Some(interval) = shared.config.reports.interval else {
            return;
        };
        loop {
            let Some(timer) = &mut self.timer else {
                self.is_dormant = self.is_dormant && shared.awaits_streams();
                if self.is_dormant {
                    return;
                }
                self.timer = Some(Box::pin(sleep(interval)));
                continue;
            };
            let Poll::Ready(()) = timer.as_mut().poll(cx) else {
                return;
            };
            self.timer = None;
            // Nobody uses a session that has nothing to say. The next stream wakes the driver.
            self.is_dormant = !shared.report() && shared.await_streams();
        }
    }
}
