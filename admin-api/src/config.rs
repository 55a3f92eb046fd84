//! The admin API's settings. Each is an environment variable and a `--flag`.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};
use tributary_shared::config::{
    ClickHouseConfig, DatabaseConfig, KafkaConfig, LogConfig, RedisConfig, Secret,
};
use tributary_shared::sealing::SealingKeys;

/// Shortest platform owner's key, in characters.
const MIN_OWNER_KEY_CHARS: usize = 32;

/// Tributary's control plane: configuration, analytics and the edge index
#[derive(Debug, Parser)]
#[command(name = "admin-api", version, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do; without one, serve the API
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub engines: Engines,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub log: LogConfig,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Bring the schemas of PostgreSQL, ClickHouse and Kafka up to date, and end
    Migrate,
    /// Write the edge index in Redis again from PostgreSQL, and end
    Sync,
}

/// Where the engines are.
#[derive(Debug, Clone, Args)]
pub struct Engines {
    #[command(flatten)]
    pub redis: RedisConfig,
    #[command(flatten)]
    pub kafka: KafkaConfig,
    #[command(flatten)]
    pub clickhouse: ClickHouseConfig,
    #[command(flatten)]
    pub database: DatabaseConfig,
}

/// How the API is served, as the command line gives it.
#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    /// Address of the API and of the page at /
    #[arg(long, env, default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,
    /// Address of /metrics, /healthz and /readyz
    #[arg(long, env, default_value = "127.0.0.1:9103")]
    pub metrics_listen: SocketAddr,
    /// The platform owner's bearer key, at least 32 characters (try: openssl rand -hex 32)
    #[arg(long, env, required = true, hide_env_values = true, value_parser = owner_key)]
    pub owner_key: Option<Secret>,
    /// Keys that seal stored secrets, as id:hex,id:hex; the first seals, each opens; the same for every service
    #[arg(long, env, required = true, hide_env_values = true)]
    pub sealing_keys: Option<SealingKeys>,
    /// Public address of the redirector, which links' URLs begin with
    #[arg(long, env, default_value = "http://127.0.0.1:8080", value_parser = base_url)]
    pub redirect_url: String,
    /// Slug of the tenant whose figures the page at / shows without signing in
    #[arg(long, env)]
    pub demo_tenant: Option<String>,
    /// Whether the session cookie is sent over https only; switch off for localhost alone
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub cookie_secure: bool,
}

/// All that serving needs.
#[derive(Debug, Clone)]
pub struct Config {
    pub engines: Engines,
    pub owner_key: Secret,
    pub sealing_keys: SealingKeys,
    /// Without a slash at its end.
    pub redirect_url: String,
    pub demo_tenant: Option<String>,
    pub cookie_secure: bool,
}

fn owner_key(text: &str) -> Result<Secret, String> {
    if text.len() < MIN_OWNER_KEY_CHARS || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "use at least {MIN_OWNER_KEY_CHARS} visible ASCII characters (try: openssl rand -hex 32)"
        ));
    }
    Ok(text.into())
}

fn base_url(text: &str) -> Result<String, String> {
    let host = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .filter(|rest| !rest.starts_with('/') && !rest.contains(['?', '#', ' ', '"', '<', '>']));
    match host {
        Some(host) if !host.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("write an address such as https://go.example.com".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_needs_an_owner_key_and_the_other_commands_do_not() {
        // Asked of the definition, because the environment of the test may hold a key.
        let command = Cli::command();
        let owner_key = command
            .get_arguments()
            .find(|arg| arg.get_id() == "owner_key");
        assert!(owner_key.is_some_and(clap::Arg::is_required_set));
        assert!(command.is_subcommand_negates_reqs_set());
        assert!(Cli::try_parse_from(["admin-api", "sync"]).is_ok());
        let short = Cli::try_parse_from(["admin-api", "--owner-key", "short"]).unwrap_err();
        assert!(short.to_string().contains("at least 32"), "{short}");
        let key = "k".repeat(32);
        let sealing = format!("1:{}", "ab".repeat(32));
        let serve = ["admin-api", "--owner-key", &key, "--sealing-keys", &sealing];
        assert!(Cli::try_parse_from(serve).is_ok());
    }

    #[test]
    fn a_redirect_url_is_an_address() {
        assert_eq!(
            base_url("https://go.example.com/").unwrap(),
            "https://go.example.com"
        );
        for bad in [
            "",
            "go.example.com",
            "ftp://x",
            "https://",
            "https:///x",
            "http://x?y",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }
}
