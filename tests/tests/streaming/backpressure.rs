//! A sender waits for its reader, in bounded memory, and holds up nobody else.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use shmipc_rpc::{Request, Response, Sender, Stats, Status, Streaming};
use tests::{
    alone, in_time,
    streams::{CHAT, Item, LIST, RECORD, Streams},
    until,
};
use tokio::sync::Semaphore;
use tokio_stream::{StreamExt as _, iter};

use crate::{Lab, read_all};

/// How many messages of the transport a stream may be ahead of its reader, by default.
const WINDOW: u64 = 32;

/// How long a message of the transport is that does not go by itself.
const TOGETHER: usize = 2048;

/// How many messages a stream has: far more than may be under way.
fn total(len: usize) -> u64 {
    if len < TOGETHER { 20_000 } else { 400 }
}

/// How many messages may have been made before the first is read.
fn ahead_max(len: usize) -> u64 {
    // One lies encoded and waits for credit, another may have been taken from its source.
    let together = (TOGETHER / len).max(1) as u64;
    (WINDOW + 1) * together + 2
}

/// How much of its memory a session may ever use for that, in blocks, which may be up to twice as long as what is in them.
fn used_max(len: usize) -> u64 {
    if len < TOGETHER {
        return 0;
    }
    ahead_max(len) * 2 * len as u64
}

/// How many messages were taken from a source.
#[derive(Clone, Default)]
struct Made(Arc<AtomicU64>);

impl Made {
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The source.
    fn items(&self, len: usize) -> impl Iterator<Item = Item> + Send + use<> {
        let made = Arc::clone(&self.0);
        (0..total(len)).map(move |number| {
            made.fetch_add(1, Ordering::Relaxed);
            Item::new(number, len)
        })
    }
}

/// A gate, which opens once.
#[derive(Clone)]
struct Gate(Arc<Semaphore>);

impl Gate {
    fn shut() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    fn open(&self) {
        self.0.close();
    }

    async fn pass(&self) {
        assert!(self.0.acquire().await.is_err(), "it only opens");
    }
}

/// Sends what a source has by a sender, in a task of its own.
fn push(mut sender: Sender<Item>, items: impl Iterator<Item = Item> + Send + 'static) {
    tokio::spawn(async move {
        for item in items {
            sender.send(&item).await?;
        }
        Ok::<_, Status>(())
    });
}

/// Waits until `made` grows no more, although calls go through, and checks that there is an end to what is under way.
async fn stands_still(lab: &Lab, made: &Made, len: usize, sender: impl Fn() -> Stats) {
    until("the window is full", || WINDOW <= made.count()).await;
    loop {
        let before = made.count();
        for number in 0..50 {
            lab.call(number).await;
        }
        if made.count() == before {
            break;
        }
    }
    let ahead = made.count();
    assert!(ahead <= ahead_max(len), "{ahead} messages of {len} bytes");
    // Others may send over the session, too.
    let (used, streams) = (sender().arena_used_max, sender().streams_open as u64);
    let most = streams * used_max(len);
    assert!(
        used <= most,
        "{used} bytes of memory for {streams} times {len}"
    );
}

/// Whether messages are sent by a sender, or taken from a stream.
const WAYS: [bool; 2] = [true, false];

const LENS: [usize; 2] = [64, 64 << 10];

#[test]
fn a_server_stream_waits_for_its_caller() {
    alone(async {
        for (len, pushed) in LENS.into_iter().flat_map(|len| WAYS.map(|way| (len, way))) {
            let made = Made::default();
            let source = made.clone();
            let service = Streams::default();
            let service = if pushed {
                service.list(move |_| {
                    let (sender, responses) = Sender::for_responses();
                    push(sender, source.items(len));
                    async { Ok(Response::new(responses)) }
                })
            } else {
                service.list(move |_| {
                    let items = source.items(len);
                    async { Ok(Response::new(iter(items.map(Ok)))) }
                })
            };
            let lab = Lab::new(service).await;
            let request = Request::new(Item::default());
            let responses = lab.caller.server_streaming::<_, Item>(&LIST, request);
            let responses = in_time("a beginning", responses).await.unwrap();
            stands_still(&lab, &made, len, || lab.server()).await;
            let reading = read_all(responses.into_inner(), 0..total(len), len);
            in_time("the rest", reading).await.unwrap();
            assert!(lab.server().arena_used_max <= used_max(len));
            lab.is_clean("a server stream").await;
        }
    });
}

