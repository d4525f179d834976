//! Memory that two processes of the benchmark both write, for the peers that show what the hardware allows.
//!
//! The layout is two *lanes*, one for each direction: first their lines, then their payload areas.
//!
//! ```text
//! byte 0          128         256                    256 + len
//!      | request  | response  | payload of requests  | payload of responses |
//!      | line     | line      |                      |                      |
//! ```
//!
//! A line is 64 bytes of atomics in a block of 128, because the hardware prefetches lines in pairs: the first word
//! counts messages, the others are payload of small ones. The payload areas are ordinary bytes. Whoever has published
//! message `n` leaves its lane alone until message `n` of the other lane has arrived; [`Client`] and [`Server`] allow no
//! other order, and both processes run this same code.

#![expect(
    unsafe_code,
    reason = "the one place that turns the shared mapping into references"
)]

use std::fs::File;
use std::hint;
use std::os::fd::OwnedFd;
use std::slice;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::{Result, pattern};

/// Payload words in a line; the first word of the line is the count.
const WORDS: usize = 7;

/// Where the payload areas begin.
const AREAS_START: usize = 2 * size_of::<Line>();

/// One cache line of a lane, written by one side and read by the other.
#[derive(Debug)]
#[repr(C, align(128))]
struct Line {
    count: AtomicU64,
    words: [AtomicU64; WORDS],
}

const _: () = assert!(size_of::<Line>() == 128);

#[derive(Clone, Copy, Debug)]
enum Lane {
    Requests,
    Responses,
}

/// The caller's end.
#[derive(Debug)]
pub struct Client {
    memory: Memory,
    count: u64,
}

/// The answering end.
#[derive(Debug)]
pub struct Server {
    memory: Memory,
    count: u64,
}

/// Makes the memory of a pair with payload areas of `len` bytes, as a descriptor that child processes inherit.
///
/// # Errors
///
/// Fails if the kernel grants no memory.
pub fn create(len: usize) -> Result<OwnedFd> {
    let file = File::from(memfd_create("benches", MFdFlags::empty())?);
    file.set_len((AREAS_START + 2 * len) as u64)?;
    Ok(file.into())
}

impl Client {
    /// Maps the memory made by [`create`] with the same `len`.
    ///
    /// # Errors
    ///
    /// Fails if the memory cannot be mapped.
    pub fn map(memory: OwnedFd, len: usize) -> Result<Self> {
        Ok(Self {
            memory: Memory::map(memory, len)?,
            count: 0,
        })
    }

    /// Sends the 56 bytes of `seed` that fit in a line, and verifies the answer that arrives in one.
    ///
    /// `ring` is called when the request can be seen; `wait` is called until the answer can.
    ///
    /// # Errors
    ///
    /// Fails if the answer is not the one to `seed`, or `ring` or `wait` fails.
    pub fn exchange_line(
        &mut self,
        seed: u64,
        ring: impl FnOnce() -> Result<()>,
        wait: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        self.count += 1;
        self.memory.line(Lane::Requests).write(seed);
        self.memory.line(Lane::Requests).publish(self.count);
        ring()?;
        let answer = self.memory.line(Lane::Responses);
        answer.await_count(self.count, wait)?;
        if answer.verified_seed() == Some(pattern::answer(seed)) {
            Ok(())
        } else {
            Err(wrong_bytes())
        }
    }

    /// Fills the request's area with the pattern of `seed`, and verifies the area of the answer, which it spins for.
    ///
    /// # Errors
    ///
    /// Fails if the answer is not the one to `seed`.
    pub fn exchange_area(&mut self, seed: u64) -> Result<()> {
        pattern::fill(self.memory.area_mut(Lane::Requests), seed);
        self.count += 1;
        self.memory.line(Lane::Requests).publish(self.count);
        self.memory
            .line(Lane::Responses)
            .await_count(self.count, spin)?;
        let answer = self.memory.area_mut(Lane::Responses);
        if pattern::matches(answer, pattern::answer(seed)) {
            Ok(())
        } else {
            Err(wrong_bytes())
        }
    }
}

impl Server {
    /// Maps the memory made by [`create`] with the same `len`.
    ///
    /// # Errors
    ///
    /// Fails if the memory cannot be mapped.
    pub fn map(memory: OwnedFd, len: usize) -> Result<Self> {
        Ok(Self {
            memory: Memory::map(memory, len)?,
            count: 0,
        })
    }

