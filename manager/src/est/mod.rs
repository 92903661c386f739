//! Enrollment over Secure Transport (RFC 7030), for machines without TPM and for renewals.

mod basic;
mod pkcs7;

use std::sync::Arc;

use anyhow::Context;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};
use m2m_protocol::names::Token;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::ca::{Issued, hex};
use crate::csr::{self, SigningRequest};
use crate::enrol;
use crate::enrol::introduction::device_id;
use crate::fleet::Fleet;
use crate::http::{Body, Peer, Service};
use crate::problem::Refusal;
use crate::store::{Connection, Device, DeviceState, tokens};

const CERTS_ONLY: &str = "application/pkcs7-mime; smime-type=certs-only";
const TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");

/// GET cacerts: root and issuing CA (section 4.1.3).
pub(crate) async fn ca_certificates(State(service): State<Arc<Service>>) -> Response {
    let authority = service.fleet.authority();
    certificates("application/pkcs7-mime", &[authority.root(), authority.issuing()])
}

/// POST simpleenroll: a first certificate for who has a one-time token (section 4.2.1, HTTP Basic: the user is the
/// serial number, the password the token).
pub(crate) async fn simple_enroll(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let fleet = &service.fleet;
    let now = OffsetDateTime::now_utc();
    let Some(credentials) = basic::credentials(&headers) else {
        return Err(Refusal::unauthorized(
            "authenticate by HTTP Basic: the user is the device's serial number, the password a one-time token \
             made by `m2m-manager device token SERIAL`",
        ));
    };
    let mut tx = fleet.store().write().await?;
    // Whatever fails after this rolls back, so that the token is used up by a certificate only.
    if !tokens::redeem(&mut tx, &credentials.serial, &credentials.token, now).await? {
        log::warn!("EST: wrong, used or expired token for serial {}", credentials.serial);
        return Err(Refusal::unauthorized("the token is wrong, was used already or has expired"));
    }
    let request = signing_request(&body)?;
    let issued = enrol_without_tpm(fleet, &mut tx, credentials.serial.clone(), &request.spki, now).await?;
    tx.commit().await.context("writing a device")?;
    Ok(certificates(CERTS_ONLY, &[&issued.der]))
}

/// POST simplereenroll: a new certificate for a device that proves its present one (section 4.2.2). The present one
/// stays good until it expires, so that an answer that is lost costs nothing.
pub(crate) async fn simple_reenroll(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Response, Refusal> {
    let fleet = &service.fleet;
    let now = OffsetDateTime::now_utc();
    let known = peer.device(fleet, now).await?;
    let id = &known.device.id;
    let request = signing_request(&body)?;
    if request.subject != format!("CN={id}") {
        return Err(Refusal::field("csr", format_args!("expected the subject of the present certificate, CN={id}")));
    }
    if request.uris.iter().any(|uri| *uri != format!("urn:m2mvpn:device:{id}")) {
        return Err(Refusal::field("csr", "expected the alternative name of the present certificate, or none"));
    }
    let same_key = hex(&Sha256::digest(&request.spki)) == known.certificate.key_hash;
    if known.device.ek_hash.is_some() && !same_key {
        return Err(Refusal::forbidden(
            "Key not proved",
            "csr: a device with a TPM has to prove that a new key is in it: enrol again by POST /api/v1/enrol",
        ));
    }

    let mut tx = fleet.store().write().await?;
    // Revoked in this very moment?
    let Some(device) = Device::by_id(&mut tx, id.as_str()).await? else {
        return Err(Refusal::not_found("the device is no longer known"));
    };
    if device.state != DeviceState::Approved {
        return Err(enrol::revoked(&device));
    }
    let device = Device { last_seen: now, ..device };
    device.save(&mut tx).await?;
    let issued = fleet.certify(&mut tx, &device, &request.spki, now).await?;
    tx.commit().await.context("writing a certificate")?;
    log::info!("device {id} (serial {}) has renewed its certificate: {}", device.serial, issued.serial);
    Ok(certificates(CERTS_ONLY, &[&issued.der]))
}

/// Lets the device `serial`, which has no TPM, in with the key `spki`. If it was known before, it keeps its id, and its
/// former certificates are superseded.
pub(crate) async fn enrol_without_tpm(
    fleet: &Fleet,
    tx: &mut Connection,
    serial: Token,
    spki: &[u8],
    now: OffsetDateTime,
) -> Result<Issued, Refusal> {
    let same_serial = Device::by_serial(tx, serial.as_str()).await?;
    if let Some(other) =
        same_serial.iter().find(|device| device.ek_hash.is_some() && device.state == DeviceState::Approved)
    {
        return Err(Refusal::forbidden(
            "Serial number is taken",
            format!("the serial number belongs to device {}, which has a TPM: revoke that one first", other.id),
        ));
    }
    let device = match same_serial.into_iter().find(|device| device.ek_hash.is_none()) {
        Some(device) if device.state == DeviceState::Revoked => return Err(enrol::revoked(&device)),
        Some(device) => Device { last_seen: now, ..device },
        None => {
            let id = device_id(&hex(&Sha256::digest(spki)));
            if let Some(other) = Device::by_id(tx, id.as_str()).await? {
                return Err(Refusal::forbidden(
                    "Key is taken",
                    format!(
                        "csr: the key is that of the device with the serial number {}: make a new one",
                        other.serial
                    ),
                ));
            }
            Device {
                id,
                hostname: serial.to_string(),
                serial,
                label: None,
                ek_hash: None,
                ek_certificate: None,
                state: DeviceState::Approved,
                reason: "an administrator made a token or certificate for it".to_owned(),
                first_seen: now,
                last_seen: now,
            }
        }
    };
    device.save(tx).await?;
    let issued = fleet.certify_anew(tx, &device, spki, now).await?;
    log::info!("device {} (serial {}) is enrolled without TPM: {}", device.id, device.serial, issued.serial);
    Ok(issued)
}

/// The body of both requests: a PKCS#10 request, base64, with or without line breaks (RFC 8951 section 3.1).
fn signing_request(body: &Body) -> Result<SigningRequest, Refusal> {
    let text: Vec<u8> = body.bytes().iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = STANDARD
        .decode(text)
        .map_err(|error| Refusal::field("csr", format_args!("expected a PKCS#10 request as base64: {error}")))?;
    csr::parse(&der).map_err(|problem| Refusal::field("csr", problem))
}

fn certificates(media_type: &'static str, certificates: &[&CertificateDer<'static>]) -> Response {
    let encoded = STANDARD.encode(pkcs7::certificates_only(certificates));
    let mut body = String::with_capacity(encoded.len() + encoded.len() / 64 + 1);
    for (index, character) in encoded.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            body.push('\n');
        }
        body.push(character);
    }
    body.push('\n');
    ([(CONTENT_TYPE, media_type), (TRANSFER_ENCODING, "base64")], body).into_response()
}
