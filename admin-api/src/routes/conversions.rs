//! Conversions, from the ledger's database: exact and current. What people decide about them is kept here; the
//! processor does what follows from it.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::commissions::{self, CommissionStory, Which};
use super::evidence::{self, Evidence};
use super::{IdempotencyHeader, TenantHeader};
use crate::amounts;
use crate::audit::{Action, Audit, Change};
use crate::auth::{Actor, Scoped};
use crate::error::Problem;
use crate::exports::{self, Rows};
use crate::extract::{Body, EventId, Format, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{Asked, BeforeTime, Page};
use crate::period;
use crate::state::App;
use crate::validate::{Checks, MAX_REASON_CHARS};

/// What a conversion's `verdict` may be.
const VERDICTS: [&str; 4] = ["clear", "flag", "hold", "reject"];
/// What a conversion's `status` may be.
const STATUSES: [&str; 5] = ["lead", "pending", "approved", "rejected", "refunded"];
/// What a conversion's `attribution` may be.
const ATTRIBUTIONS: [&str; 9] = [
    "click_token",
    "coupon",
    "visitor",
    "fingerprint",
    "no_click",
    "bad_click_token",
    "unknown_link",
    "other_tenant",
    "outside_window",
];
/// Most conversions that one request decides about.
pub(crate) const MAX_DECIDED: usize = 500;
/// Most reports, and most decisions, that a conversion is shown with: the first ones.
pub(crate) const MAX_SHOWN: i64 = 1000;

/// Selects what a [`Row`] holds.
macro_rules! columns {
    () => {
        "id, order_id, event, status, amount, refunded, currency, accepted_at, attribution, model, coupon, click_id, \
         link_id, affiliate_id, program_id, encode(customer_id, 'hex') AS customer_hash, new_customer, note, \
         verdict, signals"
    };
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// RFC 3339; from this time on.
    from: Option<String>,
    /// RFC 3339; up to, and without, this time.
    to: Option<String>,
    /// lead, pending, approved, rejected or refunded.
    status: Option<String>,
    /// By what it was credited, or why it was not: click_token, coupon, no_click and so on.
    attribution: Option<String>,
    program_id: Option<i64>,
    affiliate_id: Option<i64>,
    link_id: Option<i64>,
    /// The merchant's own; an order may have several conversions, one for each event.
    order_id: Option<String>,
    /// Such as sale or lead. Clicks that are paid for as such are left out, unless they are asked for: click.
    event: Option<String>,
    /// clear, flag, hold or reject.
    verdict: Option<String>,
    /// True: nobody has decided about it yet. With `verdict=hold` this is what waits for a person.
    undecided: Option<bool>,
    /// True, with `Accept: text/csv`: the whole list, in one answer.
    all: Option<bool>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// The first instant that counts, and the first that does not count any more.
type Times = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

pub(crate) fn times(from: Option<&str>, to: Option<&str>) -> Result<Times, Problem> {
    let read =
        |field, text: Option<&str>| text.map(|text| period::instant(field, text)).transpose();
    Ok((read("from", from)?, read("to", to)?))
}

/// Refuses a value that a field never has: a list of nothing would look like an answer.
pub(crate) fn one_of(field: &str, value: Option<&str>, values: &[&str]) -> Result<(), Problem> {
    if value.is_none_or(|value| values.contains(&value)) {
        return Ok(());
    }
    let text = format!("{field} must be one of {}", values.join(", "));
    Err(Problem::bad_request(text))
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
    /// The strongest of its signals: clear, flag, hold (its commissions wait for a decision) or reject.
    #[schema(examples("clear"))]
    verdict: String,
    /// What speaks against it.
    #[schema(value_type = Vec<Signal>)]
    signals: Value,
}

/// Something that speaks against a conversion.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what the processor writes")]
struct Signal {
    #[schema(examples("fast_conversion"))]
    signal: String,
    /// flag, hold or reject.
    #[schema(examples("flag"))]
    action: String,
    #[schema(examples("the order came 2 s after the click; less than 5 s"))]
    text: String,
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
    pub verdict: String,
    pub signals: Value,
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
            verdict: row.verdict,
            signals: row.signals,
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
    let whole = exports::whole(filter.all, format, filter.limit, filter.cursor.as_deref())?;
    let asked = Asked::<BeforeTime>::new(filter.limit, filter.cursor.as_deref())?;
    let (from, to) = times(filter.from.as_deref(), filter.to.as_deref())?;
    one_of("verdict", filter.verdict.as_deref(), &VERDICTS)?;
    one_of("status", filter.status.as_deref(), &STATUSES)?;
    one_of("attribution", filter.attribution.as_deref(), &ATTRIBUTIONS)?;
    let query = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM conversions
         WHERE tenant_id = $1
           AND ($2::timestamptz IS NULL OR accepted_at >= $2)
           AND ($3::timestamptz IS NULL OR accepted_at < $3)
           AND ($4::text IS NULL OR status = $4)
           AND ($5::text IS NULL OR attribution = $5)
           AND ($6::bigint IS NULL OR program_id = $6)
           AND ($7::bigint IS NULL OR affiliate_id = $7)
           AND ($8::bigint IS NULL OR link_id = $8)
           AND ($9::text IS NULL OR order_id = $9)
           AND ($10::timestamptz IS NULL OR (accepted_at, id) < ($10, $11::uuid))
           AND ($13::text IS NULL OR verdict = $13)
           AND CASE WHEN $15::text IS NOT NULL THEN event = $15
                    ELSE event <> 'click' OR NOT EXISTS (SELECT 1 FROM click_counts k WHERE k.conversion_id = conversions.id) END
           AND ($14::boolean IS NULL OR $14 = NOT EXISTS (SELECT 1 FROM conversion_decisions d WHERE d.conversion_id = conversions.id))
         ORDER BY accepted_at DESC, id DESC LIMIT $12"
    ))
    .bind(at.tenant)
    .bind(from)
    .bind(to)
    .bind(filter.status)
    .bind(filter.attribution)
    .bind(filter.program_id)
    .bind(filter.affiliate_id)
    .bind(filter.link_id)
    .bind(filter.order_id)
    .bind(asked.after.map(|after| after.0))
    .bind(asked.after.map(|after| after.1))
    .bind((!whole).then(|| asked.rows()))
    .bind(filter.verdict)
    .bind(filter.undecided)
    .bind(filter.event);
    if whole {
        let line = Conversion::from;
        return exports::respond(&app, at.tenant, Rows { query, line }).await;
    }
    let rows: Vec<Row> = query.fetch_all(&app.postgres).await?;
    asked
        .page(
            rows,
            |row| BeforeTime(row.accepted_at, row.id),
            Conversion::from,
        )
        .respond(format)
}

