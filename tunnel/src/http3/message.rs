//! Requests and answers as field sections (RFC 9114 §4.2, §4.3, RFC 9220).

use http::StatusCode;

use super::{Code, ProtocolError};
use crate::qpack::Field;

/// A request's fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// `:method`.
    pub method: String,
    /// `:scheme`.
    pub scheme: String,
    /// `:authority`, empty when there is none.
    pub authority: String,
    /// `:path`.
    pub path: String,
    /// `:protocol`, of extended CONNECT only.
    pub protocol: Option<String>,
    /// The others.
    pub fields: Vec<Field>,
}

impl Request {
    /// Its field section.
    #[must_use]
    pub fn to_fields(&self) -> Vec<Field> {
        let mut fields = vec![Field::new(":method", &self.method)];
        fields.extend(self.protocol.as_ref().map(|protocol| Field::new(":protocol", protocol)));
        for (name, value) in [(":scheme", &self.scheme), (":authority", &self.authority), (":path", &self.path)] {
            if !value.is_empty() {
                fields.push(Field::new(name, value));
            }
        }
        fields.extend_from_slice(&self.fields);
        fields
    }

    /// Reads a field section.
    ///
    /// # Errors
    /// MESSAGE_ERROR when the request is malformed (RFC 9114 §4.1.2).
    pub fn from_fields(fields: Vec<Field>) -> Result<Self, ProtocolError> {
        let (pseudo, fields) = split(fields)?;
        let mut request = Self { fields, ..Self::default() };
        for Field { name, value } in pseudo {
            let value = String::from_utf8(value).map_err(|_| malformed("pseudo-header field is not UTF-8"))?;
            match name.as_slice() {
                b":method" => request.method = value,
                b":scheme" => request.scheme = value,
                b":authority" => request.authority = value,
                b":path" => request.path = value,
                b":protocol" => request.protocol = Some(value),
                _ => return Err(malformed("unknown pseudo-header field")),
            }
        }
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), ProtocolError> {
        if self.method.is_empty() {
            return Err(malformed(":method is missing"));
        }
        let is_connect = self.method == "CONNECT";
        if self.protocol.is_some() && !is_connect {
            return Err(malformed(":protocol without CONNECT"));
        }
        if is_connect && self.protocol.is_none() {
            // RFC 9114 §4.4
            let plain = self.scheme.is_empty() && self.path.is_empty() && !self.authority.is_empty();
            return plain
                .then_some(())
                .ok_or_else(|| malformed("CONNECT with :scheme or :path, or without :authority"));
        }
        if self.scheme.is_empty() || self.path.is_empty() {
            return Err(malformed(":scheme or :path is missing"));
        }
        let mut hosts = self.fields.iter().filter(|field| field.name == b"host").map(|field| &field.value);
        let host = hosts.next();
        if self.authority.is_empty() && (is_connect || host.is_none()) {
            return Err(malformed(":authority is missing"));
        }
        let is_other = |host: &Vec<u8>| !self.authority.is_empty() && host != self.authority.as_bytes();
        if hosts.next().is_some() || host.is_some_and(|host| host.is_empty() || is_other(host)) {
            return Err(malformed("host is empty, comes twice or is not :authority"));
        }
        Ok(())
    }
}

/// An answer's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// `:status`.
    pub status: StatusCode,
    /// The others.
    pub fields: Vec<Field>,
}

impl Response {
    /// Its field section.
    #[must_use]
    pub fn to_fields(&self) -> Vec<Field> {
        let mut fields = vec![Field::new(":status", self.status.as_str())];
        fields.extend_from_slice(&self.fields);
        fields
    }

    /// Reads a field section.
    ///
    /// # Errors
    /// MESSAGE_ERROR when the answer is malformed.
    pub fn from_fields(fields: Vec<Field>) -> Result<Self, ProtocolError> {
        let (pseudo, fields) = split(fields)?;
        let [Field { name, value }] = pseudo.as_slice() else {
            return Err(malformed("an answer has exactly one pseudo-header field"));
        };
        if name != b":status" {
            return Err(malformed(":status is missing"));
        }
        let status = StatusCode::from_bytes(value).map_err(|_| malformed(":status is not three digits"))?;
        Ok(Self { status, fields })
    }
}

/// Separates the pseudo-header fields, which come first and once, and checks what every field must keep to.
fn split(fields: Vec<Field>) -> Result<(Vec<Field>, Vec<Field>), ProtocolError> {
    let mut pseudo: Vec<Field> = Vec::new();
    let mut others = Vec::new();
    for field in fields {
        check_field(&field)?;
        if field.name.first() != Some(&b':') {
            others.push(field);
            continue;
        }
        if !others.is_empty() {
            return Err(malformed("pseudo-header field after others"));
        }
        if pseudo.iter().any(|earlier| earlier.name == field.name) {
            return Err(malformed("pseudo-header field comes twice"));
        }
        pseudo.push(field);
    }
    Ok((pseudo, others))
}

fn check_field(field: &Field) -> Result<(), ProtocolError> {
    let name = field.name.strip_prefix(b":").unwrap_or(&field.name);
    if name.is_empty() || !name.iter().all(|byte| is_lower_token(*byte)) {
        return Err(malformed("field name is not lower case token"));
    }
    let value = &field.value;
    let has_forbidden = value.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n'));
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if has_forbidden || is_space(value.first()) || is_space(value.last()) {
        return Err(malformed("field value has forbidden characters"));
    }
    let of_connection: [&[u8]; 5] =
        [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];
    if of_connection.contains(&name) || (name == b"te" && value != b"trailers") {
        return Err(malformed("field of HTTP/1.1 connections"));
    }
    Ok(())
}

