//! When and how a tenant pays its affiliates.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::types::Json as Document;
use tributary_shared::money::{Currency, Money};
use tributary_shared::payouts::{Fee as Stored, MAX_TERMS};
use utoipa::ToSchema;

use super::TenantHeader;
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::Body;
use crate::state::App;
use crate::validate::Checks;

/// Kinds of payout methods.
pub(crate) const METHODS: [&str; 5] = ["paypal", "sepa", "bank", "stripe_connect", "manual"];
/// The latest day of a month that every month has.
const LAST_DAY: i16 = 28;
/// Most approvals that terms may ask for.
const MAX_APPROVALS: i16 = 2;

/// How often payouts are drafted by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum Schedule {
    Daily,
    Monthly,
    /// When somebody asks for it.
    OnRequest,
}

/// What sending costs the affiliate: percent and fixed together, at most `maximum`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fee {
    /// paypal, sepa, bank, stripe_connect or manual.
    #[schema(examples("paypal"))]
    method: String,
    #[schema(examples("USD"))]
    currency: String,
    #[schema(examples("2"))]
    percent: Option<String>,
    #[schema(examples("0.25"))]
    fixed: Option<String>,
    #[schema(examples("20.00"))]
    maximum: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTerms {
    schedule: Schedule,
    /// With monthly: 1 to 28, in the tenant's time zone; 1 by default.
    day_of_month: Option<i16>,
    /// How many different people must approve a payout before money leaves: 0 to 2. With 2, people sign in to approve.
    approvals: i16,
    /// By currency, what has to be available; any amount above nothing where none is said.
    #[serde(default)]
    #[schema(examples(json!({"USD": "50.00"})))]
    minimums: BTreeMap<String, String>,
    /// One at most of each method and currency.
    #[serde(default)]
    fees: Vec<Fee>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Terms {
    schedule: Schedule,
    day_of_month: i16,
    approvals: i16,
    #[schema(examples(json!({"USD": "50.00"})))]
    minimums: BTreeMap<String, String>,
    fees: Vec<Fee>,
    /// Null: never said, these are what counts without.
    updated_at: Option<DateTime<Utc>>,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    schedule: Schedule,
    day_of_month: i16,
    approvals: i16,
    minimums: Document<BTreeMap<String, Decimal>>,
    fees: Document<Vec<Stored>>,
    updated_at: DateTime<Utc>,
}

impl From<Row> for Terms {
    fn from(row: Row) -> Self {
        let minimum = |(currency, amount): (String, Decimal)| {
            let amount = amounts::text(amount, &currency);
            (currency, amount)
        };
        let fee = |fee: Stored| Fee {
            percent: Some(amounts::percent(fee.percent)),
            fixed: Some(amounts::text(fee.fixed, &fee.currency)),
            maximum: (fee.maximum).map(|maximum| amounts::text(maximum, &fee.currency)),
            method: fee.method,
            currency: fee.currency,
        };
        Self {
            schedule: row.schedule,
            day_of_month: row.day_of_month,
            approvals: row.approvals,
            minimums: row.minimums.0.into_iter().map(minimum).collect(),
            fees: row.fees.0.into_iter().map(fee).collect(),
            updated_at: Some(row.updated_at),
        }
    }
}

/// Read the payout terms
#[utoipa::path(get, path = "/v1/payout-terms", tag = "Payouts", params(TenantHeader),
    responses((status = 200, body = Terms), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(State(app): State<App>, at: Scoped) -> Result<Json<Terms>, Problem> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT schedule, day_of_month, approvals, minimums, fees, updated_at FROM payout_terms WHERE tenant_id = $1",
    )
    .bind(at.tenant)
    .fetch_optional(&app.postgres)
    .await?;
    let unsaid = || Terms {
        schedule: Schedule::OnRequest,
        day_of_month: 1,
        approvals: 1,
        minimums: BTreeMap::new(),
        fees: Vec::new(),
        updated_at: None,
    };
    Ok(Json(row.map_or_else(unsaid, Terms::from)))
}

