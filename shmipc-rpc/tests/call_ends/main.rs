//! Interceptors see, and change, how calls of all kinds end, wherever they stand and however the call travels.

#[path = "../common/mod.rs"]
mod common;
mod heads;
mod stage;

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, combinators::MapFrame};
use shmipc_rpc::{
    Body, Channel, Code, Endpoint, Request, Response, Server, Status, Streaming,
    client::{CallService, Caller},
    http,
    interceptor::{Call, End, Intercepted, Interceptor, InterceptorLayer, Next},
};
use tokio::sync::mpsc;
use tower::util::MapResponseLayer;

use crate::{
    common::{
        Packet, RUN, growing, in_time, packet,
        streams::{CHAT, LIST, RECORD, numbered, queue, streams},
        told,
    },
    stage::{
        KINDS, Noted, Services, Side, WAYS, Way, add, answering, call, everywhere, expected,
        hanging, is_streaming, link, next, noting, noting_answers, rest, trailing, values,
    },
};

/// A response whose body is one of somebody else.
type Exchanged = http::Response<MapFrame<Body, fn(Frame) -> Frame>>;
type Frame = http_body::Frame<bytes::Bytes>;

async fn see_and_change<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, _: Side) {
    for method in KINDS {
        let name = method
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let handler = || vec!["handler".to_owned()];
        let both = ["handler", "interceptor"];

        let (numbers, end) = call(&caller, method, "").await;
        assert_eq!(numbers, expected(method), "{name}");
        assert_eq!(values(&end.expect("it ends well")), both, "{name}");
        let seen = next(noted).await;
        assert_eq!(seen, (name.clone(), Code::Ok, handler(), false));

        let (numbers, end) = call(&caller, method, "fail").await;
        if is_streaming(method) {
            assert_eq!(numbers, expected(method), "{name}");
        }
        let status = end.expect_err("it fails");
        assert_eq!((status.code(), status.message()), (Code::Aborted, "late"));
        assert_eq!(values(status.metadata()), both, "{name}");
        let seen = next(noted).await;
        assert_eq!(seen, (name, Code::Aborted, handler(), false));
    }
    assert!(noted.try_recv().is_err(), "each is seen once");
}

#[tokio::test]
async fn ends_of_all_kinds_are_seen_once_and_their_metadata_is_changed() {
    everywhere!(answering(), |log| noting(log, add), see_and_change);
}

#[tokio::test]
async fn ends_are_seen_where_layers_exchange_the_bodies() {
    fn exchanging() -> MapResponseLayer<impl Fn(http::Response<Body>) -> Exchanged + Clone> {
        MapResponseLayer::new(|response: http::Response<Body>| {
            response.map(|body| {
                let unchanged: fn(_) -> _ = |frame| frame;
                body.map_frame(unchanged)
            })
        })
    }
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let all = answering();
    for (name, exchanges_within) in [("within", true), ("around", false)] {
        let (log, mut noted) = mpsc::unbounded_channel();
        let layer = noting(log, add);
        let (lab, streams) = (all.lab.clone(), all.streams.clone());
        let path = directory.path().join(name);
        // The first layer is the outermost.
        let server = if exchanges_within {
            let server = Server::builder().layer(layer).layer(exchanging());
            server
                .add_service(lab)
                .add_service(streams)
                .start(path)
                .await
        } else {
            let server = Server::builder().layer(exchanging()).layer(layer);
            server
                .add_service(lab)
                .add_service(streams)
                .start(path)
                .await
        };
        let server = server.expect("nobody listens there");
        let channel = Channel::connect(server.endpoints()[0].clone()).await;
        let caller = Caller::new(channel.expect("the server listens"));
        in_time(see_and_change(caller, &mut noted, Side::Server)).await;
    }

    let (log, mut noted) = mpsc::unbounded_channel();
    let server = Server::builder()
        .layer(noting(log, add))
        .layer(exchanging())
        .add_service(all.lab)
        .add_service(all.streams);
    let channel = Channel::in_process(server.into_service());
    in_time(see_and_change(
        Caller::new(channel),
        &mut noted,
        Side::Server,
    ))
    .await;
}

#[tokio::test]
async fn an_answer_that_has_begun_tells_its_end() {
    async fn check<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(&caller, method, "").await;
            assert_eq!(numbers, expected(method));
            let both = ["handler", "interceptor"];
            assert_eq!(values(&end.expect("it ends well")), both, "{method:?}");
            assert_eq!(next(noted).await.1, Code::Ok);
        }
        for method in [&LIST, &CHAT] {
            let status = call(&caller, method, "fail").await.1;
            let status = status.expect_err("it fails");
            assert_eq!(values(status.metadata()), ["handler", "interceptor"]);
            assert_eq!(next(noted).await.1, Code::Aborted);
        }
        assert!(noted.try_recv().is_err(), "each is seen once");
    }
    everywhere!(answering(), noting_answers, check);
}

