//! The daemon's configuration file, `vpnd.toml`.
//!
//! A machine with a manager names where its image left the first-boot file, and its TPM:
//!
//! ```toml
//! state_dir = "/data/vpnd"
//! first_boot = "/run/m2mvpn/first-boot.toml"
//! machine = "/run/m2mvpn/machine.json"
//!
//! [identity.tpm]
//! tcti = "device:/dev/tpmrm0"
//! ```
//!
//! A machine without a manager says everything itself:
//!
//! ```toml
//! state_dir = "/var/lib/vpnd"
//! trust_anchor = "/etc/vpnd/ca.pem"
//! firewall = false
//! dns = "none"
//!
//! [identity.pem]
//! certificate = "/etc/vpnd/device.pem"
//! key = "/etc/vpnd/device.key"
//!
//! [[tunnel.gateway]]
//! origin = "https://gateway.example"
//! ```

use std::net::IpAddr;
use std::path::PathBuf;

use m2m_identity::card::CardUri;
use m2m_protocol::device_config::TunnelConfig;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::pin::PinSource;

/// The whole file, checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Where the daemon keeps its state; made with mode 0700.
    pub state_dir: PathBuf,
    /// The local API's socket.
    pub socket: PathBuf,
    /// The tunnel's interface.
    pub interface: InterfaceName,
    /// Whether to fill the sets of the image's firewall table.
    pub firewall: bool,
    /// Who resolves names for the machine.
    pub dns: DnsBackend,
    /// The resolvers that are asked for the names of gateway and manager, in place of the uplink's.
    pub resolvers: Vec<IpAddr>,
    /// No clock is believed that is earlier than this.
    pub clock_floor: Option<OffsetDateTime>,
    /// Where identity and tunnel come from.
    pub role: Role,
}

/// Where identity and tunnel come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// From a manager, with a key in the TPM.
    Managed(Managed),
    /// From files.
    Standalone(Box<Standalone>),
}

/// A machine with a manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// The first-boot file.
    pub first_boot: PathBuf,
    /// What the image knows of the machine ([`m2m_protocol::machine`]).
    pub machine: PathBuf,
    /// How to reach the TPM.
    pub tcti: String,
}

/// A machine without a manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standalone {
    /// Who the device is.
    pub identity: Own,
    /// The certificates that a gateway may chain to, PEM.
    pub trust_anchor: PathBuf,
    /// The tunnel.
    pub tunnel: TunnelConfig,
}

/// What says who a device without a manager is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// `[identity.pem]`: the key is not protected.
    Pem(PemFiles),
    /// `[identity.pkcs12]`: key and certificates in one file, with a PIN.
    Pkcs12(Pkcs12File),
    /// `[identity.bound]`: the key opens on this machine only.
    Bound(PemFiles),
    /// `[identity.pkcs11]`: key and certificates on a card, with a PIN.
    Pkcs11(Pkcs11Card),
}

impl Own {
    /// The table that names them.
    fn table(&self) -> &'static str {
        match self {
            Self::Pem(_) => "identity.pem",
            Self::Pkcs12(_) => "identity.pkcs12",
            Self::Bound(_) => "identity.bound",
            Self::Pkcs11(_) => "identity.pkcs11",
        }
    }
}

/// A key and its certificates.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PemFiles {
    /// The device's certificate and those of its issuers but the root, PEM.
    pub certificate: PathBuf,
    /// Its private key: PEM, or what `vpnctl bind` made of that.
    pub key: PathBuf,
}

/// A PKCS #12 file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs12File {
    /// The file, `.p12` or `.pfx`.
    pub file: PathBuf,
    /// Its PIN.
    pub pin: PinSource,
}

/// A smartcard, a token or an HSM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Card {
    /// The library of the card's maker, or that of OpenSC.
    pub module: PathBuf,
    /// Which key on which card (RFC 7512).
    #[serde(deserialize_with = "card_uri")]
    pub uri: CardUri,
    /// The card's PIN.
    pub pin: PinSource,
}

/// Who resolves names for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsBackend {
    /// systemd-resolved is told of the tunnel's resolvers.
    #[default]
    Resolved,
    /// Nobody is told; the status lists the resolvers.
    None,
}

/// The name of a network interface: 1 to 15 letters, digits, `_`, `-` or `.`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let well_formed = (1..=15).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        if well_formed {
            return Ok(Self(name));
        }
        Err("expected an interface name of 1 to 15 letters, digits, '_', '-' or '.', such as \"m2m0\"".to_owned())
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: PathBuf,
    #[serde(default = "default_socket")]
    socket: PathBuf,
    #[serde(default = "default_interface")]
    interface: InterfaceName,
    #[serde(default = "yes")]
    firewall: bool,
    #[serde(default)]
    dns: DnsBackend,
    #[serde(default)]
    resolvers: Vec<IpAddr>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    clock_floor: Option<OffsetDateTime>,
    identity: Identity,
    first_boot: Option<PathBuf>,
    machine: Option<PathBuf>,
    trust_anchor: Option<PathBuf>,
    tunnel: Option<TunnelConfig>,
}

#[derive(Deserialize)]
#[serde(try_from = "IdentityTables")]
enum Identity {
    Tpm(TpmIdentity),
    Own(Own),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityTables {
    tpm: Option<TpmIdentity>,
    pem: Option<PemFiles>,
    pkcs12: Option<Pkcs12File>,
    pkcs11: Option<Pkcs11Card>,
    bound: Option<PemFiles>,
}

impl TryFrom<IdentityTables> for Identity {
    type Error = &'static str;

