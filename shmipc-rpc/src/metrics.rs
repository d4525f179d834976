//! Reports of calls and sessions through the [`metrics`](https://docs.rs/metrics) crate.
//!
//! Sessions report by themselves: see [`shmipc_transport::metrics`]. Calls are reported by an interceptor, on either side:
//!
//! ```no_run
//! use shmipc_rpc::{Channel, Server, client::Caller, interceptor::InterceptorLayer, metrics::CallMetrics};
//! use tower::ServiceBuilder;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder().layer(InterceptorLayer::new(CallMetrics::server()));
//! let channel = Channel::connect("/run/greeter.sock").await?;
//! let layer = InterceptorLayer::new(CallMetrics::client());
//! let caller = Caller::new(ServiceBuilder::new().layer(layer).service(channel));
//! # let _ = (server, caller);
//! # Ok(())
//! # }
//! ```
//!
//! [`CALL_METRICS`] lists the names, and so does `docs/metrics.md`. Install the recorder before the first call.

use std::{
    collections::HashMap,
    fmt,
    sync::{Once, PoisonError, RwLock},
    time::Instant,
};

use ::metrics::{Label, SharedString, Unit};
pub use shmipc_transport::metrics::{Kind, METRICS as SESSION_METRICS, Metric};

use crate::{
    Code, Method, Status,
    interceptor::{Answer, Call, Interceptor, Next},
};

/// A metric that is reported of calls.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CallMetric {
    /// Its name, as the recorder gets it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What is counted or measured: `count` or `seconds`.
    pub unit: &'static str,
    /// What it says.
    pub description: &'static str,
}

const STARTED: CallMetric = CallMetric {
    name: "shmipc_rpc_calls_started_total",
    kind: Kind::Counter,
    unit: "count",
    description: "Calls that have begun",
};
const FINISHED: CallMetric = CallMetric {
    name: "shmipc_rpc_calls_finished_total",
    kind: Kind::Counter,
    unit: "count",
    description: "Calls that are over, by code",
};
const DURATION: CallMetric = CallMetric {
    name: "shmipc_rpc_call_duration_seconds",
    kind: Kind::Histogram,
    unit: "seconds",
    description: "The time from the beginning of a call to the end of its last message, by code",
};
const IN_FLIGHT: CallMetric = CallMetric {
    name: "shmipc_rpc_calls_in_flight",
    kind: Kind::Gauge,
    unit: "count",
    description: "Calls that have begun and are not over",
};

/// What is reported of calls, with the labels `side` (`client` or `server`) and `method` (`helloworld.Greeter/SayHello`); of those
/// that are over also with `code` (`OK`, `NOT_FOUND` and so on).
pub const CALL_METRICS: &[CallMetric] = &[STARTED, FINISHED, DURATION, IN_FLIGHT];

/// The most methods that are told apart, where nobody has said which there are.
const METHODS_MAX: usize = 256;

/// What methods have for their label that are not told apart. No method is called so, for want of a slash.
const OTHER: &str = "other";

/// An interceptor that reports calls: how many begin and end, with which code, how long they take, how many are under way.
///
/// A call is over when its end is known: for a stream of responses behind the last message, and for one that nobody waits for any
/// longer when it is given up. Then its code is [`Code::Cancelled`], or [`Code::DeadlineExceeded`] if there was no more time.
///
/// Costs five look-ups in the recorder per call, a few microseconds with most.
pub struct CallMetrics {
    side: &'static str,
    methods: Methods,
    described: Once,
}

/// Which methods have labels of their own. A peer may call whatever it likes, and each label costs memory for good.
enum Methods {
    /// Those that somebody named.
    Named(HashMap<String, SharedString>),
    /// The first that are called.
    First(RwLock<HashMap<String, SharedString>>),
}

impl CallMetrics {
    /// Reports the calls of the calling side.
    #[must_use]
    pub fn client() -> Self {
        Self::new("client")
    }

    /// Reports the calls of the serving side.
    ///
    /// If callers are not to be trusted, say which [methods](Self::only_methods) there are.
    #[must_use]
    pub fn server() -> Self {
        Self::new("server")
    }

    fn new(side: &'static str) -> Self {
        Self {
            side,
            methods: Methods::First(RwLock::default()),
            described: Once::new(),
        }
    }

