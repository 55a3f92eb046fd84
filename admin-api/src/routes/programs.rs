//! Programs: what affiliates earn, in which currency, how long after a click, after which hold.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tributary_shared::fraud::Settings;
use tributary_shared::ids::{ProgramId, TenantId};
use utoipa::ToSchema;

use super::{IdempotencyHeader, TenantHeader};
use crate::amounts;
use crate::audit::{self, Action, Audit, Change};
use crate::auth::{Actor, Scoped};
use crate::edge_index;
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

/// How a conversion is shared out over the clicks that led to it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum Model {
    #[default]
    LastClick,
    FirstClick,
    Linear,
    TimeDecay,
    PositionBased,
}

/// Which currency commissions are in.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum PayIn {
    /// The order's.
    #[default]
    Order,
    /// The program's: orders in others need an exchange rate.
    Program,
}

/// What the percentages of those above an affiliate are of.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum UplineOf {
    #[default]
    Commission,
    Order,
}

fn upline_percents() -> Vec<String> {
    ["10", "3", "1"].map(str::to_owned).to_vec()
}

/// What the rule base gives, where that is a percentage; goes with `FROM programs p`.
macro_rules! percent {
    () => {
        "(SELECT CASE WHEN active AND coalesce(document->>'kind', 'commission') = 'commission' \
                      AND document->'reward'->>'kind' = 'percent' THEN (document->'reward'->>'percent')::numeric END \
          FROM commission_rules WHERE tenant_id = p.tenant_id AND program_id = p.id AND name = 'base' \
          ORDER BY version DESC LIMIT 1) AS percent"
    };
}

/// Selects what a [`Row`] holds but the percentage.
macro_rules! columns {
    () => {
        "p.id, p.name, p.currency, p.window_seconds, p.hold_seconds, p.override_hosts, p.model, p.pay_in, \
         p.upline_percents, p.upline_of, p.fraud, p.created_at"
    };
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProgram {
    #[schema(examples("Summer shoes"))]
    name: String,
    /// ISO 4217.
    #[schema(examples("EUR"))]
    currency: String,
    /// What an affiliate earns of an order: 0 to 100 with at most 4 decimals.
    #[schema(examples("12.5"))]
    commission_percent: String,
    /// How long after a click an order is still credited to it: 1 second to 366 days.
    #[schema(examples(2_592_000))]
    window_seconds: i64,
    /// How long a commission stays pending: up to 366 days.
    #[schema(examples(1_209_600))]
    hold_seconds: i64,
    /// Hosts that a click's own `?url=` may lead to, such as shop.example, or *.shop.example for its
    /// subdomains; 50 at most. Without any, `?url=` is ignored.
    #[serde(default)]
    #[schema(examples(json!(["shop.example", "*.shop.example"])))]
    override_hosts: Vec<String>,
    #[serde(default)]
    #[schema(default = "last_click")]
    model: Model,
    #[serde(default)]
    #[schema(default = "order")]
    pay_in: PayIn,
    /// What the affiliate's parent, its parent and so on get on top: 10 percentages at most, each as a decimal string.
    #[serde(default = "upline_percents")]
    #[schema(default = json!(["10", "3", "1"]), examples(json!(["10", "3", "1"])))]
    upline_percents: Vec<String>,
    #[serde(default)]
    #[schema(default = "commission")]
    upline_of: UplineOf,
    /// What each sign of fraud does, where it should not do what it does by itself (README, "Signs of fraud").
    #[serde(default)]
    #[schema(value_type = Object, default = json!({}), examples(json!({"fast_conversion": {"action": "hold", "number": 10}, "bot": {"action": "reject"}})))]
    fraud: Settings,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"window_seconds": 2_592_000, "override_hosts": ["shop.example", "*.shop.example"]}))]
