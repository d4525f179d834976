//! Peers that do not speak the protocol.

mod common;

use bytes::{Buf, BufMut};
use prost::Message as _;
use shmipc_rpc::{Channel, Code, Request, Server, client::Caller};
use shmipc_transport::{Flush, Listener, Session};

use crate::common::{Packet, RUN, echo, in_time, packet, serve};

const OPEN: u8 = 1;
const MESSAGE: u8 = 2;
const END: u8 = 4;
const TRAILERS: u8 = 8;
const CANCEL: u8 = 16;

/// A frame with a prefix that says what it should not, or not.
fn frame(message_len: u32, head_len: u16, flags: u8, zero: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_u32_le(message_len);
    frame.put_u16_le(head_len);
    frame.put_slice(&[flags, zero]);
    frame.put_slice(rest);
    frame
}

/// A well-formed head that asks for the method.
fn head() -> Vec<u8> {
    let path = RUN.path().as_bytes();
    [&[10, u8::try_from(path.len()).expect("it is short")], path].concat()
}

/// Frames that lie, each in one way.
fn lies() -> Vec<Vec<u8>> {
    let head = head();
    let len = u16::try_from(head.len()).expect("it is short");
    let unary = OPEN | MESSAGE | END;
    let entry = |key: &[u8], value: &[u8]| {
        let field = |number: u8, bytes: &[u8]| {
            [&[number, u8::try_from(bytes.len()).expect("short")], bytes].concat()
        };
        field(26, &[field(10, key), field(18, value)].concat())
    };
    let with_head =
        |head: &[u8]| frame(0, u16::try_from(head.len()).expect("short"), unary, 0, head);
    vec![
        vec![],
        vec![0; 7],
        frame(0, len, unary, 1, &head),
        frame(0, len, unary | 64, 0, &head),
        frame(1, len, unary, 0, &head),
        frame(0, len - 1, unary, 0, &head),
        frame(0, len + 1, unary, 0, &head),
        frame(u32::MAX, u16::MAX, unary, 0, &head),
        frame(0, len, 0, 0, &head),
        frame(0, len, OPEN, 0, &head),
        frame(0, len, MESSAGE | END, 0, &head),
        frame(0, len, TRAILERS | END, 0, &head),
        frame(0, len, unary | CANCEL, 0, &head),
        with_head(&[10, 200, 1]),
        with_head(&[10, 2, 0xff, 0xfe]),
        with_head(&[8, 1]),
        with_head(&[0xff; 12]),
        with_head(&[11]),
        with_head(&[&head[..], &entry(b"Upper", b"")].concat()),
        with_head(&[&head[..], &entry(b"", b"")].concat()),
        with_head(&[&head[..], &entry(b"key", b"a\nb")].concat()),
        // A message that is none of its type.
        [frame(2, len, unary, 0, &head), vec![0xff, 0xff]].concat(),
    ]
}

/// Sends a frame and returns the status in the answer.
async fn answer_to(session: &Session, frame: &[u8]) -> u8 {
    let mut stream = session.open_stream().expect("the session lives");
    let mut buffer = stream.buffer(frame.len());
    buffer.put_slice(frame);
    stream
        .send(buffer, Flush::End)
        .await
        .expect("the session lives");
    let mut answer = stream
        .recv()
        .await
        .expect("the session lives")
        .expect("each stream is answered");
    let answer = answer.copy_to_bytes(answer.remaining());
    assert_eq!(answer[6], TRAILERS | END);
    assert_eq!(answer[8], 8, "the first field is the code");
    answer[9]
}

