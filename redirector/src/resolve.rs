//! Which link is this code, and whose is this postback token? From memory when it was asked lately,
//! else from Redis within a budget; while Redis is away, from memory however old.
//!
//! - An answer in memory is used for the time to live; then the next request asks Redis again while
//!   others still get the old answer.
//! - Many requests for one unknown code make one look-up.
//! - "No such code" is remembered apart from links and for a moment only, so that guessing codes
//!   can't push links out of memory and a new link works at once.
//! - A key that is missing means "no such code" only while the index is complete: a Redis that came
//!   back empty is as good as away until admin-api has filled it.
//! - After a failure Redis is left alone for a moment: a shopper doesn't pay for what is known to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::Counter;
use prost::Message as _;
use quick_cache::sync::Cache;
use redis::aio::ConnectionManager;
use redis::{AsyncCommands as _, RedisError};
use tributary_shared::ids::{LinkId, TenantId};
use tributary_shared::links::{
    EdgeKeys, Link, PublishableKey, is_code, is_complete, is_publishable_key,
};
use tributary_shared::names;
use tributary_shared::secrets::token_hash;
use tributary_shared::telemetry::Readiness;
use tributary_shared::template::Template;

use crate::Config;

/// How long "no such code" and "no such token" are believed.
const UNKNOWN_TTL: Duration = Duration::from_millis(500);
/// Unknown codes and tokens that are remembered.
const MAX_UNKNOWN: usize = 10_000;
/// Postback tokens that are remembered.
const MAX_TOKENS: usize = 10_000;
/// Publishable keys that are remembered.
const MAX_PUBLISHABLE: usize = 10_000;
/// How long Redis is left alone after a failure.
const BACK_OFF: Duration = Duration::from_millis(250);

/// A link, ready to be answered with.
pub(crate) struct ActiveLink {
    pub(crate) link_id: LinkId,
    pub(crate) tenant_id: TenantId,
    pub(crate) program_id: u64,
    pub(crate) affiliate_id: u64,
    pub(crate) destination: Template,
    pub(crate) window_seconds: u64,
    /// The ids as macros need them.
    pub(crate) link_text: String,
    pub(crate) affiliate_text: String,
}

/// What a code turned out to be.
pub(crate) enum Resolution<T> {
    Found(T),
    Unknown,
    /// Not in memory, and Redis does not answer.
    Unavailable,
}

/// Why a look-up gave nothing.
enum Miss {
    Unknown,
    Failed,
}

/// Something found in Redis, and when.
struct Found<T> {
    value: T,
    until: Instant,
    refreshing: AtomicBool,
}

type Remembered<T> = Arc<Found<T>>;

/// Answers from memory and Redis.
pub(crate) struct Resolver {
    redis: ConnectionManager,
    budget: Duration,
    keys: EdgeKeys,
    ttl: Duration,
    links: Cache<String, Remembered<Arc<ActiveLink>>>,
    tokens: Cache<String, Remembered<TenantId>>,
    publishable: Cache<String, Remembered<Arc<PublishableKey>>>,
    unknown: Cache<String, Instant>,
    started: Instant,
    /// Milliseconds after `started` until which Redis is left alone.
    back_off_until_ms: AtomicU64,
    lookups: Lookups,
}

struct Lookups {
    hit: Counter,
    miss: Counter,
    stale: Counter,
    unavailable: Counter,
}

impl Resolver {
    pub(crate) fn new(redis: ConnectionManager, config: &Config) -> Self {
        let outcome =
            |outcome: &'static str| metrics::counter!(names::LINK_LOOKUPS, "outcome" => outcome);
        Self {
            redis,
            budget: config.redis_timeout(),
            keys: EdgeKeys::new(&config.redis.redis_prefix),
            ttl: config.link_cache_ttl(),
            links: Cache::new(config.link_cache_entries as usize),
            tokens: Cache::new(MAX_TOKENS),
            publishable: Cache::new(MAX_PUBLISHABLE),
            unknown: Cache::new(MAX_UNKNOWN),
            started: Instant::now(),
            back_off_until_ms: AtomicU64::new(0),
            lookups: Lookups {
                hit: outcome("hit"),
                miss: outcome("miss"),
                stale: outcome("stale"),
                unavailable: outcome("unavailable"),
            },
        }
    }

