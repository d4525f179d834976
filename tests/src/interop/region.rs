//! A buffer region, as the free lists in it tell: whether everything that was allocated has come back.
//!
//! It is read in the memory of the client, who creates it. No implementation is asked, so that all are measured alike.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use crate::LONG;

/// Bytes before the first list, and of the head of each list and each slice.
const REGION_HEAD: usize = 8;
const LIST_HEAD: usize = 36;
const SLICE_HEAD: u64 = 20;

/// A class of slices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct List {
    /// Bytes of each slice.
    pub slice: u32,
    /// How many there are.
    pub cap: u32,
    /// How many of them are free.
    pub free: i32,
}

/// Reads the lists of all buffer regions that the process `pid` has mapped.
///
/// # Errors
///
/// Fails if the process is gone, or what it has mapped is no buffer region.
pub fn lists(pid: u32) -> io::Result<Vec<List>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut lists = Vec::new();
    for line in maps.lines() {
        let name = line.trim_end().trim_end_matches(" (deleted)");
        if !name.ends_with("_buffer") {
            continue;
        }
        let (start, _) = line.split_once('-').ok_or_else(malformed)?;
        let start = u64::from_str_radix(start, 16).map_err(|_| malformed())?;
        read(&memory, start, &mut lists)?;
    }
    Ok(lists)
}

fn read(memory: &File, start: u64, lists: &mut Vec<List>) -> io::Result<()> {
    let mut head = [0; REGION_HEAD];
    memory.read_exact_at(&mut head, start)?;
    let mut at = start + REGION_HEAD as u64;
    for _ in 0..u16::from_le_bytes([head[0], head[1]]) {
        let mut head = [0; LIST_HEAD];
        memory.read_exact_at(&mut head, at)?;
        let [free, cap, _, _, slice, ..] = *head.as_chunks().0 else {
            return Err(malformed());
        };
        let list = List {
            free: i32::from_le_bytes(free),
            cap: u32::from_le_bytes(cap),
            slice: u32::from_le_bytes(slice),
        };
        at += LIST_HEAD as u64 + u64::from(list.cap) * (u64::from(list.slice) + SLICE_HEAD);
        lists.push(list);
    }
    Ok(())
}

fn malformed() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidData)
}

/// Of each list, a side of ours keeps one slice of so many for its next messages, instead of putting it back, and no more than that many.
const SHARE_KEPT: u32 = 16;
const KEPT_MAX: u32 = 64;

/// Waits until no slice is in use in any region of the process `pid`, but for those that `keepers` sides of ours keep.
///
/// # Panics
///
/// If some stay in use, or it has no region.
pub fn is_whole_again(pid: u32, keepers: u32) {
    let start = Instant::now();
    loop {
        let lists = lists(pid).expect("a client with a region");
        assert!(!lists.is_empty(), "a client without a region");
        let missing: Vec<_> = lists
            .iter()
            .filter(|list| {
                let kept = i64::from(keepers * (list.cap / SHARE_KEPT).min(KEPT_MAX));
                let (free, cap) = (i64::from(list.free), i64::from(list.cap));
                free < cap - kept || cap < free
            })
            .collect();
        if missing.is_empty() {
            return;
        }
        assert!(start.elapsed() < LONG, "slices were lost: {missing:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
