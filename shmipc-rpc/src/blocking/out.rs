//! One half of a call on its way out, in a thread.

use std::{future::poll_fn, time::Instant};

use shmipc_transport::{SendError, blocking::Session};

use crate::{
    Status,
    body::{Borrowed, Encode, Encoded},
    deadline,
    frame::{Ending, HalfError, HalfSender},
};

/// There is no message in a frame that only opens or ends a call.
const NO_MESSAGE: Option<&mut Encoded<&'static [u8]>> = None;

/// Sends one half of a call, waiting while there is no room.
#[derive(Debug)]
pub(super) struct Out {
    session: Session,
    half: HalfSender,
    deadline: Option<Instant>,
}

/// Why nothing more can be sent.
#[derive(Debug)]
pub(super) enum OutError {
    /// The stream is of no use any more. The other half tells why.
    Stream(SendError),
    /// It cannot be sent, for this reason.
    Failed(Status),
}

impl From<HalfError> for OutError {
    fn from(error: HalfError) -> Self {
        match error {
            HalfError::Stream(error) => Self::Stream(error),
            HalfError::Frame(status) => Self::Failed(status),
        }
    }
}

impl Out {
    pub(super) fn new(session: Session, half: HalfSender, deadline: Option<Instant>) -> Self {
        Self {
            session,
            half,
            deadline,
        }
    }

    /// Sends what opens the half, unless that was done.
    pub(super) fn open(&mut self) -> Result<(), OutError> {
        let (half, mut buffer) = (&mut self.half, None);
        let sent = poll_fn(|cx| half.poll_open(cx, &mut buffer));
        sent_in_time(self.session.block_on(self.deadline, sent))
    }

    /// Sends a message that others may follow.
    ///
    /// It travels alone, unlike those of a stream, of which it is known whether the next is there: an iterator can only be asked for the
    /// next, and may block its thread for as long as it likes before it has it.
    pub(super) fn message<T: prost::Message>(&mut self, message: &T) -> Result<(), OutError> {
        self.encoded(&mut Borrowed(message))
    }

    fn encoded<M: Encode>(&mut self, message: &mut M) -> Result<(), OutError> {
        // While there is room, nothing below waits: then nobody else sees what time it is, or what the peer has said.
        self.session.attend();
        if self
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            return Err(OutError::Failed(deadline::exceeded()));
        }
        let (half, mut buffer) = (&mut self.half, None);
        let sent = poll_fn(|cx| half.poll_message(cx, message, &mut buffer));
        sent_in_time(self.session.block_on(self.deadline, sent))
    }

    /// Sends the end.
    pub(super) fn end(&mut self, ending: Ending) -> Result<(), OutError> {
        let (half, mut buffer, mut ending) = (&mut self.half, None, ending);
        let sent = poll_fn(|cx| half.poll_end(cx, NO_MESSAGE, &mut ending, &mut buffer));
        sent_in_time(self.session.block_on(self.deadline, sent))
    }

    /// Waits no longer than until `deadline` from now on.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Shows the end to those who want to see it. Returns what they have made of it.
    pub(super) fn settle(&mut self, mut ending: Ending) -> Ending {
        match self.half.unsettled(&mut ending) {
            Some(unsettled) => unsettled.settle(),
            None => ending,
        }
    }

    /// Sends the end if that takes no waiting, whatever the deadline.
    pub(super) fn end_at_once(&mut self, ending: Ending) {
        self.deadline = Some(Instant::now());
        // Who has no room for it is told by the reset that follows.
        drop(self.end(ending));
    }
}

fn sent_in_time(sent: Option<Result<(), HalfError>>) -> Result<(), OutError> {
    match sent {
        Some(sent) => Ok(sent?),
        None => Err(OutError::Failed(deadline::exceeded())),
    }
}
