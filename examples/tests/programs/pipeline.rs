//! Three processes that pass frames on.

use std::process::Command;

use crate::process::run;

const EXPECTED: &str = "\
32 frames were made
13 were dropped by the filter
19 arrived, with 14685184 bytes of pixels

bytes    not copied passed on copied
";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The most that the heads of all frames may take.
const HEADS_MAX: u64 = 4 * KIB;

#[test]
fn the_large_frames_that_are_kept_pass_three_processes_without_a_copy() {
    let (said, complaints) = run(&mut Command::new(env!("CARGO_BIN_EXE_pipeline")));
    assert_eq!(complaints, "");
    let (head, figures) = said.split_at(EXPECTED.len());
    assert_eq!(head, EXPECTED);
    let [producer, filter] = figures.lines().collect::<Vec<_>>()[..] else {
        panic!("two processes send frames: {figures}");
    };
    // Small frames are copied, and the heads of all. How long these are is nothing to rely on.
    let [not_copied, passed_on, copied] = numbers(producer, "producer");
    assert_eq!((not_copied, passed_on), (24 * MIB, 0));
    assert!((8 * KIB..8 * KIB + HEADS_MAX).contains(&copied), "{copied}");
    let [not_copied, passed_on, copied] = numbers(filter, "filter");
    assert_eq!((not_copied, passed_on), (14 * MIB, 14 * MIB));
    assert!((5 * KIB..5 * KIB + HEADS_MAX).contains(&copied), "{copied}");
}

/// The numbers of a line.
fn numbers(line: &str, stage: &str) -> [u64; 3] {
    let numbers = line.strip_prefix(stage).unwrap().split_whitespace();
    let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}
