//! The server: hashes what it is sent.

use std::{
    error::Error,
    future::pending,
    io::{self, Write as _},
    thread,
};

use bytes::Bytes;
use examples::digest::{
    Sha256Reply, Sha256Request,
    hasher_server::{Hasher, HasherServer},
};
use sha2::{Digest as _, Sha256};
use shmipc_rpc::{Cancellation, Listener, Request, Response, Server, Status};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::spawn_blocking,
};

use crate::read::REQUEST_LEN_MAX;

/// Up to here hashing takes less time than it would take to hand it to another thread.
const HASHED_AT_ONCE_LEN_MAX: usize = 16 << 10;

/// How much is hashed between two looks at whether anybody still waits for it.
const PIECE_LEN: usize = 1 << 20;

struct Service;

impl Hasher for Service {
    async fn sha256(
        &self,
        request: Request<Sha256Request>,
    ) -> Result<Response<Sha256Reply>, Status> {
        let cancellation = request.cancellation();
        let content = request.into_inner().content;
        let digest = if content.len() <= HASHED_AT_ONCE_LEN_MAX {
            hash(&content, &cancellation)
        } else {
            spawn_blocking(move || hash(&content, &cancellation))
                .await
                .map_err(|error| Status::internal(error.to_string()))?
        }?;
        Ok(Response::new(Sha256Reply { digest }))
    }
}

fn hash(content: &[u8], cancellation: &Cancellation) -> Result<Bytes, Status> {
    let mut hasher = Sha256::new();
    for piece in content.chunks(PIECE_LEN) {
        if cancellation.is_cancelled() {
            return Err(Status::cancelled("nobody waits for this digest any longer"));
        }
        hasher.update(piece);
    }
    Ok(Bytes::copy_from_slice(&hasher.finalize()))
}

/// Serves until told to end: by a signal or, if `attached`, by the end of the standard input.
pub(crate) async fn run(socket: String, attached: bool) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind(socket)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let input = attached.then(end_of_input);
    let told_to_end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = ended(input) => {}
        }
    };
    if attached {
        let mut output = io::stdout();
        output.write_all(b"ready\n")?;
        output.flush()?;
    }
    Server::builder()
        .max_request_size(REQUEST_LEN_MAX)
        .add_service(HasherServer::new(Service))
        .serve_with_listener_and_shutdown(listener, told_to_end)
        .await?;
    Ok(())
}

/// Tells when the standard input ends: when the process at its other end does, if nothing else.
fn end_of_input() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        // There is nothing to read, and an error is an end, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = ended.send(());
    });
    end
}

async fn ended(input: Option<oneshot::Receiver<()>>) {
    match input {
        // Whether the thread said so or is gone makes no difference.
        Some(end) => drop(end.await),
        None => pending().await,
    }
}
