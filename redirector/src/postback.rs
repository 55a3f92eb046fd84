//! `GET|POST /postback`: takes a merchant's conversion, and answers 200 only once it is on the
//! disk or Kafka holds it.
//!
//! | parameter | |
//! |---|---|
//! | `token` | the tenant's postback token; or `Authorization: Bearer` |
//! | `order_id` | the merchant's own, 1 to 128 characters |
//! | `amount`, `currency` | `49.90`, `USD` (ISO 4217) |
//! | `event` | `a-z 0-9 _`, at most 32; `sale` when absent |
//! | `click_id` | from the destination's `{click_id}`; absent: recorded, credited to nobody |
//!
//! Parameters stand in the query, in a form body, or both; what is unknown is ignored, what stands
//! twice is refused. A postback that is refused leaves nothing behind; one that is repeated is
//! counted once, and reads the same `conversion_id`.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use prost::Message as _;
use serde_json::json;
use tributary_shared::click_token::{self, TokenError};
use tributary_shared::events::{Conversion, Source};
use tributary_shared::ids::{TenantId, conversion_id};
use tributary_shared::money::{Money, MoneyError};
use tributary_shared::names;
use tributary_shared::orders::{MAX_EVENT_CHARS, MAX_ORDER_ID_CHARS, is_event, is_order_id};

use crate::journal::Lane;
use crate::resolve::Resolution;
use crate::server::Answer;
use crate::{Edge, pages};

/// Longest form body.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the disk or Kafka may take to make it safe.
const SAFE_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a postback was not taken: the `error` and `message` of the answer.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("send the tenant's postback token as token= or as Authorization: Bearer")]
    TokenMissing,
    #[error("this postback token is unknown or was revoked")]
    TokenUnknown,
    #[error("the body must be application/x-www-form-urlencoded")]
    BodyType,
    #[error("the body must be at most {MAX_BODY_BYTES} bytes")]
    BodyTooLarge,
    #[error("the body did not arrive whole within {} s", BODY_TIMEOUT.as_secs())]
    BodyIncomplete,
    #[error("{0} is given twice")]
    Repeated(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("order_id must be 1 to {MAX_ORDER_ID_CHARS} characters without control characters")]
    OrderId,
    #[error("event must be 1 to {MAX_EVENT_CHARS} of a-z, 0-9 and _")]
    Event,
    #[error("{0}")]
    Money(#[from] MoneyError),
    #[error("click_id: {0}")]
    ClickId(#[from] TokenError),
    #[error("the conversion could not be stored; send it again, it will be counted once")]
    NotStored,
}

impl Refusal {
    /// A stable name for programs, and for the metric.
    fn code(&self) -> &'static str {
        match self {
            Self::TokenMissing => "token_missing",
            Self::TokenUnknown => "token_unknown",
            Self::BodyType => "body_type",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyIncomplete => "body_incomplete",
            Self::Repeated(_) => "parameter_repeated",
            Self::Missing(_) => "parameter_missing",
            Self::OrderId => "order_id_invalid",
            Self::Event => "event_invalid",
            Self::Money(MoneyError::UnknownCurrency) => "currency_unknown",
            Self::Money(_) => "amount_invalid",
            Self::ClickId(TokenError::Malformed) => "click_id_malformed",
            Self::ClickId(TokenError::Foreign) => "click_id_foreign",
            Self::NotStored => "not_stored",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::TokenMissing | Self::TokenUnknown => StatusCode::UNAUTHORIZED,
            Self::BodyType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyIncomplete => StatusCode::REQUEST_TIMEOUT,
            Self::NotStored => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Takes one postback.
pub(crate) async fn postback(edge: &Edge, request: Request<Incoming>) -> Answer {
    match accept(edge, request).await {
        Ok(conversion_id) => {
            count("accepted");
            json_answer(
                StatusCode::OK,
                &json!({"status": "accepted", "conversion_id": conversion_id}),
            )
        }
        Err(refusal) => {
            count(refusal.code());
            tracing::debug!(%refusal, "postback refused");
            let mut answer = json_answer(
                refusal.status(),
                &json!({"error": refusal.code(), "message": refusal.to_string()}),
            );
            let headers = answer.headers_mut();
            match refusal {
                Refusal::NotStored => {
                    headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
                }
                Refusal::TokenMissing | Refusal::TokenUnknown => {
                    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                }
                _ => {}
            }
            answer
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(names::POSTBACKS, "outcome" => outcome).increment(1);
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    pages::answer(status, "application/json", Bytes::from(format!("{body}\n")))
}

async fn accept(edge: &Edge, request: Request<Incoming>) -> Result<String, Refusal> {
    let bearer = bearer(&request);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = form_body(request).await?;
    let parameters = Parameters::parse(&query, &body)?;

    let token = bearer
        .or_else(|| parameters.token.as_deref().map(str::to_owned))
        .ok_or(Refusal::TokenMissing)?;
    let tenant = match edge.resolver.tenant_of(&token).await {
        Resolution::Found(tenant) => tenant,
        Resolution::Unknown => return Err(Refusal::TokenUnknown),
        Resolution::Unavailable => return Err(Refusal::NotStored),
    };
    let conversion = parameters.conversion(edge, tenant)?;
    edge.conversions.publish(&conversion).await?;
    Ok(conversion.conversion_id)
}

fn bearer(request: &Request<Incoming>) -> Option<String> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

/// The form in a POST's body; empty for a GET and for a POST without one.
async fn form_body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    if request.method() != Method::POST {
        return Ok(Bytes::new());
    }
    let form = request.headers().get(CONTENT_TYPE).is_none_or(|kind| {
        kind.as_bytes()
            .to_ascii_lowercase()
            .starts_with(b"application/x-www-form-urlencoded")
    });
    let collected = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body = tokio::time::timeout(BODY_TIMEOUT, collected)
        .await
        .map_err(|_| Refusal::BodyIncomplete)?
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Refusal::BodyTooLarge
            } else {
                Refusal::BodyIncomplete
            }
        })?
        .to_bytes();
    if body.has_remaining() && !form {
        return Err(Refusal::BodyType);
    }
    Ok(body)
}

/// What the merchant said.
#[derive(Debug, Default)]
struct Parameters<'r> {
    token: Option<Cow<'r, str>>,
    order_id: Option<Cow<'r, str>>,
    event: Option<Cow<'r, str>>,
    amount: Option<Cow<'r, str>>,
    currency: Option<Cow<'r, str>>,
    click_id: Option<Cow<'r, str>>,
}

