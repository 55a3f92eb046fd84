//! Affiliates: a tenant's partners, and what each is owed.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tributary_shared::ids::{AffiliateId, TenantId};
use utoipa::ToSchema;

use super::{IdempotencyHeader, TenantHeader};
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query, given};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

/// Selects or returns what an [`Affiliate`] holds.
macro_rules! columns {
    () => {
        "id, name, email, tier, groups, tags, certifications, parent_id, withholding_percent, created_at"
    };
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAffiliate {
    #[schema(examples("Ana's shoe blog"))]
    name: String,
    #[schema(examples("ana@example.com"))]
    email: Option<String>,
    /// By which commission rules choose, like the three below.
    #[schema(examples("gold"))]
    tier: Option<String>,
    /// 50 at most, as of the two below.
    #[serde(default)]
    #[schema(examples(json!(["agencies"])))]
    groups: Vec<String>,
    #[serde(default)]
    #[schema(examples(json!(["vip"])))]
    tags: Vec<String>,
    #[serde(default)]
    #[schema(examples(json!(["expert"])))]
    certifications: Vec<String>,
    /// The affiliate above it, who gets the program's uplines' part of what it earns.
    parent_id: Option<i64>,
    /// What of each payout is kept back as tax; 0 by default.
    #[schema(examples("30"))]
    withholding_percent: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"tier": "gold", "groups": ["agencies"], "parent_id": null}))]
pub(crate) struct AffiliateChange {
    name: Option<String>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    tier: Option<Option<String>>,
    /// Replaces the whole list, like the two below.
    groups: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    certifications: Option<Vec<String>>,
    /// Null: nobody is above it. Nobody may stand above himself.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    parent_id: Option<Option<i64>>,
    /// What of each payout that is drafted from now on is kept back as tax.
    #[schema(examples("30"))]
    withholding_percent: Option<String>,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Affiliate {
    #[schema(value_type = i64)]
    id: AffiliateId,
    name: String,
    email: Option<String>,
    tier: Option<String>,
    groups: Vec<String>,
    tags: Vec<String>,
    certifications: Vec<String>,
    #[schema(value_type = Option<i64>)]
    parent_id: Option<AffiliateId>,
    /// What of each payout is kept back as tax.
    #[schema(value_type = String, examples("0"))]
    #[serde(serialize_with = "amounts::serialize_percent")]
    withholding_percent: Decimal,
    created_at: DateTime<Utc>,
}

/// What an affiliate is owed, by currency.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Balance {
    affiliate_id: i64,
    balances: Vec<CurrencyBalance>,
}

/// The sums of the ledger's entries in one currency.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CurrencyBalance {
    #[schema(examples("USD"))]
    currency: String,
    /// Earned and still on hold.
    #[schema(examples("12.50"))]
    pending: String,
    /// Approved and not paid yet.
    #[schema(examples("100.00"))]
    available: String,
    /// In a payout that is under way.
    #[schema(examples("0.00"))]
    in_payout: String,
    #[schema(examples("0.00"))]
    paid: String,
    /// What was paid and taken back since, as a negative amount: the next payout is less by it.
    #[schema(examples("0.00"))]
    clawback: String,
}

/// Create an affiliate
#[utoipa::path(post, path = "/v1/affiliates", tag = "Affiliates", request_body = NewAffiliate, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Affiliate), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewAffiliate>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let name = checks.name("name", &new.name);
    let email = new.email.map(|email| checks.email("email", &email));
    let tier = new.tier.map(|tier| checks.label("tier", &tier));
    let groups = checks.labels("groups", &new.groups);
    let tags = checks.labels("tags", &new.tags);
    let certifications = checks.labels("certifications", &new.certifications);
    let withholding = new.withholding_percent.as_deref().unwrap_or("0");
    let withholding = checks.percent("withholding_percent", withholding);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    if let Some(parent) = new.parent_id {
        must_be_above(creation.connection(), at.tenant, None, parent).await?;
    }
    let affiliate: Affiliate = sqlx::query_as(concat!(
        "INSERT INTO affiliates (tenant_id, name, email, created_at, tier, groups, tags, certifications, parent_id, withholding_percent)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING ",
        columns!()
    ))
    .bind(at.tenant)
    .bind(&name)
    .bind(&email)
    .bind(app.clock.now())
    .bind(&tier)
    .bind(&groups)
    .bind(&tags)
    .bind(&certifications)
    .bind(new.parent_id)
    .bind(withholding)
    .fetch_one(creation.connection())
    .await?;
    creation.finish(&affiliate, &[]).await
}

/// Whether `parent` may stand above `affiliate` (none: one that is new), as whom nobody else sets meanwhile.
async fn must_be_above(
    connection: &mut PgConnection,
    tenant: TenantId,
    affiliate: Option<i64>,
    parent: i64,
) -> Result<(), Problem> {
    // One change at a time, or two of them could make a circle together.
    sqlx::query(
        "SELECT pg_advisory_xact_lock(hashtextextended('parents of affiliates of ' || $1, 0))",
    )
    .bind(tenant)
    .execute(&mut *connection)
    .await?;
    let line: Vec<i64> = sqlx::query_scalar(
        "WITH RECURSIVE line AS (
             SELECT id, parent_id FROM affiliates WHERE tenant_id = $1 AND id = $2
             UNION
             SELECT a.id, a.parent_id FROM line JOIN affiliates a ON a.tenant_id = $1 AND a.id = line.parent_id)
         SELECT id FROM line",
    )
    .bind(tenant)
    .bind(parent)
    .fetch_all(connection)
    .await?;
    let mut checks = Checks::default();
    if line.is_empty() {
        checks.wrong("parent_id", "there is no such affiliate");
    } else if affiliate == Some(parent) {
        checks.wrong("parent_id", "must be another affiliate");
    } else if affiliate.is_some_and(|id| line.contains(&id)) {
        checks.wrong(
            "parent_id",
            "this affiliate stands above that one, so it can't be below it as well",
        );
    }
    checks.finish()
}

