//! Shared memory and descriptors by hand.
#![expect(
    unsafe_code,
    reason = "a hand-made peer maps memory and takes descriptors off the socket without the crate under test"
)]

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use memmap2::{MmapOptions, MmapRaw};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
    },
    unistd::ftruncate,
};

/// The seals that an honest peer's memory has.
pub const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_FUTURE_WRITE);

/// A mapping of a memory file, of the villain's own or of its victim's.
#[derive(Debug)]
pub struct Memory {
    map: MmapRaw,
    fd: OwnedFd,
}

impl Memory {
    /// Makes a memory file of `len` bytes with `seals`, and maps it.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[must_use]
    pub fn create(len: u32, seals: SealFlag) -> Self {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(c"villain", flags).expect("a memory file");
        ftruncate(&fd, i64::from(len)).expect("the kernel has room");
        let map = MmapOptions::new().len(len.max(1) as usize).map_raw(&fd);
        let map = map.expect("its own file can be mapped");
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).expect("its own file can be sealed");
        Self { map, fd }
    }

    /// Makes a memory file as an honest peer would.
    #[must_use]
    pub fn sealed(len: u32) -> Self {
        Self::create(len, SEALS)
    }

    /// Maps what the victim has passed, to read it.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    #[must_use]
    pub fn of_victim(fd: OwnedFd) -> Self {
        let map = MmapOptions::new()
            .map_raw_read_only(fd.as_raw_fd())
            .expect("it can be mapped");
        Self { map, fd }
    }

    /// Maps what the victim has passed, to write to it as well: shmipc's protocol has it so.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    #[must_use]
    pub fn shared(fd: OwnedFd) -> Self {
        let map = MmapOptions::new()
            .map_raw(fd.as_raw_fd())
            .expect("it can be mapped");
        Self { map, fd }
    }

    /// Makes a file of `len` bytes, and maps it.
    ///
    /// # Panics
    ///
    /// If the kernel refuses, or there is one.
    #[must_use]
    pub fn file(path: &Path, len: u32) -> Self {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(path);
        let file = file.expect("a name that nobody has");
        file.set_len(len.into()).expect("the kernel has room");
        let map = MmapOptions::new().len(len.max(1) as usize).map_raw(&file);
        Self {
            map: map.expect("its own file can be mapped"),
            fd: file.into(),
        }
    }

    /// Maps the file that the victim has named, to write to it as well. A victim that was hung up on has removed it.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    ///
    /// # Panics
    ///
    /// If it can be opened, and not be mapped.
    pub fn named(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self::shared(file.into()))
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.map.len()).expect("less than 4 GiB")
    }

    /// Another descriptor of the file.
    ///
    /// # Panics
    ///
    /// If there are too many.
    #[must_use]
    pub fn fd(&self) -> OwnedFd {
        self.fd.try_clone().expect("one more descriptor")
    }

    /// The word at `at`.
    ///
    /// # Panics
    ///
    /// If it lies outside of the memory, or is misaligned.
    #[must_use]
    pub fn word(&self, at: u32) -> &AtomicU32 {
        let at = at as usize;
        assert!(
            at + 4 <= self.map.len() && at.is_multiple_of(4),
            "no word at {at}"
        );
        let word = self.map.as_mut_ptr().wrapping_add(at).cast::<u32>();
        // SAFETY: in bounds and aligned, as just checked, in a mapping that `self` keeps; everybody in this process
        // accesses it by atomics only, and memory that is mapped to be read is only loaded from.
        unsafe { AtomicU32::from_ptr(word) }
    }

    /// Loads the word at `at`.
    #[must_use]
    pub fn load(&self, at: u32) -> u32 {
        self.word(at).load(Ordering::Acquire)
    }

    /// Stores a word at `at`.
    pub fn store(&self, at: u32, value: u32) {
        self.word(at).store(value, Ordering::Release);
    }

    /// Stores `bytes` at `at`, padded with zeros to whole words.
    pub fn write(&self, at: u32, bytes: &[u8]) {
        for (i, chunk) in (0..).zip(bytes.chunks(4)) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.store(at + 4 * i, u32::from_ne_bytes(word));
        }
    }

    /// Loads `len` bytes from `at`.
    #[must_use]
    pub fn read(&self, at: u32, len: u32) -> Vec<u8> {
        let words = (0..len.div_ceil(4)).flat_map(|i| self.load(at + 4 * i).to_ne_bytes());
        words.take(len as usize).collect()
    }
}

/// Sends bytes with descriptors.
///
/// # Errors
///
/// Whatever the kernel says.
pub(super) fn send(socket: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
    let sent = sendmsg::<()>(fd, &[IoSlice::new(bytes)], rights, flags, None)?;
    if sent == bytes.len() {
        return Ok(());
    }
    send(socket, &bytes[sent..], &[])
}

/// Fills `target`, and returns the descriptors that came along.
///
/// # Errors
///
/// Whatever the kernel says; `UnexpectedEof` at the end.
pub(super) fn receive(socket: &UnixStream, target: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let (mut filled, mut fds) = (0, Vec::new());
    while filled < target.len() {
        let mut slices = [IoSliceMut::new(&mut target[filled..])];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(rights) = message {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
                fds.extend(
                    rights
                        .into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        match received.bytes {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => filled += bytes,
        }
    }
    Ok(fds)
}
