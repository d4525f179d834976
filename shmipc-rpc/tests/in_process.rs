//! Calls within a process: what becomes of a handler, and of what it has left behind, when its caller goes.

mod common;

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use shmipc_rpc::{
    Body, CancelReason, Cancellation, Channel, Code, Request, Response, ResponseStream, Sender,
    Server, Status, Streaming,
    client::{CallService, Caller},
    interceptor::{Call, InterceptorLayer, Next},
};
use tokio::sync::mpsc;
use tower::util::MapRequest;

use crate::common::{
    Packet, RUN, growing, in_time, lab, packet,
    streams::{CHAT, LIST, RECORD, iter, numbered, queue, streams},
};

/// What a task that a handler has left behind has learned.
#[derive(Debug)]
enum Learned {
    /// From the handle that tells of the caller.
    Cancelled(CancelReason),
    /// From requests that it waits for.
    Requests(Result<Option<Packet>, Status>),
    /// From sending.
    Sent(Status),
}

type Notes = mpsc::UnboundedSender<Learned>;

fn watch(cancellation: Cancellation, notes: Notes) {
    tokio::spawn(async move {
        let reason = cancellation.cancelled().await;
        assert!(cancellation.is_cancelled());
        notes.send(Learned::Cancelled(reason))
    });
}

/// Notes how requests end, of which the first is taken.
fn drain(mut requests: Streaming<Packet>, notes: Notes) {
    tokio::spawn(async move {
        let mut next = requests.message().await;
        if let Ok(Some(_)) = next {
            next = requests.message().await;
        }
        notes.send(Learned::Requests(next))
    });
}

fn send_on(mut sender: Sender<Packet>, notes: Notes) {
    tokio::spawn(async move {
        let mut number = 0;
        loop {
            if let Err(status) = sender.send(&numbered(number)).await {
                break notes.send(Learned::Sent(status));
            }
            number += 1;
        }
    });
}

/// A channel to a service whose handlers leave tasks behind.
fn leaving() -> (Caller, mpsc::UnboundedReceiver<Learned>) {
    let (notes, learned) = mpsc::unbounded_channel();
    let (list, record, chat) = (notes.clone(), notes.clone(), notes);
    let service = streams()
        .list(move |request| {
            let notes = list.clone();
            async move {
                let (sender, responses) = Sender::for_responses();
                watch(request.cancellation(), notes.clone());
                send_on(sender, notes);
                Ok(Response::new(responses))
            }
        })
        .record(move |request| {
            let notes = record.clone();
            async move {
                watch(request.cancellation(), notes.clone());
                let answers = request.metadata().contains_key("x-answer");
                drain(request.into_inner(), notes);
                if !answers {
                    pending::<()>().await;
                }
                Ok(Response::new(packet("enough")))
            }
        })
        .chat(move |request| {
            let notes = chat.clone();
            async move {
                watch(request.cancellation(), notes.clone());
                drain(request.into_inner(), notes.clone());
                let (sender, responses) = Sender::for_responses();
                send_on(sender, notes);
                Ok(Response::new(responses))
            }
        });
    (Caller::new(Channel::in_process(service)), learned)
}

/// Takes what so many tasks have learned: the reason, and the codes of the others.
async fn all(
    learned: &mut mpsc::UnboundedReceiver<Learned>,
    count: usize,
) -> (Vec<CancelReason>, Vec<Code>) {
    let (mut reasons, mut codes) = (Vec::new(), Vec::new());
    for _ in 0..count {
        match in_time(learned.recv()).await.expect("a task goes on") {
            Learned::Cancelled(reason) => reasons.push(reason),
            Learned::Requests(next) => {
                codes.push(next.expect_err("they break off").code());
            }
            Learned::Sent(status) => codes.push(status.code()),
        }
    }
    (reasons, codes)
}

#[tokio::test]
async fn a_dropped_stream_of_responses_tells_all_tasks() {
    let (caller, mut learned) = leaving();
    let mut responses =
        in_time(caller.server_streaming::<_, Packet>(&LIST, Request::new(packet(""))))
            .await
            .expect("it begins")
            .into_inner();
    let first = in_time(responses.message()).await.expect("it goes on");
    assert_eq!(first, Some(numbered(0)));
    drop(responses);
    assert_eq!(
        all(&mut learned, 2).await,
        (vec![CancelReason::ByCaller], vec![Code::Cancelled])
    );

    let (sender, requests) = queue();
    let mut responses =
        in_time(caller.bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests)))
            .await
            .expect("it begins")
            .into_inner();
    sender.send(numbered(0)).await.expect("it is polled");
    let first = in_time(responses.message()).await.expect("it goes on");
    assert_eq!(first, Some(numbered(0)));
    drop(responses);
    // The other end of the requests is open.
    assert_eq!(
        all(&mut learned, 3).await,
        (vec![CancelReason::ByCaller], vec![Code::Cancelled; 2])
    );
    in_time(sender.closed()).await;
}

