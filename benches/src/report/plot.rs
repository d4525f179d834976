//! The plots: latency against size, and calls per second against calls in flight.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::numbers::{size, time};
use super::summary::Summary;
use super::table::{name, runtime};
use crate::Result;
use crate::harness::case::{Case, PeerKind, Runtime, Waiting};
use crate::harness::suite::{CONCURRENT_PEERS, Findings, IN_FLIGHT, SIZED_PEERS, SIZES, SMALL};

/// Width and height of a plot, in pixels.
const AREA: (u32, u32) = (860, 520);

/// One line of a plot.
struct Series {
    peer: PeerKind,
    label: String,
    points: Vec<(f64, f64)>,
}

/// How the axes of a plot are named and labelled.
struct Axes {
    x: &'static str,
    y: &'static str,
    x_label: fn(&f64) -> String,
    y_label: fn(&f64) -> String,
}

/// Draws the median latency of each peer against the payload's size.
///
/// # Errors
///
/// Fails if the file cannot be written.
pub(super) fn latency_against_size(findings: &Findings, out: &Path) -> Result<()> {
    let series = SIZED_PEERS.map(|peer| Series {
        peer,
        label: name(peer).to_owned(),
        points: points(
            findings,
            &SIZES,
            |len| Case::exchange(peer, len),
            |summary| summary.p50_ns,
        ),
    });
    let axes = Axes {
        x: "payload in each direction",
        y: "round trip, p50",
        x_label: |bytes| size(whole(*bytes)),
        y_label: |nanoseconds| time(*nanoseconds),
    };
    draw(&series, &axes, out)
}

/// Draws the rate of calls of each peer against the number of calls in flight.
///
/// # Errors
///
/// Fails if the file cannot be written.
pub(super) fn rate_against_calls_in_flight(findings: &Findings, out: &Path) -> Result<()> {
    let series = CONCURRENT_PEERS.map(|peer| Series {
        peer,
        label: format!("{}, {}", name(peer), runtime(peer)),
        points: points(
            findings,
            &IN_FLIGHT,
            |calls| Case::exchange(peer, SMALL).in_flight(calls),
            |summary| summary.calls_per_second,
        ),
    });
    let axes = Axes {
        x: "calls in flight, 64 B each way",
        y: "calls per second",
        x_label: |calls| whole(*calls).to_string(),
        y_label: rate,
    };
    draw(&series, &axes, out)
}

fn points(
    findings: &Findings,
    along: &[usize],
    case: impl Fn(usize) -> Case,
    figure: impl Fn(&Summary) -> f64,
) -> Vec<(f64, f64)> {
    let point = |x: &usize| Some((real(*x), figure(&Summary::of(findings, case(*x))?)));
    along.iter().filter_map(point).collect()
}

fn draw(series: &[Series], axes: &Axes, out: &Path) -> Result<()> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, AREA).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        draw_on(&root, series, axes).map_err(|error| error.to_string())?;
        root.present().map_err(|error| error.to_string())?;
    }
    std::fs::write(out, text)?;
    Ok(())
}

type Drawn<'a> =
    std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw_on<'a>(
    root: &DrawingArea<SVGBackend<'a>, Shift>,
    series: &[Series],
    axes: &Axes,
) -> Drawn<'a> {
    let x_range = around(
        series
            .iter()
            .flat_map(|line| &line.points)
            .map(|point| point.0),
        1.2,
    );
    let y_range = around(
        series
            .iter()
            .flat_map(|line| &line.points)
            .map(|point| point.1),
        1.6,
    );
    let mut chart = ChartBuilder::on(root)
        .margin(16)
        .x_label_area_size(46)
        .y_label_area_size(86)
        .build_cartesian_2d(x_range.log_scale().base(2.0), y_range.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .y_labels(6)
        .x_label_formatter(&axes.x_label)
        .y_label_formatter(&axes.y_label)
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    for line in series {
        let colour = colour(line.peer);
        chart
            .draw_series(LineSeries::new(
                line.points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(line.label.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(
            line.points
                .iter()
                .map(|point| Circle::new(*point, 3, colour.filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()
}

/// The smallest range that holds all values with some room, by a factor, on both sides.
fn around(values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low.is_finite() {
        low / room..high * room
    } else {
        1.0..2.0
    }
}

/// Colours that people who see few colours can tell apart (after Okabe and Ito).
fn colour(peer: PeerKind) -> RGBColor {
    match peer {
        PeerKind::Limit | PeerKind::Memory => RGBColor(120, 120, 120),
        PeerKind::Eventfd => RGBColor(240, 228, 66),
        PeerKind::Socket => RGBColor(0, 158, 115),
        PeerKind::Tonic(Runtime::CurrentThread) => RGBColor(213, 94, 0),
        PeerKind::Tonic(Runtime::TwoWorkers) | PeerKind::TonicDefaults => RGBColor(230, 159, 0),
        PeerKind::Shmipc(Waiting::Adaptive) => RGBColor(0, 114, 178),
        PeerKind::Shmipc(Waiting::Block | Waiting::Busy)
        | PeerKind::Blocking(_)
        | PeerKind::Layered
        | PeerKind::TonicAdapter
        | PeerKind::Outbox
        | PeerKind::Link(_)
        | PeerKind::LinkToGo => RGBColor(86, 180, 233),
        PeerKind::Crate(_) | PeerKind::Go(_) | PeerKind::Sockets => RGBColor(150, 150, 150),
    }
}

fn rate(calls: &f64) -> String {
    match *calls {
        millions if 1e6 <= millions => format!("{} M", millions / 1e6),
        thousands if 1e3 <= thousands => format!("{} k", thousands / 1e3),
        few => format!("{few}"),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes and counts of the sweeps are far below 2^53"
)]
fn real(value: usize) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "labels lie between sizes of the sweeps"
)]
fn whole(value: f64) -> usize {
    value.round() as usize
}
