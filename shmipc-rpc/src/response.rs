use http::{Extensions, HeaderMap};

/// A message on its way back to the caller, and what travels with it.
///
/// # Examples
///
/// ```
/// use shmipc_rpc::Response;
///
/// let mut response = Response::new("message");
/// response.metadata_mut().insert("x-cache", "hit".parse()?);
/// assert_eq!(response.into_inner(), "message");
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[derive(Clone, Debug)]
pub struct Response<T> {
    message: T,
    metadata: HeaderMap,
    /// Sent after the last message. Boxed, because there rarely are any.
    trailers: Option<Box<HeaderMap>>,
    extensions: Extensions,
}

/// What a response consists of beside its message.
#[derive(Debug)]
pub(crate) struct ResponseParts {
    pub(crate) metadata: HeaderMap,
    pub(crate) trailers: HeaderMap,
    pub(crate) extensions: Extensions,
}

/// Trailers of a response that is taken apart, among its extensions.
#[derive(Clone)]
struct Trailers(Box<HeaderMap>);

impl<T> Response<T> {
    /// Makes a response without metadata.
    #[must_use]
    pub fn new(message: T) -> Self {
        Self::from_parts(HeaderMap::new(), message, Extensions::new())
    }

    /// Puts a response together from what [`into_parts`](Self::into_parts) returned, or from parts of one's own.
    ///
    /// With the extensions of a response come its trailers. With others, there are none.
    #[must_use]
    pub fn from_parts(metadata: HeaderMap, message: T, mut extensions: Extensions) -> Self {
        let trailers = extensions.remove().map(|Trailers(trailers)| trailers);
        Self {
            message,
            metadata,
            trailers,
            extensions,
        }
    }

    /// Takes the response apart, for [`from_parts`](Self::from_parts): metadata, message and extensions.
    ///
    /// [Trailers](Self::trailers_mut) of a handler's response travel among the extensions, as a value that only `from_parts` finds. Who
    /// drops or replaces the extensions drops them, too. What a caller received in trailers is in the metadata.
    #[must_use]
    pub fn into_parts(self) -> (HeaderMap, T, Extensions) {
        let mut extensions = self.extensions;
        if let Some(trailers) = self.trailers {
            extensions.insert(Trailers(trailers));
        }
        (self.metadata, self.message, extensions)
    }

    pub(crate) fn into_content(self) -> (T, ResponseParts) {
        let parts = ResponseParts {
            metadata: self.metadata,
            trailers: self.trailers.map(|trailers| *trailers).unwrap_or_default(),
            extensions: self.extensions,
        };
        (self.message, parts)
    }

    /// Returns the message and drops the rest.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.message
    }

    /// Returns the message.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.message
    }

    /// Returns the message, to be changed.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.message
    }

    /// Replaces the message by what `change` makes of it.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Response<U> {
        Response {
            message: change(self.message),
            metadata: self.metadata,
            trailers: self.trailers,
            extensions: self.extensions,
        }
    }

    /// Returns the metadata, to be sent after the last message, to be changed. For a handler's response.
    ///
    /// A caller finds it in [`metadata`](Self::metadata) if the response is one message, and otherwise by
    /// [`Streaming::trailers`](crate::Streaming::trailers). What is known only at the end of a stream can be sent by
    /// [`Sender::finish_with`](crate::Sender::finish_with).
    pub fn trailers_mut(&mut self) -> &mut HeaderMap {
        self.trailers.get_or_insert_default()
    }

    /// Returns the metadata: what came before the message, and, if there is one message, what came after it.
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        &self.metadata
    }

    /// Returns the metadata, to be changed. A server sends it before the message.
    pub fn metadata_mut(&mut self) -> &mut HeaderMap {
        &mut self.metadata
    }

    /// Returns the extensions: values for, or from, the layers of this side. They are not sent.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns the extensions, to be changed.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }
}

impl<T> From<T> for Response<T> {
    fn from(message: T) -> Self {
        Self::new(message)
    }
}
