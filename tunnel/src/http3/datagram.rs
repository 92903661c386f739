//! HTTP datagrams in QUIC datagrams (RFC 9297 §2.1) with CONNECT-IP's context id (RFC 9484 §5, §6).

use bytes::{Buf, BufMut, Bytes};

use super::{Code, ProtocolError};
use crate::varint;

/// The context of whole IP packets.
pub const IP_CONTEXT: u64 = 0;

/// The largest quarter stream id.
const MAX_QUARTER: u64 = (1 << 60) - 1;

/// Appends what comes before an IP packet in the datagrams of the request on `stream`.
pub fn write_prefix(stream: u64, out: &mut impl BufMut) {
    varint::write(stream / 4, out);
    varint::write(IP_CONTEXT, out);
}

/// The bytes that [`write_prefix`] appends.
#[must_use]
pub const fn prefix_size(stream: u64) -> usize {
    varint::size(stream / 4) + varint::size(IP_CONTEXT)
}

/// A datagram taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The request's stream.
    pub stream: u64,
    /// Whose payload it is; [`IP_CONTEXT`] is an IP packet.
    pub context: u64,
    /// What it carries.
    pub payload: Bytes,
}

/// Takes a datagram apart. `None` when it has no whole context id: a datagram to drop, not an error.
///
/// # Errors
/// DATAGRAM_ERROR without a valid quarter stream id.
pub fn read(mut datagram: Bytes) -> Result<Option<Datagram>, ProtocolError> {
    let Some((quarter, size)) = varint::read(&datagram) else {
        return Err(ProtocolError::new(Code::DATAGRAM_ERROR, "datagram without a stream id"));
    };
    if quarter > MAX_QUARTER {
        return Err(ProtocolError::new(Code::DATAGRAM_ERROR, "datagram with an impossible stream id"));
    }
    datagram.advance(size);
    let Some((context, size)) = varint::read(&datagram) else {
        return Ok(None);
    };
    datagram.advance(size);
    Ok(Some(Datagram { stream: quarter * 4, context, payload: datagram }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(quarter in 0..=MAX_QUARTER, packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut out = Vec::new();
            write_prefix(quarter * 4, &mut out);
            prop_assert_eq!(out.len(), prefix_size(quarter * 4));
            out.extend(&packet);
            let datagram = read(out.into()).unwrap().unwrap();
            prop_assert_eq!(datagram, Datagram { stream: quarter * 4, context: IP_CONTEXT, payload: packet.into() });
        }
    }

    proptest! {
        /// Also with contexts that are still to be invented, and with integers in longer forms than need be.
        #[test]
        fn any_bytes_are_read_as_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let Ok(Some(datagram)) = read(bytes.clone().into()) else {
                return Ok(());
            };
            let quarter = varint::read(&bytes).unwrap();
            let context = varint::read(&bytes[quarter.1..]).unwrap();
            prop_assert_eq!((datagram.stream, datagram.context), (quarter.0 * 4, context.0));
            prop_assert_eq!(&datagram.payload[..], &bytes[quarter.1 + context.1..]);
        }
    }

    /// RFC 9484 §8.1: stream 44 is quarter 11.
    #[test]
    fn example_of_rfc_9484() {
        let mut out = Vec::new();
        write_prefix(44, &mut out);
        assert_eq!(out, [11, 0]);
        let datagram = read(Bytes::from_static(&[11, 0, 0x45])).unwrap().unwrap();
        assert_eq!(datagram, Datagram { stream: 44, context: IP_CONTEXT, payload: Bytes::from_static(&[0x45]) });
        let largest = read(Bytes::from_static(&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0])).unwrap().unwrap();
        assert_eq!(largest.stream, varint::MAX - 3);
    }

    #[test]
    fn bad_stream_ids_are_errors_and_bad_contexts_are_not() {
        for bytes in [&[][..], &[0x40], &[0xd0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let error = read(Bytes::copy_from_slice(bytes)).unwrap_err();
            assert_eq!(error.code, Code::DATAGRAM_ERROR);
        }
        assert_eq!(read(Bytes::from_static(&[0])).unwrap(), None);
    }
}
