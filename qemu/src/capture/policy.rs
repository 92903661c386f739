use std::{fmt, net::IpAddr, net::Ipv4Addr, time::Duration};

use etherparse::{ArpOperation, LaxNetSlice, LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};

use super::{dns, pcap::Frame};
use crate::addresses::{
    GATEWAY_NAME, GATEWAY_V4, GATEWAY_V6, GATEWAY2_NAME, GATEWAY2_V4, GATEWAY2_V6, MANAGER_NAME, MANAGER_V4,
    MANAGER_V6, ROUTER_V4, ROUTER_V6,
};

/// What may be on the device link; everything else is a leak.
///
/// Allowed are ARP, DHCPv4 and DHCPv6, neighbour and router discovery, DNS with the router for the listed names only, NTP
/// with the router, UDP and TCP 443 with the gateway and TCP 443 with the manager; and what a router says to a device about such a
/// packet (ICMP errors, of which path MTU discovery lives). Multicast reports (MLD, IGMP), ICMP errors of the device and
/// fragments are not.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Addresses of the router: the only DNS and NTP server.
    pub routers: Vec<IpAddr>,
    /// Addresses of the gateways.
    pub gateways: Vec<IpAddr>,
    /// Addresses of the manager.
    pub managers: Vec<IpAddr>,
    /// Names that may be asked for, lower case.
    pub names: Vec<String>,
}

/// A packet that must not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Number of the packet in the capture, from 1 as in `tcpdump` and Wireshark.
    pub number: usize,
    /// Time of capture since 1970.
    pub time: Duration,
    /// Addresses and protocol.
    pub summary: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "packet {} at {:.3}: {}", self.number, self.time.as_secs_f64(), self.summary)
    }
}

impl Policy {
    /// The policy for the lab's own addresses and names, for devices that know one gateway.
    #[must_use]
    pub fn lab() -> Self {
        Self {
            routers: vec![ROUTER_V4.into(), ROUTER_V6.into()],
            gateways: vec![GATEWAY_V4.into(), GATEWAY_V6.into()],
            managers: vec![MANAGER_V4.into(), MANAGER_V6.into()],
            names: vec![GATEWAY_NAME.to_owned(), MANAGER_NAME.to_owned()],
        }
    }

    /// The same for devices that know the second gateway, too.
    #[must_use]
    pub fn with_second_gateway(mut self) -> Self {
        self.gateways.extend([IpAddr::from(GATEWAY2_V4), GATEWAY2_V6.into()]);
        self.names.push(GATEWAY2_NAME.to_owned());
        self
    }

