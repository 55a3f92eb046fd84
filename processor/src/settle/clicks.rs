//! Clicks that are paid for as such: counts those of each link, affiliate and day from the facts, and makes of each count a
//! conversion of event `click`, which is settled like any other.
//!
//! A count is a number of facts, taken whole each time, never a sum of increments: whoever counts, however often, comes to
//! the same, and the ledger gets the difference. Late clicks are found because days are counted again while the facts of
//! them grow. Nothing is taken back because facts are missing: a day of which the facts hold fewer clicks than they did is
//! left alone, and so is one whose clicks begin to expire.
//!
//! Paid are people's clicks that were sent to the destination and carry nothing that the program holds or rejects orders for.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use clickhouse::Client;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::commission::{CLICK_FACTS, ClickPeriod, RuleSet};
use tributary_shared::fraud::{Action, Settings};
use tributary_shared::ids::{ProgramId, TenantId};
use tributary_shared::signals;

use super::around::{SOURCE, WINDOW_MS};
use super::click_counts::{Counted, DayCounts};
use super::judge::{self, DUPLICATE_SECONDS, FLOOD_CLICKS};
use super::load;
use super::look::LookError;
use crate::RunError;
use crate::retry::until_done;

/// Days of UTC that are counted again for clicks that come late, today among them.
const DAYS: u64 = 8;
/// Clicks that are younger wait for the next turn: a rule that somebody is just writing is in force from a moment before it can
/// be read.
const LAG: TimeDelta = TimeDelta::minutes(1);
/// Most counts of one program and period; of more none is taken, and the log says so.
const MAX_COUNTS: usize = 20_000;
/// What one question may take: seconds, bytes of memory, bytes after which it sorts on the disk, bytes of its text (which names
/// what the tenant blocked).
const QUESTION: [(&str, &str); 4] = [
    ("max_execution_time", "25"),
    ("max_memory_usage", "2000000000"),
    ("max_bytes_before_external_sort", "500000000"),
    ("max_query_size", "33554432"),
];

/// The task.
#[derive(Debug)]
pub(crate) struct ClickEarnings {
    pub(crate) pool: PgPool,
    pub(crate) facts: Client,
    pub(crate) clock: Clock,
    pub(crate) every: Duration,
}

/// A program that pays for clicks, or did.
#[derive(Debug, sqlx::FromRow)]
struct Program {
    id: ProgramId,
    tenant_id: TenantId,
    currency: String,
    fraud: sqlx::types::Json<serde_json::Value>,
    click_days: i32,
}

