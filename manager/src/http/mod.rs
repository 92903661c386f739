//! The manager's HTTP interface.
//!
//! | request | who may | what |
//! |---|---|---|
//! | `POST /api/v1/enrol`, `POST /api/v1/enrol/{session}` | everybody | enrolment by TPM |
//! | `GET /api/v1/configuration` | devices, by their certificate | the device's configuration |
//! | `GET /.well-known/est/cacerts` | everybody | the CA certificates (RFC 7030 section 4.1) |
//! | `POST /.well-known/est/simpleenroll` | who has a one-time token | a first certificate (section 4.2.1) |
//! | `POST /.well-known/est/simplereenroll` | devices, by their certificate | a new certificate (section 4.2.2) |
//! | `GET /crl.der` | everybody | the certificate revocation list |
//! | `GET /healthz` | everybody | 200 if the manager can do its work |

mod body;
mod limit;
mod peer;
mod public;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use m2m_protocol::enrolment::{CONFIGURATION_PATH, CRL_PATH, ENROL_PATH, MAX_BODY};

use crate::enrol::Enrolment;
use crate::fleet::Fleet;
use crate::problem::Refusal;
use crate::{enrol, est};

pub(crate) use body::Body;
pub(crate) use limit::Network;
pub(crate) use peer::Peer;

use limit::Buckets;

/// How long a request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) enrolment: Enrolment,
    buckets: Mutex<Buckets>,
}

impl Service {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        let buckets = Mutex::new(Buckets::per_minute(fleet.config().limits.enrolments_per_minute));
        Self { enrolment: Enrolment::new(Arc::clone(&fleet)), buckets, fleet }
    }
}

/// The routes. Every request must carry a [`Peer`] extension.
pub(crate) fn router(service: Arc<Service>) -> Router {
    let limited = Router::new()
        .route(ENROL_PATH, post(enrol::http::begin))
        .route("/.well-known/est/simpleenroll", post(est::simple_enroll))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&service), limit_rate));
    Router::new()
        .merge(limited)
        .route(&format!("{ENROL_PATH}/{{session}}"), post(enrol::http::activate))
        .route("/.well-known/est/cacerts", get(est::ca_certificates))
        .route("/.well-known/est/simplereenroll", post(est::simple_reenroll))
        .route(CONFIGURATION_PATH, get(public::configuration))
        .route(CRL_PATH, get(public::revocation_list))
        .route("/healthz", get(public::health))
        .fallback(async || Refusal::not_found("nothing is served at this path"))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", "this path is served for another method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(limit_time))
        .with_state(service)
}

async fn limit_rate(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let network = Network::from(peer.address);
    let taken = service.buckets.lock().unwrap_or_else(PoisonError::into_inner).take(network, Instant::now());
    match taken {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            log::warn!("too many enrolment requests from {}", peer.address);
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            let detail = "your network has sent too many enrolment requests";
            Refusal::later(StatusCode::TOO_MANY_REQUESTS, detail, seconds).into_response()
        }
    }
}

async fn limit_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "Timeout", "the request was not complete in time").into_response()
    })
}
