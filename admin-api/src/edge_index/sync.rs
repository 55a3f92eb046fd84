//! The whole index from PostgreSQL: every link and token is written, then every key that should not
//! be there is removed. It goes page by page, so a million links are never held at once, and readers
//! are served meanwhile. Changes that come in on the way are published between the pages.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use tributary_shared::ids::TenantId;
use tributary_shared::links::is_code;
use tributary_shared::names;

use super::{BATCH, Change, EdgeError, LinkRow, TokenRow, Writer};

/// Keys that Redis looks at in one step of a scan.
const SCAN_COUNT: usize = 1000;

/// What a rebuild did.
#[derive(Debug, Clone, Copy)]
pub struct SyncReport {
    /// Active links and tokens that the index holds now.
    pub links: u64,
    pub tokens: u64,
    /// Keys that were missing or different, and keys that should not have been there.
    pub written: u64,
    pub removed: u64,
    pub took: Duration,
}

impl fmt::Display for SyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "edge index: {} links and {} postback tokens; {} keys written, {} removed, in {:.1?}",
            self.links, self.tokens, self.written, self.removed, self.took
        )
    }
}

/// A key of the index, taken apart.
enum Named<'a> {
    Code(&'a str),
    Link(&'a str, &'a str),
    Postback(&'a str),
}

/// What `key`, without the prefix, is the key of; none when it is not the index's.
fn named(key: &str) -> Option<Named<'_>> {
    if let Some(code) = key.strip_prefix("code:") {
        return Some(Named::Code(code));
    }
    if let Some(hash) = key.strip_prefix("postback:") {
        return Some(Named::Postback(hash));
    }
    let (tenant, code) = key.strip_prefix("t:")?.split_once(":link:")?;
    Some(Named::Link(tenant, code))
}

impl Writer<'_> {
    /// Makes the index what PostgreSQL says.
    pub(super) async fn rebuild(&mut self) -> Result<SyncReport, EdgeError> {
        let started = Instant::now();
        let (links, links_written) = self.rebuild_links().await?;
        let (tokens, tokens_written) = self.rebuild_tokens().await?;
        let removed = self.remove_strangers().await?;
        self.complete().await?;
        metrics::counter!(names::EDGE_SYNCS).increment(1);
        Ok(SyncReport {
            links,
            tokens,
            written: links_written + tokens_written,
            removed,
            took: started.elapsed(),
        })
    }

    async fn rebuild_links(&mut self) -> Result<(u64, u64), EdgeError> {
        let (mut links, mut written, mut after) = (0, 0, 0_i64);
        loop {
            let rows: Vec<LinkRow> = sqlx::query_as(
                "SELECT l.id, l.tenant_id, l.program_id, l.affiliate_id, l.code, l.destination, l.active,
                        p.window_seconds
                 FROM links l JOIN programs p ON p.tenant_id = l.tenant_id AND p.id = l.program_id
                 WHERE l.id > $1 ORDER BY l.id LIMIT $2",
            )
            .bind(after)
            .bind(BATCH)
            .fetch_all(&mut *self.postgres)
            .await?;
            let Some(last) = rows.last() else {
                return Ok((links, written));
            };
            after = last.id.0;
            let changes: Vec<Change> = rows.iter().flat_map(|row| row.changes(self.keys)).collect();
            written += self.write(&changes).await?;
            links += rows.iter().map(|row| u64::from(row.active)).sum::<u64>();
            self.publish_changes().await?;
        }
    }

    async fn rebuild_tokens(&mut self) -> Result<(u64, u64), EdgeError> {
        let (mut tokens, mut written, mut after) = (0, 0, 0_i64);
        loop {
            let rows: Vec<TokenRow> = sqlx::query_as(
                "SELECT id, tenant_id, sha256, revoked_at IS NULL AS active FROM postback_tokens
                 WHERE id > $1 ORDER BY id LIMIT $2",
            )
            .bind(after)
            .bind(BATCH)
            .fetch_all(&mut *self.postgres)
            .await?;
            let Some(last) = rows.last() else {
                return Ok((tokens, written));
            };
            after = last.id;
            let changes: Vec<Change> = rows.iter().map(|row| row.change(self.keys)).collect();
            written += self.write(&changes).await?;
            tokens += rows.iter().map(|row| u64::from(row.active)).sum::<u64>();
            self.publish_changes().await?;
        }
    }

    /// Removes keys of the index that PostgreSQL knows nothing of. Other keys are left alone.
    async fn remove_strangers(&mut self) -> Result<u64, EdgeError> {
        let (mut removed, mut cursor) = (0, 0_u64);
        loop {
            let (next, keys): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(self.keys.all())
                .arg("COUNT")
                .arg(SCAN_COUNT)
                .query_async(&mut self.redis)
                .await?;
            let keys: Vec<String> = keys
                .into_iter()
                .filter_map(|k| String::from_utf8(k).ok())
                .collect();
            let strangers = self.strangers(&keys).await?;
            removed += self.write(&strangers).await?;
            self.publish_changes().await?;
            cursor = next;
            if cursor == 0 {
                return Ok(removed);
            }
        }
    }

    async fn strangers(&mut self, keys: &[String]) -> Result<Vec<Change>, EdgeError> {
        let found: Vec<(&String, Named<'_>)> = keys
            .iter()
            .filter_map(|key| Some((key, named(self.keys.without_prefix(key)?)?)))
            .collect();
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let codes: Vec<&str> = found
            .iter()
            .filter_map(|(_, named)| match named {
                Named::Code(code) | Named::Link(_, code) if is_code(code) => Some(*code),
                _ => None,
            })
            .collect();
        let hashes: Vec<&str> = found
            .iter()
            .filter_map(|(_, named)| match named {
                Named::Postback(hash) if hash.bytes().all(|b| b.is_ascii_hexdigit()) => Some(*hash),
                _ => None,
            })
            .collect();
        let owners: HashMap<String, TenantId> =
            sqlx::query_as("SELECT code, tenant_id FROM links WHERE code = ANY($1) AND active")
                .bind(&codes)
                .fetch_all(&mut *self.postgres)
                .await?
                .into_iter()
                .collect();
        let tokens: Vec<String> = sqlx::query_scalar(
            "SELECT encode(sha256, 'hex') FROM postback_tokens
             WHERE sha256 IN (SELECT decode(h, 'hex') FROM unnest($1::text[]) AS h WHERE length(h) = 64)
               AND revoked_at IS NULL",
        )
        .bind(&hashes)
        .fetch_all(&mut *self.postgres)
        .await?;
        let strangers = found.into_iter().filter(|(_, named)| match named {
            Named::Code(code) => !owners.contains_key(*code),
            Named::Link(tenant, code) => owners.get(*code).is_none_or(|o| o.to_string() != *tenant),
            Named::Postback(hash) => !tokens.iter().any(|known| known == hash),
        });
        Ok(strangers
            .map(|(key, _)| Change::remove(key.clone()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_the_index_are_taken_apart() {
        assert!(matches!(named("code:demo"), Some(Named::Code("demo"))));
        assert!(matches!(
            named("t:7:link:demo"),
            Some(Named::Link("7", "demo"))
        ));
        assert!(matches!(named("postback:ab"), Some(Named::Postback("ab"))));
        for other in ["index:writer", "t:7:cap:demo", "cap:3", ""] {
            assert!(named(other).is_none(), "{other}");
        }
    }
}
