//! What the facts know of the shopper behind a conversion: his other clicks, by his visitor id, or else by his fingerprint.
//!
//! A conversion is settled at once by what it says itself, and looked into a little later, when the clicks before it have
//! been stored; again and again while the click that it names is missing, for an hour. So an order that
//! arrives before its click, or while ClickHouse is away, ends as it would have.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::{Client, Row};
use serde::Deserialize;
use sqlx::PgPool;
use tributary_shared::click_token;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use uuid::Uuid;

use super::around::{Around, Asked, SOURCE, around};
use super::attribute::{CLOCK_SKEW, ClickFacts, Evidence, Touchpoint};
use super::link_of;
use super::load::{self, Suspect};
use crate::clicks::{stored_fingerprint, stored_visitor};
use crate::reports::Report;

/// When it is looked, after the earliest report was accepted.
const LOOKS: [TimeDelta; 4] = [
    TimeDelta::seconds(5),
    TimeDelta::minutes(1),
    TimeDelta::minutes(10),
    TimeDelta::hours(1),
];
/// In place of the number of looks: there is nothing left to look for.
pub(super) const DONE: i16 = 100;
/// Clicks of one visitor that are looked at, the latest.
const VISITORS_CLICKS: u32 = 30;
/// Clicks with one fingerprint that are looked at, the latest.
const FINGERPRINTS_CLICKS: u32 = 10;
/// A fingerprint is worth nothing after this long (attribute.rs), so older clicks are not read.
const FINGERPRINT_WINDOW: TimeDelta = TimeDelta::days(1);

/// When to look next; none: it has been looked enough.
pub(super) fn next(
    looks: i16,
    converted_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let after = LOOKS.get(usize::try_from(looks).ok()?)?;
    Some((converted_at + *after).max(now))
}

