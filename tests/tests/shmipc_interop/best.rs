//! Which link our clients get of each server if they ask for all, which is the default; and clients of others, of ours that speaks no version 4.

use std::os::unix::net::SocketAddr;

use shmipc::{
    config::{Config as CrateConfig, ProtocolMode},
    consts::MemMapType,
    session::{SessionManager, SessionManagerConfig},
    transport::DefaultUnixConnect,
};
use shmipc_transport::{
    Config, LinkKind, Listener, Session, Shmipc, ShmipcMapping, ShmipcWakes, blocking,
};
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

#[tokio::test(flavor = "multi_thread")]
async fn the_crate_goes_on_with_version_3_where_we_do_not_speak_4() {
    let place = Place::new();
    let setting = place.setting();
    let config = Config::builder().links([LinkKind::ShmipcV3]);
    let listener = Listener::bind_with(setting.socket.as_path(), config.build().unwrap()).unwrap();
    let mut config = CrateConfig {
        initialize_timeout: LONG,
        share_memory_path_prefix: setting.prefix.display().to_string(),
        mem_map_type: MemMapType::MemMapTypeMemFd,
        ..CrateConfig::default()
    };
    config.protocol.mode = ProtocolMode::V4 { fallback: true };
    let config = SessionManagerConfig::new()
        .with_config(config)
        .with_session_num(1);
    let address = SocketAddr::from_pathname(&setting.socket).unwrap();
    let connecting = SessionManager::new(config, DefaultUnixConnect, address);
    let (client, server) = tokio::join!(connecting, listener.accept());
    let _client = client.unwrap();
    assert_eq!(server.unwrap().link().kind, LinkKind::ShmipcV3);
}
