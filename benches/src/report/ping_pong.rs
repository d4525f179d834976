//! The figures to reach in the parallel ping-pong, beside shmipc's own implementations.

use super::numbers::{grouped, significant, size};
use super::summary::Summary;
use super::targets::{Found, Target};
use crate::harness::case::{Case, PeerKind, Work};
use crate::harness::suite::{
    CRATE, Findings, PING_PONG, PING_PONG_SIZES, STREAMS, ping_pong_peers,
};

/// One figure to reach: at each of some sizes, so many times the rate of the fastest of others.
struct Race<'a> {
    ours: PeerKind,
    theirs: &'a [PeerKind],
    against: &'a str,
    streams: usize,
    work: Work,
    bound: f64,
    sizes: (usize, usize),
}

/// All of them.
pub(super) fn targets(findings: &Findings) -> Vec<Target> {
    let [one, many] = STREAMS;
    let against_crate = |streams, work, bound, sizes| Race {
        ours: PeerKind::Outbox,
        theirs: &CRATE,
        against: "the best mode of the `shmipc` crate",
        streams,
        work,
        bound,
        sizes,
    };
    let mut races = vec![
        against_crate(many, Work::Exchange, 2.0, (64, 1 << 10)),
        against_crate(many, Work::Exchange, 1.3, (4 << 10, 64 << 10)),
        against_crate(many, Work::Exchange, 1.0, (1 << 20, 4 << 20)),
        against_crate(many, Work::Untouched, 2.0, (64, 4 << 20)),
        against_crate(one, Work::Exchange, 20.0, (64, 4 << 10)),
        against_crate(one, Work::Untouched, 20.0, (64, 4 << 10)),
        against_crate(one, Work::Exchange, 1.8, (1 << 20, 4 << 20)),
    ];
    let sockets = STREAMS.map(|streams| {
        let peers = ping_pong_peers(streams).into_iter();
        peers.filter(|peer| matches!(peer, PeerKind::Socket | PeerKind::Sockets))
    });
    let sockets = sockets.map(Iterator::collect::<Vec<_>>);
    for (streams, sockets) in STREAMS.iter().zip(&sockets) {
        for work in PING_PONG {
            races.push(Race {
                ours: PeerKind::Outbox,
                theirs: sockets,
                against: "a Unix socket",
                streams: *streams,
                work,
                bound: 1.0,
                sizes: (64, 4 << 20),
            });
        }
    }
    races.iter().map(|race| race.target(findings)).collect()
}

impl Race<'_> {
    fn target(&self, findings: &Findings) -> Target {
        let work = match self.work {
            Work::Untouched => "untouched",
            _ => "every byte written and read",
        };
        let (least, most) = self.sizes;
        Target {
            work: format!(
                "streams over the outbox link, {} at a time, {} to {}, {work}, messages/s",
                self.streams,
                size(least),
                size(most)
            ),
            bound: format!("≥ {} × {}, at each size", self.bound, self.against),
            found: self.worst(findings),
        }
    }

    /// The size at which the ratio is least. `None` unless all were measured.
    fn worst(&self, findings: &Findings) -> Option<Found> {
        let (least, most) = self.sizes;
        let sizes = PING_PONG_SIZES.iter();
        let sizes = sizes.filter(|len| (least..=most).contains(*len));
        let mut worst: Option<(f64, String)> = None;
        for len in sizes {
            let rate = |peer: &PeerKind| {
                let case = Case::exchange(*peer, *len).work(self.work);
                let summary = Summary::of(findings, case.in_flight(self.streams))?;
                Some(2.0 * summary.calls_per_second)
            };
            let ours = rate(&self.ours)?;
            let theirs: Option<Vec<_>> = self.theirs.iter().map(rate).collect();
            let theirs = theirs?.into_iter().reduce(f64::max)?;
            let ratio = ours / theirs;
            if worst.as_ref().is_none_or(|(worst, _)| ratio < *worst) {
                let text = format!(
                    "{} × at {} ({} against {})",
                    significant(ratio),
                    size(*len),
                    grouped(ours),
                    grouped(theirs)
                );
                worst = Some((ratio, text));
            }
        }
        worst.map(|(ratio, text)| Found {
            text,
            met: self.bound <= ratio,
        })
    }
}
