use super::{
    HealthServer, HealthService, ServingStatus,
    board::{Board, OVERALL},
    health_blocking,
};
use crate::server::Draining;

/// Tells how the services of a server are, and makes the [service](Self::service) that passes it on. Clones tell of the same server.
///
/// At first, the server as a whole serves, and nothing is known of its services: who asks for one learns that there is none. To
/// tell is cheap and never waits. Once a server drains, it says of all that is known that it does not serve any more.
#[derive(Clone, Debug)]
pub struct HealthReporter {
    board: Board,
}

impl HealthReporter {
    /// Begins with a server that serves as a whole.
    #[must_use]
    pub fn new() -> Self {
        Self {
            board: Board::new(),
        }
    }

    /// Makes the service that passes on what this reporter, or a clone, is told. It may outlive them, and says then what it was
    /// told last.
    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::new(self.board.clone()))
    }

    /// As [`service`](Self::service), for a server with threads.
    ///
    /// Each watch keeps one of its [threads](crate::blocking::Server::handler_threads), until its caller has gone or the server
    /// drains.
    pub fn blocking_service(&self) -> health_blocking::HealthServer<HealthService> {
        health_blocking::HealthServer::new(HealthService::new(self.board.clone()))
    }

    /// Says that a service can be called. It is named in full, as `helloworld.Greeter`; the empty name stands for the
    /// [server as a whole](Self::set_overall).
    pub fn set_serving(&self, service: impl Into<String>) {
        self.set(service, ServingStatus::Serving);
    }

    /// Says that a service cannot be called, or should not be any more.
    pub fn set_not_serving(&self, service: impl Into<String>) {
        self.set(service, ServingStatus::NotServing);
    }

    /// Says how a service is. [`ServingStatus::ServiceUnknown`] has the effect of [`clear`](Self::clear).
    pub fn set(&self, service: impl Into<String>, status: ServingStatus) {
        let known = (status != ServingStatus::ServiceUnknown).then_some(status);
        self.board.set(service.into(), known);
    }

    /// Says how the server is as a whole, which is what those are told who name no service. It follows from the status of no
    /// service.
    pub fn set_overall(&self, status: ServingStatus) {
        self.set(OVERALL, status);
    }

    /// Says that there is no such service. Those who watch it learn [`ServingStatus::ServiceUnknown`], and wait for it to return.
    pub fn clear(&self, service: impl Into<String>) {
        self.board.set(service.into(), None);
    }

    /// Returns what callers are told of a service. `None`: nothing was said, or that there is none.
    #[must_use]
    pub fn status(&self, service: &str) -> Option<ServingStatus> {
        self.board.get(service, &Draining::default())
    }

    /// Says that the server goes out of service: nothing that is known serves any more, and what is said from now on is ignored.
    /// Those who watch learn it, and then their calls end.
    ///
    /// A server that drains has the same effect on its own callers by itself. This is for those who want load balancers to look
    /// elsewhere a while before.
    pub fn shut_down(&self) {
        self.board.finish();
    }
}

impl Default for HealthReporter {
    fn default() -> Self {
        Self::new()
    }
}
