//! What an order would earn: the program's rules, or one that is being written, asked about an order that nobody placed.
//! Nothing is written, and nobody's history is looked at: figures that rules depend on stand in the question.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tributary_shared::commission::{
    self, CommissionKind, Customer, CustomerHistory, Figures, Item, Measure, Need, Number,
    Occasion, PriceError, Rule, RuleSet, SALE, Uplines, Version, needs, price,
};
use tributary_shared::ids::{AffiliateId, TenantId};
use tributary_shared::money::{Currency, Money};
use tributary_shared::orders::{MAX_EVENT_CHARS, is_event};
use utoipa::ToSchema;

use super::TenantHeader;
use super::commissions::{Part, Rate, Step};
use super::programs::{PayIn, UplineOf};
use super::rules;
use crate::amounts;
use crate::auth::Asking;
use crate::error::Problem;
use crate::extract::{Body, Id};
use crate::state::App;
use crate::validate::Checks;

/// Most lines of an order; the processor takes as many.
pub(crate) const MAX_ITEMS: usize = 100;
/// Most pieces of a line, and the highest number of orders.
pub(crate) const MAX_COUNT: u64 = 1_000_000_000;
/// Most affiliates above one who get something.
const MAX_LEVELS: i32 = 10;
/// The name of a rule that is tried out without one.
const UNNAMED: &str = "preview";

/// An order that nobody placed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "affiliate_id": 1, "amount": "80.00", "currency": "USD",
    "items": [{"product": "SKU-1", "category": "shoes", "quantity": 2, "amount": "70.00"}],
    "country": "DE", "figures": {"revenue": "1200.00"},
    "rule": {"name": "gold-shoes", "document": {"scope": {"categories": ["shoes"]}, "reward": {"kind": "percent", "percent": "15"}}}
}))]
pub(crate) struct PreviewOrder {
    affiliate_id: i64,
    #[serde(default = "sale")]
    #[schema(default = "sale")]
    event: String,
    /// Null: it has no amount, as a click or a lead.
    amount: Option<String>,
    /// The program's where it is not said.
    currency: Option<String>,
    /// 100 at most.
    #[serde(default)]
    items: Vec<PreviewItem>,
    #[serde(default)]
    coupon: String,
    #[serde(default)]
    country: String,
    #[serde(default)]
    device: String,
    #[serde(default)]
    campaign: String,
    /// `sub1` to `sub5`.
    #[serde(default)]
    subs: Vec<String>,
    /// Whether the customer is new to the merchant; null: not known.
    new_customer: Option<bool>,
    /// When it was placed: by the versions of that time it is paid. Now where it is not said.
    at: Option<DateTime<Utc>>,
    #[serde(default)]
    figures: PreviewFigures,
    /// One that is being written: in place of the program's rule of its name, beside them where there is none.
    rule: Option<PreviewRule>,
}

fn sale() -> String {
    SALE.to_owned()
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewItem {
    product: String,
    #[serde(default)]
    category: String,
    #[serde(default = "one")]
    #[schema(default = 1)]
    quantity: u32,
    /// Of the whole line.
    amount: String,
}

fn one() -> u32 {
    1
}

/// What was before the order. Of every period that a rule asks about.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PreviewFigures {
    /// The affiliate's, in the program's currency; 0 where it is not said.
    #[schema(examples("1200.00"))]
    revenue: Option<String>,
    /// How many orders the affiliate brought.
    orders: u64,
    /// How many of the affiliate's clicks were paid for.
    clicks: u64,
    /// What the affiliate earned by a rule that has a cap, in the program's currency; 0 where it is not said.
    earned: Option<String>,
    /// How many orders the customer placed; null: it is not known who he is.
    customer_orders: Option<u64>,
    /// When he placed the first of them.
    customer_first_order_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewRule {
    name: Option<String>,
    /// As it would be written to `/v1/programs/{id}/rules/{name}`.
    #[schema(value_type = Object)]
    document: Value,
}

/// What the order would earn.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Preview {
    commissions: Vec<PreviewCommission>,
    /// Why there is not more.
    #[schema(value_type = Vec<Step>)]
    left_out: Vec<commission::Step>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PreviewCommission {
    #[schema(value_type = i64)]
    affiliate_id: AffiliateId,
    /// `direct`, `upline 1` (the affiliate's parent) and so on, or `bonus` with the rule's name.
    #[schema(examples("direct"))]
    part: String,
    rule: PreviewRuleRef,
    /// What it was taken of, in the order's currency; null: there was no amount.
    #[schema(examples("80.00"))]
    basis: Option<String>,
    #[schema(examples("12.00"))]
    amount: String,
    currency: String,
    #[schema(value_type = Vec<Step>)]
    steps: Vec<commission::Step>,
    #[schema(value_type = Vec<Part>)]
    parts: Vec<Value>,
    #[schema(value_type = Option<Rate>)]
    rate: Option<Value>,
}

/// The rule that gave most of a commission.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PreviewRuleRef {
    /// 0: the one that is being written.
    id: i64,
    name: String,
    version: i32,
}

