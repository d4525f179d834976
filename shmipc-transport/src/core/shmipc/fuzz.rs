//! Handshakes with a peer that says whatever a fuzzer says.

use core::time::Duration;

use super::{
    frames::{Deframer, Paths},
    handshake::{Event, Handshake, Mapping, Speaks, Wants},
};

const TIMEOUT: Duration = Duration::from_secs(1);

/// Takes `data` for what the peer says, in version 2, 3 or 4: the body of the fuzz target for this handshake.
///
/// The first byte chooses the side, the version, and how regions are passed. Then come, one byte at a time, how many descriptors come
/// with what follows, and whether they can be mapped.
pub fn fuzz_handshake(data: &[u8]) {
    let Some((&choice, mut data)) = data.split_first() else {
        return;
    };
    let mut deframer = Deframer::default();
    let mut handshake = begin(choice, &mut deframer, &mut data);
    while let (Some(side), Some((&aside, rest))) = (&mut handshake, data.split_first()) {
        data = rest;
        match side.wants() {
            Wants::Descriptors(_) => {
                side.handle_descriptors(TIMEOUT / 2, (0..u32::from(aside % 8)).collect());
            }
            Wants::Frame => {
                let (bytes, rest) = data.split_at(deframer.wanted().min(data.len()));
                data = rest;
                match deframer.push(bytes) {
                    Ok(None) => {}
                    Ok(Some(frame)) => side.handle_frame(TIMEOUT / 2, frame),
                    Err(invalid) => side.peer_misbehaved(invalid.into()),
                }
            }
        }
        if follow(side, aside) {
            handshake = None;
        }
    }
    if let Some(mut side) = handshake {
        side.handle_closed();
        assert!(
            follow(&mut side, 0),
            "a peer that hangs up ends what has not begun"
        );
    }
}

/// Begins as whoever the first byte chooses; `None` if it is over at once.
fn begin(choice: u8, deframer: &mut Deframer, data: &mut &[u8]) -> Option<Handshake<u32>> {
    let paths = || Paths {
        queue: b"/dev/shm/q".to_vec(),
        buffer: b"/dev/shm/b".to_vec(),
    };
    let client = |version, mapping, has_eventfds| {
        Handshake::client(TIMEOUT, TIMEOUT, version, mapping, paths(), has_eventfds)
    };
    let mut handshake = match choice % 8 {
        0 => client(2, Mapping::File, false),
        1 => client(3, Mapping::File, false),
        2 => client(3, Mapping::Memfd, false),
        3 => client(4, Mapping::Memfd, false),
        4 => client(4, Mapping::Memfd, true),
        5 => Handshake::negotiated_server(TIMEOUT, TIMEOUT, false),
        6 => Handshake::negotiated_server(TIMEOUT, TIMEOUT, true),
        _ => loop {
            // What a server of versions 2 and 3 knows its client by.
            let (bytes, rest) = data.split_at(deframer.wanted().min(data.len()));
            *data = rest;
            match deframer.push(bytes) {
                Ok(Some(first)) => {
                    let speaks = Speaks {
                        newest: 2 + (choice >> 4) % 3,
                        goes_on: choice & 8 == 0,
                    };
                    break Handshake::server(TIMEOUT, TIMEOUT, first, speaks);
                }
                Ok(None) if !bytes.is_empty() => {}
                Ok(None) | Err(_) => return None,
            }
        },
    };
    (!follow(&mut handshake, choice)).then_some(handshake)
}

/// Does what the handshake says. Returns whether it is over.
fn follow(handshake: &mut Handshake<u32>, aside: u8) -> bool {
    loop {
        while let Some(bytes) = handshake.poll_transmit() {
            let said = Deframer::decode_all(&bytes).expect("what is sent can be read");
            assert_eq!(said.len(), 1, "messages are sent one at a time");
        }
        match handshake.poll_event() {
            None => return false,
            Some(Event::PassDescriptors) => {}
            Some(Event::Map(_)) if aside < 0x80 => handshake.mapped(),
            Some(Event::Map(_)) => {
                handshake.peer_misbehaved(crate::error::PeerMisbehaved::Unmappable { errno: 0 });
            }
            Some(Event::Established | Event::Failed(_)) => {
                assert_eq!(handshake.poll_timeout(), None, "nothing is waited for");
                return true;
            }
        }
    }
}
