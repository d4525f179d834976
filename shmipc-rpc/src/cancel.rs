use std::{
    future::pending,
    task::{Context, Waker},
    time::Instant,
};

use shmipc_transport::{Abandoned, StreamWatch};

/// Tells a handler when its caller no longer waits.
///
/// A handler's future is dropped at that moment anyway. This is for work that goes on all the same, in a task of its
/// own, and wants to know. See [`Request::cancellation`](crate::Request::cancellation).
///
/// # Examples
///
/// ```no_run
/// # use shmipc_rpc::{Request, Response, Status};
/// # async fn flush_to_disk() {}
/// async fn store(request: Request<()>) -> Result<Response<()>, Status> {
///     let cancellation = request.cancellation();
///     let work = tokio::spawn(async move {
///         tokio::select! {
///             () = flush_to_disk() => println!("done"),
///             reason = cancellation.cancelled() => println!("tidying up: {reason:?}"),
///         }
///     });
///     work.await.map_err(|error| Status::internal(error.to_string()))?;
///     Ok(Response::new(()))
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancellation {
    watch: Option<StreamWatch>,
    deadline: Option<Instant>,
}

/// Why the caller of a handler no longer waits.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CancelReason {
    /// The caller gave the call up: it dropped the future, or reset the stream.
    ByCaller,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// The connection ended, because the caller's process did or for another reason.
    ConnectionLost,
    /// Nothing went wrong: the call is over.
    Finished,
}

impl Cancellation {
    pub(crate) fn new(watch: Option<StreamWatch>, deadline: Option<Instant>) -> Self {
        Self { watch, deadline }
    }

    /// Waits until the caller no longer waits, and returns why.
    ///
    /// Never returns for a call that came from this process, without a connection, and has no deadline.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may be called again, and by several tasks at once.
    pub async fn cancelled(&self) -> CancelReason {
        let abandoned = async {
            match &self.watch {
                Some(watch) => watch.abandoned().await,
                None => pending().await,
            }
        };
        match crate::deadline::within(self.deadline, abandoned).await {
            Ok(abandoned) => self.reason(&abandoned),
            Err(crate::deadline::Elapsed) => CancelReason::DeadlineExceeded,
        }
    }

    /// Tells whether the caller no longer waits.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let late = || {
            self.deadline
                .is_some_and(|deadline| deadline <= Instant::now())
        };
        let abandoned = || {
            self.watch.as_ref().is_some_and(|watch| {
                let mut context = Context::from_waker(Waker::noop());
                watch.poll_abandoned(&mut context).is_ready()
            })
        };
        late() || abandoned()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Brings the deadline forward to `limit`, if that is earlier.
    pub(crate) fn limit(&mut self, limit: Option<Instant>) {
        self.deadline = crate::deadline::earlier(self.deadline, limit);
    }

    fn reason(&self, abandoned: &Abandoned) -> CancelReason {
        // At the deadline both sides give up, and either may be seen first.
        if self
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            return CancelReason::DeadlineExceeded;
        }
        match abandoned {
            Abandoned::Reset(_) => CancelReason::ByCaller,
            Abandoned::SessionLost(_) => CancelReason::ConnectionLost,
            // Closed, and whatever else may come to mean that it is over.
            _ => CancelReason::Finished,
        }
    }
}
