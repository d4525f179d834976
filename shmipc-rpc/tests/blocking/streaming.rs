use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use shmipc_rpc::{
    Code, Request, Response, Server as AsyncServer, Status,
    blocking::{Caller, Channel, Duplex, IntoIterRequest, Server, Streaming},
    client::Caller as AsyncCaller,
};

use super::{
    common::{
        self,
        streams::{iter, numbers, streams},
    },
    lab::{
        CHAT, Handled, Items, LIST, LONG, Packet, RECORD, Streams, items, numbered, packet, run,
    },
};

/// Calls all kinds of method of a server that behaves as the default one here.
fn all_kinds(caller: &Caller) {
    // More messages than the windows hold.
    for count in [0, 1, 2, 1000] {
        let mut request = Request::new(numbered(count));
        request.set_timeout(LONG);
        let mut list: Response<Streaming<Packet>> =
            caller.server_streaming(&LIST, request).unwrap();
        assert_eq!(list.metadata()["x-head"], "first");
        let received: Result<Vec<_>, Status> = list.get_mut().collect();
        let received: Vec<_> = received.unwrap().iter().map(|item| item.number).collect();
        assert_eq!(received, (0..count).rev().collect::<Vec<_>>());
        assert_eq!(list.get_mut().trailers().unwrap()["x-tail"], "last");
        assert!(list.get_mut().message().unwrap().is_none(), "it is over");

        let requests = (1..=count).map(numbered).into_iter_request();
        let sum: Handled = caller.client_streaming(&RECORD, requests);
        assert_eq!(sum.unwrap().into_inner().number, count * (count + 1) / 2);

        let mut chat: Duplex<Packet, Packet> =
            caller.bidi_streaming(&CHAT, Request::new(())).unwrap();
        for number in 0..count {
            chat.send(&numbered(number)).unwrap();
            assert_eq!(chat.message().unwrap().unwrap().number, 2 * number);
        }
        chat.finish().unwrap();
        assert!(chat.message().unwrap().is_none());
    }
}

#[test]
fn threads_stream_to_each_other() {
    let running = run(Server::builder().add_service(Streams::default()));
    all_kinds(&running.caller());
}

#[test]
fn threads_stream_to_tasks() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let service = streams()
        .list(|request| async move {
            let count = request.into_inner().number;
            let mut response = Response::new(iter((0..count).rev().map(|n| Ok(numbered(n)))));
            response
                .metadata_mut()
                .insert("x-head", "first".parse().unwrap());
            response
                .trailers_mut()
                .insert("x-tail", "last".parse().unwrap());
            Ok(response)
        })
        .record(|request| async move {
            let sum = numbers(request.into_inner()).await?.iter().sum();
            Ok(Response::new(numbered(sum)))
        })
        .chat(|request| async move { Ok(Response::new(Doubled(request.into_inner()))) });
    let running =
        runtime.block_on(async { common::serve(AsyncServer::builder().add_service(service)) });
    all_kinds(&Caller::new(Channel::connect(running.address()).unwrap()));
}

/// What arrives, twice.
struct Doubled(shmipc_rpc::Streaming<Packet>);

impl futures_core::Stream for Doubled {
    type Item = Result<Packet, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let next = std::pin::Pin::new(&mut self.0).poll_next(cx);
        next.map(|next| next.map(|next| next.map(|message| numbered(2 * message.number))))
    }
}

#[test]
fn tasks_stream_to_threads() {
    let running = run(Server::builder().add_service(Streams::default()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = shmipc_rpc::Channel::connect(running.path()).await.unwrap();
        let caller = AsyncCaller::new(channel);
        let list: Response<shmipc_rpc::Streaming<Packet>> = caller
            .server_streaming(&LIST, Request::new(numbered(500)))
            .await
            .unwrap();
        let received = numbers(list.into_inner()).await.unwrap();
        assert_eq!(received, (0..500).rev().collect::<Vec<_>>());
        let requests = Request::new(iter((1..=500).map(numbered)));
        let sum: Handled = caller.client_streaming(&RECORD, requests).await;
        assert_eq!(sum.unwrap().into_inner().number, 125_250);
        let requests = Request::new(iter((0..500).map(numbered)));
        let chat: Response<shmipc_rpc::Streaming<Packet>> =
            caller.bidi_streaming(&CHAT, requests).await.unwrap();
        let received = numbers(chat.into_inner()).await.unwrap();
        assert_eq!(received, (0..500).map(|n| 2 * n).collect::<Vec<_>>());
    });
}

#[test]
fn two_threads_take_a_direction_each() {
    let running = run(Server::builder().add_service(Streams::default()));
    let chat: Duplex<Packet, Packet> = running
        .caller()
        .bidi_streaming(&CHAT, Request::new(()))
        .unwrap();
    let (mut sender, responses) = chat.split();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..2000 {
                sender.send(&numbered(number)).unwrap();
            }
            sender.finish().unwrap();
        });
        for (number, response) in (0..).zip(responses) {
            assert_eq!(response.unwrap().number, 2 * number);
        }
    });
}

