//! The JSON in which gRPC's name resolvers deliver service configs.

use std::time::Duration;

use serde::Deserialize;

use super::{
    retry::RetryPolicy,
    service_config::{InvalidServiceConfig, MethodConfig, ServiceConfig},
};
use crate::Code;

impl ServiceConfig {
    /// Reads a service config in the JSON form that gRPC has for it.
    ///
    /// `methodConfig` and `retryThrottling` are read, and with the feature `health` also `healthCheckConfig`. Other members,
    /// such as `loadBalancingConfig` and `hedgingPolicy`, mean nothing here and are left out. As in gRPC, whoever writes a retry policy vouches for its methods: it applies
    /// [even if they are not idempotent](RetryPolicy::even_if_not_idempotent).
    ///
    /// # Errors
    ///
    /// Returns [`InvalidServiceConfig`] if it is malformed, there are two entries for the same methods, or a setting makes no
    /// sense.
    ///
    /// # Examples
    ///
    /// ```
    /// use shmipc_rpc::client::ServiceConfig;
    ///
    /// let config = ServiceConfig::from_json(
    ///     r#"{
    ///         "methodConfig": [{
    ///             "name": [{ "service": "kv.Store", "method": "Get" }],
    ///             "timeout": "0.2s",
    ///             "retryPolicy": {
    ///                 "maxAttempts": 3,
    ///                 "initialBackoff": "0.01s",
    ///                 "maxBackoff": "1s",
    ///                 "backoffMultiplier": 2,
    ///                 "retryableStatusCodes": ["UNAVAILABLE"]
    ///             }
    ///         }],
    ///         "retryThrottling": { "maxTokens": 100, "tokenRatio": 0.1 }
    ///     }"#,
    /// )?;
    /// # Ok::<(), shmipc_rpc::client::InvalidServiceConfig>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self, InvalidServiceConfig> {
        let root: Root = serde_json::from_str(json)
            .map_err(|error| fault(format!("it is malformed: {error}")))?;
        let mut builder = Self::builder();
        for entry in root.method_config {
            let config = entry.settings.read()?;
            for Name { service, method } in entry.name {
                builder = match (service.as_str(), method.as_str()) {
                    ("", "") => builder.default_method(config.clone()),
                    ("", method) => {
                        return Err(fault(format!("the method {method:?} has no service")));
                    }
                    (_, "") => builder.service(service, config.clone()),
                    (service, method) => {
                        builder.method_at(format!("/{service}/{method}"), config.clone())
                    }
                };
            }
        }
        if let Some(throttling) = root.retry_throttling {
            builder = builder.retry_throttling(throttling.max_tokens, throttling.token_ratio);
        }
        #[cfg(feature = "health")]
        if let Some(service) = root
            .health_check_config
            .and_then(|config| config.service_name)
        {
            builder = builder.health_check(service);
        }
        builder.build()
    }
}

fn fault(what: impl Into<String>) -> InvalidServiceConfig {
    InvalidServiceConfig::Json(what.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    #[serde(default)]
    method_config: Vec<Entry>,
    retry_throttling: Option<Throttling>,
    #[cfg(feature = "health")]
    health_check_config: Option<HealthCheck>,
}

#[cfg(feature = "health")]
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HealthCheck {
    service_name: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    name: Vec<Name>,
    #[serde(flatten)]
    settings: Settings,
}

#[derive(Deserialize)]
struct Name {
    #[serde(default)]
    service: String,
    #[serde(default)]
    method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    wait_for_ready: Option<bool>,
    timeout: Option<String>,
    max_request_message_bytes: Option<Number>,
    max_response_message_bytes: Option<Number>,
    retry_policy: Option<Retry>,
}

/// A whole number. The JSON of protobuf writes large ones as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Retry {
    max_attempts: u32,
    initial_backoff: String,
    max_backoff: String,
    backoff_multiplier: f64,
    retryable_status_codes: Vec<StatusCode>,
    per_attempt_recv_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StatusCode {
    Name(String),
    Number(u32),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    max_tokens: f64,
    token_ratio: f64,
}

impl Settings {
    fn read(self) -> Result<MethodConfig, InvalidServiceConfig> {
        Ok(MethodConfig {
            timeout: self.timeout.as_deref().map(duration).transpose()?,
            wait_for_ready: self.wait_for_ready,
            request_len_max: self
                .max_request_message_bytes
                .map(Number::read)
                .transpose()?,
            response_len_max: self
                .max_response_message_bytes
                .map(Number::read)
                .transpose()?,
            retry: self.retry_policy.map(Retry::read).transpose()?,
        })
    }
}

impl Number {
    fn read(self) -> Result<usize, InvalidServiceConfig> {
        let number = match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => text.parse().ok(),
        };
        // More than there can be is no limit.
        let number = number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        number.ok_or_else(|| fault("a size is not a whole number"))
    }
}

impl Retry {
    fn read(self) -> Result<RetryPolicy, InvalidServiceConfig> {
        let codes: Result<Vec<_>, _> = self
            .retryable_status_codes
            .iter()
            .map(StatusCode::read)
            .collect();
        let policy = RetryPolicy::new(codes?)
            .max_attempts(self.max_attempts)
            .backoff(
                duration(&self.initial_backoff)?,
                duration(&self.max_backoff)?,
            )
            .multiplier(self.backoff_multiplier)
            .even_if_not_idempotent();
        Ok(match self.per_attempt_recv_timeout {
            Some(timeout) => policy.attempt_timeout(duration(&timeout)?),
            None => policy,
        })
    }
}