    /// Every frame that the policy does not allow.
    #[must_use]
    pub fn audit(&self, frames: &[Frame]) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            if let Err(summary) = self.judge(&frame.bytes) {
                violations.push(Violation { number: index + 1, time: frame.time, summary });
            }
        }
        violations
    }

    /// Ok when the frame is allowed, otherwise what it is.
    ///
    /// # Errors
    /// One line with addresses and protocol.
    pub fn judge(&self, frame: &[u8]) -> Result<(), String> {
        let packet = SlicedPacket::from_ethernet(frame).map_err(|error| format!("not readable: {error}"))?;
        if !packet.link_exts.is_empty() {
            return Err("frame with a VLAN or MACsec header".to_owned());
        }
        let (source, destination) = match &packet.net {
            Some(NetSlice::Arp(_)) => return Ok(()),
            Some(NetSlice::Ipv4(ip)) => {
                (ip.header().source_addr().into(), IpAddr::from(ip.header().destination_addr()))
            }
            Some(NetSlice::Ipv6(ip)) => {
                (ip.header().source_addr().into(), IpAddr::from(ip.header().destination_addr()))
            }
            None => return Err(format!("frame with EtherType {:02x?}", frame.get(12..14).unwrap_or_default())),
        };
        let allowed = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => {
                let (from, to) = ((source, udp.source_port()), (destination, udp.destination_port()));
                self.allows_udp(from, to, udp.payload())
            }
            Some(TransportSlice::Tcp(tcp)) => {
                let (from, to) = ((source, tcp.source_port()), (destination, tcp.destination_port()));
                is_with(&self.managers, 443, from, to)
                    || is_with(&self.gateways, 443, from, to)
                    || is_with(&self.routers, 53, from, to) && self.allows_dns_segment(tcp.payload())
            }
            Some(TransportSlice::Icmpv6(icmp)) if matches!(icmp.type_u8(), 1..=4) => {
                self.allows_error(destination, icmp.payload())
            }
            Some(TransportSlice::Icmpv6(icmp)) => is_discovery(icmp.type_u8()),
            Some(TransportSlice::Icmpv4(icmp)) if matches!(icmp.type_u8(), 3 | 11 | 12) => {
                self.allows_error(destination, icmp.payload())
            }
            _ => false,
        };
        if allowed { Ok(()) } else { Err(summary(source, destination, packet.transport.as_ref())) }
    }

    fn allows_udp(&self, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> bool {
        match (from.1, to.1) {
            (68, 67) | (67, 68) => from.0.is_ipv4(),
            (546, 547) | (547, 546) => from.0.is_ipv6(),
            (443, _) | (_, 443) => is_with(&self.gateways, 443, from, to),
            (53, _) | (_, 53) => is_with(&self.routers, 53, from, to) && self.asks_allowed_names(payload),
            (123, _) | (_, 123) => is_with(&self.routers, 123, from, to),
            _ => false,
        }
    }

    /// DNS over TCP (RFC 7766): a segment has no data, or a whole message, its length before it or in a segment of its own.
    fn allows_dns_segment(&self, data: &[u8]) -> bool {
        match data {
            [] | [_, _] => true,
            [high, low, message @ ..] if usize::from(u16::from_be_bytes([*high, *low])) == message.len() => {
                self.asks_allowed_names(message)
            }
            message => self.asks_allowed_names(message),
        }
    }

    /// Whether an ICMP error tells `device` of a packet that it may send to a server. The error quotes the packet's beginning.
    fn allows_error(&self, device: IpAddr, quoted: &[u8]) -> bool {
        let Ok(packet) = LaxSlicedPacket::from_ip(quoted) else { return false };
        let (source, server): (IpAddr, IpAddr) = match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            Some(LaxNetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            _ => return false,
        };
        let servers = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => match udp.destination_port() {
                443 => &self.gateways,
                53 | 123 => &self.routers,
                _ => return false,
            },
            Some(TransportSlice::Tcp(tcp)) if tcp.destination_port() == 443 => match self.gateways.contains(&server) {
                true => &self.gateways,
                false => &self.managers,
            },
            _ => return false,
        };
        source == device && servers.contains(&server)
    }

    fn asks_allowed_names(&self, message: &[u8]) -> bool {
        dns::questions(message).is_some_and(|names| names.iter().all(|name| self.names.contains(name)))
    }
}

/// Whether a frame is an ARP request for `address`.
pub(super) fn asks_for(frame: &Frame, address: Ipv4Addr) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(&frame.bytes) else {
        return false;
    };
    match packet.net {
        Some(NetSlice::Arp(arp)) => {
            arp.operation() == ArpOperation::REQUEST && arp.target_protocol_addr() == address.octets()
        }
        _ => false,
    }
}

/// Whether one end is a server of the list on `port`.
fn is_with(servers: &[IpAddr], port: u16, from: (IpAddr, u16), to: (IpAddr, u16)) -> bool {
    let is_server = |end: (IpAddr, u16)| end.1 == port && servers.contains(&end.0);
    is_server(from) || is_server(to)
}

/// Router and neighbour solicitation and advertisement (RFC 4861); a redirect (137) is none of them.
fn is_discovery(icmp_type: u8) -> bool {
    (133..=136).contains(&icmp_type)
}