#[test]
fn what_a_response_begins_with_can_be_read_where_it_is_received() {
    let running = run(Server::builder().add_service(Streams {
        chat: |request| {
            let messages: Items = Box::new(request.into_inner());
            let mut response = Response::new(messages);
            response
                .metadata_mut()
                .insert("x-head", "first".parse().unwrap());
            response
                .trailers_mut()
                .insert("x-tail", "last".parse().unwrap());
            Ok(response)
        },
        ..Streams::default()
    }));
    let chat = || -> Duplex<Packet, Packet> {
        let called = running.caller().bidi_streaming(&CHAT, Request::new(()));
        called.unwrap()
    };
    // Asked for first, between responses, and after the last; and before the directions are separated.
    for asked in 0..4 {
        let mut chat = chat();
        if asked == 3 {
            assert_eq!(chat.metadata().unwrap()["x-head"], "first");
        }
        let (mut sender, mut receiver) = chat.split();
        if asked == 0 {
            assert_eq!(receiver.metadata().unwrap()["x-head"], "first");
        }
        for number in 0..2 {
            sender.send(&numbered(number)).unwrap();
            assert_eq!(receiver.message().unwrap(), Some(numbered(number)));
            if asked == 1 {
                assert_eq!(receiver.metadata().unwrap()["x-head"], "first");
            }
        }
        sender.finish().unwrap();
        assert_eq!(receiver.trailers().unwrap()["x-tail"], "last");
        assert_eq!(receiver.metadata().unwrap()["x-head"], "first");
    }
}

#[test]
fn a_server_may_answer_before_it_has_had_all_requests() {
    let running = run(Server::builder().add_service(Streams {
        record: |request| match request.into_inner().message()? {
            Some(first) if first.number == 0 => Ok(Response::new(packet("enough"))),
            _ => Err(Status::not_found("no")),
        },
        ..Streams::default()
    }));
    let caller = running.caller();
    // There is no end to the requests.
    let enough: Handled = caller.client_streaming(&RECORD, (0..).map(numbered).into_iter_request());
    assert_eq!(enough.unwrap().into_inner().text, "enough");
    let failed: Handled = caller.client_streaming(&RECORD, (1..).map(numbered).into_iter_request());
    assert_eq!(failed.unwrap_err().code(), Code::NotFound);
}

#[test]
fn failures_come_after_what_came_before_them() {
    let running = run(Server::builder().add_service(Streams {
        list: |_| {
            let failed = std::iter::once(Err(Status::data_loss("lost")));
            Ok(Response::new(Box::new(
                items((0..3).map(numbered)).chain(failed),
            )))
        },
        chat: |_| {
            let panicking = std::iter::from_fn(|| panic!("on purpose"));
            Ok(Response::new(Box::new(
                items((0..3).map(numbered)).chain(panicking),
            )))
        },
        ..Streams::default()
    }));
    let caller = running.caller();
    let list: Response<Streaming<Packet>> = caller
        .server_streaming(&LIST, Request::new(packet("?")))
        .unwrap();
    let codes: Vec<_> = list
        .into_inner()
        .map(|item| item.map_or_else(|status| status.code(), |_| Code::Ok))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::Ok, Code::DataLoss]);
    let chat: Duplex<Packet, Packet> = caller.bidi_streaming(&CHAT, Request::new(())).unwrap();
    let codes: Vec<_> = chat
        .map(|item| item.map_or_else(|status| status.code(), |_| Code::Ok))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::Ok, Code::Internal]);
}

/// Who is told that an [`Endless`] is gone. A handler that is a function has no state of its own.
type Gone = Mutex<Option<mpsc::Sender<()>>>;

/// Messages without end. Tells when it is dropped.
struct Endless(&'static Gone);

impl Iterator for Endless {
    type Item = Result<Packet, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(Ok(numbered(1)))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.lock().unwrap().as_ref().unwrap().send(()).unwrap();
    }
}

#[test]
fn a_stream_that_is_dropped_ends_its_handler() {
    static GONE: Gone = Mutex::new(None);
    let (tell, gone) = mpsc::channel();
    *GONE.lock().unwrap() = Some(tell);
    let running = run(Server::builder().add_service(Streams {
        list: |_| Ok(Response::new(Box::new(Endless(&GONE)))),
        ..Streams::default()
    }));
    let caller = running.caller();
    let mut list: Response<Streaming<Packet>> = caller
        .server_streaming(&LIST, Request::new(packet("?")))
        .unwrap();
    for _ in 0..100 {
        assert!(list.get_mut().message().unwrap().is_some());
    }
    drop(list);
    gone.recv_timeout(LONG).expect("the iterator is dropped");
}

