//! Keys and certificates: one signer for rustls, whatever holds the private key.
//!
//! | room | what it does |
//! |---|---|
//! | [`DeviceKey`] | a P-256 key that can sign; [`PemKey`] in software, [`tpm::TpmKey`] in a TPM 2.0 |
//! | [`card`] | a key and its certificates on a smartcard, a token or an HSM: PKCS #11 |
//! | [`SoftCertificate`] | a key in software and its certificates, in one file with a PIN: PKCS #12 |
//! | [`machine_bound`] | a key in software that opens on one machine only |
//! | [`chain`] | reads certificate chains, trust anchors and private keys from files |
//! | [`certificate_request`] | a PKCS#10 request signed by any [`DeviceKey`] |
//! | [`tpm`] | the one thread that talks to the TPM: endorsement, keys, credential activation |
//! | [`credential`] | TPM2_MakeCredential without a TPM, for the server side of enrolment |
//! | [`endorsement`] | which TPM makers are believed, and the check of an endorsement key's certificate |
//! | [`tls`] | the TLS 1.3 configurations of device, gateway and manager |

pub mod card;
pub mod chain;
pub mod credential;
pub mod endorsement;
mod key;
pub mod machine_bound;
mod pem_key;
mod request;
mod signature;
mod soft_certificate;
mod spki;
pub mod tls;
pub mod tpm;

pub use key::{DeviceKey, KeyError};
pub use pem_key::PemKey;
pub use request::{RequestError, certificate_request};
pub use soft_certificate::{SoftCertificate, SoftCertificateError};
