//! An old server's restart: which sessions it waits for.

use core::time::Duration;
use std::collections::HashSet;

/// What has become of a session that was told to move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// Its client has moved.
    Moved,
    /// It has ended before its client said that it has.
    Ended,
}

/// How far a restart has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    pub(crate) moved: usize,
    pub(crate) ended: usize,
    /// Sessions whose peer knows no restarts.
    pub(crate) untold: usize,
    /// Sessions that were told and have not answered.
    pub(crate) waiting: usize,
}

/// One restart. Sessions have numbers, each of which is used once.
#[derive(Debug)]
pub(crate) struct RollCall {
    deadline: Duration,
    waiting: HashSet<u64>,
    tally: Tally,
}

impl RollCall {
    /// Nobody is told yet. After `timeout`, nobody is waited for.
    pub(crate) fn new(now: Duration, timeout: Duration) -> Self {
        Self {
            deadline: now.saturating_add(timeout),
            waiting: HashSet::new(),
            tally: Tally::default(),
        }
    }

    /// A session is told.
    pub(crate) fn tell(&mut self, session: u64) {
        self.waiting.insert(session);
    }

    /// The peer of a session cannot be told.
    pub(crate) fn skip(&mut self) {
        self.tally.untold += 1;
    }

    /// Something has become of a session that was told. Counts once.
    pub(crate) fn answer(&mut self, session: u64, fate: Fate) {
        if !self.waiting.remove(&session) {
            return;
        }
        match fate {
            Fate::Moved => self.tally.moved += 1,
            Fate::Ended => self.tally.ended += 1,
        }
    }

    /// When to give up.
    pub(crate) const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether there is nobody left to wait for, or no time.
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        self.waiting.is_empty() || self.deadline <= now
    }

    /// How far it has come.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            waiting: self.waiting.len(),
            ..self.tally
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[test]
    fn it_is_over_when_all_have_answered_or_time_is() {
        let mut call = RollCall::new(Duration::ZERO, LIMIT);
        assert!(call.is_over(Duration::ZERO), "there is nobody to wait for");
        call.tell(1);
        call.tell(2);
        call.skip();
        call.answer(1, Fate::Moved);
        assert!(!call.is_over(LIMIT - Duration::from_nanos(1)));
        assert!(call.is_over(LIMIT));
        let tally = Tally {
            moved: 1,
            ended: 0,
            untold: 1,
            waiting: 1,
        };
        assert_eq!(call.tally(), tally);
        call.answer(2, Fate::Ended);
        assert!(call.is_over(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn hazard_h28_whoever_answers_is_counted_once(
            told in prop::collection::vec(0u64..8, 0..8),
            answers in prop::collection::vec((0u64..16, prop::bool::ANY), 0..64),
        ) {
            let mut call = RollCall::new(Duration::ZERO, LIMIT);
            told.iter().for_each(|session| call.tell(*session));
            let sessions: HashSet<_> = told.into_iter().collect();
            for (session, moved) in answers {
                call.answer(session, if moved { Fate::Moved } else { Fate::Ended });
                let tally = call.tally();
                prop_assert_eq!(tally.moved + tally.ended + tally.waiting, sessions.len());
                prop_assert_eq!(call.is_over(Duration::ZERO), tally.waiting == 0);
            }
        }
    }
}
