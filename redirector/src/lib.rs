//! The edge: accept → resolve → redirect → record → 302, and postbacks in.
//!
//! A request's way through the files: [`server`] accepts the connection and chooses the handler;
//! `redirect` answers a shopper with the help of `resolve` (which link is this code?),
//! `client` (who is asking?), `cookies` and `fingerprint`; `record` writes the click into the
//! `journal`, which gives it to Kafka; `postback`, `pixel` and `events` take a conversion by the rules
//! of `conversion`, with the help of `intake`, `cors` and `limits`; `snippet` is the script that calls
//! `events`; `pages` holds what a person may get to read.

mod client;
mod config;
mod conversion;
mod cookies;
mod cors;
#[allow(dead_code, reason = "wired in next")]
mod country;
#[allow(dead_code, reason = "wired in next")]
mod destination;
#[allow(dead_code, reason = "wired in next")]
mod device;
mod events;
mod fingerprint;
mod intake;
mod journal;
#[allow(dead_code, reason = "wired in next")]
mod link;
mod limits;
mod pages;
mod pixel;
mod postback;
#[allow(dead_code, reason = "wired in next")]
mod query;
mod record;
mod redirect;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        unused_imports,
        reason = "domains, caps and the fast path await their callers"
    )
)]
mod resolve;
#[allow(dead_code, reason = "wired in next")]
mod route;
mod server;
mod snippet;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use redis::RedisError;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::secrets::KeyRing;
use tributary_shared::telemetry::{self, Readiness, serve_operations};

pub use config::Config;
pub use journal::{BadSyncPolicy, JournalError, SyncPolicy};

use crate::client::TrustedProxies;
use crate::conversion::ConversionPublisher;
use crate::cookies::CookieWriter;
use crate::fingerprint::Fingerprinter;
use crate::journal::{Journal, Stream};
use crate::limits::ReportLimits;
use crate::resolve::Resolver;

/// How long Kafka may take over what is left in the journal at the end; the rest stays there.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the redirector stopped without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen: {0}; another program may hold the port (see LISTEN, METRICS_LISTEN)")]
    Listen(#[from] io::Error),
    #[error("cannot use the Redis settings: {0} (see REDIS_URL)")]
    Redis(#[from] RedisError),
    #[error("cannot use the Kafka settings: {0} (see KAFKA_BROKERS)")]
    Kafka(#[from] KafkaError),
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("a serving thread ended: {0}")]
    Worker(String),
}

/// What every request is answered with, on whichever thread.
struct Edge {
    clock: Clock,
    keys: KeyRing,
    resolver: Resolver,
    proxies: TrustedProxies,
    cookies: CookieWriter,
    fingerprinter: Fingerprinter,
    conversions: ConversionPublisher,
    report_limits: ReportLimits,
}

/// Serves until `shutdown`, then answers what is in flight and gives Kafka what is in the journal.
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
    let readiness = Readiness::waiting_for(&["redis"]);
    let operations_stop = CancellationToken::new();
    let _stop_operations = operations_stop.clone().drop_guard();
    let clock = Clock::system();
    let journal = Journal::open(&config.journal(), &config.kafka, clock.clone())?;
    let edge = Arc::new(Edge {
        clock,
        keys: config.click_token_keys.clone(),
        resolver: Resolver::start(&config)?,
        proxies: TrustedProxies::new(config.trusted_proxies.clone()),
        cookies: CookieWriter::new(config.cookie_secure),
        fingerprinter: Fingerprinter::new(config.fingerprint_key.clone()),
        conversions: ConversionPublisher::new(journal.lane(Stream::Conversions)),
        report_limits: ReportLimits::new(config.events_per_second),
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
    serve(&config, listener, &edge, &journal, &shutdown).await?;
    readiness.not_ready("server", "stopping");
    drop(edge); // and with it the lane of conversions
    let _ = spawn_blocking(move || journal.close(FLUSH_TIMEOUT)).await;
    tracing::info!("redirector stopped");
    Ok(())
}

/// Serves on every worker; returns when all have ended.
async fn serve(
    config: &Config,
    listener: TcpListener,
    edge: &Arc<Edge>,
    journal: &Journal,
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    let listener = listener.into_std()?;
    let slots = Arc::new(Semaphore::new(config.max_connections as usize));
    // A worker that ends by itself takes the others with it: half a service is not noticed.
    let ended = shutdown.child_token();
    let mut workers = Vec::new();
    for number in 0..config.workers() {
        let worker = server::spawn(
            number,
            listener.try_clone()?,
            Arc::clone(edge),
            journal.lane(Stream::Clicks),
            Arc::clone(&slots),
            ended.clone(),
        )?;
        let guard = ended.clone().drop_guard();
        workers.push(spawn_blocking(move || {
            let _guard = guard;
            worker.join()
        }));
    }
    drop(listener);
    let mut result = Ok(());
    for worker in workers {
        match worker.await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => result = Err(error.into()),
            Ok(Err(_)) => result = Err(RunError::Worker("it panicked".to_owned())),
            Err(error) => result = Err(RunError::Worker(error.to_string())),
        }
    }
    result
}

/// Reports ready once Redis has answered. Later outages don't make the edge unready: it goes on
/// redirecting from memory, and taking it out of service would only lose clicks. Kafka may be away
/// from the start: the journal takes the clicks.
async fn watch_engines(edge: Arc<Edge>, readiness: Readiness) {
    edge.resolver.wait_until_reachable(&readiness).await;
    tracing::info!("redirector is ready");
}
