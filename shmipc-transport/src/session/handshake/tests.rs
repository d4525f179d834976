use std::{
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream as StdStream},
    task::Poll,
    time::Duration,
};

use nix::unistd::Uid;
use tokio::net::UnixStream;

use super::*;
use crate::{
    core::{
        handshake::{Event, Failure, Handshake, ServerTerms},
        outbox::Windows,
        shmipc::terms::{Terms as ShmipcTerms, Wakes},
        wire::{
            InvalidMessage, Message, Transmit,
            negotiation::{Offer, Request},
        },
    },
    error::{HandshakeStep, Refusal, RefusalCode},
};

/// Creates an outbox of ordinary files, and keeps what it is given.
#[derive(Default)]
struct Files {
    failure: Option<AttachError>,
    cannot_create: bool,
    created: usize,
}

impl Attach for Files {
    type Attached = Outbox<OwnedFd>;

    fn doorbell(&self, _peer: &Peer) -> DoorbellKind {
        DoorbellKind::EventFd
    }

    fn create(&mut self, _doorbell: DoorbellKind) -> io::Result<Outbox<OwnedFd>> {
        if self.cannot_create {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.created += 1;
        let file = || tempfile::tempfile().map(OwnedFd::from);
        Ok(Outbox {
            len: 4096,
            memory_max: 1 << 20,
            memory: file()?,
            doorbell: file()?,
        })
    }

    fn attach(&mut self, theirs: Outbox<OwnedFd>) -> Result<Self::Attached, AttachError> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(theirs),
        }
    }
}

const NEGOTIATE: Attempt = Attempt::Negotiate { patience: None };

type Shaken<E> = Result<Established<Outbox<OwnedFd>>, E>;

/// Connects two sockets and shakes hands over them.
async fn shake(
    config: [Config; 2],
    [client, server]: [&mut Files; 2],
) -> (Shaken<ConnectError>, Shaken<HandshakeError>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let address = Address::from(OwnedFd::from(ours.into_std().unwrap()));
    let strangers = Strangers::default();
    let (client, server) = tokio::join!(
        connect(&address, &config[0], Clock::start(), NEGOTIATE, client),
        accept(theirs, &config[1], server, &strangers)
    );
    (
        client.map(Outcome::unwrap_outbox),
        server.map(Outcome::unwrap_outbox),
    )
}

fn strict() -> Config {
    Config::builder().authorize(|_| false).build().unwrap()
}

#[tokio::test]
async fn two_sides_find_each_other() {
    let (client, server) = shake(
        Default::default(),
        [&mut Files::default(), &mut Files::default()],
    )
    .await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer.uid(), Some(Uid::effective().as_raw()));
    assert_eq!(client.peer, server.peer);
    assert!(client.process.is_none());
    assert_eq!(client.attached.len, 4096);
    // The sockets go on to carry regions, from the first byte after the handshake.
    let region = tempfile::tempfile().unwrap();
    assert!(
        client
            .socket
            .send_region(crate::core::wire::Region {
                id: crate::core::num::RegionId(3),
                len: 4096,
                memory: region.as_fd(),
                anchor: None,
            })
            .unwrap()
    );
    let mut seen = None;
    let state = server.socket.recv_pending(|region| {
        seen = Some(region.id.0);
        Ok(())
    });
    assert_eq!(
        (seen, state.unwrap()),
        (Some(3), crate::sys::socket::SocketState::Drained)
    );
}

#[tokio::test]
async fn the_unauthorised_are_told_so_before_anything_is_made_for_them() {
    let (mut ours, mut theirs) = (Files::default(), Files::default());
    let (client, server) = shake([Config::default(), strict()], [&mut ours, &mut theirs]).await;
    assert!(
        matches!(client, Err(ConnectError::Refused(refusal)) if refusal.code() == RefusalCode::Unauthorized)
    );
    assert!(server.is_err());
    assert_eq!((ours.created, theirs.created), (0, 0));
}

#[tokio::test]
async fn a_client_does_not_talk_to_just_anybody() {
    let (mut ours, mut theirs) = (Files::default(), Files::default());
    let (client, server) = shake([strict(), Config::default()], [&mut ours, &mut theirs]).await;
    assert!(matches!(client, Err(ConnectError::ServerNotAuthorized(_))));
    assert!(server.is_err());
    assert_eq!((ours.created, theirs.created), (0, 0));
}

#[tokio::test]
async fn a_server_without_memory_says_so() {
    let mut theirs = Files {
        cannot_create: true,
        ..Files::default()
    };
    let (client, server) = shake(Default::default(), [&mut Files::default(), &mut theirs]).await;
    assert!(
        matches!(client, Err(ConnectError::Refused(refusal)) if refusal.code() == RefusalCode::Busy)
    );
    assert!(server.is_err());
}

