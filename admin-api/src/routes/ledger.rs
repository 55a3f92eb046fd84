//! The ledger's entries of an affiliate or of a commission, each with what it was posted for.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tributary_shared::ids::AffiliateId;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::TenantHeader;
use super::conversions::times;
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::exports::{self, Rows};
use crate::extract::{Format, Query};
use crate::pages::{AfterId, Asked, Page};
use crate::state::App;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// The affiliate's accounts. This, `commission_id` or `payout_id` must be given, unless it is the whole ledger (`all`).
    affiliate_id: Option<i64>,
    /// Both sides of all that was posted for the commission.
    commission_id: Option<Uuid>,
    /// Both sides of all that was posted for the payout.
    payout_id: Option<Uuid>,
    /// RFC 3339; posted from this time on.
    from: Option<String>,
    /// RFC 3339; posted up to, and without, this time.
    to: Option<String>,
    /// True, with `Accept: text/csv`: the whole list, in one answer.
    all: Option<bool>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    id: i64,
    posted_at: DateTime<Utc>,
    /// The operation that it is part of, which is posted once.
    operation_key: String,
    /// Why: earned, changed, approved, refunded, rejected, reinstated; drafted, paid or cancelled by a payout ...
    #[schema(examples("earned"))]
    reason: String,
    /// pending, available, in_payout, paid or clawback; or the tenant's own: commission_expense and, of payouts, payouts,
    /// payouts_sent, payout_fees and tax_withheld.
    #[schema(examples("pending"))]
    account: String,
    /// Whose account; null: the tenant's own.
    #[schema(value_type = Option<i64>)]
    affiliate_id: Option<AffiliateId>,
    /// Positive: owed to the account's owner.
    #[schema(examples("4.99"))]
    amount: String,
    currency: String,
    /// Null, like the three below: of a payout as a whole.
    commission_id: Option<Uuid>,
    #[schema(examples("direct"))]
    part: Option<String>,
    conversion_id: Option<Uuid>,
    /// The merchant's own.
    order_id: Option<String>,
    /// By which it was moved; null: by none.
    payout_id: Option<Uuid>,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    entry_id: i64,
    posted_at: DateTime<Utc>,
    operation_key: String,
    reason: String,
    account: String,
    affiliate_id: Option<AffiliateId>,
    amount: Decimal,
    currency: String,
    commission_id: Option<Uuid>,
    part: Option<String>,
    conversion_id: Option<Uuid>,
    order_id: Option<String>,
    payout_id: Option<Uuid>,
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        Self {
            id: row.entry_id,
            posted_at: row.posted_at,
            operation_key: row.operation_key,
            reason: row.reason,
            account: row.account,
            affiliate_id: row.affiliate_id,
            amount: amounts::text(row.amount, &row.currency),
            currency: row.currency,
            commission_id: row.commission_id,
            part: row.part,
            conversion_id: row.conversion_id,
            order_id: row.order_id,
            payout_id: row.payout_id,
        }
    }
}

/// List the ledger's entries, in the order in which they were written
///
/// Of an affiliate's accounts, of a commission, or of a payout; all of it as CSV with `all=true`.
#[utoipa::path(get, path = "/v1/ledger", tag = "Money", params(TenantHeader, Filter),
    responses((status = 200, body = Page<Entry>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let whole = exports::whole(filter.all, format, filter.limit, filter.cursor.as_deref())?;
    let is_about = filter.affiliate_id.is_some()
        || filter.commission_id.is_some()
        || filter.payout_id.is_some();
    if !whole && !is_about {
        return Err(Problem::bad_request(
            "give affiliate_id, commission_id or payout_id",
        ));
    }
    let asked = Asked::<AfterId>::new(filter.limit, filter.cursor.as_deref())?;
    let (from, to) = times(filter.from.as_deref(), filter.to.as_deref())?;
    let query = sqlx::query_as(
        "SELECT entry_id, posted_at, operation_key, reason, account, affiliate_id, amount, currency, commission_id,
                part, conversion_id, order_id, payout_id
         FROM ledger_explained
         WHERE tenant_id = $1 AND entry_id > $2
           AND ($3::bigint IS NULL OR affiliate_id = $3)
           AND ($4::uuid IS NULL OR commission_id = $4)
           AND ($5::timestamptz IS NULL OR posted_at >= $5)
           AND ($6::timestamptz IS NULL OR posted_at < $6)
           AND ($8::uuid IS NULL OR payout_id = $8)
         ORDER BY entry_id LIMIT $7",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(filter.affiliate_id)
    .bind(filter.commission_id)
    .bind(from)
    .bind(to)
    .bind((!whole).then(|| asked.rows()))
    .bind(filter.payout_id);
    if whole {
        let line = Entry::from;
        return exports::respond(&app, at.tenant, Rows { query, line }).await;
    }
    let rows: Vec<Row> = query.fetch_all(&app.postgres).await?;
    asked
        .page(rows, |row| AfterId(row.entry_id), Entry::from)
        .respond(format)
}
