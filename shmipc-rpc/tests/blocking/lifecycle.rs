use std::{
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use shmipc_rpc::{
    Code, Config, Request, Response, ServeError,
    blocking::{Caller, Channel, Listener, Server, Shutdown},
};

use super::lab::{Handled, LONG, RUN, ask, echo, lab, packet, run, run_in, until};

#[test]
fn a_channel_finds_the_next_server_at_its_address() {
    let mut running = run(Server::builder().add_service(echo()));
    let caller = running.caller();
    for round in 0..5 {
        assert_eq!(ask(&caller, "hello").unwrap().into_inner().text, "hello");
        let directory = running.stop();
        if round % 2 == 0 {
            let failed = ask(&caller, "nobody").unwrap_err();
            assert_eq!(failed.code(), Code::Unavailable);
        }
        running = run_in(directory, Server::builder().add_service(echo()));
        // After a failure there is a pause.
        until(|| ask(&caller, "again").is_ok());
    }
}

#[test]
fn a_service_may_be_there_or_not() {
    for service in [Some(echo()), None] {
        let expected = match service {
            Some(_) => Ok("hello".to_owned()),
            None => Err(Code::Unimplemented),
        };
        let running = run(Server::builder().add_optional_service(service));
        let answer = ask(&running.caller(), "hello");
        let text = answer.map(|answer| answer.into_inner().text);
        assert_eq!(text.map_err(|status| status.code()), expected);
    }
}

#[test]
fn a_server_may_serve_at_a_listener_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lab.sock");
    let listener = Listener::bind(path.as_path()).unwrap();
    let stopper = listener.stopper();
    let server = Server::builder().add_service(echo());
    let serving = thread::spawn(move || server.serve_with_listener(listener));
    let caller = Caller::new(Channel::connect(path).unwrap());
    assert_eq!(ask(&caller, "hello").unwrap().into_inner().text, "hello");
    assert!(!serving.is_finished());
    drop(caller);
    stopper.stop();
    serving.join().unwrap().unwrap();
}

#[test]
fn a_channel_can_be_looked_at_while_it_is_connected() {
    let running = run(Server::builder().add_service(echo()));
    let channel = Channel::builder(running.path()).connect_lazy();
    assert!(channel.stats().is_empty(), "it is not connected yet");
    assert!(channel.debug_dump().is_empty());
    let caller = Caller::new(channel.clone());
    ask(&caller, "hello").unwrap();
    let [stats] = channel.stats()[..] else {
        panic!("there is one session");
    };
    assert_eq!((stats.messages_sent, stats.messages_received), (1, 1));
    assert_eq!(channel.debug_dump().len(), 1);
    let _directory = running.stop();
    until(|| channel.stats().is_empty() && channel.debug_dump().is_empty());
}

#[test]
fn who_waits_for_the_server_is_served_when_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let channel = Channel::builder(directory.path().join("lab.sock"))
        .wait_for_ready(true)
        .connect_lazy();
    let caller = Caller::new(channel);
    let call = |timeout| -> Handled {
        let mut request = Request::new(packet("patience"));
        request.set_timeout(timeout);
        caller.unary(&RUN, request)
    };
    let late = call(Duration::from_millis(30)).unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let mut request = Request::new(packet("impatience"));
    request.set_wait_for_ready(false);
    let failed: Handled = caller.unary(&RUN, request);
    assert_eq!(failed.unwrap_err().code(), Code::Unavailable);
    thread::scope(|scope| {
        let calls = [(); 3].map(|()| scope.spawn(|| call(LONG)));
        let _running = run_in(directory, Server::builder().add_service(echo()));
        for call in calls {
            assert_eq!(call.join().unwrap().unwrap().into_inner().text, "patience");
        }
    });
}

#[test]
fn a_call_that_waits_in_a_session_that_ends_is_made_in_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lab.sock");
    let one_stream = Config::builder().streams_max(1).build().unwrap();
    let listener = Listener::bind_with(path.as_path(), one_stream).unwrap();
    let channel = Channel::builder(path).wait_for_ready(true).connect_lazy();
    let caller = Caller::new(channel.clone());
    thread::scope(|scope| {
        let seen = scope.spawn(|| ask(&caller, "seen"));
        let session = listener.accept().unwrap();
        let _stream = session.accept_stream().unwrap();
        let waiting = scope.spawn(|| ask(&caller, "waiting"));
        until(|| {
            let sessions = channel.debug_dump();
            sessions.iter().any(|session| session.openers_waiting == 1)
        });
        // Without a word before, as when a server is killed.
        session.close();
        drop(listener);
        let _running = run_in(directory, Server::builder().add_service(echo()));
        assert_eq!(waiting.join().unwrap().unwrap().get_ref().text, "waiting");
        let seen = seen.join().unwrap().unwrap_err();
        assert_eq!(seen.code(), Code::Unavailable);
    });
}

#[test]
fn a_call_is_not_held_up_beyond_its_deadline_by_a_server_that_does_not_shake_hands() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lab.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let config = Config::builder().handshake_timeout(LONG).build().unwrap();
    let caller = Caller::new(Channel::builder(path).config(config).connect_lazy());
    let began = Instant::now();
    let mut request = Request::new(packet("hurry"));
    request.set_timeout(Duration::from_millis(30));
    let late: Handled = caller.unary(&RUN, request);
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    // The handshake alone would take longer.
    assert!(began.elapsed() < LONG);
}

#[test]
fn a_server_that_shuts_down_lets_its_calls_come_to_their_end() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (began, begun) = mpsc::channel();
    let running = run(Server::builder().add_service(lab(move |request| {
        began.send(()).unwrap();
        gate.lock().unwrap().recv().unwrap();
        Ok(Response::new(request.into_inner()))
    })));
    let caller = running.caller();
    let _idle = running.channel();
    thread::scope(|scope| {
        let call = scope.spawn(|| ask(&caller, "last"));
        begun.recv_timeout(LONG).unwrap();
        let stopping = scope.spawn(|| running.stop());
        open.send(()).unwrap();
        assert_eq!(call.join().unwrap().unwrap().into_inner().text, "last");
        stopping.join().unwrap();
    });
    assert_eq!(ask(&caller, "later").unwrap_err().code(), Code::Unavailable);
}

#[test]
fn a_shutdown_that_has_begun_ends_servers_that_begin_later_and_addresses_are_exclusive() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lab.sock");
    let shutdown = Shutdown::new();
    shutdown.begin();
    let server = Server::builder().add_service(echo());
    server
        .serve_with_shutdown(path.as_path(), &shutdown)
        .unwrap();
    let running = run_in(directory, Server::builder().add_service(echo()));
    let taken = Server::builder().serve(running.path());
    assert!(matches!(taken, Err(ServeError::Bind(_))), "{taken:?}");
}

#[test]
#[should_panic(expected = "two services with the name")]
fn names_of_services_are_unique() {
    drop(Server::builder().add_service(echo()).add_service(echo()));
}
