//! Pools of sessions for threads.

mod common;

use std::{
    collections::HashSet,
    os::unix::net::UnixListener,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use bytes::BufMut;
use common::{
    PATIENCE,
    place::{LINKS, Place},
    threads::{Server, call, called, late, wait_until},
};
use shmipc_transport::{
    Config, ConnectError, Flush, LinkKind, PoolConfig, PoolConfigBuilder, PoolError, RecvError,
    Selection, SendBuf, SessionLost, SlotState,
    blocking::{Listener, PooledStream, Session, SessionPool},
};

const HELLO: &[u8] = b"hello";

fn pool(place: &Place, link: LinkKind, builder: PoolConfigBuilder) -> SessionPool {
    let config = builder.session(place.config(link)).build().unwrap();
    SessionPool::connect_with(place.socket(), config).unwrap()
}

fn hello(pool: &SessionPool) -> PooledStream {
    called(pool, HELLO).unwrap()
}

fn lent(pool: &SessionPool) -> Vec<usize> {
    let slots = pool.stats().slots;
    slots.iter().map(|slot| slot.streams_lent).collect()
}

#[test]
fn streams_go_round_or_to_whoever_has_fewest() {
    for link in LINKS {
        let place = Place::new();
        let server = Server::start(place.socket(), place.config(link));
        let turns = pool(&place, link, PoolConfig::builder().size(3));
        let streams: Vec<_> = (0..6).map(|_| hello(&turns)).collect();
        assert_eq!(lent(&turns), [2, 2, 2], "{link:?}");
        drop(streams);
        let builder = PoolConfig::builder().size(3);
        let least = pool(&place, link, builder.selection(Selection::LeastLoaded));
        let mut streams: Vec<_> = (0..6).map(|_| hello(&least)).collect();
        assert_eq!(lent(&least), [2, 2, 2]);
        // Two of one session end, and the next two go there.
        let ended = streams.remove(0);
        drop((ended, streams.remove(2)));
        let _next = (hello(&least), hello(&least));
        assert_eq!(lent(&least), [2, 2, 2]);
        server.break_off();
    }
}

#[test]
fn a_stream_that_is_given_back_is_used_again() {
    for link in LINKS {
        let place = Place::new();
        let server = Server::start(place.socket(), place.config(link));
        let pool = pool(&place, link, PoolConfig::builder());
        let mut ids = HashSet::new();
        for _ in 0..10 {
            let stream = hello(&pool);
            ids.insert(stream.id());
            assert!(stream.give_back(), "{link:?}");
        }
        assert_eq!(ids.len(), 1, "{link:?}");
        let fresh = pool.open_stream().unwrap();
        assert_eq!(fresh.id(), None);
        let stats = pool.stats();
        assert_eq!((stats.streams_opened, stats.streams_reused), (2, 9));
        assert_eq!(stats.slots[0].streams_idle, 1);
        assert!(!fresh.give_back(), "nobody has heard of it");
        server.break_off();
    }
}

#[test]
fn a_session_that_is_lost_is_connected_anew_by_whoever_calls_next() {
    for link in LINKS {
        let place = Place::new();
        let server = Server::start(place.socket(), place.config(link));
        let pool = pool(&place, link, PoolConfig::builder().size(2));
        let _used = hello(&pool);
        pool.sessions()[0].close();
        for _ in 0..10 {
            assert!(hello(&pool).give_back());
        }
        let stats = pool.stats();
        assert!(
            stats
                .slots
                .iter()
                .all(|slot| slot.state == SlotState::Ready),
            "{link:?}: {stats:?}"
        );
        assert_eq!(stats.connected, 3, "{link:?}");
        server.break_off();
    }
}

#[test]
fn what_servers_end_is_noticed_by_who_attends() {
    for link in LINKS {
        let place = Place::new();
        let first = Server::start(place.socket(), place.config(link));
        let pool = pool(&place, link, PoolConfig::builder().size(2));
        // One stream waits to be used again, in a session that is about to be over.
        assert!(hello(&pool).give_back());
        let second = Server::start(place.socket(), place.config(link));
        first.break_off();
        wait_until("it is connected anew", || {
            pool.attend(late());
            pool.stats().connected == 4
        });
        hello(&pool);
        assert_eq!(pool.stats().streams_reused, 0, "{link:?}");
        second.break_off();
    }
}

#[test]
fn many_threads_share_a_pool() {
    for link in LINKS {
        let place = Place::new();
        let server = Server::start(place.socket(), place.config(link));
        let config = PoolConfig::builder().session(place.config(link)).size(3);
        let pool = SessionPool::connect_lazy(place.socket(), config.build().unwrap());
        thread::scope(|scope| {
            for number in 0..8 {
                let pool = &pool;
                scope.spawn(move || (0..20).for_each(|round| call(pool, number + round)));
            }
        });
        let stats = pool.stats();
        assert_eq!((stats.connected, stats.failed), (3, 0), "{link:?}");
        assert_eq!(lent(&pool), [0, 0, 0], "{link:?}");
        server.break_off();
    }
}

#[test]
fn without_a_server_it_fails_fast_or_has_patience() {
    let place = Place::new();
    let hour = Duration::from_secs(3600);
    let config = PoolConfig::builder().size(2).backoff(hour, hour);
    let hasty = SessionPool::connect_lazy(place.socket(), config.build().unwrap());
    for _ in 0..2 {
        let failed = hasty.stream().unwrap_err();
        let PoolError::Unavailable {
            source: Some(source),
        } = failed
        else {
            panic!("{failed:?}");
        };
        assert!(matches!(*source, ConnectError::NoServer { .. }));
    }
    let stats = hasty.stats();
    assert_eq!(stats.failed, 1, "it pauses, and the other as well");
    for slot in stats.slots {
        assert!(matches!(slot.state, SlotState::Waiting(_)), "{slot:?}");
    }
    let began = Instant::now();
    let shortly = Duration::from_millis(30);
    let config = PoolConfig::builder().patience(shortly);
    let patient = SessionPool::connect_lazy(place.socket(), config.build().unwrap());
    let failed = patient.stream();
    assert!(matches!(failed, Err(PoolError::Unavailable { .. })));
    assert!(shortly <= began.elapsed());
    let config = PoolConfig::builder().patience(PATIENCE).build().unwrap();
    let patient = SessionPool::connect_lazy(place.socket(), config);
    let failed = patient.stream_until(Some(Instant::now() + shortly));
    assert!(matches!(failed, Err(PoolError::Unavailable { .. })));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| hello(&patient));
        let failed = patient.stats().failed;
        wait_until("it fails again", || failed < patient.stats().failed);
        let server = Server::start(place.socket(), Config::default());
        assert!(waiting.join().unwrap().give_back());
        server.break_off();
    });
}

