//! QPACK with an empty dynamic table (RFC 9204): static table, literals, Huffman code.

mod huffman;
mod huffman_table;
mod integer;
mod static_table;

use crate::http3::{Code, ProtocolError};
use static_table::STATIC_TABLE;

/// The largest field section in bytes that [`decode`] takes, counted as RFC 9114 §4.2.2 does.
pub const MAX_FIELD_SECTION_SIZE: usize = 16 * 1024;

/// One field line, names in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name, pseudo-header names with their colon.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

impl Field {
    /// From text.
    #[must_use]
    pub fn new(name: &str, value: &str) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// Encodes a field section. It refers to the static table only, so any decoder reads it at once.
#[must_use]
pub fn encode(fields: &[Field]) -> Vec<u8> {
    // Required Insert Count and Delta Base, both 0 (RFC 9204 §4.5.1)
    let mut out = vec![0, 0];
    for field in fields {
        encode_field(field, &mut out);
    }
    out
}

/// Decodes a field section.
///
/// # Errors
/// QPACK_DECOMPRESSION_FAILED when it is malformed or refers to a dynamic table, EXCESSIVE_LOAD when it is larger than
/// [`MAX_FIELD_SECTION_SIZE`].
pub fn decode(mut input: &[u8]) -> Result<Vec<Field>, ProtocolError> {
    let input = &mut input;
    let (_, insert_count) = integer::take(input, 8).ok_or_else(failed_cut)?;
    if insert_count != 0 {
        return Err(failed("refers to a dynamic table"));
    }
    let (sign, _) = integer::take(input, 7).ok_or_else(failed_cut)?;
    if sign & 0x80 != 0 {
        return Err(failed("negative base"));
    }
    let mut fields = Vec::new();
    let mut size = 0;
    while !input.is_empty() {
        let field = decode_field(input)?;
        size += field.name.len() + field.value.len() + 32;
        if size > MAX_FIELD_SECTION_SIZE {
            return Err(ProtocolError::new(Code::EXCESSIVE_LOAD, "field section too large"));
        }
        fields.push(field);
    }
    Ok(fields)
}

fn encode_field(field: &Field, out: &mut Vec<u8>) {
    let name_matches = |entry: &(&str, &str)| entry.0.as_bytes() == field.name;
    if let Some(index) = STATIC_TABLE.iter().position(|entry| name_matches(entry) && entry.1.as_bytes() == field.value)
    {
        // Indexed field line, static (§4.5.2)
        integer::write(0xc0, 6, index as u64, out);
        return;
    }
    match STATIC_TABLE.iter().position(name_matches) {
        // Literal with static name reference (§4.5.4)
        Some(index) => integer::write(0x50, 4, index as u64, out),
        // Literal with literal name (§4.5.6)
        None => write_string(0x20, 3, &field.name, out),
    }
    write_string(0x00, 7, &field.value, out);
}

fn decode_field(input: &mut &[u8]) -> Result<Field, ProtocolError> {
    let first = *input.first().ok_or_else(failed_cut)?;
    if first & 0x80 != 0 {
        let entry = static_entry(input, 6, first & 0x40 != 0)?;
        return Ok(Field::new(entry.0, entry.1));
    }
    if first & 0x40 != 0 {
        let entry = static_entry(input, 4, first & 0x10 != 0)?;
        let value = take_string(input, 7)?;
        return Ok(Field { name: entry.0.into(), value });
    }
    if first & 0x20 != 0 {
        let name = take_string(input, 3)?;
        let value = take_string(input, 7)?;
        return Ok(Field { name, value });
    }
    // What is left are the two post-base forms.
    Err(failed("refers to a dynamic table"))
}

fn static_entry(
    input: &mut &[u8],
    prefix: u8,
    is_static: bool,
) -> Result<&'static (&'static str, &'static str), ProtocolError> {
    let (_, index) = integer::take(input, prefix).ok_or_else(failed_cut)?;
    if !is_static {
        return Err(failed("refers to a dynamic table"));
    }
    usize::try_from(index)
        .ok()
        .and_then(|index| STATIC_TABLE.get(index))
        .ok_or_else(|| failed("index outside the static table"))
}

/// A string literal (RFC 9204 §4.1.2) whose length has `prefix` bits, the Huffman flag just above them.
fn write_string(pattern: u8, prefix: u8, text: &[u8], out: &mut Vec<u8>) {
    let packed = huffman::size(text);
    if packed < text.len() {
        integer::write(pattern | 1 << prefix, prefix, packed as u64, out);
        huffman::encode(text, out);
    } else {
        integer::write(pattern, prefix, text.len() as u64, out);
        out.extend_from_slice(text);
    }
}

fn take_string(input: &mut &[u8], prefix: u8) -> Result<Vec<u8>, ProtocolError> {
    let (first, length) = integer::take(input, prefix).ok_or_else(failed_cut)?;
    let bytes = usize::try_from(length).ok().and_then(|length| input.split_at_checked(length));
    let (text, rest) = bytes.ok_or_else(failed_cut)?;
    *input = rest;
    if first & 1 << prefix == 0 {
        return Ok(text.to_vec());
    }
    huffman::decode(text).ok_or_else(|| failed("bad Huffman code"))
}

