//! Tenants: a merchant's workspace. Made by the platform owner, settled by its own admins.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::ids::TenantId;
use utoipa::{IntoParams, ToSchema};

use super::{IdempotencyHeader, TenantHeader};
use crate::auth::{Owner, Scoped};
use crate::edge_index;
use crate::error::Problem;
use crate::extract::{Body, Format, IdempotencyKey, Query, given};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, Page};
use crate::state::App;
use crate::validate::Checks;

/// How long clicks may be kept.
const CLICK_DAYS: std::ops::RangeInclusive<i32> = 1..=3650;

/// Selects or returns a [`Tenant`].
macro_rules! columns {
    () => {
        "id, slug, name, time_zone, fallback_url, cookie_domain, address_kept, click_days, created_at"
    };
}

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
    /// Where shoppers are sent whom no link can take: an unknown code on one of the tenant's domains,
    /// an expired link or one at its cap without a fallback of its own. Null: they get 404.
    #[schema(examples("https://shop.example/"))]
    fallback_url: Option<String>,
    /// Parent domain that a click's cookies are set for, so that the shop sees them, on hosts that
    /// are part of it. Null: the host that was clicked alone.
    #[schema(examples("shop.example"))]
    cookie_domain: Option<String>,
    address_kept: AddressKept,
    /// Clicks are removed this many days after they were made.
    #[schema(examples(1095))]
    click_days: i32,
    created_at: DateTime<Utc>,
}

/// How much of a click's address is kept. Country, region, city and network are found out before.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum AddressKept {
    Whole,
    /// The first 24 bits of IPv4, 48 of IPv6.
    Truncated,
    None,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"fallback_url": "https://shop.example/", "cookie_domain": null}))]
pub(crate) struct TenantChange {
    name: Option<String>,
    time_zone: Option<String>,
    /// An http or https URL without macros; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    fallback_url: Option<Option<String>>,
    /// A host name in lower case, such as shop.example; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    cookie_domain: Option<Option<String>>,
    /// Holds for clicks that are stored from now on, after half a minute.
    address_kept: Option<AddressKept>,
    /// 1 to 3650. Holds for the clicks that are stored already as well, after some minutes.
    click_days: Option<i32>,
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
    let tenant: Tenant = sqlx::query_as(concat!(
        "INSERT INTO tenants (slug, name, time_zone, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (slug) DO NOTHING RETURNING ",
        columns!()
    ))
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
    let rows: Vec<Tenant> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM tenants WHERE ($1::text IS NULL OR slug = $1) AND id > $2 ORDER BY id LIMIT $3"
    ))
    .bind(&filter.slug)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |tenant| AfterId(tenant.id.0), |tenant| tenant)
        .respond(format)
}

/// Read the own tenant
#[utoipa::path(get, path = "/v1/tenant", tag = "Tenants", params(TenantHeader),
    responses((status = 200, body = Tenant), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(State(app): State<App>, at: Scoped) -> Result<Json<Tenant>, Problem> {
    let tenant: Tenant = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM tenants WHERE id = $1"
    ))
    .bind(at.tenant)
    .fetch_one(&app.postgres)
    .await?;
    Ok(Json(tenant))
}

/// Change the own tenant's settings
///
/// What is left out stays as it is; null takes away what can be without. The redirector follows with
/// all the tenant's links and domains: a moment later for a thousand of them, within a minute for a
/// million.
#[utoipa::path(patch, path = "/v1/tenant", tag = "Tenants", request_body = TenantChange, params(TenantHeader),
    responses((status = 200, body = Tenant), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    at: Scoped,
    body: Body<TenantChange>,
) -> Result<Json<Tenant>, Problem> {
    let change = body.value;
    let mut checks = Checks::default();
    let name = change.name.map(|name| checks.name("name", &name));
    if let Some(zone) = &change.time_zone {
        checks.time_zone("time_zone", zone);
    }
    if let Some(Some(url)) = &change.fallback_url {
        checks.url("fallback_url", url);
    }
    if let Some(Some(host)) = &change.cookie_domain {
        checks.host("cookie_domain", host);
    }
    if change
        .click_days
        .is_some_and(|days| !CLICK_DAYS.contains(&days))
    {
        checks.wrong("click_days", "must be 1 to 3650");
    }
    checks.finish()?;
    let mut transaction = app.postgres.begin().await?;
    let tenant: Tenant = sqlx::query_as(concat!(
        "UPDATE tenants SET name = COALESCE($2, name), time_zone = COALESCE($3, time_zone),
                fallback_url = CASE WHEN $4 THEN $5 ELSE fallback_url END,
                cookie_domain = CASE WHEN $6 THEN $7 ELSE cookie_domain END,
                address_kept = COALESCE($8, address_kept), click_days = COALESCE($9, click_days),
                click_days_set_at = CASE WHEN click_days != $9 THEN now() ELSE click_days_set_at END
         WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(at.tenant)
    .bind(&name)
    .bind(&change.time_zone)
    .bind(change.fallback_url.is_some())
    .bind(change.fallback_url.as_ref().and_then(Option::as_deref))
    .bind(change.cookie_domain.is_some())
    .bind(change.cookie_domain.as_ref().and_then(Option::as_deref))
    .bind(change.address_kept)
    .bind(change.click_days)
    .fetch_one(&mut *transaction)
    .await?;
    if change.fallback_url.is_some() || change.cookie_domain.is_some() {
        edge_index::tenant_changed(&mut transaction, tenant.id).await?;
    }
    transaction.commit().await?;
    Ok(Json(tenant))
}
