//! `ek ...` and `ek-ca ...`

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use m2m_identity::chain;
use m2m_identity::endorsement::EkTrust;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Session;
use super::output::{minute, table};
use crate::ca::hex;
use crate::enrol::ek_file;
use crate::store::{AllowedEk, EkCa};

#[derive(Debug, Subcommand)]
pub(super) enum AllowCommand {
    /// Let a TPM in, by its endorsement key.
    Allow {
        /// The SHA-256 of the key's public area (TPMT_PUBLIC) in hexadecimal, as `device show` prints it, or a file: the
        /// TPM2B_PUBLIC, or a PEM with the public key or the certificate of an endorsement key made by one of the TCG's
        /// templates L-1, L-2, H-1 and H-2.
        #[arg(value_name = "FILE|HASH")]
        key: String,
    },
    /// List the endorsement keys that are let in.
    List,
    /// Take an endorsement key off the list. Devices that are in already stay in: see `device revoke`.
    Remove {
        /// The hash, as `ek list` prints it.
        hash: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Let in the TPMs whose endorsement key certificate was issued by a CA.
    Add {
        /// The CA's certificate, or several, PEM or DER.
        file: PathBuf,
        /// Only devices whose serial number fits: `*` stands for any characters, `?` for one. Can be repeated; without it
        /// all are let in. Replaces what was said about this CA before.
        #[arg(long = "serial", value_name = "PATTERN")]
        serials: Vec<String>,
    },
    /// List the accepted CAs.
    List,
    /// Take a CA off the list. Devices that are in already stay in: see `device revoke`.
    Remove {
        /// The fingerprint, as `ek-ca list` prints it.
        fingerprint: String,
    },
}

pub(super) async fn run_allow(session: &Session<'_>, command: AllowCommand) -> anyhow::Result<String> {
    match command {
        AllowCommand::Allow { key } => allow(session, &key).await,
        AllowCommand::List => {
            let allowed = AllowedEk::all(&mut *session.fleet.store().read().await?).await?;
            session.answer(&allowed, || {
                let rows: Vec<_> =
                    allowed.iter().map(|key| [key.hash.clone(), minute(key.added), key.origin.clone()]).collect();
                table(["SHA-256 OF THE PUBLIC AREA", "ADDED (UTC)", "FROM"], &rows)
            })
        }
        AllowCommand::Remove { hash } => {
            let mut tx = session.fleet.store().write().await?;
            if !AllowedEk::remove(&mut tx, &hash.to_ascii_lowercase()).await? {
                bail!("no such hash is in the allow list: see `ek list`");
            }
            tx.commit().await.context("writing the allow list")?;
            session.answer(&json!({ "removed": hash }), || format!("removed {hash}"))
        }
    }
}

async fn allow(session: &Session<'_>, key: &str) -> anyhow::Result<String> {
    let (hashes, origin) = match as_hash(key) {
        Some(hash) => (vec![hash], "hash".to_owned()),
        None => {
            let bytes = std::fs::read(key)
                .with_context(|| format!("{key}: expected 64 hexadecimal digits, or a file with an endorsement key"))?;
            (ek_file::hashes(&bytes).with_context(|| key.to_owned())?, key.to_owned())
        }
    };
    let mut tx = session.fleet.store().write().await?;
    for hash in &hashes {
        AllowedEk { hash: hash.clone(), origin: origin.clone(), added: session.now }.save(&mut tx).await?;
    }
    tx.commit().await.context("writing the allow list")?;
    session.answer(&json!({ "allowed": hashes }), || format!("let in at the next try: {}", hashes.join(", ")))
}

fn as_hash(text: &str) -> Option<String> {
    (text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

pub(super) async fn run_ca(session: &Session<'_>, command: CaCommand) -> anyhow::Result<String> {
    match command {
        CaCommand::Add { file, serials } => add_cas(session, &file, serials).await,
        CaCommand::List => {
            let cas = EkCa::all(&mut *session.fleet.store().read().await?).await?;
            session.answer(&cas, || {
                let rows: Vec<_> = cas
                    .iter()
                    .map(|ca| [ca.fingerprint.clone(), minute(ca.added), ca.serials.join(" "), ca.subject.clone()])
                    .collect();
                table(["FINGERPRINT", "ADDED (UTC)", "SERIALS", "SUBJECT"], &rows)
            })
        }
        CaCommand::Remove { fingerprint } => {
            let mut tx = session.fleet.store().write().await?;
            if !EkCa::remove(&mut tx, &fingerprint.to_ascii_lowercase()).await? {
                bail!("no CA with this fingerprint is accepted: see `ek-ca list`");
            }
            tx.commit().await.context("writing the EK CAs")?;
            session.answer(&json!({ "removed": fingerprint }), || format!("removed {fingerprint}"))
        }
    }
}

async fn add_cas(session: &Session<'_>, file: &Path, serials: Vec<String>) -> anyhow::Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let certificates = chain::certificates(&bytes).with_context(|| file.display().to_string())?;
    let serials = if serials.is_empty() { vec!["*".to_owned()] } else { serials };
    let mut tx = session.fleet.store().write().await?;
    let mut added = Vec::new();
    for certificate in &certificates {
        EkTrust::new().add(certificate).with_context(|| file.display().to_string())?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).with_context(|| file.display().to_string())?;
        let ca = EkCa {
            fingerprint: hex(&Sha256::digest(certificate)),
            subject: parsed.subject().to_string(),
            certificate: certificate.to_vec(),
            serials: serials.clone(),
            added: session.now,
        };
        ca.save(&mut tx).await?;
        added.push(ca);
    }
    tx.commit().await.context("writing the EK CAs")?;
    session.answer(&added, || {
        let lines: Vec<_> = added
            .iter()
            .map(|ca| format!("accepted for the serial numbers {}: {}", ca.serials.join(" "), ca.subject))
            .collect();
        lines.join("\n")
    })
}
