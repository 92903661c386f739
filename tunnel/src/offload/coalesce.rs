//! Merging packets of the wire into what the kernel takes, by the rules of Linux's own GRO.
//!
//! A group is cut again ([`super::segment`], or the kernel when it forwards) into the packets that it was made of, byte
//! for byte. One exception, which Linux makes too: packets that may not be fragmented and all have the same IPv4
//! identification, which means nothing then (RFC 6864 §4.1), are numbered.

use std::io::IoSlice;

use bytes::Bytes;

use super::{
    checksum::Sum,
    layout::{
        ACK, ECE, FIN, PSH, TCP, TCP_CHECKSUM, TCP_DATA_OFFSET, TCP_FLAGS, TCP_HEADER, TCP_SEQUENCE, UDP, UDP_CHECKSUM,
        UDP_HEADER, UDP_LENGTH, V4_HEADER, V6_HEADER, double_word, put_word, word,
    },
    virtio::{Gso, HEADER_LENGTH, Partial, VnetHeader},
};
use crate::packet::Header;

/// Merges the packets of a batch. Packets of one flow stay in their order; a packet of another flow may be overtaken.
#[derive(Debug)]
pub struct Coalescer {
    merge_udp: bool,
    packets: Vec<Queued>,
    groups: Vec<Chain>,
    /// The groups that may grow, at most one of a flow.
    open: Vec<Open>,
    /// Which of `open` makes room for the next.
    oldest: usize,
}

/// What is written with one system call: a packet as it is, or several of one flow.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    packets: &'a [Queued],
    chain: &'a Chain,
}

/// Flows that are merged at once; packets of further ones take turns, which costs speed and nothing else.
const OPEN_FLOWS: usize = 32;

/// Packets that are merged at most. With the headers the slices of a group stay far below the kernel's `IOV_MAX`, 1024.
const MAX_TCP: usize = 127;

/// `UDP_MAX_SEGMENTS` of older kernels.
const MAX_UDP: usize = 64;

/// Bytes of the largest IP packet.
const MAX_LENGTH: usize = 65535;

/// Bytes of the longest headers that are merged: IPv6 and TCP with options.
const MAX_HEADERS: usize = V6_HEADER + 60;

const DONT_FRAGMENT: u16 = 0x4000;

/// The end of a chain.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Queued {
    packet: Bytes,
    /// The next packet of the group.
    next: u32,
}

#[derive(Debug)]
struct Chain {
    first: u32,
    last: u32,
    count: usize,
    layout: Layout,
    /// Bytes of payload in all.
    payload: usize,
    /// From one IPv4 identification to the next; known from the second packet on.
    id_step: u16,
    /// The first packet's checksums were found right.
    intact: bool,
    /// FIN and PSH of the last packet.
    last_flags: u8,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    key: u64,
    group: u32,
}

/// Where the parts of a TCP segment or UDP datagram are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Layout {
    protocol: u8,
    transport: usize,
    payload: usize,
}

/// What a packet is to the groups.
enum Kind {
    /// It can be merged with others of its flow.
    Mergeable { key: u64, layout: Layout },
    /// It has a flow, whose later packets must stay behind it.
    OfFlow(u64),
    /// It has no flow that packets could be merged of.
    Other,
    /// It may be of any flow: a fragment, or behind options.
    Unknown,
}

impl Coalescer {
    /// With `merge_udp` the device takes groups of UDP datagrams, too.
    #[must_use]
    pub fn new(merge_udp: bool) -> Self {
        Self { merge_udp, packets: Vec::new(), groups: Vec::new(), open: Vec::with_capacity(OPEN_FLOWS), oldest: 0 }
    }

    /// Adds a packet to the batch; whatever it is, it comes out again.
    pub fn push(&mut self, packet: Bytes) {
        let nth = self.packets.len() as u32;
        let kind = self.classify(&packet);
        self.packets.push(Queued { packet, next: NONE });
        match kind {
            Kind::Mergeable { key, layout } => self.merge(nth, key, layout),
            Kind::OfFlow(key) => {
                self.open.retain(|open| open.key != key);
                self.begin(nth, Layout::default());
            }
            Kind::Other => {
                self.begin(nth, Layout::default());
            }
            Kind::Unknown => {
                self.open.clear();
                self.begin(nth, Layout::default());
            }
        }
    }

