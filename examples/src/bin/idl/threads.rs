//! The same with threads: no runtime anywhere.

use std::{
    error::Error,
    io::{self, Write as _},
    thread,
};

use examples::second;
use shmipc_transport::{
    Config,
    blocking::{Listener, Session, Stream},
};

use super::{
    REQUESTS, Tally,
    codec::{Request, read_blocking, write_blocking},
    draw, request,
};

pub(crate) fn serve(address: &str, config: Config) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind_with(address, config)?;
    let stopper = listener.stopper();
    second::say_ready()?;
    thread::spawn(move || {
        second::wait_for_end();
        stopper.stop();
    });
    let mut sessions = Vec::new();
    // Until it is stopped.
    while let Ok(session) = listener.accept() {
        sessions.push(thread::spawn(move || {
            while let Ok(stream) = session.accept_stream() {
                // A client that breaks off concerns nobody else.
                if let Err(error) = paint(stream) {
                    eprintln!("idl: {error}");
                }
            }
        }));
    }
    for session in sessions {
        session.join().map_err(|_| "a session panicked")?;
    }
    Ok(())
}

/// Answers the requests of a stream.
fn paint(stream: Stream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_bytes().split();
    while reader.readable()? {
        let request: Request = read_blocking(&mut reader)?;
        write_blocking(&mut writer, &draw(&request))?;
        writer.flush()?;
    }
    writer.finish()
}

pub(crate) fn ask(address: &str, config: Config) -> Result<Tally, Box<dyn Error>> {
    let session = Session::connect_with(address, config)?;
    let (mut reader, mut writer) = session.open_stream()?.into_bytes().split();
    let mut tally = Tally::default();
    for request in (0..REQUESTS).map(request) {
        write_blocking(&mut writer, &request)?;
        writer.flush()?;
        tally.count(&request, &read_blocking(&mut reader)?)?;
    }
    writer.finish()?;
    Ok(tally)
}