    /// Tells these methods apart, such as the [`METHODS`](crate::server::NamedService::METHODS) of a generated server; all others
    /// have the label `other`. May be called for each service. Default: the first 256 paths that are called, whatever they are.
    #[must_use]
    pub fn only_methods<'m>(mut self, methods: impl IntoIterator<Item = &'m Method>) -> Self {
        let mut named = match self.methods {
            Methods::Named(named) => named,
            Methods::First(_) => HashMap::new(),
        };
        let labels = methods.into_iter().map(|method| {
            let path = method.path();
            (path.to_owned(), label_of(path))
        });
        named.extend(labels);
        self.methods = Methods::Named(named);
        self
    }

    fn describe(&self) {
        for metric in CALL_METRICS {
            let CallMetric {
                name, description, ..
            } = *metric;
            match metric.kind {
                Kind::Counter => ::metrics::describe_counter!(name, Unit::Count, description),
                Kind::Gauge => ::metrics::describe_gauge!(name, Unit::Count, description),
                _ => ::metrics::describe_histogram!(name, Unit::Seconds, description),
            }
        }
    }
}

impl Methods {
    fn label(&self, path: &str) -> SharedString {
        const OTHERS: SharedString = SharedString::const_str(OTHER);
        match self {
            Self::Named(named) => named.get(path).cloned().unwrap_or(OTHERS),
            Self::First(first) => {
                let known = first.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(label) = known.get(path) {
                    return label.clone();
                }
                if METHODS_MAX <= known.len() {
                    return OTHERS;
                }
                drop(known);
                let mut known = first.write().unwrap_or_else(PoisonError::into_inner);
                if METHODS_MAX <= known.len() && !known.contains_key(path) {
                    return OTHERS;
                }
                let label = known.entry(path.to_owned());
                label.or_insert_with(|| label_of(path)).clone()
            }
        }
    }
}

fn label_of(path: &str) -> SharedString {
    SharedString::from_owned(path.strip_prefix('/').unwrap_or(path).to_owned())
}

impl Interceptor for CallMetrics {
    async fn intercept(&self, call: Call, next: Next) -> Result<Answer, Status> {
        self.described.call_once(|| self.describe());
        let running = Running::begin(self.side, self.methods.label(call.path()));
        let next = next.on_end(move |end| running.end(end.code()));
        next.run(call).await
    }
}

impl fmt::Debug for CallMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallMetrics")
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

/// A call that is under way. Reports its end when it is dropped.
struct Running {
    side: &'static str,
    method: SharedString,
    began: Instant,
    code: Code,
}

impl Running {
    fn begin(side: &'static str, method: SharedString) -> Self {
        let running = Self {
            side,
            method,
            began: Instant::now(),
            code: Code::Cancelled,
        };
        ::metrics::counter!(STARTED.name, running.labels()).increment(1);
        ::metrics::gauge!(IN_FLIGHT.name, running.labels()).increment(1.0);
        running
    }

    fn end(mut self, code: Code) {
        self.code = code;
    }

    fn labels(&self) -> Vec<Label> {
        vec![
            Label::from_static_parts("side", self.side),
            Label::new("method", self.method.clone()),
        ]
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        ::metrics::gauge!(IN_FLIGHT.name, self.labels()).decrement(1.0);
        let mut labels = self.labels();
        labels.push(Label::from_static_parts("code", self.code.name()));
        ::metrics::counter!(FINISHED.name, labels.clone()).increment(1);
        ::metrics::histogram!(DURATION.name, labels).record(self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_called_there_are_few_labels() {
        let metrics = CallMetrics::server();
        assert_eq!(&*metrics.methods.label("/a.B/Run"), "a.B/Run");
        for i in 1..METHODS_MAX {
            assert_ne!(&*metrics.methods.label(&format!("/x/{i}")), OTHER);
        }
        assert_eq!(&*metrics.methods.label("/x/one/more"), OTHER);
        assert_eq!(&*metrics.methods.label("/a.B/Run"), "a.B/Run");

        let run = Method::unary("a.B", "Run", "/a.B/Run");
        let metrics = CallMetrics::server().only_methods([&run]);
        assert_eq!(&*metrics.methods.label("/a.B/Run"), "a.B/Run");
        assert_eq!(&*metrics.methods.label("/a.B/Stop"), OTHER);
    }
}
