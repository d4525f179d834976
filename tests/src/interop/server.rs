//! The program as a server.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{
    client::receive,
    implementation::{Ended, Implementation, Server, Stream},
    message::{CLOSE, Head, REPLY, answer, checksum, pattern},
    program::{commands, say},
    setting::{Setting, TCP},
};

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    ended: AtomicU64,
    lost: AtomicU64,
    served: AtomicU64,
}

/// How a conversation ended that did not fail.
enum End {
    Ended,
    Lost,
}

/// Answers on each stream that a client opens, until it is told to quit.
///
/// # Errors
///
/// What went wrong.
pub async fn serve<I: Implementation>(setting: &Setting) -> Result<(), String> {
    let mut server = I::listen(setting).await?;
    let counts = Arc::new(Counts::default());
    let (failed, mut failures) = unbounded_channel();
    let mut commands = commands();
    match server.port() {
        Some(port) => say(&format!("ready {TCP}{port}")),
        None => say(&format!("ready {}", setting.socket.display())),
    }
    loop {
        tokio::select! {
            stream = server.accept() => {
                counts.accepted.fetch_add(1, Relaxed);
                tokio::spawn(converse(stream?, setting.piece, Arc::clone(&counts), failed.clone()));
            }
            Some(failure) = failures.recv() => return Err(failure),
            command = commands.recv() => {
                let Some(command) = command else { return Ok(()) };
                match command.split_once(' ').unwrap_or((&command, "")) {
                    ("stats", _) => counts.say(),
                    ("restart", epoch) => {
                        let number = epoch.parse().map_err(|_| format!("{epoch} is no epoch"))?;
                        let (restart, failed) = (server.restart(number), failed.clone());
                        tokio::spawn(async move {
                            match restart.await {
                                Ok(()) => say(&format!("restarted {number}")),
                                // If nobody hears it, the program is over.
                                Err(why) => drop(failed.send(why)),
                            }
                        });
                    }
                    ("quit", _) => break,
                    _ => return Err(format!("a server does not understand {command}")),
                }
            }
        }
    }
    server.close().await;
    say(&format!("done {} ok", counts.served.load(Relaxed)));
    Ok(())
}

impl Counts {
    fn say(&self) {
        let [accepted, ended, lost, served] =
            [&self.accepted, &self.ended, &self.lost, &self.served]
                .map(|count| count.load(Relaxed));
        say(&format!(
            "stats accepted={accepted} ended={ended} lost={lost} served={served}"
        ));
    }
}

async fn converse(
    mut stream: impl Stream,
    piece: usize,
    counts: Arc<Counts>,
    failed: UnboundedSender<String>,
) {
    let end = answer_all(&mut stream, piece, &counts).await;
    let closed = stream.close().await;
    let count = match end {
        Ok(End::Ended) => &counts.ended,
        Ok(End::Lost) => &counts.lost,
        Err(why) => {
            // If nobody hears it, the program is over.
            let _ = failed.send(why);
            return;
        }
    };
    count.fetch_add(1, Relaxed);
    if let (Ok(End::Ended), Err(why)) = (end, closed) {
        let _ = failed.send(format!("closing a stream: {why}"));
    }
}

/// Answers the messages of a stream until it ends, and says how.
async fn answer_all(
    stream: &mut impl Stream,
    piece: usize,
    counts: &Counts,
) -> Result<End, String> {
    loop {
        match stream.readable().await {
            Ok(()) => {}
            Err(Ended::Finished) => return Ok(End::Ended),
            Err(Ended::Lost(_)) => return Ok(End::Lost),
            Err(Ended::Failed(why)) => return Err(why),
        }
        let request = match receive(stream, piece).await? {
            Ok(request) => request,
            Err(_) => return Ok(End::Lost),
        };
        stream.release();
        counts.served.fetch_add(1, Relaxed);
        for index in 0..u64::from(request.replies) {
            let seed = answer(request.seed, index);
            let payload = pattern(request.reply_len as usize, seed);
            let reply = Head {
                kind: REPLY,
                len: request.reply_len,
                seed,
                checksum: checksum(&payload),
                index,
                ..Head::default()
            };
            match stream.send(&reply.encode(), &payload, piece).await {
                Ok(()) => {}
                Err(Ended::Lost(_)) => return Ok(End::Lost),
                Err(why) => return Err(format!("a reply was refused: {why:?}")),
            }
        }
        if request.kind == CLOSE {
            return Ok(End::Ended);
        }
    }
}
