use proptest::prelude::*;

use super::*;
use crate::core::{num::RegionId, wire::Region};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Both sides, what is on the way between them, and the clock. Descriptors are numbers.
struct Pair {
    now: Duration,
    client: Side,
    server: Side,
}

struct Side {
    handshake: Handshake<u32>,
    /// Messages that the other side has sent.
    inbox: VecDeque<Message<u32>>,
    outbox: Outbox<u32>,
    mapped: Option<Outbox<u32>>,
    /// The kind of doorbell that it was told to make.
    doorbell: Option<DoorbellKind>,
    outcome: Option<Result<(), Failure>>,
}

impl Side {
    fn new(handshake: Handshake<u32>, memory: u32) -> Self {
        let outbox = Outbox {
            len: 1 << 17,
            memory_max: 1 << 30,
            memory,
            doorbell: memory + 1,
        };
        Self {
            handshake,
            inbox: VecDeque::new(),
            outbox,
            mapped: None,
            doorbell: None,
            outcome: None,
        }
    }

    /// Does what the handshake asks for; returns what it sends.
    fn settle(&mut self) -> Vec<Message<u32>> {
        let mut sent = Vec::new();
        loop {
            while let Some(transmit) = self.handshake.poll_transmit() {
                sent.push(decode(&transmit));
            }
            match self.handshake.poll_event() {
                None => return sent,
                Some(Event::CreateOutbox(doorbell)) => {
                    self.doorbell = Some(doorbell);
                    self.handshake.outbox_created(self.outbox.clone());
                }
                Some(Event::MapOutbox(outbox)) => {
                    self.mapped = Some(outbox);
                    self.handshake.peer_mapped();
                }
                Some(Event::Established) => self.finish(Ok(())),
                Some(Event::Shmipc(shmipc)) => panic!("nobody asked for {shmipc:?}"),
                Some(Event::Failed(failure)) => self.finish(Err(failure)),
            }
        }
    }

    fn finish(&mut self, outcome: Result<(), Failure>) {
        assert!(self.outcome.is_none(), "a handshake ends once");
        assert_eq!(self.handshake.poll_timeout(), None);
        self.outcome = Some(outcome);
    }

    fn failure(&self) -> &Failure {
        self.outcome
            .as_ref()
            .expect("it ended")
            .as_ref()
            .unwrap_err()
    }
}

impl Pair {
    fn new() -> Self {
        Self::insisting_on([DoorbellKind::EventFd; 2])
    }

    fn insisting_on([client, server]: [DoorbellKind; 2]) -> Self {
        let now = Duration::from_secs(1000);
        Self {
            now,
            client: Side::new(Handshake::client(now, TIMEOUT, Offer::outbox(client)), 10),
            server: Side::new(
                Handshake::server(now, TIMEOUT, ServerTerms::outbox(server)),
                20,
            ),
        }
    }

    /// Lets each side do what it can do without receiving.
    fn settle(&mut self) {
        self.server.inbox.extend(self.client.settle());
        self.client.inbox.extend(self.server.settle());
    }

    /// Delivers one message, to the server if there is a choice and `server_first`. Returns `false` if there is none.
    fn deliver(&mut self, server_first: bool) -> bool {
        self.settle();
        let server = if server_first {
            !self.server.inbox.is_empty()
        } else {
            self.client.inbox.is_empty()
        };
        let side = if server {
            &mut self.server
        } else {
            &mut self.client
        };
        let Some(message) = side.inbox.pop_front() else {
            return false;
        };
        side.handshake.handle_message(self.now, message);
        self.settle();
        true
    }

    fn run(&mut self) {
        while self.deliver(true) {}
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.client.handshake.handle_timeout(self.now);
        self.server.handshake.handle_timeout(self.now);
        self.settle();
    }
}

fn decode(transmit: &Transmit<u32>) -> Message<u32> {
    let mut deframer = crate::core::wire::Deframer::new();
    let mut rest = &transmit.bytes[..];
    let mut fds = transmit.fds.clone();
    loop {
        let (now, later) = rest.split_at(deframer.wanted());
        rest = later;
        if let Some(message) = deframer.push(now, fds.drain(..)).unwrap() {
            assert!(rest.is_empty());
            return message;
        }
    }
}

fn negotiation(json: &str) -> Message<u32> {
    Message::Negotiation(json.as_bytes().to_vec())
}

fn some_region() -> Message<u32> {
    Message::Region(Region {
        id: RegionId(1),
        len: 4096,
        memory: 99,
        anchor: None,
    })
}

