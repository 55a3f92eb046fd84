//! Comes back to conversions: to look into the facts, when a hold ends, when somebody decided. Any number of
//! processors do this side by side: who has locked a conversion settles it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use clickhouse::Client;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;
use tributary_shared::ids::TenantId;
use uuid::Uuid;

use super::Settler;
use super::look::{DONE, Found, LookError, look};
use crate::RunError;
use crate::reports::{self, Report};
use crate::retry::until_done;

/// Conversions that are settled together.
const AT_ONCE: i64 = 500;
/// How often it is looked for something to do without having been told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// When one that could not be settled is tried again.
const AGAIN_SECONDS: f64 = 600.0;

/// What a task comes back for. Two tasks, so that a hold ends and a decision counts while the facts are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To ask the facts.
    Look,
    /// Because time has passed, or somebody decided.
    Time,
}

/// The task.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) pool: PgPool,
    pub(crate) facts: Client,
    pub(crate) settler: Settler,
    pub(crate) purpose: Purpose,
}

impl Due {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let mut listener = None;
        let engine = match self.purpose {
            Purpose::Look => "settle by the facts",
            Purpose::Time => "settle",
        };
        loop {
            let Ok(settled) = until_done(engine, &stop, || self.turn()).await else {
                return Ok(());
            };
            if i64::try_from(settled).is_ok_and(|settled| settled < AT_ONCE) {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = self.news(&mut listener) => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            } else if stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Returns when PostgreSQL says that somebody decided; never when it can't say.
    async fn news(&self, listener: &mut Option<PgListener>) {
        if self.purpose == Purpose::Look {
            return std::future::pending().await;
        }
        if listener.is_none() {
            let connected = async {
                let mut listener = PgListener::connect_with(&self.pool).await?;
                listener.listen("conversions_to_settle").await?;
                Ok::<_, sqlx::Error>(listener)
            };
            *listener = connected.await.ok();
        }
        match listener {
            Some(connection) => {
                if connection.recv().await.is_err() {
                    *listener = None;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Settles what is due; how many there were.
    async fn turn(&self) -> Result<usize, LookError> {
        let due: Vec<(Uuid, TenantId)> = sqlx::query_as(
            "SELECT id, tenant_id FROM conversions WHERE settle_at <= $1 AND (looks < $2) = $3 ORDER BY settle_at LIMIT $4",
        )
        .bind(self.settler.clock.now())
        .bind(DONE)
        .bind(self.purpose == Purpose::Look)
        .bind(AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        let count = due.len();
        let mut by_tenant: BTreeMap<TenantId, Vec<Uuid>> = BTreeMap::new();
        for (id, tenant) in due {
            by_tenant.entry(tenant).or_default().push(id);
        }
        for (tenant, ids) in by_tenant {
            let found = match self.purpose {
                Purpose::Look => Some(self.look(tenant, &ids).await?),
                Purpose::Time => None,
            };
            self.settle(&ids, found.as_ref()).await?;
        }
        Ok(count)
    }

    async fn look(&self, tenant: TenantId, ids: &[Uuid]) -> Result<Found, LookError> {
        let mut connection = self.pool.acquire().await?;
        let window: i64 = sqlx::query_scalar(
            "SELECT coalesce(max(window_seconds), 0) FROM programs WHERE tenant_id = $1",
        )
        .bind(tenant)
        .fetch_one(&mut *connection)
        .await?;
        let mut by_conversion: BTreeMap<Uuid, Vec<Report>> = BTreeMap::new();
        for report in reports::of(&mut connection, ids).await? {
            let of = by_conversion.entry(report.conversion_id).or_default();
            of.push(report);
        }
        drop(connection);
        let window = TimeDelta::seconds(window);
        look(&self.facts, &self.pool, tenant, window, &by_conversion).await
    }

    /// All in one transaction; what PostgreSQL refuses is settled one by one, so that it holds nobody else up.
    async fn settle(&self, ids: &[Uuid], found: Option<&Found>) -> Result<(), LookError> {
        match self.settle_together(ids, found).await {
            Err(sqlx::Error::Database(error)) if ids.len() > 1 && is_permanent(&*error) => {
                for id in ids {
                    Box::pin(self.settle(std::slice::from_ref(id), found)).await?;
                }
                Ok(())
            }
            Err(sqlx::Error::Database(error)) if is_permanent(&*error) => {
                tracing::error!(%error, conversions = ?ids, "a conversion can't be settled; it is tried again later");
                sqlx::query("UPDATE conversions SET settle_at = now() + make_interval(secs => $2) WHERE id = ANY($1)")
                    .bind(ids)
                    .bind(AGAIN_SECONDS)
                    .execute(&self.pool)
                    .await?;
                Ok(())
            }
            done => Ok(done?),
        }
    }

    async fn settle_together(
        &self,
        ids: &[Uuid],
        found: Option<&Found>,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "SELECT id FROM conversions WHERE id = ANY($1) AND settle_at <= $2 ORDER BY id FOR UPDATE SKIP LOCKED",
        )
        .bind(ids)
        .bind(self.settler.clock.now())
        .fetch_all(&mut *transaction)
        .await?;
        self.settler.settle(&mut transaction, &ids, found).await?;
        transaction.commit().await
    }
}

/// Whether PostgreSQL would refuse the same again: neither a conflict with another writer nor trouble of its own, but what
/// is to be written (22, 23) or a question that it can't be asked (42).
pub(crate) fn is_permanent(error: &dyn sqlx::error::DatabaseError) -> bool {
    let code = error.code();
    let class = code.as_deref().and_then(|code| code.get(..2));
    class.is_some_and(|class| matches!(class, "22" | "23" | "42"))
}
