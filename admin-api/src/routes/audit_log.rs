//! Who changed what: the log of decisions and of changes to programs, rules and what is blocked.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::TenantHeader;
use super::conversions::{one_of, times};
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Format, Query};
use crate::pages::{AfterId, Asked, Page};
use crate::state::App;

/// What an entry's `action` may be.
const ACTIONS: [&str; 4] = ["created", "changed", "deleted", "decided"];

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// RFC 3339; from this time on.
    from: Option<String>,
    /// RFC 3339; up to, and without, this time.
    to: Option<String>,
    /// Who, exactly as an entry says it.
    actor: Option<String>,
    /// created, changed, deleted or decided.
    action: Option<String>,
    /// program, rule, blocked or conversion.
    entity_kind: Option<String>,
    /// Of what; a rule's is its program's id and its name, such as `1/base`.
    entity_id: Option<String>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// Somebody changed something.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Entry {
    id: i64,
    at: DateTime<Utc>,
    #[schema(examples("ana@example.com"))]
    actor: String,
    /// created, changed, deleted or decided.
    #[schema(examples("changed"))]
    action: String,
    #[schema(examples("program"))]
    entity_kind: String,
    #[schema(examples("1"))]
    entity_id: String,
    /// What it was, as far as it changed; null: it is new.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    /// What it became; null: it is gone.
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
}

/// List changes, newest first
///
/// Decisions about conversions, and changes of programs (fraud settings among them), commission rules and what is blocked.
#[utoipa::path(get, path = "/v1/audit-log", tag = "Money", params(TenantHeader, Filter),
    responses((status = 200, body = Page<Entry>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(filter.limit, filter.cursor.as_deref())?;
    let (from, to) = times(filter.from.as_deref(), filter.to.as_deref())?;
    one_of("action", filter.action.as_deref(), &ACTIONS)?;
    let rows: Vec<Entry> = sqlx::query_as(
        "SELECT id, at, actor, action, entity_kind, entity_id, before, after FROM audit_log
         WHERE tenant_id = $1 AND id < $2
           AND ($3::timestamptz IS NULL OR at >= $3) AND ($4::timestamptz IS NULL OR at < $4)
           AND ($5::text IS NULL OR actor = $5) AND ($6::text IS NULL OR action = $6)
           AND ($7::text IS NULL OR entity_kind = $7) AND ($8::text IS NULL OR entity_id = $8)
         ORDER BY id DESC LIMIT $9",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(i64::MAX, |after| after.0))
    .bind(from)
    .bind(to)
    .bind(&filter.actor)
    .bind(&filter.action)
    .bind(&filter.entity_kind)
    .bind(&filter.entity_id)
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id), |row| row)
        .respond(format)
}
