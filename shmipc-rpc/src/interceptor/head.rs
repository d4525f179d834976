use std::{
    fmt,
    time::{Duration, Instant},
};

use http::{Extensions, HeaderMap};
use shmipc_transport::Peer;

use super::end::{End, Watchers};
use crate::{Body, Cancellation, Response, Status, context::CallContext, deadline, metadata};

/// The head of a call: which method it is for, and what travels with the request. The messages are on board, but out of
/// sight.
pub struct Call {
    request: http::Request<Body>,
    context: CallContext,
    /// The time that an interceptor allows.
    timeout: Option<Duration>,
}

impl Call {
    pub(super) fn new(mut request: http::Request<Body>) -> Self {
        let context = Body::take_context(&mut request);
        Self {
            request,
            context,
            timeout: None,
        }
    }

    /// Returns the request to be passed on, and until when the interceptors before it allow it to take, if they do not leave
    /// that to the caller.
    pub(super) fn into_request(self) -> (http::Request<Body>, Option<Instant>) {
        let Self {
            mut request,
            mut context,
            timeout,
        } = self;
        let limit = timeout.and_then(deadline::after);
        if limit.is_some() {
            context.cancellation.limit(limit);
        }
        // Layers below may exchange the body.
        request.extensions_mut().insert(context.clone());
        (request.map(|body| body.with_context(context)), limit)
    }

    /// Returns the path of the method: `/helloworld.Greeter/SayHello`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// Returns the full name of the service: `helloworld.Greeter`. Empty if the path has none.
    #[must_use]
    pub fn service(&self) -> &str {
        split(self.path()).0
    }

    /// Returns the name of the method within its service: `SayHello`. Empty if the path has none.
    #[must_use]
    pub fn method(&self) -> &str {
        split(self.path()).1
    }

    /// Returns the metadata of the request. See [`metadata`] for binary values.
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Returns the metadata of the request, to be changed.
    pub fn metadata_mut(&mut self) -> &mut HeaderMap {
        self.request.headers_mut()
    }

    /// Returns the extensions: values for layers and, on the server, for the handler. They are not sent.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        self.request.extensions()
    }

    /// Returns the extensions, to be changed.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        self.request.extensions_mut()
    }

    /// Returns the process that calls, as the kernel knows it.
    ///
    /// `None` on the calling side, and for a call that came neither through a session nor, over HTTP/2, through a Unix socket.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        let session = self.context.served.as_ref().map(|served| served.peer());
        session.or_else(|| self.extensions().get())
    }

    /// Returns when the caller stops waiting. `None`: never.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.context.deadline()
    }

    /// Returns how long the caller will still wait. `None`: without end.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Gives the call this much time, counted from when it goes on; the caller may allow less. Default: what the caller
    /// allows.
    ///
    /// If the head of the answer takes longer, the call fails with
    /// [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded). On the calling side the whole call is limited, and the server
    /// learns of it.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = Some(timeout);
    }

    /// Returns a handle that tells when the caller no longer waits.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.context.cancellation.clone()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("path", &self.path())
            .field("metadata", self.metadata())
            .finish_non_exhaustive()
    }
}

/// The head of an answer that is not, or not yet, a failure. The messages are on board, but out of sight.
pub struct Answer {
    response: http::Response<Body>,
    /// When the caller stops waiting.
    deadline: Option<Instant>,
}

impl Answer {
    /// Makes an answer of an interceptor's own, with one message.
    pub fn new<T: prost::Message + 'static>(response: Response<T>) -> Self {
        let (message, mut parts) = response.into_content();
        metadata::remove_reserved(&mut parts.metadata);
        let mut body = Body::response(message);
        if !parts.trailers.is_empty() {
            body.set_trailers(parts.trailers);
        }
        let mut response = http::Response::new(body);
        *response.version_mut() = http::Version::HTTP_2;
        *response.headers_mut() = parts.metadata;
        *response.extensions_mut() = parts.extensions;
        Self {
            response,
            deadline: None,
        }
    }

    /// Takes the head off a response, which may say that the call failed.
    pub(super) fn read(
        mut response: http::Response<Body>,
        deadline: Option<Instant>,
    ) -> Result<Self, Status> {
        match Status::of_response(&mut response) {
            Some(status) => Err(status),
            None => Ok(Self { response, deadline }),
        }
    }

    /// Makes an answer without messages, that went well.
    pub(super) fn empty(trailers: Option<Box<HeaderMap>>) -> Self {
        let mut response = http::Response::new(Body::empty_response(trailers));
        *response.version_mut() = http::Version::HTTP_2;
        Self {
            response,
            deadline: None,
        }
    }

    /// Shows the end of the answer to those who have been waiting for it.
    pub(super) fn watch(&mut self, watchers: Box<Watchers>) {
        self.response.body_mut().watch(watchers);
    }

    /// Has `see` called with how the answer ends, once and whatever happens: behind the last message, or instead of it. It may change
    /// the metadata and the status there.
    ///
    /// If the end is known, `see` is called at once. So it is for the response of a handler with one message, and on the calling
    /// side for an answer that has arrived as a whole. A server calls it before it sends the end. An answer that is
    /// dropped before its end is [cut off](End::is_cut_off).
    ///
    /// For an interceptor that wants to know how all calls end, [`Next::on_end`](super::Next::on_end) is easier.
    pub fn on_end(&mut self, see: impl FnOnce(&mut End) + Send + 'static) {
        self.response.body_mut().on_end(self.deadline, see);
    }

    pub(super) fn into_response(self) -> http::Response<Body> {
        self.response
    }

    /// Returns the metadata that comes before the messages.
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns the metadata that comes before the messages, to be changed.
    pub fn metadata_mut(&mut self) -> &mut HeaderMap {
        self.response.headers_mut()
    }

    /// Returns the extensions: values for, or from, the layers of this side. They are not sent.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        self.response.extensions()
    }

    /// Returns the extensions, to be changed.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        self.response.extensions_mut()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("metadata", self.metadata())
            .finish_non_exhaustive()
    }
}

/// Splits a path into the names of service and method. Both are empty if it is none.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.strip_prefix('/')
        .and_then(|path| path.rsplit_once('/'))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_the_last_slash() {
        assert_eq!(split("/a.B/Run"), ("a.B", "Run"));
        assert_eq!(split("/a/b/Run"), ("a/b", "Run"));
        for none in ["", "/", "a.B/Run", "/a.B"] {
            assert_eq!(split(none), ("", ""), "{none}");
        }
    }
}
