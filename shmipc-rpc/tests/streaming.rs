//! Calls with many requests, many responses, or both: what arrives, and in which order things end.

mod common;

use std::{
    future::pending,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use shmipc_rpc::{
    Channel, Code, Listener, Request, Response, Sender, Server, Status, Streaming,
    client::{CallService, Caller},
    http::{HeaderMap, HeaderValue},
};
use tokio::sync::{Notify, mpsc, oneshot};

use common::{
    OnDrop, Packet, in_time, packet, serve,
    streams::{CHAT, LIST, RECORD, Streams, iter, numbered, numbers, queue, streams},
};

/// Counts to the number in the request; how is up to its text.
fn counting() -> Streams {
    streams()
        .list(|request| async move {
            let Packet { number, text, .. } = request.into_inner();
            let fails = text == "fail";
            let end = fails.then(|| Err(Status::aborted("as you wished")));
            let mut response = Response::new(iter((0..number).map(numbered).map(Ok).chain(end)));
            response
                .metadata_mut()
                .insert("x-before", HeaderValue::from_static("1"));
            response
                .trailers_mut()
                .insert("x-after", HeaderValue::from_static("2"));
            Ok(response)
        })
        .record(|request| async move {
            let sum = numbers(request.into_inner()).await?.iter().sum();
            Ok(Response::new(numbered(sum)))
        })
        .chat(|request| async move {
            let mut requests = request.into_inner();
            let (mut sender, responses) = Sender::for_responses();
            tokio::spawn(async move {
                while let Some(message) = requests.message().await? {
                    sender.send(&numbered(message.number + 1)).await?;
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("x-after", HeaderValue::from_static("chat"));
                sender.finish_with(trailers);
                Ok::<_, Status>(())
            });
            Ok(Response::new(responses))
        })
}

async fn check_server_streaming<S: CallService>(caller: Caller<S>) {
    for count in [0, 1, 2, 1000] {
        let response = caller
            .server_streaming::<_, Packet>(&LIST, Request::new(numbered(count)))
            .await
            .expect("it counts");
        assert_eq!(response.metadata()["x-before"], "1");
        let mut messages = response.into_inner();
        for number in 0..count {
            let message = messages.message().await.expect("it counts");
            assert_eq!(message, Some(numbered(number)));
        }
        assert_eq!(messages.message().await.expect("it ends well"), None);
        let trailers = messages.trailers().await.expect("it ended well");
        assert_eq!(trailers["x-after"], "2");
        assert_eq!(messages.message().await.expect("it has ended"), None);
    }
}

async fn check_failing_stream<S: CallService>(caller: Caller<S>) {
    for count in [0, 3] {
        let request = Packet {
            text: "fail".to_owned(),
            number: count,
            ..Packet::default()
        };
        let mut messages = caller
            .server_streaming::<_, Packet>(&LIST, Request::new(request))
            .await
            .expect("it begins well")
            .into_inner();
        for _ in 0..count {
            assert!(messages.message().await.expect("it counts").is_some());
        }
        let status = messages.message().await.expect_err("then it fails");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Aborted, "as you wished")
        );
        assert_eq!(messages.message().await.expect("nothing follows"), None);
    }
}

async fn check_client_streaming<S: CallService>(caller: Caller<S>) {
    for count in [0, 1, 2, 1000] {
        let response = caller
            .client_streaming::<_, _, Packet>(&RECORD, Request::new(iter((0..count).map(numbered))))
            .await
            .expect("it adds");
        assert_eq!(response.into_inner(), numbered((0..count).sum()));
    }
    // One by one, through a sender.
    let (mut sender, requests) = Sender::for_requests();
    let (response, ()) = tokio::join!(
        caller.client_streaming::<_, _, Packet>(&RECORD, Request::new(requests)),
        async {
            for number in 0..100 {
                sender.send(&numbered(number)).await.expect("it listens");
            }
            sender.finish();
        }
    );
    assert_eq!(response.expect("it adds").into_inner(), numbered(4950));
}

async fn check_chat<S: CallService>(caller: Caller<S>) {
    let (mut sender, requests) = Sender::for_requests();
    let mut responses = caller
        .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests))
        .await
        .expect("it begins")
        .into_inner();
    for number in 0..100 {
        sender.send(&numbered(number)).await.expect("it listens");
        let response = responses.message().await.expect("it answers");
        assert_eq!(response, Some(numbered(number + 1)));
    }
    sender.finish();
    let trailers = responses.trailers().await.expect("it ends with us");
    assert_eq!(trailers["x-after"], "chat");

    // The same with a stream, which a task of the channel's polls.
    let (sender, requests) = queue();
    let mut responses = caller
        .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests))
        .await
        .expect("it begins")
        .into_inner();
    for number in 0..100 {
        // Nobody polls the responses meanwhile.
        sender.send(numbered(number)).await.expect("it is polled");
        sender.send(numbered(number)).await.expect("it is polled");
        for _ in 0..2 {
            let response = responses.message().await.expect("it answers");
            assert_eq!(response, Some(numbered(number + 1)));
        }
    }
    drop(sender);
    assert_eq!(responses.message().await.expect("it ends with us"), None);
}

