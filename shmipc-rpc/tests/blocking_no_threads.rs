//! In a process of its own, because it counts threads.

use std::{fs, thread};

use shmipc_rpc::{
    Method, Request, Response,
    blocking::{Call, Caller, Channel, Duplex, Server, Service, Shutdown, serve},
};

const ADD: Method = Method::unary("sum.Sum", "Add", "/sum.Sum/Add");
const RUN: Method = Method::bidi_streaming("sum.Sum", "Run", "/sum.Sum/Run");

struct Sum;

impl Service for Sum {
    const NAME: &'static str = "sum.Sum";
    const METHODS: &'static [Method] = &[ADD, RUN];

    fn call(&self, call: Call) {
        match call.path() {
            "/sum.Sum/Add" => serve::unary(call, |request: Request<u64>| {
                Ok(Response::new(request.into_inner() + 1))
            }),
            "/sum.Sum/Run" => serve::bidi_streaming(call, |request| {
                let mut sum = 0u64;
                Ok(Response::new(request.into_inner().map(
                    move |next: Result<u64, _>| {
                        sum += next?;
                        Ok(sum)
                    },
                )))
            }),
            _ => serve::unimplemented(call),
        }
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// A client in a process of its own, so that the server's threads do not count.
#[test]
fn a_client_makes_no_thread_and_needs_no_runtime() {
    if let Some(path) = std::env::var_os("SHMIPC_TEST_SOCKET") {
        return call(path.into());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sum.sock");
    let listener = shmipc_transport::blocking::Listener::bind(path.as_path()).unwrap();
    let shutdown = Shutdown::new();
    let server = {
        let shutdown = shutdown.clone();
        thread::spawn(move || {
            let server = Server::builder().add_service(Sum);
            server.serve_with_listener_and_shutdown(listener, &shutdown)
        })
    };
    let client = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_client_makes_no_thread_and_needs_no_runtime"])
        .env("SHMIPC_TEST_SOCKET", &path)
        .status();
    assert!(client.unwrap().success());
    shutdown.begin();
    server.join().unwrap().unwrap();
}

fn call(path: std::path::PathBuf) {
    assert!(tokio::runtime::Handle::try_current().is_err());
    let before = threads();
    let caller = Caller::new(Channel::connect(path).unwrap());
    for number in 0..1000 {
        let sum: Response<u64> = caller.unary(&ADD, Request::new(number)).unwrap();
        assert_eq!(sum.into_inner(), number + 1);
    }
    let mut run: Duplex<u64, u64> = caller.bidi_streaming(&RUN, Request::new(())).unwrap();
    for number in 1..100 {
        run.send(&number).unwrap();
        assert_eq!(run.message().unwrap(), Some(number * (number + 1) / 2));
    }
    assert_eq!(threads(), before);
}
