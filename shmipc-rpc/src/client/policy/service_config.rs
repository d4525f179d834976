use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use super::{
    attempts::Attempts,
    retry::RetryPolicy,
    throttle::{Throttle, ThrottleSettings},
};
use crate::{Idempotency, Method};

/// How the calls of a client are made, by method: what gRPC calls a service config.
///
/// The most specific entry applies, and it alone: that of the method, else that of its service, else the default one. Clones share
/// everything, the count of [failures](ServiceConfigBuilder::retry_throttling) included. A channel without one spends no
/// time on it; with one, a call costs a look-up in a hash table more.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use shmipc_rpc::{
///     Code, Method,
///     client::{MethodConfig, RetryPolicy, ServiceConfig},
/// };
///
/// // Generated code has it.
/// const GET: Method = Method::unary("kv.Store", "Get", "/kv.Store/Get");
///
/// let config = ServiceConfig::builder()
///     .default_method(MethodConfig::new().timeout(Duration::from_secs(5)))
///     .service("kv.Store", MethodConfig::new().timeout(Duration::from_secs(1)).wait_for_ready(true))
///     .method(
///         &GET,
///         MethodConfig::new()
///             .timeout(Duration::from_millis(200))
///             .retry(RetryPolicy::new([Code::Unavailable])),
///     )
///     .retry_throttling(100.0, 0.1)
///     .build()?;
/// # Ok::<(), shmipc_rpc::client::InvalidServiceConfig>(())
/// ```
#[derive(Clone, Debug)]
pub struct ServiceConfig(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// By path: `/kv.Store/Get`.
    methods: HashMap<String, MethodConfig, foldhash::fast::RandomState>,
    /// By name: `kv.Store`.
    services: HashMap<String, MethodConfig, foldhash::fast::RandomState>,
    default: MethodConfig,
    throttle: Option<Throttle>,
    /// The service whose health decides which servers are called.
    #[cfg(feature = "health")]
    health_check: Option<Arc<str>>,
}

/// Makes a [`ServiceConfig`].
#[must_use = "a builder does nothing until it builds"]
#[derive(Clone, Debug, Default)]
pub struct ServiceConfigBuilder {
    methods: HashMap<String, MethodConfig, foldhash::fast::RandomState>,
    services: HashMap<String, MethodConfig, foldhash::fast::RandomState>,
    default: Option<MethodConfig>,
    /// Tokens, and tokens per success.
    throttling: Option<(f64, f64)>,
    #[cfg(feature = "health")]
    health_check: Option<Arc<str>>,
    fault: Option<InvalidServiceConfig>,
}

/// How the calls of some methods are made. Begins with nothing set: the calls are made as without it.
#[must_use = "it does nothing until it is part of a service config"]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MethodConfig {
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: Option<bool>,
    pub(crate) request_len_max: Option<usize>,
    pub(crate) response_len_max: Option<usize>,
    pub(crate) retry: Option<RetryPolicy>,
}

/// Why a [`ServiceConfig`] was refused.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServiceConfig {
    /// Two entries are for the same methods: the one at this path, those of the service of this name or, if it is empty, all that have no
    /// other entry.
    #[error("there are two entries for {}", methods_of(.0))]
    Duplicate(String),
    /// The JSON form is wrong, in this way.
    #[error("the service config is wrong: {0}")]
    Json(String),
    /// A retry policy makes no sense, for this reason.
    #[error("{0}")]
    RetryPolicy(&'static str),
    /// The retry throttling makes no sense.
    #[error("retry throttling needs up to 1000 tokens, and at least 0.001 of them for a success")]
    RetryThrottling,
}

/// Says which methods an entry is for.
fn methods_of(key: &str) -> String {
    match key {
        "" => "all methods that have no other".to_owned(),
        key => format!("{key:?}"),
    }
}

impl MethodConfig {
    /// Begins with nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a call may take, all of its attempts together. Default: without end.
    ///
    /// A [request](crate::Request::set_timeout), or the deadline of the handler that makes the call, may allow less.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Chooses whether a call waits for a server that cannot be reached. Default: what the channel was built with.
    ///
    /// A [request](crate::Request::set_wait_for_ready) may choose for itself.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = Some(wait);
        self
    }

    /// The most bytes that the message of a request may have. Default: what the generated client allows, which is 64 MiB by default. Its
    /// limit holds where it is lower.
    ///
    /// A larger one fails with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) and is not sent.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.request_len_max = Some(bytes);
        self
    }

    /// The most bytes that the message of a response may have. Default: what the generated client allows, which is 64 MiB by default. Its
    /// limit holds where it is lower.
    ///
    /// A larger one fails with [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) and is not looked at.
    pub fn max_response_size(mut self, bytes: usize) -> Self {
        self.response_len_max = Some(bytes);
        self
    }

    /// When a failed call is made again. Default: never.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    fn check(&self) -> Result<(), InvalidServiceConfig> {
        self.retry.as_ref().map_or(Ok(()), RetryPolicy::check)
    }
}

