//! The device's side of the enrolment ([`m2m_protocol::enrolment`]).
//!
//! One call of [`exchange`] is the whole conversation over one connection. It ends in an [`Answer`] that has been checked
//! from end to end, or in an [`EnrolError`]; it writes nothing, so no failure leaves anything half done.

mod applicant;
mod https;

use std::sync::Arc;
use std::time::Duration;

use m2m_identity::tls::{Identity, TrustAnchors};
use m2m_protocol::device_config::DeviceConfig;
use m2m_protocol::enrolment::{ActivateRequest, Challenge, ENROL_PATH, Enrolled, Pending, Problem};
use m2m_protocol::names::HttpsOrigin;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::certificate::{self, CertificateError};
use crate::clock::Clock;
use crate::peer::Distrust;
use crate::state::EnrolFailure;

pub use applicant::{Applicant, ApplicantError, TpmApplicant};
pub use https::HttpsError;
use https::{Connection, Response};

/// The manager, and by what to know it.
#[derive(Debug, Clone)]
pub struct Manager {
    /// Where it is.
    pub origin: HttpsOrigin,
    /// The only certificates that it may chain to: those of the first-boot file.
    pub anchors: TrustAnchors,
}

/// The manager's answer.
#[derive(Debug)]
pub enum Answer {
    /// The device is in.
    Enrolled(Box<Membership>),
    /// An administrator has to decide.
    Pending {
        /// The manager's reason, in one line.
        reason: String,
        /// When to ask again.
        retry_after: Duration,
    },
}

/// What the device was given; certificate, key and configuration belong together.
#[derive(Debug)]
pub struct Membership {
    /// Certificate chain and key.
    pub identity: Identity,
    /// The certificate chain as the manager wrote it, PEM.
    pub certificate_chain: String,
    /// The device's configuration.
    pub configuration: DeviceConfig,
}

/// Asks the manager at the other end of `stream` to be let in.
///
/// # Errors
/// [`EnrolError`]; the exchange may be repeated from the start.
pub async fn exchange<S, A>(
    stream: S,
    manager: &Manager,
    applicant: Arc<A>,
    clock: &Clock,
) -> Result<Answer, EnrolError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Applicant + 'static,
{
    let introduction = ask(&applicant, |applicant| applicant.introduce()).await?;
    let mut connection = Connection::open(stream, manager, clock).await?;
    let answer = connection.post(ENROL_PATH, to_json(&introduction)).await?;
    let challenge: Challenge = match answer.status {
        200 => understand("the challenge", &answer)?,
        _ => return Err(refusal(&answer)),
    };
    let path = format!("{ENROL_PATH}/{}", challenge.session);
    let secret = ask(&applicant, move |applicant| applicant.solve(&challenge)).await?;
    let answer = connection.post(&path, to_json(&ActivateRequest { secret })).await?;
    match answer.status {
        200 => admit(understand("the certificate", &answer)?, manager, applicant.as_ref(), clock),
        202 => {
            let pending: Pending = understand("the reason to wait", &answer)?;
            let retry_after = Duration::from_secs(u64::from(pending.retry_after_s));
            Ok(Answer::Pending { reason: one_line(&pending.reason), retry_after })
        }
        _ => Err(refusal(&answer)),
    }
}

/// Why there is no answer that can be acted upon.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The connection, TLS or HTTP failed.
    #[error("manager: {0}")]
    Https(#[from] HttpsError),
    /// The manager's answer is not what the protocol says.
    #[error("manager: {what} is malformed: {reason}")]
    Malformed {
        /// Which part of the answer.
        what: &'static str,
        /// Field and what was expected.
        reason: String,
    },
    /// The manager cannot serve now.
    #[error("manager: {0}")]
    Unavailable(String),
    /// The manager refuses this device.
    #[error("the manager refused: {0}")]
    Refused(String),
    /// The certificate that came is not this device's.
    #[error("manager: {0}")]
    Certificate(#[from] CertificateError),
    /// The TPM failed.
    #[error(transparent)]
    Applicant(#[from] ApplicantError),
}

impl EnrolError {
    /// What the failure means for the state machine.
    #[must_use]
    pub fn failure(&self) -> EnrolFailure {
        let cause = self.to_string();
        match self {
            Self::Https(HttpsError::Distrust(Distrust::OfServer(_))) => EnrolFailure::Untrusted(cause),
            Self::Https(HttpsError::Distrust(Distrust::OfDevice(_))) | Self::Refused(_) => EnrolFailure::Refused(cause),
            Self::Applicant(ApplicantError::Credential(_))
            | Self::Https(_)
            | Self::Malformed { .. }
            | Self::Unavailable(_)
            | Self::Certificate(_) => EnrolFailure::Passing(cause),
            Self::Applicant(_) => EnrolFailure::Identity(cause),
        }
    }
}

fn admit<A: Applicant>(
    enrolled: Enrolled,
    manager: &Manager,
    applicant: &A,
    clock: &Clock,
) -> Result<Answer, EnrolError> {
    let Enrolled { certificate_chain, configuration, .. } = enrolled;
    let device_id = &configuration.device_id;
    let identity = certificate::accept(&certificate_chain, applicant.key(), &manager.anchors, device_id, clock.now())?;
    Ok(Answer::Enrolled(Box::new(Membership { identity, certificate_chain, configuration })))
}

/// Lets the applicant work on a thread that may block: a TPM takes its time.
async fn ask<A, T>(
    applicant: &Arc<A>,
    work: impl FnOnce(&A) -> Result<T, ApplicantError> + Send + 'static,
) -> Result<T, EnrolError>
where
    A: Applicant + 'static,
    T: Send + 'static,
{
    let applicant = Arc::clone(applicant);
    match tokio::task::spawn_blocking(move || work(&applicant)).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(ApplicantError::Other(error.to_string()).into()),
    }
}

#[expect(clippy::expect_used, reason = "these types are strings and numbers in structs: JSON takes all of them")]
fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("JSON")
}

fn understand<T: DeserializeOwned>(what: &'static str, answer: &Response) -> Result<T, EnrolError> {
    let mut text = serde_json::Deserializer::from_slice(&answer.body);
    let malformed = |reason: String| EnrolError::Malformed { what, reason: one_line(&reason) };
    let value = serde_path_to_error::deserialize(&mut text).map_err(|error| malformed(error.to_string()))?;
    text.end().map_err(|error| malformed(error.to_string()))?;
    Ok(value)
}

fn refusal(answer: &Response) -> EnrolError {
    let words = match serde_json::from_slice::<Problem>(&answer.body) {
        Ok(Problem { title, detail: Some(detail), .. }) => one_line(&format!("{title}: {detail}")),
        Ok(problem) => one_line(&problem.title),
        Err(_) => "no reason given".to_owned(),
    };
    let text = format!("{words} (HTTP {})", answer.status);
    match answer.status {
        // Too early, too often, or a session that the manager forgot: another time it may work.
        404 | 408 | 409 | 410 | 425 | 429 | 500..=599 => EnrolError::Unavailable(text),
        400..=499 => EnrolError::Refused(text),
        _ => EnrolError::Unavailable(format!("unexpected answer: {text}")),
    }
}

/// Words from the network on their way into a log line.
fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(MOST).collect()
}
