//! `manager.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;

use m2m_protocol::Version1;
use m2m_protocol::device_config::TunnelConfig;
use serde::Deserialize;

use crate::names::ServerName;

mod lifetime;

pub(crate) use lifetime::Lifetime;

/// What the administrator decides before the first start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The schema's version.
    #[serde(rename = "version")]
    pub(crate) _version: Version1,
    /// The TCP addresses to listen on. An IPv6 one takes IPv6 only, so that both families can be listed.
    #[serde(default = "everywhere", deserialize_with = "not_empty")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where CA, database and server certificate live. Made at the first start, for the owner only.
    pub(crate) state_dir: PathBuf,
    /// The names and addresses by which devices reach the manager; they go into its server certificate.
    #[serde(deserialize_with = "not_empty")]
    pub(crate) names: Vec<ServerName>,
    /// The name that the CA certificates carry; read at the first start only.
    #[serde(default = "default_organization", deserialize_with = "organization")]
    pub(crate) organization: String,
    /// How often a device that waits for approval asks again.
    #[serde(default = "default_retry")]
    pub(crate) pending_retry: Lifetime,
    /// How long what the manager issues is valid.
    #[serde(default)]
    pub(crate) lifetimes: Lifetimes,
    /// What one network may ask of the manager.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// The configuration of every device.
    pub(crate) device_defaults: TunnelConfig,
}

/// How long what the manager issues is valid, such as `"90d"`, `"12h"` or `"30m"`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Lifetimes {
    /// Of a device's certificate.
    pub(crate) device: Lifetime,
    /// Of the manager's own certificate and those of gateways.
    pub(crate) server: Lifetime,
    /// Of the revocation list; a new one is made when half of it is over.
    pub(crate) crl: Lifetime,
    /// Of a one-time token for EST.
    pub(crate) token: Lifetime,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            device: Lifetime::days(90),
            server: Lifetime::days(365),
            crl: Lifetime::days(7),
            token: Lifetime::days(7),
        }
    }
}

/// What one network (an IPv4 address or an IPv6 /64) may ask, and all together.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Connections that are open at a time, of all networks together; one may have a quarter of them.
    pub(crate) connections: std::num::NonZeroU16,
    /// Enrolments that one network may begin per minute, and as many at once.
    pub(crate) enrolments_per_minute: std::num::NonZeroU16,
    /// Devices that wait for approval; anybody with a TPM can be one.
    pub(crate) pending_devices: u32,
}

impl Default for Limits {
    fn default() -> Self {
        const CONNECTIONS: std::num::NonZeroU16 = std::num::NonZeroU16::new(1024).unwrap();
        const ENROLMENTS: std::num::NonZeroU16 = std::num::NonZeroU16::new(120).unwrap();
        Self { connections: CONNECTIONS, enrolments_per_minute: ENROLMENTS, pending_devices: 10_000 }
    }
}

fn everywhere() -> Vec<SocketAddr> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    vec![(Ipv4Addr::UNSPECIFIED, 443).into(), (Ipv6Addr::UNSPECIFIED, 443).into()]
}

fn default_organization() -> String {
    "m2mvpn".to_owned()
}

fn default_retry() -> Lifetime {
    Lifetime::seconds(60)
}

fn not_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(deserializer)?;
    if list.is_empty() {
        return Err(serde::de::Error::custom("expected at least one entry"));
    }
    Ok(list)
}

/// X.520 allows an organization name of up to 64 characters.
fn organization<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let length = name.chars().count();
    // " Issuing CA" is appended for the common name, which has the same bound.
    if length == 0 || length > 48 || name.chars().any(char::is_control) {
        return Err(serde::de::Error::custom("expected 1 to 48 characters, none of them a control character"));
    }
    Ok(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use m2m_protocol::config_file;

    use super::*;

    const MINIMAL: &str = r#"
version = 1
state_dir = "/var/lib/m2m-manager"
names = ["manager.example", "203.0.113.10"]

[[device_defaults.gateway]]
origin = "https://gateway.example"
"#;

    #[test]
    fn a_minimal_file_is_enough() {
        let config: Config = config_file::parse(Path::new("manager.toml"), MINIMAL).unwrap();
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.lifetimes.device, Lifetime::days(90));
        assert_eq!(config.device_defaults.gateways[0].origin.port(), 443);
    }

    #[test]
    fn the_example_in_the_manual_is_right() {
        let example = include_str!("../manager.example.toml");
        config_file::parse::<Config>(Path::new("manager.example.toml"), example).unwrap();
        let documented =
            include_str!("../../docs/fleet.md").split("```").find(|block| block.contains("state_dir")).unwrap();
        config_file::parse::<Config>(Path::new("fleet.md"), documented.strip_prefix("toml\n").unwrap()).unwrap();
    }

    #[test]
    fn a_wrong_file_names_line_and_field() {
        for (from, to, line, field) in [
            ("version = 1", "version = 2", 2, "version"),
            ("\"203.0.113.10\"", "\"a b\"", 4, "names[1]"),
            ("[\"manager.example\", \"203.0.113.10\"]", "[]", 4, "names"),
            ("version = 1", "version = 1\nlisten = [\"443\"]", 3, "listen[0]"),
            ("version = 1", "version = 1\npending_retry = \"soon\"", 3, "pending_retry"),
            ("version = 1", "version = 1\nport = 443", 3, "port"),
            ("https://gateway.example", "gateway.example", 7, "device_defaults.gateway[0].origin"),
        ] {
            let text = MINIMAL.replace(from, to);
            let error = config_file::parse::<Config>(Path::new("manager.toml"), &text).unwrap_err();
            let config_file::ConfigFileError::Invalid(invalid) = &error else { unreachable!("{error}") };
            assert_eq!((invalid.line, invalid.field.as_str()), (Some(line), field), "{error}");
        }
    }
}
