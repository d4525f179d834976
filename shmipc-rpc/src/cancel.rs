use std::{
    future::pending,
    task::{Context, Waker},
    time::Instant,
};

use shmipc_transport::{Abandoned, StreamWatch};
use tokio::sync::watch;

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
    watch: Watch,
    deadline: Option<Instant>,
}

/// What tells that a call is over.
#[derive(Clone, Debug, Default)]
enum Watch {
    #[default]
    Nothing,
    Stream(StreamWatch),
    Guard(watch::Receiver<Option<CancelReason>>),
}

/// Tells handlers that a call is over, when it is dropped.
#[derive(Debug)]
pub(crate) struct CallGuard(watch::Sender<Option<CancelReason>>);

impl CallGuard {
    /// Returns a guard, and what it tells.
    pub(crate) fn new(deadline: Option<Instant>) -> (Self, Cancellation) {
        let (sender, receiver) = watch::channel(None);
        let watch = Watch::Guard(receiver);
        (Self(sender), Cancellation { watch, deadline })
    }

    /// Tells that nothing went wrong.
    pub(crate) fn finish(self) {
        self.0.send_replace(Some(CancelReason::Finished));
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        // Who gave the call up, the other side or the connection, cannot be told.
        self.0.send_if_modified(|reason| {
            let is_first = reason.is_none();
            reason.get_or_insert(CancelReason::ByCaller);
            is_first
        });
    }
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
        let watch = watch.map_or(Watch::Nothing, Watch::Stream);
        Self { watch, deadline }
    }

    /// Waits until the caller no longer waits, and returns why.
    ///
    /// Never returns for a call that was made of a service itself, without a [`Channel`](crate::Channel), and has no deadline.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may be called again, and by several tasks at once.
    pub async fn cancelled(&self) -> CancelReason {
        let over = async {
            match &self.watch {
                Watch::Stream(watch) => reason(&watch.abandoned().await),
                Watch::Guard(guard) => over(guard.clone()).await,
                Watch::Nothing => pending().await,
            }
        };
        match crate::deadline::within(self.deadline, over).await {
            // At the deadline both sides give up, and either may be seen first.
            Ok(_) if self.is_late() => CancelReason::DeadlineExceeded,
            Ok(reason) => reason,
            Err(crate::deadline::Elapsed) => CancelReason::DeadlineExceeded,
        }
    }

    /// Tells whether the caller no longer waits.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let is_over = || match &self.watch {
            Watch::Stream(watch) => {
                let mut context = Context::from_waker(Waker::noop());
                watch.poll_abandoned(&mut context).is_ready()
            }
            Watch::Guard(guard) => guard.borrow().is_some(),
            Watch::Nothing => false,
        };
        self.is_late() || is_over()
    }

    /// Polls for what tells that the caller no longer waits, but for its deadline.
    #[cfg(feature = "health")]
    pub(crate) fn poll_over(&self, cx: &mut Context<'_>) -> std::task::Poll<()> {
        match &self.watch {
            Watch::Stream(watch) => watch.poll_abandoned(cx).map(drop),
            // Whoever has such a guard is polled by its caller.
            Watch::Guard(_) | Watch::Nothing => std::task::Poll::Pending,
        }
    }

    pub(crate) fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Brings the deadline forward to `limit`, if that is earlier.
    pub(crate) fn limit(&mut self, limit: Option<Instant>) {
        self.deadline = crate::deadline::earlier(self.deadline, limit);
    }
}

fn reason(abandoned: &Abandoned) -> CancelReason {
    match abandoned {
        Abandoned::Reset(_) => CancelReason::ByCaller,
        Abandoned::SessionLost(_) => CancelReason::ConnectionLost,
        // Closed, and whatever else may come to mean that it is over.
        _ => CancelReason::Finished,
    }
}

/// Waits for a guard to tell.
async fn over(mut guard: watch::Receiver<Option<CancelReason>>) -> CancelReason {
    match guard.wait_for(Option::is_some).await {
        Ok(reason) => (*reason).unwrap_or(CancelReason::Finished),
        Err(_) => CancelReason::ByCaller,
    }
}
