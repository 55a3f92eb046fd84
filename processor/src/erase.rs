//! Erases visitors and customers, and applies a changed retention to clicks that are stored already.
//!
//! An erased visitor's clicks stay as clicks, so that every count stays as it was, and nothing of the
//! person does. Removing them would also let a journal that repeats itself store them again. What
//! arrives later is made so before it is stored (`tenants`); an erasure is therefore carried out only
//! once every processor knows of it.
//!
//! An erased customer's conversions stay as well, with their money, as nobody's. The visitors whose clicks led to
//! them are erased with him, as far as the clicks are stored by then. Later conversions of his are recorded without
//! him (`reports`), and what the ledger recorded before is stored so (`ledger_facts`).
//!
//! All can be repeated: a crash in between costs that work only. ClickHouse rewrites the parts that hold
//! such clicks with their rollups, one visit for all that is open.

use std::collections::BTreeMap;
use std::time::Duration;

use clickhouse::Client;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tributary_shared::click_token;
use tributary_shared::customers::CustomerHash;

use crate::RunError;
use crate::retry::until_done;
use crate::tenants;

/// How often it is looked for something to do.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Erasures that are carried out at once.
const AT_ONCE: i64 = 1000;
/// Clicks whose visitors are asked for at once.
const CLICKS_AT_ONCE: usize = 1000;

/// What stays of a click whose visitor was erased. The same as `ClickRow::erase`.
const ERASE: &str = "ALTER TABLE clicks UPDATE visitor_id = 0, fingerprint = 0, address = toIPv6('::'), region = '', city = '',
    network = '', user_agent = '', accept_language = '', referrer = '', sub1 = '', sub2 = '', sub3 = '', sub4 = '', sub5 = '',
    utm_term = '', utm_content = ''
    WHERE tenant_id = ? AND visitor_id IN ?";
const ERASE_CUSTOMERS: &str = "ALTER TABLE conversions UPDATE customer_id = toFixedString('', 16)
    WHERE tenant_id = ? AND lower(hex(customer_id)) IN ?";
/// Who made these clicks; their times spare reading all clicks.
const VISITORS: &str = "SELECT DISTINCT visitor_id FROM clicks
    WHERE tenant_id = ? AND received_at IN (SELECT fromUnixTimestamp64Milli(arrayJoin(?), 'UTC')) AND click_id IN ? AND visitor_id != 0";
const KEEP: &str = "ALTER TABLE clicks UPDATE keep_days = ? WHERE tenant_id = ? AND keep_days != ?";

/// After this time every processor knows what a tenant chose, and what it was storing meanwhile is stored: one
/// attempt lasts for a question and an insert, 30 s each.
fn everybody_knows() -> Duration {
    tenants::MAX_AGE * 3
}

/// What is open of one tenant.
#[derive(Default)]
struct Open {
    ids: Vec<i64>,
    visitors: Vec<u64>,
    customers: Vec<CustomerHash>,
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
        let rows: Vec<(i64, i64, Option<String>, Option<CustomerHash>)> = sqlx::query_as(
            "SELECT id, tenant_id, visitor_id, customer_id FROM erasures
             WHERE erased_at IS NULL AND requested_at < now() - make_interval(secs => $1) ORDER BY id LIMIT $2",
        )
        .bind(everybody_knows().as_secs_f64())
        .bind(AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        let mut by_tenant: BTreeMap<i64, Open> = BTreeMap::new();
        for (id, tenant, visitor, customer) in rows {
            let open = by_tenant.entry(tenant).or_default();
            open.ids.push(id);
            open.visitors
                .extend(visitor.and_then(|v| u64::from_str_radix(&v, 16).ok()));
            open.customers.extend(customer);
        }
        for (tenant, open) in by_tenant {
            if !open.visitors.is_empty() {
                self.erase_reports(tenant, &open.visitors).await?;
                let erase = self.clickhouse.query(ERASE).bind(tenant);
                erase.bind(&open.visitors).execute().await?;
            }
            if !open.customers.is_empty() {
                self.erase_customers(tenant, &open.customers).await?;
            }
            sqlx::query("UPDATE erasures SET erased_at = now() WHERE id = ANY($1)")
                .bind(&open.ids)
                .execute(&self.pool)
                .await?;
            let (visitors, customers) = (open.visitors.len(), open.customers.len());
            tracing::info!(tenant, visitors, customers, "erased");
        }
        Ok(())
    }

    /// Takes what is personal out of what visitors' browsers reported.
    async fn erase_reports(&self, tenant: i64, visitors: &[u64]) -> Result<(), EraseError> {
        let visitors: Vec<Vec<u8>> = visitors.iter().map(|v| v.to_be_bytes().to_vec()).collect();
        sqlx::query(
            "UPDATE conversion_reports SET visitor_id = NULL, fingerprint = NULL, address = NULL, user_agent = NULL, email_domain = NULL
             WHERE tenant_id = $1 AND substring(visitor_id FROM 9) = ANY($2)",
        )
        .bind(tenant)
        .bind(&visitors)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn erase_customers(
        &self,
        tenant: i64,
        customers: &[CustomerHash],
    ) -> Result<(), EraseError> {
        // Before the conversions forget whose they are.
        self.erase_their_visitors(tenant, customers).await?;
        sqlx::query("UPDATE conversions SET customer_id = NULL WHERE tenant_id = $1 AND customer_id = ANY($2)")
            .bind(tenant)
            .bind(customers)
            .execute(&self.pool)
            .await?;
        sqlx::query(
            "UPDATE conversion_reports SET customer_id = NULL, visitor_id = NULL, fingerprint = NULL, address = NULL,
                    user_agent = NULL, email_domain = NULL
             WHERE tenant_id = $1 AND customer_id = ANY($2)",
        )
        .bind(tenant)
        .bind(customers)
        .execute(&self.pool)
        .await?;
        let texts: Vec<String> = customers.iter().map(hex::encode).collect();
        let erase = self.clickhouse.query(ERASE_CUSTOMERS).bind(tenant);
        erase.bind(&texts).execute().await?;
        Ok(())
    }

    /// Asks for the erasure of the visitors whose clicks led to the customers' conversions.
    async fn erase_their_visitors(
        &self,
        tenant: i64,
        customers: &[CustomerHash],
    ) -> Result<(), EraseError> {
        let clicks: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT click_id FROM conversions
             WHERE tenant_id = $1 AND customer_id = ANY($2) AND click_id IS NOT NULL",
        )
        .bind(tenant)
        .bind(customers)
        .fetch_all(&self.pool)
        .await?;
        for clicks in clicks.chunks(CLICKS_AT_ONCE) {
            let times: Vec<u64> = clicks
                .iter()
                .filter_map(|click| Some(click_token::parts(click)?.at_ms))
                .collect();
            let visitors: Vec<u64> = (self.clickhouse.query(VISITORS).bind(tenant))
                .bind(&times)
                .bind(clicks)
                .fetch_all()
                .await?;
            let visitors: Vec<String> = visitors.iter().map(|v| format!("{v:016x}")).collect();
            sqlx::query(
                "INSERT INTO erasures (tenant_id, visitor_id) SELECT $1, unnest($2::text[])
                 ON CONFLICT (tenant_id, visitor_id) DO NOTHING",
            )
            .bind(tenant)
            .bind(&visitors)
            .execute(&self.pool)
            .await?;
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
