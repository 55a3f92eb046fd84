//! What stands in the `Location` header: the chosen destination with its macros filled in, or where the
//! click's own `?url=` wants to go if the program allows that host, and behind it the click's own
//! parameters where the link passes them on.
//!
//! Whatever a click brings along: the result is one URL of visible ASCII, at most
//! [`MAX_LOCATION_BYTES`] long, on a host that the link or its program names, and the merchant reads our
//! click id, not one of somebody's making.

use std::borrow::Cow;

use percent_encoding::{percent_decode, percent_encode};
use tributary_shared::events::Outcome;
use tributary_shared::template::{ENCODED, MAX_RENDERED_BYTES, Macro, Value};
use url::Url;

use crate::link::ActiveLink;
use crate::query::{ClickQuery, MAX_PARAMETERS};
use crate::route::Choice;

/// Longest `Location`, in bytes; parameters that don't fit are left out.
pub(crate) const MAX_LOCATION_BYTES: usize = 4096;
/// What a usual location and the cookies behind it take, in bytes.
const ROOM: usize = 512;
const _: () = assert!(MAX_RENDERED_BYTES <= MAX_LOCATION_BYTES);

/// The parameter by which an override is told the click id, and which is never passed on: a link that
/// was copied after a click still carries that click's.
const CLICK_ID: &str = "click_id";
/// The parameter that names an override.
const URL: &str = "url";

/// Renders `choice`; `click_id` is empty where no click is made (`HEAD`). None when the choice leads
/// nowhere.
pub(crate) fn location(
    link: &ActiveLink,
    choice: &Choice<'_>,
    query: &ClickQuery<'_>,
    click_id: &str,
) -> Option<String> {
    let target = choice.target?;
    let to_destination = choice.outcome == Outcome::Destination;
    let asked = query
        .url()
        .filter(|_| to_destination)
        .and_then(|url| allowed(url, link.override_hosts()));
    let overridden = asked.and_then(|url| with_click_id(url, click_id));
    let mut location = overridden.unwrap_or_else(|| {
        let mut rendered = String::with_capacity(ROOM);
        target.render(&mut rendered, |wanted| match wanted {
            Macro::ClickId => Value::Plain(click_id),
            Macro::AffiliateId => Value::Number(link.affiliate_id),
            Macro::LinkId => Value::Number(link.link_id.to_wire()),
            Macro::Sub(n) => Value::Text(&query.sub_ids()[n]),
        });
        rendered
    });
    if to_destination && link.pass_query && !query.raw().is_empty() {
        location = pass_on(location, query.raw());
    }
    Some(location)
}

/// An override that may be used: an absolute http or https URL on one of `hosts`, written so that no
/// reader can take it for anything else.
fn allowed(text: &str, hosts: &[Box<str>]) -> Option<Url> {
    if hosts.is_empty() || text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\')
    {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    if !["http", "https"]
        .iter()
        .any(|s| s.eq_ignore_ascii_case(scheme))
        || authority.is_empty()
        || authority.contains(['@', '%'])
    {
        return None;
    }
    let url = Url::parse(text).ok()?;
    // What was read, in punycode: not what it looks like.
    let host = url.domain()?;
    let named = hosts.iter().any(|allowed| match allowed.strip_prefix('*') {
        Some(parent) => {
            parent.starts_with('.') && host.len() > parent.len() && host.ends_with(parent)
        }
        None => **allowed == *host,
    });
    let plain = url.port().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && url.as_str().bytes().all(|b| b.is_ascii_graphic());
    (named && plain).then_some(url)
}

/// The override with our click id in place of any that it carries. None when that is too long.
fn with_click_id(mut url: Url, click_id: &str) -> Option<String> {
    let is_click_id = |parameter: &str| name_of(parameter) == CLICK_ID;
    if let Some(query) = url.query().filter(|q| q.split('&').any(is_click_id)) {
        let others: Vec<&str> = query.split('&').filter(|p| !is_click_id(p)).collect();
        let others = others.join("&");
        url.set_query((!others.is_empty()).then_some(&others));
    }
    let mut parts = Parts::of(url.into());
    if parts.len() > MAX_LOCATION_BYTES {
        return None;
    }
    if !click_id.is_empty() && !parts.add(&format!("{CLICK_ID}={click_id}")) {
        return None;
    }
    Some(parts.whole())
}

/// Adds the parameters of `raw` that are for the merchant and that the destination doesn't name itself,
/// encoded anew.
fn pass_on(location: String, raw: &str) -> String {
    let mut parts = Parts::of(location);
    let taken: Vec<String> = parts
        .query()
        .split('&')
        .map(|parameter| name_of(parameter).into_owned())
        .collect();
    let given = raw.split('&').filter(|p| !p.is_empty());
    for parameter in given.take(MAX_PARAMETERS) {
        let name = name_of(parameter);
        if name == URL || name == CLICK_ID || taken.iter().any(|taken| *taken == name) {
            continue;
        }
        let mut encoded = String::with_capacity(parameter.len());
        match parameter.split_once('=') {
            Some((name, value)) => {
                encode_anew(name, &mut encoded);
                encoded.push('=');
                encode_anew(value, &mut encoded);
            }
            None => encode_anew(parameter, &mut encoded),
        }
        parts.add(&encoded);
    }
    parts.whole()
}

/// A parameter's name as the most lenient reader takes it: some ignore case, and PHP cuts at a bracket
/// or NUL, trims, and takes a dot or a space for an underscore.
fn name_of(parameter: &str) -> Cow<'_, str> {
    let raw = parameter.split('=').next().unwrap_or_default();
    if raw
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    {
        return Cow::Borrowed(raw);
    }
    let spaced = raw.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8_lossy();
    let name = decoded.split(['[', '\0']).next().unwrap_or_default();
    Cow::Owned(name.trim().to_ascii_lowercase().replace([' ', '.'], "_"))
}

