//! What this machine has: files, TPM, key, certificate.

use std::path::Path;
use std::sync::Arc;

use m2m_identity::SoftCertificate;
use m2m_identity::card::Card;
use m2m_identity::chain;
use m2m_identity::machine_bound;
use m2m_identity::tls::{Identity, TrustAnchors};
use m2m_identity::tpm::{Tpm, TpmError};
use m2m_protocol::config_file;
use m2m_protocol::first_boot::FirstBoot;
use m2m_protocol::machine::Machine;
use zeroize::Zeroizing;

use super::device::{Device, Member, Provision};
use crate::certificate;
use crate::config::{Managed, Own, PemFiles, Pkcs11Card, Pkcs12File, Role, Standalone};
use crate::enrol::Manager;
use crate::state::{Found, LookFailure, Membership};
use crate::store::{Enrolment, StoreError};

const FOREIGN_KEY: &str = "the key does not belong to this TPM: the disk comes from another machine, or the TPM was \
                           reset; this machine has to enrol anew";

/// Looks at everything from the start.
pub(super) async fn look(device: &Arc<Device>) -> Result<Found, LookFailure> {
    device.forget();
    let found = match &device.config.role {
        Role::Managed(managed) => {
            let (first_boot, machine) = read_files(managed)?;
            let shared = Arc::clone(device);
            let tcti = managed.tcti.clone();
            // A TPM takes its time.
            let work = tokio::task::spawn_blocking(move || open_identity(&shared, &tcti, first_boot, machine));
            work.await.unwrap_or_else(|error| Err(LookFailure::Unusable(error.to_string())))
        }
        Role::Standalone(standalone) => read_standalone(device, standalone),
    };
    if !matches!(found, Err(LookFailure::Files(_) | LookFailure::Unusable(_))) {
        device.network().await.map_err(|error| LookFailure::Unusable(error.to_string()))?;
    }
    found
}

fn read_files(managed: &Managed) -> Result<(FirstBoot, Machine), LookFailure> {
    let first_boot = config_file::load(&managed.first_boot).map_err(|error| {
        // The image's own check has seen the file that is not there now.
        let said = std::fs::read_to_string(managed.first_boot.with_extension("error")).unwrap_or_default();
        LookFailure::Files(if said.trim().is_empty() { error.to_string() } else { said.trim().to_owned() })
    })?;
    let failed = |reason: String| LookFailure::Files(format!("{}: {reason}", managed.machine.display()));
    let text = std::fs::read(&managed.machine).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let machine = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    Ok((first_boot, machine))
}

fn open_identity(device: &Device, tcti: &str, first_boot: FirstBoot, machine: Machine) -> Result<Found, LookFailure> {
    let anchors = TrustAnchors::parse(first_boot.manager.trust_anchor.as_pem().as_bytes())
        .map_err(|error| LookFailure::Files(format!("first-boot file: manager.trust_anchor: {error}")))?;
    let tpm = Tpm::open(tcti).map_err(|error| LookFailure::Unusable(error.to_string()))?;
    let manager = Manager { origin: first_boot.manager.url.clone(), anchors: anchors.clone() };
    device.set_provision(Provision { manager, first_boot, machine, tpm: tpm.clone() });

    let enrolment = match device.store.enrolment() {
        Ok(Some(enrolment)) => enrolment,
        Ok(None) => return Ok(Found::NotEnrolled { note: None }),
        Err(error @ StoreError::Damaged { .. }) => return Ok(not_enrolled(&error)),
        Err(error @ StoreError::Io { .. }) => return Err(LookFailure::Unusable(error.to_string())),
    };
    let identity = match load_identity(device, &tpm, &enrolment)? {
        Ok(identity) => identity,
        Err(note) => return Ok(not_enrolled(&note)),
    };
    let configuration = enrolment.configuration;
    let found = Membership::new(&configuration.tunnel, true);
    match Member::new(&identity, anchors, configuration.tunnel) {
        Ok(member) => device.set_member(Some(configuration.device_id.to_string()), Some(member)),
        Err(error) => return Ok(not_enrolled(&error)),
    }
    Ok(Found::Member(found))
}

