use crate::Request;

/// What can be sent as a request of many messages: an iterator over them, or a [`Request`] with one.
///
/// The calling thread iterates, and sends each message when it has it.
pub trait IntoIterRequest<T> {
    /// The messages.
    type Messages: IntoIterator<Item = T>;

    /// Returns the request.
    fn into_iter_request(self) -> Request<Self::Messages>;
}

impl<T, I: IntoIterator<Item = T>> IntoIterRequest<T> for I {
    type Messages = I;

    fn into_iter_request(self) -> Request<I> {
        Request::new(self)
    }
}

impl<T, I: IntoIterator<Item = T>> IntoIterRequest<T> for Request<I> {
    type Messages = I;

    fn into_iter_request(self) -> Self {
        self
    }
}
