//! Validated strings: a value of one of these types has been checked, so nobody checks it again.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The origin of a server that speaks HTTPS, such as `https://manager.example` or `https://[2001:db8::1]:8443`.
///
/// It has a host and a port and nothing else: no user, path, query or fragment.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpsOrigin {
    host: Host<String>,
    port: u16,
}

impl HttpsOrigin {
    /// The host: a name or an address.
    #[must_use]
    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    /// The TCP or UDP port; 443 where the origin names none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as rustls wants it for the server's name: without the brackets of an IPv6 address.
    #[must_use]
    pub fn server_name(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }

    /// The value of the `:authority` pseudo-header or the `Host` field (RFC 9110 section 7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        match self.port {
            443 => self.host.to_string(),
            port => format!("{}:{port}", self.host),
        }
    }
}

impl FromStr for HttpsOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected an origin such as \"https://manager.example\" or \"https://192.0.2.1:8443\"";
        let url = Url::parse(text).map_err(|error| format!("{expected}: {error}"))?;
        if url.scheme() != "https" {
            return Err(format!("{expected}: the scheme is {:?}", url.scheme()));
        }
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        if !bare {
            return Err(format!("{expected}: without user, path, query or fragment"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(format!("{expected}: the host is missing"));
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl TryFrom<String> for HttpsOrigin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HttpsOrigin> for String {
    fn from(origin: HttpsOrigin) -> Self {
        origin.to_string()
    }
}

impl fmt::Display for HttpsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl fmt::Debug for HttpsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A string that is safe in a file name, a certificate's common name, a log line and a command's output:
/// 1 to 64 of `A-Z a-z 0-9 . _ -`, the first of them a letter or digit. Serial numbers, device ids and labels are such.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

impl Token {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = text.bytes();
        let well_formed = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && text.len() <= 64;
        if !well_formed {
            return Err(
                "expected 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit".to_owned()
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A fully qualified domain name or one of its suffixes, in lower case and without the trailing dot (RFC 1123 section 2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

impl DomainName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.parse::<IpAddr>().is_ok() {
            return Err("expected a domain name, found an address".to_owned());
        }
        if name.is_empty() || name.len() > 253 || !name.split('.').all(is_label) {
            return Err("expected a domain name such as \"corp.example\"".to_owned());
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for DomainName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One label of a host name: 1 to 63 letters, digits or hyphens, no hyphen at either end.
pub(crate) fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let origin: HttpsOrigin = "https://manager.example".parse().unwrap();
        assert_eq!((origin.server_name().as_str(), origin.port()), ("manager.example", 443));
        assert_eq!(origin.to_string(), "https://manager.example");
        let origin: HttpsOrigin = "https://[2001:db8::1]:8443".parse().unwrap();
        assert_eq!((origin.server_name().as_str(), origin.port()), ("2001:db8::1", 8443));
        assert_eq!(origin.authority(), "[2001:db8::1]:8443");
        for wrong in ["http://a.example", "https://", "https://a.example/x", "https://u@a.example", "a.example", ""] {
            assert!(wrong.parse::<HttpsOrigin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_and_domain_names() {
        assert!("SN-0001.a_b".parse::<Token>().is_ok());
        for wrong in ["", "-a", "a b", "../x", "a\n", &"a".repeat(65)] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong:?}");
        }
        assert_eq!("Corp.Example.".parse::<DomainName>().unwrap().as_str(), "corp.example");
        for wrong in ["", ".", "a..b", "-a.b", "192.0.2.1", "a_b.c"] {
            assert!(wrong.parse::<DomainName>().is_err(), "{wrong:?}");
        }
    }
}