#[derive(Debug, sqlx::FromRow)]
struct ProgramRow {
    pay_in: PayIn,
    upline_percents: Vec<Decimal>,
    upline_of: UplineOf,
}

#[derive(Debug, sqlx::FromRow)]
struct RuleRow {
    id: i64,
    name: String,
    version: i32,
    document: Value,
    active: bool,
    created_at: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow)]
struct AffiliateRow {
    id: AffiliateId,
    tier: Option<String>,
    groups: Vec<String>,
    tags: Vec<String>,
    certifications: Vec<String>,
}

impl From<AffiliateRow> for commission::Affiliate {
    fn from(row: AffiliateRow) -> Self {
        Self {
            id: row.id,
            tier: row.tier.unwrap_or_default(),
            groups: row.groups,
            tags: row.tags,
            certifications: row.certifications,
        }
    }
}

/// Ask what an order would earn
///
/// By the program's rules, or with one that is being written. Nothing is kept.
#[utoipa::path(post, path = "/v1/programs/{id}/preview", tag = "Programs", request_body = PreviewOrder,
    params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Preview), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn preview(
    State(app): State<App>,
    at: Asking,
    id: Id,
    body: Body<PreviewOrder>,
) -> Result<Json<Preview>, Problem> {
    let asked = body.value;
    let mut connection = app.postgres.acquire().await?;
    let currency = rules::currency(&mut connection, at.tenant, id.0).await?;
    let program = program(&mut connection, at.tenant, id.0, currency).await?;
    let when = asked.at.unwrap_or_else(|| app.clock.now());
    let mut checks = Checks::default();
    checks.moment("at", when);
    let occasion = occasion(&mut checks, &asked, when, currency);
    let known = Known::read(&mut checks, &asked.figures, currency);
    if let Some(rule) = &asked.rule {
        if let Some(name) = &rule.name {
            checks.label("rule.name", name);
        }
        let mut found = Checks::default();
        rules::check(&mut found, &rule.document, currency);
        checks.take("rule", found);
    }
    let line = affiliates(&mut connection, at.tenant, asked.affiliate_id).await?;
    if line.is_empty() {
        checks.wrong("affiliate_id", "there is no such affiliate");
    }
    checks.finish()?;
    let above: Vec<AffiliateId> = line.iter().skip(1).map(|row| row.id).collect();
    let affiliate = line.into_iter().next().map(commission::Affiliate::from);
    let affiliate = affiliate.ok_or_else(Problem::internal)?;

    let set = rule_set(&mut connection, at.tenant, id.0, currency, asked.rule, when).await?;
    let rules = set.at(when);
    let needs = needs(&rules, &program, &occasion, &affiliate).map_err(unpriced)?;
    let mut figures = Figures::default();
    for need in needs {
        match need {
            Need::Volume { by, period } => {
                let volume = match by {
                    Measure::Revenue => known.revenue,
                    Measure::Orders => Decimal::from(known.orders),
                    Measure::Clicks => Decimal::from(known.clicks),
                };
                figures.volumes.insert((by, period), volume);
            }
            Need::Earned { rule, period } => {
                figures.earned.insert((rule, period), known.earned);
            }
            Need::AffiliateOrders => figures.affiliate_orders = Some(known.orders),
            Need::Customer => figures.customer = Some(known.customer),
            Need::Rate { from, to } => {
                if let Some(rate) = rate(&mut connection, at.tenant, from, to, when).await? {
                    figures.rates.insert((from, to), rate);
                }
            }
        }
    }
    let priced =
        price(&rules, &program, &occasion, &affiliate, &above, &figures).map_err(unpriced)?;
    Ok(Json(Preview {
        commissions: priced.commissions.into_iter().map(shown).collect(),
        left_out: priced.left_out,
    }))
}

/// What the question says of the time before the order.
struct Known {
    revenue: Decimal,
    orders: u64,
    clicks: u64,
    earned: Decimal,
    customer: CustomerHistory,
}