    /// Packets in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether the batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The groups of the batch, in the order to write them.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.groups.iter().map(|chain| Group { packets: &self.packets, chain })
    }

    /// Drops the packets and begins a new batch; the memory is kept.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.groups.clear();
        self.open.clear();
        self.oldest = 0;
    }

    fn classify(&self, packet: &[u8]) -> Kind {
        if Header::parse(packet).is_none() {
            return Kind::Unknown;
        }
        let v4 = packet[0] >> 4 == 4;
        let (protocol, transport) = if v4 { (packet[9], V4_HEADER) } else { (packet[6], V6_HEADER) };
        let minimum = match protocol {
            TCP => TCP_HEADER,
            UDP => UDP_HEADER,
            // Extension headers, which may precede anything.
            0 | 43 | 44 | 60 if !v4 => return Kind::Unknown,
            _ => return Kind::Other,
        };
        let bare = !v4 || (packet[0] == 0x45 && word(packet, 6) & !DONT_FRAGMENT == 0);
        if !bare || packet.len() < transport + minimum {
            return Kind::Unknown;
        }
        let key = flow_key(packet, transport);
        let header = if protocol == TCP { tcp_header_length(packet) } else { self.udp_header_length(packet) };
        match header {
            Some(header) => {
                Kind::Mergeable { key, layout: Layout { protocol, transport, payload: transport + header } }
            }
            None => Kind::OfFlow(key),
        }
    }

    /// Adds a packet to the open group of its flow, or makes it the first of a new one.
    fn merge(&mut self, nth: u32, key: u64, layout: Layout) {
        let place = self.open.iter().rposition(|open| open.key == key);
        if let Some(place) = place {
            let group = self.open[place].group as usize;
            if self.try_append(group, nth, layout) {
                if !self.groups[group].may_grow(&self.packets[nth as usize].packet) {
                    self.open.swap_remove(place);
                }
                return;
            }
        }
        let group = self.begin(nth, layout);
        let packet = &self.packets[nth as usize].packet;
        let opened = Open { key, group };
        match (place, self.groups[group as usize].may_grow(packet)) {
            (Some(place), true) => self.open[place] = opened,
            (Some(place), false) => {
                self.open.swap_remove(place);
            }
            (None, true) if self.open.len() < OPEN_FLOWS => self.open.push(opened),
            (None, true) => {
                self.open[self.oldest] = opened;
                self.oldest = (self.oldest + 1) % OPEN_FLOWS;
            }
            (None, false) => {}
        }
    }

    fn begin(&mut self, nth: u32, layout: Layout) -> u32 {
        let packet = &self.packets[nth as usize].packet;
        self.groups.push(Chain {
            first: nth,
            last: nth,
            count: 1,
            layout,
            payload: packet.len() - layout.payload,
            id_step: 0,
            intact: false,
            last_flags: last_flags(packet, layout),
        });
        self.groups.len() as u32 - 1
    }

    fn try_append(&mut self, group: usize, nth: u32, layout: Layout) -> bool {
        let chain = &mut self.groups[group];
        let first = &self.packets[chain.first as usize].packet;
        let packet = &self.packets[nth as usize].packet;
        let payload = packet.len() - layout.payload;
        if chain.layout != layout
            || payload > chain.segment_size(first)
            || first.len() + chain.payload - chain.segment_size(first) + payload > MAX_LENGTH
            || !same_headers(first, packet, layout)
        {
            return false;
        }
        if layout.protocol == TCP {
            let expected = double_word(first, layout.transport + TCP_SEQUENCE).wrapping_add(chain.payload as u32);
            if double_word(packet, layout.transport + TCP_SEQUENCE) != expected {
                return false;
            }
        }
        if layout.transport == V4_HEADER {
            let Some(step) = chain.id_step(first, packet) else { return false };
            chain.id_step = step;
        }
        // In the group nobody would see any more that it was broken.
        if !chain.intact && !is_intact(first, layout) {
            return false;
        }
        chain.intact = true;
        if !is_intact(packet, layout) {
            return false;
        }
        chain.last_flags = last_flags(packet, layout);
        chain.count += 1;
        chain.payload += payload;
        let last = std::mem::replace(&mut chain.last, nth);
        self.packets[last as usize].next = nth;
        true
    }

    fn udp_header_length(&self, packet: &[u8]) -> Option<usize> {
        let transport = if packet[0] >> 4 == 4 { V4_HEADER } else { V6_HEADER };
        let length = packet.len() - transport;
        let whole = usize::from(word(packet, transport + UDP_LENGTH)) == length && length > UDP_HEADER;
        // Zero says that there is no checksum, which the kernel would compute.
        (self.merge_udp && whole && word(packet, transport + UDP_CHECKSUM) != 0).then_some(UDP_HEADER)
    }
}

