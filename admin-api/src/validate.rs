//! What the fields of a request may hold. Every mistake is collected, so that a caller hears of all
//! of them at once. PostgreSQL holds the same bounds as constraints; these say what is wrong.

use chrono::{DateTime, Datelike as _, Utc};
use chrono_tz::Tz;
use rust_decimal::{Decimal, dec};
use tributary_shared::fraud;
use tributary_shared::links::{MAX_CODE_CHARS, is_code, is_host};
use tributary_shared::money::Currency;
use tributary_shared::reports::webhooks::Kind;
use tributary_shared::template::{MAX_DESTINATION_BYTES, Template};
use url::Url;

use crate::error::{FieldError, Problem};

/// Longest name of anything, in characters.
pub(crate) const MAX_NAME_CHARS: usize = 200;
/// Characters of a webhook's signing secret.
const SIGNING_SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=255;
/// Longest slug, in characters.
pub(crate) const MAX_SLUG_CHARS: usize = 63;
/// Longest e-mail address, in characters (RFC 5321).
pub(crate) const MAX_EMAIL_CHARS: usize = 254;
/// Shortest and longest password, in characters.
pub(crate) const PASSWORD_CHARS: (usize, usize) = (10, 256);
/// Longest window and longest hold, in seconds: 366 days.
pub(crate) const MAX_PERIOD_SECONDS: i64 = 31_622_400;
/// Decimal places of a percentage.
pub(crate) const PERCENT_DIGITS: u32 = 4;
/// Most clicks that a cap may let through.
pub(crate) const MAX_CLICK_CAP: i64 = 1_000_000_000_000;
/// Most hosts that a program's overrides may lead to.
pub(crate) const MAX_OVERRIDE_HOSTS: usize = 50;
/// Most origins of a publishable key, and the longest, in characters.
pub(crate) const MAX_ORIGINS: usize = 50;
pub(crate) const MAX_ORIGIN_CHARS: usize = 300;
/// Most levels of a program's uplines.
pub(crate) const MAX_UPLINES: usize = 10;
/// Longest tier, group, tag, certification and name of a rule, in characters; most of an affiliate's groups, and so on.
pub(crate) const MAX_LABEL_CHARS: usize = 64;
pub(crate) const MAX_LABELS: usize = 50;
/// Longest coupon code, in characters.
pub(crate) const MAX_COUPON_CHARS: usize = 64;
/// Longest reason of a decision, in characters.
pub(crate) const MAX_REASON_CHARS: usize = 1000;
/// Decimal places of an exchange rate, and the highest.
pub(crate) const RATE_DIGITS: u32 = 10;
pub(crate) const MAX_RATE: Decimal = dec!(9_999_999_999);
/// Longest text of a rate.
const MAX_RATE_CHARS: usize = 24;
/// Years that a moment may lie in. The edge takes second 0 of 1970 for "none".
const YEARS: std::ops::RangeInclusive<i32> = 1971..=9999;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    errors: Vec<FieldError>,
}

impl Checks {
    /// What a shop or payment system signs with, as it shows it.
    pub(crate) fn signing_secret(&mut self, field: &str, kind: Kind, value: &str) {
        let plain = value.bytes().all(|b| b.is_ascii_graphic());
        if !plain || !SIGNING_SECRET_CHARS.contains(&value.len()) {
            let (shortest, longest) = SIGNING_SECRET_CHARS.into_inner();
            let message = format!("must be {shortest} to {longest} characters without spaces");
            self.wrong(field, message);
        } else if kind == Kind::Stripe && !value.starts_with("whsec_") {
            self.wrong(
                field,
                "must be the signing secret of Stripe's endpoint, which begins with whsec_",
            );
        }
    }

