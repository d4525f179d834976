//! Pools of sessions.

mod common;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::BufMut;
use common::{
    PATIENCE, all, echo, in_time,
    place::{LINKS, Place},
    send, until,
};
use shmipc_transport::{
    Config, ConnectError, Flush, LinkKind, Listener, PoolConfig, PoolConfigBuilder, PoolError,
    PooledStream, RecvError, Selection, SendBuf, Session, SessionLost, SessionPool, Shmipc,
    SlotState,
};
use tokio::sync::mpsc;

/// A server that sends everything back, and the sessions that it has.
struct Server {
    sessions: mpsc::UnboundedReceiver<Session>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    fn start(place: &Place, config: Config) -> Self {
        let listener = Listener::bind_with(place.socket(), config).unwrap();
        let (sender, sessions) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            while let Ok(session) = listener.accept().await {
                drop(echo(session.clone()));
                if sender.send(session).is_err() {
                    return;
                }
            }
        });
        Self {
            sessions,
            accepting,
        }
    }

    async fn session(&mut self) -> Session {
        in_time("a session", self.sessions.recv()).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pool(place: &Place, link: LinkKind, builder: PoolConfigBuilder) -> SessionPool {
    let config = builder.session(place.config(link)).build().unwrap();
    let connecting = SessionPool::connect_with(place.socket(), config);
    in_time("a pool", connecting).await.unwrap()
}

fn hello(message: &mut SendBuf) {
    message.put_slice(b"hello");
}

/// One call, on a stream that is still open afterwards.
async fn called(pool: &SessionPool) -> PooledStream {
    let stream = pool.stream_with(5, Flush::More, hello);
    let mut stream = in_time("a stream", stream).await.unwrap();
    let reply = in_time("a reply", stream.recv()).await.unwrap();
    assert_eq!(all(reply.unwrap()), b"hello");
    stream
}

fn lent(pool: &SessionPool) -> Vec<usize> {
    let slots = pool.stats().slots;
    slots.iter().map(|slot| slot.streams_lent).collect()
}

#[tokio::test]
async fn streams_go_round_or_to_whoever_has_fewest() {
    for link in LINKS {
        let place = Place::new();
        let _server = Server::start(&place, place.config(link));
        let turns = pool(&place, link, PoolConfig::builder().size(3)).await;
        let mut streams = Vec::new();
        for _ in 0..6 {
            streams.push(called(&turns).await);
        }
        assert_eq!(lent(&turns), [2, 2, 2], "{link:?}");
        let builder = PoolConfig::builder().size(3);
        let least = pool(&place, link, builder.selection(Selection::LeastLoaded)).await;
        let mut streams: Vec<_> = Vec::new();
        for _ in 0..6 {
            streams.push(called(&least).await);
        }
        assert_eq!(lent(&least), [2, 2, 2]);
        // Two of one session end, and the next two go there.
        let ended = streams.remove(0);
        drop((ended, streams.remove(2)));
        assert_eq!(lent(&least).iter().sum::<usize>(), 4);
        let _next = (called(&least).await, called(&least).await);
        assert_eq!(lent(&least), [2, 2, 2]);
    }
}

#[tokio::test]
async fn a_stream_that_is_given_back_is_used_again() {
    for link in LINKS {
        let place = Place::new();
        let mut server = Server::start(&place, place.config(link));
        let pool = pool(&place, link, PoolConfig::builder()).await;
        let session = server.session().await;
        let mut ids = HashSet::new();
        for _ in 0..10 {
            let stream = called(&pool).await;
            ids.insert(stream.id());
            assert!(stream.give_back(), "{link:?}");
        }
        assert_eq!(ids.len(), 1, "{link:?}");
        assert_eq!(session.stats().streams_accepted, 1);
        let fresh = pool.open_stream().await.unwrap();
        assert_eq!(fresh.id(), None);
        let stats = pool.stats();
        assert_eq!((stats.streams_opened, stats.streams_reused), (2, 9));
        assert_eq!(stats.slots[0].streams_idle, 1);
    }
}

#[tokio::test]
async fn hazard_h70_c3_a_stream_that_is_not_as_it_was_ends() {
    for link in LINKS {
        let place = Place::new();
        let mut server = Server::start(&place, place.config(link));
        let builder = PoolConfig::builder().idle_streams_max(1);
        let pool = pool(&place, link, builder).await;
        let session = server.session().await;
        let unused = pool.stream().await.unwrap();
        assert!(!unused.give_back(), "nobody has heard of it");
        let mut unread = called(&pool).await;
        send(&mut unread, b"more", Flush::More).await;
        // Waits for it, and leaves it there.
        let waiting = async {
            loop {
                if session.stats().messages_sent == 2 && pool_received(&pool) == 2 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        in_time("what is not received", waiting).await;
        assert!(!unread.give_back(), "{link:?}");
        let mut finished = called(&pool).await;
        finished.finish().await.unwrap();
        // Where there is no end of one direction, it is kept to oneself.
        assert!(!finished.give_back(), "{link:?}");
        let (one, other) = (called(&pool).await, called(&pool).await);
        assert!(one.give_back());
        assert!(!other.give_back(), "there is place for one");
        until("all others end", || session.stats().streams_open == 1).await;
        // One that the peer ends while nobody uses it is not lent again.
        session.close();
        until("another session", || pool.stats().connected == 2).await;
        let next = called(&pool).await;
        assert_eq!(pool.stats().streams_reused, 0);
        drop(next);
    }
}

fn pool_received(pool: &SessionPool) -> u64 {
    let sessions = pool.sessions();
    let stats = sessions.iter().map(Session::stats);
    stats.map(|stats| stats.messages_received).sum()
}

#[tokio::test]
async fn streams_that_fell_back_are_not_used_again() {
    let link = LinkKind::ShmipcV3;
    let place = Place::new();
    let tight = Shmipc::default()
        .buffer_len(64 << 10)
        .slices([(1024, 50), (4096, 50)]);
    let config = place.config_with(link, tight);
    let _server = Server::start(&place, config.clone());
    let rest = Duration::from_secs(3600);
    let builder = PoolConfig::builder().session(config).size(2);
    let builder = builder.fallback_rest(Some(rest));
    let pool = SessionPool::connect_with(place.socket(), builder.build().unwrap());
    let pool = in_time("a pool", pool).await.unwrap();
    let long = vec![7; 200_000];
    let mut fallen = pool.stream().await.unwrap();
    send(&mut fallen, &long, Flush::More).await;
    let mut len = 0;
    while len < long.len() {
        len += fallen.recv().await.unwrap().unwrap().len();
    }
    assert!(!fallen.give_back());
    // And its session rests, for as long as there is another.
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(called(&pool).await);
    }
    assert_eq!(lent(&pool), [0, 4]);
    let sessions = pool.sessions();
    sessions[1].close();
    until("it is replaced", || pool.stats().connected == 3).await;
}

#[tokio::test]
async fn hazard_h71_a_session_that_is_lost_is_connected_anew_and_others_serve_meanwhile() {
    for link in LINKS {
        let place = Place::new();
        let mut server = Server::start(&place, place.config(link));
        let pool = pool(&place, link, PoolConfig::builder().size(2)).await;
        let mut used = called(&pool).await;
        let lost = server.session().await;
        server.session().await;
        let ours = pool.sessions();
        lost.close();
        // What is sent until then may be lost with it.
        until("it is noticed", || ours.iter().any(Session::is_closed)).await;
        for _ in 0..10 {
            called(&pool).await;
        }
        server.session().await;
        until("there are two again", || {
            let stats = pool.stats();
            stats
                .slots
                .iter()
                .all(|slot| slot.state == SlotState::Ready)
        })
        .await;
        assert_eq!(pool.stats().connected, 3, "{link:?}");
        // What was in use there has ended, if it was there.
        send_or_lost(&mut used).await;
    }
}

async fn send_or_lost(stream: &mut PooledStream) {
    let mut message = stream.buffer(5);
    hello(&mut message);
    if stream.send(message, Flush::More).await.is_ok() {
        assert!(in_time("a reply", stream.recv()).await.is_ok());
    } else {
        let ended = in_time("the end", stream.recv()).await;
        assert!(matches!(
            ended,
            Err(RecvError::SessionLost(SessionLost::ClosedByPeer)) | Ok(None)
        ));
    }
}

#[tokio::test]
async fn without_a_server_it_fails_fast_or_has_patience() {
    let place = Place::new();
    let config =
        PoolConfig::builder().backoff(Duration::from_secs(3600), Duration::from_secs(3600));
    let hasty = SessionPool::connect_lazy(place.socket(), config.build().unwrap());
    for _ in 0..2 {
        let failed = in_time("an answer", hasty.stream()).await.unwrap_err();
        let PoolError::Unavailable {
            source: Some(source),
        } = failed
        else {
            panic!("{failed:?}");
        };
        assert!(matches!(*source, ConnectError::NoServer { .. }));
    }
    let stats = hasty.stats();
    assert_eq!(stats.failed, 1, "it pauses");
    assert!(matches!(stats.slots[0].state, SlotState::Waiting(_)));
    let began = Instant::now();
    let config = PoolConfig::builder().patience(Duration::from_millis(30));
    let patient = SessionPool::connect_lazy(place.socket(), config.build().unwrap());
    let failed = in_time("an answer", patient.stream()).await;
    assert!(matches!(failed, Err(PoolError::Unavailable { .. })));
    assert!(Duration::from_millis(30) <= began.elapsed());
    let config = PoolConfig::builder().patience(PATIENCE);
    let patient = SessionPool::connect_lazy(place.socket(), config.build().unwrap());
    let waiting = tokio::spawn({
        let pool = patient.clone();
        async move { drop(called(&pool).await) }
    });
    until("it has failed", || patient.stats().failed != 0).await;
    let _server = Server::start(&place, Config::default());
    in_time("a call", waiting).await.unwrap();
}

#[tokio::test]
async fn connecting_fails_as_a_whole() {
    let place = Place::new();
    let config = PoolConfig::builder().size(3).build().unwrap();
    let failed = SessionPool::connect_with(place.socket(), config).await;
    assert!(matches!(failed, Err(ConnectError::NoServer { .. })));
}

#[tokio::test]
async fn a_server_that_lets_go_of_every_session_is_not_run_into() {
    let place = Place::new();
    let listener = Listener::bind(place.socket()).unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok(session) = listener.accept().await {
            session.close();
        }
    });
    let pool = SessionPool::connect_lazy(place.socket(), PoolConfig::default());
    let failed = in_time("an answer", async {
        loop {
            match pool.stream_with(5, Flush::More, hello).await {
                Ok(_) => {}
                Err(failed) => return failed,
            }
        }
    });
    let failed = failed.await;
    assert!(
        matches!(failed, PoolError::Unavailable { source: None }),
        "{failed:?}"
    );
    accepting.abort();
}

