//! The regions of shmipc's own protocol: memory files and files, made here or by the peer.
//!
//! # A file that shrinks
//!
//! Whoever touches a page of a mapping behind the end of its file is killed by SIGBUS. What we make is sealed against that, or has
//! its space set aside. What a peer makes is taken from anybody only if it is sealed as well (`F_SEAL_SHRINK`). Other implementations do
//! not seal, and files cannot be sealed; so those are taken only from a process that could end this one anyway: one of our own user, or of
//! root. Such a peer wins nothing by shrinking a file that it could not have by `kill`. From all others they are refused. Of a peer that was
//! met over TCP nothing is known; so the file itself must be one that only our own user can write to.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use memmap2::{MmapOptions, MmapRaw};
use nix::{
    fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open, openat},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{FileStat, Mode, SFlag, fstat},
    },
    unistd::{UnlinkatFlags, ftruncate, unlinkat},
};

use crate::{
    Peer,
    config::{is_own_uid, is_own_user},
    core::{mem::SharedRegion, num::index},
    error::PeerMisbehaved,
};

/// A region, mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub(crate) region: SharedRegion,
    /// The user who made its file.
    pub(crate) owner: u32,
}

/// Makes a memory file of `len` bytes that can never change its length, and its descriptor for the peer (H31, H36).
///
/// # Errors
///
/// Whatever the kernel says.
pub(crate) fn create_memfd(name: &str, len: u32) -> io::Result<(Mapped, OwnedFd)> {
    // A name is shown in `/proc`; other implementations put theirs before it.
    let name = CString::new(format!("shmipc{name}"))?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create(name.as_c_str(), flags)?;
    ftruncate(&fd, i64::from(len))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    let mapped = map(&fd, len, fstat(&fd)?.st_uid)?;
    Ok((mapped, fd))
}

/// A file of ours, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct NamedRegion {
    directory: OwnedFd,
    path: PathBuf,
}

