//! The named reports: by day, by link, and what the dashboard shows.

use chrono::NaiveDate;
use clickhouse::Row;
use clickhouse::query::Query;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tributary_shared::ids::LinkId;
use tributary_shared::signals;
use utoipa::ToSchema;

use super::buckets::day_number;
use super::figures::{Places, Shape, Wanted, and_conditions, with_values};
use super::terms::{Condition, Dimension, Filter, Granularity, conditions, rate};
use super::{About, Facts, Figures, all, sql};
use crate::amounts::Amount;
use crate::error::Problem;

/// Affiliates in the report on traffic's quality.
pub(crate) const QUALITY_AFFILIATES: usize = 50;
/// Reasons in it.
const BOT_REASONS: usize = 100;
/// Kinds of event that a funnel tells apart.
const FUNNEL_EVENTS: usize = 50;
/// Digits after the point of an average score.
const SCORE_DIGITS: u32 = 2;

// The links with the most clicks; one that only sold something this time counts as well. What was
// attributed to no link comes first.
const TOP_LINKS: &str = "
    SELECT sipHash64(link_id) AS key, link_id
    FROM (
        $PARTS
        UNION ALL
        SELECT link_id, toUInt8(0) AS is_bot, toUInt64(0) AS number, count() AS sales FROM $CONVERSIONS GROUP BY link_id
    )
    GROUP BY link_id
    ORDER BY link_id = 0 DESC, sumIf(number, is_bot = 0) DESC, sum(sales) DESC, link_id LIMIT {limit:UInt64}";
const TOP_LINKS_PART: &str = "
    SELECT link_id, is_bot, count() AS number, toUInt64(0) AS sales FROM $SOURCE WHERE link_id != 0
    GROUP BY link_id, is_bot";
// Only what came by a click of ours went through the funnel.
const EVENTS: &str = "
    SELECT event, count() AS number FROM $CONVERSIONS WHERE attribution IN ('click_token', 'visitor', 'fingerprint')$AND
    GROUP BY event ORDER BY number DESC, event LIMIT {limit:UInt64}";
const DELAYS: &str = "
    SELECT count() AS conversions, quantilesExact(0.5, 0.75, 0.9, 0.95, 0.99)(seconds) AS quantiles, $BUCKETS AS buckets
    FROM (
        SELECT greatest(toInt64(0), intDiv(toUnixTimestamp64Milli(accepted_at) - toUnixTimestamp64Milli(clicked_at), 1000)) AS seconds
        FROM $CONVERSIONS WHERE toUnixTimestamp64Milli(clicked_at) != 0$AND
    )";
const BOTS_PART: &str = "
    SELECT bot_reason, is_bot, count() AS number FROM $SOURCE WHERE is_bot = 1 GROUP BY bot_reason, is_bot";
const BOTS: &str = "
    SELECT bot_reason, sum(number) AS clicks FROM ($PARTS) GROUP BY bot_reason
    ORDER BY clicks DESC, bot_reason LIMIT {limit:UInt64}";
const SIGNALS_PART: &str = "
    SELECT signals, is_bot, count() AS number FROM $SOURCE WHERE signals != 0 GROUP BY signals, is_bot";
const SIGNALS: &str = "
    SELECT signals, sumIf(number, is_bot = 0) AS clicks, sumIf(number, is_bot = 1) AS bot_clicks
    FROM ($PARTS) GROUP BY signals";
const AFFILIATES_PART: &str = "
    SELECT affiliate_id, signals, is_bot, count() AS number FROM $SOURCE WHERE affiliate_id != 0
    GROUP BY affiliate_id, signals, is_bot";
const AFFILIATES: &str = "
    SELECT affiliate_id, sumIf(number, is_bot = 0) AS clicks, sumIf(number, is_bot = 1) AS bot_clicks,
           sumIf(number, is_bot = 0 AND signals != 0) AS suspicious_clicks,
           sumIf(number * toUInt64($SCORE), is_bot = 0) AS score
    FROM ($PARTS) GROUP BY affiliate_id
    ORDER BY suspicious_clicks + bot_clicks DESC, affiliate_id LIMIT {limit:UInt64}";