#[tokio::test]
async fn all_kinds_work_over_a_channel_and_over_layers() {
    let running = serve(Server::builder().add_service(counting()));
    over_both_paths!(running, check_server_streaming);
    over_both_paths!(running, check_failing_stream);
    over_both_paths!(running, check_client_streaming);
    over_both_paths!(running, check_chat);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_work_on_several_threads_and_behind_layers() {
    let server = Server::builder().layer(tower::util::MapResponseLayer::new(
        |response: shmipc_rpc::http::Response<shmipc_rpc::Body>| {
            // Another type of body, through which trailers and messages must come.
            response.map(|body| http_body_util::BodyExt::map_frame(body, |frame| frame))
        },
    ));
    let running = serve(server.add_service(counting()));
    over_both_paths!(running, check_server_streaming);
    over_both_paths!(running, check_failing_stream);
    over_both_paths!(running, check_client_streaming);
    over_both_paths!(running, check_chat);
}

#[tokio::test]
async fn all_kinds_work_within_a_process() {
    let caller = || Caller::new(Channel::in_process(counting()));
    in_time(check_server_streaming(caller())).await;
    in_time(check_failing_stream(caller())).await;
    in_time(check_client_streaming(caller())).await;
    in_time(check_chat(caller())).await;
}

#[tokio::test]
async fn long_messages_stream_in_both_directions() {
    let running = serve(Server::builder().add_service(
        streams().chat(|request| async move { Ok(Response::new(request.into_inner())) }),
    ));
    let caller = running.caller().await;
    let long = |number: u64| Packet {
        payload: Bytes::from(vec![u8::try_from(number % 251).unwrap_or(0); 300_000]),
        number,
        ..Packet::default()
    };
    in_time(async {
        let mut responses = caller
            .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(iter((0..50).map(long))))
            .await
            .expect("it echoes")
            .into_inner();
        for number in 0..50 {
            let response = responses.message().await.expect("it echoes");
            assert!(response == Some(long(number)), "message {number}");
        }
        assert_eq!(responses.message().await.expect("it ends"), None);
    })
    .await;
}

#[tokio::test]
async fn the_response_begins_before_the_first_message() {
    let go = Arc::new(Notify::new());
    let handler_go = Arc::clone(&go);
    let running = serve(Server::builder().add_service(streams().list(move |_| {
        let go = Arc::clone(&handler_go);
        async move {
            let (mut sender, responses) = Sender::for_responses();
            tokio::spawn(async move {
                go.notified().await;
                sender.send(&numbered(7)).await
            });
            Ok(Response::new(responses))
        }
    })));
    in_time(async {
        let response = running
            .caller()
            .await
            .server_streaming::<_, Packet>(&LIST, Request::new(packet("")))
            .await
            .expect("it begins, although there is no message yet");
        go.notify_one();
        assert_eq!(numbers(response.into_inner()).await.expect("one"), [7]);
    })
    .await;
}

#[tokio::test]
async fn a_server_may_answer_while_the_caller_still_sends() {
    let service = streams()
        .record(|_| async { Err(Status::resource_exhausted("enough")) })
        .chat(|request| async move {
            let mut requests = request.into_inner();
            let first = requests.message().await?.unwrap_or_default();
            Ok(Response::new(iter([Ok(first)])))
        });
    let running = serve(Server::builder().add_service(service));
    in_time(async {
        let caller = running.caller().await;
        let (sender, requests) = queue::<Packet>();
        let status = caller
            .client_streaming::<_, _, Packet>(&RECORD, Request::new(requests))
            .await
            .expect_err("it has enough");
        assert_eq!(status.code(), Code::ResourceExhausted);
        sender.closed().await;

        let (mut sender, requests) = Sender::for_requests();
        let (response, first) = tokio::join!(
            caller.bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests)),
            async { sender.send(&numbered(1)).await },
        );
        first.expect("it listens");
        let received = numbers(response.expect("it begins").into_inner()).await;
        assert_eq!(received.expect("it ends well"), [1]);
        let refused = loop {
            if let Err(status) = sender.send(&numbered(2)).await {
                break status;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(refused.code(), Code::Cancelled);
        assert_eq!(running.caller().await.unary_is_fine().await, ());
    })
    .await;
}

