//! Sources of reports: where a tenant's shop or payment system sends its webhooks. Its signing secret is entered here,
//! kept sealed, and shown to nobody. The redirector knows a source by its public id in Redis, so each change goes
//! through the outbox.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::ids::TenantId;
use tributary_shared::links::{WEBHOOK_PREFIX, webhook_purpose};
use tributary_shared::reports::webhooks::Kind;
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

/// How long the secret before the last counts, in hours: by default as long as Stripe signs with both at most.
const OLD_SECRET_HOURS: i64 = 24;
const MAX_OLD_SECRET_HOURS: i64 = 72;

/// Whose webhooks a source takes.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SourceKind {
    Stripe,
    Shopify,
}

impl SourceKind {
    fn kind(self) -> Kind {
        match self {
            Self::Stripe => Kind::Stripe,
            Self::Shopify => Kind::Shopify,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSource {
    #[schema(examples("Stripe, live"))]
    name: String,
    kind: SourceKind,
    /// What it signs with, as it shows it: Stripe's signing secret of the endpoint (`whsec_…`), Shopify's secret of the
    /// notifications or of the app. Left out: the address is wanted first; it is entered afterwards, and until then every
    /// webhook is refused.
    #[schema(examples("whsec_8LkTq0ZrV3"))]
    secret: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceChange {
    name: Option<String>,
    /// The secret that counts from now on. The one before counts beside it for `old_secret_hours`.
    secret: Option<String>,
    /// Beside `secret`: 0 to 72; 24 by default.
    old_secret_hours: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Source {
    id: i64,
    name: String,
    /// `stripe` or `shopify`.
    #[schema(examples("stripe"))]
    kind: String,
    /// What to enter there as the address of the webhook. The tenant's own domains serve the same path.
    #[schema(examples("https://go.example.com/webhooks/trw_9vXw2aC1bQe7Lk0pZs3Rt5Uy8Io4Mn6D"))]
    url: String,
    /// Until when the secret before the last counts; null: one alone counts.
    old_secret_ends_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// Set when its webhooks are refused.
    revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, sqlx::FromRow)]
struct SourceRow {
    id: i64,
    name: String,
    kind: String,
    public_id: String,
    old_secret_ends_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
}

impl SourceRow {
    fn shown(self, app: &App) -> Source {
        let ends_at = self.old_secret_ends_at;
        Source {
            id: self.id,
            url: format!("{}/webhooks/{}", app.settings.redirect_url, self.public_id),
            name: self.name,
            kind: self.kind,
            old_secret_ends_at: ends_at.filter(|end| *end > app.clock.now()),
            created_at: self.created_at,
            revoked_at: self.revoked_at,
        }
    }
}

/// Create a source
///
/// The answer has the address to enter at Stripe or Shopify. The redirector takes its webhooks within a second or so.
#[utoipa::path(post, path = "/v1/sources", tag = "Money", request_body = NewSource, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Source), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewSource>,
) -> Result<Response, Problem> {
    let new = body.value;
    let kind = new.kind.kind();
    let mut checks = Checks::default();
    let name = checks.name("name", &new.name);
    if let Some(secret) = &new.secret {
        checks.signing_secret("secret", kind, secret);
    }
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let public_id = new_token(WEBHOOK_PREFIX);
    // One that nobody knows signs nothing.
    let secret = new.secret.unwrap_or_else(|| new_token("unset_"));
    let sealed = seal(&app, &public_id, &secret);
    let row: SourceRow = sqlx::query_as(
        "INSERT INTO sources (tenant_id, name, kind, public_id, secret, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         RETURNING id, name, kind, public_id, old_secret_ends_at, created_at, revoked_at",
    )
    .bind(at.tenant)
    .bind(&name)
    .bind(kind.name())
    .bind(&public_id)
    .bind(sealed)
    .bind(app.clock.now())
    .fetch_one(creation.connection())
    .await?;
    edge_index::source_changed(creation.connection(), row.id).await?;
    creation.finish(&row.shown(&app), &[]).await
}

/// List sources
#[utoipa::path(get, path = "/v1/sources", tag = "Money", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<Source>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<SourceRow> = sqlx::query_as(
        "SELECT id, name, kind, public_id, old_secret_ends_at, created_at, revoked_at FROM sources
         WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id), |row| row.shown(&app))
        .respond(format)
}

