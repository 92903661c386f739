//! The Internet checksum (RFC 1071).

use std::ops::Add;

/// A one's complement sum of 16-bit words that is not folded yet. Sums of parts add up to the sum of the whole when each
/// part but the last has an even length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(
    // Of words in the byte order of the machine, which RFC 1071 §2 (B) allows: the bytes of the result are the same.
    u64,
);

impl Sum {
    /// The sum of `bytes`, at most 4 GiB; an odd last byte counts as the high one of its word.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // Sums of 32-bit words in 64 bits need no carry, so the compiler makes vector instructions of this.
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let halves = |word: &[u8; 8]| {
            let word = u64::from_ne_bytes(*word);
            (word & 0xffff_ffff) + (word >> 32)
        };
        Self(words.iter().map(halves).sum::<u64>() + halves(&last))
    }

    /// The sum of one word.
    #[must_use]
    pub fn of_word(word: u16) -> Self {
        Self(u64::from(word.to_be()))
    }

    /// The sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) of an upper-layer packet of `length` bytes at most
    /// 65535. `addresses` is the source followed by the destination.
    #[must_use]
    pub fn of_pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Self {
        Self::of(addresses) + Self::of_word(u16::from(protocol)) + Self::of_word(length as u16)
    }

    /// The sum folded to its 16 bits, as they are on the wire.
    #[must_use]
    pub fn folded(self) -> [u8; 2] {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum as u16).to_ne_bytes()
    }

    /// The checksum of what was summed up, as it is on the wire.
    #[must_use]
    pub fn checksum(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// Whether what was summed up, which holds its checksum, is intact.
    #[must_use]
    pub fn is_intact(self) -> bool {
        self.folded() == [0xff; 2]
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

/// The checksum after one of the words that it covers changed (RFC 1624 §3).
#[must_use]
pub fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = Sum::of_word(!checksum) + Sum::of_word(!before) + Sum::of_word(after);
    u16::from_be_bytes(sum.checksum())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as RFC 1071 §1 describes it.
    fn simple(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), [0xdd, 0xf2]);
        assert_eq!(Sum::of(&[]).folded(), [0, 0]);
        assert_eq!(Sum::of(&[0xff; 65535]).checksum(), simple(&[0xff; 65535]));
    }

    proptest! {
        #[test]
        fn sums_are_those_of_single_words(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(Sum::of(&bytes).checksum(), simple(&bytes));
        }

        #[test]
        fn parts_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..100) {
            let (head, tail) = bytes.split_at((2 * cut).min(bytes.len()));
            prop_assert_eq!((Sum::of(head) + Sum::of(tail)).folded(), Sum::of(&bytes).folded());
        }

        #[test]
        fn bytes_with_their_checksum_are_intact(mut bytes in proptest::collection::vec(any::<u8>(), 1..200), bit in 0usize..1600) {
            bytes.splice(0..0, [0, 0]);
            let checksum = Sum::of(&bytes).checksum();
            bytes[..2].copy_from_slice(&checksum);
            prop_assert!(Sum::of(&bytes).is_intact());
            let bit = bit % (8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!Sum::of(&bytes).is_intact());
        }

        #[test]
        fn updates_are_those_of_the_whole(mut bytes in proptest::collection::vec(any::<u8>(), 40..=40), nth in 0usize..20, after: u16) {
            bytes[..2].fill(1);
            let checksum = u16::from_be_bytes(Sum::of(&bytes).checksum());
            let at = 2 * nth;
            let before = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&after.to_be_bytes());
            // Words that are all zero have two checksums.
            let update = updated(checksum, before, after).to_be_bytes();
            prop_assert!((Sum::of(&bytes) + Sum::of(&update)).is_intact());
        }
    }
}