/// Percent-decodes `text` and encodes it again, byte by byte, so that it says the same whatever its
/// character set is, and nothing more.
fn encode_anew(text: &str, out: &mut String) {
    for (n, piece) in text.split('+').enumerate() {
        if n > 0 {
            out.push_str("%20");
        }
        let bytes: Cow<'_, [u8]> = percent_decode(piece.as_bytes()).into();
        out.extend(percent_encode(&bytes, ENCODED));
    }
}

/// A URL, open for parameters: everything up to its fragment, and that.
struct Parts {
    head: String,
    fragment: String,
}

impl Parts {
    fn of(mut url: String) -> Self {
        let fragment = url.find('#').map(|at| url.split_off(at));
        Self {
            head: url,
            fragment: fragment.unwrap_or_default(),
        }
    }

    fn len(&self) -> usize {
        self.head.len() + self.fragment.len()
    }

    fn query(&self) -> &str {
        self.head.split_once('?').map_or("", |(_, query)| query)
    }

    /// Adds an encoded parameter; whether it fitted.
    fn add(&mut self, parameter: &str) -> bool {
        if self.len() + 1 + parameter.len() > MAX_LOCATION_BYTES {
            return false;
        }
        match self.head.split_once('?') {
            None => self.head.push('?'),
            Some((_, query)) if query.is_empty() || query.ends_with('&') => {}
            Some(_) => self.head.push('&'),
        }
        self.head.push_str(parameter);
        true
    }