#[tokio::test]
async fn a_call_that_went_well_may_be_made_to_fail_in_the_end() {
    async fn check<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(&caller, method, "").await;
            if is_streaming(method) {
                assert_eq!(numbers, expected(method), "what came before has come");
            }
            let status = end.expect_err("the interceptor says so");
            assert_eq!((status.code(), status.message()), (Code::DataLoss, "torn"));
            assert_eq!(values(status.metadata()), ["spoiled"]);
            next(noted).await;
        }
    }
    let spoil = |end: &mut End| {
        end.set_status(Status::data_loss("torn").with_metadata(trailing("spoiled")));
    };
    everywhere!(answering(), |log| noting(log, spoil), check);
}

#[tokio::test]
async fn a_call_that_failed_may_be_made_to_end_well() {
    async fn check<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(&caller, method, "fail").await;
            if is_streaming(method) {
                assert_eq!(numbers, expected(method));
                assert_eq!(values(&end.expect("the interceptor says so")), ["mended"]);
            } else {
                // There is no message.
                assert_eq!(end.expect_err("it cannot be").code(), Code::Internal);
            }
            assert_eq!(next(noted).await.1, Code::Aborted);
        }
    }
    let mend = |end: &mut End| {
        end.set_status(Status::new(Code::Ok, "").with_metadata(trailing("mended")));
    };
    everywhere!(answering(), |log| noting(log, mend), check);
}

#[tokio::test]
async fn calls_that_are_given_up_are_cut_off() {
    async fn check<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, side: Side) {
        for method in [&LIST, &CHAT] {
            let (_sender, requests) = queue::<Packet>();
            let response = if *method == LIST {
                caller
                    .server_streaming(&LIST, Request::new(packet("")))
                    .await
            } else {
                caller.bidi_streaming(&CHAT, Request::new(requests)).await
            };
            let mut responses: Streaming<Packet> = response.expect("it begins").into_inner();
            let first = responses.message().await.expect("it goes on");
            assert_eq!(first, Some(numbered(0)));
            assert!(noted.try_recv().is_err(), "it has not ended");
            drop(responses);
            let (_, code, _, is_cut_off) = next(noted).await;
            assert_eq!((code, is_cut_off), (Code::Cancelled, true), "{method:?}");
        }
        // Before there is an answer. A server must have got to know of the call.
        if side == Side::Client {
            for method in [&RUN, &RECORD] {
                tokio::select! {
                    biased;
                    _ = call(&caller, method, "") => panic!("nobody answers"),
                    () = tokio::task::yield_now() => {}
                }
                let (_, code, _, is_cut_off) = next(noted).await;
                assert_eq!((code, is_cut_off), (Code::Cancelled, true), "{method:?}");
            }
        }
    }
    everywhere!(hanging(), |log| noting(log, |_| {}), check);
}

#[tokio::test]
async fn calls_that_are_late_end_with_deadline_exceeded() {
    async fn check<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, _: Side) {
        let kinds = KINDS
            .into_iter()
            .flat_map(|method| growing().map(move |time| (method, time)));
        let mut seen = Vec::new();
        for (method, time) in kinds {
            if seen.last() == Some(&method) {
                continue;
            }
            let (_sender, requests) = queue::<Packet>();
            let (mut request, mut requests) = (Request::new(packet("")), Request::new(requests));
            request.set_timeout(time);
            requests.set_timeout(time);
            let streamed = if *method == RUN {
                caller.unary::<_, Packet>(&RUN, request).await.map(|_| None)
            } else if *method == RECORD {
                let response = caller.client_streaming::<_, _, Packet>(&RECORD, requests);
                response.await.map(|_| None)
            } else if *method == LIST {
                caller.server_streaming(&LIST, request).await.map(Some)
            } else {
                caller.bidi_streaming(&CHAT, requests).await.map(Some)
            };
            let status = match streamed {
                Ok(response) => {
                    let response = response.expect("only streams begin").into_inner();
                    rest(response).await.1.expect_err("it never ends")
                }
                Err(status) => status,
            };
            assert_eq!(status.code(), Code::DeadlineExceeded, "{method:?}");
            // A call may be late before it gets to the server.
            if let Some((_, code, ..)) = told(noted, time).await {
                assert_eq!(code, Code::DeadlineExceeded, "{method:?}");
                seen.push(method);
            }
        }
        assert_eq!(seen.len(), KINDS.len(), "{seen:?}");
    }
    everywhere!(hanging(), |log| noting(log, |_| {}), check);
}

#[tokio::test]
async fn a_server_that_goes_away_is_seen_on_both_sides() {
    let (server_log, mut at_server) = mpsc::unbounded_channel();
    let (client_log, mut at_client) = mpsc::unbounded_channel();
    let layer = noting(server_log, |_| {});
    let link = link(Way::SharedMemory, hanging(), layer).await;
    let caller = Caller::new(noting(client_log, |_| {}).layer(link.channel));
    let request = Request::new(packet(""));
    let mut responses: Streaming<Packet> = in_time(caller.server_streaming(&LIST, request))
        .await
        .expect("it begins")
        .into_inner();
    let first = in_time(responses.message()).await.expect("it goes on");
    assert_eq!(first, Some(numbered(0)));
    in_time(link.server.expect("there is one").shutdown_now()).await;
    let status = in_time(responses.message())
        .await
        .expect_err("it breaks off");
    assert_eq!(status.code(), Code::Unavailable);
    let unavailable = ("List".to_owned(), Code::Unavailable, Vec::new(), false);
    assert_eq!(in_time(next(&mut at_server)).await, unavailable);
    assert_eq!(in_time(next(&mut at_client)).await, unavailable);
}

