//! What each affiliate was paid in a year: the figures that tax forms ask for.
//!
//! It counts payouts that were paid, by the day of payment in the tenant's time zone. What was paid and taken back later
//! is settled with a later payout, which is less by it: so it lowers the year of that payout, not the one in which it was
//! paid first.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use tributary_shared::ids::{AffiliateId, TenantId};
use tributary_shared::money::{Currency, Money};
use utoipa::{IntoParams, ToSchema};

use super::TenantHeader;
use super::analytics::zone;
use crate::amounts;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::exports::{self, Rows};
use crate::extract::{Format, Id, Query};
use crate::pages::{AfterPair, Asked, Page};
use crate::period::Period;
use crate::state::App;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// 2000 to 2099.
    #[param(example = 2026)]
    year: u16,
    /// This currency alone.
    #[param(example = "USD")]
    currency: Option<String>,
    /// Only who was paid so much or more, gross, in `currency`, which must be given with it.
    #[param(example = "600.00")]
    at_least: Option<String>,
    /// True, with `Accept: text/csv`: the whole list, in one answer.
    all: Option<bool>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OneFilter {
    /// 2000 to 2099; without it, every year in which it was paid.
    #[param(example = 2026)]
    year: Option<u16>,
}

/// What an affiliate was paid in a year, in one currency.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaxTotal {
    year: i32,
    #[schema(value_type = i64)]
    affiliate_id: AffiliateId,
    name: String,
    email: Option<String>,
    #[schema(examples("USD"))]
    currency: String,
    /// How many.
    payouts: i64,
    /// What left its account: the sum of the three below.
    #[schema(examples("1200.00"))]
    gross: String,
    /// What sending it cost the affiliate.
    #[schema(examples("1.50"))]
    fees: String,
    /// What was kept back as tax.
    #[schema(examples("288.00"))]
    withheld: String,
    /// What was sent.
    #[schema(examples("910.50"))]
    net: String,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    year: i32,
    affiliate_id: AffiliateId,
    name: String,
    email: Option<String>,
    currency: String,
    payouts: i64,
    gross: Decimal,
    fees: Decimal,
    withheld: Decimal,
    net: Decimal,
}

impl From<Row> for TaxTotal {
    fn from(row: Row) -> Self {
        let text = |amount| amounts::text(amount, &row.currency);
        Self {
            gross: text(row.gross),
            fees: text(row.fees),
            withheld: text(row.withheld),
            net: text(row.net),
            year: row.year,
            affiliate_id: row.affiliate_id,
            name: row.name,
            email: row.email,
            currency: row.currency,
            payouts: row.payouts,
        }
    }
}

/// Which totals; what is none says nothing.
#[derive(Debug, Default)]
struct Wanted {
    affiliate: Option<i64>,
    paid: Option<Period>,
    currency: Option<&'static str>,
    at_least: Option<Decimal>,
    after: Option<AfterPair>,
    limit: Option<i64>,
}

impl Wanted {
    fn find(self, tenant: TenantId, zone: Tz) -> QueryAs<'static, Postgres, Row, PgArguments> {
        let (from, to): (Option<DateTime<Utc>>, _) =
            self.paid.map(|paid| (paid.from, paid.to)).unzip();
        let (after_affiliate, after_currency) =
            self.after.map(|AfterPair(id, text)| (id, text)).unzip();
        sqlx::query_as(
            "SELECT extract(year FROM p.closed_at AT TIME ZONE $2)::int AS year, p.affiliate_id, a.name, a.email,
                    p.currency, count(*) AS payouts, sum(p.amount) AS gross, sum(p.fee) AS fees,
                    sum(p.withheld) AS withheld, sum(p.net) AS net
             FROM payouts p JOIN affiliates a ON a.tenant_id = p.tenant_id AND a.id = p.affiliate_id
             WHERE p.tenant_id = $1 AND p.state = 'paid'
               AND ($3::bigint IS NULL OR p.affiliate_id = $3)
               AND ($4::timestamptz IS NULL OR p.closed_at >= $4)
               AND ($5::timestamptz IS NULL OR p.closed_at < $5)
               AND ($6::text IS NULL OR p.currency = $6)
               AND ($8::bigint IS NULL OR (p.affiliate_id, p.currency) > ($8, $9::text))
             GROUP BY year, p.affiliate_id, a.name, a.email, p.currency
             HAVING $7::numeric IS NULL OR sum(p.amount) >= $7
             ORDER BY p.affiliate_id, p.currency, year LIMIT $10",
        )
        .bind(tenant)
        .bind(zone.name())
        .bind(self.affiliate)
        .bind(from)
        .bind(to)
        .bind(self.currency)
        .bind(self.at_least)
        .bind(after_affiliate)
        .bind(after_currency)
        .bind(self.limit)
    }
}

