//! Calls within calls, of all kinds: they get no more time than the outer call has, and end when it does.

mod common;

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use shmipc_rpc::{
    Body, Code, Method, Request, Response, Server, Status, Streaming,
    client::{CallService, Caller},
    http,
    server::{ResponseFuture, Service},
};
use tokio::sync::{mpsc, oneshot};
use tower::{buffer::BufferLayer, layer::layer_fn};

use crate::common::{
    LONG, OnDrop, Packet, RUN, Running, growing, in_time, lab, packet, serve,
    streams::{CHAT, LIST, RECORD, Streams, iter, numbered, numbers, streams},
    told,
};

/// The kinds of calls that stream.
const STREAMING: [&Method; 3] = [&LIST, &RECORD, &CHAT];

/// Messages that never come. It may tell when it is dropped.
struct Silence<T> {
    _on_drop: Option<OnDrop>,
    item: PhantomData<fn() -> T>,
}

impl<T> Stream for Silence<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Pending
    }
}

fn silence<T>(on_drop: Option<OnDrop>) -> Silence<T> {
    Silence {
        _on_drop: on_drop,
        item: PhantomData,
    }
}

/// Makes a call to which no messages are sent, and waits for its end.
async fn call<S: CallService>(
    caller: &Caller<S>,
    method: &Method,
    timeout: Option<Duration>,
) -> Result<Vec<u64>, Status> {
    fn request<T>(message: T, timeout: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }
    let response: Response<Streaming<Packet>> = match method.name() {
        "List" => {
            let request = request(packet(""), timeout);
            caller.server_streaming(method, request).await?
        }
        "Record" => {
            let request = request(silence::<Packet>(None), timeout);
            let recorded: Response<Packet> = caller.client_streaming(method, request).await?;
            return Ok(vec![recorded.get_ref().number]);
        }
        _ => {
            let request = request(silence::<Packet>(None), timeout);
            caller.bidi_streaming(method, request).await?
        }
    };
    numbers(response.into_inner()).await
}

/// A server whose handlers never end by themselves.
struct Inner {
    running: Running,
    /// For each call, what tells that its handler was dropped.
    entered: mpsc::UnboundedReceiver<oneshot::Receiver<()>>,
}

fn inner() -> Inner {
    let (enter, entered) = mpsc::unbounded_channel();
    let guard = move || {
        let (sender, dropped) = oneshot::channel();
        enter.send(dropped).expect("the test waits");
        OnDrop(Some(sender))
    };
    let (record, chat) = (guard.clone(), guard.clone());
    let service = streams()
        .list(move |_| {
            let guard = guard();
            async move { Ok(Response::new(silence(Some(guard)))) }
        })
        .record(move |_| {
            let guard = record();
            async move {
                let _guard = guard;
                pending().await
            }
        })
        .chat(move |_| {
            let guard = chat();
            async move { Ok(Response::new(silence(Some(guard)))) }
        });
    Inner {
        running: serve(Server::builder().add_service(service)),
        entered,
    }
}

/// A service that passes all calls on.
fn passing_on(inner: Caller) -> Streams {
    let (record, chat) = (inner.clone(), inner.clone());
    streams()
        .list(move |request: Request<Packet>| {
            let inner = inner.clone();
            let request = Request::new(request.into_inner());
            async move { inner.server_streaming::<_, Packet>(&LIST, request).await }
        })
        .record(move |_| {
            let inner = record.clone();
            let request = Request::new(silence::<Packet>(None));
            async move { inner.client_streaming(&RECORD, request).await }
        })
        .chat(move |_| {
            let inner = chat.clone();
            let request = Request::new(silence::<Packet>(None));
            async move { inner.bidi_streaming::<_, _, Packet>(&CHAT, request).await }
        })
}

#[tokio::test]
async fn giving_a_call_up_ends_the_calls_within() {
    async fn check<S: CallService>(
        caller: Caller<S>,
        entered: &mut mpsc::UnboundedReceiver<oneshot::Receiver<()>>,
    ) {
        for method in STREAMING {
            let dropped = tokio::select! {
                _ = call(&caller, method, None) => panic!("nobody answers"),
                entered = entered.recv() => entered.expect("it is called"),
            };
            dropped.await.expect("it says so");
        }
        // The same once the responses have begun.
        let request = Request::new(packet(""));
        let listed = caller.server_streaming::<_, Packet>(&LIST, request).await;
        let mut dropped = entered.recv().await.expect("it is called");
        assert!(dropped.try_recv().is_err(), "somebody listens");
        drop(listed.expect("it begins"));
        dropped.await.expect("it says so");

        let request = Request::new(silence::<Packet>(None));
        let chat = caller.bidi_streaming::<_, _, Packet>(&CHAT, request).await;
        let mut dropped = entered.recv().await.expect("it is called");
        assert!(dropped.try_recv().is_err(), "somebody listens");
        drop(chat.expect("it begins"));
        dropped.await.expect("it says so");
    }
    let mut inner = inner();
    let service = passing_on(inner.running.caller().await);
    let outer = serve(Server::builder().add_service(service));
    in_time(check(outer.caller().await, &mut inner.entered)).await;
    in_time(check(outer.caller_over_http().await, &mut inner.entered)).await;
}

