//! `ca ...`

use clap::Subcommand;
use m2m_identity::chain;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::Session;
use super::output::{fields, minute};
use crate::ca::hex;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the CA's certificates, and where the trust anchor is.
    Show {
        /// Print the root's certificate as PEM, and nothing else.
        #[arg(long)]
        pem: bool,
    },
}

#[derive(Debug, Serialize)]
struct Description {
    subject: String,
    fingerprint: String,
    #[serde(with = "time::serde::rfc3339")]
    not_before: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    not_after: OffsetDateTime,
}

pub(super) fn run(session: &Session<'_>, command: Command) -> anyhow::Result<String> {
    let Command::Show { pem } = command;
    let authority = session.fleet.authority();
    if pem {
        return Ok(chain::to_pem(std::slice::from_ref(authority.root())).trim_end().to_owned());
    }
    let root = describe(authority.root())?;
    let issuing = describe(authority.issuing())?;
    let path = session.fleet.config().state_dir.join("root.pem");
    let value = serde_json::json!({ "root": root, "issuing": issuing, "trust_anchor": path });
    session.answer(&value, || {
        let line =
            |description: &Description| format!("{}, until {}", description.subject, minute(description.not_after));
        fields(&[
            ("root", line(&root)),
            ("root SHA-256", root.fingerprint.clone()),
            ("issuing", line(&issuing)),
            ("issuing SHA-256", issuing.fingerprint.clone()),
            ("trust anchor", path.display().to_string()),
        ])
    })
}

fn describe(certificate: &CertificateDer<'_>) -> anyhow::Result<Description> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)?;
    Ok(Description {
        subject: parsed.subject().to_string(),
        fingerprint: hex(&Sha256::digest(certificate)),
        not_before: parsed.validity().not_before.to_datetime(),
        not_after: parsed.validity().not_after.to_datetime(),
    })
}
