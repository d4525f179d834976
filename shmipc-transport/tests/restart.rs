//! Hot restarts, in one process: both sides, over both links.

mod common;

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::BufMut;
use common::{
    PATIENCE, echo, in_time,
    place::{LINKS, NATIVE, Place},
    send, until,
};
use shmipc_transport::{
    Clients, Config, Flush, LinkKind, Listener, PoolConfig, PoolError, RestartError, SendError,
    Session, SessionPool, blocking,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

/// A server that sends everything back, until it is stopped.
struct Server {
    clients: Clients,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Server {
    fn start(place: &Place, config: Config) -> Self {
        let listener = Listener::take_over_with(place.socket(), config).unwrap();
        let clients = listener.clients().clone();
        let (stop, mut stopped) = oneshot::channel();
        let ended = tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => drop(echo(accepted.unwrap())),
                    _ = &mut stopped => break,
                }
            }
            let mut leftover = listener.close();
            while let Some(session) = leftover.next().await {
                drop(echo(session));
            }
        });
        Self {
            clients,
            stop,
            ended,
        }
    }

    /// Listens no more, and waits until the last session is over.
    async fn leave(self) {
        drop(self.stop);
        self.ended.await.unwrap();
        in_time("all sessions end", self.clients.drain()).await;
        assert!(self.clients.is_empty());
    }
}

/// One call, on a stream that is given back.
async fn call(pool: &SessionPool, number: u64) -> Result<(), PoolError> {
    let sizes = [8, 5000, 100_000];
    let index = usize::try_from(number).unwrap();
    let sent = common::pattern(sizes[index % sizes.len()], index);
    let fill = |message: &mut shmipc_transport::SendBuf| message.put_slice(&sent);
    let calling = pool.stream_with(sent.len(), Flush::More, fill);
    let mut stream = in_time("a stream", calling).await?;
    let mut reply = Vec::new();
    while reply.len() < sent.len() {
        let part = in_time("a reply", stream.recv()).await.unwrap();
        reply.extend(common::all(part.unwrap()));
    }
    assert!(reply == sent, "it came back changed");
    stream.give_back();
    Ok(())
}

/// Calls that go on.
struct Load {
    callers: JoinSet<()>,
    calls: Arc<AtomicU64>,
    stops: Arc<AtomicBool>,
}

