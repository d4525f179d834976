//! The words between the tables.

use super::numbers::{chosen, grouped, time};
use super::summary::count;
use crate::harness::suite::{Findings, Plan};

/// The top of the report.
pub(super) fn introduction(plan: &Plan) -> String {
    let partial = plan.only.is_some() || plan.rounds < Plan::full().rounds;
    let caution = if partial {
        "\nThis run was brief or partial (`--quick` or `--only`): its figures show that everything works, and little more.\n"
    } else {
        ""
    };
    format!(
        "\
# Benchmarks

Written by one command, which measures every peer in the same run:

```sh
cargo run --release -p benches
```
{caution}
Ratios within one run mean something; absolute figures are those of one machine. How it is measured is told
[below](#method).

"
    )
}

/// A heading of the second level.
pub(super) fn heading(title: &str) -> String {
    format!("## {title}\n\n")
}

/// How the figures came about.
pub(super) fn how(plan: &Plan, findings: &Findings) -> String {
    let overhead = time(count(
        u64::try_from(findings.overhead.as_nanos()).unwrap_or(u64::MAX),
    ));
    format!(
        "\
## Method

- **Two processes.** Each case runs in two fresh processes, a client and a server; a third, which started them, sleeps
  meanwhile. Each case runs {rounds} times for {duration} after {warm_up} of warm-up (four times that where megabytes are
  written, and twelve times if that is done in many calls at a time: it touches all of the memory once), and between two rounds of a case all others run. Every figure is the median over the rounds of what each round found; “p50 of the rounds” shows the
  smallest and the largest. What is compared under “Figures to reach” was found in the same round: in that whose ratio is the median of
  all.
- **Processors that move.** A hypervisor has the processors of a virtual machine share a core for a while, and then lie far apart, where
  lines of memory take several times as long from one to the other. So the limit's round trip is looked at before and after each
  sample, which waits until that is at most twice the shortest seen, and is taken once more if it is not any longer. There is some patience for
  that, and no more: {far} of {samples} samples were taken while the processors were further apart.
- **Every byte counts.** In each call the sender writes every byte of the payload, differently in each call, and the
  receiver reads and verifies every byte, in both directions, word by word at the speed of memory. Only “forwarded” calls
  leave the payload alone: the server returns the `Bytes` that it received, and the client sends on those that came back.
- **Time** is read once for each call. Reading it and recording the latency is part of every figure of every peer: {overhead}
  a call here, which flatters whatever is compared with the limit.
- **The limit** is two processes that spin on one cache line in each direction, 56 bytes of payload and a count. **Two
  spinning processes, one buffer** write and read each payload in the very memory that both share, one buffer for each
  direction. **eventfd ping-pong** sends the limit's cache lines and sleeps in a blocking eventfd between them. **Blocking
  UDS** sends length-prefixed messages over a Unix domain socket with buffers as large as the kernel grants.
- **tonic** speaks gRPC over a Unix domain socket, with `bytes` fields as `Bytes` and no message limit. It is tuned: payload
  buffers are used again rather than fresh from the allocator, HTTP/2 windows are larger than anything in flight, and
  frames are of 64 KiB, at which it was fastest. “Its defaults” means none of these three. One `current_thread` runtime on
  each side, which is its best for latency; for calls in flight also a `multi_thread` runtime with two workers on each
  side, and targets compare with the better of both.
- **shmipc-rpc** runs on one `current_thread` runtime on each side. Payloads are written into memory lent by the session
  and sent as a `bytes` field.
- **Messages within one call** travel on a stream of the server's, without end, whose messages are timed by the hundred, or
  in turns on a stream in each direction; tonic's turns go through a `tokio` channel of one message, as its users write them.
- **Layers** are tower's concurrency limit and timeout and tower-http's trace for gRPC, around the server. **The tonic adapter**
  is a client and a server that tonic generated, over shmipc-rpc.
- **Streams, beside shmipc's own implementations**: the parallel ping-pong of shmipc's own benchmark, on each stream of one session, {ping_pong_rounds}
  times each. Untouched, as that benchmark has it, memory of the payload's length is reserved, sent and discarded; otherwise as above. A
  message in shmipc's own protocol has one slice, of which there are more than are under way or held: at 4 MiB their own benchmark has 512 MiB,
  which is too little for 64 streams of shmipc-go, and here there is 1 GiB. The `shmipc` crate runs on a
  `multi_thread` runtime with two workers on each side, as in its own benchmark, shmipc-go with as many threads as there are
  processors; it reads the clock for each call, too. Polling looks every 100 µs, which the crate's timers make a millisecond. Beside them, a Unix domain
  socket: blocking for one stream; for more, one for each on one `current_thread` runtime.
- **Many clients** are sessions of one process, each with a call in flight; the server has one thread for all of them.
- **Processor time** is what `getrusage` tells of the whole process, user and system, all threads. **Allocations** are
  counted by the global allocator of both processes, for every peer alike; `realloc` counts as one. The list of those of
  a shmipc-rpc call is in [allocations.md](allocations.md).
- **System calls** are counted in a run of their own by tracing every thread of both processes with `ptrace`, between two
  marks that the client makes around {traced} calls (a tenth of that for peers that enter the kernel in each call, and
  for large payloads). A thread that makes no system call is not slowed by the tracer.
- **Idle** sessions have served calls before, and then nothing for {idle}.
",
        rounds = plan.rounds,
        ping_pong_rounds = plan.ping_pong_rounds,
        duration = chosen(plan.duration),
        warm_up = chosen(plan.warm_up),
        traced = grouped(count(plan.traced_calls)),
        idle = chosen(plan.idle),
        far = findings.far,
        samples = findings.samples.values().map(Vec::len).sum::<usize>(),
    )
}
