//! The edge: accept → resolve → redirect → record → 302, and postbacks in.
//!
//! A request's way through the files: [`server`] accepts the connection and chooses the handler;
//! `redirect` answers a shopper with the help of `resolve` (which link is this code?),
//! `client` (who is asking?), `cookies` and `fingerprint`; `record` hands the click to Kafka;
//! `postback` takes a merchant's conversion; `pages` holds what a person may get to read.

mod client;
mod config;
mod cookies;
#[allow(dead_code, reason = "wired in next")]
mod country;
#[allow(dead_code, reason = "wired in next")]
mod destination;
#[allow(dead_code, reason = "wired in next")]
mod device;
mod fingerprint;
#[allow(dead_code, reason = "wired in next")]
mod link;
mod pages;
mod postback;
#[allow(dead_code, reason = "wired in next")]
mod query;
mod record;
mod redirect;
mod resolve;
#[allow(dead_code, reason = "wired in next")]
mod route;
mod server;

use std::sync::Arc;

use metrics::Counter;
use rdkafka::error::KafkaError;
use redis::RedisError;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::engines;
use tributary_shared::secrets::KeyRing;
use tributary_shared::telemetry::{self, Readiness, serve_operations};

pub use config::Config;

use crate::client::TrustedProxies;
use crate::cookies::CookieWriter;
use crate::fingerprint::Fingerprinter;
use crate::postback::ConversionPublisher;
use crate::record::ClickRecorder;
use crate::resolve::Resolver;

/// Why the redirector stopped without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen: {0}; another program may hold the port (see LISTEN, METRICS_LISTEN)")]
    Listen(#[from] std::io::Error),
    #[error("cannot use the Redis settings: {0} (see REDIS_URL)")]
    Redis(#[from] RedisError),
    #[error("cannot use the Kafka settings: {0} (see KAFKA_BROKERS)")]
    Kafka(#[from] KafkaError),
}

/// What every request is answered with.
struct Edge {
    clock: Clock,
    keys: KeyRing,
    resolver: Resolver,
    proxies: TrustedProxies,
    cookies: CookieWriter,
    fingerprinter: Fingerprinter,
    clicks: ClickRecorder,
    conversions: ConversionPublisher,
    /// Redirects that were answered.
    redirects: Counter,
}

/// Serves until `shutdown`, then answers what is in flight and flushes every click to Kafka.
///
/// # Errors
/// When a setting can't be used. An engine that is away is no error: see `/readyz`.
pub async fn run(
    config: Config,
    listener: TcpListener,
    operations: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    telemetry::metrics(); // counters that are made earlier count for nobody
    let readiness = Readiness::waiting_for(&["kafka", "redis"]);
    let operations_stop = CancellationToken::new();
    let _stop_operations = operations_stop.clone().drop_guard();
    let redis = engines::redis::connect(&config.redis, config.redis_timeout())?;
    let clicks = ClickRecorder::new(&config)?;
    let edge = Arc::new(Edge {
        clock: Clock::system(),
        keys: config.click_token_keys.clone(),
        resolver: Resolver::new(redis, &config),
        proxies: TrustedProxies::new(config.trusted_proxies.clone()),
        cookies: CookieWriter::new(config.cookie_secure),
        fingerprinter: Fingerprinter::new(config.fingerprint_key.clone()),
        clicks: clicks.clone(),
        conversions: ConversionPublisher::new(&config)?,
        redirects: server::requests("redirect", "302"),
    });
    tokio::spawn(serve_operations(
        operations,
        readiness.clone(),
        operations_stop,
    ));
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(watch_engines(Arc::clone(&edge), readiness.clone())),
    );

    tracing::info!(address = %config.listen, "redirector serves");
    server::serve(listener, edge, config.max_connections, shutdown).await;
    readiness.not_ready("server", "stopping");
    clicks.flush().await;
    tracing::info!("redirector stopped");
    Ok(())
}

/// Reports ready once each engine has answered. Later outages don't make the edge unready: it goes
/// on redirecting from memory, and taking it out of service would only lose clicks.
async fn watch_engines(edge: Arc<Edge>, readiness: Readiness) {
    tokio::join!(
        edge.resolver.wait_until_reachable(&readiness),
        edge.clicks.wait_until_reachable(&readiness),
    );
    tracing::info!("redirector is ready");
}
