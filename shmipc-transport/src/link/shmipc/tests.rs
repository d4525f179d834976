//! The link by itself, with an honest view of what its peer sees.

use std::{
    io::Read, mem, os::unix::net::UnixStream as StdStream, sync::atomic::AtomicUsize, task::Wake,
};

use super::*;
use crate::{
    core::{
        outbox::flags,
        shmipc::{
            Consumer, Element, Geometry, InvalidShmipc, Producer, QueueLayout, QueuePlan, Slices,
            frames::{Deframer, Frame},
            state,
        },
        waiters::Ticket,
    },
    link::{Arrival, Control},
    sys::{endpoint::Connection, regions},
};

/// What versions 2 and 3 come with.
const LEGACY: Terms = Terms {
    wakes: Wakes::Socket,
    windows: None,
};

const VERY_LONG: Duration = Duration::from_secs(3600);

/// A link, and what its peer has of it.
struct Scene {
    link: Arc<ShmipcLink>,
    rx: Rx,
    from_us: Consumer<SharedRegion>,
    to_us: Producer<SharedRegion>,
    pool: Pool<SharedRegion>,
    socket: StdStream,
    deframer: Deframer,
}

/// The link of a client that speaks our records, if `windows` are said, and what everybody speaks otherwise.
fn scene(version: u8, windows: Option<Windows>, wakes: Wakes) -> Scene {
    let terms = Terms { wakes, windows };
    scene_of(true, version, terms, Vec::new())
}

fn scene_of(is_client: bool, version: u8, terms: Terms, files: Vec<NamedRegion>) -> Scene {
    const BUFFER_LEN: u32 = 64 << 10;
    let (layout, plan) = (QueueLayout::of(version), QueuePlan::new(16));
    let mapped = |len| regions::create_memfd("test", len).unwrap().0;
    let (buffers, queues) = (mapped(BUFFER_LEN), mapped(plan.len()).region);
    let (owner, buffers) = (buffers.owner, buffers.region);
    let geometry = Geometry::plan(BUFFER_LEN, &[(1024, 100)]).unwrap();
    let parts = ShmipcParts {
        version,
        is_client,
        terms,
        mapping: ShmipcMapping::Memfd,
        pool: Pool::create(buffers.clone(), geometry),
        owner,
        queues: Queues::create(queues.clone(), plan, layout),
        bell: None,
        files,
    };
    let theirs = Queues::open(queues, layout).unwrap();
    let (ours, socket) = StdStream::pair().unwrap();
    let ours = Connection::Unix(ours);
    ours.prepare().unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket_of_link = Arc::new(ControlSocket::bare(ours));
    let peer = Peer::new(1, owner, owner);
    let (link, rx) = ShmipcLink::new(parts, socket_of_link, Payloads::Guarded, 128 << 20, &peer);
    Scene {
        link: Arc::new(link),
        rx,
        from_us: theirs.to_server.into_consumer(),
        to_us: theirs.to_client.into_producer(),
        pool: Pool::open(buffers).unwrap(),
        socket,
        deframer: Deframer::default(),
    }
}

impl Scene {
    fn native() -> Self {
        scene(3, None, Wakes::Socket)
    }

    fn with_records() -> Self {
        scene(4, Some(Windows::UNLIMITED), Wakes::Socket)
    }

    /// Takes all slices.
    fn exhaust(&self) -> Vec<Slices> {
        std::iter::from_fn(|| self.link.take_slices(1)).collect()
    }

    /// Sends a message of a few bytes. Returns whether there was a place for it.
    fn send(&self, stream: u64) -> bool {
        let reserved = self.link.reserve(&mut self.link.tx(), 4, StreamId(stream));
        let Some(mut message) = reserved.unwrap() else {
            return false;
        };
        message.body().fill(7);
        message.commit(flags::MESSAGE);
        true
    }

    /// The next message on the socket, if there is one.
    fn heard(&mut self) -> Option<Frame> {
        loop {
            let mut buffer = vec![0; self.deframer.wanted()];
            let len = self.socket.read(&mut buffer).ok()?;
            if let Some(frame) = self.deframer.push(&buffer[..len]).unwrap() {
                return Some(frame);
            }
        }
    }

