//! Which link is this code, whose is this host, this token, this key, this webhook? From memory, else from Redis
//! within a budget; while Redis is away, from memory however old.
//!
//! - What is in memory is right: Redis tells of each change ([`follow`]). After a moment in which it
//!   could not, everything is checked again as it is asked for: one request asks, others still get
//!   the old answer. The time to live is for what the telling itself might miss.
//! - A miss costs one round trip, and one only for all who ask for the same at once.
//! - "There is no such code" is remembered apart and for a moment only, so that guessing codes can't
//!   push links out of memory.
//! - A key that is missing means "no such code" only while the index is complete: a Redis that came
//!   back empty is as good as away until admin-api has filled it.
//! - After a failure Redis is left alone for a moment: a shopper doesn't pay for what is known to fail.
//! - Everything that talks with Redis runs on one thread of its own. Whoever asks may run on any
//!   runtime, may give up halfway and may be slow, and holds nobody else.

mod cache;
mod caps;
mod follow;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::Counter;
use prost::Message;
use redis::aio::ConnectionManager;
use redis::{AsyncCommands as _, FromRedisValue, RedisError};
use tokio::runtime::{self, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tributary_shared::engines;
use tributary_shared::ids::TenantId;
use tributary_shared::links::{
    Domain, EdgeKeys, PublishableKey, WebhookSource, is_code, is_complete, is_host,
    is_publishable_key, is_webhook_id,
};
use tributary_shared::names;
use tributary_shared::secrets::token_hash;
use tributary_shared::telemetry::Readiness;

pub(crate) use self::caps::CapAnswer;

use self::cache::{Flight, Freshness, Joined, KeyRef, Known, Memory, Miss, micros};
use self::caps::Reached;
use crate::Config;
use crate::link::{ActiveLink, Compiler};

/// Domains, postback tokens, publishable keys and webhooks' sources that are remembered, of each.
const MAX_OTHERS: usize = 10_000;
/// How long Redis is left alone after a failure.
const BACK_OFF: Duration = Duration::from_millis(250);

/// Answers, in this order, the tenant that owns a code on the shared host, its link of that code, and
/// the index's claim. The link's key follows from the owner, which only Redis knows: two questions in
/// one round trip.
const LOOK_UP: &str = "
local found = redis.call('MGET', KEYS[1], KEYS[2])
local link = false
if found[1] then link = redis.call('GET', ARGV[1] .. found[1] .. ARGV[2]) end
return {found[1], link, found[2]}";

/// Where a code was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// `/r/{code}`, on any host.
    Shared,
    /// `/{code}` on this tenant's own domain.
    Tenant(TenantId),
}

impl Space {
    fn key(self, code: &str) -> KeyRef<'_> {
        let tenant = match self {
            Self::Shared => 0,
            Self::Tenant(tenant) => tenant.0,
        };
        KeyRef { tenant, name: code }
    }
}

/// The key of what is no tenant's before it is found.
fn shared(name: &str) -> KeyRef<'_> {
    Space::Shared.key(name)
}

/// What something turned out to be.
#[derive(Debug)]
pub(crate) enum Resolution<T> {
    Found(T),
    Unknown,
    /// Not in memory, and Redis does not answer.
    Unavailable,
}

/// Answers from memory and Redis. Share it in an [`Arc`]; the last one to go ends its thread.
pub(crate) struct Resolver {
    index: Arc<Index>,
    /// Runs on the thread that talks with Redis.
    worker: Handle,
    _stop: DropGuard,
}

/// What is known of the edge index, and how to learn more.
struct Index {
    redis: ConnectionManager,
    keys: EdgeKeys,
    /// How long a request may wait for Redis.
    budget: Duration,
    ttl: Duration,
    freshness: Freshness,
    compiler: Compiler,
    links: Memory<Arc<ActiveLink>>,
    domains: Memory<Arc<Domain>>,
    publishable: Memory<Arc<PublishableKey>>,
    webhooks: Memory<Arc<WebhookSource>>,
    tokens: Memory<TenantId>,
    reached: Reached,
    /// In ticks of `freshness`: until when Redis is left alone, and nothing more is said about it.
    back_off_until: AtomicU64,
    quiet_until: AtomicU64,
    lookups: Lookups,
}

