//! What a click's own address says: sub ids, UTM parameters, `?url=`. Read once and borrowed where
//! nothing has to be decoded.
//!
//! The first of several counts; an empty one is none. Malformed percent signs stand for themselves and
//! what is no UTF-8 is replaced, so that no query fails.

use std::borrow::Cow;

/// Parameters that are looked at; further ones don't count.
pub(crate) const MAX_PARAMETERS: usize = 64;
/// Longest sub id and UTM parameter that are kept, in bytes; longer ones are cut.
pub(crate) const MAX_VALUE_BYTES: usize = 128;
/// Longest `url`, in bytes; a longer one is none: half an address leads elsewhere.
const MAX_URL_BYTES: usize = 2048;

/// How many sub ids there are.
const SUB_IDS: usize = 5;
/// What a sub id's number may follow. Alone, `aff_sub` and `subid` are the first one.
const SUB_PREFIXES: [&str; 5] = ["sub_id_", "sub_id", "subid", "aff_sub", "sub"];

/// The UTM parameters, in the order in which a click stores them.
const UTM_NAMES: [&str; 5] = [
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "utm_term",
    "utm_content",
];

/// A click's query.
#[derive(Debug, Clone)]
pub(crate) struct ClickQuery<'q> {
    /// As it arrived, without the question mark.
    raw: &'q str,
    sub_ids: [Cow<'q, str>; SUB_IDS],
    utm: [Cow<'q, str>; 5],
    url: Option<Cow<'q, str>>,
}

/// What a parameter is to us.
enum Known {
    Sub(usize),
    Utm(usize),
    Url,
}

impl<'q> ClickQuery<'q> {
    /// Reads a request's query; none: it had none.
    pub(crate) fn read(query: Option<&'q str>) -> Self {
        const EMPTY: Cow<'static, str> = Cow::Borrowed("");
        let mut read = Self {
            raw: query.unwrap_or_default(),
            sub_ids: [EMPTY; SUB_IDS],
            utm: [EMPTY; 5],
            url: None,
        };
        for (name, value) in form_urlencoded::parse(read.raw.as_bytes()).take(MAX_PARAMETERS) {
            let place = match known(&name) {
                Some(Known::Sub(n)) => &mut read.sub_ids[n],
                Some(Known::Utm(n)) => &mut read.utm[n],
                Some(Known::Url) => {
                    if read.url.is_none() && !value.is_empty() && value.len() <= MAX_URL_BYTES {
                        read.url = Some(value);
                    }
                    continue;
                }
                None => continue,
            };
            if place.is_empty() {
                *place = cut(value);
            }
        }
        read
    }

    /// The query as it arrived; empty when there was none.
    pub(crate) fn raw(&self) -> &'q str {
        self.raw
    }

    /// `sub1`..`sub5`; empty: not given.
    pub(crate) fn sub_ids(&self) -> &[Cow<'q, str>; SUB_IDS] {
        &self.sub_ids
    }

    /// `sub1`..`sub5` as a click stores them: without the empty ones at the end.
    pub(crate) fn stored_sub_ids(&self) -> Vec<String> {
        let used = self
            .sub_ids
            .iter()
            .rposition(|sub| !sub.is_empty())
            .map_or(0, |last| last + 1);
        self.sub_ids[..used].iter().map(|s| s.to_string()).collect()
    }

    /// `utm_source`, `utm_medium`, `utm_campaign`, `utm_term`, `utm_content`; empty: not given.
    pub(crate) fn utm(&self) -> &[Cow<'q, str>; 5] {
        &self.utm
    }

    /// Where the click wants to go instead. Anybody may have written it.
    pub(crate) fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

fn known(name: &str) -> Option<Known> {
    match name.as_bytes().first()? {
        b's' | b'a' => sub_id(name).map(Known::Sub),
        b'u' if name == "url" => Some(Known::Url),
        b'u' => UTM_NAMES.iter().position(|n| *n == name).map(Known::Utm),
        _ => None,
    }
}

/// Which sub id this is, from 0.
fn sub_id(name: &str) -> Option<usize> {
    if name == "aff_sub" || name == "subid" {
        return Some(0);
    }
    let number = SUB_PREFIXES.iter().find_map(|p| name.strip_prefix(p))?;
    match number.as_bytes() {
        [digit @ b'1'..=b'5'] => Some(usize::from(digit - b'1')),
        _ => None,
    }
}

/// The longest beginning within the bound that ends between two characters.
fn cut(value: Cow<'_, str>) -> Cow<'_, str> {
    let end = value.floor_char_boundary(MAX_VALUE_BYTES);
    match value {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subs(query: &str) -> Vec<String> {
        ClickQuery::read(Some(query)).stored_sub_ids()
    }

    #[test]
    fn sub_ids_have_many_names() {
        for name in [
            "sub1", "aff_sub", "aff_sub1", "sub_id_1", "sub_id1", "subid", "subid1", "sub%31",
        ] {
            assert_eq!(subs(&format!("{name}=x")), ["x"], "{name}");
        }
        for name in ["sub4", "aff_sub4", "sub_id_4", "sub_id4", "subid4"] {
            assert_eq!(subs(&format!("{name}=x")), ["", "", "", "x"], "{name}");
        }
        for name in [
            "sub",
            "sub0",
            "sub6",
            "sub11",
            "Sub1",
            "sub_id_",
            "aff_sub_1",
            "xsub1",
            "submit",
            "",
        ] {
            assert!(subs(&format!("{name}=x")).is_empty(), "{name}");
        }
    }

    #[test]
    fn the_first_that_is_not_empty_counts() {
        assert_eq!(subs("sub1=&aff_sub=a&sub1=b"), ["a"]);
        let query = ClickQuery::read(Some("utm_source=&utm_source=a&utm_source=b&url=&url=c"));
        assert_eq!((&*query.utm()[0], query.url()), ("a", Some("c")));
    }

    #[test]
    fn what_is_read_is_decoded_and_bounded() {
        let query = format!(
            "sub2=a%20b+c&sub4={}&utm_campaign={}&utm_term=%zz%ff%&url=https%3A%2F%2Fa.b%2F%3Fq=1",
            "é".repeat(100),
            "%C3%A9".repeat(100)
        );
        let query = ClickQuery::read(Some(&query));
        assert_eq!(
            query.stored_sub_ids(),
            ["", "a b c", "", &"é".repeat(64) as &str]
        );
        assert_eq!(query.utm()[2], "é".repeat(64));
        assert_eq!(query.utm()[3], "%zz\u{fffd}%");
        assert_eq!(query.url(), Some("https://a.b/?q=1"));

        let long = format!("url={}", "a".repeat(MAX_URL_BYTES + 1));
        assert_eq!(ClickQuery::read(Some(&long)).url(), None);
        let many = format!("{}sub1=late", "x=1&".repeat(MAX_PARAMETERS));
        assert!(subs(&many).is_empty());
        assert!(
            ClickQuery::read(None).stored_sub_ids().is_empty()
                && ClickQuery::read(None).url().is_none()
        );
    }

    #[test]
    fn plain_values_are_borrowed() {
        let query = ClickQuery::read(Some("sub1=abc&utm_source=x"));
        assert!(matches!(query.sub_ids()[0], Cow::Borrowed("abc")));
        assert!(matches!(query.utm()[0], Cow::Borrowed("x")));
    }

    proptest! {
        #[test]
        fn no_query_fails(query in "(sub[1-6]|aff_sub|utm_[a-z]{4,8}|url|[&=%+;a-fé\\x00]{0,3}){0,40}") {
            let read = ClickQuery::read(Some(&query));
            for value in read.sub_ids().iter().chain(read.utm()) {
                prop_assert!(value.len() <= MAX_VALUE_BYTES);
            }
        }
    }
}
