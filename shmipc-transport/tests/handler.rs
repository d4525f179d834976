//! Streams that are served by callbacks.

mod common;

use std::{io, sync::Arc, time::Duration};

use shmipc_transport::{
    ByteStream, Config, Listener, LocalClose, RecvError, RemoteClose, Session, SessionLost,
    StreamHandler, serve, serve_session, serve_with_shutdown,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    time::timeout,
};

use crate::common::{PATIENCE, Pair, pattern};

async fn in_time<T>(test: impl Future<Output = T>) -> T {
    timeout(PATIENCE, test).await.expect("it hangs")
}

/// Answers frames of one byte of length and as many of text with the text in capitals.
struct Shout {
    log: mpsc::UnboundedSender<String>,
}

impl Shout {
    fn log(&self, line: impl Into<String>) {
        let _ = self.log.send(line.into());
    }
}

impl StreamHandler for Shout {
    async fn on_data(&mut self, stream: &mut ByteStream) -> io::Result<()> {
        let (reader, writer) = stream.halves_mut();
        let len = usize::from(reader.peek(1).await?[0]);
        if reader.buffered() <= len {
            self.log(format!("{} of {}", reader.buffered() - 1, len));
            return Ok(());
        }
        reader.discard(1).await?;
        let text = reader.read_bytes(len).await?;
        match &text[..] {
            b"panic" => panic!("on purpose"),
            b"fail" => Err(io::Error::other("on purpose")),
            _ => writer.write_all(&text.to_ascii_uppercase()).await,
        }
    }

    async fn on_remote_close(
        &mut self,
        stream: &mut ByteStream,
        how: RemoteClose,
    ) -> io::Result<()> {
        self.log(match how {
            RemoteClose::Finished => "the peer has finished".to_owned(),
            RemoteClose::Lost(error) => error.to_string(),
            other => format!("{other:?}"),
        });
        match stream.reader().buffered() {
            0 => Ok(()),
            unread => stream.write_all(format!("+{unread}").as_bytes()).await,
        }
    }

    async fn on_local_close(&mut self, why: LocalClose) {
        self.log(match why {
            LocalClose::Finished => "closed".to_owned(),
            LocalClose::Failed(error) => format!("failed: {error}"),
            other => format!("{other:?}"),
        });
    }
}

fn shouting(pair: &Pair) -> mpsc::UnboundedReceiver<String> {
    let (log, lines) = mpsc::unbounded_channel();
    let handlers = move |_: &Session| Shout { log: log.clone() };
    tokio::spawn(serve_session(pair.server.clone(), handlers));
    lines
}

