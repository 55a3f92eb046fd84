//! What happened, from ClickHouse: clicks, visitors, conversions, revenue and commission.
//!
//! Every query reads its tables through [`Facts::ask`], which puts the tenant, the period and the
//! link in the place of `$CLICKS`, `$CONVERSIONS` and `$COMMISSIONS`. No query names a table itself,
//! so none can see another tenant's rows (a test keeps it so).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::NaiveDate;
use clickhouse::query::Query;
use clickhouse::{Client, Row, RowOwned, RowRead};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tributary_shared::config::ClickHouseConfig;
use tributary_shared::engines;
use tributary_shared::ids::{LinkId, TenantId};
use utoipa::ToSchema;

use crate::amounts::Amount;
use crate::error::Problem;
use crate::period::Period;

/// How long ClickHouse may work on one question, and how long we wait for it.
const MAX_EXECUTION_SECONDS: &str = "10";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// Memory that one question may use, in bytes.
const MAX_MEMORY_BYTES: &str = "2000000000";

const CLICKS: &str = "(SELECT * FROM clicks WHERE tenant_id = {tenant:UInt64}
    AND outcome != 4
    AND received_at >= fromUnixTimestamp64Micro({from:Int64})
    AND received_at < fromUnixTimestamp64Micro({to:Int64})
    AND ({link:UInt64} = 0 OR link_id = {link:UInt64}))";
const CONVERSIONS: &str = "(SELECT * FROM conversions FINAL WHERE tenant_id = {tenant:UInt64}
    AND accepted_at >= fromUnixTimestamp64Micro({from:Int64})
    AND accepted_at < fromUnixTimestamp64Micro({to:Int64})
    AND ({link:UInt64} = 0 OR link_id = {link:UInt64}))";
// A rejected commission is owed to nobody.
const COMMISSIONS: &str = "(SELECT * FROM commissions FINAL WHERE tenant_id = {tenant:UInt64}
    AND created_at >= fromUnixTimestamp64Micro({from:Int64})
    AND created_at < fromUnixTimestamp64Micro({to:Int64})
    AND ({link:UInt64} = 0 OR link_id = {link:UInt64})
    AND state != 'rejected')";

// A click without a visitor cookie has no visitor id; it is a click, but nobody's.
const CLICK_TOTALS: &str = "
    SELECT countIf(is_bot = 0) AS clicks, countIf(is_bot = 1) AS bot_clicks,
           uniqExactIf(visitor_id, is_bot = 0 AND visitor_id != toUUID('00000000-0000-0000-0000-000000000000')) AS unique_visitors
    FROM $CLICKS";
const CLICKS_BY_DAY: &str = "
    SELECT toString(toDate(received_at, {zone:String})) AS day,
           countIf(is_bot = 0) AS clicks, countIf(is_bot = 1) AS bot_clicks,
           uniqExactIf(visitor_id, is_bot = 0 AND visitor_id != toUUID('00000000-0000-0000-0000-000000000000')) AS unique_visitors
    FROM $CLICKS GROUP BY day";
const CONVERSIONS_BY_DAY: &str = "
    SELECT toString(toDate(accepted_at, {zone:String})) AS day, currency,
           count() AS number, toString(sum(amount)) AS amount
    FROM $CONVERSIONS GROUP BY day, currency";
const COMMISSIONS_BY_DAY: &str = "
    SELECT toString(toDate(created_at, {zone:String})) AS day, currency,
           count() AS number, toString(sum(amount)) AS amount
    FROM $COMMISSIONS GROUP BY day, currency";
// The links with the most clicks; one that only sold something this time counts as well.
const TOP_LINKS: &str = "
    SELECT link_id, sum(clicks) AS clicks, sum(bot_clicks) AS bot_clicks, sum(visitors) AS unique_visitors
    FROM (
        SELECT link_id, countIf(is_bot = 0) AS clicks, countIf(is_bot = 1) AS bot_clicks,
               uniqExactIf(visitor_id, is_bot = 0 AND visitor_id != toUUID('00000000-0000-0000-0000-000000000000')) AS visitors,
               0 AS sales
        FROM $CLICKS GROUP BY link_id
        UNION ALL
        SELECT link_id, 0, 0, 0, count() FROM $CONVERSIONS GROUP BY link_id
    )
    WHERE link_id != 0
    GROUP BY link_id ORDER BY clicks DESC, sum(sales) DESC, link_id LIMIT {limit:UInt64}";
const CONVERSIONS_BY_LINK: &str = "
    SELECT link_id, currency, count() AS number, toString(sum(amount)) AS amount
    FROM $CONVERSIONS WHERE has({links:Array(UInt64)}, link_id) GROUP BY link_id, currency";