    /// The ping that is answered now, if one is.
    fn answered(&mut self) -> Option<u64> {
        let link = Arc::clone(&self.link);
        match link.take(self.rx()).unwrap() {
            Some(Arrival::Pong { nonce }) => Some(nonce),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }

    fn rx(&mut self) -> &mut ShmipcRx {
        match &mut self.rx {
            Rx::Shmipc(rx) => rx,
            Rx::Outbox(_) => panic!("the link made it"),
        }
    }
}

#[test]
fn answers_that_nobody_reads_are_not_kept_for_ever() {
    let scene = Scene::with_records();
    let _all = scene.exhaust();
    assert!(scene.send(1), "it falls back");
    let end = (1..1 << 19).find_map(|nonce| scene.link.control(Control::Pong { nonce }).err());
    assert!(
        matches!(end, Some(PeerMisbehaved::NotConsuming { .. })),
        "{end:?}"
    );
    assert!(scene.link.tx().unsent.len() <= 257 << 10);
}

#[test]
fn answers_that_wait_come_in_order_and_before_the_goodbye() {
    const COUNT: u64 = 50_000;
    let mut scene = Scene::with_records();
    let _all = scene.exhaust();
    assert!(scene.send(1), "it falls back");
    for nonce in 1..=COUNT {
        scene.link.control(Control::Pong { nonce }).unwrap();
    }
    scene.link.control(Control::Bye).unwrap();
    // As when the session is closed now.
    scene.link.sever();
    let mut heard = Vec::new();
    loop {
        while let Some(frame) = scene.heard() {
            heard.push(frame);
        }
        if !scene.link.has_unsent() {
            break;
        }
        scene.link.send_unsent();
    }
    let heard: Vec<_> = heard
        .into_iter()
        .map(|frame| match frame {
            Frame::Fallback {
                stream,
                status,
                payload,
            } => {
                let offset = record::offset_in(&payload).unwrap();
                let element = Element {
                    stream,
                    offset,
                    status,
                };
                Record::of(&element).unwrap()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let pongs = (1..=COUNT).map(|nonce| Record::Pong { nonce });
    assert_eq!(
        heard.len() as u64,
        COUNT + 2,
        "a message before, a goodbye behind"
    );
    assert!(
        heard[1..]
            .iter()
            .eq(pongs.chain([Record::Bye]).collect::<Vec<_>>().iter())
    );
}

#[test]
fn a_peer_that_is_to_be_woken_already_is_not_woken_again() {
    let mut scene = Scene::native();
    for stream in 2..100_002 {
        let (stream, code) = (StreamId(stream), 0);
        scene.link.control(Control::Reset { stream, code }).unwrap();
        let element = scene.from_us.take().unwrap().expect("a close");
        assert_eq!(element.status, state::CLOSED);
        // It says that it sleeps, and reads nothing.
        scene.from_us.arm();
    }
    assert!(scene.link.tx().unsent.len() < 1024);
    // Once it reads, it is woken for what it has not taken.
    while scene.heard().is_some() {}
    let (stream, code) = (StreamId(2), 0);
    scene.link.send_unsent();
    while scene.heard().is_some() {}
    scene.link.control(Control::Reset { stream, code }).unwrap();
    assert_eq!(scene.heard(), Some(Frame::Polling));
}

#[test]
fn a_ping_of_a_native_session_is_answered_while_more_is_sent_all_the_time() {
    let mut scene = Scene::native();
    let link = Arc::clone(&scene.link);
    for _ in 0..8 {
        assert!(scene.send(2));
    }
    link.control(Control::Ping { nonce: 1 }).unwrap();
    link.control(Control::Ping { nonce: 2 }).unwrap();
    for taken in 0..8 {
        assert_eq!(scene.answered(), None, "{taken} of 8 were taken");
        assert!(scene.from_us.take().unwrap().is_some());
        assert!(scene.send(2), "the queue is never empty");
    }
    assert_eq!(scene.answered(), Some(1));
    assert_eq!(scene.answered(), Some(2));
    assert_eq!(scene.answered(), None);
    link.control(Control::Ping { nonce: 3 }).unwrap();
    assert_eq!(scene.answered(), None, "there is more before this one");
}

#[test]
fn a_ping_of_a_native_session_is_answered_while_the_socket_is_always_full() {
    let mut scene = Scene::native();
    let _all = scene.exhaust();
    while !scene.link.has_unsent() {
        assert!(scene.send(2));
    }
    scene.link.control(Control::Ping { nonce: 1 }).unwrap();
    let waiting = scene.link.tx().unsent.len();
    assert_eq!(scene.answered(), None);
    let mut read = 0;
    while scene.answered().is_none() {
        assert!(read < 64 << 20, "it was read long ago");
        let mut buffer = [0; 4096];
        read += scene.socket.read(&mut buffer).unwrap();
        scene.link.send_unsent();
        while !scene.link.has_unsent() {
            assert!(scene.send(2));
        }
    }
    assert!(waiting <= read, "not before the socket has taken them");
}

#[test]
fn a_ping_of_a_native_session_is_answered_while_much_is_held() {
    let mut scene = Scene::native();
    let _held = scene.link.budget.charge(vec![0; 64 << 20]);
    scene.link.control(Control::Ping { nonce: 1 }).unwrap();
    assert_eq!(scene.answered(), Some(1));
}

#[test]
fn hazard_c1_a_first_fallback_waits_for_one_more_interval() {
    for (interval, may_pass) in [(VERY_LONG, false), (Duration::from_millis(1), true)] {
        let mut scene = scene(4, None, Wakes::Polling(interval));
        assert!(scene.send(2));
        let _all = scene.exhaust();
        assert!(!scene.send(2), "the peer has taken nothing");
        assert!(scene.from_us.take().unwrap().is_some());
        // It may be about to hand out what it has taken.
        let start = std::time::Instant::now();
        let has_passed = loop {
            if scene.send(2) {
                break true;
            }
            if !may_pass || Duration::from_secs(60) < start.elapsed() {
                break false;
            }
            std::thread::yield_now();
        };
        assert_eq!(has_passed, may_pass, "{interval:?}");
        let heard = scene.heard();
        assert_eq!(matches!(heard, Some(Frame::Fallback { .. })), may_pass);
    }
}

#[test]
fn hazard_c1_a_peer_that_is_never_done_has_handed_out_what_it_took_before() {
    let mut scene = scene(4, None, Wakes::EventFd);
    assert!(scene.send(2));
    let _all = scene.exhaust();
    scene.from_us.disarm();
    assert!(scene.from_us.take().unwrap().is_some());
    assert!(!scene.send(2), "it has just been taken");
    let (stream, code) = (StreamId(4), 0);
    scene.link.control(Control::Reset { stream, code }).unwrap();
    assert!(!scene.send(2), "and nothing since");
    assert!(scene.from_us.take().unwrap().is_some());
    assert!(scene.send(2));
    // Without an eventfd, it was woken over the socket before.
    let last = std::iter::from_fn(|| scene.heard()).last();
    assert!(matches!(last, Some(Frame::Fallback { stream: 2, .. })));
}

#[test]
fn hazard_c1_where_nothing_was_published_a_fallback_overtakes_nothing() {
    let mut scene = scene(4, None, Wakes::Polling(VERY_LONG));
    let _all = scene.exhaust();
    assert!(scene.send(2));
    assert!(matches!(
        scene.heard(),
        Some(Frame::Fallback { stream: 2, .. })
    ));
    assert!(scene.send(2), "its stream stays there");
}

#[test]
fn hazard_h45_what_a_peer_has_left_is_taken_however_much_is_held() {
    let mut scene = Scene::native();
    let link = Arc::clone(&scene.link);
    let _held = link.budget.charge(vec![0; 64 << 20]);
    let mut slices = scene.pool.take_for(3).unwrap().unwrap();
    slices[0].1 = 3;
    scene.to_us.put(Element {
        stream: 2,
        offset: scene.pool.link(mem::take(&mut slices)),
        status: state::OPEN,
    });
    let fallback = Frame::Fallback {
        stream: 2,
        status: state::OPEN,
        payload: b"late".to_vec(),
    };
    std::io::Write::write_all(&mut scene.socket, &fallback.encode(3)).unwrap();
    drop(mem::replace(
        &mut scene.socket,
        StdStream::pair().unwrap().0,
    ));
    assert!(
        link.receive_frames(scene.rx()).unwrap(),
        "it is left in the socket"
    );
    assert!(
        link.take(scene.rx()).unwrap().is_none(),
        "it is left in the queue"
    );
    link.hear_out();
    let mut lens = Vec::new();
    for _ in 0..3 {
        link.receive_frames(scene.rx()).unwrap();
        match link.take(scene.rx()).unwrap() {
            Some(Arrival::Message { message, .. }) => {
                lens.push(message.unwrap().len());
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    assert_eq!(lens, [3, 4]);
}

#[test]
fn hazard_h42_files_lose_their_names_when_they_are_known_to_be_mapped() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let names = || std::fs::read_dir(directory.path()).unwrap().count();
    let scene = || {
        let (_, file) = regions::create_file(directory.path(), "file", 4096).unwrap();
        scene_of(true, 2, LEGACY, vec![file])
    };

    let mut heard = scene();
    let link = Arc::clone(&heard.link);
    assert!(link.receive_frames(heard.rx()).unwrap());
    assert_eq!((names(), link.tick()), (1, None), "nothing shows it");
    std::io::Write::write_all(&mut heard.socket, &Frame::Polling.encode(2)).unwrap();
    assert!(link.receive_frames(heard.rx()).unwrap());
    assert_eq!(names(), 0);

    let mut taken = scene();
    assert!(taken.send(2));
    taken.link.ticked().unwrap();
    assert_eq!((names(), taken.link.tick()), (1, Some(LOOK_AGAIN)));
    assert!(taken.from_us.take().unwrap().is_some());
    taken.link.ticked().unwrap();
    assert_eq!((names(), taken.link.tick()), (0, None));

    // A server that has not come to it yet is still waited for.
    let over = scene();
    over.link.sever();
    assert_eq!(names(), 1);
    drop(over);
    assert_eq!(names(), 0);
}

#[test]
fn hazard_h50_nobody_looks_unasked_but_a_server_whose_client_may_forget_to_wake_it() {
    let tick = |is_client, version, wakes, windows| {
        let scene = scene_of(is_client, version, Terms { wakes, windows }, Vec::new());
        scene.link.tick()
    };
    for (version, wakes) in [(2, Wakes::Socket), (3, Wakes::Socket), (4, Wakes::EventFd)] {
        assert_eq!(tick(true, version, wakes, None), None);
        let seldom = tick(false, version, wakes, None).unwrap();
        assert!(
            Duration::from_secs(1) < seldom,
            "an idle session costs no time"
        );
    }
    assert_eq!(
        tick(false, 4, Wakes::EventFd, Some(Windows::UNLIMITED)),
        None
    );
}

/// How often somebody was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn hazard_h44_who_has_something_to_do_is_woken_for_it() {
    let wakes = |to_do: fn(&Scene)| {
        let (scene, woken) = (Scene::native(), Arc::new(Woken::default()));
        scene.link.watch_growth(&Waker::from(Arc::clone(&woken)));
        to_do(&scene);
        woken.0.load(Ordering::Relaxed)
    };
    assert_eq!(wakes(|_| {}), 0);
    let ends = |scene: &Scene| {
        scene
            .link
            .blame(InvalidShmipc::QueueRegion { len: 0 }.into())
    };
    assert_ne!(wakes(ends), 0, "the session is to end");
    let asks = |scene: &Scene| scene.link.control(Control::Ping { nonce: 1 }).unwrap();
    assert_ne!(wakes(asks), 0, "an answer is to be looked for");
    let waits = |scene: &Scene| scene.link.wait_for_space(Ticket(1), Waker::noop());
    assert_ne!(wakes(waits), 0, "room is to be looked for");
    let fills = |scene: &Scene| {
        let _all = scene.exhaust();
        while !scene.link.has_unsent() {
            assert!(scene.send(2));
        }
    };
    assert_ne!(wakes(fills), 0, "the socket is full");

    let (scene, woken) = (Scene::native(), Arc::new(Woken::default()));
    let waker = Waker::from(Arc::clone(&woken));
    scene.link.wait_for_space(Ticket(1), &waker);
    scene.link.sever();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "there will be no room");
}
