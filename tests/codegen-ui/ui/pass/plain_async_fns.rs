// A service is implemented with plain async functions: no macro, no box, and nothing to be warned of. The types are public, so that
// the lints for public interfaces apply.
#![deny(warnings)]

#[allow(dead_code)]
pub mod streaming {
    include!("../../../../shmipc-codegen/tests/golden/streaming/streaming.rs");
}

use shmipc_rpc::{Request, Response, ResponseStream, Status, Streaming};
use streaming::route_guide_server::{RouteGuide, RouteGuideServer};
use streaming::{Feature, Note, Point, Rectangle, Summary};
use tokio_stream::StreamExt;

pub struct Guide {
    features: Vec<Feature>,
}

impl RouteGuide for Guide {
    async fn get_feature(&self, _: Request<Point>) -> Result<Response<Feature>, Status> {
        Ok(Response::new(self.features[0].clone()))
    }

    async fn list_features(
        &self,
        _: Request<Rectangle>,
    ) -> Result<Response<impl ResponseStream<Feature>>, Status> {
        let features = self.features.clone();
        Ok(Response::new(tokio_stream::iter(features).map(Ok)))
    }

    async fn record_route(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<Summary>, Status> {
        let mut points = request.into_inner();
        let mut summary = Summary::default();
        while points.message().await?.is_some() {
            summary.points += 1;
        }
        Ok(Response::new(summary))
    }

    async fn route_chat(
        &self,
        request: Request<Streaming<Note>>,
    ) -> Result<Response<impl ResponseStream<Note>>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn tick(
        &self,
        request: Request<Streaming<()>>,
    ) -> Result<Response<impl ResponseStream<()>>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn main() {
    let _ = RouteGuideServer::new(Guide {
        features: Vec::new(),
    });
}
