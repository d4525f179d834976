use std::{sync::Arc, time::Instant};

use crate::{
    Idempotency,
    cancel::Cancellation,
    server::{Draining, Served},
};

/// What is known of a call beside its message and metadata.
///
/// It travels within the [`Body`](crate::Body). Where middleware may exchange the body for its own, a copy travels
/// among the extensions of the request.
#[derive(Clone, Debug)]
pub(crate) struct CallContext {
    /// What the call came through. `None` on the calling side.
    pub(crate) served: Option<Arc<Served>>,
    /// Tells whether the server drains, where the call did not come through a session, which would tell.
    pub(crate) draining: Draining,
    /// When the caller stops waiting, and how the handler learns of it.
    pub(crate) cancellation: Cancellation,
    /// How long a message may be that is yet to be received.
    pub(crate) message_len_max: usize,
    /// How long a message may be that is yet to be sent from here.
    pub(crate) request_len_max: usize,
    /// What becomes of the effect of a call that is made here more than once.
    pub(crate) idempotency: Idempotency,
    /// Whether a call that is made here waits for the server. `None`: as the channel does.
    pub(crate) wait_for_ready: Option<bool>,
}

/// How long a message may be by default: 64 MiB.
pub(crate) const MESSAGE_LEN_MAX_DEFAULT: usize = 64 << 20;

impl CallContext {
    /// The context of a call that is made here.
    pub(crate) fn of_caller(deadline: Option<Instant>) -> Self {
        Self {
            served: None,
            draining: Draining::default(),
            cancellation: Cancellation::new(None, deadline),
            message_len_max: MESSAGE_LEN_MAX_DEFAULT,
            request_len_max: MESSAGE_LEN_MAX_DEFAULT,
            idempotency: Idempotency::Unknown,
            wait_for_ready: None,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.cancellation.deadline()
    }
}

impl Default for CallContext {
    fn default() -> Self {
        Self::of_caller(None)
    }
}
