//! A conversion that somebody reports: its parameters are checked here, whichever door they came by
//! (`postback`, `pixel`, `events`), and it counts as taken only once it is on
//! the disk or Kafka holds it.
//!
//! | parameter | |
//! |---|---|
//! | `order_id` | the merchant's own, 1 to 128 characters |
//! | `amount`, `currency` | `49.90`, `USD` (ISO 4217) |
//! | `event` | `a-z 0-9 _`, at most 32; `sale` when absent |
//! | `customer_id` | the merchant's own name for the customer, 1 to 128 characters; only its hash is kept |
//! | `new_customer` | whether he is new to the merchant: `true`, `false`, `1`, `0` |
//! | `click_id` | from the destination's `{click_id}`; absent: recorded, credited to nobody |
//!
//! An empty parameter is an absent one; what is unknown is ignored, what stands twice is refused. A
//! report that is refused leaves nothing behind; one that is repeated is counted once, and reads the
//! same `conversion_id`.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use prost::Message as _;
use tributary_shared::click_token::{self, TokenError};
use tributary_shared::customers::{MAX_CUSTOMER_ID_CHARS, customer_hash, is_customer_id};
use tributary_shared::events::{Conversion, Source};
use tributary_shared::ids::{TenantId, conversion_id};
use tributary_shared::money::{Money, MoneyError};
use tributary_shared::orders::{MAX_EVENT_CHARS, MAX_ORDER_ID_CHARS, is_event, is_order_id};
use tributary_shared::secrets::KeyRing;

use crate::intake::{BODY_TIMEOUT, MAX_BODY_BYTES};
use crate::journal::Lane;

