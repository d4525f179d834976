//! The task that connects the sessions of a pool, and replaces them.
//!
//! It sleeps until an attempt ends, something happens to a session, or it is time for the next attempt. Of each session it has one task
//! more, which sleeps until there is something to tell.

use std::{collections::HashMap, io, sync::Arc, time::Instant};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::sleep_until,
};

use super::{Inner, line::Line, state::Event, watch::Watch};
use crate::{Session, core::sync::lock, error::ConnectError};

#[derive(Debug)]
pub(super) struct Keeper {
    inner: Arc<Inner>,
    attempts: JoinSet<Attempt>,
    /// The slots of the attempts.
    slots: HashMap<Id, usize>,
    watches: JoinSet<Watch>,
}

/// An attempt to connect that has ended.
#[derive(Debug)]
struct Attempt {
    slot: usize,
    number: u64,
    outcome: Result<Session, ConnectError>,
}

impl Keeper {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            attempts: JoinSet::new(),
            slots: HashMap::new(),
            watches: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let inner = Arc::clone(&self.inner);
        let lines: Vec<_> = lock(&inner.state).lines().cloned().collect();
        lines.iter().for_each(|line| self.watch(line));
        drop(lines);
        loop {
            let mut work = lock(&inner.state).work(&inner.config, Instant::now(), usize::MAX);
            work.settle();
            for (slot, number) in work.connect.drain(..) {
                let task = attempt(Arc::clone(&inner), slot, number);
                self.slots.insert(self.attempts.spawn(task).id(), slot);
            }
            let again = work.again;
            tokio::select! {
                Some(ended) = self.attempts.join_next_with_id() => match ended {
                    Ok((task, attempt)) => {
                        self.slots.remove(&task);
                        self.attempted(attempt);
                    }
                    Err(failed) => self.failed(failed),
                },
                Some(seen) = self.watches.join_next() => {
                    // They end with something to see, or with the runtime.
                    if let Ok(watch) = seen {
                        self.saw(watch);
                    }
                }
                () = inner.kicked.notified() => {}
                () = sleep_until(again.unwrap_or_else(Instant::now).into()), if again.is_some() => {}
            }
        }
    }

    fn attempted(&mut self, attempt: Attempt) {
        let Attempt {
            slot,
            number,
            outcome,
        } = attempt;
        let inner = &self.inner;
        match outcome {
            Ok(session) => {
                let (line, mut work) = {
                    let mut state = lock(&inner.state);
                    if state.is_closed {
                        return; // Only just: this task is about to end.
                    }
                    state.connected(slot, number, session, &inner.config)
                };
                work.settle();
                self.watch(&line);
            }
            Err(error) => {
                tracing::debug!(address = %inner.address, %error, "a session of a pool could not be connected");
                lock(&inner.state).failed(slot, Arc::new(error));
            }
        }
        self.inner.changed.notify_waiters();
    }

    /// An attempt has panicked, in code of the user's. It counts as one that failed.
    fn failed(&mut self, failed: JoinError) {
        let Some(slot) = self.slots.remove(&failed.id()) else {
            return;
        };
        let error = ConnectError::Io {
            action: "connect a session",
            source: io::Error::other(failed),
        };
        lock(&self.inner.state).failed(slot, Arc::new(error));
        self.inner.changed.notify_waiters();
    }

    fn watch(&mut self, line: &Line) {
        self.watches.spawn(Watch::of(line).changes());
    }

    fn saw(&mut self, mut watch: Watch) {
        while let Some(event) = watch.news() {
            let inner = &self.inner;
            let mut work = lock(&inner.state).happened(watch.number, event, &inner.config);
            work.settle();
            if let Event::Lost = event {
                inner.changed.notify_waiters();
                return;
            }
        }
        self.watches.spawn(watch.changes());
    }
}

async fn attempt(inner: Arc<Inner>, slot: usize, number: u64) -> Attempt {
    let address = inner.address.clone();
    let outcome = Session::connect_with(address, inner.config.session.clone()).await;
    Attempt {
        slot,
        number,
        outcome,
    }
}
