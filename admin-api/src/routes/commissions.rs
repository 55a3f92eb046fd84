//! Commissions, from the ledger's database. Each says what it was taken of, by which version of
//! which rule, so that it explains itself.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::TenantHeader;
use super::conversions::Filter;
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Format, Query};
use crate::pages::{BeforeTime, Page};
use crate::state::App;

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

/// List commissions, newest first
#[utoipa::path(get, path = "/v1/commissions", tag = "Money", params(TenantHeader, Filter),
    responses((status = 200, body = Page<Commission>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = filter.asked()?;
    let (from, to) = filter.times()?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT m.id, m.conversion_id, c.order_id, m.program_id, m.affiliate_id, m.link_id, m.rule_id,
                m.rule_version, m.part, m.gross, m.basis, m.amount, m.currency, m.state, m.hold_until, m.created_at
         FROM commissions m
         JOIN conversions c ON c.tenant_id = m.tenant_id AND c.id = m.conversion_id
         WHERE m.tenant_id = $1
           AND ($2::timestamptz IS NULL OR m.created_at >= $2)
           AND ($3::timestamptz IS NULL OR m.created_at < $3)
           AND ($4::bigint IS NULL OR m.affiliate_id = $4)
           AND ($5::bigint IS NULL OR m.link_id = $5)
           AND ($6::timestamptz IS NULL OR (m.created_at, m.id) < ($6, $7::uuid))
         ORDER BY m.created_at DESC, m.id DESC LIMIT $8",
    )
    .bind(at.tenant)
    .bind(from)
    .bind(to)
    .bind(filter.affiliate_id)
    .bind(filter.link_id)
    .bind(asked.after.map(|after| after.0))
    .bind(asked.after.map(|after| after.1))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(
            rows,
            |row| BeforeTime(row.created_at, row.id),
            Commission::from,
        )
        .respond(format)
}
