//! How long messages may be, by service and by method.

use shmipc_rpc::{
    Code, Method, Request, Response,
    blocking::{Call, Server, Service},
    server::MessageLimits,
};

use super::lab::{Handled, LIST, Lab, Packet, RUN, Streams, lab, numbered, run};

/// A payload with which a message has nearly this length. Its head is at most four bytes.
fn sized(len: usize) -> Packet {
    Packet {
        payload: vec![1; len].into(),
        ..Packet::default()
    }
}

/// Answers with as many bytes as the number says.
fn grow() -> Lab {
    lab(|request| {
        let len = usize::try_from(request.get_ref().number).unwrap();
        Ok(Response::new(sized(len)))
    })
}

fn asking(len: usize, answer_len: usize) -> Request<Packet> {
    Request::new(Packet {
        number: u64::try_from(answer_len).unwrap(),
        ..sized(len)
    })
}

/// Checks how calls with requests and responses of certain lengths end.
fn check(server: Server, cases: &[(usize, usize, Code)]) {
    let running = run(server);
    let caller = running.caller();
    // At first handlers run in the pool, later in the thread of the session.
    for _ in 0..20 {
        for &(len, answer_len, expected) in cases {
            let result: Handled = caller.unary(&RUN, asking(len, answer_len));
            let code = result
                .as_ref()
                .map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(code, expected, "{len} {answer_len}");
            if let Ok(response) = result {
                assert!(response.into_inner() == sized(answer_len));
            }
        }
    }
}

#[test]
fn a_method_and_a_service_have_limits_of_their_own() {
    let server = Server::builder()
        .max_request_size(1000)
        .limits_for_service("lab.v1.Lab", MessageLimits::new().max_response_size(500))
        .limits_for_method(&RUN, MessageLimits::new().max_request_size(4000))
        .add_service(grow());
    check(
        server,
        &[
            // The method's limit of requests is higher than the server's, and that of responses is the service's.
            (3000, 0, Code::Ok),
            (4001, 0, Code::ResourceExhausted),
            (0, 490, Code::Ok),
            (0, 501, Code::ResourceExhausted),
        ],
    );
}

/// A service that says of itself how long its messages may be, as generated ones do.
struct Modest(Lab);

impl Service for Modest {
    const NAME: &'static str = Lab::NAME;
    const METHODS: &'static [Method] = Lab::METHODS;

    fn message_limits(&self) -> MessageLimits {
        MessageLimits::new().max_request_size(100)
    }

    fn call(&self, call: Call) {
        self.0.call(call);
    }
}

#[test]
fn a_service_says_how_long_its_messages_may_be_and_its_server_has_the_last_word() {
    let cases = |len: usize| {
        [
            (len - 10, 0, Code::Ok),
            (len + 1, 0, Code::ResourceExhausted),
        ]
    };
    check(Server::builder().add_service(Modest(grow())), &cases(100));
    let overruled = Server::builder()
        .limits_for_service("lab.v1.Lab", MessageLimits::new().max_request_size(200))
        .add_service(Modest(grow()));
    check(overruled, &cases(200));
}

#[test]
fn the_limit_of_a_method_holds_for_each_message_of_a_stream() {
    let streams = Streams {
        list: |request| {
            let lens = [10, request.get_ref().number].map(|len| usize::try_from(len).unwrap());
            Ok(Response::new(Box::new(
                lens.into_iter().map(|len| Ok(sized(len))),
            )))
        },
        ..Streams::default()
    };
    let server = Server::builder()
        .limits_for_method(&LIST, MessageLimits::new().max_response_size(100))
        .add_service(streams);
    let running = run(server);
    let caller = running.caller();
    for (len, fits) in [(90, true), (101, false)] {
        let list = caller.server_streaming::<_, Packet>(&LIST, Request::new(numbered(len)));
        let mut list = list.unwrap().into_inner();
        assert_eq!(list.message().unwrap(), Some(sized(10)));
        match list.message() {
            Ok(message) => assert!(fits && message == Some(sized(90))),
            Err(status) => assert!(
                !fits && status.code() == Code::ResourceExhausted,
                "{status}"
            ),
        }
    }
}
