//! Whether a server that can be reached also serves: gRPC's client-side health checking.
//!
//! What is known holds for one connection, by its number: after it, the next is asked anew. There is a task per member that has
//! a connection, from when a call first looks at it: it asks, notes what it hears, asks again after a pause if it hears no more, and
//! ends with the connection, or with the channel. Where a server does not know how it is, the task ends as well, and what it has
//! noted stays.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use http::HeaderMap;
use shmipc_transport::Backoff;
use tokio::{
    sync::{Notify, futures::Notified},
    task::AbortHandle,
};

use crate::{
    Code, Status, Streaming,
    body::Borrowed,
    client::{channel::SizeLimits, direct::Terms, member::Member},
    deadline,
    health::{HealthCheckRequest, HealthCheckResponse, ServingStatus, health_methods::WATCH},
};

/// No connection has this number.
const NONE: u64 = 0;

/// What is known of the health of a member. When it is dropped, nobody asks any more.
#[derive(Debug)]
pub(super) struct Health {
    known: Arc<Known>,
    task: Mutex<Option<AbortHandle>>,
}

/// What the asking task and the calls share.
#[derive(Debug)]
struct Known {
    service: Arc<str>,
    /// The number of the connection over which it serves.
    serving: AtomicU64,
    /// Why it does not, and over which connection that was said.
    trouble: Mutex<Option<(u64, Status)>>,
    /// Whether something was wrong since it served last.
    has_failed: AtomicBool,
    is_asked: AtomicBool,
    /// Wakes those who wait for a change.
    changed: Notify,
}

/// What may be expected of a member that is connected, as far as is known.
pub(super) enum Verdict {
    /// It is not connected any more.
    Lost,
    Serves,
    /// It has not answered yet.
    Unknown,
    /// It does not serve, for this reason.
    Unhealthy(Status),
}

impl Health {
    pub(super) fn new(service: Arc<str>) -> Self {
        Self {
            known: Arc::new(Known {
                service,
                serving: AtomicU64::new(NONE),
                trouble: Mutex::default(),
                has_failed: AtomicBool::new(false),
                is_asked: AtomicBool::new(false),
                changed: Notify::new(),
            }),
            task: Mutex::default(),
        }
    }

    /// Whether `member` serves. If nobody asks it, somebody begins to.
    pub(super) fn serves(&self, member: &Member) -> bool {
        matches!(self.verdict(member), Verdict::Serves)
    }

    /// Tells what may be expected of `member`, which is connected. If nobody asks it, somebody begins to.
    pub(super) fn verdict(&self, member: &Member) -> Verdict {
        let Some(generation) = member.generation() else {
            return Verdict::Lost;
        };
        if self.known.serving.load(Ordering::Acquire) == generation {
            return Verdict::Serves;
        }
        self.ask(member);
        match &*self.known.trouble() {
            Some((of, status)) if *of == generation => Verdict::Unhealthy(status.clone()),
            _ => Verdict::Unknown,
        }
    }

    /// Whether something was wrong since it served last: it said so, did not say anything, or could not be reached.
    pub(super) fn has_failed(&self, member: &Member) -> bool {
        if member.has_failed() {
            // Remembered while it is connected anew and asked.
            self.known.has_failed.store(true, Ordering::Relaxed);
            return true;
        }
        self.known.has_failed.load(Ordering::Relaxed)
    }

    /// Waits for something to be known.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.known.changed.notified()
    }

    fn ask(&self, member: &Member) {
        if self.known.is_asked.load(Ordering::Acquire) {
            return;
        }
        // Locked until it is clear whose task it is: otherwise a later one's handle could be overwritten by an earlier one's.
        let mut task = self.task();
        if self.known.is_asked.swap(true, Ordering::AcqRel) {
            return;
        }
        let asking = Asking(Arc::clone(&self.known));
        let member = member.clone();
        let spawned = tokio::spawn(async move { asking.run(&member).await });
        *task = Some(spawned.abort_handle());
    }

    fn task(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        // It is replaced as a whole.
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if let Some(task) = &*self.task() {
            task.abort();
        }
    }
}