#[test]
fn connecting_fails_as_a_whole() {
    let place = Place::new();
    let config = PoolConfig::builder().size(3).build().unwrap();
    let failed = SessionPool::connect_with(place.socket(), config);
    assert!(matches!(failed, Err(ConnectError::NoServer { .. })));
}

#[test]
fn a_server_that_lets_go_of_every_session_is_not_run_into() {
    let place = Place::new();
    let listener = Listener::bind(place.socket()).unwrap();
    let stopper = listener.stopper();
    thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(session) = listener.accept() {
                session.close();
            }
        });
        let pool = SessionPool::connect_lazy(place.socket(), PoolConfig::default());
        let failed = loop {
            let fill = |message: &mut SendBuf| message.put_slice(HELLO);
            match pool.stream_with_until(HELLO.len(), Flush::More, late(), fill) {
                Ok(_) => {}
                Err(failed) => break failed,
            }
        };
        stopper.stop();
        assert!(
            matches!(failed, PoolError::Unavailable { source: None }),
            "{failed:?}"
        );
    });
}

#[test]
fn a_server_that_stalls_costs_half_of_the_time_if_there_is_another_session() {
    let place = Place::new();
    let server = Server::start(place.socket(), Config::default());
    let pool = SessionPool::connect_with(
        place.socket(),
        PoolConfig::builder()
            .size(2)
            .backoff(PATIENCE, PATIENCE)
            .build()
            .unwrap(),
    );
    let pool = pool.unwrap();
    // A session over which nothing was said is not missed at once.
    drop((hello(&pool), hello(&pool)));
    let sessions = pool.sessions();
    std::fs::remove_file(place.socket()).unwrap();
    // Nobody ever accepts there.
    let _stalled = UnixListener::bind(place.socket()).unwrap();
    sessions[1].close();
    // Half of it is spent, and the other is enough for a stream of another session.
    let limit = Duration::from_secs(10);
    let began = Instant::now();
    let stream = pool.stream_until(Some(began + limit)).unwrap();
    assert!(limit / 2 <= began.elapsed(), "it has tried");
    drop(stream);
    // Nobody tries again soon, and nothing was found out about the server.
    let stats = pool.stats();
    assert!(matches!(stats.slots[1].state, SlotState::Waiting(_)));
    assert_eq!((stats.connected, stats.failed), (2, 0));
    hello(&pool);
    // Without another one, all of it is spent, and the next caller may have more.
    sessions[0].close();
    let soon = Instant::now() + Duration::from_millis(200);
    let failed = pool.stream_until(Some(soon));
    assert!(
        matches!(failed, Err(PoolError::Unavailable { source: None })),
        "{failed:?}"
    );
    assert_eq!(pool.stats().failed, 0);
    drop(sessions);
    server.break_off();
}