impl ClickEarnings {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        loop {
            let Ok(()) = until_done("clicks that are paid for", &stop, || self.turn()).await else {
                return Ok(());
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.every) => {}
            }
        }
    }

    async fn turn(&self) -> Result<(), LookError> {
        let programs: Vec<Program> = sqlx::query_as(
            "SELECT p.id, p.tenant_id, p.currency, p.fraud, t.click_days FROM programs p JOIN tenants t ON t.id = p.tenant_id
             WHERE p.id IN (SELECT program_id FROM commission_rules WHERE document->'events' ? 'click') ORDER BY p.id",
        )
        .fetch_all(&self.pool)
        .await?;
        for program in programs {
            self.program(&program).await?;
        }
        Ok(())
    }

    /// Counts a program's days, unless another processor does just now.
    async fn program(&self, program: &Program) -> Result<(), LookError> {
        let mut turn = self.pool.begin().await?;
        let is_mine: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))")
                .bind(format!("clicks {}", program.id))
                .fetch_one(&mut *turn)
                .await?;
        if !is_mine {
            return Ok(());
        }
        let now = self.clock.now();
        let rules = load::rules(&mut turn, program.id, &program.currency).await?;
        let seen = self
            .seen(program, first_day(now, program.click_days))
            .await?;
        // First all that is asked, then all that is written: nothing is locked while the facts are asked.
        let mut days = Vec::new();
        for (day, seen) in seen {
            days.extend(self.day(&mut turn, program, &rules, day, seen, now).await?);
        }
        for day in &days {
            day.write(&mut turn, program.tenant_id, program.id, now)
                .await?;
        }
        Ok(turn.commit().await?)
    }

    /// How many clicks of any kind the facts hold of each day from `first` on: from a rollup.
    async fn seen(
        &self,
        program: &Program,
        first: NaiveDate,
    ) -> Result<BTreeMap<NaiveDate, i64>, clickhouse::error::Error> {
        let rows: Vec<(u32, u64)> = (self.facts)
            .query(
                "SELECT toUnixTimestamp(toStartOfDay(received_at)) AS day, count() AS clicks FROM clicks
                 WHERE tenant_id = ? AND program_id = ? AND toStartOfDay(received_at) >= toDateTime(?, 'UTC') GROUP BY day ORDER BY day",
            )
            .bind(program.tenant_id.0)
            .bind(program.id.0)
            .bind(midnight(first).timestamp())
            .fetch_all()
            .await?;
        let day = |(at, clicks): (u32, u64)| {
            let at = DateTime::from_timestamp(i64::from(at), 0)?;
            Some((at.date_naive(), i64::try_from(clicks).unwrap_or(i64::MAX)))
        };
        Ok(rows.into_iter().filter_map(day).collect())
    }

    /// Counts a day's clicks; none: there is nothing to count.
    async fn day(
        &self,
        turn: &mut PgConnection,
        program: &Program,
        rules: &RuleSet,
        day: NaiveDate,
        seen: i64,
        now: DateTime<Utc>,
    ) -> Result<Option<DayCounts>, LookError> {
        let periods = rules.click_periods(midnight(day));
        let before: Option<(i64, DateTime<Utc>)> = sqlx::query_as(
            "SELECT seen, counted_until FROM click_days WHERE program_id = $1 AND day = $2",
        )
        .bind(program.id)
        .bind(day)
        .fetch_optional(&mut *turn)
        .await?;
        // Never less far than before, whosever clock that was by.
        let counted_until = before.map(|(_, counted_until)| counted_until);
        let until = (now - LAG).max(counted_until.unwrap_or_default());
        let end = midnight(day) + TimeDelta::days(1);
        match before {
            _ if periods.is_empty() => return Ok(None),
            Some((then, _)) if seen < then => {
                tracing::warn!(program = %program.id, %day, seen, then, "the facts hold fewer clicks than before; those that were paid for stay");
                return Ok(None);
            }
            Some((then, counted_until)) if seen == then && counted_until >= end => return Ok(None),
            _ => {}
        }
        let mut counts = Vec::new();
        for period in periods {
            let counted = self.count(turn, program, &period, until).await?;
            if counted.len() > MAX_COUNTS {
                tracing::error!(program = %program.id, from = %period.from, "clicks are not paid for: the rules look at so much of them that there are more than {MAX_COUNTS} counts");
                continue;
            }
            counts.push((period, counted));
        }
        Ok(Some(DayCounts {
            day,
            seen,
            until,
            counts,
        }))
    }

    /// The clicks of a period that are paid for, those before `until`.
    async fn count(
        &self,
        connection: &mut PgConnection,
        program: &Program,
        period: &ClickPeriod,
        until: DateTime<Utc>,
    ) -> Result<Vec<Counted>, LookError> {
        let (from, to) = (millis(period.from), millis(period.to.min(until)));
        if from >= to {
            return Ok(Vec::new());
        }
        let settings: Settings =
            serde_json::from_value(program.fraud.0.clone()).unwrap_or_default();
        let keeps_out = |signal: &str| judge::action(&settings, signal) >= Action::Hold;
        let number = |signal: &str, by_default: u32| {
            let setting = settings.get(signal).and_then(|of| of.number);
            i64::from(setting.unwrap_or(by_default))
        };
        let marks = signals::ALL
            .iter()
            .filter(|signal| keeps_out(signal.name))
            .fold(0_u16, |bits, signal| bits | signal.mask());
        // What stands around a click is known from the minute before the period on.
        let mut around = String::new();
        let mut wanted = String::new();
        if keeps_out(signals::DUPLICATE.name) {
            let within = number(signals::DUPLICATE.name, DUPLICATE_SECONDS) * 1000;
            around.push_str(
                ", ms - lagInFrame(ms, 1, toInt64(0)) OVER (PARTITION BY link_id, visitor_id ORDER BY ms ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS since_ms",
            );
            wanted.push_str(&format!(
                " AND NOT (visitor_id != 0 AND since_ms BETWEEN 1 AND {within})"
            ));
        }
        if keeps_out(signals::FLOODING.name) {
            let most = number(signals::FLOODING.name, FLOOD_CLICKS);
            let before = WINDOW_MS - 1;
            around.push_str(&format!(
                ", count() OVER (PARTITION BY link_id, source ORDER BY ms RANGE BETWEEN {before} PRECEDING AND CURRENT ROW) AS in_minute"
            ));
            wanted.push_str(&format!(" AND NOT (source != 0 AND in_minute > {most})"));
        }
        if keeps_out("blocked") {
            wanted.push_str(&blocked(connection, program.tenant_id).await?);
        }
        let of: Vec<&str> = (CLICK_FACTS.iter())
            .map(|name| match *name {
                name if !period.by.contains(name) => "''",
                "campaign" => "toString(utm_campaign)",
                "country" => "toString(country)",
                "device" => "toString(device)",
                sub => sub,
            })
            .collect();
        let sql = format!(
            "SELECT affiliate_id, link_id, [{of}] AS facts, count() AS clicks FROM (
                 SELECT *{around} FROM (
                     SELECT affiliate_id, link_id, country, device, utm_campaign, sub1, sub2, sub3, sub4, sub5, is_bot, outcome, signals,
                            address, network, referrer_domain, visitor_id, toUnixTimestamp64Milli(received_at) AS ms, {SOURCE} AS source
                     FROM clicks WHERE tenant_id = ? AND program_id = ? AND received_at >= fromUnixTimestamp64Milli(?, 'UTC')
                       AND received_at < fromUnixTimestamp64Milli(?, 'UTC')))
             WHERE ms >= ? AND is_bot = 0 AND outcome = 0 AND link_id != 0 AND bitAnd(signals, {marks}) = 0{wanted}
             GROUP BY affiliate_id, link_id, facts ORDER BY affiliate_id, link_id, facts LIMIT {limit}",
            of = of.join(", "),
            limit = MAX_COUNTS + 1,
        );
        let facts = QUESTION
            .iter()
            .fold(self.facts.clone(), |facts, (name, value)| {
                facts.with_setting(*name, *value)
            });
        let rows = (facts.query(&sql))
            .bind(program.tenant_id.0)
            .bind(program.id.0)
            .bind(from - WINDOW_MS)
            .bind(to)
            .bind(from)
            .fetch_all()
            .await?;
        Ok(rows)
    }
}

