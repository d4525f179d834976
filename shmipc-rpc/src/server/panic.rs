use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Status;

/// Runs code of the application. A panic there becomes a status.
///
/// What the panic says was printed by the panic hook; it is not for the caller's eyes.
pub(crate) fn guarded<R>(run: impl FnOnce() -> R) -> Result<R, Status> {
    // Unwind safety: what the handler has touched of its own service is the application's to judge, as in a thread that
    // panics; of ours it touches nothing that is used again.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Status::internal("the handler panicked"))
}
