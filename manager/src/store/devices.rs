//! The devices.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use m2m_protocol::names::Token;
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use super::{Connection, instant, seconds};

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Device {
    pub(crate) id: Token,
    pub(crate) serial: Token,
    pub(crate) hostname: String,
    pub(crate) label: Option<Token>,
    /// SHA-256 of the endorsement key's `TPMT_PUBLIC`, in hexadecimal; `None` for a device without TPM.
    pub(crate) ek_hash: Option<String>,
    #[serde(skip)]
    pub(crate) ek_certificate: Option<Vec<u8>>,
    pub(crate) state: DeviceState,
    /// Why it is in this state.
    pub(crate) reason: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) first_seen: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) last_seen: OffsetDateTime,
}

/// What a device may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeviceState {
    /// Nothing, until an administrator approves it.
    Pending,
    /// Get certificates and its configuration.
    Approved,
    /// Nothing, until an administrator approves it again.
    Revoked,
}

impl DeviceState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DeviceState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Approved, Self::Revoked]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| "expected pending, approved or revoked".to_owned())
    }
}

impl Device {
    /// All devices, in the order of their serial numbers.
    pub(crate) async fn all(connection: &mut Connection) -> anyhow::Result<Vec<Self>> {
        let rows = sqlx::query("SELECT * FROM devices ORDER BY serial, first_seen, id").fetch_all(connection).await?;
        rows.iter().map(device).collect()
    }

    pub(crate) async fn by_id(connection: &mut Connection, id: &str) -> anyhow::Result<Option<Self>> {
        let row = sqlx::query("SELECT * FROM devices WHERE id = ?").bind(id).fetch_optional(connection).await?;
        row.as_ref().map(device).transpose()
    }

    pub(crate) async fn by_serial(connection: &mut Connection, serial: &str) -> anyhow::Result<Vec<Self>> {
        let rows = sqlx::query("SELECT * FROM devices WHERE serial = ? ORDER BY first_seen, id")
            .bind(serial)
            .fetch_all(connection)
            .await?;
        rows.iter().map(device).collect()
    }

    /// How many devices wait for approval.
    pub(crate) async fn pending(connection: &mut Connection) -> anyhow::Result<i64> {
        let query = sqlx::query_scalar("SELECT count(*) FROM devices WHERE state = 'pending'");
        Ok(query.fetch_one(connection).await?)
    }

    /// Remembers that the device was here at `now`.
    pub(crate) async fn seen(&self, connection: &mut Connection, now: OffsetDateTime) -> anyhow::Result<()> {
        sqlx::query("UPDATE devices SET last_seen = ? WHERE id = ?")
            .bind(seconds(now))
            .bind(self.id.as_str())
            .execute(connection)
            .await
            .context("writing a device")?;
        Ok(())
    }

    /// Writes this device, new or known.
    pub(crate) async fn save(&self, connection: &mut Connection) -> anyhow::Result<()> {
        sqlx::query(
            "INSERT INTO devices (id, serial, hostname, label, ek_hash, ek_certificate, state, reason, first_seen, \
             last_seen) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET serial = excluded.serial, hostname = excluded.hostname, \
             label = excluded.label, ek_certificate = excluded.ek_certificate, state = excluded.state, \
             reason = excluded.reason, last_seen = excluded.last_seen",
        )
        .bind(self.id.as_str())
        .bind(self.serial.as_str())
        .bind(&self.hostname)
        .bind(self.label.as_ref().map(Token::as_str))
        .bind(&self.ek_hash)
        .bind(&self.ek_certificate)
        .bind(self.state.as_str())
        .bind(&self.reason)
        .bind(seconds(self.first_seen))
        .bind(seconds(self.last_seen))
        .execute(connection)
        .await
        .context("writing a device")?;
        Ok(())
    }
}

fn device(row: &SqliteRow) -> anyhow::Result<Device> {
    Ok(Device {
        id: token(row.try_get("id")?)?,
        serial: token(row.try_get("serial")?)?,
        hostname: row.try_get("hostname")?,
        label: row.try_get::<Option<String>, _>("label")?.map(token).transpose()?,
        ek_hash: row.try_get("ek_hash")?,
        ek_certificate: row.try_get("ek_certificate")?,
        state: row.try_get::<String, _>("state")?.parse().map_err(|error| anyhow!("a device's state: {error}"))?,
        reason: row.try_get("reason")?,
        first_seen: instant(row.try_get("first_seen")?)?,
        last_seen: instant(row.try_get("last_seen")?)?,
    })
}

fn token(text: String) -> anyhow::Result<Token> {
    text.parse().map_err(|error| anyhow!("a name in the database: {error}"))
}
