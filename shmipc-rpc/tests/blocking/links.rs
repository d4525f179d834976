use std::thread;

use shmipc_rpc::{
    Request, Response,
    blocking::{Caller, Channel, Server, Streaming},
};
use shmipc_transport::{Address, Config, LinkKind, Shmipc, blocking::Listener};

use super::lab::{LIST, LONG, Packet, Streams, ask, echo, numbered};

/// Serves and calls with these settings.
fn calls_work(address: Address, config: Config) {
    let listener = Listener::bind_with(address, config.clone()).unwrap();
    let address = listener.local_address().clone();
    let shutdown = shmipc_rpc::blocking::Shutdown::new();
    thread::scope(|scope| {
        let stop = shutdown.clone();
        scope.spawn(move || {
            let server = Server::builder()
                .add_service(echo())
                .add_service(Streams::default());
            server
                .serve_with_listener_and_shutdown(listener, &stop)
                .unwrap();
        });
        let channel = Channel::builder(address).config(config).connect().unwrap();
        let caller = Caller::new(channel);
        for text in ["short", &"long".repeat(50_000)] {
            assert_eq!(ask(&caller, text).unwrap().get_ref().text, text);
        }
        let mut request = Request::new(numbered(100));
        request.set_timeout(LONG);
        let list: Response<Streaming<Packet>> = caller.server_streaming(&LIST, request).unwrap();
        let received = list.into_inner().map(|item| item.unwrap().number);
        assert!(received.eq((0..100).rev()));
        shutdown.begin();
    });
}

#[test]
fn calls_go_over_shmipcs_own_link_and_begin_over_tcp() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let shmipc = Shmipc::default().directory(directory.path());
    let config = Config::builder().links([LinkKind::ShmipcV4]).shmipc(shmipc);
    let config = config.build().unwrap();
    calls_work(directory.path().join("lab.sock").into(), config.clone());
    calls_work("tcp://127.0.0.1:0".into(), config);
}
