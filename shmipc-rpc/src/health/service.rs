//! The answers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;

use super::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse, ServingStatus,
    board::{Board, Watching},
    health_server::Health,
};
use crate::{Request, Response, ResponseStream, Status};

/// As many services are listed at most, by the protocol.
const LISTED_MAX: usize = 100;

/// Answers questions for the health of a server. Made by [`HealthReporter::service`](super::HealthReporter::service), and, for threads,
/// by [`HealthReporter::blocking_service`](super::HealthReporter::blocking_service).
#[derive(Debug)]
pub struct HealthService {
    board: Board,
}

impl HealthService {
    pub(super) fn new(board: Board) -> Self {
        Self { board }
    }
}

pub(super) fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

impl HealthService {
    /// Says how a service is.
    pub(super) fn checked(
        &self,
        request: &Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        match self.board.get(service, &request.draining()) {
            Some(status) => Ok(Response::new(response(status))),
            None => Err(Status::not_found(format!(
                "nothing is known of the health of {service:?}"
            ))),
        }
    }

    /// Says how all services are.
    pub(super) fn listed(
        &self,
        request: &Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let Some(statuses) = self.board.all(LISTED_MAX, &request.draining()) else {
            return Err(Status::resource_exhausted(format!(
                "there are more than {LISTED_MAX} services: check or watch them one by one"
            )));
        };
        let statuses = statuses.into_iter();
        Ok(Response::new(HealthListResponse {
            statuses: statuses
                .map(|(name, status)| (name, response(status)))
                .collect(),
        }))
    }

    /// Follows the status of a service.
    pub(super) fn watching(&self, request: Request<HealthCheckRequest>) -> Watching {
        let draining = request.draining();
        self.board.watch(request.into_inner().service, draining)
    }
}

impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.checked(&request)
    }

    async fn list(
        &self,
        request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        self.listed(&request)
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<impl ResponseStream<HealthCheckResponse>>, Status> {
        Ok(Response::new(Changes::of(self.watching(request))))
    }
}

/// What there is to tell, and who tells more.
type Next = Option<(ServingStatus, Watching)>;

async fn next(mut watching: Watching) -> Next {
    let status = watching.next().await?;
    Some((status, watching))
}

/// The statuses of a service, as they change.
struct Changes {
    /// `None` after the last.
    next: Option<Pin<Box<dyn Future<Output = Next> + Send>>>,
}

impl Changes {
    fn of(watching: Watching) -> Self {
        Self {
            next: Some(Box::pin(next(watching))),
        }
    }
}

impl Stream for Changes {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let Some((status, watching)) = ready!(next.as_mut().poll(cx)) else {
            self.next = None;
            return Poll::Ready(None);
        };
        *self = Self::of(watching);
        Poll::Ready(Some(Ok(response(status))))
    }
}