#[tokio::test]
async fn a_client_without_memory_hears_of_it() {
    let mut ours = Files {
        cannot_create: true,
        ..Files::default()
    };
    let (client, server) = shake(Default::default(), [&mut ours, &mut Files::default()]).await;
    assert!(matches!(
        client,
        Err(ConnectError::Io {
            action: "create an outbox",
            ..
        })
    ));
    assert!(matches!(server, Err(HandshakeError::Failed(_))));
}

#[tokio::test]
async fn a_bad_outbox_is_the_peers_fault_and_a_failed_mapping_is_not() {
    let misbehaved = AttachError::Misbehaved(PeerMisbehaved::Unsealed { seals: 0 });
    let mut ours = Files {
        failure: Some(misbehaved),
        ..Files::default()
    };
    let (client, server) = shake(Default::default(), [&mut ours, &mut Files::default()]).await;
    assert!(matches!(
        client,
        Err(ConnectError::PeerMisbehaved(
            PeerMisbehaved::Unsealed { .. }
        ))
    ));
    assert!(server.is_err());
    let failed = AttachError::Io(io::ErrorKind::OutOfMemory.into());
    let mut ours = Files {
        failure: Some(failed),
        ..Files::default()
    };
    let (client, _) = shake(Default::default(), [&mut ours, &mut Files::default()]).await;
    assert!(matches!(
        client,
        Err(ConnectError::Io {
            action: "map the peer's outbox",
            ..
        })
    ));
}

#[tokio::test]
async fn nobody_there_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::default();
    let path = directory.path().join("socket");
    let address = Address::from(path.clone());
    let absent = connect(
        &address,
        &config,
        Clock::start(),
        NEGOTIATE,
        &mut Files::default(),
    )
    .await;
    assert!(matches!(absent, Err(ConnectError::NoServer { .. })));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let gone = connect(
        &address,
        &config,
        Clock::start(),
        NEGOTIATE,
        &mut Files::default(),
    )
    .await;
    assert!(matches!(gone, Err(ConnectError::NoServer { .. })));
    let loopy = Address::from(directory.path().join("socket/below"));
    let loopy = connect(
        &loopy,
        &config,
        Clock::start(),
        NEGOTIATE,
        &mut Files::default(),
    )
    .await;
    assert!(matches!(loopy, Err(ConnectError::Unreachable { .. })));
    let long = connect(
        &Address::from("x".repeat(200)),
        &config,
        Clock::start(),
        NEGOTIATE,
        &mut Files::default(),
    )
    .await;
    assert!(matches!(long, Err(ConnectError::Address(_))));
}

/// Shakes hands with a bare socket that the test speaks for.
async fn against(villain: impl FnOnce(&mut StdStream)) -> Shaken<HandshakeError> {
    let (ours, mut theirs) = StdStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    villain(&mut theirs);
    accept(
        UnixStream::from_std(ours).unwrap(),
        &Config::default(),
        &mut Files::default(),
        &Strangers::default(),
    )
    .await
    .map(Outcome::unwrap_outbox)
}

