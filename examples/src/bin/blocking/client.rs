//! The client: threads that share a channel.

use std::{error::Error, fmt::Write as _, thread, time::Duration};

use examples::primes::{Number, Range, primes_blocking::PrimesClient};
use shmipc_rpc::{Code, Request, Status, blocking::Channel};

/// What the threads take apart.
const NUMBERS: [u64; 4] = [360, 9_973, 1_000_001, 600_851_475_143];

/// Makes the calls, and returns what came of them.
pub(crate) fn run(address: &str) -> Result<String, Box<dyn Error>> {
    let client = PrimesClient::new(Channel::connect(address)?);
    let mut report = String::new();

    // A thread for each number; all of them wait on one session.
    let factored: Vec<_> = thread::scope(|scope| {
        let client = &client;
        let threads = NUMBERS.map(|value| scope.spawn(move || client.factor(Number { value })));
        threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    for (number, factored) in NUMBERS.into_iter().zip(factored) {
        let factors = factored
            .map_err(|_| "a thread panicked")??
            .into_inner()
            .values;
        let factors: Vec<_> = factors.iter().map(u64::to_string).collect();
        writeln!(report, "{number} = {}", factors.join(" × "))?;
    }

    // A stream is an iterator. There are far more primes than anybody wants: dropping it ends the call.
    let primes = client
        .between(Range {
            from: 1_000,
            to: u64::MAX,
        })?
        .into_inner();
    let primes: Result<Vec<_>, Status> = primes.take(5).collect();
    let primes: Vec<_> = primes?
        .iter()
        .map(|prime| prime.value.to_string())
        .collect();
    writeln!(report, "from 1000 on: {}, …", primes.join(", "))?;

    let multiply = |to: u64| client.multiply((1..=to).map(|value| Number { value }));
    writeln!(report, "20! = {}", multiply(20)?.into_inner().value)?;
    match multiply(21) {
        Err(status) if status.code() == Code::OutOfRange => {
            writeln!(report, "21!: {}", status.message())?;
        }
        other => return Err(format!("21! cannot be told, but this came: {other:?}").into()),
    }

    // The largest prime below 2⁶⁴ is not taken apart in a hundredth of a second.
    let mut request = Request::new(Number {
        value: u64::MAX - 58,
    });
    request.set_timeout(Duration::from_millis(10));
    match client.factor(request) {
        Err(status) if status.code() == Code::DeadlineExceeded => {
            writeln!(report, "{}: no answer in time", u64::MAX - 58)?;
        }
        other => return Err(format!("there was no time, but this came: {other:?}").into()),
    }
    Ok(report)
}
