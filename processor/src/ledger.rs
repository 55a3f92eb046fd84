//! PostgreSQL's part of a conversion: one transaction that records the conversion, its commission,
//! the ledger entries and the outbox row, or nothing of it.
//!
//! The unique key (tenant, order_id, event) makes a repeated delivery find the first one; the
//! operation key makes a posting happen once; the database refuses a posting that does not sum to
//! zero (shared/migrations/postgres/0002_money.sql).

use chrono::{DateTime, Utc};
use prost::Message as _;
use rust_decimal::Decimal;
use sqlx::{PgConnection, PgPool};
use tributary_shared::customers::CustomerHash;
use tributary_shared::events::{CommissionRecorded, ConversionRecorded, LedgerEvent, ledger_event};
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId, commission_id};
use tributary_shared::money::Money;
use uuid::Uuid;

use crate::attribute::Touchpoint;
use crate::price::{Price, Rule};

/// The first version of a record, as events carry it.
const FIRST_VERSION: u64 = 1;

/// A conversion as it was accepted, read and checked.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) tenant_id: TenantId,
    pub(crate) order_id: String,
    pub(crate) event: String,
    pub(crate) money: Money,
    pub(crate) click_id: String,
    pub(crate) customer_id: Option<CustomerHash>,
    /// As the merchant said.
    pub(crate) new_customer: Option<bool>,
    pub(crate) accepted_at: DateTime<Utc>,
}

/// What was decided about it.
#[derive(Debug, Clone)]
pub(crate) struct Decision<'p> {
    /// `click_token`, or why it is credited to nobody.
    pub(crate) attribution: &'static str,
    pub(crate) path: &'p [Touchpoint],
    pub(crate) credited: Option<&'p Touchpoint>,
    pub(crate) priced: Option<(Rule, Price)>,
}

/// A link with what its program says, for attribution.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct LinkTerms {
    pub(crate) tenant_id: TenantId,
    pub(crate) program_id: ProgramId,
    pub(crate) affiliate_id: AffiliateId,
    pub(crate) window_seconds: i64,
}

/// The link of a click, whoever's it is; none when there is no such link.
pub(crate) async fn link_terms(
    connection: &mut PgConnection,
    link: LinkId,
) -> Result<Option<LinkTerms>, sqlx::Error> {
    sqlx::query_as(
        "SELECT l.tenant_id, l.program_id, l.affiliate_id, p.window_seconds
         FROM links l JOIN programs p ON p.id = l.program_id WHERE l.id = $1",
    )
    .bind(link)
    .fetch_optional(connection)
    .await
}

/// Whether there is such a tenant.
pub(crate) async fn tenant_exists(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tenants WHERE id = $1)")
        .bind(tenant)
        .fetch_one(connection)
        .await
}

/// The program's latest rule; none when it has none.
pub(crate) async fn current_rule(
    connection: &mut PgConnection,
    program: ProgramId,
) -> Result<Option<Rule>, sqlx::Error> {
    let row: Option<(i64, i32, Decimal, i64)> = sqlx::query_as(
        "SELECT r.id, r.version, r.percent, p.hold_seconds
         FROM commission_rules r JOIN programs p ON p.id = r.program_id
         WHERE r.program_id = $1 ORDER BY r.version DESC LIMIT 1",
    )
    .bind(program)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(id, version, percent, hold_seconds)| Rule {
        id,
        version,
        percent,
        hold_seconds,
    }))
}

/// What is recorded of an order's customer.
#[derive(Debug, Clone, Copy)]
struct Customer {
    id: Option<CustomerHash>,
    is_new: Option<bool>,
}

/// Leaves out a customer who was erased; tells whether one is new where the merchant did not.
async fn customer(connection: &mut PgConnection, order: &Order) -> Result<Customer, sqlx::Error> {
    let unknown = Customer {
        id: None,
        is_new: order.new_customer,
    };
    let Some(id) = order.customer_id else {
        return Ok(unknown);
    };
    let (erased, seen): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM erasures WHERE tenant_id = $1 AND customer_id = $2),
                EXISTS (SELECT 1 FROM conversions WHERE tenant_id = $1 AND customer_id = $2)",
    )
    .bind(order.tenant_id)
    .bind(id)
    .fetch_one(connection)
    .await?;
    if erased {
        return Ok(unknown);
    }
    Ok(Customer {
        id: Some(id),
        is_new: order.new_customer.or(Some(!seen)),
    })
}