/// Everything that is known of a conversion: what was said, what was decided, what follows.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConversionStory {
    #[serde(flatten)]
    conversion: Conversion,
    /// The earliest report's time.
    converted_at: DateTime<Utc>,
    /// When it is looked at next; null: not until somebody says something.
    settle_at: Option<DateTime<Utc>>,
    #[schema(value_type = Vec<Item>)]
    items: Value,
    /// Everything that was considered, in the order of time, with its share.
    #[schema(value_type = Vec<Touchpoint>)]
    path: Value,
    /// How many clicks it is, of event `click`: clicks that are paid for as such, since `converted_at`.
    #[schema(examples(137))]
    clicks: Option<i64>,
    reports: Vec<Report>,
    decisions: Vec<Decision>,
    commissions: Vec<CommissionStory>,
    evidence: Evidence,
}

/// A line of an order.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what the processor writes")]
struct Item {
    product: String,
    category: Option<String>,
    quantity: u32,
    /// Of the whole line.
    #[schema(examples("49.90"))]
    amount: String,
}

/// What may have led to an order.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what the processor writes")]
struct Touchpoint {
    /// Null: a coupon.
    click_id: Option<String>,
    at: DateTime<Utc>,
    program_id: i64,
    affiliate_id: i64,
    link_id: Option<i64>,
    /// click_token, coupon, visitor or fingerprint.
    #[schema(examples("click_token"))]
    evidence: String,
    /// How sure that makes, in per cent.
    #[schema(examples(100))]
    confidence: u8,
    /// 0 to 1; 0: it was considered and gets nothing.
    #[schema(examples("1"))]
    share: String,
    /// What commission rules ask of the click, once that is known.
    facts: Option<ClickFacts>,
}

#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what the processor writes")]
struct ClickFacts {
    #[schema(examples("DE"))]
    country: String,
    #[schema(examples("mobile"))]
    device: String,
    campaign: String,
    /// `sub1` to `sub5`.
    subs: Vec<String>,
    /// The clicks around it, once they were counted.
    around: Option<Around>,
}

#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what the processor writes")]
struct Around {
    /// Milliseconds since the same visitor's last click on the link; left out: there was none within a minute.
    since_ms: Option<u32>,
    /// Clicks of its address and browser on the link within the minute up to it, itself among them; 0: not known.
    in_minute: u32,
}

/// What the merchant said of an order at some time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Report {
    reported_at: DateTime<Utc>,
    /// postback, pixel or event.
    #[schema(examples("postback"))]
    source: String,
    status: Option<String>,
    #[schema(examples("49.90"))]
    amount: Option<String>,
    currency: Option<String>,
    /// The merchant's own.
    report_id: Option<String>,
}

