//! A directory for each test, and the links that sessions begin over in it.

use std::path::{Path, PathBuf};

use shmipc_transport::{Config, LinkKind, Shmipc};

/// All that there are.
pub(crate) const LINKS: [LinkKind; 4] = LinkKind::ALL;

/// Those over which servers tell of restarts in shmipc's own words.
pub(crate) const NATIVE: [LinkKind; 2] = [LinkKind::ShmipcV3, LinkKind::ShmipcV2];

/// A directory for a socket and for files of memory.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.path().join("socket")
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Settings that demand one link.
    pub(crate) fn config(&self, link: LinkKind) -> Config {
        self.config_with(link, Shmipc::default().buffer_len(4 << 20))
    }

    pub(crate) fn config_with(&self, link: LinkKind, shmipc: Shmipc) -> Config {
        config_in(self.path(), link, shmipc)
    }
}

/// Settings that demand one link, whose files lie in a directory.
pub(crate) fn config_in(directory: &Path, link: LinkKind, shmipc: Shmipc) -> Config {
    let shmipc = shmipc.directory(directory);
    let config = Config::builder().links([link]).shmipc(shmipc);
    config.build().unwrap()
}
