//! Blocking services whose methods do what the test says, and ways to reach them.

use std::{
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use shmipc_rpc::{
    Config, Method, Request, Response, ServeError, Status,
    blocking::{Call, Caller, Channel, Server, Service, Shutdown, Streaming, serve},
};
use tempfile::TempDir;

pub(crate) use super::common::{
    Handled, Packet, RUN, packet,
    streams::{CHAT, LIST, RECORD, numbered},
};

/// Longer than anything here takes, unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The service with the unary method.
pub(crate) struct Lab(Box<dyn Fn(Request<Packet>) -> Handled + Send + Sync>);

pub(crate) fn lab(handler: impl Fn(Request<Packet>) -> Handled + Send + Sync + 'static) -> Lab {
    Lab(Box::new(handler))
}

pub(crate) fn echo() -> Lab {
    lab(|request| Ok(Response::new(request.into_inner())))
}

impl Service for Lab {
    const NAME: &'static str = "lab.v1.Lab";
    const METHODS: &'static [Method] = &[RUN];

    fn call(&self, call: Call) {
        match call.path() {
            "/lab.v1.Lab/Run" => serve::unary(call, &self.0),
            _ => serve::unimplemented(call),
        }
    }
}

pub(crate) type Items = Box<dyn Iterator<Item = Result<Packet, Status>> + Send>;
type Many = Result<Response<Items>, Status>;

/// The service with the methods of many messages.
pub(crate) struct Streams {
    pub(crate) list: fn(Request<Packet>) -> Many,
    pub(crate) record: fn(Request<Streaming<Packet>>) -> Handled,
    pub(crate) chat: fn(Request<Streaming<Packet>>) -> Many,
}

impl Default for Streams {
    /// Counts down from a number; sums up; doubles.
    fn default() -> Self {
        Self {
            list: |request| {
                let mut response =
                    Response::new(items((0..request.get_ref().number).rev().map(numbered)));
                response
                    .metadata_mut()
                    .insert("x-head", "first".parse().unwrap());
                response
                    .trailers_mut()
                    .insert("x-tail", "last".parse().unwrap());
                Ok(response)
            },
            record: |request| {
                let sum = request.into_inner().try_fold(0, |sum, message| {
                    message.map(|message| sum + message.number)
                });
                Ok(Response::new(numbered(sum?)))
            },
            chat: |request| {
                let doubled = |message: Packet| numbered(2 * message.number);
                let messages = request
                    .into_inner()
                    .map(move |message| message.map(doubled));
                Ok(Response::new(Box::new(messages)))
            },
        }
    }
}

pub(crate) fn items(packets: impl Iterator<Item = Packet> + Send + 'static) -> Items {
    Box::new(packets.map(Ok))
}

impl Service for Streams {
    const NAME: &'static str = "lab.v1.Streams";
    const METHODS: &'static [Method] = &[LIST, RECORD, CHAT];

    fn call(&self, call: Call) {
        match call.path() {
            "/lab.v1.Streams/List" => serve::server_streaming(call, self.list),
            "/lab.v1.Streams/Record" => serve::client_streaming(call, self.record),
            "/lab.v1.Streams/Chat" => serve::bidi_streaming(call, self.chat),
            _ => serve::unimplemented(call),
        }
    }
}

/// A server in a thread. Shut down when it is dropped.
pub(crate) struct Running {
    pub(crate) directory: Option<TempDir>,
    pub(crate) shutdown: Shutdown,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

pub(crate) fn run(server: Server) -> Running {
    run_in(tempfile::tempdir().unwrap(), server)
}

pub(crate) fn run_in(directory: TempDir, server: Server) -> Running {
    run_by(directory, Config::default(), server)
}

/// Serves in sessions as `config` says. What the server says of that has no effect where it is passed a listener.
pub(crate) fn run_with(config: Config, server: Server) -> Running {
    run_by(tempfile::tempdir().unwrap(), config, server)
}

fn run_by(directory: TempDir, config: Config, server: Server) -> Running {
    let shutdown = Shutdown::new();
    let path = directory.path().join("lab.sock");
    // Bound here, so that clients find it.
    let listener = shmipc_transport::blocking::Listener::bind_with(path, config).unwrap();
    let stop = shutdown.clone();
    let thread = thread::spawn(move || server.serve_with_listener_and_shutdown(listener, &stop));
    Running {
        directory: Some(directory),
        shutdown,
        thread: Some(thread),
    }
}

impl Running {
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.as_ref().unwrap().path().join("lab.sock")
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::connect(self.path()).unwrap()
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller::new(self.channel())
    }

    /// Drains the server, and returns its directory.
    pub(crate) fn stop(mut self) -> TempDir {
        self.shutdown.begin();
        self.thread.take().unwrap().join().unwrap().unwrap();
        self.directory.take().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(thread) = self.thread.take() {
            // A panic is reported by the test that caused it.
            let _ = thread.join();
        }
    }
}

/// Calls the unary method.
pub(crate) fn ask(caller: &Caller, text: &str) -> Handled {
    let mut request = Request::new(packet(text));
    request.set_timeout(LONG);
    caller.unary(&RUN, request)
}

/// Times for calls that get to their handlers first, and are late then: short ones, since the tests wait for all of it, and longer ones on
/// a machine that has much else to do.
pub(crate) fn growing() -> impl Iterator<Item = Duration> {
    let times = std::iter::successors(Some(Duration::from_millis(20)), |time| Some(*time * 4));
    times.take_while(|time| *time < LONG)
}

/// Waits for something that another thread does.
pub(crate) fn until(mut happens: impl FnMut() -> bool) {
    let began = Instant::now();
    while !happens() {
        assert!(began.elapsed() < LONG, "it never happened");
        thread::yield_now();
    }
}
