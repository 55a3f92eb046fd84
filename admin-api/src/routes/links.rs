//! Tracking links. The redirector knows a link by its key in Redis, so each change of one goes
//! through the outbox.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use utoipa::{IntoParams, ToSchema};

use super::{IdempotencyHeader, TenantHeader};
use crate::auth::Scoped;
use crate::edge_index;
use crate::error::{FieldError, Problem};
use crate::extract::{Body, Format, Id, IdempotencyKey, Query, given};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, Page};
use crate::routing::Routing;
use crate::state::App;
use crate::validate::Checks;

/// Characters of a code that we choose: 62^8 of them, so that they can't be tried out.
const CODE_CHARS: usize = 8;
const CODE_ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How often another code is drawn when one is taken.
const CODE_DRAWS: u32 = 5;

/// Selects or returns what a [`Row`] holds.
macro_rules! columns {
    () => {
        "id, code, program_id, affiliate_id, destination, routing, pass_query, expires_at, click_cap, \
         click_cap_period, fallback_url, active, created_at"
    };
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "code": "summer", "program_id": 1, "affiliate_id": 1,
    "destination": "https://shop.example/?click_id={click_id}",
    "routing": {
        "variants": [
            {"destination": "https://shop.example/a?click_id={click_id}", "weight": 70},
            {"destination": "https://shop.example/b?click_id={click_id}", "weight": 30}
        ],
        "routes": [{
            "countries": ["DE", "AT"], "devices": ["mobile"], "languages": ["de"],
            "schedule": {"time_zone": "Europe/Berlin", "days": ["saturday", "sunday"], "from_minute": 540, "to_minute": 1080},
            "variants": [{"destination": "https://shop.example/de?click_id={click_id}"}]
        }]
    },
    "pass_query": true, "expires_at": "2027-01-01T00:00:00Z",
    "click_cap": 10000, "click_cap_period": "day", "fallback_url": "https://shop.example/over"
}))]
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
    /// A split and conditions, in place of the destination.
    #[serde(default)]
    routing: Routing,
    /// Whether the parameters of the click's address are added to the destination's.
    #[serde(default)]
    pass_query: bool,
    /// From when on clicks lead to the fallback; null: never.
    expires_at: Option<DateTime<Utc>>,
    /// How many clicks are sent to the destination at most, from now on; the others lead to the
    /// fallback. Null: no cap.
    #[schema(examples(10_000))]
    click_cap: Option<i64>,
    #[serde(default)]
    #[schema(default = "total")]
    click_cap_period: CapPeriod,
    /// Where clicks lead when the link has expired or its cap is reached; null: to the tenant's
    /// fallback, and without one they get 404.
    #[schema(examples("https://shop.example/over"))]
    fallback_url: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"active": true, "click_cap": 500, "click_cap_period": "total", "expires_at": null}))]
pub(crate) struct LinkChange {
    destination: Option<String>,
    /// An inactive link is answered like an unknown one.
    active: Option<bool>,
    /// Replaces the whole routing; null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Routing>)]
    routing: Option<Option<Routing>>,
    pass_query: Option<bool>,
    /// Null: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    expires_at: Option<Option<DateTime<Utc>>>,
    /// Null: no cap. A cap counts from when the link first had one.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    click_cap: Option<Option<i64>>,
    click_cap_period: Option<CapPeriod>,
    /// Null: the tenant's.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    fallback_url: Option<Option<String>>,
}

/// What a click cap is counted over: everything, or each day of UTC.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type,
)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum CapPeriod {
    #[default]
    Total,
    Day,
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
    routing: Routing,
    pass_query: bool,
    expires_at: Option<DateTime<Utc>>,
    click_cap: Option<i64>,
    click_cap_period: CapPeriod,
    fallback_url: Option<String>,
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
    routing: Json<Routing>,
    pass_query: bool,
    expires_at: Option<DateTime<Utc>>,
    click_cap: Option<i64>,
    click_cap_period: CapPeriod,
    fallback_url: Option<String>,
    active: bool,
    created_at: DateTime<Utc>,
}