/// The event of a report that names none.
const DEFAULT_EVENT: &str = "sale";
/// How long the disk or Kafka may take to make it safe.
const SAFE_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a report was not taken: the `error` and `message` of the answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("send the tenant's postback token as token= or as Authorization: Bearer")]
    TokenMissing,
    #[error("this postback token is unknown or was revoked")]
    TokenUnknown,
    #[error("send the tenant's publishable key as key= or as Authorization: Bearer")]
    KeyMissing,
    #[error("this publishable key is unknown or was revoked")]
    KeyUnknown,
    #[error("{0} is not among the origins of this publishable key")]
    OriginUnknown(String),
    #[error("too many reports by this publishable key; send it again in {} s", .0.as_secs())]
    TooMany(Duration),
    #[error("the body must be {0}")]
    BodyType(&'static str),
    #[error("the body must be a JSON object with order_id, amount and currency: {0}")]
    BodyJson(String),
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
    #[error(
        "customer_id must be 1 to {MAX_CUSTOMER_ID_CHARS} characters without control characters"
    )]
    CustomerId,
    #[error("new_customer must be true, false, 1 or 0")]
    NewCustomer,
    #[error("{0}")]
    Money(#[from] MoneyError),
    #[error("click_id: {0}")]
    ClickId(#[from] TokenError),
    #[error("the conversion could not be stored; send it again, it will be counted once")]
    NotStored,
}

impl Refusal {
    /// A stable name for programs, and for the metric.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::TokenMissing => "token_missing",
            Self::TokenUnknown => "token_unknown",
            Self::KeyMissing => "key_missing",
            Self::KeyUnknown => "key_unknown",
            Self::OriginUnknown(_) => "origin_unknown",
            Self::TooMany(_) => "too_many",
            Self::BodyType(_) => "body_type",
            Self::BodyJson(_) => "body_invalid",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyIncomplete => "body_incomplete",
            Self::Repeated(_) => "parameter_repeated",
            Self::Missing(_) => "parameter_missing",
            Self::OrderId => "order_id_invalid",
            Self::Event => "event_invalid",
            Self::CustomerId => "customer_id_invalid",
            Self::NewCustomer => "new_customer_invalid",
            Self::Money(MoneyError::UnknownCurrency) => "currency_unknown",
            Self::Money(_) => "amount_invalid",
            Self::ClickId(TokenError::Malformed) => "click_id_malformed",
            Self::ClickId(TokenError::Foreign) => "click_id_foreign",
            Self::NotStored => "not_stored",
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TokenMissing | Self::TokenUnknown | Self::KeyMissing | Self::KeyUnknown => {
                StatusCode::UNAUTHORIZED
            }
            Self::OriginUnknown(_) => StatusCode::FORBIDDEN,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyIncomplete => StatusCode::REQUEST_TIMEOUT,
            Self::NotStored => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// What was reported, as it was written.
#[derive(Debug, Default)]
pub(crate) struct Report<'r> {
    pub(crate) order_id: Option<Cow<'r, str>>,
    pub(crate) event: Option<Cow<'r, str>>,
    pub(crate) amount: Option<Cow<'r, str>>,
    pub(crate) currency: Option<Cow<'r, str>>,
    pub(crate) click_id: Option<Cow<'r, str>>,
    pub(crate) customer_id: Option<Cow<'r, str>>,
    pub(crate) new_customer: Option<Cow<'r, str>>,
}

impl<'r> Report<'r> {
    /// Reads the parameters of a query and of a form, and the one that is called `credential`.
    ///
    /// # Errors
    /// When a parameter stands twice.
    pub(crate) fn parse(
        query: &'r str,
        form: &'r [u8],
        credential: &'static str,
    ) -> Result<(Self, Option<Cow<'r, str>>), Refusal> {
        let mut report = Self::default();
        let mut secret = None;
        let pairs = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(form));
        for (name, value) in pairs {
            let (slot, name) = match name.as_ref() {
                name if name == credential => (&mut secret, credential),
                "order_id" => (&mut report.order_id, "order_id"),
                "event" => (&mut report.event, "event"),
                "amount" => (&mut report.amount, "amount"),
                "currency" => (&mut report.currency, "currency"),
                "click_id" => (&mut report.click_id, "click_id"),
                "customer_id" => (&mut report.customer_id, "customer_id"),
                "new_customer" => (&mut report.new_customer, "new_customer"),
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
        Ok((report, secret))
    }

    /// The conversion that this report is of, told by `source` for `tenant` at `now`.
    ///
    /// # Errors
    /// Says which parameter is missing or wrong.
    pub(crate) fn check(
        &self,
        keys: &KeyRing,
        tenant: TenantId,
        source: Source,
        now: DateTime<Utc>,
    ) -> Result<Conversion, Refusal> {
        let order_id = given("order_id", &self.order_id)?;
        if !is_order_id(order_id) {
            return Err(Refusal::OrderId);
        }
        let event = self.event.as_deref().unwrap_or(DEFAULT_EVENT);
        if !is_event(event) {
            return Err(Refusal::Event);
        }
        let amount = given("amount", &self.amount)?;
        let money = Money::parse(amount, given("currency", &self.currency)?)?;
        let click_id = self.click_id.as_deref().unwrap_or_default();
        if !click_id.is_empty() {
            click_token::verify(keys, click_id)?;
        }
        let customer_id = self.customer_id.as_deref();
        if !customer_id.is_none_or(is_customer_id) {
            return Err(Refusal::CustomerId);
        }
        let new_customer = match self.new_customer.as_deref() {
            None => None,
            Some("true" | "1") => Some(true),
            Some("false" | "0") => Some(false),
            Some(_) => return Err(Refusal::NewCustomer),
        };
        Ok(Conversion {
            conversion_id: conversion_id(tenant, order_id, event).to_string(),
            accepted_at_us: now.timestamp_micros(),
            tenant_id: tenant.to_wire(),
            order_id: order_id.to_owned(),
            event: event.to_owned(),
            amount: money.amount().to_string(),
            currency: money.currency().code().to_owned(),
            click_id: click_id.to_owned(),
            source: source.into(),
            customer_id: customer_id
                .map(|id| customer_hash(tenant, id).to_vec())
                .unwrap_or_default(),
            new_customer,
            ..Conversion::default()
        })
    }
}

fn given<'v>(name: &'static str, value: &'v Option<Cow<'_, str>>) -> Result<&'v str, Refusal> {
    value.as_deref().ok_or(Refusal::Missing(name))
}

/// Writes conversions into the journal and waits until they are safe.
pub(crate) struct ConversionPublisher(Mutex<Lane>);

impl ConversionPublisher {
    /// All workers share one lane, so that what is said about one order stays in order.
    pub(crate) fn new(lane: Lane) -> Self {
        Self(Mutex::new(lane))
    }

