//! The HTTP CONNECT proxy (RFC 9110 section 9.3.6) between a device and its gateway.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use url::{Host, Url};

/// The proxy, and who the device is to it: basic authentication (RFC 7617), or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Proxy {
    url: ProxyUrl,
    login: Option<Login>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Login {
    user: String,
    password_file: PathBuf,
}

impl Proxy {
    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &ProxyUrl {
        &self.url
    }

    /// The user, and the file whose first line is the password; the password itself is in no configuration.
    #[must_use]
    pub fn login(&self) -> Option<(&str, &Path)> {
        self.login.as_ref().map(|login| (login.user.as_str(), login.password_file.as_path()))
    }
}

/// A proxy as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    url: ProxyUrl,
    #[serde(default, deserialize_with = "user", skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, deserialize_with = "password_file", skip_serializing_if = "Option::is_none")]
    password_file: Option<PathBuf>,
}

impl TryFrom<Written> for Proxy {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let login = match (written.user, written.password_file) {
            (None, None) => None,
            (Some(user), Some(password_file)) => Some(Login { user, password_file }),
            (Some(_), None) => return Err("expected `password_file` beside `user`"),
            (None, Some(_)) => return Err("expected `user` beside `password_file`"),
        };
        Ok(Self { url: written.url, login })
    }
}

impl From<Proxy> for Written {
    fn from(proxy: Proxy) -> Self {
        let (user, password_file) = proxy.login.map(|login| (login.user, login.password_file)).unzip();
        Self { url: proxy.url, user, password_file }
    }
}

fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let user = String::deserialize(deserializer)?;
    // RFC 7617 section 2: a colon would end the name.
    let well_formed = (1..=255).contains(&user.len()) && !user.contains(|c: char| c == ':' || c.is_control());
    if !well_formed {
        return Err(D::Error::custom("expected 1 to 255 characters without ':' and control characters"));
    }
    Ok(Some(user))
}

fn password_file<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if !path.is_absolute() {
        return Err(D::Error::custom("expected an absolute path"));
    }
    Ok(Some(path))
}

/// Where a proxy listens, such as `http://proxy.example:3128`: a host and a port and nothing else, above all no password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyUrl {
    host: Host<String>,
    port: u16,
}

impl ProxyUrl {
    /// The host: a name or an address.
    #[must_use]
    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    /// The TCP port; 80 where the URL names none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ProxyUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected a proxy such as \"http://proxy.example:3128\", without user, password and path";
        let url = Url::parse(text).map_err(|_| EXPECTED)?;
        let bare = url.scheme() == "http"
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        match (bare, url.host(), url.port_or_known_default()) {
            (true, Some(host), Some(port)) => Ok(Self { host: host.to_owned(), port }),
            _ => Err(EXPECTED),
        }
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ProxyUrl> for String {
    fn from(url: ProxyUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_host_and_a_port_and_no_password() {
        let url: ProxyUrl = "http://[2001:db8::1]:3128".parse().unwrap();
        assert_eq!((url.to_string().as_str(), url.port()), ("http://[2001:db8::1]:3128", 3128));
        assert_eq!("http://proxy.example".parse::<ProxyUrl>().unwrap().port(), 80);
        for wrong in ["https://a.example", "http://u:p@a.example", "http://a.example/x", "a.example:3128", ""] {
            let error = wrong.parse::<ProxyUrl>().unwrap_err();
            assert!(error.starts_with("expected a proxy") && !error.contains("u:p"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_login_is_a_name_and_a_file() {
        let text = r#"{"url":"http://proxy.example:3128","user":"atm","password_file":"/etc/vpnd/proxy.password"}"#;
        let proxy: Proxy = serde_json::from_str(text).unwrap();
        assert_eq!(proxy.login(), Some(("atm", Path::new("/etc/vpnd/proxy.password"))));
        assert_eq!(serde_json::to_string(&proxy).unwrap(), text);
        let proxy: Proxy = serde_json::from_str(r#"{"url":"http://proxy.example:3128"}"#).unwrap();
        assert_eq!(proxy.login(), None);
    }
}
