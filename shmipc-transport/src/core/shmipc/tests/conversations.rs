//! Handshakes between the two state machines, and with peers that say something else.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{
    frames::{Deframer, Frame, Paths, fuzz_frames},
    handshake::{Event, GoesOn, Handshake, Mapping, Regions, Speaks, Wants},
};
use crate::{core::handshake::Failure, error::HandshakeStep};

const TIMEOUT: Duration = Duration::from_secs(5);
const NOW: Duration = Duration::from_secs(1);

/// A server of version 3.
const SPEAKS: Speaks = Speaks {
    newest: 3,
    goes_on: true,
};

fn paths() -> Paths {
    Paths {
        queue: b"/dev/shm/q".to_vec(),
        buffer: b"/dev/shm/b".to_vec(),
    }
}

fn client(version: u8, mapping: Mapping, has_eventfds: bool) -> Handshake<u32> {
    Handshake::client(TIMEOUT, TIMEOUT, version, mapping, paths(), has_eventfds)
}

/// What the client does next with the bytes of its peer.
fn sent(handshake: &mut Handshake<u32>) -> Vec<u8> {
    std::iter::from_fn(|| handshake.poll_transmit())
        .flatten()
        .collect()
}

fn deliver(to: &mut Handshake<u32>, bytes: &[u8]) {
    for frame in Deframer::decode_all(bytes).unwrap() {
        to.handle_frame(NOW, frame);
    }
}

fn failure(handshake: &mut Handshake<u32>) -> Failure {
    match handshake.poll_event() {
        Some(Event::Failed(failure)) => failure,
        other => panic!("{other:?} is no failure"),
    }
}

/// Runs both sides to the end, and returns the server's regions and both transcripts.
fn run(
    mut client: Handshake<u32>,
    server: Option<Handshake<u32>>,
) -> (Regions<u32>, String, String) {
    let (mut said, mut answered) = (String::new(), String::new());
    let mut server = server;
    let mut regions = None;
    loop {
        let bytes = sent(&mut client);
        for frame in Deframer::decode_all(&bytes).unwrap() {
            said += &format!("{} ({}), ", frame.name(), bytes[6]);
            match &mut server {
                Some(server) => server.handle_frame(NOW, frame),
                none => *none = Some(Handshake::server(TIMEOUT, TIMEOUT, frame, SPEAKS)),
            }
        }
        let server = server.as_mut().expect("the client begins");
        let mut established = false;
        while let Some(event) = server.poll_event() {
            match event {
                Event::Map(mapped) => {
                    regions = Some(mapped);
                    server.mapped();
                }
                Event::Established => established = true,
                other => panic!("{other:?}"),
            }
        }
        let bytes = sent(server);
        for frame in Deframer::decode_all(&bytes).unwrap() {
            answered += &format!("{} ({}), ", frame.name(), bytes[6]);
            client.handle_frame(NOW, frame);
        }
        while let Some(event) = client.poll_event() {
            match event {
                Event::PassDescriptors => {
                    said += "descriptors, ";
                    let Wants::Descriptors(count) = server.wants() else {
                        panic!("nobody is ready for them")
                    };
                    server.handle_descriptors(NOW, (0..count as u32).collect());
                }
                Event::Established => established = true,
                other => panic!("{other:?}"),
            }
        }
        if established && client.poll_timeout().is_none() && server.poll_timeout().is_none() {
            return (regions.expect("something was mapped"), said, answered);
        }
    }
}

#[test]
fn every_version_begins_as_in_the_reference() {
    let negotiated = |eventfd| Some(Handshake::negotiated_server(TIMEOUT, TIMEOUT, eventfd));
    let plain = Regions::Memfds {
        buffer: 0,
        queue: 1,
        eventfds: None,
    };
    let (regions, said, answered) = run(client(2, Mapping::File, false), None);
    assert_eq!((said.as_str(), answered.as_str()), ("file paths (2), ", ""));
    assert_eq!(regions, Regions::Files(paths()));
    let (regions, said, answered) = run(client(3, Mapping::File, false), None);
    assert_eq!(said, "version (3), file paths (3), ");
    assert_eq!(answered, "version (3), mapped (3), ");
    assert_eq!(regions, Regions::Files(paths()));
    let (regions, said, answered) = run(client(3, Mapping::Memfd, false), None);
    assert_eq!(said, "version (3), memory file names (3), descriptors, ");
    assert_eq!(
        answered,
        "version (3), ready for descriptors (3), mapped (3), "
    );
    assert_eq!(regions, plain);
    let (regions, said, answered) = run(client(4, Mapping::File, false), negotiated(false));
    assert_eq!(
        (said.as_str(), answered.as_str()),
        ("file paths (0), ", "mapped (0), ")
    );
    assert_eq!(regions, Regions::Files(paths()));
    let (regions, said, answered) = run(client(4, Mapping::Memfd, false), negotiated(false));
    assert_eq!(said, "memory file names (0), descriptors, ");
    assert_eq!(answered, "ready for descriptors (0), mapped (0), ");
    assert_eq!(regions, plain);
    let (regions, ..) = run(client(4, Mapping::Memfd, true), negotiated(true));
    assert_eq!(
        regions,
        Regions::Memfds {
            buffer: 0,
            queue: 1,
            eventfds: Some((2, 3)),
        }
    );
}

#[test]
fn a_server_that_knows_more_versions_is_spoken_to_in_the_third() {
    for version in [3, 4, 255] {
        let mut client = client(3, Mapping::Memfd, false);
        assert_eq!(sent(&mut client), Frame::Version(3).encode(3));
        deliver(&mut client, &Frame::Version(version).encode(3));
        assert_eq!(sent(&mut client), Frame::MemfdNames(paths()).encode(3));
    }
}

