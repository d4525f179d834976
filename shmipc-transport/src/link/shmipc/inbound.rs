//! The receiving half.
//!
//! What came over the socket is delivered behind everything that was in the queue when it was read, so that neither a message nor a
//! close overtakes what its sender said before (H49, C1).

use std::{collections::VecDeque, io, mem, sync::Arc};

use bytes::Bytes;

use super::{Asked, Record, ShmipcLink, record::offset_in};
use crate::{
    core::{
        mem::{SharedRegion, Trust},
        num::{StreamId, index},
        shmipc::{
            ChainLimits, Consumer, ELEMENT_LEN, Element, InvalidShmipc, Piece, Pool,
            frames::{Deframer, Frame},
            state,
        },
        sync::{Ordering, lock},
        wire::InvalidMessage,
    },
    error::PeerMisbehaved,
    link::Arrival,
    stream::RecvBuf,
};

/// Bytes read from the socket at a time.
const READ_LEN: usize = 64 << 10;

/// Messages taken from the socket before others run.
const FRAMES_PER_CALL_MAX: usize = 64;

/// Messages of the socket that may wait until the queue has been taken. More are left in the socket.
const BACKLOG_MAX: usize = 256;

/// Elements and slices that are put back at the end of a session. An honest peer has fewer under way.
const UNREAD_MAX: u32 = 1 << 17;

/// Ranges at least this long are lent where they may be; shorter ones are cheaper to copy.
const LEND_MIN: u32 = 2048;

/// What only whoever drains the queue may touch.
#[derive(Debug)]
pub(crate) struct ShmipcRx {
    consumer: Consumer<SharedRegion>,
    deframer: Deframer,
    /// What has come over the socket, and how much of the queue comes before it.
    backlog: VecDeque<(u64, Said)>,
    buffer: Vec<u8>,
    /// Whether the last look at the socket found anything.
    has_read: bool,
    unread: Unread,
}

/// What becomes of messages that nobody will receive.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) pool: Arc<Pool<SharedRegion>>,
    pub(super) limits: ChainLimits,
    pub(super) speaks_records: bool,
}

/// What has come over the socket.
#[derive(Debug)]
enum Said {
    Close {
        stream: u32,
    },
    Fallback {
        stream: u32,
        status: u32,
        payload: Bytes,
    },
    HotRestart {
        epoch: u64,
    },
    HotRestartAck {
        epoch: u64,
    },
}

impl ShmipcRx {
    pub(super) fn new(consumer: Consumer<SharedRegion>, unread: Unread) -> Self {
        Self {
            consumer,
            deframer: Deframer::default(),
            backlog: VecDeque::new(),
            buffer: Vec::new(),
            has_read: false,
            unread,
        }
    }

    /// Whether the last look at the socket found anything.
    pub(crate) fn has_read(&self) -> bool {
        self.has_read
    }

    fn has_due(&self) -> bool {
        let due = |&(after, _): &(u64, Said)| after <= self.consumer.consumed();
        self.backlog.front().is_some_and(due)
    }
}

impl Unread {
    /// Puts the slices of a message back that nobody will receive. Returns how many elements and slices were looked at.
    fn put_back(&self, element: &Element) -> Result<u32, InvalidShmipc> {
        let offset = if self.speaks_records {
            match Record::of(element)? {
                Record::Message { offset, .. } => offset,
                _ => None,
            }
        } else {
            (element.status & 0xff == state::OPEN).then_some(element.offset)
        };
        let Some(offset) = offset else {
            return Ok(1);
        };
        let chain = self.pool.follow(offset, self.limits)?;
        let slices = chain.slices;
        self.pool.put_chain(chain)?;
        Ok(1 + slices)
    }
}

