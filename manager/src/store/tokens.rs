//! One-time tokens for EST.

use anyhow::Context;
use m2m_protocol::names::Token;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{Connection, Store, seconds};
use crate::ca::hex;

impl Store {
    /// Remembers the hash of `secret`, with which the device `serial` may enrol once before `expires`.
    pub(crate) async fn add_token(&self, serial: &Token, secret: &str, expires: OffsetDateTime) -> anyhow::Result<()> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM tokens WHERE expires <= ?")
            .bind(seconds(OffsetDateTime::now_utc()))
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO tokens (hash, serial, expires) VALUES (?, ?, ?)")
            .bind(hash(secret))
            .bind(serial.as_str())
            .bind(seconds(expires))
            .execute(&mut *tx)
            .await
            .context("writing a token")?;
        tx.commit().await.context("writing a token")
    }
}

/// Takes the token `secret` of `serial` away, and says whether there was one that had not expired.
///
/// The comparison is one of hashes of 256-bit secrets, of which timing tells nothing that helps to guess one.
pub(crate) async fn redeem(
    connection: &mut Connection,
    serial: &Token,
    secret: &str,
    now: OffsetDateTime,
) -> anyhow::Result<bool> {
    let done = sqlx::query("DELETE FROM tokens WHERE hash = ? AND serial = ? AND expires > ?")
        .bind(hash(secret))
        .bind(serial.as_str())
        .bind(seconds(now))
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}
