use std::future::poll_fn;

use bytes::Bytes;
use tower_service::Service;

use crate::{Body, Status, error::BoxError};

/// A service that generated clients can call over.
///
/// Every tower service over `http::Request<Body>` that can be cloned and answers with an `http::Response` is one: a
/// [`Channel`](super::Channel), layers around it, a generated server in the same process, or an HTTP/2 client.
pub trait CallService: Clone + Send + 'static {
    /// Makes one call, on a clone of the service.
    ///
    /// # Errors
    ///
    /// Returns the [`Status`] found [behind](Status::from_error) the service's error.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped gives the call up.
    fn call(
        &self,
        request: http::Request<Body>,
    ) -> impl Future<Output = Result<http::Response<Body>, Status>> + Send + use<Self>;
}

impl<S, B> CallService for S
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(
        &self,
        request: http::Request<Body>,
    ) -> impl Future<Output = Result<http::Response<Body>, Status>> + Send + use<S, B> {
        let mut service = self.clone();
        async move {
            let failed = |error: S::Error| Status::from_error(error.into());
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(failed)?;
            let response = Service::call(&mut service, request).await.map_err(failed)?;
            Ok(response.map(Body::new))
        }
    }
}