    /// The link of a code.
    pub(crate) async fn resolve(&self, code: &str) -> Resolution<Arc<ActiveLink>> {
        if !is_code(code) {
            return Resolution::Unknown;
        }
        self.recall(&self.links, code, self.load_link(code)).await
    }

    /// The tenant whose postback token this is.
    pub(crate) async fn tenant_of(&self, token: &str) -> Resolution<TenantId> {
        let key = self.keys.postback(&token_hash(token));
        self.recall(&self.tokens, &key, self.load_tenant(&key))
            .await
    }

    /// Whose publishable key this is, and where it may be used.
    pub(crate) async fn publishable(&self, key: &str) -> Resolution<Arc<PublishableKey>> {
        if !is_publishable_key(key) {
            return Resolution::Unknown;
        }
        let key = self.keys.publishable(key);
        self.recall(&self.publishable, &key, self.load_publishable(&key))
            .await
    }

    /// From memory, or by `load`.
    async fn recall<T: Clone>(
        &self,
        memory: &Cache<String, Remembered<T>>,
        key: &str,
        load: impl Future<Output = Result<T, Miss>>,
    ) -> Resolution<T> {
        let now = Instant::now();
        if let Some(known) = memory.get(key) {
            let fresh = now < known.until;
            if fresh || known.refreshing.swap(true, Ordering::Relaxed) {
                self.lookups.hit.increment(1);
                return Resolution::Found(known.value.clone());
            }
            return self.refresh(memory, key, &known, load).await;
        }
        if self.unknown.get(key).is_some_and(|until| now < until) {
            self.lookups.hit.increment(1);
            return Resolution::Unknown;
        }
        self.lookups.miss.increment(1);
        let loaded = memory.get_or_insert_async(key, async {
            load.await.map(|value| self.remembered(value))
        });
        match loaded.await {
            Ok(found) => Resolution::Found(found.value.clone()),
            Err(miss) => self.missed(key, miss),
        }
    }

    /// Asks again for something that was found before.
    async fn refresh<T: Clone>(
        &self,
        memory: &Cache<String, Remembered<T>>,
        key: &str,
        known: &Found<T>,
        load: impl Future<Output = Result<T, Miss>>,
    ) -> Resolution<T> {
        // A request that is given up halfway (its client went away) must not leave the mark behind.
        let _unmark = Unmark(&known.refreshing);
        self.lookups.miss.increment(1);
        match load.await {
            Ok(value) => {
                memory.insert(key.to_owned(), self.remembered(value.clone()));
                Resolution::Found(value)
            }
            Err(Miss::Unknown) => {
                memory.remove(key);
                self.missed(key, Miss::Unknown)
            }
            Err(Miss::Failed) => {
                self.lookups.stale.increment(1);
                Resolution::Found(known.value.clone())
            }
        }
    }

    fn remembered<T>(&self, value: T) -> Remembered<T> {
        Arc::new(Found {
            value,
            until: Instant::now() + self.ttl,
            refreshing: AtomicBool::new(false),
        })
    }

    fn missed<T>(&self, key: &str, miss: Miss) -> Resolution<T> {
        match miss {
            Miss::Unknown => {
                self.unknown
                    .insert(key.to_owned(), Instant::now() + UNKNOWN_TTL);
                Resolution::Unknown
            }
            Miss::Failed => {
                self.lookups.unavailable.increment(1);
                Resolution::Unavailable
            }
        }
    }

    async fn load_link(&self, code: &str) -> Result<Arc<ActiveLink>, Miss> {
        let tenant = self.load_tenant(&self.keys.code(code)).await?;
        let link: Vec<u8> = self.get(&self.keys.link(tenant, code)).await?;
        // A value that can't be used is as good as none, but it is ours to mend.
        compile(&link, tenant).ok_or_else(|| {
            tracing::error!(code, %tenant, "Redis holds an unreadable link; run `admin-api sync`");
            Miss::Unknown
        })
    }

