//! Exchange rates, as the tenant enters them: for orders in another currency than their program's.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{IdempotencyHeader, TenantHeader};
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Body, Format, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, Page};
use crate::state::App;
use crate::validate::Checks;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewExchangeRate {
    /// ISO 4217.
    #[schema(examples("EUR"))]
    base: String,
    #[schema(examples("USD"))]
    quote: String,
    /// What one unit of `base` costs in `quote`: above 0, with at most 10 decimals.
    #[schema(examples("1.0843"))]
    rate: String,
    /// Until the pair's next one begins.
    valid_from: DateTime<Utc>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExchangeRate {
    id: i64,
    #[schema(examples("EUR"))]
    base: String,
    #[schema(examples("USD"))]
    quote: String,
    #[schema(examples("1.0843"))]
    rate: String,
    valid_from: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    id: i64,
    base: String,
    quote: String,
    rate: Decimal,
    valid_from: DateTime<Utc>,
}

impl From<Row> for ExchangeRate {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            base: row.base,
            quote: row.quote,
            rate: row.rate.normalize().to_string(),
            valid_from: row.valid_from,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    base: Option<String>,
    quote: Option<String>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// Enter an exchange rate
///
/// Orders that earned nothing because this pair had no rate are settled again.
#[utoipa::path(post, path = "/v1/exchange-rates", tag = "Programs", request_body = NewExchangeRate, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = ExchangeRate), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewExchangeRate>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    checks.currency("base", &new.base);
    checks.currency("quote", &new.quote);
    if new.base == new.quote {
        checks.wrong("quote", "must be another currency than base");
    }
    let rate = checks.rate("rate", &new.rate);
    checks.moment("valid_from", new.valid_from);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let row: Row = sqlx::query_as(
        "INSERT INTO exchange_rates (tenant_id, base, quote, rate, valid_from) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, base, quote, valid_from) DO NOTHING RETURNING id, base, quote, rate, valid_from",
    )
    .bind(at.tenant)
    .bind(&new.base)
    .bind(&new.quote)
    .bind(rate)
    .bind(new.valid_from)
    .fetch_optional(creation.connection())
    .await?
    .ok_or_else(|| Problem::taken("valid_from", "this pair has a rate from this moment on"))?;
    // In the order in which they are locked to be settled, so that nobody waits in a circle.
    sqlx::query(
        "WITH waiting AS (
             SELECT id FROM conversions WHERE tenant_id = $1 AND starts_with(note, 'there is no rate') AND note = $2 ORDER BY id FOR UPDATE)
         UPDATE conversions c SET settle_at = $3 FROM waiting w WHERE c.tenant_id = $1 AND c.id = w.id",
    )
    .bind(at.tenant)
    .bind(format!("there is no rate from {} to {}", new.base, new.quote))
    .bind(app.clock.now())
    .execute(creation.connection())
    .await?;
    sqlx::query("NOTIFY conversions_to_settle")
        .execute(creation.connection())
        .await?;
    creation.finish(&ExchangeRate::from(row), &[]).await
}

/// List exchange rates
#[utoipa::path(get, path = "/v1/exchange-rates", tag = "Programs", params(TenantHeader, Filter),
    responses((status = 200, body = Page<ExchangeRate>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(filter.limit, filter.cursor.as_deref())?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, base, quote, rate, valid_from FROM exchange_rates
         WHERE tenant_id = $1 AND id > $2 AND ($3::text IS NULL OR base = $3) AND ($4::text IS NULL OR quote = $4)
         ORDER BY id LIMIT $5",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(&filter.base)
    .bind(&filter.quote)
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id), ExchangeRate::from)
        .respond(format)
}
