//! `gateway.toml`: every value in it has been checked once it is one of these types.

mod pool;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use m2m_tunnel::template::{Matcher, PathTemplate};
use serde::{Deserialize, Deserializer};
use url::Url;

use m2m_protocol::config_file::{self, ConfigFileError};

pub(crate) use pool::{Pool, Ranges};

/// Reads and validates the file at `path`. Relative paths in it are left as they are.
///
/// # Errors
/// [`ConfigFileError`], whose text names file, line, field and what was expected.
pub(crate) fn load(path: &Path) -> Result<Config, ConfigFileError> {
    Ok(config_file::load::<Checked>(path)?.0)
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The UDP addresses to listen on. An IPv6 address takes IPv6 only.
    #[serde(default = "default_listen", deserialize_with = "at_least_one")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Path and query of the URI template (RFC 9484 §3) at which tunnels are asked for.
    #[serde(default)]
    pub(crate) uri_template: Template,
    /// Where the addresses of the devices and the last revocation list are kept. Made if it is not there.
    #[serde(default = "default_state_dir")]
    pub(crate) state_dir: PathBuf,
    /// The gateway's own certificate and key.
    pub(crate) identity: Identity,
    /// PEM: the root that devices' certificates chain to and, beside it, issuing CAs.
    pub(crate) client_ca: PathBuf,
    /// Where the certificate revocation list comes from; without it, revocation is not looked at.
    #[serde(default)]
    pub(crate) crl: Option<Crl>,
    /// The addresses for devices and gateways.
    pub(crate) pool: Pool,
    /// The company's networks: what devices reach through this gateway.
    pub(crate) routes: Vec<Route>,
    /// How the company's network finds the devices.
    #[serde(default)]
    pub(crate) routing: Routing,
    /// The tunnel interface.
    #[serde(default)]
    pub(crate) tun: Tun,
    /// Prometheus metrics and the list of sessions.
    #[serde(default)]
    pub(crate) metrics: Metrics,
    /// How connections are kept and how many.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// How many tasks share the work; one for each processor without it.
    #[serde(default)]
    workers: Option<NonZeroU16>,
}

impl Config {
    /// How many tasks share the work.
    pub(crate) fn workers(&self) -> NonZeroU16 {
        let processors =
            || std::thread::available_parallelism().ok().and_then(|number| u16::try_from(number.get()).ok());
        let number = self.workers.or_else(|| processors().and_then(NonZeroU16::new)).unwrap_or(NonZeroU16::MIN);
        // A connection id names its worker in one byte.
        number.min(MOST_WORKERS)
    }
}

const MOST_WORKERS: NonZeroU16 = NonZeroU16::MIN.saturating_add(63);

/// Path and query of a URI template that requests can be matched with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Template(pub(crate) Matcher);

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let matcher = text.parse::<PathTemplate>().and_then(|path| path.matcher());
        matcher.map(Self).map_err(|error| format!("{error}; expected one such as \"{}\"", PathTemplate::default()))
    }
}

/// The gateway's own certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// PEM: the leaf, then the issuing CAs.
    pub(crate) certificate: PathBuf,
    /// PEM: PKCS#8 or SEC 1, ECDSA P-256.
    pub(crate) key: PathBuf,
}

/// Where the certificate revocation list comes from and what happens without it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "CrlTable")]
pub(crate) struct Crl {
    /// Where it comes from.
    pub(crate) source: CrlSource,
    /// How often it is read again.
    pub(crate) refresh: Duration,
    /// Whether devices are refused while there is none, or while it is older than its own promise plus [`Self::grace`].
    pub(crate) required: bool,
    /// How long after its `nextUpdate` a list is still good.
    pub(crate) grace: Duration,
}

/// Where the certificate revocation list comes from: DER or PEM of RFC 5280 section 5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CrlSource {
    /// A file.
    File(PathBuf),
    /// A URL of scheme http or https.
    Url {
        /// The URL.
        url: CrlUrl,
        /// PEM: what an https server's certificate must chain to; `client_ca` when there is none.
        trust_anchor: Option<PathBuf>,
    },
}

