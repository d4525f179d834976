//! Calls that are made anew without their caller noticing, because the server cannot have seen them.

use shmipc_transport::SendError;

use super::response::not_sent;
use crate::Status;

/// The most sessions that a call is tried in. Each of them was lost, or left, between being looked up and being used.
const RETRIES_MAX: u32 = 16;

/// Counts how often a call was made anew.
#[derive(Debug, Default)]
pub(crate) struct Retries(u32);

impl Retries {
    /// Permits to make a call anew whose first frame was not sent, for this reason.
    ///
    /// # Errors
    ///
    /// Returns the status of the call if it would not fare better in another session, or was tried often enough.
    pub(crate) fn permit(&mut self, error: SendError) -> Result<(), Status> {
        let is_the_sessions = matches!(error, SendError::GoingAway | SendError::SessionLost(_));
        if !is_the_sessions || self.0 == RETRIES_MAX {
            return Err(not_sent(error));
        }
        self.0 += 1;
        Ok(())
    }
}