impl Chain {
    /// Bytes of payload of each packet but the last.
    fn segment_size(&self, first: &[u8]) -> usize {
        first.len() - self.layout.payload
    }

    /// Whether another packet may follow `last`.
    fn may_grow(&self, last: &[u8]) -> bool {
        let most = if self.layout.protocol == TCP { MAX_TCP } else { MAX_UDP };
        let full = last.len() - self.layout.payload;
        self.last_flags == 0 && self.count < most && full * self.count == self.payload
    }

    /// From one identification to the next, if `packet` continues the row.
    fn id_step(&self, first: &[u8], packet: &[u8]) -> Option<u16> {
        let distance = word(packet, 4).wrapping_sub(word(first, 4));
        let count = self.count as u16;
        match distance {
            0 if word(first, 6) & DONT_FRAGMENT != 0 && (self.count == 1 || self.id_step == 0) => Some(0),
            distance if distance == count && (self.count == 1 || self.id_step == 1) => Some(1),
            _ => None,
        }
    }
}

impl Group<'_> {
    /// Packets in it.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.chain.count
    }

    /// Gives `write` what is to be written: the header of the kernel, the headers, and the payloads where they are.
    pub fn gather<R>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        let first: &[u8] = &self.packets[self.chain.first as usize].packet;
        if self.chain.count == 1 {
            let vnet = VnetHeader::default().encode();
            return write(&[IoSlice::new(&vnet), IoSlice::new(first)]);
        }
        let payload = self.chain.layout.payload;
        let mut headers = [0; HEADER_LENGTH + MAX_HEADERS];
        let headers = &mut headers[..HEADER_LENGTH + payload];
        let (vnet, merged) = headers.split_at_mut(HEADER_LENGTH);
        vnet.copy_from_slice(&self.vnet_header(first).encode());
        merged.copy_from_slice(&first[..payload]);
        self.finish_headers(merged);
        let mut slices = [IoSlice::new(&[]); 1 + MAX_TCP];
        slices[0] = IoSlice::new(headers);
        let mut nth = self.chain.first;
        for slice in &mut slices[1..=self.chain.count] {
            let queued = &self.packets[nth as usize];
            *slice = IoSlice::new(&queued.packet[payload..]);
            nth = queued.next;
        }
        write(&slices[..=self.chain.count])
    }

    fn vnet_header(&self, first: &[u8]) -> VnetHeader {
        let Layout { protocol, transport, payload } = self.chain.layout;
        let (gso, offset) = match (protocol, transport) {
            (TCP, V4_HEADER) => (Gso::TcpV4, TCP_CHECKSUM),
            (TCP, _) => (Gso::TcpV6, TCP_CHECKSUM),
            _ => (Gso::Udp, UDP_CHECKSUM),
        };
        VnetHeader {
            gso,
            ecn: false,
            gso_size: self.chain.segment_size(first) as u16,
            header_length: payload as u16,
            partial: Some(Partial { start: transport as u16, offset: offset as u16 }),
        }
    }

    /// Makes the headers of the first packet those of the group.
    fn finish_headers(&self, headers: &mut [u8]) {
        let Layout { protocol, transport, payload } = self.chain.layout;
        let length = payload + self.chain.payload;
        let addresses = if transport == V4_HEADER {
            put_word(headers, 2, length as u16);
            put_word(headers, 10, 0);
            let checksum = Sum::of(&headers[..V4_HEADER]).checksum();
            headers[10..12].copy_from_slice(&checksum);
            12..V4_HEADER
        } else {
            put_word(headers, 4, (length - V6_HEADER) as u16);
            8..V6_HEADER
        };
        let partial = Sum::of_pseudo_header(&headers[addresses], protocol, length - transport).folded();
        let at = if protocol == TCP {
            headers[transport + TCP_FLAGS] |= self.chain.last_flags;
            transport + TCP_CHECKSUM
        } else {
            put_word(headers, transport + UDP_LENGTH, (length - transport) as u16);
            transport + UDP_CHECKSUM
        };
        headers[at..at + 2].copy_from_slice(&partial);
    }
}

