//! Services with methods of all kinds, ways to reach them behind interceptors, and what these note.

use std::future::pending;

use shmipc_rpc::{
    Channel, Code, Endpoint, Method, Request, Response, Sender, Server, Status, Streaming,
    client::{CallService, Caller},
    http::{self, HeaderMap, HeaderValue},
    interceptor::{Call, End, Interceptor, InterceptorLayer, Next},
    server::ServerHandle,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::common::{
    Lab, Packet, RUN, lab, packet,
    streams::{CHAT, LIST, Queue, RECORD, Streams, iter, numbered, queue, streams},
};

pub(crate) const KINDS: [&Method; 4] = [&RUN, &LIST, &RECORD, &CHAT];

/// Services with methods of all kinds.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) lab: Lab,
    pub(crate) streams: Streams,
}

pub(crate) fn trailing(value: &'static str) -> HeaderMap {
    let value = HeaderValue::from_static(value);
    HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), value)])
}

pub(crate) fn late() -> Status {
    Status::aborted("late").with_metadata(trailing("handler"))
}

/// Answers with trailers from the handler, or fails in the end if the text of the first request says so.
pub(crate) fn answering() -> Services {
    let one = |request: Packet| async move {
        match request.text.as_str() {
            "fail" => Err(late()),
            "hang" => pending().await,
            _ => {
                let mut response = Response::new(numbered(7));
                *response.trailers_mut() = trailing("handler");
                Ok(response)
            }
        }
    };
    let streams = streams()
        .list(|request| async move {
            let fails = request.get_ref().text == "fail";
            let end = fails.then(|| Err(late()));
            let mut response = Response::new(iter((0..3).map(numbered).map(Ok).chain(end)));
            *response.trailers_mut() = trailing("handler");
            Ok(response)
        })
        .record(move |request| async move {
            let first = request.into_inner().message().await?;
            one(first.unwrap_or_default()).await
        })
        .chat(|request| async move {
            let (mut sender, responses) = Sender::for_responses();
            tokio::spawn(async move {
                let first = request.into_inner().message().await?.unwrap_or_default();
                for number in 0..3 {
                    sender.send(&numbered(number)).await?;
                }
                match first.text.as_str() {
                    "fail" => sender.fail(late()),
                    _ => sender.finish_with(trailing("handler")),
                }
                Ok::<_, Status>(())
            });
            Ok(Response::new(responses))
        });
    Services {
        lab: lab(move |request| one(request.into_inner())),
        streams,
    }
}

/// Begins to answer where there is a stream, and never ends.
pub(crate) fn hanging() -> Services {
    let endless = || async {
        let (sender, responses) = queue();
        tokio::spawn(async move {
            let _ = sender.send(Ok(numbered(0))).await;
            sender.closed().await;
        });
        Ok::<Response<Queue<Result<Packet, Status>>>, Status>(Response::new(responses))
    };
    Services {
        lab: lab(|_| pending()),
        streams: streams()
            .list(move |_| endless())
            .record(|_| pending())
            .chat(move |_| endless()),
    }
}

/// How calls travel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    SharedMemory,
    InProcess,
    #[cfg(feature = "grpc")]
    Http2,
}

pub(crate) const WAYS: &[Way] = &[
    Way::SharedMemory,
    Way::InProcess,
    #[cfg(feature = "grpc")]
    Way::Http2,
];

/// A channel, and what is at its other end.
pub(crate) struct Link {
    pub(crate) channel: Channel,
    pub(crate) server: Option<ServerHandle>,
    _directory: TempDir,
}

/// Serves behind layers.
pub(crate) async fn link<I: Interceptor>(
    way: Way,
    services: Services,
    layer: InterceptorLayer<I>,
) -> Link {
    let Services { lab, streams } = services;
    let server = Server::builder()
        .add_service(layer.layer(lab))
        .add_service(layer.layer(streams));
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let endpoint: Endpoint = match way {
        Way::SharedMemory => directory.path().join("lab.sock").into(),
        Way::InProcess => {
            return Link {
                channel: Channel::in_process(server.into_service()),
                server: None,
                _directory: directory,
            };
        }
        #[cfg(feature = "grpc")]
        Way::Http2 => "http://127.0.0.1:0".into(),
    };
    let server = server.start(endpoint).await.expect("nobody listens there");
    let channel = Channel::connect(server.endpoints()[0].clone()).await;
    Link {
        channel: channel.expect("the server listens"),
        server: Some(server),
        _directory: directory,
    }
}

