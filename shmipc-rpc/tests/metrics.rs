//! What is reported of calls, on both sides.
#![cfg(feature = "metrics")]

mod common;

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use shmipc_rpc::{
    Request, Response, Server, Status,
    client::Caller,
    interceptor::InterceptorLayer,
    metrics::{CALL_METRICS, CallMetrics},
};
use tokio::sync::mpsc;

use crate::common::{Handled, Packet, RUN, UNKNOWN, in_time, lab, packet, serve};

/// What was recorded so far, by name and labels. A snapshot takes it out.
#[derive(Default)]
struct Recorded {
    values: BTreeMap<String, f64>,
    samples: BTreeMap<String, usize>,
}

impl Recorded {
    fn take(&mut self, snapshotter: &Snapshotter) {
        for (key, _, description, value) in snapshotter.snapshot().into_vec() {
            let key = key.key();
            assert!(!key.name().starts_with("shmipc_rpc_") || description.is_some());
            let labels = key.labels().map(|label| label.value().to_owned());
            let name = format!("{} {}", key.name(), labels.collect::<Vec<_>>().join(" "));
            match value {
                #[expect(clippy::cast_precision_loss, reason = "small")]
                DebugValue::Counter(count) => *self.values.entry(name).or_default() += count as f64,
                DebugValue::Gauge(change) => {
                    *self.values.entry(name).or_default() += change.into_inner();
                }
                DebugValue::Histogram(samples) => {
                    assert!(samples.iter().all(|sample| 0.0 <= sample.into_inner()));
                    *self.samples.entry(name).or_default() += samples.len();
                }
            }
        }
    }

    fn get(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or_default()
    }
}

async fn answer(request: Request<Packet>) -> Handled {
    match request.get_ref().text.as_str() {
        "fail" => Err(Status::not_found("no such thing")),
        text => Ok(Response::new(packet(text))),
    }
}

#[tokio::test]
async fn calls_are_counted_and_timed_by_method_and_code_on_both_sides() {
    let recorder = DebuggingRecorder::new();
    let (snapshotter, mut recorded) = (recorder.snapshotter(), Recorded::default());
    let _local = metrics::set_default_local_recorder(&recorder);
    let watched = CallMetrics::server().only_methods([&RUN]);
    let server = Server::builder().layer(InterceptorLayer::new(watched));
    let running = serve(server.add_service(lab(answer)));
    let layer = InterceptorLayer::new(CallMetrics::client());
    let caller = Caller::new(layer.layer(running.channel().await));

    for text in ["one", "two", "fail"] {
        let called = in_time(caller.unary::<_, Packet>(&RUN, Request::new(packet(text)))).await;
        assert_eq!(called.is_err(), text == "fail");
    }
    let unknown = caller.unary::<_, Packet>(&UNKNOWN, Request::new(packet("one")));
    in_time(unknown).await.expect_err("there is no such method");

    recorded.take(&snapshotter);
    for (side, unknown) in [("client", "lab.v1.Lab/Unknown"), ("server", "other")] {
        let run = "lab.v1.Lab/Run";
        let value = |rest: &str| recorded.get(&format!("shmipc_rpc_calls_{rest}"));
        assert_eq!(value(&format!("started_total {side} {run}")), 3.0);
        assert_eq!(value(&format!("started_total {side} {unknown}")), 1.0);
        assert_eq!(value(&format!("finished_total {side} {run} OK")), 2.0);
        assert_eq!(
            value(&format!("finished_total {side} {run} NOT_FOUND")),
            1.0
        );
        assert_eq!(
            value(&format!("finished_total {side} {unknown} UNIMPLEMENTED")),
            1.0
        );
        assert_eq!(value(&format!("in_flight {side} {run}")), 0.0);
        let timed = format!("shmipc_rpc_call_duration_seconds {side} {run} OK");
        assert_eq!(recorded.samples.get(&timed), Some(&2));
    }
    for metric in CALL_METRICS {
        let mut names = recorded.values.keys().chain(recorded.samples.keys());
        assert!(
            names.any(|name| name.starts_with(metric.name)),
            "{}",
            metric.name
        );
    }
}

#[tokio::test]
async fn a_call_is_in_flight_until_it_is_given_up() {
    let recorder = DebuggingRecorder::new();
    let (snapshotter, mut recorded) = (recorder.snapshotter(), Recorded::default());
    let _local = metrics::set_default_local_recorder(&recorder);
    let (began, mut begins) = mpsc::unbounded_channel();
    let service = lab(move |_: Request<Packet>| {
        let began = began.clone();
        async move {
            began.send(()).expect("the test listens");
            std::future::pending().await
        }
    });
    let server = Server::builder().layer(InterceptorLayer::new(CallMetrics::server()));
    let running = serve(server.add_service(service));
    let layer = InterceptorLayer::new(CallMetrics::client());
    let caller = Caller::new(layer.layer(running.channel().await));

    let calling = tokio::spawn(async move {
        caller
            .unary::<_, Packet>(&RUN, Request::new(packet("wait")))
            .await
            .map(drop)
    });
    in_time(begins.recv()).await.expect("the handler runs");
    recorded.take(&snapshotter);
    for side in ["client", "server"] {
        let name = format!("shmipc_rpc_calls_in_flight {side} lab.v1.Lab/Run");
        assert_eq!(recorded.get(&name), 1.0, "{side}");
    }
    calling.abort();
    let over =
        |side: &str| format!("shmipc_rpc_calls_finished_total {side} lab.v1.Lab/Run CANCELLED");
    in_time(async {
        while ["client", "server"]
            .iter()
            .any(|side| recorded.get(&over(side)) < 1.0)
        {
            tokio::task::yield_now().await;
            recorded.take(&snapshotter);
        }
    })
    .await;
    for side in ["client", "server"] {
        let name = format!("shmipc_rpc_calls_in_flight {side} lab.v1.Lab/Run");
        assert_eq!(recorded.get(&name), 0.0, "{side}");
    }
}
