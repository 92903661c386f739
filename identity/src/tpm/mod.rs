//! The TPM 2.0 of a device.
//!
//! One thread owns the TPM; every [`Tpm`], [`TpmKey`] and clone of them is a handle to it. Each operation
//! loads what it needs and flushes it again, so that nothing stays in the TPM's few object slots between
//! two operations, and has a time limit. The thread ends with the last handle.

mod ek;
mod interface;
mod key_file;
mod signing_key;
mod srk;
mod thread;

use std::time::Duration;

use zeroize::Zeroizing;

pub use key_file::is_key_file;
pub use signing_key::TpmKey;

/// A handle to the one thread that talks to the TPM.
///
/// Every method blocks until the TPM has answered, or the time limit is over: in asynchronous code call them from a
/// thread that may block.
#[derive(Clone, Debug)]
pub struct Tpm {
    thread: thread::Handle,
}

/// Who a TPM is: its endorsement key, and what its maker certified about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endorsement {
    /// The endorsement key's public area: a marshalled `TPM2B_PUBLIC`.
    pub public: Vec<u8>,
    /// The endorsement key's certificate, DER, if the TPM holds one.
    pub certificate: Option<Vec<u8>>,
}

impl Tpm {
    /// Opens the TPM that `tcti` names: `device:/dev/tpmrm0`; for tests also an emulator, as
    /// `swtpm:path=/run/tpm.sock` (its control channel at `/run/tpm.sock.ctrl`) or
    /// `swtpm:host=127.0.0.1,port=2321` (its control channel on the port after it).
    ///
    /// # Errors
    /// [`TpmError::Tcti`] when the text is malformed, [`TpmError::Open`] when there is no TPM.
    pub fn open(tcti: &str) -> Result<Self, TpmError> {
        Self::open_with_time_limit(tcti, Self::TIME_LIMIT)
    }

    /// How long an operation may take: the slowest, making an RSA primary key, takes tens of seconds on
    /// some discrete TPMs.
    pub const TIME_LIMIT: Duration = Duration::from_secs(90);

    /// As [`Tpm::open`], with another limit than [`Tpm::TIME_LIMIT`] for each operation.
    ///
    /// # Errors
    /// As [`Tpm::open`].
    pub fn open_with_time_limit(tcti: &str, limit: Duration) -> Result<Self, TpmError> {
        Ok(Self { thread: thread::Handle::start(tcti, limit)? })
    }

    /// The endorsement key and its certificate: ECC P-256 if the TPM holds a certificate for that
    /// (template L-2), else RSA 2048 if it holds one (template L-1), else ECC P-256 without one.
    ///
    /// # Errors
    /// [`TpmError`]
    pub fn endorsement(&self) -> Result<Endorsement, TpmError> {
        self.thread.run("read the endorsement key", ek::read)
    }

    /// Makes a signing key in the TPM: ECC P-256, child of the storage root key, without PIN and exempt from
    /// the dictionary-attack lockout. Nothing of it stays in the TPM: keep [`TpmKey::to_pem`].
    ///
    /// # Errors
    /// [`TpmError`]
    pub fn create_signing_key(&self) -> Result<TpmKey, TpmError> {
        let material = self.thread.run("create a signing key", signing_key::create)?;
        TpmKey::new(self.thread.clone(), material)
    }

    /// Takes the key in `pem` (`TSS2 PRIVATE KEY`) into use, having loaded it once to see that the TPM
    /// accepts it.
    ///
    /// # Errors
    /// [`TpmError::KeyFile`] when the file is malformed, [`TpmError::KeyOfAnotherTpm`] when another TPM made the key,
    /// or this one before it was reset.
    pub fn load_signing_key(&self, pem: &str) -> Result<TpmKey, TpmError> {
        let material = key_file::decode(pem)?;
        let material = self.thread.run("load the signing key", move |device| {
            signing_key::with(device, &material, |_, _| Ok(()))?;
            Ok(material)
        })?;
        TpmKey::new(self.thread.clone(), material)
    }

    /// Decrypts a credential that was made for this TPM's endorsement key and for `key`'s Name
    /// (TPM2_ActivateCredential). `credential_blob` is a marshalled `TPM2B_ID_OBJECT`, `encrypted_secret` a
    /// marshalled `TPM2B_ENCRYPTED_SECRET`.
    ///
    /// # Errors
    /// [`TpmError::Credential`] when it was made for another TPM or another key, or is malformed.
    pub fn activate_credential(
        &self,
        key: &TpmKey,
        credential_blob: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let credential = ek::Credential::parse(credential_blob, encrypted_secret)?;
        let material = key.material();
        self.thread.run("activate the credential", move |device| ek::activate(device, &material, credential))
    }
}

/// Why the TPM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The name of the TPM's interface is malformed.
    #[error(
        "`{0}` names no TPM: expected `device:/dev/tpmrm0`, or for an emulator `swtpm:path=/run/tpm.sock` or `swtpm:host=127.0.0.1,port=2321`"
    )]
    Tcti(String),
    /// The TPM cannot be opened.
    #[error("the TPM `{tcti}` cannot be opened: {reason}")]
    Open {
        /// Which TPM.
        tcti: String,
        /// What the TSS says.
        reason: String,
    },
    /// The TPM did not answer in time; it may still be busy.
    #[error("the TPM did not {operation} within {} s", limit.as_secs_f32())]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The TPM's thread is gone.
    #[error("the TPM can no longer be used; restart the program")]
    Gone,
    /// The key was made by another TPM, or by this one before it was reset.
    #[error("the key does not belong to this TPM: enrol this machine again")]
    KeyOfAnotherTpm,
    /// The key file is malformed, or holds a key of a kind that is not supported.
    #[error("malformed TPM key file: {0}")]
    KeyFile(String),
    /// The credential is not for this TPM and key, or is malformed.
    #[error("the credential is not for this TPM and this key: {0}")]
    Credential(String),
    /// The TPM refused a command.
    #[error("the TPM refused to {operation}: {reason}")]
    Command {
        /// What was asked.
        operation: &'static str,
        /// What the TPM answered.
        reason: String,
    },
}