#[test]
fn closing_ends_everything_and_dropping_leaves_what_is_in_use() {
    for link in LINKS {
        let place = Place::new();
        let server = Server::start(place.socket(), place.config(link));
        let closed = pool(&place, link, PoolConfig::builder().size(2));
        let mut used = hello(&closed);
        closed.close();
        let ended = used.recv_until(late());
        assert!(matches!(
            ended,
            Err(RecvError::SessionLost(SessionLost::ClosedHere))
        ));
        assert!(matches!(closed.stream(), Err(PoolError::Closed)));
        closed.attend(late());
        assert_eq!(closed.stats().connected, 2, "nothing more is connected");
        wait_until("both are over", || server.clients.is_empty());
        let dropped = pool(&place, link, PoolConfig::builder().size(2));
        let (session, mut used) = (dropped.sessions().remove(0), hello(&dropped));
        assert!(hello(&dropped).give_back());
        drop((dropped, session));
        wait_until("the other is over", || server.clients.len() == 1);
        let mut message = used.buffer(HELLO.len());
        message.put_slice(HELLO);
        used.send_until(message, Flush::More, late()).unwrap();
        assert!(used.recv_until(late()).unwrap().is_some(), "{link:?}");
        assert!(!used.give_back(), "to whom?");
        wait_until("both are over", || server.clients.is_empty());
        server.leave();
    }
}

#[test]
fn code_of_users_that_panics_holds_up_nobody() {
    let place = Place::new();
    let server = Server::start(place.socket(), Config::default());
    let config = Config::builder().authorize(|_| panic!("a user's bug"));
    let config = PoolConfig::builder().session(config.build().unwrap());
    let pool = SessionPool::connect_lazy(place.socket(), config.build().unwrap());
    for _ in 0..2 {
        let panicked = catch_unwind(AssertUnwindSafe(|| pool.stream_until(late())));
        assert!(panicked.is_err(), "{panicked:?}");
    }
    server.break_off();
}

#[test]
fn connecting_waits_no_longer_than_it_should() {
    let place = Place::new();
    let _stalled = UnixListener::bind(place.socket()).unwrap();
    // In version 2, a client has nothing to wait for.
    for link in LINKS.into_iter().filter(|link| *link != LinkKind::ShmipcV2) {
        let soon = Some(Instant::now() + Duration::from_millis(10));
        let failed = Session::connect_until(place.socket(), place.config(link), soon);
        let Err(ConnectError::TimedOut { timeout, .. }) = failed else {
            panic!("{link:?}: {failed:?}");
        };
        assert!(timeout <= Duration::from_millis(10));
    }
}

#[test]
fn what_users_hold_may_be_shared_between_threads() {
    fn assert<T: Send + Sync>() {}
    assert::<SessionPool>();
    assert::<PooledStream>();
    assert::<shmipc_transport::blocking::Clients>();
    assert::<shmipc_transport::blocking::Leftover>();
}