/// The delays that conversions are sorted by: up to how many seconds, and what that is called.
const DELAY_BUCKETS: [(u64, &str); 7] = [
    (60, "1 minute"),
    (600, "10 minutes"),
    (3600, "1 hour"),
    (86_400, "1 day"),
    (604_800, "7 days"),
    (2_592_000, "30 days"),
    (i64::MAX.unsigned_abs(), "longer"),
];

/// One step of the funnel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Step {
    #[schema(examples("lead"))]
    pub step: String,
    pub count: u64,
    /// As a fraction of the clicks; null without clicks.
    #[schema(examples("0.031"))]
    pub of_clicks: Option<String>,
    /// As a fraction of the step before; null in the first one, and of nothing.
    pub of_previous: Option<String>,
}

/// How many clicks became leads and sales.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Funnel {
    /// People's clicks, then leads, then sales.
    pub steps: Vec<Step>,
    /// Events of other kinds.
    pub other_events: Vec<Event>,
}

#[derive(Debug, Row, Serialize, Deserialize, ToSchema)]
pub(crate) struct Event {
    pub event: String,
    pub number: u64,
}

/// How many conversions came so soon.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Delay {
    #[schema(examples("1 hour"))]
    pub within: &'static str,
    pub conversions: u64,
    /// As a fraction of all.
    pub share: Option<String>,
}

/// How long after their click conversions came.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Delays {
    /// Those whose click is known.
    pub conversions: u64,
    /// In seconds. Null without conversions.
    pub median: Option<i64>,
    pub p75: Option<i64>,
    pub p90: Option<i64>,
    pub p95: Option<i64>,
    pub p99: Option<i64>,
    /// Each conversion counts in the first of these that it fits.
    pub items: Vec<Delay>,
}

/// How many clicks show a signal.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignalFigures {
    #[schema(examples("duplicate"))]
    pub signal: &'static str,
    /// What it adds to a click's score of 0 to 100.
    pub weight: u8,
    pub clicks: u64,
    pub bot_clicks: u64,
}

/// How good an affiliate's traffic is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AffiliateQuality {
    pub affiliate_id: u64,
    pub affiliate_name: Option<String>,
    pub clicks: u64,
    pub bot_clicks: u64,
    /// Clicks by people with at least one signal.
    pub suspicious_clicks: u64,
    /// Bots among all clicks.
    pub bot_rate: Option<String>,
    /// Over its clicks by people, from 0 (nothing speaks against them) to 100.
    #[schema(examples("12.5"))]
    pub average_score: Option<String>,
}

#[derive(Debug, Row, Deserialize)]
struct DelayRow {
    conversions: u64,
    quantiles: Vec<i64>,
    buckets: Vec<u64>,
}

#[derive(Debug, Row, Deserialize)]
struct SignalRow {
    signals: u16,
    clicks: u64,
    bot_clicks: u64,
}

#[derive(Debug, Row, Deserialize)]
struct AffiliateRow {
    affiliate_id: u64,
    clicks: u64,
    bot_clicks: u64,
    suspicious_clicks: u64,
    score: u64,
}

/// What happened on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Day {
    #[schema(value_type = String, format = Date, examples("2026-01-31"))]
    pub day: NaiveDate,
    pub clicks: u64,
    pub bot_clicks: u64,
    pub unique_visitors: u64,
    pub conversions: u64,
    pub revenue: Vec<Amount>,
    pub commission: Vec<Amount>,
}

impl Day {
    fn new(day: NaiveDate, figures: Figures) -> Self {
        let Figures {
            clicks,
            bot_clicks,
            unique_visitors,
            conversions,
            revenue,
            commission,
        } = figures;
        Self {
            day,
            clicks,
            bot_clicks,
            unique_visitors,
            conversions,
            revenue,
            commission,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Row, Deserialize)]
pub(super) struct TopLink {
    key: u64,
    link_id: u64,
}

fn everything(granularity: Granularity, dimensions: &[Dimension]) -> Shape<'_> {
    Shape {
        granularity,
        dimensions,
        filters: &[],
        wanted: Wanted::ALL,
    }
}

impl Facts {
    /// What happened in the whole period.
    pub(crate) async fn totals(&self, about: About<'_>) -> Result<Figures, Problem> {
        let shape = everything(Granularity::None, &[]);
        let mut cells = self.figures(about, shape, Places::One).await?;
        Ok(cells.remove(&(0, 0)).unwrap_or_default())
    }

