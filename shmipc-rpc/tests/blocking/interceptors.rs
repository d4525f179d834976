//! Interceptors around channels, around single services and around all services of a server.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use shmipc_rpc::{
    Code, Method, Request, Response, Status,
    blocking::{
        Caller, Server, Streaming,
        interceptor::{Answer, Call, Interceptor, InterceptorLayer, Next},
    },
    http::{HeaderMap, HeaderValue},
};

use super::{
    common::{ELSEWHERE, UNKNOWN},
    lab::{
        CHAT, Handled, LIST, Packet, RECORD, RUN, Streams, ask, echo, items, lab, numbered, packet,
        run,
    },
    stage::{
        KINDS, Log, Noted, Services, Side, add, answering, call, everywhere, next, trailing, values,
    },
};

/// Adds metadata to requests and responses, and to failures.
struct Adding(&'static str);

impl Interceptor for Adding {
    fn intercept(&self, mut call: Call, next: Next<'_>) -> Result<Answer, Status> {
        let value = HeaderValue::from_static(self.0);
        call.metadata_mut().append("x-end", value.clone());
        match next.run(call) {
            Ok(mut answer) => {
                answer.metadata_mut().append("x-end", value);
                Ok(answer)
            }
            Err(mut status) => {
                status.metadata_mut().append("x-end", value);
                Err(status)
            }
        }
    }
}

fn adding(name: &'static str) -> InterceptorLayer {
    InterceptorLayer::new(Adding(name))
}

#[test]
fn metadata_is_seen_and_changed_both_ways_on_both_sides_in_order() {
    let show = lab(|request: Request<Packet>| {
        let seen = values(request.metadata()).join(" ");
        match request.get_ref().text.as_str() {
            "fail" => Err(Status::aborted(seen)),
            _ => Ok(Response::new(packet(&seen))),
        }
    });
    let server = Server::builder()
        .layer(adding("server"))
        .layer(adding("inner"));
    let running = run(server.add_service(adding("service").layer(show)));
    let channel = adding("client").layer(running.channel());
    let caller = Caller::new(adding("outer").layer(channel));

    let call = |text| -> Handled {
        let mut request = Request::new(packet(text));
        *request.metadata_mut() = trailing("caller");
        caller.unary(&RUN, request)
    };
    let down = "caller outer client server inner service";
    let up = ["service", "inner", "server", "client", "outer"];
    let response = call("").expect("it succeeds");
    assert_eq!(response.get_ref().text, down);
    assert_eq!(values(response.metadata()), up);

    let status = call("fail").expect_err("it fails");
    assert_eq!((status.code(), status.message()), (Code::Aborted, down));
    assert_eq!(values(status.metadata()), up);
}

/// Begins the response with what the request began with.
fn mirroring() -> Services {
    fn begin<T>(message: T, metadata: &HeaderMap) -> Response<T> {
        let mut response = Response::new(message);
        for value in metadata.get_all("x-end") {
            response.metadata_mut().append("x-end", value.clone());
        }
        response
    }
    Services {
        lab: lab(|request| Ok(begin(numbered(0), request.metadata()))),
        streams: Streams {
            list: |request| Ok(begin(items([].into_iter()), request.metadata())),
            record: |request| Ok(begin(numbered(0), request.metadata())),
            chat: |request| Ok(begin(items([].into_iter()), request.metadata())),
        },
    }
}

/// Calls with metadata, and returns what the response begins with.
fn begin(caller: &Caller, method: &Method) -> Vec<String> {
    let mut request = Request::new(());
    *request.metadata_mut() = trailing("caller");
    let one = request.clone().map(|()| packet(""));
    let metadata = if *method == RUN {
        let response = caller.unary::<_, Packet>(&RUN, one);
        response.expect("it answers").metadata().clone()
    } else if *method == RECORD {
        let many = request.map(|()| [packet("")]);
        let response = caller.client_streaming::<_, _, Packet>(&RECORD, many);
        response.expect("it answers").metadata().clone()
    } else if *method == LIST {
        let response = caller.server_streaming::<_, Packet>(&LIST, one);
        let response = response.expect("it answers");
        let metadata = response.metadata().clone();
        let mut messages: Streaming<Packet> = response.into_inner();
        assert!(messages.message().expect("it ends well").is_none());
        metadata
    } else {
        let mut chat = caller
            .bidi_streaming::<Packet, Packet>(&CHAT, request)
            .expect("it begins");
        let metadata = chat.metadata().expect("it answers").clone();
        assert!(chat.message().expect("it ends well").is_none());
        metadata
    };
    values(&metadata)
}

#[test]
fn heads_of_all_kinds_are_changed_both_ways() {
    fn check(caller: &Caller, _: &Noted, _: Side) {
        for method in KINDS {
            let values = begin(caller, method);
            let expected = ["caller", "interceptor", "interceptor"];
            assert_eq!(values, expected, "{method:?}");
        }
    }
    everywhere(mirroring, |_| adding("interceptor"), check);
}

#[test]
fn heads_of_all_kinds_are_seen_when_they_come() {
    fn check(caller: &Caller, noted: &Noted, _: Side) {
        for method in KINDS {
            assert_eq!(begin(caller, method), ["caller", "seen"], "{method:?}");
            let seen = next(noted);
            assert_eq!(
                (seen.0, seen.2),
                (method.name().to_owned(), vec!["caller".to_owned()])
            );
        }
    }
    fn seeing(log: Log) -> InterceptorLayer {
        InterceptorLayer::new(move |call: Call, next: Next<'_>| {
            let (log, method) = (log.clone(), call.method().to_owned());
            let mut answer = next.run(call)?;
            answer.on_head(move |head| {
                log.send((method, Code::Ok, values(head), false))
                    .expect("the test looks");
                head.append("x-end", HeaderValue::from_static("seen"));
            });
            Ok(answer)
        })
    }
    everywhere(mirroring, seeing, check);
}

