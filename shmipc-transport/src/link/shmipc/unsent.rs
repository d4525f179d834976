//! What the socket has not taken yet.

/// Bytes that may wait for the socket before senders do, and answers to pings.
pub(super) const UNSENT_MAX: usize = 256 << 10;

/// Bytes on their way to the socket, in order.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    bytes: Vec<u8>,
    /// How many of them the socket has taken.
    sent: usize,
    /// How many there ever were.
    pushed: u64,
    /// Where the latest message ends that wakes the peer.
    wakes_until: usize,
}

impl Unsent {
    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether so much waits that more should not be added.
    pub(super) fn is_full(&self) -> bool {
        UNSENT_MAX <= self.len()
    }

    /// The bytes that wait.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// How many bytes were ever to be sent.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// How many of those do not wait any more.
    pub(super) fn taken(&self) -> u64 {
        self.pushed - self.len() as u64
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pushed += bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds a message that wakes the peer, unless one waits already, which does that as well: the peer reads it after whatever was
    /// published until now.
    pub(super) fn push_wake(&mut self, bytes: &[u8]) {
        if self.wakes_until <= self.sent {
            self.push(bytes);
            self.wakes_until = self.bytes.len();
        }
    }

    /// The socket has taken this many.
    pub(super) fn took(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            self.clear();
        } else if self.len() <= self.sent {
            // Nothing that was sent is kept for ever. Each byte is moved for one that was sent, at most.
            self.bytes.drain(..self.sent);
            self.wakes_until = self.wakes_until.saturating_sub(self.sent);
            self.sent = 0;
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(UNSENT_MAX);
        (self.sent, self.wakes_until) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_not_kept_although_something_always_waits() {
        let mut unsent = Unsent::default();
        let mut sent = Vec::new();
        unsent.push(&[0; 100]);
        for round in 0..10_000u32 {
            unsent.push(&round.to_ne_bytes());
            sent.extend_from_slice(&unsent.rest()[..4]);
            unsent.took(4);
            assert_eq!(unsent.len(), 100);
            assert!(unsent.bytes.len() <= 2 * 104);
        }
        sent.extend_from_slice(unsent.rest());
        let pushed = (0..10_000u32).flat_map(u32::to_ne_bytes);
        assert!(sent.into_iter().eq([0; 100].into_iter().chain(pushed)));
    }

    #[test]
    fn a_wake_that_waits_stands_for_later_ones_until_it_is_sent() {
        let mut unsent = Unsent::default();
        unsent.push(b"message ");
        unsent.push_wake(b"wake ");
        unsent.push_wake(b"wake ");
        unsent.push(b"more ");
        assert_eq!(unsent.rest(), b"message wake more ");
        // A part of it does not wake anybody yet.
        unsent.took(10);
        unsent.push_wake(b"wake ");
        assert_eq!(unsent.rest(), b"ke more ");
        unsent.took(3);
        unsent.push_wake(b"wake ");
        assert_eq!(unsent.rest(), b"more wake ");
        unsent.took(10);
        unsent.push_wake(b"wake ");
        assert_eq!(unsent.rest(), b"wake ");
    }
}
