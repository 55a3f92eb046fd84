//! The whole index from PostgreSQL: everything is written, then every key that should not be there is
//! removed. It goes page by page, so a million links are never held at once, and readers are served
//! meanwhile. Changes of single things that come in on the way are published between the pages.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use tributary_shared::ids::TenantId;
use tributary_shared::links::{is_code, is_host, is_publishable_key, is_webhook_id};
use tributary_shared::names;

use super::rows::{self, Capped, PartOf};
use super::{BATCH, Change, EdgeError, Writer};

/// Keys that Redis looks at in one step of a scan.
const SCAN_COUNT: usize = 1000;

/// What a rebuild did.
#[derive(Debug, Clone, Copy, Default)]
pub struct SyncReport {
    /// What the index holds now: active links, tokens and keys, and domains.
    pub links: u64,
    pub tokens: u64,
    pub publishable_keys: u64,
    pub sources: u64,
    pub domains: u64,
    /// Keys that were missing or different, and keys that should not have been there.
    pub written: u64,
    pub removed: u64,
    /// Lost counters of click caps that are there again; none when ClickHouse could not be asked.
    pub counters: Option<u64>,
    pub took: Duration,
}

impl fmt::Display for SyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "edge index: {} links, {} postback tokens, {} publishable keys, {} sources and {} domains; \
             {} keys written, {} removed, ",
            self.links,
            self.tokens,
            self.publishable_keys,
            self.sources,
            self.domains,
            self.written,
            self.removed
        )?;
        match self.counters {
            Some(counters) => write!(f, "{counters} click counters restored")?,
            None => f.write_str("click counters NOT restored: ClickHouse could not be asked")?,
        }
        write!(f, ", in {:.1?}", self.took)
    }
}

