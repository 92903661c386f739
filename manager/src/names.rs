//! The names of servers, as they stand in certificates.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use m2m_protocol::names::DomainName;
use serde::{Deserialize, Serialize};

/// A domain name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum ServerName {
    Domain(DomainName),
    Address(IpAddr),
}

impl FromStr for ServerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        text.parse().map(Self::Domain).map_err(|_| {
            "expected a domain name such as \"manager.example\" or an address such as \"192.0.2.1\"".to_owned()
        })
    }
}

impl TryFrom<String> for ServerName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}
