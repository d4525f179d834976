//! One stream and its handler.

use std::{future::poll_fn, io};

use super::{LocalClose, RemoteClose, StreamHandler};
use crate::{ABANDONED, ByteStream, RecvError};

/// How many bytes a handler may leave unread. The peer might go on for ever.
const UNREAD_MAX: usize = 64 << 20;

/// Calls the handler for as long as there is something to call it for.
pub(super) async fn converse<H: StreamHandler>(mut handler: H, mut stream: ByteStream) {
    let why = match attend(&mut handler, &mut stream).await {
        Ok(()) => LocalClose::Finished,
        Err(error) => {
            stream.reset(ABANDONED);
            LocalClose::Failed(error)
        }
    };
    drop(stream);
    handler.on_local_close(why).await;
}

async fn attend<H: StreamHandler>(handler: &mut H, stream: &mut ByteStream) -> io::Result<()> {
    loop {
        match poll_fn(|cx| stream.reader().poll_news(cx)).await {
            Ok(true) => {}
            Ok(false) => {
                handler
                    .on_remote_close(stream, RemoteClose::Finished)
                    .await?;
                return stream.writer().finish().await;
            }
            Err(lost) => return lose(handler, stream, lost).await,
        }
        // For as long as it makes progress. What it does not read yet, it is shown again when there is more.
        while stream.reader().buffered() != 0 {
            let before = stream.reader().consumed();
            handler.on_data(stream).await?;
            if stream.reader().consumed() == before {
                break;
            }
        }
        stream.writer().flush().await?;
        let unread = stream.reader().buffered();
        if UNREAD_MAX < unread {
            let message = format!("the handler left {unread} bytes unread");
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, message));
        }
    }
}

async fn lose<H: StreamHandler>(
    handler: &mut H,
    stream: &mut ByteStream,
    lost: RecvError,
) -> io::Result<()> {
    handler
        .on_remote_close(stream, RemoteClose::Lost(lost.clone()))
        .await?;
    Err(lost.into())
}
