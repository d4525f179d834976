//! What a session looks like inside, to be printed.

use std::{fmt, time::Duration};

use crate::{LinkInfo, Peer, SessionLost, Stats, core::shmipc::ListEnd};

/// The most streams, leases and segments that are listed one by one.
pub(crate) const LISTED_MAX: usize = 1024;

/// The state of a live session, for people who look for what it waits for. See [`Session::debug_dump`](crate::Session::debug_dump).
///
/// Printed by `{}`, it is a text of one line per thing. Its parts are of slightly different moments.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionDump {
    /// The process on the other side.
    pub peer: Peer,
    /// The memory that carries the messages.
    pub link: LinkInfo,
    /// Why the session is over, if it is.
    pub lost: Option<SessionLost>,
    /// Whether we want no more streams, and whether the peer wants none.
    pub going_away: (bool, bool),
    /// The figures.
    pub stats: Stats,
    /// The ring that we write, and the one that the peer writes.
    pub rings: [RingDump; 2],
    /// Words of the session's own that wait for room in our ring, the first of them in words.
    pub control: Vec<String>,
    /// How many there are of those.
    pub control_waiting: usize,
    /// Senders that wait for room in our ring or for memory.
    pub senders_waiting: usize,
    /// Senders that wait until the peer accepts one more stream.
    pub openers_waiting: usize,
    /// Streams of the peer's that nobody has accepted yet.
    pub unaccepted: usize,
    /// The streams, by id: the first 1,024 that were found.
    pub streams: Vec<StreamDump>,
    /// The regions of our arena. Over shmipc's own link: the lists of slices, as far as their counts are to be believed.
    pub regions: Vec<RegionDump>,
    /// The free lists of shmipc's own link, each followed from its first slice on; none over our own link.
    pub lists: Vec<ListDump>,
    /// The segments of the peer's that we hold, the oldest first: 1,024 of them.
    pub leases: Vec<LeaseDump>,
    /// The segments of ours that the peer holds: 1,024 of them.
    pub flights: Vec<FlightDump>,
    /// Who looks after the session.
    pub driver: DriverDump,
}

/// One direction of a session.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RingDump {
    /// Its length in bytes.
    pub len: u32,
    /// Where the next record is written, in bytes counted without end. `None` where only the peer knows.
    pub written: Option<u32>,
    /// How far the reader says that it has read, counted in the same way. A peer may say anything.
    pub read: u32,
    /// Bytes in use.
    pub fill: u32,
    /// Records that wait to be read, as far as they can be counted.
    pub records: Option<u32>,
    /// The reader's sleep word: odd while it sleeps, and wants to be woken.
    pub reader_sleeps: u32,
    /// The writer's word for space: odd while it waits for some.
    pub writer_starves: u32,
}

/// A stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamDump {
    /// Its number.
    pub id: u64,
    /// Messages and bytes that we may still send. Bytes may be negative after a long message.
    pub send_credit: (u32, i64),
    /// Messages and bytes that the peer may still send.
    pub recv_credit: (u32, i64),
    /// Messages that have arrived and were not taken.
    pub messages_queued: usize,
    /// Their bytes.
    pub bytes_queued: usize,
    /// Whether we have ended our direction, and whether the peer has ended its own.
    pub ended: (bool, bool),
    /// Whether it was given up before both had ended.
    pub is_over: bool,
    /// Whether somebody here waits for credit to send.
    pub sender_waits: bool,
    /// Whether somebody here waits for a message.
    pub receiver_waits: bool,
}

/// A region of our arena.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegionDump {
    /// Its number.
    pub id: u32,
    /// Its length in bytes.
    pub len: u32,
    /// Bytes of it that are in use, in whole blocks.
    pub used: u32,
    /// Its free blocks by their size in bytes: how many there are of each size. Empty for a region that is one block.
    pub free: Vec<(u32, u32)>,
}

