//! Analytics: one question for all, and the named reports. Days are those of the tenant's time zone.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use utoipa::{IntoParams, ToSchema};

use super::TenantHeader;
use crate::amounts::Amount;
use crate::analytics::customers::{CohortGranularity, CohortPeriod, LifetimeValue, twelve_cohorts};
use crate::analytics::query::{Answer, Measured, Question, Stretch};
use crate::analytics::reports::{AffiliateQuality, Day, Delays, Funnel, SignalFigures};
use crate::analytics::terms::{
    Compare, Dimension, Filter, FilterValue, Granularity, Measure, rate,
};
use crate::analytics::{About, Figures};
use crate::auth::{Asking, Scoped};
use crate::csv;
use crate::error::Problem;
use crate::extract::{Body, Format, Query};
use crate::pages::{DEFAULT_LIMIT, MAX_LIMIT};
use crate::period::Period;
use crate::state::App;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ByDayQuery {
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// Only this link.
    link_id: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ByLinkQuery {
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// Only this link.
    link_id: Option<i64>,
    /// Links, those with the most clicks first, 1 to 200; 50 by default.
    limit: Option<i64>,
}

/// What happened, day by day.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ByDay {
    /// The first instant that counts.
    from: DateTime<Utc>,
    /// The first instant that does not count any more.
    to: DateTime<Utc>,
    /// Whose days these are.
    #[schema(examples("Europe/Berlin"))]
    time_zone: String,
    items: Vec<Day>,
    /// Over the whole period. Somebody who came on two days is one unique visitor here.
    totals: Figures,
}

/// What happened, link by link.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ByLink {
    /// The first instant that counts.
    from: DateTime<Utc>,
    /// The first instant that does not count any more.
    to: DateTime<Utc>,
    #[schema(examples("Europe/Berlin"))]
    time_zone: String,
    items: Vec<LinkFigures>,
    /// Over all links, those that are not listed included.
    totals: Figures,
}

/// What happened on one link.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LinkFigures {
    /// Null: conversions that were attributed to no link.
    #[schema(value_type = Option<i64>)]
    pub link_id: Option<LinkId>,
    pub code: Option<String>,
    #[schema(value_type = Option<i64>)]
    pub program_id: Option<ProgramId>,
    #[schema(value_type = Option<i64>)]
    pub affiliate_id: Option<AffiliateId>,
    pub affiliate_name: Option<String>,
    pub clicks: u64,
    pub bot_clicks: u64,
    pub unique_visitors: u64,
    pub conversions: u64,
    pub revenue: Vec<Amount>,
    pub commission: Vec<Amount>,
}

/// Ask for any measures by any dimensions
///
/// A read: it changes nothing, analysts may send it, and it needs no `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/analytics/query", tag = "Analytics", params(TenantHeader), request_body = Question,
    responses((status = 200, body = Answer), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn query(
    State(app): State<App>,
    at: Asking,
    format: Format,
    Body {
        value: question, ..
    }: Body<Question>,
) -> Result<Response, Problem> {
    let answer = answer(&app, at.tenant, &question).await?;
    respond(answer, format)
}

/// The answer to `question`, with names.
async fn answer(app: &App, tenant: TenantId, question: &Question) -> Result<Answer, Problem> {
    let (from, to) = (question.from.as_deref(), question.to.as_deref());
    let zone = match question.time_zone.as_deref() {
        None => zone(app, tenant).await?,
        Some(name) => name.parse().map_err(|_| {
            Problem::bad_request("time_zone: a zone of the IANA data base, such as Europe/Berlin")
        })?,
    };
    let period = Period::read(from, to, zone, app.clock.now())?;
    let mut answer = app.facts.answer(tenant, question, &period).await?;
    for dimension in [Dimension::Program, Dimension::Affiliate, Dimension::Link] {
        let names = names_of(app, tenant, dimension, answer.ids(dimension)).await?;
        answer.named(dimension, &names);
    }
    Ok(answer)
}

/// What the ids of `dimension` are called: a link by its code.
async fn names_of(
    app: &App,
    tenant: TenantId,
    dimension: Dimension,
    ids: Vec<i64>,
) -> Result<HashMap<i64, String>, Problem> {
    let sql = match dimension {
        Dimension::Program => "SELECT id, name FROM programs WHERE tenant_id = $1 AND id = ANY($2)",
        Dimension::Affiliate => {
            "SELECT id, name FROM affiliates WHERE tenant_id = $1 AND id = ANY($2)"
        }
        Dimension::Link => "SELECT id, code FROM links WHERE tenant_id = $1 AND id = ANY($2)",
        _ => return Ok(HashMap::new()),
    };
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let names: Vec<(i64, String)> = sqlx::query_as(sql)
        .bind(tenant)
        .bind(&ids)
        .fetch_all(&app.postgres)
        .await?;
    Ok(names.into_iter().collect())
}

fn respond(answer: Answer, format: Format) -> Result<Response, Problem> {
    match format {
        Format::Json => Ok(Json(answer).into_response()),
        Format::Csv => csv::table(&answer.items),
    }
}

/// Which period, and of whom.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReportQuery {
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// Only this program.
    program_id: Option<i64>,
    /// Only this affiliate.
    affiliate_id: Option<i64>,
    /// Only this link.
    link_id: Option<i64>,
}

