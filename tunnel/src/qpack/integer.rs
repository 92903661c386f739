//! Integers with a prefix (RFC 7541 §5.1, RFC 9204 §4.1.1).

/// Appends `value` with `prefix` bits in the first byte, whose other bits are `pattern`.
pub(crate) fn write(pattern: u8, prefix: u8, value: u64, out: &mut Vec<u8>) {
    let full = (1u64 << prefix) - 1;
    if value < full {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Takes an integer off `input`: its first byte and the value. `None` when it is cut or over 62 bits.
pub(crate) fn take(input: &mut &[u8], prefix: u8) -> Option<(u8, u64)> {
    let (&first, mut rest) = input.split_first()?;
    let full = (1u64 << prefix) - 1;
    let mut value = u64::from(first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            // Nine groups of seven bits are 63 bits; RFC 9204 asks for 62.
            if shift > 56 {
                return None;
            }
            value += u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *input = rest;
    Some((first, value)).filter(|_| value <= crate::varint::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_rfc_7541_appendix_c_1() {
        for (value, prefix, bytes) in [(10, 5, &[0x0a][..]), (1337, 5, &[0x1f, 0x9a, 0x0a]), (42, 8, &[0x2a])] {
            let mut out = Vec::new();
            write(0, prefix, value, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(take(&mut &out[..], prefix), Some((bytes[0], value)));
        }
    }

    #[test]
    fn endless_integers_are_refused() {
        let mut long = vec![0xff; 12];
        long.push(0);
        assert_eq!(take(&mut &long[..], 5), None);
    }

    #[test]
    fn integers_have_62_bits() {
        let mut largest = Vec::new();
        write(0, 8, crate::varint::MAX, &mut largest);
        assert_eq!(take(&mut &largest[..], 8), Some((0xff, crate::varint::MAX)));
        let mut larger = Vec::new();
        write(0, 8, crate::varint::MAX + 1, &mut larger);
        assert_eq!(take(&mut &larger[..], 8), None);
        // All bits of the nine groups set: no sum runs over.
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(take(&mut &most[..], 8), None);
    }

    proptest! {
        #[test]
        fn round_trip(value in 0..=crate::varint::MAX, prefix in 3u8..=8) {
            let mut out = Vec::new();
            write(0, prefix, value, &mut out);
            for cut in 0..out.len() {
                prop_assert_eq!(take(&mut &out[..cut], prefix), None);
            }
            let mut input = &out[..];
            prop_assert_eq!(take(&mut input, prefix).unwrap().1, value);
            prop_assert!(input.is_empty());
        }
    }
}
