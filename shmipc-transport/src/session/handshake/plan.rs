//! Which link a client attempts next.
//!
//! ```text
//! our own link, and version 4 ──▶ version 3 ──▶ version 2
//!                            ◀──
//! ```
//!
//! The first two are asked for in one breath. A server that knows of neither hangs up, refuses, or says nothing: then the client connects
//! again, and asks which version the server speaks. Everybody who speaks version 2 or 3 answers that at once, so whoever does not is
//! waited for as long as there is time. Who answers that it knows of the negotiation was late, or in the middle of a restart, and is
//! asked for the best link once more. Version 2 has no answer of its own: it is for servers that have spoken before, unless it is
//! all that is configured.

use std::time::Duration;

use crate::{
    Address, Config, LinkKind,
    core::shmipc::handshake::{GoesOn, NEGOTIATED},
    error::{ConnectError, HandshakeStep, RefusalCode},
};

/// How long a server may take to answer a negotiation that it may not know: shmipc-go keeps the connection of a client that it does not
/// understand, and says nothing (H41).
const PATIENCE: Duration = Duration::from_secs(1);

/// One connection, and what the client begins with over it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Attempt {
    /// Asks for our own link, and for version 4 of shmipc's protocol.
    Negotiate {
        /// How long the server has for its answer, if less than for all.
        patience: Option<Duration>,
    },
    /// Asks which version of shmipc's protocol the server speaks, and perhaps goes on with version 3.
    Ask(GoesOn),
    /// Begins with version 2 of shmipc's protocol.
    Version2,
}

/// What a client will attempt, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    next: Attempt,
    /// Whether versions 3 and 2 may be had.
    has: [bool; 2],
    /// An inherited connection can be used once.
    may_redial: bool,
    /// Whether the server has said that it knows of the negotiation.
    has_asked_again: bool,
}

impl Plan {
    /// Plans for a server at `address`.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError::NoLink`] if none of the configured links can be had there.
    pub(crate) fn new(config: &Config, address: &Address) -> Result<Self, ConnectError> {
        let has_link = |link| config.has_link(link, address.passes_descriptors());
        let has = [LinkKind::ShmipcV3, LinkKind::ShmipcV2].map(has_link);
        let may_redial = !matches!(address, Address::Fd(_));
        let negotiates = has_link(LinkKind::Outbox) || has_link(LinkKind::ShmipcV4);
        let next = match has {
            _ if negotiates => Attempt::Negotiate {
                patience: (may_redial && has.contains(&true)).then_some(PATIENCE),
            },
            [true, _] => Attempt::Ask(GoesOn::IfKnown),
            [false, true] => Attempt::Version2,
            [false, false] => {
                return Err(ConnectError::NoLink {
                    address: address.clone(),
                });
            }
        };
        Ok(Self {
            next,
            has,
            may_redial,
            has_asked_again: false,
        })
    }

    /// What to attempt first, or after what has [failed](Self::failed).
    pub(crate) fn next(&self) -> Attempt {
        self.next
    }

