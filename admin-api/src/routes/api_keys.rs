//! API keys of a tenant. The key itself is shown once, when it is made; only its hash is stored.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::secrets::{new_token, token_hash};
use utoipa::ToSchema;

use super::IdempotencyHeader;
use crate::auth::{API_KEY_PREFIX, InPath, Role};
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

/// How much of a token is kept readable, so that people can tell tokens apart.
pub(super) const SHOWN_CHARS: usize = 10;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApiKey {
    #[schema(examples("Shop backend"))]
    name: String,
    role: Role,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct ApiKey {
    id: i64,
    name: String,
    role: Role,
    /// How the key begins.
    #[schema(examples("trk_9vXw2a"))]
    prefix: String,
    created_at: DateTime<Utc>,
    /// Set when the key no longer works.
    revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CreatedApiKey {
    id: i64,
    name: String,
    role: Role,
    prefix: String,
    created_at: DateTime<Utc>,
    /// The key. It can't be read again; null when the answer is a repetition.
    #[schema(value_type = Option<String>)]
    key: String,
}

/// Create an API key
///
/// The key is in this answer only.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/api-keys", tag = "Tenants", request_body = NewApiKey,
    params(("tenant_id" = i64, Path), IdempotencyHeader),
    responses((status = 201, body = CreatedApiKey), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: InPath,
    idempotency: IdempotencyKey,
    body: Body<NewApiKey>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let name = checks.name("name", &new.name);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let key = new_token(API_KEY_PREFIX);
    let row: ApiKey = sqlx::query_as(
        "INSERT INTO api_keys (tenant_id, name, role, prefix, sha256, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING id, name, role, prefix, created_at, revoked_at",
    )
    .bind(at.tenant)
    .bind(&name)
    .bind(new.role)
    .bind(&key[..SHOWN_CHARS])
    .bind(token_hash(&key).as_slice())
    .bind(app.clock.now())
    .fetch_one(creation.connection())
    .await?;
    let answer = CreatedApiKey {
        id: row.id,
        name: row.name,
        role: row.role,
        prefix: row.prefix,
        created_at: row.created_at,
        key,
    };
    creation.finish(&answer, &["key"]).await
}

/// List API keys
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/api-keys", tag = "Tenants",
    params(("tenant_id" = i64, Path), ListQuery),
    responses((status = 200, body = Page<ApiKey>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: InPath,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<ApiKey> = sqlx::query_as(
        "SELECT id, name, role, prefix, created_at, revoked_at FROM api_keys
         WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |key| AfterId(key.id), |key| key)
        .respond(format)
}

/// Revoke an API key
///
/// It stops working at once. Revoking it again changes nothing.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/api-keys/{id}", tag = "Tenants",
    params(("tenant_id" = i64, Path), ("id" = i64, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn revoke(
    State(app): State<App>,
    at: InPath,
    id: Id,
) -> Result<StatusCode, Problem> {
    sqlx::query_scalar::<_, i64>(
        "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $3)
         WHERE tenant_id = $1 AND id = $2 RETURNING id",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(app.clock.now())
    .fetch_optional(&app.postgres)
    .await?
    .ok_or_else(|| Problem::not_found("API key"))?;
    Ok(StatusCode::NO_CONTENT)
}
