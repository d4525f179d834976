//! Counts calls by method and by how they ended.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use shmipc_rpc::{
    Code, Status,
    interceptor::{Answer, Call, Interceptor, Next},
};

/// What has been counted. Clones share it.
///
/// Calls that their caller gave up are not counted: the interceptor's future is dropped with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Arc<Mutex<BTreeMap<(String, &'static str), u64>>>);

impl Interceptor for Metrics {
    async fn intercept(&self, call: Call, next: Next) -> Result<Answer, Status> {
        let method = format!("{}/{}", call.service(), call.method());
        let answer = next.run(call).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((method, code.name())).or_default() += 1;
        drop(counts);
        answer
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((method, code), count) in &*counts {
            writeln!(f, "  {method} {code} {count}")?;
        }
        Ok(())
    }
}
