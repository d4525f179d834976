//! Threads for handlers that may take long.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::server::panic::guarded;

/// Something to be done.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// How long a thread waits for a job before it ends.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A bounded number of threads, made when they are needed. Further jobs wait in their order.
pub(super) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    threads_max: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    is_closed: bool,
}

impl Pool {
    pub(super) fn new(threads_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            threads_max: threads_max.max(1),
        })
    }

    /// Has a job done. Gives it back if there is no thread and the system grants none.
    pub(super) fn submit(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut state = self.state();
        state.jobs.push_back(job);
        // Idle threads that have been called and have not come yet are as good as taken.
        if state.jobs.len() <= state.idle {
            drop(state);
            self.changed.notify_one();
            return Ok(());
        }
        if self.threads_max <= state.threads {
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let pool = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("shmipc-handler".to_owned())
            .spawn(move || pool.work());
        let Err(error) = spawned else {
            return Ok(());
        };
        tracing::warn!(target: "shmipc_rpc::server", %error, "cannot make a thread for a handler");
        let mut state = self.state();
        state.threads -= 1;
        // The others will come to it, if there are any.
        if state.threads == 0
            && let Some(job) = state.jobs.pop_back()
        {
            return Err(job);
        }
        Ok(())
    }

    /// Lets threads end once they have nothing to do.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A handler's panic has become a status; what else panics must not take the thread with it.
                drop(guarded(job));
                state = self.state();
                continue;
            }
            if state.is_closed {
                break;
            }
            state.idle += 1;
            let waited = self.changed.wait_timeout(state, IDLE_MAX);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of users runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads_max", &self.threads_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_are_done_side_by_side_up_to_the_bound_and_then_in_order() {
        let pool = Pool::new(2);
        let (done, results) = mpsc::channel();
        let gates: Vec<_> = (0..4)
            .map(|job| {
                let (open, gate) = mpsc::channel::<()>();
                let done = done.clone();
                let submitted = pool.submit(Box::new(move || {
                    done.send(("began", job)).unwrap();
                    gate.recv().unwrap();
                    done.send(("ended", job)).unwrap();
                }));
                assert!(submitted.is_ok());
                open
            })
            .collect();
        let mut began = [results.recv().unwrap(), results.recv().unwrap()];
        began.sort_unstable();
        assert_eq!(began, [("began", 0), ("began", 1)]);
        assert!(results.try_recv().is_err(), "there are two threads");
        for (job, gate) in gates.iter().enumerate().take(2) {
            gate.send(()).unwrap();
            assert_eq!(results.recv().unwrap(), ("ended", job));
            assert_eq!(results.recv().unwrap(), ("began", job + 2));
        }
        gates[2..].iter().for_each(|gate| gate.send(()).unwrap());
        pool.close();
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let pool = Pool::new(1);
        let (done, results) = mpsc::channel();
        for job in 0..10 {
            let done = done.clone();
            let submitted = pool.submit(Box::new(move || {
                if job != 9 {
                    panic!("on purpose");
                }
                done.send(job).unwrap();
            }));
            assert!(submitted.is_ok());
        }
        assert_eq!(results.recv().unwrap(), 9);
        pool.close();
    }
}
