//! Threads for handlers that may take long.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::server::panic::guarded;

/// Something to be done.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Whose jobs they are: the number of a session.
pub(super) type Lane = u64;

/// How long a thread waits for a job before it ends.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A bounded number of threads, made when they are needed, of which no lane has more than its share. Further jobs wait in their order.
pub(super) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    /// How many [others](Other) there are.
    others: AtomicUsize,
    threads_max: usize,
    lane_max: usize,
}

/// A thread that does a job without having come from the pool, and counts as one of its lane until this is dropped.
#[derive(Debug)]
pub(super) struct Other {
    pool: Arc<Pool>,
    lane: Lane,
}

#[derive(Default)]
struct State {
    /// Jobs for which there may be a thread.
    jobs: VecDeque<(Lane, Job)>,
    /// Lanes that have jobs.
    lanes: HashMap<Lane, Jobs>,
    /// With [others](Other), by which they may be more than there should.
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    is_closed: bool,
}

/// The jobs of a lane.
#[derive(Default)]
struct Jobs {
    /// How many are being done, or are only waiting for a thread.
    admitted: usize,
    /// The others wait for those.
    waiting: VecDeque<Job>,
}

impl State {
    /// Admits a job, or has it wait for others of its lane.
    fn enqueue(&mut self, lane: Lane, job: Job, lane_max: usize) {
        let jobs = self.lanes.entry(lane).or_default();
        if jobs.admitted < lane_max {
            jobs.admitted += 1;
            self.jobs.push_back((lane, job));
        } else {
            jobs.waiting.push_back(job);
        }
    }

    /// A job of the lane has been done: admits its next one, unless there are too many.
    fn done(&mut self, lane: Lane, lane_max: usize) {
        let Some(jobs) = self.lanes.get_mut(&lane) else {
            return;
        };
        if jobs.admitted <= lane_max
            && let Some(next) = jobs.waiting.pop_front()
        {
            return self.jobs.push_back((lane, next));
        }
        jobs.admitted -= 1;
        if jobs.admitted == 0 {
            self.lanes.remove(&lane);
        }
    }
}

impl Pool {
    /// `lane_max` is the most threads that one lane has. There is at least one of either.
    pub(super) fn new(threads_max: usize, lane_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            others: AtomicUsize::new(0),
            threads_max: threads_max.max(1),
            lane_max: lane_max.max(1),
        })
    }

    /// Has a job done. Gives it back if there is no thread and the system grants none.
    pub(super) fn submit(self: &Arc<Self>, lane: Lane, job: Job) -> Result<(), Job> {
        let mut state = self.state();
        state.enqueue(lane, job, self.lane_max);
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
        if self.hire().is_ok() {
            return Ok(());
        }
        let mut state = self.state();
        // The others will come to it, if there are any.
        if state.threads == 0
            && let Some((lane, job)) = state.jobs.pop_back()
        {
            state.done(lane, self.lane_max);
            return Err(job);
        }
        Ok(())
    }

    /// Whether a job of the lane may be begun by a thread that is not of the pool: it may have to be counted as one.
    pub(super) fn admits(&self, lane: Lane) -> bool {
        // Nearly always. Relaxed: who sees a change late has one job more.
        if self.others.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let state = self.state();
        let admitted = state.lanes.get(&lane).map_or(0, |jobs| jobs.admitted);
        state.threads - state.idle < self.threads_max && admitted < self.lane_max
    }

    /// Counts a thread that does a job of the lane.
    pub(super) fn count(self: &Arc<Self>, lane: Lane) -> Other {
        self.others.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        state.threads += 1;
        state.lanes.entry(lane).or_default().admitted += 1;
        Other {
            pool: Arc::clone(self),
            lane,
        }
    }

    /// Makes a thread, which is counted already.
    fn hire(self: &Arc<Self>) -> io::Result<()> {
        let pool = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("shmipc-handler".to_owned())
            .spawn(move || pool.work());
        if let Err(error) = &spawned {
            tracing::warn!(target: "shmipc_rpc::server", %error, "cannot make a thread for a handler");
            self.state().threads -= 1;
        }
        spawned.map(drop)
    }

    /// Lets threads end once they have nothing to do.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some((lane, job)) = state.jobs.pop_front() {
                drop(state);
                // A handler's panic has become a status; what else panics must not take the thread with it.
                drop(guarded(job));
                state = self.state();
                state.done(lane, self.lane_max);
                if self.threads_max < state.threads {
                    break;
                }
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

