//! What a tunnel is confined to, because its request asked for less than everything (RFC 9484 §4.6).

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;
use m2m_tunnel::packet::{icmp, ip_protocol, is_extension_header, is_icmp};
use m2m_tunnel::request::Refusal;
use m2m_tunnel::routes::IpRange;
use m2m_tunnel::scope::{Scope, Target};
use tokio::time::timeout;

/// The limits of one tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confinement {
    /// What devices may reach of what was asked for. Not empty.
    targets: Vec<IpNet>,
    /// The only IP protocol beside ICMP, all without one.
    protocol: Option<u8>,
}

impl Confinement {
    /// The confinement that a request asks for, on a gateway that leads to `reachable`; none when it asks for everything. A name is
    /// resolved once, now.
    ///
    /// # Errors
    /// 400 for a protocol that no packet has, 403 when the target is nothing that devices may reach, 502 and 504 when its name has no
    /// address.
    pub(crate) async fn of(scope: &Scope, reachable: &[IpNet]) -> Result<Option<Self>, Refusal> {
        // RFC 9484 §4.8; and 0 would stand for all protocols in ROUTE_ADVERTISEMENT.
        if let Some(protocol) = scope.ip_protocol.filter(|protocol| is_extension_header(*protocol)) {
            let reason = format!("ipproto {protocol} is an extension header of IPv6; expected what comes behind those");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        }
        let wanted = match &scope.target {
            Target::Any if scope.ip_protocol.is_none() => return Ok(None),
            Target::Any => reachable.to_vec(),
            Target::Prefix(prefix) => vec![*prefix],
            Target::Name(name) => resolve(name).await?,
        };
        let targets = common(&wanted, reachable);
        if targets.is_empty() {
            let refusal = Refusal::new(StatusCode::FORBIDDEN, "this gateway does not lead to the target");
            return Err(Refusal { error: Some("destination_ip_prohibited"), ..refusal });
        }
        Ok(Some(Self { targets, protocol: scope.ip_protocol }))
    }

    /// What the device is told that it reaches.
    pub(crate) fn ranges(&self) -> Vec<IpRange> {
        let protocol = self.protocol.unwrap_or(0);
        let range = |target: &IpNet| IpRange::new(target.network(), target.broadcast(), protocol);
        self.targets.iter().filter_map(range).collect()
    }

    /// Whether a packet of the device may go to `destination`.
    pub(crate) fn lets_out(&self, destination: IpAddr, packet: &[u8]) -> bool {
        self.has(destination) && self.is_of_its_protocol(packet)
    }

    /// Whether a packet from `source` may go to the device. Routers on the way tell it of errors.
    pub(crate) fn lets_in(&self, source: IpAddr, packet: &[u8]) -> bool {
        self.lets_out(source, packet) || icmp::is_error(packet)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.targets.iter().any(|target| target.contains(&address))
    }

    fn is_of_its_protocol(&self, packet: &[u8]) -> bool {
        let Some(only) = self.protocol else { return true };
        ip_protocol(packet).is_some_and(|protocol| protocol == only || is_icmp(protocol))
    }
}

/// How long a name server may take.
const RESOLUTION: Duration = Duration::from_secs(5);

async fn resolve(name: &str) -> Result<Vec<IpNet>, Refusal> {
    let failed = |reason: String| Refusal { error: Some("dns_error"), ..Refusal::new(StatusCode::BAD_GATEWAY, reason) };
    let lookup = timeout(RESOLUTION, tokio::net::lookup_host((name, 0))).await.map_err(|_| Refusal {
        error: Some("dns_timeout"),
        ..Refusal::new(StatusCode::GATEWAY_TIMEOUT, format!("the name server says nothing of {name}"))
    })?;
    let addresses = lookup.map_err(|error| failed(format!("{name}: {error}")))?;
    let addresses: Vec<IpNet> = addresses.map(|address| IpNet::from(address.ip())).collect();
    if addresses.is_empty() {
        return Err(failed(format!("{name} has no address")));
    }
    Ok(addresses)
}

