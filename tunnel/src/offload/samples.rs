//! Packets for the tests, with checksums computed word by word.

use std::net::Ipv6Addr;

use super::{
    layout::{ACK, TCP, UDP},
    virtio::{Gso, Partial, VnetHeader},
};

/// A packet of the wire.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) v6: bool,
    /// Whatever tells the flow apart.
    pub(super) port: u16,
    pub(super) transport: Transport,
    pub(super) identification: u16,
    pub(super) dont_fragment: bool,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(super) enum Transport {
    Udp,
    Tcp { sequence: u32, flags: u8, options: Vec<u8> },
}

impl Sample {
    pub(super) fn tcp(v6: bool, sequence: u32, payload: &[u8]) -> Self {
        // NOP, NOP, timestamps
        let options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        Self { transport: Transport::Tcp { sequence, flags: ACK, options }, ..Self::udp(v6, payload) }
    }

    pub(super) fn udp(v6: bool, payload: &[u8]) -> Self {
        Self {
            v6,
            port: 4000,
            transport: Transport::Udp,
            identification: 0xfffe,
            dont_fragment: true,
            ttl: 64,
            tos: 2,
            payload: payload.to_vec(),
        }
    }

    /// The packet with its checksums.
    pub(super) fn build(&self) -> Vec<u8> {
        let (mut packet, start, at) = self.build_incomplete();
        let sum = !sum(&packet[start..]);
        let sum = if sum == 0 && matches!(self.transport, Transport::Udp) { 0xffff } else { sum };
        packet[start + at..start + at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// What the kernel gives when it has not cut the packet yet.
    pub(super) fn uncut(&self, size: u16) -> Vec<u8> {
        let (packet, start, at) = self.build_incomplete();
        let gso = match (&self.transport, self.v6) {
            (Transport::Udp, _) => Gso::Udp,
            (_, false) => Gso::TcpV4,
            (_, true) => Gso::TcpV6,
        };
        let header_length = (packet.len() - self.payload.len()) as u16;
        let partial = Some(Partial { start: start as u16, offset: at as u16 });
        read(&VnetHeader { gso, ecn: false, gso_size: size, header_length, partial }, &packet)
    }

    /// The packet with the sum of the pseudo-header for a checksum, where its transport begins, and where in it the
    /// checksum is.
    pub(super) fn build_incomplete(&self) -> (Vec<u8>, usize, usize) {
        let (protocol, at, transport) = self.build_transport();
        let mut packet;
        if self.v6 {
            packet = vec![0x60 | self.tos >> 4, self.tos << 4, 1, 2];
            packet.extend((transport.len() as u16).to_be_bytes());
            packet.extend([protocol, self.ttl]);
            packet.extend(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2).octets());
            packet.extend(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x80).octets());
        } else {
            packet = vec![0x45, self.tos];
            packet.extend((20 + transport.len() as u16).to_be_bytes());
            packet.extend(self.identification.to_be_bytes());
            packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
            packet.extend([10, 99, 0, 2, 10, 20, 0, 80]);
            let sum = !sum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let start = packet.len();
        packet.extend(transport);
        let pseudo = pseudo_header_sum(&packet, start);
        packet[start + at..start + at + 2].copy_from_slice(&pseudo.to_be_bytes());
        (packet, start, at)
    }

    fn build_transport(&self) -> (u8, usize, Vec<u8>) {
        let mut bytes = [self.port.to_be_bytes(), 443u16.to_be_bytes()].concat();
        let (protocol, at) = match &self.transport {
            Transport::Udp => {
                bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                (UDP, 6)
            }
            Transport::Tcp { sequence, flags, options } => {
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(7u32.to_be_bytes());
                bytes.extend([(20 + options.len() as u8) << 2, *flags, 1, 0, 0, 0, 0, 0]);
                bytes.extend(options);
                (TCP, 16)
            }
        };
        bytes.extend(&self.payload);
        (protocol, at, bytes)
    }
}

/// What is read when the kernel gives `packet`.
pub(super) fn read(header: &VnetHeader, packet: &[u8]) -> Vec<u8> {
    [&header.encode()[..], packet].concat()
}

/// Whether all of the packet's checksums are right.
pub(super) fn is_right(packet: &[u8]) -> bool {
    let v6 = packet[0] >> 4 == 6;
    let start = if v6 { 40 } else { 20 };
    let transport = u32::from(sum(&packet[start..])) + u32::from(pseudo_header_sum(packet, start));
    (v6 || sum(&packet[..20]) == 0xffff) && fold(transport) == 0xffff
}

/// Bytes of the pattern that makes a lost or moved one seen.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|nth| (nth * 31 + nth / 251) as u8).collect()
}

fn pseudo_header_sum(packet: &[u8], start: usize) -> u16 {
    let (addresses, protocol) = if packet[0] >> 4 == 6 { (8..40, packet[6]) } else { (12..20, packet[9]) };
    fold(u32::from(sum(&packet[addresses])) + u32::from(protocol) + (packet.len() - start) as u32)
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    fold(words.sum())
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
