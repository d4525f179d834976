use super::Handle;
use crate::core::num::StreamId;

/// A record of ours that is being written. It becomes a pad, and what was taken for it is given back, unless all of it was.
pub(super) struct Unwritten<'a> {
    pub(super) handle: &'a Handle,
    pub(super) len: u32,
    /// The stream that it would have opened. The peer never hears of it, so nothing may be said of it.
    pub(super) opened: Option<StreamId>,
    pub(super) is_written: bool,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if self.is_written {
            return;
        }
        let (session, stream) = (self.handle.session(), &self.handle.stream);
        session.link.counters().given_up(self.len);
        stream.refund(Some(self.len));
        if let Some(id) = self.opened {
            stream.set_id(None);
            session.close_stream(id);
            if stream.is_awaited() {
                session.tell_unheard(stream);
            }
        }
    }
}