#[tokio::test]
async fn hazard_l2_l6_closing_ends_everything_and_dropping_leaves_what_is_in_use() {
    for link in LINKS {
        let place = Place::new();
        let mut server = Server::start(&place, place.config(link));
        let alive = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        let closed = pool(&place, link, PoolConfig::builder().size(2)).await;
        let (one, other) = (server.session().await, server.session().await);
        let mut used = called(&closed).await;
        closed.close();
        let ended = in_time("the end", used.recv()).await;
        assert!(matches!(
            ended,
            Err(RecvError::SessionLost(SessionLost::ClosedHere))
        ));
        assert!(matches!(closed.stream().await, Err(PoolError::Closed)));
        in_time("both are over", async {
            (one.closed().await, other.closed().await)
        })
        .await;
        drop((used, closed));
        until("there are as many tasks as before", || alive() == 1).await;

        let dropped = pool(&place, link, PoolConfig::builder().size(2)).await;
        let (one, other) = (server.session().await, server.session().await);
        assert!(called(&dropped).await.give_back());
        let mut used = called(&dropped).await;
        drop(dropped);
        let is_over = || usize::from(one.is_closed()) + usize::from(other.is_closed());
        until("the one that is not used is over", || is_over() == 1).await;
        send(&mut used, b"hello", Flush::More).await;
        assert!(used.recv().await.unwrap().is_some());
        assert!(!used.give_back(), "to whom?");
        until("both are over", || is_over() == 2).await;
        until("there are as many tasks as before", || alive() == 1).await;
    }
}

