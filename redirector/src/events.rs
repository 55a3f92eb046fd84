//! `POST /v1/events`: takes a conversion from a page's script, as JSON.
//!
//! ```json
//! {"order_id": "A-1001", "amount": "49.90", "currency": "USD", "event": "sale", "click_id": "…",
//!  "customer_id": "C-7", "new_customer": true, "key": "…"}
//! ```
//!
//! The parameters are those of `conversion`; `order_id`, `amount` and `customer_id` may be numbers, which
//! are taken digit by digit as they are written. The tenant's publishable key stands in `Authorization: Bearer`,
//! in `?key=` or in the body. Without `click_id` the click is the one of the cookie `aff_click`.
//!
//! A page may report when its origin is among the key's (see `cors`). A request without `Origin` is
//! not a page's: browsers send it with every POST. Whoever sends such a one could have written any
//! origin there, so it is taken, and trusted as little. `text/plain` is taken because `sendBeacon`
//! says so, and because it needs no preflight.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::ORIGIN;
use hyper::http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;
use tributary_shared::events::{PublishableKey, Source};

use crate::conversion::{Refusal, Report};
use crate::server::Answer;
use crate::{Edge, cors, intake};

/// Media types that are taken, and how that is said.
const TYPES: [&str; 2] = ["application/json", "text/plain"];
const WANTED: &str = "JSON, sent as application/json or text/plain";

/// The body. What is unknown is ignored.
#[derive(Debug, Default, Deserialize)]
struct Event<'b> {
    #[serde(borrow)]
    key: Option<Cow<'b, str>>,
    #[serde(borrow)]
    order_id: Option<&'b RawValue>,
    #[serde(borrow)]
    amount: Option<&'b RawValue>,
    #[serde(borrow)]
    currency: Option<Cow<'b, str>>,
    #[serde(borrow)]
    event: Option<Cow<'b, str>>,
    #[serde(borrow)]
    click_id: Option<Cow<'b, str>>,
    #[serde(borrow)]
    customer_id: Option<&'b RawValue>,
    #[serde(borrow)]
    new_customer: Option<&'b RawValue>,
}

impl<'b> Event<'b> {
    fn parse(body: &'b [u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body).map_err(|error| Refusal::BodyJson(error.to_string()))
    }

    fn report(self) -> Result<Report<'b>, Refusal> {
        Ok(Report {
            order_id: text("order_id", self.order_id)?,
            event: not_empty(self.event),
            amount: text("amount", self.amount)?,
            currency: not_empty(self.currency),
            click_id: not_empty(self.click_id),
            customer_id: text("customer_id", self.customer_id)?,
            new_customer: match self.new_customer.map(RawValue::get) {
                Some(word @ ("true" | "false")) => Some(Cow::Borrowed(word)),
                _ => text("new_customer", self.new_customer)?,
            },
        })
    }
}

/// A string's content, or a number as it is written: no digit passes through floating point.
fn text<'b>(name: &str, value: Option<&'b RawValue>) -> Result<Option<Cow<'b, str>>, Refusal> {
    let Some(value) = value.map(RawValue::get) else {
        return Ok(None);
    };
    if value.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Ok(Some(Cow::Borrowed(value)));
    }
    let text: String = serde_json::from_str(value)
        .map_err(|_| Refusal::BodyJson(format!("{name} is neither a string nor a number")))?;
    Ok(not_empty(Some(Cow::Owned(text))))
}

fn not_empty(value: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    value.filter(|value| !value.is_empty())
}

/// Takes one conversion.
pub(crate) async fn events(edge: &Edge, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let (body, failed) = match intake::body(&head.headers, body, &TYPES, WANTED).await {
        Ok(body) => (body, None),
        Err(refusal) => (Bytes::new(), Some(refusal)),
    };
    let event = failed.map_or_else(|| Event::parse(&body), Err);
    let author = author(edge, &head, event.as_ref().ok()).await;
    // Only the tenant's own pages may read what became of it.
    let reader = head.headers.get(ORIGIN).filter(|_| author.is_ok());
    let outcome = match author {
        Ok(author) => accept(edge, &head, &author, event).await,
        // Where no key was found, what is wrong with the body says more.
        Err(Refusal::KeyMissing) => Err(event.err().unwrap_or(Refusal::KeyMissing)),
        Err(refusal) => Err(refusal),
    };
    intake::count(Source::Event, &outcome);
    let mut answer = intake::answer(&outcome);
    cors::let_read(&mut answer, reader);
    answer
}

/// Who reports.
struct Author {
    key: String,
    owner: Arc<PublishableKey>,
}

async fn author(edge: &Edge, head: &Parts, event: Option<&Event<'_>>) -> Result<Author, Refusal> {
    let (_, in_query) = Report::parse(head.uri.query().unwrap_or_default(), b"", "key")?;
    let key = intake::bearer(&head.headers)
        .or(in_query.as_deref())
        .or_else(|| event?.key.as_deref())
        .ok_or(Refusal::KeyMissing)?;
    let owner = intake::publishable(edge, key).await?;
    if let Some(origin) = head.headers.get(ORIGIN) {
        cors::check(&String::from_utf8_lossy(origin.as_bytes()), &owner)?;
    }
    let key = key.to_owned();
    Ok(Author { key, owner })
}

async fn accept(
    edge: &Edge,
    head: &Parts,
    author: &Author,
    event: Result<Event<'_>, Refusal>,
) -> Result<String, Refusal> {
    let mut report = event?.report()?;
    if report.click_id.is_none() {
        report.click_id = intake::remembered_click(edge, &head.headers).map(Cow::Borrowed);
    }
    intake::store_public(edge, &report, &author.key, &author.owner, Source::Event).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount(json: &str) -> Option<String> {
        let body = format!("{{\"amount\":{json}}}");
        let report = Event::parse(body.as_bytes()).ok()?.report().ok()?;
        report.amount.map(Cow::into_owned)
    }

    #[test]
    fn numbers_are_taken_as_they_are_written() {
        for (json, text) in [
            ("49.90", "49.90"),
            ("\"49.90\"", "49.90"),
            ("9999999999999.123", "9999999999999.123"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("-1", "-1"),
            ("1e2", "1e2"),
            (" \"\\u0031\" ", "1"),
        ] {
            assert_eq!(amount(json).as_deref(), Some(text), "{json}");
        }
        for json in ["null", "\"\"", "true", "[1]", "{}", "01", "NaN"] {
            assert_eq!(amount(json), None, "{json}");
        }
    }

    #[test]
    fn what_is_no_event_says_why() {
        let code = |body: &str| {
            let refused = Event::parse(body.as_bytes()).and_then(Event::report);
            refused.unwrap_err().to_string()
        };
        assert!(code("").contains("EOF"));
        assert!(code("[]").contains("JSON object"));
        assert!(code("{\"amount\":1,\"amount\":2}").contains("duplicate field `amount`"));
        assert!(code("{\"order_id\":true}").contains("order_id is neither"));
    }

    #[test]
    fn escapes_and_unknown_fields_are_read() {
        let body = br#"{"event":"le\u0061d","x":[{"y":1}],"order_id":1001,"click_id":""}"#;
        let report = Event::parse(body).unwrap().report().unwrap();
        assert_eq!(report.event.as_deref(), Some("lead"));
        assert_eq!(report.order_id.as_deref(), Some("1001"));
        assert!(report.click_id.is_none());
    }

    proptest! {
        #[test]
        fn no_body_is_too_odd(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Event::parse(&body).and_then(Event::report);
        }
    }
}
