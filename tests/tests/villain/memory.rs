//! Lies about memory: the villain's own, and what its victim lent it.

use shmipc_transport::{
    HeadOverrun, PeerMisbehaved,
    PeerMisbehaved::{
        Head, OutOfRegion, RegionAnnouncement, RegionLength, Returns, TooManySegments,
        UnknownRegion, UnknownToken, Unsealed,
    },
};
use tests::{
    alone,
    villain::{MEMORY_MAX, Memory, Message, Record, Segment, Villain, YOURS, at, record},
};

use crate::{PAGE, hoarded, lies, stage::Stage, told};

#[test]
fn lies_about_the_villains_own_memory() {
    alone(async {
        told(lies! {
        "a region that never was": |v| hoarded(v, PAGE) => UnknownRegion { region: 0 },
        "a region that is gone": |v| { v.add_region(0, 4096); v.push(Record::control(record::REGION_DROPPED, 0, &[0])); hoarded(v, PAGE); }
            => UnknownRegion { region: 0 },
        "beyond the end": |v| { v.add_region(0, 4096); hoarded(v, Segment { len: 4097, ..PAGE }); } => OutOfRegion(_),
        "across the end": |v| { v.add_region(0, 4096); hoarded(v, Segment { offset: 1, ..PAGE }); } => OutOfRegion(_),
        "far beyond the end": |v| { v.add_region(0, 4096); hoarded(v, Segment { offset: u32::MAX, len: MEMORY_MAX, ..PAGE }); } => OutOfRegion(_),
        "nothing, beyond the end": |v| { v.add_region(0, 4096); hoarded(v, Segment { offset: 4097, len: 0, ..PAGE }); } => OutOfRegion(_),
        "a token twice": |v| { v.add_region(0, 4096); hoarded(v, PAGE); hoarded(v, PAGE); } => TooManySegments { .. },
        "a token twice, for other memory": |v| { v.add_region(0, 4096); hoarded(v, PAGE); hoarded(v, Segment { offset: 1, len: 9, ..PAGE }); }
            => TooManySegments { .. },
        "too many segments under way": |v| {
            v.add_region(0, 1 << 20);
            let segments: Vec<_> = (0..64).map(|token| Segment { region: 0, token, offset: 0, len: 1 }).collect();
            for round in 0..65 {
                let stream = v.open(record::MESSAGE, b"h");
                let named: Vec<_> = segments.iter().map(|s| Segment { token: s.token + 64 * round, ..*s }).collect();
                if !v.push(Record::segments(stream, &named)) {
                    return;
                }
                v.push(Record::control(record::RESET, stream, &[0]));
            }
        } => TooManySegments { .. },
        "a message longer than memory can be": |v| {
            v.add_region(0, 1 << 27);
            let segments: Vec<_> = (0..64).map(|token| Segment { region: 0, token, offset: 0, len: 1 << 27 }).collect();
            v.push(Record::segments(v.next_stream(), &segments));
        } => PeerMisbehaved::MessageLength { .. },
        "a message longer than its memory was to be": |v| {
            v.add_region(0, 1 << 27);
            let segments: Vec<_> = (0..9).map(|token| Segment { region: 0, token, offset: 0, len: MEMORY_MAX / 8 }).collect();
            v.push(Record::segments(v.next_stream(), &segments));
        } => PeerMisbehaved::MessageLength { len: 0x4800_0000 },
        "a segment longer than all memory": |v| { v.add_region(0, 4096); hoarded(v, Segment { len: MEMORY_MAX + 1, ..PAGE }); }
            => PeerMisbehaved::MessageLength { .. },
        "a region that was not passed": |v| { v.push(Record::control(record::REGION_ADDED, 0, &[0, 4096])); } => RegionAnnouncement { region: 0 },
        "a region under another id": |v| {
            v.say(&Message::region(1, 4096, vec![Memory::sealed(4096).fd()]));
            v.push(Record::control(record::REGION_ADDED, 0, &[2, 4096]));
        } => RegionAnnouncement { region: 2 },
        "a region of another length": |v| {
            v.say(&Message::region(1, 4096, vec![Memory::sealed(4096).fd()]));
            v.push(Record::control(record::REGION_ADDED, 0, &[1, 8192]));
        } => RegionAnnouncement { region: 1 },
        "a region twice": |v| { v.add_region(0, 4096); v.add_region(0, 4096); } => RegionAnnouncement { region: 0 },
        "too many regions": |v| for id in 0..1025 { v.add_region(id, 4096); } => RegionAnnouncement { .. },
        "too many regions passed": |v| {
            let memory = Memory::sealed(4096);
            for id in 0..1100 { v.say(&Message::region(id, 4096, vec![memory.fd()])); }
        } => RegionAnnouncement { .. },
        "a region dropped that never was": |v| { v.push(Record::control(record::REGION_DROPPED, 0, &[3])); } => UnknownRegion { region: 3 },
        "a region dropped twice": |v| {
            v.add_region(0, 4096);
            for _ in 0..2 { v.push(Record::control(record::REGION_DROPPED, 0, &[0])); }
        } => UnknownRegion { region: 0 },
        "an unsealed region": |v| {
            let memory = Memory::create(4096, nix::fcntl::SealFlag::F_SEAL_GROW);
            v.say(&Message::region(0, 4096, vec![memory.fd()]));
        } => Unsealed { .. },
        "a region of another length than its file": |v| v.say(&Message::region(0, 8192, vec![Memory::sealed(4096).fd()]))
            => RegionLength { claimed: 8192, actual: 4096 },
        "an empty region": |v| v.say(&Message::region(0, 0, vec![Memory::sealed(0).fd()])) => RegionLength { .. },
    })
    .await;
    });
}

