//! What can be served: an implementation, an object, one that owns itself, and one that does not do everything.

use std::sync::Arc;

use shmipc_rpc::{
    Channel, Code, Endpoint, Listener, Request, Response, ResponseStream, Server, Status, Streaming,
};
use tests::in_time;
use tokio_stream::StreamExt as _;

use crate::{
    all_options::{
        Feature, Point,
        route_guide_client::RouteGuideClient,
        route_guide_server::{DynRouteGuide, RouteGuide, RouteGuideServer},
    },
    arc_self,
    guide::{Guide, feature, point, tour},
};

/// Serves over shared memory for as long as a test lasts.
async fn served(service: impl RouteGuide) -> (tempfile::TempDir, RouteGuideClient) {
    let directory = tempfile::tempdir().unwrap();
    let address = directory.path().join("guide.sock");
    let listener = Listener::bind(address.as_path()).unwrap();
    let server = Server::builder().add_service(RouteGuideServer::new(service));
    tokio::spawn(server.serve_with_listener(listener));
    let client = RouteGuideClient::connect(address).await.unwrap();
    (directory, client)
}

#[tokio::test]
async fn all_kinds_of_calls_reach_an_implementation() {
    let (_directory, client) = served(Guide).await;
    in_time("over shared memory", tour(&client)).await;

    let client = RouteGuideClient::new(RouteGuideServer::new(Guide));
    in_time("without a channel", tour(&client)).await;

    let channel = Channel::in_process(RouteGuideServer::new(Guide));
    let client = RouteGuideClient::new(channel);
    in_time("within the process", tour(&client)).await;
}

#[tokio::test]
async fn all_kinds_of_calls_reach_an_object() {
    let shared: Arc<dyn DynRouteGuide> = Arc::new(Guide);
    let (_directory, client) = served(Arc::clone(&shared)).await;
    in_time("an Arc", tour(&client)).await;
    drop(client);

    let owned: Box<dyn DynRouteGuide> = Box::new(shared);
    let (_directory, client) = served(owned).await;
    in_time("a Box of an Arc", tour(&client)).await;
}

#[tokio::test]
async fn a_server_limits_the_messages_of_its_service() {
    async fn check(endpoint: Endpoint) {
        let client = RouteGuideClient::connect(endpoint.clone()).await.unwrap();
        // A number in a message takes between two and eleven bytes, and a feature says it twice.
        let short = client.get_feature(point(1)).await.unwrap();
        assert_eq!(short.into_inner(), feature(point(1)));
        let long_request = client.get_feature(point(-1)).await.unwrap_err();
        assert_eq!(long_request.code(), Code::ResourceExhausted, "{endpoint}");
        let long_response = client.get_feature(point(1_000_000)).await.unwrap_err();
        assert_eq!(long_response.code(), Code::ResourceExhausted, "{endpoint}");
        assert_ne!(long_request.message(), long_response.message());

        let points = [point(1), point(-1)];
        let mut chat = client.route_chat(tokio_stream::iter(points)).await;
        let failed = loop {
            match chat {
                Err(status) => break status,
                Ok(ref mut features) => match features.get_mut().message().await {
                    Ok(read) => assert_eq!(read, Some(feature(point(1)))),
                    Err(status) => break status,
                },
            }
        };
        assert_eq!(failed.code(), Code::ResourceExhausted, "{endpoint}");
    }
    let directory = tempfile::tempdir().unwrap();
    let limited = RouteGuideServer::new(Guide)
        .max_request_size(8)
        .max_response_size(9);
    let server = Server::builder()
        .add_service(limited.clone())
        .bind(directory.path().join("guide.sock"))
        .await
        .unwrap()
        .bind("http://127.0.0.1:0")
        .await
        .unwrap();
    let endpoints = server.endpoints().to_vec();
    assert_eq!(endpoints.len(), 2);
    tokio::spawn(server.serve());
    for endpoint in endpoints {
        in_time("a call", check(endpoint)).await;
    }
}

/// Implements one of its methods.
struct Beginner;