#[test]
fn a_head_that_does_not_come_is_not_seen() {
    let running = run(Server::builder());
    let expecting = InterceptorLayer::new(|call: Call, next: Next<'_>| {
        let mut answer = next.run(call)?;
        answer.on_head(|_| panic!("there is none"));
        Ok(answer)
    });
    let caller = Caller::new(expecting.layer(running.channel()));
    for method in KINDS {
        let status = call(&caller, method, "").1.expect_err("nobody answers");
        assert_eq!(status.code(), Code::Unimplemented, "{method:?}");
    }
}

#[test]
fn a_panic_at_the_head_fails_its_call_only() {
    let running = run(Server::builder().add_service(answering().streams));
    let panicking = InterceptorLayer::new(|call: Call, next: Next<'_>| {
        let panics = call.metadata().contains_key("x-panic");
        let mut answer = next.run(call)?;
        answer.on_head(move |_| assert!(!panics, "as asked"));
        Ok(answer)
    });
    let caller = Caller::new(panicking.layer(running.channel()));
    let mut request = Request::new(());
    request
        .metadata_mut()
        .insert("x-panic", HeaderValue::from_static("1"));
    let mut chat = caller
        .bidi_streaming::<Packet, Packet>(&CHAT, request)
        .unwrap();
    chat.send(&packet("")).unwrap();
    assert_eq!(chat.message().unwrap_err().code(), Code::Internal);
    assert_eq!(chat.message().unwrap(), None, "nothing follows");
    assert_eq!(call(&caller, &CHAT, "").0, [0, 1, 2]);
}

/// Answers each call by itself: with the message, or the failure.
fn early(answer: Result<u64, Code>, log: Log) -> InterceptorLayer {
    InterceptorLayer::new(move |call: Call, next: Next<'_>| {
        let (log, method) = (log.clone(), call.method().to_owned());
        // Of a call that does not go on there is no end.
        drop(next.on_end(|_| panic!("it did not go on")));
        match answer {
            Ok(number) => {
                let mut answer = Answer::new(Response::new(numbered(number)));
                answer.on_end(move |end| {
                    add(end);
                    let seen = (method, end.code(), values(end.metadata()), false);
                    log.send(seen).expect("the test looks");
                });
                Ok(answer)
            }
            Err(code) => Err(Status::new(code, "early").with_metadata(trailing("early"))),
        }
    })
}

#[test]
fn all_kinds_are_answered_early() {
    fn unreachable() -> Services {
        Services {
            lab: lab(|_| panic!("the handler must not be called")),
            streams: Streams {
                list: |_| panic!("the handler must not be called"),
                record: |_| panic!("the handler must not be called"),
                chat: |_| panic!("the handler must not be called"),
            },
        }
    }
    fn well(caller: &Caller, noted: &Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(caller, method, "");
            assert_eq!(numbers, [5], "{method:?}");
            assert_eq!(values(&end.expect("it ends well")), ["interceptor"]);
            assert_eq!(next(noted).1, Code::Ok);
        }
    }
    fn badly(caller: &Caller, _: &Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(caller, method, "");
            let status = end.expect_err("it fails");
            assert_eq!((numbers, status.code()), (vec![], Code::Unauthenticated));
            assert_eq!(values(status.metadata()), ["early"]);
        }
    }
    everywhere(unreachable, |log| early(Ok(5), log), well);
    let refuse = |log| early(Err(Code::Unauthenticated), log);
    everywhere(unreachable, refuse, badly);
}

