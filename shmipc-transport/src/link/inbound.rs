//! The receiving half of a link.

use std::{collections::VecDeque, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;

use super::{
    Control, OutboxLink, Standing,
    lease::{HeldRegion, REGIONS_MAX, Received},
};
use crate::{
    config::is_own_uid,
    core::{
        num::{Capacity, RegionId, StreamId, index},
        outbox::{
            Consumer, InvalidRecord, Kind, Part, RECORD_BODY_MAX, ReadRing, RecordHead, Segment,
            SleepWord, flags,
        },
        wire::Region,
    },
    error::PeerMisbehaved,
    stream::RecvBuf,
    sys::{
        anchor, memfd,
        socket::{ReceiveError, SocketState},
    },
};

/// What only whoever drains the ring may touch.
#[derive(Debug)]
pub(crate) struct OutboxRx {
    consumer: Consumer,
    sleep: SleepWord,
    /// Regions whose memory has come over the socket, and whose announcement has not been read yet.
    passed: VecDeque<(RegionId, HeldRegion)>,
    scratch: Vec<u8>,
}

/// Something that the peer said.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message {
        stream: StreamId,
        message: Option<RecvBuf>,
        end: bool,
    },
    Reset {
        stream: StreamId,
        code: u32,
    },
    Credit {
        stream: StreamId,
        messages: u32,
        bytes: u32,
    },
    /// The peer has closed the stream: nothing follows, and nothing can be sent.
    Closed {
        stream: StreamId,
    },
    GoAway,
    Bye,
    Pong {
        nonce: u64,
    },
    /// The server asks us to move to its successor.
    HotRestart {
        epoch: u64,
    },
    /// The client has moved.
    HotRestartAck {
        epoch: u64,
    },
    /// Something that concerned the link alone, and is done.
    Internal,
}

impl OutboxRx {
    pub(super) fn new(ring: Capacity) -> Self {
        Self {
            consumer: Consumer::new(ring),
            sleep: SleepWord::default(),
            passed: VecDeque::new(),
            scratch: Vec::new(),
        }
    }
}

impl OutboxLink {
    /// Whether a record is waiting. One load.
    #[inline]
    pub(crate) fn is_ready(&self, rx: &OutboxRx) -> bool {
        rx.consumer.is_ready(&self.peer_ring)
    }

    /// Says that we are about to sleep. Returns `false` if a record arrived in the meantime; then we must not.
    pub(crate) fn arm(&self, rx: &mut OutboxRx) -> bool {
        rx.sleep.arm(&self.own_header().sleep.0);
        !self.is_ready(rx)
    }

    /// Says that we are awake.
    pub(crate) fn disarm(&self, rx: &mut OutboxRx) {
        rx.sleep.disarm(&self.own_header().sleep.0);
    }

    /// Takes the next arrival, if there is one: exactly one record, so that whoever counts arrivals bounds the time that a
    /// peer's ring without an end can take.
    ///
    /// # Errors
    ///
    /// Returns how the peer broke the protocol. The session must end then.
    pub(crate) fn take(
        self: &Arc<Self>,
        rx: &mut OutboxRx,
    ) -> Result<Option<Arrival>, PeerMisbehaved> {
        let Some((head, body)) = rx.consumer.peek(&self.peer_ring)? else {
            self.announce(rx);
            return Ok(None);
        };
        let arrival = self.arrival(rx, &head, body)?;
        rx.consumer.consume(&head);
        if rx.consumer.is_announcement_due() {
            self.announce(rx);
        }
        Ok(Some(arrival))
    }

    /// Tells the peer how far we are, if that is news.
    fn announce(&self, rx: &mut OutboxRx) {
        // Until now, the peer could not use these bytes again.
        let mut fill = rx.consumer.unannounced();
        if fill == 0 {
            return;
        }
        if rx.consumer.has_lapped() && rx.consumer.is_announcement_due() {
            fill = fill.saturating_add(rx.consumer.backlog(&self.peer_ring).bytes);
        }
        self.counters.peer_ring_fill_max.raise(u64::from(fill));
        if rx.consumer.announce(&self.own_header().head.0) {
            self.offer_space();
        }
    }

