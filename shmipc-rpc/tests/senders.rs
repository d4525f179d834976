//! Senders: what becomes of a message that is too long, and of one whose encoding does more than to encode.

mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, mpsc::RecvTimeoutError},
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType};
use shmipc_rpc::{
    Channel, Code, Request, Response, Sender, Server, Status,
    client::{CallService, Caller},
    server::MessageLimits,
};
use tokio::sync::oneshot;

use crate::common::{
    LONG, Packet, growing, in_time, packet, serve,
    streams::{CHAT, LIST, RECORD, Streams, queue, streams},
};

fn sized(len: usize) -> Packet {
    Packet {
        payload: vec![1; len].into(),
        ..Packet::default()
    }
}

fn code<T>(result: &Result<T, Status>) -> Code {
    result.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

/// Sends three messages, of which the second is too long.
async fn send_three(mut sender: Sender<Packet>) -> [Code; 3] {
    let mut codes = [Code::Ok; 3];
    for (len, sent) in [90, 101, 80].into_iter().zip(&mut codes) {
        *sent = code(&sender.send(&sized(len)).await);
    }
    codes
}

const SHORT_LONG_SHORT: [Code; 3] = [Code::Ok, Code::ResourceExhausted, Code::Ok];

/// A service whose handlers send, and tell how that went, and whose handlers count what they receive.
fn sending(told: tokio::sync::mpsc::UnboundedSender<[Code; 3]>) -> Streams {
    streams()
        .list(move |_| {
            let told = told.clone();
            async move {
                let (sender, responses) = Sender::for_responses();
                tokio::spawn(async move { told.send(send_three(sender).await) });
                Ok(Response::new(responses))
            }
        })
        .record(|request| async move {
            let mut requests = request.into_inner();
            let mut lens = Vec::new();
            while let Some(message) = requests.message().await? {
                lens.push(message.payload.len());
            }
            Ok(Response::new(packet(&format!("{lens:?}"))))
        })
}

/// Sends requests, of which one is too long for the caller.
async fn check_requests<S: CallService>(caller: Caller<S>) {
    let caller = caller.max_request_size(100);
    let (sender, requests) = Sender::for_requests();
    let sent = tokio::spawn(send_three(sender));
    let call = caller.client_streaming::<_, _, Packet>(&RECORD, Request::new(requests));
    let answer = in_time(call).await.expect("the others are sent");
    assert_eq!(answer.into_inner(), packet("[90, 80]"));
    assert_eq!(in_time(sent).await.expect("no panic"), SHORT_LONG_SHORT);
}

/// Receives responses, of which one is too long for the server.
async fn check_responses<S: CallService>(
    caller: Caller<S>,
    told: &mut tokio::sync::mpsc::UnboundedReceiver<[Code; 3]>,
) {
    let call = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
    let mut messages = in_time(call).await.expect("it begins").into_inner();
    for len in [90, 80] {
        let message = in_time(messages.message()).await.expect("they are sent");
        assert_eq!(message, Some(sized(len)));
    }
    assert_eq!(in_time(messages.message()).await.expect("it ends"), None);
    assert_eq!(in_time(told.recv()).await, Some(SHORT_LONG_SHORT));
}

fn limited(told: tokio::sync::mpsc::UnboundedSender<[Code; 3]>) -> Server {
    Server::builder()
        .limits_for_method(&LIST, MessageLimits::new().max_response_size(100))
        .add_service(sending(told))
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_and_the_others_are_sent() {
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let running = serve(limited(told));
    check_requests(running.caller().await).await;
    check_requests(running.caller_over_http().await).await;
    check_responses(running.caller().await, &mut tells).await;
    check_responses(running.caller_over_http().await, &mut tells).await;
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn a_message_that_is_too_long_is_refused_over_http2() {
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let server = in_time(limited(told).start("http://127.0.0.1:0")).await;
    let server = server.expect("a port is free");
    let channel = in_time(Channel::connect(server.endpoints()[0].clone())).await;
    let caller = Caller::new(channel.expect("the server listens"));
    check_requests(caller.clone()).await;
    check_responses(caller, &mut tells).await;
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_within_a_process() {
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let caller = Caller::new(Channel::in_process(limited(told).into_service()));
    check_requests(caller.clone()).await;
    check_responses(caller, &mut tells).await;
}

/// What the encoding of a [`Nosy`] message does first.
type Deed = Mutex<Option<Box<dyn FnOnce() + Send>>>;

/// A message of bytes that are all zero, whose encoding does something else first, once.
#[derive(Clone, Default)]
struct Nosy {
    len: usize,
    deed: Arc<Deed>,
}

impl Nosy {
    fn new(len: usize, deed: impl FnOnce() + Send + 'static) -> Self {
        Self {
            len,
            deed: Arc::new(Mutex::new(Some(Box::new(deed)))),
        }
    }
}

impl std::fmt::Debug for Nosy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nosy").finish_non_exhaustive()
    }
}

impl prost::Message for Nosy {
    fn encode_raw(&self, out: &mut impl BufMut) {
        let deed = self.deed.lock().expect("nobody panicked").take();
        deed.into_iter().for_each(|deed| deed());
        Packet::encode_raw(&sized(self.len), out);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        let mut field = Packet::default();
        field.merge_field(tag, wire_type, buf, ctx)?;
        self.len = field.payload.len();
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        Packet::encoded_len(&sized(self.len))
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}

/// Runs a test in a thread of its own, on a runtime, and fails if it hangs, even if it blocks.
fn unless_it_blocks<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(test());
        let _ = done.send(());
    });
    match is_done.recv_timeout(LONG) {
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {
            thread.join().expect("the test went well");
        }
    }
}

