//! Whether somebody who asks for a tunnel gets one, and which.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use m2m_tunnel::http3::message::Request;
use m2m_tunnel::request;
use m2m_tunnel::scope::Scope;
use rustls_pki_types::CertificateDer;

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
}

/// What a device gets.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Its certificate.
    pub(crate) certificate: DeviceCertificate,
    /// Its addresses.
    pub(crate) addresses: Addresses,
    /// Its counters.
    pub(crate) counters: DeviceCounters,
}

/// Why somebody gets no tunnel.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// For the metrics.
    pub(crate) outcome: ConnectionOutcome,
    /// The answer's status.
    pub(crate) status: StatusCode,
    /// In words for whoever asks.
    pub(crate) reason: String,
    /// Whose certificate it showed, as far as it is one of a device.
    pub(crate) device: Option<String>,
}

/// Refuses what cannot be confined: a tunnel leads to all of the company's networks that a device may reach.
pub(crate) fn check_scope(request: &Request) -> Result<(), &'static str> {
    if request::scope(request).is_ok_and(|scope| scope == Scope::default()) {
        return Ok(());
    }
    Err("only target * and ipproto * are served")
}

/// Decides.
pub(crate) async fn admit(gateway: &Arc<Gateway>, applicant: Applicant) -> Result<Admitted, Refusal> {
    let Applicant { chain, remote } = applicant;
    log::debug!("{remote} asks for a tunnel");
    let certificate = chain.first().ok_or_else(|| "no client certificate".to_owned());
    let certificate = certificate.and_then(|leaf| DeviceCertificate::read(leaf).map_err(|error| error.to_string()));
    let certificate = certificate.map_err(|reason| Refusal {
        outcome: ConnectionOutcome::NotADevice,
        status: StatusCode::FORBIDDEN,
        reason,
        device: None,
    })?;
    let device = certificate.device.clone();
    let refused = |outcome, status, reason: &str| Refusal {
        outcome,
        status,
        reason: reason.to_owned(),
        device: Some(device.to_string()),
    };
    // The list may have been replaced since TLS looked at it.
    if gateway.is_revoked(&certificate) {
        return Err(refused(ConnectionOutcome::HandshakeFailed, StatusCode::FORBIDDEN, End::Revoked.reason()));
    }
    let addresses = gateway
        .addresses_for(&device)
        .await
        .map_err(|reason| refused(ConnectionOutcome::NoRoom, StatusCode::SERVICE_UNAVAILABLE, &reason))?;
    let counters = gateway.metrics.device(&device);
    Ok(Admitted { certificate, addresses, counters })
}
