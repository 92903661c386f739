//! Where the PIN of a key comes from, on a machine where nobody types it.

use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

use serde::Deserialize;
use zeroize::Zeroizing;

/// Where a PIN comes from: `{ credential = "NAME" }` or `{ file = "PATH" }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinSource {
    /// A credential that systemd gives the service (`LoadCredential=` or, sealed to the TPM, `LoadCredentialEncrypted=`).
    Credential(CredentialName),
    /// A file that only the daemon should be able to read.
    File(PathBuf),
}

impl PinSource {
    /// Reads the PIN: the content without the line break at its end.
    ///
    /// # Errors
    /// [`PinError`] says what to do.
    pub fn read(&self) -> Result<Pin, PinError> {
        self.read_at(env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).as_deref())
    }

    fn read_at(&self, credentials: Option<&Path>) -> Result<Pin, PinError> {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Credential(name) => match credentials {
                Some(directory) => directory.join(&name.0),
                None => return Err(PinError::NoCredentials(name.0.clone())),
            },
        };
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Pin::new(Zeroizing::new(text))),
            Err(error) => Err(PinError::Unreadable { path, error }),
        }
    }
}

/// The name of a credential: a file name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CredentialName(String);

impl TryFrom<String> for CredentialName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let is_file_name = !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '\0']);
        if is_file_name && name.len() <= 255 {
            return Ok(Self(name));
        }
        Err("expected the name of a systemd credential, such as \"vpn-pin\"")
    }
}

/// A PIN. It is wiped from memory when dropped, and never shown.
pub struct Pin(Zeroizing<String>);

impl Pin {
    fn new(text: Zeroizing<String>) -> Self {
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Self(Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
    }

    /// The PIN itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The service was started without credentials.
    #[error("pin: systemd gave this service no credential {0}; add LoadCredentialEncrypted={0} to its unit")]
    NoCredentials(String),
    /// The file cannot be read.
    #[error("pin: {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn source(text: &str) -> Result<PinSource, toml::de::Error> {
        #[derive(Deserialize)]
        struct Table {
            pin: PinSource,
        }
        toml::from_str::<Table>(&format!("pin = {text}")).map(|table| table.pin)
    }

    #[test]
    fn both_sources_are_read_without_the_line_break() {
        let directory = tempfile::tempdir().unwrap();
        for (content, expected) in [("4711\n", "4711"), ("4711\r\n", "4711"), (" 47\n11\n\n", " 47\n11\n"), ("", "")] {
            fs::write(directory.path().join("vpn-pin"), content).unwrap();
            let credential = source("{ credential = \"vpn-pin\" }").unwrap();
            assert_eq!(credential.read_at(Some(directory.path())).unwrap().reveal(), expected);
            let file = source(&format!("{{ file = \"{}/vpn-pin\" }}", directory.path().display())).unwrap();
            assert_eq!(file.read_at(None).unwrap().reveal(), expected);
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let error = source("{ credential = \"vpn-pin\" }").unwrap().read_at(None).unwrap_err();
        assert!(error.to_string().contains("LoadCredentialEncrypted=vpn-pin"), "{error}");
        let error = source("{ file = \"/nonexistent/pin\" }").unwrap().read_at(None).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/pin"), "{error}");
        for name in ["", "..", "a/b"] {
            let error = source(&format!("{{ credential = \"{name}\" }}")).unwrap_err();
            assert!(error.to_string().contains("the name of a systemd credential"), "{error}");
        }
        assert!(source("\"4711\"").is_err());
    }

    #[test]
    fn a_pin_is_not_shown() {
        let pin = Pin::new(Zeroizing::new("4711".to_owned()));
        assert_eq!(format!("{pin:?}"), "Pin(…)");
    }
}
