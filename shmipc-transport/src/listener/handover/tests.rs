//! Successors in the same process; `tests/tests/handover` has them in others.

use std::{io::Read, os::unix::net::UnixStream as StdStream, path::PathBuf, thread};

use tempfile::TempDir;
use tokio::net::UnixStream;

use super::*;
use crate::{
    Config, LinkKind, Listener, Session, Shmipc, blocking as threads, core::sync::AtomicU32,
    error::AcceptError,
};

const LONG: Duration = Duration::from_secs(30);

struct Stage {
    directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn files(&self) -> usize {
        self.directory.path().read_dir().unwrap().count()
    }
}

/// Passes a socket on, and returns the successor.
async fn succeed(listener: &Listener, door: PathBuf) -> Listener {
    succeed_with(listener, door, Config::default()).await
}

async fn succeed_with(listener: &Listener, door: PathBuf, config: Config) -> Listener {
    let hand_over = listener.hand_over().unwrap();
    let inherit = async {
        loop {
            match Listener::inherit_with(door.as_path(), config.clone()).await {
                // It does not listen yet.
                Err(InheritError::Connect(_)) => tokio::task::yield_now().await,
                other => return other.unwrap(),
            }
        }
    };
    let (offered, successor) = tokio::join!(hand_over.offer(door.as_path()), inherit);
    offered.unwrap();
    successor
}

async fn connected(listener: &Listener, address: impl Into<Address>) {
    let (client, server) = tokio::join!(Session::connect(address), listener.accept());
    client.unwrap();
    server.unwrap();
}

#[tokio::test]
async fn a_successor_has_the_socket_its_name_and_its_file() {
    let stage = Stage::new();
    let path = stage.path("socket");
    let first = Listener::bind(path.as_path()).unwrap();
    let inode = |path: &PathBuf| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).unwrap().ino()
    };
    let before = inode(&path);
    let second = succeed(&first, stage.path("door")).await;
    assert_eq!(
        second.local_address().to_string(),
        path.display().to_string()
    );
    assert_eq!(stage.files(), 1, "the door is closed");
    drop(first);
    assert_eq!(inode(&path), before, "the file is the successor's");
    connected(&second, path.as_path()).await;
    // And so on.
    let third = succeed(&second, stage.path("door")).await;
    drop(second);
    connected(&third, path.as_path()).await;
    drop(third);
    assert_eq!(stage.files(), 0);
}

#[tokio::test]
async fn abstract_and_inherited_sockets_are_passed_on_as_well() {
    let stage = Stage::new();
    let name = format!("@shmipc{}", stage.directory.path().display());
    let first = Listener::bind(name.as_str()).unwrap();
    let second = succeed(&first, stage.path("door")).await;
    drop(first);
    assert_eq!(second.local_address().to_string(), name);
    connected(&second, name).await;
    let path = stage.path("other");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let first = Listener::bind(OwnedFd::from(socket)).unwrap();
    let second = succeed(&first, stage.path("door")).await;
    drop(first);
    connected(&second, path.as_path()).await;
}

#[tokio::test]
async fn ports_are_passed_on_as_well() {
    let stage = Stage::new();
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let shmipc = Shmipc::default().directory(files.path());
    let config = Config::builder().links([LinkKind::ShmipcV3]).shmipc(shmipc);
    let config = config.build().unwrap();
    let first = Listener::bind_with("tcp://127.0.0.1:0", config.clone()).unwrap();
    let port = first.local_address().clone();
    // One that could serve nobody there is not left with it.
    let hand_over = first.hand_over().unwrap();
    let door = stage.path("door");
    let offer = tokio::spawn(async move { hand_over.offer(door).await });
    let refused = loop {
        match Listener::inherit(stage.path("door")).await {
            Err(InheritError::Connect(_)) => tokio::task::yield_now().await,
            other => break other.unwrap_err(),
        }
    };
    assert!(matches!(
        refused,
        InheritError::Listen(BindError::NoLink { .. })
    ));
    offer.abort();
    assert!(offer.await.unwrap_err().is_cancelled());
    let second = succeed_with(&first, stage.path("door"), config.clone()).await;
    drop(first);
    assert_eq!(second.local_address().to_string(), port.to_string());
    let client = async { Session::connect_with(port, config).await.unwrap() };
    let (_client, server) = tokio::join!(client, second.accept());
    server.unwrap();
}

