//! What the manager remembers, in one SQLite database.
//!
//! Server and commands open the same file at the same time: write-ahead log, a busy timeout, and every change
//! in a transaction that takes the write lock at once.

mod certificates;
mod devices;
mod endorsement;
mod revocation_list;
pub(crate) mod tokens;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqliteConnection, Transaction};
use time::OffsetDateTime;

pub(crate) use certificates::CertificateRecord;
pub(crate) use devices::{Device, DeviceState};
pub(crate) use endorsement::{AllowedEk, EkCa};
pub(crate) use revocation_list::StoredList;

/// The file's name in the state directory.
pub(crate) const FILE: &str = "manager.sqlite";
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTIONS: u32 = 4;

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pool: SqlitePool,
}

impl Store {
    /// Opens the database in `state_dir`, makes it if need be, and brings its schema up to date.
    pub(crate) async fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was answered to a device must be there after a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .connect_with(options)
            .await
            .with_context(|| format!("{}: cannot be opened", path.display()))?;
        sqlx::migrate!()
            .run(&pool)
            .await
            .with_context(|| format!("{}: its schema cannot be brought up to date", path.display()))?;
        Ok(Self { pool })
    }

    /// A connection to read with, or to change one thing at once.
    pub(crate) async fn read(&self) -> anyhow::Result<sqlx::pool::PoolConnection<Sqlite>> {
        self.pool.acquire().await.context("the database is not available")
    }

    /// A transaction that holds the write lock; it is rolled back unless committed.
    pub(crate) async fn write(&self) -> anyhow::Result<Transaction<'static, Sqlite>> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.context("the database is not available for writing")
    }

    /// Closes all connections, so that the write-ahead log is folded into the database.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// Whether the database answers.
    pub(crate) async fn check(&self) -> anyhow::Result<()> {
        sqlx::query("SELECT 1").execute(&mut *self.read().await?).await.context("the database does not answer")?;
        Ok(())
    }
}

/// What every table's functions take: a connection to read with, or a transaction.
pub(crate) type Connection = SqliteConnection;

fn seconds(time: OffsetDateTime) -> i64 {
    time.unix_timestamp()
}

fn instant(seconds: i64) -> anyhow::Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(seconds).context("a time in the database is out of range")
}
