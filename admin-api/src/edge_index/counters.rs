//! The live counters of click caps. Edges keep them in Redis; when Redis was lost, a rebuild sets
//! them again to what ClickHouse counts: clicks of people that were sent to the destination since the
//! link got its cap. A counter that is there is never touched.
//!
//! Clicks that are on their way to ClickHouse are missing from what is restored: a cap lets as many
//! more through. Where ClickHouse can't be asked, caps count anew, and the log says so; links are
//! served all the same.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveTime, Utc};
use clickhouse::{Client, Row};
use serde::Deserialize;
use tributary_shared::config::ClickHouseConfig;
use tributary_shared::engines;
use tributary_shared::ids::{LinkId, TenantId};
use tributary_shared::links::EdgeKeys;

use super::{BATCH, EdgeError, Writer};

/// Capped links that are looked at, and counted, at once.
const COUNTER_BATCH: i64 = 2000;
/// How long ClickHouse may count one batch, and how long we wait for it.
const MAX_EXECUTION_SECONDS: &str = "10";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// How long a day's counter is kept, in seconds: two days.
const DAY_COUNTER_SECONDS: &str = "172800";

/// Compares the claim, then sets the counters that are missing. Arguments after the claim: for each
/// key its count and its time to live in seconds, empty for ever. Answers how many were set, or -1
/// when the claim is another's.
const RESTORE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local restored = 0
for i = 2, #KEYS do
  local count, ttl = ARGV[2 * i - 2], ARGV[2 * i - 1]
  local done
  if ttl == '' then
    done = redis.call('SET', KEYS[i], count, 'NX')
  else
    done = redis.call('SET', KEYS[i], count, 'EX', ttl, 'NX')
  end
  if done then restored = restored + 1 end
end
return restored";

/// Each link has a moment of its own from which on it counts.
const COUNT: &str = "
    SELECT link_id, count() AS clicks FROM clicks
    WHERE tenant_id IN ? AND link_id IN ? AND outcome = 0 AND is_bot = 0
      AND received_at >= fromUnixTimestamp64Micro(?)
      AND toUnixTimestamp64Micro(received_at)
          >= transform(link_id, CAST(?, 'Array(UInt64)'), CAST(?, 'Array(Int64)'), toInt64(0))
    GROUP BY link_id";

/// A client that only reads.
pub(super) fn facts(config: &ClickHouseConfig) -> Client {
    engines::clickhouse::client(config)
        .with_setting("readonly", "2") // 2 lets the limit below through
        .with_setting("max_execution_time", MAX_EXECUTION_SECONDS)
}

/// A link with a cap.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct Cap {
    id: LinkId,
    tenant_id: TenantId,
    daily: bool,
    since: DateTime<Utc>,
}

impl Cap {
    fn key(&self, keys: &EdgeKeys, now: DateTime<Utc>) -> String {
        if self.daily {
            keys.cap(self.id, &now.format("%Y%m%d").to_string())
        } else {
            keys.cap(self.id, "total")
        }
    }

    /// From when on its clicks count, at `now`.
    fn counts_from(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        if self.daily {
            self.since
                .max(now.with_time(NaiveTime::MIN).single().unwrap_or(now))
        } else {
            self.since
        }
    }
}

#[derive(Debug, Row, Deserialize)]
struct Counted {
    link_id: u64,
    clicks: u64,
}

/// Why clicks could not be counted.
#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error("{0}")]
    Refused(#[from] clickhouse::error::Error),
    #[error("no answer within {} seconds", ANSWER_TIMEOUT.as_secs())]
    Late,
}

async fn count(
    facts: &Client,
    caps: &[Cap],
    now: DateTime<Utc>,
) -> Result<HashMap<u64, u64>, CountError> {
    let links: Vec<u64> = caps.iter().map(|cap| cap.id.to_wire()).collect();
    let mut tenants: Vec<u64> = caps.iter().map(|cap| cap.tenant_id.to_wire()).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let from: Vec<i64> = caps
        .iter()
        .map(|cap| cap.counts_from(now).timestamp_micros())
        .collect();
    let query = facts
        .query(COUNT)
        .bind(&tenants)
        .bind(&links)
        .bind(from.iter().min())
        .bind(&links)
        .bind(&from);
    let counted = tokio::time::timeout(ANSWER_TIMEOUT, query.fetch_all::<Counted>())
        .await
        .map_err(|_| CountError::Late)??;
    Ok(counted
        .into_iter()
        .map(|row| (row.link_id, row.clicks))
        .collect())
}

