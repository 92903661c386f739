//! SETTINGS (RFC 9114 §7.2.4).

use std::collections::BTreeSet;

use super::{Code, ProtocolError};
use crate::varint;

const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const QPACK_BLOCKED_STREAMS: u64 = 0x07;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
const H3_DATAGRAM: u64 = 0x33;

/// What an endpoint says about itself. Unknown settings are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// A server takes extended CONNECT (RFC 9220 §3).
    pub enable_connect_protocol: bool,
    /// HTTP datagrams may come in QUIC datagrams (RFC 9297 §2.1.1).
    pub h3_datagram: bool,
    /// The largest field section in bytes that it accepts.
    pub max_field_section_size: Option<u64>,
}

impl Settings {
    /// The payload of a SETTINGS frame. The QPACK settings keep their defaults, 0.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(size) = self.max_field_section_size {
            varint::write(MAX_FIELD_SECTION_SIZE, &mut out);
            varint::write(size, &mut out);
        }
        for (id, on) in [(ENABLE_CONNECT_PROTOCOL, self.enable_connect_protocol), (H3_DATAGRAM, self.h3_datagram)] {
            if on {
                varint::write(id, &mut out);
                varint::write(1, &mut out);
            }
        }
        out
    }

    /// Reads the payload of a SETTINGS frame.
    ///
    /// # Errors
    /// FRAME_ERROR when it is cut, SETTINGS_ERROR for a setting that comes twice, that HTTP/2 had and HTTP/3 reserves, or
    /// whose value is neither 0 nor 1 where it must be.
    pub fn decode(mut payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut settings = Self::default();
        let mut seen = BTreeSet::new();
        while !payload.is_empty() {
            let (Some(id), Some(value)) = (varint::take(&mut payload), varint::take(&mut payload)) else {
                return Err(ProtocolError::new(Code::FRAME_ERROR, "SETTINGS is cut"));
            };
            if !seen.insert(id) {
                return Err(error(format!("setting {id:#x} comes twice")));
            }
            match id {
                ENABLE_CONNECT_PROTOCOL => settings.enable_connect_protocol = flag(id, value)?,
                H3_DATAGRAM => settings.h3_datagram = flag(id, value)?,
                MAX_FIELD_SECTION_SIZE => settings.max_field_section_size = Some(value),
                // This side never uses a dynamic table, so what the peer would bear does not matter.
                QPACK_MAX_TABLE_CAPACITY | QPACK_BLOCKED_STREAMS => {}
                0x00 | 0x02..=0x05 => return Err(error(format!("setting {id:#x} is reserved"))),
                _ => {}
            }
        }
        Ok(settings)
    }
}

fn flag(id: u64, value: u64) -> Result<bool, ProtocolError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(error(format!("setting {id:#x} is {value}, must be 0 or 1"))),
    }
}

fn error(reason: String) -> ProtocolError {
    ProtocolError::new(Code::SETTINGS_ERROR, reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(
            enable_connect_protocol: bool,
            h3_datagram: bool,
            max_field_section_size in proptest::option::of(0..=varint::MAX),
        ) {
            let settings = Settings { enable_connect_protocol, h3_datagram, max_field_section_size };
            prop_assert_eq!(Settings::decode(&settings.encode()), Ok(settings));
        }

        /// RFC 9114 §7.2.4.1: unknown ones, those to grease among them, change nothing; no payload is right when it is cut.
        #[test]
        fn unknown_settings_are_passed_over_anywhere(
            settings in (any::<bool>(), any::<bool>()).prop_map(|(connect, datagram)| Settings {
                enable_connect_protocol: connect,
                h3_datagram: datagram,
                max_field_section_size: None,
            }),
            nth in 0..1000u64,
            value in 0..=varint::MAX,
            is_first: bool,
        ) {
            let mut unknown = Vec::new();
            varint::write(0x1f * nth + 0x21, &mut unknown);
            varint::write(value, &mut unknown);
            let known = settings.encode();
            let payload = if is_first { [unknown, known].concat() } else { [known, unknown].concat() };
            prop_assert_eq!(Settings::decode(&payload), Ok(settings));
            let cut = Settings::decode(&payload[..payload.len() - 1]).unwrap_err();
            prop_assert_eq!(cut.code, Code::FRAME_ERROR);
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(settings) = Settings::decode(&bytes) {
                prop_assert_eq!(Settings::decode(&settings.encode()), Ok(settings));
            }
        }
    }

    #[test]
    fn bad_settings_have_their_codes() {
        let cases: [(&[u8], Code); 6] = [
            (&[0x08], Code::FRAME_ERROR),
            (&[0x40], Code::FRAME_ERROR),
            (&[0x08, 1, 0x08, 1], Code::SETTINGS_ERROR),
            (&[0x02, 0], Code::SETTINGS_ERROR),
            (&[0x08, 2], Code::SETTINGS_ERROR),
            (&[0x33, 2], Code::SETTINGS_ERROR),
        ];
        for (payload, code) in cases {
            assert_eq!(Settings::decode(payload).unwrap_err().code, code, "{payload:?}");
        }
    }

    #[test]
    fn unknown_settings_are_passed_over() {
        let settings = Settings::decode(&[0x21, 0x05, 0x33, 1, 0x01, 0x40, 0x64]).unwrap();
        assert!(settings.h3_datagram && !settings.enable_connect_protocol);
    }
}
