//! HTTP/2 by hand: what a peer says, frame by frame.

use std::collections::BTreeMap;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a client begins with.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The kinds of frames that tests deal with.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

/// The flag of an answer to `SETTINGS` and `PING`.
pub(crate) const ACK: u8 = 1;
/// Those of the last frame of a call, and of headers that are whole.
pub(crate) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The window of a connection that nothing was said of.
const WINDOW: u32 = 65_535;

/// The settings that tests deal with.
pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// One frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn is_ack(&self) -> bool {
        self.flags & ACK != 0
    }

    /// Returns the settings in it.
    pub(crate) fn settings(&self) -> BTreeMap<u16, u32> {
        let pairs = self.payload.chunks_exact(6).map(|pair| {
            let value = [pair[2], pair[3], pair[4], pair[5]];
            (
                u16::from_be_bytes([pair[0], pair[1]]),
                u32::from_be_bytes(value),
            )
        });
        pairs.collect()
    }
}

/// A connection over which frames are sent and received.
pub(crate) struct Wire<S>(S);

/// What a peer has said of itself before anything was asked of it.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) settings: BTreeMap<u16, u32>,
    pub(crate) connection_window: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Begins as a client.
    pub(crate) async fn client(mut socket: S, settings: &[(u16, u32)]) -> Self {
        socket.write_all(PREFACE).await.expect("it listens");
        let mut wire = Self(socket);
        wire.set(settings).await;
        wire
    }

    /// Begins as a server.
    pub(crate) async fn server(mut socket: S, settings: &[(u16, u32)]) -> Self {
        let mut preface = [0; PREFACE.len()];
        let read = socket.read_exact(&mut preface).await;
        read.expect("it begins with the preface");
        assert_eq!(&preface, PREFACE);
        let mut wire = Self(socket);
        wire.set(settings).await;
        wire
    }

    async fn set(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("it is short");
        let mut frame = len.to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.expect("it listens");
    }

    /// Receives a frame. Answers a ping.
    pub(crate) async fn receive(&mut self) -> Frame {
        let mut head = [0; 9];
        let read = self.0.read_exact(&mut head).await;
        read.expect("a frame comes");
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        let len = u32::from_be_bytes([0, l0, l1, l2]);
        let mut payload = vec![0; usize::try_from(len).expect("it is short")];
        let read = self.0.read_exact(&mut payload).await;
        read.expect("the frame is whole");
        let frame = Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload,
        };
        if frame.kind == PING && !frame.is_ack() {
            self.send(PING, ACK, 0, &frame.payload).await;
        }
        frame
    }

    /// Opens a call, the first of the connection.
    pub(crate) async fn open(&mut self, path: &str) {
        // `:method` and `:scheme` are in the table that HTTP/2 begins with, the other headers are spelled out.
        let mut headers = vec![0x83, 0x86];
        for (name, value) in [
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).expect("it is short"));
                headers.extend_from_slice(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS, 1, &headers).await;
    }

    /// Waits for the peer to hang up.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest).await;
        read.expect("it hangs up in order");
    }

    /// Returns what the peer says by itself.
    pub(crate) async fn opening(&mut self) -> Opening {
        let mut opening = Opening {
            settings: BTreeMap::new(),
            connection_window: WINDOW,
        };
        // The first may be answered before it has said everything, the second not.
        for _ in 0..2 {
            self.send(PING, 0, 0, &[7; 8]).await;
            loop {
                let frame = self.receive().await;
                match frame.kind {
                    PING if frame.is_ack() => break,
                    SETTINGS if !frame.is_ack() => {
                        opening.settings.extend(frame.settings());
                        self.send(SETTINGS, ACK, 0, &[]).await;
                    }
                    WINDOW_UPDATE if frame.stream == 0 => {
                        let more = frame.payload.try_into().expect("it has a number");
                        opening.connection_window += u32::from_be_bytes(more);
                    }
                    _ => {}
                }
            }
        }
        opening
    }
}