#[test]
fn both_sides_end_up_with_the_others_outbox() {
    for server_first in [true, false] {
        let mut pair = Pair::new();
        while pair.deliver(server_first) {}
        assert!(matches!(pair.client.outcome, Some(Ok(()))));
        assert!(matches!(pair.server.outcome, Some(Ok(()))));
        assert_eq!(pair.client.mapped, Some(pair.server.outbox));
        assert_eq!(pair.server.mapped, Some(pair.client.outbox));
        assert!(pair.client.handshake.forwards() && pair.server.handshake.forwards());
    }
}

#[test]
fn both_sides_use_the_doorbell_that_either_insists_on() {
    use DoorbellKind::{EventFd, Socket};
    for (insisting, agreed) in [
        ([EventFd, EventFd], EventFd),
        ([Socket, EventFd], Socket),
        ([EventFd, Socket], Socket),
        ([Socket, Socket], Socket),
    ] {
        let mut pair = Pair::insisting_on(insisting);
        pair.run();
        assert_eq!(pair.client.doorbell, Some(agreed));
        assert_eq!(pair.server.doorbell, Some(agreed));
    }
}

#[test]
fn a_session_takes_these_messages() {
    let mut pair = Pair::new();
    let names = |side: &Side| side.inbox.iter().map(Message::name).collect::<Vec<_>>();
    pair.settle();
    assert_eq!(
        (names(&pair.server), names(&pair.client)),
        (vec!["negotiation"], vec![])
    );
    pair.deliver(true);
    assert_eq!(
        (names(&pair.server), names(&pair.client)),
        (vec![], vec!["negotiation", "outbox"])
    );
    pair.deliver(true);
    pair.deliver(false);
    assert_eq!(
        (names(&pair.server), names(&pair.client)),
        (vec!["outbox", "ready"], vec![])
    );
    pair.deliver(true);
    assert!(
        pair.server.outcome.is_none(),
        "the client has not said yet that it is ready"
    );
    assert_eq!(names(&pair.client), ["ready"]);
    pair.deliver(true);
    assert!(pair.server.outcome.is_some());
}

#[test]
fn silence_at_any_step_ends_with_the_deadline() {
    // Messages delivered before the silence, and what each side then waits for.
    let steps = [
        (0, HandshakeStep::Negotiation, HandshakeStep::Negotiation),
        (1, HandshakeStep::Negotiation, HandshakeStep::Outbox),
        (2, HandshakeStep::Outbox, HandshakeStep::Outbox),
        (3, HandshakeStep::Ready, HandshakeStep::Outbox),
        (4, HandshakeStep::Ready, HandshakeStep::Ready),
    ];
    for (delivered, client, server) in steps {
        let mut pair = Pair::new();
        for _ in 0..delivered {
            let server_first = pair.client.inbox.is_empty();
            assert!(pair.deliver(server_first));
        }
        pair.settle();
        pair.advance(TIMEOUT - Duration::from_nanos(1));
        assert!(pair.client.outcome.is_none() && pair.server.outcome.is_none());
        assert_eq!(
            pair.client.handshake.poll_timeout(),
            Some(pair.now + Duration::from_nanos(1))
        );
        pair.advance(Duration::from_nanos(1));
        for (side, expected) in [(&pair.client, client), (&pair.server, server)] {
            match side.failure() {
                Failure::TimedOut {
                    step,
                    timeout: TIMEOUT,
                } => assert_eq!(*step, expected, "after {delivered}"),
                other => panic!("{other:?}"),
            }
        }
        pair.run(); // What arrives now is ignored.
    }
}

#[test]
fn a_message_after_the_deadline_is_too_late() {
    let mut pair = Pair::new();
    pair.settle();
    pair.now += TIMEOUT;
    pair.deliver(true);
    assert!(matches!(pair.server.failure(), Failure::TimedOut { .. }));
    assert!(pair.client.inbox.is_empty());
}

#[test]
fn a_peer_may_hang_up_at_any_step() {
    for delivered in 0..5 {
        let mut pair = Pair::new();
        for _ in 0..delivered {
            let server_first = pair.client.inbox.is_empty();
            assert!(pair.deliver(server_first));
        }
        pair.settle();
        pair.client.handshake.handle_closed();
        pair.server.handshake.handle_closed();
        pair.settle();
        assert!(matches!(pair.client.failure(), Failure::Closed { .. }));
        assert!(matches!(pair.server.failure(), Failure::Closed { .. }));
    }
}

#[test]
fn nothing_happens_after_the_end() {
    let mut pair = Pair::new();
    pair.run();
    pair.client.handshake.handle_closed();
    pair.client
        .handshake
        .handle_message(pair.now, Message::Ready);
    pair.advance(TIMEOUT);
    assert!(matches!(pair.client.outcome, Some(Ok(()))));
}

