//! Commissions, from the ledger's database. Each says what it was taken of, by which version of
//! which rule, so that it explains itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::TenantHeader;
use super::conversions::times;
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::exports::{self, Rows};
use crate::extract::{EventId, Format, Query};
use crate::pages::{Asked, BeforeTime, Page};
use crate::state::App;

/// Selects what a [`Row`] holds.
macro_rules! columns {
    () => {
        "m.id, m.conversion_id, c.order_id, m.program_id, m.affiliate_id, m.link_id, m.rule_id, m.rule_version, \
         m.part, m.gross, m.basis, m.amount, m.currency, m.state, m.hold_until, m.created_at"
    };
}

/// The rule that a commission was made by.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rule {
    id: i64,
    version: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Commission {
    id: Uuid,
    conversion_id: Uuid,
    /// The merchant's own.
    order_id: String,
    #[schema(value_type = i64)]
    program_id: ProgramId,
    #[schema(value_type = i64)]
    affiliate_id: AffiliateId,
    /// None: a coupon led to it.
    #[schema(value_type = Option<i64>)]
    link_id: Option<LinkId>,
    /// `direct`, `upline 1` (the affiliate's parent) and so on, or `bonus` with the rule's name.
    #[schema(examples("direct"))]
    part: String,
    rule: Rule,
    /// What it was taken of.
    #[schema(examples("49.90"))]
    basis: String,
    /// What was earned, before refunds.
    #[schema(examples("4.99"))]
    gross: String,
    /// What it is worth now.
    #[schema(examples("4.99"))]
    amount: String,
    currency: String,
    /// pending, approved, paid, rejected or clawed_back.
    state: String,
    hold_until: DateTime<Utc>,
    created_at: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    id: Uuid,
    conversion_id: Uuid,
    order_id: String,
    program_id: ProgramId,
    affiliate_id: AffiliateId,
    link_id: Option<LinkId>,
    rule_id: i64,
    rule_version: i32,
    part: String,
    gross: Decimal,
    basis: Decimal,
    amount: Decimal,
    currency: String,
    state: String,
    hold_until: DateTime<Utc>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Commission {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            conversion_id: row.conversion_id,
            order_id: row.order_id,
            program_id: row.program_id,
            affiliate_id: row.affiliate_id,
            link_id: row.link_id,
            rule: Rule {
                id: row.rule_id,
                version: row.rule_version,
            },
            part: row.part,
            basis: amounts::text(row.basis, &row.currency),
            gross: amounts::text(row.gross, &row.currency),
            amount: amounts::text(row.amount, &row.currency),
            currency: row.currency,
            state: row.state,
            hold_until: row.hold_until,
            created_at: row.created_at,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// RFC 3339; from this time on.
    from: Option<String>,
    /// RFC 3339; up to, and without, this time.
    to: Option<String>,
    affiliate_id: Option<i64>,
    link_id: Option<i64>,
    /// True, with `Accept: text/csv`: the whole list, in one answer.
    all: Option<bool>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// List commissions, newest first
#[utoipa::path(get, path = "/v1/commissions", tag = "Money", params(TenantHeader, Filter),
    responses((status = 200, body = Page<Commission>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let whole = exports::whole(filter.all, format, filter.limit, filter.cursor.as_deref())?;
    let asked = Asked::<BeforeTime>::new(filter.limit, filter.cursor.as_deref())?;
    let (from, to) = times(filter.from.as_deref(), filter.to.as_deref())?;
    let query = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM commissions m
         JOIN conversions c ON c.tenant_id = m.tenant_id AND c.id = m.conversion_id
         WHERE m.tenant_id = $1
           AND ($2::timestamptz IS NULL OR m.created_at >= $2)
           AND ($3::timestamptz IS NULL OR m.created_at < $3)
           AND ($4::bigint IS NULL OR m.affiliate_id = $4)
           AND ($5::bigint IS NULL OR m.link_id = $5)
           AND ($6::timestamptz IS NULL OR (m.created_at, m.id) < ($6, $7::uuid))
         ORDER BY m.created_at DESC, m.id DESC LIMIT $8"
    ))
    .bind(at.tenant)
    .bind(from)
    .bind(to)
    .bind(filter.affiliate_id)
    .bind(filter.link_id)
    .bind(asked.after.map(|after| after.0))
    .bind(asked.after.map(|after| after.1))
    .bind((!whole).then(|| asked.rows()));
    if whole {
        let line = Commission::from;
        return exports::respond(&app, at.tenant, Rows { query, line }).await;
    }
    let rows: Vec<Row> = query.fetch_all(&app.postgres).await?;
    asked
        .page(
            rows,
            |row| BeforeTime(row.created_at, row.id),
            Commission::from,
        )
        .respond(format)
}

/// Most postings that a commission is shown with, or all of a conversion's: the first ones.
pub(crate) const MAX_POSTINGS: i64 = 1000;

/// A commission with how it came about and where it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CommissionStory {
    #[serde(flatten)]
    commission: Commission,
    /// How it came about, in words and numbers.
    #[schema(value_type = Vec<Step>)]
    steps: Value,
    /// What each rule gave of it; empty for an upline's.
    #[schema(value_type = Vec<Part>)]
    parts: Value,
    /// By what it was converted, where currencies differ.
    #[schema(value_type = Option<Rate>)]
    rate: Option<Value>,
    position: Position,
    /// All that the ledger has of it.
    ledger: Vec<Posting>,
}

