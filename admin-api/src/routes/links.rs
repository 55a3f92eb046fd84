//! Tracking links. The redirector knows a link by its key in Redis, so each change of one goes
//! through the outbox.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use utoipa::{IntoParams, ToSchema};

use super::{IdempotencyHeader, TenantHeader};
use crate::auth::Scoped;
use crate::edge_index;
use crate::error::{FieldError, Problem};
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, Page};
use crate::state::App;
use crate::validate::Checks;

/// Characters of a code that we choose: 62^8 of them, so that they can't be tried out.
const CODE_CHARS: usize = 8;
const CODE_ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How often another code is drawn when one is taken.
const CODE_DRAWS: u32 = 5;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLink {
    /// What stands in the link's address: 1 to 64 of A-Z, a-z, 0-9, _ and -; unique over all
    /// tenants. Drawn at random when left out.
    #[schema(examples("summer"))]
    code: Option<String>,
    program_id: i64,
    affiliate_id: i64,
    /// Where a click leads, with macros such as {click_id}.
    #[schema(examples("https://shop.example/?click_id={click_id}"))]
    destination: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkChange {
    destination: Option<String>,
    /// An inactive link is answered like an unknown one.
    active: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Link {
    #[schema(value_type = i64)]
    id: LinkId,
    code: String,
    /// What an affiliate publishes.
    #[schema(examples("https://go.example.com/r/summer"))]
    url: String,
    #[schema(value_type = i64)]
    program_id: ProgramId,
    #[schema(value_type = i64)]
    affiliate_id: AffiliateId,
    destination: String,
    active: bool,
    created_at: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    id: LinkId,
    code: String,
    program_id: ProgramId,
    affiliate_id: AffiliateId,
    destination: String,
    active: bool,
    created_at: DateTime<Utc>,
}

impl Link {
    fn new(app: &App, row: Row) -> Self {
        Self {
            id: row.id,
            url: url(app, &row.code),
            code: row.code,
            program_id: row.program_id,
            affiliate_id: row.affiliate_id,
            destination: row.destination,
            active: row.active,
            created_at: row.created_at,
        }
    }
}

/// The public address of a code.
pub(crate) fn url(app: &App, code: &str) -> String {
    format!("{}/r/{code}", app.settings.redirect_url)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    affiliate_id: Option<i64>,
    program_id: Option<i64>,
    /// Only the link of this code.
    code: Option<String>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// Create a link
///
/// The redirector serves it within a second or so.
#[utoipa::path(post, path = "/v1/links", tag = "Links", request_body = NewLink, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Link), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewLink>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    if let Some(code) = &new.code {
        checks.code("code", code);
    }
    checks.destination("destination", &new.destination);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    must_belong(creation.connection(), at.tenant, &new).await?;
    let mut row = None;
    for _ in 0..CODE_DRAWS {
        let code = new.code.clone().unwrap_or_else(random_code);
        row = insert(creation.connection(), &app, at.tenant, &code, &new).await?;
        if row.is_some() || new.code.is_some() {
            break;
        }
    }
    let row = row.ok_or_else(|| Problem::taken("code", "another link has this code"))?;
    edge_index::link_changed(creation.connection(), row.id).await?;
    creation.finish(&Link::new(&app, row), &[]).await
}

async fn insert(
    connection: &mut PgConnection,
    app: &App,
    tenant: TenantId,
    code: &str,
    new: &NewLink,
) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query_as(
        "INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (code) DO NOTHING
         RETURNING id, code, program_id, affiliate_id, destination, active, created_at",
    )
    .bind(tenant)
    .bind(new.program_id)
    .bind(new.affiliate_id)
    .bind(code)
    .bind(&new.destination)
    .bind(app.clock.now())
    .fetch_optional(connection)
    .await
}

/// Program and affiliate must be the tenant's; the database refuses others anyway, less clearly.
async fn must_belong(
    connection: &mut PgConnection,
    tenant: TenantId,
    new: &NewLink,
) -> Result<(), Problem> {
    let (program, affiliate): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM programs WHERE tenant_id = $1 AND id = $2),
                EXISTS (SELECT FROM affiliates WHERE tenant_id = $1 AND id = $3)",
    )
    .bind(tenant)
    .bind(new.program_id)
    .bind(new.affiliate_id)
    .fetch_one(connection)
    .await?;
    let missing = [
        ("program_id", "there is no such program", program),
        ("affiliate_id", "there is no such affiliate", affiliate),
    ];
    let errors: Vec<FieldError> = missing
        .into_iter()
        .filter(|(_, _, there)| !there)
        .map(|(field, message, _)| FieldError {
            field: field.to_owned(),
            message: message.to_owned(),
        })
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Problem::invalid(errors))
    }
}

fn random_code() -> String {
    (0..CODE_CHARS)
        .map(|_| char::from(CODE_ALPHABET[rand::random_range(0..CODE_ALPHABET.len())]))
        .collect()
}

/// List links
#[utoipa::path(get, path = "/v1/links", tag = "Links", params(TenantHeader, Filter),
    responses((status = 200, body = Page<Link>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(filter.limit, filter.cursor.as_deref())?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, code, program_id, affiliate_id, destination, active, created_at FROM links
         WHERE tenant_id = $1 AND id > $2
           AND ($3::bigint IS NULL OR affiliate_id = $3)
           AND ($4::bigint IS NULL OR program_id = $4)
           AND ($5::text IS NULL OR code = $5)
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
        .page(rows, |row| AfterId(row.id.0), |row| Link::new(&app, row))
        .respond(format)
}

/// Read a link
#[utoipa::path(get, path = "/v1/links/{id}", tag = "Links", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Link), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<Json<Link>, Problem> {
    let row: Row = sqlx::query_as(
        "SELECT id, code, program_id, affiliate_id, destination, active, created_at FROM links
         WHERE tenant_id = $1 AND id = $2",
    )
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&app.postgres)
    .await?
    .ok_or_else(|| Problem::not_found("link"))?;
    Ok(Json(Link::new(&app, row)))
}

/// Change a link
///
/// What is left out stays as it is. The redirector follows within a second or so.
#[utoipa::path(patch, path = "/v1/links/{id}", tag = "Links", request_body = LinkChange, params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Link), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    body: Body<LinkChange>,
) -> Result<Json<Link>, Problem> {
    let change = body.value;
    let mut checks = Checks::default();
    if let Some(destination) = &change.destination {
        checks.destination("destination", destination);
    }
    checks.finish()?;
    let mut transaction = app.postgres.begin().await?;
    let row: Row = sqlx::query_as(
        "UPDATE links SET destination = COALESCE($3, destination), active = COALESCE($4, active), updated_at = $5
         WHERE tenant_id = $1 AND id = $2
         RETURNING id, code, program_id, affiliate_id, destination, active, created_at",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(&change.destination)
    .bind(change.active)
    .bind(app.clock.now())
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("link"))?;
    edge_index::link_changed(&mut transaction, row.id).await?;
    transaction.commit().await?;
    Ok(Json(Link::new(&app, row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_codes_are_codes() {
        let code = random_code();
        assert!(tributary_shared::links::is_code(&code));
        assert_eq!(code.len(), CODE_CHARS);
        assert_ne!(code, random_code());
    }
}