#[tokio::test]
async fn who_waits_in_the_queue_is_served_by_the_successor() {
    let stage = Stage::new();
    let path = stage.path("socket");
    let first = Listener::bind(path.as_path()).unwrap();
    let clients: Vec<_> = (0..5)
        .map(|_| tokio::spawn(Session::connect(path.clone())))
        .collect();
    let second = succeed(&first, stage.path("door")).await;
    let mut rest = first.close();
    assert!(rest.next().await.is_none(), "nobody was shaking hands");
    for _ in &clients {
        second.accept().await.unwrap();
    }
    for client in clients {
        client.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_offer_that_is_given_up_changes_nothing() {
    let stage = Stage::new();
    let path = stage.path("socket");
    let listener = Listener::bind(path.as_path()).unwrap();
    {
        let hand_over = listener.hand_over().unwrap();
        let offer = hand_over.offer(stage.path("door"));
        assert!(
            tokio::time::timeout(Duration::from_millis(5), offer)
                .await
                .is_err()
        );
    }
    assert_eq!(stage.files(), 1);
    let nobody = Listener::inherit(stage.path("door")).await;
    assert!(
        matches!(nobody, Err(InheritError::Connect(_))),
        "{nobody:?}"
    );
    connected(&listener, path.as_path()).await;
    drop(listener);
    assert_eq!(stage.files(), 0, "the file was not passed on");
}

/// Whoever offers may be cut off between the successor's word and its own look at it.
#[tokio::test]
async fn an_offer_that_is_given_up_too_late_has_been_taken() {
    let stage = Stage::new();
    let (path, door) = (stage.path("socket"), stage.path("door"));
    for says_so in [false, true] {
        let listener = Listener::bind(path.as_path()).unwrap();
        let hand_over = listener.hand_over().unwrap();
        {
            let mut offer = std::pin::pin!(hand_over.offer(door.as_path()));
            let mut successor = None;
            loop {
                let poll = std::future::poll_fn(|cx| {
                    std::task::Poll::Ready(offer.as_mut().poll(cx).is_ready())
                });
                assert!(!poll.await, "the successor has said nothing yet");
                tokio::task::yield_now().await;
                let Some(stream) = &mut successor else {
                    let stream = StdStream::connect(&door).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    successor = Some(stream);
                    continue;
                };
                if stream.read(&mut [0; 1]).is_ok() {
                    break;
                }
            }
            let mut successor = successor.unwrap();
            if says_so {
                std::io::Write::write_all(&mut successor, &[1]).unwrap();
            }
        }
        drop((listener, hand_over));
        assert_eq!(path.exists(), says_so, "whose file it is");
    }
}

/// Offers a socket to successors that fail, and then to one that does not.
#[tokio::test]
async fn successors_that_fail_are_followed_by_others() {
    let stage = Stage::new();
    let (path, door) = (stage.path("socket"), stage.path("door"));
    // What the mute one is waited for, and enough for the last.
    let time = Duration::from_secs(5);
    let config = Config::builder().handshake_timeout(time).build().unwrap();
    let listener = Listener::bind_with(path.as_path(), config).unwrap();
    let hand_over = listener.hand_over().unwrap();
    let offer = hand_over.offer(door.as_path());
    let succeed = async {
        let connect = || async {
            loop {
                match UnixStream::connect(&door).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        // One leaves at once, one takes it and leaves, one says nothing until its time is over.
        drop(connect().await);
        let taking = connect().await;
        taking.readable().await.unwrap();
        drop(taking);
        let mute = connect().await.into_std().unwrap();
        mute.set_nonblocking(false).unwrap();
        let hung_up = tokio::task::spawn_blocking(move || {
            let mut mute: StdStream = mute;
            mute.set_read_timeout(Some(LONG)).unwrap();
            mute.read_to_end(&mut Vec::new()).unwrap();
            // What it says now comes too late.
            std::io::Write::write(&mut mute, &[1]).is_err()
        });
        assert!(hung_up.await.unwrap());
        assert!(path.exists());
        Listener::inherit(door.as_path()).await.unwrap()
    };
    let (offered, successor) = tokio::join!(offer, succeed);
    offered.unwrap();
    drop(listener);
    connected(&successor, path.as_path()).await;
}

#[tokio::test]
async fn what_is_no_predecessor_is_found_out() {
    let stage = Stage::new();
    let door = stage.path("door");
    let said: [(&[u8], bool); 3] = [(&[0; 100], false), (&[9; 100], true), (b"", false)];
    for (bytes, has_descriptor) in said {
        let listener = PlainListener::bind(door.as_path()).unwrap();
        let say = async {
            let (stream, _) = listener.accept().await.unwrap();
            let socket = ControlSocket::new(stream);
            let null = std::fs::File::open("/dev/null").unwrap();
            let fds = [null.as_fd()];
            let fds = if has_descriptor { &fds[..] } else { &[] };
            if let Some((first, rest)) = bytes.split_first() {
                socket.try_send(&[*first], fds).unwrap();
                socket.try_send(rest, &[]).unwrap();
            }
        };
        let (inherited, ()) = tokio::join!(Listener::inherit(door.as_path()), say);
        let error = inherited.unwrap_err();
        assert!(
            matches!(error, InheritError::NotAPredecessor | InheritError::Closed),
            "{error:?}"
        );
    }
}

#[test]
fn threads_pass_sockets_on_and_finish_what_they_have_begun() {
    let stage = Stage::new();
    let (path, door) = (stage.path("socket"), stage.path("door"));
    let listener = threads::Listener::bind(path.as_path()).unwrap();
    let served = AtomicU32::new(0);
    let serve = |listener: &threads::Listener| loop {
        match listener.accept() {
            Ok(_) => served.fetch_add(1, Ordering::Relaxed),
            Err(AcceptError::Stopped) => return,
            Err(error) => panic!("{error}"),
        };
    };
    let (mut connects, mut current) = (0, listener);
    for _ in 0..3 {
        let hand_over = current.hand_over().unwrap();
        let soon = std::time::Instant::now() + Duration::from_millis(5);
        assert!(!hand_over.offer(door.as_path(), Some(soon)).unwrap());
        current = thread::scope(|scope| {
            scope.spawn(|| serve(&current));
            let clients: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| threads::Session::connect(path.as_path())))
                .collect();
            let offering = scope.spawn(|| hand_over.offer(door.as_path(), None));
            let successor = loop {
                match threads::Listener::inherit(door.as_path()) {
                    Err(InheritError::Connect(_)) => thread::yield_now(),
                    other => break other.unwrap(),
                }
            };
            assert!(offering.join().unwrap().unwrap());
            connects += u32::try_from(clients.len()).unwrap();
            // Some may have come to the queue when the predecessor took no more.
            while clients.iter().any(|client| !client.is_finished()) {
                let soon = std::time::Instant::now() + Duration::from_millis(1);
                if successor.accept_until(Some(soon)).unwrap().is_some() {
                    served.fetch_add(1, Ordering::Relaxed);
                }
            }
            for client in clients {
                client.join().unwrap().unwrap();
            }
            successor
        });
    }
    let soon = std::time::Instant::now() + Duration::from_millis(1);
    while current.accept_until(Some(soon)).unwrap().is_some() {
        served.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(served.load(Ordering::Relaxed), connects);
    drop(current);
    assert_eq!(stage.files(), 0);
}
