//! Variable-length integers (RFC 9000 §16).

use bytes::BufMut;

/// The largest value that can be written.
pub const MAX: u64 = (1 << 62) - 1;

/// Appends `value` in the fewest bytes.
///
/// # Panics
/// When `value` exceeds [`MAX`].
pub fn write(value: u64, out: &mut impl BufMut) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => {
            assert!(value <= MAX, "{value} does not fit a variable-length integer");
            out.put_u64(value | 0xc000_0000_0000_0000);
        }
    }
}

/// The integer at the beginning of `input` and the bytes it takes; `None` when it is not whole.
#[must_use]
pub fn read(input: &[u8]) -> Option<(u64, usize)> {
    let first = *input.first()?;
    let length = 1usize << (first >> 6);
    let bytes = input.get(..length)?;
    let value = bytes[1..].iter().fold(u64::from(first & 0x3f), |value, byte| (value << 8) | u64::from(*byte));
    Some((value, length))
}

/// Takes the integer at the beginning off `input`; `None`, and `input` as it was, when it is not whole.
pub(crate) fn take(input: &mut &[u8]) -> Option<u64> {
    let (value, length) = read(input)?;
    *input = &input[length..];
    Some(value)
}

/// The bytes that [`write()`] needs for `value`.
#[must_use]
pub const fn size(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vectors_of_rfc_9000_appendix_a() {
        let vectors: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in vectors {
            assert_eq!(read(bytes), Some((value, bytes.len())));
        }
    }

    proptest! {
        /// RFC 9000 §16: a value need not be written in the fewest bytes.
        #[test]
        fn long_forms_have_the_same_value(value in 0..=MAX, form in 0..4u32) {
            let length = 1usize << form;
            prop_assume!(length >= size(value));
            let mut bytes = value.to_be_bytes()[8 - length..].to_vec();
            bytes[0] |= (form as u8) << 6;
            prop_assert_eq!(read(&bytes), Some((value, length)));
            let mut input = &bytes[..];
            prop_assert_eq!(take(&mut input), Some(value));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn round_trip(value in 0..=MAX, rest in proptest::collection::vec(any::<u8>(), 0..4)) {
            let mut out = Vec::new();
            write(value, &mut out);
            prop_assert_eq!(out.len(), size(value));
            for cut in 0..out.len() {
                prop_assert_eq!(read(&out[..cut]), None);
            }
            out.extend(rest);
            prop_assert_eq!(read(&out), Some((value, size(value))));
        }
    }
}