#[test]
fn the_client_learns_why_it_is_refused() {
    let mut pair = Pair::new();
    let refusal = Refusal::new(RefusalCode::Unauthorized, "user 5 is not admitted");
    pair.server.handshake.turn_away(refusal.clone());
    pair.run();
    assert!(matches!(pair.server.failure(), Failure::Declined(ours) if *ours == refusal));
    assert!(matches!(pair.client.failure(), Failure::Refused(theirs) if *theirs == refusal));
    assert!(pair.server.mapped.is_none());
    // Who would not understand it hears nothing.
    let terms = ServerTerms {
        versions: [true, true],
        ..ServerTerms::outbox(DoorbellKind::EventFd)
    };
    for first in [Some(Frame::Version(3)), Some(Frame::Polling), None] {
        let mut server = Handshake::<u32>::server(Duration::ZERO, TIMEOUT, terms);
        server.turn_away(refusal.clone());
        match &first {
            Some(frame) => server.handle_message(Duration::ZERO, Message::Legacy(frame.clone())),
            None => server.handle_timeout(TIMEOUT),
        }
        assert_eq!(server.poll_transmit(), None, "{first:?}");
        let event = server.poll_event();
        assert!(
            matches!(&event, Some(Event::Failed(Failure::Declined(ours))) if *ours == refusal),
            "{event:?}"
        );
    }
}

#[test]
fn a_server_without_memory_is_busy() {
    let mut pair = Pair::new();
    pair.settle();
    pair.server
        .handshake
        .handle_message(pair.now, pair.server.inbox[0].clone());
    assert!(matches!(
        pair.server.handshake.poll_event(),
        Some(Event::CreateOutbox(_))
    ));
    pair.server
        .handshake
        .decline(Refusal::new(RefusalCode::Busy, "later"));
    pair.settle();
    pair.deliver(false);
    assert!(
        matches!(pair.client.failure(), Failure::Refused(refusal) if refusal.code() == RefusalCode::Busy)
    );
}

#[test]
fn a_server_that_has_begun_to_answer_has_all_the_time_that_there_is() {
    let mut pair = Pair::new();
    let (begin, patience) = (pair.now, Duration::from_secs(1));
    pair.client.handshake.answer_by(begin + patience);
    assert_eq!(pair.client.handshake.poll_timeout(), Some(begin + patience));
    pair.now += patience - Duration::from_nanos(1);
    pair.deliver(true);
    pair.deliver(false);
    pair.now = begin + TIMEOUT - Duration::from_nanos(1);
    pair.run();
    assert!(matches!(pair.client.outcome, Some(Ok(()))));
    let mut pair = Pair::new();
    pair.settle();
    pair.client.handshake.answer_by(pair.now + patience);
    pair.client.handshake.handle_timeout(pair.now + patience);
    pair.settle();
    assert!(matches!(
        pair.client.failure(),
        Failure::TimedOut {
            step: HandshakeStep::Negotiation,
            timeout: TIMEOUT
        }
    ));
}

#[test]
fn whoever_asks_for_our_version_is_told_of_the_newest_whatever_we_accept() {
    let terms = ServerTerms::outbox(DoorbellKind::EventFd);
    for (terms, newest, goes_on) in [
        (terms, 4, false),
        (
            ServerTerms {
                versions: [true, true],
                ..terms
            },
            4,
            true,
        ),
        (
            ServerTerms {
                outbox: None,
                versions: [true, true],
                ..terms
            },
            3,
            true,
        ),
        (
            ServerTerms {
                outbox: None,
                versions: [true, false],
                ..terms
            },
            2,
            true,
        ),
    ] {
        let mut server = Handshake::<u32>::server(Duration::ZERO, TIMEOUT, terms);
        let question = Message::Legacy(Frame::Version(3));
        server.handle_message(Duration::ZERO, question);
        let Some(Event::Shmipc(Shmipc::Legacy(_, speaks))) = server.poll_event() else {
            panic!("{terms:?}: it is not answered")
        };
        assert_eq!(speaks, Speaks { newest, goes_on }, "{terms:?}");
    }
}

#[test]
fn requests_that_we_cannot_serve_are_refused() {
    let foreign = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1"}"#;
    let old = r#"{"supports_protocols":[2,3],"sdk_name":"x","sdk_version":"1","supports_features":["outbox_v1"]}"#;
    for (json, code) in [
        ("{", RefusalCode::JsonParseError),
        (foreign, RefusalCode::FeatureNotSupported),
        (old, RefusalCode::VersionNotSupported),
    ] {
        let mut pair = Pair::new();
        pair.settle();
        pair.server.inbox = [negotiation(json)].into();
        pair.run();
        assert!(
            matches!(pair.server.failure(), Failure::Declined(refusal) if refusal.code() == code)
        );
        assert!(
            matches!(pair.client.failure(), Failure::Refused(refusal) if refusal.code() == code)
        );
    }
}

