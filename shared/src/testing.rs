//! A place of its own for each test on engines that many tests share: a PostgreSQL database, a
//! ClickHouse database, a prefix for Kafka topics and one for Redis keys, all with one unique name.
//! They are left behind: the engines of a test run live as long as the run.

use std::str::FromStr as _;
use std::sync::atomic::{AtomicU32, Ordering};

use clickhouse::Client;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::config::{ClickHouseConfig, DatabaseConfig, KafkaConfig, RedisConfig};
use crate::engines;
use crate::migrations::{self, MigrationError};

/// Connections of one test's own pool.
const POOL_CONNECTIONS: u32 = 4;

/// One test's part of the engines.
#[derive(Debug, Clone)]
pub struct Isolated {
    /// What its databases are called and its prefixes begin with.
    pub name: String,
    pub redis: RedisConfig,
    pub kafka: KafkaConfig,
    pub clickhouse: ClickHouseConfig,
    pub database: DatabaseConfig,
}

impl Isolated {
    /// A new place with every schema in it.
    ///
    /// # Errors
    /// When an engine is away or refuses.
    pub async fn create() -> Result<Self, MigrationError> {
        let isolated = Self::empty().await?;
        migrations::apply(
            &isolated.pool()?,
            &isolated.facts(),
            &isolated.clickhouse.clickhouse_database,
            &isolated.kafka,
        )
        .await?;
        Ok(isolated)
    }

    /// A new place with nothing in it but an empty PostgreSQL database.
    ///
    /// # Errors
    /// When PostgreSQL is away or refuses.
    pub async fn empty() -> Result<Self, MigrationError> {
        let engines = engines().await;
        let name = unique_name();
        let server = PgConnectOptions::from_str(&engines.database_url)?;
        let mut connection = server.connect().await?;
        // The name is ours: letters, digits and _.
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        let database_url = server.database(&name).to_url_lossy().to_string();
        Ok(Self {
            redis: RedisConfig {
                redis_url: engines.redis_url.clone(),
                redis_prefix: format!("{name}:"),
            },
            kafka: KafkaConfig {
                kafka_brokers: engines.kafka_brokers.clone(),
                kafka_topic_prefix: format!("{name}."),
            },
            clickhouse: ClickHouseConfig {
                clickhouse_url: engines.clickhouse_url.clone(),
                clickhouse_database: name.clone(),
                clickhouse_user: None,
                clickhouse_password: None,
            },
            database: DatabaseConfig {
                database_url: database_url.into(),
            },
            name,
        })
    }

    /// A pool of its own on the test's PostgreSQL database.
    ///
    /// # Errors
    /// When the address can't be read.
    pub fn pool(&self) -> Result<PgPool, sqlx::Error> {
        engines::postgres::pool(&self.database, "test", POOL_CONNECTIONS)
    }

    /// A client of the test's ClickHouse database.
    #[must_use]
    pub fn facts(&self) -> Client {
        engines::clickhouse::client(&self.clickhouse)
    }
}

/// The engines that the tests share; the first caller waits until they are healthy.
///
/// # Panics
/// If they can't be started; the message says what to do.
#[expect(
    clippy::expect_used,
    reason = "for tests only: without engines they can't go on"
)]
pub async fn engines() -> &'static tributary_local::engines::Engines {
    tokio::task::spawn_blocking(tributary_local::testing::engines)
        .await
        .expect("the engines were started")
}

/// Unique over processes that share engines, and readable in an engine's own tools.
fn unique_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let random: u32 = rand::random();
    format!("test_{}_{number}_{random:08x}", std::process::id())
}