#[test]
fn a_client_stream_waits_for_its_handler() {
    alone(async {
        for (len, pushed) in LENS.into_iter().flat_map(|len| WAYS.map(|way| (len, way))) {
            let (made, gate) = (Made::default(), Gate::shut());
            let shut = gate.clone();
            let lab = Lab::new(Streams::default().record(move |request| {
                let gate = shut.clone();
                async move {
                    gate.pass().await;
                    read_all(request.into_inner(), 0..total(len), len).await?;
                    Ok(Response::new(Item::new(7, len)))
                }
            }))
            .await;
            let (caller, items) = (lab.caller.clone(), made.items(len));
            let call = tokio::spawn(async move {
                if pushed {
                    let (sender, requests) = Sender::for_requests();
                    push(sender, items);
                    let request = Request::new(requests);
                    caller
                        .client_streaming::<_, _, Item>(&RECORD, request)
                        .await
                } else {
                    let request = Request::new(iter(items));
                    caller
                        .client_streaming::<_, _, Item>(&RECORD, request)
                        .await
                }
            });
            stands_still(&lab, &made, len, || lab.client()).await;
            gate.open();
            let response = in_time("the rest", call).await.unwrap().unwrap();
            assert_eq!(response.into_inner(), Item::new(7, len));
            assert_eq!(made.count(), total(len));
            assert!(lab.client().arena_used_max <= used_max(len));
            lab.is_clean("a client stream").await;
        }
    });
}

#[test]
fn both_sides_wait_for_each_other() {
    alone(async {
        for len in LENS {
            let (to_server, to_client) = (Made::default(), Made::default());
            let (gate, source) = (Gate::shut(), to_client.clone());
            let shut = gate.clone();
            let lab = Lab::new(Streams::default().chat(move |request| {
                let (mut requests, gate) = (request.into_inner(), shut.clone());
                let (mut sender, responses) = Sender::for_responses();
                let items = source.items(len);
                tokio::spawn(async move {
                    let reading = async {
                        gate.pass().await;
                        let mut number = 0;
                        while let Some(item) = requests.message().await? {
                            assert!(item == Item::new(number, len), "request {number}");
                            number += 1;
                        }
                        Ok::<_, Status>(number)
                    };
                    let sending = async {
                        for item in items {
                            sender.send(&item).await?;
                        }
                        Ok::<_, Status>(())
                    };
                    let (read, sent) = tokio::join!(reading, sending);
                    sent?;
                    // What was read is the last word.
                    sender.send(&Item::new(read?, 1)).await
                });
                async move { Ok(Response::new(responses)) }
            }))
            .await;
            let (sender, requests) = Sender::for_requests();
            push(sender, to_server.items(len));
            let call = lab
                .caller
                .bidi_streaming::<_, _, Item>(&CHAT, Request::new(requests));
            let mut responses = in_time("a beginning", call).await.unwrap().into_inner();
            stands_still(&lab, &to_client, len, || lab.server()).await;
            stands_still(&lab, &to_server, len, || lab.client()).await;
            gate.open();
            let reading = async {
                for number in 0..total(len) {
                    let item = responses.message().await.unwrap();
                    assert!(item == Some(Item::new(number, len)), "response {number}");
                }
                let last = responses.message().await.unwrap();
                assert_eq!(last, Some(Item::new(total(len), 1)));
                assert_eq!(responses.message().await.unwrap(), None);
            };
            in_time("the rest", reading).await;
            lab.is_clean("streams both ways").await;
        }
    });
}

#[test]
fn stalled_streams_hold_up_no_other_call() {
    const STALLED: usize = 8;
    const CALLS: u64 = 5000;
    alone(async {
        let len = 64 << 10;
        let answered = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&answered);
        let lab = Lab::new(
            Streams::default()
                .one(move |request| {
                    counter.fetch_add(1, Ordering::Relaxed);
                    async { Ok(Response::new(request.into_inner())) }
                })
                .list(move |request| async move {
                    let items = request.into_inner().number;
                    let made = Made::default().items(len);
                    Ok(Response::new(iter(
                        made.take(usize::try_from(items).unwrap()).map(Ok),
                    )))
                })
                .chat(|request| async move {
                    // Never reads, and never ends.
                    let requests: Streaming<Item> = request.into_inner();
                    Ok(Response::new(tokio_stream::pending().filter(move |_| {
                        let _ = &requests;
                        true
                    })))
                }),
        )
        .await;
        let endless = || Request::new(Item::new(total(len), 0));
        let (mut stalled, mut made) = (Vec::new(), Vec::new());
        for _ in 0..STALLED / 2 {
            let call = lab.caller.server_streaming::<_, Item>(&LIST, endless());
            stalled.push(in_time("a beginning", call).await.unwrap().into_inner());
            let requests = Made::default();
            made.push(requests.clone());
            let call = lab
                .caller
                .bidi_streaming::<_, _, Item>(&CHAT, Request::new(iter(requests.items(len))));
            stalled.push(in_time("a beginning", call).await.unwrap().into_inner());
        }
        for made in &made {
            stands_still(&lab, made, len, || lab.client()).await;
        }
        let before = answered.load(Ordering::Relaxed);
        for number in 0..CALLS {
            lab.call(number).await;
        }
        let calls = answered.load(Ordering::Relaxed) - before;
        assert_eq!(calls as u64, CALLS);
        // Nor other streams.
        let call = lab
            .caller
            .server_streaming::<_, Item>(&LIST, Request::new(Item::new(100, 0)));
        let responses = in_time("a beginning", call).await.unwrap().into_inner();
        in_time("a stream", read_all(responses, 0..100, len))
            .await
            .unwrap();
        assert_eq!(stalled.len(), STALLED);
        assert_eq!(lab.client().streams_open, STALLED);
        drop(stalled);
        lab.is_clean("streams that were given up").await;
    });
}
