//! What sessions report to a recorder.
#![cfg(feature = "metrics")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use shmipc_transport::{Config, Flush, blocking, metrics::METRICS};
use tokio::time::timeout;

use crate::common::{PATIENCE, Pair, assert_echo, echo, pattern, send};

/// Adds up what was recorded, since a snapshot takes it out.
struct Recorded {
    snapshotter: Snapshotter,
    values: BTreeMap<(String, Vec<(String, String)>), f64>,
    described: Vec<String>,
}

impl Recorded {
    fn new(recorder: &DebuggingRecorder) -> Self {
        Self {
            snapshotter: recorder.snapshotter(),
            values: BTreeMap::new(),
            described: Vec::new(),
        }
    }

    fn take(&mut self) {
        for (key, _unit, description, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            if description.is_some() {
                self.described.push(key.name().to_owned());
            }
            let labels = key.labels();
            let labels = labels.map(|label| (label.key().to_owned(), label.value().to_owned()));
            let slot = self.values.entry((key.name().to_owned(), labels.collect()));
            let slot = slot.or_default();
            match value {
                #[expect(clippy::cast_precision_loss, reason = "small")]
                DebugValue::Counter(count) => *slot += count as f64,
                DebugValue::Gauge(change) => *slot += change.into_inner(),
                DebugValue::Histogram(samples) => {
                    *slot = samples
                        .into_iter()
                        .map(|sample| sample.into_inner())
                        .fold(*slot, f64::max);
                }
            }
        }
    }

    /// The sum of a metric over all labels.
    #[track_caller]
    fn get(&self, name: &str) -> f64 {
        let of_name = self.values.iter().filter(|((found, _), _)| found == name);
        of_name.map(|(_, value)| value).sum()
    }
}

fn config(interval: Option<Duration>) -> Config {
    Config::builder()
        .metrics_interval(interval)
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_session_reports_when_asked_and_once_at_its_end() {
    let recorder = DebuggingRecorder::new();
    let mut recorded = Recorded::new(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let pair = Pair::with(config(None), config(None)).await;
    let serving = echo(pair.server.clone());
    assert_echo(&pair.client, 10_000).await;
    recorded.take();
    assert_eq!(recorded.get("shmipc_sessions"), 2.0);

    let mut held = pair.client.open_stream().unwrap();
    send(&mut held, &pattern(5000, 1), Flush::More).await;
    let reply = held.recv().await.unwrap().unwrap();
    pair.client.report_metrics();
    pair.client.report_metrics();
    recorded.take();
    assert_eq!(recorded.get("shmipc_messages_sent_total"), 2.0);
    assert_eq!(recorded.get("shmipc_sent_bytes_total"), 15_000.0);
    assert_eq!(recorded.get("shmipc_streams"), 1.0);
    assert!(5000.0 <= recorded.get("shmipc_arena_used_bytes"));
    drop(reply);

    let (client, server) = (pair.client.clone(), pair.server.clone());
    client.close();
    timeout(PATIENCE, server.closed()).await.unwrap();
    serving.await.unwrap();
    drop((held, pair, client, server));
    let ended = async {
        while recorded.get("shmipc_sessions_ended_total") < 2.0 {
            tokio::task::yield_now().await;
            recorded.take();
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
    // Everything twice, once for each side, and nothing that is left.
    assert_eq!(recorded.get("shmipc_messages_sent_total"), 4.0);
    assert_eq!(recorded.get("shmipc_received_bytes_total"), 30_000.0);
    assert_eq!(recorded.get("shmipc_sessions"), 0.0);
    for level in [
        "shmipc_streams",
        "shmipc_leases",
        "shmipc_arena_used_bytes",
        "shmipc_ring_fill_bytes",
    ] {
        assert_eq!(recorded.get(level), 0.0, "{level}");
    }
    let reason = |reason: &str| {
        let labels = vec![("reason".to_owned(), reason.to_owned())];
        recorded
            .values
            .get(&("shmipc_sessions_ended_total".to_owned(), labels))
    };
    assert_eq!(reason("closed_here"), Some(&1.0));
    assert_eq!(reason("closed_by_peer"), Some(&1.0));
    for metric in METRICS {
        let is_seen = recorded.values.keys().any(|(name, _)| name == metric.name);
        let is_sometimes = metric.name == "shmipc_oldest_lease_seconds";
        assert!(
            is_seen || is_sometimes,
            "{} was never reported",
            metric.name
        );
        assert!(!is_seen || recorded.described.iter().any(|name| name == metric.name));
    }
}

#[tokio::test]
async fn a_session_reports_now_and_then_while_it_is_used() {
    let recorder = DebuggingRecorder::new();
    let mut recorded = Recorded::new(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let pair = Pair::with(config(Some(Duration::from_millis(1))), config(None)).await;
    drop(echo(pair.server.clone()));
    for round in 1..=3 {
        assert_echo(&pair.client, 100).await;
        let reported = async {
            while recorded.get("shmipc_messages_sent_total") < f64::from(round) {
                tokio::task::yield_now().await;
                recorded.take();
            }
        };
        timeout(PATIENCE, reported)
            .await
            .expect("the timer is set again");
        // Long enough that it is not any more.
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(10)).await;
        tokio::time::resume();
    }
}

#[tokio::test]
async fn labels_tell_sessions_apart() {
    let recorder = DebuggingRecorder::new();
    let mut recorded = Recorded::new(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let labelled = config(None).to_builder().metrics_label("front");
    let pair = Pair::with(labelled.build().unwrap(), config(None)).await;
    pair.client.report_metrics();
    pair.server.report_metrics();
    recorded.take();
    let open = |labels: &[(&str, &str)]| {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        recorded
            .values
            .get(&("shmipc_sessions".to_owned(), labels.collect()))
    };
    assert_eq!(open(&[("session", "front")]), Some(&1.0));
    assert_eq!(open(&[]), Some(&1.0));
}

#[test]
fn a_session_of_threads_reports_at_its_beginning_and_its_end() {
    let recorder = DebuggingRecorder::new();
    let mut recorded = Recorded::new(&recorder);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = blocking::Listener::bind(&*path).unwrap();
    let accepting = std::thread::spawn(move || listener.accept().unwrap().closed(None));
    let _local = metrics::set_default_local_recorder(&recorder);
    let session = blocking::Session::connect(&*path).unwrap();
    recorded.take();
    assert_eq!(recorded.get("shmipc_sessions"), 1.0);
    session.go_away();
    session.report_metrics();
    drop(session);
    recorded.take();
    assert_eq!(recorded.get("shmipc_sessions"), 0.0);
    assert_eq!(recorded.get("shmipc_sessions_ended_total"), 1.0);
    assert_eq!(recorded.get("shmipc_go_aways_sent_total"), 1.0);
    accepting.join().unwrap();
}
