//! The server: a thread for each session, and a pool of threads for handlers that take long.

use std::{error::Error, thread};

use examples::{
    primes::{
        Factors, Number, Range,
        primes_blocking::{Primes, PrimesServer},
    },
    second,
};
use shmipc_rpc::{
    Request, Response, Status,
    blocking::{Listener, Server, Shutdown, Streaming},
};

/// Serves until the first process is done.
pub(crate) fn run(address: &str) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind(address)?;
    second::say_ready()?;
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    thread::spawn(move || {
        second::wait_for_end();
        stop.begin();
    });
    Server::builder()
        .add_service(PrimesServer::new(Arithmetic))
        .serve_with_listener_and_shutdown(listener, &shutdown)?;
    Ok(())
}

struct Arithmetic;

impl Primes for Arithmetic {
    fn factor(&self, request: Request<Number>) -> Result<Response<Factors>, Status> {
        // A thread cannot be interrupted: what may take long asks now and then whether somebody waits.
        let cancellation = request.cancellation();
        let mut rest = request.into_inner().value;
        if rest == 0 {
            return Err(Status::invalid_argument("zero has no factors"));
        }
        let mut values = Vec::new();
        while rest != 1 {
            let factor = smallest_factor(rest, || !cancellation.is_cancelled())
                .ok_or_else(|| Status::cancelled("nobody waits"))?;
            values.push(factor);
            rest /= factor;
        }
        Ok(Response::new(Factors { values }))
    }

    fn between(
        &self,
        request: Request<Range>,
    ) -> Result<Response<impl Iterator<Item = Result<Number, Status>> + Send + 'static>, Status>
    {
        let Range { from, to } = request.into_inner();
        let is_prime = |&value: &u64| smallest_factor(value, || true) == Some(value);
        let primes = (from.max(2)..to).filter(is_prime);
        // Each is computed when the caller is ready for it.
        Ok(Response::new(primes.map(|value| Ok(Number { value }))))
    }

    fn multiply(&self, request: Request<Streaming<Number>>) -> Result<Response<Number>, Status> {
        let mut product: u64 = 1;
        for number in request.into_inner() {
            product = product
                .checked_mul(number?.value)
                .ok_or_else(|| Status::out_of_range("the product has more than 64 bits"))?;
        }
        Ok(Response::new(Number { value: product }))
    }
}

/// Candidates that are tried before the question is asked again whether to go on.
const TRIED_IN_A_ROW: usize = 1 << 16;

/// Returns the smallest factor of a number above one, but for one. `None`: it is not to `go_on`.
fn smallest_factor(number: u64, go_on: impl Fn() -> bool) -> Option<u64> {
    let mut candidates = (2..)
        .take_while(|factor| factor * factor <= number)
        .peekable();
    while go_on() {
        let mut some = candidates.by_ref().take(TRIED_IN_A_ROW);
        if let Some(factor) = some.find(|factor| number.is_multiple_of(*factor)) {
            return Some(factor);
        }
        if candidates.peek().is_none() {
            return Some(number);
        }
    }
    None
}
