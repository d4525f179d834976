//! Hot restarts, and clients that would hang up if they were told of one.

use std::{path::Path, time::Duration};

use shmipc_transport::{Config, LinkKind, Listener, Shmipc};
use tests::{
    LONG,
    interop::{
        peer::{Peer, Place, Program},
        setting::{Mode, Setting},
    },
};

/// Long enough for a client that is told to hang up.
const WHILE: Duration = Duration::from_millis(50);

#[test]
fn hazard_c12_in_version_4_the_crate_is_told_nothing_and_served_on() {
    let place = Place::new();
    let setting = Setting {
        mode: Mode::V4,
        ..place.setting()
    };
    let shmipc = Shmipc::default().directory(setting.socket.parent().unwrap());
    let config = Config::builder().links(LinkKind::ALL).shmipc(shmipc);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let listener = Listener::bind_with(setting.socket.as_path(), config.build().unwrap()).unwrap();
    let clients = listener.clients().clone();
    let accepting = runtime.spawn(async move { listener.accept().await });
    let program = Program {
        path: Path::new(env!("CARGO_BIN_EXE_interop-peer")),
        implementation: Some("crate"),
    };
    let client = Peer::start(program, "client", &setting);
    runtime.block_on(async {
        let session = accepting.await.unwrap().unwrap();
        let restart = clients.hot_restart(1, LONG).await.unwrap();
        assert_eq!(
            (restart.untold, restart.moved, restart.timed_out),
            (1, 0, 0)
        );
        assert!(!restart.is_complete(), "closing it would be noticed");
        let hung_up = tokio::time::timeout(WHILE, session.closed()).await;
        assert!(hung_up.is_err(), "{hung_up:?}");
        assert_eq!(session.stats().restarts_sent, 0);
    });
    client.quit();
}