    /// Notes that `field` can't be taken as it is.
    pub(crate) fn wrong(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(FieldError {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    /// Takes over what was found wrong of a part that stands at `field`.
    pub(crate) fn take(&mut self, field: &str, part: Self) {
        for error in part.errors {
            self.wrong(&format!("{field}.{}", error.field), error.message);
        }
    }

    /// Passes when nothing was wrong.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.errors))
        }
    }

    /// A name that people read, without the spaces around it.
    pub(crate) fn name(&mut self, field: &str, value: &str) -> String {
        let name = value.trim();
        if !(1..=MAX_NAME_CHARS).contains(&name.chars().count()) {
            self.wrong(field, format!("must be 1 to {MAX_NAME_CHARS} characters"));
        } else if name.chars().any(char::is_control) {
            self.wrong(field, "must not hold control characters");
        }
        name.to_owned()
    }

    pub(crate) fn slug(&mut self, field: &str, value: &str) {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=MAX_SLUG_CHARS).contains(&value.len())
            || !value.bytes().all(plain)
            || value.starts_with('-')
        {
            self.wrong(
                field,
                format!("must be 1 to {MAX_SLUG_CHARS} of a-z, 0-9 and -, and not begin with -"),
            );
        }
    }

    /// An address that could receive mail: one `@` with something on either side.
    pub(crate) fn email(&mut self, field: &str, value: &str) -> String {
        let email = value.trim();
        let parts = email.split_once('@');
        let plausible = parts.is_some_and(|(local, domain)| {
            !local.is_empty() && !domain.is_empty() && !domain.contains('@')
        });
        if !plausible
            || email.chars().count() > MAX_EMAIL_CHARS
            || email.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            self.wrong(field, "must be an e-mail address such as ana@example.com");
        }
        email.to_owned()
    }

    pub(crate) fn password(&mut self, field: &str, value: &str) {
        let (shortest, longest) = PASSWORD_CHARS;
        if !(shortest..=longest).contains(&value.chars().count()) {
            self.wrong(field, format!("must be {shortest} to {longest} characters"));
        }
    }

    pub(crate) fn currency(&mut self, field: &str, value: &str) {
        if value.parse::<Currency>().is_err() {
            self.wrong(field, "must be an ISO 4217 code such as USD");
        }
    }

    /// A percentage as a decimal string.
    pub(crate) fn percent(&mut self, field: &str, value: &str) -> Decimal {
        match percent(value) {
            Some(percent) => percent,
            None => {
                self.wrong(
                    field,
                    format!("must be a decimal string from \"0\" to \"100\" with at most {PERCENT_DIGITS} decimals, such as \"12.5\""),
                );
                Decimal::ZERO
            }
        }
    }

    /// What those above an affiliate get, from the parent upwards.
    pub(crate) fn uplines(&mut self, field: &str, values: &[String]) -> Vec<Decimal> {
        if values.len() > MAX_UPLINES {
            self.wrong(field, format!("must be at most {MAX_UPLINES} percentages"));
        }
        let percents = values.iter().enumerate();
        percents
            .map(|(number, value)| self.percent(&format!("{field}[{number}]"), value))
            .collect()
    }

    /// What signs of fraud do in a program.
    pub(crate) fn fraud(&mut self, field: &str, settings: &fraud::Settings) {
        for (signal, message) in fraud::check(settings) {
            self.wrong(&format!("{field}.{signal}"), message);
        }
    }

    /// A short text that people read, without the spaces around it.
    pub(crate) fn text(&mut self, field: &str, value: &str, longest: usize) -> String {
        let text = value.trim();
        if !(1..=longest).contains(&text.chars().count()) {
            self.wrong(field, format!("must be 1 to {longest} characters"));
        } else if text.chars().any(char::is_control) {
            self.wrong(field, "must not hold control characters");
        }
        text.to_owned()
    }

    /// The name of a tier, group, tag or certification.
    pub(crate) fn label(&mut self, field: &str, value: &str) -> String {
        self.text(field, value, MAX_LABEL_CHARS)
    }

    /// Names of groups, tags or certifications, each once.
    pub(crate) fn labels(&mut self, field: &str, values: &[String]) -> Vec<String> {
        if values.len() > MAX_LABELS {
            self.wrong(field, format!("must be at most {MAX_LABELS}"));
        }
        let mut labels: Vec<String> = Vec::with_capacity(values.len().min(MAX_LABELS));
        for (number, value) in values.iter().enumerate().take(MAX_LABELS) {
            let field = format!("{field}[{number}]");
            let label = self.label(&field, value);
            if labels.contains(&label) {
                self.wrong(&field, "stands in the list already");
            }
            labels.push(label);
        }
        labels
    }

    /// An exchange rate as a decimal string.
    pub(crate) fn rate(&mut self, field: &str, value: &str) -> Decimal {
        match rate(value) {
            Some(rate) => rate,
            None => {
                self.wrong(
                    field,
                    format!("must be a decimal string above \"0\", at most \"{MAX_RATE}\", with at most {RATE_DIGITS} decimals, such as \"1.0843\""),
                );
                Decimal::ONE
            }
        }
    }

    /// A period of at least `shortest` seconds and at most 366 days.
    pub(crate) fn seconds(&mut self, field: &str, value: i64, shortest: i64) {
        if !(shortest..=MAX_PERIOD_SECONDS).contains(&value) {
            self.wrong(
                field,
                format!("must be {shortest} to {MAX_PERIOD_SECONDS} seconds (366 days)"),
            );
        }
    }

    pub(crate) fn code(&mut self, field: &str, value: &str) {
        if !is_code(value) {
            self.wrong(
                field,
                format!("must be 1 to {MAX_CODE_CHARS} of A-Z, a-z, 0-9, _ and -"),
            );
        }
    }

    pub(crate) fn destination(&mut self, field: &str, value: &str) {
        if let Err(error) = Template::parse(value) {
            self.wrong(field, error.to_string());
        }
    }

    /// A URL that is followed as it stands.
    pub(crate) fn url(&mut self, field: &str, value: &str) {
        if value.contains(['{', '}']) || Template::parse(value).is_err() {
            self.wrong(
                field,
                format!("must be an absolute http or https URL without macros and without a login, of at most {MAX_DESTINATION_BYTES} visible ASCII characters"),
            );
        }
    }

    pub(crate) fn host(&mut self, field: &str, value: &str) {
        if !is_host(value) {
            self.wrong(
                field,
                "must be a host name without port, in lower case (punycode for other scripts), such as go.shop.example",
            );
        }
    }

    /// Hosts that a click's own `?url=` may lead to.
    pub(crate) fn override_hosts(&mut self, field: &str, hosts: &[String]) {
        if hosts.len() > MAX_OVERRIDE_HOSTS {
            self.wrong(field, format!("must be at most {MAX_OVERRIDE_HOSTS} hosts"));
        }
        let wrong = |host: &String| !is_host(host.strip_prefix("*.").unwrap_or(host));
        if let Some(number) = hosts.iter().position(wrong) {
            self.wrong(
                &format!("{field}[{number}]"),
                "must be a host name in lower case such as shop.example, or *.shop.example for its subdomains",
            );
        }
    }

    /// Origins as a browser names them in the header `Origin`.
    pub(crate) fn origins(&mut self, field: &str, origins: &[String]) {
        if !(1..=MAX_ORIGINS).contains(&origins.len()) {
            self.wrong(field, format!("must be 1 to {MAX_ORIGINS} origins"));
        }
        if let Some(number) = origins.iter().position(|origin| !is_origin(origin)) {
            self.wrong(
                &format!("{field}[{number}]"),
                "must be an origin as a browser names it, such as https://shop.example or http://localhost:3000: \
                 http or https, a host in lower case, a port only where it is not the usual one, no path",
            );
        }
    }

    pub(crate) fn click_cap(&mut self, field: &str, value: i64) {
        if !(1..=MAX_CLICK_CAP).contains(&value) {
            self.wrong(field, format!("must be 1 to {MAX_CLICK_CAP} clicks"));
        }
    }

    /// A moment that PostgreSQL and the edge can hold.
    pub(crate) fn moment(&mut self, field: &str, value: DateTime<Utc>) {
        if !YEARS.contains(&value.year()) {
            self.wrong(
                field,
                format!("must be in the years {} to {}", YEARS.start(), YEARS.end()),
            );
        }
    }

    pub(crate) fn time_zone(&mut self, field: &str, value: &str) {
        if value.parse::<Tz>().is_err() {
            self.wrong(field, "must be an IANA time zone such as Europe/Berlin");
        }
    }
}

