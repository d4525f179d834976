use std::{fmt, sync::Arc, time::Instant};

use sync_wrapper::SyncWrapper;

use super::Interceptor;
use crate::{
    Status, deadline,
    interceptor::{Answer, Call, Callback, End, Watchers, show_end},
};

/// Makes a call, or has it handled, at the end of the row.
type Bottom<'a> = dyn FnMut(Call) -> Result<Answer, Status> + 'a;

/// Shows a call to interceptors, the first of them first, and behind the last one to `bottom`, which is called once at most.
pub(in crate::blocking) fn see(
    interceptors: &[Arc<dyn Interceptor>],
    call: Call,
    bottom: &mut Bottom<'_>,
) -> Result<Answer, Status> {
    let Some((first, rest)) = interceptors.split_first() else {
        return bottom(call);
    };
    let next = Next {
        rest,
        bottom,
        callbacks: Vec::new(),
    };
    first.intercept(call, next)
}

/// What lies behind an interceptor: further ones, and at the end the server or the handler.
///
/// It stays in the thread of its call. Where it is dropped instead of [run](Self::run), the call goes no further.
pub struct Next<'a> {
    rest: &'a [Arc<dyn Interceptor>],
    bottom: &'a mut Bottom<'a>,
    callbacks: Vec<SyncWrapper<Callback>>,
}

impl Next<'_> {
    /// Has `see` called with how the call ends, once and whatever happens: with the failure that [`run`](Self::run) returns, with
    /// what comes after the last message, or because nobody [waits for it](End::is_cut_off) any longer, before the answer
    /// or after it has begun. It may change the metadata and the status there.
    ///
    /// A server calls it before it sends the end; what has one message is at its end with its head. If the call does not go on,
    /// `see` is not called. A stream that is dropped after its last message, but before it has told its end, is cut off. The
    /// thread is that which learns of the end.
    ///
    /// # Examples
    ///
    /// ```
    /// use shmipc_rpc::blocking::interceptor::{Call, InterceptorLayer, Next};
    ///
    /// let counted = InterceptorLayer::new(|call: Call, next: Next<'_>| {
    ///     let method = call.path().to_owned();
    ///     let next = next.on_end(move |end| println!("{method}: {}", end.code().name()));
    ///     next.run(call)
    /// });
    /// ```
    #[must_use]
    pub fn on_end(mut self, see: impl FnOnce(&mut End) + Send + 'static) -> Self {
        self.callbacks.push(SyncWrapper::new(Box::new(see)));
        self
    }

    /// Lets the call go on, waits for the head of the answer, and returns it. The answer to a conversation is
    /// [yet to come](super#what-is-different) on the calling side.
    ///
    /// # Errors
    ///
    /// Returns the status if the call has failed already. A call with a stream of responses may still fail later.
    pub fn run(self, mut call: Call) -> Result<Answer, Status> {
        let Self {
            rest,
            bottom,
            callbacks,
        } = self;
        let deadline = call.deadline();
        // They see it, too, if somebody behind panics.
        let mut watchers =
            (!callbacks.is_empty()).then(|| Box::new(Watchers::new(callbacks, deadline)));
        let limit = call.begin_time();
        let answered = {
            let _scope = deadline::Scope::narrow(limit);
            see(rest, call, bottom)
        };
        let is_late = limit.is_some_and(|limit| limit <= Instant::now());
        match answered {
            Ok(mut answer) if !is_late => {
                answer.waited_for_until(deadline);
                if let Some(watchers) = watchers {
                    answer.watch(watchers);
                }
                Ok(answer)
            }
            answered => {
                let status = answered.err().unwrap_or_else(deadline::exceeded);
                show_end(&mut watchers, Err(status)).map(Answer::empty)
            }
        }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}
