//! The same answers, from threads.

use super::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse, HealthService,
    board::Watching, health_blocking::Health, service::response,
};
use crate::{Request, Response, Status, blocking::waiting::Waiting};

impl Health for HealthService {
    fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.checked(&request)
    }

    fn list(
        &self,
        request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        self.listed(&request)
    }

    fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<
        Response<impl Iterator<Item = Result<HealthCheckResponse, Status>> + Send + 'static>,
        Status,
    > {
        let waiting = Waiting::of(&request);
        let watching = self.watching(request);
        Ok(Response::new(Changes { watching, waiting }))
    }
}

/// The statuses of a service, as they change, until there will be no more of them or nobody waits.
struct Changes {
    watching: Watching,
    waiting: Waiting,
}

impl Iterator for Changes {
    type Item = Result<HealthCheckResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let status = self.waiting.wait_for(self.watching.next())??;
        Some(Ok(response(status)))
    }
}
