//! Taking an address, and giving it back.
//!
//! A socket file outlives a process that was killed, so a server finds its own predecessor's file in its way. It may be
//! removed if nobody listens behind it, which a connection attempt shows. Between that look and the removal another
//! server might take the address; therefore whoever changes a socket file holds a lock on the directory it is in. The
//! lock is `flock`'s, which leaves nothing behind.
//!
//! A successor that takes an address over listens under another name first, and renames its file over its predecessor's.
//! So at every moment somebody listens behind the path. The predecessor finds that the file is no longer its own, and
//! leaves it alone.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixListener,
    },
    path::{Path, PathBuf, absolute},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::socket::UnixAddr,
};
use tracing::{debug, warn};

use crate::{
    Address,
    core::sync::{AtomicBool, Ordering},
    error::BindError,
    sys::endpoint::{self, Listening},
};

/// A listening socket, and the file that leads to it.
#[derive(Debug)]
pub(super) struct Bound {
    /// Removed before the socket is closed.
    pub(super) file: Option<SocketFile>,
    pub(super) socket: Listening,
    /// Where it listens: with its port, if any was asked for.
    pub(super) address: Address,
}

impl Bound {
    fn unix(address: &Address, file: Option<SocketFile>, socket: UnixListener) -> Self {
        Self {
            file,
            socket: Listening::Unix(socket),
            address: address.clone(),
        }
    }
}

/// Makes an error of what the system says.
fn failed(address: &Address, action: &'static str) -> impl FnOnce(io::Error) -> BindError {
    let address = address.clone();
    move |source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Io {
            action,
            address,
            source,
        },
    }
}

/// Listens at `address`.
pub(super) fn bind(address: &Address) -> Result<Bound, BindError> {
    let failed = |action| failed(address, action);
    if let Some(tcp) = address.to_tcp()? {
        let socket = TcpListener::bind(tcp).map_err(failed("listen"))?;
        let local = socket.local_addr().map_err(failed("learn the port"))?;
        return Ok(Bound {
            file: None,
            socket: Listening::Tcp(socket),
            address: Address::Tcp(local),
        });
    }
    match (address, address.to_unix()?) {
        (Address::Path(path), Some(unix)) => {
            // Looked up now: the working directory may be another one when the file is removed.
            let path = absolute(path).map_err(failed("find the directory"))?;
            let _lock = DirectoryLock::acquire(&path).map_err(failed("lock the directory"))?;
            let socket = match endpoint::listen(&unix) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && remove_if_stale(&path, &unix) =>
                {
                    endpoint::listen(&unix)
                }
                result => result,
            }
            .map_err(failed("listen"))?;
            let file = SocketFile::of(path).map_err(failed("find the new socket"))?;
            Ok(Bound::unix(address, Some(file), socket))
        }
        (Address::Fd(fd), _) => {
            let socket = endpoint::inherited_listener(fd)?;
            Ok(Bound::unix(address, None, socket))
        }
        (_, Some(unix)) => {
            let socket = endpoint::listen(&unix).map_err(failed("listen"))?;
            Ok(Bound::unix(address, None, socket))
        }
        (_, None) => unreachable!("all others have a form for system calls"),
    }
}

/// Listens at `address`, whoever listens there now: new connections come here from now on.
///
/// Only paths can be taken over. Other addresses are bound as ever.
pub(super) fn take_over(address: &Address) -> Result<Bound, BindError> {
    let Address::Path(path) = address else {
        return bind(address);
    };
    let failed = |action| failed(address, action);
    address.to_unix()?;
    let path = absolute(path).map_err(failed("find the directory"))?;
    let draft = draft_of(path.clone());
    // Not what was asked for, but what must fit as well.
    let unix = Address::Path(draft.clone())
        .to_unix()?
        .expect("a path has a form for system calls");
    let lock = DirectoryLock::acquire(&path).map_err(failed("lock the directory"))?;
    let permissions = match fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => Some(found.permissions()),
        Ok(_) => {
            return Err(BindError::InUse {
                address: address.clone(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("look for a predecessor")(error)),
    };
    // We hold the lock, so a draft that is there was left by a server that was killed.
    remove_if_stale(&draft, &unix);
    let socket = endpoint::listen(&unix).map_err(failed("listen"))?;
    let mut file = SocketFile::of(draft).map_err(failed("find the new socket"))?;
    let replaced = permissions
        .map_or(Ok(()), |permissions| {
            fs::set_permissions(&file.path, permissions)
        })
        .and_then(|()| fs::rename(&file.path, &path));
    // First of all: if this has failed, the file is about to be removed, which takes the lock as well.
    drop(lock);
    replaced.map_err(failed("replace the predecessor's socket"))?;
    file.path = path;
    Ok(Bound::unix(address, Some(file), socket))
}

/// Where a successor listens until its socket takes its place at `path`. Always the same, so that a server that is
/// killed in between leaves no more than one, and that not for long.
fn draft_of(path: PathBuf) -> PathBuf {
    let mut draft = path.into_os_string();
    draft.push("~");
    draft.into()
}

/// Removes the socket at `path` if nobody listens there. Says whether it is gone.
fn remove_if_stale(path: &Path, address: &UnixAddr) -> bool {
    // Connecting to a file of another kind is refused as well.
    if !fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return false;
    }
    // A live server just sees a connection that says nothing.
    match endpoint::connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!(path = %path.display(), "removing the socket of a server that is gone");
            fs::remove_file(path).is_ok()
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(_) => false,
    }
}