/// A peer may share the region among several sessions, and go on using it: what was in the queue of this one would be lost to them (H16).
impl Drop for ShmipcRx {
    fn drop(&mut self) {
        let mut left = UNREAD_MAX;
        while left != 0
            && let Ok(Some(element)) = self.consumer.take()
            && let Ok(count) = self.unread.put_back(&element)
        {
            left = left.saturating_sub(count);
        }
    }
}

impl ShmipcLink {
    /// Whether something is waiting that may be taken now.
    // Not inlined, so that the loops which call either link's stay as short as they are for our own.
    #[inline(never)]
    pub(crate) fn is_ready(&self, rx: &ShmipcRx) -> bool {
        (rx.consumer.is_ready() || rx.has_due()) && !self.is_paused()
    }

    /// Says that we are about to sleep. Returns `false` if something arrived in the meantime; then we must not.
    pub(crate) fn arm(&self, rx: &ShmipcRx) -> bool {
        if let Err(invalid) = self.pool.trim() {
            self.blame(invalid.into());
        }
        let is_empty = rx.consumer.arm();
        is_empty && !rx.has_due() || self.is_paused()
    }

    /// Says that we are awake.
    pub(crate) fn disarm(&self, rx: &ShmipcRx) {
        if self.is_driven.load(Ordering::Relaxed) {
            self.pool.wake();
        }
        rx.consumer.disarm();
    }

    /// Takes the next arrival, if there is one.
    ///
    /// # Errors
    ///
    /// Returns how the peer broke the protocol. The session must end then.
    pub(crate) fn take(
        self: &Arc<Self>,
        rx: &mut ShmipcRx,
    ) -> Result<Option<Arrival>, PeerMisbehaved> {
        // Acquire: pairs with the release in `blame`.
        if self.is_broken.load(Ordering::Acquire)
            && let Some(misbehaved) = lock(&self.broken).clone()
        {
            return Err(misbehaved);
        }
        if self.is_paused() {
            // Whatever is held here, the peer may be well.
            return Ok(self.answered_ping()?);
        }
        if rx.has_due()
            && let Some((_, said)) = rx.backlog.pop_front()
        {
            return self.said(said).map(Some);
        }
        let Some(element) = rx.consumer.take()? else {
            let fill = rx.consumer.crowd_max().saturating_mul(ELEMENT_LEN);
            self.counters.peer_ring_fill_max.raise(u64::from(fill));
            return Ok(self.answered_ping()?);
        };
        self.forget_files();
        self.element(&element).map(Some)
    }

    /// A ping that nobody would answer counts as answered when the peer has taken all that was sent before it, whatever was sent since.
    fn answered_ping(&self) -> Result<Option<Arrival>, InvalidShmipc> {
        if self.speaks_records {
            return Ok(None);
        }
        let mut pings = lock(&self.pings);
        let Some(&Asked {
            nonce,
            published,
            pushed,
        }) = pings.front()
        else {
            return Ok(None);
        };
        let has_taken = {
            let mut tx = self.tx();
            published <= tx.taken()? && pushed <= tx.unsent.taken()
        };
        if !has_taken {
            return Ok(None);
        }
        pings.pop_front();
        Ok(Some(Arrival::Pong { nonce }))
    }

    fn element(self: &Arc<Self>, element: &Element) -> Result<Arrival, PeerMisbehaved> {
        let stream = StreamId(u64::from(element.stream));
        if self.is_native() {
            return match element.status & 0xff {
                state::OPEN => self.message(stream, element.offset),
                state::CLOSED => {
                    self.tx().forget(stream);
                    Ok(Arrival::Closed { stream })
                }
                status => Err(InvalidShmipc::Status { status }.into()),
            };
        }
        Ok(match Record::of(element)? {
            Record::Message {
                offset: Some(offset),
                end,
                ..
            } => match self.message(stream, offset)? {
                Arrival::Message {
                    stream, message, ..
                } => Arrival::Message {
                    stream,
                    // Its slices may all have been empty.
                    message: Some(message.unwrap_or_default()),
                    end,
                },
                other => other,
            },
            Record::Message {
                offset: None,
                is_message,
                end,
            } => {
                self.counters.messages_received.add(u64::from(is_message));
                Arrival::Message {
                    stream,
                    message: is_message.then(RecvBuf::default),
                    end,
                }
            }
            control => self.told(stream, control)?,
        })
    }

