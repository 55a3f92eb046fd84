//! The edge index: what Redis holds of PostgreSQL's links, domains, postback tokens, publishable
//! keys and sources of webhooks.
//!
//! One [`Writer`] at a time changes the index, and a slower one can never bring back what a later
//! one changed. Three things together see to that:
//!
//! 1. A writer holds a PostgreSQL advisory lock and reads PostgreSQL only over the connection that
//!    holds it. Whoever lost the lock lost the connection, and reads nothing any more.
//! 2. After it has the lock, a writer puts a random claim into Redis, and every write is one script
//!    that first compares the claim. A write that was sent before, and arrives late, is refused.
//! 3. A row of `edge_outbox` names what changed, not to what. It is deleted only after Redis has
//!    answered, by the ids that were read *before* the state was. A change that commits in between
//!    has a row of its own, which is still there. The row of a program or a tenant stands for all its
//!    links; it stays until the last of them was written.
//!
//! The claim's key is also the sign that the index is complete: after a FLUSHALL it is missing, and
//! while a rebuild is under way, or was cut off, it says so. Either way the relay writes everything
//! again. The live counters of click caps, which the edges write, are no part of the index: a writer
//! only sets those that are missing (`counters`).

mod counters;
mod relay;
mod rows;
mod sync;

use std::time::Duration;

use clickhouse::Client;
use redis::aio::ConnectionManager;
use redis::{AsyncCommands as _, RedisError};
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tributary_shared::clock::Clock;
use tributary_shared::config::{ClickHouseConfig, RedisConfig};
use tributary_shared::engines;
use tributary_shared::ids::{LinkId, ProgramId, TenantId};
use tributary_shared::links::{EdgeKeys, REBUILDING, is_complete};
use tributary_shared::names;

use rows::PartOf;

pub use relay::{READINESS_PART, Relay};
pub use sync::SyncReport;

/// The advisory lock of the index's writer: "edgeindx" in ASCII.
const WRITER_LOCK: i64 = 0x6564_6765_696e_6478;
/// How often a writer asks for the lock that another one holds.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// How long Redis may take over one command.
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);
/// Links, tokens and the like that are read and written at once. A script over a thousand keys holds Redis up
/// for about a millisecond.
const BATCH: i64 = 500;

/// Compares the claim, then writes what differs (readers that keep a key cached are told only of
/// what changed). Answers the number of changed keys, or -1 when the claim is another's.
const WRITE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local changed = 0
for i = 2, #KEYS do
  if ARGV[i] == '' then
    changed = changed + redis.call('DEL', KEYS[i])
  elseif redis.call('GET', KEYS[i]) ~= ARGV[i] then
    redis.call('SET', KEYS[i], ARGV[i])
    changed = changed + 1
  end
end
return changed";

/// Replaces the claim of an index that is complete.
const CLAIM: &str = "
local before = redis.call('GET', KEYS[1])
if not before or string.sub(before, 1, #ARGV[2]) == ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1";

/// Why the index could not be written. All of them can be tried again with a new writer.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("PostgreSQL: {0}")]
    Postgres(#[from] sqlx::Error),
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    #[error("another writer took over, or Redis was emptied")]
    Superseded,
}

/// The index in Redis, not yet claimed.
#[derive(Clone)]
pub struct EdgeIndex {
    redis: ConnectionManager,
    keys: EdgeKeys,
    /// What lost counters are counted from.
    facts: Client,
    clock: Clock,
}

impl std::fmt::Debug for EdgeIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeIndex")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl EdgeIndex {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the address can't be read.
    pub fn new(
        redis: &RedisConfig,
        facts: &ClickHouseConfig,
        clock: Clock,
    ) -> Result<Self, RedisError> {
        Ok(Self {
            redis: engines::redis::connect(redis, REDIS_TIMEOUT)?,
            keys: EdgeKeys::new(&redis.redis_prefix),
            facts: counters::facts(facts),
            clock,
        })
    }
}

