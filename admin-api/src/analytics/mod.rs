//! What happened, from ClickHouse: clicks, visitors, conversions, revenue and commission.
//!
//! | module | subject |
//! |---|---|
//! | `sql` | the fixed fragments that every question is put together from |
//! | `figures` | numbers by bucket of time and by place among the top ones: what most answers are made of |
//! | `terms`, `buckets` | measures, dimensions, filters; the stretches of time |
//! | `query` | `POST /v1/analytics/query`: measures × dimensions × filters × granularity |
//! | `reports` | the named reports |
//! | `customers` | cohorts, lifetime value |
//! | `clicks` | single clicks; `live`: new ones as they come |
//! | `postbacks` | the log of reports of orders |
//!
//! Every question reads its tables through [`Facts::ask`], which puts the tenant and the period in
//! the place of `$CLICKS` and its like. No question names a table itself, so none can see another
//! tenant's rows (a test keeps it so).

mod buckets;
pub(crate) mod clicks;
pub(crate) mod customers;
mod figures;
pub(crate) mod live;
pub(crate) mod postbacks;
pub(crate) mod query;
pub(crate) mod reports;
mod sql;
pub(crate) mod terms;

use std::time::Duration;

use chrono::{DateTime, Utc};
use clickhouse::query::Query;
use clickhouse::{Client, RowOwned, RowRead};
use rust_decimal::Decimal;
use tributary_shared::config::ClickHouseConfig;
use tributary_shared::engines;
use tributary_shared::ids::{LinkId, TenantId};
use uuid::Uuid;

pub(crate) use figures::Figures;

use crate::amounts::Amount;
use crate::error::Problem;
use crate::period::Period;

/// How long ClickHouse may work on one question, and how long we wait for it.
const MAX_EXECUTION_SECONDS: &str = "10";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// Memory that one question may use, in bytes.
const MAX_MEMORY_BYTES: &str = "2000000000";

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

impl Facts {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &ClickHouseConfig) -> Self {
        let client = engines::clickhouse::client(config)
            .with_setting("readonly", "2") // reading only; 2 lets the limits below through
            .with_setting("max_execution_time", MAX_EXECUTION_SECONDS)
            .with_setting("max_memory_usage", MAX_MEMORY_BYTES)
            // Whoever asked has gone: nobody waits for the answer, so its question ends.
            .with_setting("cancel_http_readonly_queries_on_client_close", "1");
        Self { client }
    }

    /// The one door to the facts' tables.
    fn ask(&self, about: About<'_>, sql: &str) -> Query {
        let days = sql::whole_days(about.period);
        let name = format!("analytics-{}-{}", about.tenant, Uuid::new_v4());
        self.client
            .query(&sql::with_sources(sql))
            .with_setting("query_id", name) // so that an operator finds whose a question was
            .param("tenant", about.tenant.to_wire())
            .param("from", about.period.from.timestamp_micros())
            .param("to", about.period.to.timestamp_micros())
            .param("first_day", days.start.timestamp_micros())
            .param("last_day", days.end.timestamp_micros())
            .param("zone", about.period.zone.name())
            .param("link", about.link.map_or(0, LinkId::to_wire))
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
    Ok(Amount::new(decimal(text)?, currency))
}

fn decimal(text: &str) -> Result<Decimal, Problem> {
    text.parse().map_err(|error| {
        tracing::error!(%error, text, "ClickHouse gave a sum that is not a decimal");
        Problem::internal()
    })
}

