//! A future that is dropped at any of its awaits leaves nothing behind, and takes nothing along.

use std::time::Duration;

use bytes::BufMut;
use shmipc_rpc::{Channel, Server, client::Caller};
use shmipc_transport::{Config, Flush, Listener, SendBuf, Session, Stream};
use tests::{
    alone,
    echo::{self, Pair, Place, pattern},
    in_time, poll_at_most, poll_in_vain,
    process::Holdings,
    service::{ANSWER, HANG, Named, Packet, ask, request},
    until,
};
use tokio::sync::oneshot;

/// How often futures that cannot go on are polled before they are dropped.
const POLLS: std::ops::Range<usize> = 0..5;

/// All the memory of [`small`].
const MEMORY: usize = 256 << 10;

fn small() -> Config {
    let config = Config::builder().memory_max(256 << 10);
    let config = config.memory_idle(Duration::from_millis(1));
    config.build().unwrap()
}

fn message(stream: &Stream, len: usize) -> SendBuf {
    let mut message = stream.buffer(len);
    message.put_slice(&pattern(len, 0));
    message
}

/// Asserts that nothing is under way in a session that still works.
async fn is_as_new(pair: &Pair) {
    echo::serve(pair.server.clone());
    for len in [64, 100_000] {
        echo::call(&pair.client, len).await;
    }
    for session in [&pair.client, &pair.server] {
        until("streams are over and memory is back", || {
            let stats = session.stats();
            (stats.streams_open, stats.leases_held, stats.arena_mapped) == (0, 0, 0)
        })
        .await;
    }
}

#[test]
fn connecting() {
    alone(async {
        let place = Place::new();
        let acceptor = echo::listen(Listener::bind(place.path()).unwrap());
        echo::call(&Session::connect(place.path()).await.unwrap(), 64).await;
        let before = Holdings::count();
        for polls in 0.. {
            let connecting = Session::connect(place.path());
            let connected = in_time("polling", poll_at_most(polls, connecting)).await;
            if let Some(session) = connected {
                echo::call(&session.unwrap(), 64).await;
                break;
            }
        }
        before.are_back("given up connecting").await;
        acceptor.abort();
    });
}

#[test]
fn accepting() {
    alone(async {
        let place = Place::new();
        let listener = Listener::bind(place.path()).unwrap();
        let before = Holdings::count();
        for polls in 0.. {
            let connecting = tokio::spawn(Session::connect(place.path()));
            let accepted = in_time("polling", poll_at_most(polls, listener.accept())).await;
            let is_done = accepted.is_some();
            // Whoever was in the middle of a handshake comes with the next call.
            let server = match accepted {
                Some(session) => session.unwrap(),
                None => in_time("accepting", listener.accept()).await.unwrap(),
            };
            echo::serve(server);
            let client = in_time("connecting", connecting).await.unwrap().unwrap();
            echo::call(&client, 64).await;
            if is_done {
                break;
            }
        }
        before.are_back("given up accepting").await;
    });
}

#[test]
fn sending_without_memory() {
    alone(async {
        let pair = Pair::new(small(), small()).await;
        let all = pair.client.alloc(MEMORY).await.unwrap();
        let mut patient = pair.client.open_stream().unwrap();
        let waiting = message(&patient, 8192);
        let client = &pair.client;
        for polls in POLLS {
            let mut stream = client.open_stream().unwrap();
            let message = message(&stream, 8192);
            poll_in_vain(polls, stream.send(message, Flush::End)).await;
            // The stream is as it was.
            echo::send(&mut stream, b"short", Flush::End).await;
        }
        // Those that were dropped do not take the memory's return for themselves.
        let patient = tokio::spawn(async move {
            patient.send(waiting, Flush::End).await.unwrap();
        });
        let mut hasty = client.open_stream().unwrap();
        let never = message(&hasty, 8192);
        poll_in_vain(2, hasty.send(never, Flush::End)).await;
        assert!(!patient.is_finished());
        drop((all, hasty));
        in_time("memory is back", patient).await.unwrap();
        for _ in POLLS {
            let accepted = in_time("a stream", pair.server.accept_stream()).await;
            let short = accepted.unwrap().recv().await.unwrap().unwrap();
            assert_eq!(echo::all(short), b"short");
        }
        drop(in_time("a stream", pair.server.accept_stream()).await);
        is_as_new(&pair).await;
    });
}

