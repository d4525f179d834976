//! Memory files that their creator alone can write.
//!
//! The seals do the work: `F_SEAL_SHRINK` and `F_SEAL_GROW` fix the length, so that no access can meet the end of the
//! file (SIGBUS); `F_SEAL_FUTURE_WRITE` refuses every further writable mapping and every `write`, while the mapping that
//! exists stays writable; `F_SEAL_SEAL` makes all of it final. Nothing has a name in any file system.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use memmap2::{MmapOptions, MmapRaw};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::fstat,
    },
    unistd::ftruncate,
};

use crate::{
    core::{
        mem::{Origin, OwnedRegion, PeerRegion},
        num::index,
    },
    error::PeerMisbehaved,
};

/// Makes a sealed memory file of `len` bytes: a writable mapping for us, a descriptor for the peer (O1).
///
/// The file is sparse: pages cost memory once they are touched.
///
/// # Errors
///
/// Whatever the kernel says: too many descriptors or mappings, or no memory.
pub(crate) fn create_sealed(len: u32) -> io::Result<(OwnedRegion, OwnedFd)> {
    let fd = memfd_create(
        c"shmipc-outbox",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?;
    ftruncate(&fd, i64::from(len))?;
    // Mapped before it is sealed: from then on not even we could map it writable.
    let map = MmapOptions::new().len(index(len)).map_raw(&fd)?;
    fcntl(
        &fd,
        FcntlArg::F_ADD_SEALS(required_seals() | SealFlag::F_SEAL_SEAL),
    )?;
    Ok((OwnedRegion::new(map), fd))
}

/// A memory file of a peer's that may be mapped.
#[derive(Debug)]
pub(crate) struct Sealed {
    fd: OwnedFd,
    map: MmapRaw,
    owner: Option<u32>,
}

impl Sealed {
    /// The user who made it, as the kernel keeps it (O24).
    pub(crate) fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// The region, of which nobody else will hear.
    pub(crate) fn into_region(self) -> PeerRegion {
        PeerRegion::new(self.map, Origin::Peer(None))
    }

    /// The region, with all that it takes to pass it on.
    pub(crate) fn into_forwardable_region(self) -> PeerRegion {
        PeerRegion::new(self.map, Origin::Peer(Some(self.fd)))
    }

    /// The region, which the peer has passed on with this anchor.
    pub(crate) fn into_forwarded_region(self, anchor: OwnedFd) -> PeerRegion {
        PeerRegion::new(self.map, Origin::Forwarded { _anchor: anchor })
    }
}

/// Maps a peer's memory file read-only, after checking that it can neither shrink nor be written to through us (O2).
///
/// # Errors
///
/// Returns [`PeerMisbehaved`] if `fd` is not a memory file of `len` bytes with the seals of [`create_sealed`].
pub(crate) fn open_sealed(fd: OwnedFd, len: u64) -> Result<Sealed, PeerMisbehaved> {
    let seals =
        fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| PeerMisbehaved::Unsealed { seals: 0 })?;
    if !SealFlag::from_bits_retain(seals).contains(required_seals()) {
        return Err(PeerMisbehaved::Unsealed { seals });
    }
    // Sealed against both directions, so what we see now is what stays.
    let stat = fstat(&fd).ok();
    let actual = stat
        .and_then(|stat| u64::try_from(stat.st_size).ok())
        .unwrap_or(0);
    let bounded = u32::try_from(len)
        .ok()
        .filter(|&len| 0 < len && u64::from(len) == actual);
    let Some(len) = bounded else {
        return Err(PeerMisbehaved::RegionLength {
            claimed: len,
            actual,
        });
    };
    let map = MmapOptions::new()
        .len(index(len))
        .map_raw_read_only(fd.as_raw_fd())
        .map_err(|error| PeerMisbehaved::Unmappable {
            errno: error.raw_os_error().unwrap_or(0),
        })?;
    Ok(Sealed {
        fd,
        map,
        owner: stat.map(|stat| stat.st_uid),
    })
}

fn required_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::sync::Ordering;

    #[test]
    fn the_peer_sees_what_we_write_and_can_write_nothing() {
        let (ours, fd) = create_sealed(8192).unwrap();
        let theirs = open_sealed(fd.try_clone().unwrap(), 8192).unwrap();
        assert_eq!(theirs.owner(), Some(nix::unistd::geteuid().as_raw()));
        let theirs = theirs.into_region();
        ours.word(4096).store(7, Ordering::Release);
        assert_eq!(theirs.load(4096), Ok(7));
        assert!(
            MmapOptions::new().len(8192).map_raw(&fd).is_err(),
            "no writable mapping"
        );
        assert!(nix::unistd::write(&fd, b"x").is_err(), "no write");
        assert!(ftruncate(&fd, 0).is_err(), "no truncation");
        assert!(ftruncate(&fd, 1 << 20).is_err(), "no growth");
    }

    #[test]
    fn files_that_could_change_under_us_are_refused() {
        let unsealed =
            memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 8192).unwrap();
        assert!(matches!(
            open_sealed(unsealed.try_clone().unwrap(), 8192),
            Err(PeerMisbehaved::Unsealed { .. })
        ));
        fcntl(&unsealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
        assert!(matches!(
            open_sealed(unsealed.try_clone().unwrap(), 8192),
            Err(PeerMisbehaved::Unsealed { .. })
        ));
        let regular = tempfile::tempfile().unwrap();
        assert!(matches!(
            open_sealed(regular.into(), 0),
            Err(PeerMisbehaved::Unsealed { .. })
        ));
        let (_, sealed) = create_sealed(8192).unwrap();
        for wrong in [0, 4096, 8193, u64::MAX] {
            let refused = open_sealed(sealed.try_clone().unwrap(), wrong);
            assert!(
                matches!(refused, Err(PeerMisbehaved::RegionLength { .. })),
                "{wrong} is not its length"
            );
        }
    }
}
