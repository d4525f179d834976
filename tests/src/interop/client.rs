//! The program as a client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

use super::{
    implementation::{Client, Ended, Implementation, Stream},
    message::{CLOSE, ECHO, HEAD_LEN, Head, PAYLOAD_MAX, REPLY, answer, checksum, pattern},
    program::{commands, say},
    setting::{Closing, Plan, Setting},
};
use crate::LONG;

/// What the tasks of a client share.
struct Shared<C> {
    client: C,
    piece: usize,
    seeds: AtomicU64,
}

/// Messages that go on in the background.
struct Load {
    tasks: JoinSet<Result<(), String>>,
    done: Arc<[AtomicU64]>,
    over: Arc<AtomicBool>,
}

/// Opens all sessions, and does what it is told to.
///
/// # Errors
///
/// What went wrong.
pub async fn connect<I: Implementation>(setting: &Setting) -> Result<(), String> {
    let shared = Arc::new(Shared {
        client: I::connect(setting).await?,
        piece: setting.piece,
        seeds: AtomicU64::new(1),
    });
    let mut commands = commands();
    let mut load = None;
    say(&format!("ready {}", setting.socket.display()));
    while let Some(command) = commands.recv().await {
        let mut words = command.split_whitespace();
        let word = words.next().unwrap_or_default();
        let plan = Plan::parse(words)?;
        match (word, &mut load) {
            ("run", _) => run(&shared, &plan).await?,
            ("lose", _) => lose(&shared, &plan).await?,
            ("load", _) => {
                load = Some(Load::start(&shared, &plan));
                say("loaded");
            }
            ("cycle", Some(load)) => {
                load.cycle().await?;
                say("cycled");
            }
            ("unload", Some(load)) => say(&format!("done {} ok", load.stop().await?)),
            ("quit", _) => break,
            _ => return Err(format!("a client does not understand {command}")),
        }
    }
    drop(load);
    if let Ok(shared) = Arc::try_unwrap(shared) {
        shared.client.close().await;
    }
    say("done 0 ok");
    Ok(())
}

async fn run<C>(shared: &Arc<Shared<C>>, plan: &Plan) -> Result<(), String>
where
    C: Client<Stream: Stream>,
{
    // All at once, because others refuse to open any for 30 seconds after one message has gone over the socket.
    let mut streams = Vec::new();
    for _ in 0..plan.streams {
        let stream = match plan.reuse {
            true => None,
            false => Some(shared.client.get().await?),
        };
        streams.push(stream);
    }
    let mut tasks = JoinSet::new();
    for (worker, stream) in streams.into_iter().enumerate() {
        let (shared, plan) = (Arc::clone(shared), plan.clone());
        tasks.spawn(async move {
            match stream {
                Some(mut stream) => shared.exchange(&mut stream, &plan, worker).await,
                None => shared.exchange_reusing(&plan, worker).await,
            }
        });
    }
    all(&mut tasks).await?;
    let messages = plan.streams * plan.messages;
    let fallbacks = shared.client.fallbacks();
    say(&format!("done {messages} ok fallbacks={fallbacks}"));
    Ok(())
}

/// Waits, with streams in use, for the session to be lost.
async fn lose<C>(shared: &Arc<Shared<C>>, plan: &Plan) -> Result<(), String>
where
    C: Client<Stream: Stream>,
{
    let mut streams = Vec::new();
    for worker in 0..plan.streams {
        let mut stream = shared.client.get().await?;
        let request = shared.request(plan, worker, 0);
        shared.send(&mut stream, request).await?;
        shared.expect(&mut stream, &request).await?;
        streams.push(stream);
    }
    say("waiting");
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        tasks.spawn(async move {
            match in_time(stream.readable()).await? {
                Err(Ended::Finished | Ended::Lost(_)) => Ok(()),
                other => Err(format!("read without a session: {other:?}")),
            }
        });
    }
    all(&mut tasks).await?;
    say(&format!("done {} ok", plan.streams));
    Ok(())
}

async fn all(tasks: &mut JoinSet<Result<(), String>>) -> Result<(), String> {
    while let Some(done) = tasks.join_next().await {
        done.map_err(|panic| panic.to_string())??;
    }
    Ok(())
}

impl<C: Client<Stream: Stream>> Shared<C> {
    /// Sends all messages of one stream, with a window of them under way, and ends the stream as the plan says.
    async fn exchange(
        &self,
        stream: &mut C::Stream,
        plan: &Plan,
        worker: usize,
    ) -> Result<(), String> {
        let all = (0..plan.messages).collect::<Vec<_>>();
        for window in all.chunks(plan.window) {
            let mut requests = Vec::with_capacity(window.len());
            for message in window {
                let mut request = self.request(plan, worker, *message);
                if *message + 1 == plan.messages && plan.close == Closing::Server {
                    request.kind = CLOSE;
                }
                self.send(stream, request).await?;
                requests.push(request);
            }
            for request in &requests {
                self.expect(stream, request).await?;
            }
            stream.release();
            if !plan.pause.is_zero() {
                tokio::time::sleep(plan.pause).await;
            }
        }
        if plan.close == Closing::Server {
            self.expect_end(stream).await?;
        }
        stream.close().await
    }

