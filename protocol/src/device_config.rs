//! What a device gets from its manager: where its gateways are and what to send them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Version1;
use crate::names::{DomainName, HttpsOrigin, Token};

mod proxy;
mod uplink;

pub use proxy::{Proxy, ProxyUrl};
pub use uplink::Uplink;

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
    /// With `mode = "on-demand"`: seconds without a packet after which the tunnel is closed; 10 to 86400.
    #[serde(default = "default_idle_s", deserialize_with = "idle_s", skip_serializing_if = "is_default_idle_s")]
    pub idle_s: u32,
    /// What carries the tunnel.
    #[serde(default, skip_serializing_if = "is_default")]
    pub transport: Transport,
    /// The ways to the internet that are not like the others: the first entry that fits an interface counts.
    #[serde(rename = "uplink", default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<Uplink>,
    /// What HTTP/2 goes through on its way to the gateway. HTTP/3 does not use it: a CONNECT proxy carries no UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Box<Proxy>>,
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
    /// While there are packets: the first one opens it, [`TunnelConfig::idle_s`] without one close it.
    OnDemand,
    /// Only while `vpnctl connect` was the last word.
    Manual,
}

/// What carries the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// HTTP/3 wherever UDP gets through, HTTP/2 elsewhere.
    #[default]
    Auto,
    /// HTTP/3 only.
    Http3,
    /// HTTP/2 only.
    Http2,
}

const IDLE_S: u32 = 300;

fn default_idle_s() -> u32 {
    IDLE_S
}

fn is_default_idle_s(idle_s: &u32) -> bool {
    *idle_s == IDLE_S
}

fn idle_s<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let idle_s = u32::deserialize(deserializer)?;
    if !(10..=86400).contains(&idle_s) {
        return Err(serde::de::Error::custom("expected 10 to 86400 seconds"));
    }
    Ok(idle_s)
}

// Fields that are as they always were stay out of the text, so that devices with an older program can read it.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn at_least_one<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Gateway>, D::Error> {
    let gateways = Vec::deserialize(deserializer)?;
    if gateways.is_empty() {
        return Err(serde::de::Error::custom("expected at least one gateway"));
    }
    Ok(gateways)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
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
        assert_eq!((tunnel.transport, tunnel.idle_s), (Transport::Auto, 300));
        assert_eq!((tunnel.uplinks.len(), &tunnel.proxy), (0, &None));
        let error = config_file::parse::<TunnelConfig>(Path::new("tunnel.toml"), "gateway = []\n").unwrap_err();
        assert_eq!(error.to_string(), "tunnel.toml:1: gateway: expected at least one gateway");
    }

    const ALL: &str = r#"
mode = "on-demand"
idle_s = 60
transport = "http2"
proxy = { url = "http://proxy.example:3128", user = "atm", password_file = "/etc/vpnd/proxy.password" }
[[gateway]]
origin = "https://192.0.2.1:8443"
[[uplink]]
interface = "wwan0"
priority = 20
metered = true
[[uplink]]
interface = "en*"
"#;

    #[test]
    fn everything_that_can_be_said_about_the_way() {
        let tunnel: TunnelConfig = config_file::parse(Path::new("tunnel.toml"), ALL).unwrap();
        assert_eq!((tunnel.mode, tunnel.idle_s, tunnel.transport), (Mode::OnDemand, 60, Transport::Http2));
        let [modem, cable] = tunnel.uplinks.as_slice() else { panic!("{:?}", tunnel.uplinks) };
        assert_eq!((modem.interface.as_str(), modem.priority, modem.metered), ("wwan0", 20, true));
        assert_eq!((cable.priority, cable.metered), (0, false));
        assert!(cable.interface.matches("enp1s0"));
        let json = serde_json::to_string(&tunnel).unwrap();
        assert_eq!(serde_json::from_str::<TunnelConfig>(&json).unwrap(), tunnel);
    }

    #[test]
    fn what_is_not_used_is_not_sent_to_older_devices() {
        let text = "[[gateway]]\norigin = \"https://192.0.2.1:8443\"\n";
        let tunnel: TunnelConfig = config_file::parse(Path::new("tunnel.toml"), text).unwrap();
        let json = serde_json::to_value(&tunnel).unwrap();
        let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["dns", "families", "gateway", "mode", "routes"]);
    }

    #[test]
    fn a_mistake_is_named() {
        for (from, to, expected) in [
            ("on-demand", "ondemand", "tunnel.toml:2: mode: unknown variant `ondemand`"),
            ("idle_s = 60", "idle_s = 5", "tunnel.toml:3: idle_s: expected 10 to 86400 seconds"),
            ("http2", "quic", "tunnel.toml:4: transport: unknown variant `quic`, expected one of `auto`"),
            ("http://proxy", "socks://proxy", "tunnel.toml:5: proxy.url: expected a proxy such as"),
            ("http://proxy", "http://u:secret@proxy", "tunnel.toml:5: proxy.url: expected a proxy such as"),
            (", password_file = \"/etc/vpnd/proxy.password\"", "", "tunnel.toml:5: proxy: expected `password_file`"),
            ("user = \"atm\", ", "", "tunnel.toml:5: proxy: expected `user`"),
            ("\"atm\"", "\"a:b\"", "tunnel.toml:5: proxy.user: expected 1 to 255 characters"),
            (
                "/etc/vpnd/proxy.password",
                "proxy.password",
                "tunnel.toml:5: proxy.password_file: expected an absolute path",
            ),
            ("wwan0", "lo", "tunnel.toml:9: uplink[0].interface: expected an interface name or pattern"),
            ("priority = 20", "priority = -1", "tunnel.toml:10: uplink[0].priority"),
            ("metered", "meterd", "tunnel.toml:11: uplink[0].meterd: unknown field"),
        ] {
            let text = ALL.replace(from, to);
            let error = config_file::parse::<TunnelConfig>(Path::new("tunnel.toml"), &text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
