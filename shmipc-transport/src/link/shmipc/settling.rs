//! Whether a peer that is not woken by the socket has handed out what it has taken.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use crate::core::shmipc::InvalidShmipc;

/// How long a peer that has taken everything may be at work on it. It has nothing to do but to hand it out.
const REST_MAX: Duration = Duration::from_secs(5);

/// How long a peer that is not woken has at least to hand out what it has taken, however often it looks. Only time tells here, and the
/// kernel may have something else run for a while in between. Each stream waits for this once, when it first falls back.
const HAND_OUT_MIN: Duration = Duration::from_millis(100);

/// What was seen twice counts for the time in between, if that is less.
const LOOKS_APART: Duration = Duration::from_secs(1);

/// What is known of a consumer that reads the socket in another task than its queue (C1).
///
/// It says what it has taken before it hands that out. So what was taken counts as handed out when it has gone to sleep since or, if
/// nobody wakes it, when one more interval has passed, and time enough for a task that is interrupted; or when it has taken more, since it takes one thing after the other.
#[derive(Debug)]
pub(super) struct Settling {
    /// Elements that are known to be handed out.
    settled: u64,
    /// Elements that are known to be taken, and since when it has been as many.
    taken: Option<(u64, Instant)>,
    /// Since when it has not been seen to sleep, although it had taken everything, and when that was seen last.
    restless: Option<(Instant, Instant)>,
    /// Streams that wait, and what had been published when they began to.
    waiting: HashMap<u32, u64, RandomState>,
}

/// What shows that a peer that has taken everything has handed it out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rest {
    /// So much time.
    After(Duration),
    /// That it sleeps, and whether it does.
    Asleep(bool),
}

impl Rest {
    /// What shows it of a peer that nobody wakes, and that looks for itself after each `interval`.
    pub(super) fn of_polled(interval: Duration) -> Self {
        Self::After(interval.max(HAND_OUT_MIN))
    }
}

impl Settling {
    /// Of `published` elements, none is ours.
    pub(super) fn new(published: u64) -> Self {
        Self {
            settled: published,
            taken: None,
            restless: None,
            waiting: HashMap::default(),
        }
    }

    /// Whether nothing of `stream` is left among `published` elements, of which `untaken` have not been taken at `now`.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidShmipc::Restless`] if there is nothing left to wait for that would show it.
    pub(super) fn is_over(
        &mut self,
        stream: u32,
        published: u64,
        untaken: u32,
        rest: Rest,
        now: Instant,
    ) -> Result<bool, InvalidShmipc> {
        let taken = published.saturating_sub(u64::from(untaken));
        let since = match self.taken {
            Some((before, since)) if before == taken => since,
            before => {
                let before = before.map_or(0, |(before, _)| before);
                self.settled = self.settled.max(before);
                self.taken = Some((taken, now));
                self.restless = None;
                now
            }
        };
        let needed = *self.waiting.entry(stream).or_insert(published);
        if untaken == 0 {
            let is_settled = match rest {
                Rest::Asleep(is_asleep) => is_asleep,
                Rest::After(interval) => interval <= now.saturating_duration_since(since),
            };
            if is_settled {
                self.settled = published;
                self.restless = None;
            } else if matches!(rest, Rest::Asleep(_)) && self.settled < needed {
                self.see_restless(now)?;
            }
        }
        if self.settled < needed {
            return Ok(false);
        }
        self.waiting.remove(&stream);
        Ok(true)
    }

    /// The peer does not sleep, although there is nothing to be taken.
    fn see_restless(&mut self, now: Instant) -> Result<(), InvalidShmipc> {
        let before = self.restless;
        let recent = before
            .filter(|(_, seen)| now.saturating_duration_since(*seen) < LOOKS_APART)
            .map(|(since, _)| since);
        let since = recent.unwrap_or(now);
        self.restless = Some((since, now));
        if now.saturating_duration_since(since) < REST_MAX {
            return Ok(());
        }
        Err(InvalidShmipc::Restless { waited: REST_MAX })
    }

