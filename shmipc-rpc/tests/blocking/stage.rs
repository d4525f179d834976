//! Services with methods of all kinds behind interceptors, and what these note.

use std::sync::mpsc;

use shmipc_rpc::{
    Code, Method, Request, Response, Status,
    blocking::{
        Caller, Server,
        interceptor::{Call, End, InterceptorLayer, Next},
    },
    http::{self, HeaderMap, HeaderValue},
};

use super::lab::{
    CHAT, Handled, LIST, LONG, Lab, Packet, RECORD, RUN, Streams, items, lab, numbered, packet, run,
};

pub(crate) const KINDS: [&Method; 4] = [&RUN, &LIST, &RECORD, &CHAT];

/// Services with methods of all kinds.
pub(crate) struct Services {
    pub(crate) lab: Lab,
    pub(crate) streams: Streams,
}

pub(crate) fn trailing(value: &'static str) -> HeaderMap {
    let value = HeaderValue::from_static(value);
    HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), value)])
}

fn late() -> Status {
    Status::aborted("late").with_metadata(trailing("handler"))
}

/// Answers with trailers from the handler, or fails in the end if the text of the first request says so.
pub(crate) fn answering() -> Services {
    fn one(request: &Packet) -> Handled {
        match request.text.as_str() {
            "fail" => Err(late()),
            "panic" => panic!("on purpose"),
            _ => {
                let mut response = Response::new(numbered(7));
                *response.trailers_mut() = trailing("handler");
                Ok(response)
            }
        }
    }
    fn many(request: &Packet) -> Response<super::lab::Items> {
        let text = request.text.clone();
        let end = (!text.is_empty()).then(|| {
            assert_ne!(text, "panic", "on purpose");
            Err(late())
        });
        let mut response = Response::new(Box::new((0..3).map(numbered).map(Ok).chain(end)) as _);
        *response.trailers_mut() = trailing("handler");
        response
    }
    Services {
        lab: lab(|request| one(request.get_ref())),
        streams: Streams {
            list: |request| Ok(many(request.get_ref())),
            record: |request| {
                let first = request.into_inner().message()?;
                one(&first.unwrap_or_default())
            },
            chat: |request| {
                let first = request.into_inner().message()?;
                Ok(many(&first.unwrap_or_default()))
            },
        },
    }
}

/// Begins to answer where there is a stream, and never ends before its caller has gone.
pub(crate) fn hanging() -> Services {
    fn given_up<T>(request: &Request<T>) -> Handled {
        let cancellation = request.cancellation();
        super::lab::until(|| cancellation.is_cancelled());
        Err(Status::cancelled("nobody waits for it"))
    }
    Services {
        lab: lab(|request| given_up(&request)),
        streams: Streams {
            list: |_| Ok(Response::new(items((0..).map(numbered)))),
            record: |request| given_up(&request),
            chat: |_| Ok(Response::new(items((0..).map(numbered)))),
        },
    }
}

/// Which side intercepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Side {
    Client,
    /// Around all services.
    Server,
    /// Around each service.
    Service,
}

/// Runs a check with interceptors in each place, with what they have noted.
pub(crate) fn everywhere(
    services: impl Fn() -> Services,
    layer: impl Fn(Log) -> InterceptorLayer,
    check: impl Fn(&Caller, &Noted, Side),
) {
    for side in [Side::Client, Side::Server, Side::Service] {
        println!("{side:?}");
        let (log, noted) = mpsc::channel();
        let (layer, Services { lab, streams }) = (layer(log), services());
        let server = Server::builder();
        let running = run(match side {
            Side::Client => server.add_service(lab).add_service(streams),
            Side::Server => server
                .layer(layer.clone())
                .add_service(lab)
                .add_service(streams),
            Side::Service => server
                .add_service(layer.layer(lab))
                .add_service(layer.layer(streams)),
        });
        let channel = running.channel();
        let caller = Caller::new(match side {
            Side::Client => layer.layer(channel),
            Side::Server | Side::Service => channel,
        });
        check(&caller, &noted, side);
    }
}

/// What an interceptor has seen of an end: the method, the code, the metadata of the test, and whether it was cut off.
pub(crate) type Seen = (String, Code, Vec<String>, bool);
pub(crate) type Noted = mpsc::Receiver<Seen>;
pub(crate) type Log = mpsc::Sender<Seen>;

