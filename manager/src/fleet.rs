//! The fleet: what CA and database do together. Server and commands both work through it.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, bail};
use m2m_protocol::Version1;
use m2m_protocol::device_config::DeviceConfig;
use m2m_protocol::names::Token;
use rcgen::RevocationReason;
use time::{Duration, OffsetDateTime};

use crate::ca::{Authority, Issued};
use crate::config::Config;
use crate::names::ServerName;
use crate::store::{CertificateRecord, Connection, Device, DeviceState, Store, StoredList};

/// How long an expired certificate stays on the list: longer than any list that names it is in use.
const LISTED_AFTER_EXPIRY: Duration = Duration::days(30);

/// The devices of one manager, with the CA that vouches for them.
#[derive(Debug)]
pub(crate) struct Fleet {
    config: Config,
    authority: Authority,
    store: Store,
}

impl Fleet {
    /// Opens CA and database, making both at the first start, and sees to it that there is a revocation list.
    pub(crate) async fn open(config: Config, now: OffsetDateTime) -> anyhow::Result<Self> {
        let lock = lock(&config.state_dir)?;
        let authority = Authority::open(&config.state_dir, &config.organization, now)?;
        let store = Store::open(&config.state_dir).await?;
        let fleet = Self { config, authority, store };
        fleet.renew_revocation_list_if_due(now).await?;
        drop(lock);
        Ok(fleet)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What the device `id` is told.
    pub(crate) fn configuration(&self, id: &Token) -> DeviceConfig {
        DeviceConfig { version: Version1, device_id: id.clone(), tunnel: self.config.device_defaults.clone() }
    }

    /// Signs a certificate for `device` with the public key `spki`.
    pub(crate) async fn certify(
        &self,
        tx: &mut Connection,
        device: &Device,
        spki: &[u8],
        now: OffsetDateTime,
    ) -> anyhow::Result<Issued> {
        let issued = self.authority.device_certificate(&device.id, spki, self.config.lifetimes.device, now)?;
        CertificateRecord::add(tx, Some(&device.id), &issued).await?;
        Ok(issued)
    }

    /// As [`Self::certify`]; the device's former certificates are revoked as superseded.
    pub(crate) async fn certify_anew(
        &self,
        tx: &mut Connection,
        device: &Device,
        spki: &[u8],
        now: OffsetDateTime,
    ) -> anyhow::Result<Issued> {
        let superseded = CertificateRecord::revoke_of_device(tx, &device.id, RevocationReason::Superseded, now).await?;
        let issued = self.certify(tx, device, spki, now).await?;
        if superseded > 0 {
            self.make_revocation_list(tx, now).await?;
        }
        Ok(issued)
    }

    /// Signs a certificate for a server.
    pub(crate) async fn certify_server(
        &self,
        names: &[ServerName],
        spki: &[u8],
        now: OffsetDateTime,
    ) -> anyhow::Result<Issued> {
        let issued = self.authority.server_certificate(names, spki, self.config.lifetimes.server, now)?;
        let mut tx = self.store.write().await?;
        CertificateRecord::add(&mut tx, None, &issued).await?;
        tx.commit().await.context("writing a certificate")?;
        Ok(issued)
    }

    /// The device that an administrator means by an id or, where only one device has it, a serial number.
    pub(crate) async fn find(&self, connection: &mut Connection, name: &str) -> anyhow::Result<Device> {
        if let Some(device) = Device::by_id(connection, name).await? {
            return Ok(device);
        }
        let mut found = Device::by_serial(connection, name).await?;
        match (found.pop(), found.len()) {
            (Some(device), 0) => Ok(device),
            (Some(_), others) => bail!(
                "{} devices have the serial number {name:?}: name one by its id, as `device list` prints it",
                others + 1
            ),
            (None, _) => bail!("no device has the id or serial number {name:?}: see `device list`"),
        }
    }

    /// Lets the device `name` in, at its next try.
    pub(crate) async fn approve(&self, name: &str, now: OffsetDateTime) -> anyhow::Result<Device> {
        let mut tx = self.store.write().await?;
        let mut device = self.find(&mut tx, name).await?;
        device.state = DeviceState::Approved;
        device.reason = format!("approved by an administrator at {}", minute(now));
        device.save(&mut tx).await?;
        tx.commit().await.context("writing a device")?;
        Ok(device)
    }

    /// Shuts the device `name` out: its certificates go onto the revocation list, and it gets no other.
    pub(crate) async fn revoke(
        &self,
        name: &str,
        reason: RevocationReason,
        now: OffsetDateTime,
    ) -> anyhow::Result<(Device, u64)> {
        let mut tx = self.store.write().await?;
        let mut device = self.find(&mut tx, name).await?;
        device.state = DeviceState::Revoked;
        device.reason = format!("revoked by an administrator at {}", minute(now));
        device.save(&mut tx).await?;
        let revoked = CertificateRecord::revoke_of_device(&mut tx, &device.id, reason, now).await?;
        self.make_revocation_list(&mut tx, now).await?;
        tx.commit().await.context("writing a device")?;
        Ok((device, revoked))
    }

    /// Revokes the certificate of a gateway by its serial number.
    pub(crate) async fn revoke_certificate(
        &self,
        serial: &str,
        reason: RevocationReason,
        now: OffsetDateTime,
    ) -> anyhow::Result<()> {
        let serial = serial.replace(':', "").to_ascii_lowercase();
        let mut tx = self.store.write().await?;
        if !CertificateRecord::revoke(&mut tx, &serial, reason, now).await? {
            bail!("no certificate with the serial number {serial:?} was issued that is not revoked yet");
        }
        self.make_revocation_list(&mut tx, now).await?;
        tx.commit().await.context("writing the revocation list")
    }

    /// The revocation list that is served.
    pub(crate) async fn revocation_list(&self) -> anyhow::Result<StoredList> {
        StoredList::current(&mut *self.store.read().await?).await?.context("there is no revocation list")
    }

    /// Makes a new revocation list when there is none, or half of the lifetime of the current one is over.
    pub(crate) async fn renew_revocation_list_if_due(&self, now: OffsetDateTime) -> anyhow::Result<()> {
        let due = |list: &StoredList| list.next_update - now < self.config.lifetimes.crl.as_duration() / 2;
        let current = StoredList::current(&mut *self.store.read().await?).await?;
        if !current.as_ref().is_none_or(due) {
            return Ok(());
        }
        let mut tx = self.store.write().await?;
        self.make_revocation_list(&mut tx, now).await?;
        tx.commit().await.context("writing the revocation list")
    }

    async fn make_revocation_list(&self, tx: &mut Connection, now: OffsetDateTime) -> anyhow::Result<()> {
        let number = StoredList::current(tx).await?.map_or(1, |list| list.number + 1);
        let revoked = CertificateRecord::revoked(tx, now - LISTED_AFTER_EXPIRY).await?;
        let list = self.authority.revocation_list(number, &revoked, self.config.lifetimes.crl, now)?;
        StoredList::replace(tx, number, &list).await?;
        log::info!("made revocation list {number} with {} entries", revoked.len());
        Ok(())
    }
}

/// Makes the state directory if need be, and waits until no other process is opening it: server and commands may all be
/// the first. The lock ends with the file.
fn lock(state_dir: &Path) -> anyhow::Result<File> {
    if !state_dir.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .with_context(|| format!("state_dir: {}: cannot be made", state_dir.display()))?;
    }
    let path = state_dir.join(".lock");
    let file = File::create(&path).with_context(|| format!("{}: cannot be written", path.display()))?;
    file.lock().with_context(|| format!("{}: cannot be locked", path.display()))?;
    Ok(file)
}

fn minute(time: OffsetDateTime) -> String {
    let (date, hour, minute) = (time.date(), time.hour(), time.minute());
    format!("{date} {hour:02}:{minute:02} UTC")
}
