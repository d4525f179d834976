//! The heads of calls of all kinds, early answers, and limits to some methods.

use shmipc_rpc::{
    Code, Method, Request, Response, Status,
    client::{CallService, Caller},
    http::{HeaderMap, HeaderValue},
    interceptor::{Answer, Call, Interceptor, InterceptorLayer, Next},
};

use crate::{
    common::{
        Packet, RUN, lab, packet,
        streams::{CHAT, LIST, RECORD, iter, numbered, numbers, streams},
    },
    stage::{KINDS, Log, Noted, Services, Side, add, call, everywhere, next, trailing, values},
};

/// Answers each call by itself: with the message, or the failure.
fn early(answer: Result<u64, Code>, log: Log) -> InterceptorLayer<impl Interceptor> {
    InterceptorLayer::new(move |call: Call, next: Next| {
        let (log, method) = (log.clone(), call.method().to_owned());
        async move {
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
        }
    })
}

#[tokio::test]
async fn all_kinds_are_answered_early() {
    fn unreachable() -> Services {
        Services {
            lab: lab(|_| async { panic!("the handler must not be called") }),
            streams: streams(),
        }
    }
    async fn well<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(&caller, method, "").await;
            assert_eq!(numbers, [5], "{method:?}");
            assert_eq!(values(&end.expect("it ends well")), ["interceptor"]);
            assert_eq!(next(noted).await.1, Code::Ok);
        }
    }
    async fn badly<S: CallService + Sync>(caller: Caller<S>, _: &mut Noted, _: Side) {
        for method in KINDS {
            let (numbers, end) = call(&caller, method, "").await;
            let status = end.expect_err("it fails");
            assert_eq!((numbers, status.code()), (vec![], Code::Unauthenticated));
            assert_eq!(values(status.metadata()), ["early"]);
        }
    }
    everywhere!(unreachable(), |log| early(Ok(5), log), well);
    let refuse = |log| early(Err(Code::Unauthenticated), log);
    everywhere!(unreachable(), refuse, badly);
}

/// Adds metadata to what comes before the messages, both ways.
struct Heads(Log);

impl Interceptor for Heads {
    async fn intercept(&self, mut call: Call, next: Next) -> Result<Answer, Status> {
        let seen = (call.method().to_owned(), Code::Ok, Vec::new(), false);
        self.0.send(seen).expect("the test looks");
        let value = HeaderValue::from_static("interceptor");
        call.metadata_mut().append("x-end", value.clone());
        let mut answer = next.run(call).await?;
        answer.metadata_mut().append("x-end", value);
        Ok(answer)
    }
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
    let empty = || iter(None::<Result<Packet, Status>>);
    Services {
        lab: lab(|request| async move { Ok(begin(numbered(0), request.metadata())) }),
        streams: streams()
            .list(move |request| async move { Ok(begin(empty(), request.metadata())) })
            .record(|request| async move { Ok(begin(numbered(0), request.metadata())) })
            .chat(move |request| async move { Ok(begin(empty(), request.metadata())) }),
    }
}

/// Calls with metadata, and returns what the response begins with.
async fn begin(caller: &Caller<impl CallService>, method: &Method) -> Vec<String> {
    let mut request = Request::new(());
    *request.metadata_mut() = trailing("caller");
    let one = request.clone().map(|()| packet(""));
    let many = request.map(|()| iter([packet("")]));
    let metadata = if *method == RUN {
        let response = caller.unary::<_, Packet>(&RUN, one).await;
        response.expect("it answers").metadata().clone()
    } else if *method == RECORD {
        let response = caller.client_streaming::<_, _, Packet>(&RECORD, many).await;
        response.expect("it answers").metadata().clone()
    } else {
        let response = if *method == LIST {
            caller.server_streaming::<_, Packet>(&LIST, one).await
        } else {
            caller.bidi_streaming::<_, _, Packet>(&CHAT, many).await
        };
        let response = response.expect("it answers");
        let metadata = response.metadata().clone();
        let numbers = numbers(response.into_inner()).await;
        assert!(numbers.expect("it ends well").is_empty());
        metadata
    };
    values(&metadata)
}

#[tokio::test]
async fn heads_of_all_kinds_are_changed_both_ways() {
    async fn check<S: CallService + Sync>(caller: Caller<S>, _: &mut Noted, _: Side) {
        for method in KINDS {
            let values = begin(&caller, method).await;
            assert_eq!(
                values,
                ["caller", "interceptor", "interceptor"],
                "{method:?}"
            );
        }
    }
    everywhere!(mirroring(), |log| InterceptorLayer::new(Heads(log)), check);
}

#[tokio::test]
async fn layers_are_limited_to_methods_of_all_kinds() {
    async fn check<S: CallService + Sync>(caller: Caller<S>, noted: &mut Noted, _: Side) {
        for method in KINDS {
            begin(&caller, method).await;
        }
        let seen = [next(noted).await.0, next(noted).await.0];
        assert_eq!(seen, ["List", "Record"]);
        assert!(noted.try_recv().is_err());
    }
    let layer = |log| {
        let layer = InterceptorLayer::new(Heads(log));
        layer.for_method(&LIST).for_method(&RECORD)
    };
    everywhere!(mirroring(), layer, check);
}