    /// Answers one [`Client::exchange_line`].
    ///
    /// # Errors
    ///
    /// Fails if the request's bytes are wrong, or `ring` or `wait` fails.
    pub fn answer_line(
        &mut self,
        ring: impl FnOnce() -> Result<()>,
        wait: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        self.count += 1;
        let request = self.memory.line(Lane::Requests);
        request.await_count(self.count, wait)?;
        let seed = request.verified_seed().ok_or_else(wrong_bytes)?;
        self.memory
            .line(Lane::Responses)
            .write(pattern::answer(seed));
        self.memory.line(Lane::Responses).publish(self.count);
        ring()
    }

    /// Answers one [`Client::exchange_area`].
    ///
    /// # Errors
    ///
    /// Fails if the request's bytes are wrong.
    pub fn answer_area(&mut self) -> Result<()> {
        self.count += 1;
        self.memory
            .line(Lane::Requests)
            .await_count(self.count, spin)?;
        let seed =
            pattern::verified_seed(self.memory.area_mut(Lane::Requests)).ok_or_else(wrong_bytes)?;
        pattern::fill(self.memory.area_mut(Lane::Responses), pattern::answer(seed));
        self.memory.line(Lane::Responses).publish(self.count);
        Ok(())
    }
}

/// Lets the processor know that this is a spinning loop. Never fails.
///
/// # Errors
///
/// None; the type is that of every way to wait.
pub fn spin() -> Result<()> {
    hint::spin_loop();
    Ok(())
}

impl Line {
    fn write(&self, seed: u64) {
        for (index, word) in (0..).zip(&self.words) {
            word.store(pattern::word(seed, index), Relaxed);
        }
    }

    /// Announces what was written before.
    fn publish(&self, count: u64) {
        // Release: pairs with the Acquire in `await_count`, so that what was written is seen with the count.
        self.count.store(count, Release);
    }

    fn await_count(&self, count: u64, mut wait: impl FnMut() -> Result<()>) -> Result<()> {
        // Acquire: pairs with the Release in `publish`.
        while self.count.load(Acquire) != count {
            wait()?;
        }
        Ok(())
    }

    /// Reads every word.
    fn verified_seed(&self) -> Option<u64> {
        let seed = self.words[0].load(Relaxed);
        let difference = (0..).zip(&self.words).fold(0, |difference, (index, word)| {
            difference | (word.load(Relaxed) ^ pattern::word(seed, index))
        });
        (difference == 0).then_some(seed)
    }
}

#[derive(Debug)]
struct Memory {
    map: MmapRaw,
    area_len: usize,
}

impl Memory {
    fn map(memory: OwnedFd, area_len: usize) -> Result<Self> {
        let file = File::from(memory);
        let len = AREAS_START + 2 * area_len;
        if file.metadata()?.len() != len as u64 {
            return Err("the shared memory has another length than this case asks for".into());
        }
        let map = MmapOptions::new().len(len).map_raw(&file)?;
        Ok(Self { map, area_len })
    }

    fn line(&self, lane: Lane) -> &Line {
        let lines = self.map.as_mut_ptr().cast::<Line>();
        // SAFETY: `map` checked that the file is longer than two lines, so the second lies inside the mapping too.
        let line = unsafe { lines.add(lane as usize) };
        // SAFETY:
        // - Aligned and inside: mappings begin at a page, lines are 128 bytes, and `map` checked the length.
        // - Valid: a `Line` is atomics, for which every bit pattern is a value, and padding.
        // - Alive and not exclusively borrowed: `self` keeps the mapping, and only areas are borrowed exclusively.
        unsafe { &*line }
    }

    fn area_mut(&mut self, lane: Lane) -> &mut [u8] {
        let start = AREAS_START + lane as usize * self.area_len;
        // SAFETY: `map` checked that the file holds two areas after the lines, so `start` lies inside the mapping.
        let area = unsafe { self.map.as_mut_ptr().add(start) };
        // SAFETY:
        // - Inside: as above, for `area_len` bytes more. Bytes have no alignment and no invalid values.
        // - Exclusive in this process: `self` is borrowed exclusively, and lines lie elsewhere.
        // - Exclusive between the processes: the order stated in the module's documentation.
        unsafe { slice::from_raw_parts_mut(area, self.area_len) }
    }
}

fn wrong_bytes() -> crate::Failure {
    "a message arrived with wrong bytes".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_understand_each_other() {
        let memory = create(1000).unwrap();
        let other = memory.try_clone().unwrap();
        let server = std::thread::spawn(move || {
            let mut server = Server::map(other, 1000).unwrap();
            for _ in 0..100 {
                server.answer_line(|| Ok(()), spin).unwrap();
                server.answer_area().unwrap();
            }
        });
        let mut client = Client::map(memory, 1000).unwrap();
        for seed in 0..100 {
            client.exchange_line(seed, || Ok(()), spin).unwrap();
            client.exchange_area(seed).unwrap();
        }
        server.join().unwrap();
    }
}
