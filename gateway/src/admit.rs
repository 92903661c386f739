//! Whether somebody who asks for a tunnel gets one, and which.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use m2m_tunnel::request;
use m2m_tunnel::scope::Scope;
use rustls_pki_types::CertificateDer;

use crate::confinement::Confinement;
use crate::device_certificate::DeviceCertificate;
use crate::gateway::Gateway;
use crate::metrics::{ConnectionOutcome, DeviceCounters};
use crate::pool::Addresses;
use crate::session::End;

/// Who asks.
#[derive(Debug)]
pub(crate) struct Applicant {
    /// The certificates that it showed, its own first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Where it is.
    pub(crate) remote: SocketAddr,
    /// What the tunnel is to be confined to.
    pub(crate) scope: Scope,
}

/// What a device gets.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Its certificate.
    pub(crate) certificate: DeviceCertificate,
    /// Its addresses.
    pub(crate) addresses: Addresses,
    /// What it asked to be confined to.
    pub(crate) confinement: Option<Confinement>,
    /// Its counters.
    pub(crate) counters: DeviceCounters,
}

/// Why somebody gets no tunnel.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// For the metrics.
    pub(crate) outcome: ConnectionOutcome,
    /// What whoever asks is told.
    pub(crate) answer: request::Refusal,
    /// Whose certificate it showed, as far as it is one of a device.
    pub(crate) device: Option<String>,
}

/// Decides.
pub(crate) async fn admit(gateway: &Arc<Gateway>, applicant: Applicant) -> Result<Admitted, Refusal> {
    let Applicant { chain, remote, scope } = applicant;
    log::debug!("{remote} asks for a tunnel");
    let certificate = chain.first().ok_or_else(|| "no client certificate".to_owned());
    let certificate = certificate.and_then(|leaf| DeviceCertificate::read(leaf).map_err(|error| error.to_string()));
    let certificate = certificate.map_err(|reason| Refusal {
        outcome: ConnectionOutcome::NotADevice,
        answer: request::Refusal::new(StatusCode::FORBIDDEN, reason),
        device: None,
    })?;
    let device = certificate.device.clone();
    let refused = |outcome, status, reason: &str| Refusal {
        outcome,
        answer: request::Refusal::new(status, reason),
        device: Some(device.to_string()),
    };
    // The list may have been replaced since TLS looked at it.
    if gateway.is_revoked(&certificate) {
        return Err(refused(ConnectionOutcome::HandshakeFailed, StatusCode::FORBIDDEN, End::Revoked.reason()));
    }
    let confinement = Confinement::of(&scope, &gateway.policy.advertised()).await;
    let confinement = confinement.map_err(|answer| Refusal {
        outcome: ConnectionOutcome::BadRequest,
        answer,
        device: Some(device.to_string()),
    })?;
    let addresses = gateway
        .addresses_for(&device)
        .await
        .map_err(|reason| refused(ConnectionOutcome::NoRoom, StatusCode::SERVICE_UNAVAILABLE, &reason))?;
    let counters = gateway.metrics.device(&device);
    Ok(Admitted { certificate, addresses, confinement, counters })
}
