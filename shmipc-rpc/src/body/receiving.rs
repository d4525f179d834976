//! The messages of a half of a call, as they arrive.

use std::{
    any::Any,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Buf;
use http::HeaderMap;
use shmipc_transport::{ABANDONED, RecvBuf, RecvError, RecvHalf, SessionLost, blocking};
use tokio::time::Sleep;

use super::{Encoded, decode, messages::Source};
use crate::{
    Status,
    deadline::{self, Lookout},
    frame::{self, Flags, InvalidFrame, ResponseFrame},
};

/// Receives the other side's half of a call.
///
/// If it is dropped at the caller before that is over, the call is given up (R6).
#[derive(Debug)]
pub(crate) struct Receiving {
    stream: RecvHalf,
    side: Side,
    /// What came with the frame that was read last.
    message: Option<RecvBuf>,
    /// Frames that arrived together with that.
    rest: RecvBuf,
    ending: Option<Result<Option<Box<HeaderMap>>, Status>>,
    message_len_max: usize,
    lookout: Lookout,
    /// What lasts as long as this.
    held: Option<Box<dyn Any + Send + Sync>>,
}

/// Who receives.
#[derive(Debug)]
enum Side {
    Caller {
        opened: bool,
        deadline: Option<Instant>,
        timer: Option<Pin<Box<Sleep>>>,
        /// Why the requests that are still sent have failed, once they have.
        requests: Option<Arc<OnceLock<Status>>>,
    },
    Server,
}

impl Receiving {
    /// Receives a response, of which nothing has arrived yet.
    pub(crate) fn response(
        stream: RecvHalf,
        deadline: Option<Instant>,
        message_len_max: usize,
    ) -> Self {
        Self {
            stream,
            side: Side::Caller {
                opened: false,
                deadline,
                timer: None,
                requests: None,
            },
            message: None,
            rest: RecvBuf::default(),
            ending: None,
            message_len_max,
            lookout: Lookout::default(),
            held: None,
        }
    }

    /// Receives a request, whose first message may have come with its head.
    pub(crate) fn request(
        stream: RecvHalf,
        message: Option<RecvBuf>,
        is_last: bool,
        message_len_max: usize,
    ) -> Self {
        Self {
            stream,
            side: Side::Server,
            message,
            rest: RecvBuf::default(),
            ending: is_last.then_some(Ok(None)),
            message_len_max,
            lookout: Lookout::default(),
            held: None,
        }
    }

    /// Takes no message that is longer than this.
    pub(crate) fn limit(&mut self, message_len_max: usize) {
        self.message_len_max = self.message_len_max.min(message_len_max);
    }

    /// Keeps a value until the last message has arrived, or this is dropped.
    pub(crate) fn hold(&mut self, value: Box<dyn Any + Send + Sync>) {
        self.held = Some(value);
    }

    /// Fails as the requests do, which somebody else goes on to send, if that is why the call is given up.
    pub(crate) fn fails_with(&mut self, failure: Arc<OnceLock<Status>>) {
        if let Side::Caller { requests, .. } = &mut self.side {
            *requests = Some(failure);
        }
    }

    /// Polls for what opens a response: its metadata. The inner error is what the server says went wrong, the outer one
    /// what went wrong on the way.
    pub(crate) fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Result<HeaderMap, Status>, Status>> {
        let frame = ready!(self.poll_frame(cx));
        Poll::Ready(self.opened(frame))
    }

    /// As [`poll_open`](Self::poll_open), but waits in this thread, until `deadline`.
    pub(crate) fn wait_open(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Result<HeaderMap, Status>, Status> {
        let frame = self.wait_frame(deadline);
        self.opened(frame)
    }

    /// Takes what opens a response if it is there.
    pub(crate) fn try_open(&mut self) -> Option<Result<Result<HeaderMap, Status>, Status>> {
        let frame = self.try_take()?;
        Some(self.opened(frame))
    }

    /// Reads the next frame if it is there and there is a use for it.
    pub(crate) fn try_frame(&mut self) -> Result<(), Status> {
        if self.message.is_some() || self.ending.is_some() {
            return Ok(());
        }
        match self.try_take() {
            None => Ok(()),
            Some(frame) => self.take_frame(frame),
        }
    }

    /// Takes the next frame if it is there.
    fn try_take(&mut self) -> Option<Result<Option<RecvBuf>, Status>> {
        let filled = if self.rest.is_empty() {
            let received = self.stream.try_recv()?;
            self.received(received, None)
        } else {
            Ok(true)
        };
        Some(filled.map(|is_filled| is_filled.then(|| self.first_frame())))
    }

    /// Reads the first frame of a response.
    fn opened(
        &mut self,
        frame: Result<Option<RecvBuf>, Status>,
    ) -> Result<Result<HeaderMap, Status>, Status> {
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(self.fail(no_answer())),
            Err(status) => return Err(self.fail(status)),
        };
        let opening = match self.read_response(frame) {
            Ok(opening) => opening,
            Err(status) => return Err(self.fail(status)),
        };
        if let Side::Caller { opened, .. } = &mut self.side {
            *opened = true;
        }
        if let Some(opening) = opening {
            return Ok(Ok(opening));
        }
        // A response that begins with anything else is over before it began.
        match self.ending.take() {
            Some(Err(status)) if self.message.is_none() => Ok(Err(self.fail(status))),
            _ => Err(self.fail(Status::internal(
                "the server sent a message before the response",
            ))),
        }
    }

    /// Takes a response that has arrived as a whole: its message, if it has one, and the metadata after it.
    pub(crate) fn take_whole(&mut self) -> Option<(Option<RecvBuf>, Option<Box<HeaderMap>>)> {
        let is_short = |message: &RecvBuf| message.len() <= self.message_len_max;
        match &mut self.ending {
            Some(Ok(trailers)) if self.message.as_ref().is_none_or(is_short) => {
                Some((self.message.take(), trailers.take()))
            }
            _ => None,
        }
    }

    /// Polls for the next message. `None` after the last, if all went well.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<RecvBuf, Status>>> {
        loop {
            if let Some(next) = self.next_of_frame() {
                return Poll::Ready(next);
            }
            let frame = ready!(self.poll_frame(cx));
            if let Err(status) = self.take_frame(frame) {
                return Poll::Ready(Some(Err(status)));
            }
        }
    }

    /// As [`poll_message`](Self::poll_message), but waits in this thread, until `deadline`.
    pub(crate) fn wait_message(
        &mut self,
        deadline: Option<Instant>,
    ) -> Option<Result<RecvBuf, Status>> {
        loop {
            if let Some(next) = self.next_of_frame() {
                return next;
            }
            let frame = self.wait_frame(deadline);
            if let Err(status) = self.take_frame(frame) {
                return Some(Err(status));
            }
        }
    }

    /// As [`poll_message`](Self::poll_message), and decodes it.
    pub(crate) fn poll_decoded<T: prost::Message + Default>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<T, Status>>> {
        loop {
            if let Some(next) = self.next_of_frame() {
                return Poll::Ready(next.map(|next| next.and_then(decode)));
            }
            let filled = ready!(self.poll_fill(cx));
            if let Some(decoded) = self.decode_first(filled) {
                return Poll::Ready(Some(decoded));
            }
        }
    }

    /// As [`poll_decoded`](Self::poll_decoded), but waits in this thread, until `deadline`.
    pub(crate) fn wait_decoded<T: prost::Message + Default>(
        &mut self,
        deadline: Option<Instant>,
    ) -> Option<Result<T, Status>> {
        loop {
            if let Some(next) = self.next_of_frame() {
                return next.map(|next| next.and_then(decode));
            }
            let filled = self.wait_fill(deadline);
            if let Some(decoded) = self.decode_first(filled) {
                return Some(decoded);
            }
        }
    }

    /// Decodes the first message that is there, or takes the first frame.
    fn decode_first<T: prost::Message + Default>(
        &mut self,
        filled: Result<bool, Status>,
    ) -> Option<Result<T, Status>> {
        let frame = match filled {
            Ok(true) => match self.decode_short() {
                Some(decoded) => return Some(decoded),
                None => Ok(Some(self.first_frame())),
            },
            Ok(false) => Ok(None),
            Err(status) => Err(status),
        };
        self.take_frame(frame).err().map(Err)
    }

    /// Decodes the first message where it lies, if that is short, and alone in its frame. Most messages are, where there are many.
    fn decode_short<T: prost::Message + Default>(&mut self) -> Option<Result<T, Status>> {
        if let Side::Caller { opened: false, .. } = self.side {
            return None;
        }
        let (message, frame_len) = frame::first_short(&self.rest, self.message_len_max)?;
        let decoded = decode(message);
        self.rest.advance(frame_len);
        Some(decoded)
    }

    /// Takes what the last frame has left; `None` if another must be read.
    #[expect(
        clippy::option_option,
        reason = "whether there is anything, and whether that is the end"
    )]
    fn next_of_frame(&mut self) -> Option<Option<Result<RecvBuf, Status>>> {
        if let Some(message) = self.message.take() {
            if self.message_len_max < message.len() {
                let status = frame::message_too_large(message.len(), self.message_len_max);
                return Some(Some(Err(self.fail(status))));
            }
            return Some(Some(Ok(message)));
        }
        match &mut self.ending {
            None => None,
            Some(Ok(_)) => Some(None),
            Some(ending @ Err(_)) => {
                // A failure is reported once.
                let ending = std::mem::replace(ending, Ok(None));
                Some(ending.err().map(Err))
            }
        }
    }

    fn take_frame(&mut self, frame: Result<Option<RecvBuf>, Status>) -> Result<(), Status> {
        let read = frame.and_then(|frame| self.read(frame));
        read.map_err(|status| self.fail(status))
    }

    /// Whether nothing else will arrive.
    pub(crate) fn is_over(&self) -> bool {
        self.ending.is_some()
    }

    /// Takes the metadata that came after the last message.
    pub(crate) fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        match &mut self.ending {
            Some(Ok(trailers)) => trailers.take(),
            Some(Err(_)) | None => None,
        }
    }

    /// Whether the last message has been taken, or is about to be.
    fn is_last(&self) -> bool {
        self.message.is_none() && matches!(self.ending, Some(Ok(_)))
    }

    fn read(&mut self, frame: Option<RecvBuf>) -> Result<(), Status> {
        match (&self.side, frame) {
            (Side::Server, None) => self.ending = Some(Ok(None)),
            (Side::Server, Some(frame)) => self.read_request(frame)?,
            (Side::Caller { .. }, None) => return Err(no_answer()),
            (Side::Caller { opened, .. }, Some(frame)) => {
                let opened = *opened;
                if self.read_response(frame)?.is_some() && opened {
                    return Err(Status::internal("the server began its response twice"));
                }
            }
        }
        Ok(())
    }

    /// Reads a frame from the caller that is not the first.
    fn read_request(&mut self, mut frame: RecvBuf) -> Result<(), Status> {
        let flags = frame::open(&mut frame, |prefix, _| {
            let flags = prefix.flags;
            if flags.contains(Flags::OPEN)
                || flags.contains(Flags::TRAILERS)
                || flags.contains(Flags::CANCEL)
                || flags == Flags::NONE
            {
                return Err(InvalidFrame::UnexpectedFlags(flags));
            }
            Ok(flags)
        });
        let flags = flags.map_err(|error| Status::internal(error.to_string()))?;
        if flags.contains(Flags::MESSAGE) {
            self.message = Some(frame);
        }
        if flags.contains(Flags::END) {
            self.ending = Some(Ok(None));
        }
        Ok(())
    }

    /// Reads a frame from the server. Returns what opens the response, if it does.
    fn read_response(&mut self, mut frame: RecvBuf) -> Result<Option<HeaderMap>, Status> {
        if frame::open_plain(&mut frame) {
            self.message = Some(frame);
            self.end(Ok(None));
            return Ok(Some(HeaderMap::new()));
        }
        let read = frame::open(&mut frame, ResponseFrame::read);
        let ResponseFrame {
            opening,
            has_message,
            ending,
        } = read.map_err(|error| Status::internal(error.to_string()))?;
        if has_message {
            self.message = Some(frame);
        }
        if let Some(ending) = ending {
            self.end(ending);
        }
        Ok(opening)
    }

    /// Notes how a response has ended.
    fn end(&mut self, ending: Result<Option<Box<HeaderMap>>, Status>) {
        self.ending = Some(ending);
        self.held = None;
        // Tells the half that still sends, if there is one, that nobody listens.
        self.stream.reset(ABANDONED);
    }

    /// Polls for the next frame. `None`: the other side has ended its half without one.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RecvBuf>, Status>> {
        let filled = ready!(self.poll_fill(cx));
        Poll::Ready(filled.map(|is_filled| is_filled.then(|| self.first_frame())))
    }

    /// Polls for frames to be there. `false`: the other side has ended its half without another one.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Status>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(true));
        }
        if let Side::Caller { deadline, .. } = &self.side
            && self.lookout.is_late(*deadline)
        {
            return Poll::Ready(Err(deadline::exceeded()));
        }
        match self.stream.poll_recv(cx) {
            Poll::Ready(received) => Poll::Ready(self.received(received, None)),
            Poll::Pending => {
                if let Side::Caller {
                    deadline: Some(deadline),
                    timer,
                    ..
                } = &mut self.side
                {
                    let until = *deadline;
                    let timer = timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
                    ready!(timer.as_mut().poll(cx));
                    return Poll::Ready(Err(deadline::exceeded()));
                }
                Poll::Pending
            }
        }
    }

    /// Waits for the next frame in this thread.
    fn wait_frame(&mut self, deadline: Option<Instant>) -> Result<Option<RecvBuf>, Status> {
        let is_filled = self.wait_fill(deadline)?;
        Ok(is_filled.then(|| self.first_frame()))
    }

    /// As [`poll_fill`](Self::poll_fill), but waits in this thread, until `deadline`.
    fn wait_fill(&mut self, deadline: Option<Instant>) -> Result<bool, Status> {
        if !self.rest.is_empty() {
            return Ok(true);
        }
        if self.lookout.is_late(deadline) {
            return Err(deadline::exceeded());
        }
        match blocking::RecvHalf::recv_on(&mut self.stream, deadline) {
            Err(RecvError::TimedOut) => Err(deadline::exceeded()),
            received => self.received(received, deadline),
        }
    }

    /// Takes the first of the frames that are there.
    fn first_frame(&mut self) -> RecvBuf {
        frame::take_first(&mut self.rest)
    }

    /// Keeps the frames that have arrived together. `deadline` is that of a thread that waited.
    fn received(
        &mut self,
        received: Result<Option<RecvBuf>, RecvError>,
        deadline: Option<Instant>,
    ) -> Result<bool, Status> {
        match received {
            Ok(Some(message)) => {
                self.rest = message;
                Ok(true)
            }
            Ok(None) if self.stream.hears_end() => Ok(false),
            // All that was heard is that the stream was given up: an end would have come as a frame.
            Ok(None) => Err(self.not_received(RecvError::Reset(ABANDONED), deadline)),
            Err(error) => Err(self.not_received(error, deadline)),
        }
    }

    /// The status for a half that breaks off. That of a call at its caller is R9's, or CANCELLED.
    fn not_received(&self, error: RecvError, deadline: Option<Instant>) -> Status {
        match &self.side {
            // A server that has no room to say that time is up gives the call up, and its time began later than the caller's.
            Side::Caller { deadline: own, .. }
                if matches!(error, RecvError::Reset(_))
                    && deadline::earlier(*own, deadline)
                        .is_some_and(|deadline| deadline <= Instant::now()) =>
            {
                deadline::exceeded()
            }
            Side::Caller { requests, .. } => {
                let failed = requests.as_ref().and_then(|requests| requests.get());
                match failed {
                    Some(failed) if matches!(error, RecvError::Abandoned) => failed.clone(),
                    _ => not_received(error),
                }
            }
            Side::Server => Status::cancelled("the caller gave the call up").with_source(error),
        }
    }

    /// Ends the half because of `status`.
    fn fail(&mut self, status: Status) -> Status {
        if let Side::Caller { .. } = self.side {
            self.stream.reset(ABANDONED);
        }
        self.message = None;
        self.rest = RecvBuf::default();
        self.ending = Some(Ok(None));
        self.held = None;
        status
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // A server may lose interest in the requests, and answer all the same.
        if let Side::Caller { .. } = self.side {
            self.stream.reset(ABANDONED);
        }
    }
}