impl StatusCode {
    fn read(&self) -> Result<Code, InvalidServiceConfig> {
        let found = Code::ALL.into_iter().find(|code| match self {
            Self::Name(name) => code.name().eq_ignore_ascii_case(name),
            Self::Number(number) => code.as_u32() == *number,
        });
        found.ok_or_else(|| match self {
            Self::Name(name) => fault(format!("there is no status code {name:?}")),
            Self::Number(number) => fault(format!("there is no status code {number}")),
        })
    }
}

/// Reads the JSON form of a `google.protobuf.Duration`: decimal seconds with up to nine digits after the point, and an `s`.
fn duration(text: &str) -> Result<Duration, InvalidServiceConfig> {
    const NANOS_DIGITS: usize = 9;

    let parse = || {
        let number = text.strip_suffix('s')?;
        let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if number.is_empty() || number == "." || !digits(seconds) || !digits(fraction) {
            return None;
        }
        if NANOS_DIGITS < fraction.len() {
            return None;
        }
        let seconds = if seconds.is_empty() { "0" } else { seconds };
        let nanos = format!("{fraction:0<NANOS_DIGITS$}");
        Some(Duration::new(seconds.parse().ok()?, nanos.parse().ok()?))
    };
    parse().ok_or_else(|| fault(format!("{text:?} is no duration, such as \"1.5s\"")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn everything_is_read() {
        let config = ServiceConfig::from_json(
            r#"{
                "loadBalancingConfig": [{ "round_robin": {} }],
                "methodConfig": [
                    { "name": [{}], "waitForReady": true },
                    {
                        "name": [{ "service": "a.A" }, { "service": "b.B", "method": "Run" }],
                        "timeout": "1.000000001s",
                        "maxRequestMessageBytes": 1024,
                        "maxResponseMessageBytes": "2048",
                        "retryPolicy": {
                            "maxAttempts": 4,
                            "initialBackoff": ".1s",
                            "maxBackoff": "1s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": ["UNAVAILABLE", "aborted", 8],
                            "perAttemptRecvTimeout": "0.05s"
                        }
                    }
                ],
                "retryThrottling": { "maxTokens": 10, "tokenRatio": 0.1 }
            }"#,
        )
        .expect("it is valid");
        let expected = MethodConfig::new()
            .timeout(Duration::new(1, 1))
            .max_request_size(1024)
            .max_response_size(2048)
            .retry(
                RetryPolicy::new([Code::Unavailable, Code::Aborted, Code::ResourceExhausted])
                    .max_attempts(4)
                    .backoff(Duration::from_millis(100), Duration::from_secs(1))
                    .multiplier(2.0)
                    .attempt_timeout(Duration::from_millis(50))
                    .even_if_not_idempotent(),
            );
        assert_eq!(*config.of_method("/a.A/Any"), expected);
        assert_eq!(*config.of_method("/b.B/Run"), expected);
        let default = MethodConfig::new().wait_for_ready(true);
        assert_eq!(*config.of_method("/b.B/Other"), default);
    }

    #[cfg(feature = "health")]
    #[test]
    fn whose_health_is_watched_is_read() {
        let read =
            |json| ServiceConfig::from_json(json).map(|config| config.health_check().cloned());
        let named = r#"{"healthCheckConfig": {"serviceName": "a.A"}}"#;
        assert_eq!(read(named), Ok(Some("a.A".into())));
        let overall = r#"{"healthCheckConfig": {"serviceName": ""}}"#;
        assert_eq!(read(overall), Ok(Some("".into())));
        assert_eq!(read(r#"{"healthCheckConfig": {}}"#), Ok(None));
        assert_eq!(read("{}"), Ok(None));
        assert!(read(r#"{"healthCheckConfig": {"serviceName": 1}}"#).is_err());
    }

    #[test]
    fn an_empty_object_is_a_config() {
        let config = ServiceConfig::from_json("{}").expect("it is valid");
        assert_eq!(*config.of_method("/a.A/Any"), MethodConfig::new());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            "",
            "[]",
            r#"{"methodConfig": [{"name": [{"method": "Run"}]}]}"#,
            r#"{"methodConfig": [{"name": [{"service": "a.A"}, {"service": "a.A"}]}]}"#,
            r#"{"methodConfig": [{"name": [{}], "timeout": "1"}]}"#,
            r#"{"methodConfig": [{"name": [{}], "timeout": 1}]}"#,
            r#"{"methodConfig": [{"name": [{}], "maxRequestMessageBytes": -1}]}"#,
            r#"{"methodConfig": [{"name": [{}], "maxRequestMessageBytes": "many"}]}"#,
            r#"{"methodConfig": [{"name": [{}], "retryPolicy": {}}]}"#,
            r#"{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 1, "initialBackoff": "1s",
                "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}"#,
            r#"{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s",
                "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": ["SOMETIMES"]}}]}"#,
            r#"{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s",
                "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": []}}]}"#,
            r#"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#,
        ] {
            assert!(ServiceConfig::from_json(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("3.s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration(".25s"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0.000000001s"), Ok(Duration::from_nanos(1)));
        for wrong in [
            "",
            "s",
            ".s",
            "1",
            "-1s",
            "+1s",
            "1ms",
            "1.s5",
            "1.0000000001s",
            "1e3s",
            "99999999999999999999s",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_may_be_called_a_config(text: String) {
            let _ = ServiceConfig::from_json(&text);
            let _ = duration(&text);
        }

        #[test]
        fn durations_round_trip(seconds: u64, nanos in 0..1_000_000_000u32) {
            prop_assert_eq!(duration(&format!("{seconds}.{nanos:09}s")), Ok(Duration::new(seconds, nanos)));
        }
    }
}
