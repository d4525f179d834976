//! Servers that go out of service, and have only so much time for it.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use shmipc_rpc::{
    Code, Request, Response, Status,
    blocking::{Caller, Duplex, Server},
    server::DrainReport,
};

use super::{
    common::UNKNOWN,
    lab::{
        CHAT, Handled, LIST, LONG, Lab, Packet, RUN, Streams, ask, items, lab, numbered, packet,
        run, until,
    },
};

/// How long the servers here have, whose calls do not end.
const LIMIT: Duration = Duration::from_millis(50);

/// Holds handlers until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let (is_open, opened) = &*self.0;
        let waited = opened.wait_while(is_open.lock().unwrap(), |is_open| !*is_open);
        drop(waited.unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// Says that it was called to wait, and waits in code of its own; answers at once what is not to wait.
fn waiting(gate: &Gate) -> (Lab, mpsc::Receiver<()>) {
    let (began, begun) = mpsc::channel();
    let gate = gate.clone();
    let lab = lab(move |request: Request<Packet>| {
        if request.get_ref().text == "wait" {
            began.send(()).unwrap();
            gate.wait();
        }
        Ok(Response::new(request.into_inner()))
    });
    (lab, begun)
}

fn assert_cut_off(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[test]
fn calls_that_do_not_end_are_cut_off_and_reported_wherever_they_run() {
    let gate = Gate::default();
    let (service, begun) = waiting(&gate);
    let running = run(Server::builder().add_service(service));
    let mut calls = Vec::new();
    // The first calls of a method run in the pool; later ones, once they were quick, in the thread of their session.
    for quick_before in [0, 500, 500] {
        let caller = running.caller();
        for _ in 0..quick_before {
            ask(&caller, "quick").unwrap();
        }
        calls.push(thread::spawn(move || ask(&caller, "wait")));
        begun.recv_timeout(LONG).unwrap();
    }
    let report = running.shutdown.drain(LIMIT);
    assert_eq!(report.finished, 0, "{report:?}");
    assert_eq!(report.cut_off.len(), 3, "{report:?}");
    for call in &report.cut_off {
        assert_eq!(call.method, RUN.path());
        let peer = call.peer.unwrap();
        assert_eq!(peer.pid(), Some(std::process::id().cast_signed()));
        assert_eq!(call.address, None);
    }
    for call in calls {
        assert_cut_off(&call.join().unwrap().unwrap_err());
    }
    // Whoever asks again is told the same.
    assert_eq!(running.shutdown.drain(Duration::ZERO).cut_off.len(), 3);
    gate.open();
    running.stop();
}

#[test]
fn handlers_that_wait_for_what_the_library_gives_are_ended() {
    static ENDED: Mutex<Option<mpsc::Sender<Code>>> = Mutex::new(None);

    let (ends, ended) = mpsc::channel();
    *ENDED.lock().unwrap() = Some(ends);
    let streams = Streams {
        // Without end: waits until the caller has room.
        list: |_| Ok(Response::new(items((0..).map(numbered)))),
        // Waits for requests.
        chat: |request| {
            let told = request.into_inner().inspect(|message| {
                if let Err(status) = message {
                    let ended = ENDED.lock().unwrap();
                    ended.as_ref().unwrap().send(status.code()).unwrap();
                }
            });
            Ok(Response::new(Box::new(told)))
        },
        ..Streams::default()
    };
    let running = run(Server::builder().add_service(streams));
    let caller = running.caller();
    let request = Request::new(numbered(0));
    let listed = caller.server_streaming::<_, Packet>(&LIST, request);
    let mut list = listed.unwrap().into_inner();
    assert_eq!(list.message().unwrap(), Some(numbered(0)));
    let mut chat = chat(&caller);
    assert_eq!(chat.message().unwrap(), Some(numbered(4)));
    let report = running.shutdown.drain(LIMIT);
    assert_eq!(methods(&report), [CHAT.path(), LIST.path()]);
    assert_ne!(ended.recv_timeout(LONG).unwrap(), Code::Ok);
    assert_cut_off(&chat.message().unwrap_err());
    let listed = list.find_map(Result::err);
    assert_cut_off(&listed.expect("it has no end of its own"));
    running.stop();
}

/// Begins a call, and sends one request.
fn chat(caller: &Caller) -> Duplex<Packet, Packet> {
    let mut chat = caller.bidi_streaming(&CHAT, Request::new(())).unwrap();
    chat.send(&numbered(4)).unwrap();
    chat
}

fn methods(report: &DrainReport) -> Vec<&str> {
    let mut methods: Vec<_> = report.cut_off.iter().map(|call| &*call.method).collect();
    methods.sort_unstable();
    methods
}

#[test]
fn calls_that_end_in_time_are_served_and_counted() {
    let gate = Gate::default();
    let (service, begun) = waiting(&gate);
    let running = run(Server::builder().add_service(service));
    let calls = [(); 3].map(|()| {
        let caller = running.caller();
        thread::spawn(move || ask(&caller, "wait"))
    });
    for _ in &calls {
        begun.recv_timeout(LONG).unwrap();
    }
    running.shutdown.begin();
    gate.open();
    for call in calls {
        assert_eq!(call.join().unwrap().unwrap().into_inner(), packet("wait"));
    }
    // A thread counts a call a moment after it has answered, and the session may be over by then.
    until(|| running.shutdown.drain(LONG).finished == 3);
    assert!(running.shutdown.drain(LONG).cut_off.is_empty());
    running.stop();
}

#[test]
fn a_later_drain_may_shorten_the_time_and_handlers_learn_of_it() {
    let (tell, told) = mpsc::channel();
    let gate = Gate::default();
    let held = gate.clone();
    let running = run(Server::builder().add_service(lab(move |request| {
        let draining = request.draining();
        assert!(!draining.has_begun());
        tell.send(draining).unwrap();
        held.wait();
        Ok(Response::new(packet("")))
    })));
    let caller = running.caller();
    let call = thread::spawn(move || ask(&caller, "").unwrap_err());
    let draining = told.recv_timeout(LONG).unwrap();
    running.shutdown.begin();
    assert!(draining.has_begun());
    assert_eq!(draining.deadline(), None);
    let shutdown = running.shutdown.clone();
    let patient = thread::spawn(move || shutdown.drain(LONG * 100));
    until(|| draining.deadline().is_some());
    assert_eq!(running.shutdown.drain(LIMIT).cut_off.len(), 1);
    assert_eq!(patient.join().unwrap().cut_off.len(), 1);
    assert_cut_off(&call.join().unwrap());
    gate.open();
}

#[test]
fn calls_that_wait_for_a_thread_are_reported_and_not_begun_any_more() {
    static BEGUN: AtomicUsize = AtomicUsize::new(0);

    let streams = Streams {
        chat: |request| {
            BEGUN.fetch_add(1, Ordering::Relaxed);
            Ok(Response::new(Box::new(request.into_inner())))
        },
        ..Streams::default()
    };
    let running = run(Server::builder().handler_threads(1).add_service(streams));
    let caller = running.caller();
    let mut first = chat(&caller);
    assert_eq!(first.message().unwrap(), Some(numbered(4)));
    let mut second = chat(&caller);
    // Answered by the thread of the session, which has taken the call before it.
    let refused: Handled = caller.unary(&UNKNOWN, Request::new(packet("")));
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    let report = running.shutdown.drain(LIMIT);
    assert_eq!(methods(&report), [CHAT.path(); 2]);
    assert_cut_off(&first.message().unwrap_err());
    assert_cut_off(&second.message().unwrap_err());
    running.stop();
    assert_eq!(BEGUN.load(Ordering::Relaxed), 1);
}