#[test]
fn an_answer_may_be_replaced() {
    fn check(caller: &Caller, noted: &Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(caller, method, "");
            assert_eq!(numbers, [9], "{method:?}");
            assert!(end.is_ok(), "{end:?}");
            // What it replaces is at its end, or cut off.
            let seen = next(noted);
            let is_known = method.kind() == RUN.kind() || method.kind() == RECORD.kind();
            assert_eq!(seen.3, !is_known, "{seen:?}");
        }
    }
    let replacing = |log: Log| {
        InterceptorLayer::new(move |call: Call, next: Next<'_>| {
            let (log, method) = (log.clone(), call.method().to_owned());
            let next = next.on_end(move |end| {
                let seen = (method, end.code(), vec![], end.is_cut_off());
                log.send(seen).expect("the test looks");
            });
            drop(next.run(call)?);
            Ok(Answer::new(Response::new(numbered(9))))
        })
    };
    everywhere(answering, replacing, check);
}

#[test]
fn the_answer_of_another_call_is_refused() {
    let kept = Arc::new(Mutex::new(None));
    let exchanging = {
        let kept = Arc::clone(&kept);
        InterceptorLayer::new(move |call: Call, next: Next<'_>| {
            if let Some(other) = kept.lock().unwrap().take() {
                return Ok(other);
            }
            *kept.lock().unwrap() = Some(next.run(call)?);
            Err(Status::aborted("it was kept"))
        })
    };
    let running = run(Server::builder()
        .layer(exchanging)
        .add_service(answering().streams));
    let caller = running.caller();
    let code = |text| call(&caller, &LIST, text).1.unwrap_err().code();
    assert_eq!(code(""), Code::Aborted);
    assert_eq!(code(""), Code::Internal);
}

#[test]
fn a_layer_is_limited_to_services_and_methods() {
    type Limit = fn(InterceptorLayer) -> InterceptorLayer;

    let limited: [(Limit, &[&str]); 6] = [
        (|layer| layer, &["Run", "List", "Record", "Chat"]),
        (|layer| layer.for_service("lab.v1.Lab"), &["Run"]),
        (|layer| layer.for_service("lab.v1"), &[]),
        (|layer| layer.for_method(&LIST), &["List"]),
        (
            |layer| {
                layer
                    .for_service("other")
                    .for_method(&RUN)
                    .for_method(&CHAT)
            },
            &["Run", "Chat"],
        ),
        (
            |layer| layer.for_service("lab.v1.Streams"),
            &["List", "Record", "Chat"],
        ),
    ];
    for (limit, expected) in limited {
        let layer = |log: Log| {
            limit(InterceptorLayer::on_request(move |call| {
                let seen = (call.method().to_owned(), Code::Ok, Vec::new(), false);
                log.send(seen).expect("the test looks");
                Ok(())
            }))
        };
        everywhere(mirroring, layer, |caller, noted, _| {
            for method in KINDS {
                begin(caller, method);
            }
            let seen: Vec<_> = noted.try_iter().map(|seen| seen.0).collect();
            assert_eq!(seen, expected);
        });
    }
}

#[test]
fn calls_that_lead_nowhere_are_seen_by_interceptors_of_the_server() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&log);
    let noting = InterceptorLayer::new(move |call: Call, next: Next<'_>| {
        let (note, path) = (Arc::clone(&note), call.path().to_owned());
        let next = next.on_end(move |end| note.lock().unwrap().push((path, end.code())));
        next.run(call)
    });
    let limited = noting.clone().for_service("lab.v1.Elsewhere");
    for (layer, seen) in [(noting, 2), (limited, 1)] {
        let running = run(Server::builder().layer(layer).add_service(echo()));
        let caller = running.caller();
        for method in [ELSEWHERE, UNKNOWN] {
            let status = caller.unary::<_, Packet>(&method, Request::new(packet("")));
            let status = status.expect_err("nobody is there");
            assert_eq!(status.code(), Code::Unimplemented);
            assert!(status.message().contains(method.path()), "{status}");
        }
        let all =
            [&ELSEWHERE, &UNKNOWN].map(|method| (method.path().to_owned(), Code::Unimplemented));
        let log = std::mem::take(&mut *log.lock().unwrap());
        assert_eq!(log, all[..seen]);
    }
    let inventing = InterceptorLayer::new(|_: Call, _: Next<'_>| {
        Ok(Answer::new(Response::new(packet("invented"))))
    });
    let running = run(Server::builder().layer(inventing));
    let answer = running
        .caller()
        .unary::<_, Packet>(&UNKNOWN, Request::new(packet("")));
    assert_eq!(answer.unwrap().into_inner(), packet("invented"));
}

