//! What a device may send.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config;
use crate::pool::Addresses;

/// Where packets from devices may go.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    routes: Vec<IpNet>,
    pool: config::Ranges,
    gateway: Addresses,
}

impl Policy {
    /// Lets devices reach `routes` and the gateway's own addresses, and no other device.
    pub(crate) fn new(routes: Vec<IpNet>, pool: config::Ranges, gateway: Addresses) -> Self {
        Self { routes, pool, gateway }
    }

    /// Decides about a packet of the device that has the addresses `own`.
    ///
    /// # Errors
    /// Why it is dropped.
    pub(crate) fn check(&self, own: &Addresses, source: IpAddr, destination: IpAddr) -> Result<(), Refusal> {
        if !own.contains(source) {
            return Err(Refusal::Spoofed);
        }
        if self.gateway.contains(destination) {
            return Ok(());
        }
        if self.pool.contains(destination) {
            return Err(Refusal::OtherDevice);
        }
        if !is_global_enough(destination) || !self.routes.iter().any(|route| route.contains(&destination)) {
            return Err(Refusal::NotRouted);
        }
        Ok(())
    }

    /// The gateway's own addresses.
    pub(crate) fn gateway(&self) -> &Addresses {
        &self.gateway
    }

    /// What devices are told that they reach: the routes, and the gateway's own addresses.
    pub(crate) fn advertised(&self) -> Vec<IpNet> {
        self.routes.iter().copied().chain(self.gateway.iter().map(IpNet::from)).collect()
    }
}

/// Why a packet of a device is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its source is not the device's own address.
    Spoofed,
    /// It is for another device.
    OtherDevice,
    /// It is for an address outside the advertised routes.
    NotRouted,
    /// It is outside of what the tunnel was asked for.
    OutOfScope,
}

/// Multicast, link-local, loopback and broadcast have no meaning across the gateway, not even under a default route.
fn is_global_enough(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast() || address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_multicast() || address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn policy(routes: &[&str]) -> Policy {
        Policy::new(
            routes.iter().map(|route| route.parse().unwrap()).collect(),
            config::Ranges { ipv4: "10.99.0.0/16".parse().ok(), ipv6: "fd99::/64".parse().ok() },
            Addresses { ipv4: "10.99.0.1".parse().ok(), ipv6: "fd99::1".parse().ok() },
        )
    }

    fn own() -> Addresses {
        Addresses { ipv4: "10.99.0.2".parse().ok(), ipv6: "fd99::2".parse().ok() }
    }

    #[test]
    fn only_own_sources_to_routes_and_gateway() {
        let policy = policy(&["10.20.0.0/24", "fd20::/64"]);
        let check = |source, destination| policy.check(&own(), ip(source), ip(destination));
        assert_eq!(check("10.99.0.2", "10.20.0.80"), Ok(()));
        assert_eq!(check("10.99.0.2", "10.99.0.1"), Ok(()));
        assert_eq!(check("fd99::2", "fd20::80"), Ok(()));
        assert_eq!(check("fd99::2", "fd99::1"), Ok(()));
        assert_eq!(check("10.99.0.3", "10.20.0.80"), Err(Refusal::Spoofed));
        assert_eq!(check("fd99::3", "fd20::80"), Err(Refusal::Spoofed));
        assert_eq!(check("fe80::1", "ff02::2"), Err(Refusal::Spoofed));
        assert_eq!(check("10.99.0.2", "10.99.0.3"), Err(Refusal::OtherDevice));
        assert_eq!(check("fd99::2", "fd99::3"), Err(Refusal::OtherDevice));
        assert_eq!(check("10.99.0.2", "10.20.1.1"), Err(Refusal::NotRouted));
    }

    #[test]
    fn a_default_route_does_not_open_the_gateways_surroundings() {
        let policy = policy(&["0.0.0.0/0", "::/0"]);
        for destination in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.169.254", "0.0.0.0"] {
            assert_eq!(
                policy.check(&own(), ip("10.99.0.2"), ip(destination)),
                Err(Refusal::NotRouted),
                "{destination}"
            );
        }
        for destination in ["::1", "ff02::1", "fe80::1", "::"] {
            assert_eq!(policy.check(&own(), ip("fd99::2"), ip(destination)), Err(Refusal::NotRouted), "{destination}");
        }
        assert_eq!(policy.check(&own(), ip("10.99.0.2"), ip("192.0.2.1")), Ok(()));
    }

    proptest! {
        #[test]
        fn a_foreign_source_never_passes(source: [u8; 16], destination: [u8; 16], six: bool) {
            let address = |bytes: [u8; 16]| if six {
                IpAddr::from(bytes)
            } else {
                IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
            };
            let policy = policy(&["0.0.0.0/0", "::/0"]);
            prop_assume!(!own().contains(address(source)));
            prop_assert_eq!(policy.check(&own(), address(source), address(destination)), Err(Refusal::Spoofed));
        }
    }
}