impl ServiceConfig {
    /// Begins with no entries.
    pub fn builder() -> ServiceConfigBuilder {
        ServiceConfigBuilder::default()
    }

    /// Returns the service whose health decides which servers are called.
    #[cfg(feature = "health")]
    pub(crate) fn health_check(&self) -> Option<&Arc<str>> {
        self.0.health_check.as_ref()
    }

    /// Returns the entry for the method at `path`.
    pub(crate) fn of_method(&self, path: &str) -> &MethodConfig {
        let Inner {
            methods,
            services,
            default,
            ..
        } = &*self.0;
        if let Some(config) = methods.get(path).filter(|_| !methods.is_empty()) {
            return config;
        }
        let service = || {
            path.strip_prefix('/')?
                .rsplit_once('/')
                .map(|(name, _)| name)
        };
        if services.is_empty() {
            return default;
        }
        service()
            .and_then(|name| services.get(name))
            .unwrap_or(default)
    }

    /// Begins with the attempts of a call, if more than one is allowed.
    pub(crate) fn attempts<'a>(
        &'a self,
        method: &'a MethodConfig,
        idempotency: Idempotency,
    ) -> Option<Attempts<'a>> {
        let policy = method.retry.as_ref()?;
        Some(Attempts::new(policy, self.0.throttle.as_ref(), idempotency))
    }

    /// Notes that a call succeeded.
    pub(crate) fn succeeded(&self) {
        if let Some(throttle) = &self.0.throttle {
            throttle.succeeded();
        }
    }
}

impl ServiceConfigBuilder {
    /// Adds an entry for a method.
    pub fn method(self, method: &Method, config: MethodConfig) -> Self {
        self.method_at(method.path(), config)
    }

    /// Adds an entry for the method at a path, such as `/kv.Store/Get`.
    pub fn method_at(mut self, path: impl Into<String>, config: MethodConfig) -> Self {
        insert(&mut self.methods, path.into(), config, &mut self.fault);
        self
    }

    /// Adds an entry for the methods of a service that have none of their own. The name is the full one, such as `kv.Store`.
    pub fn service(mut self, name: impl Into<String>, config: MethodConfig) -> Self {
        insert(&mut self.services, name.into(), config, &mut self.fault);
        self
    }

    /// Sets the entry for all methods that have no other.
    pub fn default_method(mut self, config: MethodConfig) -> Self {
        if self.default.replace(config).is_some() {
            self.fault = Some(InvalidServiceConfig::Duplicate(String::new()));
        }
        self
    }

    /// Limits retries while many calls fail. Default: no limit.
    ///
    /// There is a bucket of `max_tokens`, at most 1000, which is full at first. Each attempt that fails in a way that its policy would
    /// retry takes one token, each call that succeeds brings back `token_ratio`, of which three decimals count. While
    /// the bucket is not more than half full, nothing is retried: the failures are returned at once.
    pub fn retry_throttling(mut self, max_tokens: f64, token_ratio: f64) -> Self {
        self.throttling = Some((max_tokens, token_ratio));
        self
    }

    /// Asks the servers how they are, and calls those alone that say that they serve `service`; see
    /// [`ChannelBuilder::health_check`](crate::client::ChannelBuilder::health_check), which comes before this one. Default: nobody is asked.
    #[cfg(feature = "health")]
    pub fn health_check(mut self, service: impl Into<String>) -> Self {
        self.health_check = Some(service.into().into());
        self
    }

    /// Makes the config.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidServiceConfig`] if there are two entries for the same methods, or a setting makes no sense.
    pub fn build(self) -> Result<ServiceConfig, InvalidServiceConfig> {
        let Self {
            methods,
            services,
            default,
            throttling,
            #[cfg(feature = "health")]
            health_check,
            fault,
        } = self;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let default = default.unwrap_or_default();
        for config in methods.values().chain(services.values()).chain([&default]) {
            config.check()?;
        }
        let throttling = throttling.map(|(max, ratio)| ThrottleSettings::new(max, ratio));
        Ok(ServiceConfig(Arc::new(Inner {
            methods,
            services,
            default,
            throttle: throttling.transpose()?.map(Throttle::new),
            #[cfg(feature = "health")]
            health_check,
        })))
    }
}