#[tokio::test]
async fn rubbish_is_misbehaviour_whoever_talks_to_the_socket() {
    let server = against(|socket| socket.write_all(b"PRI * HTTP/2.0\r\n\r\n").unwrap()).await;
    let text = format!("{:?}", server.unwrap_err());
    assert!(text.contains("Magic"), "{text}");
    let Transmit { bytes, .. } = Message::<OwnedFd>::Ready.encode();
    let text = format!(
        "{:?}",
        against(|socket| socket.write_all(&bytes).unwrap())
            .await
            .unwrap_err()
    );
    assert!(text.contains("OutOfTurn"), "{text}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let server = against(|socket| socket.shutdown(std::net::Shutdown::Both).unwrap()).await;
    assert!(format!("{:?}", server.unwrap_err()).contains("Closed"));
}

/// Connects, and returns where that has come to when its time is over.
async fn times_out(address: &Address) -> HandshakeStep {
    let config = Config::default();
    match connect(
        address,
        &config,
        Clock::start(),
        NEGOTIATE,
        &mut Files::default(),
    )
    .await
    {
        Err(ConnectError::TimedOut { step, .. }) => step,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_peer_is_given_up() {
    let (_kept, ours) = UnixStream::pair().unwrap();
    let strangers = Strangers::default();
    let (config, mut files) = (Config::default(), Files::default());
    let server = accept(ours, &config, &mut files, &strangers).await;
    let text = format!("{:?}", server.unwrap_err());
    assert!(text.contains("TimedOut { step: Negotiation"), "{text}");
    let (_kept, ours) = UnixStream::pair().unwrap();
    let address = Address::from(OwnedFd::from(ours.into_std().unwrap()));
    assert_eq!(times_out(&address).await, HandshakeStep::Negotiation);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_waited_for_until_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::from(directory.path().join("socket"));
    let unix = address.to_unix().unwrap().unwrap();
    let _listener = crate::sys::endpoint::listen(&unix).unwrap();
    nix::sys::socket::listen(&_listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = crate::sys::endpoint::connect(&unix) {
        waiting.push(stream);
    }
    assert_eq!(times_out(&address).await, HandshakeStep::Connection);
}

#[tokio::test]
async fn a_refusal_is_read_although_the_request_could_not_be_sent() {
    let (ours, mut theirs) = StdStream::pair().unwrap();
    let refusal = Refusal::new(RefusalCode::Busy, "later");
    let json = crate::core::wire::negotiation::Response::refusal(&refusal).encode();
    theirs
        .write_all(&Message::<OwnedFd>::Negotiation(json).encode().bytes)
        .unwrap();
    drop(theirs);
    let address = Address::from(OwnedFd::from(ours));
    // The closed end has no credentials any more on some kernels; admit whoever it was.
    let config = Config::builder().authorize(|_| true).build().unwrap();
    let client = connect(
        &address,
        &config,
        Clock::start(),
        NEGOTIATE,
        &mut Files::default(),
    )
    .await;
    assert!(matches!(client, Err(ConnectError::Refused(theirs)) if theirs == refusal));
}

#[tokio::test]
async fn dropping_the_future_hangs_up() {
    for polls in 1..6 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let address = Address::from(OwnedFd::from(ours.into_std().unwrap()));
        let (config, mut files) = (Config::default(), Files::default());
        let server = tokio::spawn(async move {
            let strangers = Strangers::default();
            let (config, mut files) = (Config::default(), Files::default());
            accept(theirs, &config, &mut files, &strangers).await
        });
        {
            let mut client = std::pin::pin!(connect(
                &address,
                &config,
                Clock::start(),
                NEGOTIATE,
                &mut files
            ));
            for _ in 0..polls {
                let ready =
                    std::future::poll_fn(|cx| Poll::Ready(client.as_mut().poll(cx).is_ready()))
                        .await;
                if ready {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // Whatever the server has reached, it does not hang.
        let _ = tokio::time::timeout(Duration::from_secs(60), server)
            .await
            .expect("the server noticed")
            .unwrap();
    }
}

#[test]
fn refusals_reach_the_user_in_words() {
    let error = ConnectError::from(HandshakeError::Failed(Failure::Misbehaved(
        InvalidMessage::Magic(1).into(),
    )));
    assert_eq!(error.to_string(), "the server misbehaved");
}

#[test]
fn who_may_go_on_with_an_older_version_is_hung_up_on_if_only_an_answer_would_stop_it() {
    let foreign = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1","supports_features":["eventfd_wakeup"]}"#;
    let foreign = Message::Negotiation(foreign.into());
    let ours =
        |outbox, shmipc| Message::Negotiation(Request::new(&Offer { outbox, shmipc }).encode());
    let records = ShmipcTerms {
        wakes: Wakes::EventFd,
        windows: Some(Windows::UNLIMITED),
    };
    for (first, outbox, versions, is_told) in [
        (foreign.clone(), None, [false, true], false),
        (foreign.clone(), None, [true, false], false),
        (
            foreign.clone(),
            Some(DoorbellKind::EventFd),
            [true, true],
            false,
        ),
        (
            foreign.clone(),
            Some(DoorbellKind::EventFd),
            [false; 2],
            true,
        ),
        // Ours knows what a refusal says, and does not take it for the end of a server that starts again.
        (
            ours(Some(DoorbellKind::EventFd), None),
            None,
            [false, true],
            true,
        ),
        (ours(None, Some(records)), None, [false, true], true),
        (Message::Negotiation("{".into()), None, [false, true], true),
    ] {
        let terms = ServerTerms {
            outbox,
            shmipc: None,
            versions,
        };
        let mut server = Handshake::<u32>::server(Duration::ZERO, Duration::MAX, terms);
        server.handle_message(Duration::ZERO, first.clone());
        assert_eq!(
            server.poll_transmit().is_some(),
            is_told,
            "{first:?}, {terms:?}"
        );
        let event = server.poll_event();
        let is_declined = matches!(event, Some(Event::Failed(Failure::Declined(_))));
        assert!(is_declined, "{event:?}");
    }
}
