//! The sessions of a server, and the threads that take their calls.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use shmipc_transport::{
    RecvBuf,
    blocking::{Session, Stream},
};

use super::{
    call::{Call, fail},
    pool::Pool,
    routes::Routes,
    seat::{Seat, Watchman},
};
use crate::{
    Code, Status,
    server::{Drain, Draining, Limits, Served, panic::guarded},
};

/// What all threads of a server share.
pub(super) struct Hub {
    pub(super) routes: Routes,
    pub(super) limits: Limits,
    pool: Arc<Pool>,
    watchman: Watchman,
    live: Mutex<Live>,
    /// Told when a session has ended.
    ended: Condvar,
    /// What handlers are told of the server's end.
    drain: Arc<Drain>,
}

#[derive(Default)]
struct Live {
    sessions: HashMap<u64, Post>,
    last_id: u64,
    /// Whether the watchman has a thread.
    is_watched: bool,
}

/// A session, and who takes its calls.
#[derive(Clone)]
struct Post {
    id: u64,
    session: Session,
    /// The same, as requests know it.
    served: Arc<Served>,
    seat: Arc<Seat>,
}

/// Of the calls that run in a session's thread, one in this many is timed: reading the clock twice costs a tenth of a short
/// call.
const TIMED_EVERY: u8 = 8;

/// How long an idle client may take to hang up once it was told that the server goes away. A blocking one only hears of it
/// with its next call.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(1);

impl Hub {
    pub(super) fn new(
        routes: Routes,
        limits: Limits,
        pool: Arc<Pool>,
        drain: Arc<Drain>,
    ) -> Arc<Self> {
        Arc::new(Self {
            routes,
            limits,
            pool,
            watchman: Watchman::default(),
            live: Mutex::default(),
            ended: Condvar::new(),
            drain,
        })
    }

    /// Serves a session, in a thread of its own.
    pub(super) fn begin(self: &Arc<Self>, session: Session) {
        let peer = session.peer();
        tracing::debug!(target: "shmipc_rpc::server", pid = peer.pid(), uid = peer.uid(), "session began");
        let post = {
            let mut live = self.live();
            live.last_id += 1;
            let post = Post {
                id: live.last_id,
                served: Arc::new(Served::new(session.as_async(), &self.drain)),
                session,
                seat: Arc::default(),
            };
            live.sessions.insert(post.id, post.clone());
            if !live.is_watched {
                live.is_watched = self.begin_to_watch();
            }
            post
        };
        self.man(post);
    }

    /// Lets the calls that run come to their end (R10), within the time that there is, and returns when all sessions are over.
    pub(super) fn drain(&self) {
        self.drain.begin(None);
        let mut live = self.live();
        for post in live.sessions.values() {
            post.session.go_away();
        }
        let mut due = Instant::now() + HANG_UP_TIMEOUT;
        while !live.sessions.is_empty() {
            let until = Draining::of(&self.drain).deadline();
            if until.is_some_and(|until| until <= Instant::now()) {
                self.drain.end();
                for post in live.sessions.values() {
                    if post.seat.is_busy() {
                        self.leave(post);
                    }
                    post.served.report();
                    post.session.close();
                }
                return;
            }
            let next = until.map_or(due, |until| until.min(due));
            let left = next.saturating_duration_since(Instant::now());
            let waited = self.ended.wait_timeout(live, left);
            live = waited.unwrap_or_else(PoisonError::into_inner).0;
            if due <= Instant::now() {
                due = Instant::now() + HANG_UP_TIMEOUT;
                // A client that does not hang up, although none of its calls runs, is hung up on.
                for post in live.sessions.values().filter(|post| !post.is_busy()) {
                    post.session.close();
                }
            }
        }
    }

    /// Has whoever drains look again how much time there is.
    pub(super) fn look_again(&self) {
        // Locked, so that it happens before a look or while somebody waits, and not in between.
        let _live = self.live();
        self.ended.notify_all();
    }

    /// Ends all sessions, whatever runs.
    pub(super) fn close(&self) {
        for post in self.live().sessions.values() {
            post.session.close();
        }
        self.pool.close();
        self.watchman.dismiss();
    }

    /// Takes a session's calls, in a thread of its own.
    fn man(self: &Arc<Self>, post: Post) {
        self.watchman.watch(post.id, Arc::clone(&post.seat));
        let (hub, session, id) = (Arc::clone(self), post.session.clone(), post.id);
        let spawned = thread::Builder::new()
            .name("shmipc-session".to_owned())
            .spawn(move || hub.take_calls(&post));
        if let Err(error) = spawned {
            warn_of_thread(&error);
            session.close();
            self.end(id);
        }
    }

    fn begin_to_watch(self: &Arc<Self>) -> bool {
        let hub = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("shmipc-watchman".to_owned())
            .spawn(move || hub.watchman.run(|session| hub.relieve(session)));
        if let Err(error) = &spawned {
            warn_of_thread(error);
        }
        spawned.is_ok()
    }

    /// Has another thread take the calls of a session whose thread is held up by a handler.
    fn relieve(self: &Arc<Self>, id: u64) {
        let post = {
            let mut live = self.live();
            let Some(post) = live.sessions.get_mut(&id) else {
                return;
            };
            // Once it is reported, it is not to be counted again.
            if !self.drain.is_over() {
                self.leave(post);
            }
            // Those that follow are to run elsewhere, at least for a while.
            self.routes.known(post.seat.method()).is_slow();
            post.seat.count(self.pool.count(id));
            post.seat = Arc::default();
            post.clone()
        };
        self.man(post);
    }

