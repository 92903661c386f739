//! The two requests of enrolment.

use std::sync::Arc;
use std::time::Instant;

use ::http::StatusCode;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use m2m_protocol::enrolment::{ActivateRequest, EnrolRequest};

use super::Outcome;
use crate::http::{Body, Service};
use crate::problem::Refusal;

/// POST /api/v1/enrol
pub(crate) async fn begin(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Refusal> {
    let request: EnrolRequest = body.json()?;
    let challenge = service.enrolment.begin(request, Instant::now())?;
    Ok(Json(challenge).into_response())
}

/// POST /api/v1/enrol/{session}
pub(crate) async fn activate(
    State(service): State<Arc<Service>>,
    Path(session): Path<String>,
    body: Body,
) -> Result<Response, Refusal> {
    let request: ActivateRequest = body.json()?;
    Ok(match service.enrolment.activate(&session, request, Instant::now()).await? {
        Outcome::Enrolled(enrolled) => Json(enrolled).into_response(),
        Outcome::Pending(pending) => (StatusCode::ACCEPTED, Json(pending)).into_response(),
    })
}