    /// Goes on after an attempt that has failed.
    ///
    /// # Errors
    ///
    /// Returns the error again if there is nothing else to attempt, or no point in it.
    pub(crate) fn failed(&mut self, error: ConnectError) -> Result<(), ConnectError> {
        let next = match self.next {
            Attempt::Negotiate { .. } => self.after_negotiation(&error),
            Attempt::Ask(goes_on) => self.after_question(goes_on, &error),
            Attempt::Version2 => None,
        };
        match next {
            Some(next) if self.may_redial => {
                self.has_asked_again |= matches!(next, Attempt::Negotiate { .. });
                self.next = next;
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn after_negotiation(&self, error: &ConnectError) -> Option<Attempt> {
        let [has_3, has_2] = self.has;
        let goes_on = match error {
            ConnectError::Refused(refusal) => match refusal.code() {
                RefusalCode::FeatureNotSupported | RefusalCode::VersionNotSupported => {
                    GoesOn::IfKnown
                }
                _ => return None,
            },
            ConnectError::NotSupported { .. } => GoesOn::IfKnown,
            ConnectError::Closed { step } | ConnectError::TimedOut { step, .. }
                if *step == HandshakeStep::Negotiation && !self.has_asked_again =>
            {
                GoesOn::IfNewest
            }
            _ => return None,
        };
        match (has_3, goes_on) {
            (true, goes_on) => Some(Attempt::Ask(goes_on)),
            // It has said that there is nothing else.
            (false, GoesOn::IfKnown) => has_2.then_some(Attempt::Version2),
            (false, _) => has_2.then_some(Attempt::Ask(GoesOn::Never)),
        }
    }

    fn after_question(&self, goes_on: GoesOn, error: &ConnectError) -> Option<Attempt> {
        let [_, has_2] = self.has;
        match error {
            // It has not said yet that there is nothing that it would agree to.
            ConnectError::NotSupported { protocol }
                if NEGOTIATED <= *protocol && goes_on != GoesOn::IfKnown =>
            {
                Some(Attempt::Negotiate { patience: None })
            }
            ConnectError::NotSupported { protocol } => {
                (has_2 && 2 <= *protocol).then_some(Attempt::Version2)
            }
            // It has answered, and does not go on with version 3.
            ConnectError::Closed { step }
                if goes_on == GoesOn::IfKnown && *step == HandshakeStep::Mapped =>
            {
                has_2.then_some(Attempt::Version2)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use GoesOn::{IfKnown, IfNewest, Never};
    use LinkKind::{Outbox, ShmipcV2, ShmipcV3, ShmipcV4};

    use super::*;
    use crate::error::{PeerMisbehaved, Refusal};

    const PATIENT: Attempt = Attempt::Negotiate { patience: None };
    const IMPATIENT: Attempt = Attempt::Negotiate {
        patience: Some(PATIENCE),
    };

    fn closed() -> ConnectError {
        ConnectError::Closed {
            step: HandshakeStep::Negotiation,
        }
    }

    fn silent() -> ConnectError {
        ConnectError::TimedOut {
            step: HandshakeStep::Negotiation,
            timeout: PATIENCE,
        }
    }

    fn refused(code: RefusalCode) -> ConnectError {
        ConnectError::Refused(Refusal::new(code, ""))
    }

    fn declined() -> ConnectError {
        refused(RefusalCode::FeatureNotSupported)
    }

    const fn answered(protocol: u8) -> ConnectError {
        ConnectError::NotSupported { protocol }
    }

    fn plan(links: &[LinkKind], address: &Address) -> Result<Plan, ConnectError> {
        let config = Config::builder().links(links.iter().copied());
        Plan::new(&config.build().unwrap(), address)
    }

    /// All attempts, as they fail one after the other; nothing is attempted after the last.
    fn attempts(
        links: &[LinkKind],
        address: &Address,
        errors: impl IntoIterator<Item = ConnectError>,
    ) -> Vec<Attempt> {
        let mut plan = plan(links, address).unwrap();
        let mut attempts = vec![plan.next()];
        for error in errors {
            match plan.failed(error) {
                Ok(()) => attempts.push(plan.next()),
                Err(_) => return attempts,
            }
        }
        panic!("there is no end to {attempts:?}")
    }

    fn path() -> Address {
        Address::from("/run/a.sock")
    }

    #[test]
    fn who_hangs_up_or_says_nothing_is_asked_for_its_version_and_waited_for() {
        for error in [closed, silent] {
            let attempts = |links: &[LinkKind]| attempts(links, &path(), [error(), error()]);
            let asked = [IMPATIENT, Attempt::Ask(IfNewest)];
            assert_eq!(attempts(&LinkKind::ALL), asked);
            assert_eq!(attempts(&[Outbox, ShmipcV3]), asked);
            assert_eq!(
                attempts(&[ShmipcV2, Outbox]),
                [IMPATIENT, Attempt::Ask(Never)]
            );
            assert_eq!(attempts(&[Outbox, ShmipcV4]), [PATIENT]);
            assert_eq!(attempts(&[ShmipcV2, ShmipcV3]), [Attempt::Ask(IfKnown)]);
            assert_eq!(attempts(&[ShmipcV2]), [Attempt::Version2]);
        }
    }

    #[test]
    fn who_is_late_and_knows_the_negotiation_is_asked_for_the_best_again() {
        let late = |then: [ConnectError; 3]| {
            let errors = [silent(), answered(4)].into_iter().chain(then);
            attempts(&LinkKind::ALL, &path(), errors)
        };
        let again = [IMPATIENT, Attempt::Ask(IfNewest), PATIENT];
        assert_eq!(late([silent(), closed(), closed()]), again);
        assert_eq!(late([closed(), closed(), closed()]), again);
        let rest = [Attempt::Ask(IfKnown), Attempt::Version2];
        assert_eq!(
            late([declined(), answered(2), closed()]),
            [&again[..], &rest].concat()
        );
        let late = [silent(), answered(4), declined(), closed()];
        assert_eq!(
            attempts(&[Outbox, ShmipcV2], &path(), late),
            [IMPATIENT, Attempt::Ask(Never), PATIENT, Attempt::Version2]
        );
    }

    #[test]
    fn version_2_is_for_those_who_have_answered() {
        let asked = [IMPATIENT, Attempt::Ask(IfNewest), Attempt::Version2];
        let errors = [closed(), answered(2), closed()];
        assert_eq!(attempts(&LinkKind::ALL, &path(), errors), asked);
        let asked = [IMPATIENT, Attempt::Ask(Never), Attempt::Version2];
        let errors = [silent(), answered(3), closed()];
        assert_eq!(attempts(&[ShmipcV4, ShmipcV2], &path(), errors), asked);
        let asked = [Attempt::Ask(IfKnown), Attempt::Version2];
        let left = ConnectError::Closed {
            step: HandshakeStep::Mapped,
        };
        let links = [ShmipcV3, ShmipcV2];
        assert_eq!(attempts(&links, &path(), [left, closed()]), asked);
        let errors = [answered(1)];
        assert_eq!(attempts(&links, &path(), errors), asked[..1]);
    }

    #[test]
    fn who_declines_is_not_asked_for_the_best_again() {
        for no in [declined(), answered(4)] {
            let asked = [IMPATIENT, Attempt::Ask(IfKnown)];
            assert_eq!(
                attempts(&[Outbox, ShmipcV3], &path(), [no, answered(2)]),
                asked
            );
        }
        let asked = [IMPATIENT, Attempt::Version2];
        let errors = [declined(), closed()];
        assert_eq!(attempts(&[Outbox, ShmipcV2], &path(), errors), asked);
    }

    #[test]
    fn an_inherited_connection_is_used_once() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let inherited = Address::from(OwnedFd::from(socket));
        assert_eq!(attempts(&LinkKind::ALL, &inherited, [closed()]), [PATIENT]);
        let older = [ShmipcV2, ShmipcV3];
        assert_eq!(
            attempts(&older, &inherited, [answered(2)]),
            [Attempt::Ask(IfKnown)]
        );
    }

    #[test]
    fn our_own_link_is_not_attempted_where_no_descriptors_can_be_passed() {
        let tcp = Address::from("tcp://127.0.0.1:1");
        let refused = plan(&[Outbox], &tcp).unwrap_err();
        assert!(matches!(refused, ConnectError::NoLink { .. }));
        let both = [Outbox, ShmipcV3];
        assert_eq!(attempts(&both, &tcp, [closed()]), [Attempt::Ask(IfKnown)]);
    }

    #[test]
    fn only_who_knows_no_better_is_asked_for_less() {
        let goes_on = |error| plan(&LinkKind::ALL, &path()).unwrap().failed(error).is_ok();
        assert!(goes_on(closed()));
        assert!(goes_on(silent()));
        assert!(goes_on(declined()));
        assert!(!goes_on(refused(RefusalCode::Busy)));
        assert!(!goes_on(refused(RefusalCode::Unauthorized)));
        assert!(!goes_on(ConnectError::PeerMisbehaved(
            PeerMisbehaved::Doorbell
        )));
        for step in [HandshakeStep::Outbox, HandshakeStep::Mapped] {
            assert!(!goes_on(ConnectError::Closed { step }));
            let timeout = PATIENCE;
            assert!(!goes_on(ConnectError::TimedOut { step, timeout }));
        }
    }
}
