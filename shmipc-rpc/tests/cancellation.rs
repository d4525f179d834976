//! Who waits no longer, and how the other side learns of it.

mod common;

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
};

use shmipc_rpc::{
    CancelReason, Code, Request, Server,
    client::{CallService, Caller},
};
use tokio::sync::{mpsc, oneshot};

use crate::common::{Lab, OnDrop, Packet, RUN, hang, in_time, lab, packet, serve};

/// A service that never answers, tells when it is called and when the handler's future is dropped.
fn watched() -> (
    Lab,
    mpsc::UnboundedReceiver<()>,
    mpsc::UnboundedReceiver<oneshot::Receiver<()>>,
) {
    let (called, was_called) = mpsc::unbounded_channel();
    let (drops, dropped) = mpsc::unbounded_channel();
    let service = lab(move |_| {
        let (sender, receiver) = oneshot::channel();
        drops.send(receiver).expect("the test waits");
        called.send(()).expect("the test waits");
        let on_drop = OnDrop(Some(sender));
        async move {
            let _on_drop = on_drop;
            pending().await
        }
    });
    (service, was_called, dropped)
}

#[tokio::test]
async fn dropping_the_callers_future_drops_the_handlers() {
    async fn check<S: CallService>(
        caller: Caller<S>,
        called: &mut mpsc::UnboundedReceiver<()>,
        dropped: &mut mpsc::UnboundedReceiver<oneshot::Receiver<()>>,
    ) {
        tokio::select! {
            _ = caller.unary::<_, Packet>(&RUN, Request::new(packet(""))) => panic!("it never answers"),
            _ = called.recv() => {}
        }
        let dropped = dropped.recv().await.expect("it was called");
        dropped.await.expect("it says so");
    }
    let (service, mut called, mut dropped) = watched();
    let running = serve(Server::builder().add_service(service));
    in_time(check(running.caller().await, &mut called, &mut dropped)).await;
    in_time(check(
        running.caller_over_http().await,
        &mut called,
        &mut dropped,
    ))
    .await;
}

#[tokio::test]
async fn a_future_may_be_dropped_at_any_poll() {
    async fn check<S: CallService>(caller: Caller<S>) {
        for polls in 0..20 {
            let request = Packet {
                payload: vec![1; polls * 1000].into(),
                ..Packet::default()
            };
            let mut call = pin!(caller.unary::<_, Packet>(&RUN, Request::new(request)));
            for _ in 0..polls {
                let done = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let result = caller
            .unary::<_, Packet>(&RUN, Request::new(packet("still there")))
            .await;
        assert_eq!(
            result.expect("it echoes").into_inner(),
            packet("still there")
        );
    }
    let running = serve(Server::builder().add_service(common::echo()));
    over_both_paths!(running, check);
}

#[tokio::test]
async fn the_end_of_the_connection_drops_the_handlers() {
    let (service, mut called, mut dropped) = watched();
    let running = serve(Server::builder().add_service(service));
    let caller = running.caller().await;
    let call = tokio::spawn(async move {
        caller
            .unary::<_, Packet>(&RUN, Request::new(packet("")))
            .await
            .is_ok()
    });
    in_time(called.recv()).await;
    call.abort();
    let dropped = in_time(dropped.recv()).await.expect("it was called");
    in_time(dropped).await.expect("it says so");
}

#[tokio::test]
async fn the_end_of_the_server_fails_calls_at_once_and_drops_the_handlers() {
    let (service, mut called, mut dropped) = watched();
    let running = serve(Server::builder().add_service(service));
    let caller = running.caller().await;
    let call = tokio::spawn(async move {
        caller
            .unary::<_, Packet>(&RUN, Request::new(packet("")))
            .await
    });
    in_time(called.recv()).await;
    running.kill().await;
    let status = in_time(call)
        .await
        .expect("it does not panic")
        .expect_err("there is nobody to answer");
    assert_eq!(status.code(), Code::Unavailable);
    let dropped = in_time(dropped.recv()).await.expect("it was called");
    in_time(dropped).await.expect("it says so");
}

/// Calls a handler that leaves a task behind, ends the call by `end`, and returns the reason that the task learns of.
async fn reason_after<Fut: Future<Output = ()>>(
    end: impl FnOnce(Caller, mpsc::UnboundedReceiver<()>) -> Fut,
) -> CancelReason {
    let (called, was_called) = mpsc::unbounded_channel();
    let (sender, reason) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let running = serve(Server::builder().add_service(lab(move |request| {
        let cancellation = request.cancellation();
        let sender = sender
            .lock()
            .expect("nobody panics")
            .take()
            .expect("there is one call");
        called.send(()).expect("the test waits");
        tokio::spawn(async move {
            let reason = cancellation.cancelled().await;
            assert!(cancellation.is_cancelled());
            sender.send(reason).expect("the test waits");
        });
        async move {
            if request.get_ref().text == "answer" {
                return Ok(shmipc_rpc::Response::new(Packet::default()));
            }
            pending().await
        }
    })));
    end(running.caller().await, was_called).await;
    reason.await.expect("the task says so")
}

#[tokio::test]
async fn work_that_goes_on_learns_that_the_caller_gave_up() {
    let reason = in_time(reason_after(async |caller, mut called| {
        tokio::select! {
            _ = caller.unary::<_, Packet>(&RUN, Request::new(packet(""))) => panic!("it never answers"),
            _ = called.recv() => {}
        }
        // The session must outlive the stream, or its end would be the reason.
        std::mem::drop(tokio::spawn(async move {
            let _caller = caller;
            pending::<()>().await;
        }));
    }))
    .await;
    assert_eq!(reason, CancelReason::ByCaller);
}

#[tokio::test]
async fn work_that_goes_on_learns_that_the_call_is_over() {
    let reason = in_time(reason_after(async |caller, _called| {
        let answer = caller
            .unary::<_, Packet>(&RUN, Request::new(packet("answer")))
            .await;
        answer.expect("it answers");
        std::mem::drop(tokio::spawn(async move {
            let _caller = caller;
            pending::<()>().await;
        }));
    }))
    .await;
    assert_eq!(reason, CancelReason::Finished);
}

#[tokio::test]
async fn a_call_without_a_connection_can_be_cancelled_too() {
    let caller = Caller::new(hang());
    let mut call = pin!(caller.unary::<_, Packet>(&RUN, Request::new(packet(""))));
    let polled = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
    assert!(polled);
}
