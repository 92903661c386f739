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
