//! Halves of calls that end before what opens them could be sent.

mod common;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
};

use shmipc_rpc::{
    Config, Request, Response, ResponseStream, Sender, Server, Status, http::HeaderValue,
};
use tokio::sync::Notify;

use common::{
    Packet, in_time, packet, serve_with,
    streams::{CHAT, LIST, RECORD, iter, numbered, numbers, queue, streams},
};

/// The call cannot be opened yet, and what opens it is so long that it waits in a buffer.
#[tokio::test]
async fn a_sender_may_end_before_its_call_is_opened() {
    let config = Config::builder()
        .streams_max(1)
        .build()
        .expect("it is valid");
    let server = Server::builder().add_service(
        streams()
            .list(|_| async {
                let endless = iter((0..).map(|number| Ok(numbered(number))));
                Ok(Response::new(endless))
            })
            .record(|request| async move {
                let sum = numbers(request.into_inner()).await?.iter().sum();
                Ok(Response::new(numbered(sum)))
            }),
    );
    let running = serve_with(config, server);
    in_time(async {
        let caller = running.caller().await;
        let endless = caller
            .server_streaming::<_, Packet>(&LIST, Request::new(packet("")))
            .await
            .expect("it begins");
        let (sender, requests) = Sender::<Packet>::for_requests();
        let mut request = Request::new(requests);
        let long = HeaderValue::from_str(&"x".repeat(4096)).expect("it is text");
        request.metadata_mut().insert("x-long", long);
        let mut call = pin!(caller.client_streaming::<_, _, Packet>(&RECORD, request));
        let waits = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending()));
        assert!(waits.await, "one stream is all that the server accepts");
        sender.finish();
        let still_waits = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending()));
        assert!(still_waits.await);
        drop(endless);
        assert_eq!(call.await.expect("it counts").into_inner(), numbered(0));
    })
    .await;
}

#[tokio::test]
async fn a_sender_may_end_before_its_response_is_opened() {
    check(|| {
        let (sender, responses) = Sender::<Packet>::for_responses();
        (move || sender.finish(), responses)
    })
    .await;
}

#[tokio::test]
async fn a_stream_may_end_before_its_response_is_opened() {
    check(|| {
        let (queue, responses) = queue::<Result<Packet, Status>>();
        (move || drop(queue), responses)
    })
    .await;
}

/// All memory is lent out, and what opens the response is so long that it needs some. `make` makes the responses, and what ends them.
async fn check<S, E>(make: impl Fn() -> (E, S) + Clone + Send + Sync + 'static)
where
    S: ResponseStream<Packet>,
    E: FnOnce() + Send + 'static,
{
    let config = Config::builder()
        .memory_max(256 << 10)
        .build()
        .expect("it is valid");
    let (kept, lent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let server = {
        let (kept, lent) = (Arc::clone(&kept), Arc::clone(&lent));
        streams().chat(move |request| {
            let (kept, lent, make) = (Arc::clone(&kept), Arc::clone(&lent), make.clone());
            async move {
                loop {
                    let mut alloc = pin!(request.alloc(4096));
                    match poll_fn(|cx| Poll::Ready(alloc.as_mut().poll(cx))).await {
                        Poll::Ready(block) => kept.lock().expect("no panic").push(block?.freeze()),
                        Poll::Pending => break,
                    }
                }
                let (end, responses) = make();
                let mut response = Response::new(responses);
                let long = HeaderValue::from_str(&"x".repeat(4096)).expect("it is text");
                response.metadata_mut().insert("x-long", long);
                tokio::spawn(async move {
                    // By then, opening it has been tried.
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                    end();
                    lent.notify_one();
                });
                Ok(response)
            }
        })
    };
    let running = serve_with(config, Server::builder().add_service(server));
    in_time(async {
        let caller = running.caller().await;
        let (_requests, none) = queue::<Packet>();
        let call = caller.bidi_streaming::<_, _, Packet>(&CHAT, Request::new(none));
        let ((), response) = tokio::join!(
            async {
                lent.notified().await;
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                kept.lock().expect("no panic").clear();
            },
            call
        );
        let mut responses = response.expect("it begins").into_inner();
        assert_eq!(responses.message().await.expect("it ends well"), None);
    })
    .await;
}