/// Checks that a session is as good as new.
trait Fine {
    async fn unary_is_fine(&self);
}

impl Fine for Caller {
    async fn unary_is_fine(&self) {
        let status = self
            .unary::<_, Packet>(&common::RUN, Request::new(packet("")))
            .await
            .expect_err("there is no such method");
        assert_eq!(status.code(), Code::Unimplemented);
    }
}

/// Serves streams whose end is reported.
fn endless(dropped: mpsc::UnboundedSender<&'static str>) -> Streams {
    let (list, chat) = (dropped.clone(), dropped.clone());
    let report = |dropped: &mpsc::UnboundedSender<&'static str>, what: &'static str| {
        let dropped = dropped.clone();
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let _ = receiver.await;
            let _ = dropped.send(what);
        });
        OnDrop(Some(sender))
    };
    streams()
        .list(move |_| {
            let guard = report(&list, "list");
            async move {
                Ok(Response::new(iter((0..).map(move |number| {
                    let _ = &guard;
                    Ok(numbered(number))
                }))))
            }
        })
        .record(move |request| {
            let guard = report(&dropped, "record");
            async move {
                let _guard = guard;
                let _request = request;
                pending().await
            }
        })
        .chat(move |request| {
            let guard = report(&chat, "chat");
            async move {
                let mut requests = request.into_inner();
                let (mut sender, responses) = Sender::for_responses();
                tokio::spawn(async move {
                    let _guard = guard;
                    while let Ok(Some(message)) = requests.message().await {
                        if sender.send(&message).await.is_err() {
                            break;
                        }
                    }
                });
                Ok(Response::new(responses))
            }
        })
}

#[tokio::test]
async fn a_caller_that_gives_up_ends_the_handler_and_its_stream() {
    let (dropped, mut reports) = mpsc::unbounded_channel();
    let running = serve(Server::builder().add_service(endless(dropped)));
    in_time(async {
        let caller = running.caller().await;
        let mut messages = caller
            .server_streaming::<_, Packet>(&LIST, Request::new(packet("")))
            .await
            .expect("it begins")
            .into_inner();
        assert!(messages.message().await.expect("it counts").is_some());
        drop(messages);
        assert_eq!(reports.recv().await, Some("list"));

        let (sender, requests) = queue::<Packet>();
        let call = caller.client_streaming::<_, _, Packet>(&RECORD, Request::new(requests));
        tokio::select! {
            _ = call => panic!("it never answers"),
            () = async { for _ in 0..3 { sender.send(packet("")).await.expect("it is polled"); } } => {}
        }
        assert_eq!(reports.recv().await, Some("record"));
        sender.closed().await;

        let (mut sender, requests) = Sender::for_requests();
        let mut responses = caller
            .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests))
            .await
            .expect("it begins")
            .into_inner();
        sender.send(&numbered(1)).await.expect("it listens");
        assert_eq!(responses.message().await.expect("it echoes"), Some(numbered(1)));
        drop(responses);
        assert_eq!(reports.recv().await, Some("chat"));
        while sender.send(&numbered(2)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        caller.unary_is_fine().await;
    })
    .await;
}

