//! A 302 to somewhere, in the two forms in which it leaves: hyper's, and bytes as they go out.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY, SET_COOKIE,
};
use hyper::{Response, StatusCode};

use crate::server::Answer;

const NO_STORE: &str = "no-store";
const REFERRERS: &str = "strict-origin-when-cross-origin";
const ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");
const ROBOTS: &str = "noindex";
/// Room for what an answer holds beside location and cookies.
const HEAD_BYTES: usize = 256;

/// Where a shopper is sent, and what the browser is to keep: one text, so that a click allocates once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The location and then the cookies, all of it visible ASCII (and spaces in cookies).
    text: String,
    location_end: usize,
    /// The second one ends with the text.
    first_cookie_end: usize,
}

impl Found {
    /// None when `location` could not stand in a header.
    pub(crate) fn new(location: String) -> Option<Self> {
        // Not `all`, which would look at one byte after the other.
        let is_visible = location
            .bytes()
            .fold(true, |so_far, b| so_far & b.is_ascii_graphic());
        is_visible.then_some(Self {
            location_end: location.len(),
            first_cookie_end: location.len(),
            text: location,
        })
    }

    /// Sets a cookie, as `CookieWriter` writes it; at most two.
    pub(crate) fn set_cookie(&mut self, write: impl FnOnce(&mut String)) {
        let is_first = self.text.len() == self.location_end;
        write(&mut self.text);
        if is_first {
            self.first_cookie_end = self.text.len();
        }
    }

    fn location(&self) -> &str {
        &self.text[..self.location_end]
    }

    fn cookies(&self) -> impl Iterator<Item = &str> {
        let first = &self.text[self.location_end..self.first_cookie_end];
        let second = &self.text[self.first_cookie_end..];
        [first, second]
            .into_iter()
            .filter(|cookie| !cookie.is_empty())
    }

    /// For hyper.
    #[expect(clippy::expect_used, reason = "all of it is visible ASCII")]
    pub(crate) fn into_answer(self) -> Answer {
        let value = |text: &str| HeaderValue::from_str(text).expect("visible ASCII");
        let mut answer = Response::new(Full::new(Bytes::new()));
        *answer.status_mut() = StatusCode::FOUND;
        let headers = answer.headers_mut();
        headers.insert(LOCATION, value(self.location()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static(REFERRERS));
        headers.insert(ROBOTS_TAG, HeaderValue::from_static(ROBOTS));
        for cookie in self.cookies() {
            headers.append(SET_COOKIE, value(cookie));
        }
        answer
    }

    /// Appends the answer as HTTP/1.1 writes it; `date` is the value of `Date`, `last` says that the
    /// connection ends behind it.
    pub(crate) fn write(&self, out: &mut Vec<u8>, date: &str, last: bool) {
        out.reserve(HEAD_BYTES + self.text.len());
        let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
        put("HTTP/1.1 302 Found\r\nlocation: ");
        put(self.location());
        put("\r\ncache-control: ");
        put(NO_STORE);
        put("\r\nreferrer-policy: ");
        put(REFERRERS);
        put("\r\nx-robots-tag: ");
        put(ROBOTS);
        for cookie in self.cookies() {
            put("\r\nset-cookie: ");
            put(cookie);
        }
        put("\r\ncontent-length: 0\r\ndate: ");
        put(date);
        put(if last {
            "\r\nconnection: close\r\n\r\n"
        } else {
            "\r\n\r\n"
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let mut found = Found::new("https://shop.example/?a=1".to_owned()).unwrap();
        found.set_cookie(|out| out.push_str("a=1; Path=/"));
        found.set_cookie(|out| out.push_str("b=2"));
        let mut bytes = Vec::new();
        found.write(&mut bytes, "Sat, 21 Nov 2026 15:00:00 GMT", true);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "");
        let mut lines = head.lines();
        assert_eq!(lines.next(), Some("HTTP/1.1 302 Found"));
        let mut written: Vec<String> = lines.map(str::to_owned).collect();
        written.retain(|line| {
            !["content-length", "date", "connection"]
                .iter()
                .any(|name| line.starts_with(&format!("{name}: ")))
        });
        let answer = found.into_answer();
        let expected: Vec<String> = answer
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        written.sort();
        let mut expected = expected;
        expected.sort();
        assert_eq!(written, expected);
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_none() {
        for location in [
            "https://a.example/\r\nSet-Cookie: x",
            "https://a.example/ä",
            "a b",
        ] {
            assert_eq!(Found::new(location.to_owned()), None);
        }
    }
}