fn is_lower_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

fn malformed(reason: &'static str) -> ProtocolError {
    ProtocolError::new(Code::MESSAGE_ERROR, reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn connect_ip() -> Vec<Field> {
        vec![
            Field::new(":method", "CONNECT"),
            Field::new(":protocol", "connect-ip"),
            Field::new(":scheme", "https"),
            Field::new(":authority", "gateway.example"),
            Field::new(":path", "/.well-known/masque/ip/*/*/"),
            Field::new("capsule-protocol", "?1"),
        ]
    }

    #[test]
    fn requests_survive_the_round_trip() {
        let request = Request::from_fields(connect_ip()).unwrap();
        assert_eq!(request.protocol.as_deref(), Some("connect-ip"));
        assert_eq!(request.to_fields(), connect_ip());
    }

    #[test]
    fn malformed_requests_are_refused() {
        let with = |field| [connect_ip(), vec![field]].concat();
        let without = |name: &[u8]| {
            let mut fields = connect_ip();
            fields.retain(|field| field.name != name);
            fields
        };
        let cases = [
            with(Field::new(":path", "/")),
            with(Field::new("Upper", "x")),
            with(Field::new("", "x")),
            with(Field::new("a b", "x")),
            with(Field::new("x", "a\nb")),
            with(Field::new("x", " a")),
            with(Field::new("connection", "close")),
            with(Field::new("te", "gzip")),
            with(Field::new("host", "")),
            with(Field::new("host", "other.example")),
            [connect_ip(), vec![Field::new("host", "gateway.example"); 2]].concat(),
            without(b":method"),
            without(b":scheme"),
            without(b":authority"),
            without(b":path"),
            without(b":protocol"),
            vec![Field::new(":method", "GET"), Field::new(":status", "200")],
        ];
        for fields in cases {
            let error = Request::from_fields(fields.clone()).unwrap_err();
            assert_eq!(error.code, Code::MESSAGE_ERROR, "{fields:?}");
        }
    }

    #[test]
    fn the_host_field_may_say_what_authority_says() {
        let same = Field::new("host", "gateway.example");
        assert!(Request::from_fields([connect_ip(), vec![same.clone()]].concat()).is_ok());
        let get = |authority: &[Field]| {
            let pseudo = [(":method", "GET"), (":scheme", "https"), (":path", "/")];
            let fields = pseudo.iter().map(|(name, value)| Field::new(name, value)).chain(authority.iter().cloned());
            Request::from_fields(fields.collect())
        };
        assert!(get(&[same]).is_ok());
        assert_eq!(get(&[]).unwrap_err().code, Code::MESSAGE_ERROR);
        assert_eq!(get(&[Field::new("host", "")]).unwrap_err().code, Code::MESSAGE_ERROR);
    }

    #[test]
    fn answers_have_one_status() {
        let response = Response::from_fields(vec![Field::new(":status", "403")]).unwrap();
        assert_eq!(response.status, StatusCode::FORBIDDEN);
        for fields in [
            vec![],
            vec![Field::new(":status", "9")],
            vec![Field::new(":method", "GET")],
            vec![Field::new(":status", "200"), Field::new(":path", "/")],
        ] {
            assert_eq!(Response::from_fields(fields).unwrap_err().code, Code::MESSAGE_ERROR);
        }
    }

    fn any_fields() -> impl Strategy<Value = Vec<Field>> {
        let name = "[a-z0-9!#$%&'*+.^_`|~-]{1,12}";
        let taken = ["host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"];
        let name = name.prop_filter("has its own rules", move |name| !taken.contains(&name.as_str()));
        let value = "([!-~]([ -~\t]{0,12}[!-~])?)?";
        proptest::collection::vec((name, value).prop_map(|(name, value)| Field::new(&name, &value)), 0..6)
    }

    proptest! {
        #[test]
        fn any_request_survives_the_round_trip(
            method in prop_oneof![Just("CONNECT"), Just("GET"), Just("HEAD")],
            path in "/[!-~]{0,20}",
            fields in any_fields(),
        ) {
            let request = Request {
                method: method.into(),
                scheme: "https".into(),
                authority: "gateway.example".into(),
                path,
                protocol: (method == "CONNECT").then(|| "connect-ip".into()),
                fields,
            };
            prop_assert_eq!(Request::from_fields(request.to_fields()), Ok(request));
        }

        #[test]
        fn any_answer_survives_the_round_trip(status in 100..1000u16, fields in any_fields()) {
            let response = Response { status: StatusCode::from_u16(status).unwrap(), fields };
            prop_assert_eq!(Response::from_fields(response.to_fields()), Ok(response));
        }

        #[test]
        fn what_is_read_is_written_alike(
            fields in prop::sample::subsequence(
                vec![":method", ":protocol", ":scheme", ":authority", ":path", ":status", "host", "x", "x", "X"],
                0..10,
            ),
            values in proptest::collection::vec(
                prop::sample::select(vec!["CONNECT", "CONNECT", "GET", "connect-ip", "https", "a", "a", "200", ""]),
                10,
            ),
        ) {
            let fields: Vec<Field> = fields.iter().zip(values).map(|(name, value)| Field::new(name, value)).collect();
            if let Ok(request) = Request::from_fields(fields.clone()) {
                prop_assert_eq!(Request::from_fields(request.to_fields()), Ok(request));
            }
            if let Ok(response) = Response::from_fields(fields) {
                prop_assert_eq!(Response::from_fields(response.to_fields()), Ok(response));
            }
        }
    }
}
