//! What a tunnel is asked for (RFC 9484 §4.6): a target and an IP protocol, as values of the gateway's [URI
//! template](crate::template).

use std::net::IpAddr;

use ipnet::IpNet;

/// The longest name in characters (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// What stands for no limit.
pub(crate) const WILDCARD: &str = "*";

/// What a tunnel is asked for. By default everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Where packets may go.
    pub target: Target,
    /// The only IP protocol, all without one. ICMP is always allowed.
    pub ip_protocol: Option<u8>,
}

/// Where packets may go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Target {
    /// To any host.
    #[default]
    Any,
    /// To a prefix.
    Prefix(IpNet),
    /// To the addresses of a name.
    Name(String),
}

impl Target {
    /// Reads the value of the variable `target`, percent-decoded.
    ///
    /// # Errors
    /// When it is no value that RFC 9484 §4.6 allows.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        if text.is_empty() {
            return Err(ScopeError::Empty("target"));
        }
        if text == WILDCARD {
            return Ok(Self::Any);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Prefix(IpNet::from(address)));
        }
        if text.contains(['/', ':']) {
            let prefix: IpNet = text.parse().map_err(|_| ScopeError::Target)?;
            return if prefix == prefix.trunc() { Ok(Self::Prefix(prefix)) } else { Err(ScopeError::HostBits) };
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if text.len() > MAX_NAME || !text.bytes().all(is_name) {
            return Err(ScopeError::Target);
        }
        Ok(Self::Name(text.into()))
    }

    /// The value of the variable `target`, not percent-encoded; `None` for any host. Bits behind a prefix's length are
    /// not part of it.
    #[must_use]
    pub fn value(&self) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => Some(prefix.addr().to_string()),
            Self::Prefix(prefix) => Some(prefix.trunc().to_string()),
            Self::Name(name) => Some(name.clone()),
        }
    }
}

/// Reads the value of the variable `ipproto`, percent-decoded; `None` for all protocols.
///
/// # Errors
/// When it is neither the wildcard nor 0 to 255 in at most three digits.
pub fn parse_ip_protocol(text: &str) -> Result<Option<u8>, ScopeError> {
    if text.is_empty() {
        return Err(ScopeError::Empty("ipproto"));
    }
    if text == WILDCARD {
        return Ok(None);
    }
    if text.len() > 3 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ScopeError::IpProtocol);
    }
    text.parse().map(Some).map_err(|_| ScopeError::IpProtocol)
}

/// Why a value limits nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// RFC 9484 §3: a variable that is there must not be empty.
    #[error("{0} must not be empty; * stands for no limit")]
    Empty(&'static str),
    /// It is no address, prefix or name.
    #[error("target must be *, an IP prefix or a name")]
    Target,
    /// RFC 9484 §4.6: they must be 0.
    #[error("target has address bits behind its prefix length")]
    HostBits,
    /// It is no IP protocol number.
    #[error("ipproto must be * or 0 to 255")]
    IpProtocol,
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_scope() -> impl Strategy<Value = Scope> {
        let prefix = prop_oneof![
            (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| (IpAddr::from(Ipv4Addr::from_bits(bits)), length)),
            (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| (IpAddr::from(Ipv6Addr::from_bits(bits)), length)),
        ];
        let name = "[A-Za-z0-9_.-]{1,40}".prop_filter("an address is no name", |name| name.parse::<IpAddr>().is_err());
        let target = prop_oneof![
            Just(Target::Any),
            prefix.prop_map(|(address, length)| Target::Prefix(IpNet::new(address, length).unwrap().trunc())),
            name.prop_map(Target::Name),
        ];
        (target, any::<Option<u8>>()).prop_map(|(target, ip_protocol)| Scope { target, ip_protocol })
    }

    #[test]
    fn values_of_rfc_9484() {
        for (text, target) in [
            ("*", Target::Any),
            ("192.0.2.42", Target::Prefix("192.0.2.42/32".parse().unwrap())),
            ("192.0.2.0/24", Target::Prefix("192.0.2.0/24".parse().unwrap())),
            ("0.0.0.0/0", Target::Prefix("0.0.0.0/0".parse().unwrap())),
            ("2001:db8::42", Target::Prefix("2001:db8::42/128".parse().unwrap())),
            ("2001:db8::/32", Target::Prefix("2001:db8::/32".parse().unwrap())),
            ("::/0", Target::Prefix("::/0".parse().unwrap())),
            ("target.example.com", Target::Name("target.example.com".into())),
        ] {
            assert_eq!(Target::parse(text), Ok(target), "{text}");
        }
        for (text, protocol) in [("*", None), ("0", Some(0)), ("17", Some(17)), ("017", Some(17)), ("255", Some(255))] {
            assert_eq!(parse_ip_protocol(text), Ok(protocol), "{text}");
        }
    }

    #[test]
    fn other_values_are_refused() {
        for (text, error) in [
            ("", ScopeError::Empty("target")),
            ("192.0.2.0/33", ScopeError::Target),
            ("2001:db8::/129", ScopeError::Target),
            ("192.0.2.0/", ScopeError::Target),
            ("/24", ScopeError::Target),
            ("192.0.2.1/24", ScopeError::HostBits),
            ("2001:db8::1/64", ScopeError::HostBits),
            ("fe80::1%eth0", ScopeError::Target),
            ("[::1]", ScopeError::Target),
            ("a b", ScopeError::Target),
            ("tärget.example", ScopeError::Target),
        ] {
            assert_eq!(Target::parse(text), Err(error), "{text}");
        }
        assert_eq!(Target::parse(&"a".repeat(254)), Err(ScopeError::Target));
        assert_eq!(parse_ip_protocol(""), Err(ScopeError::Empty("ipproto")));
        for text in ["256", "-1", "+1", "0017", "udp", "1 ", "**"] {
            assert_eq!(parse_ip_protocol(text), Err(ScopeError::IpProtocol), "{text}");
        }
    }

    proptest! {
        #[test]
        fn targets_survive_the_round_trip(scope in any_scope()) {
            let text = scope.target.value().unwrap_or_else(|| WILDCARD.into());
            prop_assert_eq!(Target::parse(&text), Ok(scope.target));
        }
    }
}
