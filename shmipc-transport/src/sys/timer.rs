//! A timer that is finer than tokio's, which counts in milliseconds.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::io::unix::AsyncFd;

use super::doorbell;

/// A timer of the kernel's. Each time that it has run out is an edge of its own, so that it need never be read.
#[derive(Debug)]
pub(crate) struct Timer(TimerFd);

impl Timer {
    /// Makes a timer that does not run.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
    }

    /// Has it run out once, after `time`, and not before that any more.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn set(&self, time: Duration) -> io::Result<()> {
        // No time at all would stop it.
        let time = TimeSpec::from_duration(time.max(Duration::from_nanos(1)));
        self.0
            .set(Expiration::OneShot(time), TimerSetTimeFlags::empty())?;
        Ok(())
    }

    /// Watches it.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub(crate) fn watch(self) -> io::Result<WatchedTimer> {
        let fd = doorbell::watch(self.0.as_fd().try_clone_to_owned()?)?;
        Ok(WatchedTimer {
            timer: self,
            fd,
            runs: false,
        })
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A timer that wakes the task that watches it.
#[derive(Debug)]
pub(crate) struct WatchedTimer {
    timer: Timer,
    fd: AsyncFd<OwnedFd>,
    runs: bool,
}

impl WatchedTimer {
    /// Ready once `time` has passed since this was first polled, or was ready.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub(crate) fn poll_elapsed(
        &mut self,
        cx: &mut Context<'_>,
        time: Duration,
    ) -> Poll<io::Result<()>> {
        if !self.runs {
            self.timer.set(time)?;
            self.runs = true;
        }
        let Ok(mut elapsed) = ready!(self.fd.poll_read_ready(cx)) else {
            // The runtime shuts down; nobody will be woken any more.
            return Poll::Pending;
        };
        elapsed.clear_ready();
        self.runs = false;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Instant};

    use super::*;

    #[tokio::test]
    async fn it_runs_out_again_and_again_and_not_too_early() {
        const TIME: Duration = Duration::from_micros(300);
        let mut timer = Timer::new().unwrap().watch().unwrap();
        for _ in 0..50 {
            let began = Instant::now();
            poll_fn(|cx| timer.poll_elapsed(cx, TIME)).await.unwrap();
            assert!(TIME <= began.elapsed());
        }
        poll_fn(|cx| timer.poll_elapsed(cx, Duration::ZERO))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_runtime_that_has_other_things_to_do_does_not_stop_it() {
        let mut timer = Timer::new().unwrap().watch().unwrap();
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            let elapsed = timer.poll_elapsed(cx, Duration::from_millis(1));
            if elapsed.is_pending() {
                cx.waker().wake_by_ref();
            }
            elapsed
        })
        .await
        .unwrap();
        assert!(1 < polls);
    }
}