/// Which file is behind a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct FileIdentity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileIdentity {
    fn of(file: &fs::Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

/// A socket file that we made, or were left by who made it. Removed on drop, if it is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
    /// Set once a successor looks after it.
    passed_on: Arc<AtomicBool>,
}

impl SocketFile {
    fn of(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(&path)?;
        Ok(Self::inherited(path, FileIdentity::of(&metadata)))
    }

    /// A file that a predecessor has left to us.
    pub(super) fn inherited(path: PathBuf, identity: FileIdentity) -> Self {
        Self {
            path,
            identity,
            passed_on: Arc::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Has the file left alone on drop once `passed_on` is set.
    pub(super) fn unless(mut self, passed_on: &Arc<AtomicBool>) -> Self {
        self.passed_on = Arc::clone(passed_on);
        self
    }

    /// Removes the file, if it is still ours. The caller has the directory's lock.
    fn remove(&self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| FileIdentity::of(&file) == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.passed_on.load(Ordering::Acquire) {
            return;
        }
        // Without the lock, a successor's file might be removed; it will replace ours just as well.
        if let Ok(_lock) = DirectoryLock::acquire(&self.path) {
            self.remove();
        }
    }
}

/// The right to change socket files in one directory, among those who ask for it.
#[derive(Debug)]
struct DirectoryLock {
    _lock: Option<Flock<File>>,
}

impl DirectoryLock {
    /// Others hold the lock for a few system calls. One who holds it for longer means no good.
    const PATIENCE: Duration = Duration::from_millis(500);

    /// Locks the directory that `path` lies in.
    fn acquire(path: &Path) -> io::Result<Self> {
        let directory = path.parent().unwrap_or(path);
        let mut directory = match File::open(directory) {
            Ok(directory) => directory,
            // A directory may be writable and not readable. Then we go without, and so does everybody else like us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Self { _lock: None });
            }
            Err(error) => return Err(error),
        };
        let start = Instant::now();
        loop {
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self { _lock: Some(lock) }),
                Err((unlocked, errno)) => {
                    let error = io::Error::from(errno);
                    let may_wait = error.kind() == io::ErrorKind::WouldBlock
                        && start.elapsed() < Self::PATIENCE;
                    match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        _ if may_wait => thread::sleep(Duration::from_millis(1)),
                        // Some network file systems have no such locks.
                        io::ErrorKind::Unsupported => return Ok(Self { _lock: None }),
                        _ => return Err(error),
                    }
                    directory = unlocked;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;
    use crate::error::InvalidAddress;

    fn place() -> (TempDir, PathBuf, Address) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let address = Address::from(path.clone());
        (directory, path, address)
    }

    fn inode(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().ino()
    }

    #[test]
    fn the_file_is_private_and_goes_with_the_listener() {
        let (directory, path, address) = place();
        let bound = bind(&address).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(bound);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );
    }

