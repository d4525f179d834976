//! Which link is found, whoever the server is and whatever it does first.

mod common;

use std::{
    any::Any,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use common::{in_time, modes::modes, place::Place};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shmipc_transport::{
    Address, Config, ConnectError, HandshakeStep, LinkInfo, LinkKind, Listener, PoolConfig,
    PoolError, RefusalCode, Session, SessionLost, SessionPool, Shmipc, ShmipcMapping, ShmipcWakes,
    Wait, blocking,
};
use tokio::io::AsyncReadExt;

use LinkKind::{Outbox, ShmipcV2, ShmipcV3, ShmipcV4};

/// Long enough for every handshake.
const LONG: Duration = Duration::from_secs(60);

fn small(place: &Place) -> Shmipc {
    let shmipc = Shmipc::default().buffer_len(1 << 20);
    shmipc.directory(place.path())
}

fn config(place: &Place, links: &[LinkKind]) -> Config {
    let builder = Config::builder()
        .links(links.iter().copied())
        .shmipc(small(place));
    builder.handshake_timeout(LONG).build().unwrap()
}

/// Every choice of links, in the order in which they are best.
fn choices() -> Vec<Vec<LinkKind>> {
    let chosen = |bits: u32| {
        let links = LinkKind::ALL.into_iter().enumerate();
        let chosen = links.filter(|(i, _)| bits >> i & 1 == 1);
        chosen.map(|(_, link)| link).collect()
    };
    (1..16).map(chosen).collect()
}

/// What a session over this link has, if nothing else was asked for.
fn assert_is(link: LinkInfo, kind: LinkKind, what: &str) {
    let (mapping, wakes) = match kind {
        Outbox => (None, ShmipcWakes::EventFd),
        ShmipcV4 => (Some(ShmipcMapping::Memfd), ShmipcWakes::EventFd),
        ShmipcV3 => (Some(ShmipcMapping::Memfd), ShmipcWakes::Socket),
        _ => (Some(ShmipcMapping::File), ShmipcWakes::Socket),
    };
    assert_eq!(
        (link.kind, link.mapping, link.wakes),
        (kind, mapping, wakes),
        "{what}"
    );
}

/// Serves at a socket that listens already.
fn serve(listening: UnixListener, config: Config) -> Listener {
    Listener::bind_with(Address::from(OwnedFd::from(listening)), config).unwrap()
}

/// Waits until somebody has connected, whom nobody has accepted yet.
fn await_connection(listening: &UnixListener) {
    let mut fds = [PollFd::new(listening.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(LONG).unwrap();
    assert_eq!(poll(&mut fds, timeout), Ok(1), "nobody has connected");
}

/// A session, which ends when it is dropped: a server of version 2 may not have mapped its files yet.
type Kept = Box<dyn Any + Send>;

/// Connects with a task, and with a thread.
async fn connect_both(path: &Path, config: &Config) -> [Result<(LinkInfo, Kept), ConnectError>; 2] {
    let task = in_time(
        "a task connects",
        Session::connect_with(path, config.clone()),
    );
    let task = task
        .await
        .map(|session| (session.link(), Box::new(session) as Kept));
    let (path, config) = (path.to_owned(), config.clone());
    let connect = move || blocking::Session::connect_with(path, config);
    let connecting = tokio::task::spawn_blocking(connect);
    let thread = in_time("a thread connects", connecting).await.unwrap();
    let thread = thread.map(|session| (session.link(), Box::new(session) as Kept));
    [task, thread]
}

#[tokio::test]
async fn of_all_common_links_the_best_is_had() {
    for accepted in choices() {
        let place = Place::new();
        let listener = Listener::bind_with(place.socket(), config(&place, &accepted)).unwrap();
        let (accepting, mut served) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(session) = listener.accept().await {
                accepting.send(session.link()).unwrap();
            }
        });
        for asked in choices() {
            let best = accepted.iter().find(|link| asked.contains(link));
            let what = format!("{asked:?} of {accepted:?}");
            for connected in connect_both(&place.socket(), &config(&place, &asked)).await {
                match (best, connected) {
                    (Some(best), Ok((link, _kept))) => {
                        assert_is(link, *best, &what);
                        let serving = in_time("it is served", served.recv()).await;
                        assert_is(serving.unwrap(), *best, &what);
                    }
                    // Nobody can know whether a server has taken what it was told in version 2.
                    (None, Ok((link, _kept))) => {
                        assert!(asked.contains(&ShmipcV2), "{what}");
                        assert_is(link, ShmipcV2, &what);
                    }
                    (None, Err(_)) => {}
                    (Some(_), Err(error)) => panic!("{what}: {error:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn each_mode_is_what_it_is_called() {
    for mode in modes() {
        let place = Place::new();
        let shmipc = Shmipc::default().buffer_len(1 << 20);
        let config = mode.config(place.path(), shmipc, Wait::Adaptive);
        let listener = Listener::bind_with(mode.address(place.path()), config.clone()).unwrap();
        let connecting = Session::connect_with(listener.local_address().clone(), config);
        let both = async { tokio::join!(connecting, listener.accept()) };
        let (client, server) = in_time("they shake hands", both).await;
        let (client, server) = (client.unwrap().link(), server.unwrap().link());
        assert_eq!(client, server, "{}", mode.name);
        let agreed = (client.kind, client.mapping, client.wakes);
        assert_eq!(agreed, mode.agreed(), "{}", mode.name);
    }
}

#[tokio::test]
async fn an_older_link_is_had_if_a_server_knows_the_negotiation_and_none_of_ours() {
    let place = Place::new();
    // As the crate is, which selects version 4 for whoever negotiates.
    let accepted = config(&place, &[ShmipcV4, ShmipcV3]);
    let listener = Listener::bind_with(place.socket(), accepted).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    for connected in connect_both(&place.socket(), &config(&place, &[Outbox, ShmipcV3])).await {
        assert_is(connected.unwrap().0, ShmipcV3, "version 3");
    }
}

#[tokio::test]
async fn by_default_every_link_is_asked_for_and_accepted() {
    for kind in LinkKind::ALL {
        let place = Place::new();
        let pinned = config(&place, &[kind]);
        let shmipc = small(&place);
        let default = Config::builder().shmipc(shmipc).build().unwrap();
        for [server, client] in [[&pinned, &default], [&default, &pinned]] {
            let listener = Listener::take_over_with(place.socket(), server.clone()).unwrap();
            let connecting = Session::connect_with(place.socket(), client.clone());
            let both = async { tokio::join!(connecting, listener.accept()) };
            let (client, server) = in_time("they shake hands", both).await;
            assert_is(client.unwrap().link(), kind, "the client's");
            assert_is(server.unwrap().link(), kind, "the server's");
        }
    }
}

#[tokio::test]
async fn who_admits_others_has_our_own_link_alone() {
    let place = Place::new();
    let admitting = Config::builder().authorize(|_| true).build().unwrap();
    let listener = Listener::bind_with(place.socket(), admitting).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    for kind in [ShmipcV4, ShmipcV3] {
        for connected in connect_both(&place.socket(), &config(&place, &[kind])).await {
            assert!(
                matches!(
                    connected,
                    Err(ConnectError::Refused(_) | ConnectError::Closed { .. })
                ),
                "{kind:?}: {connected:?}"
            );
        }
    }
    for connected in connect_both(&place.socket(), &config(&place, &LinkKind::ALL)).await {
        assert_is(connected.unwrap().0, Outbox, "our own");
    }
}

/// Has listeners of tasks and of threads admit nobody, one after the other, while `clients` come.
async fn admitting_nobody<F: Future<Output = ()>>(clients: impl Fn(PathBuf, Place) -> F) {
    let strict = |place: &Place| {
        let builder = Config::builder().links(LinkKind::ALL).shmipc(small(place));
        builder.authorize(|_| false).build().unwrap()
    };
    let place = Place::new();
    let (path, config) = (place.socket(), strict(&place));
    let listener = Listener::bind_with(path.clone(), config).unwrap();
    tokio::select! {
        () = clients(path, place) => {}
        accepted = listener.accept() => panic!("{accepted:?}"),
    }
    let place = Place::new();
    let (path, config) = (place.socket(), strict(&place));
    let listener = blocking::Listener::bind_with(path.clone(), config).unwrap();
    let stopper = listener.stopper();
    let accepting = tokio::task::spawn_blocking(move || listener.accept().map(drop));
    clients(path, place).await;
    stopper.stop();
    accepting.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn hazard_h34_who_is_not_admitted_hears_so_in_words_that_it_knows() {
    admitting_nobody(|path, place| async move {
        let links = [&[Outbox][..], &[ShmipcV4], &LinkKind::ALL];
        for asked in links {
            for connected in connect_both(&path, &config(&place, asked)).await {
                assert!(
                    matches!(&connected, Err(ConnectError::Refused(no)) if no.code() == RefusalCode::Unauthorized),
                    "{asked:?}: {connected:?}"
                );
            }
        }
        // These have no such words.
        for asked in [&[ShmipcV3][..], &[ShmipcV3, ShmipcV2]] {
            for connected in connect_both(&path, &config(&place, asked)).await {
                let error = connected.unwrap_err();
                let step = HandshakeStep::Negotiation;
                assert!(
                    matches!(error, ConnectError::Closed { step: at } if at == step),
                    "{asked:?}: {error:?}"
                );
                assert!(error.to_string().contains("not admit"), "{error}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn hazard_h34_a_pool_says_why_its_server_has_no_session_for_it() {
    admitting_nobody(|path, place| async move {
        let v3 = config(&place, &[ShmipcV3]);
        let pool = PoolConfig::builder().session(v3).build().unwrap();
        let tasks = SessionPool::connect_lazy(path.clone(), pool.clone());
        let of_tasks = in_time("a pool for tasks fails", tasks.stream()).await;
        let threads = blocking::SessionPool::connect_lazy(path, pool);
        let of_threads = tokio::task::spawn_blocking(move || threads.stream().map(drop));
        let of_threads = in_time("a pool for threads fails", of_threads).await;
        for failed in [of_tasks.map(drop), of_threads.unwrap()] {
            match failed {
                Err(PoolError::Unavailable {
                    source: Some(source),
                }) if matches!(*source, ConnectError::Closed { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn hazard_h34_in_version_2_who_is_not_admitted_is_closed_after_the_handshake() {
    admitting_nobody(|path, place| async move {
        let v2 = config(&place, &[ShmipcV2]);
        let session = Session::connect_with(path.clone(), v2.clone()).await;
        let session = session.unwrap();
        let lost = in_time("a task's session ends", session.closed()).await;
        assert!(matches!(lost, SessionLost::ClosedByPeer), "{lost:?}");
        let thread = move || {
            let session = blocking::Session::connect_with(path, v2).unwrap();
            session.accept_stream().map(drop)
        };
        let lost = in_time("a thread's ends", tokio::task::spawn_blocking(thread)).await;
        let lost = lost.unwrap();
        assert!(matches!(lost, Err(SessionLost::ClosedByPeer)), "{lost:?}");
    })
    .await;
}

/// Connects more strangers than are listened to, and then somebody who is admitted.
async fn after_strangers(path: PathBuf, admitted: Arc<AtomicBool>) -> Session {
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(tokio::net::UnixStream::connect(&path).await.unwrap());
    }
    // Too many of them: the last that came is not waited for.
    let mut last = strangers.pop().unwrap();
    assert_eq!(last.read(&mut [0]).await.unwrap(), 0);
    admitted.store(true, Ordering::Relaxed);
    let config = Config::builder().handshake_timeout(LONG).build().unwrap();
    Session::connect_with(path, config).await.unwrap()
}

#[tokio::test]
async fn strangers_that_say_nothing_keep_nobody_out() {
    let admitting = || {
        let (place, admitted) = (Place::new(), Arc::new(AtomicBool::new(false)));
        let admits = Arc::clone(&admitted);
        let builder = Config::builder().handshakes_max(1).handshake_timeout(LONG);
        let builder = builder.authorize(move |_| admits.load(Ordering::Relaxed));
        (place, builder.build().unwrap(), admitted)
    };
    let (place, config, admitted) = admitting();
    let listener = Listener::bind_with(place.socket(), config).unwrap();
    let connecting = after_strangers(place.socket(), admitted);
    let both = async { tokio::join!(connecting, listener.accept()) };
    let (client, server) = in_time("a task lets one of our own in", both).await;
    assert_eq!(client.peer(), server.unwrap().peer());

    let (place, config, admitted) = admitting();
    let listener = blocking::Listener::bind_with(place.socket(), config).unwrap();
    let accepting = tokio::task::spawn_blocking(move || listener.accept());
    let connecting = after_strangers(place.socket(), admitted);
    let both = async { tokio::join!(connecting, accepting) };
    let (client, server) = in_time("a thread lets one of our own in", both).await;
    assert_eq!(client.peer(), server.unwrap().unwrap().peer());
}

/// Begins as a server that says nothing, and is one of ours once its client has lost patience.
async fn stall(listening: UnixListener, config: Config) -> Listener {
    let (mute, listening) = tokio::task::spawn_blocking(move || {
        let mute = listening.accept().unwrap();
        await_connection(&listening);
        (mute, listening)
    })
    .await
    .unwrap();
    let listener = serve(listening, config);
    drop(mute);
    listener
}

/// Begins as a server that is killed while somebody connects, and is started again.
async fn restart(listening: UnixListener, config: Config) -> Listener {
    let listening = tokio::task::spawn_blocking(move || {
        drop(listening.accept().unwrap());
        listening
    })
    .await
    .unwrap();
    serve(listening, config)
}

async fn accept_after<F: Future<Output = Listener>>(
    begin: impl Fn(UnixListener, Config) -> F,
    links: &[LinkKind],
) {
    for is_blocking in [false, true] {
        let place = Place::new();
        let (listening, config) = (
            UnixListener::bind(place.socket()).unwrap(),
            config(&place, links),
        );
        let client = self::config(&place, &LinkKind::ALL);
        let accepting = async {
            let listener = begin(listening, config).await;
            in_time("it is served", listener.accept())
                .await
                .unwrap()
                .link()
        };
        let connecting = async {
            let path = place.socket();
            if is_blocking {
                let connect = move || blocking::Session::connect_with(path, client);
                let session = tokio::task::spawn_blocking(connect).await.unwrap();
                session.map(|session| (session.link(), Box::new(session) as Kept))
            } else {
                let session = in_time("it connects", Session::connect_with(path, client));
                let session = session.await;
                session.map(|session| (session.link(), Box::new(session) as Kept))
            }
        };
        let (client, server) = tokio::join!(connecting, accepting);
        assert_is(client.unwrap().0, links[0], "the client's");
        assert_is(server, links[0], "the server's");
    }
}

#[tokio::test]
async fn a_server_that_stalls_is_talked_to_over_the_best_link_all_the_same() {
    for links in [&LinkKind::ALL[..], &[ShmipcV4, ShmipcV3], &[Outbox]] {
        accept_after(stall, links).await;
    }
}

#[tokio::test]
async fn a_server_that_hung_up_as_it_was_restarted_is_talked_to_over_the_best_link_all_the_same() {
    for links in [&LinkKind::ALL[..], &[ShmipcV4, ShmipcV3], &[Outbox]] {
        accept_after(restart, links).await;
    }
}

/// What there is to ask of a server that does not negotiate, in every combination.
const FALLING_BACK: [&[LinkKind]; 4] = [
    &LinkKind::ALL,
    &[Outbox, ShmipcV2],
    &[ShmipcV4, ShmipcV3],
    &[ShmipcV3, ShmipcV2],
];

#[tokio::test(start_paused = true)]
async fn a_mute_server_is_given_up_when_the_time_for_all_attempts_is_over() {
    let place = Place::new();
    let _mute = UnixListener::bind(place.socket()).unwrap();
    for links in FALLING_BACK {
        for timeout in [Duration::from_millis(300), Duration::from_secs(5)] {
            let config = config(&place, links).to_builder();
            let config = config.handshake_timeout(timeout).build().unwrap();
            let began = tokio::time::Instant::now();
            let refused = Session::connect_with(place.socket(), config).await;
            let Err(ConnectError::TimedOut { timeout: given, .. }) = refused else {
                panic!("{links:?}: {refused:?}");
            };
            assert_eq!(given, timeout, "{links:?}");
            // Of the runtime's clock, which goes on as it is waited for, and counts whole milliseconds.
            let waited = began.elapsed();
            let allowed = timeout..timeout + Duration::from_millis(10);
            assert!(allowed.contains(&waited), "{links:?}: {waited:?}");
        }
    }
}

#[test]
fn a_mute_server_is_no_session_for_a_thread() {
    let place = Place::new();
    let _mute = UnixListener::bind(place.socket()).unwrap();
    for links in FALLING_BACK {
        let config = config(&place, links).to_builder();
        let config = config.handshake_timeout(Duration::from_millis(50));
        let refused = blocking::Session::connect_with(place.socket(), config.build().unwrap());
        assert!(
            matches!(refused, Err(ConnectError::TimedOut { .. })),
            "{links:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_on_everything_is_no_session() {
    let place = Place::new();
    let listening = UnixListener::bind(place.socket()).unwrap();
    thread::spawn(move || listening.incoming().for_each(drop));
    for links in FALLING_BACK {
        for connected in connect_both(&place.socket(), &config(&place, links)).await {
            assert!(
                matches!(
                    connected,
                    Err(ConnectError::Closed {
                        step: HandshakeStep::Negotiation
                    })
                ),
                "{links:?}: {connected:?}"
            );
        }
    }
}

/// Says what is not to be understood, whatever comes.
fn misbehave(mut client: UnixStream) {
    let mut header = [0; 8];
    let _ = client.read_exact(&mut header);
    let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let _ = client.read_to_end(&mut Vec::new());
}

#[tokio::test]
async fn a_server_that_says_something_else_is_not_asked_again() {
    let place = Place::new();
    let listening = UnixListener::bind(place.socket()).unwrap();
    thread::spawn(move || {
        listening
            .incoming()
            .for_each(|client| misbehave(client.unwrap()));
    });
    for links in FALLING_BACK {
        for connected in connect_both(&place.socket(), &config(&place, links)).await {
            assert!(
                matches!(connected, Err(ConnectError::PeerMisbehaved(_))),
                "{links:?}: {connected:?}"
            );
        }
    }
}
