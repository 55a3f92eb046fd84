//! The edge: accept → resolve → route → record → 302, and conversions in.
//!
//! A request's way through the files: `server` accepts the connection (`connections`, `tls`, `http2`,
//! `proxy_protocol`, `watch`); `lane` reads what nearly all requests are, and hyper the rest; `redirect`
//! answers a shopper with the help of `resolve` (which link is this code?), `shopper` and `client` (who
//! is asking?), `query` and `route` (where to? by `device` and `country`), `destination`, `cookies` and
//! `fingerprint`; `record` writes the click into the `journal`, which gives it to Kafka; `found` is the 302; `postback`, `webhook`, `pixel` and `events` take a conversion by the rules of
//! `conversion`, with the help of `intake`, `cors` and `limits`; `snippet` is the script that calls
//! `events`; `pages` holds what a person may get to read. `fuzzing` is what must hold of any input; only
//! fuzzers and tests have it.

mod author;
mod client;
mod config;
mod connections;
mod conversion;
mod cookies;
mod cors;
mod destination;
mod events;
mod fingerprint;
mod found;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http2;
mod intake;
mod journal;
mod lane;
mod limits;
mod link;
mod outbox;
mod pages;
mod pixel;
mod postback;
mod postback_log;
mod proxy_protocol;
mod query;
mod record;
mod redirect;
mod resolve;
mod route;
mod server;
mod shopper;
mod snippet;
mod tls;
mod watch;
mod webhook;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tributary_shared::bots::BotList;
use tributary_shared::clock::Clock;
use tributary_shared::geo::{GeoError, GeoFile};
use tributary_shared::sealing::SealingKeys;
use tributary_shared::secrets::KeyRing;
use tributary_shared::telemetry::{self, Readiness, serve_operations};

pub use client::ForwardingHeader;
pub use config::Config;
pub use journal::{BadSyncPolicy, JournalError, SyncPolicy};
pub use tls::TlsError;

use crate::client::TrustedProxies;
use crate::connections::PerAddress;
use crate::conversion::ConversionPublisher;
use crate::cookies::CookieWriter;
use crate::fingerprint::Fingerprinter;
use crate::journal::{Journal, Stream};
use crate::limits::ReportLimits;
use crate::postback_log::PostbackLog;
use crate::resolve::Resolver;
use crate::server::{Entrance, Front};
use crate::tls::Tls;

/// How long Kafka may take over what is left in the journal at the end; the rest stays there.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the redirector stopped without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen: {0}; another program may hold the port (see LISTEN, METRICS_LISTEN)")]
    Listen(#[from] io::Error),
    #[error("cannot use the Redis settings: {0} (see REDIS_URL)")]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("cannot serve TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("TLS_LISTEN needs TLS_DIR: the folder of certificates")]
    TlsFolderMissing,
    #[error("cannot tell countries: {0} (see COUNTRY_FILE)")]
    Countries(#[from] GeoError),
    #[error("cannot compile the list of bots: {0}")]
    Bots(#[from] regex::Error),
    #[error(
        "JOURNAL_MAX_MIB is {0}, but {1} workers need {2}: each writes to one segment while the next is prepared"
    )]
    JournalTooSmall(u32, usize, usize),
    #[error("a serving thread ended: {0}")]
    Worker(String),
}

/// Where connections arrive.
#[derive(Debug)]
pub struct Listeners {
    /// Shoppers and merchants.
    pub http: TcpListener,
    /// The same with TLS.
    pub https: Option<TcpListener>,
    /// /metrics, /healthz, /readyz.
    pub operations: TcpListener,
}

/// What every request is answered with, on whichever thread.
struct Edge {
    clock: Clock,
    keys: KeyRing,
    sealing: SealingKeys,
    resolver: Resolver,
    proxies: TrustedProxies,
    cookies: CookieWriter,
    fingerprinter: Fingerprinter,
    countries: Option<Arc<GeoFile>>,
    bots: BotList,
    conversions: ConversionPublisher,
    log: PostbackLog,
    report_limits: ReportLimits,
}

