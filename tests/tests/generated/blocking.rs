//! What blocks, with what does not at the other end.

use std::{
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use shmipc_rpc::{
    Code, Listener, Request, Response, ServeError, Server, Status,
    blocking::{self, Shutdown, Streaming},
};
use tests::{LONG, in_time};

use crate::{
    all_options::{
        Feature, Point, Summary,
        route_guide_blocking::{RouteGuide, RouteGuideClient, RouteGuideServer},
        route_guide_client, route_guide_server,
    },
    guide::{Guide, feature, point, tour},
};

/// What [`Guide`] knows, for those who wait.
struct Waiting;

impl RouteGuide for Waiting {
    fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
        Ok(Response::new(feature(request.into_inner())))
    }

    fn list_features(
        &self,
        request: Request<Point>,
    ) -> Result<Response<impl Iterator<Item = Result<Feature, Status>> + Send + 'static>, Status>
    {
        let features = (0..request.into_inner().latitude).map(|n| Ok(feature(point(n))));
        Ok(Response::new(features))
    }

    fn record_route(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<Summary>, Status> {
        let mut points = 0;
        for point in request.into_inner() {
            let _: Point = point?;
            points += 1;
        }
        Ok(Response::new(Summary { points }))
    }

    fn route_chat(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<impl Iterator<Item = Result<Feature, Status>> + Send + 'static>, Status>
    {
        let points = request.into_inner();
        Ok(Response::new(points.map(|point| point.map(feature))))
    }
}

/// Calls the methods of a guide from this thread.
fn waiting_tour(client: &RouteGuideClient) {
    let reply = client.get_feature(point(3)).unwrap();
    assert_eq!(reply.into_inner(), feature(point(3)));

    let listed: Result<Vec<_>, _> = client
        .list_features(point(3))
        .unwrap()
        .into_inner()
        .collect();
    assert_eq!(listed.unwrap(), [0, 1, 2].map(|n| feature(point(n))));

    let recorded = client.record_route([1, 2, 3].map(point)).unwrap();
    assert_eq!(recorded.into_inner().points, 3);
    let mut request = Request::new(vec![point(1)]);
    request.set_timeout(LONG);
    let recorded = client.record_route(request).unwrap();
    assert_eq!(recorded.into_inner().points, 1);

    let mut chat = client.route_chat(()).unwrap();
    for n in [7, 8] {
        chat.send(&point(n)).unwrap();
        assert_eq!(chat.message().unwrap(), Some(feature(point(n))));
    }
    chat.finish().unwrap();
    assert_eq!(chat.message().unwrap(), None);
}

/// A server with threads, for as long as a test lasts.
struct Served {
    address: PathBuf,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    _directory: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        Self::with(RouteGuideServer::new(Waiting))
    }

    fn with(service: RouteGuideServer<Waiting>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("guide.sock");
        let listener = shmipc_transport::blocking::Listener::bind(address.as_path()).unwrap();
        let server = blocking::Server::builder().add_service(service);
        let shutdown = Shutdown::new();
        let begun = shutdown.clone();
        let serve = move || server.serve_with_listener_and_shutdown(listener, &begun);
        Self {
            address,
            shutdown,
            thread: Some(thread::spawn(serve)),
            _directory: directory,
        }
    }

    fn client(&self) -> RouteGuideClient {
        RouteGuideClient::connect(self.address.as_path()).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.begin();
        let served = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            served.unwrap().unwrap().unwrap();
        }
    }
}

#[test]
fn threads_are_served_by_threads() {
    let served = Served::new();
    let client = served.client();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| waiting_tour(&client));
        }
    });
    // Left to its stub.
    #[expect(deprecated, reason = "it is the one that is left to its stub")]
    let status = client.tick(()).unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[test]
fn a_service_has_limits_of_its_own() {
    let limited = RouteGuideServer::new(Waiting).max_request_size(2);
    let served = Served::with(limited.clone());
    let client = served.client();
    assert!(client.get_feature(point(1)).is_ok());
    let status = client.get_feature(point(1 << 20)).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let served = Served::with(limited.max_response_size(1));
    let status = served.client().get_feature(point(1)).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_are_served_by_a_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let address = directory.path().join("guide.sock");
    let listener = Listener::bind(address.as_path()).unwrap();
    let service = route_guide_server::RouteGuideServer::new(Guide);
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_listener(listener));
    let touring = tokio::task::spawn_blocking(move || {
        waiting_tour(&RouteGuideClient::connect(address).unwrap());
    });
    in_time("a thread among tasks", touring).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_is_served_by_threads() {
    let served = Served::new();
    let address: &Path = &served.address;
    let client = route_guide_client::RouteGuideClient::connect(address).await;
    in_time("tasks among threads", tour(&client.unwrap())).await;
    tokio::task::spawn_blocking(|| drop(served)).await.unwrap();
}