/// The one who may write the index, for as long as it holds the lock.
struct Writer<'a> {
    postgres: &'a mut PgConnection,
    redis: ConnectionManager,
    keys: &'a EdgeKeys,
    facts: &'a Client,
    clock: &'a Clock,
    claim: String,
    /// The program or tenant whose links are being published.
    whole: Option<Whole>,
}

/// A key and what it should hold; nothing: it should not be there.
struct Change {
    key: String,
    value: Vec<u8>,
}

impl Change {
    fn put(key: String, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key,
            value: value.into(),
        }
    }

    fn remove(key: String) -> Self {
        Self {
            key,
            value: Vec::new(),
        }
    }
}

/// A connection that can hold the lock. It is not the pool's any more: when it is dropped it is
/// closed, and the lock with it.
async fn lock_connection(postgres: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let connection: PoolConnection<Postgres> = postgres.acquire().await?;
    let mut connection = connection.detach();
    // A holder whose machine vanished gives the lock up after half a minute.
    sqlx::raw_sql(
        "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection)
}

/// Waits for the writer's lock. After an error `postgres` may hold it: close it.
async fn lock(postgres: &mut PgConnection) -> Result<(), EdgeError> {
    loop {
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(WRITER_LOCK)
            .fetch_one(&mut *postgres)
            .await?;
        if locked {
            return Ok(());
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}

impl EdgeIndex {
    /// Whether everything was written to Redis, and nothing emptied it since.
    async fn is_complete(&self) -> Result<bool, EdgeError> {
        let claim: Option<String> = self.redis.clone().get(self.keys.writer()).await?;
        Ok(is_complete(claim.as_deref()))
    }

    /// Claims the index to publish changes; `postgres` holds the lock.
    async fn claim<'a>(&'a self, postgres: &'a mut PgConnection) -> Result<Writer<'a>, EdgeError> {
        let writer = self.writer(postgres, new_claim());
        // Only over an index that is there: otherwise this claim would say that it were.
        let claimed: bool = redis::cmd("EVAL")
            .arg(CLAIM)
            .arg(1)
            .arg(self.keys.writer())
            .arg(&writer.claim)
            .arg(REBUILDING)
            .query_async(&mut self.redis.clone())
            .await?;
        claimed.then_some(writer).ok_or(EdgeError::Superseded)
    }

    /// Claims the index to write all of it; `postgres` holds the lock.
    async fn claim_rebuild<'a>(
        &'a self,
        postgres: &'a mut PgConnection,
    ) -> Result<Writer<'a>, EdgeError> {
        let writer = self.writer(postgres, format!("{REBUILDING}{}", new_claim()));
        self.redis
            .clone()
            .set::<_, _, ()>(self.keys.writer(), &writer.claim)
            .await?;
        Ok(writer)
    }

    fn writer<'a>(&'a self, postgres: &'a mut PgConnection, claim: String) -> Writer<'a> {
        Writer {
            postgres,
            redis: self.redis.clone(),
            keys: &self.keys,
            facts: &self.facts,
            clock: &self.clock,
            claim,
            whole: None,
        }
    }
}

fn new_claim() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl Writer<'_> {
    /// Says that the index is complete: the claim of a rebuild becomes a plain one.
    async fn complete(&mut self) -> Result<(), EdgeError> {
        let done = new_claim();
        self.write(&[Change::put(self.keys.writer(), done.as_bytes())])
            .await?;
        self.claim = done;
        Ok(())
    }

    /// Lets the next writer in.
    async fn release(self) -> Result<(), EdgeError> {
        sqlx::query("SELECT pg_advisory_unlock($1)")
            .bind(WRITER_LOCK)
            .execute(self.postgres)
            .await?;
        Ok(())
    }

    /// Makes Redis hold `changes`, all or none. Returns how many keys differed.
    async fn write(&mut self, changes: &[Change]) -> Result<u64, EdgeError> {
        if changes.is_empty() {
            return Ok(0);
        }
        let mut script = redis::cmd("EVAL");
        script
            .arg(WRITE)
            .arg(changes.len() + 1)
            .arg(self.keys.writer());
        for change in changes {
            script.arg(&change.key);
        }
        script.arg(&self.claim);
        for change in changes {
            script.arg(&change.value);
        }
        let changed: i64 = script.query_async(&mut self.redis).await?;
        u64::try_from(changed).map_err(|_| EdgeError::Superseded)
    }

    /// Publishes every change that waits in the outbox.
    async fn publish_changes(&mut self) -> Result<(), EdgeError> {
        // One page of a program's or tenant's links at a time: a single change never waits for more.
        while self.publish_singles().await? + self.publish_page().await? > 0 {}
        Ok(())
    }

    /// Publishes the waiting changes of single things. Returns how many rows they had.
    async fn publish_singles(&mut self) -> Result<u64, EdgeError> {
        let mut published = 0;
        loop {
            let rows: Vec<OutboxRow> = sqlx::query_as(
                "SELECT id, kind, COALESCE(entity_id, 0) AS entity_id, COALESCE(host, '') AS host FROM edge_outbox
                 WHERE kind NOT IN ('program', 'tenant') ORDER BY id LIMIT $1",
            )
            .bind(BATCH)
            .fetch_all(&mut *self.postgres)
            .await?;
            if rows.is_empty() {
                return Ok(published);
            }
            let of = |kind: &'static str| rows.iter().filter(move |row| row.kind == kind);
            let ids = |kind| of(kind).map(|row| row.entity_id).collect::<Vec<i64>>();
            let hosts: Vec<&str> = of("domain").map(|row| row.host.as_str()).collect();
            // The state is read after the rows: see the module's third point.
            let (postgres, keys) = (&mut *self.postgres, self.keys);
            let mut changes = rows::links(postgres, keys, &ids("link")).await?;
            changes.extend(rows::tokens(postgres, keys, &ids("postback_token")).await?);
            changes.extend(rows::publishable(postgres, keys, &ids("publishable_key")).await?);
            changes.extend(rows::sources(postgres, keys, &ids("source")).await?);
            changes.extend(rows::domains(postgres, keys, &hosts).await?);
            self.write(&changes).await?;
            let done: Vec<i64> = rows.iter().map(|row| row.id).collect();
            published += self.forget(&done).await?;
        }
    }

    /// Publishes the next page of the links of a program or tenant that changed. Returns how many
    /// links and rows that were; none when nothing of the kind waits.
    async fn publish_page(&mut self) -> Result<u64, EdgeError> {
        let mut whole = match self.whole.take() {
            Some(begun) => begun,
            None => match self.next_whole().await? {
                Some(next) => next,
                None => return Ok(0),
            },
        };
        let links = rows::page(self.postgres, whole.part_of, whole.after, BATCH).await?;
        let changes: Vec<Change> = links
            .iter()
            .flat_map(|link| link.changes(self.keys))
            .collect();
        self.write(&changes).await?;
        match links.last() {
            Some(last) => {
                whole.after = last.id.0;
                self.whole = Some(whole);
                Ok(1)
            }
            None => self.forget(&whole.rows).await,
        }
    }

    /// The program or tenant that has waited longest. Changes of it that come from now on have rows
    /// of their own.
    async fn next_whole(&mut self) -> Result<Option<Whole>, EdgeError> {
        let next: Option<(String, i64, Vec<i64>)> = sqlx::query_as(
            "SELECT kind, entity_id, array_agg(id) FROM edge_outbox WHERE kind IN ('program', 'tenant')
             GROUP BY kind, entity_id ORDER BY min(id) LIMIT 1",
        )
        .fetch_optional(&mut *self.postgres)
        .await?;
        Ok(next.map(|(kind, id, rows)| Whole {
            rows,
            part_of: if kind == "program" {
                PartOf::Program(id)
            } else {
                PartOf::Tenant(id)
            },
            after: 0,
        }))
    }

    /// Deletes outbox rows that Redis has answered for. Returns their number.
    async fn forget(&mut self, rows: &[i64]) -> Result<u64, EdgeError> {
        sqlx::query("DELETE FROM edge_outbox WHERE id = ANY($1)")
            .bind(rows)
            .execute(&mut *self.postgres)
            .await?;
        let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        metrics::counter!(names::EDGE_CHANGES_PUBLISHED).increment(count);
        tracing::debug!(count, "edge index: changes published");
        Ok(count)
    }
}