impl Drop for Other {
    fn drop(&mut self) {
        let pool = &self.pool;
        pool.others.fetch_sub(1, Ordering::Relaxed);
        let mut state = pool.state();
        state.threads -= 1;
        state.done(self.lane, pool.lane_max);
        // There may have been no thread for them but this one.
        if state.idle < state.jobs.len() && state.threads < pool.threads_max {
            state.threads += 1;
            drop(state);
            // If there is none to be had, the next job tries again.
            let _ = pool.hire();
        } else {
            drop(state);
            pool.changed.notify_one();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads_max", &self.threads_max)
            .field("lane_max", &self.lane_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_are_done_side_by_side_up_to_the_bound_and_then_in_order() {
        let pool = Pool::new(2, 2);
        let (done, results) = mpsc::channel();
        let gates: Vec<_> = (0..4)
            .map(|job| {
                let (open, gate) = mpsc::channel::<()>();
                let done = done.clone();
                let submitted = pool.submit(
                    7,
                    Box::new(move || {
                        done.send(("began", job)).unwrap();
                        gate.recv().unwrap();
                        done.send(("ended", job)).unwrap();
                    }),
                );
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
    fn no_lane_has_more_than_its_share() {
        let pool = Pool::new(4, 3);
        let (done, results) = mpsc::channel();
        let submit = |lane, job| {
            let (open, gate) = mpsc::channel::<()>();
            let done = done.clone();
            let submitted = pool.submit(
                lane,
                Box::new(move || {
                    done.send((lane, job)).unwrap();
                    // An error: the test is over.
                    let _ = gate.recv();
                }),
            );
            assert!(submitted.is_ok());
            open
        };
        let mut greedy: VecDeque<_> = (0..10).map(|job| submit(1, job)).collect();
        let mut began: Vec<_> = results.iter().take(3).collect();
        began.sort_unstable();
        assert_eq!(began, [(1, 0), (1, 1), (1, 2)]);
        // There is a thread left for whoever else comes, one after the other.
        for job in 0..5 {
            let modest = submit(2, job);
            assert_eq!(results.recv().unwrap(), (2, job));
            modest.send(()).unwrap();
        }
        // Those that had to wait come in their order.
        for job in 3..10 {
            greedy.pop_front().unwrap().send(()).unwrap();
            assert_eq!(results.recv().unwrap(), (1, job));
        }
        greedy.into_iter().for_each(drop);
        pool.close();
    }

    #[test]
    fn threads_that_came_from_elsewhere_count() {
        let pool = Pool::new(1, 1);
        assert!(pool.admits(7) && pool.admits(8));
        let other = pool.count(7);
        assert!(!pool.admits(7) && !pool.admits(8));
        let (done, results) = mpsc::channel();
        let submitted = pool.submit(7, Box::new(move || done.send(()).unwrap()));
        assert!(submitted.is_ok());
        assert_eq!(pool.state().threads, 1, "it waits for the other");
        drop(other);
        results.recv().unwrap();
        assert!(pool.admits(8));
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let pool = Pool::new(1, 1);
        let (done, results) = mpsc::channel();
        for job in 0..10 {
            let done = done.clone();
            let submitted = pool.submit(
                7,
                Box::new(move || {
                    if job != 9 {
                        panic!("on purpose");
                    }
                    done.send(job).unwrap();
                }),
            );
            assert!(submitted.is_ok());
        }
        assert_eq!(results.recv().unwrap(), 9);
        pool.close();
    }
}
