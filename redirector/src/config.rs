//! The redirector's settings.

use std::net::SocketAddr;
use std::num::{NonZero, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use tributary_shared::config::{KafkaConfig, LogConfig, RedisConfig, SealingConfig};
use tributary_shared::secrets::{Key, KeyRing};

use crate::client::ForwardingHeader;
use crate::journal::{self, SyncPolicy};

/// Redirects shoppers and records their clicks; takes merchants' conversions in.
#[derive(Debug, Clone, Parser)]
#[command(name = "redirector", version)]
pub struct Config {
    /// Where shoppers and merchants connect
    #[arg(long, env, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where they connect with TLS (HTTP/2 or HTTP/1.1); none: TLS is somebody else's
    #[arg(long, env, requires = "tls_dir")]
    pub tls_listen: Option<SocketAddr>,
    /// Folder of certificates: {host}/cert.pem and key.pem, also _.{domain}/ (wildcard) and default/
    #[arg(long, env)]
    pub tls_dir: Option<PathBuf>,
    /// How often certificates are looked for that were renewed, in seconds (or send SIGHUP)
    #[arg(long, env, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub tls_reload_seconds: u64,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, env, default_value = "127.0.0.1:9101")]
    pub metrics_listen: SocketAddr,
    /// Keys that sign click tokens, as id:hex,id:hex; the first signs, each is trusted
    #[arg(long, env, hide_env_values = true)]
    pub click_token_keys: KeyRing,
    /// Secret of the fingerprint, 32 bytes in hex; replace it from time to time
    #[arg(long, env, hide_env_values = true)]
    pub fingerprint_key: Key,
    /// Proxies whose word on the client's address is believed, as networks separated by commas
    #[arg(long, env, value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which trusted proxies name their client; the other one is never read
    #[arg(long, env, value_enum, default_value_t)]
    pub forwarding_header: ForwardingHeader,
    /// Whether connections begin with a PROXY header (1 or 2); then only trusted proxies may connect
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub proxy_protocol: bool,
    /// Whether cookies are for https only; off only where there is no https, as on localhost
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub cookie_secure: bool,
    /// Links kept in memory
    #[arg(long, env, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub link_cache_entries: u32,
    /// How long what is in memory is used before Redis is asked again though it told of no change, in
    /// milliseconds
    #[arg(long, env, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub link_cache_ttl_ms: u64,
    /// How long a shopper may wait for Redis, in milliseconds
    #[arg(long, env, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub redis_timeout_ms: u64,
    /// Folder on a local disk where clicks and conversions wait for Kafka; several redirectors may share it
    #[arg(long, env, default_value = "journal")]
    pub journal_dir: PathBuf,
    /// Disk that the journal may take, in MiB; beyond it clicks wait in memory, then are lost and counted
    #[arg(long, env, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(64..=4_194_304))]
    pub journal_max_mib: u32,
    /// Memory that may stand in for the journal's disk while that can't be used, in MiB
    #[arg(long, env, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub journal_memory_mib: u32,
    /// When clicks are forced to the disk: never (by the kernel, within half a minute), an interval such as
    /// 100ms, or reply (before the shopper is answered). This is about power loss only
    #[arg(long, env, default_value = "never")]
    pub journal_sync: SyncPolicy,
    /// Threads that serve; the machine's cores when it is not given
    #[arg(long, env, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// How long a client may take over its headers, and stay idle between requests, in milliseconds
    #[arg(long, env, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(100..=300_000))]
    pub header_timeout_ms: u64,
    /// Connections served at once for one client address (an IPv6 /64); 0: no limit
    #[arg(long, env, default_value_t = 1_000)]
    pub max_connections_per_address: u32,
    /// File in MaxMind's format that tells an address's country, for links that route by it
    #[arg(long, env)]
    pub country_file: Option<PathBuf>,
    /// Connections served at once, each 15 KiB of memory (30 with TLS); further ones wait in the kernel's queue
    #[arg(long, env, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Conversions a second that browsers may report by one publishable key
    #[arg(long, env, default_value = "100")]
    pub events_per_second: NonZeroU32,
    #[command(flatten)]
    pub sealing: SealingConfig,
    #[command(flatten)]
    pub redis: RedisConfig,
    #[command(flatten)]
    pub kafka: KafkaConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

impl Config {
    pub(crate) fn link_cache_ttl(&self) -> Duration {
        Duration::from_millis(self.link_cache_ttl_ms)
    }

    pub(crate) fn journal(&self) -> journal::Settings {
        let bytes = |mib: u32| mib as usize * 1024 * 1024;
        journal::Settings {
            folder: self.journal_dir.clone(),
            max_disk_bytes: bytes(self.journal_max_mib),
            max_memory_bytes: bytes(self.journal_memory_mib),
            sync: self.journal_sync,
        }
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.map_or_else(
            || std::thread::available_parallelism().map_or(1, NonZero::get),
            usize::from,
        )
    }

    pub(crate) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    pub(crate) fn tls_reload(&self) -> Duration {
        Duration::from_secs(self.tls_reload_seconds)
    }

    pub(crate) fn redis_timeout(&self) -> Duration {
        Duration::from_millis(self.redis_timeout_ms)
    }
}
