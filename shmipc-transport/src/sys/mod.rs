//! What we ask of the kernel: sealed memory, shared regions, doorbells, timers, anchors, sockets that carry file descriptors, and who the peer is.

pub(crate) mod anchor;
pub(crate) mod clock;
pub(crate) mod doorbell;
pub(crate) mod endpoint;
pub(crate) mod memfd;
pub(crate) mod passed;
pub(crate) mod peer;
pub(crate) mod regions;
pub(crate) mod socket;
pub(crate) mod timer;
pub(crate) mod watch;
