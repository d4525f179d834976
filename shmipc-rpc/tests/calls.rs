//! Messages, metadata, statuses and limits, over a channel and over a service that is not one.

mod common;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use shmipc_rpc::{
    Code, Request, Response, Server, Status,
    client::{CallService, Caller},
    metadata,
};

use crate::common::{ELSEWHERE, Packet, RUN, SECRET, UNKNOWN, echo, lab, packet, serve};

#[tokio::test]
async fn messages_of_any_size_come_back() {
    async fn check<S: CallService>(caller: Caller<S>) {
        for len in [0, 1, 64, 1000, 5000, 70_000, 4 << 20] {
            let payload: Vec<u8> = (0..len)
                .map(|index: usize| index.to_le_bytes()[0])
                .collect();
            let sent = Packet {
                text: "text".to_owned(),
                payload: payload.into(),
                number: len as u64,
            };
            let received: Response<Packet> = caller
                .unary(&RUN, Request::new(sent.clone()))
                .await
                .expect("the service echoes");
            assert!(
                *received.get_ref() == sent,
                "{len} bytes came back otherwise"
            );
        }
        let empty: Response<Packet> = caller
            .unary(&RUN, Request::new(Packet::default()))
            .await
            .expect("as above");
        assert_eq!(empty.into_inner(), Packet::default());
    }
    let running = serve(Server::builder().add_service(echo()));
    over_both_paths!(running, check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_do_not_mix() {
    async fn check<S: CallService + Sync>(caller: Caller<S>) {
        let tasks: Vec<_> = (0..100)
            .map(|number| {
                let caller = caller.clone();
                tokio::spawn(async move {
                    for round in 0..20 {
                        let sent = Packet {
                            number: number * 100 + round,
                            ..Packet::default()
                        };
                        let received: Response<Packet> = caller
                            .unary(&RUN, Request::new(sent.clone()))
                            .await
                            .expect("the service echoes");
                        assert_eq!(received.into_inner(), sent);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no call went wrong");
        }
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        if request.get_ref().number % 3 == 0 {
            tokio::task::yield_now().await;
        }
        Ok(Response::new(request.into_inner()))
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn metadata_travels_both_ways() {
    const TRACE: HeaderName = HeaderName::from_static("trace-bin");

    async fn check<S: CallService>(caller: Caller<S>) {
        let mut request = Request::new(packet("hello"));
        request
            .metadata_mut()
            .insert("x-one", HeaderValue::from_static("1"));
        request
            .metadata_mut()
            .append("x-two", HeaderValue::from_static("a"));
        request
            .metadata_mut()
            .append("x-two", HeaderValue::from_static("b"));
        // This belongs to the protocol, and must not reach the handler.
        request
            .metadata_mut()
            .insert("te", HeaderValue::from_static("trailers"));
        metadata::insert_bin(request.metadata_mut(), TRACE, [0, 1, 255, b'\n'])
            .expect("the key is binary");

        let response: Response<Packet> = caller
            .unary(&RUN, request)
            .await
            .expect("the handler answers");
        assert_eq!(response.metadata()["x-three"], "3");
        assert_eq!(response.metadata().len(), 2);
        let back = metadata::get_bin(response.metadata(), &TRACE).expect("it is base64");
        assert_eq!(back.as_deref(), Some(&[0, 1, 255, b'\n', 7][..]));
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        let received = request.metadata();
        assert_eq!(received["x-one"], "1");
        assert_eq!(
            received.get_all("x-two").iter().collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(received.len(), 4);
        let trace = metadata::get_bin(received, &TRACE)
            .expect("it is base64")
            .expect("it was sent");
        let mut response = Response::new(packet("hello"));
        response
            .metadata_mut()
            .insert("x-three", HeaderValue::from_static("3"));
        response
            .metadata_mut()
            .insert("grpc-status", HeaderValue::from_static("13"));
        metadata::insert_bin(response.metadata_mut(), TRACE, [&trace[..], &[7]].concat())
            .expect("the key is binary");
        Ok(response)
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn metadata_of_any_length_travels_with_messages_of_any_length() {
    const LONG: HeaderName = HeaderName::from_static("x-long");

    async fn check<S: CallService>(caller: Caller<S>) {
        for metadata_len in [1, 200, 220, 240, 260, 2100, 20_000] {
            for len in [0, 1800, 5000, 70_000] {
                let value = HeaderValue::try_from("v".repeat(metadata_len)).expect("it is ASCII");
                let mut request = Request::new(Packet {
                    payload: vec![7; len].into(),
                    ..packet("long")
                });
                request.metadata_mut().insert(LONG, value.clone());
                let sent = request.get_ref().clone();
                let response: Response<Packet> = caller
                    .unary(&RUN, request)
                    .await
                    .expect("the handler answers");
                assert_eq!(response.metadata().get(LONG), Some(&value));
                assert!(
                    response.into_inner() == sent,
                    "{len} bytes came back otherwise"
                );
            }
        }
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        let long = request.metadata()[LONG].clone();
        let mut response = Response::new(request.into_inner());
        response.metadata_mut().insert(LONG, long);
        Ok(response)
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn a_status_arrives_whole() {
    async fn check<S: CallService>(caller: Caller<S>) {
        for code in &Code::ALL[1..] {
            let request = Packet {
                number: code.as_u32().into(),
                ..Packet::default()
            };
            let status = caller
                .unary::<_, Packet>(&RUN, Request::new(request))
                .await
                .expect_err("the handler fails");
            assert_eq!(status.code(), *code);
            assert_eq!(status.message(), "größer als 100%\n");
            assert_eq!(status.details(), &Bytes::from_static(&[0, 255, 1]));
            assert_eq!(status.metadata()["x-why"], "because");
            assert_eq!(status.metadata().len(), 1);
        }
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        let code = u32::try_from(request.get_ref().number).expect("a code");
        let mut metadata = HeaderMap::new();
        metadata.insert("x-why", HeaderValue::from_static("because"));
        let status =
            Status::with_details(Code::from_u32(code), "größer als 100%\n", &[0, 255, 1][..]);
        Err(status.with_metadata(metadata))
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn a_status_that_is_too_large_keeps_its_code() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let call = caller.unary::<_, Packet>(&RUN, Request::new(packet("")));
        let status = call.await.expect_err("the handler fails");
        assert_eq!(status.code(), Code::DataLoss);
        assert!(status.message().starts_with("ää") && status.message().len() < 5000);
    }
    let running = serve(Server::builder().add_service(lab(|_| async {
        Err(Status::data_loss("ä".repeat(100_000)))
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    async fn check<S: CallService>(caller: Caller<S>) {
        for method in [UNKNOWN, ELSEWHERE] {
            let status = caller
                .unary::<_, Packet>(&method, Request::new(packet("")))
                .await
                .expect_err("nobody knows it");
            assert_eq!(status.code(), Code::Unimplemented);
            assert!(status.message().contains(method.path()));
        }
        let response: Response<Packet> = caller
            .unary(&SECRET, Request::new(packet("x")))
            .await
            .expect("the service knows it");
        assert_eq!(response.into_inner(), packet("x"));
    }
    let running = serve(Server::builder().add_service(echo()));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn a_panic_is_internal_and_the_server_lives() {
    async fn check<S: CallService>(caller: Caller<S>) {
        // Often enough for the handler to be polled in the session's task as well.
        for round in 0..20 {
            let request = Request::new(Packet {
                number: round % 3,
                ..Packet::default()
            });
            let result = caller.unary::<_, Packet>(&RUN, request).await;
            match round % 3 {
                0 => assert!(result.is_ok()),
                _ => {
                    let status = result.expect_err("the handler panics");
                    assert_eq!(
                        (status.code(), status.message()),
                        (Code::Internal, "the handler panicked")
                    );
                }
            }
        }
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        match request.get_ref().number {
            1 => panic!("at once: this is part of the test"),
            2 => {
                tokio::task::yield_now().await;
                panic!("later: this is part of the test")
            }
            _ => Ok(Response::new(packet(""))),
        }
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn sizes_are_limited_on_both_sides() {
    async fn code<S: CallService>(caller: &Caller<S>, len: usize) -> Option<Code> {
        let request = Packet {
            payload: vec![7; len].into(),
            ..Packet::default()
        };
        let result = caller.unary::<_, Packet>(&RUN, Request::new(request)).await;
        result.err().map(|status| status.code())
    }
    async fn check<S: CallService>(caller: Caller<S>) {
        // The field has a prefix of its own.
        let whole = |max: usize| max - 3;
        assert_eq!(code(&caller, whole(1000)).await, None);
        // The response is longer than the server may send.
        assert_eq!(
            code(&caller, whole(1001)).await,
            Some(Code::ResourceExhausted)
        );
        // The request is longer than the server takes.
        assert_eq!(
            code(&caller, whole(2001)).await,
            Some(Code::ResourceExhausted)
        );
        // The response is longer than the client takes.
        let careful = caller.clone().max_response_size(500);
        assert_eq!(code(&careful, whole(500)).await, None);
        assert_eq!(
            code(&careful, whole(501)).await,
            Some(Code::ResourceExhausted)
        );
        // The request is longer than the client may send.
        let modest = caller.max_request_size(500);
        assert_eq!(code(&modest, whole(500)).await, None);
        assert_eq!(
            code(&modest, whole(501)).await,
            Some(Code::ResourceExhausted)
        );
    }
    let server = Server::builder()
        .add_service(echo())
        .max_request_size(2000)
        .max_response_size(1000);
    let running = serve(server);
    over_both_paths!(running, check);
}

#[tokio::test]
async fn metadata_that_is_too_large_is_refused_before_it_is_sent() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let mut request = Request::new(packet(""));
        request.metadata_mut().insert(
            "x-large",
            HeaderValue::try_from("x".repeat(70_000)).expect("it is ASCII"),
        );
        let status = caller
            .unary::<_, Packet>(&RUN, request)
            .await
            .expect_err("heads are below 64 KiB");
        assert_eq!(status.code(), Code::ResourceExhausted);

        let request = Request::new(packet("large"));
        let status = caller
            .unary::<_, Packet>(&RUN, request)
            .await
            .expect_err("heads are below 64 KiB");
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        let mut response = Response::new(request.into_inner());
        if response.get_ref().text == "large" {
            let value = HeaderValue::try_from("x".repeat(70_000)).expect("it is ASCII");
            response.metadata_mut().insert("x-large", value);
        }
        Ok(response)
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn the_handler_knows_who_calls() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let response: Response<Packet> = caller
            .unary(&RUN, Request::new(packet("")))
            .await
            .expect("the handler answers");
        assert_ne!(response.into_inner().number, 0);
    }
    let running = serve(Server::builder().add_service(lab(|request| async move {
        let peer = request.peer().expect("it came through a session");
        let pid = peer.pid().unwrap_or_default();
        Ok(Response::new(Packet {
            number: u64::try_from(pid).unwrap_or_default(),
            ..Packet::default()
        }))
    })));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn lent_memory_travels_both_ways() {
    const LEN: usize = 300_000;

    let running = serve(Server::builder().add_service(lab(|request| async move {
        let mut lent = request.alloc(LEN).await?;
        lent.copy_from_slice(&request.get_ref().payload);
        lent[0] = 9;
        Ok(Response::new(Packet {
            payload: lent.freeze(),
            ..Packet::default()
        }))
    })));
    let channel = running.channel().await;
    let mut lent = common::in_time(channel.alloc(LEN))
        .await
        .expect("there is memory");
    lent.fill(7);
    let request = Packet {
        payload: lent.freeze(),
        ..Packet::default()
    };
    let caller = Caller::new(channel);
    let response: Response<Packet> = common::in_time(caller.unary(&RUN, Request::new(request)))
        .await
        .expect("the handler answers");
    let payload = response.into_inner().payload;
    assert_eq!((payload.len(), payload[0]), (LEN, 9));
    assert!(payload[1..].iter().all(|byte| *byte == 7));

    let status = Request::new(packet(""))
        .alloc(1)
        .await
        .expect_err("it did not come through a session");
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_server_can_be_called_without_a_connection() {
    let caller = Caller::new(echo());
    let response: Response<Packet> = caller
        .unary(&RUN, Request::new(packet("here")))
        .await
        .expect("the service echoes");
    assert_eq!(response.into_inner(), packet("here"));
    let status = caller
        .unary::<_, Packet>(&UNKNOWN, Request::new(packet("")))
        .await
        .expect_err("nobody knows it");
    assert_eq!(status.code(), Code::Unimplemented);
}
