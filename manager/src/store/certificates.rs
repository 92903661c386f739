//! The certificates that were issued.

use anyhow::Context;
use m2m_protocol::names::Token;
use rcgen::RevocationReason;
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use super::{Connection, instant, seconds};
use crate::ca::{Issued, Revocation};

/// What is kept of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CertificateRecord {
    /// The serial number, in lower-case hexadecimal.
    pub(crate) serial: String,
    /// The device's id; `None` for a server's certificate.
    #[serde(skip)]
    pub(crate) device: Option<String>,
    pub(crate) subject: String,
    #[serde(skip)]
    pub(crate) key_hash: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) not_before: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) not_after: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) revoked: Option<OffsetDateTime>,
}

impl CertificateRecord {
    /// Remembers `issued`, for `device` or, without one, for a server.
    pub(crate) async fn add(
        connection: &mut Connection,
        device: Option<&Token>,
        issued: &Issued,
    ) -> anyhow::Result<()> {
        sqlx::query(
            "INSERT INTO certificates (serial, device, subject, key_hash, not_before, not_after) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(&issued.serial)
        .bind(device.map(Token::as_str))
        .bind(&issued.subject)
        .bind(&issued.key_hash)
        .bind(seconds(issued.not_before))
        .bind(seconds(issued.not_after))
        .execute(connection)
        .await
        .context("writing a certificate")?;
        Ok(())
    }

    pub(crate) async fn by_serial(connection: &mut Connection, serial: &str) -> anyhow::Result<Option<Self>> {
        let row =
            sqlx::query("SELECT * FROM certificates WHERE serial = ?").bind(serial).fetch_optional(connection).await?;
        row.as_ref().map(record).transpose()
    }

    /// A device's certificates, the newest first.
    pub(crate) async fn of_device(connection: &mut Connection, device: &Token) -> anyhow::Result<Vec<Self>> {
        let rows = sqlx::query("SELECT * FROM certificates WHERE device = ? ORDER BY rowid DESC")
            .bind(device.as_str())
            .fetch_all(connection)
            .await?;
        rows.iter().map(record).collect()
    }

    /// Revokes all certificates of `device` that are still good, and says how many they were.
    pub(crate) async fn revoke_of_device(
        connection: &mut Connection,
        device: &Token,
        reason: RevocationReason,
        now: OffsetDateTime,
    ) -> anyhow::Result<u64> {
        let done = sqlx::query(
            "UPDATE certificates SET revoked_at = ?, revoked_reason = ? \
             WHERE device = ? AND revoked_at IS NULL AND not_after > ?",
        )
        .bind(seconds(now))
        .bind(reason as i64)
        .bind(device.as_str())
        .bind(seconds(now))
        .execute(connection)
        .await
        .context("revoking certificates")?;
        Ok(done.rows_affected())
    }

    /// Revokes one certificate, if it is still good.
    pub(crate) async fn revoke(
        connection: &mut Connection,
        serial: &str,
        reason: RevocationReason,
        now: OffsetDateTime,
    ) -> anyhow::Result<bool> {
        let done = sqlx::query(
            "UPDATE certificates SET revoked_at = ?, revoked_reason = ? WHERE serial = ? AND revoked_at IS NULL",
        )
        .bind(seconds(now))
        .bind(reason as i64)
        .bind(serial)
        .execute(connection)
        .await
        .context("revoking a certificate")?;
        Ok(done.rows_affected() == 1)
    }

    /// The revoked certificates that had not expired at `since`.
    pub(crate) async fn revoked(connection: &mut Connection, since: OffsetDateTime) -> anyhow::Result<Vec<Revocation>> {
        let rows = sqlx::query(
            "SELECT serial, revoked_at, revoked_reason FROM certificates \
             WHERE revoked_at IS NOT NULL AND not_after > ? ORDER BY revoked_at, serial",
        )
        .bind(seconds(since))
        .fetch_all(connection)
        .await?;
        rows.iter().map(revocation).collect()
    }
}

fn record(row: &SqliteRow) -> anyhow::Result<CertificateRecord> {
    Ok(CertificateRecord {
        serial: row.try_get("serial")?,
        device: row.try_get("device")?,
        subject: row.try_get("subject")?,
        key_hash: row.try_get("key_hash")?,
        not_before: instant(row.try_get("not_before")?)?,
        not_after: instant(row.try_get("not_after")?)?,
        revoked: row.try_get::<Option<i64>, _>("revoked_at")?.map(instant).transpose()?,
    })
}

fn revocation(row: &SqliteRow) -> anyhow::Result<Revocation> {
    let serial: String = row.try_get("serial")?;
    Ok(Revocation {
        serial: from_hex(&serial).with_context(|| format!("a certificate's serial number, {serial:?}"))?,
        at: instant(row.try_get("revoked_at")?)?,
        reason: reason(row.try_get("revoked_reason")?),
    })
}

fn reason(code: i64) -> RevocationReason {
    use RevocationReason::{
        AffiliationChanged, CessationOfOperation, KeyCompromise, PrivilegeWithdrawn, Superseded, Unspecified,
    };
    [KeyCompromise, AffiliationChanged, Superseded, CessationOfOperation, PrivilegeWithdrawn]
        .into_iter()
        .find(|reason| *reason as i64 == code)
        .unwrap_or(Unspecified)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes().chunks(2).map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).collect()
}