/// Adds an entry, or notes that there is one.
fn insert(
    entries: &mut HashMap<String, MethodConfig, foldhash::fast::RandomState>,
    key: String,
    config: MethodConfig,
    fault: &mut Option<InvalidServiceConfig>,
) {
    match entries.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(config);
        }
        Entry::Occupied(entry) => {
            *fault = Some(InvalidServiceConfig::Duplicate(entry.key().clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    const GET: Method = Method::unary("kv.Store", "Get", "/kv.Store/Get");

    fn secs(secs: u64) -> MethodConfig {
        MethodConfig::new().timeout(Duration::from_secs(secs))
    }

    #[test]
    fn the_most_specific_entry_applies_alone() {
        let config = ServiceConfig::builder()
            .default_method(secs(1).wait_for_ready(true))
            .service("kv.Store", secs(2))
            .method(&GET, secs(3))
            .build()
            .expect("the config is valid");
        let timeout = |path| {
            config
                .of_method(path)
                .timeout
                .map_or(0, |timeout| timeout.as_secs())
        };
        assert_eq!(timeout("/kv.Store/Get"), 3);
        assert_eq!(timeout("/kv.Store/Put"), 2);
        assert_eq!(timeout("/kv.Stored/Get"), 1);
        assert_eq!(timeout("kv.Store/Get"), 1);
        assert_eq!(timeout("/kv.Store"), 1);
        assert_eq!(timeout(""), 1);
        // Entries are not merged.
        assert_eq!(config.of_method("/kv.Store/Get").wait_for_ready, None);
    }

    #[test]
    fn without_an_entry_nothing_is_set() {
        let config = ServiceConfig::builder()
            .build()
            .expect("the config is valid");
        assert_eq!(*config.of_method("/kv.Store/Get"), MethodConfig::new());
        let config = ServiceConfig::builder()
            .service("a.B", secs(1))
            .build()
            .expect("the config is valid");
        assert_eq!(*config.of_method("/kv.Store/Get"), MethodConfig::new());
        assert_eq!(*config.of_method("/a.B/Get"), secs(1));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let twice = ServiceConfig::builder()
            .method(&GET, secs(1))
            .method_at("/kv.Store/Get", secs(1));
        let duplicate = |key: &str| InvalidServiceConfig::Duplicate(key.to_owned());
        assert_eq!(twice.build().err(), Some(duplicate("/kv.Store/Get")));
        let twice = ServiceConfig::builder()
            .service("kv.Store", secs(1))
            .service("kv.Store", secs(2));
        assert_eq!(twice.build().err(), Some(duplicate("kv.Store")));
        let twice = ServiceConfig::builder()
            .default_method(secs(1))
            .default_method(secs(2));
        let error = twice.build().expect_err("there is one default");
        assert_eq!(error, duplicate(""));
        let text = "there are two entries for all methods that have no other";
        assert_eq!(error.to_string(), text);

        let retry = |policy| MethodConfig::new().retry(policy);
        let bad = retry(RetryPolicy::new([Code::Ok]));
        for builder in [
            ServiceConfig::builder().method(&GET, bad.clone()),
            ServiceConfig::builder().service("kv.Store", bad.clone()),
            ServiceConfig::builder().default_method(bad),
        ] {
            let error = builder.build().expect_err("OK cannot be retried");
            assert!(matches!(error, InvalidServiceConfig::RetryPolicy(_)));
        }
        let throttled = ServiceConfig::builder().retry_throttling(0.0, 1.0).build();
        assert_eq!(throttled.err(), Some(InvalidServiceConfig::RetryThrottling));
    }

    #[test]
    fn clones_share_the_count_of_failures() {
        let retry = RetryPolicy::new([Code::Unavailable]);
        let config = ServiceConfig::builder()
            .default_method(MethodConfig::new().retry(retry))
            .retry_throttling(4.0, 1.0)
            .build()
            .expect("the config is valid");
        let clone = config.clone();
        let status = crate::Status::unavailable("down");
        let failure = super::super::attempts::Failure::Status {
            status: &status,
            seen: true,
        };
        let retried = |config: &ServiceConfig| {
            let method = config.of_method("/kv.Store/Get");
            let attempts = config.attempts(method, Idempotency::Idempotent);
            attempts
                .expect("there is a policy")
                .next(failure, None, 0.5)
                .is_some()
        };
        // One failure leaves three of four tokens, which is more than half; the next one leaves two.
        assert!(retried(&config));
        assert!(!retried(&clone));
        config.succeeded();
        clone.succeeded();
        assert!(retried(&clone));
    }
}