impl Load {
    fn start(pool: &SessionPool) -> Self {
        let (calls, stops) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let (pool, calls, stops) = (pool.clone(), Arc::clone(&calls), Arc::clone(&stops));
            callers.spawn(async move {
                while !stops.load(Relaxed) {
                    let number = calls.fetch_add(1, Relaxed);
                    call(&pool, number).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
        }
        Self {
            callers,
            calls,
            stops,
        }
    }

    /// Waits for further calls.
    async fn goes_on(&self) {
        let begun = self.calls.load(Relaxed);
        until("calls go on", || begun + 100 < self.calls.load(Relaxed)).await;
    }

    async fn stop(self) {
        self.stops.store(true, Relaxed);
        in_time("the callers end", self.callers.join_all()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_servers_restart() {
    const SESSIONS: usize = 3;
    for link in LINKS {
        let place = Place::new();
        let mut server = Server::start(&place, place.config(link));
        let config = PoolConfig::builder()
            .session(place.config(link))
            .size(SESSIONS);
        let pool = SessionPool::connect_with(place.socket(), config.build().unwrap());
        let pool = in_time("a pool", pool).await.unwrap();
        let load = Load::start(&pool);
        for epoch in 1..=5 {
            load.goes_on().await;
            // One that has moved again so soon pauses before.
            until("all are here", || server.clients.len() == SESSIONS).await;
            let old = std::mem::replace(&mut server, Server::start(&place, place.config(link)));
            let restart = old.clients.hot_restart(epoch, PATIENCE).await.unwrap();
            assert_eq!(restart.epoch, epoch);
            assert!(restart.is_complete(), "{link:?}: {restart:?}");
            assert_eq!(restart.moved, SESSIONS, "{link:?}: {restart:?}");
            old.leave().await;
        }
        load.goes_on().await;
        load.stop().await;
        let stats = pool.stats();
        let told = NATIVE.contains(&link);
        assert_eq!(stats.restarts, if told { 5 } else { 0 }, "{link:?}");
        assert_eq!(stats.restarts_given_up, 0);
        assert_eq!(stats.failed, 0, "there was always a server");
        drop(pool);
        server.leave().await;
    }
}

/// A session of its own, with the server's handle of all.
async fn pair(place: &Place, link: LinkKind) -> (Listener, Session, Session) {
    let listener = Listener::bind_with(place.socket(), place.config(link)).unwrap();
    let (client, server) = tokio::join!(
        Session::connect_with(place.socket(), place.config(link)),
        listener.accept()
    );
    (listener, client.unwrap(), server.unwrap())
}

#[tokio::test]
async fn a_session_without_a_pool_hears_and_may_acknowledge() {
    for link in NATIVE {
        let place = Place::new();
        let (listener, client, server) = pair(&place, link).await;
        drop(echo(server.clone()));
        let mut stream = client.open_stream().unwrap();
        send(&mut stream, b"before", Flush::More).await;
        assert!(stream.recv().await.unwrap().is_some());
        assert!(!client.acknowledge_restart(), "of what?");
        assert!(!client.is_going_away());
        let restart = listener.hot_restart(7, PATIENCE);
        let follow = async {
            in_time("the word", client.going_away()).await;
            assert_eq!(client.restart_epoch(), Some(7));
            // Nothing is different until it has moved.
            let mut second = client.open_stream().unwrap();
            send(&mut second, b"meanwhile", Flush::More).await;
            assert!(client.acknowledge_restart());
            assert!(!client.acknowledge_restart(), "once is enough");
        };
        let (restart, ()) = tokio::join!(restart, follow);
        let restart = restart.unwrap();
        assert_eq!((restart.moved, restart.timed_out), (1, 0), "{link:?}");
        let refused = client.open_stream().unwrap().finish().await;
        assert!(matches!(refused, Err(SendError::GoingAway)), "{refused:?}");
        send(&mut stream, b"behind", Flush::More).await;
        let reply = in_time("the old server", stream.recv()).await.unwrap();
        assert_eq!(common::all(reply.unwrap()), b"behind");
        let (ours, theirs) = (client.stats(), server.stats());
        assert_eq!((theirs.restarts_sent, theirs.restarts_acknowledged), (1, 1));
        assert_eq!((ours.restarts_received, ours.restarts_acknowledged), (1, 1));
    }
}

#[tokio::test]
async fn a_session_for_threads_hears_and_may_acknowledge() {
    for link in NATIVE {
        let place = Place::new();
        let listener = Listener::bind_with(place.socket(), place.config(link)).unwrap();
        let (path, config) = (place.socket(), place.config(link));
        let client = tokio::task::spawn_blocking(move || {
            let session = blocking::Session::connect_with(path, config).unwrap();
            let until = Instant::now() + PATIENCE;
            while session.restart_epoch() != Some(7) {
                assert!(Instant::now() < until, "nothing was heard");
                std::thread::sleep(Duration::from_millis(1));
                session.attend();
            }
            assert!(session.is_going_away());
            assert!(session.acknowledge_restart());
            assert!(!session.acknowledge_restart(), "once is enough");
            session
        });
        let _server = listener.accept().await.unwrap();
        let restart = listener.hot_restart(7, PATIENCE).await.unwrap();
        assert_eq!((restart.moved, restart.timed_out), (1, 0), "{link:?}");
        drop(in_time("the thread", client).await.unwrap());
    }
}

#[tokio::test]
async fn who_does_not_move_is_told_again_and_not_waited_for_longer() {
    for link in LINKS {
        let place = Place::new();
        let (listener, client, server) = pair(&place, link).await;
        drop(echo(server));
        let mut stream = client.open_stream().unwrap();
        send(&mut stream, b"in use", Flush::More).await;
        assert!(stream.recv().await.unwrap().is_some());
        let shortly = Duration::from_millis(20);
        let restart = listener.hot_restart(1, shortly).await.unwrap();
        assert_eq!((restart.moved, restart.timed_out), (0, 1), "{link:?}");
        assert!(!restart.is_complete());
        send(&mut stream, b"in use", Flush::More).await;
        assert!(stream.recv().await.unwrap().is_some(), "it is served on");
        let again = listener.hot_restart(2, PATIENCE);
        let follow = async {
            if NATIVE.contains(&link) {
                until("the next word", || client.restart_epoch() == Some(2)).await;
                assert!(client.acknowledge_restart());
            } else {
                drop(stream);
            }
        };
        let (restart, ()) = tokio::join!(again, follow);
        let restart = restart.unwrap();
        assert_eq!((restart.moved, restart.timed_out), (1, 0), "{link:?}");
    }
}

#[tokio::test]
async fn one_restart_at_a_time_and_each_with_an_epoch_of_its_own() {
    let place = Place::new();
    let (listener, client, _server) = pair(&place, LinkKind::ShmipcV3).await;
    let none = listener.hot_restart(0, PATIENCE).await;
    assert_eq!(none, Err(RestartError::Epoch { epoch: 0 }));
    {
        let under_way = listener.hot_restart(1, PATIENCE);
        let mut under_way = std::pin::pin!(under_way);
        let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(under_way.as_mut().poll(cx)));
        assert!(begun.await.is_pending());
        let second = listener.hot_restart(2, PATIENCE).await;
        assert_eq!(second, Err(RestartError::UnderWay { epoch: 1 }));
    }
    let again = listener.hot_restart(1, PATIENCE).await;
    assert_eq!(again, Err(RestartError::Epoch { epoch: 1 }));
    drop(client);
    let last = in_time("nobody is left", listener.hot_restart(3, PATIENCE)).await;
    let last = last.unwrap();
    assert_eq!((last.moved, last.timed_out), (0, 0));
}

#[tokio::test]
async fn a_client_that_leaves_is_not_waited_for() {
    for link in LINKS {
        let place = Place::new();
        let (listener, client, _server) = pair(&place, link).await;
        let leave = async {
            in_time("the word", client.going_away()).await;
            client.close();
        };
        let (restart, ()) = tokio::join!(listener.hot_restart(1, PATIENCE), leave);
        let restart = restart.unwrap();
        assert_eq!((restart.moved + restart.ended, restart.timed_out), (1, 0));
        // Among ourselves, that is how it moves.
        assert_eq!(restart.ended, usize::from(NATIVE.contains(&link)));
    }
}

#[tokio::test]
async fn hazard_h62_who_comes_behind_a_restart_is_told() {
    for link in LINKS {
        let place = Place::new();
        let listener = Listener::bind_with(place.socket(), place.config(link)).unwrap();
        let clients = listener.clients().clone();
        let restart = clients.hot_restart(1, PATIENCE).await.unwrap();
        assert_eq!(restart.moved, 0);
        let (late, server) = tokio::join!(
            Session::connect_with(place.socket(), place.config(link)),
            listener.accept()
        );
        let (late, _server) = (late.unwrap(), server.unwrap());
        in_time("the word", late.going_away()).await;
        // One that has queued up is told as well.
        let queued = UnixStream::connect(place.socket()).unwrap();
        let mut leftover = listener.close();
        let (last, server) = tokio::join!(
            Session::connect_with(OwnedFd::from(queued), place.config(link)),
            leftover.next()
        );
        let (last, _server) = (last.unwrap(), server.unwrap());
        in_time("the word", last.going_away()).await;
    }
}

#[tokio::test]
async fn a_pool_that_cannot_move_stays_and_says_nothing() {
    for link in NATIVE {
        let place = Place::new();
        let (listener, _client, server) = pair(&place, link).await;
        drop(echo(server));
        let config = PoolConfig::builder()
            .session(place.config(link))
            .size(2)
            .restart_timeout(Duration::from_millis(20));
        let pool = SessionPool::connect_with(place.socket(), config.build().unwrap());
        let accept = async {
            for _ in 0..2 {
                drop(echo(listener.accept().await.unwrap()));
            }
        };
        let (pool, ()) = tokio::join!(pool, accept);
        let pool = pool.unwrap();
        // There is no successor, and nobody accepts here.
        std::fs::remove_file(place.socket()).unwrap();
        let clients = listener.clients().clone();
        let restart = tokio::spawn(async move {
            clients
                .hot_restart(1, Duration::from_millis(200))
                .await
                .unwrap()
        });
        until("it is given up", || pool.stats().restarts_given_up == 1).await;
        call(&pool, 1).await.unwrap();
        let restart = restart.await.unwrap();
        assert_eq!((restart.moved, restart.timed_out), (0, 3), "{link:?}");
        // When there is one after all, it moves.
        let successor = Server::start(&place, place.config(link));
        until("it has moved", || pool.stats().moved == 2).await;
        call(&pool, 2).await.unwrap();
        drop(pool);
        successor.leave().await;
    }
}