fn failed(reason: &'static str) -> ProtocolError {
    ProtocolError::new(Code::QPACK_DECOMPRESSION_FAILED, reason)
}

fn failed_cut() -> ProtocolError {
    failed("field section is cut")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn example_of_rfc_9204_appendix_b_1() {
        let section = b"\x00\x00\x51\x0b/index.html";
        assert_eq!(decode(section).unwrap(), [Field::new(":path", "/index.html")]);
    }

    /// RFC 9204 Appendix B.2 to B.5: sections of a peer that did not see that there is no dynamic table. B.3 and B.5 send
    /// none.
    #[test]
    fn examples_of_rfc_9204_appendix_b_with_a_dynamic_table() {
        let sections: [&[u8]; 2] = [
            &[0x03, 0x81, 0x10, 0x11],       // B.2: insert count 2, base 0, two post-base references
            &[0x05, 0x00, 0x80, 0xc1, 0x81], // B.4: insert count 4, dynamic 0, static 1, dynamic 1
        ];
        for section in sections {
            assert_eq!(decode(section).unwrap_err().code, Code::QPACK_DECOMPRESSION_FAILED, "{section:x?}");
            // The references themselves, with a prefix that promises none.
            let plain = [&[0, 0], &section[2..]].concat();
            assert_eq!(decode(&plain).unwrap_err().code, Code::QPACK_DECOMPRESSION_FAILED, "{plain:x?}");
        }
        assert_eq!(decode(&[0, 0, 0xc1]).unwrap(), [Field::new(":path", "/")]);
    }

    /// RFC 9204 §4.5.4 and §4.5.6: the bit that forbids intermediaries to index a field changes nothing here.
    #[test]
    fn never_indexed_fields_are_read_alike() {
        let path = [Field::new(":path", "/index.html")];
        assert_eq!(decode(b"\x00\x00\x71\x0b/index.html").unwrap(), path);
        assert_eq!(decode(b"\x00\x00\x35:path\x0b/index.html").unwrap(), path);
        // A base without insertions may be anything but negative (§4.5.1.2).
        assert_eq!(decode(b"\x00\x07\x51\x0b/index.html").unwrap(), path);
    }

    #[test]
    fn every_entry_of_the_static_table_is_found() {
        for (name, value) in STATIC_TABLE {
            let field = [Field::new(name, value)];
            let section = encode(&field);
            assert!(section.len() <= 4, "{name}: {value} is not indexed");
            assert_eq!(decode(&section).unwrap(), field);
        }
    }

    #[test]
    fn a_connect_ip_request_uses_the_static_table() {
        let fields = [
            Field::new(":method", "CONNECT"),
            Field::new(":scheme", "https"),
            Field::new(":protocol", "connect-ip"),
            Field::new(":path", "/.well-known/masque/ip/*/*/"),
            Field::new("capsule-protocol", "?1"),
        ];
        let section = encode(&fields);
        // CONNECT is entry 15, https 23
        assert_eq!(section[..4], [0, 0, 0xc0 | 15, 0xc0 | 23]);
        assert_eq!(decode(&section).unwrap(), fields);
    }

    #[test]
    fn dynamic_references_are_refused() {
        let cases: [&[u8]; 8] = [
            &[1, 0],             // insert count
            &[0, 0x80],          // negative base
            &[0, 0, 0x80],       // indexed, dynamic
            &[0, 0, 0x40, 0],    // name reference, dynamic
            &[0, 0, 0x10],       // indexed, post-base
            &[0, 0, 0x00, 0],    // name reference, post-base
            &[0, 0, 0xff, 0x24], // static entry 99
            &[0],
        ];
        for section in cases {
            assert_eq!(decode(section).unwrap_err().code, Code::QPACK_DECOMPRESSION_FAILED, "{section:?}");
        }
    }

    #[test]
    fn size_is_bounded() {
        let many = vec![Field::new("a", "b"); MAX_FIELD_SECTION_SIZE / 34 + 1];
        assert_eq!(decode(&encode(&many)).unwrap_err().code, Code::EXCESSIVE_LOAD);
    }

    fn any_field() -> impl Strategy<Value = Field> {
        let text = || proptest::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            (text(), text()).prop_map(|(name, value)| Field { name, value }),
            (0..STATIC_TABLE.len(), text())
                .prop_map(|(index, value)| Field { name: STATIC_TABLE[index].0.into(), value }),
            (0..STATIC_TABLE.len()).prop_map(|index| Field::new(STATIC_TABLE[index].0, STATIC_TABLE[index].1)),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(fields in proptest::collection::vec(any_field(), 0..20)) {
            prop_assert_eq!(decode(&encode(&fields)).unwrap(), fields);
        }

        /// A section that ends early is an error, or has the fields up to there.
        #[test]
        fn what_is_cut_is_seen(fields in proptest::collection::vec(any_field(), 0..6)) {
            let section = encode(&fields);
            for cut in 0..section.len() {
                match decode(&section[..cut]) {
                    Ok(some) => prop_assert!(some.len() < fields.len() && fields.starts_with(&some)),
                    Err(error) => prop_assert_eq!(error.code, Code::QPACK_DECOMPRESSION_FAILED),
                }
            }
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&[&[0, 0], &bytes[..]].concat());
            if let Ok(fields) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&fields)), Ok(fields));
            }
        }
    }
}
