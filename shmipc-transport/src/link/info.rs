//! Which link a session has, for those who ask.

use std::fmt;

use super::{Link, OutboxLink, ShmipcLink};
use crate::{
    LinkKind, ShmipcMapping, ShmipcWakes,
    core::{shmipc::terms::Wakes, wire::negotiation::DoorbellKind},
};

/// The link that both sides of a session have agreed on. See [`Session::link`](crate::Session::link).
///
/// Printed by `{}`, it is a few words, such as `shmipc version 4 in memory files, woken by eventfds`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct LinkInfo {
    /// Which one it is.
    pub kind: LinkKind,
    /// How the regions have reached the server. `None` for our own link, which passes memory files both ways.
    pub mapping: Option<ShmipcMapping>,
    /// What both sides are woken by. For our own link that is eventfds, or, with a process of another user, a socket beside that of the
    /// session.
    pub wakes: ShmipcWakes,
}

impl fmt::Display for LinkInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            LinkKind::Outbox => "outbox",
            LinkKind::ShmipcV4 => "shmipc version 4",
            LinkKind::ShmipcV3 => "shmipc version 3",
            LinkKind::ShmipcV2 => "shmipc version 2",
        })?;
        f.write_str(match self.mapping {
            None => "",
            Some(ShmipcMapping::Memfd) => " in memory files",
            Some(ShmipcMapping::File) => " in files",
        })?;
        match self.wakes {
            ShmipcWakes::EventFd => f.write_str(", woken by eventfds"),
            ShmipcWakes::Socket => f.write_str(", woken by a socket"),
            ShmipcWakes::Polling(interval) => write!(f, ", looked at every {interval:?}"),
        }
    }
}

impl Link {
    /// Which one it is.
    pub(crate) fn info(&self) -> LinkInfo {
        match self {
            Self::Outbox(link) => link.info(),
            Self::Shmipc(link) => link.info(),
        }
    }
}

impl OutboxLink {
    fn info(&self) -> LinkInfo {
        LinkInfo {
            kind: LinkKind::Outbox,
            mapping: None,
            wakes: match self.standing.doorbell {
                DoorbellKind::EventFd => ShmipcWakes::EventFd,
                DoorbellKind::Socket => ShmipcWakes::Socket,
            },
        }
    }
}

impl ShmipcLink {
    fn info(&self) -> LinkInfo {
        LinkInfo {
            kind: match self.version {
                2 => LinkKind::ShmipcV2,
                3 => LinkKind::ShmipcV3,
                _ => LinkKind::ShmipcV4,
            },
            mapping: Some(self.mapping),
            wakes: match self.wakes {
                Wakes::EventFd => ShmipcWakes::EventFd,
                Wakes::Socket => ShmipcWakes::Socket,
                Wakes::Polling(interval) => ShmipcWakes::Polling(interval),
            },
        }
    }
}