#[tokio::test]
async fn a_dropped_call_tells_a_task_that_waits_for_requests() {
    let (caller, mut learned) = leaving();
    let (sender, requests) = queue::<Packet>();
    let mut call = Box::pin(async move {
        caller
            .client_streaming::<_, _, Packet>(&RECORD, Request::new(requests))
            .await
    });
    tokio::select! {
        biased;
        _ = &mut call => panic!("it does not answer"),
        sent = sender.send(numbered(0)) => sent.expect("it is polled"),
    }
    drop(call);
    assert_eq!(
        all(&mut learned, 2).await,
        (vec![CancelReason::ByCaller], vec![Code::Cancelled])
    );
}

#[tokio::test]
async fn a_call_that_was_answered_has_no_more_requests() {
    let (caller, mut learned) = leaving();
    let (sender, requests) = queue::<Packet>();
    let mut request = Request::new(requests);
    request
        .metadata_mut()
        .insert("x-answer", http::HeaderValue::from_static("1"));
    let response = in_time(caller.client_streaming::<_, _, Packet>(&RECORD, request)).await;
    assert_eq!(response.expect("it answers").into_inner(), packet("enough"));
    assert_eq!(
        all(&mut learned, 2).await,
        (vec![CancelReason::Finished], vec![Code::Cancelled])
    );
    in_time(sender.closed()).await;
}

#[tokio::test]
async fn the_deadline_tells_tasks_although_the_caller_does_not_look() {
    let mut begun = None;
    for time in growing() {
        let (caller, learned) = leaving();
        let (sender, requests) = queue::<Packet>();
        let mut request = Request::new(requests);
        request.set_timeout(time);
        let response = in_time(caller.bidi_streaming::<_, _, Packet>(&CHAT, request)).await;
        // It may be late before it has begun.
        if let Ok(response) = response {
            begun = Some((caller, learned, sender, response.into_inner()));
            break;
        }
    }
    let (_caller, mut learned, _sender, mut responses) = begun.expect("a call begins");
    // One task waits for room to send, which only the caller could make.
    assert_eq!(
        all(&mut learned, 2).await,
        (
            vec![CancelReason::DeadlineExceeded],
            vec![Code::DeadlineExceeded]
        )
    );
    let end = async {
        loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        }
    };
    let status = in_time(end).await.expect_err("it is late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(all(&mut learned, 1).await.1, [Code::Cancelled]);
}

#[tokio::test]
async fn requests_that_are_always_there_end_with_the_call() {
    let (caller, mut learned) = {
        let (notes, learned) = mpsc::unbounded_channel();
        let service = streams().chat(move |request| {
            let notes = notes.clone();
            async move {
                let mut requests = request.into_inner();
                tokio::spawn(async move {
                    let end = loop {
                        match requests.message().await {
                            Ok(Some(_)) => tokio::task::yield_now().await,
                            end => break end,
                        }
                    };
                    notes.send(Learned::Requests(end))
                });
                Ok(Response::new(
                    common::streams::queue::<Result<Packet, Status>>().1,
                ))
            }
        });
        (Caller::new(Channel::in_process(service)), learned)
    };
    let requests = iter((0..).map(numbered));
    let responses = in_time(caller.bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests)))
        .await
        .expect("it begins");
    drop(responses);
    assert_eq!(all(&mut learned, 1).await.1, [Code::Cancelled]);
}

