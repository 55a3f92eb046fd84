//! Settings that several services share. Each is an environment variable and a `--flag`; secrets'
//! values are never shown by `--help`.

use std::fmt;

use clap::{Args, ValueEnum};

use crate::sealing::SealingKeys;

/// The edge index.
#[derive(Debug, Clone, Args)]
pub struct RedisConfig {
    /// Redis, as redis://host:port/database or redis+unix:///path
    #[arg(
        long,
        env,
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true
    )]
    pub redis_url: String,
    /// What every key in Redis begins with
    #[arg(long, env, default_value = "tributary:")]
    pub redis_prefix: String,
}

/// The log of what was accepted.
#[derive(Debug, Clone, Args)]
pub struct KafkaConfig {
    /// Kafka brokers, as host:port, several separated by commas
    #[arg(long, env, default_value = "127.0.0.1:9092")]
    pub kafka_brokers: String,
    /// What every topic's name begins with
    #[arg(long, env, default_value = "")]
    pub kafka_topic_prefix: String,
}

/// The facts.
#[derive(Debug, Clone, Args)]
pub struct ClickHouseConfig {
    /// ClickHouse's HTTP interface
    #[arg(long, env, default_value = "http://127.0.0.1:8123")]
    pub clickhouse_url: String,
    /// Database that holds the facts
    #[arg(long, env, default_value = "tributary")]
    pub clickhouse_database: String,
    /// User, where the server has users
    #[arg(long, env)]
    pub clickhouse_user: Option<String>,
    /// The user's password
    #[arg(long, env, hide_env_values = true)]
    pub clickhouse_password: Option<Secret>,
}

/// Configuration and money.
#[derive(Debug, Clone, Args)]
pub struct DatabaseConfig {
    /// PostgreSQL, as postgres://user:password@host:port/database
    #[arg(
        long,
        env,
        default_value = "postgres://tributary@127.0.0.1:5432/tributary",
        hide_env_values = true
    )]
    pub database_url: Secret,
}

/// The keys that seal secrets which have to be read again.
#[derive(Debug, Clone, Args)]
pub struct SealingConfig {
    /// Keys that seal stored secrets, as id:hex,id:hex; the first seals, each opens; the same for every service
    #[arg(long, env, hide_env_values = true)]
    pub sealing_keys: SealingKeys,
}

/// What a service says of itself.
#[derive(Debug, Clone, Args)]
pub struct LogConfig {
    /// How log lines are written
    #[arg(long, env, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// A setting that must not be printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
