//! The two cookies of a click: `aff_click`, the click token that a conversion is attributed by, and
//! `aff_visitor`, which says that two clicks came from one browser.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::{COOKIE, HeaderValue};
use tributary_shared::links::is_host;
use uuid::Uuid;

const CLICK: &str = "aff_click=";
const VISITOR: &str = "aff_visitor=";

/// What a visitor cookie says behind its value; it lives as long as browsers let a cookie live,
/// 400 days.
const VISITOR_MAX_AGE: &str = "; Max-Age=34560000";
/// A visitor's id in base64url, in characters.
const VISITOR_CHARS: usize = 22;

/// A tenant's cookie domain, whose hosts all get the cookies: `; Domain=shop.example`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CookieDomain(Box<str>);

impl CookieDomain {
    const ATTRIBUTE: &str = "; Domain=";

    /// None when `domain` is no host name of at least two labels.
    pub(crate) fn new(domain: &str) -> Option<Self> {
        is_host(domain).then(|| Self(format!("{}{domain}", Self::ATTRIBUTE).into()))
    }

    /// Itself, if `host` (in normal form) lies within it. A browser throws a cookie away whose domain
    /// is not the host's own: there it must be left out.
    pub(crate) fn of_host(&self, host: &str) -> Option<&Self> {
        let domain = &self.0[Self::ATTRIBUTE.len()..];
        let before = host.strip_suffix(domain)?;
        (before.is_empty() || before.ends_with('.')).then_some(self)
    }
}

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

    /// Appends the attribution cookie, which lives for as long as the program's window.
    pub(crate) fn click(
        &self,
        token: &str,
        window_seconds: u32,
        domain: Option<&CookieDomain>,
        out: &mut String,
    ) {
        let mut digits = itoa::Buffer::new();
        let max_age = digits.format(window_seconds);
        self.cookie([CLICK, token, "; Max-Age=", max_age], domain, out);
    }

    /// Appends the visitor cookie.
    #[expect(
        clippy::expect_used,
        reason = "16 bytes are 22 characters of base64url"
    )]
    pub(crate) fn visitor(&self, visitor: Uuid, domain: Option<&CookieDomain>, out: &mut String) {
        let mut value = [0; VISITOR_CHARS];
        URL_SAFE_NO_PAD
            .encode_slice(visitor.as_bytes(), &mut value)
            .expect("16 bytes are 22 characters");
        let value = std::str::from_utf8(&value).expect("base64url is ASCII");
        self.cookie([VISITOR, value, VISITOR_MAX_AGE, ""], domain, out);
    }

    fn cookie(&self, parts: [&str; 4], domain: Option<&CookieDomain>, out: &mut String) {
        for part in parts {
            out.push_str(part);
        }
        if let Some(CookieDomain(attribute)) = domain {
            out.push_str(attribute);
        }
        out.push_str(self.attributes);
    }
}

/// The click token that the browser carries, as it came: any text.
pub(crate) fn click_id(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    std::str::from_utf8(find(lines, CLICK)?).ok()
}

/// The visitor that the browser says it is in one of its `Cookie` lines, if it says so in our own form.
pub(crate) fn visitor<'l>(lines: impl Iterator<Item = &'l [u8]>) -> Option<Uuid> {
    let value = find(lines, VISITOR)?;
    let mut bytes = [0; 16];
    let read = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
    (read == bytes.len()).then(|| Uuid::from_bytes(bytes))
}

/// The value of the first cookie that begins with `name`, which ends with `=`.
fn find<'l>(lines: impl Iterator<Item = &'l [u8]>, name: &str) -> Option<&'l [u8]> {
    lines
        .flat_map(|line| line.split(|b| *b == b';'))
        .find_map(|pair| pair.trim_ascii_start().strip_prefix(name.as_bytes()))
        .map(<[u8]>::trim_ascii_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tributary_shared::click_token::ClickToken;
    use tributary_shared::ids::LinkId;

    fn with_cookie(value: &[u8]) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_bytes(value).ok()?);
        Some(headers)
    }

    #[test]
    fn a_visitor_is_recognised_among_other_cookies() {
        let id = Uuid::from_u128(0x0190_1234_5678_7abc_8def_0123_4567_89ab);
        let mut set = String::new();
        CookieWriter::new(true).visitor(id, None, &mut set);
        assert!(
            set.starts_with("aff_visitor=AZASNFZ4erwN7wEjRWeJqw") || set.contains("aff_visitor=")
        );
        assert!(set.ends_with("; Max-Age=34560000; Path=/; Secure; HttpOnly; SameSite=Lax"));
        let pair = set.split(';').next().unwrap();
        let line = format!("x_aff_visitor=1; a=b;{pair} ; c=d");
        assert_eq!(visitor([line.as_bytes()].into_iter()), Some(id));
    }

    #[test]
    fn a_cookie_for_localhost_is_not_secure() {
        let mut set = String::new();
        CookieWriter::new(false).visitor(Uuid::nil(), None, &mut set);
        assert!(!set.contains("Secure"));
    }

    fn token() -> ClickToken {
        let keys = format!("1:{}", "ab".repeat(32)).parse().unwrap();
        let at = tributary_shared::clock::from_micros(1_700_000_000_000_000).unwrap();
        ClickToken::mint(&keys, LinkId(3), at)
    }

    #[test]
    fn a_click_is_written_for_its_domain_and_read_back() {
        let writer = CookieWriter::new(true);
        let token = token();
        let domain = CookieDomain::new("shop.example").unwrap();
        for (domain, attribute) in [(None, ""), (Some(&domain), "; Domain=shop.example")] {
            let mut set = String::new();
            writer.click(token.as_str(), 3600, domain, &mut set);
            assert_eq!(
                set,
                format!(
                    "aff_click={token}; Max-Age=3600{attribute}; Path=/; Secure; HttpOnly; SameSite=Lax"
                )
            );
        }
        let line = format!("aff_click2=a; aff_click={token}; aff_click=b");
        let headers = with_cookie(line.as_bytes()).unwrap();
        assert_eq!(click_id(&headers), Some(token.as_str()));
        assert_eq!(
            click_id(&with_cookie(b"aff_click; b=aff_click=c").unwrap()),
            None
        );
        assert_eq!(click_id(&with_cookie(b"aff_click=\xff").unwrap()), None);
        assert_eq!(click_id(&with_cookie(b"aff_click=").unwrap()), Some(""));
        assert_eq!(click_id(&HeaderMap::new()), None);
    }

    #[test]
    fn a_cookie_domain_is_a_host_that_contains_the_request() {
        for domain in ["", "example", "a.b; Secure", "a.b\r\nX: y", ".a.b", "A.b"] {
            assert_eq!(CookieDomain::new(domain), None, "{domain:?}");
        }
        let domain = CookieDomain::new("shop.example").unwrap();
        for host in ["shop.example", "go.shop.example", "a.b.shop.example"] {
            assert!(domain.of_host(host).is_some(), "{host}");
        }
        for host in ["", "example", "myshop.example", "shop.example.evil.example"] {
            assert!(domain.of_host(host).is_none(), "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_cookie_header_is_too_odd(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut line = b"aff_visitor=".to_vec();
            line.extend(&value);
            line.extend(b"; aff_click=");
            line.extend(&value);
            for line in [value, line] {
                let _ = visitor([&*line].into_iter());
                if let Some(headers) = with_cookie(&line) {
                    let _ = click_id(&headers);
                }
            }
        }
    }
}