#[test]
fn an_interceptor_may_block_without_holding_up_other_calls() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let waiting = InterceptorLayer::on_request(move |call| {
        if call.metadata().contains_key("x-wait") {
            gate.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    let running = run(Server::builder().layer(waiting).add_service(echo()));
    let caller = running.caller();
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let mut slow = Request::new(packet("slow"));
            slow.metadata_mut()
                .insert("x-wait", HeaderValue::from_static("1"));
            caller.unary::<_, Packet>(&RUN, slow)
        });
        for _ in 0..100 {
            assert_eq!(ask(&caller, "quick").unwrap().into_inner(), packet("quick"));
        }
        assert!(!slow.is_finished());
        open.send(()).unwrap();
        assert_eq!(slow.join().unwrap().unwrap().into_inner(), packet("slow"));
    });
}

#[test]
fn an_interceptor_knows_the_peer_and_hands_values_to_the_handler() {
    #[derive(Clone)]
    struct Pid(Option<i32>);

    let layer = InterceptorLayer::on_request(|call| {
        let pid = call.peer().and_then(|peer| peer.pid());
        call.extensions_mut().insert(Pid(pid));
        Ok(())
    });
    let running = run(Server::builder().layer(layer).add_service(lab(|request| {
        let Pid(pid) = request.extensions().get().unwrap();
        assert!(request.peer().is_some() && request.remaining().is_some());
        Ok(Response::new(packet(&format!("{pid:?}"))))
    })));
    let answer = ask(&running.caller(), "").unwrap().into_inner();
    assert_eq!(answer.text, format!("{:?}", Some(std::process::id())));
}

#[test]
fn a_panic_of_an_interceptor_ends_its_call_only() {
    let seen = Arc::new(AtomicUsize::new(0));
    let ended = Arc::clone(&seen);
    let watching = InterceptorLayer::new(move |call: Call, next: Next<'_>| {
        let ended = Arc::clone(&ended);
        let next = next.on_end(move |end| {
            let is_right = end.is_cut_off() || end.code() == Code::Ok;
            ended.fetch_add(usize::from(is_right), Ordering::Relaxed);
        });
        next.run(call)
    });
    for panics_before in [true, false] {
        let panicking = InterceptorLayer::new(move |call: Call, next: Next<'_>| {
            let panics = call.metadata().contains_key("x-panic");
            assert!(!(panics && panics_before), "as asked");
            let answer = next.run(call);
            assert!(!panics, "as asked");
            answer
        });
        let services = answering();
        let running = run(Server::builder()
            .layer(watching.clone())
            .layer(panicking)
            .add_service(services.lab)
            .add_service(services.streams));
        let caller = running.caller();
        for _ in 0..10 {
            let mut request = Request::new(packet(""));
            request
                .metadata_mut()
                .insert("x-panic", HeaderValue::from_static("1"));
            let list = caller.server_streaming::<_, Packet>(&LIST, request.clone());
            assert_eq!(list.unwrap_err().code(), Code::Internal);
            let status = caller.unary::<_, Packet>(&RUN, request).unwrap_err();
            assert_eq!(status.code(), Code::Internal);
            assert_eq!(call(&caller, &RUN, "").0, [7]);
            assert_eq!(call(&caller, &LIST, "").0, [0, 1, 2]);
        }
    }
    assert_eq!(seen.load(Ordering::Relaxed), 2 * 10 * 4);
}

#[test]
fn a_channel_keeps_its_clones_as_they_are() {
    let running = run(Server::builder().add_service(echo()));
    let plain = running.channel();
    let refusing = InterceptorLayer::on_request(|_| Err(Status::unauthenticated("who are you?")));
    let refused = Caller::new(refusing.layer(plain.clone()));
    let status = ask(&refused, "").unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "who are you?")
    );
    assert_eq!(
        ask(&Caller::new(plain), "on").unwrap().into_inner(),
        packet("on")
    );
}
