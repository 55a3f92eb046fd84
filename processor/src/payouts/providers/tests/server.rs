//! A provider's server on a real socket: does what a test's rules say, and fails as the test's script says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// How long the client of a test waits for an answer, and how long a slow server takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
const SLOW: Duration = Duration::from_secs(5);

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Nothing is done, and the connection is cut.
    CutBefore,
    /// It is done, and the connection is cut.
    CutAfter,
    /// It is done, and answered too late.
    Slow,
    /// Nothing is done: 500.
    ErrorBefore,
    /// It is done: 500.
    ErrorAfter,
    /// Nothing is done: 429.
    Busy,
    /// It is done, and the answer is not JSON.
    Garbled,
    /// It is done, and the answer is endless.
    Oversized,
    /// It is done, and the answer leads elsewhere.
    Moved,
    /// Nothing is done: a firewall's page, 403.
    Firewall,
    /// Nothing is done: the access token has ended.
    TokenEnded,
}

/// What came in.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// What a provider does with a request: status and JSON.
pub(super) trait Rules: Send + 'static {
    fn answer(&mut self, asked: &Asked) -> (u16, String);
    /// Whether faults happen to it; others are answered well.
    fn may_fail(&self, asked: &Asked) -> bool;
}

pub(super) struct Server<R> {
    pub url: String,
    state: Arc<Mutex<State<R>>>,
    _task: AbortOnDropHandle<()>,
}

struct State<R> {
    rules: R,
    script: VecDeque<Fault>,
    asked: Vec<Asked>,
}

impl<R: Rules> Server<R> {
    pub(super) async fn start(rules: R) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            rules,
            script: VecDeque::new(),
            asked: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            url,
            state,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What goes wrong from now on, request by request; then nothing does.
    pub(super) fn script(&self, faults: &[Fault]) {
        self.state.lock().unwrap().script = faults.iter().copied().collect();
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(super) fn rules<T>(&self, look: impl FnOnce(&mut R) -> T) -> T {
        look(&mut self.state.lock().unwrap().rules)
    }
}

/// Cuts the connection.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

async fn answer<R: Rules>(
    state: Arc<Mutex<State<R>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Cut> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let (fault, done) = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        let fault = match state.rules.may_fail(&asked) {
            true => state.script.pop_front().unwrap_or(Fault::None),
            false => Fault::None,
        };
        let nothing = [
            Fault::CutBefore,
            Fault::ErrorBefore,
            Fault::Busy,
            Fault::Firewall,
            Fault::TokenEnded,
        ];
        let done = (!nothing.contains(&fault)).then(|| state.rules.answer(&asked));
        (fault, done)
    };
    let (status, text) = done.unwrap_or_default();
    let (status, text) = match fault {
        Fault::None => (status, text),
        Fault::CutBefore | Fault::CutAfter => return Err(Cut),
        Fault::Slow => {
            tokio::time::sleep(SLOW).await;
            (status, text)
        }
        Fault::ErrorBefore | Fault::ErrorAfter => {
            (500, r#"{"error":{"type":"api_error"}}"#.to_owned())
        }
        Fault::Busy => (
            429,
            r#"{"error":{"type":"invalid_request_error","code":"rate_limit"}}"#.to_owned(),
        ),
        Fault::Garbled => (status, text[..text.len() / 2].to_owned()),
        Fault::Oversized => (status, format!("{text}{}", " ".repeat(1 << 20))),
        Fault::Moved => (302, text),
        Fault::Firewall => (403, "<html>Forbidden</html>".to_owned()),
        Fault::TokenEnded => (
            401,
            r#"{"error":"invalid_token","error_description":"Token has ended"}"#.to_owned(),
        ),
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("location", "http://127.0.0.1:1/elsewhere");
    Ok(response.body(Full::from(text)).unwrap())
}

/// An address at which nothing listens.
pub(super) async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
