//! `GET /metrics` for Prometheus and `GET /sessions` for people, on loopback.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use m2m_protocol::names::Token;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::net::TcpListener;

use crate::gateway::Gateway;
use crate::metrics::{self, DeviceCounts};
use crate::pool::Addresses;
use crate::session::Session;

/// Answers until the listener fails.
pub(crate) async fn serve(listener: TcpListener, gateway: Arc<Gateway>) -> io::Error {
    let router = Router::new().route("/metrics", get(metrics)).route("/sessions", get(sessions)).with_state(gateway);
    match axum::serve(listener, router).await {
        Ok(()) => io::Error::other("the metrics listener has ended"),
        Err(error) => error,
    }
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    gateway.update_gauges();
    ([(CONTENT_TYPE, metrics::MEDIA_TYPE)], gateway.metrics.to_text())
}

async fn sessions(State(gateway): State<Arc<Gateway>>) -> Json<SessionList> {
    let mut sessions: Vec<_> = gateway.table().sessions().map(|session| SessionEntry::new(session)).collect();
    sessions.sort_by(|one, other| one.device.cmp(&other.device));
    Json(SessionList { sessions })
}

#[derive(Debug, Serialize)]
struct SessionList {
    sessions: Vec<SessionEntry>,
}

#[derive(Debug, Serialize)]
struct SessionEntry {
    device: Token,
    addresses: Addresses,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    remote: SocketAddr,
    max_packet_size: usize,
    counters: DeviceCounts,
}

impl SessionEntry {
    fn new(session: &Session) -> Self {
        Self {
            device: session.certificate.device.clone(),
            addresses: session.addresses,
            since: session.since.into(),
            remote: session.remote(),
            max_packet_size: session.max_packet_size(),
            counters: session.counters.values(),
        }
    }
}
