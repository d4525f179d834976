//! The hazards of the reference that lie in memory and messages, each by its name, and what becomes of a peer that makes use of one.

use smallvec::smallvec;

use super::{
    super::{
        InvalidPlan, InvalidShmipc, Slice,
        frames::{Deframer, Frame, Paths},
    },
    *,
};
use crate::core::wire::{InvalidMessage, negotiation::Request};

/// Where the words of the first list and its slices lie, with [`SMALL`].
const HEAD: u32 = 16;
const TAIL: u32 = 20;
const FIRST: u32 = 44;
const STRIDE: u32 = 36;
const NEXT: u32 = 12;
const FLAGS: u32 = 16;

fn broken(memory: TestMemory) -> InvalidShmipc {
    Pool::open(memory).unwrap_err()
}

#[test]
fn hazard_h1_c4_a_list_that_went_round_hands_nothing_out_twice() {
    let (memory, creator, _) = pools(296, SMALL);
    let first = creator.take(0).unwrap().unwrap();
    // As if a swap of the head had come a whole round too late: it leads to what was handed out, which looks free.
    memory.set(HEAD, 0);
    memory.set(FIRST + FLAGS, 1);
    memory.set(FIRST + NEXT, STRIDE);
    let offset = first.at();
    assert_eq!(creator.take(0), Err(InvalidShmipc::SliceHeld { offset }));
}

#[test]
fn hazard_h1_a_slice_that_is_in_use_is_not_taken() {
    let (memory, creator, _) = pools(296, SMALL);
    memory.set(FIRST + FLAGS, 3);
    assert_eq!(creator.take(0), Ok(None));
    assert_eq!((memory.get(8), creator.held()), (3, 0));
}

#[test]
fn hazard_h2_a_list_that_was_cut_is_only_a_lack_of_memory() {
    let (memory, creator, mapper) = pools(296, SMALL);
    let slice = creator.take(0).unwrap().unwrap();
    // A peer has swapped the tail, and died before it linked the former one.
    memory.set(TAIL, 0);
    let second = creator.take(0).unwrap().unwrap();
    memory.set(8, 3);
    assert_eq!(
        creator.take(0),
        Ok(None),
        "what lies behind the cut is out of reach"
    );
    assert_eq!(memory.get(8), 3);
    creator.put(second).unwrap();
    // The other list is as it was.
    let offset = send(&creator, &[5; 30]).unwrap();
    assert_eq!(receive(&mapper, offset), [5; 30]);
    assert_eq!(slice.at(), FIRST);
}

#[test]
fn hazard_h3_counts_that_lie_are_only_hints() {
    let (memory, creator, _) = pools(296, SMALL);
    for lie in [0, 1, u32::MAX, 1 << 31] {
        memory.set(8, lie);
        assert_eq!(creator.available(0), 0, "{lie:#x}");
        assert_eq!(creator.take(0), Ok(None), "{lie:#x}");
        assert_eq!(memory.get(8), lie);
    }
    memory.set(8, 1 << 30);
    assert_eq!(creator.available(0), 2, "no more than there are");
    let taken: Vec<_> = std::iter::from_fn(|| creator.take(0).unwrap()).collect();
    assert_eq!(taken.len(), 2, "the last is never handed out");
}

#[test]
fn hazard_h8_lists_that_misalign_words_are_refused() {
    for capacity in [1, 2, 15, 17] {
        let memory = TestMemory::new(296);
        for (at, word) in [(0, 1), (4, 280), (8, 3), (12, 3), (24, capacity)] {
            memory.set(at, word);
        }
        assert!(matches!(
            broken(memory),
            InvalidShmipc::List { list: 0, .. }
        ));
        assert_eq!(
            Geometry::plan(296, &[(capacity, 100)]),
            Err(InvalidPlan::Slice { capacity })
        );
    }
}

#[test]
fn hazard_h9_l8_each_side_counts_at_its_own_place() {
    let (memory, creator, mapper) = pools(296, SMALL);
    let [creators, mappers] = [28, 32].map(|at| move |memory: &TestMemory| memory.get(at));
    let ours = creator.take(0).unwrap().unwrap();
    assert_eq!((creators(&memory), mappers(&memory)), (1, 0));
    let theirs = mapper.take(0).unwrap().unwrap();
    assert_eq!((creators(&memory), mappers(&memory)), (1, 1));
    // What is put there is believed by nobody.
    memory.set(28, u32::MAX);
    memory.set(32, 1 << 31);
    creator.put(ours).unwrap();
    mapper.put(theirs).unwrap();
    assert_eq!(memory.get(8), 3, "all are free");
    assert!(creator.take(0).unwrap().is_some());
}

