//! Payouts, with what each pays and what became of it. What people do with them: `payout_actions`.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tributary_shared::ids::AffiliateId;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::TenantHeader;
use super::conversions::{MAX_SHOWN, one_of};
use super::payout_methods::{self, PayoutMethod};
use super::payout_terms::METHODS;
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::exports::{self, Rows};
use crate::extract::{EventId, Format, Query};
use crate::pages::{Asked, BeforeTime, Page};
use crate::state::App;

/// What a payout's `state` may be.
const STATES: [&str; 6] = ["draft", "approved", "sent", "paid", "failed", "cancelled"];

/// Selects or returns what a [`Row`] holds.
macro_rules! columns {
    () => {
        "id, run_id, affiliate_id, currency, state, amount, fee, withheld, net, method_kind, reference, approved_by, attempt, \
         provider, provider_reference, failure, booked, created_at, approved_at, sent_at, closed_at"
    };
}
pub(crate) use columns;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// draft, approved, sent, paid, failed or cancelled.
    state: Option<String>,
    affiliate_id: Option<i64>,
    currency: Option<String>,
    run_id: Option<i64>,
    /// paypal, sepa, bank, stripe_connect or manual.
    method: Option<String>,
    /// True, with `Accept: text/csv`: the whole list, in one answer.
    all: Option<bool>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Payout {
    pub id: Uuid,
    run_id: i64,
    #[schema(value_type = i64)]
    affiliate_id: AffiliateId,
    currency: String,
    /// draft, approved, sent, paid, failed or cancelled.
    #[schema(examples("draft"))]
    state: String,
    /// What leaves the affiliate's balance.
    #[schema(examples("100.00"))]
    amount: String,
    #[schema(examples("2.25"))]
    fee: String,
    /// Kept back as tax.
    #[schema(examples("0.00"))]
    withheld: String,
    /// What is sent.
    #[schema(examples("97.75"))]
    net: String,
    /// paypal, sepa, bank, stripe_connect or manual.
    #[schema(examples("paypal"))]
    method: String,
    /// What the affiliate reads.
    #[schema(examples("Demo shop, payout 2026-11-01"))]
    reference: String,
    approved_by: Vec<String>,
    /// How often it was tried anew after it had failed.
    attempt: i32,
    /// Who has it to send; null: nobody, or it goes by a file or by hand.
    provider: Option<String>,
    /// The provider's or the bank's name for it.
    provider_reference: Option<String>,
    /// Why it failed last, or could not be sent yet.
    failure: Option<String>,
    /// Whether the ledger has followed its end.
    booked: bool,
    created_at: DateTime<Utc>,
    approved_at: Option<DateTime<Utc>>,
    sent_at: Option<DateTime<Utc>>,
    /// When it was paid or cancelled.
    closed_at: Option<DateTime<Utc>>,
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Row {
    pub id: Uuid,
    pub run_id: i64,
    pub affiliate_id: AffiliateId,
    pub currency: String,
    pub state: String,
    pub amount: Decimal,
    pub fee: Decimal,
    pub withheld: Decimal,
    pub net: Decimal,
    pub method_kind: String,
    pub reference: String,
    pub approved_by: Vec<String>,
    pub attempt: i32,
    pub provider: Option<String>,
    pub provider_reference: Option<String>,
    pub failure: Option<String>,
    pub booked: bool,
    pub created_at: DateTime<Utc>,
    pub approved_at: Option<DateTime<Utc>>,
    pub sent_at: Option<DateTime<Utc>>,
    pub closed_at: Option<DateTime<Utc>>,
}

impl From<Row> for Payout {
    fn from(row: Row) -> Self {
        let amount = |amount| amounts::text(amount, &row.currency);
        Self {
            amount: amount(row.amount),
            fee: amount(row.fee),
            withheld: amount(row.withheld),
            net: amount(row.net),
            id: row.id,
            run_id: row.run_id,
            affiliate_id: row.affiliate_id,
            currency: row.currency,
            state: row.state,
            method: row.method_kind,
            reference: row.reference,
            approved_by: row.approved_by,
            attempt: row.attempt,
            provider: row.provider,
            provider_reference: row.provider_reference,
            failure: row.failure,
            booked: row.booked,
            created_at: row.created_at,
            approved_at: row.approved_at,
            sent_at: row.sent_at,
            closed_at: row.closed_at,
        }
    }
}

/// List payouts, newest first
#[utoipa::path(get, path = "/v1/payouts", tag = "Payouts", params(TenantHeader, Filter),
    responses((status = 200, body = Page<Payout>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let whole = exports::whole(filter.all, format, filter.limit, filter.cursor.as_deref())?;
    let asked = Asked::<BeforeTime>::new(filter.limit, filter.cursor.as_deref())?;
    one_of("state", filter.state.as_deref(), &STATES)?;
    one_of("method", filter.method.as_deref(), &METHODS)?;
    let query = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM payouts
         WHERE tenant_id = $1
           AND ($2::text IS NULL OR state = $2)
           AND ($3::bigint IS NULL OR affiliate_id = $3)
           AND ($4::text IS NULL OR currency = $4)
           AND ($5::bigint IS NULL OR run_id = $5)
           AND ($6::text IS NULL OR method_kind = $6)
           AND ($7::timestamptz IS NULL OR (created_at, id) < ($7, $8::uuid))
         ORDER BY created_at DESC, id DESC LIMIT $9"
    ))
    .bind(at.tenant)
    .bind(filter.state)
    .bind(filter.affiliate_id)
    .bind(filter.currency)
    .bind(filter.run_id)
    .bind(filter.method)
    .bind(asked.after.map(|after| after.0))
    .bind(asked.after.map(|after| after.1))
    .bind((!whole).then(|| asked.rows()));
    if whole {
        let line = Payout::from;
        return exports::respond(&app, at.tenant, Rows { query, line }).await;
    }
    let rows: Vec<Row> = query.fetch_all(&app.postgres).await?;
    asked
        .page(rows, |row| BeforeTime(row.created_at, row.id), Payout::from)
        .respond(format)
}

