//! Where a click came from: the referrer's site, and the channel.
//!
//! | channel | when |
//! |---|---|
//! | paid | `utm_medium` says that it was paid for: cpc, ppc, cpm, paid, display ... |
//! | email, social, search | `utm_medium` says so, or the referrer is such a site (data/channels.tsv) |
//! | assistant | the referrer is one that answers questions (data/channels.tsv) |
//! | referral | any other referrer |
//! | direct | none |

use ahash::HashMap;
use smol_str::SmolStr;
use url::Url;

const SITES: &str = include_str!("../../data/channels.tsv");
/// Longest host that is kept as a site; the longest that there can be.
const MAX_DOMAIN_BYTES: usize = 253;

/// A referrer's site (lower case, without `www.`; empty: none) and the click's channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) domain: SmolStr,
    pub(crate) channel: &'static str,
}

/// Names sites and channels.
pub(crate) struct Referrers {
    /// By a site, or by its part before `.*`.
    sites: HashMap<&'static str, &'static str>,
}

impl Referrers {
    pub(crate) fn new() -> Self {
        let lines = SITES.lines().filter(|line| !line.starts_with('#'));
        let sites = lines.filter_map(|line| {
            let (channel, site) = line.split_once('\t')?;
            Some((site, channel))
        });
        Self {
            sites: sites.collect(),
        }
    }

    pub(crate) fn read(&self, referrer: &str, utm_medium: &str) -> Origin {
        let domain = domain(referrer);
        let channel = by_medium(utm_medium).unwrap_or_else(|| {
            if domain.is_empty() {
                "direct"
            } else {
                self.by_site(&domain).unwrap_or("referral")
            }
        });
        Origin { domain, channel }
    }

    fn by_site(&self, domain: &str) -> Option<&'static str> {
        let mut rest = domain;
        loop {
            if let Some(channel) = self.sites.get(rest) {
                return Some(channel);
            }
            // google.de, google.co.uk: a name before one or two short labels.
            if let Some((name, labels)) = rest.split_once('.')
                && (labels.len() <= 3 || labels.split('.').all(|label| label.len() <= 3))
                && let Some(channel) = self.sites.get(format!("{name}.*").as_str())
            {
                return Some(channel);
            }
            rest = rest.split_once('.')?.1;
        }
    }
}

/// The host of `referrer` without `www.`; of an app, its name.
fn domain(referrer: &str) -> SmolStr {
    if referrer.is_empty() {
        return SmolStr::default();
    }
    let Ok(url) = Url::parse(referrer) else {
        return SmolStr::default();
    };
    let host = match url.scheme() {
        "http" | "https" | "android-app" => url.host_str().unwrap_or_default(),
        _ => "",
    };
    let host = host.strip_prefix("www.").unwrap_or(host);
    if host.len() > MAX_DOMAIN_BYTES {
        return SmolStr::default();
    }
    SmolStr::from(host.to_ascii_lowercase())
}

fn by_medium(medium: &str) -> Option<&'static str> {
    let is = |names: &[&str]| names.iter().any(|name| medium.eq_ignore_ascii_case(name));
    if medium.is_empty() {
        None
    } else if is(&[
        "cpc",
        "ppc",
        "cpm",
        "cpv",
        "cpa",
        "paid",
        "paidsearch",
        "paid-search",
        "paid_search",
        "paidsocial",
        "paid-social",
        "paid_social",
        "display",
        "banner",
        "retargeting",
    ]) {
        Some("paid")
    } else if is(&["email", "e-mail", "e_mail", "mail", "newsletter"]) {
        Some("email")
    } else if is(&["social", "social-network", "social-media", "sm"]) {
        Some("social")
    } else if is(&["organic", "search"]) {
        Some("search")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_origin_is_named() {
        let referrers = Referrers::new();
        for (referrer, medium, domain, channel) in [
            ("", "", "", "direct"),
            ("", "CPC", "", "paid"),
            ("https://www.google.com/", "", "google.com", "search"),
            (
                "https://www.google.co.uk/url?q=x",
                "",
                "google.co.uk",
                "search",
            ),
            (
                "https://mail.google.com/mail/",
                "",
                "mail.google.com",
                "email",
            ),
            (
                "https://docs.google.evil.example/",
                "",
                "docs.google.evil.example",
                "referral",
            ),
            (
                "https://l.facebook.com/l.php",
                "",
                "l.facebook.com",
                "social",
            ),
            ("https://chatgpt.com/", "", "chatgpt.com", "assistant"),
            (
                "android-app://com.google.android.gm/",
                "",
                "com.google.android.gm",
                "email",
            ),
            (
                "https://Blog.Example/the-ten-best?x=1",
                "",
                "blog.example",
                "referral",
            ),
            ("https://www.google.com/", "email", "google.com", "email"),
            (
                "https://blog.example/",
                "affiliate",
                "blog.example",
                "referral",
            ),
            ("javascript:alert(1)", "", "", "direct"),
            ("not a url", "", "", "direct"),
        ] {
            let origin = referrers.read(referrer, medium);
            assert_eq!(
                (&*origin.domain, origin.channel),
                (domain, channel),
                "{referrer} {medium}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_referrer_is_too_odd(referrer in "\\PC{0,60}", medium in "\\PC{0,10}") {
            let origin = Referrers::new().read(&referrer, &medium);
            prop_assert!(origin.domain.len() <= MAX_DOMAIN_BYTES);
        }
    }
}