    /// Reads one record. What concerns the link alone is done here.
    fn arrival(
        self: &Arc<Self>,
        rx: &mut OutboxRx,
        head: &RecordHead,
        body: u32,
    ) -> Result<Arrival, PeerMisbehaved> {
        let stream = head.stream;
        let word = |i: u32| {
            let mut bytes = [0; 4];
            self.peer_ring.read(body + 4 * i, &mut bytes);
            u32::from_ne_bytes(bytes)
        };
        Ok(match head.kind {
            Kind::Pad => Arrival::Internal,
            Kind::Data => Arrival::Message {
                stream,
                message: self.message(rx, head, body)?,
                end: head.flags & flags::END != 0,
            },
            Kind::Reset => Arrival::Reset {
                stream,
                code: word(0),
            },
            Kind::Credit => Arrival::Credit {
                stream,
                messages: word(0),
                bytes: word(1),
            },
            Kind::GoAway => Arrival::GoAway,
            Kind::Bye => Arrival::Bye,
            Kind::Ping => {
                let nonce = u64::from(word(0)) | u64::from(word(1)) << 32;
                self.control(Control::Pong { nonce })?;
                Arrival::Internal
            }
            Kind::Pong => Arrival::Pong {
                nonce: u64::from(word(0)) | u64::from(word(1)) << 32,
            },
            Kind::RegionAdded => {
                self.admit_region(rx, RegionId(word(0)), word(1))?;
                Arrival::Internal
            }
            Kind::RegionDropped => {
                self.drop_region(RegionId(word(0)))?;
                Arrival::Internal
            }
            Kind::Return => {
                let token = word(0);
                if !self.tx().land(token) {
                    return Err(PeerMisbehaved::UnknownToken { token });
                }
                Arrival::Internal
            }
        })
    }

    fn message(
        self: &Arc<Self>,
        rx: &mut OutboxRx,
        head: &RecordHead,
        body: u32,
    ) -> Result<Option<RecvBuf>, PeerMisbehaved> {
        if head.flags & flags::MESSAGE == 0 {
            return Ok(None);
        }
        self.counters.messages_received.add_locked(1);
        if head.segments == 0 {
            self.counters
                .bytes_received
                .add_locked(u64::from(head.body_len));
            let bytes = self.peer_ring.copy_body(body, head.body_len);
            return Ok(Some(RecvBuf::from_copy(bytes)));
        }
        // The one look at the body; what follows works on the copy (O4).
        let mut scratch = std::mem::take(&mut rx.scratch);
        scratch.resize(index(RECORD_BODY_MAX), 0);
        let copy = &mut scratch[..index(head.body_len)];
        self.peer_ring.read(body, copy);
        let message = self.assemble(head.segments, copy);
        rx.scratch = scratch;
        let message = message?;
        self.counters
            .bytes_received
            .add_locked(message.len() as u64);
        Ok(Some(message))
    }

