//! Erases visitors from the facts, and applies a changed retention to clicks that are stored already.
//!
//! An erased visitor's clicks stay as clicks, so that every count stays as it was, and nothing of the
//! person does. Removing them would also let a journal that repeats itself store them again. What
//! arrives later is made so before it is stored (`tenants`); an erasure is therefore carried out only
//! once every processor knows of it.
//!
//! Both can be repeated: a crash in between costs that work only. ClickHouse rewrites the parts that hold
//! such clicks with their rollups, one visit for all that is open.

use std::collections::BTreeMap;
use std::time::Duration;

use clickhouse::Client;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::RunError;
use crate::retry::until_done;
use crate::tenants;

/// How often it is looked for something to do.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Erasures that are carried out at once.
const AT_ONCE: i64 = 1000;

/// What stays of a click whose visitor was erased. The same as `ClickRow::erase`.
const ERASE: &str = "ALTER TABLE clicks UPDATE visitor_id = 0, fingerprint = 0, address = toIPv6('::'), region = '', city = '',
    network = '', user_agent = '', accept_language = '', referrer = '', sub1 = '', sub2 = '', sub3 = '', sub4 = '', sub5 = '',
    utm_term = '', utm_content = ''
    WHERE tenant_id = ? AND visitor_id IN ?";
const KEEP: &str = "ALTER TABLE clicks UPDATE keep_days = ? WHERE tenant_id = ? AND keep_days != ?";

/// After this time every processor knows what a tenant chose.
fn everybody_knows() -> Duration {
    tenants::MAX_AGE * 2
}

/// The task that erases.
pub(crate) struct Eraser {
    pool: PgPool,
    clickhouse: Client,
}

/// Why something could not be erased yet.
#[derive(Debug, thiserror::Error)]
enum EraseError {
    #[error("PostgreSQL: {0}")]
    Postgres(#[from] sqlx::Error),
    #[error("ClickHouse: {0}")]
    ClickHouse(#[from] clickhouse::error::Error),
}

impl Eraser {
    pub(crate) fn new(pool: PgPool, clickhouse: Client) -> Self {
        Self {
            pool,
            // The statement returns once the parts are rewritten.
            clickhouse: clickhouse.with_setting("mutations_sync", "2"),
        }
    }

    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        while until_done("facts", &stop, || self.look()).await.is_ok() {
            let pause = tokio::time::sleep(LOOK_EVERY);
            if stop.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn look(&self) -> Result<(), EraseError> {
        self.erase().await?;
        self.keep().await
    }

    async fn erase(&self) -> Result<(), EraseError> {
        let open: Vec<(i64, i64, String)> = sqlx::query_as(
            "SELECT id, tenant_id, visitor_id FROM erasures
             WHERE erased_at IS NULL AND requested_at < now() - make_interval(secs => $1) ORDER BY id LIMIT $2",
        )
        .bind(everybody_knows().as_secs_f64())
        .bind(AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        let mut by_tenant: BTreeMap<i64, (Vec<i64>, Vec<u64>)> = BTreeMap::new();
        for (id, tenant, visitor) in open {
            let (ids, visitors) = by_tenant.entry(tenant).or_default();
            ids.push(id);
            visitors.extend(u64::from_str_radix(&visitor, 16));
        }
        for (tenant, (ids, visitors)) in by_tenant {
            let erase = self.clickhouse.query(ERASE).bind(tenant).bind(&visitors);
            erase.execute().await?;
            sqlx::query("UPDATE erasures SET erased_at = now() WHERE id = ANY($1)")
                .bind(&ids)
                .execute(&self.pool)
                .await?;
            tracing::info!(tenant, visitors = ids.len(), "visitors erased");
        }
        Ok(())
    }

    async fn keep(&self) -> Result<(), EraseError> {
        let changed: Vec<(i64, i32)> = sqlx::query_as(
            "SELECT id, click_days FROM tenants WHERE click_days != click_days_applied
             AND click_days_set_at < now() - make_interval(secs => $1) ORDER BY id",
        )
        .bind(everybody_knows().as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        for (tenant, days) in changed {
            let keep = self.clickhouse.query(KEEP);
            keep.bind(days).bind(tenant).bind(days).execute().await?;
            sqlx::query("UPDATE tenants SET click_days_applied = $2 WHERE id = $1")
                .bind(tenant)
                .bind(days)
                .execute(&self.pool)
                .await?;
            tracing::info!(tenant, days, "retention of clicks applied");
        }
        Ok(())
    }
}