/// Serves until `shutdown`, then answers what is in flight and gives Kafka what is in the journal.
///
/// # Errors
/// When a setting can't be used. An engine that is away is no error: see `/readyz`.
pub async fn run(
    config: Config,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    telemetry::metrics(); // counters that are made earlier count for nobody
    let readiness = Readiness::waiting_for(&["redis"]);
    let operations_stop = CancellationToken::new();
    let _stop_operations = operations_stop.clone().drop_guard();
    let clock = Clock::system();
    let tls = match (&config.tls_dir, &listeners.https) {
        (Some(folder), Some(_)) => Some(Tls::new(folder, clock.clone())?),
        (None, Some(_)) => return Err(RunError::TlsFolderMissing),
        (_, None) => None,
    };
    let countries = match &config.country_file {
        Some(path) => Some(Arc::new(GeoFile::open(path)?)),
        None => None,
    };
    let needed = journal::needed_mib(config.workers());
    if (config.journal_max_mib as usize) < needed {
        let (given, workers) = (config.journal_max_mib, config.workers());
        return Err(RunError::JournalTooSmall(given, workers, needed));
    }
    let journal = Journal::open(&config.journal(), &config.kafka, clock.clone())?;
    let edge = Arc::new(Edge {
        clock,
        keys: config.click_token_keys.clone(),
        sealing: config.sealing.sealing_keys.clone(),
        resolver: Resolver::start(&config)?,
        proxies: TrustedProxies::new(config.trusted_proxies.clone(), config.forwarding_header),
        cookies: CookieWriter::new(config.cookie_secure),
        fingerprinter: Fingerprinter::new(config.fingerprint_key.clone()),
        countries: countries.clone(),
        bots: BotList::new()?,
        conversions: ConversionPublisher::new(journal.lane(Stream::Conversions)),
        log: PostbackLog::new(journal.lane(Stream::Postbacks)),
        report_limits: ReportLimits::new(config.events_per_second),
    });
    if let Some(tls) = tls.clone() {
        tokio::spawn(tls.keep_current(config.tls_reload(), shutdown.clone()));
    }
    if let Some(countries) = countries {
        let keep = countries.keep_current("COUNTRY_FILE");
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(keep));
    }
    tokio::spawn(serve_operations(
        listeners.operations,
        readiness.clone(),
        operations_stop,
    ));
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(watch_engines(Arc::clone(&edge), readiness.clone())),
    );

    tracing::info!(address = %config.listen, "redirector serves");
    let entrances = [(listeners.http, None)]
        .into_iter()
        .chain(listeners.https.map(|https| (https, tls)));
    serve(&config, entrances, edge, &journal, &shutdown).await?;
    readiness.not_ready("server", "stopping");
    let _ = spawn_blocking(move || journal.close(FLUSH_TIMEOUT)).await;
    tracing::info!("redirector stopped");
    Ok(())
}

/// Serves on every worker; returns when all have ended.
async fn serve(
    config: &Config,
    entrances: impl Iterator<Item = (TcpListener, Option<Tls>)>,
    edge: Arc<Edge>,
    journal: &Journal,
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    let mut listening = Vec::new();
    for (listener, tls) in entrances {
        if let Err(error) = connections::prepare(&listener) {
            tracing::warn!(%error, "clients that don't read can't be limited");
        }
        let listener = listener.into_std()?;
        listening.push(Entrance { listener, tls });
    }
    // A worker that ends by itself takes the others with it: half a service is not noticed.
    let ended = shutdown.child_token();
    // As does a caller that gives this future up.
    let _given_up = ended.clone().drop_guard();
    let slots = connections::raise_file_limit(config.max_connections);
    let front = Arc::new(Front {
        edge,
        proxy_protocol: config.proxy_protocol,
        per_address: PerAddress::new(config.max_connections_per_address),
        header_timeout: config.header_timeout(),
        slots: Arc::new(Semaphore::new(slots as usize)),
        shutdown: ended.clone(),
    });
    let mut workers = Vec::new();
    for number in 0..config.workers() {
        let entrances = listening.iter().map(Entrance::try_clone);
        let worker = server::spawn(
            number,
            entrances.collect::<Result<_, _>>()?,
            Arc::clone(&front),
            journal.lane(Stream::Clicks),
        )?;
        let guard = ended.clone().drop_guard();
        workers.push(spawn_blocking(move || {
            let _guard = guard;
            worker.join()
        }));
    }
    drop(listening);
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
