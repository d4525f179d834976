//! The clients: tasks that call over one pool of sessions, one call after the other.

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf as _, BufMut as _};
use shmipc_transport::{Flush, PoolConfig, Selection, SessionPool};
use tokio::{task::JoinSet, time::sleep};

/// Tasks that call.
const CALLERS: u64 = 16;

/// Calls that each server has to answer before the next takes its place.
const CALLS: u64 = 500;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Clients {
    tally: Arc<Tally>,
    callers: JoinSet<()>,
}

/// What has become of the calls.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
    /// The newest server that has answered, and how many calls it has answered.
    server: AtomicU64,
    answered_there: AtomicU64,
    is_over: AtomicBool,
}

impl Clients {
    pub(crate) async fn start(link: &str, socket: &Path) -> Result<Self, Box<dyn Error>> {
        let config = PoolConfig::builder()
            .session(crate::config(link)?)
            .size(2)
            .selection(Selection::LeastLoaded)
            .build()?;
        let pool = SessionPool::connect_with(socket, config).await?;
        let tally = Arc::<Tally>::default();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (pool, tally) = (pool.clone(), Arc::clone(&tally));
            callers.spawn(async move {
                let mut number = caller << 32;
                while !tally.is_over.load(Relaxed) {
                    number += 1;
                    match call(&pool, number).await {
                        Ok(server) => tally.answered_by(server),
                        Err(error) => {
                            eprintln!("a call failed: {error}");
                            tally.failed.fetch_add(1, Relaxed);
                        }
                    }
                }
            });
        }
        Ok(Self { tally, callers })
    }

    /// Waits until the server of this number has answered some calls.
    pub(crate) async fn are_served_by(&self, number: u64) -> Result<(), Box<dyn Error>> {
        let tally = &self.tally;
        let served = async {
            while tally.server.load(Relaxed) < number || tally.answered_there.load(Relaxed) < CALLS
            {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let served = tokio::time::timeout(LIMIT, served).await;
        Ok(served.map_err(|_| format!("nobody is served by server {number}"))?)
    }

    /// Ends the calls, and returns how many there were and how many of them failed.
    pub(crate) async fn stop(self) -> Result<(u64, u64), Box<dyn Error>> {
        let Self { tally, mut callers } = self;
        tally.is_over.store(true, Relaxed);
        while let Some(ended) = callers.join_next().await {
            ended?;
        }
        let (answered, failed) = (tally.answered.load(Relaxed), tally.failed.load(Relaxed));
        Ok((answered + failed, failed))
    }
}

impl Tally {
    fn answered_by(&self, server: u64) {
        self.answered.fetch_add(1, Relaxed);
        let newest = self.server.fetch_max(server, Relaxed);
        if newest < server {
            self.answered_there.store(0, Relaxed);
        } else if newest == server {
            self.answered_there.fetch_add(1, Relaxed);
        }
    }
}

/// One call, on a stream that others have used before. Returns the number of the server that has answered.
async fn call(pool: &SessionPool, number: u64) -> Result<u64, Box<dyn Error + Send + Sync>> {
    // If the session turns out to go away, it is sent in another; it is never sent twice.
    let calling = pool.stream_with(8, Flush::More, |request| request.put_u64(number));
    let mut stream = calling.await?;
    let mut reply = stream.recv().await?.ok_or("the stream has ended")?;
    if reply.remaining() != 16 || reply.get_u64() != number {
        return Err("that is an answer to something else".into());
    }
    let server = reply.get_u64();
    // Nothing more is to come.
    stream.give_back();
    Ok(server)
}