    #[test]
    fn hazard_h63_a_live_server_keeps_its_address() {
        let (_directory, path, address) = place();
        let first = bind(&address).unwrap();
        let before = inode(&path);
        match bind(&address) {
            Err(BindError::InUse { address }) => {
                assert_eq!(address.to_string(), path.display().to_string())
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(inode(&path), before);
        drop(first);
        bind(&address).unwrap();
    }

    #[test]
    fn a_dead_servers_file_is_replaced() {
        let (_directory, path, address) = place();
        drop(UnixListener::bind(&path).unwrap()); // std leaves the file behind.
        let bound = bind(&address).unwrap();
        endpoint::connect(&address.to_unix().unwrap().unwrap()).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn hazard_h63_other_files_are_left_alone() {
        let (directory, path, address) = place();
        let in_use = || assert!(matches!(bind(&address), Err(BindError::InUse { .. })));
        fs::write(&path, "precious").unwrap();
        in_use();
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        // A link to a stale socket is not a stale socket.
        let stale = directory.path().join("stale");
        drop(UnixListener::bind(&stale).unwrap());
        std::os::unix::fs::symlink(&stale, &path).unwrap();
        in_use();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        fs::remove_file(&path).unwrap();
        let _other_kind = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        in_use();
        assert!(path.exists());
    }

    #[test]
    fn a_successors_file_is_not_removed() {
        let (_directory, path, address) = place();
        let first = bind(&address).unwrap();
        fs::remove_file(&path).unwrap();
        let second = bind(&address).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn hazard_h63_a_successor_takes_the_path_over_and_at_no_moment_nobody_listens() {
        let (directory, path, address) = place();
        let unix = address.to_unix().unwrap().unwrap();
        let mut current = take_over(&address).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // Nobody accepts, so the queue may fill.
                    match endpoint::connect(&unix) {
                        Ok(_) => {}
                        // The inode was found, and its listener had gone by the time it was asked.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                }
            });
            for _ in 0..200 {
                let successor = take_over(&address).unwrap();
                drop(std::mem::replace(&mut current, successor));
                assert!(path.exists(), "the predecessor leaves the file alone");
                endpoint::connect(&unix).expect("the successor listens");
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660,
            "whoever could connect to the predecessor can connect to the successor"
        );
        drop(current);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_successor_that_was_killed_half_way_is_in_nobodys_way() {
        let (directory, path, address) = place();
        let first = bind(&address).unwrap();
        drop(UnixListener::bind(draft_of(path)).unwrap());
        let second = take_over(&address).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop((first, second));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_sockets_are_taken_over() {
        let (_directory, path, address) = place();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(take_over(&address), Err(BindError::InUse { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = format!("/{}", "x".repeat(106));
        assert!(matches!(
            take_over(&long.as_str().into()),
            Err(BindError::Address(InvalidAddress::TooLong { .. }))
        ));
    }

    #[test]
    fn of_many_that_find_a_stale_file_one_wins() {
        let (_directory, path, address) = place();
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let results = thread::scope(|scope| {
                let binds = [(); 4].map(|()| scope.spawn(|| bind(&address)));
                binds.map(|bind| bind.join().unwrap())
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
            endpoint::connect(&address.to_unix().unwrap().unwrap())
                .expect("the winner can be reached");
        }
    }

    #[test]
    fn abstract_names_are_exclusive_and_vanish() {
        let (directory, ..) = place();
        let address = Address::Abstract(format!("shmipc{}", directory.path().display()));
        let first = bind(&address).unwrap();
        assert!(matches!(bind(&address), Err(BindError::InUse { .. })));
        drop(first);
        bind(&address).unwrap();
    }

    #[test]
    fn what_cannot_be_bound_is_named() {
        assert!(matches!(
            bind(&"".into()),
            Err(BindError::Address(InvalidAddress::Empty))
        ));
        let (directory, path, _) = place();
        let missing = bind(&path.join("below").into()).unwrap_err();
        assert!(
            missing.to_string().contains(&path.display().to_string()),
            "{missing}"
        );
        let not_listening = File::open(directory.path()).unwrap();
        let not_listening = Address::from(std::os::fd::OwnedFd::from(not_listening));
        assert!(matches!(
            bind(&not_listening),
            Err(BindError::Address(InvalidAddress::NotASocket { .. }))
        ));
    }

    #[test]
    fn an_inherited_socket_serves() {
        let (_directory, _, address) = place();
        let Bound {
            file: _file,
            socket,
            ..
        } = bind(&address).unwrap();
        let socket = socket.as_fd().try_clone_to_owned().unwrap();
        let inherited = bind(&Address::from(socket)).unwrap();
        assert!(inherited.file.is_none());
        endpoint::connect(&address.to_unix().unwrap().unwrap()).unwrap();
        inherited.socket.accept().unwrap();
    }

    #[test]
    fn a_port_is_given_if_none_is_asked_for_and_is_then_in_use() {
        for any in ["tcp://127.0.0.1:0", "tcp://[::1]:0"] {
            let Ok(bound) = bind(&any.into()) else {
                assert!(any.contains("::1"), "there may be no IPv6");
                continue;
            };
            assert!(matches!(&bound.address, Address::Tcp(at) if at.port() != 0));
            assert!(matches!(bind(&bound.address), Err(BindError::InUse { .. })));
            let address = bound.address.clone();
            drop(bound);
            bind(&address).unwrap();
        }
        assert!(matches!(
            bind(&"tcp://0.0.0.0:0".into()),
            Err(BindError::Address(InvalidAddress::NotLoopback { .. }))
        ));
    }
}
