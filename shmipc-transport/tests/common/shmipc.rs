//! Both ends of a session over shmipc's own link.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use shmipc_transport::{Flush, Listener, RecvBuf, SendError, Session, Shmipc, Stream, Wait};
use tokio::time::timeout;

use super::modes::Mode;

pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) struct Pair {
    pub(crate) client: Session,
    pub(crate) server: Session,
    /// Where files of regions lie.
    pub(crate) files: tempfile::TempDir,
}

pub(crate) async fn connect_with(mode: &Mode, shmipc: Shmipc, wait: Wait) -> Pair {
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let sockets = tempfile::tempdir().unwrap();
    let config = mode.config(files.path(), shmipc, wait);
    let listener = Listener::bind_with(mode.address(sockets.path()), config.clone()).unwrap();
    let (client, server) = tokio::join!(
        Session::connect_with(listener.local_address().clone(), config),
        timeout(LONG, listener.accept())
    );
    Pair {
        client: client.unwrap_or_else(|error| panic!("{}: {error:?}", mode.name)),
        server: server.unwrap().unwrap(),
        files,
    }
}

pub(crate) async fn connect(mode: &Mode) -> Pair {
    connect_with(mode, Shmipc::default(), Wait::Adaptive).await
}

pub(crate) async fn send(stream: &mut Stream, bytes: &Bytes) -> Result<(), SendError> {
    let mut buffer = stream.buffer(bytes.len());
    buffer.put_slice(bytes);
    timeout(LONG, stream.send(buffer, Flush::More))
        .await
        .expect("a message was not sent in time")
}

pub(crate) async fn recv(stream: &mut Stream) -> Option<RecvBuf> {
    timeout(LONG, stream.recv())
        .await
        .expect("nothing arrived in time")
        .unwrap()
}

pub(crate) fn whole(mut message: RecvBuf) -> Bytes {
    message.copy_to_bytes(message.remaining())
}

/// Sends back what comes on every stream, until it ends.
pub(crate) fn echo(session: Session) {
    tokio::spawn(async move {
        while let Ok(mut stream) = session.accept_stream().await {
            tokio::spawn(async move {
                while let Ok(Some(message)) = stream.recv().await {
                    let mut reply = stream.buffer(message.len());
                    reply.put(message);
                    if stream.send(reply, Flush::More).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
}
