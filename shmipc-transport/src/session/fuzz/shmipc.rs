//! The same over shmipc's own link, whose queues, free lists and slices both sides write.
//!
//! The villain has an honest view of its own of all that, so that it can take slices, fill them and send them as it should. And it writes
//! any value to any word, with a liking for heads of lists and of slices, and for values that are offsets of slices.

use std::{io::Write, os::unix::net::UnixStream as StdStream, sync::Arc};

use tokio::net::UnixStream;

use super::{Ours, RUNTIME, STEPS_MAX, Script, Shared, WINDOWS};
use crate::{
    Config, Payloads, Peer, ShmipcMapping, Wait,
    core::{
        mem::SharedRegion,
        num::{index, u32_len},
        outbox::Windows,
        shmipc::{
            ChainLimits, Consumer, Element, Geometry, Pool, Producer, QueueLayout, QueuePlan,
            Queues, Slice,
            frames::FALLBACK_HEADER_LEN,
            terms::{Terms, Wakes},
        },
        sync::Ordering,
    },
    link::{Link, ShmipcLink, ShmipcParts},
    sys::{regions, socket::ControlSocket},
};

const BUFFER_LEN: u32 = 64 << 10;

/// Less than fits into the region.
const MESSAGE_MAX: u32 = 8 << 10;

/// Capacities of slices, and their shares in percent.
const SLICES: &[(u32, u32)] = &[(64, 10), (1024, 40), (4096, 50)];

/// Heads of a region, a list, and a slice.
const HEADS: [u32; 3] = [8, 36, 20];

/// Plays the script that `data` holds: the body of the fuzz target for sessions of shmipc's own link.
pub fn fuzz_shmipc_session(data: &[u8]) {
    let _entered = RUNTIME.enter();
    let mut script = Script(data);
    let Some((mut ours, mut villain)) = begin(&mut script) else {
        return;
    };
    for _ in 0..STEPS_MAX {
        if script.0.is_empty() || ours.is_lost() {
            break;
        }
        match script.byte() % 16 {
            step @ 0..=8 => villain.step(step, &mut script),
            step => ours.step(step, &mut script),
        }
        ours.look();
    }
    ours.end();
}

/// The peer, with an honest view of what both share.
struct Villain {
    buffers: SharedRegion,
    queues: SharedRegion,
    /// Where each list lies, and the capacity and number of its slices.
    lists: Vec<(u32, u32, u32)>,
    pool: Pool<SharedRegion>,
    to_us: Producer<SharedRegion>,
    from_us: Consumer<SharedRegion>,
    held: Vec<Slice>,
    socket: StdStream,
    version_byte: u8,
}

/// Joins the two, in either dialect and role. `None` if the villain's regions were refused.
fn begin(script: &mut Script<'_>) -> Option<(Ours, Villain)> {
    let choice = script.byte();
    let has = |bit: u8| choice & bit != 0;
    let (is_native, is_client, is_forged) = (!has(1), has(2), has(16));
    let version = if is_native { 3 } else { 4 };
    let (layout, plan) = (QueueLayout::of(version), QueuePlan::new(16));
    let mapped = |len| {
        regions::create_memfd("fuzz", len)
            .expect("memory for a test")
            .0
    };
    let (buffers, queues) = (mapped(BUFFER_LEN), mapped(plan.len()).region);
    let (owner, buffers) = (buffers.owner, buffers.region);
    let geometry = Geometry::plan(BUFFER_LEN, SLICES).expect("slices that fit");
    let created = (
        Pool::create(buffers.clone(), geometry),
        Queues::create(queues.clone(), plan, layout),
    );
    let (mine, lists) = (&created.0, lists(created.0.geometry()));
    let their_pool = Pool::open(mine.memory().clone()).expect("it is in order so far");
    let their_queues = Queues::open(queues.clone(), layout).expect("they are in order so far");
    let ((pool, parts_queues), (villains_pool, villains)) = if is_client {
        (created, (their_pool, their_queues))
    } else {
        if is_forged {
            forge(script, &buffers, &queues);
        }
        // What the villain has made is verified only now.
        let opened = (
            Pool::open(buffers.clone()).ok()?,
            Queues::open(queues.clone(), layout).ok()?,
        );
        (opened, created)
    };
    let (to_us, from_us) = if is_client {
        (villains.to_client, villains.to_server)
    } else {
        (villains.to_server, villains.to_client)
    };
    let parts = ShmipcParts {
        version,
        is_client,
        terms: Terms {
            wakes: Wakes::Socket,
            windows: (!is_native).then_some(WINDOWS),
        },
        mapping: ShmipcMapping::Memfd,
        pool,
        owner,
        queues: parts_queues,
        bell: None,
        files: Vec::new(),
    };
    let (shared, socket) = session(parts, has(4), has(8));
    let villain = Villain {
        buffers,
        queues,
        lists,
        pool: villains_pool,
        to_us: to_us.into_producer(),
        from_us: from_us.into_consumer(),
        held: Vec::new(),
        socket,
        version_byte: if is_native { 3 } else { 0 },
    };
    Some((Ours::new(shared), villain))
}

