//! Who calls, and whom: what each request over HTTP/2 says of it.

use http::{
    HeaderValue, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::endpoint::Http2Address;

/// This crate, as servers know it.
const OURS: &str = concat!("grpc-rust-shmipc/", env!("CARGO_PKG_VERSION"));

/// What a channel was told to say, if anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    user_agent: Option<HeaderValue>,
    origin: Option<Uri>,
}

/// What is wrong with an origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InvalidOrigin(pub(crate) &'static str);

impl Identity {
    /// Puts the name of the program before that of this crate.
    pub(crate) fn set_user_agent(&mut self, program: &HeaderValue) {
        let name = [program.as_bytes(), b" ", OURS.as_bytes()].concat();
        // It cannot fail: there is nothing between two values but a space.
        self.user_agent = HeaderValue::from_bytes(&name).ok();
    }

    pub(crate) fn set_origin(&mut self, origin: Uri) {
        self.origin = Some(origin);
    }

    /// Returns the origin if there is one that cannot be used, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&Uri, InvalidOrigin)> {
        let Some(origin) = &self.origin else {
            return Ok(());
        };
        let problem = if origin.host().is_none_or(str::is_empty) {
            "it has no host"
        } else if origin
            .authority()
            .is_some_and(|name| name.as_str().contains('@'))
        {
            "a user has no place there"
        } else if !matches!(origin.scheme_str(), None | Some("http" | "https")) {
            "its scheme is neither http nor https"
        } else if !matches!(
            origin.path_and_query().map(PathAndQuery::as_str),
            None | Some("" | "/")
        ) {
            "nothing may follow the host and the port"
        } else {
            return Ok(());
        };
        Err((origin, InvalidOrigin(problem)))
    }

    pub(super) fn user_agent(&self) -> HeaderValue {
        match &self.user_agent {
            Some(name) => name.clone(),
            None => HeaderValue::from_static(OURS),
        }
    }

    /// Returns the scheme and the authority of requests to `address`.
    pub(super) fn origin(&self, address: &Http2Address) -> (Scheme, Authority) {
        let origin = self.origin.as_ref();
        let scheme = origin.and_then(Uri::scheme).cloned();
        let authority = origin.and_then(Uri::authority).cloned();
        let usual = if address.tls {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        (
            scheme.unwrap_or(usual),
            authority.unwrap_or_else(|| address.authority.clone()),
        )
    }
}
