//! The CONNECT-IP request (RFC 9484 §4) and its answers.

use http::StatusCode;

pub use crate::scope::{Scope, Target};
use crate::{
    http3::message::{Request, Response},
    qpack::Field,
    template::{ExpandError, Matcher, Mismatch, PathTemplate, Template},
};

/// The `:protocol` of the request.
pub const PROTOCOL: &str = "connect-ip";

/// Fields that say what a message's content is, which one in front of capsules has not (RFC 9297 §3.2).
const OF_CONTENT: [&[u8]; 3] = [b"content-length", b"content-type", b"transfer-encoding"];

/// Why a request is not answered with a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's content.
    pub reason: String,
    /// The error type of the answer's `Proxy-Status` (RFC 9209 §2.3), where one says more than the status.
    pub error: Option<&'static str>,
}

impl Refusal {
    /// With a status and words for whoever asks.
    #[must_use]
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), error: None }
    }

    /// The value of the answer's `Proxy-Status`.
    #[must_use]
    pub fn proxy_status(&self) -> Option<String> {
        self.error.map(|error| format!("m2mvpn; error={error}"))
    }
}

/// The request for a tunnel without limits, at the default template of a gateway.
#[must_use]
pub fn unlimited(authority: &str) -> Request {
    connect(authority, "/.well-known/masque/ip/*/*/".into())
}

/// The request for a tunnel, at the template of its gateway.
///
/// # Errors
/// When the template cannot say what is asked for.
pub fn scoped(template: &Template, scope: &Scope) -> Result<Request, ExpandError> {
    Ok(connect(template.authority(), template.path().expand(scope)?))
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
    response.status.is_success() && !matches!(response.status.as_u16(), 204..=206) && !has_content(&response.fields)
}

/// What a request asks for, at the default template.
///
/// # Errors
/// As [`scope_at`].
pub fn scope(request: &Request) -> Result<Scope, Refusal> {
    scope_at(&Matcher::default(), request)
}

/// What a request asks for, at the gateway's template.
///
/// # Errors
/// What to answer to a request that is none for a tunnel, or whose path does not follow RFC 9484 §4.6.
pub fn scope_at(matcher: &Matcher, request: &Request) -> Result<Scope, Refusal> {
    match (request.method.as_str(), request.protocol.as_deref()) {
        ("CONNECT", Some(PROTOCOL)) => {}
        ("GET" | "HEAD", _) => return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing here but IP tunnels")),
        _ => return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "only CONNECT with :protocol connect-ip is served")),
    }
    if request.scheme != "https" {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, ":scheme must be https"));
    }
    if has_content(&request.fields) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "a request for a tunnel has no content to describe"));
    }
    matcher.scope(&request.path).map_err(|mismatch| not_matched(&mismatch, matcher.template()))
}

fn connect(authority: &str, path: String) -> Request {
    Request {
        method: "CONNECT".into(),
        scheme: "https".into(),
        authority: authority.into(),
        path,
        protocol: Some(PROTOCOL.into()),
        fields: vec![Field::new("capsule-protocol", "?1")],
    }
}

fn has_content(fields: &[Field]) -> bool {
    fields.iter().any(|field| OF_CONTENT.contains(&field.name.as_slice()))
}

fn not_matched(mismatch: &Mismatch, template: &PathTemplate) -> Refusal {
    match mismatch {
        Mismatch::Elsewhere => Refusal::new(StatusCode::NOT_FOUND, format!("tunnels are at {template}")),
        Mismatch::Shape => Refusal::new(StatusCode::BAD_REQUEST, format!("path must be {template}")),
        mismatch => Refusal::new(StatusCode::BAD_REQUEST, mismatch.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::scope::tests::any_scope;

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
            ("/.well-known/masque/ip/2001:db8::1/*/", 400),
            ("/.well-known/masque/ip/%ff/*/", 400),
            ("/.well-known/masque/ip/*/*/?x", 400),
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

    #[test]
    fn a_request_with_content_is_refused() {
        let mut request = unlimited("gateway.example");
        request.fields.push(Field::new("content-type", "text/plain"));
        assert_eq!(scope(&request).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_default_template_asks_as_ever() {
        let template = Template::of_authority("gateway.example").unwrap();
        assert_eq!(scoped(&template, &Scope::default()), Ok(unlimited("gateway.example")));
    }

    #[test]
    fn refusals_name_the_template() {
        let matcher = "/vpn{?target}".parse::<PathTemplate>().unwrap().matcher().unwrap();
        let mut request = unlimited("gateway.example");
        assert_eq!(
            scope_at(&matcher, &request),
            Err(Refusal::new(StatusCode::NOT_FOUND, "tunnels are at /vpn{?target}"))
        );
        request.path = "/vpn/x".into();
        assert_eq!(
            scope_at(&matcher, &request),
            Err(Refusal::new(StatusCode::BAD_REQUEST, "path must be /vpn{?target}"))
        );
        request.path = "/vpn?target=".into();
        let reason = "target must not be empty; * stands for no limit";
        assert_eq!(scope_at(&matcher, &request), Err(Refusal::new(StatusCode::BAD_REQUEST, reason)));
        request.path = "/vpn".into();
        assert_eq!(scope_at(&matcher, &request), Ok(Scope::default()));
    }

    proptest! {
        #[test]
        fn round_trip(asked in any_scope()) {
            let template = Template::of_authority("gateway.example:8443").unwrap();
            let request = scoped(&template, &asked).unwrap();
            let received = Request::from_fields(request.to_fields()).unwrap();
            prop_assert_eq!(&received, &request);
            prop_assert_eq!(scope(&received), Ok(asked));
        }

        #[test]
        fn any_path_does_no_harm(rest in ".{0,60}") {
            let _ = of_path(&format!("/.well-known/masque/ip/{rest}"));
        }
    }
}