#[test]
fn hazard_h10_two_lists_of_one_capacity_are_told_apart_by_offset() {
    assert_eq!(
        Geometry::plan(4096, &[(64, 50), (64, 50)]),
        Err(InvalidPlan::SameCapacity { capacity: 64 })
    );
    // A peer may have made them all the same.
    let memory = TestMemory::new(8 + 2 * (36 + 3 * 24));
    let (first, second) = (8, 8 + 36 + 3 * 24);
    memory.set(0, 2);
    memory.set(4, memory.len() - 8);
    for list in [first, second] {
        for (at, word) in [(0, 3), (4, 3), (12, 48), (16, 4)] {
            memory.set(list + at, word);
        }
        for slice in 0..3 {
            let at = list + 36 + 24 * slice;
            memory.set(at, 4);
            memory.set(at + NEXT, 24 * (slice + 1) % 72);
            memory.set(at + FLAGS, u32::from(slice < 2));
        }
    }
    let pool = Pool::open(memory.clone()).unwrap();
    let slice = pool.take(1).unwrap().unwrap();
    assert_eq!(slice.at(), second + 36);
    pool.put(slice).unwrap();
    assert_eq!((memory.get(first), memory.get(second)), (3, 3));
    assert_eq!(memory.get(second + 12), 0, "it is the last of its own list");
}

#[test]
fn hazard_h11_a_chain_ends_with_what_was_written() {
    let (memory, creator, mapper) = pools(296, SMALL);
    let used = creator.take(0).unwrap().unwrap();
    let surplus = creator.take(0).unwrap().unwrap();
    creator.put(surplus).unwrap();
    memory.copy_in(used.data(), b"all");
    let offset = creator.link(smallvec![(used, 3)]);
    assert_eq!(memory.get(offset + FLAGS) & 1, 0);
    assert_eq!(receive(&mapper, offset), b"all");
}

#[test]
fn hazard_h12_a_chain_of_nothing_is_nothing() {
    let (_, creator, mapper) = pools(296, SMALL);
    let slice = creator.take(0).unwrap().unwrap();
    let offset = creator.link(smallvec![(slice, 0)]);
    assert!(receive(&mapper, offset).is_empty());
    let (one, other) = (
        creator.take(0).unwrap().unwrap(),
        creator.take(1).unwrap().unwrap(),
    );
    creator.memory().copy_in(other.data(), b"x");
    let offset = creator.link(smallvec![(one, 0), (other, 1)]);
    assert_eq!(receive(&mapper, offset), b"x", "empty slices are skipped");
    assert_eq!(mapper.available(0), 2);
}

#[test]
fn hazard_h13_where_the_bytes_begin_is_honoured() {
    let (memory, creator, mapper) = pools(296, SMALL);
    let offset = send(&creator, b"junkbytes").unwrap();
    memory.set(offset + 8, 4);
    memory.set(offset + 4, 5);
    assert_eq!(receive(&mapper, offset), b"bytes");
    assert_eq!(
        memory.get(offset + 8),
        0,
        "and reset when the slice goes back"
    );
}

#[test]
fn hazard_h21_v5_headers_that_reach_beyond_their_slice_end_the_session() {
    for (capacity, size, start) in [
        (16, 17, 0),
        (16, 1, 16),
        (16, 16, 1),
        (16, u32::MAX, 1),
        (16, 0, 17),
        (32, 1, 0),
        (0, 0, 0),
        (u32::MAX, 1, 0),
    ] {
        let (memory, creator, mapper) = pools(296, SMALL);
        let offset = send(&creator, b"hello").unwrap();
        for (at, word) in [(0, capacity), (4, size), (8, start)] {
            memory.set(offset + at, word);
        }
        assert_eq!(
            mapper.follow(offset, LIMITS).unwrap_err(),
            InvalidShmipc::SliceHeader {
                offset,
                capacity,
                size,
                start
            }
        );
    }
}

#[test]
fn hazard_h21_offsets_at_which_no_slice_lies_end_the_session() {
    let (_, _, mapper) = pools(296, SMALL);
    for offset in [
        0,
        8,
        43,
        45,
        48,
        152,
        292,
        296,
        1 << 20,
        u32::MAX - 19,
        u32::MAX,
    ] {
        let refused = mapper.follow(offset, LIMITS).unwrap_err();
        assert_eq!(refused, InvalidShmipc::SliceOffset { offset });
    }
}

