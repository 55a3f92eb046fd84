//! Reports of orders: the log of what became of them, and a trial of one that changes nothing.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::click_token::{self, TokenError};
use tributary_shared::events::{Conversion, Source};
use tributary_shared::ids::TenantId;
use tributary_shared::reports::webhooks::{self, Kind, Said};
use tributary_shared::reports::{Parameter, Refusal, Report, status_name};
use utoipa::{IntoParams, ToSchema};

use super::analytics::period;
use super::{TenantHeader, sources};
use crate::analytics::postbacks::{LoggedPostback, Which};
use crate::auth::{Asking, Scoped};
use crate::error::Problem;
use crate::extract::{Body, Format, Query};
use crate::pages::{Asked, BeforeTime, Page};
use crate::state::App;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PostbacksQuery {
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default.
    to: Option<String>,
    /// `taken`, `refused` or `ignored`.
    verdict: Option<String>,
    /// Only those not taken for this, such as `order_id_invalid`.
    reason: Option<String>,
    /// `postback`, `pixel`, `event` or `webhook`.
    door: Option<String>,
    order_id: Option<String>,
    click_id: Option<String>,
    /// Only those with this in their order id, parameters, message or User-Agent, in upper or lower case.
    text: Option<String>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// List reports of orders, newest first
///
/// Every postback, pixel, event and webhook that came with a token or key or to a source of the tenant, whatever became of it,
/// for 90 days. Of those not taken at most 100 a second by one token, key or source are kept.
#[utoipa::path(get, path = "/v1/postbacks", tag = "Money", params(TenantHeader, PostbacksQuery),
    responses((status = 200, body = Page<LoggedPostback>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<PostbacksQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<BeforeTime>::new(query.limit, query.cursor.as_deref())?;
    let period = period(&app, at.tenant, query.from.as_deref(), query.to.as_deref()).await?;
    let which = Which {
        verdict: query.verdict,
        door: query.door,
        reason: query.reason,
        order_id: query.order_id,
        click_id: query.click_id,
        text: query.text,
    };
    let before = asked.after.as_ref();
    let rows = app
        .facts
        .postbacks(at.tenant, &period, &which, before, asked.rows())
        .await?;
    asked
        .page(rows, LoggedPostback::place, |line| line)
        .respond(format)
}

/// By which way a report is tried.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Door {
    #[default]
    Postback,
    Pixel,
    Event,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TriedPostback {
    #[serde(default)]
    door: Door,
    /// The address that is called, or what stands behind its question mark.
    #[serde(default)]
    #[schema(examples("order_id=A-1001&amount=49.90&currency=USD"))]
    query: String,
    /// The body as text: a form by `postback`, JSON by `event` and of a webhook.
    #[serde(default)]
    body: String,
    /// The source that would get it as a webhook, in place of `door`.
    source_id: Option<i64>,
    /// Beside `source_id`: what Shopify says in `X-Shopify-Topic`.
    #[schema(examples("orders/create"))]
    topic: Option<String>,
}

/// What would become of a report.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PostbackTrial {
    /// `taken`, `refused`, or `ignored`: a webhook that says nothing of an order. A click id that was made up is found out by
    /// its signature, at the edge alone: `click` says
    /// whether there is such a click.
    verdict: &'static str,
    /// Why it would not be taken, as the `error` or `reason` of the answer; null: it would be.
    reason: Option<&'static str>,
    /// The same in words.
    message: Option<String>,
    /// What was understood, under the parameters' proper names.
    parameters: Vec<UnderstoodParameter>,
    /// The conversion's id, the same at each repetition; null: it would not be taken, or of whichever order has one of `names`.
    conversion_id: Option<String>,
    /// In the form in which it would be kept; empty: nothing is said of it.
    amount: String,
    currency: String,
    status: String,
    event: String,
    /// What the click id says; null: there is none.
    click: Option<TriedClick>,
    /// Of a webhook: by which names its sender knows the order.
    names: Vec<String>,
    /// Of a webhook: a name of the order that it renews; empty: none.
    renews: String,
    /// What else the same webhook reports.
    #[schema(no_recursion)]
    others: Vec<PostbackTrial>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UnderstoodParameter {
    #[schema(examples("order_id"))]
    name: &'static str,
    value: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TriedClick {
    /// `known`: a click of yours. `unknown`: it has the form of a click id, and there is no such click of yours: it
    /// was made up, or the click is so fresh that it is not stored yet. `malformed`: no click id at all.
    verdict: &'static str,
    clicked_at: Option<DateTime<Utc>>,
    link_id: Option<u64>,
    affiliate_id: Option<u64>,
    program_id: Option<u64>,
}

/// Try a report of an order
///
/// Says what would become of a postback, pixel, event or webhook, and why. Nothing is recorded. Token, key, the pages' origin
/// and a webhook's signature are not looked at.
#[utoipa::path(post, path = "/v1/postbacks/test", tag = "Money", request_body = TriedPostback, params(TenantHeader),
    responses((status = 200, body = PostbackTrial), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn test(
    State(app): State<App>,
    at: Asking,
    body: Body<TriedPostback>,
) -> Result<Json<PostbackTrial>, Problem> {
    let tried = body.value;
    if let Some(source) = tried.source_id {
        let kind = sources::kind(&app, at.tenant, source).await?;
        let trial = webhook(&app, at.tenant, kind, &tried).await?;
        return Ok(Json(trial));
    }
    let query = match tried.query.split_once('?') {
        Some((_, query)) => query,
        None => &tried.query,
    };
    let (source, report) = match tried.door {
        Door::Postback => {
            let (report, _) = Report::from_form(query, tried.body.as_bytes(), "token");
            (Source::Postback, Ok(report))
        }
        Door::Pixel => {
            let (report, _) = Report::from_form(query, b"", "key");
            (Source::Pixel, Ok(report))
        }
        Door::Event => {
            let read = Report::from_json(tried.body.as_bytes(), "key");
            (Source::Event, read.map(|(report, _)| report))
        }
    };
    let (report, outcome) = match report {
        Ok(report) => {
            let now = app.clock.now();
            let outcome = report.check_with(looks_like_ours, at.tenant, source, now);
            (report, outcome)
        }
        Err(refusal) => (Report::default(), Err(refusal)),
    };
    let click = match report.get(Parameter::ClickId) {
        Some(click_id) => Some(click(&app, at.tenant, click_id).await?),
        None => None,
    };
    Ok(Json(trial(&report, outcome, click)))
}

/// What would become of a webhook.
async fn webhook(
    app: &App,
    tenant: TenantId,
    kind: Kind,
    tried: &TriedPostback,
) -> Result<PostbackTrial, Problem> {
    let read = webhooks::read(kind, tried.topic.as_deref(), tried.body.as_bytes());
    let reports = match read {
        Ok(Said::Orders(reports)) => reports,
        Ok(Said::Nothing(report, why)) => {
            return Ok(PostbackTrial {
                verdict: "ignored",
                reason: Some(why.code()),
                message: Some(why.to_string()),
                ..trial(&report, Ok(Conversion::default()), None)
            });
        }
        Err(refusal) => return Ok(trial(&Report::default(), Err(refusal), None)),
    };
    let mut trials = Vec::with_capacity(reports.len());
    for report in &reports {
        let now = app.clock.now();
        let outcome = report.check_with(|_| Ok(()), tenant, Source::Webhook, now);
        let click = match report.get(Parameter::ClickId) {
            Some(click_id) => Some(click(app, tenant, click_id).await?),
            None => None,
        };
        trials.push(trial(report, outcome, click));
    }
    let mut trials = trials.into_iter();
    let first = trials.next().ok_or_else(Problem::internal)?;
    Ok(PostbackTrial {
        others: trials.collect(),
        ..first
    })
}

/// Whether it has the form of a click id. The keys that sign them are the edge's alone: whether there is such a
/// click is asked.
fn looks_like_ours(click_id: &str) -> Result<(), TokenError> {
    let parts = click_token::parts(click_id);
    parts.map(|_| ()).ok_or(TokenError::Malformed)
}

async fn click(app: &App, tenant: TenantId, click_id: &str) -> Result<TriedClick, Problem> {
    let found = app.facts.click(tenant, click_id).await?;
    let verdict = match (&found, looks_like_ours(click_id)) {
        (Some(_), _) => "known",
        (None, Ok(())) => "unknown",
        (None, Err(_)) => "malformed",
    };
    Ok(TriedClick {
        verdict,
        clicked_at: found.as_ref().map(|click| click.received_at),
        link_id: found.as_ref().map(|click| click.link_id),
        affiliate_id: found.as_ref().map(|click| click.affiliate_id),
        program_id: found.as_ref().map(|click| click.program_id),
    })
}

fn trial(
    report: &Report<'_>,
    outcome: Result<Conversion, Refusal>,
    click: Option<TriedClick>,
) -> PostbackTrial {
    let parameters = Parameter::ALL.into_iter().filter_map(|parameter| {
        Some(UnderstoodParameter {
            name: parameter.name(),
            value: report.get(parameter)?.to_owned(),
        })
    });
    let refusal = outcome.as_ref().err();
    let reason = refusal.map(Refusal::code);
    let message = refusal.map(Refusal::to_string);
    let conversion = outcome.unwrap_or_default();
    PostbackTrial {
        verdict: if reason.is_none() { "taken" } else { "refused" },
        reason,
        message,
        parameters: parameters.collect(),
        status: status_name(conversion.status()).to_owned(),
        conversion_id: Some(conversion.conversion_id).filter(|id| !id.is_empty()),
        amount: conversion.amount,
        currency: conversion.currency,
        event: conversion.event,
        click,
        names: conversion.names,
        renews: conversion.renews,
        others: Vec::new(),
    }
}
