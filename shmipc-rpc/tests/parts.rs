//! Requests and responses that are taken apart, and put together again.

mod common;

use std::time::{Duration, Instant};

use http::{Extensions, HeaderMap, HeaderValue};
use shmipc_rpc::{
    Code, Request, Response, Server,
    client::{CallService, Caller},
};

use crate::common::{LONG, Packet, RUN, hang, in_time, lab, packet, serve};

/// What a layer might leave among the extensions.
#[derive(Clone, Debug, PartialEq)]
struct Mark(u32);

fn again<T>(request: Request<T>) -> Request<T> {
    let (metadata, extensions, message) = request.into_parts();
    Request::from_parts(metadata, extensions, message)
}

fn response_again<T>(response: Response<T>) -> Response<T> {
    let (metadata, message, extensions) = response.into_parts();
    Response::from_parts(metadata, message, extensions)
}

fn header() -> HeaderMap {
    HeaderMap::from_iter([("x-one".parse().unwrap(), HeaderValue::from_static("1"))])
}

#[test]
fn parts_are_what_they_were() {
    let mut extensions = Extensions::new();
    extensions.insert(Mark(7));
    let request = again(Request::from_parts(header(), extensions.clone(), "text"));
    assert_eq!(request.metadata(), &header());
    assert_eq!(request.extensions().get(), Some(&Mark(7)));
    assert_eq!(request.extensions().len(), 1, "what traveled along is gone");
    assert_eq!(request.into_inner(), "text");
    let response = response_again(Response::from_parts(header(), "text", extensions));
    assert_eq!(response.metadata(), &header());
    assert_eq!(response.extensions().get(), Some(&Mark(7)));
    assert_eq!(response.extensions().len(), 1);
    assert_eq!(response.into_inner(), "text");
}

#[tokio::test]
async fn a_timeout_stays_with_its_request_unless_the_extensions_are_replaced() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let mut request = Request::new(packet(""));
        request.set_timeout(Duration::from_millis(20));
        let call = caller.unary::<_, Packet>(&RUN, again(request.clone()));
        let status = in_time(call).await.expect_err("nobody answers");
        assert_eq!(status.code(), Code::DeadlineExceeded);

        let (metadata, _, message) = request.into_parts();
        let endless = Request::from_parts(metadata, Extensions::new(), message);
        let call = caller.unary::<_, Packet>(&RUN, endless);
        let ended = tokio::time::timeout(Duration::from_millis(100), call).await;
        assert!(ended.is_err(), "it has no timeout any more");
    }
    let running = serve(Server::builder().add_service(hang()));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn what_is_known_of_a_call_stays_with_its_request() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let mut request = Request::new(packet(""));
        request.set_timeout(LONG);
        let answer = in_time(caller.unary::<_, Packet>(&RUN, request)).await;
        assert_eq!(answer.expect("all is there").into_inner(), packet("whole"));
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        let (deadline, metadata) = (request.deadline(), request.metadata().clone());
        assert!(deadline.is_some_and(|deadline| Instant::now() < deadline));
        let request = again(request);
        assert_eq!(request.deadline(), deadline);
        assert_eq!(request.metadata(), &metadata);
        let peer = request.peer().expect("it came through a session");
        assert_eq!(peer.pid(), i32::try_from(std::process::id()).ok());
        assert!(request.channel().is_some());
        let lent = request.alloc(10).await.expect("there is memory");
        assert_eq!(lent.len(), 10);
        let (metadata, _, message) = request.into_parts();
        let bare = Request::from_parts(metadata, Extensions::new(), message);
        assert!(bare.peer().is_none());
        assert_eq!(bare.deadline(), None);
        Ok(Response::new(packet("whole")))
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn trailers_stay_with_their_response() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let call = caller.unary::<_, Packet>(&RUN, Request::new(packet("")));
        let answer = in_time(call).await.expect("the handler answers");
        assert_eq!(answer.metadata()["x-one"], "1");
        assert_eq!(answer.metadata()["x-last"], "2");
    }
    let running = serve(Server::builder().add_service(lab(|_| async move {
        let mut response = Response::from_parts(header(), packet(""), Extensions::new());
        let last = HeaderValue::from_static("2");
        response.trailers_mut().insert("x-last", last);
        Ok(response_again(response))
    })));
    over_both_paths!(running, check);
}
