//! The page at `/`: a tenant's last 30 days at a glance, without scripts. It shows the tenant that
//! is signed in, or else the demo tenant, or else a form to sign in.

use std::sync::LazyLock;

use askama::Template;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use sha2::{Digest as _, Sha256};
use tributary_shared::ids::TenantId;

use super::analytics::{LinkFigures, figures_by_link, period};
use super::links;
use super::sessions::{SESSION_TIME, SignIn, session_cookie, sign_in, sign_out};
use crate::amounts;
use crate::analytics::reports::Day;
use crate::analytics::{About, Figures};
use crate::auth::{Caller, credential, is_cross_site, who};
use crate::error::Problem;
use crate::period::Period;
use crate::state::App;

/// Links in the table.
const TOP_LINKS: u64 = 20;
/// Conversions in the table.
const LATEST_CONVERSIONS: i64 = 10;

/// The chart's height and each day's width, in the drawing's own units.
const CHART_HEIGHT: u64 = 120;
const DAY_WIDTH: u64 = 24;

const STYLE: &str = include_str!("../../templates/home.css");

/// The page's one style sheet, by its hash; forms that lead here; nothing else.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    HeaderValue::try_from(policy).ok()
});

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(show))
        .route("/sign-in", post(enter))
        .route("/sign-out", post(leave))
}

#[derive(Template)]
#[template(path = "home.html")]
struct Page<'a> {
    style: &'a str,
    problem: Option<String>,
    signed_in: bool,
    tenant: Option<TenantView>,
}

/// What the page says of a tenant.
struct TenantView {
    name: String,
    slug: String,
    time_zone: String,
    sample_link: Option<String>,
    /// None while ClickHouse is away.
    analytics: Option<Analytics>,
    conversions: Vec<ConversionView>,
}

struct Analytics {
    totals: Figures,
    bars: Vec<Bar>,
    chart_width: u64,
    first_day: String,
    last_day: String,
    most: u64,
    links: Vec<LinkFigures>,
}

/// One day of the chart.
struct Bar {
    x: u64,
    people_y: u64,
    people_height: u64,
    bots_y: u64,
    bots_height: u64,
    title: String,
}

struct ConversionView {
    at: String,
    order_id: String,
    event: String,
    amount: String,
    attribution: &'static str,
    credited: bool,
    affiliate: String,
    commission: String,
    state: String,
}

async fn show(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    page(&app, &headers, StatusCode::OK, None).await
}

async fn enter(
    State(app): State<App>,
    headers: HeaderMap,
    form: Result<Form<SignIn>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Problem> {
    if is_cross_site(&headers) {
        return Err(Problem::forbidden("another site may not sign you in"));
    }
    let Ok(Form(form)) = form else {
        return Err(Problem::bad_request(
            "the form holds an e-mail address and a password",
        ));
    };
    match sign_in(&app, form).await {
        Ok(session) => Ok(home_again(session_cookie(
            &app,
            &session.token,
            SESSION_TIME,
        ))),
        Err(problem) => {
            let detail = problem.detail().to_owned();
            page(&app, &HeaderMap::new(), problem.status(), Some(detail)).await
        }
    }
}

async fn leave(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    if is_cross_site(&headers) {
        return Err(Problem::forbidden("another site may not sign you out"));
    }
    sign_out(&app, &headers).await?;
    Ok(home_again(session_cookie(&app, "", TimeDelta::zero())))
}

fn home_again(cookie: String) -> Response {
    (
        StatusCode::SEE_OTHER,
        [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)],
    )
        .into_response()
}

async fn page(
    app: &App,
    headers: &HeaderMap,
    status: StatusCode,
    problem: Option<String>,
) -> Result<Response, Problem> {
    let (tenant, signed_in) = match tenant(app, headers).await? {
        Some((tenant, signed_in)) => (Some(view(app, tenant).await?), signed_in),
        None => (None, false),
    };
    let page = Page {
        style: STYLE,
        problem,
        signed_in,
        tenant,
    };
    let html = page.render().map_err(|error| {
        tracing::error!(%error, "the page could not be written");
        Problem::internal()
    })?;
    let mut response = (status, Html(html)).into_response();
    if let Some(policy) = POLICY.as_ref() {
        response
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, policy.clone());
    }
    Ok(response)
}