#[tokio::test]
async fn a_server_answers_each_lie_and_lives() {
    let running = serve(Server::builder().add_service(echo()));
    let session = Session::connect(running.address())
        .await
        .expect("the server listens");
    for (number, lie) in lies().iter().enumerate() {
        let code = in_time(answer_to(&session, lie)).await;
        assert_eq!(u32::from(code), Code::Internal.as_u32(), "lie {number}");
    }
    // No time at all.
    let late = [head(), vec![16, 0]].concat();
    let late = frame(
        0,
        u16::try_from(late.len()).expect("short"),
        OPEN | MESSAGE | END,
        0,
        &late,
    );
    assert_eq!(
        u32::from(in_time(answer_to(&session, &late)).await),
        Code::DeadlineExceeded.as_u32()
    );
    // A path that leads nowhere, and one that is not even a path.
    for path in [
        "/a/b",
        "",
        "no slash",
        "/\u{7f}\n",
        "http://elsewhere/lab.v1.Lab/Run",
    ] {
        let head = [
            &[10, u8::try_from(path.len()).expect("short")],
            path.as_bytes(),
        ]
        .concat();
        let frame = frame(
            0,
            u16::try_from(head.len()).expect("short"),
            OPEN | MESSAGE | END,
            0,
            &head,
        );
        assert_eq!(
            u32::from(in_time(answer_to(&session, &frame)).await),
            Code::Unimplemented.as_u32(),
            "{path:?}"
        );
    }
    // Streams that end before they begin.
    drop(session.open_stream());
    let mut stream = session.open_stream().expect("the session lives");
    stream.finish().await.expect("the session lives");
    assert!(matches!(in_time(stream.recv()).await, Ok(None) | Err(_)));

    let response = in_time(
        running
            .caller()
            .await
            .unary::<_, Packet>(&RUN, Request::new(packet("still there"))),
    )
    .await;
    assert_eq!(
        response.expect("it echoes").into_inner(),
        packet("still there")
    );
}

/// Answers to a client that are not what they should be, and what becomes of them.
fn wrong_answers() -> Vec<(Vec<u8>, Code)> {
    let unary = OPEN | MESSAGE | END;
    vec![
        (vec![], Code::Internal),
        (vec![0; 7], Code::Internal),
        (frame(0, 0, unary, 1, &[]), Code::Internal),
        (frame(5, 0, unary, 0, &[]), Code::Internal),
        (frame(0, 3, unary, 0, &[0xff; 3]), Code::Internal),
        (frame(2, 0, unary, 0, &[0xff; 2]), Code::Internal),
        (frame(0, 0, OPEN | END, 0, &[]), Code::Internal),
        (frame(0, 0, MESSAGE | END, 0, &[]), Code::Internal),
        // Success without a message.
        (frame(0, 0, TRAILERS | END, 0, &[]), Code::Internal),
        // A code that there is not.
        (frame(0, 2, TRAILERS | END, 0, &[8, 99]), Code::Unknown),
        // A failure after a message.
        (
            frame(0, 4, unary | TRAILERS, 0, &[18, 2, 8, 10]),
            Code::Aborted,
        ),
        (frame(0, 0, CANCEL | END, 0, &[]), Code::Cancelled),
    ]
}

/// Takes the next call and answers it with `frame`.
async fn answer(session: &Session, frame: &[u8]) {
    let mut stream = session.accept_stream().await.expect("the session lives");
    let mut buffer = stream.buffer(frame.len());
    buffer.put_slice(frame);
    stream
        .send(buffer, Flush::End)
        .await
        .expect("the session lives");
}

#[tokio::test]
async fn a_client_survives_each_lie() {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let address = directory.path().join("villain.sock");
    let listener = Listener::bind(address.clone()).expect("nobody listens there");
    let caller = Caller::new(Channel::builder(address).connect_lazy());
    let call =
        || async { in_time(caller.unary::<_, Packet>(&RUN, Request::new(packet("")))).await };

    // The stream ends without an answer.
    let (result, session) = tokio::join!(call(), async {
        let session = listener.accept().await.expect("the channel connects");
        let mut stream = session.accept_stream().await.expect("the session lives");
        stream.finish().await.expect("the session lives");
        session
    });
    assert_eq!(
        result.expect_err("there was no answer").code(),
        Code::Internal
    );

    for (number, (frame, code)) in wrong_answers().into_iter().enumerate() {
        let (result, ()) = tokio::join!(call(), answer(&session, &frame));
        assert_eq!(
            result.expect_err("it is a lie").code(),
            code,
            "answer {number}"
        );
    }

    // The stream is reset.
    let (result, ()) = tokio::join!(call(), async {
        session
            .accept_stream()
            .await
            .expect("the session lives")
            .reset(7);
    });
    assert_eq!(result.expect_err("it was given up").code(), Code::Cancelled);

    // And then it behaves.
    let message = packet("good").encode_to_vec();
    let len = u32::try_from(message.len()).expect("short");
    let good = [frame(len, 0, OPEN | MESSAGE | END, 0, &[]), message].concat();
    let (result, ()) = tokio::join!(call(), answer(&session, &good));
    assert_eq!(
        result.expect("it is well-formed").into_inner(),
        packet("good")
    );
}
