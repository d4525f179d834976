//! From paths to services.

use std::{collections::HashMap, fmt, time::Duration};

use bytes::Bytes;
use http::Uri;

use super::Call;
use crate::{
    Method, MethodKind,
    blocking::{
        interceptor::{InterceptorLayer, Interceptors},
        serve,
    },
    server::{Exceptions, LimitTable, Limits, MessageLimits, pace::Pace},
};

/// A service whose handlers block. Generated servers are such services.
pub trait Service: Send + Sync + 'static {
    /// The full name, such as `helloworld.Greeter`. Paths begin with it.
    const NAME: &'static str;

    /// The methods. Calls of others do not reach the service.
    const METHODS: &'static [Method];

    /// How long messages may be, where that differs from what the server allows that this is added to. Default: nowhere.
    fn message_limits(&self) -> MessageLimits {
        MessageLimits::new()
    }

    /// Answers a call, by passing it to one of the functions in [`serve`], in this thread.
    fn call(&self, call: Call);
}

/// The services of a server.
#[derive(Default)]
pub(super) struct Routes {
    names: Vec<&'static str>,
    services: Vec<Box<dyn Route>>,
    methods: Vec<KnownMethod>,
    /// Who may see the calls of all services, the first of them first.
    layers: Vec<InterceptorLayer>,
    /// Which of `methods` has this path. Paths from the wire are only looked up, never added, so they cannot make it slow.
    paths: HashMap<&'static str, MethodId, foldhash::fast::RandomState>,
}

/// Names a method.
#[derive(Clone, Copy, Debug)]
pub(super) struct MethodId(pub(super) usize);

/// A method of one of the services.
pub(super) struct KnownMethod {
    service: usize,
    pub(super) path: &'static str,
    /// The same, as a report has it.
    pub(super) uri: Uri,
    /// How long its messages may be, where that is not as the server has it. `None` until the server serves.
    limits: Option<Limits>,
    /// Who sees its calls, of those who may see the calls of all services.
    interceptors: Interceptors,
    pub(super) is_unary: bool,
    /// Where its handlers run.
    pub(super) pace: Pace,
}

/// A [`Service`] whose type has been forgotten.
trait Route: Send + Sync {
    fn call(&self, call: Call);
}

impl<S: Service> Route for S {
    fn call(&self, call: Call) {
        Service::call(self, call);
    }
}

/// What answers calls of paths that lead nowhere, if somebody wants to see them.
struct Nowhere;

impl Route for Nowhere {
    fn call(&self, call: Call) {
        serve::unimplemented(call);
    }
}

impl Routes {
    /// Adds a service.
    ///
    /// # Panics
    ///
    /// Panics if there is one of that name.
    pub(super) fn add<S: Service>(&mut self, service: S, exceptions: &mut Exceptions) {
        assert!(
            !self.names.contains(&S::NAME),
            "a server cannot have two services with the name {:?}",
            S::NAME
        );
        exceptions.add_own(S::NAME, service.message_limits());
        let index = self.services.len();
        self.names.push(S::NAME);
        self.services.push(Box::new(service));
        for method in S::METHODS {
            self.paths
                .insert(method.path(), MethodId(self.methods.len()));
            let is_unary = method.kind() == MethodKind::Unary;
            let known = KnownMethod::new(index, method.path(), is_unary);
            self.methods.push(known);
        }
    }

    /// Looks up what each method allows, once and for all calls.
    pub(super) fn set_limits(&mut self, table: &LimitTable) {
        for method in &mut self.methods {
            method.limits = Some(table.at(method.path));
        }
    }

    /// Looks up who sees the calls of each method, once and for all.
    pub(super) fn set_interceptors(&mut self, layers: Vec<InterceptorLayer>) {
        self.layers = layers;
        if self.layers.is_empty() {
            return;
        }
        for method in &mut self.methods {
            for layer in &self.layers {
                layer.join(&mut method.interceptors, method.path);
            }
        }
        // The last one.
        let nowhere = KnownMethod::new(self.services.len(), "", false);
        self.methods.push(nowhere);
        self.services.push(Box::new(Nowhere));
    }

    /// Returns what stands for the method at a path that leads nowhere, and who wants to see its calls, if anybody does.
    pub(super) fn nowhere(&self, path: &str) -> Option<(MethodId, Interceptors)> {
        let mut interceptors = Interceptors::new();
        for layer in &self.layers {
            layer.join(&mut interceptors, path);
        }
        let last = self.methods.len().checked_sub(1)?;
        (!interceptors.is_empty()).then_some((MethodId(last), interceptors))
    }

    pub(super) fn method(&self, path: &str) -> Option<MethodId> {
        self.paths.get(path).copied()
    }

    pub(super) fn known(&self, method: MethodId) -> &KnownMethod {
        &self.methods[method.0]
    }

    /// Has a call answered by its service.
    pub(super) fn call(&self, mut call: Call) {
        let known = self.known(call.method);
        if !known.interceptors.is_empty() {
            call.interceptors_mut().clone_from(&known.interceptors);
        }
        self.services[known.service].call(call);
    }
}

impl KnownMethod {
    fn new(service: usize, path: &'static str, is_unary: bool) -> Self {
        Self {
            service,
            path,
            uri: Uri::from_maybe_shared(Bytes::from_static(path.as_bytes())).unwrap_or_default(),
            limits: None,
            interceptors: Interceptors::new(),
            is_unary,
            pace: Pace::default(),
        }
    }

    /// How long its messages may be; `server` says what holds for whatever has no other limits.
    pub(super) fn limits(&self, server: &Limits) -> Limits {
        self.limits.unwrap_or(*server)
    }

    /// Notes that a handler took long.
    pub(super) fn is_slow(&self) {
        self.pace.record(Duration::MAX);
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.names).finish()
    }
}