impl Writer<'_> {
    /// Sets the counters that are missing. Returns how many that were; none when ClickHouse could
    /// not be asked.
    pub(super) async fn restore_counters(&mut self) -> Result<Option<u64>, EdgeError> {
        let now = self.clock.now();
        let (mut restored, mut after) = (0, 0);
        loop {
            let caps: Vec<Cap> = sqlx::query_as(
                "SELECT id, tenant_id, click_cap_period = 'day' AS daily, COALESCE(capped_since, created_at) AS since
                 FROM links WHERE click_cap IS NOT NULL AND active AND id > $1 ORDER BY id LIMIT $2",
            )
            .bind(after)
            .bind(COUNTER_BATCH)
            .fetch_all(&mut *self.postgres)
            .await?;
            let Some(last) = caps.last() else {
                return Ok(Some(restored));
            };
            after = last.id.0;
            let lost = self.without_counter(&caps, now).await?;
            if lost.is_empty() {
                continue;
            }
            match count(self.facts, &lost, now).await {
                Ok(counts) => restored += self.set_missing(&lost, &counts, now).await?,
                Err(error) => {
                    tracing::error!(%error, "lost counters of click caps could not be restored from ClickHouse: caps count anew");
                    return Ok(None);
                }
            }
        }
    }

    async fn without_counter(
        &mut self,
        caps: &[Cap],
        now: DateTime<Utc>,
    ) -> Result<Vec<Cap>, EdgeError> {
        let mut question = redis::cmd("MGET");
        for cap in caps {
            question.arg(cap.key(self.keys, now));
        }
        let counters: Vec<Option<Vec<u8>>> = question.query_async(&mut self.redis).await?;
        let lost = caps
            .iter()
            .zip(counters)
            .filter(|(_, value)| value.is_none());
        Ok(lost.map(|(cap, _)| *cap).collect())
    }

    async fn set_missing(
        &mut self,
        caps: &[Cap],
        counts: &HashMap<u64, u64>,
        now: DateTime<Utc>,
    ) -> Result<u64, EdgeError> {
        let found: Vec<(&Cap, u64)> = caps
            .iter()
            .filter_map(|cap| Some((cap, *counts.get(&cap.id.to_wire())?)))
            .collect();
        let mut restored = 0;
        for part in found.chunks(usize::try_from(BATCH).unwrap_or(1)) {
            let mut script = redis::cmd("EVAL");
            script
                .arg(RESTORE)
                .arg(part.len() + 1)
                .arg(self.keys.writer());
            for (cap, _) in part {
                script.arg(cap.key(self.keys, now));
            }
            script.arg(&self.claim);
            for (cap, clicks) in part {
                let ttl = if cap.daily { DAY_COUNTER_SECONDS } else { "" };
                script.arg(*clicks).arg(ttl);
            }
            let set: i64 = script.query_async(&mut self.redis).await?;
            restored += u64::try_from(set).map_err(|_| EdgeError::Superseded)?;
        }
        Ok(restored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_days_counter_counts_that_day_and_not_before_the_cap() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let keys = EdgeKeys::new("x:");
        let cap = |daily, since| Cap {
            id: LinkId(7),
            tenant_id: TenantId(1),
            daily,
            since: at(since),
        };
        let now = at("2026-03-05T13:00:00Z");
        let old = cap(true, "2026-01-01T08:00:00Z");
        assert_eq!(old.key(&keys, now), "x:cap:7:20260305");
        assert_eq!(old.counts_from(now), at("2026-03-05T00:00:00Z"));
        let new = cap(true, "2026-03-05T08:00:00Z");
        assert_eq!(new.counts_from(now), at("2026-03-05T08:00:00Z"));
        let total = cap(false, "2026-01-01T08:00:00Z");
        assert_eq!(total.key(&keys, now), "x:cap:7:total");
        assert_eq!(total.counts_from(now), at("2026-01-01T08:00:00Z"));
    }
}