const COMMISSIONS_BY_LINK: &str = "
    SELECT link_id, currency, count() AS number, toString(sum(amount)) AS amount
    FROM $COMMISSIONS WHERE has({links:Array(UInt64)}, link_id) GROUP BY link_id, currency";
const CONVERSION_TOTALS: &str = "
    SELECT currency, count() AS number, toString(sum(amount)) AS amount
    FROM $CONVERSIONS GROUP BY currency";
const COMMISSION_TOTALS: &str = "
    SELECT currency, count() AS number, toString(sum(amount)) AS amount
    FROM $COMMISSIONS GROUP BY currency";

/// What happened, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Figures {
    /// Clicks by people.
    pub clicks: u64,
    /// Clicks by known bots.
    pub bot_clicks: u64,
    /// Different people who clicked.
    pub unique_visitors: u64,
    pub conversions: u64,
    /// What the conversions were worth, one amount a currency.
    pub revenue: Vec<Amount>,
    /// What they earned affiliates, one amount a currency. Rejected commissions are left out.
    pub commission: Vec<Amount>,
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

/// The facts, one tenant at a time; cheap to clone.
#[derive(Clone)]
pub(crate) struct Facts {
    client: Client,
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Facts")
    }
}

/// Whose facts, when, and of which link (none: of all).
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub tenant: TenantId,
    pub period: &'a Period,
    pub link: Option<LinkId>,
}

#[derive(Debug, Row, Deserialize)]
struct Clicks {
    clicks: u64,
    bot_clicks: u64,
    unique_visitors: u64,
}

#[derive(Debug, Row, Deserialize)]
struct DayClicks {
    day: String,
    clicks: u64,
    bot_clicks: u64,
    unique_visitors: u64,
}

#[derive(Debug, Row, Deserialize)]
struct LinkClicks {
    link_id: u64,
    clicks: u64,
    bot_clicks: u64,
    unique_visitors: u64,
}

#[derive(Debug, Row, Deserialize)]
struct Sum {
    currency: String,
    number: u64,
    amount: String,
}

#[derive(Debug, Row, Deserialize)]
struct DaySum {
    day: String,
    currency: String,
    number: u64,
    amount: String,
}

#[derive(Debug, Row, Deserialize)]
struct LinkSum {
    link_id: u64,
    currency: String,
    number: u64,
    amount: String,
}

impl Facts {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &ClickHouseConfig) -> Self {
        let client = engines::clickhouse::client(config)
            .with_setting("readonly", "2") // reading only; 2 lets the limits below through
            .with_setting("max_execution_time", MAX_EXECUTION_SECONDS)
            .with_setting("max_memory_usage", MAX_MEMORY_BYTES);
        Self { client }
    }

    /// The one door to the facts' tables.
    fn ask(&self, about: About<'_>, sql: &str) -> Query {
        let sql = sql
            .replace("$CLICKS", CLICKS)
            .replace("$CONVERSIONS", CONVERSIONS)
            .replace("$COMMISSIONS", COMMISSIONS);
        self.client
            .query(&sql)
            .param("tenant", about.tenant.to_wire())
            .param("from", about.period.from.timestamp_micros())
            .param("to", about.period.to.timestamp_micros())
            .param("zone", about.period.zone.name())
            .param("link", about.link.map_or(0, LinkId::to_wire))
    }

    /// What happened in the whole period.
    pub(crate) async fn totals(&self, about: About<'_>) -> Result<Figures, Problem> {
        let (clicks, conversions, commissions) = tokio::try_join!(
            all::<Clicks>(self.ask(about, CLICK_TOTALS)),
            all::<Sum>(self.ask(about, CONVERSION_TOTALS)),
            all::<Sum>(self.ask(about, COMMISSION_TOTALS)),
        )?;
        let mut figures = Figures::default();
        for row in clicks {
            figures.clicks = row.clicks;
            figures.bot_clicks = row.bot_clicks;
            figures.unique_visitors = row.unique_visitors;
        }
        for row in conversions {
            figures.conversions += row.number;
            figures.revenue.push(amount(&row.amount, &row.currency)?);
        }
        for row in commissions {
            figures.commission.push(amount(&row.amount, &row.currency)?);
        }
        figures.sort();
        Ok(figures)
    }

    /// What happened on each day of the period, days without events included.
    pub(crate) async fn by_day(&self, about: About<'_>) -> Result<Vec<Day>, Problem> {
        let (clicks, conversions, commissions) = tokio::try_join!(
            all::<DayClicks>(self.ask(about, CLICKS_BY_DAY)),
            all::<DaySum>(self.ask(about, CONVERSIONS_BY_DAY)),
            all::<DaySum>(self.ask(about, COMMISSIONS_BY_DAY)),
        )?;
        let mut days: BTreeMap<String, Figures> = BTreeMap::new();
        for row in clicks {
            let figures = days.entry(row.day).or_default();
            figures.clicks = row.clicks;
            figures.bot_clicks = row.bot_clicks;
            figures.unique_visitors = row.unique_visitors;
        }
        for row in conversions {
            let figures = days.entry(row.day).or_default();
            figures.conversions += row.number;
            figures.revenue.push(amount(&row.amount, &row.currency)?);
        }
        for row in commissions {
            let figures = days.entry(row.day).or_default();
            figures.commission.push(amount(&row.amount, &row.currency)?);
        }
        let day = |day: &NaiveDate| {
            let mut figures = days.remove(&day.to_string()).unwrap_or_default();
            figures.sort();
            Day::new(*day, figures)
        };
        Ok(about.period.days.iter().map(day).collect())
    }

    /// The `limit` links with the most clicks, and, under no link, what could not be attributed.
    pub(crate) async fn by_link(
        &self,
        about: About<'_>,
        limit: u64,
    ) -> Result<Vec<(Option<LinkId>, Figures)>, Problem> {
        let top = all::<LinkClicks>(self.ask(about, TOP_LINKS).param("limit", limit)).await?;
        let mut links: Vec<u64> = top.iter().map(|row| row.link_id).collect();
        links.push(0);
        let (conversions, commissions) = tokio::try_join!(
            all::<LinkSum>(self.ask(about, CONVERSIONS_BY_LINK).param("links", &links)),
            all::<LinkSum>(self.ask(about, COMMISSIONS_BY_LINK).param("links", &links)),
        )?;
        let mut figures: HashMap<u64, Figures> = HashMap::new();
        for row in &top {
            figures.insert(
                row.link_id,
                Figures {
                    clicks: row.clicks,
                    bot_clicks: row.bot_clicks,
                    unique_visitors: row.unique_visitors,
                    ..Figures::default()
                },
            );
        }
        for row in conversions {
            let figures = figures.entry(row.link_id).or_default();
            figures.conversions += row.number;
            figures.revenue.push(amount(&row.amount, &row.currency)?);
        }
        for row in commissions {
            let figures = figures.entry(row.link_id).or_default();
            figures.commission.push(amount(&row.amount, &row.currency)?);
        }
        let of_link = |id: u64| {
            let mut figures = figures.remove(&id)?;
            figures.sort();
            Some((LinkId::from_wire(id), figures))
        };
        Ok(links.into_iter().filter_map(of_link).collect())
    }
}

