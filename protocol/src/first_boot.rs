//! The first-boot file: all that is written into an image before it knows its company's network.
//!
//! It lies on the EFI system partition as `m2mvpn/first-boot.toml` and can be set after the image was built. Nothing in
//! it is secret: what it holds can only ask to be let in.
//!
//! ```toml
//! version = 1
//!
//! [manager]
//! url = "https://manager.example"
//! trust_anchor = """
//! -----BEGIN CERTIFICATE-----
//! ...
//! -----END CERTIFICATE-----
//! """
//!
//! [device]
//! hostname = "atm-{serial}"
//! label = "batch-2026-11"
//! timezone = "Europe/Berlin"
//!
//! [ntp]
//! servers = ["192.0.2.1"]          # besides those that DHCP names
//!
//! [[uplink]]
//! match = "en*"
//! priority = 1
//! method = "dhcp"
//!
//! [[uplink]]
//! match = "wwan0"
//! priority = 2
//! method = "static"
//! addresses = ["198.51.100.7/24", "2001:db8::7/64"]
//! gateways = ["198.51.100.1", "2001:db8::1"]
//! dns = ["198.51.100.1"]
//! ```

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Version1;
use crate::names::{HttpsOrigin, Token};

mod fields;

pub use fields::{HostnamePattern, InterfaceMatch, TimeZone, TrustAnchor};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstBoot {
    /// The schema's version.
    pub version: Version1,
    /// Where to enrol.
    pub manager: Manager,
    /// What the machine calls itself.
    #[serde(default)]
    pub device: Device,
    /// Where the time comes from.
    #[serde(default)]
    pub ntp: Ntp,
    /// The ways to the internet. Not empty.
    #[serde(rename = "uplink", deserialize_with = "at_least_one")]
    pub uplinks: Vec<Uplink>,
}

/// Where to enrol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manager {
    /// The manager's origin.
    pub url: HttpsOrigin,
    /// The only certificates that a manager or gateway may chain to, PEM.
    pub trust_anchor: TrustAnchor,
}

/// What the machine calls itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The host name; `{serial}` stands for the machine's serial number.
    #[serde(default)]
    pub hostname: HostnamePattern,
    /// A word that the manager keeps beside the device, such as a batch or a branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Token>,
    /// The time zone, a name of the IANA database.
    #[serde(default)]
    pub timezone: TimeZone,
}

/// Where the time comes from, besides the servers that DHCP names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ntp {
    /// Addresses, not names: a name would have to be asked for outside of the tunnel, and the firewall lets no
    /// such question out.
    #[serde(default, deserialize_with = "fields::addresses")]
    pub servers: Vec<IpAddr>,
}

/// One way to the internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// The network interfaces that this is about: a name, or a pattern such as `en*`.
    #[serde(rename = "match")]
    pub interface: InterfaceMatch,
    /// Lower is preferred.
    #[serde(default)]
    pub priority: u16,
    /// How the addresses come.
    pub method: Method,
    /// Addresses with prefix length; only and always with `method = "static"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Default routers; only with `method = "static"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// The resolvers that are asked for the names of gateway and manager; with `method = "dhcp"` besides those that DHCP names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
}

/// How an uplink gets its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// DHCPv4, and IPv6 by router advertisement and DHCPv6.
    Dhcp,
    /// The addresses of the file; no router advertisement is accepted.
    Static,
}

fn at_least_one<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Uplink>, D::Error> {
    let uplinks: Vec<CheckedUplink> = Vec::deserialize(deserializer)?;
    if uplinks.is_empty() {
        return Err(serde::de::Error::custom("expected at least one [[uplink]]"));
    }
    Ok(uplinks.into_iter().map(|uplink| uplink.0).collect())
}

/// An uplink whose fields agree with its method. The check runs inside the list, so that an error names the entry's line.
#[derive(Deserialize)]
#[serde(try_from = "Uplink")]
struct CheckedUplink(Uplink);

impl TryFrom<Uplink> for CheckedUplink {
    type Error = String;

    fn try_from(uplink: Uplink) -> Result<Self, Self::Error> {
        match uplink.method {
            Method::Static if uplink.addresses.is_empty() => {
                Err("expected `addresses` beside method = \"static\", such as [\"192.0.2.7/24\"]".to_owned())
            }
            Method::Dhcp if !(uplink.addresses.is_empty() && uplink.gateways.is_empty()) => {
                Err("expected no `addresses` and no `gateways` beside method = \"dhcp\"".to_owned())
            }
            _ => Ok(Self(uplink)),
        }
    }
}

#[cfg(test)]
mod tests;