/// The segment that the victim has sent at the beginning.
fn lent(villain: &mut Villain) -> Segment {
    villain.message().named()[0]
}

/// Has the victim use its memory, and so look at what has come back.
fn prod(villain: &mut Villain) {
    villain.open(record::MESSAGE, b"a");
}

/// Sends a segment of the victim's memory back to it.
fn send_back(villain: &mut Villain, change: impl Fn(&mut Segment)) {
    let mut segment = lent(villain);
    change(&mut segment);
    segment.region |= YOURS;
    villain.push(Record::segments(villain.next_stream(), &[segment]));
}

#[test]
fn lies_about_the_victims_memory() {
    alone(async {
        told(lies! {
        "a token that never was": |v| send_back(v, |s| s.token += 1) => UnknownToken { .. },
        "a token of another generation": |v| send_back(v, |s| s.token ^= 1 << 16) => UnknownToken { .. },
        "another region": |v| send_back(v, |s| s.region += 1) => UnknownToken { .. },
        "before its start": |v| send_back(v, |s| s.offset = s.offset.wrapping_sub(1)) => UnknownToken { .. },
        "beyond its end": |v| send_back(v, |s| s.len += 1) => UnknownToken { .. },
        "far beyond its end": |v| send_back(v, |s| { s.offset = u32::MAX; s.len = MEMORY_MAX }) => UnknownToken { .. },
        "after its return": |v| {
            let segment = lent(v);
            v.push(Record::control(record::RETURN, 0, &[segment.token]));
            let yours = Segment { region: segment.region | YOURS, ..segment };
            v.push(Record::segments(v.next_stream(), &[yours]));
        } => UnknownToken { .. },
        "a return record of nothing": |v| { v.push(Record::control(record::RETURN, 0, &[5])); } => UnknownToken { token: 5 },
        "a return record twice": |v| {
            let token = lent(v).token;
            for _ in 0..2 { v.push(Record::control(record::RETURN, 0, &[token])); }
        } => UnknownToken { .. },
        "a return of an unknown token": |v| { lent(v); v.give_back(0xdead); prod(v) } => UnknownToken { token: 0xdead },
        "a return twice": |v| {
            let token = lent(v).token;
            prod(v);
            v.message();
            v.give_back(token);
            v.give_back(token);
            prod(v);
        } => UnknownToken { .. },
        // The victim may have sent a second one before it looks.
        "more returns than segments": |v| { lent(v); v.own.store(at::RETURNED, 3); prod(v) } => Returns(_),
        "fewer returns than before": |v| { lent(v); v.own.store(at::RETURNED, u32::MAX); prod(v) } => Returns(_),
        "progress beyond the end": |v| {
            v.own.store(at::HEAD, 0x00ff_0000);
            fill_the_victims_ring(v);
        } => Head(HeadOverrun { head: 0x00ff_0000, .. }),
        "progress backwards": |v| {
            // The victim looks when it lacks space, so it must lack some twice.
            fill_the_victims_ring(v);
            while v.theirs.load(at::STARVED) % 2 == 0 { std::thread::yield_now(); }
            while v.peek().is_some() {}
            v.announce();
            while v.peek().is_none() { std::thread::yield_now(); }
            v.own.store(at::HEAD, v.head().wrapping_sub(32 << 10));
            fill_the_victims_ring(v);
        } => Head(_),
    })
    .await;
    });
}

/// Has the victim send more than its ring holds.
fn fill_the_victims_ring(villain: &mut Villain) {
    let mut message = vec![b'e'; 2048];
    message[1] = 0;
    for _ in 0..Stage::STREAMS_MAX / 2 - 2 {
        villain.open(record::MESSAGE | record::END, &message);
    }
}
