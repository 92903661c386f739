//! Which endorsement keys are let in without asking.

use anyhow::Context;
use serde::Serialize;
use sqlx::Row;
use time::OffsetDateTime;

use super::{Connection, instant, seconds};

/// An endorsement key that is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AllowedEk {
    /// SHA-256 of the `TPMT_PUBLIC`, in lower-case hexadecimal.
    pub(crate) hash: String,
    /// Where it came from: a file's name, or `hash`.
    pub(crate) origin: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) added: OffsetDateTime,
}

impl AllowedEk {
    pub(crate) async fn all(connection: &mut Connection) -> anyhow::Result<Vec<Self>> {
        let rows = sqlx::query("SELECT * FROM ek_allow ORDER BY origin, hash").fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                Ok(Self {
                    hash: row.try_get("hash")?,
                    origin: row.try_get("origin")?,
                    added: instant(row.try_get("added")?)?,
                })
            })
            .collect()
    }

    pub(crate) async fn contains(connection: &mut Connection, hash: &str) -> anyhow::Result<bool> {
        Ok(sqlx::query("SELECT 1 FROM ek_allow WHERE hash = ?").bind(hash).fetch_optional(connection).await?.is_some())
    }

    pub(crate) async fn save(&self, connection: &mut Connection) -> anyhow::Result<()> {
        sqlx::query("INSERT INTO ek_allow (hash, origin, added) VALUES (?, ?, ?) ON CONFLICT (hash) DO NOTHING")
            .bind(&self.hash)
            .bind(&self.origin)
            .bind(seconds(self.added))
            .execute(connection)
            .await
            .context("writing an allowed endorsement key")?;
        Ok(())
    }

    /// Whether there was one to remove.
    pub(crate) async fn remove(connection: &mut Connection, hash: &str) -> anyhow::Result<bool> {
        let done = sqlx::query("DELETE FROM ek_allow WHERE hash = ?").bind(hash).execute(connection).await?;
        Ok(done.rows_affected() > 0)
    }
}

/// A CA whose endorsement key certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EkCa {
    /// SHA-256 of the certificate, in lower-case hexadecimal.
    pub(crate) fingerprint: String,
    pub(crate) subject: String,
    #[serde(skip)]
    pub(crate) certificate: Vec<u8>,
    /// The serial numbers for which its word is enough.
    pub(crate) serials: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) added: OffsetDateTime,
}

impl EkCa {
    pub(crate) async fn all(connection: &mut Connection) -> anyhow::Result<Vec<Self>> {
        let rows = sqlx::query("SELECT * FROM ek_ca ORDER BY subject, fingerprint").fetch_all(&mut *connection).await?;
        let mut cas = Vec::with_capacity(rows.len());
        for row in &rows {
            let fingerprint: String = row.try_get("fingerprint")?;
            let serials =
                sqlx::query_scalar("SELECT pattern FROM ek_ca_serials WHERE fingerprint = ? ORDER BY pattern")
                    .bind(&fingerprint)
                    .fetch_all(&mut *connection)
                    .await?;
            cas.push(Self {
                fingerprint,
                subject: row.try_get("subject")?,
                certificate: row.try_get("certificate")?,
                serials,
                added: instant(row.try_get("added")?)?,
            });
        }
        Ok(cas)
    }

    /// Writes this CA; its patterns replace those that it had.
    pub(crate) async fn save(&self, connection: &mut Connection) -> anyhow::Result<()> {
        sqlx::query(
            "INSERT INTO ek_ca (fingerprint, subject, certificate, added) VALUES (?, ?, ?, ?) \
             ON CONFLICT (fingerprint) DO NOTHING",
        )
        .bind(&self.fingerprint)
        .bind(&self.subject)
        .bind(&self.certificate)
        .bind(seconds(self.added))
        .execute(&mut *connection)
        .await
        .context("writing an EK CA")?;
        sqlx::query("DELETE FROM ek_ca_serials WHERE fingerprint = ?")
            .bind(&self.fingerprint)
            .execute(&mut *connection)
            .await?;
        for pattern in &self.serials {
            sqlx::query("INSERT OR IGNORE INTO ek_ca_serials (fingerprint, pattern) VALUES (?, ?)")
                .bind(&self.fingerprint)
                .bind(pattern)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// Whether there was one to remove.
    pub(crate) async fn remove(connection: &mut Connection, fingerprint: &str) -> anyhow::Result<bool> {
        let done = sqlx::query("DELETE FROM ek_ca WHERE fingerprint = ?").bind(fingerprint).execute(connection).await?;
        Ok(done.rows_affected() > 0)
    }
}
