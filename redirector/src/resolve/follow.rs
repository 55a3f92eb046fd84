//! Follows what changes in Redis: a key that was written makes the edge forget what depends on it,
//! and nothing else. Redis tells of it over a connection of its own (RESP3 `CLIENT TRACKING` in
//! broadcast mode: Redis keeps no list of what each edge holds).
//!
//! When that connection is lost, changes may be missed. Until it is back the time to live is short;
//! once it is, everything in memory is checked again as it is asked for.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio_util::sync::CancellationToken;
use tributary_shared::config::RedisConfig;
use tributary_shared::engines::redis::{Told, listen};
use tributary_shared::ids::TenantId;
use tributary_shared::names;

use super::{Index, Space, shared};

/// Longest time to live while Redis does not tell of changes.
const UNTRACKED_TTL: Duration = Duration::from_secs(1);
/// How often the connection is tried: a peer that vanished says nothing.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Pause between two attempts to connect.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// What the keys that matter begin with, after the installation's prefix. Counters of caps and the
/// writer's claim are not among them.
const KINDS: [&str; 6] = [
    "code:",
    "t:",
    "domain:",
    "publishable:",
    "postback:",
    "webhook:",
];

/// The time to live while Redis does not tell of changes.
pub(super) fn untracked(ttl: Duration) -> Duration {
    ttl.min(UNTRACKED_TTL)
}

/// Follows what changes, for ever.
pub(super) async fn follow(index: Arc<Index>, config: RedisConfig) {
    let prefixes = KINDS.map(|kind| format!("{}{kind}", config.redis_prefix));
    let following = metrics::gauge!(names::INDEX_FOLLOWED);
    let mut said = false;
    loop {
        following.set(0);
        let lost = CancellationToken::new();
        match begin(&index, &config, &prefixes, lost.clone()).await {
            Ok(connection) => {
                index.doubt_all();
                index.freshness.set_ttl(index.ttl);
                following.set(1);
                said = false;
                tracing::info!("following changes in Redis");
                lost.run_until_cancelled(ping(connection)).await;
                index.freshness.set_ttl(untracked(index.ttl));
                tracing::warn!("the connection that tells of changes in Redis is lost");
            }
            Err(error) if !said => {
                said = true;
                tracing::warn!(%error, "can't follow changes in Redis; asking it more often");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

async fn begin(
    index: &Arc<Index>,
    config: &RedisConfig,
    prefixes: &[String],
    lost: CancellationToken,
) -> Result<MultiplexedConnection, RedisError> {
    let index = Arc::clone(index);
    let changes = metrics::counter!(names::INDEX_CHANGES);
    listen(config, prefixes, move |told| match told {
        Told::Changed(keys) => {
            for key in keys {
                changes.increment(1);
                index.changed(&key);
            }
        }
        Told::ChangedAll => {
            tracing::info!("Redis was emptied; everything in memory is checked again");
            index.doubt_all();
        }
        Told::Lost => lost.cancel(),
    })
    .await
}

/// Returns when the connection does not answer.
async fn ping(mut connection: MultiplexedConnection) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let pong = redis::cmd("PING").query_async::<()>(&mut connection).await;
        if let Err(error) = pong {
            tracing::debug!(%error, "ping");
            return;
        }
    }
}

/// A key of the index, without the installation's prefix.
#[derive(Debug, PartialEq, Eq)]
enum Named<'k> {
    Code(&'k str),
    Link(TenantId, &'k str),
    Domain(&'k str),
    Publishable(&'k str),
    /// By the token's hash, in hex.
    Postback(&'k str),
    Webhook(&'k str),
}

impl<'k> Named<'k> {
    /// None when it is none that an edge reads.
    fn read(key: &'k str) -> Option<Self> {
        let (kind, name) = key.split_once(':')?;
        match kind {
            "code" => Some(Self::Code(name)),
            "domain" => Some(Self::Domain(name)),
            "publishable" => Some(Self::Publishable(name)),
            "postback" => Some(Self::Postback(name)),
            "webhook" => Some(Self::Webhook(name)),
            "t" => {
                let (tenant, code) = name.split_once(":link:")?;
                let tenant = TenantId::from_wire(tenant.parse().ok()?)?;
                Some(Self::Link(tenant, code))
            }
            _ => None,
        }
    }
}

impl Index {
    /// Forgets what depends on `key`.
    fn changed(&self, key: &[u8]) {
        let named = std::str::from_utf8(key)
            .ok()
            .and_then(|key| self.keys.without_prefix(key))
            .and_then(Named::read);
        match named {
            Some(Named::Code(code)) => self.links.changed(shared(code), |_| true),
            Some(Named::Link(tenant, code)) => {
                // On the shared host the same code may be another tenant's.
                let theirs = |link: &Arc<super::ActiveLink>| link.tenant_id == tenant;
                self.links.changed(shared(code), theirs);
                self.links
                    .changed(Space::Tenant(tenant).key(code), |_| true);
            }
            Some(Named::Domain(host)) => self.domains.changed(shared(host), |_| true),
            Some(Named::Publishable(key)) => self.publishable.changed(shared(key), |_| true),
            Some(Named::Postback(hash)) => self.tokens.changed(shared(hash), |_| true),
            Some(Named::Webhook(id)) => self.webhooks.changed(shared(id), |_| true),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_apart() {
        let read = Named::read;
        assert_eq!(read("code:a"), Some(Named::Code("a")));
        assert_eq!(read("t:7:link:a"), Some(Named::Link(TenantId(7), "a")));
        assert_eq!(
            read("domain:go.a.example"),
            Some(Named::Domain("go.a.example"))
        );
        assert_eq!(read("publishable:k"), Some(Named::Publishable("k")));
        assert_eq!(read("postback:ab"), Some(Named::Postback("ab")));
        assert_eq!(read("webhook:trw_x"), Some(Named::Webhook("trw_x")));
        for other in [
            "index:writer",
            "cap:3:total",
            "t:7:other:a",
            "t:0:link:a",
            "code",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn no_followed_prefix_begins_another() {
        // Redis refuses them otherwise.
        for (i, a) in KINDS.iter().enumerate() {
            assert!(
                !KINDS
                    .iter()
                    .enumerate()
                    .any(|(j, b)| i != j && b.starts_with(a))
            );
        }
    }
}
