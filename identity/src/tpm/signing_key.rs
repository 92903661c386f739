//! The device's signing key in the TPM.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use tss_esapi::{
    Context, Error, WrapperErrorKind,
    attributes::ObjectAttributesBuilder,
    constants::Tss2ResponseCodeKind,
    handles::KeyHandle,
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
        resource_handles::Hierarchy,
        session_handles::AuthSession,
    },
    structures::{
        Digest, EccPoint, EccScheme, HashScheme, HashcheckTicket, Private, Public, PublicBuffer, PublicBuilder,
        PublicEccParametersBuilder, Signature, SignatureScheme,
    },
    traits::{Marshall, UnMarshall},
};

use super::{
    TpmError,
    key_file::{self, Material},
    srk,
    thread::{Device, Failure, Handle, flush},
};
use crate::{DeviceKey, KeyError, credential::PublicArea, signature::ecdsa_der};

/// An ECDSA P-256 key that lives in a TPM and never leaves it.
#[derive(Clone, Debug)]
pub struct TpmKey {
    thread: Handle,
    material: Arc<Material>,
    pem: String,
    spki: Vec<u8>,
    name: Vec<u8>,
}

impl TpmKey {
    /// The key as a PEM block `TSS2 PRIVATE KEY` (ASN.1 Specification for TPM 2.0 Key Files). Its private part is
    /// encrypted: only the TPM that made the key can use it.
    pub fn to_pem(&self) -> String {
        self.pem.clone()
    }

    /// The key's public area: a marshalled `TPM2B_PUBLIC`.
    pub fn public_area(&self) -> &[u8] {
        &self.material.public
    }

    /// The key's Name: its Name algorithm and the digest of its public area.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn new(thread: Handle, material: Material) -> Result<Self, TpmError> {
        let malformed = |error| TpmError::KeyFile(format!("the public area: {error}"));
        let area = PublicArea::parse(&material.public).map_err(malformed)?;
        Ok(Self {
            spki: area.p256_spki().map_err(malformed)?,
            name: area.name().to_vec(),
            pem: key_file::encode(&material)?,
            thread,
            material: Arc::new(material),
        })
    }

    pub(super) fn material(&self) -> Arc<Material> {
        Arc::clone(&self.material)
    }
}

impl DeviceKey for TpmKey {
    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let hash = digest(&SHA256, message);
        let key = self.material();
        let signature = self.thread.run("sign", move |device| sign(device, &key, hash.as_ref()))?;
        Ok(signature)
    }
}

pub(super) fn create(device: &mut Device) -> Result<Material, Failure> {
    let template = template()?;
    let created = srk::with(device, |context, srk| {
        Ok(context.execute_with_session(Some(AuthSession::Password), |context| {
            context.create(srk, template, None, None, None, None)
        })?)
    })?;
    Ok(Material { public: marshalled(created.out_public)?, private: sized(created.out_private.value())? })
}

/// Loads `key`, runs `work` with it, and flushes it.
pub(super) fn with<T>(
    device: &mut Device,
    key: &Material,
    work: impl FnOnce(&mut Context, KeyHandle) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let public = Public::try_from(PublicBuffer::unmarshall(&key.public)?)?;
    let private = key
        .private
        .get(2..)
        .and_then(|content| Private::try_from(content).ok())
        .ok_or_else(|| TpmError::KeyFile("the private part is too long or empty".to_owned()))?;
    let handle = srk::with(device, |context, srk| {
        context
            .execute_with_session(Some(AuthSession::Password), |context| context.load(srk, private, public))
            .map_err(refusal)
    })?;
    let context = &mut device.context;
    let result = work(context, handle);
    flush(context, handle.into());
    result
}

/// The marshalled `TPM2B_PUBLIC`.
pub(super) fn marshalled(public: Public) -> Result<Vec<u8>, Error> {
    PublicBuffer::try_from(public)?.marshall()
}

fn sign(device: &mut Device, key: &Material, hash: &[u8]) -> Result<Vec<u8>, Failure> {
    let hash = Digest::try_from(hash)?;
    let signature = with(device, key, |context, key| {
        Ok(context.execute_with_session(Some(AuthSession::Password), |context| {
            context.sign(
                key,
                hash,
                SignatureScheme::EcDsa { hash_scheme: HashScheme::new(HashingAlgorithm::Sha256) },
                no_ticket()?,
            )
        })?)
    })?;
    let Signature::EcDsa(signature) = signature else {
        return Err(Error::WrapperError(WrapperErrorKind::WrongValueFromTpm).into());
    };
    ecdsa_der(signature.signature_r(), signature.signature_s())
        .map_err(|_| Error::WrapperError(WrapperErrorKind::WrongValueFromTpm).into())
}

/// What the TPM's refusal to load a key means.
fn refusal(error: Error) -> Failure {
    let Error::Tss2Error(code) = error else {
        return error.into();
    };
    match code.kind() {
        // The private part was encrypted and signed by another storage root key.
        Some(Tss2ResponseCodeKind::Integrity) => TpmError::KeyOfAnotherTpm.into(),
        Some(Tss2ResponseCodeKind::Binding) => {
            TpmError::KeyFile("public and private part do not belong together".to_owned()).into()
        }
        _ => error.into(),
    }
}

/// The ticket of a digest that was not computed by the TPM: none is needed for an unrestricted key.
fn no_ticket() -> Result<HashcheckTicket, Error> {
    use tss_esapi::{constants::tss::TPM2_ST_HASHCHECK, tss2_esys::TPMT_TK_HASHCHECK};
    HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: tss_esapi::handles::TpmHandle::from(Hierarchy::Null).into(),
        digest: Default::default(),
    })
}

fn template() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_unrestricted_signing_key(
                EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)),
                EccCurve::NistP256,
            )
            .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// `content` as a TPM2B structure.
fn sized(content: &[u8]) -> Result<Vec<u8>, Error> {
    let length = u16::try_from(content.len()).map_err(|_| Error::WrapperError(WrapperErrorKind::WrongParamSize))?;
    Ok([&length.to_be_bytes()[..], content].concat())
}