/// A session, and the other end of its socket.
fn session(parts: ShmipcParts, is_guarded: bool, spins: bool) -> (Arc<Shared>, StdStream) {
    let payloads = if is_guarded {
        Payloads::Guarded
    } else {
        Payloads::Auto
    };
    let wait = if spins { Wait::Busy } else { Wait::Block };
    let builder = Config::builder().wait(wait).payloads(payloads);
    let config = builder.streams_max(WINDOWS.streams_max).build();
    let config = config.expect("these settings make sense");
    let (ours, socket) = StdStream::pair().expect("sockets for a test");
    for socket in [&ours, &socket] {
        socket.set_nonblocking(true).expect("sockets can do that");
    }
    let ours = ControlSocket::new(UnixStream::from_std(ours).expect("a runtime was entered"));
    let user = nix::unistd::geteuid().as_raw();
    let peer = Peer::new(1, user, user);
    let is_client = parts.is_client;
    let windows = parts.terms.windows.unwrap_or(Windows::UNLIMITED);
    let (link, rx) = ShmipcLink::new(parts, Arc::new(ours), payloads, MESSAGE_MAX, &peer);
    let link = Link::Shmipc(Arc::new(link));
    let shared = Shared::new(link, rx, config, peer, windows, is_client, None);
    (Arc::new(shared), socket)
}

/// Changes a few words of what the villain has laid out.
fn forge(script: &mut Script<'_>, buffers: &SharedRegion, queues: &SharedRegion) {
    for _ in 0..script.byte() % 8 {
        let region = if script.byte().is_multiple_of(2) {
            buffers
        } else {
            queues
        };
        let at = 4 * (script.number() % (u32_len(region.len()) / 4));
        let value = script.number();
        region.word(at).store(value, Ordering::Release);
    }
}

/// Where lists lie, which says nothing of them but their order.
fn lists(geometry: &Geometry) -> Vec<(u32, u32, u32)> {
    let mut at = HEADS[0];
    let mut lists = Vec::new();
    for list in geometry.lists() {
        lists.push((at, list.capacity, list.count));
        at += HEADS[1] + list.count * (list.capacity + HEADS[2]);
    }
    lists
}