#[test]
fn sending_without_credit() {
    alone(async {
        let window = Config::builder().stream_window(1, 4 << 20).build().unwrap();
        let pair = Pair::new(small(), window).await;
        let mut stream = pair.client.open_stream().unwrap();
        echo::send(&mut stream, b"first", Flush::More).await;
        for polls in POLLS {
            for len in [10, 8192] {
                let message = message(&stream, len);
                poll_in_vain(polls, stream.send(message, Flush::More)).await;
            }
            poll_in_vain(polls, stream.send(stream.buffer(0), Flush::End)).await;
        }
        let mut theirs = in_time("a stream", pair.server.accept_stream())
            .await
            .unwrap();
        let first = theirs.recv().await.unwrap().unwrap();
        assert_eq!(echo::all(first), b"first");
        in_time("credit", echo::send(&mut stream, b"second", Flush::End)).await;
        let second = in_time("a message", theirs.recv()).await.unwrap().unwrap();
        assert_eq!(
            echo::all(second),
            b"second",
            "what was dropped was not sent"
        );
        drop((stream, theirs));
        is_as_new(&pair).await;
    });
}

#[test]
fn receiving_and_accepting_streams() {
    alone(async {
        let pair = Pair::new(small(), small()).await;
        let mut stream = pair.client.open_stream().unwrap();
        for polls in POLLS {
            poll_in_vain(polls, pair.server.accept_stream()).await;
            poll_in_vain(polls, stream.recv()).await;
        }
        echo::send(&mut stream, b"hello", Flush::More).await;
        let mut theirs = in_time("a stream", pair.server.accept_stream())
            .await
            .unwrap();
        assert_eq!(echo::all(theirs.recv().await.unwrap().unwrap()), b"hello");
        for polls in POLLS {
            poll_in_vain(polls, theirs.recv()).await;
            poll_in_vain(polls, pair.client.closed()).await;
        }
        for len in [10, 100_000] {
            echo::send(&mut stream, &pattern(len, 1), Flush::More).await;
            let received = in_time("a message", theirs.recv()).await.unwrap();
            assert_eq!(echo::all(received.unwrap()), pattern(len, 1));
        }
        drop((stream, theirs));
        is_as_new(&pair).await;
    });
}

#[test]
fn allocating_without_memory() {
    alone(async {
        let pair = Pair::new(small(), small()).await;
        let all = pair.client.alloc(MEMORY).await.unwrap();
        for polls in POLLS {
            poll_in_vain(polls, pair.client.alloc(4096)).await;
        }
        let client = pair.client.clone();
        let patient = tokio::spawn(async move { client.alloc(4096).await.unwrap().len() });
        poll_in_vain(2, pair.client.alloc(4096)).await;
        drop(all);
        assert_eq!(in_time("memory is back", patient).await.unwrap(), 4096);
        is_as_new(&pair).await;
    });
}

/// Little of everything, so that what is kept is soon missed.
fn frugal() -> Config {
    let config = Config::builder().streams_max(3).memory_max(256 << 10);
    config.build().unwrap()
}

#[test]
fn calling() {
    alone(async {
        let before = Holdings::count();
        let place = Place::new();
        let listener = Listener::bind_with(place.path(), frugal()).unwrap();
        let server = Server::builder()
            // Fewer than are given up. Handlers of calls that were given up end by and by, so not as few as there are.
            .concurrent_calls_per_session(8)
            .add_service(Named::new("server"));
        let serving = tokio::spawn(server.serve_with_listener(listener));
        let connecting = Channel::builder(place.path()).config(frugal());
        let caller = Caller::new(connecting.connect().await.unwrap());
        for len in [0, 3000, 100_000] {
            for polls in 0.. {
                let call = caller.unary::<_, Packet>(&ANSWER, request(vec![1; len]));
                let answered = in_time("polling", poll_at_most(polls, call)).await;
                if let Some(answer) = answered {
                    assert_eq!(answer.unwrap().into_inner().payload.len(), len);
                    break;
                }
            }
            for polls in POLLS {
                let call = caller.unary::<_, Packet>(&HANG, request(vec![1; len]));
                poll_in_vain(polls, call).await;
                assert_eq!(ask(&caller, vec![2; len]).await.unwrap(), "server");
            }
        }
        // As many at once as there may be, of which none is taken up by one that was dropped.
        let calls = (0..3).map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { ask(&caller, vec![3; 50_000]).await })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap().unwrap(), "server");
        }
        drop(caller);
        serving.abort();
        drop(serving.await);
        before.are_back("calls given up").await;
    });
}

#[test]
fn serving() {
    alone(async {
        let before = Holdings::count();
        for polls in 0.. {
            let place = Place::new();
            let path = place.path();
            let (stop, stopped) = oneshot::channel::<()>();
            let serving = Named::server("server").serve_with_shutdown(place.path(), async {
                drop(stopped.await);
            });
            let client = tokio::spawn(async move {
                let channel = Channel::builder(path).connect_lazy();
                let mut patient = request("there?");
                patient.set_wait_for_ready(true);
                let caller = Caller::new(channel);
                drop(caller.unary::<_, Packet>(&ANSWER, patient).await);
                drop(stop);
            });
            let served = in_time("polling", poll_at_most(polls, serving)).await;
            client.abort();
            drop(client.await);
            if let Some(served) = served {
                served.unwrap();
                break;
            }
        }
        before.are_back("servers given up").await;
    });
}
