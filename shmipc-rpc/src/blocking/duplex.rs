use std::{fmt, marker::PhantomData};

use http::HeaderMap;
use shmipc_transport::SendError;

use super::{
    Streaming,
    out::{Out, OutError},
};
use crate::{Status, client::response::not_sent, frame::Ending};

/// A call with many requests and many responses, in both directions at once.
///
/// One thread may alternate between them; two threads take [a direction each](Self::split). A thread that sends while nobody
/// receives waits once the windows are full; so does the server, if nobody receives here.
///
/// Dropping it before the last response gives the call up.
pub struct Duplex<Req, Res> {
    sender: DuplexSender<Req>,
    receiver: DuplexReceiver<Res>,
}

/// The requests of a [`Duplex`]. Dropping it before they are [finished](Self::finish) gives the call up.
pub struct DuplexSender<Req> {
    /// `None` if the call was answered before it was made.
    out: Option<Out>,
    message: PhantomData<fn(Req)>,
}

/// The responses of a [`Duplex`]. It is an iterator, and has methods for those who need more. Dropping it before the last of them gives
/// the call up.
pub struct DuplexReceiver<Res> {
    responses: Streaming<Res>,
    /// What the server has begun with, once it has.
    metadata: Option<HeaderMap>,
}

impl<Req, Res> Duplex<Req, Res> {
    pub(super) fn new(out: Out, responses: Streaming<Res>) -> Self {
        Self::seen(Some(out), responses, None)
    }

    /// A call that interceptors have seen, and maybe have answered by themselves.
    pub(super) fn seen(
        out: Option<Out>,
        responses: Streaming<Res>,
        metadata: Option<HeaderMap>,
    ) -> Self {
        Self {
            sender: DuplexSender {
                out,
                message: PhantomData,
            },
            receiver: DuplexReceiver {
                responses,
                metadata,
            },
        }
    }

    /// Separates the directions, so that two threads can use them.
    #[must_use]
    pub fn split(self) -> (DuplexSender<Req>, DuplexReceiver<Res>) {
        (self.sender, self.receiver)
    }

    /// Waits until the server begins its response, and returns the metadata that it begins with; see
    /// [`DuplexReceiver::metadata`].
    ///
    /// # Errors
    ///
    /// See [`DuplexReceiver::metadata`].
    pub fn metadata(&mut self) -> Result<&HeaderMap, Status>
    where
        Res: prost::Message + Default + 'static,
    {
        self.receiver.metadata()
    }
}

impl<Res> DuplexReceiver<Res> {
    /// Waits until the server begins its response, and returns the metadata that it begins with. A server may begin only
    /// when it has had requests.
    ///
    /// It can be asked for again, also after responses were taken.
    ///
    /// # Errors
    ///
    /// Returns how the call failed, if it did before that.
    pub fn metadata(&mut self) -> Result<&HeaderMap, Status>
    where
        Res: prost::Message + Default + 'static,
    {
        if let Some(metadata) = self.responses.begin()? {
            self.metadata = Some(metadata);
        }
        Ok(self.metadata.get_or_insert_default())
    }
}

impl<Req: prost::Message, Res: prost::Message + Default + 'static> Duplex<Req, Res> {
    /// Sends a request; see [`DuplexSender::send`].
    ///
    /// # Errors
    ///
    /// See [`DuplexSender::send`].
    pub fn send(&mut self, request: &Req) -> Result<(), Status> {
        self.sender.send(request)
    }

    /// Says that there are no more requests; see [`DuplexSender::finish`].
    ///
    /// # Errors
    ///
    /// See [`DuplexSender::send`].
    pub fn finish(&mut self) -> Result<(), Status> {
        self.sender.finish()
    }

    /// Waits for the next response; see [`DuplexReceiver::message`].
    ///
    /// # Errors
    ///
    /// See [`DuplexReceiver::message`].
    pub fn message(&mut self) -> Result<Option<Res>, Status> {
        self.receiver.message()
    }

    /// Waits for the end, and returns the metadata that came after the last response; see [`DuplexReceiver::trailers`].
    ///
    /// # Errors
    ///
    /// See [`DuplexReceiver::trailers`].
    pub fn trailers(&mut self) -> Result<HeaderMap, Status> {
        self.receiver.trailers()
    }
}

impl<Res: prost::Message + Default + 'static> DuplexReceiver<Res> {
    /// Waits for the next response. `None` after the last, if all went well.
    ///
    /// # Errors
    ///
    /// Returns how the call failed, after the responses that came before that; nothing follows.
    pub fn message(&mut self) -> Result<Option<Res>, Status> {
        if self.metadata.is_none() {
            self.metadata()?;
        }
        self.responses.message()
    }

    /// Waits for the end, and returns the metadata that came after the last response. Responses that were not taken are dropped.
    ///
    /// # Errors
    ///
    /// Returns how the call failed.
    pub fn trailers(&mut self) -> Result<HeaderMap, Status> {
        while self.message()?.is_some() {}
        self.responses.trailers()
    }
}

impl<Req: prost::Message> DuplexSender<Req> {
    /// Sends a request. Waits while the server takes none.
    ///
    /// # Errors
    ///
    /// Returns [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded) once the deadline has passed,
    /// [`Code::ResourceExhausted`](crate::Code::ResourceExhausted) if the request exceeds its limit and was not sent, and
    /// [`Code::Unavailable`](crate::Code::Unavailable) if the connection has ended. If the server has ended the call, that
    /// is [`Code::Cancelled`](crate::Code::Cancelled); the responses tell how it ended.
    pub fn send(&mut self, request: &Req) -> Result<(), Status> {
        let out = self.out.as_mut().ok_or_else(is_over)?;
        out.message(request).map_err(status)
    }

    /// Says that there are no more requests. Nothing may be sent afterwards.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn finish(&mut self) -> Result<(), Status> {
        let out = self.out.as_mut().ok_or_else(is_over)?;
        out.end(Ending::Done(None)).map_err(status)
    }
}

fn status(error: OutError) -> Status {
    match error {
        OutError::Failed(status) => status,
        OutError::Stream(SendError::Finished | SendError::Reset(_)) => is_over(),
        OutError::Stream(error) => not_sent(error),
    }
}

fn is_over() -> Status {
    Status::cancelled("the call is over, or its requests were finished")
}

impl<Req: prost::Message, Res: prost::Message + Default + 'static> Iterator for Duplex<Req, Res> {
    type Item = Result<Res, Status>;

    fn next(&mut self) -> Option<Result<Res, Status>> {
        self.message().transpose()
    }
}

impl<Res: prost::Message + Default + 'static> Iterator for DuplexReceiver<Res> {
    type Item = Result<Res, Status>;

    fn next(&mut self) -> Option<Result<Res, Status>> {
        self.message().transpose()
    }
}

impl<Req, Res> fmt::Debug for Duplex<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Duplex")
            .field("receiver", &self.receiver)
            .finish_non_exhaustive()
    }
}

impl<Res> fmt::Debug for DuplexReceiver<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DuplexReceiver")
            .field("responses", &self.responses)
            .finish_non_exhaustive()
    }
}

impl<Req> fmt::Debug for DuplexSender<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DuplexSender").finish_non_exhaustive()
    }
}
