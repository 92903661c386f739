//! Telling a packet's sender that it did not get through (RFC 792, RFC 4443, RFC 9484 §7.2.1).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::{Header, IPV6_MIN_MTU, V4_HEADER, V6_HEADER, checksum, is_unicast, pseudo_header, upper_layer};

pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// Bytes of an ICMP header with its second word.
const MESSAGE: usize = 8;

/// The largest ICMP error in bytes over IPv4 (RFC 1812 §4.3.2.3).
const V4_LIMIT: usize = 576;

/// The smallest MTU in bytes of an IPv4 link (RFC 791 §3.2), so the smallest that is told (RFC 1191 §3).
const V4_MIN_MTU: usize = 68;

/// What happened to the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It is larger than the next link carries. IPv4 senders are told 68 to 65535, IPv6 senders never less than 1280.
    TooLarge {
        /// The largest packet in bytes.
        mtu: usize,
    },
    /// Nothing is known of its destination.
    NoRoute,
    /// Its destination is not allowed.
    Prohibited,
    /// Its source is not one that the sender may use.
    ForeignSource,
    /// It has been forwarded too often.
    HopLimit,
}

impl Cause {
    /// Type, code and second word.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::TooLarge { mtu } => (3, 4, mtu.clamp(V4_MIN_MTU, 0xffff) as u32),
            Self::NoRoute => (3, 0, 0),
            Self::Prohibited | Self::ForeignSource => (3, 13, 0),
            Self::HopLimit => (11, 0, 0),
        }
    }

    /// Type, code and second word.
    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::TooLarge { mtu } => (2, 0, mtu.clamp(IPV6_MIN_MTU, 0xffff_ffff) as u32),
            Self::NoRoute => (1, 0, 0),
            Self::Prohibited => (1, 1, 0),
            Self::ForeignSource => (1, 5, 0),
            Self::HopLimit => (3, 0, 0),
        }
    }
}

/// The ICMP packet to send back to the sender of `packet`, from the address `from`. `None` when none may be sent: the
/// packet is broken, itself an ICMP error, not a first fragment, not from or to one machine (RFC 1122 §3.2.2, RFC 4443
/// §2.4), or of another family than `from`. Limit their rate with [`RateLimit`].
///
/// A packet that is given to the machine that sent `packet` can come from the address that `packet` was for.
#[must_use]
pub fn error(packet: &[u8], cause: Cause, from: IpAddr) -> Option<Vec<u8>> {
    let header = Header::parse(packet)?;
    if !is_unicast(header.source) || !is_unicast(header.destination) || is_error_or_fragment(packet) {
        return None;
    }
    match (header.source, from) {
        (IpAddr::V4(to), IpAddr::V4(from)) => Some(v4(packet, cause, from, to)),
        (IpAddr::V6(to), IpAddr::V6(from)) => Some(v6(packet, cause, from, to)),
        _ => None,
    }
}

/// Whether a packet is an ICMP error, and no later fragment of one.
#[must_use]
pub fn is_error(packet: &[u8]) -> bool {
    upper_layer(packet).is_some() && is_error_or_fragment(packet)
}

/// A budget of ICMP messages: a burst, then so many a second.
#[derive(Debug, Clone)]
pub struct RateLimit {
    burst: u32,
    interval: Duration,
    left: u32,
    refilled: Instant,
}

impl RateLimit {
    /// `per_second` of them, at least 1, and as many in a burst.
    #[must_use]
    pub fn new(per_second: u32, now: Instant) -> Self {
        let burst = per_second.max(1);
        Self { burst, interval: Duration::from_secs(1) / burst, left: burst, refilled: now }
    }

    /// Takes one message from the budget; `false` when there is none left.
    pub fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled);
        let new = (elapsed.as_nanos() / self.interval.as_nanos().max(1)).min(self.burst.into()) as u32;
        if new > 0 {
            self.left = self.left.saturating_add(new).min(self.burst);
            self.refilled = if self.left == self.burst { now } else { self.refilled + self.interval * new };
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        true
    }
}

/// Errors are never answered with errors, and fragments but the first do not show what they are.
fn is_error_or_fragment(packet: &[u8]) -> bool {
    let Some((protocol, offset)) = upper_layer(packet) else {
        return true;
    };
    let Some(kind) = packet.get(offset) else {
        return false;
    };
    match (packet[0] >> 4, protocol) {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem
        (4, ICMP) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        // All errors, and redirect (RFC 4443 §2.4 e)
        (6, ICMPV6) => *kind < 128 || *kind == 137,
        _ => false,
    }
}

