//! Deadlines of calls of all kinds, whatever the server does.

use std::{
    future::{pending, ready},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use shmipc_rpc::{
    Channel, Code, Listener, Request, Response, Sender, Server, Status, Streaming, client::Caller,
};
use tests::{
    alone,
    echo::Place,
    in_time,
    other::{self, Other},
    streams::{Alive, CHAT, Item, LIST, ONE, RECORD, Streams},
    until,
};
use tokio_stream::{Stream, StreamExt as _, iter};

use crate::{LONG, Lab};

/// Too short for what the server does, which has no end.
const SHORT: Duration = Duration::from_millis(150);

/// Long enough for something to have begun, even where there is much else to do.
const LONGER: Duration = Duration::from_secs(5);

const LEN: usize = 1000;

/// Items without end.
fn endless() -> impl Iterator<Item = Item> + Send {
    (0..).map(|number| Item::new(number, LEN))
}

/// What a handler does with its time. The request's number says so, or that of the first of many.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It never answers.
    Hang,
    /// It answers, and then nothing comes.
    Begin,
    /// It sends as much as the caller takes.
    Flood,
    /// It sends with the help of a task.
    Push,
}

const WAYS: [Way; 4] = [Way::Hang, Way::Begin, Way::Flood, Way::Push];

/// Keeps something alive for as long as a stream is.
fn keep<S: Stream>(stream: S, kept: impl Send + 'static) -> impl Stream<Item = S::Item> {
    stream.map(move |item| {
        let _ = &kept;
        item
    })
}

/// A service whose handlers have no end, and read requests without end, too.
fn service(way: Way, alive: &Alive) -> Streams {
    let (one, record) = (alive.clone(), alive.clone());
    let service = Streams::default()
        .one(move |request| {
            let alive = one.enter();
            async move {
                let _alive = alive;
                if request.deadline().is_some() {
                    pending::<()>().await;
                }
                Ok(Response::new(request.into_inner()))
            }
        })
        .record(move |request| {
            let alive = record.enter();
            async move {
                let _alive = alive;
                if !matches!(way, Way::Hang) {
                    let mut requests = request.into_inner();
                    while requests.message().await?.is_some() {}
                }
                pending().await
            }
        });
    match way {
        Way::Hang => hang(service, alive),
        Way::Begin => begin(service, alive),
        Way::Flood => flood(service, alive),
        Way::Push => pushing(service, alive),
    }
}

/// Streams do not begin.
fn hang(service: Streams, alive: &Alive) -> Streams {
    let (list, chat) = (alive.clone(), alive.clone());
    service
        .list(move |_| {
            let alive = list.enter();
            async move {
                let _alive = alive;
                let never: Response<tokio_stream::Pending<_>> = pending().await;
                Ok(never)
            }
        })
        .chat(move |_| {
            let alive = chat.enter();
            async move {
                let _alive = alive;
                let never: Response<tokio_stream::Pending<_>> = pending().await;
                Ok(never)
            }
        })
}

/// Streams begin, and nothing comes.
fn begin(service: Streams, alive: &Alive) -> Streams {
    let (list, chat) = (alive.clone(), alive.clone());
    service
        .list(move |_| {
            let nothing = keep(tokio_stream::pending(), list.enter());
            async { Ok(Response::new(nothing)) }
        })
        .chat(move |request| {
            let kept = (chat.enter(), request.into_inner());
            let nothing = keep(tokio_stream::pending(), Mutex::new(kept));
            async { Ok(Response::new(nothing)) }
        })
}

/// Streams have messages without end.
fn flood(service: Streams, alive: &Alive) -> Streams {
    let (list, chat) = (alive.clone(), alive.clone());
    service
        .list(move |_| {
            let items = keep(iter(endless().map(Ok)), list.enter());
            async { Ok(Response::new(items)) }
        })
        .chat(move |request| {
            let items = keep(request.into_inner(), chat.enter());
            async { Ok(Response::new(items)) }
        })
}

/// Tasks send messages without end.
fn pushing(service: Streams, alive: &Alive) -> Streams {
    let (list, chat) = (alive.clone(), alive.clone());
    service
        .list(move |_| {
            let (alive, (mut sender, responses)) = (list.enter(), Sender::for_responses());
            tokio::spawn(async move {
                let _alive = alive;
                for item in endless() {
                    sender.send(&item).await?;
                }
                Ok::<_, Status>(())
            });
            async { Ok(Response::new(responses)) }
        })
        .chat(move |request| {
            let (alive, (mut sender, responses)) = (chat.enter(), Sender::for_responses());
            tokio::spawn(async move {
                let _alive = alive;
                let mut requests = request.into_inner();
                while let Some(item) = requests.message().await? {
                    sender.send(&item).await?;
                }
                Ok::<_, Status>(())
            });
            async { Ok(Response::new(responses)) }
        })
}