#[tokio::test]
async fn a_sender_that_fails_gives_the_call_up() {
    let (dropped, mut reports) = mpsc::unbounded_channel();
    let running = serve(Server::builder().add_service(endless(dropped)));
    in_time(async {
        let caller = running.caller().await;
        let (sender, requests) = Sender::<Packet>::for_requests();
        let call = caller.client_streaming::<_, _, Packet>(&RECORD, Request::new(requests));
        let (result, ()) = tokio::join!(call, async {
            sender.fail(Status::data_loss("the disk is gone"));
        });
        assert_eq!(result.expect_err("it failed").code(), Code::DataLoss);
        caller.unary_is_fine().await;
        // Whether the handler had begun is up to the threads.
        while let Ok(report) = reports.try_recv() {
            assert_eq!(report, "record");
        }
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_stops_reading_still_answers() {
    let running = serve(
        Server::builder().add_service(streams().chat(|request| async move {
            let mut requests: Streaming<Packet> = request.into_inner();
            let first = requests.message().await?.unwrap_or_default();
            drop(requests);
            let (mut sender, responses) = Sender::for_responses();
            tokio::spawn(async move {
                for _ in 0..100 {
                    sender.send(&first).await?;
                }
                Ok::<_, Status>(())
            });
            Ok(Response::new(responses))
        })),
    );
    in_time(async {
        let caller = running.caller().await;
        // Far more than the windows hold.
        let requests = iter((0..100_000).map(numbered));
        let responses = caller
            .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests))
            .await
            .expect("it begins")
            .into_inner();
        assert_eq!(numbers(responses).await.expect("it ends well").len(), 100);
    })
    .await;
}

#[tokio::test]
async fn what_comes_before_a_message_that_is_too_long_arrives() {
    let service = streams().list(|_| async {
        let long = |text: &str| Packet {
            payload: Bytes::from(vec![0; 200]),
            ..packet(text)
        };
        Ok(Response::new(iter([
            Ok(numbered(1)),
            Ok(numbered(2)),
            Ok(long("too long")),
            Ok(numbered(3)),
        ])))
    });
    let running = serve(
        Server::builder()
            .max_response_size(100)
            .add_service(service),
    );
    in_time(async {
        let caller = running.caller().await;
        let mut messages = caller
            .server_streaming::<_, Packet>(&LIST, Request::new(packet("")))
            .await
            .expect("it begins")
            .into_inner();
        for number in 1..=2 {
            assert_eq!(
                messages.message().await.expect("short"),
                Some(numbered(number))
            );
        }
        let status = messages.message().await.expect_err("too long");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(messages.message().await.expect("nothing follows"), None);

        // And a caller's limit holds for each message.
        let caller = running.caller().await.max_response_size(1);
        let status = caller
            .server_streaming::<_, Packet>(&LIST, Request::new(packet("")))
            .await
            .expect("it begins")
            .into_inner()
            .message()
            .await
            .expect_err("too long");
        assert_eq!(status.code(), Code::ResourceExhausted);
        caller.unary_is_fine().await;
    })
    .await;
}

#[tokio::test]
async fn messages_of_all_lengths_keep_their_order() {
    let lengths = || {
        [
            0, 1, 70, 2000, 2047, 2048, 2049, 30, 100_000, 5, 5, 5, 4096, 0,
        ]
    };
    let running = serve(
        Server::builder().add_service(streams().list(move |_| async move {
            let messages = (0..500u64).flat_map(move |round| {
                lengths().into_iter().map(move |len| {
                    Ok(Packet {
                        payload: Bytes::from(vec![u8::try_from(round % 251).unwrap_or(0); len]),
                        number: round,
                        ..Packet::default()
                    })
                })
            });
            Ok(Response::new(iter(messages)))
        })),
    );
    let check = |caller: Caller| async move {
        let mut messages = caller
            .server_streaming::<_, Packet>(&LIST, Request::new(packet("")))
            .await
            .expect("it begins")
            .into_inner();
        for round in 0..500u64 {
            for len in lengths() {
                let message = messages.message().await.expect("it goes on");
                let message = message.expect("as many as were sent");
                assert_eq!((message.number, message.payload.len()), (round, len));
                let byte = u8::try_from(round % 251).unwrap_or(0);
                assert!(message.payload.iter().all(|&found| found == byte));
            }
        }
        assert_eq!(messages.message().await.expect("it ends well"), None);
    };
    in_time(check(running.caller().await)).await;
}

/// Numbers that come eight at a time, after which others are let run.
struct InEights(std::ops::Range<u64>, bool);

impl Stream for InEights {
    type Item = Packet;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        if self.0.start.is_multiple_of(8) && !std::mem::replace(&mut self.1, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.1 = false;
        Poll::Ready(self.0.next().map(numbered))
    }
}

#[tokio::test]
async fn messages_travel_together_though_their_source_pauses() {
    const COUNT: u64 = 800;
    let service = streams().record(|mut request| async move {
        let mut count = 0;
        while request.get_mut().message().await?.is_some() {
            count += 1;
        }
        assert_eq!(count, COUNT);
        let received = request.session_stats().map(|stats| stats.messages_received);
        Ok(Response::new(numbered(received.unwrap_or_default())))
    });
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("streams.sock");
    let listener = Listener::bind(path.clone()).expect("nobody else listens there");
    let _server = Server::builder()
        .add_service(service)
        .start_with_listener(listener);
    in_time(async {
        let caller = Caller::new(Channel::connect(path).await.expect("it listens"));
        let requests = Request::new(InEights(0..COUNT, false));
        let answer = caller.client_streaming::<_, _, Packet>(&RECORD, requests);
        let received = answer.await.expect("it is served").into_inner().number;
        // The first few go one by one, and then one message of the transport holds eight. It would be five for eight if each pause made
        // the stream begin anew.
        let expected = COUNT / 8..COUNT / 4;
        assert!(expected.contains(&received), "{received} messages");
    })
    .await;
}