/// A key of the index, taken apart.
enum Named<'a> {
    Code(&'a str),
    Link(&'a str, &'a str),
    Postback(&'a str),
    Publishable(&'a str),
    Webhook(&'a str),
    Domain(&'a str),
}

/// What `key`, without the prefix, is the key of; none when it is not the index's.
fn named(key: &str) -> Option<Named<'_>> {
    if let Some(code) = key.strip_prefix("code:") {
        return Some(Named::Code(code));
    }
    if let Some(hash) = key.strip_prefix("postback:") {
        return Some(Named::Postback(hash));
    }
    if let Some(key) = key.strip_prefix("publishable:") {
        return Some(Named::Publishable(key));
    }
    if let Some(id) = key.strip_prefix("webhook:") {
        return Some(Named::Webhook(id));
    }
    if let Some(host) = key.strip_prefix("domain:") {
        return Some(Named::Domain(host));
    }
    let (tenant, code) = key.strip_prefix("t:")?.split_once(":link:")?;
    Some(Named::Link(tenant, code))
}

impl Writer<'_> {
    /// Makes the index what PostgreSQL says.
    pub(super) async fn rebuild(&mut self) -> Result<SyncReport, EdgeError> {
        let started = Instant::now();
        let mut report = SyncReport::default();
        self.rebuild_keys(&mut report).await?;
        self.rebuild_links(&mut report, Capped::No).await?;
        // A capped link is not served before its counter is there; the others don't wait for that.
        report.counters = self.restore_counters().await?;
        self.rebuild_links(&mut report, Capped::Yes).await?;
        report.removed = self.remove_strangers().await?;
        self.complete().await?;
        metrics::counter!(names::EDGE_SYNCS).increment(1);
        report.took = started.elapsed();
        Ok(report)
    }

    async fn rebuild_links(
        &mut self,
        report: &mut SyncReport,
        capped: Capped,
    ) -> Result<(), EdgeError> {
        let mut after = 0;
        loop {
            let rows = rows::page(self.postgres, PartOf::All(capped), after, BATCH).await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = last.id.0;
            let changes: Vec<Change> = rows.iter().flat_map(|row| row.changes(self.keys)).collect();
            report.written += self.write(&changes).await?;
            report.links += rows.iter().map(|row| u64::from(row.active)).sum::<u64>();
            self.publish_singles().await?;
        }
    }

    /// Postback tokens, publishable keys, sources and domains.
    async fn rebuild_keys(&mut self, report: &mut SyncReport) -> Result<(), EdgeError> {
        let mut after = 0;
        while let Some(page) = rows::token_page(self.postgres, self.keys, after, BATCH).await? {
            after = page.last;
            report.tokens += page.held();
            report.written += self.write(&page.changes).await?;
            self.publish_singles().await?;
        }
        after = 0;
        while let Some(page) =
            rows::publishable_page(self.postgres, self.keys, after, BATCH).await?
        {
            after = page.last;
            report.publishable_keys += page.held();
            report.written += self.write(&page.changes).await?;
            self.publish_singles().await?;
        }
        after = 0;
        while let Some(page) = rows::source_page(self.postgres, self.keys, after, BATCH).await? {
            after = page.last;
            report.sources += page.held();
            report.written += self.write(&page.changes).await?;
            self.publish_singles().await?;
        }
        after = 0;
        while let Some(page) = rows::domain_page(self.postgres, self.keys, after, BATCH).await? {
            after = page.last;
            report.domains += page.held();
            report.written += self.write(&page.changes).await?;
            self.publish_singles().await?;
        }
        Ok(())
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
            self.publish_singles().await?;
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
        let keys: Vec<&str> = found
            .iter()
            .filter_map(|(_, named)| match named {
                Named::Publishable(key) if is_publishable_key(key) => Some(*key),
                _ => None,
            })
            .collect();
        let webhooks: Vec<&str> = found
            .iter()
            .filter_map(|(_, named)| match named {
                Named::Webhook(id) if is_webhook_id(id) => Some(*id),
                _ => None,
            })
            .collect();
        let hosts: Vec<&str> = found
            .iter()
            .filter_map(|(_, named)| match named {
                Named::Domain(host) if is_host(host) => Some(*host),
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
        let tokens: HashSet<String> = sqlx::query_scalar(
            "SELECT encode(sha256, 'hex') FROM postback_tokens
             WHERE sha256 IN (SELECT decode(h, 'hex') FROM unnest($1::text[]) AS h WHERE length(h) = 64)
               AND revoked_at IS NULL",
        )
        .bind(&hashes)
        .fetch_all(&mut *self.postgres)
        .await?
        .into_iter()
        .collect();
        let keys: HashSet<String> = sqlx::query_scalar(
            "SELECT key FROM publishable_keys WHERE key = ANY($1) AND revoked_at IS NULL",
        )
        .bind(&keys)
        .fetch_all(&mut *self.postgres)
        .await?
        .into_iter()
        .collect();
        let webhooks: HashSet<String> = sqlx::query_scalar(
            "SELECT public_id FROM sources WHERE public_id = ANY($1) AND revoked_at IS NULL",
        )
        .bind(&webhooks)
        .fetch_all(&mut *self.postgres)
        .await?
        .into_iter()
        .collect();
        let hosts: HashSet<String> =
            sqlx::query_scalar("SELECT host FROM domains WHERE host = ANY($1)")
                .bind(&hosts)
                .fetch_all(&mut *self.postgres)
                .await?
                .into_iter()
                .collect();
        let strangers = found.into_iter().filter(|(_, named)| match named {
            Named::Code(code) => !owners.contains_key(*code),
            Named::Link(tenant, code) => owners.get(*code).is_none_or(|o| o.to_string() != *tenant),
            Named::Postback(hash) => !tokens.contains(*hash),
            Named::Publishable(key) => !keys.contains(*key),
            Named::Webhook(id) => !webhooks.contains(*id),
            Named::Domain(host) => !hosts.contains(*host),
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
        assert!(matches!(
            named("domain:go.shop.example"),
            Some(Named::Domain("go.shop.example"))
        ));
        assert!(matches!(
            named("publishable:trk_pub_x"),
            Some(Named::Publishable("trk_pub_x"))
        ));
        for other in [
            "index:writer",
            "t:7:cap:demo",
            "cap:3:total",
            "cap:3:20260101",
            "",
        ] {
            assert!(named(other).is_none(), "{other}");
        }
    }
}
