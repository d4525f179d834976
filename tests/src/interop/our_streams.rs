//! What streams of both our own implementations have in common: messages that are read as a sequence of bytes.

use bytes::{Buf, BufMut};
use shmipc_transport::{RecvBuf, RecvError, SendError, Stats};

use super::{implementation::Ended, message::HEAD_LEN, our_peer::chain};

/// What has arrived and was not read.
#[derive(Debug, Default)]
pub(super) struct Rest(Option<RecvBuf>);

impl Rest {
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|rest| !rest.has_remaining())
    }

    /// Goes on with the next message, or says why there is none.
    pub(super) fn refill(
        &mut self,
        received: Result<Option<RecvBuf>, RecvError>,
    ) -> Result<(), Ended> {
        match received {
            Ok(Some(message)) => {
                self.0 = Some(message);
                Ok(())
            }
            Ok(None) => Err(Ended::Finished),
            Err(lost @ RecvError::SessionLost(_)) => Err(Ended::Lost(chain(lost))),
            Err(other) => Err(Ended::Failed(chain(other))),
        }
    }

    /// Moves what there is to `bytes`, up to a length of `len`.
    pub(super) fn read(&mut self, bytes: &mut Vec<u8>, len: usize) {
        if let Some(rest) = &mut self.0 {
            let next = rest.remaining().min(len - bytes.len());
            bytes.put(rest.take(next));
        }
    }

    /// Gives back the memory of what was read.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            self.0 = None;
        }
    }
}

/// Writes a message: the payload in calls of `piece` bytes (0 is all).
pub(super) fn write(
    message: &mut impl BufMut,
    head: &[u8; HEAD_LEN],
    payload: &[u8],
    piece: usize,
) {
    message.put_slice(head);
    let piece = if piece == 0 { usize::MAX } else { piece };
    for piece in payload.chunks(piece) {
        message.put_slice(piece);
    }
}

/// What it means that a message was sent, or not.
pub(super) fn sent(done: Result<(), SendError>) -> Result<(), Ended> {
    match done {
        Ok(()) => Ok(()),
        Err(lost @ SendError::SessionLost(_)) => Err(Ended::Lost(chain(lost))),
        Err(SendError::Reset(_)) => Err(Ended::Finished),
        Err(other) => Err(Ended::Failed(chain(other))),
    }
}

/// What it means that a stream was finished, or not.
pub(super) fn finished(done: Result<(), SendError>) -> Result<(), String> {
    match done {
        // Whoever closes second has nobody to tell.
        Ok(()) | Err(SendError::Reset(_) | SendError::SessionLost(_)) => Ok(()),
        Err(other) => Err(chain(other)),
    }
}

/// Messages of several sessions that went over the socket, both ways.
pub(super) fn fallbacks(sessions: impl Iterator<Item = Stats>) -> u64 {
    sessions
        .map(|stats| stats.fallbacks_sent + stats.fallbacks_received)
        .sum()
}