#[tokio::test]
async fn code_of_users_that_panics_counts_as_a_failure() {
    let place = Place::new();
    let _server = Server::start(&place, Config::default());
    let config = Config::builder().authorize(|_| panic!("a user's bug"));
    let config = PoolConfig::builder().session(config.build().unwrap());
    let pool = SessionPool::connect_lazy(place.socket(), config.build().unwrap());
    let failed = in_time("an answer", pool.stream()).await;
    assert!(matches!(
        failed,
        Err(PoolError::Unavailable { source: Some(_) })
    ));
}

#[tokio::test]
async fn a_peer_that_goes_away_is_left_and_its_idle_streams_with_it() {
    let place = Place::new();
    let mut server = Server::start(&place, Config::default());
    let pool = SessionPool::connect(place.socket()).await.unwrap();
    let old = server.session().await;
    let mut used = called(&pool).await;
    assert!(called(&pool).await.give_back());
    let draining = tokio::spawn({
        let old = old.clone();
        async move { old.drain().await }
    });
    let new = server.session().await;
    assert!(called(&pool).await.give_back());
    assert_eq!(new.stats().streams_accepted, 1);
    until("idle streams end", || old.stats().streams_open == 1).await;
    send(&mut used, b"hello", Flush::More).await;
    assert!(used.recv().await.unwrap().is_some(), "it is still served");
    assert!(!used.give_back());
    in_time("the old session ends", draining).await.unwrap();
    let stats = pool.stats();
    assert_eq!((stats.moved, stats.restarts), (1, 0));
}

#[test]
fn what_users_hold_may_be_shared_between_threads() {
    fn assert<T: Send + Sync>() {}
    assert::<SessionPool>();
    assert::<PooledStream>();
    assert::<PoolConfig>();
    assert::<PoolError>();
    assert::<shmipc_transport::Clients>();
}
