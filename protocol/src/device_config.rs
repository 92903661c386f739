//! What a device gets from its manager: where its gateways are and what to send them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Version1;
use crate::names::{DomainName, HttpsOrigin, Token};

/// A device's own configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// The schema's version.
    pub version: Version1,
    /// The name under which the manager keeps the device; the common name of its certificate.
    pub device_id: Token,
    /// What the tunnel is to be.
    pub tunnel: TunnelConfig,
}

/// The tunnel of a device, the same for a managed device and for one that is configured by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelConfig {
    /// The gateways, of which the one with the lowest priority number that answers is taken. Not empty.
    #[serde(rename = "gateway", deserialize_with = "at_least_one")]
    pub gateways: Vec<Gateway>,
    /// The address families to ask the gateway for (ADDRESS_REQUEST, RFC 9484 section 4.7.2).
    #[serde(default)]
    pub families: Families,
    /// The destinations that go through the tunnel, as far as the gateway advertises them; empty means all that it advertises.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// Name resolution through the tunnel.
    #[serde(default)]
    pub dns: Dns,
    /// When the tunnel is open.
    #[serde(default)]
    pub mode: Mode,
}

/// A gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Where it listens: UDP on this port.
    pub origin: HttpsOrigin,
    /// Lower is tried first; equal ones in the order of the list.
    #[serde(default)]
    pub priority: u16,
}

/// The address families inside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub struct Families {
    /// Ask for an IPv4 address.
    pub ipv4: bool,
    /// Ask for an IPv6 address.
    pub ipv6: bool,
}

impl Default for Families {
    fn default() -> Self {
        Self { ipv4: true, ipv6: true }
    }
}

/// Name resolution through the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// The company's resolvers, reached through the tunnel only.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// The search domains.
    #[serde(default)]
    pub search: Vec<DomainName>,
}

/// When the tunnel is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// From boot to power-off; reconnects for ever.
    #[default]
    AlwaysOn,
    /// Only while `vpnctl connect` was the last word.
    Manual,
}

fn at_least_one<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Gateway>, D::Error> {
    let gateways = Vec::deserialize(deserializer)?;
    if gateways.is_empty() {
        return Err(serde::de::Error::custom("expected at least one gateway"));
    }
    Ok(gateways)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config_file;

    #[test]
    fn a_configuration_crosses_the_wire_unchanged() {
        let text = r#"{
            "version": 1,
            "device_id": "dev-0011223344556677",
            "tunnel": {
                "gateway": [{"origin": "https://gateway.example", "priority": 1}],
                "families": {"ipv4": true, "ipv6": false},
                "routes": ["10.20.0.0/24"],
                "dns": {"servers": ["10.20.0.80"], "search": ["corp.example"]},
                "mode": "manual"
            }
        }"#;
        let config: DeviceConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.tunnel.mode, Mode::Manual);
        let again: DeviceConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn by_hand_only_the_gateway_is_needed() {
        let text = "[[gateway]]\norigin = \"https://192.0.2.1:8443\"\n";
        let tunnel: TunnelConfig = config_file::parse(Path::new("tunnel.toml"), text).unwrap();
        assert_eq!((tunnel.mode, tunnel.families), (Mode::AlwaysOn, Families { ipv4: true, ipv6: true }));
        let error = config_file::parse::<TunnelConfig>(Path::new("tunnel.toml"), "gateway = []\n").unwrap_err();
        assert_eq!(error.to_string(), "tunnel.toml:1: gateway: expected at least one gateway");
    }
}