/// The first day that is counted: late clicks are waited for, but none of those that begin to expire.
fn first_day(now: DateTime<Utc>, click_days: i32) -> NaiveDate {
    let kept = u64::from(click_days.unsigned_abs());
    let back = DAYS.min(kept).saturating_sub(1);
    let today = now.date_naive();
    today.checked_sub_days(Days::new(back)).unwrap_or(today)
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// The first whole millisecond from then on: a click's time has no finer part.
fn millis(at: DateTime<Utc>) -> i64 {
    let whole = at.timestamp_millis();
    whole + i64::from(!at.timestamp_subsec_nanos().is_multiple_of(1_000_000))
}

/// A condition that leaves out clicks that come from what the tenant blocked; empty: nothing is.
async fn blocked(connection: &mut PgConnection, tenant: TenantId) -> Result<String, sqlx::Error> {
    let entries: Vec<(String, String, Option<i32>)> = sqlx::query_as(
        "SELECT kind, CASE kind WHEN 'address' THEN host(network(value::inet)) ELSE value END,
                CASE kind WHEN 'address' THEN masklen(value::inet) + CASE family(value::inet) WHEN 4 THEN 96 ELSE 0 END END
         FROM blocked WHERE tenant_id = $1 AND kind IN ('address', 'network', 'referrer') ORDER BY kind, value",
    )
    .bind(tenant)
    .fetch_all(connection)
    .await?;
    let mut lists: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (kind, value, prefix) in entries {
        let (what, value) = match (kind.as_str(), prefix) {
            ("address", Some(prefix)) => {
                let address = if value.contains(':') {
                    value
                } else {
                    format!("::ffff:{value}")
                };
                let what = format!("tupleElement(IPv6CIDRToRange(address, {prefix}), 1)");
                (what, format!("toIPv6({})", quoted(&address)))
            }
            ("network", _) => ("toString(network)".to_owned(), quoted(&value)),
            _ => ("toString(referrer_domain)".to_owned(), quoted(&value)),
        };
        lists.entry(what).or_default().push(value);
    }
    let condition = |(what, values): (String, Vec<String>)| {
        format!(" AND {what} NOT IN ({})", values.join(", "))
    };
    Ok(lists.into_iter().map(condition).collect())
}

/// A text as ClickHouse reads it, in a query whose `?` stand for what is bound.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "\\'");
    format!("'{}'", escaped.replace('?', "??"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn days_are_counted_again_as_long_as_all_their_clicks_are_kept() {
        let now = at("2026-03-10T00:30:00Z");
        let first = |click_days| first_day(now, click_days).to_string();
        assert_eq!(first(1095), "2026-03-03");
        assert_eq!(first(8), "2026-03-03");
        assert_eq!(first(3), "2026-03-08");
        assert_eq!(first(1), "2026-03-10");
    }

    #[test]
    fn a_period_begins_with_the_first_whole_millisecond() {
        assert_eq!(millis(at("1970-01-01T00:00:01Z")), 1000);
        assert_eq!(millis(at("1970-01-01T00:00:01.000001Z")), 1001);
    }

    #[test]
    fn what_is_quoted_can_not_end_its_text() {
        assert_eq!(quoted(r"a'b\c?"), r"'a\'b\\c??'");
    }
}