/// The enrolment's key and certificate; the inner error says why they are lost, so that new ones are needed.
fn load_identity(device: &Device, tpm: &Tpm, enrolment: &Enrolment) -> Result<Result<Identity, String>, LookFailure> {
    let pem = match device.store.key(&enrolment.key) {
        Ok(Some(pem)) => pem,
        Ok(None) => return Ok(Err("the key of the certificate is missing".to_owned())),
        Err(error) => return Err(LookFailure::Unusable(error.to_string())),
    };
    let key = match tpm.load_signing_key(&pem) {
        Ok(key) => Arc::new(key),
        Err(TpmError::KeyOfAnotherTpm) => return Err(LookFailure::ForeignKey(FOREIGN_KEY.to_owned())),
        Err(TpmError::KeyFile(reason)) => return Ok(Err(format!("the key of the certificate is damaged: {reason}"))),
        Err(error) => return Err(LookFailure::Unusable(error.to_string())),
    };
    Ok(certificate::join(&enrolment.certificate_chain, key).map_err(|error| error.to_string()))
}

fn not_enrolled(why: &dyn std::fmt::Display) -> Found {
    let note = format!("what was stored of the former enrolment cannot be used: {why}");
    log::warn!("{note}");
    Found::NotEnrolled { note: Some(note) }
}

fn read_standalone(device: &Device, files: &Standalone) -> Result<Found, LookFailure> {
    let (place, identity) = match &files.identity {
        Own::Pem(pem) => (&pem.certificate, read_pem(pem)?),
        Own::Bound(bound) => (&bound.certificate, read_bound(bound)?),
        Own::Pkcs12(pkcs12) => (&pkcs12.file, read_pkcs12(pkcs12)?),
        Own::Pkcs11(card) => (&card.module, open_card(card)?),
    };
    let anchors = TrustAnchors::parse(read(&files.trust_anchor)?.as_bytes())
        .map_err(|error| wrong(&files.trust_anchor, &error))?;
    let member = Member::new(&identity, anchors, files.tunnel.clone()).map_err(|error| wrong(place, &error))?;
    device.set_member(None, Some(member));
    Ok(Found::Member(Membership::new(&files.tunnel, false)))
}

fn read_pem(files: &PemFiles) -> Result<Identity, LookFailure> {
    let key = chain::private_key(&read(&files.key)?, None).map_err(|error| wrong(&files.key, &error))?;
    certificate::join(&read(&files.certificate)?, key).map_err(|error| wrong(&files.certificate, &error))
}

fn read_bound(files: &PemFiles) -> Result<Identity, LookFailure> {
    let key = machine_bound::open(&read(&files.key)?).map_err(|error| wrong(&files.key, &error))?;
    certificate::join(&read(&files.certificate)?, Arc::new(key)).map_err(|error| wrong(&files.certificate, &error))
}

fn read_pkcs12(Pkcs12File { file, pin }: &Pkcs12File) -> Result<Identity, LookFailure> {
    let content = std::fs::read(file).map(Zeroizing::new).map_err(|error| wrong(file, &error))?;
    let pin = pin.read().map_err(|error| LookFailure::Files(format!("identity.pkcs12: {error}")))?;
    let opened = SoftCertificate::open(&content, pin.reveal()).map_err(|error| wrong(file, &error))?;
    Identity::new(opened.chain, Arc::new(opened.key)).map_err(|error| wrong(file, &error))
}

fn open_card(Pkcs11Card { module, uri, pin }: &Pkcs11Card) -> Result<Identity, LookFailure> {
    let failed = |error: &dyn std::fmt::Display| LookFailure::Files(format!("identity.pkcs11: {error}"));
    let pin = pin.read().map_err(|error| failed(&error))?;
    let card = Card::open(module, uri, pin.reveal()).map_err(|error| failed(&error))?;
    Identity::new(card.chain, Arc::new(card.key)).map_err(|error| failed(&error))
}

fn read(path: &Path) -> Result<String, LookFailure> {
    std::fs::read_to_string(path).map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, error: &dyn std::fmt::Display) -> LookFailure {
    LookFailure::Files(format!("{}: {error}", path.display()))
}