pub(crate) struct ProgramChange {
    name: Option<String>,
    /// For clicks and orders that come from now on.
    window_seconds: Option<i64>,
    hold_seconds: Option<i64>,
    /// Replaces the whole list.
    override_hosts: Option<Vec<String>>,
    model: Option<Model>,
    pay_in: Option<PayIn>,
    /// Replaces the whole list.
    #[schema(examples(json!(["5", "2.5"])))]
    upline_percents: Option<Vec<String>>,
    upline_of: Option<UplineOf>,
    /// Replaces all settings. Orders follow when they are settled the next time.
    #[schema(value_type = Option<Object>, examples(json!({"fast_conversion": {"action": "hold", "number": 10}})))]
    fraud: Option<Settings>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Program {
    #[schema(value_type = i64)]
    id: ProgramId,
    name: String,
    currency: String,
    /// By the latest version of the rule `base`; null where that gives something else than a percentage.
    #[schema(examples("12.5"))]
    commission_percent: Option<String>,
    window_seconds: i64,
    hold_seconds: i64,
    override_hosts: Vec<String>,
    model: Model,
    pay_in: PayIn,
    #[schema(examples(json!(["10", "3", "1"])))]
    upline_percents: Vec<String>,
    upline_of: UplineOf,
    #[schema(value_type = Object)]
    fraud: Value,
    created_at: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    id: ProgramId,
    name: String,
    currency: String,
    window_seconds: i64,
    hold_seconds: i64,
    override_hosts: Vec<String>,
    model: Model,
    pay_in: PayIn,
    upline_percents: Vec<Decimal>,
    upline_of: UplineOf,
    fraud: Value,
    created_at: DateTime<Utc>,
    percent: Option<Decimal>,
}

impl From<Row> for Program {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name,
            currency: row.currency,
            commission_percent: row.percent.map(amounts::percent),
            window_seconds: row.window_seconds,
            hold_seconds: row.hold_seconds,
            override_hosts: row.override_hosts,
            model: row.model,
            pay_in: row.pay_in,
            upline_percents: row
                .upline_percents
                .into_iter()
                .map(amounts::percent)
                .collect(),
            upline_of: row.upline_of,
            fraud: row.fraud,
            created_at: row.created_at,
        }
    }
}

/// Create a program
#[utoipa::path(post, path = "/v1/programs", tag = "Programs", request_body = NewProgram, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Program), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    actor: Actor,
    idempotency: IdempotencyKey,
    body: Body<NewProgram>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let name = checks.name("name", &new.name);
    checks.currency("currency", &new.currency);
    let percent = checks.percent("commission_percent", &new.commission_percent);
    checks.seconds("window_seconds", new.window_seconds, 1);
    checks.seconds("hold_seconds", new.hold_seconds, 0);
    checks.override_hosts("override_hosts", &new.override_hosts);
    let uplines = checks.uplines("upline_percents", &new.upline_percents);
    checks.fraud("fraud", &new.fraud);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let row: Row = sqlx::query_as(concat!(
        "INSERT INTO programs AS p (tenant_id, name, currency, window_seconds, hold_seconds, created_at, override_hosts,
                                    model, pay_in, upline_percents, upline_of, fraud)
         VALUES ($1, $2, $3, $4, $5, $6, $8, $9, $10, $11, $12, $13) RETURNING $7::numeric AS percent, ",
        columns!()
    ))
    .bind(at.tenant)
    .bind(&name)
    .bind(&new.currency)
    .bind(new.window_seconds)
    .bind(new.hold_seconds)
    .bind(app.clock.now())
    .bind(percent)
    .bind(&new.override_hosts)
    .bind(new.model)
    .bind(new.pay_in)
    .bind(&uplines)
    .bind(new.upline_of)
    .bind(sqlx::types::Json(&new.fraud))
    .fetch_one(creation.connection())
    .await?;
    sqlx::query(
        "INSERT INTO commission_rules (tenant_id, program_id, version, document, created_at) VALUES ($1, $2, 1, $3, $4)",
    )
    .bind(at.tenant)
    .bind(row.id)
    .bind(json!({"events": [], "reward": {"kind": "percent", "percent": amounts::percent(percent)}}))
    .bind(row.created_at)
    .execute(creation.connection())
    .await?;
    let program = Program::from(row);
    let change = Change {
        kind: "program",
        id: program.id.to_string(),
        before: None,
        after: Some(audit::shown(&program)?),
    };
    let audit = Audit {
        tenant: at.tenant,
        actor: &actor,
        at: program.created_at,
    };
    audit
        .note(creation.connection(), Action::Created, &[change])
        .await?;
    creation.finish(&program, &[]).await
}

