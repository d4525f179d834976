//! Generated clients, servers, twins and mocks, in use.

#[allow(
    dead_code,
    unreachable_pub,
    reason = "not all of what is generated is used"
)]
mod all_options {
    include!("../../../shmipc-codegen/tests/golden/all_options/all_options.rs");
}

#[allow(
    dead_code,
    unreachable_pub,
    reason = "not all of what is generated is used"
)]
mod arc_self {
    include!("../../../shmipc-codegen/tests/golden/arc_self/arc_self.rs");
}

mod blocking;
mod guide;
mod mock;
mod servers;

use prost::Message as _;
use shmipc_rpc::{Idempotency, MethodKind, Request, client::Caller};

use crate::{
    all_options::{Feature, Point, route_guide_client::RouteGuideClient, route_guide_methods},
    guide::{Guide, point},
};

#[test]
fn descriptors_tell_what_the_proto_file_tells() {
    let method = route_guide_methods::RECORD_ROUTE;
    assert_eq!(method.path(), "/all_options.RouteGuide/RecordRoute");
    assert_eq!(method.kind(), MethodKind::ClientStreaming);
    assert_eq!(method.idempotency(), Idempotency::Unknown);
    assert_eq!(method.request_message(), Some("all_options.Point"));
    assert_eq!(method.response_message(), Some("all_options.Summary"));
}

#[test]
fn an_embedded_descriptor_set_describes_the_package() {
    let set = prost_types::FileDescriptorSet::decode(all_options::FILE_DESCRIPTOR_SET).unwrap();
    let names: Vec<_> = set.file.iter().map(|file| file.name()).collect();
    assert_eq!(names, ["google/protobuf/empty.proto", "all_options.proto"]);
    let services = &set.file[1].service;
    assert!(
        services
            .iter()
            .any(|service| service.name() == "RouteGuide")
    );
}

/// A box would be smaller than what it holds.
#[tokio::test]
async fn the_future_of_a_generated_method_holds_that_of_the_call() {
    let server = all_options::route_guide_server::RouteGuideServer::new(Guide);
    let caller = Caller::new(server.clone());
    let client = RouteGuideClient::new(server);
    let method = &route_guide_methods::GET_FEATURE;
    let beneath = caller.unary::<Point, Feature>(method, Request::new(point(1)));
    let generated = client.get_feature(point(1));
    assert!(size_of_val(&beneath) <= size_of_val(&generated));
    assert!(
        size_of_val(&generated) <= size_of_val(&beneath) + 4 * size_of::<Request<Point>>(),
        "nothing but the request lies in it besides"
    );
}