fn v4(packet: &[u8], cause: Cause, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(V4_LIMIT - V4_HEADER - MESSAGE)];
    let length = (V4_HEADER + MESSAGE + quoted.len()) as u16;
    let mut out = Vec::with_capacity(length.into());
    // Precedence of internetwork control (RFC 1812 §4.3.2.5)
    out.extend([0x45, 0xc0]);
    out.extend(length.to_be_bytes());
    out.extend([0, 0, 0, 0, 64, ICMP, 0, 0]);
    out.extend(from.octets());
    out.extend(to.octets());
    let sum = checksum(&out, 0);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    push_message(cause.v4(), quoted, 0, &mut out);
    out
}

fn v6(packet: &[u8], cause: Cause, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(IPV6_MIN_MTU - V6_HEADER - MESSAGE)];
    let length = MESSAGE + quoted.len();
    let mut out = Vec::with_capacity(V6_HEADER + length);
    out.extend([0x60, 0, 0, 0]);
    out.extend((length as u16).to_be_bytes());
    out.extend([ICMPV6, 64]);
    out.extend(from.octets());
    out.extend(to.octets());
    push_message(cause.v6(), quoted, pseudo_header(from, to, length, ICMPV6), &mut out);
    out
}

fn push_message((kind, code, word): (u8, u8, u32), quoted: &[u8], pseudo: u32, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend([kind, code, 0, 0]);
    out.extend(word.to_be_bytes());
    out.extend_from_slice(quoted);
    let sum = checksum(&out[begin..], pseudo);
    out[begin + 2..begin + 4].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{AUTHENTICATION, tests};

    fn of(packet: &[u8], cause: Cause) -> Option<Vec<u8>> {
        error(packet, cause, Header::parse(packet)?.destination)
    }

    #[test]
    fn fragmentation_needed_over_ipv4() {
        let packet = tests::v4(&[7; 1400]);
        let answer = of(&packet, Cause::TooLarge { mtu: 1250 }).unwrap();
        assert_eq!(answer.len(), V4_LIMIT);
        let header = Header::parse(&answer).unwrap();
        assert_eq!(header.destination, Header::parse(&packet).unwrap().source);
        assert_eq!(checksum(&answer[..20], 0), 0);
        assert_eq!(checksum(&answer[20..], 0), 0);
        assert_eq!(answer[20..22], [3, 4]);
        assert_eq!(answer[24..28], 1250u32.to_be_bytes());
        assert_eq!(answer[28..], packet[..548]);
    }

    #[test]
    fn packet_too_big_over_ipv6() {
        let packet = tests::v6(&[7; 1400]);
        let answer = of(&packet, Cause::TooLarge { mtu: 1300 }).unwrap();
        assert_eq!(answer.len(), IPV6_MIN_MTU);
        let length = answer.len() - 40;
        let pseudo = pseudo_header("fd20::80".parse().unwrap(), "fd99::2".parse().unwrap(), length, ICMPV6);
        assert_eq!(checksum(&answer[40..], pseudo), 0);
        assert_eq!(answer[40..42], [2, 0]);
        assert_eq!(answer[44..48], 1300u32.to_be_bytes());
        assert_eq!(answer[48..], packet[..1232]);
        let answer = of(&packet, Cause::TooLarge { mtu: 900 }).unwrap();
        assert_eq!(answer[44..48], 1280u32.to_be_bytes());
    }

    /// RFC 1191 §4: the next link's MTU is in the lower half of the second word, the upper half is 0. RFC 8201 §4 and
    /// RFC 4443 §3.2: the whole word, and never less than 1280.
    #[test]
    fn sizes_that_are_told_are_ones_that_can_be() {
        for (mtu, four, six) in [
            (0, 68, 1280),
            (68, 68, 1280),
            (1279, 1279, 1280),
            (1281, 1281, 1281),
            (65535, 65535, 65535),
            (65536, 65535, 65536),
            (usize::MAX, 65535, u32::MAX),
        ] {
            let told = |packet: &[u8], at: usize| {
                let answer = of(packet, Cause::TooLarge { mtu }).unwrap();
                u32::from_be_bytes(answer[at..at + 4].try_into().unwrap())
            };
            assert_eq!(told(&tests::v4(b"x"), 24), four);
            assert_eq!(told(&tests::v6(b"x"), 44), six);
        }
    }

    #[test]
    fn causes_have_their_codes() {
        for (cause, four, six) in [
            (Cause::NoRoute, [3, 0], [1, 0]),
            (Cause::Prohibited, [3, 13], [1, 1]),
            (Cause::ForeignSource, [3, 13], [1, 5]),
            (Cause::HopLimit, [11, 0], [3, 0]),
        ] {
            assert_eq!(of(&tests::v4(b"x"), cause).unwrap()[20..22], four);
            assert_eq!(of(&tests::v6(b"x"), cause).unwrap()[40..42], six);
        }
    }

    #[test]
    fn errors_fragments_and_groups_get_no_answer() {
        for packet in [tests::v4(b"x"), tests::v6(b"x")] {
            let error_of_error = of(&of(&packet, Cause::NoRoute).unwrap(), Cause::NoRoute);
            assert_eq!(error_of_error, None);
            assert_eq!(error(&packet[1..], Cause::NoRoute, Ipv4Addr::LOCALHOST.into()), None);
        }
        let mut fragment = tests::v4(b"x");
        fragment[7] = 1;
        assert_eq!(of(&fragment, Cause::NoRoute), None);
        let mut multicast = tests::v6(b"x");
        multicast[24] = 0xff;
        assert_eq!(of(&multicast, Cause::NoRoute), None);
        // RFC 1122 §3.2.2: sources that are not one host
        for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255, 255, 255, 255]] {
            let mut nobody = tests::v4(b"x");
            nobody[12..16].copy_from_slice(&source);
            assert_eq!(of(&nobody, Cause::NoRoute), None, "{source:?}");
        }
        let mut authenticated = of(&tests::v6(b"x"), Cause::NoRoute).unwrap();
        authenticated[6] = AUTHENTICATION;
        authenticated.splice(40..40, [&[ICMPV6, 4, 0, 0][..], &[0; 20]].concat());
        authenticated[5] += 24;
        assert_eq!(of(&authenticated, Cause::NoRoute), None, "an error behind an authentication header");
        assert_eq!(error(&tests::v4(b"x"), Cause::NoRoute, Ipv6Addr::LOCALHOST.into()), None);
    }

    #[test]
    fn an_echo_request_gets_an_answer() {
        let mut echo = tests::v4(b"");
        echo[9] = ICMP;
        echo[20] = 8;
        assert!(of(&echo, Cause::NoRoute).is_some());
    }

    #[test]
    fn rates_are_limited() {
        let begin = Instant::now();
        let mut limit = RateLimit::new(10, begin);
        let taken = |limit: &mut RateLimit, now| (0..100).filter(|_| limit.take(now)).count();
        assert_eq!(taken(&mut limit, begin), 10);
        assert_eq!(taken(&mut limit, begin + Duration::from_millis(99)), 0);
        assert_eq!(taken(&mut limit, begin + Duration::from_millis(250)), 2);
        assert_eq!(taken(&mut limit, begin + Duration::from_millis(300)), 1);
        assert_eq!(taken(&mut limit, begin + Duration::from_secs(60)), 10);
    }

    proptest! {
        /// Every answer is a whole packet to the sender, right in its sums, no larger than it may be, and gets no answer
        /// itself.
        #[test]
        fn answers_are_right(
            v6: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..1500),
            change in (0..60usize, any::<u8>()),
            mtu in 0..2000usize,
        ) {
            let mut packet = if v6 { tests::v6(&payload) } else { tests::v4(&payload) };
            let at = change.0 % packet.len();
            packet[at] ^= change.1;
            for cause in [Cause::TooLarge { mtu }, Cause::NoRoute, Cause::Prohibited, Cause::ForeignSource, Cause::HopLimit] {
                let Some(answer) = of(&packet, cause) else { continue };
                let (asked, header) = (Header::parse(&packet).unwrap(), Header::parse(&answer).unwrap());
                prop_assert_eq!((header.source, header.destination), (asked.destination, asked.source));
                let (begin, limit, sum) = match (header.source, header.destination) {
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        (40, IPV6_MIN_MTU, pseudo_header(from, to, answer.len() - 40, ICMPV6))
                    }
                    _ => {
                        prop_assert_eq!(checksum(&answer[..20], 0), 0);
                        (20, V4_LIMIT, 0)
                    }
                };
                prop_assert_eq!(checksum(&answer[begin..], sum), 0);
                prop_assert!(answer.len() <= limit);
                let quoted = &answer[begin + MESSAGE..];
                prop_assert!(packet.starts_with(quoted));
                prop_assert!(quoted.len() == packet.len() || answer.len() == limit);
                prop_assert_eq!(of(&answer, cause), None);
            }
        }
    }
}