/// Whose figures to show, and whether somebody signed in for them.
async fn tenant(app: &App, headers: &HeaderMap) -> Result<Option<(TenantId, bool)>, Problem> {
    if let Some(credential) = credential(headers)
        && let Some(Caller::Member { tenant, .. }) = who(app, &credential.token).await?
    {
        return Ok(Some((tenant, true)));
    }
    let Some(slug) = &app.settings.demo_tenant else {
        return Ok(None);
    };
    let demo: Option<TenantId> = sqlx::query_scalar("SELECT id FROM tenants WHERE slug = $1")
        .bind(slug)
        .fetch_optional(&app.postgres)
        .await?;
    Ok(demo.map(|tenant| (tenant, false)))
}

async fn view(app: &App, tenant: TenantId) -> Result<TenantView, Problem> {
    let (name, slug): (String, String) =
        sqlx::query_as("SELECT name, slug FROM tenants WHERE id = $1")
            .bind(tenant)
            .fetch_one(&app.postgres)
            .await?;
    let sample: Option<String> = sqlx::query_scalar(
        "SELECT code FROM links WHERE tenant_id = $1 AND active ORDER BY id LIMIT 1",
    )
    .bind(tenant)
    .fetch_optional(&app.postgres)
    .await?;
    let period = period(app, tenant, None, None).await?;
    let about = About {
        tenant,
        period: &period,
        link: None,
    };
    // The page is still of use without ClickHouse.
    let analytics = analytics(app, about).await.ok();
    Ok(TenantView {
        name,
        slug,
        time_zone: period.zone.name().to_owned(),
        sample_link: sample.map(|code| links::url(app, &code)),
        analytics,
        conversions: latest_conversions(app, tenant, &period).await?,
    })
}

async fn analytics(app: &App, about: About<'_>) -> Result<Analytics, Problem> {
    let (totals, days, links) = tokio::try_join!(
        app.facts.totals(about),
        app.facts.by_day(about),
        figures_by_link(app, about, TOP_LINKS),
    )?;
    let most = days
        .iter()
        .map(|day| day.clicks + day.bot_clicks)
        .max()
        .unwrap_or(0);
    Ok(Analytics {
        totals,
        bars: bars(&days, most),
        chart_width: DAY_WIDTH * days.len() as u64,
        first_day: days.first().map_or_else(String::new, date),
        last_day: days.last().map_or_else(String::new, date),
        most,
        links,
    })
}

fn date(day: &Day) -> String {
    day.day.format("%-d %b").to_string()
}

fn bars(days: &[Day], most: u64) -> Vec<Bar> {
    let height = |clicks: u64| {
        clicks
            .saturating_mul(CHART_HEIGHT)
            .div_ceil(most.max(1))
            .min(CHART_HEIGHT)
    };
    let bar = |(day, x): (&Day, u64)| {
        let people_height = height(day.clicks);
        let bots_height = height(day.bot_clicks).min(CHART_HEIGHT - people_height);
        Bar {
            x,
            people_y: CHART_HEIGHT - people_height,
            people_height,
            bots_y: CHART_HEIGHT - people_height - bots_height,
            bots_height,
            title: format!(
                "{}: {} clicks, {} by bots",
                day.day, day.clicks, day.bot_clicks
            ),
        }
    };
    let places = (0_u64..).map(|number| number * DAY_WIDTH + 2);
    days.iter().zip(places).map(bar).collect()
}

#[derive(sqlx::FromRow)]
struct LatestRow {
    accepted_at: DateTime<Utc>,
    order_id: String,
    event: String,
    amount: Decimal,
    currency: String,
    attribution: String,
    affiliate: Option<String>,
    commission: Option<Decimal>,
    commission_currency: Option<String>,
    state: Option<String>,
}

