//! Connections: one single-threaded runtime per core, each accepting from the same listening sockets
//! up to a common limit; HTTP/1 by hyper, HTTP/2 for those who chose it over TLS, a deadline for
//! headers, and an orderly end.
//!
//! Runtimes share what is read (the cache of links, the settings) and write to things of their own
//! (journal lane, scratch memory), so that a second core costs a click nothing.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use metrics::{Counter, Gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tributary_shared::events::Click;
use tributary_shared::names;

use crate::connections::{Held, PerAddress};
use crate::journal::Lane;
use crate::lane::{self, Left};
use crate::outbox::Outbox;
use crate::redirect::{Ask, Reply, redirect};
use crate::shopper::Shopper;
use crate::tls::{Tls, speaks_http2};
use crate::watch::{Finish, Watch, Watches, watched};
use crate::{
    Edge, client, cors, events, http2, pages, pixel, postback, proxy_protocol, snippet, webhook,
};

/// Bytes of request line and headers; more is answered with 431.
pub(crate) const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Header fields of one request; more is answered with 431.
pub(crate) const MAX_HEADERS: usize = 64;
/// How long connections may go on waiting for a request at shutdown, which is then told to be the last:
/// one that is just on its way is not cut.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long requests in flight may take to end after that.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);
/// Pause after a failed accept: the cause (no file descriptors left) needs time to go away.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

pub(crate) type Answer = Response<Full<Bytes>>;

/// What every connection is served with, on whichever thread.
pub(crate) struct Front {
    pub(crate) edge: Arc<Edge>,
    pub(crate) proxy_protocol: bool,
    pub(crate) per_address: Arc<PerAddress>,
    /// How long a client may take over its headers, and stay idle between two requests.
    pub(crate) header_timeout: Duration,
    /// Connections that may be held at once, over all runtimes.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
}

/// A listening socket that every runtime accepts from.
pub(crate) struct Entrance {
    pub(crate) listener: std::net::TcpListener,
    pub(crate) tls: Option<Tls>,
}

impl Entrance {
    /// The same socket for another runtime.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            listener: self.listener.try_clone()?,
            tls: self.tls.clone(),
        })
    }
}

/// What one runtime has for itself, beside what all share.
pub(crate) struct Worker {
    pub(crate) front: Arc<Front>,
    /// Where this runtime's clicks are written.
    pub(crate) clicks: RefCell<Lane>,
    /// The click that is being written: its texts keep their memory from one click to the next.
    pub(crate) scratch: RefCell<Click>,
    pub(crate) watches: Rc<Watches>,
    pub(crate) outbox: Outbox,
    /// Redirects that were answered and not counted in the metric yet, which all runtimes share.
    redirects: Cell<u64>,
    date: RefCell<Rc<str>>,
    open: Gauge,
}

impl Worker {
    pub(crate) fn edge(&self) -> &Edge {
        &self.front.edge
    }

    /// Counts a request of a kind that was answered with a status.
    pub(crate) fn count(&self, kind: &'static str, status: u16) {
        match (kind, status) {
            ("redirect", 302) => self.redirects.set(self.redirects.get() + 1), // the hot one
            (kind, status) => requests(kind, label(status)).increment(1),
        }
    }

    /// The value of `Date`, about a second old at most.
    pub(crate) fn date(&self) -> Rc<str> {
        Rc::clone(&self.date.borrow())
    }

    /// What is done for all requests together, once a second or so.
    fn keep_up(&self) {
        requests("redirect", "302").increment(self.redirects.take());
        *self.date.borrow_mut() = date(self.edge().clock.now());
    }
}

/// Starts a thread that serves `entrances` until the shutdown and then what is in flight.
pub(crate) fn spawn(
    number: usize,
    entrances: Vec<Entrance>,
    front: Arc<Front>,
    clicks: Lane,
) -> io::Result<thread::JoinHandle<io::Result<()>>> {
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())?;
        let worker = Rc::new(Worker {
            clicks: RefCell::new(clicks),
            scratch: RefCell::default(),
            watches: Watches::new(front.header_timeout),
            outbox: Outbox::default(),
            redirects: Cell::new(0),
            date: RefCell::new(date(front.edge.clock.now())),
            open: metrics::gauge!(names::CONNECTIONS),
            front,
        });
        runtime.block_on(serve(entrances, worker))
    };
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(serve)
}

async fn serve(entrances: Vec<Entrance>, worker: Rc<Worker>) -> io::Result<()> {
    let connections = TaskTracker::new();
    let mut accepting = Vec::new();
    for Entrance { listener, tls } in entrances {
        let listener = TcpListener::from_std(listener)?;
        let accept = accept_all(listener, tls, Rc::clone(&worker), connections.clone());
        accepting.push(tokio::task::spawn_local(accept));
    }
    let looking = tokio::task::spawn_local({
        let worker = Rc::clone(&worker);
        async move { worker.watches.look_after(|| worker.keep_up()).await }
    });
    let sending = tokio::task::spawn_local({
        let worker = Rc::clone(&worker);
        async move { worker.outbox.empty().await }
    });
    for accept in accepting {
        accept.await?;
    }
    worker.watches.finish();
    connections.close();
    if tokio::time::timeout(FAREWELL, connections.wait())
        .await
        .is_err()
    {
        worker.watches.close_waiting();
    }
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "connections were still open at the end"
        );
    }
    looking.abort();
    sending.abort();
    worker.keep_up();
    Ok(())
}

