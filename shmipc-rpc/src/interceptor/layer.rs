use std::{
    fmt,
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Interceptor,
    end::{Callback, End, Watchers, show_end},
    head::{Answer, Call, split},
};
use crate::{
    Body, Method, Status,
    deadline::{self, Elapsed},
    error::BoxError,
    server::{MessageLimits, NamedService},
};

/// A tower layer that shows calls to an interceptor. See the [module](super).
///
/// For others than tower there is [`layer`](Self::layer), too.
pub struct InterceptorLayer<I> {
    interceptor: Arc<I>,
    filter: Arc<Filter>,
}

/// Which calls an interceptor sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Full names. If there are no names and no paths, it sees all calls.
    services: Vec<Arc<str>>,
    /// Paths of methods.
    methods: Vec<Arc<str>>,
}

impl<I> InterceptorLayer<I> {
    /// Makes a layer that shows all calls to `interceptor`.
    pub fn new(interceptor: I) -> Self
    where
        I: Interceptor,
    {
        Self {
            interceptor: Arc::new(interceptor),
            filter: Arc::default(),
        }
    }

    /// Limits the layer to a service, by its full name, such as `helloworld.Greeter`. Further services and methods may be
    /// added.
    #[must_use]
    pub fn for_service(mut self, name: &str) -> Self {
        Arc::make_mut(&mut self.filter).add_service(name);
        self
    }

    /// Limits the layer to a method. Further services and methods may be added.
    #[must_use]
    pub fn for_method(mut self, method: &Method) -> Self {
        Arc::make_mut(&mut self.filter).add_method(method);
        self
    }

    /// Lays it around a service, such as a [`Channel`](crate::Channel) or a generated server. The outermost of several sees calls first.
    #[must_use]
    pub fn layer<S>(&self, service: S) -> Intercepted<S, I> {
        Intercepted {
            service,
            layer: self.clone(),
        }
    }
}

impl<F> InterceptorLayer<OnRequest<F>>
where
    F: Fn(&mut Call) -> Result<(), Status> + Send + Sync + 'static,
{
    /// Makes a layer that shows the head of each call to a function, which may change it, or answer by an error. For what
    /// needs no waiting and is not interested in the answer.
    ///
    /// # Examples
    ///
    /// ```
    /// use shmipc_rpc::{Status, interceptor::InterceptorLayer};
    ///
    /// let layer = InterceptorLayer::on_request(|call| match call.metadata().get("x-tenant") {
    ///     Some(_) => Ok(()),
    ///     None => Err(Status::unauthenticated("which tenant?")),
    /// });
    /// ```
    pub fn on_request(function: F) -> Self {
        Self::new(OnRequest(function))
    }
}

impl Filter {
    pub(crate) fn add_service(&mut self, name: &str) {
        self.services.push(name.into());
    }

    pub(crate) fn add_method(&mut self, method: &Method) {
        self.methods.push(method.path().into());
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let Self { services, methods } = self;
        if services.is_empty() && methods.is_empty() {
            return true;
        }
        methods.iter().any(|method| &**method == path)
            || services.iter().any(|name| &**name == split(path).0)
    }
}

impl<S, I> Layer<S> for InterceptorLayer<I> {
    type Service = Intercepted<S, I>;

    fn layer(&self, service: S) -> Self::Service {
        Self::layer(self, service)
    }
}

impl<I> Clone for InterceptorLayer<I> {
    fn clone(&self) -> Self {
        Self {
            interceptor: Arc::clone(&self.interceptor),
            filter: Arc::clone(&self.filter),
        }
    }
}

impl<I> fmt::Debug for InterceptorLayer<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterceptorLayer")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// The interceptor of [`InterceptorLayer::on_request`].
pub struct OnRequest<F>(F);

impl<F> Interceptor for OnRequest<F>
where
    F: Fn(&mut Call) -> Result<(), Status> + Send + Sync + 'static,
{
    async fn intercept(&self, mut call: Call, next: Next) -> Result<Answer, Status> {
        (self.0)(&mut call)?;
        next.run(call).await
    }
}

impl<F> fmt::Debug for OnRequest<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnRequest").finish_non_exhaustive()
    }
}

/// A service whose calls an interceptor sees.
pub struct Intercepted<S, I> {
    service: S,
    layer: InterceptorLayer<I>,
}

impl<S, I, B, R> Service<http::Request<B>> for Intercepted<S, I>
where
    S: Service<http::Request<Body>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    I: Interceptor,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = InterceptedFuture<S::Future>;

    /// Ready when the service within is.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let ready = ready!(self.service.poll_ready(cx));
        Poll::Ready(ready.map_err(|error| Status::from_error(error.into())))
    }

    fn call(&mut self, request: http::Request<B>) -> InterceptedFuture<S::Future> {
        let request = request.map(Body::new);
        let kind = if self.layer.filter.matches(request.uri().path()) {
            // The service that has been made ready is the one to be called.
            let another = self.service.clone();
            let ready = mem::replace(&mut self.service, another);
            let next = Next {
                call: SyncWrapper::new(Box::new(|request| Box::pin(call(ready, request)))),
                callbacks: Vec::new(),
            };
            let interceptor = Arc::clone(&self.layer.interceptor);
            let future = async move {
                let answer = interceptor.intercept(Call::new(request), next).await?;
                Ok(answer.into_response())
            };
            Kind::Seen {
                future: SyncWrapper::new(Box::pin(future)),
            }
        } else {
            Kind::Passed {
                future: self.service.call(request),
            }
        };
        InterceptedFuture { kind }
    }
}

