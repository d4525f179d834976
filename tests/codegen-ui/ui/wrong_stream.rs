// A stream is of other messages than the method was declared with.

#[allow(dead_code)]
mod all_options {
    include!("../../../shmipc-codegen/tests/golden/all_options/all_options.rs");
}

use all_options::Point;
use all_options::route_guide_client::RouteGuideClient;
use all_options::{Feature, route_guide_server::RouteGuide};
use shmipc_rpc::{Request, Response, ResponseStream, Status, Streaming};

struct Guide;

impl RouteGuide for Guide {
    async fn route_chat(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<impl ResponseStream<Feature>>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

async fn call(client: RouteGuideClient) {
    let _ = client.record_route(tokio_stream::iter([1, 2, 3])).await;
}

fn main() {}