/// Records an order with its decision. False when it was recorded before: then nothing is changed.
pub(crate) async fn record(
    pool: &PgPool,
    order: &Order,
    decision: &Decision<'_>,
) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let customer = customer(&mut transaction, order).await?;
    if !insert_conversion(&mut transaction, order, customer, decision).await? {
        return Ok(false);
    }
    let mut events = vec![conversion_event(order, customer, decision)];
    if let (Some(credited), Some((rule, price))) = (decision.credited, &decision.priced) {
        let id = commission_id(order.id, credited.affiliate_id);
        insert_commission(&mut transaction, id, order, credited, rule, price).await?;
        post_earned(
            &mut transaction,
            id,
            order,
            credited.affiliate_id,
            price.commission,
        )
        .await?;
        events.push(commission_event(id, order, credited, rule, price));
    }
    for event in events {
        sqlx::query("INSERT INTO ledger_outbox (tenant_id, payload) VALUES ($1, $2)")
            .bind(order.tenant_id)
            .bind(LedgerEvent { event: Some(event) }.encode_to_vec())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(true)
}

async fn insert_conversion(
    connection: &mut PgConnection,
    order: &Order,
    customer: Customer,
    decision: &Decision<'_>,
) -> Result<bool, sqlx::Error> {
    let credited = decision.credited;
    let inserted = sqlx::query(
        "INSERT INTO conversions (id, tenant_id, order_id, event, amount, currency, accepted_at, attribution,
                                  path, click_id, link_id, affiliate_id, program_id, customer_id, new_customer)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10, ''), $11, $12, $13, $14, $15)
         ON CONFLICT (tenant_id, order_id, event) DO NOTHING",
    )
    .bind(order.id)
    .bind(order.tenant_id)
    .bind(&order.order_id)
    .bind(&order.event)
    .bind(order.money.amount())
    .bind(order.money.currency().code())
    .bind(order.accepted_at)
    .bind(decision.attribution)
    .bind(sqlx::types::Json(decision.path))
    .bind(&order.click_id)
    .bind(credited.map(|c| c.link_id))
    .bind(credited.map(|c| c.affiliate_id))
    .bind(credited.map(|c| c.program_id))
    .bind(customer.id)
    .bind(customer.is_new)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn insert_commission(
    connection: &mut PgConnection,
    id: Uuid,
    order: &Order,
    credited: &Touchpoint,
    rule: &Rule,
    price: &Price,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO commissions (id, tenant_id, conversion_id, program_id, affiliate_id, link_id, rule_id,
                                  rule_version, percent, basis, amount, currency, state, hold_until, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'pending', $13, $14)",
    )
    .bind(id)
    .bind(order.tenant_id)
    .bind(order.id)
    .bind(credited.program_id)
    .bind(credited.affiliate_id)
    .bind(credited.link_id)
    .bind(rule.id)
    .bind(rule.version)
    .bind(rule.percent)
    .bind(order.money.amount())
    .bind(price.commission.amount())
    .bind(price.commission.currency().code())
    .bind(price.hold_until)
    .bind(order.accepted_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Posts a commission that was earned: from the tenant's expense to the affiliate's pending account.
/// A commission of nothing needs no posting.
async fn post_earned(
    connection: &mut PgConnection,
    commission: Uuid,
    order: &Order,
    affiliate: AffiliateId,
    earned: Money,
) -> Result<(), sqlx::Error> {
    if earned.is_zero() {
        return Ok(());
    }
    let currency = earned.currency().code();
    let expense = account(
        connection,
        order.tenant_id,
        None,
        "commission_expense",
        currency,
    )
    .await?;
    let pending = account(
        connection,
        order.tenant_id,
        Some(affiliate),
        "pending",
        currency,
    )
    .await?;
    let transaction: i64 = sqlx::query_scalar(
        "INSERT INTO ledger_transactions (tenant_id, operation_key, commission_id, posted_at)
         VALUES ($1, $2, $3, $4) RETURNING id",
    )
    .bind(order.tenant_id)
    .bind(format!("commission:{commission}:earned"))
    .bind(commission)
    .bind(order.accepted_at)
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO ledger_entries (tenant_id, transaction_id, account_id, amount, currency)
         VALUES ($1, $2, $3, $4, $6), ($1, $2, $5, -$4, $6)",
    )
    .bind(order.tenant_id)
    .bind(transaction)
    .bind(pending)
    .bind(earned.amount())
    .bind(expense)
    .bind(currency)
    .execute(connection)
    .await?;
    Ok(())
}