    /// What happened on each day of the period, days without events included.
    pub(crate) async fn by_day(&self, about: About<'_>) -> Result<Vec<Day>, Problem> {
        let shape = everything(Granularity::Day, &[]);
        let mut cells = self.figures(about, shape, Places::One).await?;
        let day = |day: &NaiveDate| {
            let figures = cells.remove(&(day_number(*day), 0));
            Day::new(*day, figures.unwrap_or_default())
        };
        Ok(about.period.days.iter().map(day).collect())
    }

    /// How many clicks became leads and sales, of what `filters` leave.
    pub(crate) async fn funnel(
        &self,
        about: About<'_>,
        filters: &[Filter],
    ) -> Result<Funnel, Problem> {
        let filters = conditions(filters)?;
        let shape = Shape {
            filters: &filters,
            wanted: Wanted {
                clicks: true,
                visitors: false,
                conversions: false,
                commissions: false,
            },
            ..everything(Granularity::None, &[])
        };
        let events = self
            .asked_with(about, EVENTS, &filters)
            .param("limit", FUNNEL_EVENTS);
        let (mut figures, events) = tokio::try_join!(
            self.figures(about, shape, Places::One),
            all::<Event>(events)
        )?;
        let clicks = figures.remove(&(0, 0)).unwrap_or_default().clicks;
        let number = |name| {
            events
                .iter()
                .find(|e| e.event == name)
                .map_or(0, |e| e.number)
        };
        let (leads, sales) = (number("lead"), number("sale"));
        let step = |step: &str, count, before: Option<u64>| Step {
            step: step.to_owned(),
            count,
            of_clicks: rate(count, clicks),
            of_previous: before.and_then(|before| rate(count, before)),
        };
        Ok(Funnel {
            steps: vec![
                step("click", clicks, None),
                step("lead", leads, Some(clicks)),
                step("sale", sales, Some(leads)),
            ],
            other_events: events
                .into_iter()
                .filter(|e| e.event != "lead" && e.event != "sale")
                .collect(),
        })
    }

