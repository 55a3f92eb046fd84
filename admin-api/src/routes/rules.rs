//! Commission rules of a program: each has a name and any number of versions, of which none ever changes.
//! What a document may hold is in shared/src/commission/rule.rs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tributary_shared::commission;
use tributary_shared::ids::{ProgramId, TenantId};
use tributary_shared::money::Currency;
use utoipa::{IntoParams, ToSchema};

use super::TenantHeader;
use crate::audit::{Action, Audit, Change};
use crate::auth::{Actor, Scoped};
use crate::error::Problem;
use crate::extract::{Body, Format, Id, Name, Query};
use crate::pages::{AfterId, Asked, Page};
use crate::state::App;
use crate::validate::Checks;

/// Most rules of a program.
pub(crate) const MAX_RULES: i64 = 500;
/// Most versions of a rule.
pub(crate) const MAX_VERSIONS: i32 = 1000;

/// Selects or returns what a [`Rule`] holds.
macro_rules! columns {
    () => {
        "id, program_id, name, version, document, active, created_at"
    };
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleVersion {
    /// The rule, in amounts of the program's currency. Only `reward` is required.
    #[schema(value_type = Object, examples(json!({
        "events": ["sale"],
        "scope": {"tiers": ["gold", "platinum"], "categories": ["shoes"]},
        "priority": 10,
        "when": "order.amount >= 50.0 && country in ['DE', 'AT']",
        "reward": {"kind": "hybrid", "percent": "8", "flat": "0.50", "per": "unit"},
        "tiers": {"by": "revenue", "period": "month", "steps": [{"from": "1000", "percent": "9"}, {"from": "5000", "percent": "10"}]},
        "uplift": [{"certification": "expert", "percent": "10"}],
        "maximum": "100.00",
        "cap": {"amount": "2000.00", "period": "month"}
    })))]
    document: Value,
    /// False takes the rule out of force.
    #[serde(default = "yes")]
    #[schema(default = true)]
    active: bool,
}

fn yes() -> bool {
    true
}

/// A version of a rule.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Rule {
    /// Of this version.
    id: i64,
    #[schema(value_type = i64)]
    program_id: ProgramId,
    #[schema(examples("base"))]
    name: String,
    version: i32,
    #[schema(value_type = Object, examples(json!({"events": [], "reward": {"kind": "percent", "percent": "12.5"}})))]
    document: Value,
    active: bool,
    /// From when on it is in force: for orders of that time and later; the first version also for earlier ones.
    created_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// All versions of this rule, in place of the latest of each.
    name: Option<String>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// List a program's commission rules
///
/// The latest version of each, or with `name` all versions of one.
#[utoipa::path(get, path = "/v1/programs/{id}/rules", tag = "Programs", params(TenantHeader, ("id" = i64, Path), Filter),
    responses((status = 200, body = Page<Rule>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(filter.limit, filter.cursor.as_deref())?;
    let mut connection = app.postgres.acquire().await?;
    currency(&mut connection, at.tenant, id.0).await?;
    let rows: Vec<Rule> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM commission_rules r WHERE tenant_id = $1 AND program_id = $2 AND id > $3
           AND CASE WHEN $4::text IS NULL
               THEN version = (SELECT max(version) FROM commission_rules l WHERE l.program_id = r.program_id AND l.name = r.name)
               ELSE name = $4 END
         ORDER BY id LIMIT $5"
    ))
    .bind(at.tenant)
    .bind(id.0)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(&filter.name)
    .bind(asked.rows())
    .fetch_all(&mut *connection)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id), |row| row)
        .respond(format)
}

/// The currency of the program's amounts.
pub(crate) async fn currency(
    connection: &mut PgConnection,
    tenant: TenantId,
    program: i64,
) -> Result<Currency, Problem> {
    let code: Option<String> =
        sqlx::query_scalar("SELECT currency FROM programs WHERE tenant_id = $1 AND id = $2")
            .bind(tenant)
            .bind(program)
            .fetch_optional(connection)
            .await?;
    code.ok_or_else(|| Problem::not_found("program"))?
        .parse()
        .map_err(|_| {
            Problem::new(
                StatusCode::CONFLICT,
                "nothing can be paid in the program's currency any more",
            )
        })
}

