//! Conversions, from the ledger's database: exact and current. Also the filter that conversions and
//! commissions share.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::TenantHeader;
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Format, Query};
use crate::pages::{Asked, BeforeTime, Page};
use crate::period;
use crate::state::App;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// RFC 3339; from this time on.
    from: Option<String>,
    /// RFC 3339; up to, and without, this time.
    to: Option<String>,
    pub affiliate_id: Option<i64>,
    pub link_id: Option<i64>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// The first instant that counts, and the first that does not count any more.
type Times = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

impl Filter {
    pub(crate) fn times(&self) -> Result<Times, Problem> {
        let read = |field, text: &Option<String>| {
            text.as_deref()
                .map(|text| period::instant(field, text))
                .transpose()
        };
        Ok((read("from", &self.from)?, read("to", &self.to)?))
    }

    pub(crate) fn asked(&self) -> Result<Asked<BeforeTime>, Problem> {
        Asked::new(self.limit, self.cursor.as_deref())
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Conversion {
    id: Uuid,
    /// The merchant's own.
    order_id: String,
    event: String,
    /// lead, pending, approved, rejected or refunded.
    #[schema(examples("pending"))]
    status: String,
    #[schema(examples("49.90"))]
    amount: String,
    /// What of the amount was given back.
    #[schema(examples("0.00"))]
    refunded: String,
    /// XXX until the amount is known.
    currency: String,
    accepted_at: DateTime<Utc>,
    /// By what it was credited: click_token, coupon, visitor or fingerprint; or why it was not: no_click,
    /// bad_click_token, unknown_link, other_tenant or outside_window.
    attribution: String,
    /// How it was shared out: last_click, first_click, linear, time_decay or position_based; null: credited to nobody.
    model: Option<String>,
    coupon: Option<String>,
    click_id: Option<String>,
    #[schema(value_type = Option<i64>)]
    link_id: Option<LinkId>,
    #[schema(value_type = Option<i64>)]
    affiliate_id: Option<AffiliateId>,
    #[schema(value_type = Option<i64>)]
    program_id: Option<ProgramId>,
    /// The hash that stands for the customer, 32 hexadecimal digits; null: not known, or erased.
    customer_hash: Option<String>,
    /// Whether the customer was new to the merchant: as the merchant said, else whether no earlier conversion
    /// of his is known; null: neither is known.
    new_customer: Option<bool>,
    /// What could not be followed, or why it earns nothing.
    note: Option<String>,
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Row {
    pub id: Uuid,
    pub order_id: String,
    pub event: String,
    pub status: String,
    pub amount: Decimal,
    pub refunded: Decimal,
    pub currency: String,
    pub accepted_at: DateTime<Utc>,
    pub attribution: String,
    pub model: Option<String>,
    pub coupon: Option<String>,
    pub click_id: Option<String>,
    pub link_id: Option<LinkId>,
    pub affiliate_id: Option<AffiliateId>,
    pub program_id: Option<ProgramId>,
    pub customer_hash: Option<String>,
    pub new_customer: Option<bool>,
    pub note: Option<String>,
}

impl From<Row> for Conversion {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            order_id: row.order_id,
            event: row.event,
            status: row.status,
            amount: amounts::text(row.amount, &row.currency),
            refunded: amounts::text(row.refunded, &row.currency),
            currency: row.currency,
            accepted_at: row.accepted_at,
            attribution: row.attribution,
            model: row.model,
            coupon: row.coupon,
            click_id: row.click_id,
            link_id: row.link_id,
            affiliate_id: row.affiliate_id,
            program_id: row.program_id,
            customer_hash: row.customer_hash,
            new_customer: row.new_customer,
            note: row.note,
        }
    }
}

/// List conversions, newest first
#[utoipa::path(get, path = "/v1/conversions", tag = "Money", params(TenantHeader, Filter),
    responses((status = 200, body = Page<Conversion>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = filter.asked()?;
    let rows = find(&app.postgres, at.tenant, &filter, &asked).await?;
    asked
        .page(
            rows,
            |row| BeforeTime(row.accepted_at, row.id),
            Conversion::from,
        )
        .respond(format)
}

async fn find(
    postgres: &PgPool,
    tenant: TenantId,
    filter: &Filter,
    asked: &Asked<BeforeTime>,
) -> Result<Vec<Row>, Problem> {
    let (from, to) = filter.times()?;
    let rows = sqlx::query_as(
        "SELECT id, order_id, event, status, amount, refunded, currency, accepted_at, attribution, model, coupon, click_id,
                link_id, affiliate_id, program_id, encode(customer_id, 'hex') AS customer_hash, new_customer, note
         FROM conversions
         WHERE tenant_id = $1
           AND ($2::timestamptz IS NULL OR accepted_at >= $2)
           AND ($3::timestamptz IS NULL OR accepted_at < $3)
           AND ($4::bigint IS NULL OR affiliate_id = $4)
           AND ($5::bigint IS NULL OR link_id = $5)
           AND ($6::timestamptz IS NULL OR (accepted_at, id) < ($6, $7::uuid))
         ORDER BY accepted_at DESC, id DESC LIMIT $8",
    )
    .bind(tenant)
    .bind(from)
    .bind(to)
    .bind(filter.affiliate_id)
    .bind(filter.link_id)
    .bind(asked.after.map(|after| after.0))
    .bind(asked.after.map(|after| after.1))
    .bind(asked.rows())
    .fetch_all(postgres)
    .await?;
    Ok(rows)
}
