//! What a client does of its own accord: how long calls may take, how large messages may be, and when a failed call is made
//! again.
//!
//! Everything here is pure: no clock, no timer, no source of chance. The channel brings those.

mod attempts;
#[cfg(feature = "service-config-json")]
mod json;
mod retry;
mod service_config;
mod throttle;

pub(crate) use self::attempts::{Attempts, Failure};
pub use self::{
    retry::RetryPolicy,
    service_config::{InvalidServiceConfig, MethodConfig, ServiceConfig, ServiceConfigBuilder},
};