/// Calls a service that is ready.
async fn call<S, R>(
    mut service: S,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Status>
where
    S: Service<http::Request<Body>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    match service.call(request).await {
        Ok(response) => Ok(response.map(Body::new)),
        Err(error) => Err(Status::from_error(error.into())),
    }
}

impl<S: NamedService, I> NamedService for Intercepted<S, I> {
    const NAME: &'static str = S::NAME;
    const METHODS: &'static [Method] = S::METHODS;

    fn message_limits(&self) -> MessageLimits {
        self.service.message_limits()
    }
}

impl<S: Clone, I> Clone for Intercepted<S, I> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, I> fmt::Debug for Intercepted<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intercepted")
            .field("service", &self.service)
            .field("filter", &self.layer.filter)
            .finish_non_exhaustive()
    }
}

type Calling = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Status>> + Send>>;

/// What lies behind an interceptor: further layers, and at the end the server or the handler.
///
/// Dropping it is the end of the call's request.
pub struct Next {
    call: SyncWrapper<Box<dyn FnOnce(http::Request<Body>) -> Calling + Send>>,
    callbacks: Vec<SyncWrapper<Callback>>,
}

impl Next {
    /// Has `see` called with how the call ends, once and whatever happens: with the failure that [`run`](Self::run) returns, with
    /// what comes after the last message, or because nobody [waits for it](End::is_cut_off) any longer, before the answer
    /// or after it has begun. It may change the metadata and the status there.
    ///
    /// A server calls it before it sends the end; what has one message is at its end with its head. If the call does not go on,
    /// `see` is not called. A stream that is dropped after its last message, but before it has told its end, is cut off.
    ///
    /// # Examples
    ///
    /// ```
    /// use shmipc_rpc::interceptor::{Call, InterceptorLayer, Next};
    ///
    /// let counted = InterceptorLayer::new(async |call: Call, next: Next| {
    ///     let method = call.path().to_owned();
    ///     let next = next.on_end(move |end| println!("{method}: {}", end.code().name()));
    ///     next.run(call).await
    /// });
    /// ```
    #[must_use]
    pub fn on_end(mut self, see: impl FnOnce(&mut End) + Send + 'static) -> Self {
        self.callbacks.push(SyncWrapper::new(Box::new(see)));
        self
    }

    /// Lets the call go on, and returns the head of the answer.
    ///
    /// # Errors
    ///
    /// Returns the status if the call has failed already. A call with a stream of responses may still fail later.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped gives the call up.
    pub async fn run(self, call: Call) -> Result<Answer, Status> {
        let Self {
            call: next,
            callbacks,
        } = self;
        let deadline = call.deadline();
        // They see it, too, if this future is dropped.
        let mut watchers =
            (!callbacks.is_empty()).then(|| Box::new(Watchers::new(callbacks, deadline)));
        let (request, limit) = call.into_request();
        let calling = next.into_inner()(request);
        let called = match limit {
            None => calling.await,
            Some(limit) => limited(limit, calling).await,
        };
        match called.and_then(|response| Answer::read(response, deadline)) {
            Ok(mut answer) => {
                if let Some(watchers) = watchers {
                    answer.watch(watchers);
                }
                Ok(answer)
            }
            Err(status) => show_end(&mut watchers, Err(status)).map(Answer::empty),
        }
    }
}

/// Awaits a call, whose own calls inherit the limit, until then.
async fn limited(limit: Instant, calling: Calling) -> Result<http::Response<Body>, Status> {
    let mut calling = pin!(calling);
    let scoped = poll_fn(|cx| {
        let _scope = deadline::Scope::enter(deadline::earlier(Some(limit), deadline::inherited()));
        calling.as_mut().poll(cx)
    });
    match deadline::within(Some(limit), scoped).await {
        Ok(response) => response,
        Err(Elapsed) => Err(deadline::exceeded()),
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`Intercepted`]. Dropping it gives the call up.
    #[must_use = "futures do nothing unless polled"]
    pub struct InterceptedFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F> {
        Seen { future: SyncWrapper<Calling> },
        Passed { #[pin] future: F },
    }
}

impl<F, R, E> Future for InterceptedFuture<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    E: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<http::Response<Body>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Seen { future } => future.get_mut().as_mut().poll(cx),
            KindProjection::Passed { future } => Poll::Ready(match ready!(future.poll(cx)) {
                Ok(response) => Ok(response.map(Body::new)),
                Err(error) => Err(Status::from_error(error.into())),
            }),
        }
    }
}

impl<F> fmt::Debug for InterceptedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterceptedFuture").finish_non_exhaustive()
    }
}
