//! What the doors for conversions have in common: the credential that a request carries, its body
//! within bounds, whose publishable key it is, the way of a report to safety and into the tenant's log, and
//! the answer with its count.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{HeaderMap, StatusCode};
use serde_json::json;
use tributary_shared::click_token;
use tributary_shared::events::{PublishableKey, Source};
use tributary_shared::ids::TenantId;
use tributary_shared::names;
use tributary_shared::reports::Report;

use crate::author::Author;
use crate::conversion::Refusal;
use crate::postback_log::Became;
use crate::resolve::Resolution;
use crate::server::Answer;
use crate::{Edge, cookies, pages};

/// Longest body of a postback or event.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// How long it may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// When a report that could not be stored is worth sending again.
const RETRY_NOT_STORED: Duration = Duration::from_secs(5);

/// The token of `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A body of one of the media `types`; a request that names no type is believed to have sent one.
///
/// # Errors
/// When it is too large, too slow, or of another type, which is then said to have to be `wanted`.
pub(crate) async fn body(
    headers: &HeaderMap,
    body: Incoming,
    types: &[&str],
    wanted: &'static str,
) -> Result<Bytes, Refusal> {
    let body = collect(body, MAX_BODY_BYTES, BODY_TIMEOUT).await?;
    if body.has_remaining() && !is_of_type(headers, types) {
        return Err(Refusal::BodyType(wanted));
    }
    Ok(body)
}

/// A body within bounds, of whatever type.
///
/// # Errors
/// When it is too large or too slow.
pub(crate) async fn collect(
    body: Incoming,
    max_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, max_bytes).collect();
    let body = tokio::time::timeout(timeout, collected)
        .await
        .map_err(|_| Refusal::BodyIncomplete(timeout))?
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Refusal::BodyTooLarge(max_bytes)
            } else {
                Refusal::BodyIncomplete(timeout)
            }
        })?;
    Ok(body.to_bytes())
}

fn is_of_type(headers: &HeaderMap, types: &[&str]) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(|given| {
        let essence = given.as_bytes().split(|b| *b == b';').next();
        let essence = essence.unwrap_or_default().trim_ascii();
        types
            .iter()
            .any(|wanted| essence.eq_ignore_ascii_case(wanted.as_bytes()))
    })
}

/// Whose publishable key this is.
///
/// # Errors
/// When it is nobody's, or can't be looked up at present.
pub(crate) async fn publishable(
    edge: &Edge,
    key: &str,
) -> Result<(TenantId, Arc<PublishableKey>), Refusal> {
    match edge.resolver.publishable(key).await {
        Resolution::Found(found) => {
            // The resolver hands out keys of tenants only.
            let tenant = TenantId::from_wire(found.tenant_id).ok_or(Refusal::KeyUnknown)?;
            Ok((tenant, found))
        }
        Resolution::Unknown => Err(Refusal::KeyUnknown),
        Resolution::Unavailable => Err(Refusal::NotStored),
    }
}

/// The click of the cookie. A cookie that is not a token of ours (signed by a key that was taken away
/// since) is as good as none: whoever reports the order can't mend it.
pub(crate) fn remembered_click<'h>(edge: &Edge, headers: &'h HeaderMap) -> Option<&'h str> {
    let click_id = cookies::click_id(headers)?;
    match click_token::verify(&edge.keys, click_id) {
        Ok(_) => Some(click_id),
        Err(error) => {
            tracing::debug!(%error, "the click cookie was ignored");
            metrics::counter!(names::CLICK_COOKIES_IGNORED).increment(1);
            None
        }
    }
}

/// Takes a report whose author is known, unless there is a `problem` with how it came: the conversion's id,
/// once it is safe. Whatever becomes of it stands in the tenant's log.
///
/// # Errors
/// What is wrong with it, that there were too many, or that it could not be stored.
pub(crate) async fn take(
    edge: &Edge,
    author: &Author<'_>,
    report: &Report<'_>,
    problem: Option<Refusal>,
) -> Result<String, Refusal> {
    let outcome = match problem {
        None => store(edge, author, report).await,
        Some(problem) => Err(problem),
    };
    edge.log.write(edge, author, report, Became::of(&outcome));
    outcome
}

async fn store(edge: &Edge, author: &Author<'_>, report: &Report<'_>) -> Result<String, Refusal> {
    let (tenant, source) = (author.tenant, author.source);
    // A publishable key is public: anybody can report by it.
    if matches!(source, Source::Pixel | Source::Event) {
        let limit = edge.report_limits.take(author.credential);
        limit.map_err(Refusal::TooMany)?;
    }
    let now = edge.clock.now();
    let mut conversion = match source {
        // A shop system can't mend a click id. The processor says of a forged one that it is.
        Source::Webhook => report.check_with(|_| Ok(()), tenant, source, now)?,
        _ => report.check(&edge.keys, tenant, source, now)?,
    };
    author.sign(edge, &mut conversion);
    edge.conversions.publish(&conversion).await?;
    Ok(conversion.conversion_id)
}

/// Counts what became of a report.
pub(crate) fn count<T>(source: Source, outcome: &Result<T, Refusal>) {
    let source = match source {
        Source::Postback => "postback",
        Source::Pixel => "pixel",
        Source::Event => "event",
        Source::Webhook => "webhook",
    };
    let outcome = match outcome {
        Ok(_) => "accepted",
        Err(refusal) => {
            tracing::debug!(source, %refusal, "a conversion was refused");
            refusal.code()
        }
    };
    metrics::counter!(names::CONVERSIONS_REPORTED, "source" => source, "outcome" => outcome)
        .increment(1);
}

/// The answer that a program reads.
pub(crate) fn answer(outcome: &Result<String, Refusal>) -> Answer {
    match outcome {
        Ok(conversion_id) => json_answer(
            StatusCode::OK,
            &json!({"status": "accepted", "conversion_id": conversion_id}),
        ),
        Err(refusal) => {
            let mut answer = json_answer(
                refusal.status(),
                &json!({"error": refusal.code(), "message": refusal.to_string()}),
            );
            explain(&mut answer, refusal);
            answer
        }
    }
}

/// Adds the headers that a refusal needs.
pub(crate) fn explain(answer: &mut Answer, refusal: &Refusal) {
    let headers = answer.headers_mut();
    match refusal {
        Refusal::NotStored => {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_NOT_STORED.as_secs()));
        }
        Refusal::TooMany(wait) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        }
        Refusal::Signature(_) => {} // no credential would help
        _ if refusal.status() == StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
}

pub(crate) fn json_answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    pages::answer(status, "application/json", Bytes::from(format!("{body}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_compared_without_their_parameters() {
        let is_json = |given: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(given));
            is_of_type(&headers, &["application/json", "text/plain"])
        };
        assert!(is_json("application/json"));
        assert!(is_json("Text/Plain;charset=UTF-8"));
        assert!(!is_json("application/json-seq"));
        assert!(!is_json("application/x-www-form-urlencoded"));
        assert!(is_of_type(&HeaderMap::new(), &["application/json"]));
    }

    #[test]
    fn a_bearer_token_is_read() {
        let token = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(token("bearer  x "), Some("x".to_owned()));
        assert_eq!(token("Basic x"), None);
        assert_eq!(token("Bearer"), None);
    }
}
