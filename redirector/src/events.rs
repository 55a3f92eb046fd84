//! `POST /v1/events`: takes a conversion from a page's script, as JSON.
//!
//! ```json
//! {"order_id": "A-1001", "amount": "49.90", "currency": "USD", "event": "sale", "click_id": "…",
//!  "customer_id": "C-7", "new_customer": true, "key": "…"}
//! ```
//!
//! The parameters are those of a report (`tributary_shared::reports`). Each may be a string or a number, which
//! is taken digit by digit as it is written; `items` is an array. The tenant's publishable key stands in `Authorization: Bearer`,
//! in `?key=` or in the body. Without `click_id` the click is the one of the cookie `aff_click`.
//!
//! A page may report when its origin is among the key's (see `cors`). A request without `Origin` is
//! not a page's: browsers send it with every POST. Whoever sends such a one could have written any
//! origin there, so it is taken, and trusted as little. `text/plain` is taken because `sendBeacon`
//! says so, and because it needs no preflight.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use tributary_shared::events::Source;
use tributary_shared::reports::Report;

use crate::author::Author;
use crate::conversion::Refusal;
use crate::server::Answer;
use crate::{Edge, cors, intake};

/// Media types that are taken, and how that is said.
const TYPES: [&str; 2] = ["application/json", "text/plain"];
const WANTED: &str = "JSON, sent as application/json or text/plain";

/// Takes one conversion from a browser at `peer`.
pub(crate) async fn events(edge: &Edge, request: Request<Incoming>, peer: IpAddr) -> Answer {
    let (head, body) = request.into_parts();
    let body = intake::body(&head.headers, body, &TYPES, WANTED).await;
    let (outcome, reader) = accept(edge, &head, body, peer).await;
    intake::count(Source::Event, &outcome);
    let mut answer = intake::answer(&outcome);
    cors::let_read(&mut answer, reader);
    answer
}

/// What became of it, and which page may read that: the tenant's own only.
async fn accept<'h>(
    edge: &Edge,
    head: &'h Parts,
    body: Result<Bytes, Refusal>,
    peer: IpAddr,
) -> (Result<String, Refusal>, Option<&'h HeaderValue>) {
    let read = body.as_ref().map(|body| Report::from_json(body, "key"));
    let (mut report, in_body, unread) = match read {
        Ok(Ok((report, key))) => (report, key, None),
        Ok(Err(refusal)) => (Report::default(), None, Some(refusal.into())),
        Err(_) => (Report::default(), None, body.as_ref().err().cloned()),
    };
    let query = head.uri.query().unwrap_or_default();
    let (beside, in_query) = Report::from_form(query, b"", "key");
    let key = intake::bearer(&head.headers).map(Cow::Borrowed);
    let Some(key) = key.or(in_query).or(in_body) else {
        // Where no key was found, what is wrong with the body says more.
        return (Err(unread.unwrap_or(Refusal::KeyMissing)), None);
    };
    let (tenant, owner) = match intake::publishable(edge, &key).await {
        Ok(known) => known,
        Err(refusal) => return (Err(refusal), None),
    };
    let origin = head.headers.get(ORIGIN);
    let foreign = origin.and_then(|origin| {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        cors::check(&origin, &owner).err()
    });
    let reader = origin.filter(|_| foreign.is_none());
    let problem = foreign.or(unread).or_else(|| {
        let problem = beside.problem().cloned();
        problem.map(Refusal::from)
    });
    report.remember_click(intake::remembered_click(edge, &head.headers));
    let author = Author {
        tenant,
        credential: &key,
        source: Source::Event,
        headers: &head.headers,
        peer,
    };
    (intake::take(edge, &author, &report, problem).await, reader)
}
