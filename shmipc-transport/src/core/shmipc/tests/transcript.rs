//! The transcript of the reference for version 4 (section 15.6): a session whose sides are woken by eventfds, from the first byte to the
//! first answer, with both sides ours.

use std::time::Duration;

use super::{
    super::{
        frames::{Deframer, Frame},
        handshake::{Event, Handshake, Mapping, Regions, Wants},
        state,
        terms::{Terms, Wakes},
    },
    vectors::{
        LONG_PATHS, REPLY_BYTES, REPLY_EVENTFD, REQUEST_BYTES, REQUEST_EVENTFD, by_the_crate, hex,
        long_paths, their_queues,
    },
    *,
};
use crate::core::{
    handshake::{Event as Negotiated, Handshake as Negotiation, ServerTerms, Shmipc, ShmipcGrant},
    outbox::Windows,
    shmipc::Element,
    wire::{Message, negotiation::Offer},
};

const NOW: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a session with the crate is agreed to be: it knows no records.
const TERMS: Terms = Terms {
    wakes: Wakes::EventFd,
    windows: None,
};

#[test]
fn a_session_with_eventfds_is_negotiated_as_in_the_reference() {
    let offer = Offer {
        outbox: None,
        shmipc: Some(TERMS),
    };
    let mut client = Negotiation::<u32>::client(NOW, TIMEOUT, offer);
    let request = client.poll_transmit().unwrap();
    let grant = ShmipcGrant {
        eventfd: true,
        windows: Windows {
            streams_max: 8,
            messages: 8,
            bytes: 8,
        },
    };
    let terms = ServerTerms {
        outbox: None,
        shmipc: Some(grant),
        versions: [false; 2],
    };
    let mut server = Negotiation::<u32>::server(NOW, TIMEOUT, terms);
    let theirs = Message::Negotiation(REQUEST_EVENTFD.into());
    server.handle_message(NOW, theirs);
    let reply = server.poll_transmit().unwrap();
    client.handle_message(NOW, Message::Negotiation(REPLY_EVENTFD.into()));
    for (side, said, bytes) in [
        (&mut client, request, REQUEST_BYTES),
        (&mut server, reply, REPLY_BYTES),
    ] {
        let json = by_the_crate(&said.bytes[8..]);
        assert_eq!(Frame::Negotiation(json.into()).encode(0), hex(bytes));
        assert!(said.fds.is_empty());
        match side.poll_event() {
            Some(Negotiated::Shmipc(Shmipc::Negotiated(agreed))) => assert_eq!(agreed, TERMS),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn regions_are_passed_as_in_the_reference() {
    let names = hex(&format!("0000003f 77580005 {LONG_PATHS}"));
    let (ready, mapped) = (hex("0000000877580007"), hex("0000000877580006"));
    let mut client =
        Handshake::<u32>::client(TIMEOUT, TIMEOUT, 4, Mapping::Memfd, long_paths(), true);
    let mut server = Handshake::<u32>::negotiated_server(TIMEOUT, TIMEOUT, true);
    assert_eq!(client.poll_transmit(), Some(names.clone()));
    deliver(&mut server, &names);
    assert_eq!(server.poll_transmit(), Some(ready.clone()));
    deliver(&mut client, &ready);
    assert!(matches!(client.poll_event(), Some(Event::PassDescriptors)));
    assert_eq!(server.wants(), Wants::Descriptors(4));
    let [buffer, queue, wakes_server, wakes_client] = [5, 6, 7, 8];
    let passed = vec![buffer, queue, wakes_server, wakes_client];
    server.handle_descriptors(NOW, passed);
    match server.poll_event() {
        Some(Event::Map(regions)) => {
            let eventfds = Some((wakes_server, wakes_client));
            let expected = Regions::Memfds {
                buffer,
                queue,
                eventfds,
            };
            assert_eq!(regions, expected);
        }
        other => panic!("{other:?}"),
    }
    server.mapped();
    assert_eq!(server.poll_transmit(), Some(mapped.clone()));
    deliver(&mut client, &mapped);
    for side in [&mut client, &mut server] {
        assert!(matches!(side.poll_event(), Some(Event::Established)));
        assert_eq!(side.poll_transmit(), None);
    }
}

fn deliver(to: &mut Handshake<u32>, bytes: &[u8]) {
    for frame in Deframer::decode_all(bytes).unwrap() {
        to.handle_frame(NOW, frame);
    }
}

/// Each side is woken once, and looks until nothing is left.
#[test]
fn a_request_is_answered_as_in_the_reference() {
    let (_, clients, servers) = pools(1 << 20, &[(4096, 100)]);
    let (memory, [client, server]) = their_queues(8, QueueLayout::of(4));
    let working = [4, 120 + 4];
    let sides = [
        (&clients, client.to_server, &servers, server.to_server),
        (&servers, server.to_client, &clients, client.to_client),
    ];
    for ((from, out, to, into), working) in sides.into_iter().zip(working) {
        let (mut producer, mut consumer) = (out.into_producer(), into.into_consumer());
        for _ in 0..2 {
            let element = Element {
                stream: 2,
                offset: send(from, b"hello").unwrap(),
                status: state::OPEN,
            };
            producer.put(element);
            assert!(producer.must_wake(), "1 is written to the eventfd");
            assert_eq!(memory.get(working), 1);
            assert_eq!(consumer.take(), Ok(Some(element)));
            assert_eq!(receive(to, element.offset), b"hello");
            assert_eq!(consumer.take(), Ok(None));
            assert!(consumer.arm(), "nothing came meanwhile");
            assert_eq!(memory.get(working), 0);
        }
    }
}
