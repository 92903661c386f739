//! Configuration, revocation list and health.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::IntoResponse;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use m2m_protocol::device_config::DeviceConfig;
use time::OffsetDateTime;

use super::{Peer, Service};
use crate::problem::Refusal;

/// GET /api/v1/configuration
pub(super) async fn configuration(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<DeviceConfig>, Refusal> {
    let now = OffsetDateTime::now_utc();
    let known = peer.device(&service.fleet, now).await?;
    known.device.seen(&mut *service.fleet.store().read().await?, now).await?;
    Ok(Json(service.fleet.configuration(&known.device.id)))
}

/// GET /crl.der: `application/pkix-crl`, RFC 2585 section 4.2.
pub(super) async fn revocation_list(State(service): State<Arc<Service>>) -> Result<impl IntoResponse, Refusal> {
    let list = service.fleet.revocation_list().await?;
    Ok(([(CONTENT_TYPE, "application/pkix-crl"), (CACHE_CONTROL, "no-cache")], list.der))
}

/// GET /healthz
pub(super) async fn health(State(service): State<Arc<Service>>) -> Result<&'static str, Refusal> {
    service.fleet.store().check().await?;
    Ok("ok\n")
}