/// A URL of scheme http or https with a host.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CrlUrl(Url);

impl CrlUrl {
    /// The URL.
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for CrlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How the company's network finds the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Routing {
    /// Which routes the gateway gives to the kernel.
    pub(crate) inject: Inject,
}

/// The routes that the gateway gives to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Inject {
    /// One for the whole pool: the gateway is the only one that has it.
    #[default]
    Pool,
    /// One for each address of each connected device, for a routing daemon to pass on.
    HostRoutes,
}

/// A prefix without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Route(pub(crate) IpNet);

impl TryFrom<String> for Route {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let net: IpNet =
            text.parse().map_err(|_| "expected a prefix such as \"10.20.0.0/24\" or \"fd20::/64\"".to_owned())?;
        if net.trunc() != net {
            return Err(format!("expected a prefix without host bits, such as \"{}\"", net.trunc()));
        }
        Ok(Self(net))
    }
}

/// The tunnel interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tun {
    /// Its name.
    pub(crate) name: InterfaceName,
    /// The largest IP packet that the kernel hands over, in bytes; larger ones it answers or fragments itself.
    pub(crate) mtu: Mtu,
}

impl Default for Tun {
    fn default() -> Self {
        Self { name: InterfaceName("m2mgw0".to_owned()), mtu: Mtu(1280) }
    }
}

/// The name of a network interface: 1 to 15 characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct InterfaceName(String);

impl InterfaceName {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let well_formed = (1..=15).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && text != "."
            && text != "..";
        if !well_formed {
            return Err("expected an interface name: 1 to 15 letters, digits, '.', '_' or '-'".to_owned());
        }
        Ok(Self(text))
    }
}

/// The size of the largest packet in bytes: 1280 (RFC 8200 section 5) to 9000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Mtu(pub(crate) u16);

impl TryFrom<i64> for Mtu {
    type Error = String;

    fn try_from(bytes: i64) -> Result<Self, String> {
        match u16::try_from(bytes) {
            Ok(bytes @ 1280..=9000) => Ok(Self(bytes)),
            _ => Err(format!("expected 1280 to 9000 bytes, found {bytes}")),
        }
    }
}

/// Prometheus metrics and the list of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    /// Where they are served: a loopback address, for they name every device.
    pub(crate) listen: LoopbackAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: LoopbackAddr(SocketAddr::from((Ipv4Addr::LOCALHOST, 9184))) }
    }
}

/// A TCP address that only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct LoopbackAddr(pub(crate) SocketAddr);

impl TryFrom<String> for LoopbackAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self(address)),
            _ => {
                Err("expected a loopback address with a port, such as \"127.0.0.1:9184\" or \"[::1]:9184\"".to_owned())
            }
        }
    }
}

/// How connections are kept and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// The most devices that are connected at once.
    pub(crate) max_sessions: Count,
    /// The most handshakes that are under way at once over UDP, where more are refused, and as many over TCP, where the oldest gives way.
    pub(crate) max_handshakes: Count,
    /// Of these, the most from one IPv4 address or one IPv6 /64; more are refused.
    pub(crate) max_handshakes_per_source: Count,
    /// With so many handshakes under way, a client has to prove its address first (QUIC Retry, RFC 9000 section 8.1.2).
    pub(crate) retry_above: u32,
    /// Silence, in seconds, after which a device counts as gone.
    pub(crate) idle_s: Seconds,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: Count(10_000),
            max_handshakes: Count(512),
            max_handshakes_per_source: Count(64),
            retry_above: 64,
            idle_s: Seconds(1200),
        }
    }
}

/// A number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Count(pub(crate) u32);

impl TryFrom<i64> for Count {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        match u32::try_from(number) {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(format!("expected a number from 1, found {number}")),
        }
    }
}

/// A time of 1 second to 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Seconds(u32);