/// A call that never ends, and can be dropped by whoever likes.
#[derive(Clone)]
struct Call(Arc<Mutex<Option<Calling>>>);

type Calling = Pin<Box<dyn Future<Output = Result<Response<Packet>, Status>> + Send>>;

impl Call {
    /// Begins one whose requests are sent by the sender.
    async fn begin(caller: Caller) -> (Sender<Nosy>, Self) {
        let (mut sender, requests) = Sender::for_requests();
        let calling = async move {
            caller
                .client_streaming::<_, _, Packet>(&RECORD, Request::new(requests))
                .await
        };
        let call = Self(Arc::new(Mutex::new(Some(Box::pin(calling)))));
        let sent = call.while_it_goes_on(sender.send(&Nosy::default())).await;
        sent.expect("it is received");
        (sender, call)
    }

    /// Polls the call, and something else.
    async fn while_it_goes_on<F: Future>(&self, other: F) -> F::Output {
        let going_on = std::future::poll_fn(|cx| {
            let mut call = self.0.lock().expect("nobody panicked");
            if let Some(call) = &mut *call {
                assert!(call.as_mut().poll(cx).is_pending(), "it does not end");
            }
            Poll::<()>::Pending
        });
        let both = async {
            tokio::select! {
                biased;
                () = going_on => unreachable!("it is never ready"),
                output = other => output,
            }
        };
        in_time(both).await
    }

    fn give_up(&self) {
        drop(self.0.lock().expect("nobody panicked").take());
    }
}

fn receiving() -> Streams {
    streams().record(|request| async move {
        let mut requests = request.into_inner();
        while requests.message().await?.is_some() {}
        std::future::pending().await
    })
}

/// Lets the encoding of a message drop the call that it is for.
async fn check_dropping(caller: Caller, len: usize) {
    let (mut sender, call) = Call::begin(caller).await;
    let dropped = call.clone();
    let nosy = Nosy::new(len, move || dropped.give_up());
    let status = call.while_it_goes_on(sender.send(&nosy)).await;
    assert_eq!(
        status.expect_err("nobody receives it").code(),
        Code::Cancelled
    );
    assert!(sender.is_closed());
}

/// Lets the encoding of a message panic, and sends others.
async fn check_panicking(caller: Caller, len: usize) {
    let (mut sender, call) = Call::begin(caller).await;
    let nosy = Nosy::new(len, || panic!("as asked"));
    let panicked = {
        let mut sending = std::pin::pin!(sender.send(&nosy));
        let mut cx = Context::from_waker(Waker::noop());
        catch_unwind(AssertUnwindSafe(|| {
            sending.as_mut().poll(&mut cx).is_ready()
        }))
    };
    assert!(panicked.is_err(), "it is passed on");
    assert!(!sender.is_closed());
    for _ in 0..3 {
        let plain = Nosy::new(len, || {});
        let sent = call.while_it_goes_on(sender.send(&plain)).await;
        sent.expect("it is received");
    }
}

