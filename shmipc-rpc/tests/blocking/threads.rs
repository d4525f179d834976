use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use shmipc_rpc::{
    Code, Config, Request, Response,
    blocking::{Caller, Channel, Server},
};
use shmipc_transport::Wait;

use super::lab::{LONG, Packet, RUN, ask, echo, lab, packet, run, run_with};

#[test]
fn many_threads_share_a_channel() {
    for wait in [Wait::Adaptive, Wait::Block, Wait::Busy] {
        let running = run(Server::builder().add_service(echo()));
        let config = Config::builder().wait(wait).build().unwrap();
        let channel = Channel::builder(running.path())
            .config(config)
            .connect()
            .unwrap();
        let caller = Caller::new(channel);
        thread::scope(|scope| {
            for thread in 0..8 {
                let caller = caller.clone();
                scope.spawn(move || {
                    for call in 0..300 {
                        let text = format!("{thread} {call}");
                        assert_eq!(ask(&caller, &text).unwrap().into_inner().text, text);
                    }
                });
            }
        });
    }
}

#[test]
fn a_quick_handler_runs_in_the_thread_of_its_session() {
    let running = run(Server::builder().add_service(lab(|_| {
        let name = thread::current().name().unwrap_or_default().to_owned();
        Ok(Response::new(packet(&name)))
    })));
    let caller = running.caller();
    let where_it_ran = || ask(&caller, "where?").unwrap().into_inner().text;
    assert_eq!(
        where_it_ran(),
        "shmipc-handler",
        "it has proven nothing yet"
    );
    super::lab::until(|| where_it_ran() == "shmipc-session");
}

#[test]
fn a_handler_that_turns_out_to_be_slow_does_not_hold_up_its_neighbours() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (began, begun) = mpsc::channel();
    let running = run(Server::builder().add_service(lab(move |request| {
        if request.get_ref().text == "wait" {
            began
                .send(thread::current().name().map(str::to_owned))
                .unwrap();
            gate.lock().unwrap().recv().unwrap();
        }
        Ok(Response::new(request.into_inner()))
    })));
    let caller = running.caller();
    let mut in_the_session = 0;
    // On a busy machine a handler may lose trust for being slow now and then; what counts is that it happens with trust.
    super::lab::until(|| {
        (0..200).for_each(|_| drop(ask(&caller, "quick").unwrap()));
        thread::scope(|scope| {
            let slow = scope.spawn(|| ask(&caller, "wait"));
            let thread = begun.recv_timeout(LONG).unwrap();
            if thread.as_deref() == Some("shmipc-session") {
                in_the_session += 1;
            }
            for _ in 0..20 {
                ask(&caller, "quick").unwrap();
            }
            open.send(()).unwrap();
            assert_eq!(slow.join().unwrap().unwrap().into_inner().text, "wait");
        });
        in_the_session == 5
    });
}

#[test]
fn handlers_run_side_by_side_up_to_the_bound() {
    let barrier = Arc::new(Barrier::new(3));
    let most = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let server = {
        let (barrier, most) = (Arc::clone(&barrier), Arc::clone(&most));
        Server::builder()
            .handler_threads(3)
            .handler_threads_per_session(3)
            .add_service(lab(move |request| {
                let running = most.0.fetch_add(1, Ordering::Relaxed) + 1;
                most.1.fetch_max(running, Ordering::Relaxed);
                barrier.wait();
                most.0.fetch_sub(1, Ordering::Relaxed);
                Ok(Response::new(request.into_inner()))
            }))
    };
    let running = run(server);
    let caller = running.caller();
    thread::scope(|scope| {
        for _ in 0..9 {
            let caller = caller.clone();
            scope.spawn(move || ask(&caller, "together").unwrap());
        }
    });
    assert_eq!(most.1.load(Ordering::Relaxed), 3);
}

