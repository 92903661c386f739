//! The endorsement key: who the TPM is.

use tss_esapi::{
    Context, Error,
    abstraction::{
        AsymmetricAlgorithmSelection,
        ek::{create_ek_public_from_default_template_2, retrieve_ek_pubcert},
    },
    constants::{CapabilityType, SessionType, Tss2ResponseCodeKind},
    handles::{AuthHandle, KeyHandle, ObjectHandle, PersistentTpmHandle, SessionHandle, TpmHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        ecc::EccCurve,
        key_bits::RsaKeyBits,
        resource_handles::Hierarchy,
        session_handles::{AuthSession, PolicySession},
    },
    structures::{CapabilityData, Digest, EncryptedSecret, IdObject, Nonce, Public, SymmetricDefinition},
};
use zeroize::Zeroizing;

use super::{
    Endorsement, TpmError,
    key_file::Material,
    signing_key,
    thread::{Device, Failure, close, flush},
};

/// The NV indices of the certificates of the low range (TCG EK Credential Profile, section 2.2.1.4), best
/// first.
const CERTIFICATES: [(u32, AsymmetricAlgorithmSelection); 2] = [
    (0x01c0_000a, AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256)),
    (0x01c0_0002, AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048)),
];
/// Where TCG's provisioning guidance keeps the RSA 2048 endorsement key.
const PERSISTENT_RSA: u32 = 0x8101_0001;
const HANDLE_COUNT: u32 = 64;

pub(super) fn read(device: &mut Device) -> Result<Endorsement, Failure> {
    let context = &mut device.context;
    let (template, certified) = choose(context)?;
    let certificate = if certified { certificate(context, template) } else { None };
    let public = with_key(context, template, |_, _, public| Ok(public))?;
    Ok(Endorsement { public: signing_key::marshalled(public)?, certificate })
}

/// The certificate of the endorsement key. One that cannot be read is as good as none: the server decides whether
/// the machine is let in without.
fn certificate(context: &mut Context, template: AsymmetricAlgorithmSelection) -> Option<Vec<u8>> {
    match retrieve_ek_pubcert(context, template) {
        Ok(certificate) => Some(without_padding(certificate)),
        Err(error) => {
            log::warn!("the TPM does not give out its endorsement key certificate: {error}");
            None
        }
    }
}

/// A credential as the server sent it, checked for its outer form.
pub(super) struct Credential {
    blob: IdObject,
    secret: EncryptedSecret,
}

impl Credential {
    pub(super) fn parse(blob: &[u8], secret: &[u8]) -> Result<Self, TpmError> {
        let malformed = |field: &str| TpmError::Credential(format!("malformed {field}"));
        Ok(Self {
            blob: content(blob)
                .and_then(|bytes| IdObject::try_from(bytes).ok())
                .ok_or_else(|| malformed("TPM2B_ID_OBJECT"))?,
            secret: content(secret)
                .and_then(|bytes| EncryptedSecret::try_from(bytes).ok())
                .ok_or_else(|| malformed("TPM2B_ENCRYPTED_SECRET"))?,
        })
    }
}

pub(super) fn activate(
    device: &mut Device,
    key: &Material,
    credential: Credential,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    signing_key::with(device, key, |context, key| {
        let (template, _) = choose(context)?;
        with_key(context, template, |context, ek, _| activate_with(context, key, ek, credential))
    })
}

