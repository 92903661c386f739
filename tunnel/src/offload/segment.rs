//! Cutting what the kernel gives into packets of the wire, as Linux itself does it (`tcp_gso_segment`,
//! `__udp_gso_segment`).

use bytes::BytesMut;

use super::{
    checksum::Sum,
    layout::{
        CWR, FIN, PSH, TCP, TCP_CHECKSUM, TCP_DATA_OFFSET, TCP_FLAGS, TCP_HEADER, TCP_SEQUENCE, UDP, UDP_CHECKSUM,
        UDP_HEADER, UDP_LENGTH, V4_HEADER, V6_HEADER, double_word, put_word, word,
    },
    virtio::{Gso, HEADER_LENGTH, Partial, VnetHeader},
};
use crate::packet::{Header, upper_layer};

/// The packets of one read, which are made one after another.
///
/// Addresses, ports and everything else but lengths, IPv4 identifications, sequence numbers, flags and checksums are the
/// same in each.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    header: Header,
    cut: Cut,
    /// Segments that were made.
    made: usize,
    /// All of them.
    count: usize,
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    Whole(Option<Partial>),
    Segments { transport: Transport, start: usize, payload: usize, size: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

/// Why a read is not cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Less than a header.
    #[error("{0} bytes, less than the header of the kernel")]
    Short(usize),
    /// Not one whole IP packet.
    #[error("not a whole IP packet")]
    NotIp,
    /// A GSO type that is not known.
    #[error("GSO type {0} is not known")]
    GsoType(u8),
    /// Segments of no size.
    #[error("GSO without a segment size")]
    GsoSize,
    /// GSO of something that is not the protocol of the type, a fragment, or with a broken header.
    #[error("GSO of a packet that is not whole TCP or UDP of its type")]
    Transport,
    /// The checksum lies elsewhere than it can.
    #[error("no checksum can be at {offset} bytes from {start}")]
    Checksum {
        /// Where its coverage begins.
        start: u16,
        /// Where it is, from there.
        offset: u16,
    },
    /// Segments whose checksum is said to be complete, which the kernel never gives.
    #[error("GSO without a checksum to complete")]
    NoChecksum,
}

impl<'a> Segments<'a> {
    /// Takes what was read: the header of the kernel and a packet.
    ///
    /// # Errors
    /// [`Malformed`] when the header does not match the packet.
    pub fn new(read: &'a [u8]) -> Result<Self, Malformed> {
        let (vnet, packet) = read.split_first_chunk::<HEADER_LENGTH>().ok_or(Malformed::Short(read.len()))?;
        let header = Header::parse(packet).ok_or(Malformed::NotIp)?;
        let vnet = VnetHeader::decode(vnet).map_err(Malformed::GsoType)?;
        if vnet.gso == Gso::None {
            if let Some(partial) = vnet.partial {
                check_partial(packet, partial)?;
            }
            return Ok(Self { packet, header, cut: Cut::Whole(vnet.partial), made: 0, count: 1 });
        }
        if vnet.gso_size == 0 {
            return Err(Malformed::GsoSize);
        }
        let (transport, start, payload) = transport_of(packet, vnet.gso).ok_or(Malformed::Transport)?;
        let partial = vnet.partial.ok_or(Malformed::NoChecksum)?;
        if usize::from(partial.start) != start || usize::from(partial.offset) != transport.checksum_offset() {
            return Err(Malformed::Checksum { start: partial.start, offset: partial.offset });
        }
        let size = usize::from(vnet.gso_size);
        let count = (packet.len() - payload).div_ceil(size).max(1);
        Ok(Self { packet, header, cut: Cut::Segments { transport, start, payload, size }, made: 0, count })
    }

