use std::{
    fmt,
    time::{Duration, Instant},
};

use http::{Extensions, HeaderMap, Uri};
use shmipc_transport::Peer;
use sync_wrapper::SyncWrapper;

use super::end::{End, Watchers};
use crate::{
    Body, Cancellation, Response, Status, body::Receiving, context::CallContext, deadline,
    metadata, response::ResponseParts, server::panic::guarded,
};

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

    /// Makes the head of a call whose messages stay with the thread that makes it, or handles it.
    pub(crate) fn alone(
        path: Uri,
        metadata: HeaderMap,
        extensions: Extensions,
        context: CallContext,
    ) -> Self {
        let mut request = http::Request::new(Body::empty());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = path;
        *request.headers_mut() = metadata;
        *request.extensions_mut() = extensions;
        Self {
            request,
            context,
            timeout: None,
        }
    }

    /// Takes the head apart again.
    pub(crate) fn into_alone(self) -> (HeaderMap, Extensions, CallContext) {
        let (parts, _) = self.request.into_parts();
        (parts.headers, parts.extensions, self.context)
    }

    /// Begins the time that the last interceptor allows. Returns when it is over, if that does not leave it to the caller.
    pub(crate) fn begin_time(&mut self) -> Option<Instant> {
        let limit = self.timeout.take().and_then(deadline::after)?;
        self.context.cancellation.limit(Some(limit));
        Some(limit)
    }

    /// Returns the request to be passed on, and until when the interceptors before it allow it to take, if they do not leave
    /// that to the caller.
    pub(super) fn into_request(mut self) -> (http::Request<Body>, Option<Instant>) {
        let limit = self.begin_time();
        let Self {
            mut request,
            context,
            ..
        } = self;
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
    whereabouts: Whereabouts,
}

/// Where an answer is.
pub(crate) enum Whereabouts {
    Here,
    /// Its head is here. Its messages, yet to come, stay with the thread that has handled the call.
    Apart,
    /// It has not begun. These want to see its head.
    Ahead(Vec<SyncWrapper<OnHead>>),
}

/// What is to be called with the head of an answer.
type OnHead = Box<dyn FnOnce(&mut HeaderMap) + Send>;

/// What interceptors want of the head of an answer that has not begun.
pub(crate) struct Ahead {
    added: HeaderMap,
    callbacks: Vec<SyncWrapper<OnHead>>,
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
        Self::here(response, None)
    }

    fn here(response: http::Response<Body>, deadline: Option<Instant>) -> Self {
        Self {
            response,
            deadline,
            whereabouts: Whereabouts::Here,
        }
    }

    /// Makes an answer of a response that is no failure.
    pub(crate) fn of(response: http::Response<Body>) -> Self {
        Self::here(response, None)
    }

    /// Makes the answer of a handler that keeps its messages in its thread.
    pub(crate) fn apart(parts: ResponseParts) -> Self {
        let mut body = Body::apart();
        if !parts.trailers.is_empty() {
            body.set_trailers(parts.trailers);
        }
        let mut response = http::Response::new(body);
        *response.version_mut() = http::Version::HTTP_2;
        *response.headers_mut() = parts.metadata;
        *response.extensions_mut() = parts.extensions;
        Self {
            whereabouts: Whereabouts::Apart,
            ..Self::here(response, None)
        }
    }

    /// Makes an answer of which nothing has arrived yet.
    pub(crate) fn ahead(receiving: Receiving) -> Self {
        let response = http::Response::new(Body::receiving_response(receiving));
        Self {
            whereabouts: Whereabouts::Ahead(Vec::new()),
            ..Self::here(response, None)
        }
    }

    /// Sets when the caller stops waiting.
    pub(crate) fn waited_for_until(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Whether its messages stay with who has handled the call.
    pub(crate) fn is_apart(&self) -> bool {
        matches!(self.whereabouts, Whereabouts::Apart)
    }

    /// Returns the response, and where it is.
    pub(crate) fn into_parts(self) -> (http::Response<Body>, Whereabouts) {
        (self.response, self.whereabouts)
    }

    /// Takes the head off a response, which may say that the call failed.
    pub(super) fn read(
        mut response: http::Response<Body>,
        deadline: Option<Instant>,
    ) -> Result<Self, Status> {
        match Status::of_response(&mut response) {
            Some(status) => Err(status),
            None => Ok(Self::here(response, deadline)),
        }
    }

    /// Makes an answer without messages, that went well.
    pub(crate) fn empty(trailers: Option<Box<HeaderMap>>) -> Self {
        let mut response = http::Response::new(Body::empty_response(trailers));
        *response.version_mut() = http::Version::HTTP_2;
        Self::here(response, None)
    }

    /// Shows the end of the answer to those who have been waiting for it.
    pub(crate) fn watch(&mut self, watchers: Box<Watchers>) {
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

    /// Has `see` called with the metadata that comes before the messages, which it may change: at once if it is there, and otherwise
    /// when it comes. If the call fails before that, `see` is not called.
    ///
    /// It is there once the call has been let go on, but for a conversation that a thread makes, which sends its requests only
    /// afterwards; see [`blocking::interceptor`](crate::blocking::interceptor).
    pub fn on_head(&mut self, see: impl FnOnce(&mut HeaderMap) + Send + 'static) {
        match &mut self.whereabouts {
            Whereabouts::Here | Whereabouts::Apart => see(self.response.headers_mut()),
            Whereabouts::Ahead(callbacks) => callbacks.push(SyncWrapper::new(Box::new(see))),
        }
    }

    /// Returns the metadata that comes before the messages. Empty while it is [yet to come](Self::on_head).
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns the metadata that comes before the messages, to be changed. To what is [yet to come](Self::on_head), it is added.
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

impl Ahead {
    pub(crate) fn new(added: HeaderMap, callbacks: Vec<SyncWrapper<OnHead>>) -> Self {
        Self { added, callbacks }
    }

    /// Makes of a head that has come what interceptors want of it.
    ///
    /// # Errors
    ///
    /// Returns the status of a call one of whose interceptors panicked.
    pub(crate) fn complete(self, mut head: HeaderMap) -> Result<HeaderMap, Status> {
        metadata::merge(&mut head, Some(Box::new(self.added)));
        for callback in self.callbacks {
            let callback = callback.into_inner();
            guarded(|| callback(&mut head))
                .map_err(|_| Status::internal("an interceptor panicked at the head"))?;
        }
        metadata::remove_reserved(&mut head);
        Ok(head)
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
