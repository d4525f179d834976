//! Where allocations are made: stacks, reduced to what a reader can use.

use std::collections::HashMap;
use std::env;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::alloc::Traced;

/// How many frames a site keeps: enough to see who asked for what.
const FRAMES_MAX: usize = 6;

/// Sources whose frames say how something is allocated, not why: the standard library, its hash table, our counter.
const MACHINERY: [&str; 3] = ["library/", "hashbrown-", "benches/src/alloc.rs"];

/// One place that allocates.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Site {
    /// How often it did.
    pub count: u64,
    /// Bytes it asked for, all times together.
    pub bytes: u64,
    /// The functions on the stack, the innermost first, each with its place in the source.
    pub frames: Vec<String>,
}

/// Groups allocations by the place where they were made, the most frequent first.
#[must_use]
pub fn gather(traced: &[Traced]) -> Vec<Site> {
    let mut sites: HashMap<Vec<String>, (u64, u64)> = HashMap::new();
    for allocation in traced {
        let frames = frames(&allocation.backtrace.to_string());
        let (count, bytes) = sites.entry(frames).or_default();
        *count += 1;
        *bytes += allocation.size as u64;
    }
    let mut sites: Vec<_> = sites
        .into_iter()
        .map(|(frames, (count, bytes))| Site {
            count,
            bytes,
            frames,
        })
        .collect();
    sites.sort_by(|left, right| {
        right
            .count
            .cmp(&left.count)
            .then_with(|| left.frames.cmp(&right.frames))
    });
    sites
}

/// The frames of a printed backtrace that are known to belong to no machinery.
fn frames(backtrace: &str) -> Vec<String> {
    let mut frames = Vec::new();
    let mut lines = backtrace.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let numbered = line
            .split_once(": ")
            .filter(|(number, _)| number.parse::<u32>().is_ok());
        let place = lines
            .next_if(|next| next.starts_with("at "))
            .map(|next| place(&next["at ".len()..]));
        let (Some((_, function)), Some(place)) = (numbered, place) else {
            continue;
        };
        if MACHINERY
            .iter()
            .any(|machinery| place.starts_with(machinery))
        {
            continue;
        }
        frames.push(format!("{} ({place})", without_parameters(function)));
        if frames.len() == FRAMES_MAX {
            break;
        }
    }
    frames
}

/// A function's name without the types that it was instantiated with.
fn without_parameters(function: &str) -> String {
    let mut name = String::new();
    let mut depth = 0_u32;
    let mut previous = None;
    for character in function.chars() {
        match character {
            // A name may begin with `<Type as Trait>`, which is part of it.
            '<' if previous.is_some() => depth += 1,
            // The tip of an arrow closes nothing.
            '>' if depth != 0 && previous != Some('-') => depth -= 1,
            _ if depth == 0 => name.push(character),
            _ => {}
        }
        previous = Some(character);
    }
    name
}

/// A source location without what is particular to this machine: the folders above the workspace, the crate, or what a
/// build script has generated.
fn place(location: &str) -> String {
    let here = env::current_dir().unwrap_or_default();
    let location = location.strip_prefix("./").map_or_else(
        || location.to_owned(),
        |relative| here.join(relative).to_string_lossy().into_owned(),
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let inside = Path::new(&location)
        .strip_prefix(root.unwrap_or(Path::new("/")))
        .ok()
        .and_then(Path::to_str);
    let after = |mark| location.split_once(mark).map(|(_, rest)| rest);
    let within = |folder| {
        after(folder)
            .and_then(|rest| rest.split_once('/'))
            .map(|(_, rest)| rest)
    };
    let elsewhere = within("/registry/src/")
        .or_else(|| within("/rustc/"))
        .or_else(|| after("/out/"));
    let short = elsewhere.or(inside).unwrap_or(&location);
    // The column is of no use without an editor.
    short
        .rsplit_once(':')
        .map_or(short, |(line, _)| line)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_that_say_why_are_kept() {
        let root = env!("CARGO_MANIFEST_DIR");
        let backtrace = format!(
            "\
   0: trace
             at {root}/src/alloc.rs:120:21
   1: <alloc::vec::Vec<T> as core::clone::Clone>::clone
             at /rustc/0123/library/alloc/src/vec/mod.rs:1:2
   2: from_owner<benches::pool::Pooled>
             at /home/x/.cargo/registry/src/index-1/bytes-1.12.2/src/bytes.rs:250:9
   3: merge<T>
             at /target/release/build/x-1/out/bench.v1.rs:4:1
   4: __libc_start_main
"
        );
        assert_eq!(
            frames(&backtrace),
            [
                "from_owner (bytes-1.12.2/src/bytes.rs:250)",
                "merge (bench.v1.rs:4)"
            ]
        );
    }

    #[test]
    fn names_lose_their_type_parameters() {
        assert_eq!(
            without_parameters("call_once<fn(A) -> B, (C<D>)>"),
            "call_once"
        );
        assert_eq!(without_parameters("<A as B>::c"), "<A as B>::c");
    }
}
