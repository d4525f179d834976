//! In a process of its own, because it counts threads.

use std::{fs, path::Path, thread, time::Duration};

use bytes::BufMut;
use shmipc_transport::{
    Config, Flush, LinkKind, PoolConfig, SendBuf, Shmipc,
    blocking::{Listener, Session, SessionPool},
};

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn blocking_sessions_make_no_thread_and_need_no_runtime() {
    assert!(tokio::runtime::Handle::try_current().is_err());
    for link in [LinkKind::Outbox, LinkKind::ShmipcV4, LinkKind::ShmipcV3] {
        over(link);
    }
}

fn over(link: LinkKind) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    // Some of the messages below fall back to the socket.
    let shmipc = Shmipc::default().buffer_len(1 << 20).directory(dir.path());
    let config = Config::builder().links([link]).shmipc(shmipc);
    let config = config.build().unwrap();
    let listener = Listener::bind_with(dir.path().join("socket"), config.clone()).unwrap();
    let server = thread::spawn(move || {
        let session = listener.accept().unwrap();
        while let Ok(mut stream) = session.accept_stream() {
            while let Ok(Some(message)) = stream.recv() {
                let mut reply = stream.buffer(message.len());
                reply.put(message);
                drop(stream.send(reply, Flush::End));
            }
        }
    });
    let before = threads();
    let client = Session::connect_with(dir.path().join("socket"), config.clone()).unwrap();
    for len in [1, 5000, 1 << 20] {
        let mut stream = client.open_stream().unwrap();
        let mut message = stream.buffer(len);
        message.put_bytes(7, len);
        stream.send(message, Flush::End).unwrap();
        assert_eq!(stream.recv().unwrap().unwrap().len(), len);
        assert_eq!(threads(), before);
    }
    drop(client);
    server.join().unwrap();
    pooled(&dir.path().join("socket"), config);
}

/// The same for a pool, and for the server's part in a restart.
fn pooled(socket: &Path, config: Config) {
    let listener = Listener::bind_with(socket, config.clone()).unwrap();
    let clients = listener.clients().clone();
    let server = thread::spawn(move || {
        let session = listener.accept().unwrap();
        while session.accept_stream().is_ok() {}
    });
    let before = threads();
    let config = PoolConfig::builder().session(config).build().unwrap();
    let pool = SessionPool::connect_with(socket, config).unwrap();
    let fill = |message: &mut SendBuf| message.put_u8(7);
    pool.stream_with(1, Flush::End, fill).unwrap();
    assert!(threads() <= before);
    // Nobody follows.
    clients.hot_restart(1, Duration::from_millis(1)).unwrap();
    assert!(threads() <= before);
    pool.close();
    server.join().unwrap();
}