async fn say(stream: &mut ByteStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

async fn heard(stream: &mut ByteStream, len: usize) -> String {
    let bytes = in_time(stream.reader().read_bytes(len)).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_handler_is_called_while_it_makes_progress_and_when_there_is_more() {
    let pair = Pair::new().await;
    let mut lines = shouting(&pair);
    let mut stream = pair.client.open_stream().unwrap().into_bytes();
    say(&mut stream, b"\x03one\x03two\x05th").await;
    assert_eq!(heard(&mut stream, 6).await, "ONETWO");
    assert_eq!(lines.recv().await.unwrap(), "2 of 5");
    say(&mut stream, b"ree\x04rest").await;
    assert_eq!(heard(&mut stream, 9).await, "THREEREST");
    say(&mut stream, b"\x09no").await;
    assert_eq!(lines.recv().await.unwrap(), "2 of 9");
    stream.shutdown().await.unwrap();
    assert_eq!(heard(&mut stream, 2).await, "+3");
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(lines.recv().await.unwrap(), "the peer has finished");
    assert_eq!(lines.recv().await.unwrap(), "closed");
    drop(stream);
    pair.client.close();
    assert!(
        in_time(lines.recv()).await.is_none(),
        "nothing else is called"
    );
}

#[tokio::test]
async fn a_handler_is_called_over_each_link() {
    for (name, tells_end, pair) in Pair::over_each_link().await {
        let mut lines = shouting(&pair);
        let mut stream = pair.client.open_stream().unwrap().into_bytes();
        say(&mut stream, b"\x03one\x03two\x05th").await;
        assert_eq!(heard(&mut stream, 6).await, "ONETWO", "{name}");
        assert_eq!(in_time(lines.recv()).await.unwrap(), "2 of 5", "{name}");
        say(&mut stream, b"ree").await;
        assert_eq!(heard(&mut stream, 5).await, "THREE", "{name}");
        // With nothing to say any more, it is over in good order everywhere.
        stream.shutdown().await.unwrap();
        drop(stream);
        for line in ["the peer has finished", "closed"] {
            assert_eq!(in_time(lines.recv()).await.unwrap(), line, "{name}");
        }
        let mut stream = pair.client.open_stream().unwrap().into_bytes();
        say(&mut stream, b"\x09no").await;
        assert_eq!(in_time(lines.recv()).await.unwrap(), "2 of 9", "{name}");
        stream.shutdown().await.unwrap();
        if tells_end {
            // It hears of the end while we listen.
            assert_eq!(heard(&mut stream, 2).await, "+3", "{name}");
            assert_eq!(in_time(stream.read(&mut [0])).await.unwrap(), 0, "{name}");
        }
        drop(stream);
        let line = in_time(lines.recv()).await.unwrap();
        assert_eq!(line, "the peer has finished", "{name}");
        let line = in_time(lines.recv()).await.unwrap();
        match tells_end {
            true => assert_eq!(line, "closed", "{name}"),
            false => assert!(line.starts_with("failed: "), "{name}: {line}"),
        }
    }
}

#[tokio::test]
async fn panics_and_errors_end_their_stream_and_no_other() {
    let pair = Pair::new().await;
    let mut lines = shouting(&pair);
    let mut other = pair.client.open_stream().unwrap().into_bytes();
    say(&mut other, b"\x02on").await;
    assert_eq!(heard(&mut other, 2).await, "ON");
    for end in [b"\x05panic".as_slice(), b"\x04fail"] {
        let mut stream = pair.client.open_stream().unwrap().into_bytes();
        say(&mut stream, end).await;
        let reset = in_time(stream.read_u8()).await.unwrap_err();
        let source = reset.get_ref().unwrap().downcast_ref::<RecvError>();
        assert!(matches!(source, Some(RecvError::Reset(0))), "{reset:?}");
    }
    assert_eq!(lines.recv().await.unwrap(), "failed: on purpose");
    let mut stream = pair.client.open_stream().unwrap().into_bytes();
    say(&mut stream, b"\x02ok").await;
    assert_eq!(heard(&mut stream, 2).await, "OK");
    stream.reset(9);
    let line = in_time(lines.recv()).await.unwrap();
    assert_eq!(line, "the peer reset the stream with code 9");
    let line = in_time(lines.recv()).await.unwrap();
    assert_eq!(line, "failed: the peer reset the stream with code 9");
    say(&mut other, b"\x02on").await;
    assert_eq!(heard(&mut other, 2).await, "ON");
    pair.client.close();
    assert_eq!(lines.recv().await.unwrap(), "the session is over");
}

/// Reads nothing before it may.
struct Stubborn(Arc<Notify>);

impl StreamHandler for Stubborn {
    async fn on_data(&mut self, stream: &mut ByteStream) -> io::Result<()> {
        self.0.notified().await;
        while let Some(chunk) = stream.reader().read_chunk().await? {
            drop(chunk);
        }
        stream.write_all(b"done").await
    }
}

#[tokio::test]
async fn a_handler_that_waits_holds_its_peer_up() {
    let config = Config::builder().stream_window(4, 1 << 20).build().unwrap();
    let pair = Pair::with(config.clone(), config).await;
    let may_read = Arc::new(Notify::new());
    let handlers = {
        let may_read = Arc::clone(&may_read);
        move |_: &Session| Stubborn(Arc::clone(&may_read))
    };
    tokio::spawn(serve_session(pair.server.clone(), handlers));
    let mut stream = pair.client.open_stream().unwrap().into_bytes();
    let mut sent = 0;
    let soon = Duration::from_millis(50);
    stream.write_all(b"some").await.unwrap();
    while timeout(soon, stream.flush()).await.is_ok() {
        sent += 1;
        assert!(sent <= 16, "nobody reads, and sending goes on");
        stream.write_all(b"more").await.unwrap();
    }
    may_read.notify_one();
    in_time(stream.shutdown()).await.unwrap();
    assert_eq!(heard(&mut stream, 4).await, "done");
}

#[tokio::test]
async fn a_server_that_shuts_down_lets_streams_finish() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = Listener::bind(path.as_path()).unwrap();
    let (log, _lines) = mpsc::unbounded_channel();
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let server = tokio::spawn(serve_with_shutdown(
        listener,
        move |_| Shout { log: log.clone() },
        async move { stopped.notified().await },
    ));
    let session = Session::connect(path.as_path()).await.unwrap();
    let mut stream = session.open_stream().unwrap().into_bytes();
    say(&mut stream, b"\x03one").await;
    assert_eq!(heard(&mut stream, 3).await, "ONE");
    stop.notify_one();
    in_time(session.going_away()).await;
    assert!(!path.exists());
    say(&mut stream, b"\x03two").await;
    assert_eq!(heard(&mut stream, 3).await, "TWO");
    assert!(!server.is_finished());
    stream.shutdown().await.unwrap();
    assert!(
        in_time(stream.read(&mut [0]))
            .await
            .is_ok_and(|len| len == 0)
    );
    drop(stream);
    in_time(server).await.unwrap().unwrap();
    assert!(matches!(session.closed().await, SessionLost::ClosedByPeer));
}

#[tokio::test]
async fn a_listener_serves_many_sessions_and_dropping_the_future_ends_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = Listener::bind(path.as_path()).unwrap();
    let (log, _lines) = mpsc::unbounded_channel();
    let server =
        tokio::spawn(async move { serve(&listener, move |_| Shout { log: log.clone() }).await });
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let session = Session::connect(path.as_path()).await.unwrap();
        for len in [1, 50, 255] {
            let mut stream = session.open_stream().unwrap().into_bytes();
            let text: String = pattern(len, len)
                .iter()
                .map(|b| char::from(b'a' + b % 26))
                .collect();
            let frame = [&[u8::try_from(len).unwrap()], text.as_bytes()].concat();
            say(&mut stream, &frame).await;
            assert_eq!(heard(&mut stream, len).await, text.to_uppercase());
        }
        sessions.push(session);
    }
    server.abort();
    for session in sessions {
        in_time(session.closed()).await;
    }
}
