//! Servers with threads in the process of their callers.

use std::sync::{Arc, mpsc};

use shmipc_rpc::{
    Code, Request, Response,
    blocking::{Caller, Channel, Server},
};

use super::{
    lab::{Handled, LONG, Packet, RUN, Streams, ask, echo, lab, packet},
    stage::{KINDS, adding_up, answering, call, expected},
};

#[test]
fn calls_of_all_kinds_reach_a_server_of_the_same_process() {
    let services = answering();
    let server = Server::builder()
        .add_service(services.lab)
        .add_service(services.streams);
    let caller = Caller::new(Channel::in_process(server).unwrap());
    for method in KINDS {
        let (numbers, end) = call(&caller, method, "");
        assert_eq!(numbers, expected(method), "{method:?}");
        assert!(end.is_ok(), "{end:?}");
        let end = call(&caller, method, "fail").1;
        assert_eq!(end.unwrap_err().code(), Code::Aborted, "{method:?}");
    }
}

#[test]
fn the_limits_and_interceptors_of_the_server_hold() {
    let server = Server::builder()
        .max_request_size(100)
        .layer(adding_up())
        .add_service(lab(|request| {
            let pid = request.peer().unwrap().pid().map(i32::unsigned_abs);
            assert_eq!(pid, Some(std::process::id()));
            let added = request.metadata().contains_key("x-added");
            Ok(Response::new(packet(&added.to_string())))
        }));
    let caller = Caller::new(Channel::in_process(server).unwrap());
    assert_eq!(ask(&caller, "").unwrap().into_inner(), packet("true"));
    let long = Packet {
        payload: vec![0; 200].into(),
        ..Packet::default()
    };
    let refused: Handled = caller.unary(&RUN, Request::new(long));
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
}

#[test]
fn servers_do_not_know_of_each_other() {
    let channels = ["a", "b", "c"].map(|name| {
        let server = Server::builder().add_service(lab(move |_| Ok(Response::new(packet(name)))));
        (name, Channel::in_process(server).unwrap())
    });
    for (name, channel) in channels {
        let another = Channel::connect(channel.address().clone()).unwrap();
        // Both stay: a server goes with the last clone of its own channel.
        for channel in [&channel, &another] {
            assert_eq!(
                ask(&Caller::new(channel.clone()), "").unwrap().into_inner(),
                packet(name)
            );
        }
    }
}

#[test]
fn a_server_goes_with_the_last_clone_of_its_channel() {
    /// Tells when it is dropped, with the service that holds it.
    struct Gone(mpsc::Sender<()>);

    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }

    let (tell, gone) = mpsc::channel();
    let held = Arc::new(Gone(tell));
    let server = Server::builder()
        .add_service(Streams::default())
        .add_service(lab(move |request| {
            let _held = &held;
            Ok(Response::new(request.into_inner()))
        }));
    let channel = Channel::in_process(server).unwrap();
    let clone = Caller::new(channel.clone());
    drop(channel);
    assert_eq!(ask(&clone, "on").unwrap().into_inner(), packet("on"));
    assert!(gone.try_recv().is_err(), "it is in use");
    drop(clone);
    gone.recv_timeout(LONG).expect("nobody uses it any longer");
}

#[test]
fn a_server_that_nobody_calls_goes_as_well() {
    drop(Channel::in_process(Server::builder().add_service(echo())).unwrap());
}
