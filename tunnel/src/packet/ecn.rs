//! Explicit Congestion Notification (RFC 3168, RFC 9331): the two bits of an IP packet with which routers and tunnels say
//! that a queue builds up.
//!
//! While the outer connection controls congestion, as HTTP/3 and HTTP/2 do, inner and outer bits have nothing to do with
//! each other: the connection itself reacts to marks on its packets, and inner packets keep theirs (RFC 9484 §10.2). A queue
//! in front of the tunnel [marks](mark) inner packets instead of dropping them.

use super::{V4_HEADER, update_checksum};

/// The ECN field (RFC 3168 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// The flow does not understand marks.
    NotEct = 0b00,
    /// The flow understands marks, as many as come (L4S, RFC 9331 §4.1).
    Ect1 = 0b01,
    /// The flow understands marks, each as a loss.
    Ect0 = 0b10,
    /// Marked: congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// From the lower two bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// The field of a packet; `None` when it is neither IPv4 nor IPv6, or cut in its header.
#[must_use]
pub fn get(packet: &[u8]) -> Option<Ecn> {
    match packet.first()? >> 4 {
        4 => packet.first_chunk::<V4_HEADER>().map(|header| Ecn::from_bits(header[1])),
        6 => packet.get(1).map(|class| Ecn::from_bits(class >> 4)),
        _ => None,
    }
}

/// Changes the field of a packet, and with it the checksum of an IPv4 header. What [`get`] gives no field of stays as it
/// is.
pub fn set(packet: &mut [u8], ecn: Ecn) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => {
            let Some(header) = packet.first_chunk_mut::<V4_HEADER>() else { return };
            let before = u16::from_be_bytes([header[0], header[1]]);
            header[1] = header[1] & !0b11 | ecn.bits();
            let after = u16::from_be_bytes([header[0], header[1]]);
            let checksum = u16::from_be_bytes([header[10], header[11]]);
            [header[10], header[11]] = update_checksum(checksum, before, after).to_be_bytes();
        }
        Some(6) => {
            if let Some(class) = packet.get_mut(1) {
                *class = *class & !0x30 | ecn.bits() << 4;
            }
        }
        _ => {}
    }
}

/// Marks a packet of a flow that understands it; `false`, and the packet as it was, for another, which is to be dropped
/// instead (RFC 3168 §5).
#[must_use]
pub fn mark(packet: &mut [u8]) -> bool {
    match get(packet) {
        Some(Ecn::Ce) => true,
        Some(Ecn::Ect0 | Ecn::Ect1) => {
            set(packet, Ecn::Ce);
            true
        }
        Some(Ecn::NotEct) | None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        super::{checksum, tests},
        *,
    };

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];

    #[test]
    fn bits_of_rfc_3168() {
        assert_eq!(ALL.map(Ecn::bits), [0, 1, 2, 3]);
        for byte in 0..=u8::MAX {
            assert_eq!(Ecn::from_bits(byte).bits(), byte & 3);
        }
    }

    #[test]
    fn fields_are_set_where_they_are_read() {
        for (packet, byte, others) in [(tests::v4(b"x"), 1, !0b11), (tests::v6(b"x"), 1, !0x30u8)] {
            for before in ALL {
                for after in ALL {
                    let mut packet = packet.clone();
                    packet[0] |= if packet[0] >> 4 == 6 { 0x0f } else { 0 };
                    let original = packet.clone();
                    set(&mut packet, before);
                    set(&mut packet, after);
                    assert_eq!(get(&packet), Some(after));
                    assert_eq!(packet[byte] & others, original[byte] & others);
                    if packet[0] >> 4 == 4 {
                        assert_eq!(checksum(&packet[..V4_HEADER], 0), 0);
                    }
                    set(&mut packet, Ecn::NotEct);
                    assert_eq!(packet, original);
                }
            }
        }
        for cut in [&[][..], &[0x45], &[0x45; 19], &[0x60], &[0x55; 40]] {
            let mut packet = cut.to_vec();
            set(&mut packet, Ecn::Ce);
            assert_eq!((get(&packet), packet.as_slice()), (None, cut));
            assert!(!mark(&mut packet));
        }
    }

    #[test]
    fn only_flows_that_understand_marks_get_them() {
        for packet in [tests::v4(b"x"), tests::v6(b"x")] {
            for ecn in ALL {
                let mut packet = packet.clone();
                set(&mut packet, ecn);
                assert_eq!(mark(&mut packet), ecn != Ecn::NotEct);
                assert_eq!(get(&packet), Some(if ecn == Ecn::NotEct { ecn } else { Ecn::Ce }));
            }
        }
    }
}