/// A step of an explanation.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what shared/src/commission writes")]
pub(crate) struct Step {
    /// What it is about: share, rate, passed_over, recurring, tier, percent, flat, uplift, minimum, maximum, cap, bonus,
    /// upline, rounded or nothing.
    #[schema(examples("percent"))]
    what: String,
    /// The rule's version, by its id.
    rule: Option<i64>,
    version: Option<i32>,
    #[schema(examples("rule 1 version 1: 10 % of 49.90 USD = 4.99 USD"))]
    text: String,
}

/// What a rule gave of a commission.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what the processor writes")]
pub(crate) struct Part {
    /// Its name.
    #[schema(examples("base"))]
    rule: String,
    id: i64,
    version: i32,
    #[schema(examples("4.99"))]
    amount: String,
    /// The same in the program's currency, where that was needed: what counts towards the rule's cap.
    #[schema(examples("4.99"))]
    earned: Option<String>,
}

/// What one unit of `from` was taken to be in `to`.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what the processor writes")]
pub(crate) struct Rate {
    #[schema(examples("EUR"))]
    from: String,
    #[schema(examples("USD"))]
    to: String,
    #[schema(examples("1.0843"))]
    rate: String,
}

/// Where in the ledger a commission stands; the five sum to its amount.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Position {
    #[schema(examples("4.99"))]
    pending: String,
    #[schema(examples("0.00"))]
    available: String,
    #[schema(examples("0.00"))]
    in_payout: String,
    #[schema(examples("0.00"))]
    paid: String,
    /// What was paid and taken back since, as a negative amount.
    #[schema(examples("0.00"))]
    clawback: String,
}

/// An entry of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Posting {
    /// The operation that it is part of, which is posted once.
    operation_key: String,
    /// Why: earned, changed, approved, refunded, rejected, reinstated ...
    #[schema(examples("earned"))]
    reason: String,
    /// commission_expense (the tenant's own), pending, available, in_payout, paid or clawback.
    #[schema(examples("pending"))]
    account: String,
    /// Positive: owed to the account's owner.
    #[schema(examples("4.99"))]
    amount: String,
    currency: String,
    posted_at: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow)]
struct StoryRow {
    #[sqlx(flatten)]
    row: Row,
    steps: Value,
    parts: Value,
    rate: Option<Value>,
    pending: Decimal,
    available: Decimal,
    in_payout: Decimal,
    paid: Decimal,
    clawback: Decimal,
}

#[derive(Debug, sqlx::FromRow)]
struct PostingRow {
    commission_id: Uuid,
    operation_key: String,
    reason: String,
    account: String,
    amount: Decimal,
    currency: String,
    posted_at: DateTime<Utc>,
}

/// Which commissions are told about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    One(Uuid),
    OfConversion(Uuid),
}

/// Everything about these commissions, the first that was made first.
pub(crate) async fn stories(
    connection: &mut PgConnection,
    tenant: TenantId,
    which: Which,
) -> Result<Vec<CommissionStory>, sqlx::Error> {
    let (one, conversion) = match which {
        Which::One(id) => (Some(id), None),
        Which::OfConversion(id) => (None, Some(id)),
    };
    let rows: Vec<StoryRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", m.steps, m.parts, m.rate, m.pending, m.available, m.in_payout, m.paid, m.clawback
         FROM commissions m
         JOIN conversions c ON c.tenant_id = m.tenant_id AND c.id = m.conversion_id
         WHERE m.tenant_id = $1 AND (m.id = $2 OR m.conversion_id = $3) ORDER BY m.created_at, m.part, m.id"
    ))
    .bind(tenant)
    .bind(one)
    .bind(conversion)
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<Uuid> = rows.iter().map(|story| story.row.id).collect();
    let postings: Vec<PostingRow> = sqlx::query_as(
        "SELECT commission_id, operation_key, reason, account, amount, currency, posted_at FROM ledger_explained
         WHERE tenant_id = $1 AND commission_id = ANY($2) ORDER BY entry_id LIMIT $3",
    )
    .bind(tenant)
    .bind(&ids)
    .bind(MAX_POSTINGS)
    .fetch_all(connection)
    .await?;
    let mut ledger: BTreeMap<Uuid, Vec<Posting>> = BTreeMap::new();
    for row in postings {
        let posting = Posting {
            operation_key: row.operation_key,
            reason: row.reason,
            account: row.account,
            amount: amounts::text(row.amount, &row.currency),
            currency: row.currency,
            posted_at: row.posted_at,
        };
        ledger.entry(row.commission_id).or_default().push(posting);
    }
    let story = |story: StoryRow| {
        let amount = |amount| amounts::text(amount, &story.row.currency);
        CommissionStory {
            steps: story.steps,
            parts: story.parts,
            rate: story.rate,
            position: Position {
                pending: amount(story.pending),
                available: amount(story.available),
                in_payout: amount(story.in_payout),
                paid: amount(story.paid),
                clawback: amount(story.clawback),
            },
            ledger: ledger.remove(&story.row.id).unwrap_or_default(),
            commission: story.row.into(),
        }
    };
    Ok(rows.into_iter().map(story).collect())
}

/// Explain a commission
#[utoipa::path(get, path = "/v1/commissions/{id}", tag = "Money", params(TenantHeader, ("id" = Uuid, Path)),
    responses((status = 200, body = CommissionStory), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: EventId,
) -> Result<Json<CommissionStory>, Problem> {
    let mut connection = app.postgres.acquire().await?;
    let found = stories(&mut connection, at.tenant, Which::One(id.0)).await?;
    let story = found.into_iter().next();
    story
        .map(Json)
        .ok_or_else(|| Problem::not_found("commission"))
}