/// Notes when it sees the end.
fn named(
    name: &'static str,
    names: &Arc<Mutex<Vec<&'static str>>>,
) -> InterceptorLayer<impl Interceptor> {
    let names = Arc::clone(names);
    InterceptorLayer::new(move |call: Call, next: Next| {
        let names = Arc::clone(&names);
        let next = next.on_end(move |end| {
            names.lock().expect("nobody panicked").push(name);
            add(end);
        });
        next.run(call)
    })
}

#[tokio::test]
async fn several_interceptors_see_an_end_from_the_inside_out() {
    for &way in WAYS {
        let names = Arc::default();
        let all: Services = answering();
        let lab = named("b", &names).layer(named("a", &names).layer(all.lab.clone()));
        let streams = named("b", &names).layer(named("a", &names).layer(all.streams.clone()));
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let endpoint: Option<Endpoint> = match way {
            Way::SharedMemory => Some(directory.path().join("lab.sock").into()),
            Way::InProcess => None,
            #[cfg(feature = "grpc")]
            Way::Http2 => Some("http://127.0.0.1:0".into()),
        };
        let server = Server::builder().add_service(lab).add_service(streams);
        let (_server, channel) = match endpoint {
            None => (None, Channel::in_process(server.into_service())),
            Some(endpoint) => {
                let server = server.start(endpoint).await.expect("nobody listens there");
                let channel = Channel::connect(server.endpoints()[0].clone()).await;
                (Some(server), channel.expect("the server listens"))
            }
        };
        let channel = named("c", &names).layer(channel);
        let caller: Caller<Intercepted<_, _>> = Caller::new(named("d", &names).layer(channel));
        for method in KINDS {
            for text in ["", "fail"] {
                let end = in_time(call(&caller, method, text)).await.1;
                let metadata = end.unwrap_or_else(|status| status.metadata().clone());
                assert_eq!(values(&metadata).len(), 5, "{method:?} {text}");
                let names = std::mem::take(&mut *names.lock().expect("nobody panicked"));
                assert_eq!(names, ["a", "b", "c", "d"], "{method:?} {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_panic_at_the_end_fails_its_call_only() {
    async fn check<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, _: Side) {
        for method in [&LIST, &CHAT] {
            let end = call(&caller, method, "fail").await.1;
            assert_eq!(end.expect_err("it panics").code(), Code::Internal);
            assert_eq!(next(noted).await.1, Code::Aborted);
            let (numbers, end) = call(&caller, method, "").await;
            assert_eq!(numbers, expected(method));
            assert!(end.is_ok(), "{end:?}");
            next(noted).await;
        }
    }
    let panic = |end: &mut End| assert_eq!(end.code(), Code::Ok, "as asked");
    everywhere!(answering(), |log| noting(log, panic), check);
}

#[tokio::test]
async fn a_last_message_that_is_too_long_is_seen_as_the_failure_that_it_is() {
    for way in WAYS {
        let (log, mut noted) = mpsc::unbounded_channel();
        let long = || {
            let payload = vec![0; 100].into();
            Packet {
                payload,
                ..Packet::default()
            }
        };
        let within = streams().list(move |_| async move {
            let (mut sender, responses) = queue();
            sender.try_send(Ok(long())).expect("there is room");
            drop(std::mem::replace(&mut sender, queue().0));
            Ok(Response::new(responses))
        });
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let endpoint: Option<Endpoint> = match way {
            Way::SharedMemory => Some(directory.path().join("lab.sock").into()),
            Way::InProcess => None,
            #[cfg(feature = "grpc")]
            Way::Http2 => Some("http://127.0.0.1:0".into()),
        };
        let server = Server::builder()
            .max_response_size(50)
            .add_service(noting(log, |_| {}).layer(within));
        let (_server, channel) = match endpoint {
            None => (None, Channel::in_process(server.into_service())),
            Some(endpoint) => {
                let server = server.start(endpoint).await.expect("nobody listens there");
                let channel = Channel::connect(server.endpoints()[0].clone()).await;
                (Some(server), channel.expect("the server listens"))
            }
        };
        let caller = Caller::new(channel);
        let (numbers, end) = in_time(call(&caller, &LIST, "")).await;
        let code = end.expect_err("it is too long").code();
        assert_eq!((numbers, code), (vec![], Code::ResourceExhausted));
        assert_eq!(in_time(next(&mut noted)).await.1, Code::ResourceExhausted);
    }
}