struct Lookups {
    miss: Counter,
    stale: Counter,
    unavailable: Counter,
}

impl Resolver {
    /// Starts the thread that talks with Redis, which may be away.
    ///
    /// # Errors
    /// When the address can't be read or there can be no further thread.
    pub(crate) fn start(config: &Config) -> Result<Self, RedisError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let worker = runtime.handle().clone();
        let redis = {
            let _on_the_thread = worker.enter();
            engines::redis::connect(&config.redis, config.redis_timeout())?
        };
        let index = Arc::new(Index::new(redis, config));
        let stop = CancellationToken::new();
        let following = stop
            .clone()
            .run_until_cancelled_owned(follow::follow(Arc::clone(&index), config.redis.clone()));
        std::thread::Builder::new()
            .name(String::from("redis"))
            .spawn(move || runtime.block_on(following))?;
        Ok(Self {
            index,
            worker,
            _stop: stop.drop_guard(),
        })
    }

    /// The link of a code, if it is in memory and fresh. Allocates nothing and never waits: ask
    /// [`Resolver::link`] when there is none.
    pub(crate) fn in_memory(&self, space: Space, code: &str) -> Option<Arc<ActiveLink>> {
        self.index
            .links
            .fresh(space.key(code), &self.index.freshness)
    }

    /// The link of a code.
    pub(crate) async fn link(&self, space: Space, code: &str) -> Resolution<Arc<ActiveLink>> {
        if !is_code(code) {
            return Resolution::Unknown;
        }
        self.resolve(space.key(code)).await
    }

    /// Whose own domain this is, if it is in memory and fresh; as [`Resolver::in_memory`].
    pub(crate) fn domain_in_memory(&self, host: &str) -> Option<Arc<Domain>> {
        self.index
            .domains
            .fresh(shared(host), &self.index.freshness)
    }

    /// Whose own domain this is; `host` in lower case, without a port.
    pub(crate) async fn domain(&self, host: &str) -> Resolution<Arc<Domain>> {
        if !is_host(host) {
            return Resolution::Unknown;
        }
        self.resolve(shared(host)).await
    }

    /// The tenant whose postback token this is.
    pub(crate) async fn tenant_of(&self, token: &str) -> Resolution<TenantId> {
        self.resolve(shared(&hex::encode(token_hash(token)))).await
    }

    /// Whose publishable key this is.
    pub(crate) async fn publishable(&self, key: &str) -> Resolution<Arc<PublishableKey>> {
        if !is_publishable_key(key) {
            return Resolution::Unknown;
        }
        self.resolve(shared(key)).await
    }

    /// Whose webhooks come by this public id.
    pub(crate) async fn webhook(&self, public_id: &str) -> Resolution<Arc<WebhookSource>> {
        if !is_webhook_id(public_id) {
            return Resolution::Unknown;
        }
        self.resolve(shared(public_id)).await
    }

    /// From memory, or from Redis.
    async fn resolve<T: Indexed>(&self, key: KeyRef<'_>) -> Resolution<T> {
        let index = &self.index;
        let (old, changed) = match T::memory(index).recall(key, &index.freshness) {
            Known::Fresh(value) => return Resolution::Found(value),
            Known::Unknown => return Resolution::Unknown,
            Known::Old(value) => (Some(value), false),
            Known::Changed(value) => (Some(value), true),
            Known::Nothing => (None, false),
        };
        if index.backs_off() {
            return index.without_redis(old);
        }
        let mut answer = match T::memory(index).join(key, &index.freshness) {
            Joined::Known(Known::Fresh(value)) => return Resolution::Found(value),
            Joined::Known(_) => return Resolution::Unknown,
            Joined::Begin(flight, answer) => {
                index.lookups.miss.increment(1);
                self.worker.spawn(Arc::clone(index).look_up(flight));
                answer
            }
            Joined::Wait(answer) => match old {
                // Somebody asks already; meanwhile nothing says that this is wrong.
                Some(value) if !changed => return Resolution::Found(value),
                _ => answer,
            },
            Joined::Full => return index.without_redis(old),
        };
        let answered = tokio::time::timeout(index.budget, answer.wait_for(Option::is_some)).await;
        match answered.ok().and_then(Result::ok).and_then(|a| a.clone()) {
            Some(Ok(value)) => Resolution::Found(value),
            Some(Err(Miss::Unknown)) => Resolution::Unknown,
            Some(Err(Miss::Failed)) | None => index.without_redis(old),
        }
    }

    /// Returns once Redis has answered.
    pub(crate) async fn wait_until_reachable(&self, readiness: &Readiness) {
        let mut redis = self.index.redis.clone();
        let progress = readiness.clone();
        let waiting = self.worker.spawn(async move {
            while let Err(error) = redis.ping::<String>().await {
                progress.not_ready("redis", error.to_string());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        if waiting.await.is_ok() {
            readiness.ready("redis");
        }
    }
}

/// A kind of thing that the index holds.
trait Indexed: Clone + Send + Sync + 'static {
    fn memory(index: &Index) -> &Memory<Self>;

    /// Asks Redis for it.
    fn load(index: &Index, key: KeyRef<'_>) -> impl Future<Output = Result<Self, Miss>> + Send;
}

impl Indexed for Arc<ActiveLink> {
    fn memory(index: &Index) -> &Memory<Self> {
        &index.links
    }

    async fn load(index: &Index, key: KeyRef<'_>) -> Result<Self, Miss> {
        let code = key.name;
        let (tenant, link) = if key.tenant == 0 {
            index.look_up_code(code).await?
        } else {
            let tenant = TenantId(key.tenant);
            (tenant, index.get(&index.keys.link(tenant, code)).await?)
        };
        // A value that can't be used is as good as none, but it is ours to mend.
        let link = index.compiler.compile(&link, tenant);
        link.map(Self::new).ok_or_else(|| {
            tracing::error!(code, %tenant, "Redis holds an unreadable link; run `admin-api sync`");
            Miss::Unknown
        })
    }
}

impl Indexed for TenantId {
    fn memory(index: &Index) -> &Memory<Self> {
        &index.tokens
    }

    async fn load(index: &Index, key: KeyRef<'_>) -> Result<Self, Miss> {
        let key = index.keys.postback_in_hex(key.name);
        tenant(&index.get::<String>(&key).await?).ok_or_else(|| unreadable(&key))
    }
}

impl Indexed for Arc<Domain> {
    fn memory(index: &Index) -> &Memory<Self> {
        &index.domains
    }

    async fn load(index: &Index, key: KeyRef<'_>) -> Result<Self, Miss> {
        index
            .message(&index.keys.domain(key.name), |domain: &Domain| {
                domain.tenant_id
            })
            .await
    }
}

impl Indexed for Arc<PublishableKey> {
    fn memory(index: &Index) -> &Memory<Self> {
        &index.publishable
    }

    async fn load(index: &Index, key: KeyRef<'_>) -> Result<Self, Miss> {
        let name = index.keys.publishable(key.name);
        index
            .message(&name, |key: &PublishableKey| key.tenant_id)
            .await
    }
}

impl Indexed for Arc<WebhookSource> {
    fn memory(index: &Index) -> &Memory<Self> {
        &index.webhooks
    }

    async fn load(index: &Index, key: KeyRef<'_>) -> Result<Self, Miss> {
        let name = index.keys.webhook(key.name);
        index
            .message(&name, |source: &WebhookSource| source.tenant_id)
            .await
    }
}

fn tenant(stored: &str) -> Option<TenantId> {
    stored.parse().ok().and_then(TenantId::from_wire)
}

fn unreadable(key: &str) -> Miss {
    tracing::error!(key, "Redis holds an unreadable value; run `admin-api sync`");
    Miss::Unknown
}

impl Index {
    fn new(redis: ConnectionManager, config: &Config) -> Self {
        let outcome =
            |outcome: &'static str| metrics::counter!(names::LINK_LOOKUPS, "outcome" => outcome);
        Self {
            redis,
            keys: EdgeKeys::new(&config.redis.redis_prefix),
            budget: config.redis_timeout(),
            ttl: config.link_cache_ttl(),
            freshness: Freshness::new(follow::untracked(config.link_cache_ttl())),
            compiler: Compiler::new(),
            links: Memory::new(config.link_cache_entries as usize, true),
            domains: Memory::new(MAX_OTHERS, true),
            publishable: Memory::new(MAX_OTHERS, false),
            webhooks: Memory::new(MAX_OTHERS, false),
            tokens: Memory::new(MAX_OTHERS, false),
            reached: Reached::new(),
            back_off_until: AtomicU64::new(0),
            quiet_until: AtomicU64::new(0),
            lookups: Lookups {
                miss: outcome("miss"),
                stale: outcome("stale"),
                unavailable: outcome("unavailable"),
            },
        }
    }

    /// Makes a look-up and remembers what it came to.
    async fn look_up<T: Indexed>(self: Arc<Self>, flight: Flight<T>) {
        let load = T::load(&self, flight.key());
        let outcome = tokio::time::timeout(self.budget, load).await;
        let outcome = outcome.unwrap_or_else(|late| Err(self.failed(&late)));
        T::memory(&self).finish(flight, outcome, &self.freshness);
    }

    /// The owner of a code on the shared host, and its link.
    async fn look_up_code(&self, code: &str) -> Result<(TenantId, Vec<u8>), Miss> {
        let (before, after) = self.keys.link_around_tenant(code);
        let mut ask = redis::cmd("EVAL");
        ask.arg(LOOK_UP).arg(2).arg(self.keys.code(code));
        ask.arg(self.keys.writer()).arg(before).arg(after);
        let (owner, link, claim): (Option<String>, Option<Vec<u8>>, Option<String>) = ask
            .query_async(&mut self.redis.clone())
            .await
            .map_err(|error| self.failed(&error))?;
        let (Some(owner), Some(link)) = (owner, link) else {
            return Err(self.missing(claim.as_deref()));
        };
        let owner = tenant(&owner).ok_or_else(|| unreadable(&self.keys.code(code)))?;
        Ok((owner, link))
    }

    /// A message that names its tenant.
    async fn message<M: Message + Default>(
        &self,
        key: &str,
        tenant_of: impl Fn(&M) -> u64,
    ) -> Result<Arc<M>, Miss> {
        let message = M::decode(self.get::<Vec<u8>>(key).await?.as_slice()).ok();
        let owned = message.filter(|m| TenantId::from_wire(tenant_of(m)).is_some());
        owned.map(Arc::new).ok_or_else(|| unreadable(key))
    }

    async fn get<V: FromRedisValue>(&self, key: &str) -> Result<V, Miss> {
        let keys = [key, &self.keys.writer()];
        let (value, claim): (Option<V>, Option<String>) = self
            .redis
            .clone()
            .mget(&keys)
            .await
            .map_err(|error| self.failed(&error))?;
        value.ok_or_else(|| self.missing(claim.as_deref()))
    }

    fn missing(&self, claim: Option<&str>) -> Miss {
        if is_complete(claim) {
            return Miss::Unknown;
        }
        // Redis answers, and other keys may be there already: it is not left alone.
        self.warn(&"the index is incomplete");
        Miss::Failed
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Miss {
        let until = self.freshness.now().saturating_add(micros(BACK_OFF));
        self.back_off_until.store(until, Ordering::Relaxed);
        self.warn(error);
        Miss::Failed
    }

    fn warn(&self, error: &dyn std::fmt::Display) {
        let now = self.freshness.now();
        if self.quiet_until.load(Ordering::Relaxed) <= now {
            let until = now.saturating_add(micros(BACK_OFF));
            self.quiet_until.store(until, Ordering::Relaxed);
            tracing::warn!(%error, "Redis does not answer; serving from memory");
        }
    }

    fn backs_off(&self) -> bool {
        self.freshness.now() < self.back_off_until.load(Ordering::Relaxed)
    }

    /// The old answer, if there is one.
    fn without_redis<T>(&self, old: Option<T>) -> Resolution<T> {
        let Some(value) = old else {
            self.lookups.unavailable.increment(1);
            return Resolution::Unavailable;
        };
        self.lookups.stale.increment(1);
        Resolution::Found(value)
    }

    /// Changes may have been missed: everything is checked again before it is believed. Look-ups that
    /// are under way come first, for what they bring may be old already.
    fn doubt_all(&self) {
        self.links.doubt_all();
        self.domains.doubt_all();
        self.publishable.doubt_all();
        self.webhooks.doubt_all();
        self.tokens.doubt_all();
        self.freshness.doubt_all();
    }
}
