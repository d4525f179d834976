//! What the programs send each other: a head, and a payload that each byte of is known from its seed.
//!
//! `tests/interop-go/message.go` is the same in Go. Numbers are little endian.

/// A request.
pub const ECHO: u32 = 1;

/// A request whose stream the server closes behind the replies.
pub const CLOSE: u32 = 2;

/// A reply.
pub const REPLY: u32 = 3;

/// The bytes of a [`Head`].
pub const HEAD_LEN: usize = 40;

/// The longest payload that is believed.
pub const PAYLOAD_MAX: u32 = 64 << 20;

/// The difference between neighbouring words of a payload.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What each message begins with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Head {
    /// [`ECHO`], [`CLOSE`] or [`REPLY`].
    pub kind: u32,
    /// Bytes of the payload.
    pub len: u32,
    /// Bytes of the payload of each reply that is asked for.
    pub reply_len: u32,
    /// Replies that are asked for.
    pub replies: u32,
    /// What the payload is made of.
    pub seed: u64,
    /// Of the payload.
    pub checksum: u64,
    /// Of a reply, from 0.
    pub index: u64,
}

impl Head {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        let numbers = [self.kind, self.len, self.reply_len, self.replies];
        let (short, long) = bytes.split_at_mut(size_of_val(&numbers));
        for (place, number) in short.as_chunks_mut().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        let numbers = [self.seed, self.checksum, self.index];
        for (place, number) in long.as_chunks_mut().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes
    }

    /// From what arrived.
    #[must_use]
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Self {
        let (short, long) = bytes.split_at(16);
        let short = |index: usize| u32::from_le_bytes(short.as_chunks().0[index]);
        let long = |index: usize| u64::from_le_bytes(long.as_chunks().0[index]);
        Self {
            kind: short(0),
            len: short(1),
            reply_len: short(2),
            replies: short(3),
            seed: long(0),
            checksum: long(1),
            index: long(2),
        }
    }

    /// Says what is wrong with `payload`, if it is not the one that this announces.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn verify(&self, payload: &[u8]) -> Result<(), String> {
        let len = payload.len();
        let expected = pattern(len, self.seed);
        let mut wrong = payload.iter().zip(&expected).enumerate();
        if let Some((at, (found, expected))) = wrong.find(|(_, (found, wanted))| found != wanted) {
            return Err(format!(
                "byte {at} of {len} is {found:#x} instead of {expected:#x}"
            ));
        }
        let sum = checksum(payload);
        if sum != self.checksum {
            let expected = self.checksum;
            return Err(format!(
                "the checksum of {len} bytes is {sum:#x} instead of {expected:#x}"
            ));
        }
        Ok(())
    }
}

/// The payload of a seed: word `i` is the seed and `i` steps.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut payload = vec![0; len.next_multiple_of(size_of::<u64>())];
    let mut word = seed;
    for place in payload.as_chunks_mut().0 {
        *place = word.to_le_bytes();
        word = word.wrapping_add(STEP);
    }
    payload.truncate(len);
    payload
}

/// The seed of a reply.
#[must_use]
pub fn answer(seed: u64, index: u64) -> u64 {
    (!seed.rotate_left(1)).wrapping_add(index)
}

/// FNV-1a of 64 bits.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_what_it_was() {
        let head = Head {
            kind: CLOSE,
            len: 1,
            reply_len: 2,
            replies: 3,
            seed: 4 << 40,
            checksum: 5 << 40,
            index: 6 << 40,
        };
        assert_eq!(Head::decode(&head.encode()), head);
    }

    #[test]
    fn a_payload_that_was_changed_is_noticed() {
        let mut payload = pattern(61, 7);
        let head = Head {
            seed: 7,
            checksum: checksum(&payload),
            ..Head::default()
        };
        head.verify(&payload).unwrap();
        payload[60] ^= 1;
        head.verify(&payload).unwrap_err();
        head.verify(&payload[..60]).unwrap_err();
    }
}
