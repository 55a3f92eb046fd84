//! The processor's settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tributary_shared::config::{
    ClickHouseConfig, DatabaseConfig, KafkaConfig, LogConfig, SealingConfig,
};
use tributary_shared::secrets::KeyRing;

use crate::payouts::ProviderAddresses;

/// Stores clicks as facts; attributes and prices conversions and posts them to the ledger.
#[derive(Debug, Clone, Parser)]
#[command(name = "processor", version)]
pub struct Config {
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, env, default_value = "127.0.0.1:9102")]
    pub metrics_listen: SocketAddr,
    /// Keys that sign click tokens, as id:hex,id:hex; the same as the redirector's
    #[arg(long, env, hide_env_values = true)]
    pub click_token_keys: KeyRing,
    /// Consumer group; processors of one group share the work
    #[arg(long, env, default_value = "tributary-processor")]
    pub kafka_group: String,
    /// Facts that are written to ClickHouse at once, at most
    #[arg(long, env, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub batch_rows: u32,
    /// How long a fact waits for others before it is written, in milliseconds
    #[arg(long, env, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub batch_ms: u64,
    /// How often clicks that are paid for are counted, in seconds
    #[arg(long, env, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub click_earnings_seconds: u64,
    /// File in MaxMind's format that tells an address's country, region and city
    #[arg(long, env)]
    pub city_file: Option<PathBuf>,
    /// File in MaxMind's format that tells an address's network (autonomous system)
    #[arg(long, env)]
    pub network_file: Option<PathBuf>,
    #[command(flatten)]
    pub providers: ProviderAddresses,
    #[command(flatten)]
    pub sealing: SealingConfig,
    #[command(flatten)]
    pub kafka: KafkaConfig,
    #[command(flatten)]
    pub clickhouse: ClickHouseConfig,
    #[command(flatten)]
    pub database: DatabaseConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

impl Config {
    pub(crate) fn batch_age(&self) -> Duration {
        Duration::from_millis(self.batch_ms)
    }

    /// One group per topic, so that a rebalance of one leaves the others alone.
    pub(crate) fn group(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.kafka_group)
    }
}
