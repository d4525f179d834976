// Calls of all kinds are made in tasks of their own, over a channel and over any service; so are received streams read.

#[allow(dead_code)]
mod streaming {
    include!("../../../../shmipc-codegen/tests/golden/streaming/streaming.rs");
}

use shmipc_rpc::client::CallService;
use shmipc_rpc::{Channel, Request};
use streaming::route_guide_client::RouteGuideClient;
use streaming::{Note, Point, Rectangle};

fn spawn<S: CallService + Sync>(client: RouteGuideClient<S>) {
    let calling = client.clone();
    tokio::spawn(async move { calling.get_feature(Point::default()).await });
    let calling = client.clone();
    tokio::spawn(async move {
        let request = Request::new(Rectangle::default());
        let mut features = calling.list_features(request).await?.into_inner();
        while let Some(_feature) = features.message().await? {}
        Ok::<_, shmipc_rpc::Status>(())
    });
    let calling = client.clone();
    tokio::spawn(async move {
        let points = tokio_stream::iter([Point::default()]);
        calling.record_route(points).await
    });
    tokio::spawn(async move {
        let notes = Request::new(tokio_stream::iter([Note::default()]));
        client.route_chat(notes).await
    });
}

fn main() {
    // Nobody calls it: there is no server.
    let _: fn(RouteGuideClient<Channel>) = spawn;
}