impl Row {
    /// Makes `change`; what it does not give stays.
    fn apply(&mut self, change: LinkChange) {
        if let Some(destination) = change.destination {
            self.destination = destination;
        }
        if let Some(active) = change.active {
            self.active = active;
        }
        if let Some(routing) = change.routing {
            self.routing = Json(routing.unwrap_or_default());
        }
        if let Some(pass_query) = change.pass_query {
            self.pass_query = pass_query;
        }
        if let Some(expires_at) = change.expires_at {
            self.expires_at = expires_at;
        }
        if let Some(click_cap) = change.click_cap {
            self.click_cap = click_cap;
        }
        if let Some(period) = change.click_cap_period {
            self.click_cap_period = period;
        }
        if let Some(fallback_url) = change.fallback_url {
            self.fallback_url = fallback_url;
        }
    }
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
            routing: row.routing.0,
            pass_query: row.pass_query,
            expires_at: row.expires_at,
            click_cap: row.click_cap,
            click_cap_period: row.click_cap_period,
            fallback_url: row.fallback_url,
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
    new.routing.check(&mut checks, "routing");
    check_limits(
        &mut checks,
        new.expires_at,
        new.click_cap,
        new.fallback_url.as_deref(),
    );
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

fn check_limits(
    checks: &mut Checks,
    expires_at: Option<DateTime<Utc>>,
    click_cap: Option<i64>,
    fallback_url: Option<&str>,
) {
    if let Some(moment) = expires_at {
        checks.moment("expires_at", moment);
    }
    if let Some(cap) = click_cap {
        checks.click_cap("click_cap", cap);
    }
    if let Some(url) = fallback_url {
        checks.url("fallback_url", url);
    }
}

async fn insert(
    connection: &mut PgConnection,
    app: &App,
    tenant: TenantId,
    code: &str,
    new: &NewLink,
) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query_as(concat!(
        "INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination, created_at, updated_at,
                            routing, pass_query, expires_at, click_cap, click_cap_period, fallback_url, capped_since)
         VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8, $9, $10, $11, $12, CASE WHEN $10 IS NOT NULL THEN $6 END)
         ON CONFLICT (code) DO NOTHING RETURNING ",
        columns!()
    ))
    .bind(tenant)
    .bind(new.program_id)
    .bind(new.affiliate_id)
    .bind(code)
    .bind(&new.destination)
    .bind(app.clock.now())
    .bind(Json(&new.routing))
    .bind(new.pass_query)
    .bind(new.expires_at)
    .bind(new.click_cap)
    .bind(new.click_cap_period)
    .bind(&new.fallback_url)
    .fetch_optional(connection)
    .await
}

/// Program and affiliate must be the tenant's; the database refuses others anyway, less clearly.
pub(crate) async fn must_belong(
    connection: &mut PgConnection,
    tenant: TenantId,
    program: i64,
    affiliate: i64,
) -> Result<(), Problem> {
    let (has_program, has_affiliate): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM programs WHERE tenant_id = $1 AND id = $2),
                EXISTS (SELECT FROM affiliates WHERE tenant_id = $1 AND id = $3)",
    )
    .bind(tenant)
    .bind(program)
    .bind(affiliate)
    .fetch_one(connection)
    .await?;
    let missing = [
        ("program_id", "there is no such program", has_program),
        ("affiliate_id", "there is no such affiliate", has_affiliate),
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
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM links
         WHERE tenant_id = $1 AND id > $2
           AND ($3::bigint IS NULL OR affiliate_id = $3)
           AND ($4::bigint IS NULL OR program_id = $4)
           AND ($5::text IS NULL OR code = $5)
         ORDER BY id LIMIT $6"
    ))
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
) -> Result<axum::Json<Link>, Problem> {
    let row: Row = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM links WHERE tenant_id = $1 AND id = $2"
    ))
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&app.postgres)
    .await?
    .ok_or_else(|| Problem::not_found("link"))?;
    Ok(axum::Json(Link::new(&app, row)))
}

/// Change a link
///
/// What is left out stays as it is; null takes away what can be without. The redirector follows within
/// a second or so.
#[utoipa::path(patch, path = "/v1/links/{id}", tag = "Links", request_body = LinkChange, params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Link), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    body: Body<LinkChange>,
) -> Result<axum::Json<Link>, Problem> {
    let change = body.value;
    let mut checks = Checks::default();
    if let Some(destination) = &change.destination {
        checks.destination("destination", destination);
    }
    if let Some(Some(routing)) = &change.routing {
        routing.check(&mut checks, "routing");
    }
    check_limits(
        &mut checks,
        change.expires_at.flatten(),
        change.click_cap.flatten(),
        change.fallback_url.as_ref().and_then(Option::as_deref),
    );
    checks.finish()?;
    let mut transaction = app.postgres.begin().await?;
    // Locked, so that a change of other fields at the same time is not undone.
    let mut row: Row = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM links WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE"
    ))
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("link"))?;
    row.apply(change);
    sqlx::query(
        "UPDATE links SET destination = $3, active = $4, routing = $5, pass_query = $6, expires_at = $7,
                click_cap = $8, click_cap_period = $9, fallback_url = $10, updated_at = $11,
                capped_since = COALESCE(capped_since, CASE WHEN $8 IS NOT NULL THEN $11 END)
         WHERE tenant_id = $1 AND id = $2",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(&row.destination)
    .bind(row.active)
    .bind(&row.routing)
    .bind(row.pass_query)
    .bind(row.expires_at)
    .bind(row.click_cap)
    .bind(row.click_cap_period)
    .bind(&row.fallback_url)
    .bind(app.clock.now())
    .execute(&mut *transaction)
    .await?;
    edge_index::link_changed(&mut transaction, row.id).await?;
    transaction.commit().await?;
    Ok(axum::Json(Link::new(&app, row)))
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
