//! The time that interceptors allow.

use std::time::Duration;

use shmipc_rpc::{
    Code, Request, Response,
    blocking::{Caller, Server, interceptor::InterceptorLayer},
};

use super::{
    lab::{CHAT, Handled, LIST, Lab, Packet, RUN, Streams, items, lab, numbered, packet, run},
    stage::{Noted, Services, Side, everywhere, numbers},
};

/// Waits for longer than any interceptor allows, unless it learns that nobody waits.
fn hang() -> Lab {
    lab(|request| {
        let cancellation = request.cancellation();
        super::lab::until(|| cancellation.is_cancelled());
        Ok(Response::new(packet("too late")))
    })
}

/// Answers with the seconds that the caller still waits.
fn tell() -> Lab {
    lab(|request| {
        let left = request.remaining().map_or(0, |left| left.as_secs());
        Ok(Response::new(numbered(left)))
    })
}

fn limit(timeout: Duration) -> InterceptorLayer {
    InterceptorLayer::on_request(move |call| {
        call.set_timeout(timeout);
        Ok(())
    })
}

#[test]
fn an_interceptor_limits_the_time_of_a_call() {
    const SHORT: Duration = Duration::from_millis(20);
    let late = |caller: &Caller| {
        let result: Handled = caller.unary(&RUN, Request::new(packet("")));
        assert_eq!(result.expect_err("it hangs").code(), Code::DeadlineExceeded);
    };
    let running = run(Server::builder().add_service(hang()));
    late(&Caller::new(limit(SHORT).layer(running.channel())));
    let running = run(Server::builder().layer(limit(SHORT)).add_service(hang()));
    late(&running.caller());

    // The server learns what the client's interceptor allows, and the caller may allow less.
    let running = run(Server::builder().add_service(tell()));
    let caller = Caller::new(limit(Duration::from_secs(3600)).layer(running.channel()));
    let left = |timeout: Option<u64>| {
        let mut request = Request::new(packet(""));
        if let Some(timeout) = timeout {
            request.set_timeout(Duration::from_secs(timeout));
        }
        let response = caller.unary::<_, Packet>(&RUN, request);
        response.expect("it answers").into_inner().number
    };
    let seconds = left(None);
    assert!((1800..=3600).contains(&seconds), "{seconds}");
    let seconds = left(Some(600));
    assert!((300..=600).contains(&seconds), "{seconds}");
}

#[test]
fn the_time_that_an_interceptor_allows_ends_streams_on_both_sides() {
    fn endless(caller: &Caller, _: &Noted, _: Side) {
        let list = caller.server_streaming::<_, Packet>(&LIST, Request::new(packet("")));
        let status = list.and_then(|list| {
            let mut list = list.into_inner();
            numbers(|| list.message()).1
        });
        assert_eq!(status.unwrap_err().code(), Code::DeadlineExceeded);
        // The requests never end, so neither would the response.
        let chat = caller.bidi_streaming::<Packet, Packet>(&CHAT, Request::new(()));
        let status = chat.and_then(|mut chat| numbers(|| chat.message()).1);
        assert_eq!(status.unwrap_err().code(), Code::DeadlineExceeded);
    }
    let services = || Services {
        lab: hang(),
        streams: Streams {
            list: |_| Ok(Response::new(items((0..).map(numbered)))),
            ..Streams::default()
        },
    };
    everywhere(services, |_| limit(Duration::from_millis(30)), endless);
}

#[test]
fn calls_inherit_the_time_that_an_interceptor_allows() {
    let inner = run(Server::builder().add_service(tell()));
    let caller = inner.caller();
    let nested = lab(move |request| caller.unary(&RUN, Request::new(request.into_inner())));
    let limit = limit(Duration::from_secs(3600));
    let outer = run(Server::builder().add_service(limit.layer(nested)));
    let response = outer
        .caller()
        .unary::<_, Packet>(&RUN, Request::new(packet("")));
    let seconds = response.expect("it answers").into_inner().number;
    assert!((1800..=3600).contains(&seconds), "{seconds}");
}
