//! From paths to services.

use std::{collections::HashMap, fmt, time::Duration};

use super::Call;
use crate::{Method, MethodKind, server::pace::Pace};

/// A service whose handlers block. Generated servers are such services.
pub trait Service: Send + Sync + 'static {
    /// The full name, such as `helloworld.Greeter`. Paths begin with it.
    const NAME: &'static str;

    /// The methods. Calls of others do not reach the service.
    const METHODS: &'static [Method];

    /// Answers a call, by passing it to one of the functions in [`serve`](crate::blocking::serve), in this thread.
    fn call(&self, call: Call);
}

/// The services of a server.
#[derive(Default)]
pub(super) struct Routes {
    names: Vec<&'static str>,
    services: Vec<Box<dyn Route>>,
    methods: Vec<KnownMethod>,
    /// Which of `methods` has this path. Paths from the wire are only looked up, never added, so they cannot make it slow.
    paths: HashMap<&'static str, MethodId, foldhash::fast::RandomState>,
}

/// Names a method.
#[derive(Clone, Copy, Debug)]
pub(super) struct MethodId(usize);

/// A method of one of the services.
#[derive(Debug)]
pub(super) struct KnownMethod {
    service: usize,
    pub(super) path: &'static str,
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

impl Routes {
    /// Adds a service.
    ///
    /// # Panics
    ///
    /// Panics if there is one of that name.
    pub(super) fn add<S: Service>(&mut self, service: S) {
        assert!(
            !self.names.contains(&S::NAME),
            "a server cannot have two services with the name {:?}",
            S::NAME
        );
        let index = self.services.len();
        self.names.push(S::NAME);
        self.services.push(Box::new(service));
        for method in S::METHODS {
            self.paths
                .insert(method.path(), MethodId(self.methods.len()));
            self.methods.push(KnownMethod {
                service: index,
                path: method.path(),
                is_unary: method.kind() == MethodKind::Unary,
                pace: Pace::default(),
            });
        }
    }

    pub(super) fn method(&self, path: &str) -> Option<MethodId> {
        self.paths.get(path).copied()
    }

    pub(super) fn known(&self, method: MethodId) -> &KnownMethod {
        &self.methods[method.0]
    }

    /// Has a call answered by its service.
    pub(super) fn call(&self, call: Call) {
        let service = self.known(call.method).service;
        self.services[service].call(call);
    }
}

impl KnownMethod {
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
