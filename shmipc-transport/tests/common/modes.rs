//! The ways in which shmipc's own link can be used.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use shmipc_transport::{Address, Config, LinkKind, Shmipc, ShmipcMapping, ShmipcWakes, Wait};

/// A way to talk, with its name.
#[derive(Clone, Debug)]
pub(crate) struct Mode {
    pub(crate) name: &'static str,
    pub(crate) link: LinkKind,
    pub(crate) is_tcp: bool,
    mapping: ShmipcMapping,
    wakes: ShmipcWakes,
}

impl Mode {
    /// Settings for it.
    pub(crate) fn config(&self, files: &Path, shmipc: Shmipc, wait: Wait) -> Config {
        let shmipc = shmipc
            .mapping(self.mapping)
            .wakes(self.wakes)
            .directory(files);
        let builder = Config::builder().links([self.link]).shmipc(shmipc);
        builder.wait(wait).build().unwrap()
    }

    /// What both sides agree on.
    pub(crate) fn agreed(&self) -> (LinkKind, Option<ShmipcMapping>, ShmipcWakes) {
        match self.is_tcp {
            true => {
                let wakes = match self.wakes {
                    ShmipcWakes::EventFd => ShmipcWakes::Socket,
                    wakes => wakes,
                };
                (self.link, Some(ShmipcMapping::File), wakes)
            }
            false => (self.link, Some(self.mapping), self.wakes),
        }
    }

    /// Where to listen.
    pub(crate) fn address(&self, sockets: &Path) -> Address {
        if self.is_tcp {
            Address::from("tcp://127.0.0.1:0")
        } else {
            sockets.join("socket").into()
        }
    }
}

pub(crate) fn modes() -> Vec<Mode> {
    let (memfd, file) = (ShmipcMapping::Memfd, ShmipcMapping::File);
    let (socket, eventfd) = (ShmipcWakes::Socket, ShmipcWakes::EventFd);
    let polling = ShmipcWakes::Polling(Duration::from_millis(1));
    let mode = |name: &'static str, link, mapping, wakes| Mode {
        name,
        link,
        is_tcp: name.ends_with("tcp"),
        mapping,
        wakes,
    };
    vec![
        mode("v2", LinkKind::ShmipcV2, file, socket),
        mode("v3 file", LinkKind::ShmipcV3, file, socket),
        mode("v3 memfd", LinkKind::ShmipcV3, memfd, socket),
        mode("v4 file", LinkKind::ShmipcV4, file, socket),
        mode("v4 memfd", LinkKind::ShmipcV4, memfd, socket),
        mode("v4 eventfd", LinkKind::ShmipcV4, memfd, eventfd),
        mode("v4 polling", LinkKind::ShmipcV4, memfd, polling),
        // Files are used there whatever the settings say, and no eventfds.
        mode("v2 tcp", LinkKind::ShmipcV2, memfd, eventfd),
        mode("v3 tcp", LinkKind::ShmipcV3, memfd, eventfd),
        mode("v4 tcp", LinkKind::ShmipcV4, memfd, eventfd),
        mode("v4 polling tcp", LinkKind::ShmipcV4, memfd, polling),
    ]
}

/// A region in which hardly anything fits.
pub(crate) fn tight() -> Shmipc {
    Shmipc::default()
        .buffer_len(64 << 10)
        .slices([(1024, 50), (4096, 50)])
        .queue_len(16)
}

pub(crate) fn message(len: usize, seed: usize) -> Bytes {
    (0..len)
        .map(|i| u8::try_from((i.wrapping_mul(31) ^ seed) % 251).unwrap())
        .collect::<Vec<_>>()
        .into()
}