/// The length of a TCP header whose segment may be merged: it carries bytes, and nothing but them.
fn tcp_header_length(packet: &[u8]) -> Option<usize> {
    let transport = if packet[0] >> 4 == 4 { V4_HEADER } else { V6_HEADER };
    let tcp = &packet[transport..];
    let header = usize::from(tcp[TCP_DATA_OFFSET] >> 4) * 4;
    let flags = tcp[TCP_FLAGS];
    // 0xffff is as good a checksum as 0, but cutting never makes it.
    let plain = flags & ACK != 0
        && flags & !(ACK | ECE | PSH | FIN) == 0
        && word(tcp, TCP_CHECKSUM) != 0xffff
        && (TCP_HEADER..tcp.len()).contains(&header);
    plain.then_some(header)
}

fn last_flags(packet: &[u8], layout: Layout) -> u8 {
    if layout.protocol == TCP { packet[layout.transport + TCP_FLAGS] & (FIN | PSH) } else { 0 }
}

/// Whether all that must be the same in the packets of a group is: addresses, ports, time to live, traffic class, flow
/// label, don't-fragment bit, acknowledgement, window, flags, options.
fn same_headers(first: &[u8], packet: &[u8], layout: Layout) -> bool {
    let same = |from: usize, to: usize| first[from..to] == packet[from..to];
    let ip = if layout.transport == V4_HEADER {
        same(0, 2) && same(6, 10) && same(12, V4_HEADER)
    } else {
        same(0, 4) && same(6, V6_HEADER)
    };
    let (first, packet) = (&first[layout.transport..layout.payload], &packet[layout.transport..layout.payload]);
    if layout.protocol == UDP {
        return ip && first[..UDP_LENGTH] == packet[..UDP_LENGTH];
    }
    ip && first[..TCP_SEQUENCE] == packet[..TCP_SEQUENCE]
        && first[8..TCP_FLAGS] == packet[8..TCP_FLAGS]
        && (first[TCP_FLAGS] ^ packet[TCP_FLAGS]) & !(FIN | PSH) == 0
        && first[14..TCP_CHECKSUM] == packet[14..TCP_CHECKSUM]
        && first[18..] == packet[18..]
}

fn is_intact(packet: &[u8], layout: Layout) -> bool {
    let addresses = if layout.transport == V4_HEADER {
        if !Sum::of(&packet[..V4_HEADER]).is_intact() || word(packet, 10) == 0xffff {
            return false;
        }
        &packet[12..V4_HEADER]
    } else {
        &packet[8..V6_HEADER]
    };
    let transport = &packet[layout.transport..];
    (Sum::of_pseudo_header(addresses, layout.protocol, transport.len()) + Sum::of(transport)).is_intact()
}

/// A number that all packets of a flow share. Others may, too: it only says what is worth a closer look.
fn flow_key(packet: &[u8], transport: usize) -> u64 {
    let addresses = if transport == V4_HEADER { 12..V4_HEADER } else { 8..V6_HEADER };
    let (words, _) = packet[addresses].as_chunks::<8>();
    let ports = u64::from(double_word(packet, transport)) | u64::from(transport == V4_HEADER) << 32;
    let protocol = u64::from(if transport == V4_HEADER { packet[9] } else { packet[6] }) << 33;
    words.iter().fold(ports | protocol, |key, word| {
        (key ^ u64::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}

#[cfg(test)]
mod tests;