    /// How long after their click conversions came.
    pub(crate) async fn conversion_delay(
        &self,
        about: About<'_>,
        filters: &[Filter],
    ) -> Result<Delays, Problem> {
        let filters = conditions(filters)?;
        let mut after = 0;
        let counts = DELAY_BUCKETS.map(|(seconds, _)| {
            let from = std::mem::replace(&mut after, seconds);
            format!("countIf(seconds >= {from} AND seconds < {seconds})")
        });
        let sql = DELAYS.replace("$BUCKETS", &format!("[{}]", counts.join(", ")));
        let rows = all::<DelayRow>(self.asked_with(about, &sql, &filters)).await?;
        let row = rows.into_iter().next().unwrap_or(DelayRow {
            conversions: 0,
            quantiles: Vec::new(),
            buckets: Vec::new(),
        });
        let quantile = |place: usize| {
            let known = row.quantiles.get(place).copied();
            known.filter(|_| row.conversions > 0)
        };
        let delay = |((_, within), conversions): (&(u64, &'static str), &u64)| Delay {
            within,
            conversions: *conversions,
            share: rate(*conversions, row.conversions),
        };
        Ok(Delays {
            conversions: row.conversions,
            median: quantile(0),
            p75: quantile(1),
            p90: quantile(2),
            p95: quantile(3),
            p99: quantile(4),
            items: DELAY_BUCKETS.iter().zip(&row.buckets).map(delay).collect(),
        })
    }

    /// What bots were known by, the most frequent first.
    pub(crate) async fn bots(&self, about: About<'_>) -> Result<Vec<(String, u64)>, Problem> {
        let dimensions = [Dimension::BotReason];
        let sql = with_parts(BOTS, BOTS_PART, about, &dimensions);
        let query = self.ask(about, &sql).param("limit", BOT_REASONS);
        all::<(String, u64)>(query).await
    }

    /// How many clicks show each signal.
    pub(crate) async fn signals(&self, about: About<'_>) -> Result<Vec<SignalFigures>, Problem> {
        let sql = with_parts(SIGNALS, SIGNALS_PART, about, &[Dimension::BotReason]);
        let rows = all::<SignalRow>(self.ask(about, &sql)).await?;
        let figures = |signal: &signals::Signal| {
            let with = || rows.iter().filter(|row| row.signals & signal.mask() != 0);
            SignalFigures {
                signal: signal.name,
                weight: signal.weight,
                clicks: with().map(|row| row.clicks).sum(),
                bot_clicks: with().map(|row| row.bot_clicks).sum(),
            }
        };
        Ok(signals::ALL.iter().map(figures).collect())
    }

    /// The affiliates with the most bots and suspicious clicks, without names.
    pub(crate) async fn quality_by_affiliate(
        &self,
        about: About<'_>,
    ) -> Result<Vec<AffiliateQuality>, Problem> {
        let dimensions = [Dimension::Affiliate, Dimension::BotReason];
        let sql = with_parts(AFFILIATES, AFFILIATES_PART, about, &dimensions)
            .replace("$SCORE", &sql::score());
        let query = self.ask(about, &sql).param("limit", QUALITY_AFFILIATES);
        let quality = |row: AffiliateRow| {
            let score = Decimal::from(row.score).checked_div(Decimal::from(row.clicks));
            AffiliateQuality {
                affiliate_id: row.affiliate_id,
                affiliate_name: None,
                clicks: row.clicks,
                bot_clicks: row.bot_clicks,
                suspicious_clicks: row.suspicious_clicks,
                bot_rate: rate(row.bot_clicks, row.clicks.saturating_add(row.bot_clicks)),
                average_score: score
                    .map(|score| score.round_dp(SCORE_DIGITS).normalize().to_string()),
            }
        };
        let rows = all::<AffiliateRow>(query).await?;
        Ok(rows.into_iter().map(quality).collect())
    }

    /// A question about conversions whose `$AND` are `filters`.
    fn asked_with(&self, about: About<'_>, sql: &str, filters: &[Condition]) -> Query {
        let sql = sql.replace("$AND", &and_conditions(filters));
        with_values(self.ask(about, &sql), filters)
    }

    /// The links with the most clicks, first of all what has no link.
    pub(super) async fn top_links(
        &self,
        about: About<'_>,
        limit: u64,
    ) -> Result<Vec<TopLink>, Problem> {
        let sql = with_parts(TOP_LINKS, TOP_LINKS_PART, about, &[Dimension::Link]);
        all::<TopLink>(self.ask(about, &sql).param("limit", limit)).await
    }

    /// The `limit` links with the most clicks, and, under no link, what could not be attributed.
    pub(crate) async fn by_link(
        &self,
        about: About<'_>,
        limit: u64,
    ) -> Result<Vec<(Option<LinkId>, Figures)>, Problem> {
        let mut links = self.top_links(about, limit + 1).await?;
        if links.first().is_some_and(|link| link.link_id == 0) {
            links.rotate_left(1);
        } else {
            links.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        let keys: Vec<u64> = links.iter().map(|link| link.key).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let shape = everything(Granularity::None, &[Dimension::Link]);
        let places = Places::Keys {
            keys: &keys,
            others: false,
        };
        let mut cells = self.figures(about, shape, places).await?;
        let of_link = |link: &TopLink| {
            let figures = cells.remove(&(0, link.key)).unwrap_or_default();
            (LinkId::from_wire(link.link_id), figures)
        };
        Ok(links.iter().map(of_link).collect())
    }
}

/// `sql` over `part` of each source of clicks that suits a question over `dimensions`.
fn with_parts(sql: &str, part: &str, about: About<'_>, dimensions: &[Dimension]) -> String {
    let form = sql::Form::of(about, dimensions, Granularity::None, false);
    let parts: Vec<_> = form
        .sources()
        .iter()
        .map(|(source, _)| part.replace("$SOURCE", source))
        .collect();
    sql.replace("$PARTS", &parts.join(" UNION ALL "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::sql::names_no_table;

    #[test]
    fn no_question_names_a_table_itself() {
        for sql in [
            TOP_LINKS,
            TOP_LINKS_PART,
            EVENTS,
            DELAYS,
            BOTS_PART,
            BOTS,
            SIGNALS_PART,
            SIGNALS,
            AFFILIATES_PART,
            AFFILIATES,
        ] {
            assert!(names_no_table(sql), "{sql}");
        }
    }
}
