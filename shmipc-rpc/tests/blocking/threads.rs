use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use shmipc_rpc::{
    Code, Config, Response,
    blocking::{Caller, Channel, Server},
};
use shmipc_transport::Wait;

use super::lab::{LONG, ask, echo, lab, packet, run};

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
