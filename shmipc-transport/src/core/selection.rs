//! Which of several sessions gets the next stream.

use core::time::Duration;

/// What is known of a session that takes streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) slot: usize,
    /// Streams that are in use.
    pub(crate) load: usize,
    /// Whether it had to fall back lately, and is left alone while there are others.
    pub(crate) is_resting: bool,
}

/// Whose turn it is: the first from slot `next` on. Those that rest come last.
pub(crate) fn in_turn(candidates: &[Candidate], next: usize) -> Option<usize> {
    choose(candidates, next, |_| 0)
}

/// Which has the least to do. Among several of those, it is their turn.
pub(crate) fn least_loaded(candidates: &[Candidate], next: usize) -> Option<usize> {
    choose(candidates, next, |candidate| candidate.load)
}

fn choose(
    candidates: &[Candidate],
    next: usize,
    cost: impl Fn(&Candidate) -> usize,
) -> Option<usize> {
    let order = |candidate: &&Candidate| {
        let is_behind = candidate.slot < next;
        (
            candidate.is_resting,
            cost(candidate),
            is_behind,
            candidate.slot,
        )
    };
    candidates
        .iter()
        .min_by_key(order)
        .map(|candidate| candidate.slot)
}

/// Leaves a session alone for a while after one of its messages had to go over the socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breaker {
    /// Messages that had gone over the socket when it was last looked.
    seen: u64,
    until: Option<Duration>,
}

impl Breaker {
    /// Whether the session rests: for `rest` since the first fallback was seen. Further ones make it no longer.
    pub(crate) fn is_open(&mut self, fallbacks: u64, now: Duration, rest: Duration) -> bool {
        let is_resting = self.until.is_some_and(|until| now < until);
        if !is_resting {
            let has_fallen_back = self.seen < fallbacks && self.until.is_none();
            self.until = has_fallen_back.then(|| now.saturating_add(rest));
        }
        self.seen = fallbacks;
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(of: &[(usize, usize, bool)]) -> Vec<Candidate> {
        let candidate = |&(slot, load, is_resting)| Candidate {
            slot,
            load,
            is_resting,
        };
        of.iter().map(candidate).collect()
    }

    #[test]
    fn turns_go_round_over_those_that_are_there() {
        let some = candidates(&[(0, 9, false), (2, 0, false)]);
        let turns: Vec<_> = (0..4).map(|next| in_turn(&some, next)).collect();
        assert_eq!(turns, [Some(0), Some(2), Some(2), Some(0)]);
        assert_eq!(in_turn(&[], 0), None);
    }

    #[test]
    fn the_least_loaded_is_chosen_and_among_equals_it_goes_round() {
        let some = candidates(&[(0, 1, false), (1, 0, false), (2, 0, false)]);
        assert_eq!(least_loaded(&some, 0), Some(1));
        assert_eq!(least_loaded(&some, 2), Some(2));
    }

    #[test]
    fn those_that_rest_come_last_but_do_come() {
        let some = candidates(&[(0, 0, true), (1, 5, false)]);
        assert_eq!(least_loaded(&some, 0), Some(1));
        assert_eq!(in_turn(&some, 0), Some(1));
        assert_eq!(in_turn(&some[..1], 1), Some(0));
    }

    #[test]
    fn a_session_rests_for_as_long_as_it_should_and_no_longer() {
        let (second, rest) = (Duration::from_secs(1), Duration::from_secs(30));
        let mut breaker = Breaker::default();
        assert!(!breaker.is_open(0, second, rest));
        assert!(breaker.is_open(1, second, rest));
        assert!(breaker.is_open(5, second * 30, rest), "it is not extended");
        assert!(!breaker.is_open(5, second * 31, rest));
        assert!(!breaker.is_open(5, second * 32, rest), "nothing is new");
        assert!(breaker.is_open(6, second * 32, rest));
    }
}
