//! One way to a server: through a session, or over HTTP/2.

use std::{pin::Pin, time::Instant};

use http::{HeaderMap, Uri};
use shmipc_transport::{Address, Lent, Session};
use tokio::sync::futures::Notified;

use super::{
    balance::Pending,
    connection::Outlook,
    direct::{Direct, Opened, Outcome, Terms},
};
#[cfg(feature = "grpc")]
use super::{channel::no_session, http2::Http2Channel};
use crate::{
    ConnectError, Endpoint, Status,
    body::{Encode, Messages},
};

/// A connection that mends itself, of either kind. Clones share it.
#[derive(Clone, Debug)]
pub(super) enum Member {
    Session(Direct),
    #[cfg(feature = "grpc")]
    Http2(Http2Channel),
}

/// A call with many requests that has begun, and of which none was sent.
#[cfg_attr(
    feature = "grpc",
    expect(
        clippy::large_enum_variant,
        reason = "the large one is the usual one, and is on its way to its end"
    )
)]
pub(super) enum Begun {
    Session(Opened),
    #[cfg(feature = "grpc")]
    Http2(Http2Channel),
}

/// What may be expected of a member.
pub(super) enum Prospect {
    /// It takes calls.
    Ready,
    /// It connects.
    Connecting,
    /// It cannot be reached, and will not be tried before that time, or never.
    Down {
        status: Status,
        until: Option<Instant>,
    },
}

impl Member {
    /// Whether calls go there only while nothing better can be reached.
    pub(super) fn is_second_choice(&self) -> bool {
        match self {
            Self::Session(_) => false,
            #[cfg(feature = "grpc")]
            Self::Http2(_) => true,
        }
    }

    /// Returns the address, if it is reached through shared memory.
    pub(super) fn address(&self) -> Option<&Address> {
        match self {
            Self::Session(direct) => direct.connection.address(),
            #[cfg(feature = "grpc")]
            Self::Http2(_) => None,
        }
    }

    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Self::Session(direct) => direct.connection.address().map(Into::into),
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => Some(http2.endpoint()),
        }
    }

    /// Connects in any case.
    pub(super) async fn connect(&self) -> Result<(), ConnectError> {
        match self {
            Self::Session(direct) => Ok(direct.connection.connect().await?),
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => Ok(http2.connect().await?),
        }
    }

    /// Returns the session, if there is one.
    pub(super) fn session(&self) -> Option<Session> {
        match self {
            Self::Session(direct) => direct.connection.session(),
            #[cfg(feature = "grpc")]
            Self::Http2(_) => None,
        }
    }

    pub(super) async fn alloc(&self, len: usize) -> Result<Lent, Status> {
        match self {
            Self::Session(direct) => direct.alloc(len).await,
            #[cfg(feature = "grpc")]
            Self::Http2(_) => Err(no_session()),
        }
    }

    /// Whether it takes calls. Begins to connect if it does not, and an attempt is due.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Session(Direct { connection, .. }) => {
                connection.is_ready() || matches!(connection.outlook(), Outlook::Ready)
            }
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => matches!(http2.outlook(), super::reconnect::Outlook::Ready),
        }
    }

    /// Returns the number of its connection, if it has one that takes calls. What is known of one does not hold for the next.
    #[cfg(feature = "health")]
    pub(super) fn generation(&self) -> Option<u64> {
        let (is_ready, generation) = match self {
            Self::Session(Direct { connection, .. }) => {
                (connection.is_ready(), connection.generation())
            }
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => (http2.is_ready(), http2.generation()),
        };
        is_ready.then_some(generation)
    }

    /// Waits until the connection of that number takes no more calls.
    #[cfg(feature = "health")]
    pub(super) async fn left(&self, generation: u64) {
        /// How often HTTP/2 is looked at, which does not tell when its peer wants no more calls.
        #[cfg(feature = "grpc")]
        const INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

        while self.generation() == Some(generation) {
            match self {
                Self::Session(Direct { connection, .. }) => match connection.session() {
                    Some(session) => session.going_away().await,
                    None => return,
                },
                #[cfg(feature = "grpc")]
                Self::Http2(http2) => tokio::select! {
                    () = http2.changed() => {}
                    () = tokio::time::sleep(INTERVAL) => {}
                },
            }
        }
    }

    /// Whether it was tried, and could not be reached. It may be tried again just now.
    pub(super) fn has_failed(&self) -> bool {
        match self {
            Self::Session(direct) => direct.connection.has_failed(),
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => http2.has_failed(),
        }
    }

    /// Tells what may be expected. Begins to connect if an attempt is due.
    pub(super) fn prospect(&self) -> Prospect {
        match self {
            Self::Session(Direct { connection, .. }) => match connection.outlook() {
                Outlook::Ready => Prospect::Ready,
                Outlook::Connecting => Prospect::Connecting,
                Outlook::Failed { error, until } => Prospect::Down {
                    status: connection.unreachable(error),
                    until: Some(until.into_std()),
                },
                Outlook::Over(status) => Prospect::Down {
                    status,
                    until: None,
                },
            },
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => match http2.outlook() {
                super::reconnect::Outlook::Ready => Prospect::Ready,
                super::reconnect::Outlook::Connecting => Prospect::Connecting,
                super::reconnect::Outlook::Failed { error, until } => Prospect::Down {
                    status: http2.unreachable(error),
                    until: Some(until.into_std()),
                },
            },
        }
    }

    /// Waits for the end of an attempt.
    pub(super) fn changed(&self) -> Notified<'_> {
        match self {
            Self::Session(direct) => direct.connection.changed(),
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => http2.changed(),
        }
    }

    /// Makes a call with one request.
    pub(super) async fn one<M: Encode + ?Sized>(
        &self,
        path: &str,
        metadata: &HeaderMap,
        message: &mut M,
        terms: Terms,
    ) -> Outcome {
        match self {
            Self::Session(direct) => direct.one(path, metadata, message, terms).await,
            // Boxed, so that calls through sessions do not carry this future about.
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => {
                let request = super::http2::request_of_one(path, metadata, message, terms)?;
                Box::pin(http2.outcome(request, terms)).await
            }
        }
    }

    /// Begins a call with many requests, without any of them.
    pub(super) async fn open(
        &self,
        path: &Uri,
        metadata: &HeaderMap,
        terms: Terms,
    ) -> Result<Begun, Status> {
        match self {
            Self::Session(direct) => Ok(Begun::Session(direct.open(path, metadata, terms).await?)),
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => {
                http2.ready(terms).await?;
                Ok(Begun::Http2(http2.clone()))
            }
        }
    }
}

impl Begun {
    /// Makes the call.
    #[cfg_attr(
        not(feature = "grpc"),
        expect(unused_variables, reason = "sessions have had these already")
    )]
    pub(super) async fn many(
        self,
        path: &Uri,
        metadata: &HeaderMap,
        messages: Pin<Box<dyn Messages>>,
        terms: Terms,
    ) -> Outcome {
        match self {
            Self::Session(opened) => Direct::many(opened, messages, terms).await,
            #[cfg(feature = "grpc")]
            Self::Http2(http2) => {
                let request = super::http2::request_of_many(path, metadata, messages, terms);
                Box::pin(http2.outcome(request, terms)).await
            }
        }
    }
}

/// Counts a call as pending for as long as its answer is under way.
pub(super) fn hold(mut outcome: Outcome, pending: Option<Pending>) -> Outcome {
    if let (Ok(Ok(answer)), Some(pending)) = (&mut outcome, pending) {
        answer.hold(pending);
    }
    outcome
}
