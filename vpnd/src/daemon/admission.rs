//! Enrols this machine: key, exchange, store.

use std::sync::Arc;

use m2m_identity::DeviceKey;
use m2m_identity::tpm::{TpmError, TpmKey};
use m2m_protocol::Version1;

use super::device::{Device, Member, Provision};
use crate::enrol::{self, Answer, TpmApplicant};
use crate::state::{Admission, EnrolFailure, Membership};
use crate::store::{Enrolment, KeyId};

/// Asks the manager to be let in, and stores what it gives.
pub(super) async fn enrol(device: &Arc<Device>) -> Result<Admission, EnrolFailure> {
    let Some(provision) = device.provision() else {
        return Err(EnrolFailure::Identity("the TPM has not been opened".to_owned()));
    };
    let key = {
        let (device, provision) = (Arc::clone(device), Arc::clone(&provision));
        let work = tokio::task::spawn_blocking(move || find_or_make_key(&device, &provision));
        Arc::new(work.await.unwrap_or_else(|error| Err(EnrolFailure::Identity(error.to_string())))?)
    };
    let network = device.network().await.map_err(|error| EnrolFailure::Identity(error.to_string()))?;
    let manager = &provision.manager;
    let stream = network
        .connect_manager(&manager.origin)
        .await
        .map_err(|error| EnrolFailure::Passing(format!("manager {}: {error}", manager.origin)))?;
    let applicant = Arc::new(TpmApplicant::new(
        provision.tpm.clone(),
        Arc::clone(&key),
        provision.machine.clone(),
        provision.first_boot.clone(),
    ));
    match enrol::exchange(stream, manager, applicant, &device.clock).await {
        Ok(Answer::Enrolled(membership)) => keep(device, &provision, &key, *membership),
        Ok(Answer::Pending { reason, retry_after }) => {
            device.clock.believe();
            log::info!("enrolment pending: {reason}");
            Ok(Admission::Pending { reason, retry_after })
        }
        Err(error) => Err(error.failure()),
    }
}

/// A key that this TPM made before, that of the enrolment if it is one of them; else a new one, stored before it is used.
fn find_or_make_key(device: &Device, provision: &Provision) -> Result<TpmKey, EnrolFailure> {
    let unusable = |error: &dyn std::fmt::Display| EnrolFailure::Identity(error.to_string());
    let enrolled = device.store.enrolment().ok().flatten().map(|enrolment| enrolment.key);
    let mut ids = device.store.keys().map_err(|error| unusable(&error))?;
    ids.sort_by_key(|id| enrolled.as_ref() != Some(id));
    for id in &ids {
        let Some(pem) = device.store.key(id).map_err(|error| unusable(&error))? else { continue };
        match provision.tpm.load_signing_key(&pem) {
            Ok(key) => return Ok(key),
            Err(error @ (TpmError::KeyOfAnotherTpm | TpmError::KeyFile(_))) => {
                log::warn!("a stored key is left: {error}")
            }
            Err(error) => return Err(unusable(&error)),
        }
    }
    let key = provision.tpm.create_signing_key().map_err(|error| unusable(&error))?;
    let id = KeyId::of(key.spki_der());
    device.store.add_key(&id, &key.to_pem()).map_err(|error| unusable(&error))?;
    // Besides the enrolment's key, which its own TPM could still use, nothing is worth keeping.
    let keep: Vec<&KeyId> = [Some(&id), enrolled.as_ref()].into_iter().flatten().collect();
    device.store.keep_keys(&keep).map_err(|error| unusable(&error))?;
    device.board.key_made();
    log::info!("key created in the TPM");
    Ok(key)
}

fn keep(
    device: &Device,
    provision: &Provision,
    key: &TpmKey,
    membership: enrol::Membership,
) -> Result<Admission, EnrolFailure> {
    let enrol::Membership { identity, certificate_chain, configuration } = membership;
    let id = KeyId::of(key.spki_der());
    let tunnel = configuration.tunnel.clone();
    let member = Member::new(&identity, provision.manager.anchors.clone(), tunnel.clone())
        .map_err(|error| EnrolFailure::Passing(error.to_string()))?;
    let device_id = configuration.device_id.to_string();
    let enrolment = Enrolment { version: Version1, key: id.clone(), certificate_chain, configuration };
    device.store.put_enrolment(&enrolment).map_err(|error| EnrolFailure::Identity(error.to_string()))?;
    if let Err(error) = device.store.keep_keys(&[&id]) {
        log::warn!("a key that is no longer used could not be removed: {error}");
    }
    device.clock.believe();
    log::info!("enrolled as {device_id}");
    device.set_member(Some(device_id), Some(member));
    device.board.enrolled();
    Ok(Admission::Member(Membership::new(&tunnel, true)))
}