    /// Leaves the handler that runs in the seat to its thread. It counts from now on, like those in other threads.
    fn leave(&self, post: &Post) {
        let known = self.routes.known(post.seat.method());
        post.seat.leave(post.served.permit(known.uri.clone()));
    }

    fn end(&self, id: u64) {
        self.watchman.forget(id);
        self.live().sessions.remove(&id);
        self.ended.notify_all();
    }

    /// Takes the calls of a session until it ends, or another thread has taken the seat.
    fn take_calls(self: &Arc<Self>, post: &Post) {
        let mut turn = Turn::default();
        let ended = guarded(|| {
            loop {
                match post.session.accept_stream() {
                    Ok(stream) => {
                        if !self.on_stream(post, stream, &mut turn) {
                            return false;
                        }
                    }
                    Err(lost) => {
                        tracing::debug!(target: "shmipc_rpc::server", reason = %lost, "session ended");
                        return true;
                    }
                }
            }
        });
        // A panic here is a bug of ours, which must not leave a session that nobody serves.
        if ended.unwrap_or(true) {
            post.session.close();
            self.end(post.id);
        }
    }

    /// Answers a call, or has it answered. Returns `false` if another thread has taken the seat meanwhile.
    fn on_stream(self: &Arc<Self>, post: &Post, mut stream: Stream, turn: &mut Turn) -> bool {
        // A stream is handed out with its first message. If it has none, it ended, or was given up, before it told what it
        // wants: there is nobody to answer.
        if let Some(Ok(Some(frame))) = stream.try_recv() {
            self.on_frame(post, stream, frame, turn)
        } else {
            true
        }
    }

    fn on_frame(
        self: &Arc<Self>,
        post: &Post,
        stream: Stream,
        frame: RecvBuf,
        turn: &mut Turn,
    ) -> bool {
        let session = &post.session;
        // A stream that was reset makes way for another one at once; its call, only when a thread comes to it.
        let streams_max = usize::try_from(session.config().streams_max()).unwrap_or(usize::MAX);
        let calls_max = self.limits.calls_per_session_max.min(streams_max);
        if calls_max <= post.served.running() {
            let status = Status::resource_exhausted(format!(
                "{calls_max} calls run in this session, which is the limit"
            ));
            let mut stream = stream.into_async().split().0;
            fail(session, &mut stream, &status, None);
            return true;
        }
        let call = match Call::read(self, session, &post.served, stream.into_async(), frame) {
            Ok(call) => call,
            Err((mut stream, status)) => {
                fail(session, &mut stream, &status, None);
                return true;
            }
        };
        let known = self.routes.known(call.method);
        let is_quick = known.is_unary && known.pace.is_proven();
        if is_quick && call.is_whole() && self.pool.admits(post.id) {
            return self.run_here(post, call, turn);
        }
        self.run_elsewhere(post, call)
    }

    /// Runs a handler in the session's thread.
    fn run_here(&self, post: &Post, call: Call, turn: &mut Turn) -> bool {
        let known = self.routes.known(call.method);
        let timed = turn.is_timed().then(Instant::now);
        post.seat.begin(call.method);
        self.watchman.notice();
        self.run(call);
        let is_mine = post.seat.end();
        if let Some(began) = timed {
            known.pace.record(began.elapsed());
        }
        is_mine
    }

    /// Runs a handler in a thread of the pool.
    fn run_elsewhere(self: &Arc<Self>, post: &Post, call: Call) -> bool {
        let (hub, method) = (Arc::clone(self), call.method);
        let permit = post.served.permit(self.routes.known(method).uri.clone());
        let job = Box::new(move || {
            let known = hub.routes.known(call.method);
            // Its caller may have lost patience while it waited for a thread, or the server its time.
            if hub.drain.is_over() || call.is_abandoned() {
                call.answer.within.record(Code::Cancelled);
            } else {
                let began = Instant::now();
                hub.run(call);
                if known.is_unary {
                    known.pace.record(began.elapsed());
                }
            }
            drop(permit);
        });
        let Err(job) = self.pool.submit(post.id, job) else {
            return true;
        };
        // There are no threads to be had. Better late than never.
        post.seat.begin(method);
        self.watchman.notice();
        drop(guarded(job));
        post.seat.end()
    }

    fn run(&self, call: Call) {
        // A panic of a handler has become a status; one of the service itself resets the stream, as dropping the call does.
        drop(guarded(|| self.routes.call(call)));
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // No code of users runs under it.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Post {
    fn is_busy(&self) -> bool {
        self.seat.is_busy() || self.served.running() != 0
    }
}

/// Chooses the calls that are timed.
#[derive(Default)]
struct Turn(u8);

impl Turn {
    fn is_timed(&mut self) -> bool {
        self.0 = (self.0 + 1) % TIMED_EVERY;
        self.0 == 0
    }
}

fn warn_of_thread(error: &io::Error) {
    tracing::warn!(target: "shmipc_rpc::server", %error, "cannot make a thread");
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("routes", &self.routes)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