#[test]
fn hazard_h22_v6_chains_that_lead_back_or_cross_end_the_session() {
    let (memory, creator, mapper) = pools(296, SMALL);
    let offset = send(&creator, &[1; 40]).unwrap();
    // The second slice leads back to the first.
    memory.set(FIRST + NEXT, offset);
    memory.set(FIRST + FLAGS, 3);
    assert_eq!(
        mapper.follow(offset, LIMITS).unwrap_err(),
        InvalidShmipc::SliceHeld { offset }
    );
    let (_, creator, mapper) = pools(296, SMALL);
    let offset = send(&creator, b"once").unwrap();
    let chain = mapper.follow(offset, LIMITS).unwrap();
    assert_eq!(
        mapper.follow(offset, LIMITS).unwrap_err(),
        InvalidShmipc::SliceHeld { offset }
    );
    assert_eq!(chain.len(), 4);
}

#[test]
fn hazard_v6_slices_of_nothing_are_met_once_as_well() {
    let (memory, creator, mapper) = pools(296, SMALL);
    let slices = [0, 0].map(|list| (creator.take(list).unwrap().unwrap(), 0));
    let offset = creator.link(slices.into_iter().collect());
    // The second leads back to the first, and so on without end, if it were put back before the end.
    memory.set(FIRST + STRIDE + NEXT, offset);
    memory.set(FIRST + STRIDE + FLAGS, 3);
    assert_eq!(
        mapper.follow(offset, LIMITS).unwrap_err(),
        InvalidShmipc::SliceHeld { offset }
    );
    assert_eq!(mapper.available(0), 0, "nothing was put back on the way");
}

#[test]
fn hazard_v7_a_peer_cannot_send_us_what_we_hold() {
    let (_, creator, mapper) = pools(296, SMALL);
    let writing = mapper.take(0).unwrap().unwrap();
    let offset = writing.at();
    assert_eq!(
        mapper.follow(offset, LIMITS).unwrap_err(),
        InvalidShmipc::SliceHeld { offset }
    );
    assert_eq!(creator.held(), 0);
}

#[test]
fn hazard_h23_v3_lists_that_do_not_fit_are_refused() {
    let fresh = || pools(296, SMALL).0;
    for (at, word) in [
        (0, 0),            // no list
        (0, 3),            // one too many
        (0, 0xffff),       // far too many
        (4, 289),          // more than there is
        (4, u32::MAX),     // whose sum wraps
        (4, 0x11b),        // less than the lists take
        (12, 0),           // no slices
        (12, 8),           // too many
        (12, 0x0800_0000), // whose product wraps
        (24, 0),           // of nothing
        (24, u32::MAX),    // whose stride wraps
        (24, u32::MAX - 19),
        (156, 3),
    ] {
        let memory = fresh();
        memory.set(at, word);
        broken(memory);
    }
    for len in [0, 4, 8, 40, 44, 292] {
        let memory = TestMemory::new(len);
        for (at, word) in (0..len).step_by(4).zip([2, 0x11c, 3, 3, 0, 72, 16]) {
            memory.set(at, word);
        }
        if len < 292 {
            broken(memory);
        }
    }
}

#[test]
fn hazard_h23_constants_are_read_once() {
    let (memory, creator, mapper) = pools(296, SMALL);
    for at in [0, 4, 12, 24, 156, 168] {
        memory.set(at, u32::MAX);
    }
    let offset = send(&creator, &[9; 40]).unwrap();
    assert_eq!(receive(&mapper, offset), [9; 40]);
}

#[test]
fn hazard_h24_v4_forged_lists_lead_nowhere() {
    for forged in [1, 35, 108, 144, u32::MAX, u32::MAX - 35] {
        let (memory, creator, _) = pools(296, SMALL);
        memory.set(HEAD, forged);
        let refused = InvalidShmipc::ListCursor {
            list: 0,
            offset: forged,
        };
        assert_eq!(creator.take(0), Err(refused), "as the head");
        let (memory, creator, _) = pools(296, SMALL);
        let slice = creator.take(0).unwrap().unwrap();
        memory.set(TAIL, forged);
        assert_eq!(creator.put(slice), Err(refused), "as the tail");
        let (memory, creator, _) = pools(296, SMALL);
        memory.set(FIRST + NEXT, forged);
        assert_eq!(creator.take(0), Ok(None), "as a successor");
        assert_eq!(memory.get(HEAD), 0, "it was not followed");
    }
}

