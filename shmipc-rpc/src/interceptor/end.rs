use std::{fmt, mem, time::Instant};

use http::HeaderMap;
use sync_wrapper::SyncWrapper;

use crate::{Code, Status, deadline, metadata, server::panic::guarded};

/// How a call ends, as far as what lies behind an interceptor is concerned: well or with a failure, and with what metadata.
///
/// It is shown to the functions that [`Next::on_end`](super::Next::on_end) and [`Answer::on_end`](super::Answer::on_end) take, which
/// may change it.
pub struct End {
    /// `None` if all went well.
    status: Option<Status>,
    /// What comes after the last message of a call that went well.
    metadata: HeaderMap,
    is_cut_off: bool,
}

/// The metadata after the last message, if there is any, or the failure.
pub(crate) type Ended = Result<Option<Box<HeaderMap>>, Status>;

impl End {
    pub(crate) fn new(ended: Ended) -> Self {
        let (status, metadata) = match ended {
            Ok(metadata) => (None, metadata.map(|map| *map).unwrap_or_default()),
            Err(status) => (Some(status), HeaderMap::new()),
        };
        Self {
            status,
            metadata,
            is_cut_off: false,
        }
    }

    /// The end of a call that nobody waits for any longer.
    fn cut_off(deadline: Option<Instant>) -> Self {
        let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
        let status = if is_late {
            deadline::exceeded()
        } else {
            Status::cancelled("nobody waited for the end of the call")
        };
        Self {
            is_cut_off: true,
            ..Self::new(Err(status))
        }
    }

    pub(crate) fn into_ended(self) -> Ended {
        match self.status {
            Some(status) => Err(status),
            None => {
                let mut metadata = self.metadata;
                metadata::remove_reserved(&mut metadata);
                Ok((!metadata.is_empty()).then(|| Box::new(metadata)))
            }
        }
    }

    /// Returns the code: [`Code::Ok`] if all went well.
    #[must_use]
    pub fn code(&self) -> Code {
        self.status.as_ref().map_or(Code::Ok, Status::code)
    }

    /// Returns the failure. `None` if all went well.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// Replaces how the call ends. With a status of [`Code::Ok`] it ends well, and the metadata of that status comes after the last
    /// message.
    ///
    /// Messages that came before stay with the caller, unless the method returns but one.
    pub fn set_status(&mut self, status: Status) {
        if status.code() == Code::Ok {
            self.metadata = status.metadata().clone();
            self.status = None;
        } else {
            self.status = Some(status);
        }
    }

    /// Returns the metadata that comes with the end: that of a failure, or what comes after the last message.
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        match &self.status {
            Some(status) => status.metadata(),
            None => &self.metadata,
        }
    }

    /// Returns the metadata that comes with the end, to be changed.
    pub fn metadata_mut(&mut self) -> &mut HeaderMap {
        match &mut self.status {
            Some(status) => status.metadata_mut(),
            None => &mut self.metadata,
        }
    }

    /// Tells whether nobody waits for the end any longer: on the calling side, the future or the stream was dropped; on the server,
    /// the caller has given up or is gone. The status is [`Code::Cancelled`] then, or [`Code::DeadlineExceeded`] if there was
    /// no more time, and it is of no use to change anything.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("code", &self.code())
            .field("metadata", self.metadata())
            .field("is_cut_off", &self.is_cut_off)
            .finish_non_exhaustive()
    }
}

/// What is to be called with the end of a call.
pub(crate) type Callback = Box<dyn FnOnce(&mut End) + Send>;

/// Those who want to see the end of a call, in the order in which they see it.
///
/// Each does so once: when the end is known, or when this is dropped because nobody waits for it.
#[derive(Default)]
pub(crate) struct Watchers {
    callbacks: Vec<SyncWrapper<Callback>>,
    /// After which who does not wait any longer does so because of the time.
    deadline: Option<Instant>,
}

impl Watchers {
    pub(crate) fn add(&mut self, callback: Callback) {
        self.callbacks.push(SyncWrapper::new(callback));
    }

    pub(crate) fn new(callbacks: Vec<SyncWrapper<Callback>>, deadline: Option<Instant>) -> Self {
        Self {
            callbacks,
            deadline,
        }
    }

    /// Adds those of `other` behind the others.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.callbacks.append(&mut other.callbacks);
        self.limit(other.deadline);
    }

    pub(crate) fn limit(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline::earlier(self.deadline, deadline);
    }

    /// Shows them the end. Returns what they have made of it.
    pub(crate) fn run(mut self, ended: Ended) -> Ended {
        self.show(End::new(ended)).into_ended()
    }

    /// A panic becomes a failure, which those who come after it see: there may be nobody else whom it could reach.
    fn show(&mut self, mut end: End) -> End {
        for callback in mem::take(&mut self.callbacks) {
            let callback = callback.into_inner();
            if guarded(|| callback(&mut end)).is_err() {
                end.status = Some(Status::internal("an interceptor panicked at the end"));
            }
        }
        end
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        if !self.callbacks.is_empty() {
            self.show(End::cut_off(self.deadline));
        }
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watchers({})", self.callbacks.len())
    }
}

/// Shows the end to those who want to see it, if there are any. Returns what they have made of it.
pub(crate) fn show_end(watchers: &mut Option<Box<Watchers>>, ended: Ended) -> Ended {
    match watchers.take() {
        None => ended,
        Some(watchers) => watchers.run(ended),
    }
}
