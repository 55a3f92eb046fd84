//! Affiliates: a tenant's partners, and what each is owed.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tributary_shared::ids::AffiliateId;
use utoipa::ToSchema;

use super::{IdempotencyHeader, TenantHeader};
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAffiliate {
    #[schema(examples("Ana's shoe blog"))]
    name: String,
    #[schema(examples("ana@example.com"))]
    email: Option<String>,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Affiliate {
    #[schema(value_type = i64)]
    id: AffiliateId,
    name: String,
    email: Option<String>,
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
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let affiliate: Affiliate = sqlx::query_as(
        "INSERT INTO affiliates (tenant_id, name, email, created_at) VALUES ($1, $2, $3, $4)
         RETURNING id, name, email, created_at",
    )
    .bind(at.tenant)
    .bind(&name)
    .bind(&email)
    .bind(app.clock.now())
    .fetch_one(creation.connection())
    .await?;
    creation.finish(&affiliate, &[]).await
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
    let rows: Vec<Affiliate> = sqlx::query_as(
        "SELECT id, name, email, created_at FROM affiliates
         WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
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
    find(&app, at, id).await.map(Json)
}

async fn find(app: &App, at: Scoped, id: Id) -> Result<Affiliate, Problem> {
    sqlx::query_as(
        "SELECT id, name, email, created_at FROM affiliates WHERE tenant_id = $1 AND id = $2",
    )
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&app.postgres)
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
    let affiliate = find(&app, at, id).await?;
    let sums: Vec<(String, String, Decimal)> = sqlx::query_as(
        "SELECT a.currency, a.kind, b.balance FROM ledger_accounts a JOIN ledger_balances b ON b.account_id = a.id
         WHERE a.tenant_id = $1 AND a.affiliate_id = $2",
    )
    .bind(at.tenant)
    .bind(affiliate.id)
    .fetch_all(&app.postgres)
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