/// Notes everything that is wrong with a document.
pub(crate) fn check(checks: &mut Checks, document: &Value, currency: Currency) {
    for problem in commission::check(document, currency) {
        let field = match problem.path.as_str() {
            "" => "document".to_owned(),
            path => format!("document.{path}"),
        };
        checks.wrong(&field, problem.message);
    }
}

/// Write a commission rule
///
/// Adds the next version, which is in force from now on; earlier ones stay, and orders of their time are paid by them. A
/// document that is the latest version's, in force or not like that, adds nothing.
#[utoipa::path(put, path = "/v1/programs/{id}/rules/{name}", tag = "Programs", request_body = RuleVersion,
    params(TenantHeader, ("id" = i64, Path), ("name" = String, Path, description = "1 to 64 characters, such as gold-shoes; `base` is the percentage that the program was made with")),
    responses((status = 200, body = Rule), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    at: Scoped,
    actor: Actor,
    id: Id,
    Name(name): Name,
    body: Body<RuleVersion>,
) -> Result<Json<Rule>, Problem> {
    let new = body.value;
    let mut transaction = app.postgres.begin().await?;
    // One at a time, so that versions are numbered without gaps.
    sqlx::query("SELECT FROM programs WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE")
        .bind(at.tenant)
        .bind(id.0)
        .execute(&mut *transaction)
        .await?;
    let currency = currency(&mut transaction, at.tenant, id.0).await?;
    let mut checks = Checks::default();
    if checks.label("name", &name) != name {
        checks.wrong("name", "must not begin or end with a space");
    }
    check(&mut checks, &new.document, currency);
    checks.finish()?;
    let latest: Option<Rule> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM commission_rules WHERE tenant_id = $1 AND program_id = $2 AND name = $3 ORDER BY version DESC LIMIT 1"
    ))
    .bind(at.tenant)
    .bind(id.0)
    .bind(&name)
    .fetch_optional(&mut *transaction)
    .await?;
    match &latest {
        Some(same) if same.document == new.document && same.active == new.active => {
            return latest.map(Json).ok_or_else(Problem::internal);
        }
        Some(latest) if latest.version >= MAX_VERSIONS => {
            let text =
                format!("a rule has at most {MAX_VERSIONS} versions: go on under another name");
            return Err(Problem::new(StatusCode::CONFLICT, text));
        }
        Some(_) => {}
        None => {
            let rules: i64 = sqlx::query_scalar(
                "SELECT count(DISTINCT name) FROM commission_rules WHERE tenant_id = $1 AND program_id = $2",
            )
            .bind(at.tenant)
            .bind(id.0)
            .fetch_one(&mut *transaction)
            .await?;
            if rules >= MAX_RULES {
                let text = format!(
                    "a program has at most {MAX_RULES} rules: use the name of one that is out of force"
                );
                return Err(Problem::new(StatusCode::CONFLICT, text));
            }
        }
    }
    // Never before its predecessor, whatever the clock did.
    let rule: Rule = sqlx::query_as(concat!(
        "INSERT INTO commission_rules (tenant_id, program_id, name, version, document, active, created_at)
         SELECT $1, $2, $3, coalesce(max(version), 0) + 1, $4, $5, greatest($6, max(created_at))
         FROM commission_rules WHERE tenant_id = $1 AND program_id = $2 AND name = $3 RETURNING ",
        columns!()
    ))
    .bind(at.tenant)
    .bind(id.0)
    .bind(&name)
    .bind(&new.document)
    .bind(new.active)
    .bind(app.clock.now())
    .fetch_one(&mut *transaction)
    .await?;
    let state = |rule: &Rule| json!({"version": rule.version, "document": rule.document, "active": rule.active});
    let change = Change {
        kind: "rule",
        id: format!("{}/{name}", id.0),
        before: latest.as_ref().map(state),
        after: Some(state(&rule)),
    };
    let action = match latest {
        Some(_) => Action::Changed,
        None => Action::Created,
    };
    let audit = Audit {
        tenant: at.tenant,
        actor: &actor,
        at: app.clock.now(),
    };
    audit.note(&mut transaction, action, &[change]).await?;
    transaction.commit().await?;
    Ok(Json(rule))
}