impl Known {
    fn trouble(&self) -> MutexGuard<'_, Option<(u64, Status)>> {
        // It is replaced as a whole.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_serving(&self, generation: u64) {
        *self.trouble() = None;
        self.has_failed.store(false, Ordering::Relaxed);
        self.serving.store(generation, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn note_trouble(&self, generation: u64, status: Status) {
        tracing::debug!(target: "shmipc_rpc::client", %status, "server is not healthy");
        *self.trouble() = Some((generation, status.unsent()));
        self.has_failed.store(true, Ordering::Relaxed);
        self.serving.store(NONE, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// The right to ask, which one task has at a time. However that ends, those who wait are woken: one of them asks again if need
/// be.
struct Asking(Arc<Known>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.is_asked.store(false, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

impl Asking {
    /// Asks for as long as there is a connection, or until it is clear that there will be no answer.
    async fn run(self, member: &Member) {
        let mut backoff = Backoff::default();
        while let Some(generation) = member.generation() {
            let failed = tokio::select! {
                failed = self.follow(member, generation, &mut backoff) => failed,
                () = member.left(generation) => continue,
            };
            let Some(failed) = failed else { continue };
            if failed.code() == Code::Unimplemented {
                tracing::warn!(
                    target: "shmipc_rpc::client",
                    endpoint = %place(member),
                    "the server does not tell how it is, and is taken to be healthy",
                );
                return self.0.note_serving(generation);
            }
            // What ends with the connection says nothing of the next.
            if member.generation() == Some(generation) {
                let message = format!("the health of {} cannot be watched", place(member));
                let status = Status::unavailable(message).with_source(failed);
                self.0.note_trouble(generation, status);
            }
            let until = deadline::after(backoff.next_delay());
            // Whether it was left or the time has come: look again.
            let _ = deadline::within(until, member.left(generation)).await;
        }
    }

    /// Asks once, and notes what is answered for as long as it is. Returns how that failed; `None`: it was another connection.
    async fn follow(
        &self,
        member: &Member,
        generation: u64,
        backoff: &mut Backoff,
    ) -> Option<Status> {
        let mut changes = match self.watch(member).await {
            Ok(changes) => changes,
            Err(status) => return Some(status),
        };
        while member.generation() == Some(generation) {
            match changes.message().await {
                Ok(Some(change)) => {
                    *backoff = Backoff::default();
                    self.note(member, generation, change.status());
                }
                Ok(None) => return Some(Status::unavailable("the watch has ended")),
                Err(status) => return Some(status),
            }
        }
        None
    }

    async fn watch(&self, member: &Member) -> Result<Streaming<HealthCheckResponse>, Status> {
        let request = HealthCheckRequest {
            service: self.0.service.as_ref().to_owned(),
        };
        let terms = Terms {
            deadline: None,
            wait_for_ready: false,
            limits: SizeLimits::default(),
            #[cfg(feature = "grpc")]
            compression: Default::default(),
        };
        let mut message = Borrowed(&request);
        let metadata = HeaderMap::new();
        let outcome = member.one(WATCH.path(), &metadata, &mut message, terms);
        Ok(outcome.await??.into_streaming().into_inner())
    }

    fn note(&self, member: &Member, generation: u64, status: ServingStatus) {
        if status == ServingStatus::Serving {
            return self.0.note_serving(generation);
        }
        let (service, place, status) = (&self.0.service, place(member), status.as_str_name());
        let message = if service.is_empty() {
            format!("{place} says that it is {status}")
        } else {
            format!("{place} says that {service} is {status}")
        };
        self.0
            .note_trouble(generation, Status::unavailable(message));
    }
}

/// What a member is called in messages.
fn place(member: &Member) -> String {
    match member.endpoint() {
        Some(endpoint) => format!("the server at {endpoint}"),
        None => "the server".to_owned(),
    }
}
