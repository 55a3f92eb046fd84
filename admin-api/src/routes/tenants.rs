//! Tenants: a merchant's workspace. Made by the platform owner.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::ids::TenantId;
use utoipa::{IntoParams, ToSchema};

use super::IdempotencyHeader;
use crate::auth::Owner;
use crate::error::Problem;
use crate::extract::{Body, Format, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, Page};
use crate::state::App;
use crate::validate::Checks;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTenant {
    /// Names the tenant in addresses: 1 to 63 of a-z, 0-9 and -; unique.
    #[schema(examples("acme"))]
    slug: String,
    #[schema(examples("Acme Shoes"))]
    name: String,
    /// IANA time zone whose days analytics counts in.
    #[serde(default = "utc")]
    #[schema(examples("Europe/Berlin"), default = "UTC")]
    time_zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Tenant {
    #[schema(value_type = i64)]
    id: TenantId,
    slug: String,
    name: String,
    time_zone: String,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only the tenant of this slug.
    slug: Option<String>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// Create a tenant
#[utoipa::path(post, path = "/v1/tenants", tag = "Tenants", params(IdempotencyHeader), request_body = NewTenant,
    responses((status = 201, body = Tenant), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    owner: Owner,
    idempotency: IdempotencyKey,
    body: Body<NewTenant>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    checks.slug("slug", &new.slug);
    let name = checks.name("name", &new.name);
    checks.time_zone("time_zone", &new.time_zone);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, owner, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let tenant: Tenant = sqlx::query_as(
        "INSERT INTO tenants (slug, name, time_zone, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (slug) DO NOTHING RETURNING id, slug, name, time_zone, created_at",
    )
    .bind(&new.slug)
    .bind(&name)
    .bind(&new.time_zone)
    .bind(app.clock.now())
    .fetch_optional(creation.connection())
    .await?
    .ok_or_else(|| Problem::taken("slug", "another tenant has this slug"))?;
    creation.finish(&tenant, &[]).await
}

/// List tenants
#[utoipa::path(get, path = "/v1/tenants", tag = "Tenants", params(Filter),
    responses((status = 200, body = Page<Tenant>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    _: Owner,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(filter.limit, filter.cursor.as_deref())?;
    let rows: Vec<Tenant> = sqlx::query_as(
        "SELECT id, slug, name, time_zone, created_at FROM tenants
         WHERE ($1::text IS NULL OR slug = $1) AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(&filter.slug)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |tenant| AfterId(tenant.id.0), |tenant| tenant)
        .respond(format)
}