#[test]
fn a_client_goes_on_with_a_server_that_knows_what_it_may_know() {
    for (when, version, goes_on) in [
        (GoesOn::IfNewest, 2, false),
        (GoesOn::IfNewest, 3, true),
        (GoesOn::IfNewest, 4, false),
        (GoesOn::IfNewest, 255, false),
        (GoesOn::IfKnown, 2, false),
        (GoesOn::IfKnown, 3, true),
        (GoesOn::IfKnown, 255, true),
        (GoesOn::Never, 2, false),
        (GoesOn::Never, 3, false),
        (GoesOn::Never, 255, false),
    ] {
        let mut client = client(3, Mapping::File, false).that_goes_on(when);
        sent(&mut client);
        deliver(&mut client, &Frame::Version(version).encode(3));
        if goes_on {
            assert_eq!(sent(&mut client), Frame::FilePaths(paths()).encode(3));
            continue;
        }
        let Failure::NotSupported { protocol } = failure(&mut client) else {
            panic!("{when:?}: it knows {version}")
        };
        assert_eq!(protocol, version);
    }
}

#[test]
fn a_server_says_what_it_knows_and_takes_regions_of_no_other_version() {
    let [files, names] = [Frame::FilePaths(paths()), Frame::MemfdNames(paths())];
    for (newest, goes_on, takes) in [
        (2, true, [true, false]),
        (3, true, [true, true]),
        (4, true, [true, true]),
        (4, false, [false, false]),
    ] {
        for (frame, is_taken) in [&files, &names].into_iter().zip(takes) {
            let speaks = Speaks { newest, goes_on };
            let mut server = Handshake::<u32>::server(TIMEOUT, TIMEOUT, Frame::Version(3), speaks);
            assert_eq!(sent(&mut server), Frame::Version(newest).encode(newest));
            server.handle_frame(NOW, frame.clone());
            let is_refused = matches!(server.poll_event(), Some(Event::Failed(_)));
            assert_eq!(!is_refused, is_taken, "{speaks:?}, {frame:?}");
        }
    }
}

#[test]
fn whatever_comes_out_of_turn_ends_it() {
    let frames = [
        Frame::Polling,
        Frame::Close { stream: 2 },
        Frame::Mapped,
        Frame::HotRestart { epoch: 1 },
        Frame::Negotiation(b"{}".to_vec()),
    ];
    for frame in frames {
        let mut server = Handshake::<u32>::server(TIMEOUT, TIMEOUT, frame.clone(), SPEAKS);
        assert!(matches!(failure(&mut server), Failure::Misbehaved(_)));
        let mut server = Handshake::<u32>::server(TIMEOUT, TIMEOUT, Frame::Version(3), SPEAKS);
        server.handle_frame(NOW, frame.clone());
        assert!(matches!(failure(&mut server), Failure::Misbehaved(_)));
        let mut client = client(3, Mapping::Memfd, false);
        client.handle_frame(NOW, frame);
        assert!(matches!(failure(&mut client), Failure::Misbehaved(_)));
    }
    let mut server = Handshake::<u32>::negotiated_server(TIMEOUT, TIMEOUT, true);
    server.handle_frame(NOW, Frame::FilePaths(paths()));
    assert!(
        matches!(failure(&mut server), Failure::Misbehaved(_)),
        "eventfds cannot come with paths"
    );
    let mut server = Handshake::<u32>::server(TIMEOUT, TIMEOUT, Frame::Version(2), SPEAKS);
    assert!(matches!(failure(&mut server), Failure::Misbehaved(_)));
}

#[test]
fn hazard_v11_descriptors_that_lack_end_it_and_surplus_ones_are_dropped() {
    for (has_eventfds, count, is_enough) in [
        (false, 0, false),
        (false, 1, false),
        (false, 2, true),
        (false, 4, true),
        (true, 2, false),
        (true, 3, false),
        (true, 4, true),
    ] {
        let mut server = Handshake::<u32>::negotiated_server(TIMEOUT, TIMEOUT, has_eventfds);
        server.handle_frame(NOW, Frame::MemfdNames(paths()));
        server.handle_descriptors(NOW, (0..count).collect());
        match server.poll_event() {
            Some(Event::Map(_)) => assert!(is_enough),
            Some(Event::Failed(Failure::Misbehaved(_))) => assert!(!is_enough),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn hazard_h41_a_peer_that_says_nothing_or_leaves_ends_it_in_time() {
    let mut silent = client(3, Mapping::Memfd, false);
    assert_eq!(silent.poll_timeout(), Some(TIMEOUT));
    silent.handle_timeout(TIMEOUT - Duration::from_nanos(1));
    assert!(silent.poll_event().is_none());
    silent.handle_timeout(TIMEOUT);
    assert!(matches!(
        failure(&mut silent),
        Failure::TimedOut {
            step: HandshakeStep::Negotiation,
            timeout: TIMEOUT
        }
    ));
    assert_eq!(silent.poll_timeout(), None);
    let mut gone = Handshake::<u32>::negotiated_server(TIMEOUT, TIMEOUT, false);
    gone.handle_closed();
    assert!(matches!(failure(&mut gone), Failure::Closed { .. }));
}

proptest! {
    /// Whatever comes over the socket is refused, or can be said again.
    #[test]
    fn any_bytes_are_refused_or_messages(bodies: Vec<(u8, u8, Vec<u8>)>) {
        let mut bytes = Vec::new();
        for (kind, version, body) in bodies {
            let len = 8 + u32::try_from(body.len()).unwrap();
            bytes.extend(len.to_be_bytes());
            bytes.extend([0x77, 0x58, version % 6, kind % 12]);
            bytes.extend(body);
        }
        fuzz_frames(&bytes);
    }
}