/// A free list of shmipc's own link, which both sides change while it is looked at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ListDump {
    /// Its number.
    pub id: u32,
    /// Bytes that each of its slices can hold.
    pub capacity: u32,
    /// Its slices, whoever has them.
    pub slices: u32,
    /// How many it says are free.
    pub says: i32,
    /// Where the first and the last free one lie, in bytes from the first slice of the list.
    pub head: u32,
    /// See [`head`](Self::head).
    pub tail: u32,
    /// How many free ones were found, one after the other.
    pub found: u32,
    /// Where that has ended.
    pub end: ListEnd,
    /// Slices that this side holds: of messages, received or being written, and those that it keeps for the next ones.
    pub held: u32,
}

impl ListDump {
    /// Slices that are neither free nor held by this side: the peer holds them, they are under way, or they are lost. `None` if the list
    /// could not be followed to its end. If nothing goes on in the session, and the peer
    /// holds nothing, they are lost.
    #[must_use]
    pub fn elsewhere(&self) -> Option<u32> {
        let here = self.found.saturating_add(self.held);
        (self.end == ListEnd::Last).then(|| self.slices.saturating_sub(here))
    }
}

/// A segment of the peer's that we hold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LeaseDump {
    /// The peer's number of the region. Over shmipc's own link, where all lie in one: the number of the list that the slice is of.
    pub region: u32,
    /// Where it begins in the region, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
    /// For how long we have been holding it, to 10 ms.
    pub age: Duration,
    /// Whether a part of it has been sent back to its owner.
    pub sent_back: bool,
}

/// A segment of ours that the peer holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlightDump {
    /// The name by which it will come back.
    pub token: u32,
    /// Our number of the region.
    pub region: u32,
    /// Where it begins in the region, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
    /// Whether it lies in another session's memory.
    pub is_forwarded: bool,
}

/// Who looks after a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DriverDump {
    /// Whether a task does, or the threads that wait.
    pub is_task: bool,
    /// Those who wait for something to arrive.
    pub waiting: u32,
    /// Those, and who has not taken yet what has arrived.
    pub engaged: u32,
    /// How the next wait begins. `None` if the ring is being looked at right now.
    pub policy: Option<String>,
}

impl fmt::Display for SessionDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stats, driver, .. } = self;
        write!(f, "session with {}, link: {}", self.peer, self.link)?;
        match &self.lost {
            Some(lost) => write!(f, ", over: {lost}")?,
            None => f.write_str(", open")?,
        }
        for (goes, who) in [(self.going_away.0, "we"), (self.going_away.1, "the peer")] {
            if goes {
                write!(f, ", {who} asked for no more streams")?;
            }
        }
        writeln!(f)?;
        let [ours, theirs] = &self.rings;
        writeln!(f, "our ring: {ours}, at most {}", stats.ring_fill_max)?;
        writeln!(
            f,
            "peer's ring: {theirs}, at most {}",
            stats.peer_ring_fill_max
        )?;
        self.fmt_waiting(f)?;
        writeln!(
            f,
            "streams: {} open, {} opened, {} accepted, {} not accepted yet",
            stats.streams_open, stats.streams_opened, stats.streams_accepted, self.unaccepted
        )?;
        list(f, &self.streams, stats.streams_open)?;
        writeln!(
            f,
            "arena: {} bytes mapped, {} used, {} at most, of {}",
            stats.arena_mapped, stats.arena_used, stats.arena_used_max, stats.arena_len_max
        )?;
        list(f, &self.regions, self.regions.len())?;
        if !self.lists.is_empty() {
            f.write_str("free lists:\n")?;
            list(f, &self.lists, self.lists.len())?;
        }
        writeln!(f, "leases: {} segments of the peer's", stats.leases_held)?;
        list(f, &self.leases, stats.leases_held)?;
        writeln!(f, "flights: {} segments of ours", stats.segments_under_way)?;
        let under_way = usize::try_from(stats.segments_under_way).unwrap_or(usize::MAX);
        list(f, &self.flights, under_way)?;
        writeln!(
            f,
            "messages: {} sent ({} bytes), {} received ({} bytes)",
            stats.messages_sent, stats.bytes_sent, stats.messages_received, stats.bytes_received
        )?;
        let policy = driver
            .policy
            .as_deref()
            .unwrap_or("looking at the ring now");
        write!(
            f,
            "driver: {}, {} waiting, {} engaged, {policy}, {} spins hit, {} missed",
            if driver.is_task { "task" } else { "threads" },
            driver.waiting,
            driver.engaged,
            stats.spins_hit,
            stats.spins_missed,
        )
    }
}