/// A row of the outbox that names a single thing.
#[derive(sqlx::FromRow)]
struct OutboxRow {
    id: i64,
    kind: String,
    entity_id: i64,
    host: String,
}

/// A program or tenant whose links are being published.
struct Whole {
    /// The outbox's rows that say so, read before the first of its links.
    rows: Vec<i64>,
    part_of: PartOf,
    /// Links up to this id are published.
    after: i64,
}

/// Notes, in the transaction that changes it, that a link's key must be written again.
///
/// # Errors
/// When PostgreSQL is away or refuses.
pub async fn link_changed(transaction: &mut PgConnection, link: LinkId) -> Result<(), sqlx::Error> {
    note(transaction, "link", link.0).await
}

/// Notes, in the transaction that changes it, that a postback token's key must be written again.
///
/// # Errors
/// When PostgreSQL is away or refuses.
pub async fn postback_token_changed(
    transaction: &mut PgConnection,
    id: i64,
) -> Result<(), sqlx::Error> {
    note(transaction, "postback_token", id).await
}

/// Notes, in the transaction that changes it, that a publishable key must be written again.
///
/// # Errors
/// When PostgreSQL is away or refuses.
pub async fn publishable_key_changed(
    transaction: &mut PgConnection,
    id: i64,
) -> Result<(), sqlx::Error> {
    note(transaction, "publishable_key", id).await
}

