//! A link as the edge reads it, and the Redis keys of the edge index. A host or code is a part of a
//! key only after [`is_host`] or [`is_code`].
//!
//! | key | value |
//! |---|---|
//! | `{prefix}code:{code}` | tenant id in decimal: who owns this code on the shared host |
//! | `{prefix}t:{tenant_id}:link:{code}` | [`Link`], protobuf |
//! | `{prefix}postback:{hex sha-256 of token}` | tenant id in decimal |
//! | `{prefix}domain:{host}` | [`Domain`], protobuf: whose host this is; lower case, punycode, no port |
//! | `{prefix}publishable:{key}` | [`PublishableKey`], protobuf |
//! | `{prefix}webhook:{public id}` | [`WebhookSource`], protobuf; its secrets sealed |
//! | `{prefix}index:writer` | the claim of whoever wrote the index last; see [`is_complete`] |
//!
//! The index can be lost at any moment: `admin-api sync` writes it again from PostgreSQL. Beside it,
//! and written by the edges, stand the live counters of click caps:
//!
//! | key | value |
//! |---|---|
//! | `{prefix}cap:{link_id}:total`, `{prefix}cap:{link_id}:{yyyymmdd}` | clicks that the cap let through, in decimal; a day's key expires after two |

use crate::ids::{LinkId, TenantId};

pub use crate::events::{
    CapPeriod, Domain, Link, PublishableKey, Route, Schedule, SealedSecret, Variant, WebhookSource,
};

/// Longest code, in characters.
pub const MAX_CODE_CHARS: usize = 64;

/// Whether `code` can be a link's code: 1 to 64 of `A-Z a-z 0-9 _ -`.
#[must_use]
pub fn is_code(code: &str) -> bool {
    (1..=MAX_CODE_CHARS).contains(&code.len())
        && code
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Longest host name, in characters.
pub const MAX_HOST_CHARS: usize = 253;

/// Whether `host` can be a tenant's domain, in the form in which keys hold it: lower case letters,
/// digits and hyphens in labels, at least two of them, without a port.
#[must_use]
pub fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    host.len() <= MAX_HOST_CHARS && host.contains('.') && host.split('.').all(label)
}

/// What a publishable key begins with; 32 characters of base64url follow.
pub const PUBLISHABLE_PREFIX: &str = "trk_pub_";

/// Whether `key` has the form of a publishable key.
#[must_use]
pub fn is_publishable_key(key: &str) -> bool {
    key.strip_prefix(PUBLISHABLE_PREFIX)
        .is_some_and(|random| random.len() == 32 && is_code(random))
}

/// What the public id of a webhook's source begins with; 32 characters of base64url follow.
pub const WEBHOOK_PREFIX: &str = "trw_";

/// Whether `id` has the form of a webhook source's public id.
#[must_use]
pub fn is_webhook_id(id: &str) -> bool {
    id.strip_prefix(WEBHOOK_PREFIX)
        .is_some_and(|random| random.len() == 32 && is_code(random))
}

/// What the secrets of a webhook's source are sealed for.
#[must_use]
pub fn webhook_purpose(public_id: &str) -> String {
    format!("webhook:{public_id}")
}

/// How a writer's claim begins until everything is written.
pub const REBUILDING: &str = "rebuilding:";

/// Whether the index is whole, by the value under [`EdgeKeys::writer`]. When it is not (Redis came
/// back empty, or is just being filled), a key that is missing says nothing.
#[must_use]
pub fn is_complete(claim: Option<&str>) -> bool {
    claim.is_some_and(|claim| !claim.starts_with(REBUILDING))
}

/// Names the keys of one installation.
#[derive(Debug, Clone)]
pub struct EdgeKeys {
    prefix: String,
}

impl EdgeKeys {
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// Who owns `code` on the shared host.
    #[must_use]
    pub fn code(&self, code: &str) -> String {
        format!("{}code:{code}", self.prefix)
    }

    /// The tenant's link of that code.
    #[must_use]
    pub fn link(&self, tenant: TenantId, code: &str) -> String {
        format!("{}t:{tenant}:link:{code}", self.prefix)
    }

