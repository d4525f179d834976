// A stream of responses borrows from the service.

#[allow(dead_code)]
mod all_options {
    include!("../../../shmipc-codegen/tests/golden/all_options/all_options.rs");
}

use all_options::route_guide_server::RouteGuide;
use all_options::{Feature, Point};
use shmipc_rpc::{Request, Response, ResponseStream, Status};

struct Guide(Vec<Feature>);

impl RouteGuide for Guide {
    async fn list_features(
        &self,
        _: Request<Point>,
    ) -> Result<Response<impl ResponseStream<Feature>>, Status> {
        let features = self.0.iter().map(|feature| Ok(feature.clone()));
        Ok(Response::new(tokio_stream::iter(features)))
    }
}

fn main() {}
