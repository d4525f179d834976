//! A service with the four kinds of methods, and a client that tries them all.

use shmipc_rpc::{Request, Response, ResponseStream, Status, Streaming, client::CallService};
use tokio_stream::StreamExt as _;

use crate::all_options::{
    Feature, Point, Summary, route_guide_client::RouteGuideClient, route_guide_server::RouteGuide,
};

/// Knows a feature at each point, which it names by its latitude.
#[derive(Debug)]
pub(crate) struct Guide;

pub(crate) fn point(latitude: i32) -> Point {
    Point {
        latitude,
        longitude: 0,
    }
}

pub(crate) fn feature(location: Point) -> Feature {
    Feature {
        name: location.latitude.to_string(),
        location: Some(location),
    }
}

impl RouteGuide for Guide {
    async fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
        Ok(Response::new(feature(request.into_inner())))
    }

    async fn list_features(
        &self,
        request: Request<Point>,
    ) -> Result<Response<impl ResponseStream<Feature>>, Status> {
        let features = (0..request.into_inner().latitude).map(|n| Ok(feature(point(n))));
        Ok(Response::new(tokio_stream::iter(features)))
    }

    async fn record_route(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<Summary>, Status> {
        let mut route = request.into_inner();
        let mut points = 0;
        while route.message().await?.is_some() {
            points += 1;
        }
        Ok(Response::new(Summary { points }))
    }

    async fn route_chat(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<impl ResponseStream<Feature>>, Status> {
        let points = request.into_inner();
        Ok(Response::new(points.map(|point| point.map(feature))))
    }

    async fn tick(&self, _: Request<()>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
}

/// Calls the methods of a [`Guide`], whatever lies between.
pub(crate) async fn tour<S>(client: &RouteGuideClient<S>)
where
    S: CallService + Sync,
{
    let reply = client.get_feature(point(3)).await.unwrap();
    assert_eq!(reply.into_inner(), feature(point(3)));

    let listed = client.list_features(point(3)).await.unwrap().into_inner();
    let listed: Result<Vec<_>, _> = listed.collect().await;
    assert_eq!(listed.unwrap(), [0, 1, 2].map(|n| feature(point(n))));

    // A request may come with metadata, or without.
    let route = tokio_stream::iter([1, 2, 3].map(point));
    let recorded = client.record_route(Request::new(route)).await.unwrap();
    assert_eq!(recorded.into_inner().points, 3);

    let route = tokio_stream::iter([7, 8].map(point));
    let mut chat = client.route_chat(route).await.unwrap().into_inner();
    for n in [7, 8] {
        assert_eq!(chat.message().await.unwrap(), Some(feature(point(n))));
    }
    assert_eq!(chat.message().await.unwrap(), None);

    // Calls may be made in tasks of their own.
    let client = client.clone();
    let spawned = tokio::spawn(async move { client.get_feature(point(5)).await });
    let reply = spawned.await.unwrap().unwrap();
    assert_eq!(reply.into_inner(), feature(point(5)));
}