#[test]
fn a_client_whose_calls_do_not_end_holds_up_nobody_but_itself() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (began, begun) = mpsc::channel();
    let server = Server::builder()
        .handler_threads(4)
        .add_service(lab(move |request| {
            if request.get_ref().text == "wait" {
                began.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap();
            }
            Ok(Response::new(request.into_inner()))
        }));
    let running = run(server);
    let (greedy, modest) = (running.caller(), running.caller());
    thread::scope(|scope| {
        let waiting = [(); 6].map(|()| scope.spawn(|| ask(&greedy, "wait")));
        // Two of four threads are its share.
        for _ in 0..2 {
            begun.recv_timeout(LONG).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(ask(&modest, "hello").unwrap().into_inner().text, "hello");
        }
        assert!(begun.try_recv().is_err());
        for _ in 0..6 {
            open.send(()).unwrap();
        }
        for call in waiting {
            call.join().unwrap().unwrap();
        }
    });
}

/// Their threads count as those of handlers, although they are those that took the session's calls.
#[test]
fn calls_that_turn_out_to_be_slow_take_no_more_than_their_share_of_threads() {
    const CALLS: usize = 8;
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let begun = Arc::new(AtomicUsize::new(0));
    let began = Arc::clone(&begun);
    let server = Server::builder()
        .handler_threads(4)
        .concurrent_calls_per_session(CALLS)
        .add_service(lab(move |request| {
            if request.get_ref().text == "wait" {
                began.fetch_add(1, Ordering::Relaxed);
                gate.lock().unwrap().recv().unwrap();
            }
            Ok(Response::new(request.into_inner()))
        }));
    let running = run(server);
    let (greedy, modest) = (running.caller(), running.caller());
    for _ in 0..500 {
        ask(&greedy, "quick").unwrap();
    }
    thread::scope(|scope| {
        let (ended, ends) = mpsc::channel();
        for _ in 0..=CALLS {
            let (ended, greedy) = (ended.clone(), &greedy);
            scope.spawn(move || {
                let answer = ask(greedy, "wait");
                ended.send(answer.map_err(|status| status.code())).unwrap();
            });
        }
        // Then the others run, or wait for threads.
        let one_too_many = ends.recv_timeout(LONG).unwrap();
        assert_eq!(one_too_many.unwrap_err(), Code::ResourceExhausted);
        for _ in 0..3 {
            assert_eq!(ask(&modest, "hello").unwrap().into_inner().text, "hello");
        }
        // Two threads are its share, and one more may have become one of them while it was full.
        let begun = begun.load(Ordering::Relaxed);
        assert!((1..=3).contains(&begun), "{begun} run");
        for _ in 0..CALLS {
            open.send(()).unwrap();
        }
        for _ in 0..CALLS {
            ends.recv_timeout(LONG).unwrap().unwrap();
        }
    });
}

#[test]
fn calls_of_a_session_are_limited() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (began, begun) = mpsc::channel();
    let server = Server::builder()
        .concurrent_calls_per_session(2)
        .add_service(lab(move |request| {
            began.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
            Ok(Response::new(request.into_inner()))
        }));
    let running = run(server);
    let caller = running.caller();
    thread::scope(|scope| {
        let waiting = [(); 2].map(|()| scope.spawn(|| ask(&caller, "wait")));
        begun.recv_timeout(LONG).unwrap();
        begun.recv_timeout(LONG).unwrap();
        let refused = ask(&caller, "one too many").unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        for _ in 0..2 {
            open.send(()).unwrap();
        }
        for call in waiting {
            call.join().unwrap().unwrap();
        }
    });
}

/// A call that was given up makes way for another one at the client; here it waits for a thread as before.
#[test]
fn calls_that_are_given_up_before_they_run_do_not_pile_up() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (began, begun) = mpsc::channel();
    let config = Config::builder().streams_max(4).build().unwrap();
    let server = Server::builder()
        .handler_threads(1)
        .add_service(lab(move |request| {
            began.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
            Ok(Response::new(request.into_inner()))
        }));
    let running = run_with(config, server);
    let caller = running.caller();
    thread::scope(|scope| {
        let held = scope.spawn(|| ask(&caller, "wait"));
        begun.recv_timeout(LONG).unwrap();
        // Three more fit. Sooner or later the server says so, as soon as it can answer in time.
        super::lab::until(|| {
            let mut request = Request::new(packet("impatient"));
            request.set_timeout(Duration::from_millis(20));
            let status = caller.unary::<_, Packet>(&RUN, request).unwrap_err();
            status.code() == Code::ResourceExhausted
        });
        open.send(()).unwrap();
        held.join().unwrap().unwrap();
    });
}
