//! The Huffman code of field strings (RFC 7541 §5.2).

use super::huffman_table::CODES;

const END_OF_STRING: u16 = 256;
const LONGEST: usize = 30;

/// The bytes that [`encode`] needs for `text`.
pub(crate) fn size(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|byte| usize::from(CODES[usize::from(*byte)].1)).sum();
    bits.div_ceil(8)
}

/// Appends the code of `text`, filled up with ones.
pub(crate) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let mut pending = 0u64;
    let mut bits = 0u8;
    for byte in text {
        let (code, length) = CODES[usize::from(*byte)];
        pending = pending << length | u64::from(code);
        bits += length;
        while bits >= 8 {
            bits -= 8;
            out.push((pending >> bits) as u8);
        }
    }
    if bits > 0 {
        out.push((pending << (8 - bits)) as u8 | 0xff >> bits);
    }
}

/// The text of a code; `None` when it holds the end of the string or is not filled up with fewer than eight ones.
pub(crate) fn decode(code: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(code.len() * 8 / 5);
    let mut value = 0u32;
    let mut length = 0usize;
    for byte in code {
        for bit in (0..8).rev() {
            value = value << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if let Some(symbol) = CANONICAL.symbol(value, length) {
                if symbol == END_OF_STRING {
                    return None;
                }
                text.push(symbol as u8);
                value = 0;
                length = 0;
            }
        }
    }
    let only_ones = value == (1u32 << length) - 1;
    (length < 8 && only_ones).then_some(text)
}

/// The code is canonical: codes of one length are consecutive, and so are the symbols sorted by length and value.
struct Canonical {
    /// By length: the first code, how many there are, where their symbols begin.
    lengths: [(u32, u32, usize); LONGEST + 1],
    symbols: [u16; 257],
}

static CANONICAL: Canonical = Canonical::new();

impl Canonical {
    const fn new() -> Self {
        let mut lengths = [(0, 0, 0); LONGEST + 1];
        let mut symbols = [0; 257];
        let mut filled = 0;
        let mut length = 1;
        while length <= LONGEST {
            let begin = filled;
            let mut symbol = 0;
            while symbol < CODES.len() {
                if CODES[symbol].1 as usize == length {
                    symbols[filled] = symbol as u16;
                    filled += 1;
                }
                symbol += 1;
            }
            if filled > begin {
                let first = CODES[symbols[begin] as usize].0;
                lengths[length] = (first, (filled - begin) as u32, begin);
            }
            length += 1;
        }
        Self { lengths, symbols }
    }

    fn symbol(&self, value: u32, length: usize) -> Option<u16> {
        let (first, count, begin) = *self.lengths.get(length)?;
        let nth = value.checked_sub(first).filter(|nth| *nth < count)?;
        Some(self.symbols[begin + nth as usize])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        text.split_whitespace()
            .flat_map(|group| {
                (0..group.len()).step_by(2).map(move |at| u8::from_str_radix(&group[at..at + 2], 16).unwrap())
            })
            .collect()
    }

    #[test]
    fn examples_of_rfc_7541_appendix_c() {
        for (text, code) in [
            ("www.example.com", "f1e3 c2e5 f23a 6ba0 ab90 f4ff"),
            ("no-cache", "a8eb 1064 9cbf"),
            ("custom-key", "25a8 49e9 5ba9 7d7f"),
            ("custom-value", "25a8 49e9 5bb8 e8b4 bf"),
            ("302", "6402"),
            ("307", "640e ff"),
            ("gzip", "9bd9 ab"),
            ("private", "aec3 771a 4b"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff"),
            ("Mon, 21 Oct 2013 20:13:22 GMT", "d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff"),
            ("https://www.example.com", "9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            ),
        ] {
            let code = hex(code);
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(out, code, "{text}");
            assert_eq!(size(text.as_bytes()), code.len());
            assert_eq!(decode(&code).unwrap(), text.as_bytes());
        }
    }

    /// The table, against what RFC 7541 §5.2 and Appendix B say of it: prefix-free, nothing left over, and the end of the
    /// string is thirty ones.
    #[test]
    fn the_code_is_complete() {
        let space: u64 = CODES.iter().map(|(_, length)| 1 << (LONGEST - usize::from(*length))).sum();
        assert_eq!(space, 1 << LONGEST);
        for (nth, (code, length)) in CODES.iter().enumerate() {
            assert!(*code < 1 << length);
            for (other, (longer, its_length)) in CODES.iter().enumerate() {
                let is_prefix = its_length >= length && longer >> (its_length - length) == *code;
                assert_eq!(is_prefix, nth == other, "{nth} {other}");
            }
        }
        assert_eq!(CODES[usize::from(END_OF_STRING)], ((1 << 30) - 1, 30));
    }

    /// The bits of an octet's code, filled up to `bytes` bytes with `filling`.
    fn padded(octet: u8, bytes: usize, filling: bool) -> Vec<u8> {
        let (code, length) = CODES[usize::from(octet)];
        let code = (0..length).rev().map(|bit| code >> bit & 1 == 1);
        let bits: Vec<bool> = code.chain(std::iter::repeat(filling)).take(bytes * 8).collect();
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    #[test]
    fn padding_is_up_to_seven_ones() {
        for octet in 0..=u8::MAX {
            let bytes = usize::from(CODES[usize::from(octet)].1).div_ceil(8);
            let is_filled = !CODES[usize::from(octet)].1.is_multiple_of(8);
            assert_eq!(decode(&padded(octet, bytes, true)), Some(vec![octet]));
            assert_eq!(decode(&padded(octet, bytes + 1, true)), None, "{octet} and eight ones or more");
            if is_filled {
                // Five zeros and more are a character of their own.
                assert_ne!(decode(&padded(octet, bytes, false)), Some(vec![octet]), "{octet} and zeros");
            }
        }
        assert_eq!(decode(&[]), Some(vec![]));
        assert_eq!(decode(&[0xff]), None, "eight ones");
        assert_eq!(decode(&[0b0001_1110]), None, "a one missing");
    }

    #[test]
    fn the_end_of_the_string_is_refused_anywhere() {
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff]), None, "alone");
        // a is 00011: in front of it, and behind it with the bits of another a.
        assert_eq!(decode(&[0b0001_1111, 0xff, 0xff, 0xff, 0b1110_0011]), None);
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0b1111_1100, 0b0001_1111]), None);
    }

    proptest! {
        #[test]
        fn round_trip(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut out = Vec::new();
            encode(&text, &mut out);
            prop_assert_eq!(out.len(), size(&text));
            prop_assert_eq!(decode(&out), Some(text));
        }

        /// There is one code for a text: what is decoded was encoded just so.
        #[test]
        fn only_what_encodes_alike_is_decoded(code in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some(text) = decode(&code) {
                let mut out = Vec::new();
                encode(&text, &mut out);
                prop_assert_eq!(out, code);
            }
        }
    }
}