/// What somebody decided about a conversion.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Decision {
    id: i64,
    conversion_id: Uuid,
    /// approve, reject or reinstate.
    #[schema(examples("approve"))]
    decision: String,
    reason: String,
    #[schema(examples("ana@example.com"))]
    decided_by: String,
    decided_at: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow)]
struct StoryRow {
    #[sqlx(flatten)]
    row: Row,
    converted_at: DateTime<Utc>,
    settle_at: Option<DateTime<Utc>>,
    items: Value,
    path: Value,
    clicks: Option<i64>,
}

#[derive(Debug, sqlx::FromRow)]
struct ReportRow {
    reported_at: DateTime<Utc>,
    source: String,
    status: Option<String>,
    amount: Option<Decimal>,
    currency: Option<String>,
    report_id: Option<String>,
}

impl From<ReportRow> for Report {
    fn from(row: ReportRow) -> Self {
        let currency = row.currency.as_deref().unwrap_or_default();
        Self {
            amount: row.amount.map(|amount| amounts::text(amount, currency)),
            reported_at: row.reported_at,
            source: row.source,
            status: row.status,
            currency: row.currency,
            report_id: row.report_id,
        }
    }
}

/// Explain a conversion
///
/// The whole story: what the merchant reported, what led to the order, what was decided, and each commission with the steps
/// that led to it and all that the ledger has of it. With the grounds for a decision: timing, addresses, and other conversions
/// that share something with it.
#[utoipa::path(get, path = "/v1/conversions/{id}", tag = "Money", params(TenantHeader, ("id" = Uuid, Path)),
    responses((status = 200, body = ConversionStory), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: EventId,
) -> Result<Json<ConversionStory>, Problem> {
    // One moment for all of it.
    let mut transaction = app.postgres.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *transaction)
        .await?;
    let story: StoryRow = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", converted_at, settle_at, items, path,
         (SELECT clicks FROM click_counts k WHERE k.conversion_id = conversions.id) AS clicks
         FROM conversions WHERE tenant_id = $1 AND id = $2"
    ))
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("conversion"))?;
    let reports: Vec<ReportRow> = sqlx::query_as(
        "SELECT reported_at, source, status, amount, currency, report_id FROM conversion_reports
         WHERE tenant_id = $1 AND conversion_id = $2 ORDER BY reported_at, id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(MAX_SHOWN)
    .fetch_all(&mut *transaction)
    .await?;
    let decisions: Vec<Decision> = sqlx::query_as(
        "SELECT id, conversion_id, decision, reason, decided_by, decided_at FROM conversion_decisions
         WHERE tenant_id = $1 AND conversion_id = $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(id.0)
    .bind(MAX_SHOWN)
    .fetch_all(&mut *transaction)
    .await?;
    let commissions =
        commissions::stories(&mut transaction, at.tenant, Which::OfConversion(id.0)).await?;
    let sees_addresses = at.caller.may_decide();
    let mut evidence = evidence::of(&mut transaction, at.tenant, id.0, sees_addresses).await?;
    transaction.commit().await?;
    let click = story.row.click_id.as_deref();
    evidence.seconds_since_click = evidence::seconds_since(&story.path, click, story.converted_at);
    if let Some(click) = click.filter(|_| sees_addresses) {
        // The story is told without it while ClickHouse is away.
        let address = app.facts.click_address(at.tenant, click).await;
        evidence.click_address = address.unwrap_or_default();
    }
    Ok(Json(ConversionStory {
        conversion: story.row.into(),
        converted_at: story.converted_at,
        settle_at: story.settle_at,
        items: story.items,
        path: story.path,
        clicks: story.clicks,
        evidence,
        reports: reports.into_iter().map(Report::from).collect(),
        decisions,
        commissions,
    }))
}

/// What a person may decide. The latest decision counts, above what the merchant says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// What is on hold becomes available at once.
    Approve,
    /// It earns nothing; what was paid is taken back from the next payout.
    Reject,
    /// Takes a rejection back, the merchant's as well.
    Reinstate,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDecision {
    decision: Verdict,
    /// For those who ask later: 1 to 1,000 characters.
    #[schema(examples("checked with the shop"))]
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDecisions {
    /// 1 to 500 conversions.
    ids: Vec<Uuid>,
    decision: Verdict,
    /// For those who ask later: 1 to 1,000 characters.
    #[schema(examples("a test of the shop's"))]
    reason: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Decided {
    /// One for each conversion.
    items: Vec<Decision>,
}

/// Decide about a conversion
///
/// The decision is kept, and its conversion settled again a moment later: commissions and ledger follow.
#[utoipa::path(post, path = "/v1/conversions/{id}/decisions", tag = "Money", request_body = NewDecision,
    params(TenantHeader, IdempotencyHeader, ("id" = Uuid, Path)),
    responses((status = 201, body = Decision), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn decide(
    State(app): State<App>,
    at: Scoped,
    id: EventId,
    actor: Actor,
    idempotency: IdempotencyKey,
    body: Body<NewDecision>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let reason = checks.text("reason", &new.reason, MAX_REASON_CHARS);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let made = Made {
        decision: new.decision,
        reason,
        by: actor,
        at: app.clock.now(),
    };
    let decided = made
        .about(creation.connection(), at.tenant, &[id.0])
        .await?;
    let decision = decided.into_iter().next();
    let decision = decision.ok_or_else(|| Problem::not_found("conversion"))?;
    creation.finish(&decision, &[]).await
}

/// Decide about many conversions
///
/// About all of them or, when there is no such conversion among them, about none.
#[utoipa::path(post, path = "/v1/conversions/decisions", tag = "Money", request_body = NewDecisions,
    params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Decided), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn decide_many(
    State(app): State<App>,
    at: Scoped,
    actor: Actor,
    idempotency: IdempotencyKey,
    body: Body<NewDecisions>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    if !(1..=MAX_DECIDED).contains(&new.ids.len()) {
        checks.wrong("ids", format!("must be 1 to {MAX_DECIDED} conversions"));
    }
    let reason = checks.text("reason", &new.reason, MAX_REASON_CHARS);
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let made = Made {
        decision: new.decision,
        reason,
        by: actor,
        at: app.clock.now(),
    };
    let items = made
        .about(creation.connection(), at.tenant, &new.ids)
        .await?;
    let decided: HashSet<Uuid> = items
        .iter()
        .map(|decision| decision.conversion_id)
        .collect();
    let mut checks = Checks::default();
    for (number, id) in new.ids.iter().enumerate() {
        if !decided.contains(id) {
            checks.wrong(&format!("ids[{number}]"), "there is no such conversion");
        }
    }
    checks.finish()?;
    creation.finish(&Decided { items }, &[]).await
}

/// A decision that is made.
struct Made {
    decision: Verdict,
    reason: String,
    by: Actor,
    at: DateTime<Utc>,
}

impl Made {
    /// Keeps the decision about those of these conversions that are the tenant's, and has them settled again.
    async fn about(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        conversions: &[Uuid],
    ) -> Result<Vec<Decision>, sqlx::Error> {
        // In the order in which they are locked to be settled, so that nobody waits in a circle.
        let before: Vec<(Uuid, String, String, Option<String>)> = sqlx::query_as(
            "SELECT id, status, verdict, (SELECT decision FROM conversion_decisions d WHERE d.conversion_id = c.id ORDER BY d.id DESC LIMIT 1)
             FROM conversions c WHERE tenant_id = $1 AND id = ANY($2) ORDER BY id FOR UPDATE OF c",
        )
        .bind(tenant)
        .bind(conversions)
        .fetch_all(&mut *connection)
        .await?;
        let ids: Vec<Uuid> = before.iter().map(|(id, ..)| *id).collect();
        let decisions: Vec<Decision> = sqlx::query_as(
            "INSERT INTO conversion_decisions (tenant_id, conversion_id, decision, reason, decided_by, decided_at)
             SELECT $1, id, $3, $4, $5, $6 FROM unnest($2::uuid[]) AS w (id)
             RETURNING id, conversion_id, decision, reason, decided_by, decided_at",
        )
        .bind(tenant)
        .bind(&ids)
        .bind(self.decision)
        .bind(&self.reason)
        .bind(&self.by.0)
        .bind(self.at)
        .fetch_all(&mut *connection)
        .await?;
        sqlx::query("UPDATE conversions SET settle_at = $3 WHERE tenant_id = $1 AND id = ANY($2)")
            .bind(tenant)
            .bind(&ids)
            .bind(self.at)
            .execute(&mut *connection)
            .await?;
        let change =
            |(id, status, verdict, decision): (Uuid, String, String, Option<String>)| Change {
                kind: "conversion",
                id: id.to_string(),
                before: Some(json!({"status": status, "verdict": verdict, "decision": decision})),
                after: Some(json!({"decision": self.decision, "reason": self.reason})),
            };
        let audit = Audit {
            tenant,
            actor: &self.by,
            at: self.at,
        };
        let changes: Vec<Change> = before.into_iter().map(change).collect();
        audit.note(connection, Action::Decided, &changes).await?;
        Ok(decisions)
    }
}
