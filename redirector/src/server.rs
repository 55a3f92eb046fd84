//! Connections: one single-threaded runtime per core, each accepting from the same listening socket up
//! to a common limit; a deadline for headers, hyper's HTTP/1, and an orderly end.
//!
//! Runtimes share what is read (the cache of links, the settings) and write to things of their own
//! (journal lane, scratch memory), so that a second core costs a click nothing.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{Counter, Gauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tributary_shared::events::Click;
use tributary_shared::names;

use crate::journal::Lane;
use crate::{Edge, cors, events, pages, pixel, postback, redirect, snippet};

/// Bytes of request line and headers; more is answered with 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Header fields of one request; more is answered with 431.
const MAX_HEADERS: usize = 64;
/// How long a client may take over its headers, and stay idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long requests in flight may take to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);
/// Pause after a failed accept: the cause (no file descriptors left) needs time to go away.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

pub(crate) type Answer = Response<Full<Bytes>>;

/// What one runtime has for itself, and what all share.
pub(crate) struct Worker {
    pub(crate) edge: Arc<Edge>,
    /// Where this runtime's clicks are written.
    pub(crate) clicks: RefCell<Lane>,
    /// The click that is being written: its texts keep their memory from one click to the next.
    pub(crate) scratch: RefCell<Click>,
    /// Redirects that were answered.
    redirects: Counter,
    open: Gauge,
}

/// The limit on connections over all runtimes.
pub(crate) type Slots = Arc<Semaphore>;

/// Starts a thread that serves `listener` until `shutdown` and then what is in flight.
pub(crate) fn spawn(
    number: usize,
    listener: std::net::TcpListener,
    edge: Arc<Edge>,
    clicks: Lane,
    slots: Slots,
    shutdown: CancellationToken,
) -> io::Result<thread::JoinHandle<io::Result<()>>> {
    let worker = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let worker = Rc::new(Worker {
            edge,
            clicks: RefCell::new(clicks),
            scratch: RefCell::default(),
            redirects: requests("redirect", "302"),
            open: metrics::gauge!(names::CONNECTIONS),
        });
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            let listener = TcpListener::from_std(listener)?;
            serve(listener, worker, slots, shutdown).await;
            Ok(())
        })
    };
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(worker)
}

async fn serve(
    listener: TcpListener,
    worker: Rc<Worker>,
    slots: Slots,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    while let Some(accepted) = shutdown
        .run_until_cancelled(accept(&listener, &slots))
        .await
    {
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
                continue;
            }
        };
        let (worker, shutdown) = (Rc::clone(&worker), shutdown.clone());
        connections.spawn_local(async move {
            worker.open.increment(1);
            serve_connection(stream, &worker, shutdown).await;
            worker.open.decrement(1);
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "connections were still open at the end"
        );
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Slots,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, slot))
}

async fn serve_connection(stream: TcpStream, worker: &Rc<Worker>, shutdown: CancellationToken) {
    let Ok(peer) = stream.peer_addr() else {
        return; // gone already
    };
    let service = service_fn(|request| async move {
        Ok::<_, Infallible>(answer(worker, request, peer.ip()).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "connection ended early");
    }
}

async fn answer(worker: &Worker, request: Request<Incoming>, peer: IpAddr) -> Answer {
    let path = request.uri().path();
    let (kind, answer) = if let Some(code) = path.strip_prefix("/r/") {
        let answer = match *request.method() {
            Method::GET | Method::HEAD => redirect::redirect(worker, &request, code, peer).await,
            _ => pages::method_not_allowed("GET, HEAD"),
        };
        ("redirect", answer)
    } else if path == "/postback" {
        let answer = match *request.method() {
            Method::GET | Method::POST => postback::postback(&worker.edge, request).await,
            _ => pages::method_not_allowed("GET, POST"),
        };
        ("postback", answer)
    } else if path == "/pixel.gif" {
        let answer = match *request.method() {
            Method::GET => pixel::pixel(&worker.edge, &request).await,
            _ => pages::method_not_allowed("GET"),
        };
        ("pixel", answer)
    } else if path == "/v1/events" {
        let answer = match *request.method() {
            Method::POST => events::events(&worker.edge, request).await,
            Method::OPTIONS => cors::preflight(&worker.edge, &request).await,
            _ => pages::method_not_allowed("POST, OPTIONS"),
        };
        ("events", answer)
    } else if path == "/t.js" {
        let answer = match *request.method() {
            Method::GET | Method::HEAD => snippet::snippet(request.headers()),
            _ => pages::method_not_allowed("GET, HEAD"),
        };
        ("snippet", answer)
    } else {
        ("other", pages::not_found())
    };
    match (kind, answer.status().as_u16()) {
        ("redirect", 302) => worker.redirects.increment(1), // the hot one, looked up beforehand
        (kind, status) => requests(kind, label(status)).increment(1),
    }
    answer
}

/// Counts requests of a kind that were answered with a status.
pub(crate) fn requests(kind: &'static str, status: &'static str) -> Counter {
    metrics::counter!(names::HTTP_REQUESTS, "kind" => kind, "status" => status)
}

/// Statuses that are answered, as labels.
fn label(status: u16) -> &'static str {
    match status {
        200 => "200",
        204 => "204",
        302 => "302",
        304 => "304",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        429 => "429",
        503 => "503",
        _ => "other",
    }
}