/// A payout with what it pays and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PayoutStory {
    #[serde(flatten)]
    payout: Payout,
    /// Where the money goes, as of the draft.
    to: PayoutMethod,
    /// How many commissions it pays.
    item_count: i64,
    /// The first 1,000 of them.
    items: Vec<Item>,
    /// The first 1,000 of them.
    events: Vec<Event>,
}

/// The part of a commission that a payout pays.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Item {
    commission_id: Uuid,
    conversion_id: Uuid,
    /// The merchant's own.
    order_id: String,
    #[schema(examples("direct"))]
    part: String,
    /// Negative: a debt that it settles.
    #[schema(examples("4.99"))]
    amount: String,
}

#[derive(Debug, sqlx::FromRow)]
struct ItemRow {
    commission_id: Uuid,
    conversion_id: Uuid,
    order_id: String,
    part: String,
    amount: Decimal,
}

/// Something that became of a payout.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Event {
    at: DateTime<Utc>,
    /// A person, a key, `the schedule`, or a provider.
    #[schema(examples("ana@example.com"))]
    actor: String,
    /// In which it is since.
    #[schema(examples("approved"))]
    state: String,
    text: String,
}

/// Read a payout
///
/// With the commissions that it pays, and who did what with it. `GET /v1/ledger?payout_id=…` has all that the ledger has of it.
#[utoipa::path(get, path = "/v1/payouts/{id}", tag = "Payouts", params(TenantHeader, ("id" = Uuid, Path)),
    responses((status = 200, body = PayoutStory), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: EventId,
) -> Result<Json<PayoutStory>, Problem> {
    #[derive(sqlx::FromRow)]
    struct Story {
        #[sqlx(flatten)]
        row: Row,
        method: Vec<u8>,
        item_count: i64,
    }
    // One moment for all of it.
    let mut transaction = app.postgres.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *transaction)
        .await?;
    let story: Story = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", method, (SELECT count(*) FROM payout_items i WHERE i.payout_id = payouts.id) AS item_count
         FROM payouts WHERE tenant_id = $1 AND id = $2"
    ))
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("payout"))?;
    let items: Vec<ItemRow> = sqlx::query_as(
        "SELECT i.commission_id, m.conversion_id, c.order_id, m.part, i.amount
         FROM payout_items i JOIN commissions m ON m.id = i.commission_id JOIN conversions c ON c.id = m.conversion_id
         WHERE i.tenant_id = $1 AND i.payout_id = $2 ORDER BY i.commission_id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(MAX_SHOWN)
    .fetch_all(&mut *transaction)
    .await?;
    let events: Vec<Event> = sqlx::query_as(
        "SELECT at, actor, state, text FROM payout_events WHERE tenant_id = $1 AND payout_id = $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(MAX_SHOWN)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let purpose = format!("payout:{}:method", id.0);
    let method = payout_methods::open(&app.settings.sealing, &purpose, &story.method)?;
    let currency = story.row.currency.clone();
    let item = |row: ItemRow| Item {
        amount: amounts::text(row.amount, &currency),
        commission_id: row.commission_id,
        conversion_id: row.conversion_id,
        order_id: row.order_id,
        part: row.part,
    };
    Ok(Json(PayoutStory {
        payout: story.row.into(),
        to: PayoutMethod::of(&method),
        item_count: story.item_count,
        items: items.into_iter().map(item).collect(),
        events,
    }))
}