impl Known {
    fn read(checks: &mut Checks, figures: &PreviewFigures, currency: Currency) -> Self {
        let mut amount = |field: &str, text: &Option<String>| {
            let text = text.as_deref().unwrap_or("0");
            money(checks, field, text, currency).amount()
        };
        let (revenue, earned) = (
            amount("figures.revenue", &figures.revenue),
            amount("figures.earned", &figures.earned),
        );
        let customer_orders = figures.customer_orders.unwrap_or(0);
        for (field, count) in [
            ("figures.orders", figures.orders),
            ("figures.clicks", figures.clicks),
            ("figures.customer_orders", customer_orders),
        ] {
            if count > MAX_COUNT {
                checks.wrong(field, format!("must be at most {MAX_COUNT}"));
            }
        }
        if let Some(first) = figures.customer_first_order_at {
            checks.moment("figures.customer_first_order_at", first);
        }
        Self {
            revenue,
            orders: figures.orders,
            clicks: figures.clicks,
            earned,
            customer: CustomerHistory {
                first_order_at: figures.customer_first_order_at,
                orders: customer_orders,
            },
        }
    }
}

/// An amount of money; none where it can't be taken.
fn money(checks: &mut Checks, field: &str, text: &str, currency: Currency) -> Money {
    Money::parse(text, currency.code()).unwrap_or_else(|error| {
        checks.wrong(field, error.to_string());
        Money::zero(currency)
    })
}

fn occasion(
    checks: &mut Checks,
    asked: &PreviewOrder,
    when: DateTime<Utc>,
    programs: Currency,
) -> Occasion {
    let currency = asked.currency.as_deref().map_or(programs, |code| {
        checks.currency("currency", code);
        code.parse().unwrap_or(programs)
    });
    if !is_event(&asked.event) {
        checks.wrong(
            "event",
            format!("must be 1 to {MAX_EVENT_CHARS} of a-z, 0-9 and _"),
        );
    }
    if asked.items.len() > MAX_ITEMS {
        checks.wrong("items", format!("must be at most {MAX_ITEMS}"));
    }
    let amount = asked
        .amount
        .as_deref()
        .map(|text| money(checks, "amount", text, currency));
    let mut items = Vec::with_capacity(asked.items.len().min(MAX_ITEMS));
    for (number, item) in asked.items.iter().enumerate().take(MAX_ITEMS) {
        let field = |name: &str| format!("items[{number}].{name}");
        if !(1..=MAX_COUNT).contains(&u64::from(item.quantity)) {
            checks.wrong(&field("quantity"), format!("must be 1 to {MAX_COUNT}"));
        }
        items.push(Item {
            product: item.product.clone(),
            category: item.category.clone(),
            quantity: item.quantity,
            amount: money(checks, &field("amount"), &item.amount, currency),
        });
    }
    let mut subs: [String; 5] = Default::default();
    if asked.subs.len() > subs.len() {
        checks.wrong("subs", format!("must be at most {}", subs.len()));
    }
    for (to, from) in subs.iter_mut().zip(&asked.subs) {
        to.clone_from(from);
    }
    Occasion {
        items,
        coupon: asked.coupon.clone(),
        campaign: asked.campaign.clone(),
        country: asked.country.clone(),
        device: asked.device.clone(),
        subs,
        customer: Customer {
            identified: asked.figures.customer_orders.is_some(),
            new: asked.new_customer,
        },
        ..Occasion::new(when, &asked.event, amount)
    }
}

async fn program(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: i64,
    currency: Currency,
) -> Result<commission::Program, Problem> {
    let row: ProgramRow = sqlx::query_as(
        "SELECT pay_in, upline_percents, upline_of FROM programs WHERE tenant_id = $1 AND id = $2",
    )
    .bind(tenant)
    .bind(id)
    .fetch_optional(connection)
    .await?
    .ok_or_else(|| Problem::not_found("program"))?;
    Ok(commission::Program {
        currency,
        pay_in: match row.pay_in {
            PayIn::Order => commission::PayIn::Order,
            PayIn::Program => commission::PayIn::Program,
        },
        uplines: Uplines {
            levels: row.upline_percents.into_iter().map(Number).collect(),
            of: match row.upline_of {
                UplineOf::Commission => commission::UplineOf::Commission,
                UplineOf::Order => commission::UplineOf::Order,
            },
        },
    })
}

