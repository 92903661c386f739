//! The header in front of each packet that passes a TUN interface with offload (virtio 1.2 §5.1.6, `linux/virtio_net.h`).

/// Bytes of the header.
pub const HEADER_LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What the packet is to be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// It is one packet.
    #[default]
    None,
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
    /// UDP datagrams over IPv4 or IPv6.
    Udp,
}

/// The checksum that is still to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// The offset in the packet of the first byte that the checksum covers.
    pub start: u16,
    /// The offset from `start` of the checksum, which holds the sum of the pseudo-header.
    pub offset: u16,
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// What the packet is to be cut into.
    pub gso: Gso,
    /// TCP only: the first segment has CWR (RFC 3168 §6.1.2), the others have not.
    pub ecn: bool,
    /// Bytes of payload in each segment but the last; 0 without GSO.
    pub gso_size: u16,
    /// Bytes of the IP and the transport header: a hint, which the kernel does not promise to be right.
    pub header_length: u16,
    /// The checksum, unless it is complete.
    pub partial: Option<Partial>,
}

impl VnetHeader {
    /// Reads a header. The error is a GSO type that TUN interfaces do not use.
    pub fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, u8> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCP_V4 => Gso::TcpV4,
            GSO_TCP_V6 => Gso::TcpV6,
            GSO_UDP => Gso::Udp,
            unknown => return Err(unknown),
        };
        Ok(Self {
            gso,
            ecn: bytes[1] & GSO_ECN != 0,
            header_length: word(2),
            gso_size: word(4),
            partial: (bytes[0] & NEEDS_CHECKSUM != 0).then(|| Partial { start: word(6), offset: word(8) }),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let gso = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCP_V4,
            Gso::TcpV6 => GSO_TCP_V6,
            Gso::Udp => GSO_UDP,
        };
        let ecn = if self.ecn { GSO_ECN } else { 0 };
        let (flags, partial) =
            self.partial.map_or((0, Partial { start: 0, offset: 0 }), |partial| (NEEDS_CHECKSUM, partial));
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0] = flags;
        bytes[1] = gso | ecn;
        for (at, word) in [(2, self.header_length), (4, self.gso_size), (6, partial.start), (8, partial.offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp] {
            for (ecn, partial) in [(false, None), (true, Some(Partial { start: 40, offset: 16 }))] {
                let header = VnetHeader { gso, ecn, gso_size: 1228, header_length: 60, partial };
                assert_eq!(VnetHeader::decode(&header.encode()), Ok(header));
            }
        }
        assert_eq!(VnetHeader::default().encode(), [0; HEADER_LENGTH]);
    }

    #[test]
    fn other_types_are_refused() {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[1] = 3;
        assert_eq!(VnetHeader::decode(&bytes), Err(3));
    }
}
