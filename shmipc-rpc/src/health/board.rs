//! What is known of the health of services, for many to watch.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use super::ServingStatus;
use crate::server::Draining;

/// The name that stands for the server as a whole.
pub(super) const OVERALL: &str = "";

/// Shared by whoever tells and whoever asks.
#[derive(Clone, Debug)]
pub(super) struct Board(Arc<watch::Sender<Statuses>>);

#[derive(Debug)]
struct Statuses {
    by_name: BTreeMap<String, ServingStatus>,
    /// The server goes out of service, and nothing changes any more.
    is_final: bool,
}

impl Board {
    pub(super) fn new() -> Self {
        let overall = (OVERALL.to_owned(), ServingStatus::Serving);
        Self(Arc::new(watch::Sender::new(Statuses {
            by_name: BTreeMap::from([overall]),
            is_final: false,
        })))
    }

    /// Sets the status of a service; `None` removes it.
    pub(super) fn set(&self, service: String, status: Option<ServingStatus>) {
        self.0.send_if_modified(|statuses| {
            if statuses.is_final {
                return false;
            }
            let by_name = &mut statuses.by_name;
            let previous = match status {
                Some(status) => by_name.insert(service, status),
                None => by_name.remove(&service),
            };
            previous != status
        });
    }

    /// Says of all services that they do not serve, for good.
    pub(super) fn finish(&self) {
        self.0.send_if_modified(|statuses| {
            let changes = !statuses.is_final;
            statuses.is_final = true;
            changes
        });
    }

    /// Returns how a service is, if anything is known of it.
    pub(super) fn get(&self, service: &str, draining: &Draining) -> Option<ServingStatus> {
        self.0.borrow().get(service, draining)
    }

    /// Returns everything that is known, or `None` if that is more than `most` services.
    pub(super) fn all(
        &self,
        most: usize,
        draining: &Draining,
    ) -> Option<Vec<(String, ServingStatus)>> {
        let statuses = self.0.borrow();
        let names = statuses.by_name.keys();
        let all = names.filter_map(|name| Some((name.clone(), statuses.get(name, draining)?)));
        (statuses.by_name.len() <= most).then(|| all.collect())
    }

    pub(super) fn watch(&self, service: String, draining: Draining) -> Watching {
        Watching {
            statuses: self.0.subscribe(),
            _board: self.clone(),
            draining,
            service,
            told: None,
        }
    }
}

impl Statuses {
    fn get(&self, service: &str, draining: &Draining) -> Option<ServingStatus> {
        let status = self.by_name.get(service).copied()?;
        Some(if self.is_final || draining.has_begun() {
            ServingStatus::NotServing
        } else {
            status
        })
    }
}

/// Follows the status of one service. If it changes more quickly than it is asked for, what lies between is skipped, but never
/// the last.
#[derive(Debug)]
pub(super) struct Watching {
    statuses: watch::Receiver<Statuses>,
    /// So that there always is somebody who could change it.
    _board: Board,
    draining: Draining,
    service: String,
    told: Option<ServingStatus>,
}

impl Watching {
    /// Waits until there is something new to tell. `None`: there never will be.
    pub(super) async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let (status, is_last) = {
                let statuses = self.statuses.borrow_and_update();
                // Looked at first: if it begins between the two looks, there is one more.
                let is_last = statuses.is_final || self.draining.has_begun();
                (statuses.get(&self.service, &self.draining), is_last)
            };
            let status = status.unwrap_or(ServingStatus::ServiceUnknown);
            if self.told.replace(status) != Some(status) {
                return Some(status);
            }
            if is_last {
                return None;
            }
            tokio::select! {
                changed = self.statuses.changed() => changed.ok()?,
                () = self.draining.begun() => {}
            }
        }
    }
}