/// What is in both. Of two prefixes one holds the other, or they have nothing in common.
fn common(some: &[IpNet], others: &[IpNet]) -> Vec<IpNet> {
    let pairs = some.iter().flat_map(|one| others.iter().map(move |other| (one, other)));
    let in_both = pairs.filter_map(|(one, other)| match (one.contains(other), other.contains(one)) {
        (true, _) => Some(*other),
        (false, true) => Some(*one),
        (false, false) => None,
    });
    IpNet::aggregate(&in_both.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn scope(target: &str, ip_protocol: Option<u8>) -> Scope {
        Scope { target: Target::parse(target).unwrap(), ip_protocol }
    }

    /// An IPv4 packet of this protocol, without content.
    fn v4(protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 20];
        (packet[0], packet[3], packet[9]) = (0x45, 20, protocol);
        packet
    }

    #[tokio::test]
    async fn everything_is_no_confinement() {
        assert_eq!(Confinement::of(&Scope::default(), &nets(&["0.0.0.0/0"])).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_granted_is_what_is_asked_for_and_allowed() {
        let reachable = nets(&["10.20.0.0/24", "fd20::/64", "10.99.0.1/32"]);
        for (target, expected) in [
            ("10.20.0.80", &["10.20.0.80/32"][..]),
            ("10.20.0.0/25", &["10.20.0.0/25"]),
            ("10.0.0.0/8", &["10.20.0.0/24", "10.99.0.1/32"]),
            ("::/0", &["fd20::/64"]),
        ] {
            let confinement = Confinement::of(&scope(target, None), &reachable).await.unwrap().unwrap();
            assert_eq!(confinement.targets, nets(expected), "{target}");
        }
        let refusal = Confinement::of(&scope("192.0.2.0/24", None), &reachable).await.unwrap_err();
        assert_eq!((refusal.status, refusal.error), (StatusCode::FORBIDDEN, Some("destination_ip_prohibited")));
    }

    #[tokio::test]
    async fn a_name_is_its_addresses() {
        let reachable = nets(&["127.0.0.0/8", "::1/128"]);
        let confinement = Confinement::of(&scope("localhost", Some(6)), &reachable).await.unwrap().unwrap();
        assert!(confinement.lets_out("127.0.0.1".parse().unwrap(), &v4(6)));
        assert!(!confinement.lets_out("127.0.0.2".parse().unwrap(), &v4(6)));
        let refusal =
            Confinement::of(&scope(&format!("{}.invalid", "a".repeat(64)), None), &reachable).await.unwrap_err();
        assert_eq!((refusal.status, refusal.error), (StatusCode::BAD_GATEWAY, Some("dns_error")));
    }

    #[tokio::test]
    async fn an_extension_header_is_no_protocol() {
        for protocol in [0, 43, 44, 51, 60] {
            let refusal = Confinement::of(&scope("*", Some(protocol)), &nets(&["10.20.0.0/24"])).await.unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{protocol}");
        }
    }

    #[tokio::test]
    async fn one_protocol_and_icmp_pass() {
        let (inside, outside) = ("10.20.0.80".parse().unwrap(), "10.20.0.81".parse().unwrap());
        let asked = scope("10.20.0.80", Some(17));
        let confinement = Confinement::of(&asked, &nets(&["10.20.0.0/24"])).await.unwrap().unwrap();
        assert!(confinement.lets_out(inside, &v4(17)) && confinement.lets_in(inside, &v4(17)));
        assert!(!confinement.lets_out(inside, &v4(6)) && !confinement.lets_in(inside, &v4(6)));
        assert!(confinement.lets_out(inside, &v4(1)));
        assert!(!confinement.lets_out(outside, &v4(17)) && !confinement.lets_in(outside, &v4(17)));
        assert!(!confinement.lets_out(outside, &v4(1)), "ICMP goes to the target only");
        let unreachable = [v4(1), vec![3, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert!(confinement.lets_in(outside, &unreachable), "routers tell of errors");
        let echo = [v4(1), vec![8, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert!(!confinement.lets_in(outside, &echo) && confinement.lets_in(inside, &echo));
        let ranges = confinement.ranges();
        assert_eq!(ranges, [IpRange::new(inside, inside, 17).unwrap()]);
    }

    proptest! {
        #[test]
        fn what_two_lists_have_in_common_is_in_both(
            some in proptest::collection::vec((any::<u8>(), 24..=32u8), 0..4),
            others in proptest::collection::vec((any::<u8>(), 24..=32u8), 0..4),
            low: u8,
        ) {
            let list = |list: Vec<(u8, u8)>| -> Vec<IpNet> {
                list.iter().map(|(low, length)| IpNet::new([192, 0, 2, *low].into(), *length).unwrap().trunc()).collect()
            };
            let (some, others) = (list(some), list(others));
            let address: IpAddr = [192, 0, 2, low].into();
            let holds = |list: &[IpNet]| list.iter().any(|net| net.contains(&address));
            prop_assert_eq!(holds(&common(&some, &others)), holds(&some) && holds(&others));
        }
    }
}