    fn try_from(tables: IdentityTables) -> Result<Self, Self::Error> {
        let tables = [
            tables.tpm.map(Self::Tpm),
            tables.pem.map(Own::Pem).map(Self::Own),
            tables.pkcs12.map(Own::Pkcs12).map(Self::Own),
            tables.bound.map(Own::Bound).map(Self::Own),
            tables.pkcs11.map(Own::Pkcs11).map(Self::Own),
        ];
        let mut tables = tables.into_iter().flatten();
        match (tables.next(), tables.next()) {
            (Some(identity), None) => Ok(identity),
            _ => Err(
                "expected one of [identity.tpm], [identity.pem], [identity.pkcs12], [identity.bound] and [identity.pkcs11]",
            ),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TpmIdentity {
    tcti: String,
}

fn card_uri<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<CardUri, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn default_socket() -> PathBuf {
    PathBuf::from("/run/vpnd/vpnd.sock")
}

fn default_interface() -> InterfaceName {
    InterfaceName("m2m0".to_owned())
}

fn yes() -> bool {
    true
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, Self::Error> {
        let role = match file.identity {
            Identity::Tpm(tpm) => {
                let beside =
                    "beside [identity.tpm]: the manager gives the tunnel, the first-boot file its trust anchor";
                absent(&file.trust_anchor, "trust_anchor", beside)?;
                absent(&file.tunnel, "tunnel", beside)?;
                Role::Managed(Managed {
                    first_boot: present(file.first_boot, "first_boot", "identity.tpm")?,
                    machine: present(file.machine, "machine", "identity.tpm")?,
                    tcti: tpm.tcti,
                })
            }
            Identity::Own(identity) => {
                let table = identity.table();
                let beside = &format!("beside [{table}]: enrolment needs a TPM");
                absent(&file.first_boot, "first_boot", beside)?;
                absent(&file.machine, "machine", beside)?;
                Role::Standalone(Box::new(Standalone {
                    identity,
                    trust_anchor: present(file.trust_anchor, "trust_anchor", table)?,
                    tunnel: present(file.tunnel, "tunnel", table)?,
                }))
            }
        };
        Ok(Self {
            state_dir: file.state_dir,
            socket: file.socket,
            interface: file.interface,
            firewall: file.firewall,
            dns: file.dns,
            resolvers: file.resolvers,
            clock_floor: file.clock_floor,
            role,
        })
    }
}

fn present<T>(value: Option<T>, field: &str, table: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("expected `{field}` beside [{table}]"))
}

fn absent<T>(value: &Option<T>, field: &str, beside: &str) -> Result<(), String> {
    match value {
        None => Ok(()),
        Some(_) => Err(format!("expected no `{field}` {beside}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use m2m_protocol::config_file;

    use super::*;

    const MANAGED: &str = r#"
state_dir = "/data/vpnd"
first_boot = "/run/m2mvpn/first-boot.toml"
machine = "/run/m2mvpn/machine.json"
identity = { tpm = { tcti = "device:/dev/tpmrm0" } }
"#;

    const STANDALONE: &str = r#"
state_dir = "/var/lib/vpnd"
trust_anchor = "/etc/vpnd/ca.pem"
firewall = false
dns = "none"
clock_floor = "2026-01-01T00:00:00Z"
[identity.pem]
certificate = "/etc/vpnd/device.pem"
key = "/etc/vpnd/device.key"
[[tunnel.gateway]]
origin = "https://gateway.example"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        config_file::parse(Path::new("vpnd.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn both_uses() {
        let config = parse(MANAGED).unwrap();
        assert!(config.firewall && config.dns == DnsBackend::Resolved);
        assert_eq!(config.interface.as_str(), "m2m0");
        assert_eq!(config.socket, Path::new("/run/vpnd/vpnd.sock"));
        assert!(matches!(config.role, Role::Managed(managed) if managed.tcti == "device:/dev/tpmrm0"));

        let config = parse(STANDALONE).unwrap();
        assert!(!config.firewall && config.dns == DnsBackend::None);
        assert_eq!(config.clock_floor.map(OffsetDateTime::unix_timestamp), Some(1_767_225_600));
        assert!(matches!(config.role, Role::Standalone(own) if own.tunnel.gateways.len() == 1));
    }

    #[test]
    fn the_file_in_the_image_is_right() {
        let config = parse(include_str!("../../image-config/files/etc/m2mvpn/vpnd.toml")).unwrap();
        assert!(matches!(config.role, Role::Managed(managed) if managed.first_boot.starts_with("/run/m2mvpn")));
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, names) in [
            (MANAGED.replace("machine =", "machin ="), ["machin", "expected"]),
            (MANAGED.replace("/run/m2mvpn/machine.json", "").replace("machine = \"\"", ""), ["`machine`", "expected"]),
            (format!("trust_anchor = \"/ca.pem\"\n{MANAGED}"), ["`trust_anchor`", "expected no"]),
            (STANDALONE.replace("trust_anchor = \"/etc/vpnd/ca.pem\"", ""), ["`trust_anchor`", "identity.pem"]),
            (
                STANDALONE.replace("https://gateway.example", "gateway.example"),
                ["vpnd.toml:11", "tunnel.gateway[0].origin"],
            ),
            (format!("interface = \"a/b\"\n{MANAGED}"), ["vpnd.toml:1", "interface"]),
            (MANAGED.replace("tpm =", "tmp ="), ["vpnd.toml:5: identity.tmp", "`tpm`"]),
            (
                MANAGED.replace("{ tpm = { tcti = \"device:/dev/tpmrm0\" } }", "{}"),
                ["vpnd.toml:5: identity", "[identity.pem]"],
            ),
            (format!("dns = \"dnsmasq\"\n{MANAGED}"), ["vpnd.toml:1", "resolved"]),
        ] {
            let error = parse(&text).unwrap_err();
            for name in names {
                assert!(error.contains(name), "{error:?} does not name {name:?}");
            }
        }
    }
}
