use super::Shared;
use crate::core::waiters::Ticket;

/// Somebody's place among those who wait for something of a session. Dropped, it waits no more.
#[derive(Debug)]
pub(crate) struct Place<'s> {
    session: &'s Shared,
    ticket: Option<Ticket>,
}

impl<'s> Place<'s> {
    /// A place that is not taken yet.
    pub(crate) fn new(session: &'s Shared) -> Self {
        Self {
            session,
            ticket: None,
        }
    }

    /// Whether it ever had to wait.
    pub(crate) fn is_taken(&self) -> bool {
        self.ticket.is_some()
    }

    /// By what it is known there.
    pub(crate) fn ticket(&mut self) -> Ticket {
        *self.ticket.get_or_insert_with(|| self.session.ticket())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.session.forget(ticket);
        }
    }
}