/// Write the payout terms
///
/// They count for payouts that are drafted from now on; the number of approvals for those that wait for one as well. A new
/// schedule begins on the next day.
#[utoipa::path(put, path = "/v1/payout-terms", tag = "Payouts", request_body = NewTerms, params(TenantHeader),
    responses((status = 200, body = Terms), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    at: Scoped,
    body: Body<NewTerms>,
) -> Result<Json<Terms>, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let day_of_month = new.day_of_month.unwrap_or(1);
    if !(1..=LAST_DAY).contains(&day_of_month) {
        checks.wrong("day_of_month", format!("must be 1 to {LAST_DAY}"));
    }
    if !(0..=MAX_APPROVALS).contains(&new.approvals) {
        checks.wrong("approvals", format!("must be 0 to {MAX_APPROVALS}"));
    }
    let minimums = minimums(&mut checks, &new.minimums);
    let fees = fees(&mut checks, &new.fees);
    checks.finish()?;
    let row: Row = sqlx::query_as(
        "INSERT INTO payout_terms AS t (tenant_id, schedule, day_of_month, approvals, minimums, fees, updated_at, scheduled_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
         ON CONFLICT (tenant_id) DO UPDATE SET schedule = EXCLUDED.schedule, day_of_month = EXCLUDED.day_of_month,
             approvals = EXCLUDED.approvals, minimums = EXCLUDED.minimums, fees = EXCLUDED.fees, updated_at = EXCLUDED.updated_at,
             scheduled_at = CASE WHEN (t.schedule, t.day_of_month) = (EXCLUDED.schedule, EXCLUDED.day_of_month)
                            THEN t.scheduled_at ELSE EXCLUDED.scheduled_at END
         RETURNING schedule, day_of_month, approvals, minimums, fees, updated_at",
    )
    .bind(at.tenant)
    .bind(new.schedule)
    .bind(day_of_month)
    .bind(new.approvals)
    .bind(Document(minimums))
    .bind(Document(fees))
    .bind(app.clock.now())
    .fetch_one(&app.postgres)
    .await?;
    Ok(Json(row.into()))
}

fn amount(checks: &mut Checks, field: &str, amount: &str, currency: &str) -> Decimal {
    match Money::parse(amount, currency) {
        Ok(money) => money.amount(),
        Err(error) => {
            checks.wrong(field, error.to_string());
            Decimal::ZERO
        }
    }
}

fn minimums(checks: &mut Checks, of: &BTreeMap<String, String>) -> BTreeMap<String, Decimal> {
    if of.len() > MAX_TERMS {
        checks.wrong("minimums", format!("must be at most {MAX_TERMS}"));
    }
    (of.iter().take(MAX_TERMS))
        .map(|(currency, minimum)| {
            let minimum = amount(checks, &format!("minimums.{currency}"), minimum, currency);
            (currency.clone(), minimum)
        })
        .collect()
}

fn fees(checks: &mut Checks, of: &[Fee]) -> Vec<Stored> {
    if of.len() > MAX_TERMS {
        checks.wrong("fees", format!("must be at most {MAX_TERMS}"));
    }
    let mut fees: Vec<Stored> = Vec::with_capacity(of.len().min(MAX_TERMS));
    for (number, fee) in of.iter().take(MAX_TERMS).enumerate() {
        let field = |name: &str| format!("fees[{number}].{name}");
        if !METHODS.contains(&fee.method.as_str()) {
            let text = format!("must be one of {}", METHODS.join(", "));
            checks.wrong(&field("method"), text);
        }
        if fee.currency.parse::<Currency>().is_err() {
            checks.currency(&field("currency"), &fee.currency);
            continue;
        }
        if fees
            .iter()
            .any(|f| (&f.method, &f.currency) == (&fee.method, &fee.currency))
        {
            let text = "this method and currency have a fee already";
            checks.wrong(&field("method"), text);
        }
        let percent = fee.percent.as_deref().unwrap_or("0");
        let percent = checks.percent(&field("percent"), percent);
        let mut money = |name: &str, text: &Option<String>| {
            let text = text.as_deref()?;
            Some(amount(checks, &field(name), text, &fee.currency))
        };
        let fixed = money("fixed", &fee.fixed).unwrap_or_default();
        let maximum = money("maximum", &fee.maximum);
        fees.push(Stored {
            method: fee.method.clone(),
            currency: fee.currency.clone(),
            percent,
            fixed,
            maximum,
        });
    }
    fees
}
