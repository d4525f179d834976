//! Who may call.
//!
//! The kernel says as whom the process at the other end of a session runs. Nobody can claim to be somebody else, and there
//! is nothing to be kept secret.

use shmipc_rpc::{
    Status,
    interceptor::{Answer, Call, Interceptor, Next},
};

/// Lets processes of one user call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnlyUser(pub(crate) u32);

/// As whom the caller of a handler runs. It is among the extensions of the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uid(pub(crate) u32);

impl Interceptor for OnlyUser {
    async fn intercept(&self, mut call: Call, next: Next) -> Result<Answer, Status> {
        let Some(uid) = call.peer().and_then(|peer| peer.uid()) else {
            return Err(Status::unauthenticated("nobody knows who the caller is"));
        };
        if uid != self.0 {
            let message = format!("{} is not for you", call.method());
            return Err(Status::permission_denied(message));
        }
        call.extensions_mut().insert(Uid(uid));
        next.run(call).await
    }
}
