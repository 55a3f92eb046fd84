//! A link's destination: a URL with macros such as `{click_id}`, compiled when a link is loaded.
//!
//! Macros stand after the host only and their values are percent-encoded, so whoever fills them can
//! neither choose where the shopper goes nor end the header line. What is rendered never exceeds
//! [`MAX_RENDERED_BYTES`]. A template takes 16 bytes and one allocation of about the destination's
//! length: an edge holds a million of them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

/// Longest destination, in bytes.
pub const MAX_DESTINATION_BYTES: usize = 2048;
/// Most macros in one destination.
pub const MAX_MACROS: usize = 32;
/// Longest [`Value::Plain`], in bytes.
pub const MAX_PLAIN_BYTES: usize = 64;
/// Longest destination once its macros are filled in, in bytes.
pub const MAX_RENDERED_BYTES: usize = MAX_DESTINATION_BYTES + MAX_MACROS * MAX_PLAIN_BYTES;

/// RFC 3986 "unreserved" is left as it is; everything else is encoded.
pub const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
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

/// What a macro is filled in with.
#[derive(Debug, Clone, Copy)]
pub enum Value<'v> {
    /// Our own, of unreserved characters only and at most [`MAX_PLAIN_BYTES`] long: not encoded.
    Plain(&'v str),
    /// In decimal.
    Number(u64),
    /// Anybody's: encoded.
    Text(&'v str),
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Self {
        Self::Text(text)
    }
}

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
    #[error("destination must hold at most {MAX_MACROS} macros")]
    TooManyMacros,
}

fn macro_names() -> String {
    let names: Vec<String> = MACROS.iter().map(|(n, _)| format!("{{{n}}}")).collect();
    names.join(", ")
}

/// A destination, ready to be rendered.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Template {
    /// The destination with each macro as one control character, its place in [`MACROS`]: no
    /// destination holds one of its own.
    text: Box<str>,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Template").field(&self.text).finish()
    }
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
        let text = mark(destination)?;
        check_url(&text)?;
        Ok(Self { text: text.into() })
    }

    /// Appends the destination to `out`, at most [`MAX_RENDERED_BYTES`] of visible ASCII; `value`
    /// gives what each macro is filled in with. Where that is too long, each [`Value::Text`] is left
    /// empty.
    pub fn render<'v, V: Into<Value<'v>>>(&self, out: &mut String, value: impl Fn(Macro) -> V) {
        let start = out.len();
        self.fill_in(out, |wanted| value(wanted).into());
        if out.len() - start > MAX_RENDERED_BYTES {
            out.truncate(start);
            self.fill_in(out, |wanted| match value(wanted).into() {
                Value::Text(_) => Value::Plain(""),
                ours => ours,
            });
        }
    }

    fn fill_in<'v>(&self, out: &mut String, value: impl Fn(Macro) -> Value<'v>) {
        let mut rest = &*self.text;
        while let Some(at) = next_mark(rest) {
            let (text, marked) = rest.split_at(at);
            out.push_str(text);
            let (_, wanted) = MACROS[usize::from(marked.as_bytes()[0])];
            match value(wanted) {
                Value::Plain(plain) => {
                    debug_assert!(plain.len() <= MAX_PLAIN_BYTES);
                    out.push_str(plain);
                }
                Value::Number(number) => out.push_str(itoa::Buffer::new().format(number)),
                Value::Text(text) => out.extend(utf8_percent_encode(text, ENCODED)),
            }
            rest = &marked[1..];
        }
        out.push_str(rest);
    }
}

/// Where the next macro's mark is. Looked for in many bytes at once: every click does it.
fn next_mark(text: &str) -> Option<usize> {
    let is_mark = |b: &u8| b.is_ascii_control();
    let (pieces, _) = text.as_bytes().as_chunks::<16>();
    let has_none = |piece: &&[u8; 16]| !piece.iter().fold(false, |any, b| any | is_mark(b));
    let from = 16 * pieces.iter().take_while(has_none).count();
    let at = text.as_bytes()[from..].iter().position(is_mark)?;
    Some(from + at)
}

/// `destination` with a control character in place of each macro.
fn mark(destination: &str) -> Result<String, TemplateError> {
    let mut marked = String::with_capacity(destination.len());
    let mut macros = 0;
    let mut rest = destination;
    while let Some(open) = rest.find(['{', '}']) {
        let after = rest[open..]
            .strip_prefix('{')
            .ok_or(TemplateError::Unbalanced)?;
        let close = after.find('}').ok_or(TemplateError::Unbalanced)?;
        let name = &after[..close];
        let (mark, _) = ('\0'..)
            .zip(MACROS)
            .find(|(_, (known, _))| *known == name)
            .ok_or_else(|| TemplateError::UnknownMacro(name.to_owned()))?;
        macros += 1;
        if macros > MAX_MACROS {
            return Err(TemplateError::TooManyMacros);
        }
        marked.push_str(&rest[..open]);
        marked.push(mark);
        rest = &after[close + 1..];
    }
    marked.push_str(rest);
    Ok(marked)
}

fn check_url(marked: &str) -> Result<(), TemplateError> {
    // `https:/host`, `https:\\host` and the like are mended differently by different readers:
    // take only what every reader sees alike.
    let after_scheme = ["http://", "https://"]
        .iter()
        .find_map(|scheme| marked.strip_prefix(scheme))
        .ok_or(TemplateError::NotAUrl)?;
    let is_macro = |c: char| c.is_ascii_control();
    let end = after_scheme
        .find(|c| is_macro(c) || matches!(c, '/' | '?' | '#'))
        .unwrap_or(after_scheme.len());
    let (authority, rest) = after_scheme.split_at(end);
    if rest.starts_with(is_macro) {
        return Err(TemplateError::MacroInHost);
    }
    if authority.is_empty() || authority.contains('\\') {
        return Err(TemplateError::NotAUrl);
    }
    let url = Url::parse(&marked.replace(is_macro, "x")).map_err(|_| TemplateError::NotAUrl)?;
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

    #[test]
    fn our_own_values_are_not_encoded() {
        let template = Template::parse(
            "https://shop.example/{link_id}?c={click_id}&s={sub2}&a={affiliate_id}",
        )
        .unwrap();
        let mut out = String::from("> ");
        template.render(&mut out, |wanted| match wanted {
            Macro::ClickId => Value::Plain("A-_z"),
            Macro::LinkId => Value::Number(0),
            Macro::AffiliateId => Value::Number(u64::MAX),
            Macro::Sub(n) => Value::Text(["1", "ü/", "3", "4", "5"][n]),
        });
        assert_eq!(
            out,
            "> https://shop.example/0?c=A-_z&s=%C3%BC%2F&a=18446744073709551615"
        );
    }

    #[test]
    fn what_is_rendered_is_bounded() {
        let most = format!("https://shop.example/{}", "{sub1}{click_id}".repeat(16));
        let template = Template::parse(&most).unwrap();
        let click_id = "c".repeat(MAX_PLAIN_BYTES);
        let sub = "ü".repeat(64);
        let render = |sub: &str| {
            let mut out = String::new();
            template.render(&mut out, |wanted| match wanted {
                Macro::ClickId => Value::Plain(&click_id),
                _ => Value::Text(sub),
            });
            out
        };
        assert_eq!(render("x").len(), 21 + 16 * 65);
        assert_eq!(render(&sub).len(), 21 + 16 * 64);
        assert_eq!(
            Template::parse(&format!("{most}{{sub1}}")),
            Err(TemplateError::TooManyMacros)
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
