//! HTTP/2, for clients that chose it by ALPN: hyper's server within limits that a hostile client
//! can't stretch, and a connection that nobody uses is ended.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::server::Answer;

/// Bytes of a request's header fields, as HTTP/2 counts them; more is answered with 431.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Requests of one connection that are answered at once; more wait at the client.
const MAX_STREAMS: u32 = 100;
/// Streams that a client opened and reset before they were looked at ("rapid reset"); at more the
/// connection is closed.
const MAX_RESET_UNSEEN: usize = 20;
/// Streams that were reset because of the client's own mistakes; at more the connection is closed.
const MAX_RESET_MISTAKES: usize = 64;
/// Bytes of bodies that a client may send ahead, per stream and per connection. A body is at most
/// this long anyway.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of one frame, and of answers kept for a client that doesn't read them, per stream.
const MAX_FRAME_BYTES: u32 = 16 * 1024;
const MAX_UNSENT_BYTES: usize = 32 * 1024;
/// A silent client is asked whether it is there, and closed when it doesn't answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take over its farewell, once it was told that the connection ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs each request of a connection as a task of the thread that accepted it.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Requests under way, and when there was last one.
struct Activity {
    open: Cell<usize>,
    last: Cell<Instant>,
}

impl Activity {
    fn begin(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(Rc::clone(self))
    }

    /// When the connection counts as unused, if nothing happens until then.
    fn unused_at(&self, idle: Duration) -> Instant {
        let last = if self.open.get() > 0 {
            Instant::now()
        } else {
            self.last.get()
        };
        last + idle
    }
}

/// One request, until it has been answered.
struct Open(Rc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.last.set(Instant::now());
    }
}

/// Serves a connection until the client ends it, `idle` has passed without a request, or `shutdown`.
/// Must run within a `LocalSet` or a local runtime.
///
/// # Errors
/// When the client broke the protocol or went away in the middle.
pub(crate) async fn serve<I, A, F>(
    stream: I,
    answer: A,
    idle: Duration,
    shutdown: &CancellationToken,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer> + 'static,
{
    let activity = Rc::new(Activity {
        open: Cell::new(0),
        last: Cell::new(Instant::now()),
    });
    let service = service_fn(|request| {
        let open = activity.begin();
        let answer = answer(request);
        async move {
            let answer = answer.await;
            drop(open);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_pending_accept_reset_streams(MAX_RESET_UNSEEN)
        .max_local_error_reset_streams(MAX_RESET_MISTAKES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buf_size(MAX_UNSENT_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        let unused_at = activity.unused_at(idle);
        tokio::select! {
            ended = &mut connection => return ended,
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep_until(unused_at.into()) => {
                if activity.unused_at(idle) <= Instant::now() {
                    break;
                }
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    // Requests under way have deadlines of their own.
    let mut farewell = Instant::now() + FAREWELL;
    loop {
        match tokio::time::timeout_at(farewell.into(), &mut connection).await {
            Ok(ended) => return ended,
            Err(_) if activity.open.get() > 0 => farewell = Instant::now() + FAREWELL,
            Err(_) => return Ok(()),
        }
    }
}
