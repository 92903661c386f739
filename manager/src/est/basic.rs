//! HTTP Basic authentication (RFC 7617).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use m2m_protocol::names::Token;
use zeroize::Zeroizing;

/// Who asks. Without `Debug`, as it holds a secret.
pub(super) struct Credentials {
    pub(super) serial: Token,
    pub(super) token: Zeroizing<String>,
}

/// The credentials in `headers`, if there are any and they are well-formed.
pub(super) fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Credentials { serial: user.parse().ok()?, token: Zeroizing::new(password.to_owned()) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        credentials(&headers).map(|found| (found.serial.to_string(), found.token.to_string()))
    }

    #[test]
    fn reads_what_is_well_formed() {
        let encode = |text: &str| STANDARD.encode(text);
        let expected = Some(("SN-1".to_owned(), "a:b".to_owned()));
        assert_eq!(read(&format!("Basic {}", encode("SN-1:a:b"))), expected);
        assert_eq!(read(&format!("basic {}", encode("SN-1:a:b"))), expected);
        for wrong in ["", "Basic", "Basic %", &encode("SN-1:a"), &format!("Bearer {}", encode("SN-1:a"))] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        for wrong in ["SN-1", ":a", "../x:a"] {
            assert_eq!(read(&format!("Basic {}", encode(wrong))), None, "{wrong}");
        }
    }
}
