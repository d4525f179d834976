//! Calls over shmipc's protocol as others speak it, in which neither ends of one direction nor codes of resets are told.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use shmipc_rpc::{Channel, Code, Config, Request, Response, Server, Status, client::Caller};
use shmipc_transport::LinkKind;
use tokio::sync::mpsc;

use crate::common::{
    Packet, RUN, in_time, lab, packet,
    streams::{CHAT, RECORD, iter, numbered, numbers, queue, streams},
};

fn config(link: LinkKind) -> Config {
    Config::builder()
        .links([link])
        .build()
        .expect("it is valid")
}

/// A server, and a channel to it.
struct Stage {
    channel: Channel,
    handle: shmipc_rpc::server::ServerHandle,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn new(link: LinkKind, server: Server) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let path = directory.path().join("lab.sock");
        let server = server.config(config(link));
        let handle = server
            .start(path.clone())
            .await
            .expect("nobody listens there");
        let channel = Channel::builder(path).config(config(link)).connect().await;
        Self {
            channel: channel.expect("the server listens"),
            handle,
            _directory: directory,
        }
    }

    fn caller(&self) -> Caller {
        Caller::new(self.channel.clone())
    }
}

const LINKS: [LinkKind; 2] = [LinkKind::ShmipcV3, LinkKind::ShmipcV2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_has_not_ended_its_requests() {
    for link in LINKS {
        let (begun, mut has_begun) = mpsc::unbounded_channel();
        let complete = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&complete);
        let service = streams().record(move |request| {
            let (begun, count) = (begun.clone(), Arc::clone(&count));
            async move {
                let mut requests = request.into_inner();
                let _ = begun.send(());
                while requests.message().await?.is_some() {}
                count.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(packet("all")))
            }
        });
        let stage = Stage::new(link, Server::builder().add_service(service)).await;
        for _ in 0..200 {
            let (sender, requests) = queue();
            let caller = stage.caller();
            let call = tokio::spawn(async move {
                caller
                    .client_streaming::<_, _, Packet>(&RECORD, Request::new(requests))
                    .await
                    .is_ok()
            });
            sender.send(numbered(1)).await.expect("the call takes it");
            in_time(has_begun.recv()).await.expect("the handler runs");
            call.abort();
            let _ = call.await;
            drop(sender);
        }
        assert_eq!(
            complete.load(Ordering::Relaxed),
            0,
            "{link:?}: taken for whole"
        );
        // One that does end is whole.
        let requests = Request::new(iter([numbered(1), numbered(2)]));
        let caller = stage.caller();
        let call = caller.client_streaming::<_, _, Packet>(&RECORD, requests);
        in_time(call).await.expect("it counts");
        assert_eq!(complete.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn an_answer_before_the_requests_end_reaches_the_caller() {
    for link in LINKS {
        let service = streams().record(|_| async { Err(Status::already_exists("enough")) });
        let stage = Stage::new(link, Server::builder().add_service(service)).await;
        let (sender, requests) = queue::<Packet>();
        let caller = stage.caller();
        let call = caller.client_streaming::<_, _, Packet>(&RECORD, Request::new(requests));
        let status = in_time(call).await.expect_err("it fails");
        assert_eq!(
            (status.code(), status.message()),
            (Code::AlreadyExists, "enough")
        );
        in_time(sender.closed()).await;
    }
}

#[tokio::test]
async fn both_halves_end_by_themselves() {
    for link in LINKS {
        let service = streams().chat(|request| async move {
            let numbers = numbers(request.into_inner()).await?;
            Ok(Response::new(iter(
                numbers.into_iter().rev().map(|number| Ok(numbered(number))),
            )))
        });
        let stage = Stage::new(link, Server::builder().add_service(service)).await;
        for count in [0, 1, 100] {
            let requests = Request::new(iter((0..count).map(numbered)));
            let caller = stage.caller();
            let call = caller.bidi_streaming::<_, _, Packet>(&CHAT, requests);
            let replies = in_time(call).await.expect("it is answered").into_inner();
            let expected: Vec<_> = (0..count).rev().collect();
            assert_eq!(
                in_time(numbers(replies)).await.expect("it ends well"),
                expected
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_call_back_is_told_so() {
    for link in LINKS {
        let (calls, mut called) = mpsc::unbounded_channel();
        let service = lab(move |request| {
            let calls = calls.clone();
            async move {
                let channel = request.channel().expect("there is a session");
                let back = Caller::new(channel);
                let outcome = back
                    .unary::<_, Packet>(&RUN, Request::new(packet("back")))
                    .await;
                let _ = calls.send(outcome.map(drop).map_err(|status| status.code()));
                Ok(Response::new(packet("done")))
            }
        });
        let stage = Stage::new(link, Server::builder().add_service(service)).await;
        let caller = stage.caller();
        let call = caller.unary::<_, Packet>(&RUN, Request::new(packet("")));
        in_time(call).await.expect("it is answered");
        let outcome = in_time(called.recv()).await.expect("it has called");
        assert_eq!(outcome, Err(Code::Unavailable), "{link:?}");
    }
}

#[tokio::test]
async fn a_server_that_drains_lets_calls_finish() {
    for link in LINKS {
        let (calls, mut called) = mpsc::unbounded_channel();
        let service = lab(move |_| {
            let (go_on, may_go_on) = tokio::sync::oneshot::channel::<()>();
            calls.send(go_on).expect("the test waits");
            async move {
                let _ = may_go_on.await;
                Ok(Response::new(packet("done")))
            }
        });
        let stage = Stage::new(link, Server::builder().add_service(service)).await;
        let caller = stage.caller();
        let call = tokio::spawn(async move {
            let call = caller.unary::<_, Packet>(&RUN, Request::new(packet("")));
            call.await.map(drop).map_err(|status| status.code())
        });
        let go_on = in_time(called.recv()).await.expect("it was called");
        let handle = stage.handle;
        let drain = tokio::spawn(async move { handle.drain(Duration::from_secs(60)).await });
        go_on.send(()).expect("the handler waits");
        assert_eq!(in_time(call).await.expect("no panic"), Ok(()), "{link:?}");
        in_time(drain).await.expect("no panic");
    }
}

/// Its clients cannot know how many that is.
#[tokio::test]
async fn a_server_with_enough_streams_gives_further_calls_up() {
    const STREAMS_MAX: usize = 2;
    for link in LINKS {
        let (calls, mut called) = mpsc::unbounded_channel();
        let service = lab(move |_| {
            calls.send(()).expect("the test waits");
            std::future::pending()
        });
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let path = directory.path().join("lab.sock");
        let few = Config::builder().links([link]).streams_max(2).build();
        let server = Server::builder().add_service(service);
        let server = server.config(few.expect("it is valid"));
        let _handle = server
            .start(path.clone())
            .await
            .expect("nobody listens there");
        let channel = Channel::builder(path).config(config(link)).connect().await;
        let channel = channel.expect("the server listens");
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..STREAMS_MAX {
            let caller = Caller::new(channel.clone());
            waiting.spawn(async move {
                let call = caller.unary::<_, Packet>(&RUN, Request::new(packet("")));
                call.await.is_ok()
            });
            in_time(called.recv()).await.expect("it was called");
        }
        let caller = Caller::new(channel);
        let call = caller.unary::<_, Packet>(&RUN, Request::new(packet("")));
        let status = in_time(call).await.expect_err("there is no room");
        assert_eq!(status.code(), Code::Cancelled, "{link:?}");
        assert_eq!(
            waiting.try_join_next().map(|_| ()),
            None,
            "the others go on"
        );
    }
}
