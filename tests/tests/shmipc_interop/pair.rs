//! Two implementations, and how their programs are started.

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
};

use tests::interop::{
    go,
    peer::{Peer, Place, Program},
    setting::{Mode, Setting, TCP},
};

use crate::known;

/// An implementation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// The `shmipc` crate.
    Crate,
    /// shmipc-go.
    Go,
    /// Our shmipc link.
    Ours,
    /// Our shmipc link, used by threads.
    Threads,
}

impl Who {
    /// Its program, or `None` if it cannot be had here.
    pub(crate) fn program(self) -> Option<Program<'static>> {
        let implementation = match self {
            Self::Go => {
                return Some(Program {
                    path: go::program(env!("CARGO_TARGET_TMPDIR"))?,
                    implementation: None,
                });
            }
            Self::Crate => "crate",
            Self::Ours => "ours",
            Self::Threads => "threads",
        };
        Some(Program {
            path: Path::new(env!("CARGO_BIN_EXE_interop-peer")),
            implementation: Some(implementation),
        })
    }
}

/// Who talks to whom, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) client: Who,
    pub(crate) server: Who,
    pub(crate) net: Net,
    pub(crate) mode: Mode,
}

/// What the programs meet at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Net {
    Unix,
    Tcp,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            server,
            net,
            mode,
        } = self;
        write!(f, "{client:?} to {server:?} over {net:?}, {mode}")
    }
}

/// Where a scenario is played: the programs, and the place where they meet.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) pair: Pair,
    pub(crate) place: Place,
    client: Program<'static>,
    server: Program<'static>,
    /// Where the latest server listens.
    met_at: RefCell<PathBuf>,
}

impl Stage {
    /// The setting that scenarios change to what they need.
    pub(crate) fn setting(&self) -> Setting {
        let setting = self.place.setting();
        Setting {
            mode: self.pair.mode,
            socket: match self.pair.net {
                Net::Unix => setting.socket,
                Net::Tcp => format!("{TCP}127.0.0.1:0").into(),
            },
            ..setting
        }
    }

    /// How many of the sides are ours, which keep some slices aside.
    pub(crate) fn keepers(&self) -> u32 {
        let is_ours = |who| u32::from(matches!(who, Who::Ours | Who::Threads));
        is_ours(self.pair.client) + is_ours(self.pair.server)
    }

    pub(crate) fn server(&self, setting: &Setting) -> Peer {
        let server = Peer::start(self.server, "server", setting);
        self.met_at.replace(server.place().to_owned());
        server
    }

    /// Starts a client of the latest server.
    pub(crate) fn client(&self, setting: &Setting) -> Peer {
        let socket = self.met_at.borrow().clone();
        let setting = Setting {
            socket,
            ..setting.clone()
        };
        Peer::start(self.client, "client", &setting)
    }
}

/// Plays a scenario, unless one of the programs cannot be had here, or it is known not to work.
pub(crate) fn play(pair: &Pair, name: &str, scenario: fn(&Stage)) {
    if let Some(reason) = known::reason(pair, name) {
        eprintln!("left out: {name}, {pair}: {reason}");
        return;
    }
    let (Some(client), Some(server)) = (pair.client.program(), pair.server.program()) else {
        return;
    };
    scenario(&Stage {
        pair: *pair,
        place: Place::new(),
        client,
        server,
        met_at: RefCell::default(),
    });
}
