//! What a click's request says of the shopper: each header that matters, found in one pass over all of
//! them, whichever parser read them.

use tributary_shared::events::FetchDest;

use crate::client::{TrustedProxies, cut};

/// Header fields of a click's request, as they came. Of one that stands several times the first
/// counts, as long as nothing else is said.
#[derive(Debug, Default)]
pub(crate) struct Shopper<'r> {
    pub(crate) user_agent: &'r [u8],
    pub(crate) referrer: &'r [u8],
    pub(crate) accept_language: &'r [u8],
    /// `Cookie` lines; nearly always one.
    pub(crate) cookie: &'r [u8],
    pub(crate) more_cookies: Vec<&'r [u8]>,
    /// What the trusted proxies' header says, every line of it in order.
    pub(crate) forwarding: Vec<&'r [u8]>,
    /// `Sec-CH-UA-Mobile`, `Sec-CH-UA-Platform`.
    pub(crate) hint_mobile: Option<&'r str>,
    pub(crate) hint_platform: Option<&'r str>,
    pub(crate) fetch_dest: FetchDest,
    /// A browser only looks ahead, without a person having clicked.
    pub(crate) looks_ahead: bool,
    /// The client asked not to be tracked (Global Privacy Control).
    pub(crate) opted_out: bool,
}

impl<'r> Shopper<'r> {
    /// Reads names (in any case) and values.
    pub(crate) fn read(
        headers: impl Iterator<Item = (&'r [u8], &'r [u8])>,
        proxies: &TrustedProxies,
    ) -> Self {
        let mut shopper = Self::default();
        let forwarding = proxies.header_name().as_bytes();
        for (name, value) in headers {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            // By length first: most names are told apart by it alone.
            match name.len() {
                5 if is("x-moz") => shopper.purpose(value),
                6 if is("cookie") && shopper.cookie.is_empty() => shopper.cookie = value,
                6 if is("cookie") => shopper.more_cookies.push(value),
                7 if is("referer") => first(&mut shopper.referrer, value),
                7 if is("purpose") => shopper.purpose(value),
                7 if is("sec-gpc") => shopper.opted_out |= value == b"1",
                9 if is("x-purpose") => shopper.purpose(value),
                10 if is("user-agent") => first(&mut shopper.user_agent, value),
                11 if is("sec-purpose") => shopper.purpose(value),
                14 if is("sec-fetch-dest") => shopper.fetch_dest = fetch_dest(value),
                15 if is("accept-language") => first(&mut shopper.accept_language, value),
                16 if is("sec-ch-ua-mobile") => shopper.hint_mobile = text(value),
                18 if is("sec-ch-ua-platform") => shopper.hint_platform = text(value),
                _ => {}
            }
            if name.eq_ignore_ascii_case(forwarding) {
                shopper.forwarding.push(value);
            }
        }
        shopper
    }

    /// A purpose that is named: prefetch, prefetch;prerender, prerender, preview.
    fn purpose(&mut self, value: &[u8]) {
        self.looks_ahead |= value.windows(3).any(|w| w.eq_ignore_ascii_case(b"pre"));
    }

    /// Every `Cookie` line.
    pub(crate) fn cookies(&self) -> impl Iterator<Item = &'r [u8]> {
        std::iter::once(self.cookie).chain(self.more_cookies.iter().copied())
    }
}

fn first<'r>(place: &mut &'r [u8], value: &'r [u8]) {
    if place.is_empty() {
        *place = value;
    }
}

fn fetch_dest(value: &[u8]) -> FetchDest {
    match value {
        b"document" => FetchDest::Document,
        b"frame" | b"iframe" | b"fencedframe" | b"embed" | b"object" => FetchDest::Frame,
        b"image" => FetchDest::Image,
        b"empty" => FetchDest::Empty,
        b"" => FetchDest::NotSaid,
        _ => FetchDest::Resource,
    }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// Puts a header's text of at most `max_bytes` into `out`. Bytes that are no UTF-8 are replaced.
pub(crate) fn put_text(value: &[u8], max_bytes: usize, out: &mut String) {
    out.clear();
    match std::str::from_utf8(value) {
        Ok(text) => out.push_str(cut(text, max_bytes)),
        Err(_) => out.push_str(cut(&String::from_utf8_lossy(value), max_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ForwardingHeader;

    fn read<'r>(headers: &[(&'r str, &'r [u8])]) -> Shopper<'r> {
        let proxies = TrustedProxies::new(Vec::new(), ForwardingHeader::XForwardedFor);
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), *value));
        Shopper::read(pairs, &proxies)
    }

    #[test]
    fn headers_are_found_in_any_case_and_the_first_counts() {
        let shopper = read(&[
            ("User-Agent", b"a"),
            ("user-agent", b"b"),
            ("REFERER", b"r"),
            ("Accept-Language", b"de"),
            ("cookie", b"x=1"),
            ("Cookie", b"y=2"),
            ("X-Forwarded-For", b"1.1.1.1"),
            ("x-forwarded-for", b"2.2.2.2"),
            ("Sec-CH-UA-Mobile", b"?1"),
            ("Sec-CH-UA-Platform", b"\"Android\""),
        ]);
        assert_eq!(shopper.user_agent, b"a");
        assert_eq!(shopper.referrer, b"r");
        assert_eq!(shopper.accept_language, b"de");
        assert_eq!(shopper.cookies().collect::<Vec<_>>(), [b"x=1", b"y=2"]);
        assert_eq!(shopper.forwarding, [b"1.1.1.1", b"2.2.2.2"]);
        assert_eq!(shopper.hint_mobile, Some("?1"));
        assert_eq!(shopper.hint_platform, Some("\"Android\""));
        assert!(!shopper.looks_ahead && !shopper.opted_out);
    }

    #[test]
    fn looking_ahead_and_opting_out_are_recognised() {
        for (name, value) in [
            ("sec-purpose", "prefetch;prerender"),
            ("Purpose", "prefetch"),
            ("x-purpose", "preview"),
            ("X-Moz", "Prefetch"),
        ] {
            assert!(read(&[(name, value.as_bytes())]).looks_ahead, "{name}");
        }
        assert!(!read(&[("sec-purpose", b"navigate")]).looks_ahead);
    }

    #[test]
    fn what_the_answer_is_for_is_told_by_kind() {
        for (value, kind) in [
            ("document", FetchDest::Document),
            ("iframe", FetchDest::Frame),
            ("image", FetchDest::Image),
            ("empty", FetchDest::Empty),
            ("script", FetchDest::Resource),
            ("", FetchDest::NotSaid),
        ] {
            let shopper = read(&[("Sec-Fetch-Dest", value.as_bytes())]);
            assert_eq!(shopper.fetch_dest, kind, "{value}");
        }
        assert_eq!(read(&[]).fetch_dest, FetchDest::NotSaid);
        assert!(read(&[("Sec-GPC", b"1")]).opted_out);
        assert!(!read(&[("Sec-GPC", b"0")]).opted_out);
    }

    #[test]
    fn text_is_cut_and_what_is_no_text_is_replaced() {
        let mut out = String::from("before");
        put_text("grüße".as_bytes(), 3, &mut out);
        assert_eq!(out, "gr");
        put_text(b"a\xff", 100, &mut out);
        assert_eq!(out, "a\u{fffd}");
    }
}
