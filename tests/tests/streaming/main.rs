//! Calls with many messages, where it is hard: slow readers, ends of all kinds at any time, killed processes, deadlines.

mod backpressure;
mod deadlines;
mod killed;
mod oracle;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shmipc_rpc::{
    Channel, Listener, Request, Server, Stats, Status, Streaming, client::Caller,
    server::ConnectedPeer,
};
use tests::{
    echo::Place,
    in_time,
    streams::{Item, ONE, Streams},
    until,
};
use tokio::task::JoinHandle;

/// Longer than anything here takes, unless it hangs.
const LONG: Duration = Duration::from_secs(30);

/// A server and a caller, over one session in this process.
struct Lab {
    channel: Channel,
    caller: Caller,
    sessions: Arc<Mutex<Vec<ConnectedPeer>>>,
    serving: JoinHandle<()>,
    _place: Place,
}

impl Lab {
    async fn new(service: Streams) -> Self {
        let place = Place::new();
        let sessions: Arc<Mutex<Vec<ConnectedPeer>>> = Arc::default();
        let accepted = Arc::clone(&sessions);
        let server = Server::builder()
            .add_service(service)
            .on_session(move |session| {
                let mut accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner);
                accepted.push(session);
            });
        let listener = Listener::bind(place.path()).unwrap();
        let serving =
            tokio::spawn(async move { server.serve_with_listener(listener).await.unwrap() });
        let channel = in_time("connecting", Channel::connect(place.path())).await;
        let channel = channel.unwrap();
        let lab = Self {
            caller: Caller::new(channel.clone()),
            channel,
            sessions,
            serving,
            _place: place,
        };
        // The server has accepted the session when it has answered.
        lab.call(0).await;
        lab
    }

    /// What the caller's end of the session says.
    fn client(&self) -> Stats {
        let stats = self.channel.stats();
        assert_eq!(stats.len(), 1, "there is one session");
        stats[0]
    }

    /// What the server's end of the session says.
    fn server(&self) -> Stats {
        let sessions = self.sessions.lock().unwrap();
        assert_eq!(sessions.len(), 1, "there is one session");
        sessions[0].stats()
    }

    /// Makes a unary call, with an answer.
    async fn call(&self, number: u64) {
        let request = Request::new(Item::new(number, 64));
        let answer = in_time("an answer", self.caller.unary::<_, Item>(&ONE, request)).await;
        let answer = answer.expect("the session is as good as new");
        assert_eq!(answer.into_inner(), Item::new(number, 64));
    }

    /// Waits until neither end holds anything.
    async fn is_clean(&self, what: &str) {
        until(&format!("{what}: nothing is left"), || {
            [self.client(), self.server()].iter().all(|stats| {
                (stats.streams_open, stats.leases_held) == (0, 0)
                    && (stats.segments_under_way, stats.arena_used) == (0, 0)
            })
        })
        .await;
        self.call(1).await;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Reads all messages, and checks that they are those with these numbers.
async fn read_all(
    mut messages: Streaming<Item>,
    numbers: std::ops::Range<u64>,
    len: usize,
) -> Result<(), Status> {
    for number in numbers {
        let message = messages.message().await?;
        assert!(message == Some(Item::new(number, len)), "message {number}");
    }
    assert_eq!(messages.message().await?, None);
    Ok(())
}
