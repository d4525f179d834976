//! The span of each call.

mod common;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use shmipc_rpc::{Request, Response, Server, Status};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
};

use crate::common::{Packet, RUN, in_time, lab, packet, serve};

type Fields = BTreeMap<String, String>;

/// Keeps the fields of every span, by its number.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, Fields>>>);

struct Recorder<'a>(&'a mut Fields);

impl Visit for Recorder<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: Context<'_, S>) {
        let mut spans = self.0.lock().expect("nobody panics");
        let fields = spans.entry(id.into_u64()).or_default();
        fields.insert(
            "target".to_owned(),
            attributes.metadata().target().to_owned(),
        );
        attributes.record(&mut Recorder(fields));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        let mut spans = self.0.lock().expect("nobody panics");
        values.record(&mut Recorder(spans.entry(id.into_u64()).or_default()));
    }
}

#[tokio::test]
async fn each_call_has_a_span_on_either_side() {
    let spans = Spans::default();
    // All tasks of the test run on this thread.
    let _guard =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));

    let running = serve(Server::builder().add_service(lab(|request| async move {
        tokio::task::yield_now().await;
        match request.get_ref().text.as_str() {
            "fail" => Err(Status::aborted("as asked")),
            _ => Ok(Response::new(request.into_inner())),
        }
    })));
    let caller = running.caller().await;
    for (text, status) in [("", "\"OK\""), ("fail", "\"ABORTED\"")] {
        let result = in_time(caller.unary::<_, Packet>(&RUN, Request::new(packet(text)))).await;
        assert_eq!(result.is_ok(), text.is_empty());
        let seen = std::mem::take(&mut *spans.0.lock().expect("nobody panics"));
        for target in ["shmipc_rpc::client", "shmipc_rpc::server"] {
            let mut calls = seen.values().filter(|fields| fields["target"] == target);
            let call = calls.next().expect("there is a span");
            assert_eq!(call["method"], format!("{:?}", RUN.path()));
            assert_eq!(call["status"], status, "{target}");
            assert!(call.contains_key(if target == "shmipc_rpc::client" {
                "address"
            } else {
                "peer.pid"
            }));
            assert!(calls.next().is_none());
        }
    }
}