#[test]
fn hazard_h24_a_slice_is_not_linked_to_itself() {
    let (memory, creator, _) = pools(296, SMALL);
    let slice = creator.take(0).unwrap().unwrap();
    memory.set(TAIL, 0);
    let refused = InvalidShmipc::ListCursor { list: 0, offset: 0 };
    assert_eq!(creator.put(slice), Err(refused));
    memory.set(HEAD, STRIDE);
    memory.set(FIRST + STRIDE + NEXT, STRIDE);
    assert_eq!(creator.take(0), Ok(None), "nor followed to itself");
}

#[test]
fn hazard_h77_a_message_that_does_not_fit_takes_nothing() {
    let (memory, creator, _) = pools(296, SMALL);
    assert_eq!(creator.take_for(65), Ok(None));
    assert_eq!(creator.held(), 0);
    assert_eq!((memory.get(8), memory.get(152)), (3, 2));
    assert!(
        creator.take_for(64).unwrap().is_some(),
        "as much as there is"
    );
}

#[test]
fn what_is_kept_counts_for_a_message_of_several_slices() {
    const COUNT: u32 = 64;
    let (_memory, creator, mapper) = pools(44 + 24 * COUNT, &[(4, 100)]);
    let mut ours = creator.take_for(3 * 4).unwrap().unwrap();
    let _theirs: Vec<_> = std::iter::from_fn(|| mapper.take(0).unwrap()).collect();
    for (slice, _) in ours.drain(..) {
        creator.recycle(slice).unwrap();
    }
    assert_eq!(
        (creator.available(0), creator.held()),
        (0, 0),
        "three are kept"
    );
    assert_eq!(creator.take_for(4 * 4), Ok(None));
    let slices = creator.take_for(3 * 4).unwrap().unwrap();
    assert_eq!(slices.len(), 3);
}

#[test]
fn hazard_h46_messages_that_are_too_long_are_not_taken() {
    let followed = |bytes, slices| {
        let (_, creator, mapper) = pools(296, SMALL);
        let offset = send(&creator, &[1; 40]).unwrap();
        let chain = mapper.follow(offset, ChainLimits { bytes, slices })?;
        Ok((chain.len(), chain.pieces.len()))
    };
    assert_eq!(followed(40, 2), Ok((40, 2)));
    let refused = Err(InvalidShmipc::MessageLength { max: 39 });
    assert_eq!(followed(39, 2), refused);
    let refused = Err(InvalidShmipc::MessageSlices { max: 1 });
    assert_eq!(followed(40, 1), refused);
}

#[test]
fn hazard_h46_slices_of_nothing_count_as_well() {
    let (_, creator, mapper) = pools(296, SMALL);
    let slices = [0, 0, 1].map(|list| (creator.take(list).unwrap().unwrap(), 0));
    let offset = creator.link(slices.into_iter().collect());
    let limits = |slices| ChainLimits { bytes: 0, slices };
    assert_eq!(
        mapper.follow(offset, limits(2)).unwrap_err(),
        InvalidShmipc::MessageSlices { max: 2 }
    );
    let mapper = Pool::open(mapper.memory().clone()).unwrap();
    assert!(mapper.follow(offset, limits(3)).unwrap().pieces.is_empty());
}

/// Takes `bytes` for a message.
fn refused(bytes: &[u8]) -> InvalidMessage {
    Deframer::decode_all(bytes).unwrap_err()
}

fn frame(kind: u8, len: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend([0x77, 0x58, 3, kind]);
    bytes.extend(body);
    bytes
}

#[test]
fn hazard_h25_paths_whose_lengths_do_not_add_up_are_refused() {
    for kind in [0, 5] {
        for len in [0, 7, 8, 11, 12 + 2 * 4096 + 1, u32::MAX] {
            assert!(matches!(
                refused(&frame(kind, len, &[])),
                InvalidMessage::Length { .. }
            ));
        }
        for body in [
            &b"\0\x01q\0\x02b"[..],
            b"\0\x01q\0\x01bx",
            b"\xff\xffq\0\x01b",
            b"\0\0\0\x02bb",
            b"\0\x01q\0\0",
            b"\0\x01\0\0\x01b",
        ] {
            let len = 8 + body.len() as u32;
            refused(&frame(kind, len, body));
        }
    }
}