    /// Returns once the conversion is on the disk or with Kafka.
    ///
    /// # Errors
    /// [`Refusal::NotStored`]; it may be stored all the same.
    pub(crate) async fn publish(&self, conversion: &Conversion) -> Result<(), Refusal> {
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
        tracing::warn!("a conversion was not safe in time; its sender was asked to repeat it");
        Err(Refusal::NotStored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tributary_shared::click_token::ClickToken;
    use tributary_shared::ids::LinkId;

    fn keys(byte: &str) -> KeyRing {
        format!("1:{}", byte.repeat(32)).parse().unwrap()
    }

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap()
    }

    fn check(query: &str) -> Result<Conversion, Refusal> {
        let (report, _) = Report::parse(query, b"", "key")?;
        report.check(&keys("ab"), TenantId(7), Source::Pixel, at())
    }

    #[test]
    fn parameters_come_from_query_and_body_once() {
        let (report, token) = Report::parse(
            "token=t&order_id=A%2F1",
            b"amount=1.50&currency=USD&x=1",
            "token",
        )
        .unwrap();
        assert_eq!(report.order_id.as_deref(), Some("A/1"));
        assert_eq!(report.amount.as_deref(), Some("1.50"));
        assert_eq!(token.as_deref(), Some("t"));
        assert!(report.click_id.is_none());
        for (query, form) in [("amount=1", "amount=2"), ("key=a&key=a", "")] {
            let repeated = Report::parse(query, form.as_bytes(), "key").unwrap_err();
            assert_eq!(repeated.code(), "parameter_repeated");
        }
        let (report, key) = Report::parse("click_id=&click_id=x&token=t", b"", "key").unwrap();
        assert!(report.click_id.is_some());
        assert!(key.is_none(), "another door's credential is no credential");
    }

    #[test]
    fn a_conversion_says_what_was_reported_and_by_whom() {
        let click_id = ClickToken::mint(&keys("ab"), LinkId(3), at());
        let query = format!("order_id=A-1&amount=49.9&currency=USD&click_id={click_id}");
        let conversion = check(&query).unwrap();
        assert_eq!(
            conversion,
            Conversion {
                conversion_id: conversion_id(TenantId(7), "A-1", "sale").to_string(),
                accepted_at_us: 1_700_000_000_000_001,
                tenant_id: 7,
                order_id: "A-1".to_owned(),
                event: "sale".to_owned(),
                amount: "49.90".to_owned(),
                currency: "USD".to_owned(),
                click_id: click_id.to_string(),
                source: Source::Pixel.into(),
                ..Conversion::default()
            }
        );
    }

    #[test]
    fn a_customer_is_told_by_his_hash_alone() {
        let order = "order_id=A-1&amount=1&currency=USD";
        let conversion = |more: &str| check(&format!("{order}{more}")).map_err(|r| r.code());
        let ana = conversion("&customer_id=ana%40shop.example&new_customer=0").unwrap();
        let hash = customer_hash(TenantId(7), "ana@shop.example");
        assert_eq!(ana.customer_id, hash);
        assert_eq!(ana.new_customer, Some(false));
        let nobody = conversion("&customer_id=&new_customer=").unwrap();
        assert_eq!((nobody.customer_id.len(), nobody.new_customer), (0, None));
        let alone = conversion("&new_customer=true").unwrap();
        assert_eq!(
            (alone.customer_id.len(), alone.new_customer),
            (0, Some(true))
        );
        for (more, code) in [
            ("&customer_id=a%0A", "customer_id_invalid"),
            ("&customer_id=a&customer_id=b", "parameter_repeated"),
            ("&new_customer=yes", "new_customer_invalid"),
        ] {
            assert_eq!(conversion(more), Err(code), "{more}");
        }
        let long = format!("&customer_id={}", "x".repeat(129));
        assert_eq!(conversion(&long), Err("customer_id_invalid"));
    }

    #[test]
    fn a_bad_click_id_is_told_apart_from_a_foreign_one_and_from_none() {
        let order = "order_id=A-1&amount=1&currency=USD";
        let foreign = ClickToken::mint(&keys("cd"), LinkId(3), at());
        let code =
            |click_id: &str| check(&format!("{order}&click_id={click_id}")).map_err(|r| r.code());
        assert_eq!(code(foreign.as_str()), Err("click_id_foreign"));
        assert_eq!(code("%7Bclick_id%7D"), Err("click_id_malformed"));
        assert_eq!(code("").unwrap().click_id, "");
    }

    proptest! {
        #[test]
        fn no_query_is_too_odd(query in "[ -~\u{e9}%&=+]{0,120}") {
            let _ = check(&query);
            let _ = check(&format!("order_id={query}&amount={query}&currency=USD"));
        }
    }
}
