//! Until when a call may take.
//!
//! On the wire a deadline is what is left of it, as in gRPC, for two processes need not agree on the time. While a
//! handler is polled, its deadline is the *inherited* one of this thread: calls made there get no more time than
//! the handler has.

use std::{
    cell::Cell,
    future::poll_fn,
    marker::PhantomData,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use crate::{Status, grpc_headers};

thread_local! {
    /// The deadline of the handler that is being polled on this thread.
    static INHERITED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// While it exists, calls made on this thread inherit a deadline.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub(crate) struct Scope {
    previous: Option<Instant>,
    /// It must be dropped on the thread that made it.
    not_send: PhantomData<*const ()>,
}

impl Scope {
    /// Replaces the inherited deadline. `None`: a handler without one, whose calls inherit nothing.
    pub(crate) fn enter(deadline: Option<Instant>) -> Self {
        Self {
            previous: INHERITED.replace(deadline),
            not_send: PhantomData,
        }
    }

    /// Replaces the inherited deadline by an earlier one. `None`, which costs next to nothing, if it is not earlier.
    pub(crate) fn narrow(deadline: Option<Instant>) -> Option<Self> {
        let is_earlier = |own: &Instant| inherited().is_none_or(|inherited| *own < inherited);
        let deadline = deadline.filter(is_earlier)?;
        Some(Self::enter(Some(deadline)))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        INHERITED.set(self.previous);
    }
}

/// Returns the deadline of the handler that is being polled on this thread.
pub(crate) fn inherited() -> Option<Instant> {
    INHERITED.get()
}

/// Returns the earlier of two deadlines, where `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (deadline, None) | (None, deadline) => deadline,
    }
}

/// Returns the point in time `timeout` from now. `None`, which is never, if it is too far to be named.
pub(crate) fn after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// Returns what is left until `deadline`, in nanoseconds.
pub(crate) fn left_ns(deadline: Instant) -> Result<u64, Elapsed> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Elapsed);
    }
    Ok(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
}

/// The earliest of all deadlines that there are for a call that is made now: its own, what its headers say, and that of the call that is
/// being handled.
pub(crate) fn of_call(own: Option<Instant>, headers: &http::HeaderMap) -> Option<Instant> {
    let timeout = headers
        .get(grpc_headers::TIMEOUT)
        .and_then(|value| parse_grpc_timeout(value.as_bytes()));
    earlier(earlier(own, timeout.and_then(after)), inherited())
}

/// Finds out that time is up where something is always ready, so that no timer is ever waited for.
#[derive(Debug, Default)]
pub(crate) struct Lookout(u8);

impl Lookout {
    /// Whether the deadline has passed. Looks at the clock once in so many times, for that takes a part of what a short message does.
    pub(crate) fn is_late(&mut self, deadline: Option<Instant>) -> bool {
        const EVERY: u8 = 32;

        let Some(deadline) = deadline else {
            return false;
        };
        self.0 = (self.0 + 1) % EVERY;
        self.0 == 0 && deadline <= Instant::now()
    }
}

/// The status of a call whose handler was not done in time.
pub(crate) fn late() -> Status {
    Status::deadline_exceeded("the deadline passed before the handler was done")
}

/// The status of a call that was not done in time, for its caller (R5).
pub(crate) fn exceeded() -> Status {
    Status::deadline_exceeded("the deadline passed before the call was done")
}

