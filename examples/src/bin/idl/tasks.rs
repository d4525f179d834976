//! The pictures with tasks: a server of callbacks, and a client that asks for several pictures before it looks at the first.

use std::{error::Error, io};

use examples::second;
use shmipc_transport::{ByteStream, Config, Listener, Session, StreamHandler};

use super::{
    REQUESTS, Tally,
    codec::{Request, read, write},
    draw, request,
};

/// Requests that are under way at once.
const AHEAD: usize = 4;

/// One stream of requests.
struct Painter;

impl StreamHandler for Painter {
    async fn on_data(&mut self, stream: &mut ByteStream) -> io::Result<()> {
        let (reader, writer) = stream.halves_mut();
        // Several may have come together; what is written is flushed when this returns.
        while reader.buffered() != 0 {
            let request: Request = read(reader).await?;
            write(writer, &draw(&request)).await?;
            writer.flush().await?;
        }
        Ok(())
    }
}

#[tokio::main]
pub(crate) async fn serve(address: &str, config: Config) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind_with(address, config)?;
    let end = second::ready()?;
    shmipc_transport::serve_with_shutdown(listener, |_| Painter, end).await?;
    Ok(())
}

#[tokio::main]
pub(crate) async fn ask(address: String, config: Config) -> Result<Tally, Box<dyn Error>> {
    let session = Session::connect_with(address, config).await?;
    let (mut reader, mut writer) = session.open_stream()?.into_bytes().split();
    let mut tally = Tally::default();
    let all: Vec<_> = (0..REQUESTS).map(request).collect();
    for requests in all.chunks(AHEAD) {
        for request in requests {
            write(&mut writer, request).await?;
        }
        writer.flush().await?;
        for request in requests {
            tally.count(request, &read(&mut reader).await?)?;
        }
    }
    writer.finish().await?;
    drop((reader, writer));
    session.close();
    Ok(tally)
}