/// Which side intercepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Runs a check for each way and each side, with what the interceptors of `layer` have noted.
macro_rules! everywhere {
    ($services:expr, $layer:expr, $check:expr) => {
        for &way in crate::stage::WAYS {
            let (log, mut noted) = tokio::sync::mpsc::unbounded_channel();
            let link = crate::stage::link(way, $services, $layer(log)).await;
            println!("{way:?}, at the server");
            crate::common::in_time($check(
                shmipc_rpc::client::Caller::new(link.channel),
                &mut noted,
                crate::stage::Side::Server,
            ))
            .await;

            let (log, mut noted) = tokio::sync::mpsc::unbounded_channel();
            let off = shmipc_rpc::interceptor::InterceptorLayer::on_request(|_| Ok(()))
                .for_method(&crate::common::UNKNOWN);
            let link = crate::stage::link(way, $services, off).await;
            println!("{way:?}, at the client");
            let channel = tower_layer::Layer::layer(&$layer(log), link.channel);
            let caller = shmipc_rpc::client::Caller::new(channel);
            crate::common::in_time($check(caller, &mut noted, crate::stage::Side::Client)).await;
        }
    };
}
pub(crate) use everywhere;

/// What an interceptor has seen of an end: the method, the code, the metadata of the test, and whether it was cut off.
pub(crate) type Seen = (String, Code, Vec<String>, bool);
pub(crate) type Noted = mpsc::UnboundedReceiver<Seen>;
pub(crate) type Log = mpsc::UnboundedSender<Seen>;

pub(crate) fn values(metadata: &HeaderMap) -> Vec<String> {
    let values = metadata.get_all("x-end").iter();
    values
        .map(|value| value.to_str().expect("it is ASCII").to_owned())
        .collect()
}

/// Makes a layer that notes how calls end, and does as `change` says.
pub(crate) fn noting(
    log: Log,
    change: impl Fn(&mut End) + Clone + Send + Sync + 'static,
) -> InterceptorLayer<impl Interceptor> {
    InterceptorLayer::new(move |call: Call, next: Next| {
        let (log, change, method) = (log.clone(), change.clone(), call.method().to_owned());
        let next = next.on_end(move |end| {
            let seen = (method, end.code(), values(end.metadata()), end.is_cut_off());
            log.send(seen).expect("the test looks");
            change(end);
        });
        next.run(call)
    })
}

/// As [`noting`], but only once the answer has begun.
pub(crate) fn noting_answers(log: Log) -> InterceptorLayer<impl Interceptor> {
    InterceptorLayer::new(move |call: Call, next: Next| {
        let (log, method) = (log.clone(), call.method().to_owned());
        async move {
            let mut answer = next.run(call).await?;
            answer.on_end(move |end| {
                let seen = (method, end.code(), values(end.metadata()), end.is_cut_off());
                log.send(seen).expect("the test looks");
                add(end);
            });
            Ok(answer)
        }
    })
}

pub(crate) fn add(end: &mut End) {
    let value = HeaderValue::from_static("interceptor");
    end.metadata_mut().append("x-end", value);
}

/// What a call has come to: the numbers, and the trailing metadata or the failure.
pub(crate) type Outcome = (Vec<u64>, Result<HeaderMap, Status>);

pub(crate) async fn rest(mut messages: Streaming<Packet>) -> Outcome {
    let mut numbers = Vec::new();
    loop {
        match messages.message().await {
            Ok(Some(message)) => numbers.push(message.number),
            Ok(None) => return (numbers, messages.trailers().await),
            Err(status) => return (numbers, Err(status)),
        }
    }
}

pub(crate) fn one(response: Result<Response<Packet>, Status>) -> Outcome {
    match response {
        Ok(response) => (
            vec![response.get_ref().number],
            Ok(response.metadata().clone()),
        ),
        Err(status) => (Vec::new(), Err(status)),
    }
}

/// Calls a method of any kind, with one request.
pub(crate) async fn call(
    caller: &Caller<impl CallService>,
    method: &Method,
    text: &str,
) -> Outcome {
    let (request, requests) = (packet(text), iter([packet(text)]));
    let streamed = if *method == RUN {
        return one(caller.unary(&RUN, Request::new(request)).await);
    } else if *method == RECORD {
        return one(caller
            .client_streaming(&RECORD, Request::new(requests))
            .await);
    } else if *method == LIST {
        caller.server_streaming(&LIST, Request::new(request)).await
    } else {
        caller.bidi_streaming(&CHAT, Request::new(requests)).await
    };
    match streamed {
        Ok(response) => rest(response.into_inner()).await,
        Err(status) => (Vec::new(), Err(status)),
    }
}

/// The numbers that a method answers with.
pub(crate) fn expected(method: &Method) -> Vec<u64> {
    match *method == RUN || *method == RECORD {
        true => vec![7],
        false => vec![0, 1, 2],
    }
}

pub(crate) fn is_streaming(method: &Method) -> bool {
    *method == LIST || *method == CHAT
}

pub(crate) async fn next(noted: &mut Noted) -> Seen {
    noted.recv().await.expect("the interceptor looks")
}