impl Villain {
    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step {
            0 | 1 => self.message(script),
            2 => self.element(script),
            3 => self.write(script),
            4 => self.claim(script),
            5 => self.frame(script),
            6 => self.blurt(script),
            7 => self.consume(script),
            _ => self.shuffle(script),
        }
    }

    /// A message as an honest peer sends it, on any stream and with any status.
    fn message(&mut self, script: &mut Script<'_>) {
        let stream = script.number();
        let status = Self::status(script);
        let len = u32::from(script.half()) % 9000;
        let Ok(Some(mut slices)) = self.pool.take_for(len.max(1)) else {
            return;
        };
        let mut left = len;
        for (slice, written) in &mut slices {
            *written = left.min(slice.capacity());
            self.pool.write(slice, 0, &vec![7; index(*written)]);
            left -= *written;
        }
        let offset = self.pool.link(slices);
        self.to_us.put(Element {
            stream,
            offset,
            status,
        });
    }

    /// Mostly what everybody says, and sometimes anything.
    fn status(script: &mut Script<'_>) -> u32 {
        match script.byte() {
            choice @ 0..0x80 => u32::from(choice % 16) << 8,
            0xff => script.word(),
            choice => u32::from(choice) | u32::from(script.half()) << 16,
        }
    }

    /// An element that leads anywhere.
    fn element(&mut self, script: &mut Script<'_>) {
        let stream = script.number();
        let offset = self.value(script);
        let status = Self::status(script);
        self.to_us.put(Element {
            stream,
            offset,
            status,
        });
    }

    /// Writes a word of the buffer region.
    fn write(&self, script: &mut Script<'_>) {
        let choice = script.byte();
        let at = match choice % 4 {
            0 => self.list(script).0 + 4 * u32::from(script.byte() % 9),
            1 | 2 => self.slice(script).0 + 4 * u32::from(script.byte() % 5),
            _ => script.number(),
        };
        let at = at % u32_len(self.buffers.len()) / 4 * 4;
        let value = self.value(script);
        self.buffers.word(at).store(value, Ordering::Release);
    }

    /// A number, with a liking for those that mean something.
    fn value(&self, script: &mut Script<'_>) -> u32 {
        match script.byte() % 5 {
            0 => script.number(),
            1 => self.slice(script).0,
            2 => self.slice(script).1.wrapping_add(script.number()),
            3 => self.list(script).1.wrapping_add(script.number()),
            _ => 0u32.wrapping_sub(script.number()),
        }
    }

    fn list(&self, script: &mut Script<'_>) -> (u32, u32, u32) {
        self.lists[usize::from(script.byte()) % self.lists.len()]
    }

    /// Where a slice lies in the region, and where from the first of its list.
    fn slice(&self, script: &mut Script<'_>) -> (u32, u32) {
        let (at, capacity, count) = self.list(script);
        let relative = u32::from(script.byte()) % count * (capacity + HEADS[2]);
        (at + HEADS[1] + relative, relative)
    }

    /// Moves a counter, or changes another word of the queues.
    fn claim(&self, script: &mut Script<'_>) {
        let words = u32_len(self.queues.len()) / 4;
        let at = match script.byte() {
            choice @ 0..0xc0 => u32::from(choice % 2) * (words / 2) + u32::from(choice / 2 % 6),
            _ => script.number() % words,
        };
        let word = self.queues.word(4 * at);
        let by = script.number();
        word.store(
            word.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Release,
        );
    }

    /// A message on the socket with a head that is right.
    fn frame(&self, script: &mut Script<'_>) {
        let kind = script.byte() % 12;
        let mut body = Vec::new();
        if kind == 3 {
            body.extend(script.number().to_be_bytes());
            body.extend(Self::status(script).to_be_bytes());
        } else if kind == 2 {
            body.extend(script.number().to_be_bytes());
        }
        let len = usize::from(script.byte());
        body.extend_from_slice(script.slice(len));
        let len = FALLBACK_HEADER_LEN - 8 + body.len();
        let mut bytes = u32_len(len).to_be_bytes().to_vec();
        bytes.extend([0x77, 0x58, self.version_byte, kind]);
        bytes.extend(body);
        self.say(&bytes);
    }

    /// Anything at all on the socket.
    fn blurt(&self, script: &mut Script<'_>) {
        let len = usize::from(script.byte());
        self.say(script.slice(len));
    }

    fn say(&self, bytes: &[u8]) {
        // It fails once the session is over, or the socket is full.
        let _ = (&self.socket).write(bytes);
    }

    /// Takes what we have sent, as an honest peer does, and keeps its slices or puts them back.
    fn consume(&mut self, script: &mut Script<'_>) {
        let keeps = script.byte() % 2 == 1;
        let Ok(Some(element)) = self.from_us.take() else {
            return;
        };
        let Ok(chain) = self
            .pool
            .follow(element.offset, ChainLimits::of(MESSAGE_MAX))
        else {
            return;
        };
        for piece in chain.pieces {
            if keeps {
                self.held.push(piece.slice);
            } else {
                let _ = self.pool.put(piece.slice);
            }
        }
    }

    /// Takes slices out of their lists, or puts them back.
    fn shuffle(&mut self, script: &mut Script<'_>) {
        let choice = script.byte();
        if choice.is_multiple_of(2) {
            let list = usize::from(choice / 2) % self.lists.len();
            self.held.extend(self.pool.take(list).ok().flatten());
        } else if let Some(slice) = super::pick(&mut self.held, script) {
            let _ = self.pool.put(slice);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        num::StreamId,
        shmipc::{frames::Frame, state},
    };

    #[test]
    fn what_falls_back_is_noted_of_open_streams_only() {
        let _entered = RUNTIME.enter();
        // A server, of the native dialect.
        let (ours, villain) = begin(&mut Script(&[])).unwrap();
        let say = |frame: Frame| {
            villain.say(&frame.encode(villain.version_byte));
            ours.look();
        };
        let fall_back = |stream| {
            say(Frame::Fallback {
                stream,
                status: state::OPEN,
                payload: b"long".to_vec(),
            });
        };
        let has_fallen = |stream| ours.shared.link.has_fallen(StreamId(stream));
        // Four are open, the others refused.
        (2..2000).for_each(fall_back);
        assert!(has_fallen(2) && has_fallen(5));
        assert!(!has_fallen(6) && !has_fallen(1999));
        say(Frame::Close { stream: 2 });
        fall_back(2);
        assert!(!has_fallen(2), "it is over");
        fall_back(2000);
        assert!(has_fallen(2000), "however many there were");
    }

    proptest! {
        #[test]
        fn whatever_the_villain_does_we_come_back(data: Vec<u8>) {
            fuzz_shmipc_session(&data);
        }
    }
}
