//! A server: answers each number with the same number and its own, until it is told that its successor is there.

use std::{error::Error, path::Path, pin::pin, time::Duration};

use bytes::{Buf as _, BufMut as _};
use shmipc_transport::{Clients, Flush, Listener, RecvError, Session, Stream};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, stdin},
    time::timeout,
};

/// How long clients may take to move, and calls to come to an end.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(link: &str, socket: &Path, number: &str) -> Result<(), Box<dyn Error>> {
    let number = number.parse()?;
    // Whoever has listened there has no more connections from now on.
    let listener = Listener::take_over_with(socket, crate::config(link)?)?;
    let clients = listener.clients().clone();
    println!("ready");
    let mut over = pin!(restarted(&clients));
    loop {
        // While the clients move, they are served.
        tokio::select! {
            session = listener.accept() => drop(tokio::spawn(serve(session?, number))),
            over = &mut over => break over?,
        }
    }
    // Those who had connected before the successor was there have been shaken hands with, and are told to go there, too.
    let mut leftover = listener.close();
    while let Some(session) = leftover.next().await {
        tokio::spawn(serve(session, number));
    }
    timeout(LIMIT, clients.drain()).await?;
    println!("moved");
    Ok(())
}

/// Waits for the word that there is a successor, or for the end of the input, and has the clients move.
async fn restarted(clients: &Clients) -> Result<(), Box<dyn Error>> {
    let mut lines = BufReader::new(stdin()).lines();
    let Some(line) = lines.next_line().await? else {
        return Ok(());
    };
    let epoch = line
        .strip_prefix("restart ")
        .ok_or("it is not understood")?;
    let restart = clients.hot_restart(epoch.parse()?, LIMIT).await?;
    if restart.is_complete() {
        Ok(())
    } else {
        Err(format!("not all clients have moved: {restart:?}").into())
    }
}

/// Serves a session until it ends.
async fn serve(session: Session, number: u64) {
    while let Ok(stream) = session.accept_stream().await {
        tokio::spawn(async move {
            if let Err(error) = answer(stream, number).await {
                eprintln!("a stream ended early: {error}");
            }
        });
    }
}

/// Answers what comes on a stream until it ends.
async fn answer(mut stream: Stream, number: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
    loop {
        let mut request = match stream.recv().await {
            Ok(Some(request)) => request,
            // Nothing of it is under way when a client ends a stream, or all of them.
            Ok(None) | Err(RecvError::SessionLost(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut reply = stream.buffer(16);
        reply.put_u64(request.get_u64());
        reply.put_u64(number);
        stream.send(reply, Flush::More).await?;
    }
}
