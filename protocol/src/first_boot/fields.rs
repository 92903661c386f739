//! The validated strings of the first-boot file.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};

use crate::names::{Token, is_label};

/// A host name in which `{serial}` stands for the serial number. `m2m-{serial}` unless the file says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostnamePattern(String);

impl HostnamePattern {
    /// The host name of the machine with this serial number: lower case, every character that a host name cannot
    /// have replaced by a hyphen, at most 63 characters (RFC 1123 section 2.1).
    #[must_use]
    pub fn hostname(&self, serial: &Token) -> String {
        let name: String = self
            .0
            .replace("{serial}", serial.as_str())
            .to_ascii_lowercase()
            .chars()
            .map(|character| if character.is_ascii_alphanumeric() { character } else { '-' })
            .take(63)
            .collect();
        name.trim_matches('-').to_owned()
    }
}

impl Default for HostnamePattern {
    fn default() -> Self {
        Self("m2m-{serial}".to_owned())
    }
}

impl TryFrom<String> for HostnamePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // Any serial number will do for the check: what the pattern adds has to be a label around it.
        if is_label(&text.replace("{serial}", "0")) {
            return Ok(Self(text));
        }
        Err("expected letters, digits, hyphens and {serial}, such as \"atm-{serial}\"".to_owned())
    }
}

impl From<HostnamePattern> for String {
    fn from(pattern: HostnamePattern) -> Self {
        pattern.0
    }
}

/// The name of a network interface, or a pattern with `*` and `?` as systemd.network's `[Match] Name=` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceMatch(String);

impl InterfaceMatch {
    /// The pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the interface with this name is meant: `*` stands for any characters or none, `?` for one.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        fits(self.0.as_bytes(), name.as_bytes())
    }
}

fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return name.is_empty() };
    match first {
        b'*' => (0..=name.len()).any(|taken| fits(rest, &name[taken..])),
        b'?' => !name.is_empty() && fits(rest, &name[1..]),
        letter => name.first() == Some(letter) && fits(rest, &name[1..]),
    }
}

impl TryFrom<String> for InterfaceMatch {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let well_formed = (1..=15).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.*?".contains(&byte));
        if !well_formed || text == "*" || text.starts_with("m2m") || text == "lo" {
            return Err(
                "expected an interface name or pattern of 1 to 15 characters, such as \"eth0\" or \"en*\"".to_owned()
            );
        }
        Ok(Self(text))
    }
}

impl From<InterfaceMatch> for String {
    fn from(interface: InterfaceMatch) -> Self {
        interface.0
    }
}

/// A name of the IANA time zone database. `UTC` unless the file says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeZone(String);

impl TimeZone {
    /// The name; a relative path below `/usr/share/zoneinfo` without `.` or `..`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self("UTC".to_owned())
    }
}

impl TryFrom<String> for TimeZone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_part = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphabetic())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
        };
        if text.len() <= 64 && text.split('/').all(is_part) {
            return Ok(Self(text));
        }
        Err("expected a name of the IANA time zone database, such as \"Europe/Berlin\"".to_owned())
    }
}

impl From<TimeZone> for String {
    fn from(zone: TimeZone) -> Self {
        zone.0
    }
}

/// One or more certificates, PEM (RFC 7468 section 5).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustAnchor(String);

impl TrustAnchor {
    /// The PEM text.
    #[must_use]
    pub fn as_pem(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TrustAnchor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        const END: &str = "-----END CERTIFICATE-----";
        let expected =
            "expected one or more PEM certificates, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----";
        if text.contains("PRIVATE KEY") {
            return Err(format!("{expected}; a private key does not belong into an image"));
        }
        let mut certificates = 0;
        for block in text.split(BEGIN).skip(1) {
            let Some((body, _)) = block.split_once(END) else {
                return Err(format!("{expected}; an end line is missing"));
            };
            let body: String = body.split_ascii_whitespace().collect();
            // A certificate is a DER SEQUENCE.
            match STANDARD.decode(body) {
                Ok(der) if der.first() == Some(&0x30) => certificates += 1,
                _ => return Err(format!("{expected}; certificate {} is damaged", certificates + 1)),
            }
        }
        if certificates == 0 {
            return Err(format!("{expected}; found none"));
        }
        Ok(Self(text))
    }
}

impl From<TrustAnchor> for String {
    fn from(anchor: TrustAnchor) -> Self {
        anchor.0
    }
}

impl std::fmt::Debug for TrustAnchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of PEM", self.0.len())
    }
}

/// Addresses, with a word on why a name will not do.
pub(super) fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts: Vec<String> = Vec::deserialize(deserializer)?;
    let parse = |text: String| {
        text.parse().map_err(|_| {
            serde::de::Error::custom(format!(
                "expected addresses such as \"192.0.2.1\", found {text:?}; a name would have to be resolved outside of the tunnel"
            ))
        })
    };
    texts.into_iter().map(parse).collect()
}
