//! A hand-written codec over a stream's buffers: messages are encoded in shared memory, and decoded where they arrived.
//!
//! ```text
//! idl         asks a second process for pictures in every way there is, and prints what came of it
//! ```
//!
//! What this shows: how an interface description becomes code that neither allocates nor copies more than it must ([`codec`]), with threads
//! ([`threads`]) and with callbacks in tasks ([`tasks`]), over this project's link and over shmipc's own.

mod codec;
mod tasks;
mod threads;

use std::{env, error::Error, process::ExitCode};

use codec::{Request, Response};
use examples::second::Second;
use shmipc_transport::{Config, LinkKind};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idl: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The ways in which requests are made: threads or tasks, and the link.
const WAYS: [(&str, &str); 6] = [
    ("threads", "outbox"),
    ("threads", "shmipc-v4"),
    ("threads", "shmipc-v3"),
    ("tasks", "outbox"),
    ("tasks", "shmipc-v4"),
    ("tasks", "shmipc-v3"),
];

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {}
        // The second process.
        ["threads", link, "serve", address] => return threads::serve(address, config(link)?),
        ["tasks", link, "serve", address] => return tasks::serve(address, config(link)?),
        _ => return Err("there are no arguments".into()),
    }
    for (who, link) in WAYS {
        let server = Second::start("idl", &[who, link])?;
        let tally = match who {
            "threads" => threads::ask(&server.address(), config(link)?),
            _ => tasks::ask(server.address(), config(link)?),
        };
        server.stop()?;
        let Tally { pictures, bytes } = tally?;
        println!("{who:<8} {link:<10} {pictures} pictures, {bytes} bytes");
    }
    Ok(())
}

fn config(link: &str) -> Result<Config, Box<dyn Error>> {
    let link = match link {
        "outbox" => LinkKind::Outbox,
        "shmipc-v4" => LinkKind::ShmipcV4,
        "shmipc-v3" => LinkKind::ShmipcV3,
        other => return Err(format!("there is no link {other}").into()),
    };
    Ok(Config::builder().links([link]).build()?)
}

/// What came of all requests.
#[derive(Default)]
struct Tally {
    pictures: u64,
    bytes: usize,
}

/// Requests of a client. The pictures are from nothing to 99,000 pixels large.
const REQUESTS: u64 = 100;

fn request(id: u64) -> Request {
    Request {
        id,
        name: format!("picture {id}"),
        width: u32::try_from(id * 10).unwrap_or(0),
        height: 100,
    }
}

impl Tally {
    /// Counts a response, if it is the one that was asked for.
    fn count(&mut self, request: &Request, response: &Response) -> Result<(), Box<dyn Error>> {
        if *response != draw(request) {
            return Err(format!("a picture that is not {:?}", request.name).into());
        }
        self.pictures += 1;
        self.bytes += response.pixels.len();
        Ok(())
    }
}

/// What the server answers.
fn draw(request: &Request) -> Response {
    let len = u64::from(request.width) * u64::from(request.height);
    // The remainder fits.
    let pixels = (0..len).map(|i| u8::try_from((i ^ request.id) % 251).unwrap_or(0));
    Response {
        id: request.id,
        name: request.name.clone(),
        pixels: pixels.collect::<Vec<_>>().into(),
    }
}
