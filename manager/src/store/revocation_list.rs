//! The current revocation list.

use anyhow::Context;
use sqlx::Row;
use time::OffsetDateTime;

use super::{Connection, instant, seconds};
use crate::ca::RevocationList;

/// The list as it is served.
#[derive(Debug, Clone)]
pub(crate) struct StoredList {
    pub(crate) number: u64,
    pub(crate) next_update: OffsetDateTime,
    pub(crate) der: Vec<u8>,
}

impl StoredList {
    /// The current list; `None` before the first start.
    pub(crate) async fn current(connection: &mut Connection) -> anyhow::Result<Option<Self>> {
        let Some(row) = sqlx::query("SELECT number, next_update, der FROM crl").fetch_optional(connection).await?
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            number: row.try_get::<i64, _>("number")?.try_into().context("the revocation list's number")?,
            next_update: instant(row.try_get("next_update")?)?,
            der: row.try_get("der")?,
        }))
    }

    /// Puts `list` in the place of the current one.
    pub(crate) async fn replace(connection: &mut Connection, number: u64, list: &RevocationList) -> anyhow::Result<()> {
        sqlx::query(
            "INSERT INTO crl (only_row, number, next_update, der) VALUES (1, ?, ?, ?) ON CONFLICT (only_row) \
             DO UPDATE SET number = excluded.number, next_update = excluded.next_update, der = excluded.der",
        )
        .bind(i64::try_from(number).context("the revocation list's number")?)
        .bind(seconds(list.next_update))
        .bind(&list.der)
        .execute(connection)
        .await
        .context("writing the revocation list")?;
        Ok(())
    }
}
