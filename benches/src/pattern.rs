//! What payloads consist of: words that are cheap to write, cheap to verify, and different in every call.
//!
//! Word `i` of a payload is `seed + i × STEP`, little endian, and the first word is the seed itself, so that the
//! receiver needs nothing but the payload. Verifying compares every word with the one expected in that place: no order
//! of words but the right one passes. Both loops vectorise and run at the speed of memory.

use crate::Result;

/// The difference between neighbouring words: odd, and with bits in every byte.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The length of one word in bytes.
const WORD_LEN: usize = size_of::<u64>();

/// Writes every byte of `target` with the pattern of `seed`.
pub fn fill(target: &mut [u8], seed: u64) {
    let mut word = seed;
    let (words, rest) = target.as_chunks_mut::<WORD_LEN>();
    for place in words {
        *place = word.to_le_bytes();
        word = word.wrapping_add(STEP);
    }
    for (place, byte) in rest.iter_mut().zip(word.to_le_bytes()) {
        *place = byte;
    }
}

/// Reads every byte of `source` and says whether it holds the pattern of `seed`.
#[must_use]
pub fn matches(source: &[u8], seed: u64) -> bool {
    let mut word = seed;
    let mut difference = 0;
    let (words, rest) = source.as_chunks::<WORD_LEN>();
    for place in words {
        difference |= u64::from_le_bytes(*place) ^ word;
        word = word.wrapping_add(STEP);
    }
    let rest_matches = rest
        .iter()
        .zip(word.to_le_bytes())
        .all(|(place, byte)| *place == byte);
    difference == 0 && rest_matches
}

/// Reads every byte of an answer.
///
/// # Errors
///
/// Fails unless it holds the pattern of `seed`.
pub fn verify(answer: &[u8], seed: u64) -> Result<()> {
    if matches(answer, seed) {
        Ok(())
    } else {
        Err("an answer arrived with wrong bytes".into())
    }
}

/// Reads every byte of `source` and returns its seed, or `None` if a byte is wrong or the first word is incomplete.
#[must_use]
pub fn verified_seed(source: &[u8]) -> Option<u64> {
    let seed = u64::from_le_bytes(*source.first_chunk()?);
    matches(source, seed).then_some(seed)
}

/// The seed of the answer to a payload of `seed`.
#[must_use]
pub fn answer(seed: u64) -> u64 {
    !seed.rotate_left(1)
}

/// Word `index` of the pattern of `seed`.
#[must_use]
pub fn word(seed: u64, index: u64) -> u64 {
    seed.wrapping_add(index.wrapping_mul(STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_recognised_at_every_length() {
        for len in 0..64 {
            let mut bytes = vec![0; len];
            fill(&mut bytes, 7);
            assert!(matches(&bytes, 7), "{len}");
            assert_eq!(
                verified_seed(&bytes),
                (WORD_LEN <= len).then_some(7),
                "{len}"
            );
        }
    }

    #[test]
    fn every_single_wrong_byte_is_noticed() {
        let mut bytes = [0; 61];
        fill(&mut bytes, 7);
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(!matches(&bytes, 7), "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn swapped_words_are_noticed() {
        let mut bytes = [0; 64];
        fill(&mut bytes, 7);
        let (first, second) = bytes[16..32].split_at_mut(8);
        first.swap_with_slice(second);
        assert!(!matches(&bytes, 7));
    }

    #[test]
    fn words_are_those_that_fill_writes() {
        let mut bytes = [0; 24];
        fill(&mut bytes, 99);
        assert_eq!(bytes[16..], word(99, 2).to_le_bytes());
    }
}