    fn whole(mut self) -> String {
        self.head.push_str(&self.fragment);
        self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Compiler;
    use proptest::prelude::*;
    use prost::Message as _;
    use tributary_shared::ids::TenantId;
    use tributary_shared::links::Link;

    const TOKEN: &str = "AZpL-_tokenOf48characters0123456789abcdefghijklm";

    fn link(destination: &str, change: impl FnOnce(&mut Link)) -> ActiveLink {
        let mut link = Link {
            link_id: 3,
            tenant_id: 7,
            affiliate_id: 5,
            destination: destination.to_owned(),
            pass_query: true,
            override_hosts: vec!["shop.example".into(), "*.Brand.example".into()],
            fallback_url: "https://fallback.example/?s={sub1}".to_owned(),
            ..Link::default()
        };
        change(&mut link);
        Compiler::new()
            .compile(&link.encode_to_vec(), TenantId(7))
            .unwrap()
    }

    fn sent(link: &ActiveLink, outcome: Outcome, query: &str) -> String {
        let choice = match outcome {
            Outcome::Destination => Choice {
                outcome,
                variant: 0,
                target: Some(&link.destination),
            },
            other => Choice::fallback(link, other),
        };
        let query = ClickQuery::read(Some(query));
        location(link, &choice, &query, TOKEN).unwrap()
    }

    fn passed(destination: &str, query: &str) -> String {
        sent(&link(destination, |_| ()), Outcome::Destination, query)
    }

    fn overridden(url: &str) -> Option<String> {
        let link = link("https://own.example/", |l| l.pass_query = false);
        let url: String = form_urlencoded::byte_serialize(url.as_bytes()).collect();
        let sent = sent(&link, Outcome::Destination, &format!("url={url}"));
        (sent != "https://own.example/").then(|| sent.replace(TOKEN, "TOKEN"))
    }

    #[test]
    fn macros_are_filled_in() {
        let link = link(
            "https://own.example/{affiliate_id}/{link_id}?c={click_id}&s={sub1}#{sub2}",
            |l| l.pass_query = false,
        );
        assert_eq!(
            sent(&link, Outcome::Destination, "sub1=a%26b&sub2=%23&x=1"),
            format!("https://own.example/5/3?c={TOKEN}&s=a%26b#%23")
        );
    }

    #[test]
    fn nowhere_is_none() {
        let link = link("https://own.example/", |l| l.fallback_url.clear());
        let choice = Choice::fallback(&link, Outcome::Capped);
        assert_eq!(
            location(&link, &choice, &ClickQuery::read(None), TOKEN),
            None
        );
    }

    #[test]
    fn a_fallback_gets_no_more_than_its_macros() {
        let link = link("https://own.example/", |_| ());
        assert_eq!(
            sent(
                &link,
                Outcome::Expired,
                "sub1=a&x=1&url=https://shop.example/"
            ),
            "https://fallback.example/?s=a"
        );
    }

    #[test]
    fn parameters_are_passed_on_behind_the_query_and_before_the_fragment() {
        for (destination, expected) in [
            ("https://own.example", "https://own.example?x=1&y"),
            ("https://own.example/p?", "https://own.example/p?x=1&y"),
            ("https://own.example/?a=b", "https://own.example/?a=b&x=1&y"),
            (
                "https://own.example/?a=b&",
                "https://own.example/?a=b&x=1&y",
            ),
            (
                "https://own.example/#/a?b",
                "https://own.example/?x=1&y#/a?b",
            ),
        ] {
            assert_eq!(passed(destination, "&x=1&&y&"), expected);
        }
        assert_eq!(
            passed("https://own.example/#f", ""),
            "https://own.example/#f"
        );
    }

    #[test]
    fn what_is_passed_on_is_encoded_anew() {
        for (given, expected) in [
            ("x=a+b%20c", "x=a%20b%20c"),
            ("x=%2B%26%3d%23%25", "x=%2B%26%3D%23%25"),
            ("x=%0d%0aSet-Cookie:a", "x=%0D%0ASet-Cookie%3Aa"),
            ("x=%zz%", "x=%25zz%25"),
            ("x=%E4", "x=%E4"),
            ("x=\"<>\\^`{|}';", "x=%22%3C%3E%5C%5E%60%7B%7C%7D%27%3B"),
            ("x=a=b", "x=a%3Db"),
            ("x%26y=1", "x%26y=1"),
            ("utm_source=a&sub1=b", "utm_source=a&sub1=b"),
        ] {
            assert_eq!(
                passed("https://own.example/", given),
                format!("https://own.example/?{expected}")
            );
        }
    }

    #[test]
    fn what_the_destination_says_itself_stands() {
        let destination = "https://own.example/?partner=5&Deal.Id=7";
        for given in [
            "partner=6",
            "PARTNER=6",
            "%70artner=6",
            "partner[]=6",
            "partner%5B0%5D=6",
            "+partner=6",
            "partner%00x=6",
            "partner",
            "deal_id=6",
            "deal+id=6",
            "url=x",
            "click_id=forged",
            "Click%5Fid=forged",
        ] {
            assert_eq!(passed(destination, given), destination, "{given}");
        }
        assert_eq!(
            passed(destination, "partners=6"),
            format!("{destination}&partners=6")
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let long = format!("x={}&y=1&z={}", "%FF".repeat(1300), "a".repeat(1300));
        let passed = passed("https://own.example/#f", &long);
        assert!(passed.len() <= MAX_LOCATION_BYTES);
        assert!(passed.ends_with("%FF&y=1#f"), "{passed}");
    }

    #[test]
    fn an_override_leads_to_hosts_on_the_list() {
        for (url, expected) in [
            (
                "https://shop.example",
                "https://shop.example/?click_id=TOKEN",
            ),
            (
                "HTTP://SHOP.example:80/a/../b?x={sub1}&y='#f",
                "http://shop.example/b?x={sub1}&y=%27&click_id=TOKEN#f",
            ),
            (
                "https://shop.example:443/ä",
                "https://shop.example/%C3%A4?click_id=TOKEN",
            ),
            (
                "https://a.b.brand.example/?x",
                "https://a.b.brand.example/?x&click_id=TOKEN",
            ),
            // Full-width letters are these letters; what was read is what is sent.
            (
                "https://ｓhop.example/",
                "https://shop.example/?click_id=TOKEN",
            ),
            // Copied after an earlier click.
            (
                "https://shop.example/?click_id=old&a=1&click%5Fid=older",
                "https://shop.example/?a=1&click_id=TOKEN",
            ),
            (
                "https://shop.example/?click_id=old#f",
                "https://shop.example/?click_id=TOKEN#f",
            ),
        ] {
            assert_eq!(overridden(url).as_deref(), Some(expected), "{url}");
        }
    }

    #[test]
    fn any_other_override_is_ignored() {
        for url in [
            "https://evil.example/",
            "https://shop.example.evil.example/",
            "https://evilshop.example/",
            "https://brand.example/", // only its subdomains
            "https://evilbrand.example/",
            "https://.brand.example/",
            "https://www.shop.example/",
            "https://shop.example./",
            "//shop.example/",
            "/path",
            "shop.example",
            "https:shop.example/",
            "https:/shop.example/",
            "https:///shop.example/",
            "https:\\\\shop.example/",
            "https://shop.example\\@evil.example/",
            "https://shop.example/\\evil.example/",
            "https://evil.example\\.shop.example/",
            "https://user@shop.example/",
            "https://user:password@shop.example/",
            "https://@shop.example/",
            "https://shop.example@evil.example/",
            "https://shop.example%40evil.example/",
            "https://%73hop.example/",
            "https://shop.example:8443/",
            "https://shop.example:80/",
            "http://shop.example:443/",
            "javascript://shop.example/%0aalert(1)",
            "ftp://shop.example/",
            "data:text/html,shop.example",
            " https://shop.example/",
            "https://shop.example/ ",
            "https://shop.example/a b",
            "https://shop.example/\r\nX: y",
            "https://shop.exa\tmple/",
            "https://shop.example/\u{a0}",
            "https://shop.example/\u{0}",
            "https://sh\u{43e}p.example/", // a Cyrillic o
            "https://xn--shp-emc.example/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://",
            "",
        ] {
            assert_eq!(overridden(url), None, "{url}");
        }
        assert_eq!(allowed("https://shop.example/", &[]), None);
        assert_eq!(allowed("https://127.0.0.1/", &["127.0.0.1".into()]), None);
    }

    #[test]
    fn an_override_that_gets_too_long_is_ignored() {
        let url = format!("https://shop.example/{}", "ä".repeat(1000));
        assert_eq!(overridden(&url), None);
    }

    #[test]
    fn a_look_is_no_click() {
        let link = link("https://own.example/?c={click_id}", |_| ());
        let choice = Choice {
            outcome: Outcome::Destination,
            variant: 0,
            target: Some(&link.destination),
        };
        let query = ClickQuery::read(Some("url=https://shop.example/"));
        let value = location(&link, &choice, &query, "").unwrap();
        assert_eq!(value, "https://shop.example/");
    }

    /// Text that tries: delimiters, encodings, other hosts, and anything.
    fn hostile() -> impl Strategy<Value = String> {
        let bit = prop_oneof![
            "[&=?#/%+:;@\\\\. -]",
            "(%[0-9a-fA-F]{2}){1,3}",
            "(url|sub[1-5]|utm_source|click_id|c|x)=",
            Just("https://".to_owned()),
            Just("shop.example".to_owned()),
            Just("evil.example".to_owned()),
            Just("\r\nLocation: x".to_owned()),
            any::<String>(),
        ];
        prop::collection::vec(bit, 0..30).prop_map(|bits| bits.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_comes_the_location_is_one_url_on_a_known_host(
            query in hostile(),
            path in prop::sample::select(vec!["", "/", "/{sub1}", "/?c={click_id}&s={sub2}", "/{sub3}?a#{sub1}", "?{sub1}"]),
        ) {
            let link = link(&format!("https://own.example{path}"), |_| ());
            let sent = sent(&link, Outcome::Destination, &query);
            prop_assert!(sent.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert!(sent.len() <= MAX_LOCATION_BYTES);
            let url = Url::parse(&sent).unwrap();
            prop_assert!(matches!(url.host_str(), Some("own.example" | "shop.example")), "{sent}");
            if url.host_str() == Some("own.example") {
                prop_assert!(!sent.contains("forged"));
                prop_assert!(sent.starts_with("https://own.example"));
            }
            let ids = url.query_pairs().filter(|(name, _)| name == CLICK_ID);
            prop_assert!(ids.into_iter().all(|(_, value)| value == TOKEN), "{sent}");
        }

        #[test]
        fn no_text_gets_past_the_list(text in hostile()) {
            if let Some(url) = allowed(&text, &["shop.example".into()]) {
                prop_assert_eq!(url.host_str(), Some("shop.example"));
                prop_assert!(url.as_str().starts_with("http"));
            }
        }

        /// Nothing is lost or gained on the way: the merchant reads what the click said.
        #[test]
        fn what_is_passed_on_reads_the_same(pairs in prop::collection::vec(("x[a-z]{0,3}", any::<String>()), 0..8)) {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(&pairs);
            let query = query.finish();
            prop_assume!(query.len() < 2_000);
            let sent = passed("https://own.example/", &query);
            let url = Url::parse(&sent).unwrap();
            let read: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            prop_assert_eq!(read, pairs);
        }
    }
}