impl<'r> Parameters<'r> {
    fn parse(query: &'r str, body: &'r [u8]) -> Result<Self, Refusal> {
        let mut parameters = Self::default();
        let pairs = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(body));
        for (name, value) in pairs {
            let (slot, name) = match name.as_ref() {
                "token" => (&mut parameters.token, "token"),
                "order_id" => (&mut parameters.order_id, "order_id"),
                "event" => (&mut parameters.event, "event"),
                "amount" => (&mut parameters.amount, "amount"),
                "currency" => (&mut parameters.currency, "currency"),
                "click_id" => (&mut parameters.click_id, "click_id"),
                _ => continue,
            };
            // An empty parameter is what a shop's template leaves when it has no value.
            if value.is_empty() {
                continue;
            }
            if slot.replace(value).is_some() {
                return Err(Refusal::Repeated(name));
            }
        }
        Ok(parameters)
    }

    fn conversion(&self, edge: &Edge, tenant: TenantId) -> Result<Conversion, Refusal> {
        let order_id = self
            .order_id
            .as_deref()
            .ok_or(Refusal::Missing("order_id"))?;
        if !is_order_id(order_id) {
            return Err(Refusal::OrderId);
        }
        let event = self.event.as_deref().unwrap_or("sale");
        if !is_event(event) {
            return Err(Refusal::Event);
        }
        let amount = self.amount.as_deref().ok_or(Refusal::Missing("amount"))?;
        let currency = self
            .currency
            .as_deref()
            .ok_or(Refusal::Missing("currency"))?;
        let money = Money::parse(amount, currency)?;
        let click_id = self.click_id.as_deref().unwrap_or_default();
        if !click_id.is_empty() {
            click_token::verify(&edge.keys, click_id)?;
        }
        Ok(Conversion {
            conversion_id: conversion_id(tenant, order_id, event).to_string(),
            accepted_at_us: edge.clock.now().timestamp_micros(),
            tenant_id: tenant.to_wire(),
            order_id: order_id.to_owned(),
            event: event.to_owned(),
            amount: money.amount().to_string(),
            currency: money.currency().code().to_owned(),
            click_id: click_id.to_owned(),
            source: Source::Postback.into(),
        })
    }
}

/// Writes conversions into the journal and waits until they are safe.
pub(crate) struct ConversionPublisher(Mutex<Lane>);

impl ConversionPublisher {
    pub(crate) fn new(lane: Mutex<Lane>) -> Self {
        Self(lane)
    }

    async fn publish(&self, conversion: &Conversion) -> Result<(), Refusal> {
        let safety = {
            let mut lane = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let appended = lane.append(conversion.encoded_len(), |mut out| {
                conversion.encode_raw(&mut out);
            });
            appended.ok().and_then(|appended| appended.safety())
        };
        let safe = match safety {
            Some(safety) => safety.within(SAFE_TIMEOUT).await,
            None => false,
        };
        if safe {
            return Ok(());
        }
        tracing::warn!(
            "a conversion was not safe in time; the merchant was asked to send it again"
        );
        Err(Refusal::NotStored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_from_query_and_body_once() {
        let p =
            Parameters::parse("token=t&order_id=A%2F1", b"amount=1.50&currency=USD&x=1").unwrap();
        assert_eq!(p.order_id.as_deref(), Some("A/1"));
        assert_eq!(p.amount.as_deref(), Some("1.50"));
        assert!(p.click_id.is_none());
        let repeated = Parameters::parse("amount=1", b"amount=2").unwrap_err();
        assert_eq!(repeated.code(), "parameter_repeated");
        assert!(
            Parameters::parse("click_id=&click_id=x", b"")
                .unwrap()
                .click_id
                .is_some()
        );
    }
}
