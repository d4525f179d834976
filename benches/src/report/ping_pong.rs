//! The figures to reach in the parallel ping-pong, beside shmipc's own implementations.

use super::numbers::{grouped, significant, size};
use super::summary::Pair;
use super::targets::{Found, Target};
use crate::harness::case::{Case, PeerKind, Wire, Work};
use crate::harness::suite::{
    Findings, GO, PING_PONG, PING_PONG_SIZES, STREAMS, WIRES, ping_pong_peers,
};

const OUTBOX: &str = "streams over the outbox link";

/// The least and the largest.
const ALL_SIZES: (usize, usize) = (64, 4 << 20);

/// One figure to reach: at each of some sizes, so many times the rate of the fastest of others.
struct Race<'a> {
    what: &'a str,
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
    let crates = WIRES.map(PeerKind::Crate);
    let sockets = STREAMS.map(|streams| {
        let peers = ping_pong_peers(streams).into_iter();
        let sockets = peers.filter(|peer| matches!(peer, PeerKind::Socket | PeerKind::Sockets));
        sockets.collect::<Vec<_>>()
    });
    let mut races = over_the_outbox(&crates);
    for (streams, sockets) in STREAMS.iter().zip(&sockets) {
        races.extend(PING_PONG.map(|work| Race {
            what: OUTBOX,
            ours: PeerKind::Outbox,
            theirs: sockets,
            against: "a Unix socket",
            streams: *streams,
            work,
            bound: 1.0,
            sizes: ALL_SIZES,
        }));
    }
    for (wire, theirs) in WIRES.iter().zip(&crates) {
        races.extend(PING_PONG.map(|work| over_the_link(*wire, theirs, work)));
    }
    for streams in STREAMS {
        races.extend(PING_PONG.map(|work| Race {
            what: "streams over the shmipc link to a server of shmipc-go",
            ours: PeerKind::LinkToGo,
            theirs: &[GO],
            against: "shmipc-go to shmipc-go",
            streams,
            work,
            bound: 1.0,
            sizes: ALL_SIZES,
        }));
    }
    races.iter().map(|race| race.target(findings)).collect()
}

/// Our own link beside the modes of the crate.
fn over_the_outbox(crates: &[PeerKind]) -> Vec<Race<'_>> {
    let [one, many] = STREAMS;
    let small = (64, 4 << 10);
    let large = (1 << 20, 4 << 20);
    let race = |(streams, work, bound, sizes)| Race {
        what: OUTBOX,
        ours: PeerKind::Outbox,
        theirs: crates,
        against: "the best mode of the `shmipc` crate",
        streams,
        work,
        bound,
        sizes,
    };
    let races = [
        (many, Work::Exchange, 2.0, (64, 1 << 10)),
        (many, Work::Exchange, 1.3, (4 << 10, 64 << 10)),
        (many, Work::Exchange, 1.0, large),
        (many, Work::Untouched, 2.0, ALL_SIZES),
        (one, Work::Exchange, 20.0, small),
        (one, Work::Untouched, 20.0, small),
        (one, Work::Exchange, 1.8, large),
    ];
    races.into_iter().map(race).collect()
}

/// The link that speaks shmipc's protocol beside the crate in the same mode.
fn over_the_link(wire: Wire, theirs: &PeerKind, work: Work) -> Race<'_> {
    let [_, many] = STREAMS;
    Race {
        what: match wire {
            Wire::V2 => "streams over the shmipc link, V2",
            Wire::V3 => "streams over the shmipc link, V3",
            Wire::V4Eventfd => "streams over the shmipc link, V4, eventfd",
            Wire::V4Polling => "streams over the shmipc link, V4, polling",
        },
        ours: PeerKind::Link(wire),
        theirs: std::slice::from_ref(theirs),
        against: "the `shmipc` crate in the same mode",
        streams: many,
        work,
        bound: 1.5,
        sizes: ALL_SIZES,
    }
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
                "{}, {} at a time, {} to {}, {work}, messages/s",
                self.what,
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
            let case = |peer: &PeerKind| {
                let case = Case::exchange(*peer, *len).work(self.work);
                case.in_flight(self.streams)
            };
            let theirs: Vec<_> = self.theirs.iter().map(case).collect();
            let pair = Pair::of_rates(findings, case(&self.ours), &theirs)?;
            let ratio = pair.ratio();
            if worst.as_ref().is_none_or(|(worst, _)| ratio < *worst) {
                let text = format!(
                    "{} × at {} ({} against {})",
                    significant(ratio),
                    size(*len),
                    grouped(2.0 * pair.ours),
                    grouped(2.0 * pair.theirs)
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
