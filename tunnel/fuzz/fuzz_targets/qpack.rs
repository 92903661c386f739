//! A field section (RFC 9204), and the same bytes as a Huffman code (RFC 7541 §5.2).
#![no_main]

use libfuzzer_sys::fuzz_target;
use m2m_tunnel_fuzz::{
    http3::{
        Code, ProtocolError,
        message::{Request, Response},
    },
    memory,
    qpack::{self, Field, MAX_FIELD_SECTION_SIZE},
};

fuzz_target!(|input: &[u8]| {
    section(input);
    section(&[&[0, 0], input].concat());
    huffman(input);
});

fn section(section: &[u8]) {
    let (decoded, peak) = memory::peak(|| qpack::decode(section));
    // The fields, and a literal of which only its length says that it is too large.
    assert!(peak <= 8 * MAX_FIELD_SECTION_SIZE + 2 * section.len(), "{peak} bytes of heap for {}", section.len());
    let fields = match decoded {
        Ok(fields) => fields,
        Err(ProtocolError { code, .. }) => {
            assert!(matches!(code, Code::QPACK_DECOMPRESSION_FAILED | Code::EXCESSIVE_LOAD));
            return;
        }
    };
    let size: usize = fields.iter().map(|field| field.name.len() + field.value.len() + 32).sum();
    assert!(size <= MAX_FIELD_SECTION_SIZE);
    assert_eq!(qpack::decode(&qpack::encode(&fields)), Ok(fields.clone()));
    // A section that is cut has the first of its fields, or is an error.
    if let Ok(some) = qpack::decode(&section[..section.len() / 2]) {
        assert!(fields.starts_with(&some));
    }
    if let Ok(request) = Request::from_fields(fields.clone()) {
        assert_eq!(Request::from_fields(request.to_fields()), Ok(request));
    }
    if let Ok(response) = Response::from_fields(fields) {
        assert_eq!(Response::from_fields(response.to_fields()), Ok(response));
    }
}

/// There is one code for a text, so what is decoded is encoded as it was, unless the text itself is shorter.
fn huffman(code: &[u8]) {
    // Literal name `n`, not coded; a value that is, with its length in an integer of seven bits.
    let mut section = vec![0, 0, 0x21, b'n'];
    push_length(code.len(), &mut section);
    section.extend_from_slice(code);
    let Ok(fields) = qpack::decode(&section) else { return };
    let [Field { name, value }] = &fields[..] else { panic!("one field became {}", fields.len()) };
    assert_eq!(name, b"n");
    if code.len() < value.len() {
        assert!(qpack::encode(&fields).ends_with(code));
    }
    assert_eq!(qpack::decode(&qpack::encode(&fields)), Ok(fields));
}

fn push_length(length: usize, out: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        out.push(0x80 | length as u8);
        return;
    };
    out.push(0xff);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