/// The affiliate, its parent, that one's and so on; nothing: there is no such affiliate.
async fn affiliates(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: i64,
) -> Result<Vec<AffiliateRow>, sqlx::Error> {
    sqlx::query_as(
        "WITH RECURSIVE line AS (
             SELECT id, parent_id, 0 AS level FROM affiliates WHERE tenant_id = $1 AND id = $2
             UNION ALL
             SELECT a.id, a.parent_id, level + 1 FROM line
             JOIN affiliates a ON a.tenant_id = $1 AND a.id = line.parent_id WHERE level < $3)
         SELECT a.id, a.tier, a.groups, a.tags, a.certifications
         FROM line JOIN affiliates a ON a.tenant_id = $1 AND a.id = line.id ORDER BY level",
    )
    .bind(tenant)
    .bind(id)
    .bind(MAX_LEVELS)
    .fetch_all(connection)
    .await
}

/// The program's rules, with the one that is being written, which was checked.
async fn rule_set(
    connection: &mut PgConnection,
    tenant: TenantId,
    program: i64,
    currency: Currency,
    tried: Option<PreviewRule>,
    when: DateTime<Utc>,
) -> Result<RuleSet, Problem> {
    let rows: Vec<RuleRow> = sqlx::query_as(
        "SELECT id, name, version, document, active, created_at FROM commission_rules WHERE tenant_id = $1 AND program_id = $2",
    )
    .bind(tenant)
    .bind(program)
    .fetch_all(connection)
    .await?;
    let tried = tried.map(|rule| {
        let name = rule.name.unwrap_or_else(|| UNNAMED.to_owned());
        let before = rows.iter().filter(|row| row.name == name);
        RuleRow {
            id: 0,
            version: before.map(|row| row.version).max().unwrap_or(0) + 1,
            name,
            document: rule.document,
            active: true,
            created_at: when,
        }
    });
    let replaced = tried.as_ref().map(|rule| rule.name.clone());
    let rows = rows
        .into_iter()
        .filter(|row| Some(&row.name) != replaced.as_ref());
    let version = |row: RuleRow| match Rule::read(&row.document, currency) {
        Ok(rule) => Some(Version {
            id: row.id,
            key: row.name,
            version: row.version,
            valid_from: row.created_at,
            active: row.active,
            rule,
        }),
        Err(problems) => {
            // It was checked when it was saved, by this version of the product or an older one.
            tracing::error!(
                rule = row.id,
                program,
                ?problems,
                "a commission rule can't be read; it gives nothing"
            );
            None
        }
    };
    Ok(RuleSet::new(rows.chain(tried).filter_map(version)))
}

/// The rate at the time of the order; the first there is where it is older than all.
async fn rate(
    connection: &mut PgConnection,
    tenant: TenantId,
    from: Currency,
    to: Currency,
    when: DateTime<Utc>,
) -> Result<Option<Decimal>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT rate FROM exchange_rates WHERE tenant_id = $1 AND base = $2 AND quote = $3
         ORDER BY valid_from > $4, abs(extract(epoch FROM valid_from - $4)) LIMIT 1",
    )
    .bind(tenant)
    .bind(from.code())
    .bind(to.code())
    .bind(when)
    .fetch_optional(connection)
    .await
}

/// Why it can't be priced, at the field that it is about.
fn unpriced(error: PriceError) -> Problem {
    let field = match error {
        PriceError::NoRate { .. } => "currency",
        _ => "amount",
    };
    let mut checks = Checks::default();
    checks.wrong(field, error.to_string());
    checks.finish().err().unwrap_or_else(Problem::internal)
}

fn shown(commission: commission::Commission) -> PreviewCommission {
    let text = |money: Money| amounts::text(money.amount(), money.currency().code());
    let part = |part: commission::Part| {
        json!({"rule": part.rule.key, "id": part.rule.id, "version": part.rule.version,
            "amount": text(part.amount), "earned": part.earned.map(text)})
    };
    PreviewCommission {
        affiliate_id: commission.affiliate,
        part: match commission.kind {
            CommissionKind::Direct => "direct".to_owned(),
            CommissionKind::Bonus => format!("bonus {}", commission.rule.key),
            CommissionKind::Upline(level) => format!("upline {level}"),
        },
        basis: commission.basis.map(text),
        amount: text(commission.amount),
        currency: commission.amount.currency().code().to_owned(),
        steps: commission.steps,
        parts: commission.parts.into_iter().map(part).collect(),
        rate: commission.rate.map(|rate| {
            json!({"from": rate.from.code(), "to": rate.to.code(), "rate": rate.rate.normalize()})
        }),
        rule: PreviewRuleRef {
            id: commission.rule.id,
            name: commission.rule.key,
            version: commission.rule.version,
        },
    }
}
