//! Streams as bytes, between two ends in one process.

mod common;

use std::{io, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::{prelude::*, test_runner::TestRunner};
use shmipc_transport::{
    ByteReader, ByteStream, ByteWriter, Config, Flush, RecvError, SendError, SessionLost,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    time::timeout,
};
use tokio_util::codec::{Framed, LengthDelimitedCodec, LinesCodec};

use crate::common::{PATIENCE, Pair, all, pattern};

/// Two ends of a stream.
async fn streams(pair: &Pair) -> (ByteStream, ByteStream) {
    let mut ours = pair.client.open_stream().unwrap();
    // Streams are announced by their first message.
    ours.send(ours.buffer(0), Flush::More).await.unwrap();
    let theirs = pair.server.accept_stream().await.unwrap();
    (ours.into_bytes(), theirs.into_bytes())
}

/// Runs a test that must not hang.
async fn in_time<T>(test: impl Future<Output = T>) -> T {
    timeout(PATIENCE, test).await.expect("it hangs")
}

#[tokio::test]
async fn a_flush_is_a_message_and_bytes_do_not_care() {
    let pair = Pair::new().await;
    let mut ours = pair.client.open_stream().unwrap().into_bytes();
    ours.write_all(b"one ").await.unwrap();
    ours.write_all(b"message").await.unwrap();
    assert_eq!(ours.writer().buffered(), 11);
    ours.flush().await.unwrap();
    ours.flush().await.unwrap();
    ours.write_all(b", two").await.unwrap();
    ours.shutdown().await.unwrap();
    ours.shutdown().await.unwrap();
    let mut theirs = pair.server.accept_stream().await.unwrap();
    assert_eq!(all(theirs.recv().await.unwrap().unwrap()), b"one message");
    assert_eq!(all(theirs.recv().await.unwrap().unwrap()), b", two");
    assert!(theirs.recv().await.unwrap().is_none());
    for part in ["a", "", "bc\nd", "e"] {
        let mut message = theirs.buffer(1);
        message.put_slice(part.as_bytes());
        theirs.send(message, Flush::More).await.unwrap();
    }
    theirs.finish().await.unwrap();
    let mut line = String::new();
    ours.read_line(&mut line).await.unwrap();
    assert_eq!(line, "abc\n");
    assert_eq!(ours.reader().peek(2).await.unwrap(), b"de");
    assert!(!ours.reader().is_at_end());
    let mut rest = String::new();
    ours.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "de");
    assert!(ours.reader().is_at_end());
    assert!(ours.reader().read_chunk().await.unwrap().is_none());
    drop((ours, theirs));
    assert_eq!(pair.client.stats().streams_open, 0);
}