/// Names of files are bytes, and documents are text.
#[test]
fn hazard_s7_bytes_that_are_no_text_are_never_taken_for_text() {
    let paths = Paths {
        queue: b"/dev/shm/\xff\xfe".to_vec(),
        buffer: b"/dev/shm/\xc3\x28".to_vec(),
    };
    let frame = Frame::FilePaths(paths);
    assert_eq!(Deframer::decode_all(&frame.encode(3)), Ok(vec![frame]));
    let request = br#"{"supports_protocols":[4],"sdk_name":"NAME","sdk_version":"1"}"#;
    Request::decode(request).unwrap();
    for bytes in [b"\xff\xfe\xfd\xfc", b"\xed\xa0\x80x", b"\xf4\x90\x80\x80"] {
        let at = request.windows(4).position(|part| part == b"NAME").unwrap();
        let mut request = request.to_vec();
        request[at..at + 4].copy_from_slice(bytes);
        Request::decode(&request).unwrap_err();
    }
}

#[test]
fn hazard_h26_fallbacks_that_are_too_short_or_too_long_are_refused() {
    for len in (0..16).chain([(32 << 20) + 1, u32::MAX]) {
        assert!(matches!(
            refused(&frame(3, len, &[])),
            InvalidMessage::Length { .. }
        ));
    }
    let empty = frame(3, 16, &[0, 0, 0, 2, 0, 0, 0, 0]);
    let nothing = Frame::Fallback {
        stream: 2,
        status: 0,
        payload: Vec::new(),
    };
    assert_eq!(Deframer::decode_all(&empty), Ok(vec![nothing]));
}

#[test]
fn hazard_v8_h74_l10_memory_is_taken_as_bytes_come_not_as_they_are_announced() {
    let mut deframer = Deframer::default();
    assert_eq!(deframer.push(&frame(3, 32 << 20, &[])), Ok(None));
    assert_eq!((deframer.held(), deframer.wanted()), (0, (32 << 20) - 8));
}

#[test]
fn hazard_v13_messages_of_other_lengths_than_their_type_has_are_refused() {
    for (kind, len) in [
        (1, 9),
        (2, 8),
        (2, 13),
        (4, 12),
        (6, 9),
        (7, 7),
        (8, 8),
        (9, 17),
        (10, 7),
    ] {
        assert!(matches!(
            refused(&frame(kind, len, &[])),
            InvalidMessage::Length { .. }
        ));
    }
    assert_eq!(refused(&frame(11, 8, &[])), InvalidMessage::UnknownType(11));
    assert_eq!(refused(b"GET / HT"), InvalidMessage::Magic(0x2f20));
    let mut polling = Frame::Polling.encode(3);
    polling[6] = 5;
    assert_eq!(refused(&polling), InvalidMessage::Version(5));
}

#[test]
fn hazard_h58_s1_heads_hold_what_was_said_whatever_was_said_since() {
    let encoded: Vec<_> = (0..1000)
        .map(|stream| Frame::Close { stream }.encode(3))
        .collect();
    for (stream, bytes) in (0..).zip(encoded) {
        let (mut deframer, mut rest) = (Deframer::default(), bytes.as_slice());
        let frame = loop {
            let (next, others) = rest.split_at(deframer.wanted());
            rest = others;
            if let Some(frame) = deframer.push(next).unwrap() {
                break frame;
            }
        };
        assert_eq!((frame, rest), (Frame::Close { stream }, &[][..]));
    }
}

/// Has one implementation for types that cannot be cloned, and two for those that can, so that it is not known which is meant.
trait HasOneOwner<T> {
    fn verify() {}
}

impl<T: ?Sized> HasOneOwner<()> for T {}

impl<T: Clone> HasOneOwner<u8> for T {}

#[test]
fn hazard_s3_a_slice_has_one_owner_who_lends_it_to_nobody_else() {
    <Slice as HasOneOwner<_>>::verify();
    let (_memory, creator, mapper) = pools(296, SMALL);
    let slice = creator.take(0).unwrap().unwrap();
    let at = slice.at();
    assert_eq!(
        creator.adopt(at),
        Err(InvalidShmipc::SliceHeld { offset: at })
    );
    let theirs = mapper.adopt(creator.release(slice)).unwrap();
    assert_eq!(theirs.at(), at);
    mapper.put(theirs).unwrap();
}
