//! A link as the edge reads it, and the Redis keys of the edge index.
//!
//! | key | value |
//! |---|---|
//! | `{prefix}code:{code}` | tenant id in decimal: who owns this code on the shared host |
//! | `{prefix}t:{tenant_id}:link:{code}` | [`Link`], protobuf |
//! | `{prefix}postback:{hex sha-256 of token}` | tenant id in decimal |
//! | `{prefix}index:writer` | the claim of whoever wrote the index last; see [`is_complete`] |
//!
//! The index can be lost at any moment: `admin-api sync` writes it again from PostgreSQL.

use crate::ids::TenantId;

pub use crate::events::Link;

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

    /// Whose postback token has this hash.
    #[must_use]
    pub fn postback(&self, token_sha256: &[u8]) -> String {
        format!("{}postback:{}", self.prefix, hex::encode(token_sha256))
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
    fn keys_of_two_tenants_differ() {
        let keys = EdgeKeys::new("x:");
        assert_eq!(keys.link(TenantId(1), "demo"), "x:t:1:link:demo");
        assert_ne!(
            keys.link(TenantId(1), "demo"),
            keys.link(TenantId(2), "demo")
        );
        assert_eq!(EdgeKeys::new("a*:").all(), "a\\*:*");
    }
}
