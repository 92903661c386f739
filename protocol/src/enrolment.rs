//! How a device that holds nothing but a TPM becomes a member of the fleet.
//!
//! ```text
//! device                                                       manager
//!   POST /api/v1/enrol            EnrolRequest          ->
//!                                 <-   200 Challenge    (TPM2_MakeCredential, bound to the Name of the TLS key)
//!   POST /api/v1/enrol/{session}  ActivateRequest       ->     (TPM2_ActivateCredential gave the secret)
//!                                 <-   200 Enrolled | 202 Pending | 4xx Problem
//! ```
//!
//! A pending device repeats the whole exchange after [`Pending::retry_after_s`]: nothing has to be kept between.

use serde::{Deserialize, Serialize};

use crate::Version1;
use crate::device_config::DeviceConfig;
use crate::names::Token;

/// The path of the first request; the second one appends `/` and [`Challenge::session`].
pub const ENROL_PATH: &str = "/api/v1/enrol";
/// The path from which an enrolled device pulls its configuration, over mutual TLS.
pub const CONFIGURATION_PATH: &str = "/api/v1/configuration";
/// The path of the certificate revocation list, DER (RFC 5280 section 5), readable by everybody.
pub const CRL_PATH: &str = "/crl.der";
/// The largest body of a request or an answer, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// The device introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The schema's version.
    pub version: Version1,
    /// The machine's serial number.
    pub serial: Token,
    /// The host name from the first-boot pattern.
    pub hostname: String,
    /// The batch label from the first-boot file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Token>,
    /// The endorsement key: `TPM2B_PUBLIC`, TPM 2.0 Library part 2, 12.2.5.
    pub ek_public: Base64,
    /// The EK certificate from the TPM's NV memory, DER (TCG EK Credential Profile), where the maker put one there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<Base64>,
    /// The TLS key's public area: `TPM2B_PUBLIC`.
    pub key_public: Base64,
    /// PKCS#10 request signed with the TLS key, DER (RFC 2986).
    pub csr: Base64,
}

/// The manager's proof that only this TPM, holding this key, can solve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Names this exchange in the second request's path; valid for a few minutes and once.
    pub session: Token,
    /// `TPM2B_ID_OBJECT` (TPM 2.0 Library part 2, 12.4.3).
    pub credential_blob: Base64,
    /// `TPM2B_ENCRYPTED_SECRET` (TPM 2.0 Library part 2, 11.4.3).
    pub encrypted_secret: Base64,
}

/// The secret that TPM2_ActivateCredential gave.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivateRequest {
    /// The secret.
    pub secret: Base64,
}

impl std::fmt::Debug for ActivateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActivateRequest").finish_non_exhaustive()
    }
}

/// The device is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// The schema's version.
    pub version: Version1,
    /// The device's certificate followed by the issuing CA's, PEM.
    pub certificate_chain: String,
    /// The device's own configuration.
    pub configuration: DeviceConfig,
}

/// The device has proved its TPM, and an administrator has to approve it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// When to ask again, in seconds.
    pub retry_after_s: u32,
    /// Why it is not let in at once, for the log.
    pub reason: String,
}

/// An error answer: Problem Details for HTTP APIs (RFC 9457), media type `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem it is, in a few words.
    pub title: String,
    /// What is wrong with this request, naming the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Bytes that are base64 (RFC 4648 section 4) in JSON. `Debug` prints their number only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Base64(pub Vec<u8>);

impl TryFrom<String> for Base64 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Self)
            .map_err(|error| format!("expected base64: {error}"))
    }
}

impl From<Base64> for String {
    fn from(bytes: Base64) -> Self {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(bytes.0)
    }
}

impl std::fmt::Debug for Base64 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let request = ActivateRequest { secret: Base64(b"hunter2".to_vec()) };
        assert_eq!(format!("{request:?}"), "ActivateRequest { .. }");
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"secret":"aHVudGVyMg=="}"#);
    }

    #[test]
    fn unknown_fields_and_versions_are_refused() {
        let good = r#"{"session":"s1","credential_blob":"AAE=","encrypted_secret":""}"#;
        assert_eq!(serde_json::from_str::<Challenge>(good).unwrap().credential_blob, Base64(vec![0, 1]));
        for wrong in [good.replace("s1", "../s1"), good.replace("AAE=", "AAE"), good.replace("session", "sessions")] {
            assert!(serde_json::from_str::<Challenge>(&wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn base64_round_trips(bytes: Vec<u8>) {
            let text = serde_json::to_string(&Base64(bytes.clone())).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Base64>(&text).unwrap().0, bytes);
        }
    }
}
