//! Enrolment by TPM: a device proves its endorsement key and, bound to it, its TLS key; then policy decides.
//!
//! Everything that a device says before it has answered the challenge is believed only as far as it fits together,
//! and nothing that the manager knows about a device is told before.

pub(crate) mod ek_file;
mod endorsers;
pub(crate) mod http;
pub(crate) mod introduction;
mod policy;
mod session;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::http::StatusCode;
use anyhow::Context;
use m2m_identity::credential;
use m2m_protocol::Version1;
use m2m_protocol::enrolment::{ActivateRequest, Base64, Challenge, EnrolRequest, Enrolled, Pending};
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

use crate::ca::hex;
use crate::fleet::Fleet;
use crate::problem::Refusal;
use crate::store::{AllowedEk, Connection, Device, DeviceState, EkCa};
use introduction::Introduction;
use policy::{Facts, Verdict};
use session::{SessionError, Sessions};

/// The enrolments that are under way.
#[derive(Debug)]
pub(crate) struct Enrolment {
    fleet: Arc<Fleet>,
    sessions: Mutex<Sessions>,
}

/// What a device that has proved its TPM gets.
#[derive(Debug)]
pub(crate) enum Outcome {
    Enrolled(Box<Enrolled>),
    Pending(Pending),
}

impl Enrolment {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet, sessions: Mutex::default() }
    }

    /// Takes an introduction and makes the challenge for it.
    pub(crate) fn begin(&self, request: EnrolRequest, now: Instant) -> Result<Challenge, Refusal> {
        let key_public = request.key_public.clone();
        let introduction = Introduction::check(request, UnixTime::now())
            .map_err(|error| Refusal::field(error.field, error.problem))?;
        let challenge = credential::make(&introduction.ek_public, &key_public.0)
            .map_err(|error| Refusal::field("ek_public", error))?;
        let name: [u8; 16] = rand::random();
        let session: m2m_protocol::names::Token =
            hex(&name).parse().map_err(anyhow::Error::msg).context("naming a session")?;
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.open(session.clone(), introduction, challenge.secret, now).map_err(refusal)?;
        Ok(Challenge {
            session,
            credential_blob: Base64(challenge.credential_blob),
            encrypted_secret: Base64(challenge.encrypted_secret),
        })
    }

    /// Takes the answer to the challenge of `session`, and decides about the device.
    pub(crate) async fn activate(
        &self,
        session: &str,
        request: ActivateRequest,
        now: Instant,
    ) -> Result<Outcome, Refusal> {
        let answer = zeroize::Zeroizing::new(request.secret.0);
        let introduction = self
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .close(session, &answer, now)
            .map_err(refusal)?;
        self.decide(introduction, OffsetDateTime::now_utc()).await
    }

    async fn decide(&self, introduction: Introduction, now: OffsetDateTime) -> Result<Outcome, Refusal> {
        let mut tx = self.fleet.store().write().await?;
        let id = introduction.device_id();
        let known = Device::by_id(&mut tx, id.as_str()).await?;
        let verdict = self.verdict(&mut tx, &introduction, known.as_ref(), now).await?;
        if let Some(known) = &known
            && verdict == Verdict::Refuse
        {
            let seen = Device { last_seen: now, ..known.clone() };
            seen.save(&mut tx).await?;
            tx.commit().await.context("writing a device")?;
            return Err(revoked(&seen));
        }

        let mut device = Device {
            id,
            serial: introduction.serial,
            hostname: introduction.hostname,
            label: introduction.label,
            ek_hash: Some(introduction.ek_hash),
            ek_certificate: introduction.ek_certificate,
            state: DeviceState::Pending,
            reason: String::new(),
            first_seen: known.as_ref().map_or(now, |known| known.first_seen),
            last_seen: now,
        };
        let outcome = match verdict {
            Verdict::Accept(reason) => {
                device.state = DeviceState::Approved;
                device.reason = match known {
                    Some(known) if known.state == DeviceState::Approved && known.serial == device.serial => {
                        known.reason
                    }
                    _ => reason,
                };
                Outcome::Enrolled(Box::new(self.let_in(&mut tx, &device, &introduction.spki, now).await?))
            }
            Verdict::Wait(reason) => {
                let limit = self.fleet.config().limits.pending_devices;
                if known.is_none() && Device::pending(&mut tx).await? >= i64::from(limit) {
                    log::warn!(
                        "device {} (serial {}) is not remembered: {limit} wait already",
                        device.id,
                        device.serial
                    );
                    return Err(Refusal::later(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too many devices wait for approval: approve or revoke some of `device list --state pending`",
                        self.fleet.config().pending_retry.as_seconds(),
                    ));
                }
                log::info!("device {} (serial {}) waits for approval: {reason}", device.id, device.serial);
                device.reason.clone_from(&reason);
                device.save(&mut tx).await?;
                Outcome::Pending(Pending { retry_after_s: self.fleet.config().pending_retry.as_seconds(), reason })
            }
            Verdict::Refuse => return Err(revoked(&device)),
        };
        tx.commit().await.context("writing a device")?;
        Ok(outcome)
    }

    async fn verdict(
        &self,
        tx: &mut Connection,
        introduction: &Introduction,
        known: Option<&Device>,
        now: OffsetDateTime,
    ) -> Result<Verdict, Refusal> {
        let same_serial = Device::by_serial(tx, introduction.serial.as_str()).await?;
        let holder = same_serial
            .iter()
            .find(|other| other.state == DeviceState::Approved && known.is_none_or(|known| known.id != other.id));
        let since_1970 = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        let facts = Facts {
            serial: introduction.serial.as_str(),
            known: known.map(|known| (known.state, known.serial.as_str())),
            serial_held_by: holder.map(|holder| holder.id.as_str()),
            allowed: AllowedEk::contains(tx, &introduction.ek_hash).await?,
            endorsement: endorsers::judge(
                &EkCa::all(tx).await?,
                introduction,
                UnixTime::since_unix_epoch(Duration::from_secs(since_1970)),
            ),
        };
        Ok(policy::decide(&facts))
    }

    async fn let_in(
        &self,
        tx: &mut Connection,
        device: &Device,
        spki: &[u8],
        now: OffsetDateTime,
    ) -> anyhow::Result<Enrolled> {
        // The certificate refers to the device, which may be new.
        device.save(tx).await?;
        let issued = self.fleet.certify_anew(tx, device, spki, now).await?;
        log::info!(
            "device {} (serial {}) is enrolled, certificate {} until {}: {}",
            device.id,
            device.serial,
            issued.serial,
            issued.not_after,
            device.reason
        );
        Ok(Enrolled {
            version: Version1,
            certificate_chain: self.fleet.authority().chain_pem(&issued.der),
            configuration: self.fleet.configuration(&device.id),
        })
    }
}

/// The answer to a device that was revoked and has proved that it is that device.
pub(crate) fn revoked(device: &Device) -> Refusal {
    log::warn!("device {} (serial {}) asks, and is revoked", device.id, device.serial);
    Refusal::forbidden(
        "Device is revoked",
        format!("device {}: {}; an administrator can let it in by `device approve`", device.id, device.reason),
    )
}

fn refusal(error: SessionError) -> Refusal {
    match error {
        SessionError::Full => Refusal::later(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), 30),
        SessionError::Unknown => Refusal::not_found(format!("session: {error}")),
        SessionError::WrongSecret => Refusal::forbidden("TPM not proved", format!("secret: {error}")),
    }
}
