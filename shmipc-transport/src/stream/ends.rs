//! What the two sides learn of each other's ends.

use super::{RecvHalf, SendHalf};

impl SendHalf {
    /// Whether the peer learns of the end of this direction while the other goes on.
    ///
    /// `false` over shmipc's own protocol as others speak it, which has no such end. There [`finish`](Self::finish) is kept to oneself,
    /// and the peer learns of the end of both directions, once the stream is dropped: say the end in a message, then.
    #[must_use]
    pub fn tells_end(&self) -> bool {
        !self.handle.session().link.is_native()
    }
}

impl RecvHalf {
    /// Whether the peer's end of its direction is told apart from its giving the stream up; see [`SendHalf::tells_end`].
    ///
    /// Where it is not, [`recv`](Self::recv) returns `None` for either.
    #[must_use]
    pub fn hears_end(&self) -> bool {
        !self.handle.session().link.is_native()
    }
}