/// Change an affiliate
///
/// What is left out stays as it is. What was earned changes when its order is settled the next time.
#[utoipa::path(patch, path = "/v1/affiliates/{id}", tag = "Affiliates", request_body = AffiliateChange, params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Affiliate), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    body: Body<AffiliateChange>,
) -> Result<Json<Affiliate>, Problem> {
    let change = body.value;
    let mut checks = Checks::default();
    let name = change.name.map(|name| checks.name("name", &name));
    let email = change
        .email
        .map(|email| email.map(|email| checks.email("email", &email)));
    let tier = change
        .tier
        .map(|tier| tier.map(|tier| checks.label("tier", &tier)));
    let groups = change.groups.map(|of| checks.labels("groups", &of));
    let tags = change.tags.map(|of| checks.labels("tags", &of));
    let certifications = change
        .certifications
        .map(|of| checks.labels("certifications", &of));
    let withholding =
        (change.withholding_percent).map(|percent| checks.percent("withholding_percent", &percent));
    checks.finish()?;
    let mut transaction = app.postgres.begin().await?;
    find(&mut transaction, at.tenant, id).await?;
    if let Some(Some(parent)) = change.parent_id {
        must_be_above(&mut transaction, at.tenant, Some(id.0), parent).await?;
    }
    let affiliate: Affiliate = sqlx::query_as(concat!(
        "UPDATE affiliates SET name = COALESCE($3, name),
                email = CASE WHEN $4 THEN $5 ELSE email END, tier = CASE WHEN $6 THEN $7 ELSE tier END,
                groups = COALESCE($8, groups), tags = COALESCE($9, tags),
                certifications = COALESCE($10, certifications),
                parent_id = CASE WHEN $11 THEN $12 ELSE parent_id END,
                withholding_percent = COALESCE($13, withholding_percent)
         WHERE tenant_id = $1 AND id = $2 RETURNING ",
        columns!()
    ))
    .bind(at.tenant)
    .bind(id.0)
    .bind(&name)
    .bind(email.is_some())
    .bind(email.flatten())
    .bind(tier.is_some())
    .bind(tier.flatten())
    .bind(&groups)
    .bind(&tags)
    .bind(&certifications)
    .bind(change.parent_id.is_some())
    .bind(change.parent_id.flatten())
    .bind(withholding)
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Json(affiliate))
}

/// List affiliates
#[utoipa::path(get, path = "/v1/affiliates", tag = "Affiliates", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<Affiliate>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<Affiliate> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM affiliates WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3"
    ))
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id.0), |row| row)
        .respond(format)
}

/// Read an affiliate
#[utoipa::path(get, path = "/v1/affiliates/{id}", tag = "Affiliates", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Affiliate), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<Json<Affiliate>, Problem> {
    let mut connection = app.postgres.acquire().await?;
    find(&mut connection, at.tenant, id).await.map(Json)
}

pub(crate) async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: Id,
) -> Result<Affiliate, Problem> {
    sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM affiliates WHERE tenant_id = $1 AND id = $2"
    ))
    .bind(tenant)
    .bind(id.0)
    .fetch_optional(connection)
    .await?
    .ok_or_else(|| Problem::not_found("affiliate"))
}

/// Read an affiliate's balance
///
/// What the database itself keeps beside the ledger's entries, in the same transactions.
#[utoipa::path(get, path = "/v1/affiliates/{id}/balance", tag = "Affiliates", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Balance), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn balance(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<Json<Balance>, Problem> {
    let mut connection = app.postgres.acquire().await?;
    let affiliate = find(&mut connection, at.tenant, id).await?;
    let sums: Vec<(String, String, Decimal)> = sqlx::query_as(
        "SELECT a.currency, a.kind, b.balance FROM ledger_accounts a JOIN ledger_balances b ON b.account_id = a.id
         WHERE a.tenant_id = $1 AND a.affiliate_id = $2",
    )
    .bind(at.tenant)
    .bind(affiliate.id)
    .fetch_all(&mut *connection)
    .await?;
    let mut currencies: BTreeMap<String, BTreeMap<String, Decimal>> = BTreeMap::new();
    for (currency, kind, sum) in sums {
        currencies.entry(currency).or_default().insert(kind, sum);
    }
    let balances = currencies.into_iter().map(|(currency, kinds)| {
        let sum = |kind| amounts::text(kinds.get(kind).copied().unwrap_or_default(), &currency);
        CurrencyBalance {
            pending: sum("pending"),
            available: sum("available"),
            in_payout: sum("in_payout"),
            paid: sum("paid"),
            clawback: sum("clawback"),
            currency,
        }
    });
    Ok(Json(Balance {
        affiliate_id: affiliate.id.0,
        balances: balances.collect(),
    }))
}
