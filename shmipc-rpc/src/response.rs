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
    extensions: Extensions,
}

impl<T> Response<T> {
    /// Makes a response without metadata.
    pub fn new(message: T) -> Self {
        Self::from_parts(message, HeaderMap::new(), Extensions::new())
    }

    pub(crate) fn from_parts(message: T, metadata: HeaderMap, extensions: Extensions) -> Self {
        Self {
            message,
            metadata,
            extensions,
        }
    }

    pub(crate) fn into_parts(self) -> (T, HeaderMap, Extensions) {
        (self.message, self.metadata, self.extensions)
    }

    /// Returns the message and drops the rest.
    pub fn into_inner(self) -> T {
        self.message
    }

    /// Returns the message.
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
            extensions: self.extensions,
        }
    }

    /// Returns the metadata: what came before the message, and what came after it.
    pub fn metadata(&self) -> &HeaderMap {
        &self.metadata
    }

    /// Returns the metadata, to be changed. A server sends it before the message.
    pub fn metadata_mut(&mut self) -> &mut HeaderMap {
        &mut self.metadata
    }

    /// Returns the extensions: values for, or from, the layers of this side. They are not sent.
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