impl ReportQuery {
    fn filters(&self) -> Result<Vec<Filter>, Problem> {
        of_money(self.program_id, self.affiliate_id, self.link_id)
    }

    async fn period(&self, app: &App, tenant: TenantId) -> Result<Period, Problem> {
        period(app, tenant, self.from.as_deref(), self.to.as_deref()).await
    }
}

/// Filters on what money is told by.
fn of_money(
    program: Option<i64>,
    affiliate: Option<i64>,
    link: Option<i64>,
) -> Result<Vec<Filter>, Problem> {
    ids_only(&[
        (Dimension::Program, "program_id", program),
        (Dimension::Affiliate, "affiliate_id", affiliate),
        (Dimension::Link, "link_id", link),
    ])
}

/// Filters on the ids that were given.
pub(crate) fn ids_only(
    ids: &[(Dimension, &'static str, Option<i64>)],
) -> Result<Vec<Filter>, Problem> {
    let filter = |(dimension, name, id): &(Dimension, &'static str, Option<i64>)| {
        let id = u64::try_from((*id)?).ok().filter(|id| *id > 0);
        Some(match id {
            Some(id) => Ok(Filter::only(*dimension, vec![FilterValue::Number(id)])),
            None => Err(Problem::bad_request(format!(
                "{name} is a positive whole number"
            ))),
        })
    };
    ids.iter().filter_map(filter).collect()
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OverviewQuery {
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// `previous_period` by default.
    compare: Option<Compare>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SeriesQuery {
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// `day` by default.
    granularity: Option<Granularity>,
    /// `none` by default.
    compare: Option<Compare>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BreakdownQuery {
    /// What to break down by.
    dimension: Dimension,
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// Values, those with the most clicks first, 1 to 1000; 10 by default.
    limit: Option<usize>,
}

/// What happened in a period, beside an earlier one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Overview {
    /// The first instant that counts.
    from: DateTime<Utc>,
    /// The first instant that does not count any more.
    to: DateTime<Utc>,
    #[schema(examples("Europe/Berlin"))]
    time_zone: String,
    compared_with: Option<Stretch>,
    #[schema(value_type = Measured)]
    totals: Map<String, Value>,
    #[schema(value_type = Option<Measured>)]
    previous: Option<Map<String, Value>>,
}

/// How good the traffic was.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrafficQuality {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    #[schema(examples("Europe/Berlin"))]
    time_zone: String,
    clicks: u64,
    bot_clicks: u64,
    bot_rate: Option<String>,
    /// Bots, by what they were known by.
    bots: Vec<BotReason>,
    /// Signals: evidence against a click, not a verdict. Every click counts whatever signals it shows.
    signals: Vec<SignalFigures>,
    /// The 50 affiliates with the most bots and suspicious clicks.
    items: Vec<AffiliateQuality>,
}

/// What bots were known by.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BotReason {
    reason: String,
    clicks: u64,
}

/// Read the totals of a period beside those of an earlier one
#[utoipa::path(get, path = "/v1/analytics/overview", tag = "Analytics", params(TenantHeader, OverviewQuery),
    responses((status = 200, body = Overview), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn overview(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<OverviewQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let question = Question {
        from: query.from,
        to: query.to,
        compare: query.compare.unwrap_or(Compare::PreviousPeriod),
        ..Question::of(Measure::ALL.to_vec())
    };
    let answer = answer(&app, at.tenant, &question).await?;
    let row = answer.items.into_iter().next();
    let (totals, previous) = row.map_or_else(Default::default, |r| (r.measures, r.previous));
    let overview = Overview {
        from: answer.from,
        to: answer.to,
        time_zone: answer.time_zone,
        compared_with: answer.compared_with,
        totals,
        previous,
    };
    match format {
        Format::Json => Ok(Json(overview).into_response()),
        Format::Csv => csv::table(&[overview]),
    }
}

/// Read everything along time
#[utoipa::path(get, path = "/v1/analytics/time-series", tag = "Analytics", params(TenantHeader, SeriesQuery),
    responses((status = 200, body = Answer), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn time_series(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<SeriesQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let question = Question {
        from: query.from,
        to: query.to,
        granularity: query.granularity.unwrap_or(Granularity::Day),
        compare: query.compare.unwrap_or_default(),
        ..Question::of(Measure::ALL.to_vec())
    };
    respond(answer(&app, at.tenant, &question).await?, format)
}

/// Break down by one dimension
///
/// Program, affiliate and link come with conversions and money, the others with clicks alone. Unique visitors
/// can be asked for by `POST /v1/analytics/query`, which counts them click by click.
#[utoipa::path(get, path = "/v1/analytics/breakdown", tag = "Analytics", params(TenantHeader, BreakdownQuery),
    responses((status = 200, body = Answer), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn breakdown(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<BreakdownQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let question = Question {
        dimensions: vec![query.dimension],
        from: query.from,
        to: query.to,
        limit: query.limit,
        other: true,
        ..Question::of(Measure::told_by(query.dimension))
    };
    respond(answer(&app, at.tenant, &question).await?, format)
}

/// Read how many clicks became leads and sales
///
/// Clicks, leads and sales are those of the period: a sale counts when it was reported, whenever its click
/// was. Conversions that were attributed to no click are left out.
#[utoipa::path(get, path = "/v1/analytics/funnel", tag = "Analytics", params(TenantHeader, ReportQuery),
    responses((status = 200, body = Funnel), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn funnel(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ReportQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let period = query.period(&app, at.tenant).await?;
    let about = whole(at.tenant, &period);
    let funnel = app.facts.funnel(about, &query.filters()?).await?;
    match format {
        Format::Json => Ok(Json(funnel).into_response()),
        Format::Csv => csv::table(&funnel.steps),
    }
}

/// Read how long after their click conversions came
#[utoipa::path(get, path = "/v1/analytics/conversion-delay", tag = "Analytics", params(TenantHeader, ReportQuery),
    responses((status = 200, body = Delays), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn conversion_delay(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ReportQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let period = query.period(&app, at.tenant).await?;
    let about = whole(at.tenant, &period);
    let delays = app.facts.conversion_delay(about, &query.filters()?).await?;
    match format {
        Format::Json => Ok(Json(delays).into_response()),
        Format::Csv => csv::table(&delays.items),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PeriodQuery {
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
}

/// Read how good the traffic was: bots, and signals against clicks
#[utoipa::path(get, path = "/v1/analytics/traffic-quality", tag = "Analytics", params(TenantHeader, PeriodQuery),
    responses((status = 200, body = TrafficQuality), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn traffic_quality(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<PeriodQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let period = period(&app, at.tenant, query.from.as_deref(), query.to.as_deref()).await?;
    let about = whole(at.tenant, &period);
    let (totals, bots, signals, mut items) = tokio::try_join!(
        app.facts.totals(about),
        app.facts.bots(about),
        app.facts.signals(about),
        app.facts.quality_by_affiliate(about),
    )?;
    let ids = items.iter().map(|item| item.affiliate_id.cast_signed());
    let names = names_of(&app, at.tenant, Dimension::Affiliate, ids.collect()).await?;
    for item in &mut items {
        item.affiliate_name = names.get(&item.affiliate_id.cast_signed()).cloned();
    }
    if format == Format::Csv {
        return csv::table(&items);
    }
    let all = totals.clicks.saturating_add(totals.bot_clicks);
    Ok(Json(TrafficQuality {
        from: period.from,
        to: period.to,
        time_zone: period.zone.name().to_owned(),
        clicks: totals.clicks,
        bot_clicks: totals.bot_clicks,
        bot_rate: rate(totals.bot_clicks, all),
        bots: bots
            .into_iter()
            .map(|(reason, clicks)| BotReason { reason, clicks })
            .collect(),
        signals,
        items,
    })
    .into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CohortsQuery {
    /// When customers began: a date (from the start of that day) or an RFC 3339 time; by default so that there are 12
    /// whole cohorts. At most 400 days and 24 cohorts.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// `month` by default.
    granularity: Option<CohortGranularity>,
    /// Only customers whose first conversion was of this program.
    program_id: Option<i64>,
    /// Only customers whose first conversion was credited to this affiliate.
    affiliate_id: Option<i64>,
    /// Only customers whose first conversion came by this link.
    link_id: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LifetimeQuery {
    /// When customers began: a date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// Only customers whose first conversion was of this program.
    program_id: Option<i64>,
    /// Only customers whose first conversion was credited to this affiliate.
    affiliate_id: Option<i64>,
    /// Only customers whose first conversion came by this link.
    link_id: Option<i64>,
    /// Affiliates, those with the most customers first, 1 to 200; 50 by default.
    limit: Option<i64>,
}

/// Customers by when they began, and what became of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cohorts {
    /// The first instant that counts.
    from: DateTime<Utc>,
    /// The first instant that does not count any more.
    to: DateTime<Utc>,
    #[schema(examples("Europe/Berlin"))]
    time_zone: String,
    /// Each cohort in each month or week from its own to the present one, at most 24 of them.
    items: Vec<CohortPeriod>,
}

/// What customers were worth.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LifetimeValues {
    /// The first instant that counts.
    from: DateTime<Utc>,
    /// The first instant that does not count any more.
    to: DateTime<Utc>,
    #[schema(examples("Europe/Berlin"))]
    time_zone: String,
    items: Vec<LifetimeValue>,
    /// Over all affiliates, those that are not listed included.
    totals: LifetimeValue,
}

/// Read how many customers came back
///
/// A customer begins with his first conversion in this workspace; he counts where a click of ours brought that one, and
/// belongs to its program, affiliate and link. Conversions count until now, whoever is credited with them, and
/// those only that name their customer.
#[utoipa::path(get, path = "/v1/analytics/cohorts", tag = "Analytics", params(TenantHeader, CohortsQuery),
    responses((status = 200, body = Cohorts), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn cohorts(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<CohortsQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let length = query.granularity.unwrap_or_default();
    let to = query.to.as_deref();
    let from = match query.from {
        Some(from) => from,
        None => twelve_cohorts(length, &period(&app, at.tenant, None, to).await?),
    };
    let period = period(&app, at.tenant, Some(&from), to).await?;
    let about = whole(at.tenant, &period);
    let filters = of_money(query.program_id, query.affiliate_id, query.link_id)?;
    let now = app.clock.now();
    let items = app.facts.cohorts(about, length, &filters, now).await?;
    if format == Format::Csv {
        return csv::table(&items);
    }
    let time_zone = period.zone.name().to_owned();
    Ok(Json(Cohorts {
        from: period.from,
        to: period.to,
        time_zone,
        items,
    })
    .into_response())
}

/// Read what customers were worth over time
///
/// Of the customers who began in the period (see cohorts), by the affiliate who was credited with the first conversion:
/// what they bought within 30, 90 and 365 days of it, counting those only whose days are over, and to date.
#[utoipa::path(get, path = "/v1/analytics/lifetime-value", tag = "Analytics", params(TenantHeader, LifetimeQuery),
    responses((status = 200, body = LifetimeValues), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn lifetime_value(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<LifetimeQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let limit = page_of(query.limit)?;
    let period = period(&app, at.tenant, query.from.as_deref(), query.to.as_deref()).await?;
    let about = whole(at.tenant, &period);
    let filters = of_money(query.program_id, query.affiliate_id, query.link_id)?;
    let values = app
        .facts
        .lifetime_value(about, &filters, app.clock.now(), limit);
    let (mut items, totals) = values.await?;
    let ids = items.iter().filter_map(|item| item.affiliate_id).collect();
    let names = names_of(&app, at.tenant, Dimension::Affiliate, ids).await?;
    for item in &mut items {
        item.affiliate_name = item.affiliate_id.and_then(|id| names.get(&id)).cloned();
    }
    if format == Format::Csv {
        return csv::table(&items);
    }
    let time_zone = period.zone.name().to_owned();
    Ok(Json(LifetimeValues {
        from: period.from,
        to: period.to,
        time_zone,
        items,
        totals,
    })
    .into_response())
}

fn whole(tenant: TenantId, period: &Period) -> About<'_> {
    About {
        tenant,
        period,
        link: None,
    }
}

/// Read analytics by day
#[utoipa::path(get, path = "/v1/analytics/by-day", tag = "Analytics", params(TenantHeader, ByDayQuery),
    responses((status = 200, body = ByDay), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn by_day(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ByDayQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let period = period(&app, at.tenant, query.from.as_deref(), query.to.as_deref()).await?;
    let about = About {
        tenant: at.tenant,
        period: &period,
        link: link(query.link_id)?,
    };
    let (items, totals) = tokio::try_join!(app.facts.by_day(about), app.facts.totals(about))?;
    if format == Format::Csv {
        return csv::table(&items);
    }
    let time_zone = period.zone.name().to_owned();
    Ok(Json(ByDay {
        from: period.from,
        to: period.to,
        time_zone,
        items,
        totals,
    })
    .into_response())
}

/// Read analytics by link
#[utoipa::path(get, path = "/v1/analytics/by-link", tag = "Analytics", params(TenantHeader, ByLinkQuery),
    responses((status = 200, body = ByLink), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn by_link(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ByLinkQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let limit = page_of(query.limit)?;
    let period = period(&app, at.tenant, query.from.as_deref(), query.to.as_deref()).await?;
    let about = About {
        tenant: at.tenant,
        period: &period,
        link: link(query.link_id)?,
    };
    let (items, totals) =
        tokio::try_join!(figures_by_link(&app, about, limit), app.facts.totals(about))?;
    if format == Format::Csv {
        return csv::table(&items);
    }
    let time_zone = period.zone.name().to_owned();
    Ok(Json(ByLink {
        from: period.from,
        to: period.to,
        time_zone,
        items,
        totals,
    })
    .into_response())
}

/// How many rows are wanted.
fn page_of(limit: Option<i64>) -> Result<u64, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    u64::try_from(limit)
        .ok()
        .filter(|_| (1..=MAX_LIMIT).contains(&limit))
        .ok_or_else(|| Problem::bad_request(format!("limit must be 1 to {MAX_LIMIT}")))
}

fn link(id: Option<i64>) -> Result<Option<LinkId>, Problem> {
    match id {
        None => Ok(None),
        Some(id) if id > 0 => Ok(Some(LinkId(id))),
        Some(_) => Err(Problem::bad_request("link_id is a positive whole number")),
    }
}

/// The period in the tenant's own days.
pub(crate) async fn period(
    app: &App,
    tenant: TenantId,
    from: Option<&str>,
    to: Option<&str>,
) -> Result<Period, Problem> {
    let zone = zone(app, tenant).await?;
    Period::read(from, to, zone, app.clock.now())
}

/// The tenant's own time zone.
pub(crate) async fn zone(app: &App, tenant: TenantId) -> Result<Tz, Problem> {
    let zone: String = sqlx::query_scalar("SELECT time_zone FROM tenants WHERE id = $1")
        .bind(tenant)
        .fetch_one(&app.postgres)
        .await?;
    zone.parse().map_err(|_| {
        tracing::error!(%tenant, zone, "a tenant's time zone is unknown");
        Problem::internal()
    })
}

/// The figures with the links' and affiliates' names.
pub(crate) async fn figures_by_link(
    app: &App,
    about: About<'_>,
    limit: u64,
) -> Result<Vec<LinkFigures>, Problem> {
    let figures = app.facts.by_link(about, limit).await?;
    let ids: Vec<LinkId> = figures.iter().filter_map(|(id, _)| *id).collect();
    let names: HashMap<LinkId, (String, ProgramId, AffiliateId, String)> =
        names(app, about.tenant, &ids).await?;
    let named = |(link_id, figures): (Option<LinkId>, Figures)| {
        let (code, program_id, affiliate_id, affiliate_name) =
            match link_id.and_then(|id| names.get(&id)).cloned() {
                Some((code, program, affiliate, name)) => {
                    (Some(code), Some(program), Some(affiliate), Some(name))
                }
                None => (None, None, None, None),
            };
        LinkFigures {
            link_id,
            code,
            program_id,
            affiliate_id,
            affiliate_name,
            clicks: figures.clicks,
            bot_clicks: figures.bot_clicks,
            unique_visitors: figures.unique_visitors,
            conversions: figures.conversions,
            revenue: figures.revenue,
            commission: figures.commission,
        }
    };
    Ok(figures.into_iter().map(named).collect())
}

async fn names(
    app: &App,
    tenant: TenantId,
    ids: &[LinkId],
) -> Result<HashMap<LinkId, (String, ProgramId, AffiliateId, String)>, Problem> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows: Vec<(LinkId, String, ProgramId, AffiliateId, String)> = sqlx::query_as(
        "SELECT l.id, l.code, l.program_id, l.affiliate_id, a.name
         FROM links l JOIN affiliates a ON a.tenant_id = l.tenant_id AND a.id = l.affiliate_id
         WHERE l.tenant_id = $1 AND l.id = ANY($2)",
    )
    .bind(tenant)
    .bind(&ids)
    .fetch_all(&app.postgres)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, code, program, affiliate, name)| (id, (code, program, affiliate, name)))
        .collect())
}
