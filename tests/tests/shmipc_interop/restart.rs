//! Hot restarts: a server tells its clients to go to the one that has taken its place.

use std::sync::{Mutex, PoisonError};

use tests::interop::setting::{Plan, Setting};

use crate::pair::Stage;

/// One at a time: shmipc-go gives up for good what takes it longer than 2 s (hazard H62), and needs the machine for that.
static ALONE: Mutex<()> = Mutex::new(());

/// Restarts in a row.
const EPOCHS: u64 = 3;

/// Clients use their streams all the time, and none of them notices.
pub(crate) fn clients_follow_a_server_that_restarts(stage: &Stage) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let load = Plan {
        streams: 4,
        sizes: vec![64, 5000, 100_000],
        ..Plan::default()
    };
    let sessions = Setting {
        sessions: 3,
        ..stage.setting()
    };
    let mut server = stage.server(&stage.setting());
    let mut clients = [(); 2].map(|()| stage.client(&sessions));
    for client in &mut clients {
        client.tell(format_args!("load {load}"));
        client.hear("loaded");
    }
    for epoch in 1..=EPOCHS {
        let mut new = stage.server(&stage.setting());
        server.tell(format_args!("restart {epoch}"));
        server.hear("restarted");
        for client in &mut clients {
            client.tell("cycle");
            client.hear("cycled");
        }
        let [_, _, _, served] = new.stats();
        assert!(served > 0, "nobody came to the new server");
        server.quit();
        server = new;
        for client in &mut clients {
            client.tell("cycle");
            client.hear("cycled");
        }
    }
    for client in &mut clients {
        client.tell("unload");
        client.hear("done");
    }
}
