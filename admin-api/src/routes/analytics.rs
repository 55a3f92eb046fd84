//! Analytics by day and by link. Days are those of the tenant's time zone.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use utoipa::{IntoParams, ToSchema};

use super::TenantHeader;
use crate::amounts::Amount;
use crate::analytics::{About, Day, Figures};
use crate::auth::Scoped;
use crate::csv;
use crate::error::Problem;
use crate::extract::{Format, Query};
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
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    let limit = u64::try_from(limit)
        .ok()
        .filter(|_| (1..=MAX_LIMIT).contains(&limit))
        .ok_or_else(|| Problem::bad_request(format!("limit must be 1 to {MAX_LIMIT}")))?;
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
    let zone: String = sqlx::query_scalar("SELECT time_zone FROM tenants WHERE id = $1")
        .bind(tenant)
        .fetch_one(&app.postgres)
        .await?;
    let zone: Tz = zone.parse().map_err(|_| {
        tracing::error!(%tenant, zone, "a tenant's time zone is unknown");
        Problem::internal()
    })?;
    Period::read(from, to, zone, app.clock.now())
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