impl RouteGuide for Beginner {
    async fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
        Ok(Response::new(feature(request.into_inner())))
    }
}

#[tokio::test]
async fn methods_that_are_left_out_are_unimplemented() {
    let (_directory, client) = served(Beginner).await;
    let reply = client.get_feature(point(1)).await.unwrap();
    assert_eq!(reply.into_inner(), feature(point(1)));

    let unlisted = client
        .list_features(point(1))
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(unlisted.code(), Code::Unimplemented);
    assert_eq!(
        unlisted.message(),
        "`all_options.RouteGuide.ListFeatures` is not implemented by this server"
    );
    let points = tokio_stream::iter([point(1)]);
    let unrecorded = client.record_route(points).await.unwrap_err();
    assert_eq!(unrecorded.code(), Code::Unimplemented);
    let points = tokio_stream::iter([point(1)]);
    let silent = client.route_chat(points).await.map(|_| ()).unwrap_err();
    assert_eq!(silent.code(), Code::Unimplemented);
}

/// Has a name to prefix features with, which its streams need.
struct Prefixed(String);

impl Prefixed {
    fn feature(&self, location: arc_self::Point) -> arc_self::Feature {
        let name = format!("{}{}", self.0, location.latitude);
        arc_self::Feature { name }
    }
}

impl arc_self::route_guide_server::RouteGuide for Prefixed {
    async fn get_feature(
        self: Arc<Self>,
        request: Request<arc_self::Point>,
    ) -> Result<Response<arc_self::Feature>, Status> {
        Ok(Response::new(self.feature(request.into_inner())))
    }

    async fn list_features(
        self: Arc<Self>,
        request: Request<arc_self::Point>,
    ) -> Result<Response<impl ResponseStream<arc_self::Feature>>, Status> {
        let latitudes = 0..request.into_inner().latitude;
        Ok(Response::new(tokio_stream::iter(latitudes.map(
            move |latitude| Ok(self.feature(arc_self::Point { latitude })),
        ))))
    }

    async fn record_route(
        self: Arc<Self>,
        request: Request<Streaming<arc_self::Point>>,
    ) -> Result<Response<arc_self::Feature>, Status> {
        let mut points = request.into_inner();
        let mut latitude = 0;
        while let Some(point) = points.message().await? {
            latitude += point.latitude;
        }
        Ok(Response::new(self.feature(arc_self::Point { latitude })))
    }

    async fn route_chat(
        self: Arc<Self>,
        request: Request<Streaming<arc_self::Point>>,
    ) -> Result<Response<impl ResponseStream<arc_self::Feature>>, Status> {
        let features = request
            .into_inner()
            .map(move |point| Ok(self.feature(point?)));
        Ok(Response::new(features))
    }
}

#[tokio::test]
async fn streams_may_own_the_service() {
    use arc_self::{
        route_guide_client::RouteGuideClient,
        route_guide_server::{DynRouteGuide, RouteGuideServer},
    };
    let service = Arc::new(Prefixed("No. ".to_owned()));
    let object: Arc<dyn DynRouteGuide> = service.clone();
    for channel in [
        Channel::in_process(RouteGuideServer::from_arc(service)),
        Channel::in_process(RouteGuideServer::new(object)),
    ] {
        let client = RouteGuideClient::new(channel);
        let point = |latitude| arc_self::Point { latitude };
        let one = client.get_feature(point(1)).await.unwrap();
        assert_eq!(one.into_inner().name, "No. 1");
        let mut listed = client.list_features(point(1)).await.unwrap().into_inner();
        assert_eq!(listed.message().await.unwrap().unwrap().name, "No. 0");
        assert_eq!(listed.message().await.unwrap(), None);
        let points = || tokio_stream::iter([point(2), point(3)]);
        let sum = client.record_route(points()).await.unwrap();
        assert_eq!(sum.into_inner().name, "No. 5");
        let mut chat = client.route_chat(points()).await.unwrap().into_inner();
        assert_eq!(chat.message().await.unwrap().unwrap().name, "No. 2");
        assert_eq!(chat.message().await.unwrap().unwrap().name, "No. 3");
    }
}
