//! What becomes of what arrives.

use std::sync::Arc;

use super::shared::Shared;
use crate::{
    core::{num::StreamId, streams::Lookup, sync::lock},
    error::{PeerMisbehaved, SessionLost},
    link::{Arrival, Control},
    stream::{ABANDONED, StreamShared},
};

impl Shared {
    /// Hands an arrival to whom it concerns.
    ///
    /// # Errors
    ///
    /// Returns how the peer broke the protocol.
    pub(super) fn dispatch(&self, arrival: Arrival) -> Result<(), PeerMisbehaved> {
        match arrival {
            Arrival::Message {
                stream: id,
                message,
                end,
            } => {
                let lookup = lock(&self.streams).look_up(id, true)?;
                match lookup {
                    Lookup::Open(stream) => stream.receive(self, message, end),
                    Lookup::Over => Ok(()),
                    Lookup::New if self.link.is_native() && self.is_full_of_streams() => {
                        self.refuse_stream(id);
                        Ok(())
                    }
                    Lookup::New => {
                        let stream = Arc::new(StreamShared::opened_by_peer(id, self));
                        lock(&self.streams).open_remote(id, Arc::clone(&stream))?;
                        stream.receive(self, message, end)?;
                        self.stream_opened();
                        self.queue_to_accept(stream);
                        self.wake_acceptors();
                        Ok(())
                    }
                }
            }
            Arrival::Reset { stream: id, code } => {
                let lookup = lock(&self.streams).look_up(id, false)?;
                if let Lookup::Open(stream) = lookup {
                    stream.reset_by_peer(self, code);
                }
                Ok(())
            }
            Arrival::Closed { stream: id } => {
                let lookup = lock(&self.streams).look_up(id, false)?;
                if let Lookup::Open(stream) = lookup {
                    stream.closed_by_peer(self);
                }
                Ok(())
            }
            Arrival::Credit {
                stream: id,
                messages,
                bytes,
            } => {
                let lookup = lock(&self.streams).look_up(id, false)?;
                match lookup {
                    Lookup::Open(stream) => stream.granted(self, messages, bytes),
                    _ => Ok(()),
                }
            }
            Arrival::GoAway => {
                self.presence.peer_goes_away();
                self.link.counters().go_aways_received.add(1);
                self.wake_openers();
                self.changed.notify_waiters();
                Ok(())
            }
            Arrival::Internal => Ok(()),
            Arrival::Pong { nonce } => {
                self.presence.answered(nonce)?;
                self.changed.notify_waiters();
                Ok(())
            }
            Arrival::Bye => {
                self.lose(SessionLost::ClosedByPeer);
                Ok(())
            }
        }
    }

    fn is_full_of_streams(&self) -> bool {
        self.windows.streams_max <= u32::try_from(lock(&self.streams).len()).unwrap_or(u32::MAX)
    }

    /// Closes a stream that a peer has opened which knows nothing of how many it may.
    fn refuse_stream(&self, id: StreamId) {
        lock(&self.streams).remember(id);
        self.control(Control::Reset {
            stream: id,
            code: ABANDONED,
        });
    }

    /// Forgets a stream that is over on the wire.
    pub(crate) fn close_stream(&self, id: StreamId) {
        self.link.stream_over(id);
        let (may_open, is_empty) = {
            let mut streams = lock(&self.streams);
            (streams.close(id), streams.is_empty())
        };
        if may_open {
            self.wake_openers();
        }
        if is_empty && self.presence.goes_away() {
            self.changed.notify_waiters();
        }
    }
}
