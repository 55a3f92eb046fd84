//! Publishable keys of a tenant: what its pages report conversions with from a shopper's browser. A
//! key stands in those pages for all to read, so it is no secret: it is kept and shown as it is, and
//! works from the origins alone that it names. The redirector knows it by its key in Redis, so each
//! change goes through the outbox.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::links::PUBLISHABLE_PREFIX;
use tributary_shared::secrets::new_token;
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

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPublishableKey {
    #[schema(examples("Shop pages"))]
    name: String,
    /// Where the pages stand that use it, as a browser names it: scheme, host, and port where it is
    /// not the usual one; 1 to 50.
    #[schema(examples(json!(["https://shop.example"])))]
    origins: Vec<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishableKeyChange {
    name: Option<String>,
    /// Replaces the whole list.
    #[schema(examples(json!(["https://shop.example", "https://www.shop.example"])))]
    origins: Option<Vec<String>>,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct PublishableKey {
    id: i64,
    name: String,
    /// What the pages send. It is public.
    #[schema(examples("trk_pub_9vXw2aC1bQe7Lk0pZs3Rt5Uy8Io4Mn6D"))]
    key: String,
    origins: Vec<String>,
    created_at: DateTime<Utc>,
    /// Set when the key no longer works.
    revoked_at: Option<DateTime<Utc>>,
}

/// Create a publishable key
///
/// The redirector takes it within a second or so.
#[utoipa::path(post, path = "/v1/publishable-keys", tag = "Domains", request_body = NewPublishableKey, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = PublishableKey), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewPublishableKey>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let name = checks.name("name", &new.name);
    checks.origins("origins", &new.origins);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let key: PublishableKey = sqlx::query_as(
        "INSERT INTO publishable_keys (tenant_id, name, key, origins, created_at)
         VALUES ($1, $2, $3, $4, $5) RETURNING id, name, key, origins, created_at, revoked_at",
    )
    .bind(at.tenant)
    .bind(&name)
    .bind(new_token(PUBLISHABLE_PREFIX))
    .bind(&new.origins)
    .bind(app.clock.now())
    .fetch_one(creation.connection())
    .await?;
    edge_index::publishable_key_changed(creation.connection(), key.id).await?;
    creation.finish(&key, &[]).await
}

/// List publishable keys
#[utoipa::path(get, path = "/v1/publishable-keys", tag = "Domains", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<PublishableKey>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<PublishableKey> = sqlx::query_as(
        "SELECT id, name, key, origins, created_at, revoked_at FROM publishable_keys
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

/// Change a publishable key
///
/// What is left out stays as it is. The redirector follows within a second or so.
#[utoipa::path(patch, path = "/v1/publishable-keys/{id}", tag = "Domains", request_body = PublishableKeyChange, params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = PublishableKey), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    body: Body<PublishableKeyChange>,
) -> Result<Json<PublishableKey>, Problem> {
    let change = body.value;
    let mut checks = Checks::default();
    let name = change.name.map(|name| checks.name("name", &name));
    if let Some(origins) = &change.origins {
        checks.origins("origins", origins);
    }
    checks.finish()?;
    let mut transaction = app.postgres.begin().await?;
    let key: PublishableKey = sqlx::query_as(
        "UPDATE publishable_keys SET name = COALESCE($3, name), origins = COALESCE($4, origins)
         WHERE tenant_id = $1 AND id = $2 RETURNING id, name, key, origins, created_at, revoked_at",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(&name)
    .bind(&change.origins)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("publishable key"))?;
    edge_index::publishable_key_changed(&mut transaction, key.id).await?;
    transaction.commit().await?;
    Ok(Json(key))
}

/// Revoke a publishable key
///
/// The redirector refuses it within a second or so. Revoking it again changes nothing.
#[utoipa::path(delete, path = "/v1/publishable-keys/{id}", tag = "Domains", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn revoke(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<StatusCode, Problem> {
    let mut transaction = app.postgres.begin().await?;
    sqlx::query_scalar::<_, i64>(
        "UPDATE publishable_keys SET revoked_at = COALESCE(revoked_at, $3)
         WHERE tenant_id = $1 AND id = $2 RETURNING id",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(app.clock.now())
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("publishable key"))?;
    edge_index::publishable_key_changed(&mut transaction, id.0).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
