//! Interceptors see, and change, how calls of all kinds end, wherever they stand.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use shmipc_rpc::{
    Code, Request, Response, Status,
    blocking::{
        Caller, Server,
        interceptor::{Call, End, InterceptorLayer, Next},
    },
};

use super::{
    lab::{CHAT, LIST, Packet, RECORD, RUN, Streams, items, numbered, packet, run},
    stage::{
        KINDS, Noted, Side, add, answering, call, everywhere, expected, hanging, is_streaming,
        next, noting, noting_answers, numbers, trailing, values,
    },
};

#[test]
fn ends_of_all_kinds_are_seen_once_and_their_metadata_is_changed() {
    fn check(caller: &Caller, noted: &Noted, _: Side) {
        let both = ["handler", "interceptor"];
        for method in KINDS {
            let name = method.name().to_owned();
            let handler = || vec!["handler".to_owned()];

            let (numbers, end) = call(caller, method, "");
            assert_eq!(numbers, expected(method), "{name}");
            assert_eq!(values(&end.expect("it ends well")), both, "{name}");
            assert_eq!(next(noted), (name.clone(), Code::Ok, handler(), false));

            let (numbers, end) = call(caller, method, "fail");
            if is_streaming(method) {
                assert_eq!(numbers, expected(method), "{name}");
            }
            let status = end.expect_err("it fails");
            assert_eq!((status.code(), status.message()), (Code::Aborted, "late"));
            assert_eq!(values(status.metadata()), both, "{name}");
            assert_eq!(next(noted), (name, Code::Aborted, handler(), false));
        }
        assert!(noted.try_recv().is_err(), "each is seen once");
    }
    everywhere(answering, |log| noting(log, add), check);
}

#[test]
fn an_answer_that_has_begun_tells_its_end() {
    fn check(caller: &Caller, noted: &Noted, side: Side) {
        for method in KINDS {
            let (numbers, end) = call(caller, method, "");
            assert_eq!(numbers, expected(method));
            let both = ["handler", "interceptor"];
            assert_eq!(values(&end.expect("it ends well")), both, "{method:?}");
            assert_eq!(next(noted).1, Code::Ok);
        }
        for method in [&LIST, &CHAT] {
            let status = call(caller, method, "fail").1.expect_err("it fails");
            assert_eq!(values(status.metadata()), ["handler", "interceptor"]);
            assert_eq!(next(noted).1, Code::Aborted);
        }
        // A conversation has an answer, although that is yet to come.
        if side == Side::Client {
            let status = call(caller, &CHAT, "panic").1.expect_err("it fails");
            assert_eq!(status.code(), Code::Internal);
            assert_eq!(next(noted).1, Code::Internal);
        }
        assert!(noted.try_recv().is_err(), "each is seen once");
    }
    everywhere(answering, noting_answers, check);
}

#[test]
fn a_call_that_went_well_may_be_made_to_fail_in_the_end() {
    fn check(caller: &Caller, noted: &Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(caller, method, "");
            if is_streaming(method) {
                assert_eq!(numbers, expected(method), "what came before has come");
            }
            let status = end.expect_err("the interceptor says so");
            assert_eq!((status.code(), status.message()), (Code::DataLoss, "torn"));
            assert_eq!(values(status.metadata()), ["spoiled"]);
            next(noted);
        }
    }
    let spoil = |end: &mut End| {
        end.set_status(Status::data_loss("torn").with_metadata(trailing("spoiled")));
    };
    everywhere(answering, |log| noting(log, spoil), check);
}

#[test]
fn a_call_that_failed_may_be_made_to_end_well() {
    fn check(caller: &Caller, noted: &Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(caller, method, "fail");
            if is_streaming(method) {
                assert_eq!(numbers, expected(method));
                assert_eq!(values(&end.expect("the interceptor says so")), ["mended"]);
            } else {
                // There is no message.
                assert_eq!(end.expect_err("it cannot be").code(), Code::Internal);
            }
            assert_eq!(next(noted).1, Code::Aborted);
        }
    }
    let mend = |end: &mut End| {
        end.set_status(Status::new(Code::Ok, "").with_metadata(trailing("mended")));
    };
    everywhere(answering, |log| noting(log, mend), check);
}

#[test]
fn calls_that_are_given_up_are_cut_off() {
    fn check(caller: &Caller, noted: &Noted, side: Side) {
        let cut_off = |what: &str| {
            let (_, code, _, is_cut_off) = next(noted);
            assert_eq!((code, is_cut_off), (Code::Cancelled, true), "{what}");
        };
        let list = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
        let mut list = list.expect("it begins").into_inner();
        assert_eq!(list.message().unwrap(), Some(numbered(0)));
        assert!(noted.try_recv().is_err(), "it has not ended");
        drop(list);
        cut_off("a stream");

        let chat = || caller.bidi_streaming::<Packet, Packet>(&CHAT, Request::new(()));
        let mut begun = chat().unwrap();
        assert_eq!(begun.message().unwrap(), Some(numbered(0)));
        assert!(noted.try_recv().is_err(), "it has not ended");
        drop(begun);
        cut_off("a conversation");
        // Before there is an answer. A server must have got to know of the call.
        if side == Side::Client {
            drop(chat());
            cut_off("a conversation without an answer");
        }
    }
    everywhere(hanging, |log| noting(log, |_| {}), check);
}

