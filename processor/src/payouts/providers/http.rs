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

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Client, Method, RequestBuilder, StatusCode, redirect};
use rustls::crypto::ring;
use serde::de::DeserializeOwned;

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

/// One provider's API.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client,
    base: String,
}

/// What a provider answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    body: Result<Vec<u8>, &'static str>,
}

impl Http {
    /// Connects to nothing yet.
    pub(super) fn new(base: &str, answer_within: Duration) -> Result<Self, String> {
        // One for the whole process; a second one is refused, and the first is as good.
        let _ = ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(redirect::Policy::none()) // a payment goes where it was addressed, or nowhere
            .connect_timeout(CONNECT_WITHIN)
            .timeout(answer_within)
            .pool_idle_timeout(IDLE_FOR)
            .build()
            .map_err(|error| told(&error))?;
        Ok(Self {
            client,
            base: base.trim_end_matches('/').to_owned(),
        })
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }
}

/// Sends `request` and reads the answer, whatever it is.
pub(super) async fn ask(request: RequestBuilder) -> Result<Answer, ProviderError> {
    let mut response = request.send().await.map_err(|error| {
        let what = told(&error);
        match error.is_connect() || error.is_builder() {
            true => ProviderError::Unavailable(what),
            false => ProviderError::Unknown(what),
        }
    })?;
    let status = response.status();
    let announced = response.headers().get(CONTENT_LENGTH);
    let announced: Option<usize> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    let body = loop {
        if announced.is_some_and(|length| length > MAX_ANSWER_BYTES) {
            break Err("it is too large");
        }
        match response.chunk().await {
            Ok(None) => break Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                break Err("it is too large");
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(_) => break Err("it broke off"),
        }
    };
    Ok(Answer { status, body })
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

/// An error without the address that was asked.
fn told(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    bounded(&source.to_string())
}
