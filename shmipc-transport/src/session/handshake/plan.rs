//! Which link a client attempts next.
//!
//! ```text
//! our own link, and version 4 ──▶ version 3 ──▶ version 2
//! ```
//!
//! The first two are asked for in one breath. A server that knows of neither hangs up, refuses, says something else or nothing: then
//! the client connects again.

use std::{collections::VecDeque, time::Duration};

use crate::{
    Address, Config, LinkKind,
    error::{ConnectError, HandshakeStep, PeerMisbehaved, RefusalCode},
};

/// How long a server may take to answer a negotiation that it may not know: some do not hang up on what they do not understand (H41).
const PATIENCE: Duration = Duration::from_secs(1);

/// One connection, and what the client begins with over it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Attempt {
    /// Asks for our own link, and for version 4 of shmipc's protocol.
    Negotiate {
        /// How long the server has for its answer, if less than for all.
        patience: Option<Duration>,
    },
    /// Begins with version 2 or 3 of shmipc's protocol.
    Legacy(u8),
}

/// What a client will attempt, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    attempts: VecDeque<Attempt>,
}

impl Plan {
    /// Plans for a server at `address`.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError::NoLink`] if none of the configured links can be had there.
    pub(crate) fn new(config: &Config, address: &Address) -> Result<Self, ConnectError> {
        let mut attempts: VecDeque<_> = [(LinkKind::ShmipcV3, 3), (LinkKind::ShmipcV2, 2)]
            .into_iter()
            .filter(|(link, _)| config.has_link(*link))
            .map(|(_, version)| Attempt::Legacy(version))
            .collect();
        // An inherited connection can be used once.
        let may_redial = !matches!(address, Address::Fd(_));
        let has_outbox = config.has_link(LinkKind::Outbox) && address.passes_descriptors();
        if has_outbox || config.has_link(LinkKind::ShmipcV4) {
            let may_fall_back = may_redial && !attempts.is_empty();
            attempts.push_front(Attempt::Negotiate {
                patience: may_fall_back.then_some(PATIENCE),
            });
        }
        attempts.truncate(if may_redial { attempts.len() } else { 1 });
        if attempts.is_empty() {
            return Err(ConnectError::NoLink {
                address: address.clone(),
            });
        }
        Ok(Self { attempts })
    }

    /// What to attempt first, or after what has [failed](Self::failed).
    pub(crate) fn next(&self) -> Attempt {
        *self.attempts.front().expect("a plan has a next attempt")
    }

    /// Goes on after an attempt that has failed.
    ///
    /// # Errors
    ///
    /// Returns the error again if there is nothing else to attempt, or no point in it.
    pub(crate) fn failed(&mut self, error: ConnectError) -> Result<(), ConnectError> {
        if self.attempts.len() <= 1 || !knows_no_such_thing(&error) {
            return Err(error);
        }
        self.attempts.pop_front();
        Ok(())
    }
}

/// Whether the server does not seem to know what it was asked for: it hung up, said something else, or nothing, or that it does not.
fn knows_no_such_thing(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused(refusal) => matches!(
            refusal.code(),
            RefusalCode::FeatureNotSupported | RefusalCode::VersionNotSupported
        ),
        ConnectError::Closed { step } | ConnectError::TimedOut { step, .. } => {
            *step == HandshakeStep::Negotiation
        }
        ConnectError::PeerMisbehaved(misbehaved) => {
            matches!(misbehaved, PeerMisbehaved::Socket(_))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::error::Refusal;

    const CLOSED: ConnectError = ConnectError::Closed {
        step: HandshakeStep::Negotiation,
    };
    const PATIENT: Attempt = Attempt::Negotiate { patience: None };
    const IMPATIENT: Attempt = Attempt::Negotiate {
        patience: Some(PATIENCE),
    };

    fn plan(links: &[LinkKind], address: &Address) -> Result<Plan, ConnectError> {
        let config = Config::builder().links(links.iter().copied());
        Plan::new(&config.build().unwrap(), address)
    }

    /// All attempts, if the server knows of nothing.
    fn attempts(links: &[LinkKind], address: &Address) -> Vec<Attempt> {
        let mut plan = plan(links, address).unwrap();
        let mut attempts = vec![plan.next()];
        while plan.failed(CLOSED).is_ok() {
            attempts.push(plan.next());
        }
        attempts
    }

    #[test]
    fn the_newest_link_comes_first_and_a_server_that_might_not_know_it_has_less_time() {
        use LinkKind::{Outbox, ShmipcV2, ShmipcV3, ShmipcV4};
        let (two, three) = (Attempt::Legacy(2), Attempt::Legacy(3));
        let path = Address::from("/run/a.sock");
        assert_eq!(attempts(&LinkKind::ALL, &path), [IMPATIENT, three, two]);
        assert_eq!(attempts(&[ShmipcV2, Outbox], &path), [IMPATIENT, two]);
        assert_eq!(attempts(&[Outbox, ShmipcV4], &path), [PATIENT]);
        assert_eq!(attempts(&[ShmipcV2, ShmipcV3], &path), [three, two]);
    }

    #[test]
    fn an_inherited_connection_is_used_once() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let inherited = Address::from(OwnedFd::from(socket));
        assert_eq!(attempts(&LinkKind::ALL, &inherited), [PATIENT]);
        let older = [LinkKind::ShmipcV2, LinkKind::ShmipcV3];
        assert_eq!(attempts(&older, &inherited), [Attempt::Legacy(3)]);
    }

    #[test]
    fn our_own_link_is_not_attempted_where_no_descriptors_can_be_passed() {
        let tcp = Address::from("tcp://127.0.0.1:1");
        let refused = plan(&[LinkKind::Outbox], &tcp).unwrap_err();
        assert!(matches!(refused, ConnectError::NoLink { .. }));
        let both = [LinkKind::Outbox, LinkKind::ShmipcV3];
        assert_eq!(attempts(&both, &tcp), [Attempt::Legacy(3)]);
    }

    #[test]
    fn only_who_knows_no_better_is_asked_for_less() {
        let path = Address::from("/run/a.sock");
        let goes_on = |error| plan(&LinkKind::ALL, &path).unwrap().failed(error).is_ok();
        let refused = |code| ConnectError::Refused(Refusal::new(code, ""));
        assert!(goes_on(CLOSED));
        assert!(goes_on(refused(RefusalCode::FeatureNotSupported)));
        assert!(goes_on(ConnectError::TimedOut {
            step: HandshakeStep::Negotiation,
            timeout: PATIENCE
        }));
        assert!(!goes_on(refused(RefusalCode::Busy)));
        assert!(!goes_on(refused(RefusalCode::Unauthorized)));
        assert!(!goes_on(ConnectError::Closed {
            step: HandshakeStep::Mapped
        }));
    }
}
