//! Coupons: codes that affiliates give to their public. Who orders with one was brought by its affiliate.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::ids::{AffiliateId, ProgramId};
use utoipa::{IntoParams, ToSchema};

use super::links::must_belong;
use super::{IdempotencyHeader, TenantHeader};
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, Page};
use crate::state::App;
use crate::validate::{Checks, MAX_COUPON_CHARS};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCoupon {
    /// 1 to 64 characters, unique in the tenant; capitals make no difference.
    #[schema(examples("ANA10"))]
    code: String,
    program_id: i64,
    affiliate_id: i64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CouponChange {
    /// Whether orders with it are credited to the affiliate.
    #[schema(examples(false))]
    active: bool,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Coupon {
    id: i64,
    #[schema(examples("ANA10"))]
    code: String,
    #[schema(value_type = i64)]
    program_id: ProgramId,
    #[schema(value_type = i64)]
    affiliate_id: AffiliateId,
    active: bool,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    affiliate_id: Option<i64>,
    program_id: Option<i64>,
    /// Only the coupon of this code; capitals make no difference.
    code: Option<String>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// Create a coupon
#[utoipa::path(post, path = "/v1/coupons", tag = "Affiliates", request_body = NewCoupon, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Coupon), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewCoupon>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let code = checks.text("code", &new.code, MAX_COUPON_CHARS);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    must_belong(
        creation.connection(),
        at.tenant,
        new.program_id,
        new.affiliate_id,
    )
    .await?;
    let coupon: Coupon = sqlx::query_as(
        "INSERT INTO coupons (tenant_id, code, program_id, affiliate_id, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, lower(code)) DO NOTHING
         RETURNING id, code, program_id, affiliate_id, active, created_at",
    )
    .bind(at.tenant)
    .bind(&code)
    .bind(new.program_id)
    .bind(new.affiliate_id)
    .bind(app.clock.now())
    .fetch_optional(creation.connection())
    .await?
    .ok_or_else(|| Problem::taken("code", "another coupon has this code"))?;
    creation.finish(&coupon, &[]).await
}

/// List coupons
#[utoipa::path(get, path = "/v1/coupons", tag = "Affiliates", params(TenantHeader, Filter),
    responses((status = 200, body = Page<Coupon>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(filter.limit, filter.cursor.as_deref())?;
    let rows: Vec<Coupon> = sqlx::query_as(
        "SELECT id, code, program_id, affiliate_id, active, created_at FROM coupons
         WHERE tenant_id = $1 AND id > $2
           AND ($3::bigint IS NULL OR affiliate_id = $3)
           AND ($4::bigint IS NULL OR program_id = $4)
           AND ($5::text IS NULL OR lower(code) = lower($5))
         ORDER BY id LIMIT $6",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(filter.affiliate_id)
    .bind(filter.program_id)
    .bind(&filter.code)
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id), |row| row)
        .respond(format)
}

/// Read a coupon
#[utoipa::path(get, path = "/v1/coupons/{id}", tag = "Affiliates", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Coupon), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<Json<Coupon>, Problem> {
    sqlx::query_as(
        "SELECT id, code, program_id, affiliate_id, active, created_at FROM coupons WHERE tenant_id = $1 AND id = $2",
    )
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&app.postgres)
    .await?
    .map(Json)
    .ok_or_else(|| Problem::not_found("coupon"))
}

/// Take a coupon out of use, or into use again
///
/// A coupon is never deleted, because orders name it.
#[utoipa::path(patch, path = "/v1/coupons/{id}", tag = "Affiliates", request_body = CouponChange, params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Coupon), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    body: Body<CouponChange>,
) -> Result<Json<Coupon>, Problem> {
    sqlx::query_as(
        "UPDATE coupons SET active = $3, ended_at = CASE WHEN $3 THEN NULL ELSE coalesce(ended_at, now()) END WHERE tenant_id = $1 AND id = $2
         RETURNING id, code, program_id, affiliate_id, active, created_at",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(body.value.active)
    .fetch_optional(&app.postgres)
    .await?
    .map(Json)
    .ok_or_else(|| Problem::not_found("coupon"))
}