    /// There is more of a stream, or it is over: what was known of it counts no more.
    pub(super) fn forget(&mut self, stream: u32) {
        if !self.waiting.is_empty() {
            self.waiting.remove(&stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A consumer, and the time. Two streams send to it.
    struct Scene {
        settling: Settling,
        start: Instant,
        published: u64,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                settling: Settling::new(7),
                start: Instant::now(),
                published: 7,
            }
        }

        fn publish(&mut self, stream: u32) {
            self.published += 1;
            self.settling.forget(stream);
        }

        fn is_over(
            &mut self,
            stream: u32,
            untaken: u32,
            rest: Rest,
            ms: u64,
        ) -> Result<bool, InvalidShmipc> {
            let now = self.start + Duration::from_millis(ms);
            self.settling
                .is_over(stream, self.published, untaken, rest, now)
        }
    }

    #[test]
    fn hazard_c1_what_was_taken_is_handed_out_an_interval_later() {
        const INTERVAL: Rest = Rest::After(Duration::from_millis(5));
        let mut scene = Scene::new();
        let is_over = |scene: &mut Scene, untaken, ms| {
            let is_over = scene.is_over(2, untaken, INTERVAL, ms);
            is_over.unwrap()
        };
        assert!(is_over(&mut scene, 0, 0), "nothing was published");
        scene.publish(2);
        assert!(!is_over(&mut scene, 1, 0));
        assert!(!is_over(&mut scene, 0, 100), "it has just been taken");
        assert!(!is_over(&mut scene, 0, 104));
        assert!(is_over(&mut scene, 0, 105));
        assert!(is_over(&mut scene, 0, 105), "for good");
        scene.publish(2);
        assert!(!is_over(&mut scene, 1, 200));
        assert!(!is_over(&mut scene, 0, 210));
        scene.publish(2);
        assert!(!is_over(&mut scene, 0, 216), "there is more since");
        assert!(is_over(&mut scene, 0, 221));
    }

    #[test]
    fn hazard_c1_who_looks_often_may_be_interrupted_all_the_same() {
        let often = Rest::of_polled(Duration::from_micros(1));
        let seldom = Rest::of_polled(Duration::from_millis(500));
        for (rest, enough) in [(often, 100), (seldom, 500)] {
            let mut scene = Scene::new();
            scene.publish(2);
            assert_eq!(scene.is_over(2, 0, rest, 0), Ok(false), "just taken");
            assert_eq!(scene.is_over(2, 0, rest, enough - 1), Ok(false));
            assert_eq!(scene.is_over(2, 0, rest, enough), Ok(true));
        }
    }

    #[test]
    fn hazard_c1_who_takes_more_has_handed_out_what_it_had() {
        for rest in [Rest::Asleep(false), Rest::After(Duration::MAX)] {
            let mut scene = Scene::new();
            scene.publish(2);
            assert_eq!(scene.is_over(2, 1, rest, 0), Ok(false));
            assert_eq!(scene.is_over(2, 0, rest, 1), Ok(false), "just taken");
            scene.publish(4);
            assert_eq!(scene.is_over(4, 1, rest, 2), Ok(false));
            assert_eq!(scene.is_over(2, 1, rest, 2), Ok(false));
            // However long it takes, as long as there is anything to be taken.
            assert_eq!(scene.is_over(2, 1, rest, 60_000), Ok(false));
            assert_eq!(scene.is_over(4, 0, rest, 60_001), Ok(false), "just taken");
            assert_eq!(scene.is_over(2, 0, rest, 60_001), Ok(true));
            scene.publish(2);
            assert_eq!(
                scene.is_over(2, 1, rest, 60_002),
                Ok(false),
                "there is more"
            );
        }
    }

    #[test]
    fn hazard_c1_who_sleeps_has_handed_out_everything_and_who_never_does_is_found_out() {
        let mut scene = Scene::new();
        scene.publish(2);
        assert_eq!(scene.is_over(2, 1, Rest::Asleep(true), 0), Ok(false));
        assert_eq!(scene.is_over(2, 0, Rest::Asleep(true), 1), Ok(true));
        scene.publish(2);
        assert_eq!(scene.is_over(2, 0, Rest::Asleep(false), 2), Ok(false));
        // Nobody has looked meanwhile, and so nobody knows.
        assert_eq!(scene.is_over(2, 0, Rest::Asleep(false), 10_000), Ok(false));
        let mut looks = (10_000..).step_by(500);
        let found_out = looks.find(|ms| scene.is_over(2, 0, Rest::Asleep(false), *ms).is_err());
        assert_eq!(found_out, Some(15_000));
        assert_eq!(scene.is_over(2, 0, Rest::Asleep(true), 15_001), Ok(true));
    }
}