fn within<T>(timeout: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Makes a call of each kind that is to end by its deadline, and returns how they did, and how many responses came before.
async fn calls(caller: &Caller, timeout: Duration) -> [(Code, usize); 6] {
    let item = Item::new(0, LEN);
    let one = async {
        let call = caller.unary::<_, Item>(&ONE, within(timeout, item.clone()));
        (call.await.expect_err("it hangs").code(), 0)
    };
    let list = async {
        let call = caller.server_streaming::<_, Item>(&LIST, within(timeout, item.clone()));
        read(call.await).await
    };
    let record = async {
        let request = within(timeout, iter(endless()));
        let call = caller.client_streaming::<_, _, Item>(&RECORD, request);
        (call.await.expect_err("it has no end").code(), 0)
    };
    let record_pushed = async {
        let (sender, requests) = Sender::for_requests();
        let call = caller.client_streaming::<_, _, Item>(&RECORD, within(timeout, requests));
        let (answer, ()) = tokio::join!(call, push(sender));
        (answer.expect_err("it has no end").code(), 0)
    };
    let chat = async {
        let request = within(timeout, iter(endless()));
        let call = caller.bidi_streaming::<_, _, Item>(&CHAT, request);
        read(call.await).await
    };
    let chat_pushed = async {
        let (sender, requests) = Sender::for_requests();
        let call = caller.bidi_streaming::<_, _, Item>(&CHAT, within(timeout, requests));
        let (end, ()) = tokio::join!(async { read(call.await).await }, push(sender));
        end
    };
    tokio::join!(one, list, record, record_pushed, chat, chat_pushed).into()
}

/// Sends until nobody listens.
async fn push(mut sender: Sender<Item>) {
    for item in endless() {
        if sender.send(&item).await.is_err() {
            return;
        }
    }
}

/// Reads to the end, which is a failure.
async fn read(begun: Result<Response<Streaming<Item>>, Status>) -> (Code, usize) {
    let mut messages = match begun {
        Ok(response) => response.into_inner(),
        Err(status) => return (status.code(), 0),
    };
    let mut count = 0;
    loop {
        match messages.message().await {
            Ok(Some(item)) => assert!(item == Item::new(count as u64, LEN), "message {count}"),
            Ok(None) => panic!("it has no end"),
            Err(status) => return (status.code(), count),
        }
        count += 1;
    }
}

#[test]
fn the_caller_gets_deadline_exceeded_and_the_handler_is_dropped() {
    alone(async {
        for way in WAYS {
            let alive = Alive::default();
            let lab = Lab::new(service(way, &alive)).await;
            // Streams are to be in their middle, however slow the machine is.
            for timeout in [SHORT, 5 * SHORT, 25 * SHORT, 125 * SHORT] {
                let ends = in_time("all deadlines", calls(&lab.caller, timeout)).await;
                let codes = ends.map(|(code, _)| code);
                assert_eq!(codes, [Code::DeadlineExceeded; 6], "{way:?}");
                let [_, list, .., chat, chat_pushed] = ends.map(|(_, count)| count);
                match way {
                    Way::Hang | Way::Begin => {
                        assert_eq!([list, chat, chat_pushed], [0; 3], "{way:?}");
                        break;
                    }
                    Way::Flood | Way::Push if 0 < list.min(chat).min(chat_pushed) => break,
                    Way::Flood | Way::Push => assert!(timeout < 125 * SHORT, "{way:?}: {ends:?}"),
                }
            }
            until("handlers and streams are dropped", || alive.count() == 0).await;
            lab.is_clean("deadlines").await;
        }
    });
}

#[test]
fn a_reader_that_comes_late_gets_deadline_exceeded() {
    alone(async {
        for way in [Way::Flood, Way::Push] {
            let alive = Alive::default();
            let lab = Lab::new(service(way, &alive)).await;
            let request = within(LONGER, Item::default());
            let call = lab.caller.server_streaming::<_, Item>(&LIST, request);
            let messages = in_time("a beginning", call).await.unwrap();
            // The server knows of the deadline, too. Whoever waits there for room to send more learns that it is of no use.
            until("the stream is dropped", || alive.count() == 0).await;
            let (code, _) = in_time("the end", read(Ok(messages))).await;
            assert_eq!(code, Code::DeadlineExceeded, "{way:?}");
            lab.is_clean("a late reader").await;
        }
    });
}

#[test]
fn other_process() {
    let Some((role, socket)) = other::role() else {
        return;
    };
    assert_eq!(role, "server");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(serve(&socket));
}

async fn serve(socket: &Path) {
    let server = Server::builder().add_service(service(Way::Flood, &Alive::default()));
    let listener = Listener::bind(socket).unwrap();
    other::ready();
    server.serve_with_listener(listener).await.unwrap();
}

#[test]
fn a_stopped_server_holds_up_no_deadline() {
    alone(async {
        let place = Place::new();
        let server = Other::start("deadlines::other_process", "server", &place.path());
        let channel = in_time("connecting", Channel::connect(place.path())).await;
        let caller = Caller::new(channel.unwrap());
        // One is in its middle when the server stops.
        let call = caller.server_streaming::<_, Item>(&LIST, within(LONGER, Item::default()));
        let begun = in_time("a beginning", call).await.unwrap();
        server.stop();
        let (code, _) = in_time("a deadline", read(Ok(begun))).await;
        assert_eq!(code, Code::DeadlineExceeded);
        let ends = in_time("all deadlines", calls(&caller, SHORT)).await;
        assert_eq!(ends.map(|(code, _)| code), [Code::DeadlineExceeded; 6]);
        server.go_on();
        let call = caller.unary::<_, Item>(&ONE, Request::new(Item::new(1, 1)));
        let answer = in_time("an answer", call).await.unwrap();
        assert_eq!(answer.into_inner(), Item::new(1, 1));
    });
}

/// What is left of the time of a request, in milliseconds.
fn left_ms<T>(request: &Request<T>) -> u64 {
    let left = request.remaining().unwrap_or(Duration::MAX);
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

/// A server that says what is left of the time of each kind of call.
async fn tells_what_is_left() -> Lab {
    let answer = |left| ready(Ok(Response::new(Item::new(left, 0))));
    let answers = |left| ready(Ok(Response::new(iter([Ok(Item::new(left, 0))]))));
    Lab::new(
        Streams::default()
            .one(move |request| async move {
                // Only those without a payload ask.
                let left = left_ms(&request);
                let item = request.into_inner();
                let asks = item.payload.is_empty();
                Ok(Response::new(if asks { Item::new(left, 0) } else { item }))
            })
            .list(move |request| answers(left_ms(&request)))
            .record(move |request| answer(left_ms(&request)))
            .chat(move |request| answers(left_ms(&request))),
    )
    .await
}

/// A service whose handlers and streams ask another one, and whose answers say what it said.
fn asking(caller: &Caller) -> Streams {
    let (of_list, of_chat) = (caller.clone(), caller.clone());
    Streams::default()
        .list(move |_| {
            // Made by the handler.
            let caller = of_list.clone();
            async move { Ok(Response::new(iter(ask_all(&caller).await?.map(Ok)))) }
        })
        .chat(move |request| {
            // Made while the stream is polled.
            let caller = of_chat.clone();
            let responses = request.into_inner().then(move |_| {
                let caller = caller.clone();
                async move {
                    let left = ask_all(&caller).await?.map(|item| item.number);
                    let longest = left.into_iter().max().unwrap_or(u64::MAX);
                    Ok(Item::new(longest, 0))
                }
            });
            ready(Ok(Response::new(responses)))
        })
}

#[test]
fn calls_within_handlers_and_streams_inherit_the_deadline() {
    alone(async {
        let inner = tells_what_is_left().await;
        let outer = Lab::new(asking(&inner.caller)).await;
        let most = u64::try_from(LONG.as_millis()).unwrap();
        let list = async {
            let request = within(LONG, Item::default());
            outer
                .caller
                .server_streaming::<_, Item>(&LIST, request)
                .await
        };
        let mut messages = in_time("the handler's calls", list)
            .await
            .unwrap()
            .into_inner();
        let mut count = 0;
        while let Some(item) = in_time("an item", messages.message()).await.unwrap() {
            assert!(0 < item.number && item.number <= most, "{item:?}");
            count += 1;
        }
        assert_eq!(count, 4);
        let chat = async {
            let request = within(LONG, iter((0..3).map(|number| Item::new(number, 0))));
            outer
                .caller
                .bidi_streaming::<_, _, Item>(&CHAT, request)
                .await
        };
        let mut messages = in_time("a beginning", chat).await.unwrap().into_inner();
        let mut count = 0;
        while let Some(item) = in_time("an item", messages.message()).await.unwrap() {
            assert!(0 < item.number && item.number <= most, "{item:?}");
            count += 1;
        }
        assert_eq!(count, 3);
        outer.is_clean("calls within calls").await;
    });
}

/// Asks by a call of each kind what is left.
async fn ask_all(caller: &Caller) -> Result<[Item; 4], Status> {
    let item = Item::default;
    let one = caller.unary::<_, Item>(&ONE, Request::new(item())).await?;
    let list = caller.server_streaming::<_, Item>(&LIST, Request::new(item()));
    let requests = Request::new(iter([item()]));
    let record = caller.client_streaming::<_, _, Item>(&RECORD, requests);
    let requests = Request::new(iter([item()]));
    let chat = caller.bidi_streaming::<_, _, Item>(&CHAT, requests);
    let (list, record) = (list.await?.into_inner().message().await?, record.await?);
    let chat = chat.await?.into_inner().message().await?;
    let missing = || Status::internal("there is one");
    Ok([
        one.into_inner(),
        list.ok_or_else(missing)?,
        record.into_inner(),
        chat.ok_or_else(missing)?,
    ])
}