impl NamedRegion {
    /// Where it lies.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for NamedRegion {
    fn drop(&mut self) {
        if let Some(name) = self.path.file_name() {
            // If somebody has removed it before us, that is that.
            let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Makes a file of `len` bytes in `directory`, for its owner only, with its space set aside (H33, H35, H65).
///
/// # Errors
///
/// Whatever the kernel says; that there is a file of this name, for one.
pub(crate) fn create_file(
    directory: &Path,
    name: &str,
    len: u32,
) -> io::Result<(Mapped, NamedRegion)> {
    let parent = open_directory(directory)?;
    let flags =
        OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let file = NamedRegion {
        directory: parent,
        path: directory.join(name),
    };
    ftruncate(&fd, i64::from(len))?;
    fallocate(&fd, FallocateFlags::empty(), 0, i64::from(len))?;
    Ok((map(&fd, len, fstat(&fd)?.st_uid)?, file))
}

/// Maps a memory file of at most `len_max` bytes that the peer has passed, over a Unix socket.
///
/// # Errors
///
/// Returns [`PeerMisbehaved`] if it is none, or longer, or could shrink and the peer is none that we would let.
pub(crate) fn open_memfd(
    fd: &OwnedFd,
    peer: &Peer,
    len_max: u32,
) -> Result<Mapped, PeerMisbehaved> {
    let stat = verify(fd, peer)?;
    map(fd, length(&stat, len_max)?, stat.st_uid).map_err(|error| unmappable(&error))
}

/// Maps a file that the peer has named (H29, V9): a regular one of at most `len_max` bytes directly in `directory`, of its own user, in
/// memory (H32). Its space is set aside, so that no access can fail for want of it (H35).
///
/// # Errors
///
/// Returns [`PeerMisbehaved`] if it is anything else.
pub(crate) fn open_file(
    directory: &Path,
    path: &[u8],
    peer: &Peer,
    len_max: u32,
) -> Result<Mapped, PeerMisbehaved> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let outside = || PeerMisbehaved::Path {
        path: path.to_string_lossy().chars().take(200).collect(),
    };
    if path.parent() != Some(directory) {
        return Err(outside());
    }
    let name = path.file_name().ok_or_else(outside)?;
    let parent = open_directory(directory).map_err(|error| unmappable(&error))?;
    // Neither waits for a FIFO's other end, nor makes a terminal ours.
    let flags =
        OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let fd = openat(&parent, name, flags, Mode::empty()).map_err(|_| outside())?;
    let stat = verify(&fd, peer)?;
    if !may_name(peer, &stat, &parent) {
        return Err(outside());
    }
    // Before any space is set aside, which may count for us.
    let len = length(&stat, len_max)?;
    fallocate(&fd, FallocateFlags::empty(), 0, i64::from(len))
        .map_err(|errno| unmappable(&errno.into()))?;
    map(&fd, len, stat.st_uid).map_err(|error| unmappable(&error))
}

/// Whether a file is one that the peer may name: its own. Of whom nothing is known, it must be one of our user, which no other can write
/// to and so shorten: as its mode says, or because nobody else comes into its directory.
fn may_name(peer: &Peer, stat: &FileStat, directory: &OwnedFd) -> bool {
    let others = Mode::S_IWGRP | Mode::S_IWOTH;
    match peer.uid() {
        Some(uid) => stat.st_uid == uid,
        None => is_own_uid(stat.st_uid) && (!allows(stat, others) || is_private(directory)),
    }
}

/// Whether only our own user can look into a directory.
fn is_private(directory: &OwnedFd) -> bool {
    let others = Mode::S_IRWXG | Mode::S_IRWXO;
    fstat(directory).is_ok_and(|stat| is_own_uid(stat.st_uid) && !allows(&stat, others))
}

fn allows(stat: &FileStat, mode: Mode) -> bool {
    Mode::from_bits_truncate(stat.st_mode).intersects(mode)
}

/// Says that `fd` is a regular file in memory, and that the peer may be trusted with its length.
fn verify(fd: &OwnedFd, peer: &Peer) -> Result<FileStat, PeerMisbehaved> {
    let unsealed = |seals| PeerMisbehaved::Unsealed { seals };
    // Fails for whatever is not in memory: other file systems could make us wait at each page (H32).
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| unsealed(0))?;
    let stat = fstat(fd).map_err(|_| unsealed(seals))?;
    let is_regular =
        SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG;
    let is_sealed = SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK);
    if is_regular && (is_sealed || could_end_us(peer)) {
        Ok(stat)
    } else {
        Err(unsealed(seals))
    }
}

/// Whether the peer could end this process anyway, as root or as our own user. Of whom nothing is known, only files are taken of which
/// our own user alone decides; see [`may_name`].
fn could_end_us(peer: &Peer) -> bool {
    peer.uid() == Some(0) || is_own_user(peer) || peer.is_unknown()
}

fn length(stat: &FileStat, max: u32) -> Result<u32, PeerMisbehaved> {
    let actual = u64::try_from(stat.st_size).unwrap_or(0);
    match u32::try_from(actual) {
        Ok(0) => Err(PeerMisbehaved::RegionLength {
            claimed: actual,
            actual,
        }),
        Ok(len) if len <= max => Ok(len),
        _ => Err(PeerMisbehaved::RegionTooLong { len: actual, max }),
    }
}

fn map(fd: &impl AsFd, len: u32, owner: u32) -> io::Result<Mapped> {
    use std::os::fd::AsRawFd;
    let map: MmapRaw = MmapOptions::new()
        .len(index(len))
        .map_raw(fd.as_fd().as_raw_fd())?;
    Ok(Mapped {
        region: SharedRegion::new(map),
        owner,
    })
}

