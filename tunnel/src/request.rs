//! The CONNECT-IP request (RFC 9484 §4): its path and its scope.

use std::net::IpAddr;

use http::StatusCode;
use ipnet::IpNet;

use crate::{
    http3::message::{Request, Response},
    qpack::Field,
};

/// The `:protocol` of the request.
pub const PROTOCOL: &str = "connect-ip";

const PATH_PREFIX: &str = "/.well-known/masque/ip/";

/// What a tunnel is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Where packets may go.
    pub target: Target,
    /// The only IP protocol, all without one.
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

/// Why a request is not answered with a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's content.
    pub reason: String,
}

/// The request for a tunnel without limits.
#[must_use]
pub fn unlimited(authority: &str) -> Request {
    Request {
        method: "CONNECT".into(),
        scheme: "https".into(),
        authority: authority.into(),
        path: format!("{PATH_PREFIX}*/*/"),
        protocol: Some(PROTOCOL.into()),
        fields: vec![Field::new("capsule-protocol", "?1")],
    }
}

/// The answer that begins a tunnel.
#[must_use]
pub fn granted() -> Response {
    Response { status: StatusCode::OK, fields: vec![Field::new("capsule-protocol", "?1")] }
}

/// Whether an answer begins the capsule protocol (RFC 9297 §3.2): it must say neither that it has no content nor what
/// its content is.
#[must_use]
pub fn starts_capsules(response: &Response) -> bool {
    const FORBIDDEN: [&[u8]; 3] = [b"content-length", b"content-type", b"transfer-encoding"];
    response.status.is_success()
        && !matches!(response.status.as_u16(), 204..=206)
        && !response.fields.iter().any(|field| FORBIDDEN.contains(&field.name.as_slice()))
}

/// What a request asks for.
///
/// # Errors
/// What to answer to a request that is none for a tunnel, or whose path does not follow RFC 9484 §4.6.
pub fn scope(request: &Request) -> Result<Scope, Refusal> {
    match (request.method.as_str(), request.protocol.as_deref()) {
        ("CONNECT", Some(PROTOCOL)) => {}
        ("GET" | "HEAD", _) => return Err(refusal(StatusCode::NOT_FOUND, "there is nothing here but IP tunnels")),
        _ => return Err(refusal(StatusCode::NOT_IMPLEMENTED, "only CONNECT with :protocol connect-ip is served")),
    }
    if request.scheme != "https" {
        return Err(refusal(StatusCode::BAD_REQUEST, ":scheme must be https"));
    }
    let Some(variables) = request.path.strip_prefix(PATH_PREFIX) else {
        return Err(refusal(StatusCode::NOT_FOUND, "tunnels are at /.well-known/masque/ip/*/*/"));
    };
    let mut variables = variables.split('/');
    let (Some(target), Some(ip_protocol), Some(""), None) =
        (variables.next(), variables.next(), variables.next(), variables.next())
    else {
        return Err(refusal(StatusCode::BAD_REQUEST, "path must be /.well-known/masque/ip/{target}/{ipproto}/"));
    };
    Ok(Scope { target: parse_target(target)?, ip_protocol: parse_ip_protocol(ip_protocol)? })
}

fn parse_target(text: &str) -> Result<Target, Refusal> {
    let bad = || refusal(StatusCode::BAD_REQUEST, "target must be *, an IP prefix or a name");
    let text = percent_decode(text).ok_or_else(bad)?;
    if text == "*" {
        return Ok(Target::Any);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Target::Prefix(IpNet::from(address)));
    }
    if text.contains(['/', ':']) {
        let prefix: IpNet = text.parse().map_err(|_| bad())?;
        if prefix.addr() != prefix.network() {
            return Err(refusal(StatusCode::BAD_REQUEST, "target has address bits behind its prefix length"));
        }
        return Ok(Target::Prefix(prefix));
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(is_name) {
        return Err(bad());
    }
    Ok(Target::Name(text))
}

fn parse_ip_protocol(text: &str) -> Result<Option<u8>, Refusal> {
    let bad = || refusal(StatusCode::BAD_REQUEST, "ipproto must be * or 0 to 255");
    let text = percent_decode(text).ok_or_else(bad)?;
    if text == "*" {
        return Ok(None);
    }
    if text.len() > 3 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    text.parse().map(Some).map_err(|_| bad())
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).ok()
}

fn refusal(status: StatusCode, reason: &str) -> Refusal {
    Refusal { status, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn of_path(path: &str) -> Result<Scope, Refusal> {
        let mut request = unlimited("gateway.example");
        request.path = path.into();
        scope(&request)
    }

    #[test]
    fn paths_of_rfc_9484() {
        assert_eq!(scope(&unlimited("gateway.example")), Ok(Scope::default()));
        for (path, target, ip_protocol) in [
            ("/.well-known/masque/ip/%2A/%2a/", Target::Any, None),
            ("/.well-known/masque/ip/192.0.2.42/17/", Target::Prefix("192.0.2.42/32".parse().unwrap()), Some(17)),
            ("/.well-known/masque/ip/192.0.2.0%2F24/*/", Target::Prefix("192.0.2.0/24".parse().unwrap()), None),
            (
                "/.well-known/masque/ip/2001%3Adb8%3A%3A%2F32/58/",
                Target::Prefix("2001:db8::/32".parse().unwrap()),
                Some(58),
            ),
            ("/.well-known/masque/ip/target.example.com/132/", Target::Name("target.example.com".into()), Some(132)),
        ] {
            assert_eq!(of_path(path), Ok(Scope { target, ip_protocol }), "{path}");
        }
    }

    #[test]
    fn bad_paths_have_their_status() {
        for (path, status) in [
            ("/", 404),
            ("/.well-known/masque/udp/192.0.2.1/53/", 404),
            ("/.well-known/masque/ip/*/*", 400),
            ("/.well-known/masque/ip/*/*/x", 400),
            ("/.well-known/masque/ip/*/256/", 400),
            ("/.well-known/masque/ip/*/+1/", 400),
            ("/.well-known/masque/ip//*/", 400),
            ("/.well-known/masque/ip/192.0.2.1%2F24/*/", 400),
            ("/.well-known/masque/ip/192.0.2.0%2F33/*/", 400),
            ("/.well-known/masque/ip/a%2/*/", 400),
            ("/.well-known/masque/ip/a%20b/*/", 400),
        ] {
            assert_eq!(of_path(path).unwrap_err().status.as_u16(), status, "{path}");
        }
    }

    #[test]
    fn other_requests_have_their_status() {
        let mut request = unlimited("gateway.example");
        request.protocol = Some("connect-udp".into());
        assert_eq!(scope(&request).unwrap_err().status, StatusCode::NOT_IMPLEMENTED);
        request.protocol = None;
        request.method = "GET".into();
        assert_eq!(scope(&request).unwrap_err().status, StatusCode::NOT_FOUND);
        request.method = "POST".into();
        assert_eq!(scope(&request).unwrap_err().status, StatusCode::NOT_IMPLEMENTED);
    }

    #[test]
    fn only_a_plain_success_starts_capsules() {
        assert!(starts_capsules(&granted()));
        let mut response = granted();
        response.status = StatusCode::NO_CONTENT;
        assert!(!starts_capsules(&response));
        let mut response = granted();
        response.fields.push(Field::new("content-length", "0"));
        assert!(!starts_capsules(&response));
    }

    proptest! {
        #[test]
        fn any_path_does_no_harm(rest in ".{0,60}") {
            let _ = of_path(&format!("{PATH_PREFIX}{rest}"));
        }
    }
}
