//! `device ...`

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Subcommand, ValueEnum};
use m2m_protocol::names::Token;
use rcgen::RevocationReason;
use serde::Serialize;
use serde_json::json;

use super::Session;
use super::output::{fields, minute, or_dash, table};
use crate::config::Lifetime;
use crate::store::{CertificateRecord, Connection, Device, DeviceState};
use crate::{csr, est};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the devices.
    List {
        /// Only those that are pending, approved or revoked.
        #[arg(long)]
        state: Option<DeviceState>,
    },
    /// Show one device with its certificates.
    Show {
        /// The device's id, or its serial number if no other device has it.
        device: String,
    },
    /// Let a device in that waits or was revoked. It gets its certificate at its next try.
    Approve {
        /// The device's id, or its serial number if no other device has it.
        device: String,
    },
    /// Shut a device out: revoke its certificates and give it no other.
    Revoke {
        /// The device's id, or its serial number if no other device has it.
        device: String,
        /// What the revocation list says about why.
        #[arg(long, value_enum, default_value_t = Reason::PrivilegeWithdrawn)]
        reason: Reason,
    },
    /// Make a one-time token with which a machine without TPM enrols by EST (RFC 7030 simpleenroll).
    Token {
        /// The machine's serial number: the user name for HTTP Basic. The token is the password.
        serial: Token,
        /// How long it is valid, such as 12h; default is lifetimes.token in the configuration.
        #[arg(long, value_name = "DURATION")]
        valid: Option<Lifetime>,
    },
    /// Sign a certificate request of a machine without TPM, by hand; prints the chain.
    Issue {
        /// The machine's serial number.
        serial: Token,
        /// The PKCS#10 request, PEM or DER, with an ECDSA P-256 key.
        #[arg(long, value_name = "FILE")]
        csr: PathBuf,
    },
}

/// CRLReason, RFC 5280 section 5.3.1.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Reason {
    /// It is not to get in any more.
    PrivilegeWithdrawn,
    /// Its key may be in other hands, such as of a stolen machine.
    KeyCompromise,
    /// It has been scrapped.
    CessationOfOperation,
    /// It belongs to somebody else now.
    AffiliationChanged,
}

impl From<Reason> for RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::PrivilegeWithdrawn => Self::PrivilegeWithdrawn,
            Reason::KeyCompromise => Self::KeyCompromise,
            Reason::CessationOfOperation => Self::CessationOfOperation,
            Reason::AffiliationChanged => Self::AffiliationChanged,
        }
    }
}

/// A device and its certificate, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    device: Device,
    /// The newest one that is good.
    certificate: Option<CertificateRecord>,
}

pub(super) async fn run(session: &Session<'_>, command: Command) -> anyhow::Result<String> {
    match command {
        Command::List { state } => list(session, state).await,
        Command::Show { device } => show(session, &device).await,
        Command::Approve { device } => {
            let device = session.fleet.approve(&device, session.now).await?;
            session.answer(&device, || {
                format!("{} (serial {}) is approved; it gets in at its next try", device.id, device.serial)
            })
        }
        Command::Revoke { device, reason } => {
            let (device, revoked) = session.fleet.revoke(&device, reason.into(), session.now).await?;
            session.answer(&device, || {
                format!("{} (serial {}) is revoked; certificates revoked: {revoked}", device.id, device.serial)
            })
        }
        Command::Token { serial, valid } => token(session, &serial, valid).await,
        Command::Issue { serial, csr } => issue(session, serial, csr).await,
    }
}

async fn list(session: &Session<'_>, state: Option<DeviceState>) -> anyhow::Result<String> {
    let mut connection = session.fleet.store().read().await?;
    let mut entries = Vec::new();
    for device in Device::all(&mut connection).await? {
        if state.is_none_or(|state| device.state == state) {
            entries.push(entry(session, &mut connection, device).await?);
        }
    }
    session.answer(&entries, || {
        let rows: Vec<_> = entries.iter().map(row).collect();
        table(["ID", "SERIAL", "LABEL", "STATE", "LAST SEEN (UTC)", "CERTIFICATE UNTIL", "REASON"], &rows)
    })
}

fn row(entry: &Entry) -> [String; 7] {
    let Entry { device, certificate } = entry;
    [
        device.id.to_string(),
        device.serial.to_string(),
        or_dash(device.label.as_ref()),
        device.state.to_string(),
        minute(device.last_seen),
        or_dash(certificate.as_ref().map(|certificate| minute(certificate.not_after))),
        device.reason.clone(),
    ]
}

async fn entry(session: &Session<'_>, connection: &mut Connection, device: Device) -> anyhow::Result<Entry> {
    let good = |record: &CertificateRecord| record.revoked.is_none() && record.not_after > session.now;
    let certificates = CertificateRecord::of_device(connection, &device.id).await?;
    Ok(Entry { certificate: certificates.into_iter().find(good), device })
}

async fn show(session: &Session<'_>, name: &str) -> anyhow::Result<String> {
    let mut connection = session.fleet.store().read().await?;
    let device = session.fleet.find(&mut connection, name).await?;
    let certificates = CertificateRecord::of_device(&mut connection, &device.id).await?;
    let value = json!({ "device": device, "certificates": certificates });
    session.answer(&value, || {
        let shown = fields(&[
            ("id", device.id.to_string()),
            ("serial", device.serial.to_string()),
            ("hostname", device.hostname.clone()),
            ("label", or_dash(device.label.as_ref())),
            ("state", device.state.to_string()),
            ("reason", device.reason.clone()),
            ("endorsement key", device.ek_hash.clone().unwrap_or_else(|| "none: a machine without TPM".to_owned())),
            ("EK certificate", if device.ek_certificate.is_some() { "yes" } else { "none" }.to_owned()),
            ("first seen (UTC)", minute(device.first_seen)),
            ("last seen (UTC)", minute(device.last_seen)),
        ]);
        let rows: Vec<_> = certificates
            .iter()
            .map(|record| {
                let revoked = or_dash(record.revoked.map(minute));
                [record.serial.clone(), minute(record.not_before), minute(record.not_after), revoked]
            })
            .collect();
        format!("{shown}\n\n{}", table(["CERTIFICATE", "FROM (UTC)", "UNTIL", "REVOKED"], &rows))
    })
}

async fn token(session: &Session<'_>, serial: &Token, valid: Option<Lifetime>) -> anyhow::Result<String> {
    use base64::Engine;
    let secret: zeroize::Zeroizing<[u8; 32]> = zeroize::Zeroizing::new(rand::random());
    let text = zeroize::Zeroizing::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret.as_slice()));
    let expires = session.now + valid.unwrap_or(session.fleet.config().lifetimes.token).as_duration();
    session.fleet.store().add_token(serial, &text, expires).await?;
    let value = json!({ "serial": serial, "token": text.as_str(), "expires": expires.unix_timestamp() });
    // The token alone, so that it can be piped.
    session.answer(&value, || text.to_string())
}

async fn issue(session: &Session<'_>, serial: Token, path: PathBuf) -> anyhow::Result<String> {
    let request = csr::read(&path)?;
    let fleet = session.fleet;
    let mut tx = fleet.store().write().await?;
    let issued = est::enrol_without_tpm(fleet, &mut tx, serial, &request.spki, session.now)
        .await
        .map_err(|refusal| anyhow!("{}: {refusal}", path.display()))?;
    tx.commit().await.context("writing a device")?;
    let chain = fleet.authority().chain_pem(&issued.der);
    let value = json!({ "subject": issued.subject, "serial": issued.serial, "certificate_chain": chain });
    session.answer(&value, || chain.trim_end().to_owned())
}
