//! Scripts whose outcome is known.

use proptest::prelude::*;

use super::*;
use crate::{core::outbox::flags, error::PeerMisbehaved};

#[test]
fn a_ring_without_an_end_does_not_keep_us() {
    for spinning in [0, 4] {
        for kind in 0..3 {
            // Open a stream, let the villain say the same for ever, receive.
            fuzz_session(&[spinning, 9, 8, kind, 1, 12, 0, 12, 0, 10, 10]);
        }
    }
}

/// Payloads guarded, accepting.
const GUARDED: u8 = 3;
/// Payloads lent, accepting.
const LENT: u8 = 2;

impl Play {
    /// Has the villain announce [`REGION`] by this id.
    fn announce(&mut self, id: RegionId) {
        let region = Region {
            id,
            len: u64::from(REGION_LEN),
            memory: REGION.1.as_fd(),
            anchor: None,
        };
        assert!(self.villain.socket.send_region(region).unwrap());
        let body = [id.0, REGION_LEN].map(u32::to_ne_bytes).concat();
        let head = RecordHead::control(Kind::RegionAdded, StreamId(0), 8);
        self.villain.publish(&head, &body);
    }

    /// Has the villain send a message that names all of that region `times` times, by tokens from `token` on.
    fn name(&mut self, stream: StreamId, region: RegionId, token: u32, times: u16) {
        let parts = (token..).take(usize::from(times)).map(|token| Part {
            region,
            token,
            offset: 0,
            len: REGION_LEN,
        });
        let body: Vec<u8> = parts
            .flat_map(|part| Segment::Theirs(part).encode())
            .collect();
        let mut head = RecordHead::control(Kind::Data, stream, 16 * u32::from(times));
        head.flags = flags::MESSAGE;
        head.segments = times;
        self.villain.publish(&head, &body);
        self.ours.look();
    }

    fn leases(&self) -> usize {
        let Link::Outbox(link) = &self.ours.shared.link else {
            unreachable!("this villain speaks no other");
        };
        link.leases_held().0
    }
}

#[test]
fn guarded_messages_are_copied_when_somebody_receives_them() {
    let _entered = RUNTIME.enter();
    let mut play = Play::begin(GUARDED, MEMORY_MAX);
    play.announce(RegionId(1));
    let streams = 1..=WINDOWS.streams_max;
    for number in streams.clone() {
        play.name(
            StreamId(u64::from(2 * number - 1)),
            RegionId(1),
            2 * number,
            2,
        );
    }
    assert!(!play.ours.is_lost());
    let named = 2 * streams.count();
    assert_eq!(play.leases(), named, "all of it still lies where it lay");
    play.ours.accept();
    let Poll::Ready(Ok(Some(mut message))) = play.ours.streams[0].poll_recv(&mut context()) else {
        panic!("the message is there");
    };
    assert_eq!(play.leases(), named - 2, "what is copied is given back");
    assert_eq!(message.len(), 2 * index(REGION_LEN));
    assert!(message.copy_to_bytes(message.len()).iter().all(|&b| b == 0));
}

#[test]
fn what_a_peer_announces_does_not_decide_how_much_we_copy() {
    let _entered = RUNTIME.enter();
    let len = u64::from(MEMORY_MAX) + u64::from(REGION_LEN);
    let times = u16::try_from(len / u64::from(REGION_LEN)).unwrap();
    for (choice, is_refused) in [(GUARDED, true), (LENT, false)] {
        let mut play = Play::begin(choice, u32::MAX);
        play.announce(RegionId(1));
        play.name(StreamId(1), RegionId(1), 0, times - 1);
        assert!(!play.ours.is_lost());
        play.name(StreamId(3), RegionId(1), 64, times);
        let lost = play.ours.shared.lost();
        let was_refused = matches!(
            lost,
            Some(SessionLost::PeerMisbehaved(PeerMisbehaved::MessageLength { len: told }))
                if *told == len
        );
        assert_eq!(was_refused, is_refused, "{lost:?}");
        assert_eq!(lost.is_some(), is_refused, "{lost:?}");
    }
}

proptest! {
    #[test]
    fn whatever_the_villain_does_we_come_back(data: Vec<u8>) {
        fuzz_session(&data);
    }
}
