//! Messages out of somebody else's body, which is in the framing of gRPC.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;

use super::{
    Encoded,
    grpc::{PREFIX_LEN, Pieces},
    messages::Source,
};
use crate::{
    Code, Status,
    codec::{self, Coding, CompressionEncoding},
    error::BoxError,
    frame, grpc_headers,
};

/// A body in the framing of gRPC whose type has been forgotten.
pub(crate) type ForeignBody =
    Pin<Box<dyn http_body::Body<Data = Bytes, Error = Status> + Send + Sync + 'static>>;

pin_project! {
    /// Somebody else's body, with our kind of error.
    ///
    /// It may be shared between threads whether the body may be or not, so what it says of itself is asked for in advance.
    pub(super) struct Foreign<B> {
        #[pin]
        body: SyncWrapper<B>,
        is_end_stream: bool,
        size_hint: SizeHint,
    }
}

impl<B: http_body::Body> Foreign<B> {
    pub(super) fn new(body: B) -> Self {
        Self {
            is_end_stream: body.is_end_stream(),
            size_hint: body.size_hint(),
            body: SyncWrapper::new(body),
        }
    }
}

impl<B> http_body::Body for Foreign<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let mut body = this.body.get_pin_mut();
        let frame = ready!(body.as_mut().poll_frame(cx));
        *this.is_end_stream = body.is_end_stream();
        *this.size_hint = body.size_hint();
        Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_end_stream
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}

/// Takes messages out of a body as they come.
pub(crate) struct Decoder {
    body: ForeignBody,
    /// How messages are compressed whose flag says that they are.
    coding: Coding,
    /// What has come and was not taken yet.
    pieces: Pieces,
    /// The length of the message whose prefix has been read.
    message_len: Option<usize>,
    /// How that message is compressed, if it is.
    compressed: Option<CompressionEncoding>,
    /// A message, or a failure, that was taken and put back.
    unread: Option<Result<Pieces, Status>>,
    /// How the body ended.
    ended: Option<Result<Option<Box<HeaderMap>>, Status>>,
    message_len_max: usize,
}

impl Decoder {
    pub(crate) fn new(body: ForeignBody, coding: Coding, message_len_max: usize) -> Self {
        Self {
            body,
            coding,
            pieces: Pieces::default(),
            message_len: None,
            compressed: None,
            unread: None,
            ended: None,
            message_len_max,
        }
    }

    /// Takes the only message, and the metadata after it, if all of that is there already.
    pub(crate) fn take_whole(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<(Pieces, Option<Box<HeaderMap>>)> {
        match self.poll_message(cx) {
            Poll::Ready(Some(Ok(message))) if self.is_over() => {
                Some((message, self.take_trailers()))
            }
            Poll::Ready(Some(read)) => {
                self.unread = Some(read);
                None
            }
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    /// Polls for the next message. `None` after the last, if all went well.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Pieces, Status>>> {
        if let Some(read) = self.unread.take() {
            return Poll::Ready(Some(read));
        }
        loop {
            match self.take_message() {
                Ok(Some(message)) => {
                    // A body that has ended says so at once, so that the end can travel with the last message.
                    if !self.pieces.has_remaining() && self.ended.is_none() {
                        let _ = self.poll_more(cx);
                    }
                    return Poll::Ready(Some(Ok(message)));
                }
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(self.fail(status)))),
            }
            match &mut self.ended {
                None => ready!(self.poll_more(cx)),
                Some(_) if self.pieces.has_remaining() || self.message_len.is_some() => {
                    let status = Status::internal("the body ends within a message");
                    return Poll::Ready(Some(Err(self.fail(status))));
                }
                Some(Ok(_)) => return Poll::Ready(None),
                Some(ended) => {
                    // A failure is reported once.
                    return Poll::Ready(mem::replace(ended, Ok(None)).err().map(Err));
                }
            }
        }
    }

    /// Takes the metadata that came after the last message.
    pub(crate) fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        match &mut self.ended {
            Some(Ok(trailers)) => trailers.take(),
            Some(Err(_)) | None => None,
        }
    }

    /// Whether all went well and nothing is left to be taken.
    fn is_over(&self) -> bool {
        matches!(self.ended, Some(Ok(_)))
            && !self.pieces.has_remaining()
            && self.message_len.is_none()
            && self.unread.is_none()
    }

    /// Polls for another piece, or the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.body.as_mut().poll_frame(cx)) {
            None => self.ended = Some(Ok(None)),
            Some(Err(status)) => self.ended = Some(Err(status)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => self.pieces.receive(piece),
                Err(frame) => {
                    self.ended = Some(read_trailers(frame.into_trailers().unwrap_or_default()));
                }
            },
        }
        Poll::Ready(())
    }

    /// Takes a message, if all of it has come.
    fn take_message(&mut self) -> Result<Option<Pieces>, Status> {
        let len = match self.message_len {
            Some(len) => len,
            None => {
                if self.pieces.remaining() < PREFIX_LEN {
                    return Ok(None);
                }
                let flags = self.pieces.get_u8();
                self.compressed = match flags {
                    0 => None,
                    _ => Some(self.coding.of_message(flags)?),
                };
                let len = self.pieces.get_u32() as usize;
                if self.message_len_max < len {
                    return Err(frame::message_too_large(len, self.message_len_max));
                }
                self.message_len = Some(len);
                len
            }
        };
        if self.pieces.remaining() < len {
            return Ok(None);
        }
        self.message_len = None;
        let message = self.pieces.split_to(len);
        match self.compressed {
            None => Ok(Some(message)),
            Some(encoding) => {
                let decoded = codec::decompress(encoding, message, self.message_len_max)?;
                Ok(Some(decoded.into()))
            }
        }
    }

    fn fail(&mut self, status: Status) -> Status {
        self.pieces = Pieces::default();
        self.message_len = None;
        self.ended = Some(Ok(None));
        status
    }
}

impl Source for Decoder {
    type Message = Encoded<Pieces>;

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Encoded<Pieces>, Status>>> {
        let next = ready!(self.get_mut().poll_message(cx));
        Poll::Ready(next.map(|next| next.map(Encoded)))
    }

    fn is_done(&self) -> bool {
        self.is_over()
    }

    fn take_trailers(self: Pin<&mut Self>) -> Option<Box<HeaderMap>> {
        Self::take_trailers(self.get_mut())
    }
}

/// Reads the trailers of a response: metadata, or the failure that they tell of.
pub(super) fn read_trailers(mut trailers: HeaderMap) -> Result<Option<Box<HeaderMap>>, Status> {
    // How nearly all calls end, which is not worth taking apart.
    let says_ok = || trailers.get(grpc_headers::STATUS) == Some(&grpc_headers::STATUS_OK);
    if trailers.len() == 1 && says_ok() {
        return Ok(None);
    }
    if let Some(status) = Status::from_headers(&trailers).filter(|status| status.code() != Code::Ok)
    {
        return Err(status);
    }
    crate::status::remove_status_headers(&mut trailers);
    Ok((!trailers.is_empty()).then(|| Box::new(trailers)))
}
