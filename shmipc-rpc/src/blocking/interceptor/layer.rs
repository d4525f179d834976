use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{Interceptor, Interceptors, Next};
use crate::{
    Method, Status,
    blocking::{Channel, Service, server},
    interceptor::{Call, Filter},
    server::MessageLimits,
};

/// Shows calls to an interceptor. See the [module](super). Clones show them to the same one.
///
/// It is a tower layer around a [`Channel`] or a [`Service`]. For others than tower there is [`layer`](Self::layer), too.
#[derive(Clone)]
pub struct InterceptorLayer {
    interceptor: Arc<dyn Interceptor>,
    filter: Arc<Filter>,
}

impl InterceptorLayer {
    /// Makes a layer that shows all calls to `interceptor`.
    pub fn new(interceptor: impl Interceptor) -> Self {
        Self {
            interceptor: Arc::new(interceptor),
            filter: Arc::default(),
        }
    }

    /// Makes a layer that shows the head of each call to a function, which may change it, or answer by an error. For what
    /// is not interested in the answer.
    ///
    /// # Examples
    ///
    /// ```
    /// use shmipc_rpc::{Status, blocking::interceptor::InterceptorLayer};
    ///
    /// let layer = InterceptorLayer::on_request(|call| match call.metadata().get("x-tenant") {
    ///     Some(_) => Ok(()),
    ///     None => Err(Status::unauthenticated("which tenant?")),
    /// });
    /// ```
    pub fn on_request<F>(function: F) -> Self
    where
        F: Fn(&mut Call) -> Result<(), Status> + Send + Sync + 'static,
    {
        Self::new(move |mut call: Call, next: Next<'_>| {
            function(&mut call)?;
            next.run(call)
        })
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

    /// Lays it around a [`Channel`], whose clones stay as they are, or around a [`Service`]. The outermost of several sees calls
    /// first.
    #[must_use]
    pub fn layer<S>(&self, inner: S) -> <Self as Layer<S>>::Service
    where
        Self: Layer<S>,
    {
        Layer::layer(self, inner)
    }

    /// Adds the interceptor to those who see a call of the method at `path`, if it is to see it.
    pub(in crate::blocking) fn join(&self, interceptors: &mut Interceptors, path: &str) {
        if self.filter.matches(path) {
            interceptors.push(Arc::clone(&self.interceptor));
        }
    }
}

impl Layer<Channel> for InterceptorLayer {
    type Service = Channel;

    fn layer(&self, channel: Channel) -> Channel {
        channel.within(self.clone())
    }
}

impl<S: Service> Layer<S> for InterceptorLayer {
    type Service = Intercepted<S>;

    fn layer(&self, service: S) -> Intercepted<S> {
        Intercepted {
            service,
            layer: self.clone(),
        }
    }
}

impl fmt::Debug for InterceptorLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterceptorLayer")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// A service whose calls an interceptor sees.
#[derive(Clone, Debug)]
pub struct Intercepted<S> {
    service: S,
    layer: InterceptorLayer,
}

impl<S: Service> Service for Intercepted<S> {
    const NAME: &'static str = S::NAME;
    const METHODS: &'static [Method] = S::METHODS;

    fn message_limits(&self) -> MessageLimits {
        self.service.message_limits()
    }

    fn call(&self, mut call: server::Call) {
        let path = call.path();
        self.layer.join(call.interceptors_mut(), path);
        self.service.call(call);
    }
}