/// List programs
#[utoipa::path(get, path = "/v1/programs", tag = "Programs", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<Program>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", ",
        percent!(),
        " FROM programs p WHERE p.tenant_id = $1 AND p.id > $2 ORDER BY p.id LIMIT $3"
    ))
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id.0), Program::from)
        .respond(format)
}

/// Read a program
#[utoipa::path(get, path = "/v1/programs/{id}", tag = "Programs", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Program), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<Json<Program>, Problem> {
    let row = find(&mut *app.postgres.acquire().await?, at.tenant, id.0).await?;
    Ok(Json(row.into()))
}

async fn find(connection: &mut PgConnection, tenant: TenantId, id: i64) -> Result<Row, Problem> {
    sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", ",
        percent!(),
        " FROM programs p WHERE p.tenant_id = $1 AND p.id = $2"
    ))
    .bind(tenant)
    .bind(id)
    .fetch_optional(connection)
    .await?
    .ok_or_else(|| Problem::not_found("program"))
}

/// Change a program
///
/// What is left out stays as it is. Commissions follow `model`, `pay_in` and the uplines when their order is settled the
/// next time. The redirector follows with all the program's links: a moment
/// later for a thousand of them, within a minute for a million.
#[utoipa::path(patch, path = "/v1/programs/{id}", tag = "Programs", request_body = ProgramChange, params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Program), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn change(
    State(app): State<App>,
    at: Scoped,
    actor: Actor,
    id: Id,
    body: Body<ProgramChange>,
) -> Result<Json<Program>, Problem> {
    let change = body.value;
    let mut checks = Checks::default();
    let name = change.name.map(|name| checks.name("name", &name));
    if let Some(window) = change.window_seconds {
        checks.seconds("window_seconds", window, 1);
    }
    if let Some(hold) = change.hold_seconds {
        checks.seconds("hold_seconds", hold, 0);
    }
    if let Some(hosts) = &change.override_hosts {
        checks.override_hosts("override_hosts", hosts);
    }
    let uplines = change
        .upline_percents
        .map(|percents| checks.uplines("upline_percents", &percents));
    if let Some(fraud) = &change.fraud {
        checks.fraud("fraud", fraud);
    }
    checks.finish()?;
    let mut transaction = app.postgres.begin().await?;
    // One at a time, so that the log says what each one changed.
    sqlx::query("SELECT FROM programs WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE")
        .bind(at.tenant)
        .bind(id.0)
        .execute(&mut *transaction)
        .await?;
    let before = Program::from(find(&mut transaction, at.tenant, id.0).await?);
    sqlx::query(
        "UPDATE programs SET name = COALESCE($3, name), window_seconds = COALESCE($4, window_seconds),
                hold_seconds = COALESCE($5, hold_seconds), override_hosts = COALESCE($6, override_hosts),
                model = COALESCE($7, model), pay_in = COALESCE($8, pay_in),
                upline_percents = COALESCE($9, upline_percents), upline_of = COALESCE($10, upline_of),
                fraud = COALESCE($11, fraud)
         WHERE tenant_id = $1 AND id = $2",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(&name)
    .bind(change.window_seconds)
    .bind(change.hold_seconds)
    .bind(&change.override_hosts)
    .bind(change.model)
    .bind(change.pay_in)
    .bind(&uplines)
    .bind(change.upline_of)
    .bind(change.fraud.as_ref().map(sqlx::types::Json))
    .execute(&mut *transaction)
    .await?;
    let row = find(&mut transaction, at.tenant, id.0).await?;
    if change.window_seconds.is_some() || change.override_hosts.is_some() {
        edge_index::program_changed(&mut transaction, row.id).await?;
    }
    let program = Program::from(row);
    let difference = audit::difference(&audit::shown(&before)?, &audit::shown(&program)?);
    if let Some((before, after)) = difference {
        let change = Change {
            kind: "program",
            id: program.id.to_string(),
            before: Some(before),
            after: Some(after),
        };
        let audit = Audit {
            tenant: at.tenant,
            actor: &actor,
            at: app.clock.now(),
        };
        audit
            .note(&mut transaction, Action::Changed, &[change])
            .await?;
    }
    transaction.commit().await?;
    Ok(Json(program))
}