/// The number of looks after one that found `of`.
pub(super) fn after(looks: i16, of: &FoundOne) -> i16 {
    let looks = looks.saturating_add(1);
    if of.complete || usize::try_from(looks).is_ok_and(|looks| looks >= LOOKS.len()) {
        return DONE;
    }
    looks
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error("ClickHouse: {0}")]
    ClickHouse(#[from] clickhouse::error::Error),
    #[error("PostgreSQL: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// What was found of several conversions.
#[derive(Debug, Default)]
pub(crate) struct Found(BTreeMap<Uuid, FoundOne>);

/// What was found of one.
#[derive(Debug, Default)]
pub(super) struct FoundOne {
    /// By visitor or fingerprint.
    pub(super) touchpoints: Vec<Touchpoint>,
    /// Of the clicks that the conversion names.
    pub(super) named: BTreeMap<String, ClickFacts>,
    /// Every click that it names is stored.
    pub(super) complete: bool,
}

impl Found {
    pub(super) fn of(&self, conversion: Uuid) -> Option<&FoundOne> {
        self.0.get(&conversion)
    }
}

/// A click as the facts have it.
#[derive(Debug, Clone, Row, Deserialize)]
struct Clicked {
    click_id: String,
    at_ms: i64,
    program_id: u64,
    affiliate_id: u64,
    link_id: u64,
    visitor_id: u64,
    fingerprint: u64,
    country: String,
    device: String,
    campaign: String,
    subs: Vec<String>,
    is_bot: u8,
    signals: u16,
    address: String,
    network: String,
    referrer_domain: String,
    /// 0: not known.
    source: u64,
    #[serde(skip)]
    blocked: Vec<String>,
    #[serde(skip)]
    around: Option<Around>,
}

impl Clicked {
    fn asked(&self, who: u64) -> Asked {
        Asked {
            link: self.link_id,
            at_ms: self.at_ms,
            who,
        }
    }

    fn facts(&self) -> ClickFacts {
        let mut subs = self.subs.iter().cloned();
        ClickFacts {
            country: self.country.clone(),
            device: self.device.clone(),
            campaign: self.campaign.clone(),
            subs: std::array::from_fn(|_| subs.next().unwrap_or_default()),
            is_bot: self.is_bot != 0,
            signals: self.signals,
            around: self.around,
            blocked: self.blocked.clone(),
        }
    }
}

/// What a [`Clicked`] holds.
fn columns() -> String {
    format!("{COLUMNS}, {SOURCE} AS source")
}

const COLUMNS: &str = "click_id, toUnixTimestamp64Milli(received_at) AS at_ms, program_id, affiliate_id, link_id, visitor_id, fingerprint,
    toString(country) AS country, toString(device) AS device, toString(utm_campaign) AS campaign, [sub1, sub2, sub3, sub4, sub5] AS subs,
    is_bot, signals, if(address = toIPv6('::'), '', replaceOne(toString(address), '::ffff:', '')) AS address, toString(network) AS network,
    toString(referrer_domain) AS referrer_domain";

/// Asks the facts about conversions of one tenant by their reports. `window`: how far back its programs look.
pub(super) async fn look(
    facts: &Client,
    postgres: &PgPool,
    tenant: TenantId,
    window: TimeDelta,
    reports: &BTreeMap<Uuid, Vec<Report>>,
) -> Result<Found, LookError> {
    let named: BTreeSet<&str> = (reports.values().flatten())
        .filter_map(|report| report.click_id.as_deref())
        .collect();
    let mut named = clicks_named(facts, tenant, &named).await?;
    let said = |named: &BTreeMap<String, Clicked>, report: &Report| {
        let click = report.click_id.as_deref().and_then(|id| named.get(id));
        let visitor = report.visitor_id.map(|id| stored_visitor(&id));
        let visitors = [click.map(|click| click.visitor_id), visitor];
        let fingerprint = report.fingerprint.map(|of| stored_fingerprint(&of));
        let is_known = |of: &u64| *of != 0;
        let visitors: Vec<u64> = visitors.into_iter().flatten().filter(is_known).collect();
        (visitors, fingerprint.filter(is_known))
    };
    let all = || {
        reports
            .values()
            .flatten()
            .map(|report| said(&named, report))
    };
    let visitors: BTreeSet<u64> = all().flat_map(|(visitors, _)| visitors).collect();
    let fingerprints: BTreeSet<u64> = all().filter_map(|(_, fingerprint)| fingerprint).collect();
    let times = || reports.values().flatten().map(|report| report.reported_at);
    let (Some(first), Some(last)) = (times().min(), times().max()) else {
        return Ok(Found::default());
    };
    let mut by_visitor = others(
        facts,
        tenant,
        "visitor_id",
        &visitors,
        VISITORS_CLICKS,
        first - window,
        last,
    )
    .await?;
    let mut by_fingerprint = others(
        facts,
        tenant,
        "fingerprint",
        &fingerprints,
        FINGERPRINTS_CLICKS,
        first - FINGERPRINT_WINDOW,
        last,
    )
    .await?;

    let clicks = named.values_mut().chain(&mut by_visitor);
    let mut clicks: Vec<&mut Clicked> = clicks.chain(&mut by_fingerprint).collect();
    note_blocked(postgres, tenant, &mut clicks).await?;
    note_around(facts, tenant, &mut clicks).await?;

    let mut found = Found::default();
    for (id, reports) in reports {
        let mut one = FoundOne {
            complete: true,
            ..FoundOne::default()
        };
        for report in reports {
            // A click of somebody else's, or of nobody's, is not waited for: the first settlement has told them apart.
            let click = report.click_id.as_deref();
            let missing = click.is_some_and(|id| link_of(id).is_some() && !named.contains_key(id));
            one.complete &= !missing;
            let facts = click.and_then(|id| Some((id.to_owned(), named.get(id)?.facts())));
            one.named.extend(facts);
            let (visitors, fingerprint) = said(&named, report);
            let of_visitor = by_visitor
                .iter()
                .filter(|c| visitors.contains(&c.visitor_id));
            one.touchpoints
                .extend(of_visitor.map(|c| touchpoint(c, Evidence::Visitor)));
            let alike = by_fingerprint
                .iter()
                .filter(|c| Some(c.fingerprint) == fingerprint);
            one.touchpoints
                .extend(alike.map(|c| touchpoint(c, Evidence::Fingerprint)));
        }
        found.0.insert(*id, one);
    }
    Ok(found)
}

/// Notes of each click what of it the tenant blocked.
async fn note_blocked(
    postgres: &PgPool,
    tenant: TenantId,
    clicks: &mut [&mut Clicked],
) -> Result<(), sqlx::Error> {
    let of = |place: usize, click: &Clicked| {
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        [
            (place, "address", click.address.clone()),
            (place, "network", click.network.clone()),
            (place, "referrer", click.referrer_domain.clone()),
        ]
    };
    let asked = clicks
        .iter()
        .enumerate()
        .flat_map(|(place, click)| of(place, click));
    let asked: Vec<_> = asked
        .filter(|(.., value)| !value.is_empty())
        .map(|(place, kind, value)| Suspect {
            place,
            tenant,
            kind,
            value,
        })
        .collect();
    for (place, text) in load::blocked(&mut *postgres.acquire().await?, &asked).await? {
        let click = usize::try_from(place)
            .ok()
            .and_then(|place| clicks.get_mut(place));
        if let Some(click) = click {
            click.blocked.push(text);
        }
    }
    Ok(())
}

/// Notes of each click what other clicks lie around it.
async fn note_around(
    facts: &Client,
    tenant: TenantId,
    clicks: &mut [&mut Clicked],
) -> Result<(), clickhouse::error::Error> {
    let visitors = clicks.iter().map(|click| click.asked(click.visitor_id));
    let sources = clicks.iter().map(|click| click.asked(click.source));
    let counted = around(facts, tenant, &visitors.collect(), &sources.collect()).await?;
    for click in clicks {
        let (visitor, source) = (click.asked(click.visitor_id), click.asked(click.source));
        click.around = Some(counted(visitor, source));
    }
    Ok(())
}

async fn clicks_named(
    facts: &Client,
    tenant: TenantId,
    ids: &BTreeSet<&str>,
) -> Result<BTreeMap<String, Clicked>, clickhouse::error::Error> {
    let parts = ids.iter().filter_map(|id| click_token::parts(id));
    // By what the table is ordered by: a few granules are read.
    let (times, links): (Vec<u64>, Vec<u64>) = parts.map(|part| (part.at_ms, part.link)).unzip();
    if times.is_empty() {
        return Ok(BTreeMap::new());
    }
    let sql = format!(
        "SELECT {} FROM clicks WHERE tenant_id = ? AND link_id IN ?
         AND received_at IN (SELECT fromUnixTimestamp64Milli(arrayJoin(?), 'UTC')) AND click_id IN ?",
        columns()
    );
    let ids: Vec<&str> = ids.iter().copied().collect();
    let rows: Vec<Clicked> = (facts.query(&sql).bind(tenant.0))
        .bind(&links)
        .bind(&times)
        .bind(&ids)
        .fetch_all()
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.click_id.clone(), row))
        .collect())
}

