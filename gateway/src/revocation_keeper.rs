//! Keeps the revocation list current: in the TLS verifier, on the disk, and for those who ask whether devices may come in.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use m2m_identity::tls::ClientVerifier;
use m2m_protocol::durable;

use crate::config;
use crate::crl_source::Source;
use crate::device_certificate::DeviceCertificate;
use crate::revocation::{Issuers, ListError, RevocationList};

/// The revocation list in use and all that it takes to get the next one.
pub(crate) struct RevocationKeeper {
    config: config::Crl,
    source: Source,
    issuers: Issuers,
    verifier: Arc<ClientVerifier>,
    copy: PathBuf,
    current: RwLock<Option<Arc<RevocationList>>>,
}

impl RevocationKeeper {
    /// Begins with the copy of the last list in `state_dir`, if it is there and good.
    pub(crate) fn new(
        config: config::Crl,
        source: Source,
        issuers: Issuers,
        verifier: Arc<ClientVerifier>,
        state_dir: &Path,
    ) -> Self {
        let keeper =
            Self { config, source, issuers, verifier, copy: state_dir.join("crl.der"), current: RwLock::default() };
        match std::fs::read(&keeper.copy) {
            Ok(bytes) => {
                if let Err(error) = keeper.take(&bytes) {
                    log::warn!("{}: not used: {error:#}", keeper.copy.display());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => log::warn!("{}: {error}", keeper.copy.display()),
        }
        keeper
    }

    /// Gets the list from its source and uses it from now on. After an error the former one stays in use.
    ///
    /// # Errors
    /// Names the source and what is wrong.
    pub(crate) async fn refresh(&self) -> anyhow::Result<()> {
        let bytes = self.source.fetch().await?;
        if !self.take(&bytes).with_context(|| format!("the list from {}", self.source))? {
            return Ok(());
        }
        let copy = self.copy.clone();
        tokio::task::spawn_blocking(move || durable::write(&copy, &bytes, 0o600))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .with_context(|| format!("{}: cannot be written", self.copy.display()))
    }

    /// The list in use.
    pub(crate) fn current(&self) -> Option<Arc<RevocationList>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the list in use names `certificate`.
    pub(crate) fn is_revoked(&self, certificate: &DeviceCertificate) -> bool {
        self.current().is_some_and(|list| list.revokes(certificate))
    }

    /// Whether devices may come in at `now`, as far as the list's age goes.
    pub(crate) fn admits(&self, now: SystemTime) -> bool {
        !self.config.required || self.current().is_some_and(|list| list.is_fresh(now, self.config.grace))
    }

    /// How long to wait before the next refresh; not long while devices have to wait for a list.
    pub(crate) fn pause(&self, now: SystemTime) -> Duration {
        if self.admits(now) { self.config.refresh } else { self.config.refresh.min(IMPATIENT) }
    }

    /// Uses the list in `bytes` from now on; false if it is the one in use already.
    fn take(&self, bytes: &[u8]) -> anyhow::Result<bool> {
        let list = RevocationList::read(bytes, &self.issuers)?;
        if let Some(former) = self.current() {
            if former.der() == list.der() {
                return Ok(false);
            }
            if !list.is_not_older_than(&former) {
                return Err(ListError::Older.into());
            }
        }
        self.verifier.replace_revocation_lists(std::slice::from_ref(list.der()))?;
        log::info!(
            "revocation list of {} with {} certificates, good until {}",
            date(list.this_update()),
            list.len(),
            date(list.next_update())
        );
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(list));
        Ok(true)
    }
}

const IMPATIENT: Duration = Duration::from_secs(10);

fn date(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    time.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| time.to_string())
}