async fn latest_conversions(
    app: &App,
    tenant: TenantId,
    period: &Period,
) -> Result<Vec<ConversionView>, Problem> {
    let rows: Vec<LatestRow> = sqlx::query_as(
        "SELECT c.accepted_at, c.order_id, c.event, c.amount, c.currency, c.attribution, a.name AS affiliate,
                m.amount AS commission, m.currency AS commission_currency, m.state
         FROM conversions c
         LEFT JOIN affiliates a ON a.tenant_id = c.tenant_id AND a.id = c.affiliate_id
         LEFT JOIN commissions m ON m.tenant_id = c.tenant_id AND m.conversion_id = c.id
                                AND m.affiliate_id = c.affiliate_id
         WHERE c.tenant_id = $1 AND (c.event <> 'click' OR NOT EXISTS (SELECT 1 FROM click_counts k WHERE k.conversion_id = c.id))
         ORDER BY c.accepted_at DESC, c.id DESC LIMIT $2",
    )
    .bind(tenant)
    .bind(LATEST_CONVERSIONS)
    .fetch_all(&app.postgres)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| conversion(row, period.zone))
        .collect())
}

fn conversion(row: LatestRow, zone: Tz) -> ConversionView {
    ConversionView {
        at: row
            .accepted_at
            .with_timezone(&zone)
            .format("%d %b %H:%M")
            .to_string(),
        amount: format!(
            "{} {}",
            grouped(amounts::text(row.amount, &row.currency)),
            row.currency
        ),
        credited: row.attribution == "click_token",
        attribution: attribution(&row.attribution),
        order_id: row.order_id,
        event: row.event,
        affiliate: row.affiliate.unwrap_or_default(),
        commission: match (row.commission, row.commission_currency) {
            (Some(amount), Some(currency)) => {
                format!("{} {currency}", grouped(amounts::text(amount, &currency)))
            }
            _ => String::new(),
        },
        state: row.state.unwrap_or_default(),
    }
}

/// An attribution in words.
fn attribution(name: &str) -> &'static str {
    match name {
        "click_token" => "by its click",
        "no_click" => "no click was named",
        "bad_click_token" => "the click id is not ours",
        "unknown_link" => "the link is unknown",
        "other_tenant" => "the click was another tenant's",
        "outside_window" => "too long after the click",
        _ => "unknown",
    }
}

/// A number with a comma after each three digits before the point.
fn grouped(number: impl std::fmt::Display) -> String {
    let text = number.to_string();
    let whole = text.split('.').next().unwrap_or_default().len();
    let mut grouped = String::with_capacity(text.len() * 2);
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && at < whole && (whole - at).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::NaiveDate;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            ("0", "0"),
            ("999", "999"),
            ("1000", "1,000"),
            ("-123456.7890", "-123,456.7890"),
            ("-100", "-100"),
            ("2849102", "2,849,102"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn bars_fill_the_chart_and_no_more() {
        let day = |clicks, bot_clicks| Day {
            day: NaiveDate::from_ymd_opt(2026, 1, 1).unwrap(),
            clicks,
            bot_clicks,
            unique_visitors: 0,
            conversions: 0,
            revenue: Vec::new(),
            commission: Vec::new(),
        };
        let bars = bars(&[day(3, 1), day(0, 0), day(1, 0)], 4);
        assert_eq!(
            (bars[0].people_height, bars[0].bots_height, bars[0].bots_y),
            (90, 30, 0)
        );
        assert_eq!((bars[1].people_height, bars[1].bots_height), (0, 0));
        assert_eq!(bars[2].x, 2 * DAY_WIDTH + 2);
        assert!(super::bars(&[day(u64::MAX / 200, 0)], 1)[0].people_height <= CHART_HEIGHT);
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let view = TenantView {
            name: "<script>".into(),
            slug: "x".into(),
            time_zone: "UTC".into(),
            sample_link: None,
            analytics: None,
            conversions: Vec::new(),
        };
        let page = Page {
            style: STYLE,
            problem: Some("<b>".into()),
            signed_in: false,
            tenant: Some(view),
        };
        let html = page.render().unwrap();
        assert!(!html.contains("<script>") && !html.contains("<b>"));
        assert!(html.contains("Analytics does not answer"));
    }
}