fn year(year: u16, zone: Tz) -> Result<Period, Problem> {
    Period::whole_days(
        &format!("{year:04}-01-01"),
        &format!("{year:04}-12-31"),
        zone,
    )
    .map_err(|_| Problem::bad_request("year must be 2000 to 2099"))
}

/// List what affiliates were paid in a year
///
/// For each affiliate and currency, by the day of payment in the tenant's time zone. What was taken back after it was
/// paid lowers the year in which a later payout settled it.
#[utoipa::path(get, path = "/v1/tax-totals", tag = "Money", params(TenantHeader, Filter),
    responses((status = 200, body = Page<TaxTotal>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(filter): Query<Filter>,
    format: Format,
) -> Result<Response, Problem> {
    let currency = filter.currency.as_deref().map(|code| {
        code.parse()
            .map_err(|_| Problem::bad_request("currency must be an ISO 4217 code such as USD"))
    });
    let currency: Option<Currency> = currency.transpose()?;
    let at_least = match (&filter.at_least, currency) {
        (None, _) => None,
        (Some(_), None) => {
            return Err(Problem::bad_request(
                "give the currency of at_least as well",
            ));
        }
        (Some(text), Some(currency)) => {
            let least = Money::parse(text, currency.code());
            Some(least.map_err(|error| Problem::bad_request(format!("at_least: {error}")))?)
        }
    };
    let zone = zone(&app, at.tenant).await?;
    let mut wanted = Wanted {
        paid: Some(year(filter.year, zone)?),
        currency: currency.map(Currency::code),
        at_least: at_least.map(Money::amount),
        ..Wanted::default()
    };
    if exports::whole(filter.all, format, filter.limit, filter.cursor.as_deref())? {
        let query = wanted.find(at.tenant, zone);
        let line = TaxTotal::from;
        return exports::respond(&app, at.tenant, Rows { query, line }).await;
    }
    let asked = Asked::<AfterPair>::new(filter.limit, filter.cursor.as_deref())?;
    wanted.limit = Some(asked.rows());
    wanted.after.clone_from(&asked.after);
    let rows = wanted
        .find(at.tenant, zone)
        .fetch_all(&app.postgres)
        .await?;
    asked
        .page(
            rows,
            |row| AfterPair(row.affiliate_id.0, row.currency.clone()),
            TaxTotal::from,
        )
        .respond(format)
}

/// List what an affiliate was paid, by year
///
/// Like `/v1/tax-totals`, of one affiliate.
#[utoipa::path(get, path = "/v1/affiliates/{id}/tax-totals", tag = "Affiliates", params(TenantHeader, ("id" = i64, Path), OneFilter),
    responses((status = 200, body = Page<TaxTotal>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn of_affiliate(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    Query(filter): Query<OneFilter>,
    format: Format,
) -> Result<Response, Problem> {
    let zone = zone(&app, at.tenant).await?;
    let known: Option<i64> =
        sqlx::query_scalar("SELECT id FROM affiliates WHERE tenant_id = $1 AND id = $2")
            .bind(at.tenant)
            .bind(id.0)
            .fetch_optional(&app.postgres)
            .await?;
    let affiliate = known.ok_or_else(|| Problem::not_found("affiliate"))?;
    let wanted = Wanted {
        affiliate: Some(affiliate),
        paid: filter.year.map(|of| year(of, zone)).transpose()?,
        ..Wanted::default()
    };
    let rows = wanted
        .find(at.tenant, zone)
        .fetch_all(&app.postgres)
        .await?;
    Page {
        items: rows.into_iter().map(TaxTotal::from).collect(),
        next_cursor: None,
    }
    .respond(format)
}