async fn accept_all(
    listener: TcpListener,
    tls: Option<Tls>,
    worker: Rc<Worker>,
    connections: TaskTracker,
) {
    let front = &worker.front;
    while let Some(accepted) = front
        .shutdown
        .run_until_cancelled(accept(&listener, &front.slots))
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
        worker.open.increment(1);
        let slot = Slot(worker.open.clone(), slot);
        let worker = Rc::clone(&worker);
        match tls.clone() {
            None => drop(connections.spawn_local(serve_plain(stream, worker, slot))),
            Some(tls) => drop(connections.spawn_local(serve_tls(stream, tls, worker, slot))),
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
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
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

async fn serve_plain(mut stream: TcpStream, worker: Rc<Worker>, _slot: Slot) {
    if let Some((client, _held)) = admit(&worker.front, &mut stream).await {
        let watch = worker.watches.watch();
        match lane::serve(stream, &worker, &watch, client).await {
            Left::Ended => {}
            Left::ForHyper(rest) => serve_http1(rest, &worker, &watch, client).await,
        }
    }
}

async fn serve_tls(mut stream: TcpStream, tls: Tls, worker: Rc<Worker>, _slot: Slot) {
    let front = &worker.front;
    let Some((client, _held)) = admit(front, &mut stream).await else {
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
    if !speaks_http2(&stream) {
        let watch = worker.watches.watch();
        serve_http1(stream, &worker, &watch, client).await;
        return;
    }
    let handle = |request| {
        let worker = Rc::clone(&worker);
        async move { answer(&worker, request, client).await }
    };
    let idle = front.header_timeout;
    if let Err(error) = http2::serve(stream, handle, idle, &front.shutdown).await {
        tracing::debug!(%error, %client, "connection ended early");
    }
}

async fn serve_http1<S>(stream: S, worker: &Rc<Worker>, watch: &Watch, client: IpAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| {
        let answering = watch.answering();
        async move {
            let answer = answer(worker, request, client).await;
            drop(answering);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None) // `watched` has its own
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .writev(false) // head and body of a redirect are one small write
        .serve_connection(TokioIo::new(stream), service);
    match watched(connection, watch).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, %client, "connection ended early"),
        None => tracing::debug!(%client, "connection is closed: it waited too long"),
    }
}

impl<S, H> Finish for http1::Connection<TokioIo<S>, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: HttpService<Incoming, ResBody = Full<Bytes>>,
    H::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn answer(worker: &Worker, request: Request<Incoming>, client: IpAddr) -> Answer {
    let (kind, answer) = route(worker, request, client).await;
    worker.count(kind, answer.status().as_u16());
    answer
}

/// Chooses the handler by path and method, and names it for the metric.
async fn route(
    worker: &Worker,
    request: Request<Incoming>,
    client: IpAddr,
) -> (&'static str, Answer) {
    let host = match client::host(&request) {
        Ok(host) => host,
        Err(bad) => return ("other", pages::bad_request(&bad)),
    };
    let edge = worker.edge();
    let method = request.method();
    let path = request.uri().path();
    match path {
        "/postback" => {
            let answer = match *method {
                Method::GET | Method::POST => postback::postback(edge, request, client).await,
                _ => pages::method_not_allowed("GET, POST"),
            };
            ("postback", answer)
        }
        _ if path.starts_with(webhook::PATH) => {
            let answer = match *method {
                Method::POST => webhook::webhook(edge, request, client).await,
                _ => pages::method_not_allowed("POST"),
            };
            ("webhook", answer)
        }
        "/pixel.gif" => {
            let answer = match *method {
                Method::GET => pixel::pixel(edge, &request, client).await,
                _ => pages::method_not_allowed("GET"),
            };
            ("pixel", answer)
        }
        "/v1/events" => {
            let answer = match *method {
                Method::POST => events::events(edge, request, client).await,
                Method::OPTIONS => cors::preflight(edge, &request).await,
                _ => pages::method_not_allowed("POST, OPTIONS"),
            };
            ("events", answer)
        }
        "/t.js" => {
            let answer = match *method {
                Method::GET | Method::HEAD => snippet::snippet(request.headers()),
                _ => pages::method_not_allowed("GET, HEAD"),
            };
            ("snippet", answer)
        }
        _ => {
            let answer = match *method {
                Method::GET | Method::HEAD => {
                    let fields = request.headers().iter();
                    let fields = fields.map(|(n, v)| (n.as_str().as_bytes(), v.as_bytes()));
                    let ask = Ask {
                        path,
                        query: request.uri().query(),
                        is_head: *method == Method::HEAD,
                        host: host.as_deref(),
                        shopper: &Shopper::read(fields, &edge.proxies),
                        peer: client,
                    };
                    match redirect(worker, &ask).await {
                        Reply::Found(found) => found.into_answer(),
                        Reply::Page(page) => page,
                    }
                }
                _ if path.starts_with("/r/") => pages::method_not_allowed("GET, HEAD"),
                _ => pages::not_found(),
            };
            ("redirect", answer)
        }
    }
}

/// Counts requests of a kind that were answered with a status.
fn requests(kind: &'static str, status: &'static str) -> Counter {
    metrics::counter!(names::HTTP_REQUESTS, "kind" => kind, "status" => status)
}

/// As HTTP writes it: Sat, 21 Nov 2026 15:00:00 GMT.
fn date(now: DateTime<Utc>) -> Rc<str> {
    now.format("%a, %d %b %Y %H:%M:%S GMT").to_string().into()
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