#[test]
fn calls_that_are_late_end_with_deadline_exceeded() {
    fn timed<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_millis(30));
        request
    }
    fn check(caller: &Caller, noted: &Noted, side: Side) {
        for method in KINDS {
            let status = if *method == RUN {
                caller
                    .unary::<_, Packet>(&RUN, timed(packet("")))
                    .map(drop)
                    .unwrap_err()
            } else if *method == RECORD {
                caller
                    .client_streaming::<_, _, Packet>(&RECORD, timed([packet("")]))
                    .map(drop)
                    .unwrap_err()
            } else if *method == LIST {
                let list = caller.server_streaming::<_, Packet>(&LIST, timed(packet("")));
                list.and_then(|list| {
                    let mut list = list.into_inner();
                    numbers(|| list.message()).1
                })
                .expect_err("it never ends")
            } else {
                let chat = caller.bidi_streaming::<Packet, Packet>(&CHAT, timed(()));
                chat.and_then(|mut chat| numbers(|| chat.message()).1)
                    .expect_err("it never ends")
            };
            assert_eq!(status.code(), Code::DeadlineExceeded, "{method:?}");
            let (_, code, _, _) = next(noted);
            // The caller's time began a little earlier, and a server may hear first that it has given up.
            let is_given_up = side != Side::Client && code == Code::Cancelled;
            let is_late = code == Code::DeadlineExceeded;
            assert!(is_late || is_given_up, "{method:?} {code:?}");
        }
    }
    everywhere(hanging, |log| noting(log, |_| {}), check);
}

#[test]
fn a_server_that_goes_away_is_seen_on_both_sides() {
    let ((server_log, at_server), (client_log, at_client)) =
        (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let server = Server::builder()
        .layer(noting(server_log, |_| {}))
        .add_service(hanging().streams);
    let running = run(server);
    let caller = Caller::new(noting(client_log, |_| {}).layer(running.channel()));
    let list = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
    let mut list = list.expect("it begins").into_inner();
    assert_eq!(list.message().unwrap(), Some(numbered(0)));
    let report = running.shutdown.drain(Duration::ZERO);
    assert_eq!(report.cut_off.len(), 1, "{report:?}");
    let status = numbers(|| list.message()).1.expect_err("it is cut off");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        next(&at_client),
        ("List".to_owned(), Code::Unavailable, vec![], false)
    );
    assert_eq!(
        next(&at_server),
        ("List".to_owned(), Code::Cancelled, vec![], true)
    );
}

/// Notes its name when a call ends.
fn named(name: &'static str, names: &Arc<Mutex<Vec<&'static str>>>) -> InterceptorLayer {
    let names = Arc::clone(names);
    InterceptorLayer::new(move |call: Call, next: Next<'_>| {
        let names = Arc::clone(&names);
        let next = next.on_end(move |end| {
            names.lock().unwrap().push(name);
            add(end);
        });
        next.run(call)
    })
}

#[test]
fn several_interceptors_see_an_end_from_the_inside_out() {
    let names = Arc::default();
    let named = |name| named(name, &names);
    let services = answering();
    let server = Server::builder().layer(named("d")).layer(named("c"));
    let running = run(server
        .add_service(named("b").layer(named("a").layer(services.lab)))
        .add_service(named("b").layer(named("a").layer(services.streams))));
    let channel = named("e").layer(running.channel());
    let caller = Caller::new(named("f").layer(channel));
    for method in KINDS {
        for text in ["", "fail"] {
            let end = call(&caller, method, text).1;
            let metadata = end.unwrap_or_else(|status| status.metadata().clone());
            assert_eq!(values(&metadata).len(), 7, "{method:?} {text}");
            let names = std::mem::take(&mut *names.lock().unwrap());
            assert_eq!(names, ["a", "b", "c", "d", "e", "f"], "{method:?} {text}");
        }
    }
}

#[test]
fn a_panic_at_the_end_fails_its_call_only() {
    fn check(caller: &Caller, noted: &Noted, _: Side) {
        for method in KINDS {
            let end = call(caller, method, "fail").1;
            assert_eq!(end.expect_err("it panics").code(), Code::Internal);
            assert_eq!(next(noted).1, Code::Aborted);
            let (numbers, end) = call(caller, method, "");
            assert_eq!(numbers, expected(method));
            assert!(end.is_ok(), "{end:?}");
            next(noted);
        }
    }
    let panic = |end: &mut End| assert_eq!(end.code(), Code::Ok, "as asked");
    everywhere(answering, |log| noting(log, panic), check);
}

#[test]
fn a_handler_that_panics_is_seen_as_the_failure_that_it_is() {
    fn check(caller: &Caller, noted: &Noted, _: Side) {
        for method in KINDS {
            let end = call(caller, method, "panic").1;
            assert_eq!(end.expect_err("it panics").code(), Code::Internal);
            let (_, code, _, is_cut_off) = next(noted);
            assert_eq!((code, is_cut_off), (Code::Internal, false), "{method:?}");
        }
    }
    everywhere(answering, |log| noting(log, |_| {}), check);
}

#[test]
fn a_message_that_is_too_long_is_seen_as_the_failure_that_it_is() {
    let (log, noted) = std::sync::mpsc::channel();
    let streams = Streams {
        list: |_| {
            let payload = vec![0; 100].into();
            let long = Packet {
                payload,
                ..Packet::default()
            };
            Ok(Response::new(items([numbered(1), long].into_iter())))
        },
        ..Streams::default()
    };
    let server = Server::builder()
        .max_response_size(50)
        .add_service(noting(log, |_| {}).layer(streams));
    let running = run(server);
    let (numbers, end) = call(&running.caller(), &LIST, "");
    let code = end.expect_err("it is too long").code();
    assert_eq!((numbers, code), (vec![1], Code::ResourceExhausted));
    assert_eq!(next(&noted).1, Code::ResourceExhausted);
}
