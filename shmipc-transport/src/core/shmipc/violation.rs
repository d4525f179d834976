//! What can be wrong with memory that shmipc's protocol shares.

use core::time::Duration;

/// How what a peer shares contradicts shmipc's protocol, or exceeds what is taken by it. Whoever wrote it, the session with that peer
/// ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidShmipc {
    /// The queue region cannot hold two queues.
    #[error("a queue region of {len} bytes")]
    QueueRegion {
        /// Its length in bytes.
        len: u64,
    },
    /// A queue claims more elements than its half of the region holds, or none.
    #[error("a queue of {cap} elements in {room} bytes")]
    QueueCapacity {
        /// The claimed number of elements.
        cap: u32,
        /// Bytes of its half of the region.
        room: u32,
    },
    /// The cursors of a queue are further apart than it is long.
    #[error("queue cursors {head} and {tail} in a queue of {cap} elements")]
    QueueCursors {
        /// The lower half of the consumer's counter.
        head: u32,
        /// The lower half of the producer's counter.
        tail: u32,
        /// The number of elements.
        cap: u32,
    },
    /// The counters of a queue, as it is handed over, are none that anybody has counted to, or further apart than it is long.
    #[error("a queue that begins with {head} elements consumed and {tail} produced")]
    QueueCounters {
        /// The consumer's counter.
        head: u64,
        /// The producer's counter.
        tail: u64,
    },
    /// The buffer region is too short for what its header claims, or longer than offsets can say.
    #[error(
        "a buffer region of {len} bytes, of which {used} are claimed to be used by {lists} lists"
    )]
    BufferRegion {
        /// Its length in bytes.
        len: u64,
        /// The claimed number of lists.
        lists: u32,
        /// Bytes that the lists are claimed to take.
        used: u32,
    },
    /// A list of slices does not fit, or is laid out in a way that words would not be aligned.
    #[error(
        "list {list} has {count} slices of {capacity} bytes, which do not fit or are not aligned"
    )]
    List {
        /// Which list, from 0.
        list: u32,
        /// The claimed number of slices.
        count: u32,
        /// The claimed capacity of each.
        capacity: u32,
    },
    /// A list's head or tail is not a slice of it.
    #[error("free list {list} begins or ends at {offset}, where no slice of it lies")]
    ListCursor {
        /// Which list, from 0.
        list: u32,
        /// The offset from its first slice.
        offset: u32,
    },
    /// A free list changes so fast that nothing can be put back.
    #[error("free list {list} does not hold still")]
    ListRestless {
        /// Which list, from 0.
        list: u32,
    },
    /// A chain leads to where no slice lies.
    #[error("no slice lies at {offset}")]
    SliceOffset {
        /// The offset in the buffer region.
        offset: u32,
    },
    /// A slice's header contradicts its list, or itself.
    #[error("slice at {offset} claims {size} bytes from {start} on, of {capacity}")]
    SliceHeader {
        /// The offset in the buffer region.
        offset: u32,
        /// The claimed capacity.
        capacity: u32,
        /// The claimed number of bytes.
        size: u32,
        /// Where they are claimed to begin.
        start: u32,
    },
    /// A slice is handed out, or arrives, while this side holds it.
    #[error("slice at {offset} is held by this side")]
    SliceHeld {
        /// The offset in the buffer region.
        offset: u32,
    },
    /// A message is longer than [`Shmipc::message_max`](crate::Shmipc::message_max) allows for.
    #[error("a message of more than the {max} bytes that `Shmipc::message_max` allows for")]
    MessageLength {
        /// The most bytes of a message.
        max: u32,
    },
    /// A message lies in more slices than [`Shmipc::message_max`](crate::Shmipc::message_max) allows for.
    #[error("a message in more than the {max} slices that `Shmipc::message_max` allows for")]
    MessageSlices {
        /// The most slices of a message.
        max: u32,
    },
    /// An element of a queue has a status that the protocol does not have.
    #[error("element of status {status:#x}")]
    Status {
        /// The element's status word.
        status: u32,
    },
    /// The peer has taken everything that was sent, and does not say that it sleeps. Nobody can know then whether it is done with that, and
    /// so nothing could go over the socket behind it.
    #[error("it has taken everything, and did not go to sleep within {waited:?}")]
    Restless {
        /// How long that was waited for.
        waited: Duration,
    },
}
