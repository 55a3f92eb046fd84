//! The two cookies of a click: `aff_click`, the click token that a conversion is attributed by, and
//! `aff_visitor`, which says that two clicks came from one browser.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::{COOKIE, HeaderValue};
use tributary_shared::click_token::ClickToken;
use uuid::Uuid;

const CLICK: &str = "aff_click";
const VISITOR: &str = "aff_visitor";

/// A visitor cookie lives as long as browsers let a cookie live.
const VISITOR_MAX_AGE_SECONDS: u64 = 400 * 24 * 60 * 60;

/// Writes `Set-Cookie` values.
pub(crate) struct CookieWriter {
    attributes: &'static str,
}

impl CookieWriter {
    pub(crate) fn new(secure: bool) -> Self {
        let attributes = if secure {
            "; Path=/; Secure; HttpOnly; SameSite=Lax"
        } else {
            "; Path=/; HttpOnly; SameSite=Lax"
        };
        Self { attributes }
    }

    /// The attribution cookie, for as long as the program's window.
    pub(crate) fn click(&self, token: &ClickToken, window_seconds: u64) -> HeaderValue {
        self.cookie(CLICK, token.as_str(), window_seconds)
    }

    /// The visitor cookie.
    pub(crate) fn visitor(&self, visitor: Uuid) -> HeaderValue {
        let value = URL_SAFE_NO_PAD.encode(visitor.as_bytes());
        self.cookie(VISITOR, &value, VISITOR_MAX_AGE_SECONDS)
    }

    #[expect(
        clippy::expect_used,
        reason = "names, base64url and digits are header text"
    )]
    fn cookie(&self, name: &str, value: &str, max_age: u64) -> HeaderValue {
        let mut cookie = String::with_capacity(160);
        // Writing to a String can't fail.
        let _ = write!(
            cookie,
            "{name}={value}; Max-Age={max_age}{}",
            self.attributes
        );
        HeaderValue::try_from(cookie).expect("header text")
    }
}

/// The visitor that the browser says it is, if it says so in our own form.
pub(crate) fn visitor(headers: &HeaderMap) -> Option<Uuid> {
    let value = find(headers, VISITOR)?;
    let mut bytes = [0; 16];
    let read = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
    (read == bytes.len()).then(|| Uuid::from_bytes(bytes))
}

/// The click token that the browser kept, unverified.
pub(crate) fn click(headers: &HeaderMap) -> Option<&str> {
    std::str::from_utf8(find(headers, CLICK)?).ok()
}

fn find<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii_start();
            pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        })
        .map(<[u8]>::trim_ascii_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_cookie(value: &[u8]) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_bytes(value).ok()?);
        Some(headers)
    }

    #[test]
    fn a_visitor_is_recognised_among_other_cookies() {
        let id = Uuid::from_u128(0x0190_1234_5678_7abc_8def_0123_4567_89ab);
        let set = CookieWriter::new(true).visitor(id);
        let set = set.to_str().unwrap();
        assert!(
            set.starts_with("aff_visitor=AZASNFZ4erwN7wEjRWeJqw") || set.contains("aff_visitor=")
        );
        assert!(set.ends_with("; Max-Age=34560000; Path=/; Secure; HttpOnly; SameSite=Lax"));
        let pair = set.split(';').next().unwrap();
        let line = format!("x_aff_visitor=1; a=b;{pair} ; c=d");
        assert_eq!(visitor(&with_cookie(line.as_bytes()).unwrap()), Some(id));
    }

    #[test]
    fn a_cookie_for_localhost_is_not_secure() {
        let set = CookieWriter::new(false).visitor(Uuid::nil());
        assert!(!set.to_str().unwrap().contains("Secure"));
    }

    proptest! {
        #[test]
        fn no_cookie_header_is_too_odd(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut line = b"aff_visitor=".to_vec();
            line.extend(&value);
            for line in [value, line] {
                if let Some(headers) = with_cookie(&line) {
                    let _ = visitor(&headers);
                }
            }
        }
    }
}