#[tokio::test]
async fn a_unary_call_that_went_well_is_finished() {
    let (notes, mut learned) = mpsc::unbounded_channel();
    let service = lab(move |request: Request<Packet>| {
        watch(request.cancellation(), notes.clone());
        async move {
            match request.get_ref().text.as_str() {
                "hang" => pending().await,
                "fail" => Err(Status::aborted("as asked")),
                _ => Ok(Response::new(request.into_inner())),
            }
        }
    });
    let caller = Caller::new(Channel::in_process(service));
    let call = |text| {
        let caller = caller.clone();
        async move {
            let request = Request::new(packet(text));
            caller.unary::<_, Packet>(&common::RUN, request).await
        }
    };
    in_time(call("")).await.expect("it echoes");
    assert_eq!(all(&mut learned, 1).await.0, [CancelReason::Finished]);
    in_time(call("fail")).await.expect_err("it fails");
    assert_eq!(all(&mut learned, 1).await.0, [CancelReason::Finished]);
    tokio::select! {
        biased;
        _ = call("hang") => panic!("it does not answer"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(all(&mut learned, 1).await.0, [CancelReason::ByCaller]);
}

/// A stream that panics, after a message.
fn panicking() -> impl ResponseStream<Packet> {
    iter((0..).map(|number| {
        assert_eq!(number, 0, "as asked");
        Ok(numbered(number))
    }))
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_call_only() {
    async fn check(channel: Channel) {
        let caller = Caller::new(channel);
        for _ in 0..2 {
            let call = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
            let mut messages = in_time(call).await.expect("it begins").into_inner();
            let first = in_time(messages.message()).await.expect("it is there");
            assert_eq!(first, Some(numbered(0)));
            let status = in_time(messages.message()).await.expect_err("it panics");
            assert_eq!(status.code(), Code::Internal);
            assert_eq!(in_time(messages.message()).await.expect("it is over"), None);

            let requests = iter([packet("")]);
            let call = caller.client_streaming::<_, _, Packet>(&RECORD, Request::new(requests));
            let status = in_time(call).await.expect_err("it panics");
            assert_eq!(status.code(), Code::Internal);
        }
    }
    let service = streams()
        .list(|_| async { Ok(Response::new(panicking())) })
        .record(|_| async { panic!("as asked") });
    check(Channel::in_process(service.clone())).await;
    let server = Server::builder().add_service(service);
    check(Channel::in_process(server.into_service())).await;
}

#[tokio::test]
async fn a_whole_server_may_be_called() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let layer = InterceptorLayer::on_request(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let server = Server::builder()
        .layer(layer)
        .add_service(common::echo())
        .add_service(streams().list(|_| async { Ok(Response::new(iter([Ok(numbered(7))]))) }));
    let caller = Caller::new(Channel::in_process(server.into_service()));
    let call = caller.unary::<_, Packet>(&common::RUN, Request::new(packet("echo")));
    let answer = in_time(call).await.expect("it echoes");
    assert_eq!(answer.into_inner(), packet("echo"));
    let call = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
    let mut messages = in_time(call).await.expect("it lists").into_inner();
    let first = in_time(messages.message()).await.expect("it lists");
    assert_eq!(first, Some(numbered(7)));
    let call = caller.unary::<_, Packet>(&common::ELSEWHERE, Request::new(packet("")));
    let status = in_time(call).await.expect_err("there is no such service");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(seen.load(Ordering::Relaxed), 3);
}

/// A message, and one that is waited for.
struct Stalling {
    first: Option<Packet>,
    next: Pin<Box<dyn Future<Output = Result<Packet, Status>> + Send>>,
}

impl Stream for Stalling {
    type Item = Result<Packet, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.next.as_mut().poll(cx).map(Some),
        }
    }
}

/// A channel to a handler that sends one message and then waits for ever, for an answer to a call that has no deadline of its own. Tells
/// whether such a call has inherited one.
fn stalling() -> (Channel, mpsc::UnboundedReceiver<bool>) {
    let (note, noted) = mpsc::unbounded_channel();
    let inner = Caller::new(Channel::in_process(lab(move |request| {
        let note = note.clone();
        async move {
            note.send(request.deadline().is_some()).unwrap();
            pending().await
        }
    })));
    let service = streams().list(move |_| {
        let inner = inner.clone();
        async move {
            let next = async move {
                let answer = inner.unary(&RUN, Request::new(packet("wait"))).await;
                answer.map(Response::into_inner)
            };
            Ok(Response::new(Stalling {
                first: Some(numbered(0)),
                next: Box::pin(next),
            }))
        }
    });
    (Channel::in_process(service), noted)
}

/// How a call of many answers ends that is made through a layer.
async fn end_of<S: CallService>(caller: Caller<S>) -> Code {
    let called = async {
        let request = Request::new(packet("all"));
        let response = caller.server_streaming::<_, Packet>(&LIST, request).await;
        let mut responses = response?.into_inner();
        while responses.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    in_time(called)
        .await
        .expect_err("it does not end by itself")
        .code()
}

const SOON: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_deadline_of_an_interceptor_limits_all_of_the_call() {
    let (channel, mut noted) = stalling();
    let layer = InterceptorLayer::new(|mut call: Call, next: Next| async move {
        call.set_timeout(SOON);
        next.run(call).await
    });
    let code = end_of(Caller::new(layer.layer(channel))).await;
    assert_eq!(code, Code::DeadlineExceeded);
    assert_eq!(in_time(noted.recv()).await, Some(true), "it is inherited");
}

#[tokio::test]
async fn a_deadline_in_the_headers_counts_as_between_processes() {
    let (channel, mut noted) = stalling();
    let caller = Caller::new(MapRequest::new(
        channel,
        |mut request: http::Request<Body>| {
            let timeout = http::HeaderValue::from_static("300m");
            request.headers_mut().insert("grpc-timeout", timeout);
            request
        },
    ));
    assert_eq!(end_of(caller).await, Code::DeadlineExceeded);
    assert_eq!(in_time(noted.recv()).await, Some(true));
}