/// The time of milliseconds that ClickHouse gave.
fn time(millis: i64) -> Result<DateTime<Utc>, Problem> {
    DateTime::from_timestamp_millis(millis).ok_or_else(|| {
        tracing::error!(millis, "ClickHouse gave a time that is none");
        Problem::internal()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::Tz;
    use tributary_shared::testing::Isolated;

    fn about(period: &Period, tenant: i64) -> About<'_> {
        About {
            tenant: TenantId(tenant),
            period,
            link: None,
        }
    }

    /// A rollup and single clicks say the same of any question; one that fits a rollup gets it.
    #[tokio::test]
    async fn rollups_and_clicks_agree() {
        let isolated = Isolated::create().await.unwrap();
        isolated
            .facts()
            .query(
                "INSERT INTO clicks (received_at, tenant_id, program_id, affiliate_id, link_id, visitor_id, country,
                    device, referrer_domain, is_bot, bot_reason, signals, outcome)
                 SELECT toDateTime64('2026-01-05 00:00:00', 3, 'UTC') + number * 97, 1 + number % 2, 1 + number % 3,
                    1 + number % 7, 1 + number % 31, number % 100, arrayElement(['DE', 'US', 'FR', ''], 1 + number % 4),
                    if(number % 5 < 2, 'mobile', 'desktop'), concat('r', toString(number % 13)), number % 10 = 0,
                    if(number % 10 = 0, 'crawler', ''), number % 17, number % 5
                 FROM numbers(6000)",
            )
            .execute()
            .await
            .unwrap();
        let with = |name: &str, value: &str| {
            let client = Facts::new(&isolated.clickhouse).client;
            Facts {
                client: client.with_setting(name, value),
            }
        };
        let rollups = with("force_optimize_projection", "1");
        let clicks = with("optimize_use_projections", "0");
        let questions = [
            r#"{"measures": ["clicks", "bot_clicks", "unique_visitors"], "granularity": "day"}"#,
            r#"{"measures": ["clicks", "unique_visitors"], "granularity": "hour", "dimensions": ["outcome"], "limit": 2, "other": true}"#,
            r#"{"measures": ["clicks"], "granularity": "hour", "dimensions": ["program", "outcome"], "limit": 4, "other": true}"#,
            r#"{"measures": ["bot_clicks", "clicks"], "dimensions": ["program"], "limit": 1, "other": true, "compare": "previous_period"}"#,
            r#"{"measures": ["clicks", "bot_clicks"], "dimensions": ["country", "device"], "limit": 3, "other": true}"#,
            r#"{"measures": ["clicks"], "dimensions": ["referrer_domain"], "filters": [{"dimension": "program", "in": [1, 2]}]}"#,
            r#"{"measures": ["bot_clicks"], "dimensions": ["bot_reason", "affiliate"]}"#,
            r#"{"measures": ["clicks"], "dimensions": ["link"], "filters": [{"dimension": "affiliate", "not_in": [3]}], "other": true}"#,
        ];
        let now = "2026-01-12T00:00:00Z".parse().unwrap();
        for zone in [Tz::Europe__Berlin, Tz::Asia__Kolkata, Tz::UTC] {
            let (from, to) = (Some("2026-01-06"), Some("2026-01-09"));
            let period = Period::read(from, to, zone, now).unwrap();
            for text in questions {
                let question = serde_json::from_str(text).unwrap();
                let answer = async |facts: &Facts| {
                    let answer = facts.answer(TenantId(1), &question, &period).await;
                    serde_json::to_value(answer.unwrap()).unwrap()
                };
                let (rollups, clicks) = (answer(&rollups).await, answer(&clicks).await);
                assert_eq!(rollups, clicks, "{zone} {text}");
                assert!(rollups["items"].as_array().unwrap().len() > 1, "{text}");
            }
            let quality = async |facts: &Facts| {
                let about = about(&period, 1);
                let bots = facts.bots(about).await.unwrap();
                let signals = facts.signals(about).await.unwrap();
                let affiliates = facts.quality_by_affiliate(about).await.unwrap();
                serde_json::to_value((bots, signals, affiliates)).unwrap()
            };
            let leaders = async |facts: &Facts| {
                let query = facts.top_links(about(&period, 1), 10);
                query.await.unwrap()
            };
            assert_eq!(quality(&rollups).await, quality(&clicks).await, "{zone}");
            assert_eq!(leaders(&rollups).await, leaders(&clicks).await, "{zone}");
        }
    }

    /// However much a tenant has sold in other periods, and other tenants in this one.
    #[tokio::test]
    async fn a_question_about_money_reads_its_period_only() {
        let isolated = Isolated::create().await.unwrap();
        for (table, id, time) in [
            ("conversions", "conversion_id", "accepted_at"),
            ("commissions", "commission_id", "created_at"),
        ] {
            for version in [1, 2] {
                let sql = format!(
                    "INSERT INTO {table} (tenant_id, {time}, {id}, amount, currency, version)
                     SELECT 1 + number % 2, toDateTime64('2025-01-01 00:00:00', 6, 'UTC') + number * 100,
                            reinterpretAsUUID(sipHash128(number)), 1, 'USD', {version} FROM numbers(300000)"
                );
                isolated.facts().query(&sql).execute().await.unwrap();
            }
        }
        let facts = Facts::new(&isolated.clickhouse);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let period = Period::read(Some("2025-06-01"), Some("2025-06-10"), Tz::UTC, now).unwrap();
        for (source, time) in [
            ("$CONVERSIONS", "accepted_at"),
            ("$COMMISSIONS", "created_at"),
        ] {
            let figures = format!("SELECT count(), toString(sum(amount)) FROM {source}");
            let figures = all::<(u64, String)>(facts.ask(about(&period, 1), &figures)).await;
            assert_eq!(figures.unwrap(), [(4320, "4320".to_owned())], "{time}");
            let rows =
                format!("SELECT sum(rows) FROM (EXPLAIN ESTIMATE SELECT count() FROM {source})");
            let rows = all::<u64>(facts.ask(about(&period, 1), &rows))
                .await
                .unwrap();
            assert!(rows[0] <= 4 * 8192, "{time}: {} of 600,000", rows[0]);
        }
    }

    /// Whoever stops waiting ends the question on the server as well.
    #[tokio::test]
    async fn a_question_that_nobody_waits_for_ends() {
        let isolated = Isolated::create().await.unwrap();
        let facts = Facts::new(&isolated.clickhouse);
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let period = Period::read(None, None, Tz::UTC, now).unwrap();
        let about = about(&period, 42);
        let slow = "SELECT toUInt64(sum(sleepEachRow(0.1))) FROM (SELECT number FROM numbers(90)) \
                    SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 10000000";
        let asked = isolated.name.clone();
        let marked = format!("{slow} /* {asked} */");
        let question = tokio::spawn(all::<u64>(facts.ask(about, &marked)));
        let running = async || {
            let sql = "SELECT count() FROM system.processes WHERE query_id LIKE 'analytics-42-%' AND query LIKE ?";
            let running = isolated.facts().query(sql).bind(format!("%/* {asked} %"));
            running.fetch_one::<u64>().await.unwrap()
        };
        let becomes = async |number: u64| {
            for _ in 0..40 {
                if running().await == number {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            false
        };
        assert!(becomes(1).await, "it runs");
        assert!(!question.is_finished());
        question.abort();
        // By itself it would run for nine seconds.
        assert!(becomes(0).await, "it ends soon");
    }
}