/// Change a source
///
/// What is left out stays as it is. With `secret` the signing secret is replaced, and the one before counts for a while
/// longer. The redirector follows within a second or so.
#[utoipa::path(patch, path = "/v1/sources/{id}", tag = "Money", request_body = SourceChange, params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Source), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    body: Body<SourceChange>,
) -> Result<Json<Source>, Problem> {
    let change = body.value;
    let mut transaction = app.postgres.begin().await?;
    let before: (String, String) = sqlx::query_as(
        "SELECT kind, public_id FROM sources WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
    )
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("source"))?;
    let (kind, public_id) = before;
    let mut checks = Checks::default();
    let name = change.name.map(|name| checks.name("name", &name));
    if let (Some(secret), Some(kind)) = (&change.secret, Kind::named(&kind)) {
        checks.signing_secret("secret", kind, secret);
    }
    let hours = change.old_secret_hours;
    if hours.is_some_and(|hours| !(0..=MAX_OLD_SECRET_HOURS).contains(&hours)) {
        let message = format!("must be 0 to {MAX_OLD_SECRET_HOURS}");
        checks.wrong("old_secret_hours", message);
    }
    if hours.is_some() && change.secret.is_none() {
        checks.wrong("old_secret_hours", "says nothing without a secret");
    }
    checks.finish()?;
    let secret = change.secret.map(|secret| seal(&app, &public_id, &secret));
    let hours = hours.unwrap_or(OLD_SECRET_HOURS);
    let ends_at = Some(app.clock.now() + TimeDelta::hours(hours)).filter(|_| hours > 0);
    let row: SourceRow = sqlx::query_as(
        "UPDATE sources SET name = COALESCE($3, name),
             old_secret = CASE WHEN $4::bytea IS NULL THEN old_secret WHEN $5::timestamptz IS NOT NULL THEN secret END,
             old_secret_ends_at = CASE WHEN $4::bytea IS NULL THEN old_secret_ends_at ELSE $5 END,
             secret = COALESCE($4, secret)
         WHERE tenant_id = $1 AND id = $2
         RETURNING id, name, kind, public_id, old_secret_ends_at, created_at, revoked_at",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(&name)
    .bind(secret)
    .bind(ends_at)
    .fetch_one(&mut *transaction)
    .await?;
    edge_index::source_changed(&mut transaction, row.id).await?;
    transaction.commit().await?;
    Ok(Json(row.shown(&app)))
}

/// Revoke a source
///
/// The redirector refuses its webhooks within a second or so. Revoking it again changes nothing.
#[utoipa::path(delete, path = "/v1/sources/{id}", tag = "Money", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn revoke(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<StatusCode, Problem> {
    let mut transaction = app.postgres.begin().await?;
    sqlx::query_scalar::<_, i64>(
        "UPDATE sources SET revoked_at = COALESCE(revoked_at, $3) WHERE tenant_id = $1 AND id = $2 RETURNING id",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(app.clock.now())
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("source"))?;
    edge_index::source_changed(&mut transaction, id.0).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Of which kind a tenant's source is.
pub(super) async fn kind(app: &App, tenant: TenantId, id: i64) -> Result<Kind, Problem> {
    let kind: Option<String> =
        sqlx::query_scalar("SELECT kind FROM sources WHERE tenant_id = $1 AND id = $2")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&app.postgres)
            .await?;
    let kind = kind.and_then(|kind| Kind::named(&kind));
    kind.ok_or_else(|| Problem::not_found("source"))
}

fn seal(app: &App, public_id: &str, secret: &str) -> Vec<u8> {
    let purpose = webhook_purpose(public_id);
    app.settings.sealing.seal(&purpose, secret.as_bytes())
}