#[test]
fn deadlines_end_streams_at_both_sides() {
    /// Enough for a call to begin, however much else there is to do.
    const TIME: Duration = Duration::from_secs(1);
    static TOLD: Mutex<Option<mpsc::Sender<Code>>> = Mutex::new(None);
    let (told, ended) = mpsc::channel();
    *TOLD.lock().unwrap() = Some(told);
    let running = run(Server::builder().add_service(Streams {
        record: |request| {
            let late = request.into_inner().find_map(Result::err).unwrap();
            let told = TOLD.lock().unwrap().take();
            told.unwrap().send(late.code()).unwrap();
            Err(late)
        },
        chat: |request| {
            let mut messages = request.into_inner();
            Ok(Response::new(Box::new(std::iter::from_fn(move || {
                messages.message().transpose()
            }))))
        },
        ..Streams::default()
    }));
    let caller = running.caller();
    let mut request = Request::new(());
    request.set_timeout(TIME);
    let mut chat: Duplex<Packet, Packet> = caller.bidi_streaming(&CHAT, request).unwrap();
    chat.send(&numbered(1)).unwrap();
    assert_eq!(chat.message().unwrap().unwrap().number, 1);
    assert_eq!(chat.message().unwrap_err().code(), Code::DeadlineExceeded);
    assert!(chat.message().unwrap().is_none(), "a failure is told once");
    // An iterator that waits is not interrupted, but its call is over when it goes on.
    let late = std::iter::once_with(|| {
        thread::sleep(TIME);
        numbered(1)
    });
    let numbers = std::iter::repeat_with(|| numbered(1));
    let mut request = Request::new(numbers.take(1).chain(late).chain(numbers));
    request.set_timeout(TIME);
    let late: Handled = caller.client_streaming(&RECORD, request);
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    let code = ended.recv_timeout(LONG).unwrap();
    assert!(
        [Code::DeadlineExceeded, Code::Cancelled].contains(&code),
        "{code:?}"
    );
}

/// Requests that take their time, of which it is counted how many were asked for.
fn slowly(pause: Duration, asked: &AtomicU64) -> impl Iterator<Item = Packet> {
    std::iter::repeat_with(move || {
        thread::sleep(pause);
        numbered(asked.fetch_add(1, Ordering::Relaxed))
    })
}

#[test]
fn a_call_whose_requests_come_slowly_ends_at_its_deadline() {
    const TIME: Duration = Duration::from_millis(200);
    const PAUSES: u32 = 5;
    let running = run(Server::builder().add_service(Streams {
        record: |request| Err(request.into_inner().find_map(Result::err).unwrap()),
        ..Streams::default()
    }));
    let asked = AtomicU64::new(0);
    let mut request = Request::new(slowly(TIME / PAUSES, &asked));
    request.set_timeout(TIME);
    let late: Handled = running.caller().client_streaming(&RECORD, request);
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(asked.into_inner() <= PAUSES.into());
}

#[test]
fn a_call_whose_requests_come_slowly_ends_with_its_answer() {
    let running = run(Server::builder().add_service(Streams {
        record: |_| Ok(Response::new(packet("enough"))),
        ..Streams::default()
    }));
    let (caller, asked) = (running.caller(), AtomicU64::new(0));
    let requests = slowly(Duration::from_millis(100), &asked).into_iter_request();
    let answer: Handled = caller.client_streaming(&RECORD, requests);
    answer.unwrap();
    // So many wait for the server to take them before the client would.
    assert!(asked.into_inner() < 30);
}

#[test]
fn a_caller_that_reads_too_slowly_has_met_its_deadline() {
    static GONE: Gone = Mutex::new(None);

    fn request() -> Request<Packet> {
        let mut request = Request::new(packet(""));
        request.set_timeout(Duration::from_millis(100));
        request
    }

    let (tell, gone) = mpsc::channel();
    *GONE.lock().unwrap() = Some(tell);
    let running = run(Server::builder().add_service(Streams {
        list: |_| Ok(Response::new(Box::new(Endless(&GONE)))),
        ..Streams::default()
    }));
    let caller = running.caller();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let channel = runtime.block_on(shmipc_rpc::Channel::connect(running.path()));
    let task = AsyncCaller::new(channel.unwrap());
    // There is no room for the end, so the server can but give the call up.
    for _ in 0..10 {
        let called = caller.server_streaming::<_, Packet>(&LIST, request());
        let status = called.and_then(|list| {
            gone.recv_timeout(LONG).unwrap();
            let mut list = list.into_inner();
            while list.message()?.is_some() {}
            Ok(())
        });
        assert_eq!(status.unwrap_err().code(), Code::DeadlineExceeded);
        let status = runtime.block_on(async {
            let list = task.server_streaming::<_, Packet>(&LIST, request()).await?;
            gone.recv_timeout(LONG).unwrap();
            numbers(list.into_inner()).await
        });
        assert_eq!(status.unwrap_err().code(), Code::DeadlineExceeded);
    }
}
