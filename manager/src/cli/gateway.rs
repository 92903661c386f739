//! `gateway ...`

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use m2m_identity::{DeviceKey, chain};
use m2m_protocol::durable;
use rcgen::RevocationReason;
use serde_json::json;

use super::Session;
use super::output::minute;
use crate::ca::generate_key;
use crate::csr;
use crate::names::ServerName;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make key and certificate of a gateway, or its certificate only.
    ///
    /// Writes to the directory: chain.pem (the certificate and the issuing CA's), root.pem (the trust anchor for devices'
    /// certificates) and, unless there is a request, key.pem (readable by the owner only).
    Issue {
        /// A name or an address of the gateway, as it stands in the devices' configuration. Can be repeated.
        #[arg(long = "name", value_name = "NAME|ADDRESS", required = true)]
        names: Vec<ServerName>,
        /// Where to write to; made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A PKCS#10 request, PEM or DER, for a key that the gateway has made itself.
        #[arg(long, value_name = "FILE")]
        csr: Option<PathBuf>,
    },
    /// Revoke the certificate of a gateway.
    Revoke {
        /// The certificate's serial number in hexadecimal.
        serial: String,
    },
}

pub(super) async fn run(session: &Session<'_>, command: Command) -> anyhow::Result<String> {
    match command {
        Command::Issue { names, out, csr } => issue(session, &names, &out, csr.as_deref()).await,
        Command::Revoke { serial } => {
            session.fleet.revoke_certificate(&serial, RevocationReason::CessationOfOperation, session.now).await?;
            session.answer(&json!({ "revoked": serial }), || format!("revoked {serial}"))
        }
    }
}

async fn issue(session: &Session<'_>, names: &[ServerName], out: &Path, csr: Option<&Path>) -> anyhow::Result<String> {
    let (spki, key) = match csr {
        Some(path) => (csr::read(path)?.spki, None),
        None => {
            let (key, pem) = generate_key()?;
            (key.spki_der().to_vec(), Some(pem))
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(out)
        .with_context(|| format!("{}: cannot be made", out.display()))?;
    let issued = session.fleet.certify_server(names, &spki, session.now).await?;
    let authority = session.fleet.authority();
    if let Some(key) = &key {
        write(&out.join("key.pem"), key.as_bytes(), 0o600)?;
    }
    write(&out.join("chain.pem"), authority.chain_pem(&issued.der).as_bytes(), 0o644)?;
    write(&out.join("root.pem"), chain::to_pem(std::slice::from_ref(authority.root())).as_bytes(), 0o644)?;
    let value = json!({
        "directory": out,
        "subject": issued.subject,
        "serial": issued.serial,
        "not_after": issued.not_after.unix_timestamp(),
    });
    session.answer(&value, || {
        format!(
            "{}: wrote {}chain.pem and root.pem; {} until {}",
            out.display(),
            if key.is_some() { "key.pem, " } else { "" },
            issued.subject,
            minute(issued.not_after)
        )
    })
}

fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    durable::write(path, content, mode).with_context(|| format!("{}: cannot be written", path.display()))
}
