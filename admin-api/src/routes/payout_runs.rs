//! Runs: draftings of payouts, by the schedule or because somebody asked.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tributary_shared::ids::AffiliateId;
use utoipa::ToSchema;

use super::affiliates::find;
use super::{IdempotencyHeader, TenantHeader};
use crate::auth::{Actor, Scoped};
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

/// Most runs of a tenant that wait to be done.
const MAX_WAITING: i64 = 10;

/// Selects or returns what a [`Run`] holds.
macro_rules! columns {
    () => {
        "id, due_on, requested_by, affiliate_id, currency, created_at, done_at, drafted, left_out"
    };
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRun {
    /// Of this affiliate only.
    affiliate_id: Option<i64>,
    /// Of this currency only.
    #[schema(examples("USD"))]
    currency: Option<String>,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Run {
    id: i64,
    /// The day for which the schedule made it; null: somebody asked.
    #[schema(value_type = Option<String>, format = Date)]
    due_on: Option<NaiveDate>,
    requested_by: Option<String>,
    #[schema(value_type = Option<i64>)]
    affiliate_id: Option<AffiliateId>,
    currency: Option<String>,
    created_at: DateTime<Utc>,
    /// Null: it is under way.
    done_at: Option<DateTime<Utc>>,
    /// Payouts that it drafted.
    drafted: i32,
    /// Why others got none, with how many: negative_balance, below_minimum, open_payout (the one before is not over), blocked,
    /// no_method, currency_of_method, nothing_left (by fee and tax), too_large; method_unreadable and failed are in the log.
    #[schema(value_type = Object, examples(json!({"below_minimum": 3})))]
    left_out: Value,
}

/// Have payouts drafted
///
/// One for each affiliate and currency, of all that is available less what he owes, as the terms say; a moment later. Of all
/// affiliates, or of one.
#[utoipa::path(post, path = "/v1/payout-runs", tag = "Payouts", request_body = NewRun, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Run), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    actor: Actor,
    idempotency: IdempotencyKey,
    body: Body<NewRun>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    if let Some(currency) = &new.currency {
        checks.currency("currency", currency);
    }
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    if let Some(affiliate) = new.affiliate_id {
        let found = find(creation.connection(), at.tenant, Id(affiliate)).await;
        if found.is_err_and(|problem| problem.status() == StatusCode::NOT_FOUND) {
            let mut checks = Checks::default();
            checks.wrong("affiliate_id", "there is no such affiliate");
            checks.finish()?;
        }
    }
    let waiting: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM payout_runs WHERE tenant_id = $1 AND done_at IS NULL",
    )
    .bind(at.tenant)
    .fetch_one(creation.connection())
    .await?;
    if waiting >= MAX_WAITING {
        let text = format!("{waiting} runs are under way: wait until they are done");
        return Err(Problem::new(StatusCode::CONFLICT, text));
    }
    let run: Run = sqlx::query_as(concat!(
        "INSERT INTO payout_runs (tenant_id, requested_by, affiliate_id, currency, created_at)
         VALUES ($1, left($2, 254), $3, $4, $5) RETURNING ",
        columns!()
    ))
    .bind(at.tenant)
    .bind(&actor.0)
    .bind(new.affiliate_id)
    .bind(&new.currency)
    .bind(app.clock.now())
    .fetch_one(creation.connection())
    .await?;
    creation.finish(&run, &[]).await
}

/// List runs, newest first
#[utoipa::path(get, path = "/v1/payout-runs", tag = "Payouts", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<Run>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<Run> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM payout_runs WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3"
    ))
    .bind(at.tenant)
    .bind(asked.after.map_or(i64::MAX, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id), |row| row)
        .respond(format)
}

/// Read a run
#[utoipa::path(get, path = "/v1/payout-runs/{id}", tag = "Payouts", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Run), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(State(app): State<App>, at: Scoped, id: Id) -> Result<Json<Run>, Problem> {
    let run: Option<Run> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM payout_runs WHERE tenant_id = $1 AND id = $2"
    ))
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&app.postgres)
    .await?;
    run.map(Json)
        .ok_or_else(|| Problem::not_found("payout run"))
}
