//! Numbers of clicks that are paid for: how they are kept, each as a conversion of event `click`.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clickhouse::Row;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tributary_shared::commission::{CLICK, ClickPeriod};
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId, conversion_id};
use uuid::Uuid;

use super::attribute::{ClickFacts, Evidence, Touchpoint};
use super::look::DONE;

/// A number of clicks, as it is settled.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct ClickCount {
    pub(super) conversion_id: Uuid,
    pub(super) program_id: ProgramId,
    pub(super) affiliate_id: AffiliateId,
    pub(super) link_id: LinkId,
    pub(super) from_at: DateTime<Utc>,
    pub(super) country: String,
    pub(super) device: String,
    pub(super) campaign: String,
    pub(super) subs: Vec<String>,
    clicks: i64,
}

impl ClickCount {
    pub(super) fn clicks(&self) -> u64 {
        self.clicks.unsigned_abs()
    }

    /// The link whose clicks they are, with what rules look at of them.
    pub(super) fn touchpoint(&self) -> Touchpoint {
        let mut subs = self.subs.iter().cloned();
        Touchpoint {
            click_id: None,
            at: self.from_at,
            program_id: self.program_id,
            affiliate_id: self.affiliate_id,
            link_id: Some(self.link_id),
            evidence: Evidence::ClickToken,
            facts: Some(ClickFacts {
                country: self.country.clone(),
                device: self.device.clone(),
                campaign: self.campaign.clone(),
                subs: std::array::from_fn(|_| subs.next().unwrap_or_default()),
                is_bot: false,
                signals: 0,
                around: None,
                blocked: Vec::new(),
            }),
        }
    }
}

/// A count as ClickHouse says it.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) affiliate_id: u64,
    pub(super) link_id: u64,
    /// In the order of [`tributary_shared::commission::CLICK_FACTS`]; empty: the rules do not look at it.
    pub(super) facts: Vec<String>,
    pub(super) clicks: u64,
}

/// What was counted of a day.
pub(super) struct DayCounts {
    pub(super) day: NaiveDate,
    /// Clicks of any kind that the facts held.
    pub(super) seen: i64,
    /// Clicks before this time were counted.
    pub(super) until: DateTime<Utc>,
    pub(super) counts: Vec<(ClickPeriod, Vec<Counted>)>,
}

impl DayCounts {
    /// Writes them, and has settled what grew or shrank.
    pub(super) async fn write(
        &self,
        turn: &mut PgConnection,
        tenant: TenantId,
        program: ProgramId,
        now: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        for (period, counted) in &self.counts {
            write(turn, (tenant, program), period, counted, now).await?;
        }
        sqlx::query(
            "INSERT INTO click_days (program_id, day, seen, counted_until) VALUES ($1, $2, $3, $4)
             ON CONFLICT (program_id, day) DO UPDATE SET seen = EXCLUDED.seen, counted_until = EXCLUDED.counted_until",
        )
        .bind(program)
        .bind(self.day)
        .bind(self.seen)
        .bind(self.until)
        .execute(turn)
        .await?;
        Ok(())
    }
}

