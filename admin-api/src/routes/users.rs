//! People of a tenant who sign in.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::IdempotencyHeader;
use crate::auth::{InPath, Role};
use crate::error::Problem;
use crate::extract::{Body, Format, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    #[schema(examples("ana@example.com"))]
    email: String,
    /// 10 to 256 characters.
    password: String,
    role: Role,
}

impl std::fmt::Debug for NewUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewUser")
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct User {
    id: i64,
    email: String,
    role: Role,
    created_at: DateTime<Utc>,
}

/// Create a user
///
/// An e-mail address belongs to one user over all tenants.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/users", tag = "Tenants", request_body = NewUser,
    params(("tenant_id" = i64, Path), IdempotencyHeader),
    responses((status = 201, body = User), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: InPath,
    idempotency: IdempotencyKey,
    body: Body<NewUser>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let email = checks.email("email", &new.email);
    checks.password("password", &new.password);
    checks.finish()?;
    // Before the transaction begins: hashing takes its time.
    let password_hash = app.passwords.hash(new.password).await?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let user: User = sqlx::query_as(
        "INSERT INTO users (tenant_id, email, password_hash, role, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (lower(email)) DO NOTHING RETURNING id, email, role, created_at",
    )
    .bind(at.tenant)
    .bind(&email)
    .bind(&password_hash)
    .bind(new.role)
    .bind(app.clock.now())
    .fetch_optional(creation.connection())
    .await?
    .ok_or_else(|| Problem::taken("email", "a user with this e-mail address exists"))?;
    creation.finish(&user, &[]).await
}

/// List users
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/users", tag = "Tenants",
    params(("tenant_id" = i64, Path), ListQuery),
    responses((status = 200, body = Page<User>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: InPath,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<User> = sqlx::query_as(
        "SELECT id, email, role, created_at FROM users WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |user| AfterId(user.id), |user| user)
        .respond(format)
}