fn summary(source: IpAddr, destination: IpAddr, transport: Option<&TransportSlice<'_>>) -> String {
    match transport {
        Some(TransportSlice::Udp(udp)) => {
            let names = dns::questions(udp.payload()).filter(|_| udp.destination_port() == 53);
            let names = names.map(|names| format!(" asks for {}", names.join(", "))).unwrap_or_default();
            format!("UDP {source} port {} to {destination} port {}{names}", udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Tcp(tcp)) => {
            format!("TCP {source} port {} to {destination} port {}", tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("ICMP {source} to {destination} type {}", icmp.type_u8())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!("ICMPv6 {source} to {destination} type {}", icmp.type_u8())
        }
        Some(TransportSlice::Igmp(_)) => format!("IGMP {source} to {destination}"),
        None => format!("{source} to {destination}, fragment or unknown protocol"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use etherparse::{IpNumber, PacketBuilder};
    use proptest::prelude::*;

    use super::*;

    const DEVICE_V4: [u8; 4] = [192, 0, 2, 20];
    const DEVICE_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20];
    const STRANGER: [u8; 4] = [198, 51, 100, 99];

    fn udp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64).udp(ports.0, ports.1);
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn udp6(to: [u8; 16], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(DEVICE_V6, to, 64).udp(ports.0, ports.1);
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn tcp(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        segment(from, to, ports, &[])
    }

    fn segment(from: [u8; 4], to: [u8; 4], ports: (u16, u16), data: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64).tcp(ports.0, ports.1, 7, 1024);
        builder.write(&mut frame, data).unwrap();
        frame
    }

    /// A DNS question with its length before it.
    fn counted(name: &str) -> Vec<u8> {
        let message = dns::query(name);
        [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
    }

    fn icmp6(icmp_type: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(DEVICE_V6, ROUTER_V6.octets(), 255);
        builder.icmpv6_raw(icmp_type, 0, [0; 4]).write(&mut frame, &[0; 16]).unwrap();
        frame
    }

    #[test]
    fn what_a_device_needs_is_allowed() {
        let router = ROUTER_V4.octets();
        let allowed = [
            udp([0; 4], [255; 4], (68, 67), &[0; 240]),
            udp(router, DEVICE_V4, (67, 68), &[0; 240]),
            udp6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2], (546, 547), &[0; 20]),
            udp(DEVICE_V4, router, (40000, 53), &dns::query("gateway.example")),
            udp(router, DEVICE_V4, (53, 40000), &dns::query("manager.example")),
            udp6(ROUTER_V6.octets(), (40000, 53), &dns::query("MANAGER.example")),
            tcp(DEVICE_V4, router, (40000, 53)),
            segment(DEVICE_V4, router, (40000, 53), &counted("gateway.example")),
            segment(DEVICE_V4, router, (40000, 53), &dns::query("gateway.example")),
            udp(DEVICE_V4, router, (123, 123), &[0; 48]),
            udp(DEVICE_V4, GATEWAY_V4.octets(), (50000, 443), &[0xc0; 1200]),
            udp(GATEWAY_V4.octets(), DEVICE_V4, (443, 50000), &[0xc0; 1200]),
            udp6(GATEWAY_V6.octets(), (50000, 443), &[0xc0; 1200]),
            tcp(DEVICE_V4, GATEWAY_V4.octets(), (50000, 443)),
            tcp(DEVICE_V4, MANAGER_V4.octets(), (50000, 443)),
            tcp(MANAGER_V4.octets(), DEVICE_V4, (443, 50000)),
            icmp6(133),
            icmp6(134),
            icmp6(135),
            icmp6(136),
        ];
        for frame in allowed {
            Policy::lab().judge(&frame).unwrap();
        }
    }

    #[test]
    fn anything_else_is_a_leak() {
        let router = ROUTER_V4.octets();
        let mut two_questions = dns::query("gateway.example");
        two_questions[5] = 2;
        two_questions.extend_from_slice(&dns::query("intranet.corp.example")[12..]);
        let leaks = [
            ("a name of the company", udp(DEVICE_V4, router, (40000, 53), &dns::query("intranet.corp.example"))),
            ("a second name in one question", udp(DEVICE_V4, router, (40000, 53), &two_questions)),
            ("DNS past the router", udp(DEVICE_V4, STRANGER, (40000, 53), &dns::query("gateway.example"))),
            ("port 53 without DNS in it", udp(DEVICE_V4, router, (40000, 53), b"secret")),
            (
                "a name of the company over TCP",
                segment(DEVICE_V4, router, (40000, 53), &counted("intranet.corp.example")),
            ),
            ("port 53 over TCP without DNS in it", segment(DEVICE_V4, router, (40000, 53), b"secret")),
            ("DNS over TCP past the router", tcp(DEVICE_V4, STRANGER, (40000, 53))),
            ("NTP past the router", udp(DEVICE_V4, STRANGER, (123, 123), &[0; 48])),
            ("QUIC with a stranger", udp(DEVICE_V4, STRANGER, (50000, 443), &[0xc0; 1200])),
            ("another port of the gateway", udp(DEVICE_V4, GATEWAY_V4.octets(), (443, 80), &[0; 10])),
            ("another TCP port of the gateway", tcp(DEVICE_V4, GATEWAY_V4.octets(), (50000, 80))),
            ("UDP with the manager", udp(DEVICE_V4, MANAGER_V4.octets(), (50000, 443), &[0; 10])),
            ("another port of the manager", tcp(DEVICE_V4, MANAGER_V4.octets(), (50000, 80))),
            ("TCP to the company's address", tcp(DEVICE_V4, [10, 20, 0, 80], (50000, 80))),
            ("mDNS", udp(DEVICE_V4, [224, 0, 0, 251], (5353, 5353), &dns::query("printer.local"))),
            ("a multicast report", icmp6(143)),
            ("an echo request", icmp6(128)),
            ("a redirect", icmp6(137)),
        ];
        for (what, frame) in leaks {
            assert!(Policy::lab().judge(&frame).is_err(), "{what} passed the audit");
        }
    }

    /// An ICMPv6 error of type 1 to `to` that quotes the first 100 bytes of `frame`'s packet.
    fn error6(to: [u8; 16], frame: &[u8]) -> Vec<u8> {
        let mut error = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(ROUTER_V6.octets(), to, 64);
        let quoted = &frame[14..frame.len().min(114)];
        builder.icmpv6_raw(1, 2, [0; 4]).write(&mut error, quoted).unwrap();
        error
    }

    #[test]
    fn a_router_may_tell_a_device_of_its_packets_and_nobody_else_of_any() {
        let sent = udp6(GATEWAY_V6.octets(), (50000, 443), &[0xc0; 1200]);
        Policy::lab().judge(&error6(DEVICE_V6, &sent)).unwrap();
        let mut sent_over_tcp = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(DEVICE_V6, GATEWAY_V6.octets(), 64);
        builder.tcp(50000, 443, 7, 1024).write(&mut sent_over_tcp, &[]).unwrap();
        Policy::lab().judge(&error6(DEVICE_V6, &sent_over_tcp)).unwrap();
        assert!(Policy::lab().judge(&error6(GATEWAY_V6.octets(), &sent)).is_err(), "told to another");
        let stray = udp6(GATEWAY_V6.octets(), (50000, 80), &[0; 10]);
        assert!(Policy::lab().judge(&error6(DEVICE_V6, &stray)).is_err(), "about a packet that is a leak");
        assert!(Policy::lab().judge(&error6(DEVICE_V6, &[0; 60])).is_err(), "about nothing");

        // A device that answers the gateway by an error speaks beside the tunnel.
        let mut received = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(GATEWAY_V6.octets(), DEVICE_V6, 64).udp(443, 50000);
        builder.write(&mut received, &[0xc0; 50]).unwrap();
        assert!(Policy::lab().judge(&error6(GATEWAY_V6.octets(), &received)).is_err());
    }

    #[test]
    fn other_protocols_and_fragments_are_leaks() {
        let mut gre = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(DEVICE_V4, GATEWAY_V4.octets(), 64);
        builder.write(&mut gre, IpNumber(47), &[0; 20]).unwrap();
        assert!(Policy::lab().judge(&gre).is_err());

        let mut fragment = udp(DEVICE_V4, GATEWAY_V4.octets(), (50000, 443), &[0; 64]);
        fragment[14 + 7] = 1; // fragment offset 8
        assert!(Policy::lab().judge(&fragment).is_err());

        let mut lldp = vec![0; 60];
        lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
        assert!(Policy::lab().judge(&lldp).unwrap_err().contains("88"));
    }

    #[test]
    fn the_audit_names_the_packet() {
        let frame = |bytes| Frame { time: Duration::from_millis(1500), bytes };
        let good = udp(DEVICE_V4, GATEWAY_V4.octets(), (50000, 443), &[0; 10]);
        let bad = udp(DEVICE_V4, STRANGER, (50000, 9), &[0; 10]);
        let violations = Policy::lab().audit(&[frame(good), frame(bad)]);
        let text = violations[0].to_string();
        assert_eq!(violations.len(), 1);
        assert_eq!(text, "packet 2 at 1.500: UDP 192.0.2.20 port 50000 to 198.51.100.99 port 9");
    }

    proptest! {
        #[test]
        fn any_frame_is_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Policy::lab().judge(&bytes);
        }
    }
}