/// The account's id; opens it with its first posting.
async fn account(
    connection: &mut PgConnection,
    tenant: TenantId,
    affiliate: Option<AffiliateId>,
    kind: &str,
    currency: &str,
) -> Result<i64, sqlx::Error> {
    let find = "SELECT id FROM ledger_accounts
                WHERE tenant_id = $1 AND affiliate_id IS NOT DISTINCT FROM $2 AND kind = $3 AND currency = $4";
    let open = "INSERT INTO ledger_accounts (tenant_id, affiliate_id, kind, currency) VALUES ($1, $2, $3, $4)
                ON CONFLICT (tenant_id, affiliate_id, kind, currency) DO NOTHING RETURNING id";
    // Found nearly always. When not, another processor may open it between the two statements: then
    // opening waits for that one's commit, returns nothing, and the last statement sees its row.
    for statement in [find, open, find] {
        let id: Option<i64> = sqlx::query_scalar(statement)
            .bind(tenant)
            .bind(affiliate)
            .bind(kind)
            .bind(currency)
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(id) = id {
            return Ok(id);
        }
    }
    Err(sqlx::Error::RowNotFound)
}

fn conversion_event(
    order: &Order,
    customer: Customer,
    decision: &Decision<'_>,
) -> ledger_event::Event {
    let credited = decision.credited;
    ledger_event::Event::Conversion(ConversionRecorded {
        conversion_id: order.id.to_string(),
        version: FIRST_VERSION,
        accepted_at_us: order.accepted_at.timestamp_micros(),
        tenant_id: order.tenant_id.to_wire(),
        program_id: credited.map_or(0, |c| c.program_id.to_wire()),
        affiliate_id: credited.map_or(0, |c| c.affiliate_id.to_wire()),
        link_id: credited.map_or(0, |c| c.link_id.to_wire()),
        click_id: order.click_id.clone(),
        order_id: order.order_id.clone(),
        event: order.event.clone(),
        amount: order.money.amount().to_string(),
        currency: order.money.currency().code().to_owned(),
        attribution: decision.attribution.to_owned(),
        customer_id: customer.id.map(Vec::from).unwrap_or_default(),
        new_customer: customer.is_new,
    })
}

fn commission_event(
    id: Uuid,
    order: &Order,
    credited: &Touchpoint,
    rule: &Rule,
    price: &Price,
) -> ledger_event::Event {
    ledger_event::Event::Commission(CommissionRecorded {
        commission_id: id.to_string(),
        version: FIRST_VERSION,
        conversion_id: order.id.to_string(),
        created_at_us: order.accepted_at.timestamp_micros(),
        tenant_id: order.tenant_id.to_wire(),
        program_id: credited.program_id.to_wire(),
        affiliate_id: credited.affiliate_id.to_wire(),
        link_id: credited.link_id.to_wire(),
        amount: price.commission.amount().to_string(),
        currency: price.commission.currency().code().to_owned(),
        state: "pending".to_owned(),
        rule_id: u64::try_from(rule.id).unwrap_or(0),
        rule_version: u32::try_from(rule.version).unwrap_or(0),
        hold_until_us: price.hold_until.timestamp_micros(),
    })
}