impl Source for Receiving {
    type Message = Encoded<RecvBuf>;

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Encoded<RecvBuf>, Status>>> {
        let next = ready!(self.get_mut().poll_message(cx));
        Poll::Ready(next.map(|next| next.map(Encoded)))
    }

    fn is_done(&self) -> bool {
        self.is_last()
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        Self::take_trailers(self.get_mut())
    }
}

/// The status of a call whose stream ended without an answer (R3).
fn no_answer() -> Status {
    Status::internal("the server ended the call without an answer")
}

/// The status of a call whose answer could not be received.
fn not_received(error: RecvError) -> Status {
    match error {
        RecvError::Reset(code) => given_up(code),
        RecvError::SessionLost(lost) => session_lost(lost),
        error => Status::internal("the response could not be received").with_source(error),
    }
}

/// The status of a call that the server has given up.
pub(crate) fn given_up(code: u32) -> Status {
    Status::cancelled(format!("the server gave the call up (code {code})"))
}

/// The status of a call whose session ended (R9).
pub(crate) fn session_lost(lost: SessionLost) -> Status {
    let message = match &lost {
        SessionLost::Unresponsive { .. } => lost.to_string(),
        _ => "the connection ended before the call did".to_owned(),
    };
    Status::unavailable(message).with_source(lost)
}