impl Figures {
    /// Currencies in the order of the alphabet, so that answers can be compared.
    fn sort(&mut self) {
        self.revenue.sort_by(|a, b| a.currency.cmp(&b.currency));
        self.commission.sort_by(|a, b| a.currency.cmp(&b.currency));
    }
}

async fn all<R: RowOwned + RowRead>(query: Query) -> Result<Vec<R>, Problem> {
    match tokio::time::timeout(ANSWER_TIMEOUT, query.fetch_all::<R>()).await {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(error)) => Err(refused(&error)),
        Err(_) => Err(away()),
    }
}

fn refused(error: &clickhouse::error::Error) -> Problem {
    use clickhouse::error::Error as E;
    match error {
        E::BadResponse(text)
            if text.contains("TIMEOUT_EXCEEDED") || text.contains("MEMORY_LIMIT") =>
        {
            Problem::unavailable("this question is too large at the moment; ask about fewer days")
        }
        E::Network(_) | E::TimedOut => {
            tracing::warn!(%error, "ClickHouse does not answer");
            away()
        }
        _ => {
            tracing::error!(%error, "ClickHouse refused a question");
            away()
        }
    }
}

fn away() -> Problem {
    Problem::unavailable("analytics does not answer at the moment; everything else works")
}

fn amount(text: &str, currency: &str) -> Result<Amount, Problem> {
    let amount: Decimal = text.parse().map_err(|error| {
        tracing::error!(%error, text, "ClickHouse gave a sum that is not a decimal");
        Problem::internal()
    })?;
    Ok(Amount::new(amount, currency))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_question_names_a_table_itself() {
        for sql in [
            CLICK_TOTALS,
            CLICKS_BY_DAY,
            CONVERSIONS_BY_DAY,
            COMMISSIONS_BY_DAY,
            TOP_LINKS,
            CONVERSIONS_BY_LINK,
            COMMISSIONS_BY_LINK,
            CONVERSION_TOTALS,
            COMMISSION_TOTALS,
        ] {
            for source in sql.split("FROM ").skip(1) {
                assert!(source.starts_with('$') || source.starts_with('('), "{sql}");
            }
            assert!(!sql.contains("JOIN"), "{sql}");
        }
        for source in [CLICKS, CONVERSIONS, COMMISSIONS] {
            assert!(
                source.contains("WHERE tenant_id = {tenant:UInt64}"),
                "{source}"
            );
        }
    }
}