impl SessionDump {
    fn fmt_waiting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        writeln!(
            f,
            "waiting: {} for space, {} to open; so far {} for the ring, {} for credit, {} for memory, {} to open",
            self.senders_waiting,
            self.openers_waiting,
            stats.waits_ring,
            stats.waits_credit,
            stats.waits_memory,
            stats.waits_streams
        )?;
        writeln!(
            f,
            "wakes: {} sent, {} received, {} avoided",
            stats.doorbells_rung, stats.doorbells_heard, stats.wakes_avoided
        )?;
        writeln!(f, "control records waiting: {}", self.control_waiting)?;
        list(f, &self.control, self.control_waiting)
    }
}

/// One line each, and one that says how many more there are.
fn list(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display], total: usize) -> fmt::Result {
    for item in items {
        writeln!(f, "  {item}")?;
    }
    match total.saturating_sub(items.len()) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more"),
    }
}

impl fmt::Display for RingDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes in use", self.fill, self.len)?;
        if let Some(records) = self.records {
            write!(f, " by {records} records")?;
        }
        if let Some(written) = self.written {
            write!(f, ", written to {written}")?;
        }
        let asleep = |word: u32| if word & 1 == 1 { "yes" } else { "no" };
        write!(
            f,
            ", read to {}, reader sleeps: {} ({}), writer starves: {} ({})",
            self.read,
            asleep(self.reader_sleeps),
            self.reader_sleeps,
            asleep(self.writer_starves),
            self.writer_starves
        )
    }
}

impl fmt::Display for StreamDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            send_credit: (send_messages, send_bytes),
            recv_credit: (recv_messages, recv_bytes),
            ..
        } = self;
        write!(
            f,
            "stream {}: may send {send_messages} messages, {send_bytes} bytes; may receive {recv_messages} messages, {recv_bytes} bytes; {} queued ({} bytes)",
            self.id, self.messages_queued, self.bytes_queued
        )?;
        let states = [
            (self.ended.0, "we have ended"),
            (self.ended.1, "the peer has ended"),
            (self.is_over, "given up"),
            (self.sender_waits, "a sender waits for credit"),
            (self.receiver_waits, "a receiver waits"),
        ];
        let held = states.into_iter().filter(|(holds, _)| *holds);
        held.into_iter()
            .try_for_each(|(_, state)| write!(f, "; {state}"))
    }
}

impl fmt::Display for RegionDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "region {}: {} of {} bytes used",
            self.id, self.used, self.len
        )?;
        for (i, (size, count)) in self.free.iter().enumerate() {
            write!(
                f,
                "{} {count} × {size}",
                if i == 0 { "; free:" } else { "," }
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for ListDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "list {} of {} × {}: {} free as it says, {} found from {} on, last {}; {} held here",
            self.id,
            self.slices,
            self.capacity,
            self.says,
            self.found,
            self.head,
            self.tail,
            self.held
        )?;
        match (self.elsewhere(), self.end) {
            (Some(0), _) => Ok(()),
            (Some(elsewhere), _) => write!(f, "; {elsewhere} elsewhere: with the peer, or lost"),
            (None, ListEnd::Cut) => f.write_str("; it is cut there"),
            (None, ListEnd::Astray) => f.write_str("; it leads astray there"),
            (None, ListEnd::Circle) => f.write_str("; it goes round in a circle"),
            (None, _) => f.write_str("; and more"),
        }
    }
}

impl fmt::Display for LeaseDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            region,
            offset,
            len,
            ..
        } = self;
        write!(
            f,
            "{len} bytes at {offset} of region {region}, held for {:.3} s",
            self.age.as_secs_f64()
        )?;
        f.write_str(if self.sent_back { ", sent back" } else { "" })
    }
}

impl fmt::Display for FlightDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            token,
            region,
            offset,
            len,
            is_forwarded,
        } = self;
        write!(
            f,
            "{len} bytes at {offset} of region {region}, token {token:#010x}"
        )?;
        f.write_str(if *is_forwarded {
            ", of another session"
        } else {
            ""
        })
    }
}