/// Notes, in the transaction that changes it, that a source of webhooks must be written again.
///
/// # Errors
/// When PostgreSQL is away or refuses.
pub async fn source_changed(transaction: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    note(transaction, "source", id).await
}

/// Notes, in the transaction that adds or deletes it, that a host must be written again.
///
/// # Errors
/// When PostgreSQL is away or refuses.
pub async fn domain_changed(transaction: &mut PgConnection, host: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO edge_outbox (kind, host) VALUES ('domain', $1)")
        .bind(host)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Notes, in the transaction that changes it, that all links of a program must be written again.
///
/// # Errors
/// When PostgreSQL is away or refuses.
pub async fn program_changed(
    transaction: &mut PgConnection,
    program: ProgramId,
) -> Result<(), sqlx::Error> {
    note(transaction, "program", program.0).await
}

/// Notes, in the transaction that changes it, that all links and domains of a tenant must be written
/// again.
///
/// # Errors
/// When PostgreSQL is away or refuses.
pub async fn tenant_changed(
    transaction: &mut PgConnection,
    tenant: TenantId,
) -> Result<(), sqlx::Error> {
    note(transaction, "tenant", tenant.0).await?;
    // They are few. One that is added at the same moment has a row of its own.
    sqlx::query(
        "INSERT INTO edge_outbox (kind, host) SELECT 'domain', host FROM domains WHERE tenant_id = $1",
    )
    .bind(tenant)
    .execute(transaction)
    .await?;
    Ok(())
}

async fn note(transaction: &mut PgConnection, kind: &str, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO edge_outbox (kind, entity_id) VALUES ($1, $2)")
        .bind(kind)
        .bind(id)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Writes the whole index from PostgreSQL, beside a running relay.
///
/// # Errors
/// When an engine is away or refuses; what was written stays and can be written again.
pub async fn sync(postgres: &PgPool, index: &EdgeIndex) -> Result<SyncReport, EdgeError> {
    let mut connection = lock_connection(postgres).await?;
    lock(&mut connection).await?;
    let mut writer = index.claim_rebuild(&mut connection).await?;
    let report = writer.rebuild().await?;
    writer.release().await?;
    connection.close().await?;
    Ok(report)
}
