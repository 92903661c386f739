//! The storage root key: the parent of the device's keys.

use tss_esapi::{
    Context,
    attributes::ObjectAttributesBuilder,
    handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
        resource_handles::Hierarchy,
        session_handles::AuthSession,
    },
    structures::{EccPoint, Public, PublicBuilder, PublicEccParametersBuilder, SymmetricDefinitionObject},
};

use super::thread::{Device, Failure, close, flush};

/// Where TCG's provisioning guidance keeps the storage root key.
const PERSISTENT: u32 = 0x8100_0001;

/// How the storage root key is reached, once that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Srk {
    /// It lies at [`PERSISTENT`].
    Persistent,
    /// It is derived from the owner's seed for each operation.
    Transient,
}

/// Runs `work` with the handle of the ECC P-256 storage root key.
pub(super) fn with<T>(
    device: &mut Device,
    work: impl FnOnce(&mut Context, KeyHandle) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let srk = match device.srk {
        Some(srk) => srk,
        None => *device.srk.insert(find(&mut device.context)?),
    };
    let context = &mut device.context;
    match srk {
        Srk::Transient => {
            let key = derive(context)?.0;
            let result = work(context, key);
            flush(context, key.into());
            result
        }
        Srk::Persistent => {
            let mut key = persistent(context)?;
            let result = work(context, key.into());
            close(context, &mut key);
            result
        }
    }
}

/// Whether the key at [`PERSISTENT`] is the very key that the template yields. To compare templates would not do: others
/// persist a key of the same kind that was derived with another `unique` field.
fn find(context: &mut Context) -> Result<Srk, Failure> {
    if !super::ek::handles(context, PERSISTENT)?.contains(&PERSISTENT) {
        return Ok(Srk::Transient);
    }
    let mut key = persistent(context)?;
    let public = context.read_public(key.into());
    close(context, &mut key);
    let (transient, derived) = derive(context)?;
    flush(context, transient.into());
    Ok(if public?.0 == derived { Srk::Persistent } else { Srk::Transient })
}

fn persistent(context: &mut Context) -> Result<ObjectHandle, Failure> {
    let handle = TpmHandle::Persistent(PersistentTpmHandle::new(PERSISTENT)?);
    Ok(context.tr_from_tpm_public(handle)?)
}

fn derive(context: &mut Context) -> Result<(KeyHandle, Public), Failure> {
    let template = template()?;
    let primary = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.create_primary(Hierarchy::Owner, template, None, None, None, None)
    })?;
    Ok((primary.key_handle, primary.out_public))
}

/// TCG TPM v2.0 Provisioning Guidance, section 7.5.1, with an empty `unique` as the key file specification's users have it.
fn template() -> Result<Public, tss_esapi::Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_restricted_decryption_key(
                SymmetricDefinitionObject::AES_128_CFB,
                EccCurve::NistP256,
            )
            .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}
