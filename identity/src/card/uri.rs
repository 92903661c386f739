//! Which key on which card: PKCS #11 URIs.

use std::{fmt, str::FromStr};

/// The path of a PKCS #11 URI (RFC 7512 §2.3), as `pkcs11:token=VPN;object=device`. Attributes that are left out fit anything. A query
/// is not taken: module and PIN have places of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CardUri {
    pub(super) token: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) model: Option<String>,
    pub(super) object: Option<String>,
    pub(super) id: Option<Vec<u8>>,
}

impl FromStr for CardUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let path = text.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        if path.contains('?') {
            return Err(UriError::Query);
        }
        let mut uri = Self::default();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = attribute.split_once('=').ok_or_else(|| UriError::Malformed(attribute.into()))?;
            let bytes = percent_decode(value).ok_or_else(|| UriError::Malformed(attribute.into()))?;
            if name == "id" {
                set(&mut uri.id, bytes, name)?;
                continue;
            }
            let text = String::from_utf8(bytes).map_err(|_| UriError::Malformed(attribute.into()))?;
            match name {
                "token" => set(&mut uri.token, text, name)?,
                "manufacturer" => set(&mut uri.manufacturer, text, name)?,
                "serial" => set(&mut uri.serial, text, name)?,
                "model" => set(&mut uri.model, text, name)?,
                "object" => set(&mut uri.object, text, name)?,
                "type" if text == "private" => {}
                "type" => return Err(UriError::NoKey),
                _ => return Err(UriError::Unknown(name.into())),
            }
        }
        Ok(uri)
    }
}

impl fmt::Display for CardUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [
            ("token", &self.token),
            ("manufacturer", &self.manufacturer),
            ("serial", &self.serial),
            ("model", &self.model),
            ("object", &self.object),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.as_bytes())));
        f.write_str("pkcs11:")?;
        for (index, (name, value)) in texts.chain(self.id.as_deref().map(|id| ("id", id))).enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{name}=")?;
            for byte in value {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        write!(f, "{}", char::from(*byte))?;
                    }
                    byte => write!(f, "%{byte:02X}")?,
                }
            }
        }
        Ok(())
    }
}

fn set<T>(place: &mut Option<T>, value: T, name: &str) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Twice(name.into())),
    }
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |rest: &mut std::str::Bytes<'_>| char::from(rest.next()?).to_digit(16);
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { (digit(&mut rest)? << 4 | digit(&mut rest)?) as u8 } else { byte });
    }
    Some(bytes)
}

/// Why a text names no key on a card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It does not begin with the scheme.
    #[error("expected a PKCS #11 URI, such as \"pkcs11:token=VPN;object=device\"")]
    Scheme,
    /// It has a query.
    #[error("expected a PKCS #11 URI without a query: module and PIN are set beside it")]
    Query,
    /// An attribute is not name and value, or not percent-encoded UTF-8.
    #[error("expected NAME=VALUE, percent-encoded, found {0:?}")]
    Malformed(String),
    /// An attribute stands twice (RFC 7512 §2.3).
    #[error("expected the attribute {0} once")]
    Twice(String),
    /// Its type is not that of a private key.
    #[error("expected type=private, or no type")]
    NoKey,
    /// An attribute is not known.
    #[error("expected token, manufacturer, serial, model, object, id or type, found {0:?}")]
    Unknown(String),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn uris_are_read() {
        let uri: CardUri = "pkcs11:token=My%20VPN;id=%01%ff;type=private;serial=DECC0401648".parse().unwrap();
        assert_eq!((uri.token.as_deref(), uri.serial.as_deref()), (Some("My VPN"), Some("DECC0401648")));
        assert_eq!((uri.id.as_deref(), uri.object), (Some(&[1, 0xff][..]), None));
        assert_eq!("pkcs11:".parse(), Ok(CardUri::default()));
        for (text, error) in [
            ("PKCS11:token=a", UriError::Scheme),
            ("pkcs11:token=a?pin-value=4711", UriError::Query),
            ("pkcs11:token", UriError::Malformed("token".into())),
            ("pkcs11:token=%4", UriError::Malformed("token=%4".into())),
            ("pkcs11:token=%ff", UriError::Malformed("token=%ff".into())),
            ("pkcs11:token=a;token=b", UriError::Twice("token".into())),
            ("pkcs11:type=cert", UriError::NoKey),
            ("pkcs11:x-vendor=1", UriError::Unknown("x-vendor".into())),
        ] {
            assert_eq!(text.parse::<CardUri>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            texts in proptest::array::uniform5(proptest::option::of(any::<String>())),
            id in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        ) {
            let [token, manufacturer, serial, model, object] = texts;
            let uri = CardUri { token, manufacturer, serial, model, object, id };
            prop_assert_eq!(uri.to_string().parse(), Ok(uri));
        }

        #[test]
        fn any_text_does_no_harm(text: String) {
            let _ = format!("pkcs11:{text}").parse::<CardUri>();
        }
    }
}
