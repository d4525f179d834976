//! Which link our clients get of each server if they ask for all, which is the default.

use shmipc_transport::{Config, LinkKind, Session, Shmipc, ShmipcMapping, ShmipcWakes, blocking};
use tests::{
    LONG,
    interop::{
        peer::{Peer, Place},
        setting::{Mode, Setting},
    },
};

use crate::pair::Who;

/// Connects with a task, and with a thread.
fn gets(server: Who, mode: Mode, best: (LinkKind, Option<ShmipcMapping>, ShmipcWakes)) {
    let Some(program) = server.program() else {
        return;
    };
    let place = Place::new();
    let setting = Setting {
        mode,
        ..place.setting()
    };
    let server = Peer::start(program, "server", &setting);
    let shmipc = Shmipc::default().directory(setting.socket.parent().unwrap());
    let config = Config::builder().shmipc(shmipc).handshake_timeout(LONG);
    let config = config.build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connecting = Session::connect_with(setting.socket.as_path(), config.clone());
    let task = runtime.block_on(connecting).unwrap();
    let thread = blocking::Session::connect_with(setting.socket.as_path(), config).unwrap();
    for link in [task.link(), thread.link()] {
        assert_eq!((link.kind, link.mapping, link.wakes), best);
    }
    drop((task, thread));
    drop(runtime);
    server.quit();
}

const MEMFD: Option<ShmipcMapping> = Some(ShmipcMapping::Memfd);

#[test]
fn the_crate_is_talked_to_in_version_4() {
    let best = (LinkKind::ShmipcV4, MEMFD, ShmipcWakes::EventFd);
    gets(Who::Crate, Mode::V4, best);
}

#[test]
fn hazard_h41_shmipc_go_is_talked_to_in_version_3_although_it_says_nothing_to_a_negotiation() {
    let best = (LinkKind::ShmipcV3, MEMFD, ShmipcWakes::Socket);
    gets(Who::Go, Mode::V3, best);
}