async fn others(
    facts: &Client,
    tenant: TenantId,
    column: &str,
    values: &BTreeSet<u64>,
    limit: u32,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Vec<Clicked>, clickhouse::error::Error> {
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {} FROM clicks WHERE tenant_id = ? AND {column} IN ?
         AND received_at BETWEEN fromUnixTimestamp64Milli(?, 'UTC') AND fromUnixTimestamp64Milli(?, 'UTC')
         AND is_bot = 0 AND outcome = 0 AND link_id != 0
         ORDER BY received_at DESC LIMIT {limit} BY {column}",
        columns()
    );
    let values: Vec<u64> = values.iter().copied().collect();
    (facts.query(&sql).bind(tenant.0).bind(&values))
        .bind(from.timestamp_millis())
        .bind((to + CLOCK_SKEW).timestamp_millis())
        .fetch_all()
        .await
}

fn touchpoint(click: &Clicked, evidence: Evidence) -> Touchpoint {
    let id = |id: u64| i64::try_from(id).unwrap_or(0);
    Touchpoint {
        click_id: Some(click.click_id.clone()),
        at: DateTime::from_timestamp_millis(click.at_ms).unwrap_or_default(),
        program_id: ProgramId(id(click.program_id)),
        affiliate_id: AffiliateId(id(click.affiliate_id)),
        link_id: Some(LinkId(id(click.link_id))),
        evidence,
        facts: Some(click.facts()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_until_every_click_is_there_or_an_hour_is_over() {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let missing = FoundOne::default();
        let complete = FoundOne {
            complete: true,
            ..FoundOne::default()
        };
        assert_eq!(next(0, at, at), Some(at + TimeDelta::seconds(5)));
        assert_eq!(after(0, &missing), 1);
        assert_eq!(next(3, at, at), Some(at + TimeDelta::hours(1)));
        assert_eq!(after(3, &missing), DONE);
        assert_eq!(after(0, &complete), DONE);
        assert_eq!(next(DONE, at, at), None);
        // Long after it happened: at once.
        let now = at + TimeDelta::days(1);
        assert_eq!(next(0, at, now), Some(now));
    }
}
