//! What a process holds, as the kernel counts it.

use std::fs;

use crate::until;

/// The open descriptors of this process.
///
/// # Panics
///
/// If `/proc` is not there.
#[must_use]
pub fn descriptors() -> usize {
    // One of them is the directory itself.
    fs::read_dir("/proc/self/fd")
        .expect("/proc is mounted")
        .count()
        - 1
}

/// The mappings of shared memory in this process: of memory files, and of files that have a name there.
///
/// # Panics
///
/// If `/proc` is not there.
#[must_use]
pub fn shared_mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let is_shared = |line: &&str| line.contains("memfd:") || line.contains("/dev/shm/");
    maps.lines().filter(is_shared).count()
}

/// The file that `bytes` is mapped from: device and inode.
///
/// # Panics
///
/// If `/proc` is not there, or the bytes are not mapped.
#[must_use]
pub fn inode(bytes: &[u8]) -> String {
    let address = bytes.as_ptr().addr();
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let found = maps.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let [start, end] = [start, end].map(|word| usize::from_str_radix(word, 16).ok());
        let (device, inode) = (fields.nth(2)?, fields.next()?);
        (start?..end?)
            .contains(&address)
            .then(|| format!("{device} {inode}"))
    });
    found.expect("the bytes are mapped")
}

/// The resident memory of this process in bytes.
///
/// # Panics
///
/// If `/proc` is not there.
#[must_use]
pub fn resident() -> u64 {
    resident_of("self")
}

/// The resident memory of the process `pid` in bytes.
///
/// # Panics
///
/// If there is no such process.
#[must_use]
pub fn resident_of(pid: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process exists");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("it has memory");
    let kib: u64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number");
    kib << 10
}

/// What must be the same before and after.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Holdings {
    /// See [`descriptors`].
    pub descriptors: usize,
    /// See [`shared_mappings`].
    pub mappings: usize,
}

impl Holdings {
    /// Counts what this process holds.
    #[must_use]
    pub fn count() -> Self {
        Self {
            descriptors: descriptors(),
            mappings: shared_mappings(),
        }
    }

    /// Waits until this process holds no more than this.
    ///
    /// # Panics
    ///
    /// If it keeps more.
    pub async fn are_back(&self, what: &str) {
        until(&format!("{what}: {self:?} are back"), || {
            let Self {
                descriptors,
                mappings,
            } = Self::count();
            // Fewer mappings, because idle memory has gone back meanwhile.
            descriptors <= self.descriptors && mappings <= self.mappings
        })
        .await;
    }
}
