//! A link's destination: a URL with macros such as `{click_id}`, compiled when a link is loaded.
//!
//! Macros stand after the host only and their values are percent-encoded, so whoever fills them can
//! neither choose where the shopper goes nor end the header line.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

/// Longest destination, in bytes.
pub const MAX_DESTINATION_BYTES: usize = 2048;

/// RFC 3986 "unreserved" is left as it is; everything else is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What can be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macro {
    /// The click token.
    ClickId,
    AffiliateId,
    LinkId,
    /// A sub id of the click, 0 for `sub1` to 4 for `sub5`.
    Sub(usize),
}

/// The macros by name, in the order in which an error lists them.
const MACROS: [(&str, Macro); 8] = [
    ("click_id", Macro::ClickId),
    ("affiliate_id", Macro::AffiliateId),
    ("link_id", Macro::LinkId),
    ("sub1", Macro::Sub(0)),
    ("sub2", Macro::Sub(1)),
    ("sub3", Macro::Sub(2)),
    ("sub4", Macro::Sub(3)),
    ("sub5", Macro::Sub(4)),
];

/// Why a destination can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("destination must be at most {MAX_DESTINATION_BYTES} bytes")]
    TooLong,
    #[error("destination must be visible ASCII: percent-encode anything else")]
    NotAscii,
    #[error("destination must be an absolute http or https URL with a host and without a login")]
    NotAUrl,
    #[error("a macro can't stand in the scheme, host or port of a destination")]
    MacroInHost,
    #[error("a brace is never closed or never opened in the destination")]
    Unbalanced,
    #[error("unknown macro {{{0}}}: use one of {names}", names = macro_names())]
    UnknownMacro(String),
}

fn macro_names() -> String {
    let names: Vec<String> = MACROS.iter().map(|(n, _)| format!("{{{n}}}")).collect();
    names.join(", ")
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Macro(Macro),
}

/// A destination, ready to be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

impl Template {
    /// Compiles and checks a destination.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(destination: &str) -> Result<Self, TemplateError> {
        if destination.len() > MAX_DESTINATION_BYTES {
            return Err(TemplateError::TooLong);
        }
        if !destination.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TemplateError::NotAscii);
        }
        let parts = split(destination)?;
        check_url(&parts)?;
        Ok(Self {
            parts: parts.into(),
        })
    }

    /// Appends the destination to `out`; `value` gives each macro's text.
    pub fn render<'v>(&self, out: &mut String, value: impl Fn(Macro) -> &'v str) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Macro(m) => {
                    // Writing to a String can't fail.
                    let _ = write!(out, "{}", utf8_percent_encode(value(*m), ENCODED));
                }
            }
        }
    }
}

fn split(destination: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = destination;
    while let Some(open) = rest.find(['{', '}']) {
        let after = rest[open..]
            .strip_prefix('{')
            .ok_or(TemplateError::Unbalanced)?;
        let close = after.find('}').ok_or(TemplateError::Unbalanced)?;
        let name = &after[..close];
        let (_, found) = MACROS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| TemplateError::UnknownMacro(name.to_owned()))?;
        if open > 0 {
            parts.push(Part::Text(rest[..open].into()));
        }
        parts.push(Part::Macro(*found));
        rest = &after[close + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    Ok(parts)
}

fn check_url(parts: &[Part]) -> Result<(), TemplateError> {
    let Some(Part::Text(start)) = parts.first() else {
        return Err(TemplateError::NotAUrl);
    };
    // `https:/host`, `https:\\host` and the like are mended differently by different readers:
    // take only what every reader sees alike.
    let authority = ["http://", "https://"]
        .iter()
        .find_map(|scheme| start.strip_prefix(scheme))
        .ok_or(TemplateError::NotAUrl)?;
    if authority.contains('\\') || authority.starts_with(['/', '?', '#']) {
        return Err(TemplateError::NotAUrl);
    }
    let ends = authority.contains(['/', '?', '#']);
    if !ends && parts.len() > 1 {
        return Err(TemplateError::MacroInHost);
    }
    let sample: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text,
            Part::Macro(_) => "x",
        })
        .collect();
    let url = Url::parse(&sample).map_err(|_| TemplateError::NotAUrl)?;
    if url.host_str().is_none_or(str::is_empty)
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err(TemplateError::NotAUrl);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn render(destination: &str, value: &str) -> String {
        let mut out = String::new();
        Template::parse(destination)
            .unwrap()
            .render(&mut out, |_| value);
        out
    }

    #[test]
    fn macros_are_filled_in_and_encoded() {
        assert_eq!(
            render("https://shop.example/p?c={click_id}&s={sub1}#top", "a b&c"),
            "https://shop.example/p?c=a%20b%26c&s=a%20b%26c#top"
        );
        assert_eq!(render("http://shop.example", "x"), "http://shop.example");
    }

    #[test]
    fn bad_destinations_say_what_is_wrong() {
        use TemplateError as E;
        let refused = |d: &str| Template::parse(d).unwrap_err();
        for url in [
            "",
            "shop.example",
            "//shop.example",
            "/path",
            "ftp://shop.example",
            "javascript:alert(1)",
            "https://",
            "https:///x",
            "https:/shop.example",
            "https://u@shop.example/",
            "https://u:p@shop.example/",
            "https://shop.example\\@evil.example/",
            "{click_id}",
            "HTTPS://shop.example",
        ] {
            assert_eq!(refused(url), E::NotAUrl, "{url}");
        }
        assert_eq!(refused("https://{sub1}.example/"), E::MacroInHost);
        assert_eq!(refused("https://shop.example:{sub1}/"), E::MacroInHost);
        assert_eq!(refused("https://shop.example{sub1}"), E::MacroInHost);
        assert_eq!(refused("https://shop.example/{click_id"), E::Unbalanced);
        assert_eq!(refused("https://shop.example/}"), E::Unbalanced);
        assert_eq!(
            refused("https://shop.example/{gclid}"),
            E::UnknownMacro("gclid".into())
        );
        assert_eq!(refused("https://shop.example/\r\nX: y"), E::NotAscii);
        assert_eq!(refused("https://shop.example/ä"), E::NotAscii);
        assert_eq!(
            refused(&format!("https://shop.example/{}", "a".repeat(2048))),
            E::TooLong
        );
    }

    proptest! {
        /// Whatever a click brings along, the host stays and the header line doesn't end.
        #[test]
        fn a_value_cannot_change_the_host(value in any::<String>()) {
            let out = render("https://shop.example/{sub1}?q={sub2}", &value);
            prop_assert!(out.bytes().all(|b| b.is_ascii_graphic()));
            let url = Url::parse(&out).unwrap();
            prop_assert_eq!(url.host_str(), Some("shop.example"));
        }

        #[test]
        fn what_is_taken_is_a_url_with_a_host(destination in "https?://[a-z{}/\\\\@:?#.0-9]{0,30}") {
            if let Ok(template) = Template::parse(&destination) {
                let mut out = String::new();
                template.render(&mut out, |_| "v");
                prop_assert!(Url::parse(&out).unwrap().host_str().is_some());
            }
        }
    }
}
