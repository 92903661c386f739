//! A device with a TPM, as vpnd is one.

use std::sync::Arc;

use m2m_identity::tls::Identity;
use m2m_identity::tpm::{Endorsement, Tpm, TpmKey};
use m2m_identity::{DeviceKey, certificate_request, chain};
use m2m_protocol::Version1;
use m2m_protocol::enrolment::{ActivateRequest, Base64, Challenge, ENROL_PATH, EnrolRequest, Enrolled};

use crate::client::{Answer, Client};
use crate::emulator::Emulator;
use crate::manager::Manager;

pub(crate) struct Device {
    pub(crate) serial: String,
    pub(crate) endorsement: Endorsement,
    pub(crate) key: TpmKey,
    tpm: Tpm,
}

impl Device {
    /// A device with a fresh key in `emulator`.
    pub(crate) fn new(emulator: &Emulator, serial: &str) -> Self {
        let tpm = emulator.open();
        let endorsement = tpm.endorsement().unwrap();
        let key = tpm.create_signing_key().unwrap();
        Self { serial: serial.to_owned(), endorsement, key, tpm }
    }

    /// Replaces the key by a new one.
    pub(crate) fn make_key(&mut self) {
        self.key = self.tpm.create_signing_key().unwrap();
    }

    pub(crate) fn introduction(&self) -> EnrolRequest {
        EnrolRequest {
            version: Version1,
            serial: self.serial.parse().unwrap(),
            hostname: format!("atm-{}", self.serial.to_lowercase()),
            label: Some("batch-7".parse().unwrap()),
            ek_public: Base64(self.endorsement.public.clone()),
            ek_certificate: self.endorsement.certificate.clone().map(Base64),
            key_public: Base64(self.key.public_area().to_vec()),
            csr: Base64(certificate_request(&self.key, &self.serial).unwrap()),
        }
    }

    /// The path and the right body of the second request.
    pub(crate) fn answer(&self, challenge: &Challenge) -> (String, Vec<u8>) {
        let secret = self
            .tpm
            .activate_credential(&self.key, &challenge.credential_blob.0, &challenge.encrypted_secret.0)
            .unwrap();
        let request = ActivateRequest { secret: Base64(secret.to_vec()) };
        (format!("{ENROL_PATH}/{}", challenge.session), serde_json::to_vec(&request).unwrap())
    }

    /// The whole exchange; the answer to the second request.
    pub(crate) async fn enrol(&self, manager: &Manager) -> Answer {
        let client = Client::anonymous(manager);
        let introduction = serde_json::to_vec(&self.introduction()).unwrap();
        let challenge: Challenge = client.post(ENROL_PATH, introduction).await.json(200);
        let (path, body) = self.answer(&challenge);
        client.post(&path, body).await
    }

    /// What the device presents in TLS from now on.
    pub(crate) fn identity(&self, enrolled: &Enrolled) -> Identity {
        identity(&enrolled.certificate_chain, Arc::new(self.key.clone()))
    }
}

pub(crate) fn identity(chain_pem: &str, key: Arc<dyn DeviceKey>) -> Identity {
    Identity::new(chain::certificates(chain_pem.as_bytes()).unwrap(), key).unwrap()
}

/// The serial number of `identity`'s certificate, as `openssl` prints it.
pub(crate) fn certificate_serial(identity: &Identity) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(&identity.chain()[0]).unwrap();
    certificate.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect()
}
