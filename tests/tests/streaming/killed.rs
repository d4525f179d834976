//! One of two processes is killed in the middle of streams of each kind.

use std::{
    future::pending,
    path::Path,
    sync::{Arc, Mutex},
};

use shmipc_rpc::{
    Channel, Code, Listener, Request, Response, Sender, Server, Status, Streaming, client::Caller,
    server::ConnectedPeer,
};
use tests::{
    alone,
    echo::Place,
    in_time,
    other::{self, Other},
    streams::{Alive, CHAT, Entered, Item, LIST, ONE, RECORD, Streams},
};
use tokio::task::{JoinSet, yield_now};
use tokio_stream::iter;

/// How often a process is killed.
const ROUNDS: usize = 3;

/// Messages that go by themselves, and such that travel together.
const LENS: [usize; 2] = [64 << 10, 64];

/// What the second process does. Nothing, in the first.
#[test]
fn other_process() {
    let Some((role, socket)) = other::role() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match &*role {
        "server" => runtime.block_on(serve(&socket)),
        "client" => runtime.block_on(call(&socket)),
        unknown => panic!("nobody plays {unknown}"),
    }
}

fn start(role: &str, place: &Place) -> Other {
    Other::start("killed::other_process", role, &place.path())
}

/// The message with which a stream counts as being in its middle: far beyond the window.
fn middle(len: usize) -> u64 {
    if len < 2048 { 1000 } else { 64 }
}

/// Items without end.
fn endless(len: usize) -> impl Iterator<Item = Item> + Send {
    (0..).map(move |number| Item::new(number, len))
}

/// Serves streams without end, and tells by the unary method how many there are.
async fn serve(socket: &Path) {
    let alive = Alive::default();
    let sessions: Arc<Mutex<Vec<ConnectedPeer>>> = Arc::default();
    let (list, record, chat) = (alive.clone(), alive.clone(), alive.clone());
    let known = Arc::clone(&sessions);
    let service = Streams::default()
        .one(move |_| {
            // The call that asks is open, too, and so is the session that it asks over.
            let sessions = known.lock().unwrap();
            let streams: usize = sessions.iter().map(|one| one.stats().streams_open).sum();
            let leases: usize = sessions.iter().map(|one| one.stats().leases_held).sum();
            let state = Item {
                number: alive.count() as u64,
                payload: format!("{} {leases}", streams - 1).into(),
            };
            async { Ok(Response::new(state)) }
        })
        .list(move |request| {
            let (entered, len) = (list.enter(), request.get_ref().payload.len());
            async move { Ok(Response::new(iter(endless(len).map(with(entered)).map(Ok)))) }
        })
        .record(move |request| {
            let entered = record.enter();
            async move {
                let _entered = entered;
                drain(request.into_inner()).await?;
                Err(Status::internal("there is no end"))
            }
        })
        .chat(move |request| {
            let entered = chat.enter();
            let (mut sender, responses) = Sender::for_responses();
            tokio::spawn(async move {
                let _entered = entered;
                let mut requests = request.into_inner();
                while let Some(request) = requests.message().await? {
                    sender.send(&request).await?;
                }
                Ok::<_, Status>(())
            });
            async { Ok(Response::new(responses)) }
        });
    let server = Server::builder()
        .add_service(service)
        .on_session(move |session| sessions.lock().unwrap().push(session));
    let listener = Listener::bind(socket).unwrap();
    other::ready();
    server.serve_with_listener(listener).await.unwrap();
}

/// Keeps something alive for as long as a function is.
fn with<T>(entered: Entered) -> impl FnMut(T) -> T {
    move |item| {
        let _ = &entered;
        item
    }
}

/// Takes all messages.
async fn drain(mut messages: Streaming<Item>) -> Result<(), Status> {
    let mut number = 0;
    while let Some(item) = messages.message().await? {
        assert!(
            item == Item::new(number, item.payload.len()),
            "message {number}"
        );
        number += 1;
    }
    Ok(())
}

