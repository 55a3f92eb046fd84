//! Which pages may report conversions, and read the answer: those of the origins that the tenant has
//! entered for its publishable key.
//!
//! The judgement falls on the report itself, where the key is known. A preflight asks beforehand
//! whether it may be sent, without a body and without `Authorization`, so it can be judged only where
//! the key stands in `?key=`. Any other is let pass without cookies, as every page may send what
//! needs no preflight.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, HeaderName, HeaderValue, ORIGIN, REFERER,
    VARY,
};
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};
use tributary_shared::events::PublishableKey;
use tributary_shared::reports::Report;

use crate::conversion::Refusal;
use crate::server::Answer;
use crate::{Edge, client, intake};

/// How long a browser may remember a preflight, in seconds.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("3600");
/// Longest origin that a refusal repeats, in bytes.
const MAX_ORIGIN_BYTES: usize = 255;

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Whether a page of `origin` may use the key.
///
/// # Errors
/// [`Refusal::OriginUnknown`].
pub(crate) fn check(origin: &str, key: &PublishableKey) -> Result<(), Refusal> {
    let known = |known: &String| known.eq_ignore_ascii_case(origin);
    if key.origins.iter().any(known) {
        return Ok(());
    }
    let origin = client::cut(origin, MAX_ORIGIN_BYTES);
    Err(Refusal::OriginUnknown(origin.to_owned()))
}

/// The origin of the page that `Referer` names; none where it names no page of the web.
pub(crate) fn referring_origin(headers: &HeaderMap) -> Option<String> {
    let page = Uri::try_from(headers.get(REFERER)?.as_bytes()).ok()?;
    let scheme = page
        .scheme_str()
        .filter(|s| matches!(*s, "http" | "https"))?;
    Some(format!("{scheme}://{}", page.authority()?))
}

/// Lets pages of `reader` read the answer, cookies or not; nobody, when there is none.
pub(crate) fn let_read(answer: &mut Answer, reader: Option<&HeaderValue>) {
    let headers = answer.headers_mut();
    headers.append(VARY, HeaderValue::from(ORIGIN));
    if let Some(origin) = reader {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
}

/// Lets any page, isolated ones included, show or run what is answered.
pub(crate) fn embeddable(answer: &mut Answer) {
    let headers = answer.headers_mut();
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
}

/// Answers `OPTIONS`: may a page send what needs to be asked for?
pub(crate) async fn preflight(edge: &Edge, request: &Request<Incoming>) -> Answer {
    let origin = request.headers().get(ORIGIN);
    let query = request.uri().query().unwrap_or_default();
    let (mut answer, reader) = match judge(edge, origin, query).await {
        Ok(reader) => (allowed(), reader),
        Err(refusal) => (intake::answer(&Err(refusal)), None),
    };
    let_read(&mut answer, reader);
    if reader.is_none() && answer.status().is_success() {
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    }
    answer
}

/// Who may send with cookies; none: everybody, without.
async fn judge<'o>(
    edge: &Edge,
    origin: Option<&'o HeaderValue>,
    query: &str,
) -> Result<Option<&'o HeaderValue>, Refusal> {
    let (report, key) = Report::from_form(query, b"", "key");
    if let Some(problem) = report.problem() {
        return Err(problem.clone().into());
    }
    let (Some(origin), Some(key)) = (origin, key) else {
        return Ok(None);
    };
    let (_, owner) = intake::publishable(edge, &key).await?;
    check(&String::from_utf8_lossy(origin.as_bytes()), &owner)?;
    Ok(Some(origin))
}

fn allowed() -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("POST"),
    );
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization, content-type"),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_known_whole_or_not_at_all() {
        let key = PublishableKey {
            tenant_id: 7,
            origins: vec!["https://shop.example".to_owned()],
        };
        assert!(check("https://shop.example", &key).is_ok());
        for origin in [
            "null",
            "",
            "http://shop.example",
            "https://shop.example:8443",
            "https://shop.example.evil.example",
            "https://evil-shop.example",
            "https://www.shop.example",
        ] {
            let refusal = check(origin, &key).unwrap_err();
            assert_eq!(refusal.code(), "origin_unknown", "{origin:?}");
        }
        assert!(check("https://shop.example", &PublishableKey::default()).is_err());
    }

    #[test]
    fn a_referrer_names_an_origin_or_nothing() {
        let origin = |referrer: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REFERER, HeaderValue::from_static(referrer));
            referring_origin(&headers)
        };
        assert_eq!(
            origin("https://shop.example:8443/thanks?x=1").as_deref(),
            Some("https://shop.example:8443")
        );
        assert_eq!(
            origin("http://localhost").as_deref(),
            Some("http://localhost")
        );
        assert_eq!(origin("android-app://com.example"), None);
        assert_eq!(origin("/thanks"), None);
        assert_eq!(origin("not a page"), None);
    }
}