fn unmappable(error: &io::Error) -> PeerMisbehaved {
    PeerMisbehaved::Unmappable {
        errno: error.raw_os_error().unwrap_or(0),
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// 128 random bits in hexadecimal, so that no two regions have the same name (H30).
///
/// # Errors
///
/// Whatever the kernel says.
pub(crate) fn random_name() -> io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;
    use crate::core::sync::Ordering;

    const LEN_MAX: u32 = 1 << 20;

    fn peer(uid: u32) -> Peer {
        Peer::new(1, uid, uid)
    }

    fn ourselves() -> Peer {
        peer(nix::unistd::geteuid().as_raw())
    }

    /// A directory in memory.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    fn named(path: &Path) -> Vec<u8> {
        path.as_os_str().as_bytes().to_vec()
    }

    #[test]
    fn what_we_make_both_sides_write_and_nobody_shortens() {
        let (ours, fd) = create_memfd("test", 8192).unwrap();
        let theirs = open_memfd(&fd, &peer(12345), LEN_MAX).unwrap();
        ours.region.word(100).store(1, Ordering::Release);
        assert_eq!(theirs.region.word(100).load(Ordering::Acquire), 1);
        theirs.region.word(200).store(2, Ordering::Release);
        assert_eq!(ours.region.word(200).load(Ordering::Acquire), 2);
        assert!(ftruncate(&fd, 0).is_err());
    }

    #[test]
    fn hazard_h60_l7_a_region_is_neither_shared_nor_emptied_by_who_takes_its_name() {
        let (directory, name) = (directory(), "name");
        let word = |mapped: &Mapped| mapped.region.word(0).load(Ordering::Acquire);
        let (first, file) = create_file(directory.path(), name, 4096).unwrap();
        first.region.word(0).store(7, Ordering::Release);
        assert!(create_file(directory.path(), name, 4096).is_err());
        assert_eq!(word(&first), 7);
        drop(file);
        let (second, successor) = create_file(directory.path(), name, 4096).unwrap();
        assert_eq!((word(&first), word(&second)), (7, 0));
        drop(first);
        assert!(successor.path().exists());
    }

    #[test]
    fn hazard_h31_what_could_shrink_is_taken_only_from_those_who_could_kill_us() {
        let fd = memfd_create(c"unsealed", MFdFlags::MFD_CLOEXEC).unwrap();
        ftruncate(&fd, 8192).unwrap();
        open_memfd(&fd, &ourselves(), LEN_MAX).unwrap();
        open_memfd(&fd, &peer(0), LEN_MAX).unwrap();
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let foreign = open_memfd(&fd, &peer(12345), LEN_MAX);
        assert!(matches!(foreign, Err(PeerMisbehaved::Unsealed { .. })));
    }

    #[test]
    fn hazard_h32_descriptors_of_anything_but_memory_are_refused() {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (reader, _writer) = std::io::pipe().unwrap();
        for fd in [null, reader.into()] {
            assert!(open_memfd(&fd, &ourselves(), LEN_MAX).is_err());
        }
        let empty = memfd_create(c"empty", MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(matches!(
            open_memfd(&empty, &ourselves(), LEN_MAX),
            Err(PeerMisbehaved::RegionLength { .. })
        ));
    }

    #[test]
    fn hazard_h33_h65_files_are_for_their_owner_and_never_taken_over() {
        let directory = directory();
        let (_, file) = create_file(directory.path(), "region", 4096).unwrap();
        let path = file.path().to_owned();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            create_file(directory.path(), "region", 4096).is_err(),
            "it exists"
        );
        open_file(directory.path(), &named(&path), &ourselves(), LEN_MAX).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn hazard_h35_the_space_of_files_is_set_aside() {
        const LEN: u32 = 1 << 20;
        let directory = directory();
        let (_, ours) = create_file(directory.path(), "ours", LEN).unwrap();
        let theirs = directory.path().join("theirs");
        std::fs::File::create_new(&theirs)
            .unwrap()
            .set_len(LEN.into())
            .unwrap();
        open_file(directory.path(), &named(&theirs), &ourselves(), LEN_MAX).unwrap();
        for path in [ours.path(), &theirs] {
            use std::os::unix::fs::MetadataExt;
            let blocks = std::fs::metadata(path).unwrap().blocks();
            assert!(u64::from(LEN) <= 512 * blocks, "{blocks} blocks");
        }
    }

    #[test]
    fn hazard_h46_regions_that_are_too_long_are_refused_and_take_no_space() {
        use std::os::unix::fs::MetadataExt;
        const LONG: u64 = LEN_MAX as u64 + 1;
        let directory = directory();
        let path = directory.path().join("long");
        let file = std::fs::File::create_new(&path).unwrap();
        for len in [LONG, u64::from(u32::MAX), 1 << 32, 1 << 40] {
            file.set_len(len).unwrap();
            let memfd = memfd_create(c"long", MFdFlags::MFD_CLOEXEC).unwrap();
            ftruncate(&memfd, len.cast_signed()).unwrap();
            for refused in [
                open_file(directory.path(), &named(&path), &ourselves(), LEN_MAX),
                open_memfd(&memfd, &ourselves(), LEN_MAX),
            ] {
                assert!(matches!(
                    refused,
                    Err(PeerMisbehaved::RegionTooLong { len: found, max: LEN_MAX }) if found == len
                ));
            }
        }
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        file.set_len(LEN_MAX.into()).unwrap();
        open_file(directory.path(), &named(&path), &ourselves(), LEN_MAX).unwrap();
    }

    #[test]
    fn hazard_h36_descriptors_are_not_inherited() {
        use nix::fcntl::FdFlag;
        let (_, fd) = create_memfd("test", 4096).unwrap();
        let flags = FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }

    #[test]
    fn hazard_h29_v9_paths_that_lead_elsewhere_are_refused() {
        let (allowed, elsewhere) = (directory(), directory());
        let target = elsewhere.path().join("target");
        std::fs::write(&target, [0; 4096]).unwrap();
        let (link, below, fifo) = (
            allowed.path().join("link"),
            allowed.path().join("below"),
            allowed.path().join("fifo"),
        );
        symlink(&target, &link).unwrap();
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("region"), [0; 4096]).unwrap();
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let escape = allowed.path().join("..").join("target");
        for path in [
            target.clone(),
            link,
            below.clone(),
            below.join("region"),
            fifo,
            escape,
            allowed.path().join("missing"),
            allowed.path().join(".."),
            PathBuf::from("/etc/passwd"),
            PathBuf::from("region"),
        ] {
            let refused = open_file(allowed.path(), &named(&path), &ourselves(), LEN_MAX);
            assert!(refused.is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read(target).unwrap(), [0; 4096], "untouched");
    }

    #[test]
    fn hazard_h29_files_of_others_are_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let directory = directory();
        let path = directory.path().join("region");
        std::fs::write(&path, [0; 4096]).unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let refused = open_file(directory.path(), &named(&path), &ourselves(), LEN_MAX);
        assert!(matches!(refused, Err(PeerMisbehaved::Path { .. })));
    }

    #[test]
    fn hazard_h30_v10_c14_names_are_not_given_twice_and_do_not_grow() {
        let names: HashSet<_> = (0..1000).map(|_| random_name().unwrap()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == 32), "{names:?}");
    }

    #[test]
    fn over_tcp_only_files_are_taken_that_our_own_user_alone_can_write() {
        let directory = directory();
        let path = directory.path().join("region");
        std::fs::write(&path, [0; 4096]).unwrap();
        let permit = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let open = |mode| {
            permit(&path, mode);
            open_file(directory.path(), &named(&path), &Peer::UNKNOWN, LEN_MAX)
        };
        permit(directory.path(), 0o711);
        for mode in [0o600, 0o644, 0o755] {
            open(mode).unwrap();
        }
        for mode in [0o660, 0o602, 0o777] {
            assert!(matches!(open(mode), Err(PeerMisbehaved::Path { .. })));
        }
        permit(directory.path(), 0o700);
        open(0o777).expect("nobody else comes there");
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(matches!(open(0o600), Err(PeerMisbehaved::Path { .. })));
        }
    }
}
