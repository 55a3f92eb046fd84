//! Postback tokens of a tenant: what a shop's server sends conversions with. The redirector knows a
//! token by its hash in Redis, so making and revoking one goes through the outbox.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::secrets::{new_token, token_hash};
use utoipa::ToSchema;

use super::IdempotencyHeader;
use super::api_keys::SHOWN_CHARS;
use crate::auth::{InPath, POSTBACK_PREFIX};
use crate::edge_index;
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPostbackToken {
    #[schema(examples("Shop checkout"))]
    name: String,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct PostbackToken {
    id: i64,
    name: String,
    /// How the token begins.
    #[schema(examples("trp_9vXw2a"))]
    prefix: String,
    created_at: DateTime<Utc>,
    /// Set when the token no longer works.
    revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CreatedPostbackToken {
    id: i64,
    name: String,
    prefix: String,
    created_at: DateTime<Utc>,
    /// The token. It can't be read again; null when the answer is a repetition.
    #[schema(value_type = Option<String>)]
    token: String,
}

/// Create a postback token
///
/// The token is in this answer only. The redirector takes it within a second or so.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/postback-tokens", tag = "Tenants", request_body = NewPostbackToken,
    params(("tenant_id" = i64, Path), IdempotencyHeader),
    responses((status = 201, body = CreatedPostbackToken), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: InPath,
    idempotency: IdempotencyKey,
    body: Body<NewPostbackToken>,
) -> Result<Response, Problem> {
    let mut checks = Checks::default();
    let name = checks.name("name", &body.value.name);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let token = new_token(POSTBACK_PREFIX);
    let row: PostbackToken = sqlx::query_as(
        "INSERT INTO postback_tokens (tenant_id, name, prefix, sha256, created_at)
         VALUES ($1, $2, $3, $4, $5) RETURNING id, name, prefix, created_at, revoked_at",
    )
    .bind(at.tenant)
    .bind(&name)
    .bind(&token[..SHOWN_CHARS])
    .bind(token_hash(&token).as_slice())
    .bind(app.clock.now())
    .fetch_one(creation.connection())
    .await?;
    edge_index::postback_token_changed(creation.connection(), row.id).await?;
    let answer = CreatedPostbackToken {
        id: row.id,
        name: row.name,
        prefix: row.prefix,
        created_at: row.created_at,
        token,
    };
    creation.finish(&answer, &["token"]).await
}

/// List postback tokens
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/postback-tokens", tag = "Tenants",
    params(("tenant_id" = i64, Path), ListQuery),
    responses((status = 200, body = Page<PostbackToken>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: InPath,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<PostbackToken> = sqlx::query_as(
        "SELECT id, name, prefix, created_at, revoked_at FROM postback_tokens
         WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |token| AfterId(token.id), |token| token)
        .respond(format)
}

/// Revoke a postback token
///
/// The redirector refuses it within a second or so. Revoking it again changes nothing.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/postback-tokens/{id}", tag = "Tenants",
    params(("tenant_id" = i64, Path), ("id" = i64, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn revoke(
    State(app): State<App>,
    at: InPath,
    id: Id,
) -> Result<StatusCode, Problem> {
    let mut transaction = app.postgres.begin().await?;
    sqlx::query_scalar::<_, i64>(
        "UPDATE postback_tokens SET revoked_at = COALESCE(revoked_at, $3)
         WHERE tenant_id = $1 AND id = $2 RETURNING id",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(app.clock.now())
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("postback token"))?;
    edge_index::postback_token_changed(&mut transaction, id.0).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
