//! What the two sides of one session have said of restarts.

/// Of one session. A server tells, and a client hears; which of the two a side is, is known where the words arrive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notice {
    /// The latest restart that the peer has told us of.
    heard: Option<u64>,
    /// The latest of those that we have acknowledged.
    acknowledged: Option<u64>,
    /// The latest restart that we have told the peer of, and whether it has acknowledged that one.
    told: Option<(u64, bool)>,
}

impl Notice {
    /// The peer tells of a restart. Returns whether that is news.
    pub(crate) fn hear(&mut self, epoch: u64) -> bool {
        self.heard.replace(epoch) != Some(epoch)
    }

    /// The restart that the peer has told us of.
    pub(crate) const fn heard(&self) -> Option<u64> {
        self.heard
    }

    /// Notes that we acknowledge what we have heard. Returns what to say; nothing if nothing was heard, or it was said before.
    pub(crate) fn acknowledge(&mut self) -> Option<u64> {
        let epoch = self.heard?;
        (self.acknowledged.replace(epoch) != Some(epoch)).then_some(epoch)
    }

    /// Notes that we tell the peer of a restart.
    pub(crate) fn tell(&mut self, epoch: u64) {
        self.told = Some((epoch, false));
    }

    /// The peer acknowledges. Returns whether that is news: what nobody has asked for, another epoch and a second time are not.
    pub(crate) fn answer(&mut self, epoch: u64) -> bool {
        match &mut self.told {
            Some((told, answered)) if *told == epoch => !std::mem::replace(answered, true),
            _ => false,
        }
    }

    /// Whether the peer has acknowledged this restart.
    pub(crate) fn is_answered(&self, epoch: u64) -> bool {
        self.told == Some((epoch, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_is_acknowledged_once() {
        let mut notice = Notice::default();
        assert_eq!(notice.acknowledge(), None, "nothing was heard");
        assert!(notice.hear(7));
        assert!(!notice.hear(7), "no news");
        assert_eq!(notice.acknowledge(), Some(7));
        assert_eq!(notice.acknowledge(), None);
        assert!(notice.hear(8), "the next restart");
        assert_eq!(notice.acknowledge(), Some(8));
    }

    #[test]
    fn hazard_h28_an_acknowledgement_counts_once_and_for_its_own_session_and_epoch() {
        let mut notice = Notice::default();
        assert!(!notice.answer(0), "nobody has asked");
        assert!(!notice.answer(7));
        notice.tell(7);
        assert!(!notice.is_answered(7));
        assert!(!notice.answer(6), "another epoch");
        assert!(!notice.is_answered(6));
        assert!(notice.answer(7));
        assert!(!notice.answer(7), "a duplicate");
        assert!(notice.is_answered(7));
        notice.tell(8);
        assert!(!notice.is_answered(8), "it has answered another one");
        assert!(!notice.answer(7), "late");
    }
}