    /// Takes what is no message.
    fn told(self: &Arc<Self>, stream: StreamId, record: Record) -> Result<Arrival, PeerMisbehaved> {
        Ok(match record {
            Record::Message { .. } => Arrival::Internal,
            Record::Reset { code } => Arrival::Reset { stream, code },
            Record::Credit { messages, bytes } => Arrival::Credit {
                stream,
                messages,
                bytes,
            },
            Record::GoAway => Arrival::GoAway,
            Record::Bye => Arrival::Bye,
            Record::Ping { nonce } => {
                self.control(crate::link::Control::Pong { nonce })?;
                Arrival::Internal
            }
            Record::Pong { nonce } => Arrival::Pong { nonce },
        })
    }

    /// Takes the message that begins at `offset`. One of no bytes is none.
    fn message(self: &Arc<Self>, stream: StreamId, offset: u32) -> Result<Arrival, PeerMisbehaved> {
        let chain = self.pool.follow(offset, self.limits)?;
        let len = chain.len();
        let mut message = RecvBuf::default();
        // What is copied lies together: in buffers of their own, short pieces would take many times their bytes.
        let mut copy = Vec::new();
        if self.trust.is_none() {
            copy.reserve_exact(index(len));
        }
        for piece in chain.pieces {
            if let Some(trust) = self.trust.filter(|_| LEND_MIN <= piece.len) {
                self.push_copy(&mut message, mem::take(&mut copy));
                message.push(self.lend(piece, trust));
            } else {
                let Piece { slice, start, len } = piece;
                self.pool.append_to(&slice, start, len, &mut copy);
                self.pool.recycle(slice)?;
            }
        }
        self.push_copy(&mut message, copy);
        if message.is_empty() {
            return Ok(Arrival::Message {
                stream,
                message: None,
                end: false,
            });
        }
        self.counters.messages_received.add(1);
        self.counters.bytes_received.add(u64::from(len));
        Ok(Arrival::Message {
            stream,
            message: Some(message),
            end: false,
        })
    }

    /// Appends what was copied of a message, if that is anything.
    fn push_copy(&self, message: &mut RecvBuf, copy: Vec<u8>) {
        if !copy.is_empty() {
            message.push(self.budget.charge(copy));
        }
    }

    /// Lends a part of a message.
    fn lend(self: &Arc<Self>, piece: Piece, trust: Trust) -> Bytes {
        self.counters.bytes_lent.add(u64::from(piece.len));
        self.lent.begin(&piece.slice, piece.start, piece.len);
        let (link, pool) = (Arc::downgrade(self), Arc::clone(&self.pool));
        let release = move |slice| match link.upgrade() {
            Some(link) => {
                link.lent.end(&slice);
                link.put_slice(slice);
            }
            // The peer may have other sessions over the region, which find out whether its lists are in order (H17).
            None => drop(pool.put(slice)),
        };
        self.pool.lend(piece, release, trust)
    }

