//! What a person gets to read when there is nothing to redirect to.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::{Response, StatusCode};

use crate::server::Answer;

const ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");

/// A whole page without outside resources, in the reader's light or dark.
macro_rules! page {
    ($title:literal, $text:literal) => {
        concat!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">",
            "<meta name=\"viewport\" content=\"width=device-width\">",
            "<meta name=\"color-scheme\" content=\"light dark\"><title>",
            $title,
            "</title><style>body{font:18px/1.5 system-ui,sans-serif;max-width:32rem;",
            "margin:20vh auto 0;padding:0 1rem}h1{font-size:1.6rem}</style><h1>",
            $title,
            "</h1><p>",
            $text,
            "</p></html>\n"
        )
    };
}

const NOT_FOUND: &str = page!(
    "This link does not exist",
    "It may have been mistyped or taken down. Ask whoever gave it to you for a new one."
);
const UNAVAILABLE: &str = page!(
    "One moment, please",
    "This link can't be looked up right now. Please try again in a few seconds."
);

/// 404 for a code or path that leads nowhere.
pub(crate) fn not_found() -> Answer {
    html(StatusCode::NOT_FOUND, NOT_FOUND)
}

/// 503 for a code that can't be looked up at present.
pub(crate) fn unavailable() -> Answer {
    let mut answer = html(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE);
    let headers = answer.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
    answer
}

/// 503 for a browser that only looks ahead: a prefetch is not a click, and must not be kept.
pub(crate) fn prefetch_refused() -> Answer {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        "tracking links are not prefetched\n",
    )
}

/// 400, with what is wrong; whoever sent it may see other requests where we do, so that was the last.
pub(crate) fn bad_request(error: &impl std::fmt::Display) -> Answer {
    let mut answer = answer(
        StatusCode::BAD_REQUEST,
        "text/plain; charset=utf-8",
        Bytes::from(format!("{error}\n")),
    );
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// 405, with what is allowed.
pub(crate) fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed here\n");
    let headers = answer.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn html(status: StatusCode, body: &'static str) -> Answer {
    answer(
        status,
        "text/html; charset=utf-8",
        Bytes::from_static(body.as_bytes()),
    )
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    answer(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(body.as_bytes()),
    )
}

/// An answer that nobody keeps and no search engine lists.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ROBOTS_TAG, HeaderValue::from_static("noindex"));
    answer
}