    /// Puts a message together from its segments (O8).
    fn assemble(self: &Arc<Self>, segments: u16, body: &[u8]) -> Result<RecvBuf, PeerMisbehaved> {
        let mut inline = &body[usize::from(segments) * 16..];
        // Before anything is copied: what a peer repeats costs it nothing.
        let named = (0..segments).filter_map(|i| match Segment::of_body(body, i)? {
            Segment::Inline { .. } => None,
            Segment::Theirs(part) | Segment::Yours(part) => Some(u64::from(part.len)),
        });
        let len = inline.len() as u64 + named.sum::<u64>();
        if self.peer_message_max < len {
            return Err(PeerMisbehaved::MessageLength { len });
        }
        let mut message = RecvBuf::default();
        for i in 0..segments {
            let segment = Segment::of_body(body, i).ok_or(InvalidRecord::Segments(segments))?;
            let bytes = match segment {
                Segment::Inline { len } => {
                    let (bytes, rest) = inline
                        .split_at_checked(index(len))
                        .ok_or(InvalidRecord::InlineBytes)?;
                    inline = rest;
                    Bytes::copy_from_slice(bytes)
                }
                Segment::Theirs(part) => match self.begin_lease(&part)? {
                    Received::Lent(region, lease, trust) => {
                        self.counters.bytes_lent.add_locked(u64::from(part.len));
                        region.lend(part.offset, part.len, lease, trust)?
                    }
                    Received::Guarded(guarded) => {
                        message.push_guarded(guarded);
                        continue;
                    }
                    Received::Empty => continue,
                },
                Segment::Yours(part) => {
                    let Part {
                        region,
                        token,
                        offset,
                        len,
                    } = part;
                    let shared = self.tx().flights().share(token, region, offset, len);
                    self.counters.bytes_sent_back.add_locked(u64::from(len));
                    shared.ok_or(PeerMisbehaved::UnknownToken { token })?
                }
            };
            message.push(bytes);
        }
        if !inline.is_empty() {
            return Err(InvalidRecord::InlineBytes.into());
        }
        if message.is_guarded() && self.copied_message_max < len {
            return Err(PeerMisbehaved::MessageLength { len });
        }
        Ok(message)
    }

    /// Admits a region whose memory must have come over the socket by now (O12).
    fn admit_region(
        &self,
        rx: &mut OutboxRx,
        id: RegionId,
        len: u32,
    ) -> Result<(), PeerMisbehaved> {
        let wrong = || PeerMisbehaved::RegionAnnouncement { region: id.0 };
        if rx.passed.is_empty() {
            self.receive_regions(rx)?;
        }
        let (passed, held) = rx.passed.pop_front().ok_or_else(wrong)?;
        if passed != id || held.region.len() != index(len) {
            return Err(wrong());
        }
        self.hold_region(id, held).map_err(|_| wrong())
    }

    /// Takes what has come over the socket. Returns whether it is still open.
    ///
    /// # Errors
    ///
    /// Returns how the peer broke the protocol.
    pub(crate) fn receive_regions(&self, rx: &mut OutboxRx) -> Result<bool, PeerMisbehaved> {
        let state = self.socket.recv_pending(|region| {
            let wrong = PeerMisbehaved::RegionAnnouncement {
                region: region.id.0,
            };
            let is_agreed_on = region.anchor.is_none() || self.standing.forwards;
            if REGIONS_MAX <= rx.passed.len() || !is_agreed_on {
                return Err(wrong);
            }
            rx.passed.push_back((region.id, self.map_region(region)?));
            Ok(())
        });
        match state {
            Ok(SocketState::Drained | SocketState::More) => Ok(true),
            // An error of the socket means that the peer is gone, as its closing does.
            Ok(SocketState::Closed) | Err(ReceiveError::Io(_)) => Ok(false),
            Err(ReceiveError::Misbehaved(misbehaved)) => Err(misbehaved),
        }
    }

    /// Verifies and maps a region that has come over the socket, and decides what may be done with it (O24).
    fn map_region(&self, region: Region<OwnedFd>) -> Result<HeldRegion, PeerMisbehaved> {
        let sealed = memfd::open_sealed(region.memory, region.len)?;
        let owner = sealed.owner();
        let Standing { payloads, peer, .. } = &self.standing;
        let trust = payloads.trust(peer, owner);
        let region = match region.anchor {
            Some(anchor) => sealed.into_forwarded_region(anchor::accept(anchor)?),
            // Whom it is passed on to may judge it by our user, which must be right (O22).
            None if trust.is_some() && owner.is_some_and(is_own_uid) => {
                sealed.into_forwardable_region()
            }
            None => sealed.into_region(),
        };
        Ok(HeldRegion { region, trust })
    }
}