    fn said(self: &Arc<Self>, said: Said) -> Result<Arrival, PeerMisbehaved> {
        match said {
            Said::Close { stream } => {
                let stream = StreamId(u64::from(stream));
                self.tx().forget(stream);
                Ok(Arrival::Closed { stream })
            }
            Said::HotRestart { epoch } => Ok(Arrival::HotRestart { epoch }),
            Said::HotRestartAck { epoch } => Ok(Arrival::HotRestartAck { epoch }),
            Said::Fallback {
                stream,
                status,
                payload,
            } => {
                let id = StreamId(u64::from(stream));
                let wrong = InvalidShmipc::Status { status };
                let (is_message, end) = if self.is_native() {
                    match status & 0xff {
                        state::OPEN => (!payload.is_empty(), false),
                        _ => return Err(wrong.into()),
                    }
                } else {
                    let element = Element {
                        stream,
                        offset: 0,
                        status,
                    };
                    match Record::of(&element)? {
                        Record::Message {
                            is_message, end, ..
                        } => (is_message, end),
                        Record::Reset { .. } | Record::Bye | Record::Pong { .. } => {
                            let offset = offset_in(&payload).ok_or(wrong)?;
                            return self.told(id, Record::of(&Element { offset, ..element })?);
                        }
                        _ => return Err(wrong.into()),
                    }
                };
                self.counters.fallbacks_received.add(u64::from(is_message));
                self.tx().fallen.heard_of(stream);
                self.counters.messages_received.add(u64::from(is_message));
                self.counters.bytes_received.add(payload.len() as u64);
                Ok(Arrival::Message {
                    stream: id,
                    message: is_message.then(|| RecvBuf::from_bytes(payload)),
                    end,
                })
            }
        }
    }

    /// Takes what has come over the socket. Returns whether it is still open.
    ///
    /// # Errors
    ///
    /// Returns how the peer broke the protocol.
    pub(crate) fn receive_frames(&self, rx: &mut ShmipcRx) -> Result<bool, PeerMisbehaved> {
        let mut buffer = std::mem::take(&mut rx.buffer);
        buffer.resize(READ_LEN, 0);
        let mut frames = 0;
        rx.has_read = false;
        let outcome = loop {
            if frames == FRAMES_PER_CALL_MAX || BACKLOG_MAX <= rx.backlog.len() || self.is_paused()
            {
                break Ok(true);
            }
            let wanted = rx.deframer.wanted().min(READ_LEN);
            let len = match self.socket.try_read(&mut buffer[..wanted]) {
                Ok(0) => break Ok(false),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(true),
                // An error of the socket means that the peer is gone, as its closing does.
                Err(_) => break Ok(false),
            };
            rx.has_read = true;
            match rx.deframer.push(&buffer[..len]) {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    frames += 1;
                    if let Err(misbehaved) = self.accept_frame(rx, frame) {
                        break Err(misbehaved);
                    }
                }
                Err(invalid) => break Err(invalid.into()),
            }
        };
        rx.buffer = buffer;
        outcome
    }

    fn accept_frame(&self, rx: &mut ShmipcRx, frame: Frame) -> Result<(), PeerMisbehaved> {
        // What is said after a handshake is said by who has mapped them.
        self.forget_files();
        let said = match frame {
            // Whoever is woken looks at the queue.
            Frame::Polling => {
                self.counters.doorbells_heard.add(1);
                return Ok(());
            }
            Frame::Close { stream } => Said::Close { stream },
            Frame::Fallback { payload, .. } if index(self.limits.bytes()) < payload.len() => {
                let max = self.limits.bytes();
                return Err(InvalidShmipc::MessageLength { max }.into());
            }
            Frame::Fallback {
                stream,
                status,
                payload,
            } => Said::Fallback {
                stream,
                status,
                payload: self.budget.charge(payload),
            },
            // Only servers restart, and only clients follow. Anything else is of no consequence.
            Frame::HotRestart { epoch } if self.is_client => Said::HotRestart { epoch },
            Frame::HotRestartAck { epoch } if !self.is_client => Said::HotRestartAck { epoch },
            Frame::HotRestart { .. } | Frame::HotRestartAck { .. } => return Ok(()),
            other => {
                let message = other.name();
                let when = "after the handshake";
                return Err(InvalidMessage::OutOfTurn { message, when }.into());
            }
        };
        let after = rx.consumer.consumed() + u64::from(rx.consumer.waiting()?);
        rx.backlog.push_back((after, said));
        Ok(())
    }
}
