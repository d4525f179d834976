//! A client's part in a restart: all of its sessions move, and then the old server may know.
//!
//! A client has *slots*, and in each of them a session. Sessions are numbered in the order in which somebody began to connect
//! them. The first word of a restart moves all slots, whether or not the word has reached each of them by then: they are all
//! with the same address, and one that is with the new server already moves once more, at no harm.
//!
//! Another restart that is heard of in the middle of one is put off until that is over: others ignore it, and it would
//! then come to nothing (H62).

use core::time::Duration;
use std::collections::BTreeMap;

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Act {
    /// All slots that have sessions up to this number need others.
    Move { up_to: u64 },
    /// All have moved: tell the old server so, in this session.
    Acknowledge { session: u64 },
    /// A restart was given up: these sessions will not be acknowledged.
    GiveUp { sessions: Vec<u64> },
}

/// The restarts of one client.
#[derive(Debug)]
pub(crate) struct Relocation {
    timeout: Duration,
    /// The number of the session in each slot; 0 if there is none.
    slots: Vec<u64>,
    under_way: Option<Restart>,
    /// The last one that has come to an end.
    last: Option<Past>,
    /// What was heard of others meanwhile: epochs by session.
    put_off: BTreeMap<u64, u64>,
    completed: u64,
    given_up: u64,
}

#[derive(Debug)]
struct Restart {
    epoch: u64,
    deadline: Duration,
    /// The number of the newest session when it began.
    up_to: u64,
    /// Who has told us, and hears when all have moved.
    told_by: Vec<u64>,
}

#[derive(Debug)]
struct Past {
    epoch: u64,
    up_to: u64,
    all_moved: bool,
}

impl Relocation {
    pub(crate) fn new(slots: usize, timeout: Duration) -> Self {
        Self {
            timeout,
            slots: vec![0; slots],
            under_way: None,
            last: None,
            put_off: BTreeMap::new(),
            completed: 0,
            given_up: 0,
        }
    }

    /// A session says that its server restarts. `newest` is the number of the newest session.
    pub(crate) fn told(
        &mut self,
        session: u64,
        epoch: u64,
        newest: u64,
        now: Duration,
    ) -> Option<Act> {
        if let Some(restart) = &mut self.under_way {
            if restart.epoch != epoch {
                self.put_off.insert(session, epoch);
            } else if !restart.told_by.contains(&session) {
                restart.told_by.push(session);
            }
            return None;
        }
        if let Some(last) = &self.last
            && last.epoch == epoch
            && session <= last.up_to
        {
            // It has moved before the word came. If the others have not, the server is told nothing.
            return last.all_moved.then_some(Act::Acknowledge { session });
        }
        self.under_way = Some(Restart {
            epoch,
            deadline: now.saturating_add(self.timeout),
            up_to: newest,
            told_by: vec![session],
        });
        Some(Act::Move { up_to: newest })
    }

    /// A slot has this session now.
    pub(crate) fn moved(&mut self, slot: usize, session: u64) {
        self.slots[slot] = session;
    }

    /// A session is over: nobody is there to hear of it.
    pub(crate) fn ended(&mut self, session: u64) {
        self.put_off.remove(&session);
        if let Some(restart) = &mut self.under_way {
            restart.told_by.retain(|told| *told != session);
        }
    }

    /// What to do next, to be asked after every change and at the [deadline](Self::deadline), until it is nothing.
    pub(crate) fn poll(&mut self, newest: u64, now: Duration) -> Vec<Act> {
        let mut acts = self.conclude(now);
        if self.under_way.is_none() {
            let put_off = std::mem::take(&mut self.put_off);
            for (session, epoch) in put_off {
                acts.extend(self.told(session, epoch, newest, now));
            }
        }
        acts
    }

    fn conclude(&mut self, now: Duration) -> Vec<Act> {
        let Some(restart) = &self.under_way else {
            return Vec::new();
        };
        let all_moved = self.slots.iter().all(|session| restart.up_to < *session);
        if !all_moved && now < restart.deadline {
            return Vec::new();
        }
        let Some(Restart {
            epoch,
            up_to,
            told_by,
            ..
        }) = self.under_way.take()
        else {
            return Vec::new();
        };
        self.last = Some(Past {
            epoch,
            up_to,
            all_moved,
        });
        if all_moved {
            self.completed += 1;
            let acknowledge = |session| Act::Acknowledge { session };
            told_by.into_iter().map(acknowledge).collect()
        } else {
            self.given_up += 1;
            vec![Act::GiveUp { sessions: told_by }]
        }
    }

    /// How many restarts have come to an end, and how many were given up.
    pub(crate) const fn counts(&self) -> (u64, u64) {
        (self.completed, self.given_up)
    }

    /// When a restart under way is given up.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.under_way.as_ref().map(|restart| restart.deadline)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);
    const T0: Duration = Duration::ZERO;

    /// Two slots, with sessions 1 and 2.
    fn two() -> Relocation {
        let mut relocation = Relocation::new(2, LIMIT);
        relocation.moved(0, 1);
        relocation.moved(1, 2);
        relocation
    }