#[test]
fn answers_that_we_did_not_ask_for_are_told_apart() {
    let answer = |json| {
        let mut pair = Pair::new();
        pair.settle();
        pair.client
            .handshake
            .handle_message(pair.now, negotiation(json));
        pair.settle();
        pair.client.outcome.unwrap().unwrap_err()
    };
    let shmipc = r#"{"selected_protocol":4,"sdk_name":"shmipc-rs","sdk_version":"0.2.1"}"#;
    assert!(matches!(
        answer(shmipc),
        Failure::NotSupported { protocol: 4 }
    ));
    assert!(matches!(
        answer("[4]"),
        Failure::Misbehaved(PeerMisbehaved::Socket(InvalidMessage::Negotiation { .. }))
    ));
}

#[test]
fn messages_out_of_turn_end_it_at_every_step() {
    let outbox = || {
        Message::Outbox(Outbox {
            len: 1,
            memory_max: 1,
            memory: 1,
            doorbell: 1,
        })
    };
    // Delivered messages, whether the client is lied to, and what it may not hear then.
    let lies: [(usize, bool, Vec<Message<u32>>); 6] = [
        (0, true, vec![outbox(), Message::Ready, some_region()]),
        (0, false, vec![outbox(), Message::Ready, some_region()]),
        (
            1,
            false,
            vec![negotiation("{}"), Message::Ready, some_region()],
        ),
        (
            2,
            true,
            vec![negotiation("{}"), Message::Ready, some_region()],
        ),
        (3, true, vec![negotiation("{}"), outbox(), some_region()]),
        (4, false, vec![negotiation("{}"), outbox(), some_region()]),
    ];
    for (delivered, to_client, lies) in lies {
        for lie in lies {
            let mut pair = Pair::new();
            for _ in 0..delivered {
                let server_first = pair.client.inbox.is_empty();
                assert!(pair.deliver(server_first));
            }
            pair.settle();
            let side = if to_client {
                &mut pair.client
            } else {
                &mut pair.server
            };
            let name = lie.name();
            side.handshake.handle_message(pair.now, lie);
            let _ = side.settle();
            match side.failure() {
                Failure::Misbehaved(PeerMisbehaved::Socket(InvalidMessage::OutOfTurn {
                    message,
                    ..
                })) => {
                    assert_eq!(*message, name);
                }
                other => panic!("{name} after {delivered}: {other:?}"),
            }
        }
    }
}

#[test]
fn what_the_caller_finds_out_ends_it() {
    let mut pair = Pair::new();
    for _ in 0..2 {
        pair.deliver(true);
    }
    let message = pair.client.inbox.pop_front().unwrap();
    pair.client.handshake.handle_message(pair.now, message);
    let event = pair.client.handshake.poll_event();
    match event {
        Some(Event::CreateOutbox(_)) => unreachable!("the negotiation is over"),
        Some(Event::MapOutbox(_)) => {}
        other => panic!("{other:?}"),
    }
    pair.client
        .handshake
        .peer_misbehaved(PeerMisbehaved::Unsealed { seals: 0 });
    pair.settle();
    assert!(matches!(
        pair.client.failure(),
        Failure::Misbehaved(PeerMisbehaved::Unsealed { seals: 0 })
    ));
    assert!(
        !pair.server.inbox.contains(&Message::Ready),
        "we are not ready"
    );
}

/// One thing that a peer might say, valid more often than not.
fn any_saying() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let request =
        Message::<u32>::Negotiation(Request::new(&Offer::outbox(DoorbellKind::EventFd)).encode())
            .encode()
            .bytes;
    let terms = Terms {
        doorbell: DoorbellKind::EventFd,
        forwards: true,
    };
    let response = Message::<u32>::Negotiation(Response::outbox(terms).encode())
        .encode()
        .bytes;
    let outbox = Outbox {
        len: 1,
        memory_max: 1,
        memory: 1,
        doorbell: 2,
    };
    prop_oneof![
        Just((0, request)),
        Just((0, response)),
        Just((2, Message::Outbox(outbox).encode().bytes)),
        Just((0, Message::<u32>::Ready.encode().bytes)),
        Just((1, some_region().encode().bytes)),
        any::<(u8, Vec<u8>)>(),
    ]
}

proptest! {
    #[test]
    fn anything_may_be_said(side: u8, sayings in prop::collection::vec(any_saying(), 0..6)) {
        let mut data = vec![side];
        for (fds, bytes) in sayings {
            // A header and a body, each with the number of descriptors before it.
            let (header, body) = bytes.split_at(bytes.len().min(8));
            data.push(fds);
            data.extend(header);
            if !body.is_empty() {
                data.push(0);
                data.extend(body);
            }
        }
        fuzz_handshake(&data);
    }
}