/// Awaits `future` until `deadline`.
///
/// A future that is ready in its first poll is never late, and costs no timer.
pub(crate) async fn within<F: Future>(
    deadline: Option<Instant>,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let Some(deadline) = deadline else {
        return Ok(future.await);
    };
    let mut sleep = pin!(None::<Sleep>);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if sleep.is_none() {
            sleep.set(Some(tokio::time::sleep_until(deadline.into())));
        }
        match sleep.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Reads the value of the header `grpc-timeout`: up to eight digits and a unit.
pub(crate) fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    const DIGITS_MAX: usize = 8;

    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || DIGITS_MAX < digits.len() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Writes the value of the header `grpc-timeout`, as exactly as eight digits can; what they cannot is rounded up.
#[cfg(any(feature = "grpc", feature = "tonic"))]
pub(crate) fn format_grpc_timeout(timeout: Duration) -> http::HeaderValue {
    const COUNT_MAX: u128 = 99_999_999;
    const UNITS: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];

    let ns = timeout.as_nanos();
    let (count, unit) = UNITS
        .iter()
        .map(|&(unit_ns, unit)| (ns.div_ceil(unit_ns), unit))
        .find(|&(count, _)| count <= COUNT_MAX)
        .unwrap_or((COUNT_MAX, 'H'));
    // Digits and a letter are a value.
    http::HeaderValue::try_from(format!("{count}{unit}"))
        .unwrap_or(http::HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn scopes_nest() {
        let now = Instant::now();
        assert_eq!(inherited(), None);
        {
            let _outer = Scope::enter(Some(now));
            {
                let _inner = Scope::enter(None);
                assert_eq!(inherited(), None);
            }
            assert_eq!(inherited(), Some(now));
        }
        assert_eq!(inherited(), None);
    }

    #[test]
    fn a_scope_is_narrowed_by_what_is_earlier() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert!(Scope::narrow(None).is_none());
        let _outer = Scope::narrow(Some(later)).expect("anything is earlier than never");
        assert_eq!(inherited(), Some(later));
        assert!(Scope::narrow(Some(later)).is_none());
        assert!(Scope::narrow(None).is_none());
        {
            let _inner = Scope::narrow(Some(now)).expect("it is earlier");
            assert_eq!(inherited(), Some(now));
        }
        assert_eq!(inherited(), Some(later));
    }

    #[test]
    fn never_is_later_than_any_deadline() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert_eq!(earlier(Some(now), Some(later)), Some(now));
        assert_eq!(earlier(Some(later), Some(now)), Some(now));
        assert_eq!(earlier(None, Some(now)), Some(now));
        assert_eq!(earlier(Some(now), None), Some(now));
        assert_eq!(earlier(None, None), None);
        assert_eq!(after(Duration::MAX), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_is_given_until_the_deadline() {
        let deadline = tokio::time::Instant::now().into_std() + Duration::from_secs(3600);
        assert_eq!(within(Some(deadline), ready(1)).await, Ok(1));
        assert_eq!(within(Some(deadline), pending::<()>()).await, Err(Elapsed));
        assert_eq!(within(None, ready(1)).await, Ok(1));
    }

    #[test]
    fn grpc_timeouts() {
        assert_eq!(parse_grpc_timeout(b"3H"), Some(Duration::from_secs(10_800)));
        assert_eq!(parse_grpc_timeout(b"2M"), Some(Duration::from_secs(120)));
        assert_eq!(
            parse_grpc_timeout(b"99999999S"),
            Some(Duration::from_secs(99_999_999))
        );
        assert_eq!(parse_grpc_timeout(b"082m"), Some(Duration::from_millis(82)));
        assert_eq!(parse_grpc_timeout(b"7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse_grpc_timeout(b"7n"), Some(Duration::from_nanos(7)));
        for bad in [&b""[..], b"S", b"1", b"1s", b"123456789S", b"-1S", b" 1S"] {
            assert_eq!(parse_grpc_timeout(bad), None);
        }
    }
    #[cfg(any(feature = "grpc", feature = "tonic"))]
    #[test]
    fn grpc_timeouts_are_written_as_exactly_as_can_be() {
        let written = |timeout| {
            let value = format_grpc_timeout(timeout);
            let read = parse_grpc_timeout(value.as_bytes()).expect("it was just written");
            assert!(timeout <= read || timeout == Duration::MAX, "{value:?}");
            value.to_str().expect("it is ASCII").to_owned()
        };
        assert_eq!(written(Duration::ZERO), "0n");
        assert_eq!(written(Duration::from_nanos(99_999_999)), "99999999n");
        assert_eq!(written(Duration::from_nanos(100_000_001)), "100001u");
        assert_eq!(written(Duration::from_secs(1)), "1000000u");
        assert_eq!(written(Duration::from_secs(100_000)), "100000S");
        assert_eq!(written(Duration::MAX), "99999999H");
    }
}
