//! Connections: accepted up to a limit, given a deadline for their headers, served by hyper's HTTP/1,
//! and closed in order at the end.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{Counter, Gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{LocalPoolHandle, TaskTracker};
use tributary_shared::names;

use crate::connections::{Held, PerAddress};
use crate::tls::Tls;
use crate::{Edge, client, connections, http2, pages, postback, proxy_protocol, redirect, tls};

/// Bytes of request line and headers; more is answered with 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Header fields of one request; more is answered with 431.
const MAX_HEADERS: usize = 64;
/// How long requests in flight may take to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);
/// Pause after a failed accept: the cause (no file descriptors left) needs time to go away.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// Threads for connections with TLS.
const TLS_THREADS: usize = 2;

pub(crate) type Answer = Response<Full<Bytes>>;

/// What every connection is served with.
pub(crate) struct Front {
    pub(crate) edge: Arc<Edge>,
    pub(crate) proxy_protocol: bool,
    pub(crate) per_address: Arc<PerAddress>,
    /// How long a client may take over its headers, and stay idle between two requests.
    pub(crate) header_timeout: Duration,
    /// Connections that are held at once.
    pub(crate) slots: u32,
    pub(crate) shutdown: CancellationToken,
}

/// Accepts connections until the shutdown, then waits for those in flight.
pub(crate) async fn serve(front: Arc<Front>, http: TcpListener, https: Option<(TcpListener, Tls)>) {
    let slots = Arc::new(Semaphore::new(front.slots as usize));
    let connections = TaskTracker::new();
    let (https, tls) = https.unzip();
    tokio::join!(
        accept_all(&front, http, None, &slots, &connections),
        async {
            if let Some(https) = https {
                accept_all(&front, https, tls, &slots, &connections).await;
            }
        }
    );
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

async fn accept_all(
    front: &Arc<Front>,
    listener: TcpListener,
    tls: Option<Tls>,
    slots: &Arc<Semaphore>,
    connections: &TaskTracker,
) {
    if let Err(error) = connections::prepare(&listener) {
        tracing::warn!(%error, "clients that don't read can't be limited");
    }
    let open = metrics::gauge!(names::CONNECTIONS);
    let local = tls.as_ref().map(|_| LocalPoolHandle::new(TLS_THREADS));
    while let Some(accepted) = front
        .shutdown
        .run_until_cancelled(accept(&listener, slots))
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
        open.increment(1);
        let slot = Slot(open.clone(), slot);
        let front = Arc::clone(front);
        match tls.clone().zip(local.as_ref()) {
            None => drop(connections.spawn(serve_plain(stream, front, slot))),
            Some((tls, local)) => {
                let connections = connections.clone();
                drop(local.spawn_pinned(move || {
                    connections.track_future(serve_tls(stream, tls, front, slot))
                }));
            }
        }
    }
}

/// A connection's place among those that are held.
struct Slot(
    Gauge,
    #[expect(dead_code, reason = "it frees the slot")] OwnedSemaphorePermit,
);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Waits for a slot and then for a connection: without one, connections wait in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

/// Whose connection it is; none when it must be closed. Trusted proxies have no share: they speak
/// for everybody.
async fn admit(front: &Front, stream: &mut TcpStream) -> Option<(IpAddr, Option<Held>)> {
    let peer = stream.peer_addr().ok()?.ip().to_canonical(); // an error: gone already
    let proxies = &front.edge.proxies;
    let client = if front.proxy_protocol {
        match proxy_protocol::client_address(stream, peer, proxies).await {
            Ok(client) => client,
            Err(error) => {
                tracing::debug!(%error, %peer, "connection is closed");
                refused(error.reason());
                return None;
            }
        }
    } else {
        peer
    };
    if proxies.trusts(client) {
        return Some((client, None));
    }
    let held = front.per_address.hold(client);
    if held.is_none() {
        tracing::debug!(%client, "connection is closed: MAX_CONNECTIONS_PER_ADDRESS");
        refused("address_limit");
    }
    held.map(|held| (client, Some(held)))
}

fn refused(reason: &'static str) {
    metrics::counter!(names::CONNECTIONS_REFUSED, "reason" => reason).increment(1);
}

async fn serve_plain(mut stream: TcpStream, front: Arc<Front>, _slot: Slot) {
    if let Some((client, _held)) = admit(&front, &mut stream).await {
        serve_http1(stream, &front, client).await;
    }
}

async fn serve_tls(mut stream: TcpStream, tls: Tls, front: Arc<Front>, _slot: Slot) {
    let Some((client, _held)) = admit(&front, &mut stream).await else {
        return;
    };
    let handshake = front.shutdown.run_until_cancelled(tls.accept(stream)).await;
    let stream = match handshake {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => {
            tracing::debug!(%error, %client, "no handshake");
            return;
        }
        None => return,
    };
    if !tls::speaks_http2(&stream) {
        serve_http1(stream, &front, client).await;
        return;
    }
    let handle = |request| {
        let edge = Arc::clone(&front.edge);
        async move { answer(&edge, request, client).await }
    };
    let idle = front.header_timeout;
    if let Err(error) = http2::serve(stream, handle, idle, &front.shutdown).await {
        tracing::debug!(%error, %client, "connection ended early");
    }
}

async fn serve_http1<S>(stream: S, front: &Front, client: IpAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| {
        let edge = Arc::clone(&front.edge);
        async move { Ok::<_, Infallible>(answer(&edge, request, client).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(front.header_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = front.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %client, "connection ended early");
    }
}

async fn answer(edge: &Edge, request: Request<Incoming>, peer: IpAddr) -> Answer {
    if let Err(bad) = client::host(&request) {
        requests("other", "400").increment(1);
        return pages::bad_request(&bad);
    }
    let path = request.uri().path();
    let (kind, answer) = if let Some(code) = path.strip_prefix("/r/") {
        let answer = match *request.method() {
            Method::GET | Method::HEAD => redirect::redirect(edge, &request, code, peer).await,
            _ => pages::method_not_allowed("GET, HEAD"),
        };
        ("redirect", answer)
    } else if path == "/postback" {
        let answer = match *request.method() {
            Method::GET | Method::POST => postback::postback(edge, request).await,
            _ => pages::method_not_allowed("GET, POST"),
        };
        ("postback", answer)
    } else {
        ("other", pages::not_found())
    };
    match (kind, answer.status().as_u16()) {
        ("redirect", 302) => edge.redirects.increment(1), // the hot one, looked up beforehand
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
        302 => "302",
        400 => "400",
        401 => "401",
        404 => "404",
        405 => "405",
        503 => "503",
        _ => "other",
    }
}
