//! What tests of interoperability are made of: a program that is a client or a server, and what drives it.
//!
//! There is one such program in Go, `tests/interop-go`, and one in Rust, `interop-peer`, which is generic over an
//! [`Implementation`](implementation::Implementation) of the protocol. All are driven alike:
//!
//! ```text
//! interop server|client -socket=PATH -prefix=PATH -mode=v3 …        see [`Setting`](setting::Setting)
//! ```
//!
//! A program says `ready PATH` when it listens (`ready tcp://ADDRESS:PORT`, if it was told `-socket=tcp://ADDRESS:0`), or when all of its sessions are open. Then it obeys lines on its standard input, one after
//! the other, and answers each with one on its standard output. It ends when the input does. The first thing that goes wrong ends
//! it, too: it says `failed`, and why, and exits with 1.
//!
//! | to a client | it answers | what it does |
//! |---|---|---|
//! | `run PLAN` | `done MESSAGES ok fallbacks=N` | carries out a [`Plan`](setting::Plan); every byte of every reply is verified |
//! | `lose PLAN` | `waiting`, `done STREAMS ok` | uses streams, and waits until each has noticed that the session is over |
//! | `load PLAN` | `loaded` | begins to carry out a plan again and again |
//! | `cycle` | `cycled` | waits until each stream of the load has begun and ended a message since |
//! | `unload` | `done MESSAGES ok` | ends the load |
//! | `quit` | `done 0 ok` | closes all sessions and ends |
//!
//! | to a server | it answers | what it does |
//! |---|---|---|
//! | `stats` | `stats accepted=N ended=N lost=N served=N` | streams accepted, ended by either side, lost with their session; messages |
//! | `restart EPOCH` | `restarted EPOCH` | hot restart, after a new server was started at the same path |
//! | `quit` | `done MESSAGES ok` | closes all sessions and ends |

pub mod client;
pub mod crate_peer;
pub mod go;
pub mod implementation;
pub mod message;
pub mod our_peer;
mod our_streams;
pub mod peer;
pub mod program;
pub mod region;
pub mod server;
pub mod setting;
pub mod threads_peer;
