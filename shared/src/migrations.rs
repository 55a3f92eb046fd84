//! The schemas of PostgreSQL, ClickHouse and Kafka: versioned, applied by one owner at a time
//! (`admin-api`), safe to apply twice. Other services wait until they are current.

use std::time::Duration;

use clickhouse::Client;
use rdkafka::error::KafkaError;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection as _, PgPool};

use crate::config::KafkaConfig;
use crate::engines::kafka;

static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// ClickHouse's migrations in their order. A file's statements end with `;` at the end of a line and
/// can each be run again, because ClickHouse has no transaction around them.
const CLICKHOUSE: [(u32, &str); 13] = [
    (1, include_str!("../migrations/clickhouse/0001_facts.sql")),
    (
        2,
        include_str!("../migrations/clickhouse/0002_clicks_once.sql"),
    ),
    (
        3,
        include_str!("../migrations/clickhouse/0003_clicks_next.sql"),
    ),
    (
        4,
        include_str!("../migrations/clickhouse/0004_clicks_drop.sql"),
    ),
    (
        5,
        include_str!("../migrations/clickhouse/0005_clicks_rename.sql"),
    ),
    (
        6,
        include_str!("../migrations/clickhouse/0006_conversions_next.sql"),
    ),
    (
        7,
        include_str!("../migrations/clickhouse/0007_conversions_drop.sql"),
    ),
    (
        8,
        include_str!("../migrations/clickhouse/0008_conversions_rename.sql"),
    ),
    (
        9,
        include_str!("../migrations/clickhouse/0009_clicks_next.sql"),
    ),
    (
        10,
        include_str!("../migrations/clickhouse/0010_clicks_drop.sql"),
    ),
    (
        11,
        include_str!("../migrations/clickhouse/0011_clicks_rename.sql"),
    ),
    (
        12,
        include_str!("../migrations/clickhouse/0012_postbacks.sql"),
    ),
    (
        13,
        include_str!("../migrations/clickhouse/0013_order_status.sql"),
    ),
];

/// The PostgreSQL advisory lock that the owner holds: "tributar" in ASCII.
const OWNER_LOCK: i64 = 0x7472_6962_7574_6172;
/// How often a waiting service looks again.
const POLL_EVERY: Duration = Duration::from_millis(250);

/// Why the schemas could not be brought up to date. All of them can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("PostgreSQL: {0}")]
    Postgres(#[from] sqlx::Error),
    #[error("PostgreSQL: {0}")]
    Migrate(#[from] MigrateError),
    #[error("ClickHouse: {0}")]
    ClickHouse(#[from] clickhouse::error::Error),
    #[error("ClickHouse: the database's name may hold letters, digits and _ only, not {0:?}")]
    DatabaseName(String),
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
}

/// Brings all three up to date, one caller at a time.
///
/// # Errors
/// When an engine is away or refuses; nothing is left half done that a second run would not finish.
pub async fn apply(
    postgres: &PgPool,
    clickhouse: &Client,
    database: &str,
    kafka_config: &KafkaConfig,
) -> Result<(), MigrationError> {
    // A connection of its own, closed at the end: the lock goes with the session whatever happens.
    let mut owner = postgres.acquire().await?.detach();
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(OWNER_LOCK)
        .execute(&mut owner)
        .await?;
    POSTGRES.run(postgres).await?;
    apply_clickhouse(clickhouse, database).await?;
    kafka::create_topics(kafka_config).await?;
    owner.close().await?;
    Ok(())
}

async fn apply_clickhouse(client: &Client, database: &str) -> Result<(), MigrationError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if database.is_empty() || !database.bytes().all(plain) {
        return Err(MigrationError::DatabaseName(database.to_owned()));
    }
    client
        .clone()
        .with_database("system")
        .query(&format!("CREATE DATABASE IF NOT EXISTS {database}"))
        .execute()
        .await?;
    client
        .query(
            "CREATE TABLE IF NOT EXISTS schema_versions (version UInt32, applied_at DateTime DEFAULT now())
             ENGINE = MergeTree ORDER BY version",
        )
        .execute()
        .await?;
    let current = clickhouse_version(client).await?;
    for (version, sql) in CLICKHOUSE.iter().filter(|(version, _)| *version > current) {
        for statement in sql.split(";\n").filter(|s| !s.trim().is_empty()) {
            client.query(&escaped(statement)).execute().await?;
        }
        client
            .query("INSERT INTO schema_versions (version) VALUES (?)")
            .bind(version)
            .execute()
            .await?;
        tracing::info!(version, "ClickHouse schema applied");
    }
    Ok(())
}

/// The client reads `?` as a parameter.
fn escaped(statement: &str) -> String {
    statement.replace('?', "??")
}

async fn clickhouse_version(client: &Client) -> Result<u32, clickhouse::error::Error> {
    client
        .query("SELECT max(version) FROM schema_versions")
        .fetch_one()
        .await
}

/// Returns once the owner has brought PostgreSQL and ClickHouse to the version that this binary
/// knows, or a later one.
pub async fn wait_until_current(postgres: &PgPool, clickhouse: &Client) {
    let mut told = false;
    while let Err(missing) = is_current(postgres, clickhouse).await {
        if !told {
            tracing::info!(
                missing,
                "waiting for the schemas; admin-api applies them at its start"
            );
            told = true;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

async fn is_current(postgres: &PgPool, clickhouse: &Client) -> Result<(), String> {
    postgres_is_current(postgres).await?;
    let wanted = CLICKHOUSE
        .iter()
        .map(|(version, _)| *version)
        .max()
        .unwrap_or(0);
    let applied = clickhouse_version(clickhouse)
        .await
        .map_err(|e| format!("ClickHouse: {e}"))?;
    if applied < wanted {
        return Err(format!("ClickHouse: version {wanted} is not applied"));
    }
    Ok(())
}

/// Whether PostgreSQL is at the version that this binary knows, or a later one.
///
/// # Errors
/// Says what is missing.
pub async fn postgres_is_current(postgres: &PgPool) -> Result<(), String> {
    let wanted = POSTGRES.iter().map(|m| m.version).max().unwrap_or(0);
    let applied: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(postgres)
            .await
            .map_err(|e| format!("PostgreSQL: {e}"))?;
    if applied.unwrap_or(0) < wanted {
        return Err(format!("PostgreSQL: version {wanted} is not applied"));
    }
    Ok(())
}
