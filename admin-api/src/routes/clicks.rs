//! Single clicks: a list, one of them, and new ones as they come.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, Stream, StreamExt as _};
use serde::Deserialize;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use utoipa::IntoParams;

use super::TenantHeader;
use super::analytics::{ids_only, period};
use crate::analytics::clicks::{BeforeClick, Click, ClickRow, Which};
use crate::analytics::live::Tail;
use crate::analytics::terms::{Dimension, Filter, FilterValue};
use crate::auth::{Caller, Scoped, credential, who};
use crate::error::Problem;
use crate::extract::{Format, Query};
use crate::pages::{Asked, Page};
use crate::slots::Slot;
use crate::state::App;

/// How often ClickHouse is asked for new clicks.
const LOOK: Duration = Duration::from_secs(1);
/// How often a silent stream says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Looks between two looks at whether the key or session still counts.
const LOOKS_A_CHECK: u32 = 10;
/// How long a stream lasts; whoever still wants it opens it again.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ClicksQuery {
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
    country: Option<String>,
    device: Option<String>,
    os: Option<String>,
    browser: Option<String>,
    channel: Option<String>,
    referrer_domain: Option<String>,
    network: Option<String>,
    sub1: Option<String>,
    /// Only bots' clicks, or only people's.
    is_bot: Option<bool>,
    bot_reason: Option<String>,
    /// Only clicks with this signal, such as `duplicate`.
    signal: Option<String>,
    /// Only this visitor's: 16 hexadecimal digits.
    visitor_id: Option<String>,
    /// Items on a page, 1 to 200; 50 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

impl ClicksQuery {
    fn which(&self) -> Result<Which, Problem> {
        let mut filters = ids_only(&[
            (Dimension::Program, "program_id", self.program_id),
            (Dimension::Affiliate, "affiliate_id", self.affiliate_id),
            (Dimension::Link, "link_id", self.link_id),
        ])?;
        let texts = [
            (Dimension::Country, &self.country),
            (Dimension::Device, &self.device),
            (Dimension::Os, &self.os),
            (Dimension::Browser, &self.browser),
            (Dimension::Channel, &self.channel),
            (Dimension::ReferrerDomain, &self.referrer_domain),
            (Dimension::Network, &self.network),
            (Dimension::Sub1, &self.sub1),
            (Dimension::BotReason, &self.bot_reason),
        ];
        for (dimension, text) in texts {
            if let Some(text) = text {
                filters.push(Filter::only(
                    dimension,
                    vec![FilterValue::Text(text.clone())],
                ));
            }
        }
        Which::new(
            &filters,
            self.is_bot,
            self.signal.as_deref(),
            self.visitor_id.as_deref(),
        )
    }
}

/// List clicks, newest first
#[utoipa::path(get, path = "/v1/analytics/clicks", tag = "Analytics", params(TenantHeader, ClicksQuery),
    responses((status = 200, body = Page<Click>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ClicksQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<BeforeClick>::new(query.limit, query.cursor.as_deref())?;
    let which = query.which()?;
    let period = period(&app, at.tenant, query.from.as_deref(), query.to.as_deref()).await?;
    let before = asked.after.as_ref();
    let rows = app
        .facts
        .clicks(at.tenant, &period, &which, before, asked.rows())
        .await?;
    let page = asked.page(rows, ClickRow::place, ClickRow::read);
    let items = page.items.into_iter().collect::<Result<Vec<Click>, _>>()?;
    let next_cursor = page.next_cursor;
    Page { items, next_cursor }.respond(format)
}

/// Read one click
#[utoipa::path(get, path = "/v1/analytics/clicks/{click_id}", tag = "Analytics",
    params(TenantHeader, ("click_id" = String, Path, description = "A click's id, as the shop got it")),
    responses((status = 200, body = Click), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Click>, Problem> {
    let Path(id) = path?;
    let click = app.facts.click(at.tenant, &id).await?;
    click.map(Json).ok_or_else(|| Problem::not_found("click"))
}

/// Follow new clicks
///
/// Server-sent events: each `click` holds a click as JSON, at most 100 a second, the newest ones. `problem`
/// says that clicks can't be read at the moment. The stream ends after an hour, or once the key or session
/// does not count any more; a tenant has at most 5 at once.
#[utoipa::path(get, path = "/v1/analytics/live", tag = "Analytics", params(TenantHeader),
    responses((status = 200, body = String, content_type = "text/event-stream"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn live(
    State(app): State<App>,
    at: Scoped,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let slot = app.streams.open(at.tenant)?;
    let token = credential(&headers).map(|credential| credential.token);
    let now = app.clock.now();
    let mut interval = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower {
        tail: Tail::new(at.tenant, now),
        caller: at.caller,
        token: token.unwrap_or_default(),
        interval,
        looks: 0,
        ends: Instant::now() + LONGEST,
        app,
        _slot: slot,
    };
    let first = stream::once(async { Event::default().comment("following") });
    let events = first.chain(events(follower)).map(Ok::<_, Infallible>);
    let alive = KeepAlive::new().interval(HEARTBEAT);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

/// What one stream needs.
struct Follower {
    app: App,
    tail: Tail,
    caller: Caller,
    token: String,
    interval: Interval,
    looks: u32,
    ends: Instant,
    _slot: Slot,
}

fn events(follower: Follower) -> impl Stream<Item = Event> {
    stream::unfold(follower, |mut follower| async move {
        let events = follower.look().await?;
        Some((stream::iter(events), follower))
    })
    .flatten()
}

impl Follower {
    /// The next second's events; none when the stream ends.
    async fn look(&mut self) -> Option<Vec<Event>> {
        tokio::select! {
            () = self.app.stopping.cancelled() => return None,
            _ = self.interval.tick() => {}
        }
        self.looks += 1;
        let check = self.looks.is_multiple_of(LOOKS_A_CHECK);
        if Instant::now() >= self.ends || (check && !self.may_go_on().await) {
            return None;
        }
        let found = self.tail.next(&self.app.facts, self.app.clock.now()).await;
        Some(match found {
            Ok(clicks) => clicks.iter().filter_map(click).collect(),
            Err(problem) => {
                let event = Event::default().event("problem");
                event.json_data(&problem).into_iter().collect()
            }
        })
    }

    /// Whether the key or session still counts. While PostgreSQL can't say, it does.
    async fn may_go_on(&self) -> bool {
        match who(&self.app, &self.token).await {
            Ok(caller) => caller == Some(self.caller),
            Err(_) => true,
        }
    }
}

fn click(click: &Click) -> Option<Event> {
    let event = Event::default().event("click").id(&click.id);
    event
        .json_data(click)
        .inspect_err(|error| tracing::error!(%error, "a click could not be written as JSON"))
        .ok()
}