/// Writes the counts of a period, and has settled what grew or shrank.
async fn write(
    connection: &mut PgConnection,
    (tenant, program): (TenantId, ProgramId),
    period: &ClickPeriod,
    counted: &[Counted],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let known = links(connection, tenant, counted).await?;
    let order_id = |of: &Counted| order_id(program, period.from, of);
    let id = |of: &Counted| conversion_id(tenant, &order_id(of), CLICK);
    let is_known = |of: &&Counted| known.contains(&(signed(of.affiliate_id), signed(of.link_id)));
    let mut rows: Vec<(Uuid, &Counted)> = (counted.iter().filter(is_known))
        .map(|of| (id(of), of))
        .collect();
    // In the order of ids, so that nobody waits for who waits for him.
    rows.sort_by_key(|(id, _)| *id);
    let ids: Vec<Uuid> = rows.iter().map(|(id, _)| *id).collect();
    let orders: Vec<String> = rows.iter().map(|(_, of)| order_id(of)).collect();
    let fact = |name: usize| -> Vec<String> {
        let facts = rows.iter().map(|(_, of)| of.facts.get(name));
        facts
            .map(|fact| fact.cloned().unwrap_or_default())
            .collect()
    };
    sqlx::query(
        "INSERT INTO conversions (id, tenant_id, order_id, event, amount, currency, accepted_at, converted_at, attribution, looks, settle_at, version)
         SELECT id, $2, order_id, 'click', 0, 'XXX', $4, $4, 'no_click', $5, $6, 0 FROM unnest($1::uuid[], $3::text[]) AS w (id, order_id)
         ON CONFLICT (tenant_id, order_id, event) DO NOTHING",
    )
    .bind(&ids)
    .bind(tenant)
    .bind(&orders)
    .bind(period.from)
    .bind(DONE)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    let mut changed: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO click_counts (conversion_id, tenant_id, program_id, affiliate_id, link_id, from_at, country, device, campaign, subs, clicks, counted_at)
         SELECT id, $2, $3, affiliate_id, link_id, $4, country, device, campaign, ARRAY[sub1, sub2, sub3, sub4, sub5], clicks, $5
         FROM unnest($1::uuid[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::text[],
                     $13::text[], $14::text[], $15::text[], $16::text[])
              AS w (id, affiliate_id, link_id, clicks, country, device, campaign, sub1, sub2, sub3, sub4, sub5)
         ON CONFLICT (conversion_id) DO UPDATE SET clicks = EXCLUDED.clicks, counted_at = EXCLUDED.counted_at
         WHERE click_counts.clicks <> EXCLUDED.clicks
         RETURNING conversion_id",
    )
    .bind(&ids)
    .bind(tenant)
    .bind(program)
    .bind(period.from)
    .bind(now)
    .bind(rows.iter().map(|(_, of)| signed(of.affiliate_id)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, of)| signed(of.link_id)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, of)| signed(of.clicks)).collect::<Vec<_>>())
    .bind(fact(0))
    .bind(fact(1))
    .bind(fact(2))
    .bind(fact(3))
    .bind(fact(4))
    .bind(fact(5))
    .bind(fact(6))
    .bind(fact(7))
    .fetch_all(&mut *connection)
    .await?;
    // Clicks that were counted and are left out now, by what the program or the tenant wants since.
    let gone: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE click_counts SET clicks = 0, counted_at = $4
         WHERE program_id = $1 AND from_at = $2 AND clicks > 0 AND conversion_id <> ALL ($3) RETURNING conversion_id",
    )
    .bind(program)
    .bind(period.from)
    .bind(&ids)
    .bind(now)
    .fetch_all(&mut *connection)
    .await?;
    changed.extend(gone);
    sqlx::query("UPDATE conversions SET settle_at = $2, looks = $3 WHERE id = ANY($1)")
        .bind(&changed)
        .bind(now)
        .bind(DONE)
        .execute(connection)
        .await?;
    Ok(())
}

/// Which of them are the tenant's: affiliate and link. A count of anything else could not be kept.
async fn links(
    connection: &mut PgConnection,
    tenant: TenantId,
    counted: &[Counted],
) -> Result<BTreeSet<(i64, i64)>, sqlx::Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT a.id, l.id FROM unnest($2::bigint[], $3::bigint[]) AS w (affiliate_id, link_id)
         JOIN affiliates a ON a.tenant_id = $1 AND a.id = w.affiliate_id JOIN links l ON l.tenant_id = $1 AND l.id = w.link_id",
    )
    .bind(tenant)
    .bind(counted.iter().map(|of| signed(of.affiliate_id)).collect::<Vec<_>>())
    .bind(counted.iter().map(|of| signed(of.link_id)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

fn signed(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

/// What stands in place of a merchant's order id: whose clicks they are and the day, the time where a period begins within
/// a day, and what else tells its counts apart.
fn order_id(program: ProgramId, from: DateTime<Utc>, of: &Counted) -> String {
    let time = match from.time() {
        NaiveTime::MIN => from.format("%Y-%m-%d"),
        _ => from.format("%Y-%m-%dT%H:%M:%S%.6fZ"),
    };
    let whose = format!("clicks:{program}:{}:{}:{time}", of.affiliate_id, of.link_id);
    if of.facts.iter().all(String::is_empty) {
        return whose;
    }
    let facts = format!("{:?}", of.facts);
    let facts = Uuid::new_v5(&Uuid::nil(), facts.as_bytes());
    format!("{whose}:{}", facts.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn each_count_has_an_order_id_of_its_own() {
        let of = |link_id, facts: [&str; 8]| Counted {
            affiliate_id: 1,
            link_id,
            facts: facts.map(str::to_owned).to_vec(),
            clicks: 5,
        };
        let plain = of(7, [""; 8]);
        let day = at("2026-11-30T00:00:00Z");
        let order_id = |at, of: &Counted| order_id(ProgramId(3), at, of);
        assert_eq!(order_id(day, &plain), "clicks:3:1:7:2026-11-30");
        let later = at("2026-11-30T15:00:00.5Z");
        assert_eq!(
            order_id(later, &plain),
            "clicks:3:1:7:2026-11-30T15:00:00.500000Z"
        );
        let ids = [
            plain.clone(),
            of(8, [""; 8]),
            of(7, ["DE", "", "", "", "", "", "", ""]),
            of(7, ["", "DE", "", "", "", "", "", ""]),
            of(7, ["D", "E", "", "", "", "", "", ""]),
        ]
        .map(|of| order_id(day, &of));
        let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
        assert!(
            ids.iter()
                .all(|id| tributary_shared::orders::is_order_id(id))
        );
    }
}
