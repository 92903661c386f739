//! The body of a request.

use axum::extract::{FromRequest, Request};
use axum::response::IntoResponse;
use http::StatusCode;
use m2m_protocol::enrolment::MAX_BODY;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::problem::Refusal;

/// A whole body within the limit; wiped from memory when dropped, as it may hold a secret.
pub(crate) struct Body(Zeroizing<Vec<u8>>);

impl Body {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The body as the JSON of a `T`.
    ///
    /// # Errors
    /// A [`Refusal`] that names the field. It never quotes the body.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let mut deserializer = serde_json::Deserializer::from_slice(&self.0);
        let value = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| Refusal::field(&field(&error), without_values(error.inner())))?;
        deserializer.end().map_err(|error| Refusal::field("body", error))?;
        Ok(value)
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
                let detail = format!("body: expected at most {MAX_BODY} bytes");
                return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "Body too large", detail);
            }
            Refusal::field("body", "it could not be read to its end")
        })?;
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }
}

/// A missing or unknown field is reported at its parent; serde's message names it then.
fn field(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    let message = error.inner().to_string();
    let quoted = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.split('`').next()).map(str::to_owned);
    if path != "." {
        return path;
    }
    quoted("missing field `").or_else(|| quoted("unknown field `")).unwrap_or_else(|| "body".to_owned())
}

/// serde quotes a value of a wrong type, which may be a secret that was put in the wrong place.
fn without_values(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        Some((_, expected)) => format!("expected {expected}"),
        None => message,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use m2m_protocol::enrolment::{ActivateRequest, EnrolRequest};

    use super::*;

    fn complaint<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        let refusal = Body(Zeroizing::new(text.as_bytes().to_vec())).json::<T>().unwrap_err();
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        refusal.to_string()
    }

    #[test]
    fn a_wrong_body_names_the_field_and_never_quotes_a_secret() {
        assert!(complaint::<ActivateRequest>("").contains("body"));
        assert!(complaint::<ActivateRequest>("{}").contains(" secret: "));
        assert!(complaint::<ActivateRequest>("{\"secret\": \"AA==\", \"x\": 1}").contains(" x: "));
        assert!(complaint::<ActivateRequest>("{\"secret\": \"%\"}").contains(" secret: expected base64"));
        assert!(complaint::<ActivateRequest>("{\"secret\": \"AA==\"} x").contains(" body: "));
        let complaint = complaint::<EnrolRequest>("{\"version\": \"hunter2\"}");
        assert!(complaint.contains(" version: ") && !complaint.contains("hunter2"), "{complaint}");
    }
}