    async fn load_tenant(&self, key: &str) -> Result<TenantId, Miss> {
        let id: String = self.get(key).await?;
        id.parse().map(TenantId).map_err(|_| {
            tracing::error!(
                key,
                "Redis holds an unreadable tenant; run `admin-api sync`"
            );
            Miss::Unknown
        })
    }

    async fn load_publishable(&self, key: &str) -> Result<Arc<PublishableKey>, Miss> {
        let stored: Vec<u8> = self.get(key).await?;
        PublishableKey::decode(stored.as_slice())
            .ok()
            .filter(|found| TenantId::from_wire(found.tenant_id).is_some())
            .map(Arc::new)
            .ok_or_else(|| {
                tracing::error!(
                    key,
                    "Redis holds an unreadable publishable key; run `admin-api sync`"
                );
                Miss::Unknown
            })
    }

    async fn get<V: redis::FromRedisValue>(&self, key: &str) -> Result<V, Miss> {
        if self.elapsed_ms() < self.back_off_until_ms.load(Ordering::Relaxed) {
            return Err(Miss::Failed);
        }
        let mut redis = self.redis.clone();
        let writer = self.keys.writer();
        let keys = [key, &writer];
        let ask = redis.mget::<_, (Option<V>, Option<String>)>(&keys);
        match tokio::time::timeout(self.budget, ask).await {
            Ok(Ok((Some(value), _))) => Ok(value),
            Ok(Ok((None, claim))) if is_complete(claim.as_deref()) => Err(Miss::Unknown),
            Ok(Ok((None, _))) => Err(self.failed("its index is incomplete")),
            Ok(Err(error)) => Err(self.failed(&error.to_string())),
            Err(late) => Err(self.failed(&late.to_string())),
        }
    }

    fn failed(&self, error: &str) -> Miss {
        let until = self.elapsed_ms() + u64::try_from(BACK_OFF.as_millis()).unwrap_or(u64::MAX);
        self.back_off_until_ms.store(until, Ordering::Relaxed);
        tracing::warn!(error, "Redis does not answer; serving from memory");
        Miss::Failed
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns once Redis has answered.
    pub(crate) async fn wait_until_reachable(&self, readiness: &Readiness) {
        let mut redis = self.redis.clone();
        loop {
            let pong: Result<String, RedisError> = redis.ping().await;
            match pong {
                Ok(_) => break,
                Err(error) => readiness.not_ready("redis", error.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        readiness.ready("redis");
    }
}

struct Unmark<'a>(&'a AtomicBool);

impl Drop for Unmark<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Reads a link as Redis holds it. None when it is not one, or not this tenant's.
fn compile(stored: &[u8], tenant: TenantId) -> Option<Arc<ActiveLink>> {
    let link = Link::decode(stored).ok()?;
    let tenant_id = TenantId::from_wire(link.tenant_id).filter(|owner| *owner == tenant)?;
    let link_id = LinkId::from_wire(link.link_id)?;
    Some(Arc::new(ActiveLink {
        link_id,
        tenant_id,
        program_id: link.program_id,
        affiliate_id: link.affiliate_id,
        destination: Template::parse(&link.destination).ok()?,
        window_seconds: link.window_seconds,
        link_text: link_id.to_string(),
        affiliate_text: link.affiliate_id.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(tenant_id: u64, destination: &str) -> Vec<u8> {
        Link {
            link_id: 3,
            tenant_id,
            program_id: 4,
            affiliate_id: 5,
            destination: destination.to_owned(),
            window_seconds: 60,
            ..Link::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn a_link_is_used_only_for_its_own_tenant() {
        let value = stored(7, "https://shop.example/?c={click_id}");
        assert_eq!(compile(&value, TenantId(7)).unwrap().link_id, LinkId(3));
        assert!(compile(&value, TenantId(8)).is_none());
    }

    #[test]
    fn an_unreadable_link_is_none() {
        assert!(compile(b"\xff\xff\xff", TenantId(7)).is_none());
        assert!(compile(&stored(7, "javascript:alert(1)"), TenantId(7)).is_none());
    }
}