impl Seconds {
    /// The time.
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl TryFrom<i64> for Seconds {
    type Error = String;

    fn try_from(seconds: i64) -> Result<Self, String> {
        match u32::try_from(seconds) {
            Ok(seconds @ 1..=2_592_000) => Ok(Self(seconds)),
            _ => Err(format!("expected 1 to 2592000 seconds, found {seconds}")),
        }
    }
}

/// A file whose parts agree with each other.
#[derive(Deserialize)]
#[serde(try_from = "Config")]
struct Checked(Config);

impl TryFrom<Config> for Checked {
    type Error = String;

    fn try_from(config: Config) -> Result<Self, String> {
        let ranges = config.pool.ranges;
        for Route(route) in &config.routes {
            let (name, served, pool) = match route {
                IpNet::V4(net) => ("ipv4", ranges.ipv4.is_some(), ranges.ipv4.is_some_and(|range| range.contains(net))),
                IpNet::V6(net) => ("ipv6", ranges.ipv6.is_some(), ranges.ipv6.is_some_and(|range| range.contains(net))),
            };
            if !served {
                return Err(format!("routes: expected `pool.{name}` beside the route {route}"));
            }
            if pool {
                return Err(format!("routes: {route} lies in pool.{name}; devices do not reach each other"));
            }
        }
        Ok(Self(config))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CrlTable {
    file: Option<PathBuf>,
    url: Option<Url>,
    trust_anchor: Option<PathBuf>,
    #[serde(default = "CrlTable::refresh")]
    refresh_s: Seconds,
    #[serde(default = "CrlTable::required")]
    required: bool,
    #[serde(default = "CrlTable::grace")]
    grace_s: u32,
}

impl CrlTable {
    fn refresh() -> Seconds {
        Seconds(300)
    }

    fn required() -> bool {
        true
    }

    fn grace() -> u32 {
        86_400
    }
}

impl TryFrom<CrlTable> for Crl {
    type Error = String;

    fn try_from(table: CrlTable) -> Result<Self, String> {
        let source = match (table.file, table.url, table.trust_anchor) {
            (Some(file), None, None) => CrlSource::File(file),
            (Some(_), None, Some(_)) => return Err("expected `trust_anchor` only beside an https `url`".to_owned()),
            (None, Some(url), trust_anchor) => {
                let usable = match url.scheme() {
                    "https" => true,
                    "http" => trust_anchor.is_none(),
                    _ => return Err("url: expected the scheme https or http".to_owned()),
                };
                if !usable {
                    return Err("expected `trust_anchor` only beside an https `url`".to_owned());
                }
                if !url.username().is_empty() || url.password().is_some() {
                    return Err("url: expected no user and no password".to_owned());
                }
                CrlSource::Url { url: CrlUrl(url), trust_anchor }
            }
            _ => return Err("expected either `file` or `url`".to_owned()),
        };
        Ok(Self {
            source,
            refresh: table.refresh_s.duration(),
            required: table.required,
            grace: Duration::from_secs(table.grace_s.into()),
        })
    }
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let addresses = Vec::<SocketAddr>::deserialize(deserializer)?;
    if addresses.is_empty() {
        return Err(serde::de::Error::custom("expected at least one address with a port, such as \"0.0.0.0:443\""));
    }
    Ok(addresses)
}

fn default_listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 443)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443))]
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/m2m-gateway")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
client_ca = "ca.pem"
routes = ["10.20.0.0/24", "fd20::/64"]
[identity]
certificate = "gateway.pem"
key = "gateway.key"
[pool]
ipv4 = "10.99.0.0/16"
ipv6 = "fd99::/64"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        config_file::parse::<Checked>(Path::new("gateway.toml"), text)
            .map(|checked| checked.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_shortest_file_gets_the_defaults() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.listen, default_listen());
        assert_eq!(config.metrics.listen.0.to_string(), "127.0.0.1:9184");
        assert_eq!((config.tun.name.as_str(), config.tun.mtu), ("m2mgw0", Mtu(1280)));
        assert_eq!(config.crl, None);
        assert!(config.pool.ranges.contains("10.99.3.4".parse().unwrap()));
        assert!(!config.pool.ranges.contains("fd98::1".parse().unwrap()));
        assert_eq!((config.pool.gateway, config.pool.reserved, config.pool.book), (1, 1, None));
        assert_eq!(config.routing.inject, Inject::Pool);
    }

    #[test]
    fn a_gateway_of_several_has_a_number_below_the_devices() {
        let with = |lines: &str| parse(&format!("{MINIMAL}{lines}\n"));
        let config =
            with("gateway = 2\nreserved = 16\nbook = \"/srv/a.json\"\n[routing]\ninject = \"host-routes\"").unwrap();
        assert_eq!((config.pool.gateway, config.pool.reserved), (2, 16));
        assert_eq!(config.pool.book, Some(PathBuf::from("/srv/a.json")));
        assert_eq!(config.routing.inject, Inject::HostRoutes);
        for (lines, place, expected) in [
            ("gateway = 2", ":7: pool: ", "gateway: expected 1 to `reserved`, which is 1, found 2"),
            ("gateway = 0", ":10: pool.gateway: ", "from 1"),
            ("reserved = 65534", ":7: pool: ", "reserved: expected less than 65534"),
            ("book = \"/\"", ":7: pool: ", "book: expected a file"),
            ("[routing]\ninject = \"all\"", ":11: routing.inject: ", "expected `pool` or `host-routes`"),
        ] {
            let words = with(lines).unwrap_err();
            assert!(words.contains(place) && words.contains(expected), "{lines}: {words}");
        }
    }

    #[test]
    fn tunnels_may_be_asked_for_elsewhere() {
        let with = |template: &str| parse(&format!("uri_template = \"{template}\"\n{MINIMAL}"));
        let config = with("/vpn{?target,ipproto}").unwrap();
        assert_eq!(config.uri_template.0.template().to_string(), "/vpn{?target,ipproto}");
        assert_eq!(parse(MINIMAL).unwrap().uri_template, Template::default());
        for template in ["vpn", "/{target}{ipproto}", "/{target", "/{+target}"] {
            let words = with(template).unwrap_err();
            assert!(words.contains("uri_template: template"), "{words}");
            assert!(words.contains("expected one such as \"/.well-known/masque/ip/{target}/{ipproto}/\""), "{words}");
        }
    }

    #[test]
    fn the_examples_are_valid() {
        let page = include_str!("../../docs/fleet.md");
        let documented = |word: &str| {
            page.split("```").find(|block| block.contains(word)).and_then(|block| block.strip_prefix("toml\n")).unwrap()
        };
        let alone = documented("client_ca");
        for text in [include_str!("../gateway.example.toml"), alone] {
            let config = parse(text).unwrap();
            assert!(config.crl.is_some_and(|crl| crl.required));
        }
        let (head, _) = alone.split_once("[pool]").unwrap();
        let one_of_two = parse(&format!("{head}{}", documented("host-routes"))).unwrap();
        assert_eq!((one_of_two.pool.gateway, one_of_two.routing.inject), (2, Inject::HostRoutes));
    }

    #[test]
    fn a_revocation_list_has_one_source() {
        let with = |table: &str| parse(&format!("{MINIMAL}[crl]\n{table}\n"));
        let crl = with("url = \"https://manager.example/crl.der\"").unwrap().crl.unwrap();
        assert!(crl.required && crl.refresh == Duration::from_secs(300));
        assert!(with("file = \"crl.der\"\nrequired = false").is_ok());
        for wrong in [
            "",
            "file = \"a\"\nurl = \"http://b\"",
            "file = \"a\"\ntrust_anchor = \"b\"",
            "url = \"http://a\"\ntrust_anchor = \"b\"",
            "url = \"ftp://a\"",
            "url = \"https://u:p@a\"",
        ] {
            assert!(with(wrong).unwrap_err().contains("gateway.toml:10: crl: "), "{wrong}: {:?}", with(wrong));
        }
    }
}
