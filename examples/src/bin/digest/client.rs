//! The client: sends the files and prints what comes back.

use std::{
    collections::VecDeque,
    error::Error,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write as _},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use examples::digest::{Sha256Request, hasher_client::HasherClient};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use shmipc_rpc::{Channel, Code, Config, Endpoint, Response};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    format,
    read::{Failure, Input, REQUEST_LEN_MAX},
};

/// How much content may be in memory at a time, in units of [`UNIT_LEN`]. A file that is larger goes alone.
const UNITS_MAX: u32 = 256 << 4;

/// What content is counted in.
const UNIT_LEN: usize = 64 << 10;

/// Address space for the content under way: any file, and what goes with it.
const MEMORY_MAX: u32 = u32::MAX - ((16 << 20) - 1);

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) files: Vec<OsString>,
    pub(crate) jobs: usize,
}

/// What the tasks share.
struct Shared {
    channel: Channel,
    client: HasherClient,
    memory: Semaphore,
}

/// A digest, and how many bytes it is of.
struct Digest {
    digest: Bytes,
    content_len: u64,
}

impl Run {
    /// Does it, with the server at `address`. Returns whether there is a digest of every file.
    pub(crate) async fn with(self, address: impl Into<Endpoint>) -> Result<bool, Box<dyn Error>> {
        let began = Instant::now();
        let shared = Arc::new(Shared::connect(address).await?);
        let progress = progress(&self.files);
        let mut totals = Totals::default();
        let mut running = VecDeque::new();
        let mut files = self.files.into_iter();
        loop {
            // As many as may run at a time are begun, but the first to be begun is the first to be printed.
            while running.len() < self.jobs {
                let Some(name) = files.next() else { break };
                running.push_back(begin(&shared, name));
            }
            let Some(first) = running.pop_front() else {
                break;
            };
            let (name, digest) = first.await?;
            progress
                .suspend(|| totals.report(&name, &digest))
                .map_err(|error| format!("write error: {}", format::reason(&error)))?;
            match digest {
                Ok(digest) => progress.inc(digest.content_len),
                // The others would have to say the same.
                Err(Failure::Call(status)) if status.code() == Code::Unavailable => break,
                Err(_) => {}
            }
        }
        running.iter().for_each(JoinHandle::abort);
        progress.finish_and_clear();
        totals.print(began);
        Ok(totals.files_failed == 0)
    }
}

impl Shared {
    async fn connect(address: impl Into<Endpoint>) -> Result<Self, Box<dyn Error>> {
        let config = Config::builder().memory_max(MEMORY_MAX).build()?;
        let channel = Channel::builder(address).config(config).connect().await?;
        Ok(Self {
            client: HasherClient::new(channel.clone()).max_request_size(REQUEST_LEN_MAX),
            channel,
            memory: Semaphore::new(UNITS_MAX as usize),
        })
    }

    async fn digest(&self, name: OsString) -> Result<Digest, Failure> {
        let input = spawn_blocking(move || Input::open(&name))
            .await
            .map_err(io::Error::from)??;
        let units = units(input.len);
        let permit = self.memory.acquire_many(units).await;
        let _permit = permit.map_err(io::Error::other)?;
        let content = input.read(&self.channel).await?;
        let content_len = content.len() as u64;
        let reply = self.client.sha256(Sha256Request { content }).await;
        Ok(Digest {
            digest: reply.map(Response::into_inner)?.digest,
            content_len,
        })
    }
}

fn begin(shared: &Arc<Shared>, name: OsString) -> JoinHandle<(OsString, Result<Digest, Failure>)> {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let digest = shared.digest(name.clone()).await;
        (name, digest)
    })
}

/// What content of this length counts for. Without a length, it may be anything.
fn units(len: Option<usize>) -> u32 {
    let units = len.map(|len| u32::try_from(len.div_ceil(UNIT_LEN)));
    match units {
        Some(Ok(units)) => units.min(UNITS_MAX),
        Some(Err(_)) | None => UNITS_MAX,
    }
}

/// What is said at the end.
#[derive(Debug, Default)]
struct Totals {
    files: u64,
    files_failed: u64,
    bytes: u64,
}

impl Totals {
    /// Prints the line of one file, or what is wrong with it.
    fn report(&mut self, name: &OsStr, digest: &Result<Digest, Failure>) -> io::Result<()> {
        match digest {
            Ok(Digest {
                digest,
                content_len,
            }) => {
                self.files += 1;
                self.bytes += content_len;
                io::stdout().write_all(&format::line(digest, name))
            }
            Err(failure) => {
                self.files_failed += 1;
                eprintln!("{}", format::complaint(name, failure));
                Ok(())
            }
        }
    }

    fn print(&self, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        let rate = self.bytes as f64 / seconds;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is positive, and its fraction does not matter"
        )]
        let rate = HumanBytes(rate as u64);
        let bytes = HumanBytes(self.bytes);
        let files = self.files;
        let noun = if files == 1 { "file" } else { "files" };
        eprintln!("digest: {files} {noun}, {bytes} in {seconds:.2} s, {rate}/s");
    }
}

/// A bar on the standard error, if that is a terminal.
fn progress(files: &[OsString]) -> ProgressBar {
    // What cannot be looked at is complained of when its turn comes.
    let lens = files.iter().filter_map(|name| fs::metadata(name).ok());
    let bar = ProgressBar::new(lens.map(|metadata| metadata.len()).sum());
    let template = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