    /// What stands before and after the tenant in [`EdgeKeys::link`], for who learns the tenant only
    /// in Redis.
    #[must_use]
    pub fn link_around_tenant(&self, code: &str) -> (String, String) {
        (format!("{}t:", self.prefix), format!(":link:{code}"))
    }

    /// Whose postback token has this hash.
    #[must_use]
    pub fn postback(&self, token_sha256: &[u8]) -> String {
        self.postback_in_hex(&hex::encode(token_sha256))
    }

    /// As [`EdgeKeys::postback`], of a hash in lower-case hex.
    #[must_use]
    pub fn postback_in_hex(&self, token_sha256: &str) -> String {
        format!("{}postback:{token_sha256}", self.prefix)
    }

    /// Whose host this is.
    #[must_use]
    pub fn domain(&self, host: &str) -> String {
        format!("{}domain:{host}", self.prefix)
    }

    /// Whose publishable key this is.
    #[must_use]
    pub fn publishable(&self, key: &str) -> String {
        format!("{}publishable:{key}", self.prefix)
    }

    /// Whose webhooks come by this public id.
    #[must_use]
    pub fn webhook(&self, public_id: &str) -> String {
        format!("{}webhook:{public_id}", self.prefix)
    }

    /// The counter of a link's click cap; `period` is `total` or a day as `yyyymmdd`.
    #[must_use]
    pub fn cap(&self, link: LinkId, period: &str) -> String {
        format!("{}cap:{link}:{period}", self.prefix)
    }

    /// Who wrote the index last. It is missing when the index is.
    #[must_use]
    pub fn writer(&self) -> String {
        format!("{}index:writer", self.prefix)
    }

    /// What follows the prefix; none when `key` is another installation's.
    #[must_use]
    pub fn without_prefix<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.prefix)
    }

    /// A `SCAN` pattern over every key of the edge index.
    #[must_use]
    pub fn all(&self) -> String {
        let escaped: String = self
            .prefix
            .chars()
            .flat_map(|c| match c {
                '*' | '?' | '[' | ']' | '\\' => vec!['\\', c],
                _ => vec![c],
            })
            .collect();
        format!("{escaped}*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_short_and_plain() {
        assert!(is_code("demo"));
        assert!(is_code("Summer_24-b"));
        assert!(is_code(&"a".repeat(64)));
        for code in ["", "a b", "a/b", "ä", "a%20", &"a".repeat(65)] {
            assert!(!is_code(code), "{code:?}");
        }
    }

    #[test]
    fn hosts_are_in_the_form_of_keys() {
        for host in ["go.shop.example", "xn--bcher-kva.example", "a.b"] {
            assert!(is_host(host), "{host:?}");
        }
        for host in [
            "",
            "localhost",
            "Go.shop.example",
            "a..b",
            "-a.b",
            "a.b:80",
            "a.b.",
            "a_b.c",
            "ä.b",
        ] {
            assert!(!is_host(host), "{host:?}");
        }
        assert!(!is_host(&format!("{}.b", "a".repeat(64))));
    }

    #[test]
    fn publishable_keys_have_one_form() {
        assert!(is_publishable_key(&crate::secrets::new_token(
            PUBLISHABLE_PREFIX
        )));
        assert!(!is_publishable_key("trk_pub_short"));
        assert!(!is_publishable_key(&"x".repeat(40)));
        assert!(is_webhook_id(&crate::secrets::new_token(WEBHOOK_PREFIX)));
        assert!(!is_webhook_id("trw_short"));
    }

    #[test]
    fn keys_of_two_tenants_differ() {
        let keys = EdgeKeys::new("x:");
        assert_eq!(keys.link(TenantId(1), "demo"), "x:t:1:link:demo");
        assert_ne!(
            keys.link(TenantId(1), "demo"),
            keys.link(TenantId(2), "demo")
        );
        assert_eq!(EdgeKeys::new("a*:").all(), "a\\*:*");
        let (before, after) = keys.link_around_tenant("demo");
        assert_eq!(format!("{before}7{after}"), keys.link(TenantId(7), "demo"));
    }
}