/// Makes a call within a handler that is dropped before the call ends; its end is reported all the same.
async fn outliving(inner: Caller, method: &'static Method, end: mpsc::UnboundedSender<Code>) {
    let mut call = Box::pin(async move { call(&inner, method, None).await });
    // The first poll is the handler's, so that there is something to inherit.
    let begun = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
    assert!(begun.is_pending(), "nobody answers");
    tokio::spawn(async move {
        let status = call.await.expect_err("nobody answers");
        end.send(status.code())
    });
    pending().await
}

#[tokio::test]
async fn the_deadline_of_a_call_is_that_of_the_calls_within() {
    async fn check<S: CallService>(
        caller: Caller<S>,
        entered: &mut mpsc::UnboundedReceiver<oneshot::Receiver<()>>,
        ended: &mut mpsc::UnboundedReceiver<Code>,
    ) {
        'methods: for method in STREAMING {
            for time in growing() {
                let status = call(&caller, method, Some(time))
                    .await
                    .expect_err("nobody answers");
                assert_eq!(status.code(), Code::DeadlineExceeded, "{}", method.name());
                // The call is to get to its second server before it is late.
                if let Some(code) = told(ended, time).await {
                    assert_eq!(code, Code::DeadlineExceeded);
                    if let Some(dropped) = told(entered, time).await {
                        dropped.await.expect("it says so");
                        continue 'methods;
                    }
                }
            }
            panic!("{} never gets there", method.name());
        }
    }
    let mut inner = inner();
    let caller = inner.running.caller().await;
    let (end, mut ended) = mpsc::unbounded_channel();
    let within = move |method| outliving(caller.clone(), method, end.clone());
    let (record, chat) = (within.clone(), within.clone());
    let service = streams()
        .list(move |_| {
            let within = within(&LIST);
            async move {
                within.await;
                Ok(Response::new(silence(None)))
            }
        })
        .record(move |_| {
            let within = record(&RECORD);
            async move {
                within.await;
                Ok(Response::new(packet("")))
            }
        })
        .chat(move |_| {
            let within = chat(&CHAT);
            async move {
                within.await;
                Ok(Response::new(silence(None)))
            }
        });
    let outer = serve(Server::builder().add_service(service));
    in_time(check(outer.caller().await, &mut inner.entered, &mut ended)).await;
    in_time(check(
        outer.caller_over_http().await,
        &mut inner.entered,
        &mut ended,
    ))
    .await;
}

/// Runs the calls of a service in tasks of their own.
#[derive(Clone)]
struct Spawning<S>(S);

impl<S> Service<http::Request<Body>> for Spawning<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        let task = tokio::spawn(self.0.call(request));
        ResponseFuture::new(async move { task.await.expect("no handler panics") })
    }
}

/// Services of all kinds of calls whose answers are how many seconds a call within has.
async fn asking(inner: &Running) -> (common::Lab, Streams) {
    let caller = inner.caller().await;
    let ask = move || {
        let caller = caller.clone();
        async move {
            let response = caller.unary(&RUN, Request::new(packet(""))).await;
            response.map(|response: Response<Packet>| response.into_inner().number)
        }
    };
    let (unary, record, chat) = (ask.clone(), ask.clone(), ask.clone());
    let lab = lab(move |_| {
        let left = unary();
        async move { Ok(Response::new(numbered(left.await?))) }
    });
    let streams = streams()
        .list(move |_| {
            let left = ask();
            async move { Ok(Response::new(iter([Ok(numbered(left.await?))]))) }
        })
        .record(move |_| {
            let left = record();
            async move { Ok(Response::new(numbered(left.await?))) }
        })
        .chat(move |_| {
            let left = chat();
            async move { Ok(Response::new(iter([Ok(numbered(left.await?))]))) }
        });
    (lab, streams)
}

#[tokio::test]
async fn calls_inherit_a_deadline_wherever_layers_have_the_handler_polled() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let right = 1..=LONG.as_secs();
        let mut request = Request::new(packet(""));
        request.set_timeout(LONG);
        let left = caller.unary::<_, Packet>(&RUN, request).await;
        let left = left.expect("there is time").into_inner().number;
        assert!(right.contains(&left), "{left}");
        for method in STREAMING {
            let left = call(&caller, method, Some(LONG)).await;
            let left = left.expect("there is time");
            assert!(
                matches!(left[..], [left] if right.contains(&left)),
                "{}: {left:?}",
                method.name()
            );
            let left = call(&caller, method, None).await;
            assert_eq!(left.expect("there is time"), [u64::MAX], "never");
        }
    }
    let inner = serve(Server::builder().add_service(lab(|request| async move {
        let left = request.remaining().map_or(u64::MAX, |left| left.as_secs());
        Ok(Response::new(numbered(left)))
    })));
    let (lab, streams) = asking(&inner).await;
    let server = || {
        Server::builder()
            .add_service(lab.clone())
            .add_service(streams.clone())
    };
    let running = serve(server());
    over_both_paths!(running, check);
    let running = serve(server().layer(layer_fn(Spawning)));
    over_both_paths!(running, check);
    let running = serve(server().layer(BufferLayer::<http::Request<Body>>::new(8)));
    over_both_paths!(running, check);
    let running = serve(
        server()
            .layer(BufferLayer::<http::Request<Body>>::new(8))
            .layer(layer_fn(Spawning)),
    );
    over_both_paths!(running, check);
}