/// How a call over streams without end has ended. All of them are in their middle when `begun` has as many permits.
async fn endless_calls(
    caller: Caller,
    begun: Arc<tokio::sync::Semaphore>,
) -> JoinSet<(String, Status)> {
    let mut calls = JoinSet::new();
    for len in LENS {
        for pushed in [true, false] {
            let (caller, begun) = (caller.clone(), Arc::clone(&begun));
            let items = endless(len);
            calls.spawn(async move {
                let name = format!("record, {len} bytes, pushed: {pushed}");
                let middle = items.inspect(move |item| {
                    if item.number == middle(len) {
                        begun.add_permits(1);
                    }
                });
                let answer = if pushed {
                    let (mut sender, requests) = Sender::for_requests();
                    let call =
                        caller.client_streaming::<_, _, Item>(&RECORD, Request::new(requests));
                    let sending = async {
                        for item in middle {
                            if let Err(status) = sender.send(&item).await {
                                return status.code();
                            }
                        }
                        unreachable!("there is no end")
                    };
                    let (answer, refused) = tokio::join!(call, sending);
                    assert!(
                        matches!(refused, Code::Unavailable | Code::Cancelled),
                        "{refused:?}"
                    );
                    answer
                } else {
                    let request = Request::new(iter(middle));
                    caller
                        .client_streaming::<_, _, Item>(&RECORD, request)
                        .await
                };
                (name, answer.expect_err("there is no end"))
            });
        }
        let (of_list, list_begun) = (caller.clone(), Arc::clone(&begun));
        calls.spawn(async move {
            let request = Request::new(Item::new(0, len));
            let call = of_list.server_streaming::<_, Item>(&LIST, request);
            let end = read(call.await, len, &list_begun).await;
            (format!("list, {len} bytes"), end)
        });
        let (of_chat, chat_begun) = (caller.clone(), Arc::clone(&begun));
        calls.spawn(async move {
            let request = Request::new(iter(endless(len)));
            let call = of_chat.bidi_streaming::<_, _, Item>(&CHAT, request);
            let end = read(call.await, len, &chat_begun).await;
            (format!("chat, {len} bytes"), end)
        });
    }
    calls
}

/// Reads until it fails.
async fn read(
    begun_call: Result<Response<Streaming<Item>>, Status>,
    len: usize,
    begun: &tokio::sync::Semaphore,
) -> Status {
    let mut messages = match begun_call {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    for number in 0.. {
        match messages.message().await {
            Ok(Some(item)) => assert!(item == Item::new(number, len), "{number}"),
            Ok(None) => panic!("there is no end"),
            Err(status) => return status,
        }
        if number == middle(len) {
            begun.add_permits(1);
        }
    }
    unreachable!("there are more numbers than messages")
}

/// How many calls [`endless_calls`] makes.
const CALLS: u32 = 8;

/// What the client's process does: calls, until it is killed.
async fn call(socket: &Path) {
    let caller = Caller::new(Channel::connect(socket).await.unwrap());
    let begun = Arc::new(tokio::sync::Semaphore::new(0));
    let mut calls = endless_calls(caller, Arc::clone(&begun)).await;
    let all = async {
        let _all = begun.acquire_many(CALLS).await.unwrap();
        other::ready();
        pending::<()>().await;
    };
    tokio::select! {
        () = all => {}
        ended = calls.join_next() => panic!("a call without end has ended: {ended:?}"),
    }
}

#[test]
fn streams_of_a_killed_server_fail_as_unavailable() {
    alone(async {
        for _ in 0..ROUNDS {
            let place = Place::new();
            let server = start("server", &place);
            let channel = in_time("connecting", Channel::connect(place.path())).await;
            let begun = Arc::new(tokio::sync::Semaphore::new(0));
            let caller = Caller::new(channel.unwrap());
            let mut calls = endless_calls(caller, Arc::clone(&begun)).await;
            let all = begun.acquire_many(CALLS);
            let _all = in_time("all are in their middle", all).await.unwrap();
            tokio::task::spawn_blocking(|| server.kill()).await.unwrap();
            while let Some(ended) = in_time("the end", calls.join_next()).await {
                let (name, status) = ended.unwrap();
                assert_eq!(status.code(), Code::Unavailable, "{name}: {status:?}");
            }
        }
    });
}

#[test]
fn handlers_and_streams_of_a_killed_client_are_dropped() {
    alone(async {
        let place = Place::new();
        let _server = start("server", &place);
        let channel = in_time("connecting", Channel::connect(place.path())).await;
        let caller = Caller::new(channel.unwrap());
        // Handlers that are alive; streams that are open, and leases that are held, but for those of the call that asks.
        let state = async || {
            let call = caller.unary::<_, Item>(&ONE, Request::new(Item::default()));
            let state = in_time("an answer", call).await.unwrap().into_inner();
            (
                state.number,
                String::from_utf8(state.payload.to_vec()).unwrap(),
            )
        };
        let nothing = (0, "0 0".to_owned());
        for _ in 0..ROUNDS {
            assert_eq!(state().await, nothing);
            let path = place.path();
            let starting = move || Other::start("killed::other_process", "client", &path);
            let starting = tokio::task::spawn_blocking(starting);
            let client = in_time("all are in their middle", starting).await.unwrap();
            let (alive, _) = state().await;
            assert_eq!(alive, u64::from(CALLS));
            tokio::task::spawn_blocking(|| client.kill()).await.unwrap();
            in_time("nothing is left", async {
                while state().await != nothing {
                    yield_now().await;
                }
            })
            .await;
        }
    });
}
