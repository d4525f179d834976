//! Counts calls by method and by how they ended.
//!
//! The library reports them through the `metrics` crate. What becomes of that is up to the recorder: here, it is kept to be printed.

use std::{collections::BTreeSet, error::Error};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// What counts calls that are over.
const FINISHED: &str = "shmipc_rpc_calls_finished_total";

/// What has been counted in this process.
pub(crate) struct Counts(Snapshotter);

impl Counts {
    /// Begins to count. What was reported before is lost.
    pub(crate) fn begin() -> Result<Self, Box<dyn Error>> {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let installed = recorder.install();
        installed.map_err(|_| "something else counts already")?;
        Ok(Self(snapshotter))
    }

    /// Returns a line for each method and each way to end.
    pub(crate) fn lines(self) -> String {
        let mut lines = BTreeSet::new();
        for (key, _, _, value) in self.0.snapshot().into_vec() {
            let key = key.key();
            let label = |name: &str| {
                let mut labels = key.labels();
                labels.find(|label| label.key() == name)
            };
            if let (FINISHED, DebugValue::Counter(count)) = (key.name(), value)
                && let (Some(method), Some(code)) = (label("method"), label("code"))
            {
                lines.insert(format!("  {} {} {count}\n", method.value(), code.value()));
            }
        }
        lines.into_iter().collect()
    }
}
