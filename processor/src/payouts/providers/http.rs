//! HTTP to a provider: how long, how much, and what each failure says about the money.
//!
//! | what happened | the money |
//! |---|---|
//! | no connection | surely not sent |
//! | 429 | surely not sent |
//! | no answer in time, connection cut, 5xx, 3xx, 408, 409, 424 | may have been sent |
//! | an answer that is too large, or not in the provider's form | may have been sent |
//! | any other 4xx in the provider's form | refused, with the provider's words |

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::http::request;
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::ProviderError;

/// How long a provider may take over one answer. Stripe and PayPal answer within seconds.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection that nobody uses is kept.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// Largest answer that is read, in bytes: those about one payment take a few thousand.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Longest reason that is passed on, in characters.
const MAX_REASON_CHARS: usize = 300;

/// One provider's API. It follows no redirect: a payment goes where it was addressed, or nowhere.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    answer_within: Duration,
}

/// A request that is being put together.
pub(super) struct Call<'a> {
    http: &'a Http,
    head: request::Builder,
    body: Bytes,
}

/// What a provider answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    body: Result<Bytes, &'static str>,
}

impl Http {
    /// Connects to nothing yet.
    pub(super) fn new(base: &str, answer_within: Duration) -> Result<Self, rustls::Error> {
        // The edge's cryptography, named here: a default of the process would be everybody's.
        let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .build(connector);
        Ok(Self {
            client,
            base: base.trim_end_matches('/').to_owned(),
            answer_within,
        })
    }

    pub(super) fn call(&self, method: Method, path: &str) -> Call<'_> {
        Call {
            http: self,
            head: Request::builder()
                .method(method)
                .uri(format!("{}{path}", self.base))
                .header(ACCEPT, "application/json"),
            body: Bytes::new(),
        }
    }
}

impl Call<'_> {
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.head = self.head.header(name, value);
        self
    }

    pub(super) fn bearer(self, token: &str) -> Self {
        self.header(AUTHORIZATION.as_str(), &format!("Bearer {token}"))
    }

    pub(super) fn basic(self, user: &str, password: &str) -> Self {
        let both = STANDARD.encode(format!("{user}:{password}"));
        self.header(AUTHORIZATION.as_str(), &format!("Basic {both}"))
    }

    pub(super) fn form(self, form: String) -> Self {
        self.content("application/x-www-form-urlencoded", form)
    }

    pub(super) fn json(self, json: &serde_json::Value) -> Self {
        self.content("application/json", json.to_string())
    }

    fn content(mut self, kind: &str, body: String) -> Self {
        self.body = body.into();
        self.header(CONTENT_TYPE.as_str(), kind)
    }

    /// Sends it and reads the answer, whatever it is.
    pub(super) async fn ask(self) -> Result<Answer, ProviderError> {
        let until = Instant::now() + self.http.answer_within;
        let request = (self.head.body(Full::new(self.body)))
            .map_err(|error| ProviderError::Unavailable(error.to_string()))?;
        let response = match timeout_at(until, self.http.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => {
                return Err(ProviderError::Unavailable(told(&error)));
            }
            Ok(Err(error)) => return Err(ProviderError::Unknown(told(&error))),
            Err(_) => {
                return Err(ProviderError::Unknown(
                    "it did not answer in time".to_owned(),
                ));
            }
        };
        let (head, body) = response.into_parts();
        let body = timeout_at(until, Limited::new(body, MAX_ANSWER_BYTES).collect()).await;
        let body = match body {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err("it is too large"),
            Ok(Err(_)) => Err("it broke off"),
            Err(_) => Err("it did not end in time"),
        };
        Ok(Answer {
            status: head.status,
            body,
        })
    }
}

impl Answer {
    /// The answer in the provider's form; without that nothing is known.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ProviderError> {
        let body = self.body.as_ref().map_err(|why| self.unknown(why))?;
        serde_json::from_slice(body).map_err(|_| self.unknown("it is not in the provider's form"))
    }

    /// What an answer that is no success says. `reason` finds the provider's words in its form, `E`.
    pub(super) fn failure<E: DeserializeOwned>(
        &self,
        reason: impl FnOnce(&E) -> String,
    ) -> ProviderError {
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            return ProviderError::Unavailable("it asks for fewer requests (429)".to_owned());
        }
        let undecided = [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::CONFLICT,
            StatusCode::FAILED_DEPENDENCY,
        ];
        if !self.status.is_client_error() || undecided.contains(&self.status) {
            let words = self.read::<E>().map(|form| reason(&form));
            return self.unknown(&words.unwrap_or_default());
        }
        match self.read::<E>() {
            Ok(form) => ProviderError::Refused(bounded(&reason(&form))),
            Err(unknown) => unknown,
        }
    }

    pub(super) fn unknown(&self, why: &str) -> ProviderError {
        let why = bounded(&format!("the answer was {}: {why}", self.status.as_u16()));
        ProviderError::Unknown(why.trim_end_matches([':', ' ']).to_owned())
    }
}

/// The words of somebody else, of bounded length and on one line.
pub(super) fn bounded(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_REASON_CHARS).map(plain).collect()
}

/// What was the matter in the end, without what was asked.
fn told(error: &dyn std::error::Error) -> String {
    let mut source = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    bounded(&source.to_string())
}
