//! Topic `conversions` → PostgreSQL: what was reported is kept, and what follows from it is settled, in one transaction.
//! A report that is delivered again changes nothing.

use std::collections::BTreeSet;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tributary_shared::ids::TenantId;
use tributary_shared::names;
use uuid::Uuid;

use crate::consume::Stage;
use crate::dead_letter::Unreadable;
use crate::enrich::Countries;
use crate::order_names;
use crate::reports::{BadConversion, Report};
use crate::retry::{Stopped, until_done};
use crate::settle::Settler;
use crate::settle::due::is_permanent;

/// Reports that are recorded together.
const BATCH_REPORTS: usize = 500;

/// Records what was reported.
pub(crate) struct Conversions {
    pool: PgPool,
    settler: Settler,
    countries: Countries,
    shutdown: CancellationToken,
    held: Vec<Report>,
    /// Tenants that there are; none ever goes.
    tenants: BTreeSet<TenantId>,
}

impl Conversions {
    pub(crate) fn new(
        pool: PgPool,
        settler: Settler,
        countries: Countries,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            pool,
            settler,
            countries,
            shutdown,
            held: Vec::new(),
            tenants: BTreeSet::new(),
        }
    }

    async fn tenant_exists(&mut self, tenant: TenantId) -> Result<bool, Stopped> {
        if self.tenants.contains(&tenant) {
            return Ok(true);
        }
        let ask = || {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tenants WHERE id = $1)")
                .bind(tenant)
                .fetch_one(&self.pool)
        };
        let exists: bool = until_done("postgres", &self.shutdown, ask).await?;
        if exists {
            self.tenants.insert(tenant);
        }
        Ok(exists)
    }

    async fn record(&self) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let changed = order_names::insert(&mut transaction, &self.held).await?;
        let repeated = self.held.len().saturating_sub(changed.len());
        let changed: Vec<Uuid> = BTreeSet::from_iter(changed).into_iter().collect();
        let settled = match self.settler.settle(&mut transaction, &changed, None).await {
            Err(sqlx::Error::Database(error)) if is_permanent(&*error) => {
                tracing::error!(%error, "of what was reported something can't be settled; all of it is settled one by one");
                transaction.rollback().await?;
                return self.keep().await;
            }
            settled => settled?,
        };
        transaction.commit().await?;
        for outcome in settled {
            metrics::counter!(names::CONVERSIONS, "outcome" => outcome).increment(1);
        }
        metrics::counter!(names::CONVERSIONS, "outcome" => "duplicate").increment(repeated as u64);
        Ok(())
    }

    /// Keeps what was reported, for `due` to settle.
    async fn keep(&self) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let changed = order_names::insert(&mut transaction, &self.held).await?;
        sqlx::query("UPDATE conversions SET settle_at = $2 WHERE id = ANY($1)")
            .bind(&changed)
            .bind(self.settler.clock.now())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }
}

impl Stage for Conversions {
    async fn take(&mut self, payload: &[u8]) -> Result<Vec<Unreadable>, Stopped> {
        let mut report = match Report::decode(payload) {
            Ok(report) => report,
            Err(bad) => return Ok(vec![Unreadable::message(bad)]),
        };
        if !self.tenant_exists(report.tenant_id).await? {
            let nobodys = BadConversion::NoSuchTenant(report.tenant_id);
            return Ok(vec![Unreadable::message(nobodys)]);
        }
        report.country = report.address.and_then(|of| self.countries.of(of));
        self.held.push(report);
        Ok(Vec::new())
    }

    fn is_full(&self) -> bool {
        self.held.len() >= BATCH_REPORTS
    }

    async fn finish(&mut self) -> Result<(), Stopped> {
        if self.held.is_empty() {
            return Ok(());
        }
        until_done("postgres", &self.shutdown, || self.record()).await?;
        self.held.clear();
        Ok(())
    }

    fn forget(&mut self) {
        self.held.clear();
    }
}
