//! An HTTP datagram in a QUIC datagram (RFC 9297 §2.1, RFC 9484 §6).
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use m2m_tunnel_fuzz::{
    http3::{
        Code,
        datagram::{self, Datagram, IP_CONTEXT},
    },
    memory, varint,
};

fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::copy_from_slice(input);
    let (read, peak) = memory::peak(|| datagram::read(bytes.clone()));
    assert!(peak <= 256, "{peak} bytes of heap");
    let Datagram { stream, context, payload } = match read {
        Ok(Some(datagram)) => datagram,
        Ok(None) => return,
        Err(error) => {
            assert_eq!(error.code, Code::DATAGRAM_ERROR);
            return;
        }
    };
    assert!(input.ends_with(&payload));
    assert!(stream.is_multiple_of(4) && stream <= varint::MAX);
    let mut written = Vec::new();
    if context == IP_CONTEXT {
        datagram::write_prefix(stream, &mut written);
        assert_eq!(written.len(), datagram::prefix_size(stream));
    } else {
        varint::write(stream / 4, &mut written);
        varint::write(context, &mut written);
    }
    // The shortest form of what came in any.
    assert!(written.len() + payload.len() <= input.len());
    written.extend_from_slice(&payload);
    assert_eq!(datagram::read(written.into()), Ok(Some(Datagram { stream, context, payload })));
});
