//! The manager's own certificate, which it signs itself and renews in time.

use std::path::PathBuf;

use anyhow::Context;
use m2m_identity::tls::Identity;
use m2m_identity::{DeviceKey, chain};
use m2m_protocol::durable;
use std::sync::Arc;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use crate::ca::generate_key;
use crate::fleet::Fleet;
use crate::names::ServerName;

/// Key and chain in one file, so that one rename replaces both.
const FILE: &str = "server.pem";

/// The certificate and key that the server presents.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) identity: Identity,
}

/// The certificate of the last start, or a new one where that is missing, was not made for this CA and these names, or
/// is about to expire.
pub(super) async fn open(fleet: &Fleet, now: OffsetDateTime) -> anyhow::Result<Own> {
    let path = path(fleet);
    if path.exists() {
        match read(fleet) {
            Ok(own) => match why_not(fleet, &own, now) {
                None => return Ok(own),
                Some(reason) => log::info!("making a new server certificate: {reason}"),
            },
            Err(error) => log::warn!("making a new server certificate: {error:#}"),
        }
    }
    make(fleet, now).await
}

/// A new one, if `own` is about to expire.
pub(super) async fn renewed_if_due(fleet: &Fleet, own: &Own, now: OffsetDateTime) -> anyhow::Result<Option<Own>> {
    let Some(reason) = why_not(fleet, own, now) else { return Ok(None) };
    log::info!("making a new server certificate: {reason}");
    make(fleet, now).await.map(Some)
}

async fn make(fleet: &Fleet, now: OffsetDateTime) -> anyhow::Result<Own> {
    let (key, pem) = generate_key()?;
    let issued = fleet.certify_server(&fleet.config().names, key.spki_der(), now).await?;
    let chain = vec![issued.der.clone(), fleet.authority().issuing().clone()];
    let file = Zeroizing::new(format!("{}{}", pem.as_str(), chain::to_pem(&chain)));
    let path = path(fleet);
    durable::write(&path, file.as_bytes(), 0o600).with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(Own { identity: Identity::new(chain, Arc::new(key))? })
}

fn read(fleet: &Fleet) -> anyhow::Result<Own> {
    let path = path(fleet);
    let text = Zeroizing::new(std::fs::read_to_string(&path).with_context(|| path.display().to_string())?);
    let chain = chain::certificates(text.as_bytes()).with_context(|| path.display().to_string())?;
    let key = chain::private_key(&text, None).with_context(|| path.display().to_string())?;
    Ok(Own { identity: Identity::new(chain, key).with_context(|| path.display().to_string())? })
}

/// Why `own` is not to be used any more.
fn why_not(fleet: &Fleet, own: &Own, now: OffsetDateTime) -> Option<&'static str> {
    if own.identity.chain().get(1) != Some(fleet.authority().issuing()) {
        return Some("the present one is of another CA");
    }
    let leaf = own.identity.chain().first()?;
    let Ok((_, leaf)) = x509_parser::parse_x509_certificate(leaf) else { return Some("the present one is malformed") };
    if leaf.validity().not_after.to_datetime() - now < fleet.config().lifetimes.server.as_duration() / 3 {
        return Some("less than a third of the lifetime is left of the present one");
    }
    let mut configured = fleet.config().names.clone();
    configured.sort();
    configured.dedup();
    (names(&leaf) != configured).then_some("the configured names are others than those in the present one")
}

fn names(certificate: &X509Certificate<'_>) -> Vec<ServerName> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let mut names: Vec<ServerName> = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => name.parse().ok(),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| ServerName::Address(bytes.into())),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| ServerName::Address(bytes.into())),
            },
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

fn path(fleet: &Fleet) -> PathBuf {
    fleet.config().state_dir.join(FILE)
}