#[tokio::test]
async fn space_is_filled_and_read_in_place() {
    let pair = Pair::new().await;
    let (mut ours, mut theirs) = streams(&pair).await;
    let sent = pattern(300_000, 1);
    let mut space = ours.writer().reserve(400_000).await.unwrap();
    assert_eq!(space.len(), 400_000);
    space[..sent.len()].copy_from_slice(&sent);
    space.commit(sent.len());
    let unused = ours.writer().reserve(10).await.unwrap();
    drop(unused);
    let mut few = ours.writer().reserve(2).await.unwrap();
    few.copy_from_slice(b"ok");
    few.commit(2);
    ours.flush().await.unwrap();
    assert_eq!(pair.client.stats().arena_used, 512 << 10, "one block");
    let received = theirs.reader().read_bytes(sent.len()).await.unwrap();
    assert!(received == sent);
    assert_eq!(theirs.reader().read_bytes(2).await.unwrap(), "ok");
    let lent = pair.server.stats().bytes_lent;
    assert!(lent >= 300_000, "{lent} bytes were lent, the rest copied");
    let max = 2 << 30;
    let refused = ours.writer().reserve(max).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn memory_of_the_session_is_written_without_a_copy() {
    let pair = Pair::new().await;
    let (mut ours, mut theirs) = streams(&pair).await;
    let mut lent = pair.client.alloc(1 << 20).await.unwrap();
    lent.copy_from_slice(&pattern(1 << 20, 7));
    let lent = lent.freeze();
    ours.writer().put(lent.clone()).await.unwrap();
    ours.flush().await.unwrap();
    let received = theirs.reader().read_bytes(1 << 20).await.unwrap();
    theirs.writer().put(received).await.unwrap();
    theirs.flush().await.unwrap();
    let back = ours.reader().read_bytes(1 << 20).await.unwrap();
    assert_eq!(back.as_ptr(), lent.as_ptr());
}

#[tokio::test]
async fn what_is_wanted_and_does_not_come_is_told() {
    let pair = Pair::new().await;
    let (mut ours, mut theirs) = streams(&pair).await;
    ours.write_all(b"12345").await.unwrap();
    ours.shutdown().await.unwrap();
    let written = ours.write_all(b"late").await.unwrap_err();
    assert_eq!(written.kind(), io::ErrorKind::BrokenPipe);
    for wanted in [6, usize::MAX] {
        let short = theirs.reader().read_bytes(wanted).await.unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        let short = theirs.reader().peek(wanted).await.unwrap_err();
        assert!(short.to_string().contains("5 came"), "{short}");
    }
    theirs.reader().discard(2).await.unwrap();
    assert_eq!(theirs.reader().read_bytes(2).await.unwrap(), "34");
    let short = theirs.reader().discard(2).await.unwrap_err();
    assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    assert!(theirs.reader().is_at_end());
}

#[tokio::test]
async fn errors_keep_their_source() {
    let pair = Pair::new().await;
    let (mut ours, mut theirs) = streams(&pair).await;
    theirs.reset(7);
    let read = ours.read_u8().await.unwrap_err();
    assert_eq!(read.kind(), io::ErrorKind::ConnectionReset);
    let source = read.get_ref().unwrap().downcast_ref::<RecvError>();
    assert!(matches!(source, Some(RecvError::Reset(7))), "{read:?}");
    ours.write_all(b"nobody reads this").await.unwrap();
    for _ in 0..2 {
        let sent = ours.flush().await.unwrap_err();
        assert_eq!(sent.kind(), io::ErrorKind::ConnectionReset);
        let source = sent.get_ref().unwrap().downcast_ref::<SendError>();
        assert!(matches!(source, Some(SendError::Reset(7))), "{sent:?}");
    }
    let (mut ours, _theirs) = streams(&pair).await;
    pair.server.close();
    let lost = ours.read_u8().await.unwrap_err();
    let source = lost.get_ref().unwrap().source().unwrap();
    let source = source.downcast_ref::<SessionLost>();
    assert!(
        matches!(source, Some(SessionLost::ClosedByPeer)),
        "{lost:?}"
    );
    assert_eq!(lost.kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_writer_up() {
    let config = Config::builder().stream_window(4, 1 << 20).build().unwrap();
    let pair = Pair::with(config.clone(), config).await;
    let (mut ours, theirs) = streams(&pair).await;
    let bytes = pattern(ByteWriter::FLUSH_AT, 5);
    let mut written = 0;
    // More than one window and the writer's own buffer are not taken.
    while let Ok(done) = timeout(Duration::from_millis(50), ours.write(&bytes)).await {
        written += done.unwrap();
        assert!(
            written <= 16 * bytes.len(),
            "nobody reads, and writing goes on"
        );
    }
    let (mut reader, _writer) = theirs.split();
    let reading = tokio::spawn(async move {
        let mut left = written;
        while left != 0 {
            let chunk = reader.read_chunk().await.unwrap().unwrap();
            left -= chunk.len();
        }
        reader
    });
    in_time(async {
        ours.flush().await.unwrap();
        let mut reader: ByteReader = reading.await.unwrap();
        ours.write_all(b"on").await.unwrap();
        ours.flush().await.unwrap();
        assert_eq!(reader.read_bytes(2).await.unwrap(), "on");
    })
    .await;
}

#[tokio::test]
async fn sessions_with_little_memory_carry_many_bytes() {
    let config = Config::builder().memory_max(64 << 10).build().unwrap();
    let pair = Pair::with(config.clone(), config).await;
    let (mut ours, mut theirs) = streams(&pair).await;
    let sent = pattern(3 << 20, 9);
    let (put, written) = (Bytes::from(sent.clone()), sent.clone());
    let writing = tokio::spawn(async move {
        ours.writer().put(put).await.unwrap();
        ours.write_all(&written).await.unwrap();
        ours.shutdown().await.unwrap();
    });
    // More than there is memory, across many messages: what was gathered does not keep the sender's.
    let first = in_time(theirs.reader().read_bytes(sent.len()))
        .await
        .unwrap();
    assert!(first == sent);
    let mut second = Vec::new();
    in_time(theirs.read_to_end(&mut second)).await.unwrap();
    assert!(second == sent);
    writing.await.unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Write(usize),
    Put(usize),
    Reserve(usize, usize),
    Flush,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let len = || prop_oneof![0..300usize, 0..5000usize, 0..300_000usize];
    let op = prop_oneof![
        len().prop_map(Op::Write),
        len().prop_map(Op::Put),
        (len(), len()).prop_map(|(len, used)| Op::Reserve(len, used.min(len))),
        Just(Op::Flush),
    ];
    proptest::collection::vec(op, 1..20)
}

async fn write(mut writer: ByteWriter, ops: &[Op], mut bytes: &[u8]) {
    for op in ops {
        let len = match *op {
            Op::Write(len) | Op::Put(len) | Op::Reserve(_, len) => len,
            Op::Flush => 0,
        };
        let (head, rest) = bytes.split_at(len);
        match *op {
            Op::Write(_) => writer.write_all(head).await.unwrap(),
            Op::Put(_) => writer.put(head).await.unwrap(),
            Op::Reserve(len, used) => {
                let mut space = writer.reserve(len).await.unwrap();
                space[..used].copy_from_slice(head);
                space.commit(used);
            }
            Op::Flush => writer.flush().await.unwrap(),
        }
        bytes = rest;
    }
    writer.finish().await.unwrap();
}

async fn read(mut reader: ByteReader, ops: &[(u8, usize)], mut bytes: &[u8]) {
    for (op, len) in ops.iter().cycle() {
        let len = (*len).min(bytes.len());
        match op % 4 {
            0 => assert!(reader.read_bytes(len).await.unwrap() == bytes[..len]),
            1 => {
                assert!(reader.peek(len).await.unwrap() == &bytes[..len]);
                continue;
            }
            2 => reader.discard(len).await.unwrap(),
            _ => {
                let Some(chunk) = reader.read_chunk().await.unwrap() else {
                    break;
                };
                assert!(bytes.starts_with(&chunk));
                bytes.advance(chunk.len());
                continue;
            }
        }
        bytes.advance(len);
    }
    assert!(bytes.is_empty());
    assert!(reader.is_at_end());
}

/// The oracle is the sequence of the written bytes.
#[test]
fn whatever_is_written_is_read_however_it_is_read() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let config = Config::builder().memory_max(1 << 20).build().unwrap();
    let pair = runtime.block_on(Pair::with(config.clone(), config));
    let len = prop_oneof![1..20usize, 1..4000usize, 1..400_000usize];
    let reads = proptest::collection::vec((any::<u8>(), len), 1..20).prop_map(|mut reads| {
        // One that comes to an end.
        reads.push((3, 1));
        reads
    });
    let mut runner = TestRunner::new(ProptestConfig::with_cases(48));
    let result = runner.run(&(ops(), reads), |(writes, reads)| {
        let written = |op: &Op| match *op {
            Op::Write(len) | Op::Put(len) | Op::Reserve(_, len) => len,
            Op::Flush => 0,
        };
        let bytes = pattern(writes.iter().map(written).sum(), writes.len());
        runtime.block_on(in_time(async {
            let (ours, theirs) = streams(&pair).await;
            let ((_ours, writer), (reader, _theirs)) = (ours.split(), theirs.split());
            tokio::join!(write(writer, &writes, &bytes), read(reader, &reads, &bytes));
        }));
        Ok(())
    });
    result.unwrap();
}

async fn greet(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let reply = format!("{path}: {} bytes", body.len());
    Ok(Response::new(Full::new(reply.into())))
}

fn request(path: &str, len: usize) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(pattern(len, 2)));
    let uri = format!("http://shm/{path}");
    Request::post(uri).body(body).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The next stream that the client opens, once it says something.
async fn accepted(pair: &Pair) -> TokioIo<ByteStream> {
    TokioIo::new(pair.server.accept_stream().await.unwrap().into_bytes())
}

fn opened(pair: &Pair) -> TokioIo<ByteStream> {
    TokioIo::new(pair.client.open_stream().unwrap().into_bytes())
}

#[tokio::test]
async fn http_1_runs_over_a_stream() {
    for (name, _, pair) in Pair::over_each_link().await {
        let ours = opened(&pair);
        let server = tokio::spawn(async move {
            let theirs = accepted(&pair).await;
            let builder = hyper::server::conn::http1::Builder::new();
            builder.serve_connection(theirs, service_fn(greet)).await
        });
        in_time(async {
            let (mut client, connection) =
                hyper::client::conn::http1::handshake(ours).await.unwrap();
            let connection = tokio::spawn(connection);
            for len in [0, 10, 100_000, 3 << 20] {
                let response = client.send_request(request("one", len)).await.unwrap();
                assert_eq!(text(response).await, format!("/one: {len} bytes"), "{name}");
            }
            drop(client);
            connection.await.unwrap().unwrap();
            let served = server.await.unwrap();
            served.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        })
        .await;
    }
}

#[tokio::test]
async fn http_2_runs_over_a_stream() {
    for (name, _, pair) in Pair::over_each_link().await {
        let ours = opened(&pair);
        let server = tokio::spawn(async move {
            let theirs = accepted(&pair).await;
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.serve_connection(theirs, service_fn(greet)).await
        });
        in_time(async {
            let executor = TokioExecutor::new();
            let (client, connection) = hyper::client::conn::http2::handshake(executor, ours)
                .await
                .unwrap();
            let connection = tokio::spawn(connection);
            let calls = (0..20).map(|i| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let len = i * 50_000;
                    let response = client.send_request(request("two", len)).await.unwrap();
                    assert_eq!(text(response).await, format!("/two: {len} bytes"), "{name}");
                })
            });
            let calls: Vec<_> = calls.collect();
            drop(client);
            for call in calls {
                call.await.unwrap();
            }
            connection.await.unwrap().unwrap();
            // What it says last may find that nobody listens any more.
            if let Err(error) = server.await.unwrap() {
                let is_late = error.to_string().contains("connection error");
                assert!(is_late, "{name}: {error}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn bytes_run_over_each_link_and_end_with_the_stream() {
    for (name, _, pair) in Pair::over_each_link().await {
        in_time(async {
            let mut ours = pair.client.open_stream().unwrap().into_bytes();
            ours.write_all(b"a line\nand ").await.unwrap();
            ours.flush().await.unwrap();
            let mut theirs = pair.server.accept_stream().await.unwrap().into_bytes();
            let mut line = String::new();
            theirs.read_line(&mut line).await.unwrap();
            assert_eq!(line, "a line\n", "{name}");
            let long = pattern(300_000, 1);
            let mut space = ours.writer().reserve(long.len()).await.unwrap();
            space.copy_from_slice(&long);
            space.commit(long.len());
            ours.flush().await.unwrap();
            assert_eq!(theirs.reader().read_bytes(4).await.unwrap(), "and ");
            let received = theirs.reader().read_bytes(long.len()).await.unwrap();
            assert!(received == long, "{name}");
            // By reference, where that is possible.
            theirs.writer().put(received).await.unwrap();
            theirs.flush().await.unwrap();
            let back = ours.reader().read_bytes(long.len()).await.unwrap();
            assert!(back == long, "{name}");
            ours.write_all(b"last").await.unwrap();
            ours.shutdown().await.unwrap();
            drop(ours);
            let mut rest = String::new();
            let read = theirs.read_to_string(&mut rest).await;
            assert_eq!((read.unwrap(), rest.as_str()), (4, "last"), "{name}");
            theirs.shutdown().await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn codecs_and_copiers_run_over_streams() {
    let pair = Pair::new().await;
    let (ours, mut middle) = streams(&pair).await;
    let (mut onward, theirs) = streams(&pair).await;
    // What comes in at one stream goes out at the other, and back.
    let copying = tokio::spawn(async move { copy_bidirectional(&mut middle, &mut onward).await });
    let echo = tokio::spawn(async move {
        let mut frames = Framed::new(theirs, LengthDelimitedCodec::new());
        while let Some(frame) = frames.next().await {
            frames.send(frame.unwrap().freeze()).await.unwrap();
        }
        SinkExt::<Bytes>::close(&mut frames).await.unwrap();
    });
    in_time(async {
        let mut frames = Framed::new(ours, LengthDelimitedCodec::new());
        for len in [0, 1, 70_000, 1 << 20] {
            let frame = Bytes::from(pattern(len, len));
            frames.send(frame.clone()).await.unwrap();
            assert!(frames.next().await.unwrap().unwrap() == frame);
        }
        SinkExt::<Bytes>::close(&mut frames).await.unwrap();
        assert!(frames.next().await.is_none());
        echo.await.unwrap();
        let (up, down) = copying.await.unwrap().unwrap();
        assert_eq!(up, down);
        assert!(1 << 20 < up);
    })
    .await;
    let (ours, theirs) = streams(&pair).await;
    let mut ours = Framed::new(ours, LinesCodec::new());
    let mut theirs = Framed::new(theirs, LinesCodec::new());
    ours.send("a line").await.unwrap();
    assert_eq!(theirs.next().await.unwrap().unwrap(), "a line");
}

#[tokio::test]
async fn a_flush_that_was_given_up_is_made_good() {
    let config = Config::builder().stream_window(1, 1).build().unwrap();
    let pair = Pair::with(config.clone(), config).await;
    let (mut ours, mut theirs) = streams(&pair).await;
    // The window is full with the message that opened the stream.
    ours.write_all(b"first ").await.unwrap();
    let given_up = timeout(Duration::from_millis(20), ours.flush()).await;
    assert!(given_up.is_err(), "there was no credit");
    assert_eq!(ours.writer().buffered(), 6);
    let reading = tokio::spawn(async move {
        let mut all = String::new();
        theirs.read_to_string(&mut all).await.unwrap();
        all
    });
    in_time(async {
        ours.write_all(b"second").await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap(), "first second");
    })
    .await;
}

#[tokio::test]
async fn halves_go_back_to_messages() {
    let pair = Pair::new().await;
    let (ours, mut theirs) = streams(&pair).await;
    theirs.write_all(b"read, unread").await.unwrap();
    theirs.flush().await.unwrap();
    let (mut reader, mut writer) = ours.split();
    assert_eq!(reader.read_bytes(6).await.unwrap(), "read, ");
    writer.write_all(b"unsent").await.unwrap();
    let (mut recv, rest) = reader.into_inner();
    assert_eq!(all(rest), b"unread");
    let (mut send, unsent) = writer.into_inner();
    send.send(unsent.unwrap(), Flush::End).await.unwrap();
    assert_eq!(theirs.reader().read_bytes(6).await.unwrap(), "unsent");
    theirs.shutdown().await.unwrap();
    assert!(recv.recv().await.unwrap().is_none());
}
