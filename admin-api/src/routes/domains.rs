//! A tenant's own domains: hosts on which the redirector serves its links at `/{code}`. The
//! redirector knows a host by its key in Redis, so adding and removing one goes through the outbox.
//!
//! That the host is the tenant's to give is not verified yet: who names it first has it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::{IdempotencyHeader, TenantHeader};
use crate::auth::Scoped;
use crate::edge_index;
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

/// Most domains of one tenant.
const MAX_DOMAINS: i64 = 100;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDomain {
    /// Host name in lower case (punycode for other scripts), without port; unique over all tenants.
    #[schema(examples("go.shop.example"))]
    host: String,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Domain {
    id: i64,
    #[schema(examples("go.shop.example"))]
    host: String,
    created_at: DateTime<Utc>,
}

/// Add a domain
///
/// The redirector serves the tenant's links on it within a second or so, once its name leads to the
/// redirector. 100 domains at most. That the tenant owns the name is not verified yet.
#[utoipa::path(post, path = "/v1/domains", tag = "Domains", request_body = NewDomain, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Domain), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewDomain>,
) -> Result<Response, Problem> {
    let host = body.value.host;
    let mut checks = Checks::default();
    checks.host("host", &host);
    if is_shared(&app, &host) {
        checks.wrong("host", "is the host that all tenants share");
    }
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    // One at a time, so that the limit holds.
    sqlx::query("SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE")
        .bind(at.tenant)
        .execute(creation.connection())
        .await?;
    let domains: i64 = sqlx::query_scalar("SELECT count(*) FROM domains WHERE tenant_id = $1")
        .bind(at.tenant)
        .fetch_one(creation.connection())
        .await?;
    if domains >= MAX_DOMAINS {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!("a tenant has at most {MAX_DOMAINS} domains: delete one first"),
        ));
    }
    let domain: Domain = sqlx::query_as(
        "INSERT INTO domains (tenant_id, host, created_at) VALUES ($1, $2, $3)
         ON CONFLICT (host) DO NOTHING RETURNING id, host, created_at",
    )
    .bind(at.tenant)
    .bind(&host)
    .bind(app.clock.now())
    .fetch_optional(creation.connection())
    .await?
    .ok_or_else(|| Problem::taken("host", "this host is in use already"))?;
    edge_index::domain_changed(creation.connection(), &domain.host).await?;
    creation.finish(&domain, &[]).await
}

/// Whether `host` is the platform's own, which no tenant may have for itself.
fn is_shared(app: &App, host: &str) -> bool {
    Url::parse(&app.settings.redirect_url).is_ok_and(|url| url.host_str() == Some(host))
}

/// List domains
#[utoipa::path(get, path = "/v1/domains", tag = "Domains", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<Domain>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<Domain> = sqlx::query_as(
        "SELECT id, host, created_at FROM domains
         WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |domain| AfterId(domain.id), |domain| domain)
        .respond(format)
}

/// Delete a domain
///
/// The redirector stops serving the tenant on it within a second or so; anybody may then add it.
#[utoipa::path(delete, path = "/v1/domains/{id}", tag = "Domains", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<StatusCode, Problem> {
    let mut transaction = app.postgres.begin().await?;
    let host: String =
        sqlx::query_scalar("DELETE FROM domains WHERE tenant_id = $1 AND id = $2 RETURNING host")
            .bind(at.tenant)
            .bind(id.0)
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or_else(|| Problem::not_found("domain"))?;
    edge_index::domain_changed(&mut transaction, &host).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