/// Whether browsers would send exactly this.
fn is_origin(text: &str) -> bool {
    text.len() <= MAX_ORIGIN_CHARS
        && Url::parse(text).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
        })
}

/// Digits and at most one point.
fn decimal(text: &str, longest: usize) -> Option<Decimal> {
    let plain = text.len() <= longest
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && text.bytes().any(|b| b.is_ascii_digit());
    let number = plain.then(|| Decimal::from_str_exact(text).ok())??;
    Some(number.normalize())
}

fn rate(text: &str) -> Option<Decimal> {
    decimal(text, MAX_RATE_CHARS)
        .filter(|rate| *rate > Decimal::ZERO && *rate <= MAX_RATE && rate.scale() <= RATE_DIGITS)
}

fn percent(text: &str) -> Option<Decimal> {
    let percent = decimal(text, 16)?;
    (percent <= Decimal::ONE_HUNDRED && percent.scale() <= PERCENT_DIGITS).then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passes(check: impl FnOnce(&mut Checks)) -> bool {
        let mut checks = Checks::default();
        check(&mut checks);
        checks.finish().is_ok()
    }

    #[test]
    fn names_are_trimmed_and_bounded() {
        let mut checks = Checks::default();
        assert_eq!(checks.name("name", "  Ana & Co "), "Ana & Co");
        assert!(passes(|c| _ = c.name("name", &"ä".repeat(200))));
        for bad in ["", "  ", "a\0b", "a\nb", &"a".repeat(201)] {
            assert!(!passes(|c| _ = c.name("name", bad)), "{bad:?}");
        }
    }

    #[test]
    fn slugs_are_host_names_without_dots() {
        for good in ["a", "demo", "shop-24", "0x", &"a".repeat(63)] {
            assert!(passes(|c| c.slug("slug", good)), "{good:?}");
        }
        for bad in ["", "-a", "A", "a.b", "a b", "ä", &"a".repeat(64)] {
            assert!(!passes(|c| c.slug("slug", bad)), "{bad:?}");
        }
    }

    #[test]
    fn e_mail_addresses_have_one_at() {
        for good in ["a@b", "ana.b+c@example.com"] {
            assert!(passes(|c| _ = c.email("email", good)), "{good:?}");
        }
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            "a\0@c",
            &format!("a@{}", "b".repeat(253)),
        ] {
            assert!(!passes(|c| _ = c.email("email", bad)), "{bad:?}");
        }
    }

    #[test]
    fn percentages_have_four_decimals_at_most() {
        for (text, value) in [
            ("0", "0"),
            ("10", "10"),
            ("100.0000", "100"),
            ("12.3456", "12.3456"),
            ("1.50000", "1.5"),
        ] {
            assert_eq!(percent(text), Some(value.parse().unwrap()), "{text}");
        }
        for bad in [
            "", ".", "-1", "100.0001", "101", "1.23456", "1e1", "ten", "10%", " 1", "+1", "1.2.3",
        ] {
            assert_eq!(percent(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn rates_are_above_nothing_and_fit_the_column() {
        for (text, value) in [
            ("1.0843", "1.0843"),
            ("0.0000000001", "0.0000000001"),
            ("9999999999", "9999999999"),
            ("2.50", "2.5"),
        ] {
            assert_eq!(rate(text), Some(value.parse().unwrap()), "{text}");
        }
        for bad in [
            "",
            "0",
            "0.00",
            "-1",
            "1e3",
            "10000000000",
            "0.00000000001",
            "one",
            "1.2.3",
        ] {
            assert_eq!(rate(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn labels_are_short_and_stand_once() {
        let labels = |of: &[&str]| of.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        let mut checks = Checks::default();
        assert_eq!(checks.labels("groups", &labels(&[" a ", "b"])), ["a", "b"]);
        assert!(checks.finish().is_ok());
        for bad in [
            labels(&["a", "a "]),
            labels(&[""]),
            labels(&["a\nb"]),
            vec!["x".repeat(65)],
            (0..51).map(|n| n.to_string()).collect(),
        ] {
            assert!(!passes(|c| _ = c.labels("groups", &bad)), "{bad:?}");
        }
        assert!(passes(|c| _ = c.uplines("u", &labels(&["10", "0.5"]))));
        assert!(!passes(|c| _ = c.uplines("u", &labels(&["1"; 11]))));
        assert!(!passes(|c| _ = c.uplines("u", &labels(&["101"]))));
    }

    #[test]
    fn periods_currencies_codes_destinations_and_zones_are_checked() {
        assert!(passes(|c| c.seconds("window_seconds", 1, 1)));
        assert!(!passes(|c| c.seconds("window_seconds", 0, 1)));
        assert!(passes(|c| c.seconds("hold_seconds", MAX_PERIOD_SECONDS, 0)));
        assert!(!passes(|c| c.seconds(
            "hold_seconds",
            MAX_PERIOD_SECONDS + 1,
            0
        )));
        assert!(passes(|c| c.currency("currency", "EUR")));
        assert!(!passes(|c| c.currency("currency", "eur")));
        assert!(passes(|c| c.code("code", "Summer_24-b")));
        assert!(!passes(|c| c.code("code", "a/b")));
        assert!(passes(|c| c.destination(
            "destination",
            "https://shop.example/?c={click_id}"
        )));
        assert!(!passes(
            |c| c.destination("destination", "javascript:alert(1)")
        ));
        assert!(passes(|c| c.time_zone("time_zone", "America/St_Johns")));
        assert!(!passes(|c| c.time_zone("time_zone", "Mars/Olympus")));
        assert!(!passes(|c| c.password("password", "123456789")));
    }

    #[test]
    fn origins_are_what_a_browser_sends() {
        for good in [
            "https://shop.example",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "https://xn--bcher-kva.example",
        ] {
            assert!(is_origin(good), "{good:?}");
        }
        for bad in [
            "",
            "*",
            "null",
            "shop.example",
            "https://shop.example/",
            "https://shop.example/path",
            "https://shop.example:443",
            "https://Shop.example",
            "https://u@shop.example",
            "https://bücher.example",
            "ftp://shop.example",
            "file:///etc",
            "https://shop.example?x",
            &format!("https://{}.example", "a".repeat(300)),
        ] {
            assert!(!is_origin(bad), "{bad:?}");
        }
        let one = |origin: &str| vec![origin.to_owned()];
        assert!(passes(|c| c.origins("origins", &one("https://a.example"))));
        assert!(!passes(|c| c.origins("origins", &[])));
        assert!(!passes(
            |c| c.origins("origins", &vec!["https://a.example".to_owned(); 51])
        ));
    }

    #[test]
    fn hosts_urls_caps_and_moments_are_checked() {
        let hosts = |hosts: &[&str]| hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>();
        assert!(passes(|c| c.override_hosts(
            "h",
            &hosts(&["shop.example", "*.shop.example"])
        )));
        for bad in [
            "*",
            "*.com",
            "*.*.example",
            "a.*.example",
            "shop.example:80",
            "Shop.example",
            "https://shop.example",
        ] {
            assert!(!passes(|c| c.override_hosts("h", &hosts(&[bad]))), "{bad}");
        }
        assert!(!passes(
            |c| c.override_hosts("h", &hosts(&["a.example"; 51]))
        ));
        assert!(passes(|c| c.host("host", "go.shop.example")));
        assert!(!passes(|c| c.host("host", "shop")));
        assert!(passes(
            |c| c.url("fallback_url", "https://shop.example/gone?x=1")
        ));
        for bad in [
            "",
            "/gone",
            "javascript:x",
            "https://shop.example/{click_id}",
            "https://u:p@shop.example/",
        ] {
            assert!(!passes(|c| c.url("fallback_url", bad)), "{bad}");
        }
        assert!(passes(|c| c.click_cap("click_cap", 1)));
        assert!(!passes(|c| c.click_cap("click_cap", 0)));
        assert!(!passes(|c| c.click_cap("click_cap", MAX_CLICK_CAP + 1)));
        assert!(passes(
            |c| c.moment("expires_at", "2026-01-01T00:00:00Z".parse().unwrap())
        ));
        assert!(!passes(|c| c.moment("expires_at", DateTime::<Utc>::MAX_UTC)));
        assert!(!passes(|c| c.moment("expires_at", DateTime::UNIX_EPOCH)));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let mut checks = Checks::default();
        checks.slug("slug", "A");
        checks.name("name", "");
        let problem = serde_json::to_value(checks.finish().unwrap_err()).unwrap();
        assert_eq!(problem["errors"].as_array().unwrap().len(), 2);
        assert_eq!(problem["status"], 422);
    }

    proptest! {
        #[test]
        fn a_percentage_that_is_taken_fits_the_column(text in "[0-9.]{0,18}") {
            if let Some(percent) = percent(&text) {
                prop_assert!(percent >= Decimal::ZERO && percent <= Decimal::ONE_HUNDRED);
                prop_assert!(percent.scale() <= PERCENT_DIGITS);
            }
        }
    }
}