#[test]
fn the_encoding_of_a_message_may_end_the_call() {
    unless_it_blocks(|| async {
        for len in [10, 5000] {
            let running = serve(Server::builder().add_service(receiving()));
            check_dropping(running.caller().await, len).await;
            let caller = Caller::new(Channel::in_process(receiving()));
            check_dropping(caller, len).await;
        }
    });
}

#[test]
fn the_encoding_of_a_message_may_panic() {
    unless_it_blocks(|| async {
        for len in [10, 5000] {
            let running = serve(Server::builder().add_service(receiving()));
            check_panicking(running.caller().await, len).await;
        }
    });
}

#[test]
fn a_sender_may_be_asked_while_a_message_is_encoded() {
    unless_it_blocks(|| async {
        let (mut sender, requests) = Sender::for_requests();
        let mut requests = Box::pin(requests);
        let mut cx = Context::from_waker(Waker::noop());
        let next = futures_core::Stream::poll_next(requests.as_mut(), &mut cx);
        assert!(next.is_pending(), "nothing was sent");
        let (told, tells) = oneshot::channel();
        let nosy = Nosy::new(10, move || {
            drop(requests);
            told.send(()).expect("the test waits");
        });
        let status = in_time(sender.send(&nosy)).await;
        assert_eq!(
            status.expect_err("nobody receives it").code(),
            Code::Cancelled
        );
        in_time(tells).await.expect("it was encoded");
    });
}

/// A service that sends one response, and tells when its sender is closed.
fn telling(told: tokio::sync::mpsc::UnboundedSender<bool>) -> Streams {
    streams().list(move |_| {
        let told = told.clone();
        async move {
            let (mut sender, responses) = Sender::for_responses();
            tokio::spawn(async move {
                sender.send(&packet("first")).await?;
                // Several may wait, and who gives up changes nothing.
                tokio::select! {
                    () = std::future::ready(()) => {}
                    () = sender.closed() => {}
                }
                tokio::join!(sender.closed(), sender.closed());
                let _ = told.send(sender.is_closed());
                Ok::<_, Status>(())
            });
            Ok(Response::new(responses))
        }
    })
}

/// Whatever the way of the call.
#[tokio::test]
async fn a_sender_of_responses_learns_that_the_call_was_given_up() {
    async fn check<S: CallService>(
        caller: Caller<S>,
        told: &mut tokio::sync::mpsc::UnboundedReceiver<bool>,
    ) {
        let call = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
        let mut messages = in_time(call).await.expect("it begins").into_inner();
        let first = in_time(messages.message()).await.expect("it is sent");
        assert_eq!(first, Some(packet("first")));
        assert!(told.try_recv().is_err(), "somebody receives");
        drop(messages);
        assert_eq!(in_time(told.recv()).await, Some(true));
    }
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let running = serve(Server::builder().add_service(telling(told.clone())));
    check(running.caller().await, &mut tells).await;
    check(running.caller_over_http().await, &mut tells).await;
    let caller = Caller::new(Channel::in_process(telling(told)));
    check(caller, &mut tells).await;
}

#[tokio::test]
async fn a_sender_of_responses_learns_that_the_time_is_over() {
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let running = serve(Server::builder().add_service(telling(told)));
    let caller = running.caller().await;
    for time in growing() {
        let mut request = Request::new(packet(""));
        request.set_timeout(time);
        let call = caller.server_streaming::<_, Packet>(&LIST, request);
        let Ok(answer) = in_time(call).await else {
            continue;
        };
        // The caller holds on to it.
        let _messages = answer.into_inner();
        assert_eq!(in_time(tells.recv()).await, Some(true));
        return;
    }
    panic!("no call got to its handler");
}

/// As when the process of the client ends: its session does, and nobody says that the call is given up.
#[test]
fn a_sender_of_responses_learns_that_the_client_is_gone() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    runtime().block_on(async {
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        let running = serve(Server::builder().add_service(telling(told)));
        let (address, (go, goes)) = (running.address(), std::sync::mpsc::channel::<()>());
        let (begun, begins) = oneshot::channel();
        let client = std::thread::spawn(move || {
            let client = runtime();
            let messages = client.block_on(async {
                let channel = Channel::connect(address).await?;
                let caller = Caller::new(channel);
                let call = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
                let mut messages = call.await?.into_inner();
                assert_eq!(messages.message().await?, Some(packet("first")));
                Ok::<_, shmipc_rpc::BoxError>(messages)
            });
            begun.send(()).expect("the test waits");
            drop(client);
            let _ = goes.recv();
            drop(messages);
        });
        in_time(begins).await.expect("the call begins");
        assert_eq!(in_time(tells.recv()).await, Some(true));
        drop(go);
        client.join().expect("no panic");
    });
}