fn activate_with(
    context: &mut Context,
    key: KeyHandle,
    ek: KeyHandle,
    credential: Credential,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let session = context
        .start_auth_session(
            None,
            None,
            None,
            SessionType::Policy,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )?
        .ok_or(Error::WrapperError(tss_esapi::WrapperErrorKind::WrongValueFromTpm))?;
    let secret = PolicySession::try_from(session).and_then(|policy| {
        // PolicySecret with the endorsement hierarchy is policy A, which both templates have.
        context.execute_with_session(Some(AuthSession::Password), |context| {
            context.policy_secret(
                policy,
                AuthHandle::Endorsement,
                Nonce::default(),
                Digest::default(),
                Nonce::default(),
                None,
            )
        })?;
        context.execute_with_sessions((Some(AuthSession::Password), Some(session), None), |context| {
            context.activate_credential(key, ek, credential.blob, credential.secret)
        })
    });
    flush(context, SessionHandle::from(session).into());
    match secret {
        Ok(secret) => Ok(Zeroizing::new(secret.value().to_vec())),
        Err(error) if is_refusal(&error) => {
            Err(TpmError::Credential(format!("the TPM cannot decrypt it: {error}")).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the TPM says that the credential is wrong, and not that something else is.
///
/// `Failure` is what libtpms says of a ciphertext that its RSA key does not decrypt; a TPM that has really failed
/// would not have got as far as this command.
fn is_refusal(error: &Error) -> bool {
    use Tss2ResponseCodeKind::{EccPoint, Failure, Insufficient, Integrity, Size, Value};
    let Error::Tss2Error(code) = error else {
        return false;
    };
    matches!(code.kind(), Some(Integrity | Value | Size | Insufficient | EccPoint | Failure))
}

/// The handles of the TPM from `first` on within its range.
pub(super) fn handles(context: &mut Context, first: u32) -> Result<Vec<u32>, Failure> {
    let (found, _) = context.get_capability(CapabilityType::Handles, first, HANDLE_COUNT)?;
    let CapabilityData::Handles(found) = found else {
        return Ok(Vec::new());
    };
    Ok(found.into_inner().into_iter().map(u32::from).collect())
}

/// The template of the endorsement key in use, and whether the TPM holds its certificate.
fn choose(context: &mut Context) -> Result<(AsymmetricAlgorithmSelection, bool), Failure> {
    for (index, template) in CERTIFICATES {
        if handles(context, index)?.first() == Some(&index) {
            return Ok((template, true));
        }
    }
    Ok((CERTIFICATES[0].1, false))
}

/// Runs `work` with the endorsement key of `template`. The RSA key is taken from its persistent handle where there is
/// one: a discrete TPM may need a minute to derive it.
fn with_key<T>(
    context: &mut Context,
    template: AsymmetricAlgorithmSelection,
    work: impl FnOnce(&mut Context, KeyHandle, Public) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let public = create_ek_public_from_default_template_2(template, None)?;
    if let Some((mut persistent, found)) = persistent_like(context, &public)? {
        let result = work(context, persistent.into(), found);
        close(context, &mut persistent);
        return result;
    }
    let primary = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.create_primary(Hierarchy::Endorsement, public, None, None, None, None)
    })?;
    let result = work(context, primary.key_handle, primary.out_public);
    flush(context, primary.key_handle.into());
    result
}

/// The key at [`PERSISTENT_RSA`], if it was made from the template `wanted`.
fn persistent_like(context: &mut Context, wanted: &Public) -> Result<Option<(ObjectHandle, Public)>, Failure> {
    if handles(context, PERSISTENT_RSA)?.first() != Some(&PERSISTENT_RSA) {
        return Ok(None);
    }
    let handle = TpmHandle::Persistent(PersistentTpmHandle::new(PERSISTENT_RSA)?);
    let mut key = context.tr_from_tpm_public(handle)?;
    match context.read_public(key.into()) {
        Ok((found, ..)) if is_of_template(&found, wanted) => Ok(Some((key, found))),
        other => {
            close(context, &mut key);
            other?;
            Ok(None)
        }
    }
}

/// Whether two RSA public areas differ in their modulus only.
fn is_of_template(found: &Public, wanted: &Public) -> bool {
    let Public::Rsa { unique, .. } = wanted else {
        return false;
    };
    let mut found = found.clone();
    if let Public::Rsa { unique: modulus, .. } = &mut found {
        *modulus = unique.clone();
    }
    found == *wanted
}

/// Some TPMs fill the NV index up behind the certificate.
fn without_padding(mut certificate: Vec<u8>) -> Vec<u8> {
    let padding = match x509_parser::parse_x509_certificate(&certificate) {
        Ok((padding, _)) => padding.len(),
        // The server says what is wrong with it.
        Err(_) => 0,
    };
    certificate.truncate(certificate.len() - padding);
    certificate
}

/// What a TPM2B structure holds, if its length field is right.
fn content(structure: &[u8]) -> Option<&[u8]> {
    let (length, content) = structure.split_first_chunk()?;
    (usize::from(u16::from_be_bytes(*length)) == content.len()).then_some(content)
}