pub(crate) fn values(metadata: &HeaderMap) -> Vec<String> {
    let values = metadata.get_all("x-end").iter();
    values
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

fn seen(method: String, end: &End) -> Seen {
    (method, end.code(), values(end.metadata()), end.is_cut_off())
}

/// Makes a layer that notes how calls end, and does as `change` says.
pub(crate) fn noting(
    log: Log,
    change: impl Fn(&mut End) + Clone + Send + Sync + 'static,
) -> InterceptorLayer {
    InterceptorLayer::new(move |call: Call, next: Next<'_>| {
        let (log, change, method) = (log.clone(), change.clone(), call.method().to_owned());
        let next = next.on_end(move |end| {
            // Nobody may look any more.
            let _ = log.send(seen(method, end));
            change(end);
        });
        next.run(call)
    })
}

/// As [`noting`], but only once the answer has begun.
pub(crate) fn noting_answers(log: Log) -> InterceptorLayer {
    InterceptorLayer::new(move |call: Call, next: Next<'_>| {
        let (log, method) = (log.clone(), call.method().to_owned());
        let mut answer = next.run(call)?;
        answer.on_end(move |end| {
            log.send(seen(method, end)).unwrap();
            add(end);
        });
        Ok(answer)
    })
}

/// Makes a layer that adds to what travels with requests.
pub(crate) fn adding_up() -> InterceptorLayer {
    InterceptorLayer::on_request(|call| {
        let value = HeaderValue::from_static("1");
        call.metadata_mut().insert("x-added", value);
        Ok(())
    })
}

pub(crate) fn add(end: &mut End) {
    let value = HeaderValue::from_static("interceptor");
    end.metadata_mut().append("x-end", value);
}

/// What a call has come to: the numbers, and the trailing metadata or the failure.
pub(crate) type Outcome = (Vec<u64>, Result<HeaderMap, Status>);

fn one(response: Handled) -> Outcome {
    match response {
        Ok(response) => (
            vec![response.get_ref().number],
            Ok(response.metadata().clone()),
        ),
        Err(status) => (Vec::new(), Err(status)),
    }
}

/// Takes all messages there are.
pub(crate) fn numbers(
    mut next: impl FnMut() -> Result<Option<Packet>, Status>,
) -> (Vec<u64>, Result<(), Status>) {
    let mut numbers = Vec::new();
    loop {
        match next() {
            Ok(Some(message)) => numbers.push(message.number),
            Ok(None) => return (numbers, Ok(())),
            Err(status) => return (numbers, Err(status)),
        }
    }
}

/// Calls a method of any kind, with one request.
pub(crate) fn call(caller: &Caller, method: &Method, text: &str) -> Outcome {
    fn timed<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(LONG);
        request
    }
    if *method == RUN {
        one(caller.unary(&RUN, timed(packet(text))))
    } else if *method == RECORD {
        one(caller.client_streaming(&RECORD, timed([packet(text)])))
    } else if *method == LIST {
        match caller.server_streaming(&LIST, timed(packet(text))) {
            Ok(response) => {
                let mut messages = response.into_inner();
                let (numbers, end) = numbers(|| messages.message());
                (numbers, end.and_then(|()| messages.trailers()))
            }
            Err(status) => (Vec::new(), Err(status)),
        }
    } else {
        match caller.bidi_streaming::<Packet, Packet>(&CHAT, timed(())) {
            Ok(mut duplex) => {
                // It may have been answered already.
                let _ = duplex.send(&packet(text));
                let _ = duplex.finish();
                let (numbers, end) = numbers(|| duplex.message());
                (numbers, end.and_then(|()| duplex.trailers()))
            }
            Err(status) => (Vec::new(), Err(status)),
        }
    }
}

/// The numbers that a method answers with.
pub(crate) fn expected(method: &Method) -> Vec<u64> {
    match is_streaming(method) {
        false => vec![7],
        true => vec![0, 1, 2],
    }
}

pub(crate) fn is_streaming(method: &Method) -> bool {
    *method == LIST || *method == CHAT
}

pub(crate) fn next(noted: &Noted) -> Seen {
    noted.recv_timeout(LONG).expect("the interceptor looks")
}