    fn acknowledge(session: u64) -> Act {
        Act::Acknowledge { session }
    }

    #[test]
    fn the_server_hears_once_per_session_when_all_have_moved() {
        let mut client = two();
        assert_eq!(client.told(1, 7, 2, T0), Some(Act::Move { up_to: 2 }));
        assert_eq!(client.told(2, 7, 2, T0), None);
        assert_eq!(client.told(2, 7, 2, T0), None, "a duplicate");
        client.moved(0, 3);
        assert_eq!(client.poll(4, T0), [], "the other has not");
        client.moved(1, 4);
        assert_eq!(client.poll(4, T0), [acknowledge(1), acknowledge(2)]);
        assert_eq!(client.poll(4, LIMIT), [], "and never again");
        assert_eq!(client.deadline(), None);
    }

    #[test]
    fn whoever_is_told_late_has_moved_already() {
        let mut client = two();
        client.told(1, 7, 2, T0);
        client.moved(0, 3);
        client.moved(1, 4);
        assert_eq!(client.poll(4, T0), [acknowledge(1)]);
        assert_eq!(client.told(2, 7, 4, T0), Some(acknowledge(2)));
        assert_eq!(
            client.told(3, 7, 4, T0),
            Some(Act::Move { up_to: 4 }),
            "it is with the new server, which restarts with the number of the old one"
        );
    }

    #[test]
    fn hazard_h62_what_takes_too_long_is_not_acknowledged() {
        let mut client = two();
        client.told(1, 7, 2, T0);
        client.moved(0, 3);
        assert_eq!(client.deadline(), Some(LIMIT));
        assert_eq!(client.poll(3, LIMIT), [Act::GiveUp { sessions: vec![1] }]);
        assert_eq!(client.told(2, 7, 3, LIMIT), None, "nor those that are late");
        client.moved(1, 4);
        assert_eq!(client.poll(4, LIMIT), []);
        let next = client.told(4, 8, 4, LIMIT);
        assert_eq!(next, Some(Act::Move { up_to: 4 }), "the next is another");
    }

    #[test]
    fn hazard_h62_another_epoch_meanwhile_is_put_off() {
        let mut client = two();
        client.told(1, 7, 2, T0);
        client.moved(0, 3);
        assert_eq!(client.told(3, 8, 3, T0), None);
        client.moved(1, 4);
        let acts = client.poll(4, T0);
        assert_eq!(acts, [acknowledge(1), Act::Move { up_to: 4 }]);
        client.moved(0, 5);
        client.moved(1, 6);
        assert_eq!(client.poll(6, T0), [acknowledge(3)]);
    }

    #[test]
    fn nobody_hears_in_a_session_that_is_over() {
        let mut client = two();
        client.told(1, 7, 2, T0);
        client.told(2, 7, 2, T0);
        client.ended(1);
        client.moved(0, 3);
        client.moved(1, 4);
        assert_eq!(client.poll(4, T0), [acknowledge(2)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Told { slot: usize, epoch: u64 },
        Moved { slot: usize },
        Ended { slot: usize },
        Later,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let slot = 0usize..3;
        let step = prop_oneof![
            4 => (slot.clone(), 1u64..4).prop_map(|(slot, epoch)| Step::Told { slot, epoch }),
            4 => slot.clone().prop_map(|slot| Step::Moved { slot }),
            1 => slot.prop_map(|slot| Step::Ended { slot }),
            1 => Just(Step::Later),
        ];
        prop::collection::vec(step, 0..64)
    }

    proptest! {
        /// Whatever is heard in whatever order: who was not told hears nothing, nobody hears twice of one restart, and a restart
        /// ends within its time.
        #[test]
        fn only_those_who_told_hear_of_it(steps in steps()) {
            let mut client = Relocation::new(3, LIMIT);
            let (mut sessions, mut newest, mut now) = ([1, 2, 3], 3, T0);
            for (slot, session) in sessions.iter().enumerate() {
                client.moved(slot, *session);
            }
            let mut owed: BTreeMap<u64, usize> = BTreeMap::new();
            for step in steps {
                let mut acts = Vec::new();
                match step {
                    Step::Told { slot, epoch } => {
                        *owed.entry(sessions[slot]).or_default() += 1;
                        acts.extend(client.told(sessions[slot], epoch, newest, now));
                    }
                    Step::Moved { slot } => {
                        newest += 1;
                        sessions[slot] = newest;
                        client.moved(slot, newest);
                    }
                    Step::Ended { slot } => {
                        client.ended(sessions[slot]);
                        owed.remove(&sessions[slot]);
                    }
                    Step::Later => now += LIMIT,
                }
                acts.extend(client.poll(newest, now));
                for act in acts {
                    if let Act::Acknowledge { session } = act {
                        let left = owed.get_mut(&session).expect("it has told us");
                        prop_assert!(0 < *left, "{} hears too often", session);
                        *left -= 1;
                    }
                }
                prop_assert!(client.deadline().is_none_or(|deadline| now < deadline));
            }
        }
    }
}