/// The handler answers without having received all.
#[tokio::test]
async fn a_sender_of_requests_learns_that_its_call_is_over() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let (mut sender, requests) = Sender::for_requests();
        let sending = async {
            sender.send(&packet("")).await.expect("the handler listens");
            sender.closed().await;
            assert!(sender.is_closed());
        };
        let call = caller.client_streaming::<_, _, Packet>(&RECORD, Request::new(requests));
        let (answer, ()) = in_time(async { tokio::join!(call, sending) }).await;
        assert_eq!(answer.expect("it answers").into_inner(), packet("enough"));
    }
    let quick = || {
        streams().record(|request| async move {
            let first = request.into_inner().message().await?;
            assert!(first.is_some());
            Ok(Response::new(packet("enough")))
        })
    };
    let running = serve(Server::builder().add_service(quick()));
    over_both_paths!(running, check);
    check(Caller::new(Channel::in_process(quick()))).await;
}

#[tokio::test]
async fn a_sender_whose_far_end_is_dropped_is_closed() {
    let (sender, responses) = Sender::<Packet>::for_responses();
    let mut closed = Box::pin(sender.closed());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    drop(responses);
    in_time(closed).await;
    in_time(sender.closed()).await;
}

/// A task that is polled where it is woken.
struct Eager(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Eager {
    fn wake(self: Arc<Self>) {
        let task = self.0.lock().expect("nobody panicked").take();
        let Some(mut task) = task else { return };
        let waker = Waker::from(Arc::clone(&self));
        let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            *self.0.lock().expect("nobody panicked") = Some(task);
        }
    }
}

#[test]
fn a_sender_may_go_on_where_it_is_woken() {
    unless_it_blocks(|| async {
        let running = serve(Server::builder().add_service(receiving()));
        let caller = running.caller().await;
        let (mut sender, requests) = Sender::for_requests();
        let (told, tells) = oneshot::channel();
        let task = async move {
            let sent = sender.send(&sized(10)).await;
            drop(told.send((sent, sender)));
        };
        Arc::new(Eager(Mutex::new(Some(Box::pin(task))))).wake();
        let request = Request::new(requests);
        let (sent, _sender) = tokio::select! {
            answer = caller.client_streaming::<_, Packet, Packet>(&RECORD, request) => panic!("{answer:?}"),
            told = in_time(tells) => told.expect("the task goes on"),
        };
        sent.expect("it is received");
    });
}

/// The response has begun by then, and is not what says why.
#[tokio::test]
async fn requests_that_fail_after_the_response_has_begun_say_why() {
    async fn check<S: CallService>(caller: Caller<S>) {
        let caller = caller.max_request_size(100);
        for expected in [Code::DataLoss, Code::ResourceExhausted] {
            let (queue, requests) = queue::<Packet>();
            let (mut sender, sent) = Sender::<Packet>::for_requests();
            let by_sender = expected == Code::DataLoss;
            let call = if by_sender {
                caller
                    .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(sent))
                    .await
            } else {
                caller
                    .bidi_streaming::<_, _, Packet>(&CHAT, Request::new(requests))
                    .await
            };
            let mut messages = call.expect("it begins").into_inner();
            if by_sender {
                sender.send(&sized(1)).await.expect("the call takes it");
            } else {
                queue.send(sized(1)).await.expect("the call takes it");
            }
            assert_eq!(messages.message().await.expect("an echo"), Some(sized(1)));
            if by_sender {
                sender.fail(Status::data_loss("the disk is gone"));
            } else {
                queue.send(sized(101)).await.expect("the call takes it");
            }
            let status = messages.message().await.expect_err("the requests fail");
            assert_eq!(status.code(), expected, "{status:?}");
        }
    }
    let echo = streams().chat(|request| async move {
        let requests = request.into_inner();
        Ok(Response::new(requests))
    });
    let running = serve(Server::builder().add_service(echo));
    over_both_paths!(running, check);
}