    /// Takes a stream for each message and puts it back.
    async fn exchange_reusing(&self, plan: &Plan, worker: usize) -> Result<(), String> {
        for message in 0..plan.messages {
            let mut stream = self.client.get().await?;
            let request = self.request(plan, worker, message);
            self.send(&mut stream, request).await?;
            self.expect(&mut stream, &request).await?;
            self.client.put_back(stream).await;
        }
        Ok(())
    }

    fn request(&self, plan: &Plan, worker: usize, message: usize) -> Head {
        let size = plan.sizes[(worker + message) % plan.sizes.len()];
        Head {
            kind: ECHO,
            len: size,
            reply_len: size,
            replies: plan.replies,
            seed: self.seeds.fetch_add(1, Relaxed),
            ..Head::default()
        }
    }

    async fn send(&self, stream: &mut C::Stream, request: Head) -> Result<(), String> {
        let payload = pattern(request.len as usize, request.seed);
        let head = Head {
            checksum: checksum(&payload),
            ..request
        };
        let sent = in_time(stream.send(&head.encode(), &payload, self.piece)).await?;
        sent.map_err(|why| format!("{} bytes were refused: {why:?}", request.len))
    }

    /// Receives the replies to a message.
    async fn expect(&self, stream: &mut C::Stream, request: &Head) -> Result<(), String> {
        for index in 0..u64::from(request.replies) {
            let reply = receive(stream, self.piece).await?;
            let len = request.reply_len;
            let reply =
                reply.map_err(|why| format!("lost before reply {index} of {len} bytes: {why}"))?;
            let seed = answer(request.seed, index);
            if (reply.kind, reply.index, reply.seed) != (REPLY, index, seed) {
                return Err(format!("{reply:?} is not reply {index} to {request:?}"));
            }
        }
        Ok(())
    }

    /// Demands that the server has closed the stream: it can be neither read nor written.
    async fn expect_end(&self, stream: &mut C::Stream) -> Result<(), String> {
        let read = in_time(stream.readable()).await?;
        if !matches!(read, Err(Ended::Finished)) {
            return Err(format!("read behind the end: {read:?}"));
        }
        let head = Head {
            kind: ECHO,
            ..Head::default()
        };
        // Where each direction ends by itself, it takes a while to learn that nobody listens.
        let refused = async {
            loop {
                match stream.send(&head.encode(), &[], self.piece).await {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(refused) => break refused,
                }
            }
        };
        let refused = in_time(refused).await?;
        if !matches!(refused, Ended::Finished | Ended::Lost(_)) {
            return Err(format!("written behind the end: {refused:?}"));
        }
        Ok(())
    }
}

/// Receives one message and verifies it, or says within how the session was lost.
pub(super) async fn receive(
    stream: &mut impl Stream,
    piece: usize,
) -> Result<Result<Head, String>, String> {
    let head = match in_time(stream.read(HEAD_LEN)).await? {
        Ok(head) => head,
        Err(Ended::Lost(why)) => return Ok(Err(why)),
        Err(why) => return Err(format!("no head: {why:?}")),
    };
    let head = head.first_chunk().ok_or("a head is longer")?;
    let head = Head::decode(head);
    if PAYLOAD_MAX < head.len {
        return Err(format!("a message of {} bytes is announced", head.len));
    }
    let len = head.len as usize;
    let mut payload = Vec::with_capacity(len);
    while payload.len() < len {
        let rest = len - payload.len();
        let next = if piece == 0 { rest } else { rest.min(piece) };
        match in_time(stream.read(next)).await? {
            Ok(bytes) => payload.extend(bytes),
            Err(Ended::Lost(why)) => return Ok(Err(why)),
            Err(why) => {
                let got = payload.len();
                return Err(format!("torn behind {got} of {len} bytes: {why:?}"));
            }
        }
    }
    head.verify(&payload)?;
    Ok(Ok(head))
}

async fn in_time<F: Future>(future: F) -> Result<F::Output, String> {
    let done = timeout(LONG, future).await;
    done.map_err(|_| format!("nothing happens for {LONG:?}"))
}

impl Load {
    fn start<C>(shared: &Arc<Shared<C>>, plan: &Plan) -> Self
    where
        C: Client<Stream: Stream>,
    {
        let done: Arc<[_]> = (0..plan.streams).map(|_| AtomicU64::new(0)).collect();
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for worker in 0..plan.streams {
            let (shared, done, over) = (Arc::clone(shared), Arc::clone(&done), Arc::clone(&over));
            let once = Plan {
                messages: 1,
                ..plan.clone()
            };
            tasks.spawn(async move {
                while !over.load(Relaxed) {
                    shared.exchange_reusing(&once, worker).await?;
                    done[worker].fetch_add(1, Relaxed);
                }
                Ok(())
            });
        }
        Self { tasks, done, over }
    }

    /// Waits until each worker has begun and ended a message since.
    async fn cycle(&mut self) -> Result<(), String> {
        let begun: Vec<_> = self.done.iter().map(|done| done.load(Relaxed)).collect();
        for (done, begun) in self.done.iter().zip(begun) {
            while done.load(Relaxed) < begun + 2 {
                if let Some(ended) = self.tasks.try_join_next() {
                    return Err(format!("a worker of the load ended: {ended:?}"));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    async fn stop(&mut self) -> Result<u64, String> {
        self.over.store(true, Relaxed);
        all(&mut self.tasks).await?;
        Ok(self.done.iter().map(|done| done.load(Relaxed)).sum())
    }
}
