//! Hot restarts in shmipc's own words, with peers that say what they should not.
//!
//! Version 2 passes no descriptors, so whoever is in between can say anything on the socket.

mod common;

use std::time::Duration;

use common::{
    PATIENCE, echo, in_time,
    place::{NATIVE, Place},
    send,
};
use shmipc_transport::{Flush, LinkKind, Listener, Session};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::mpsc::{UnboundedSender, unbounded_channel},
};

const HOT_RESTART: u8 = 8;
const HOT_RESTART_ACK: u8 = 9;

fn frame(kind: u8, epoch: u64) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 16, 0x77, 0x58, 2, kind];
    bytes.extend(epoch.to_be_bytes());
    bytes
}

/// A client and a server with somebody in between who can say something to the server.
struct Between {
    listener: Listener,
    client: Session,
    server: Session,
    says: UnboundedSender<Vec<u8>>,
}

impl Between {
    async fn new(place: &Place) -> Self {
        let config = place.config(LinkKind::ShmipcV2);
        let listener = Listener::bind_with(place.socket(), config.clone()).unwrap();
        let front = place.path().join("front");
        let door = UnixListener::bind(&front).unwrap();
        let (says, mut said) = unbounded_channel::<Vec<u8>>();
        let behind = place.socket();
        tokio::spawn(async move {
            let (client, _) = door.accept().await.unwrap();
            let server = UnixStream::connect(behind).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            let mut buffer = vec![0; 4096];
            loop {
                tokio::select! {
                    read = from_client.read(&mut buffer) => match read {
                        Ok(len @ 1..) => write(&mut to_server, &buffer[..len]).await,
                        _ => return,
                    },
                    Some(bytes) = said.recv() => write(&mut to_server, &bytes).await,
                }
            }
        });
        let (client, server) =
            tokio::join!(Session::connect_with(front, config), listener.accept());
        Self {
            listener,
            client: client.unwrap(),
            server: server.unwrap(),
            says,
        }
    }

    fn say(&self, kind: u8, epoch: u64) {
        self.says.send(frame(kind, epoch)).unwrap();
    }

    /// One call, which shows that the session is as it should be.
    async fn call(&self) {
        let mut stream = self.client.open_stream().unwrap();
        send(&mut stream, b"hello", Flush::More).await;
        let reply = in_time("a reply", stream.recv()).await.unwrap();
        assert_eq!(common::all(reply.unwrap()), b"hello");
    }
}

async fn write(to: &mut OwnedWriteHalf, bytes: &[u8]) {
    // If it is closed, so is the session.
    let _ = to.write_all(bytes).await;
}

#[tokio::test]
async fn hazard_h27_a_server_that_is_told_to_move_stays() {
    let place = Place::new();
    let between = Between::new(&place).await;
    drop(echo(between.server.clone()));
    between.say(HOT_RESTART, 7);
    between.call().await;
    // What was said on the socket before has been taken when the peer has taken everything.
    in_time("a ping", between.client.ping()).await.unwrap();
    assert_eq!(between.server.restart_epoch(), None);
    assert!(!between.server.is_going_away());
    assert_eq!(between.server.stats().restarts_received, 0);
    assert!(!between.server.is_closed() && !between.client.is_closed());
}

#[tokio::test]
async fn hazard_h28_acknowledgements_that_nobody_has_asked_for_count_for_nothing() {
    let place = Place::new();
    let between = Between::new(&place).await;
    drop(echo(between.server.clone()));
    between.say(HOT_RESTART_ACK, 0);
    between.say(HOT_RESTART_ACK, 7);
    between.call().await;
    let clients = between.listener.clients().clone();
    let restart = tokio::spawn(async move { clients.hot_restart(7, PATIENCE).await });
    in_time("the word", between.client.going_away()).await;
    between.say(HOT_RESTART_ACK, 8);
    for _ in 0..10 {
        between.call().await;
    }
    assert!(!restart.is_finished(), "it was another epoch");
    between.say(HOT_RESTART_ACK, 7);
    between.say(HOT_RESTART_ACK, 7);
    let restart = in_time("an end", restart).await.unwrap().unwrap();
    assert_eq!((restart.moved, restart.ended, restart.timed_out), (1, 0, 0));
    between.call().await;
    assert_eq!(between.server.stats().restarts_acknowledged, 1);
}

#[tokio::test]
async fn a_client_hears_of_restarts_as_often_as_it_is_told_and_answers_each_once() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let connecting = Session::connect_with(place.socket(), place.config(LinkKind::ShmipcV2));
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    let (client, (mut server, _)) = (client.unwrap(), accepted.unwrap());
    // Where its files are. It is told nothing in return, in this version.
    let mut head = [0; 8];
    server.read_exact(&mut head).await.unwrap();
    let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let mut paths = vec![0; usize::try_from(len).unwrap() - 8];
    server.read_exact(&mut paths).await.unwrap();
    // Clients are not asked to acknowledge what they have not been told (H27).
    server.write_all(&frame(HOT_RESTART_ACK, 1)).await.unwrap();
    for epoch in [3, 3, 0, u64::MAX] {
        server.write_all(&frame(HOT_RESTART, epoch)).await.unwrap();
        let heard = async {
            while client.restart_epoch() != Some(epoch) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        in_time("the word", heard).await;
        client.acknowledge_restart();
        client.acknowledge_restart();
    }
    assert!(client.is_going_away() && !client.is_closed());
    let stats = client.stats();
    assert_eq!(
        (stats.restarts_received, stats.restarts_acknowledged),
        (3, 3)
    );
    for epoch in [3, 0, u64::MAX] {
        let mut answer = [0; 16];
        let read = server.read_exact(&mut answer);
        in_time("an answer", read).await.unwrap();
        assert_eq!(answer[..], frame(HOT_RESTART_ACK, epoch));
    }
    client.close();
    let mut rest = Vec::new();
    in_time("the end", server.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty(), "and nothing else: {rest:?}");
}

#[tokio::test]
async fn restarts_that_nobody_has_time_for_leave_sessions_as_they_are() {
    for link in NATIVE {
        let place = Place::new();
        let listener = Listener::bind_with(place.socket(), place.config(link)).unwrap();
        let (client, server) = tokio::join!(
            Session::connect_with(place.socket(), place.config(link)),
            listener.accept()
        );
        let (client, server) = (client.unwrap(), server.unwrap());
        drop(echo(server.clone()));
        // Each waits no longer than it should, and the session is none the worse for it.
        for epoch in 1..=50 {
            let none = Duration::ZERO;
            let restart = listener.hot_restart(epoch, none).await.unwrap();
            assert_eq!(restart.timed_out, 1);
        }
        let mut stream = client.open_stream().unwrap();
        send(&mut stream, b"hello", Flush::More).await;
        assert!(in_time("a reply", stream.recv()).await.unwrap().is_some());
        assert_eq!(server.stats().restarts_sent, 50);
    }
}
