//! What others are known not to do, and why. Nothing is listed here that is the fault of ours.

use crate::pair::{Pair, Who};

/// Why a scenario is left out.
pub(crate) fn reason(pair: &Pair, scenario: &str) -> Option<&'static str> {
    let has_crate = pair.client == Who::Crate || pair.server == Who::Crate;
    match scenario {
        "clients_follow_a_server_that_restarts" if has_crate => {
            Some("the crate knows no hot restart: it closes a session that is told of one")
        }
        "a_stream_is_closed_behind_what_went_over_the_socket" if pair.server == Who::Go => Some(
            "shmipc-go says through shared memory that a stream is over, while its last messages are still in the socket",
        ),
        _ => None,
    }
}
