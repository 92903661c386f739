//! Who asks to be let in.

use std::sync::Arc;

use m2m_identity::tpm::{Endorsement, Tpm, TpmError, TpmKey};
use m2m_identity::{DeviceKey, RequestError, certificate_request};
use m2m_protocol::Version1;
use m2m_protocol::enrolment::{Base64, Challenge, EnrolRequest};
use m2m_protocol::first_boot::FirstBoot;
use m2m_protocol::machine::Machine;

/// A device that can introduce itself and prove that it is what it says. The methods may block.
pub trait Applicant: Send + Sync {
    /// The first request.
    ///
    /// # Errors
    /// [`ApplicantError`].
    fn introduce(&self) -> Result<EnrolRequest, ApplicantError>;

    /// The secret in the manager's challenge.
    ///
    /// # Errors
    /// [`ApplicantError::Credential`] when the challenge is for another TPM or key.
    fn solve(&self, challenge: &Challenge) -> Result<Base64, ApplicantError>;

    /// The key that the certificate is to be for.
    fn key(&self) -> Arc<dyn DeviceKey>;
}

/// A device with a TPM.
#[derive(Debug)]
pub struct TpmApplicant {
    tpm: Tpm,
    key: Arc<TpmKey>,
    machine: Machine,
    first_boot: FirstBoot,
}

impl TpmApplicant {
    /// `key` is the one that the certificate is to be for.
    #[must_use]
    pub fn new(tpm: Tpm, key: Arc<TpmKey>, machine: Machine, first_boot: FirstBoot) -> Self {
        Self { tpm, key, machine, first_boot }
    }
}

impl Applicant for TpmApplicant {
    fn introduce(&self) -> Result<EnrolRequest, ApplicantError> {
        let Endorsement { public, certificate } = self.tpm.endorsement()?;
        let csr = certificate_request(self.key.as_ref(), self.machine.serial.as_str())?;
        Ok(EnrolRequest {
            version: Version1,
            serial: self.machine.serial.clone(),
            hostname: self.machine.hostname.clone(),
            label: self.first_boot.device.label.clone(),
            ek_public: Base64(public),
            ek_certificate: certificate.map(Base64),
            key_public: Base64(self.key.public_area().to_vec()),
            csr: Base64(csr),
        })
    }

    fn solve(&self, challenge: &Challenge) -> Result<Base64, ApplicantError> {
        let secret =
            self.tpm.activate_credential(&self.key, &challenge.credential_blob.0, &challenge.encrypted_secret.0)?;
        Ok(Base64(secret.to_vec()))
    }

    fn key(&self) -> Arc<dyn DeviceKey> {
        Arc::clone(&self.key) as Arc<dyn DeviceKey>
    }
}

/// Why the device could not introduce or prove itself.
#[derive(Debug, thiserror::Error)]
pub enum ApplicantError {
    /// The challenge cannot be solved by this TPM and key.
    #[error("the manager's challenge cannot be solved: {0}")]
    Credential(String),
    /// The TPM failed.
    #[error("{0}")]
    Tpm(TpmError),
    /// The request for a certificate could not be signed.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// Something else in this program.
    #[error("{0}")]
    Other(String),
}

impl From<TpmError> for ApplicantError {
    fn from(error: TpmError) -> Self {
        match error {
            TpmError::Credential(reason) => Self::Credential(reason),
            other => Self::Tpm(other),
        }
    }
}
