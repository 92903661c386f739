//! Error answers: Problem Details for HTTP APIs (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use m2m_protocol::enrolment::Problem;

/// A request that is not answered as wished, and why.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    title: &'static str,
    detail: String,
    retry_after_s: Option<u32>,
}

impl Refusal {
    /// 400: `field` of the request is wrong.
    pub(crate) fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Malformed request", format!("{field}: {problem}"))
    }

    /// 401: HTTP Basic credentials are missing or wrong.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Not authenticated", detail)
    }

    /// 403: who asks is known, and may not.
    pub(crate) fn forbidden(title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, title, detail)
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found", detail)
    }

    /// 429 or 503: ask again later.
    pub(crate) fn later(status: StatusCode, detail: impl Into<String>, retry_after_s: u32) -> Self {
        let title = if status == StatusCode::TOO_MANY_REQUESTS { "Too many requests" } else { "Overloaded" };
        Self { retry_after_s: Some(retry_after_s), ..Self::new(status, title, detail) }
    }

    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, title, detail: detail.into(), retry_after_s: None }
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

/// What went wrong inside is for the log, not for the client.
impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        log::error!("a request failed: {error:#}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error", "the manager's log says why")
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.title, self.detail)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem { status: self.status.as_u16(), title: self.title.to_owned(), detail: Some(self.detail) };
        let mut response = (self.status, axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"enrolment\", charset=\"UTF-8\""));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
