//! Calls that pass large payloads on, there and back.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use shmipc_rpc::{
    Body, Channel, Method, Request, Response, Server, Status,
    client::Caller,
    server::{self, NamedService, ResponseFuture, Service},
};
use tests::{
    echo::{Place, pattern},
    in_time,
    process::inode,
    service::{ANSWER, Packet, request},
};

const MIB: usize = 1 << 20;

/// One in a row of services. The last answers with other bytes, in memory of its own; the others pass everything on.
#[derive(Clone)]
struct Stage {
    next: Option<Channel>,
    forwards: bool,
}

impl NamedService for Stage {
    const NAME: &'static str = "tests.Named";
    const METHODS: &'static [Method] = &[ANSWER];
}

impl Service<http::Request<Body>> for Stage {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        server::unary(Arc::new(self.clone()), request, answer)
    }
}

/// Answers with the files that request and answer lie in, as the last stage sees them.
async fn answer(stage: Arc<Stage>, request: Request<Packet>) -> Result<Response<Packet>, Status> {
    let payload = request.get_ref().payload.clone();
    if let Some(next) = &stage.next {
        if stage.forwards {
            assert!(next.forward_from(&request) && request.forward_from(next));
        }
        let call = Request::new(request.into_inner());
        return Caller::new(next.clone()).unary(&ANSWER, call).await;
    }
    let mut block = request.alloc(payload.len()).await?;
    for (to, from) in block.iter_mut().zip(payload.iter().rev()) {
        *to = *from;
    }
    let answer = block.freeze();
    Ok(Response::new(Packet {
        name: format!("{}, {}", inode(&payload), inode(&answer)),
        payload: answer,
    }))
}

/// Serves a stage, and returns a channel to it.
async fn serve(place: &Place, stage: Stage) -> Channel {
    let listener = shmipc_rpc::Listener::bind(place.path()).unwrap();
    tokio::spawn(
        Server::builder()
            .add_service(stage)
            .serve_with_listener(listener),
    );
    Channel::connect(place.path()).await.unwrap()
}

/// Calls through two stages, and returns the files as the last and the first in the row see them.
async fn through(forwards: bool) -> (String, String, Channel) {
    let (far, near) = (Place::new(), Place::new());
    let last = Stage {
        next: None,
        forwards,
    };
    let next = serve(&far, last).await;
    let first = Stage {
        next: Some(next.clone()),
        forwards,
    };
    let channel = serve(&near, first).await;
    let caller = Caller::new(channel.clone());
    let mut files = (String::new(), String::new());
    for seed in 0..5 {
        let sent = pattern(MIB, seed);
        let mut block = in_time("memory", channel.alloc(MIB)).await.unwrap();
        block.copy_from_slice(&sent);
        let payload: Bytes = block.freeze();
        let call = caller.unary::<_, Packet>(&ANSWER, request(payload.clone()));
        let answer = in_time("an answer", call).await.unwrap().into_inner();
        assert!(
            answer.payload.iter().eq(sent.iter().rev()),
            "it has changed"
        );
        files = (
            answer.name,
            format!("{}, {}", inode(&payload), inode(&answer.payload)),
        );
    }
    (files.0, files.1, next)
}

#[tokio::test]
async fn payloads_are_passed_on_there_and_back_without_a_copy() {
    let (last, first, next) = through(true).await;
    assert_eq!(last, first, "both see the same memory");
    let stats = next.stats();
    assert_eq!(stats.len(), 1);
    assert_eq!(stats[0].bytes_forwarded, 5 * MIB as u64);
    assert_eq!(stats[0].arena_used_max, 0, "nothing was copied on the way");
}

#[tokio::test]
async fn payloads_are_copied_where_nobody_allows_for_more() {
    let (last, first, next) = through(false).await;
    let (there, back) = last.split_once(", ").unwrap();
    assert!(!first.contains(there) && !first.contains(back));
    assert_eq!(next.stats()[0].bytes_forwarded, 0);
}

#[tokio::test]
async fn what_came_through_no_session_is_not_passed_on() {
    let place = Place::new();
    let stage = Stage {
        next: None,
        forwards: true,
    };
    let channel = serve(&place, stage).await;
    let own = request("made here");
    assert!(!channel.forward_from(&own) && !own.forward_from(&channel));
}