    /// Where all of the packets come from and go to.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Packets that are still to be made.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.count - self.made
    }

    /// Bytes of all packets together.
    #[must_use]
    pub fn total_length(&self) -> usize {
        match self.cut {
            Cut::Whole(_) => self.packet.len(),
            Cut::Segments { payload, .. } => self.packet.len() + (self.count - 1) * payload,
        }
    }

    /// Appends the next packet to `out`, behind what is there. Its length in bytes; `None` when there are no more.
    pub fn next_into(&mut self, out: &mut BytesMut) -> Option<usize> {
        if self.made == self.count {
            return None;
        }
        let begin = out.len();
        match self.cut {
            Cut::Whole(partial) => {
                out.extend_from_slice(self.packet);
                if let Some(partial) = partial {
                    complete(&mut out[begin..], partial);
                }
            }
            Cut::Segments { transport, start, payload, size } => {
                let done = self.made * size;
                let rest = &self.packet[payload + done..];
                out.extend_from_slice(&self.packet[..payload]);
                out.extend_from_slice(&rest[..size.min(rest.len())]);
                let segment = &mut out[begin..];
                self.finish_ip(segment, start);
                match transport {
                    Transport::Tcp => self.finish_tcp(&mut segment[start..], done),
                    Transport::Udp => finish_udp(&mut segment[start..]),
                }
                self.finish_checksum(segment, start, transport);
            }
        }
        self.made += 1;
        Some(out.len() - begin)
    }

    /// Length and, over IPv4, identification and checksum; `header_length` bytes are before the transport.
    fn finish_ip(&self, segment: &mut [u8], header_length: usize) {
        let length = segment.len();
        if self.header.source.is_ipv6() {
            put_word(segment, 4, (length - V6_HEADER) as u16);
            return;
        }
        put_word(segment, 2, length as u16);
        let identification = word(segment, 4).wrapping_add(self.made as u16);
        put_word(segment, 4, identification);
        put_word(segment, 10, 0);
        let checksum = Sum::of(&segment[..header_length]).checksum();
        segment[10..12].copy_from_slice(&checksum);
    }

    fn finish_tcp(&self, segment: &mut [u8], done: usize) {
        let sequence = double_word(segment, TCP_SEQUENCE).wrapping_add(done as u32);
        segment[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        if self.made > 0 {
            segment[TCP_FLAGS] &= !CWR;
        }
        if self.made + 1 < self.count {
            segment[TCP_FLAGS] &= !(FIN | PSH);
        }
    }

    fn finish_checksum(&self, segment: &mut [u8], start: usize, transport: Transport) {
        // What is there is the sum of the pseudo-header with the length of the uncut packet.
        let uncut = Sum::of_word(!((self.packet.len() - start) as u16));
        let length = Sum::of_word((segment.len() - start) as u16);
        let mut checksum = (Sum::of(&segment[start..]) + uncut + length).checksum();
        if transport == Transport::Udp && checksum == [0; 2] {
            checksum = [0xff; 2];
        }
        let at = start + transport.checksum_offset();
        segment[at..at + 2].copy_from_slice(&checksum);
    }
}

impl Transport {
    fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => TCP_CHECKSUM,
            Self::Udp => UDP_CHECKSUM,
        }
    }
}

fn finish_udp(segment: &mut [u8]) {
    let length = segment.len() as u16;
    put_word(segment, UDP_LENGTH, length);
}

/// Completes the checksum of a packet that is not cut.
fn complete(packet: &mut [u8], partial: Partial) {
    let covered = &mut packet[usize::from(partial.start)..];
    let at = usize::from(partial.offset);
    let mut checksum = Sum::of(covered).checksum();
    // For UDP, zero says that there is none (RFC 768).
    if at == UDP_CHECKSUM && checksum == [0; 2] {
        checksum = [0xff; 2];
    }
    covered[at..at + 2].copy_from_slice(&checksum);
}

fn check_partial(packet: &[u8], partial: Partial) -> Result<(), Malformed> {
    let (start, offset) = (usize::from(partial.start), usize::from(partial.offset));
    let ip_header = if packet[0] >> 4 == 4 { V4_HEADER } else { V6_HEADER };
    // A checksum that does not lie on the words of its sum cannot be completed.
    if start < ip_header || start + offset + 2 > packet.len() || offset % 2 != 0 {
        return Err(Malformed::Checksum { start: partial.start, offset: partial.offset });
    }
    Ok(())
}

/// The transport, where it begins, and where its payload does. `packet` must be one that [`Header::parse`] accepts.
fn transport_of(packet: &[u8], gso: Gso) -> Option<(Transport, usize, usize)> {
    let v4 = packet[0] >> 4 == 4;
    let transport = match gso {
        Gso::TcpV4 if v4 => Transport::Tcp,
        Gso::TcpV6 if !v4 => Transport::Tcp,
        Gso::Udp => Transport::Udp,
        _ => return None,
    };
    let more_fragments = v4 && packet[6] & 0x20 != 0;
    let (protocol, start) = upper_layer(packet)?;
    if more_fragments {
        return None;
    }
    let header = match (transport, protocol) {
        (Transport::Tcp, TCP) => usize::from(*packet.get(start + TCP_DATA_OFFSET)? >> 4) * 4,
        (Transport::Udp, UDP) => UDP_HEADER,
        _ => return None,
    };
    let shortest = if transport == Transport::Tcp { TCP_HEADER } else { UDP_HEADER };
    let payload = start + header;
    (header >= shortest && payload <= packet.len()).then_some((transport, start, payload))
}

#[cfg(test)]
mod tests;
