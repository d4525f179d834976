//! Streams as bytes, in threads.

use std::{
    io::{self, BufRead, Read, Write},
    thread,
    time::Duration,
};

use bytes::Bytes;
use shmipc_transport::{
    Config, RecvError,
    blocking::{ByteStream, ByteWriter, Listener, Session},
};

struct Pair {
    client: Session,
    server: Session,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn new(config: &Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = Listener::bind_with(path.as_path(), config.clone()).unwrap();
        let (client, server) = thread::scope(|scope| {
            let client = scope.spawn(|| Session::connect(path.as_path()).unwrap());
            let server = listener.accept().unwrap();
            (client.join().unwrap(), server)
        });
        Self {
            client,
            server,
            _dir: dir,
        }
    }

    fn streams(&self) -> (ByteStream, ByteStream) {
        let mut ours = self.client.open_stream().unwrap();
        let first = ours.buffer(0);
        ours.send(first, shmipc_transport::Flush::More).unwrap();
        let theirs = self.server.accept_stream().unwrap();
        (ours.into_bytes(), theirs.into_bytes())
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i * 31 % 251).unwrap())
        .collect()
}

#[test]
fn lines_go_there_and_back() {
    let pair = Pair::new(&Config::default());
    let (mut ours, mut theirs) = pair.streams();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut line = String::new();
            while theirs.read_line(&mut line).unwrap() != 0 {
                theirs.write_all(line.to_uppercase().as_bytes()).unwrap();
                theirs.flush().unwrap();
                line.clear();
            }
            theirs.writer().finish().unwrap();
        });
        for word in ["one", "two", "three"] {
            writeln!(ours, "{word}").unwrap();
            ours.flush().unwrap();
            let mut line = String::new();
            ours.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{}\n", word.to_uppercase()));
        }
        ours.writer().finish().unwrap();
        assert!(ours.fill_buf().unwrap().is_empty());
        assert!(ours.reader().is_at_end());
        let late = ours.write_all(b"late").unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn many_bytes_pass_through_little_memory() {
    let config = Config::builder().memory_max(64 << 10).build().unwrap();
    let pair = Pair::new(&config);
    let (ours, theirs) = pair.streams();
    let sent = pattern(1 << 20);
    let (_reader, mut writer) = theirs.split();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.put(Bytes::from(sent.clone())).unwrap();
            let mut space = writer.reserve(1000).unwrap();
            space[..500].copy_from_slice(&sent[..500]);
            space.commit(500);
            writer.write_all(&sent).unwrap();
            writer.finish().unwrap();
        });
        let (mut reader, _writer) = ours.split();
        assert!(reader.peek(sent.len()).unwrap() == sent);
        assert!(reader.read_bytes(sent.len()).unwrap() == sent);
        reader.discard(499).unwrap();
        assert_eq!(reader.read_bytes(1).unwrap()[..], sent[499..500]);
        let first = reader.read_chunk().unwrap().unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!([&first[..], &rest].concat() == sent);
        assert!(reader.read_chunk().unwrap().is_none());
        let short = reader.read_bytes(1).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn waits_end_when_they_should_and_nothing_is_lost() {
    let config = Config::builder().stream_window(1, 1).build().unwrap();
    let pair = Pair::new(&config);
    let (mut ours, mut theirs) = pair.streams();
    let soon = Some(Duration::from_millis(5));
    ours.reader().set_timeout(soon);
    let late = ours.read(&mut [0]).unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    let source = late.get_ref().unwrap().downcast_ref::<RecvError>();
    assert!(matches!(source, Some(RecvError::TimedOut)));
    // The window is full with the message that opened the stream.
    ours.writer().set_timeout(soon);
    ours.write_all(b"kept").unwrap();
    let late = ours.flush().unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    let late = ours.write(&pattern(ByteWriter::FLUSH_AT)).unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    ours.writer().set_timeout(None);
    thread::scope(|scope| {
        scope.spawn(|| ours.flush().unwrap());
        assert_eq!(theirs.reader().read_bytes(4).unwrap(), "kept");
    });
    theirs.reset(3);
    ours.reader().set_timeout(None);
    let reset = ours.fill_buf().unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
}
