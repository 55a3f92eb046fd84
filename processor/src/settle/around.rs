//! The clicks around a click, counted from the facts: whether the same visitor clicked the same link moments before, and how
//! many clicks its source made on the link within a minute.
//!
//! Each processor marks clicks by what it remembers as well (enrich/windows.rs), for analytics. Money does not rest on
//! that: what is counted here is the same whichever processors saw the clicks, and whether they were restarted meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use clickhouse::{Client, Row};
use serde::{Deserialize, Serialize};
use tributary_shared::ids::TenantId;

/// How far it is looked back from a click.
pub(crate) const WINDOW_MS: i64 = 60_000;
/// Clicks that are asked about at once: the question stays far below what ClickHouse reads as one (256 KiB).
const AT_ONCE: usize = 500;
/// A visitor, as [`Asked::who`].
const VISITOR: &str = "visitor_id";
/// A source, as [`Asked::who`]: address and browser, or the fingerprint where the tenant keeps no addresses. 0: not known.
pub(super) const SOURCE: &str = "if(clicks.address = toIPv6('::'), clicks.fingerprint, cityHash64(clicks.address, toString(clicks.user_agent)))";

/// What was counted. It is kept with the click's facts, so a later settlement judges by the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Around {
    /// Milliseconds since the visitor's last click on the link; none: there was none within a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since_ms: Option<u32>,
    /// Clicks of its source on the link within the minute up to it, itself among them; 0: its source is not known.
    pub(crate) in_minute: u32,
}

/// A click that is asked about: whose, on which link, when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    pub(super) link: u64,
    pub(super) at_ms: i64,
    pub(super) who: u64,
}

#[derive(Debug, Row, Deserialize)]
struct Counted {
    link: u64,
    at_ms: i64,
    who: u64,
    clicks: u64,
    /// 0: none.
    since_ms: i64,
}

/// What lies around these clicks of a tenant: milliseconds since each visitor's last one, clicks of each source.
pub(super) async fn around(
    facts: &Client,
    tenant: TenantId,
    visitors: &BTreeSet<Asked>,
    sources: &BTreeSet<Asked>,
) -> Result<impl Fn(Asked, Asked) -> Around + use<>, clickhouse::error::Error> {
    let since = count(facts, tenant, VISITOR, visitors).await?;
    let clicks = count(facts, tenant, SOURCE, sources).await?;
    Ok(move |visitor: Asked, source: Asked| Around {
        since_ms: since.get(&visitor).and_then(|(_, since)| *since),
        in_minute: clicks.get(&source).map_or(0, |(clicks, _)| *clicks),
    })
}

/// Clicks of the same within the minute up to each of these, itself among them, and milliseconds since the last before it.
async fn count(
    facts: &Client,
    tenant: TenantId,
    who: &str,
    asked: &BTreeSet<Asked>,
) -> Result<BTreeMap<Asked, (u32, Option<u32>)>, clickhouse::error::Error> {
    let known: Vec<Asked> = asked.iter().copied().filter(|of| of.who != 0).collect();
    let mut found = BTreeMap::new();
    for asked in known.chunks(AT_ONCE) {
        // By what the table is ordered by: of each link the hours that the minute lies in. Then only clicks of the same minute
        // or the next are held against each other, so a flood costs as much as it has clicks.
        let sql = format!(
            "WITH (SELECT groupArray((toUInt64(a.1), toInt64(a.2), toUInt64(a.3))) FROM (SELECT arrayJoin(arrayZip(?, ?, ?)) AS a)) AS asked
             SELECT w.link AS link, w.at_ms AS at_ms, w.who AS who, count() AS clicks, minIf(w.at_ms - c.ms, c.ms < w.at_ms) AS since_ms
             FROM (SELECT link_id, toUnixTimestamp64Milli(received_at) AS ms, intDiv(ms, {WINDOW_MS}) AS minute, {who} AS who
                   FROM clicks WHERE tenant_id = ? AND (toStartOfHour(received_at), link_id) IN (
                       SELECT toStartOfHour(fromUnixTimestamp64Milli(a.2 - before, 'UTC')), a.1
                       FROM (SELECT arrayJoin(asked) AS a) ARRAY JOIN [0, {WINDOW_MS}] AS before)
                   AND {who} IN ?) AS c
             JOIN (SELECT a.1 AS link, a.2 AS at_ms, a.3 AS who, intDiv(at_ms, {WINDOW_MS}) - before AS minute
                   FROM (SELECT arrayJoin(asked) AS a) ARRAY JOIN [0, 1] AS before) AS w
             ON c.link_id = w.link AND c.who = w.who AND c.minute = w.minute
             WHERE c.ms <= w.at_ms AND c.ms > w.at_ms - {WINDOW_MS}
             GROUP BY link, at_ms, who"
        );
        let rows: Vec<Counted> = (facts.query(&sql))
            .bind(asked.iter().map(|of| of.link).collect::<Vec<_>>())
            .bind(asked.iter().map(|of| of.at_ms).collect::<Vec<_>>())
            .bind(asked.iter().map(|of| of.who).collect::<Vec<_>>())
            .bind(tenant.0)
            .bind(asked.iter().map(|of| of.who).collect::<Vec<_>>())
            .fetch_all()
            .await?;
        found.extend(rows.into_iter().map(|row| {
            let of = Asked {
                link: row.link,
                at_ms: row.at_ms,
                who: row.who,
            };
            let clicks = u32::try_from(row.clicks).unwrap_or(u32::MAX);
            let since = u32::try_from(row.since_ms).ok().filter(|since| *since > 0);
            (of, (clicks, since))
        }));
    }
    Ok(found)
}
