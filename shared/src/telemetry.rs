//! What a service says of itself: log lines, metrics, and an operations listener with `/metrics`,
//! `/healthz` (the process runs) and `/readyz` (it can do its work).
//!
//! Log levels: ERROR = something was lost or a person must act; WARN = it will be tried again;
//! INFO = a change of state, a few lines an hour; DEBUG = one line per unit of work.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Connections to the operations listener that are served at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take over its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often histograms are folded, so that they don't grow while nobody asks.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Starts logging to standard error. `RUST_LOG` chooses levels; the default is `info`.
pub fn init_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,librdkafka=warn,rdkafka=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second call, as tests make it, changes nothing.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// The process's metrics; the first call installs the recorder.
///
/// # Panics
/// When another recorder was installed before: a mistake in the program.
#[expect(
    clippy::expect_used,
    reason = "a second recorder is a programming error"
)]
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            PrometheusBuilder::new()
                .install_recorder()
                .expect("no other recorder is installed")
        })
        .clone()
}

/// Whether a service can do its work: ready when every named part is.
#[derive(Debug, Clone)]
pub struct Readiness {
    parts: Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>,
}

impl Readiness {
    /// Each of `parts` still has to report.
    #[must_use]
    pub fn waiting_for(parts: &[&'static str]) -> Self {
        let parts = parts.iter().map(|p| (*p, Err("starting".to_owned())));
        Self {
            parts: Arc::new(Mutex::new(parts.collect())),
        }
    }

    /// Part `name` works.
    pub fn ready(&self, name: &'static str) {
        self.set(name, Ok(()));
    }

    /// Part `name` does not work, and why.
    pub fn not_ready(&self, name: &'static str, why: impl Into<String>) {
        self.set(name, Err(why.into()));
    }

    fn set(&self, name: &'static str, state: Result<(), String>) {
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, state);
    }

    /// What is missing, a line a part; none when ready.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<String> = parts
            .iter()
            .filter_map(|(name, state)| Some(format!("{name}: {}\n", state.as_ref().err()?)))
            .collect();
        (!lines.is_empty()).then(|| lines.concat())
    }
}

/// Serves the operations listener until `shutdown`.
pub async fn serve_operations(
    listener: TcpListener,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let metrics = metrics();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            _ = upkeep.tick() => {
                metrics.run_upkeep();
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "operations listener could not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue; // full: the connection is closed
        };
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(&request, &metrics, &readiness);
                async { Ok::<_, Infallible>(response) }
            });
            // A broken connection is the client's affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(slot);
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    metrics: &PrometheusHandle,
    readiness: &Readiness,
) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics.render()),
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => match readiness.missing() {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "try /metrics, /healthz or /readyz\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
