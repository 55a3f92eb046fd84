//! What has to be known to settle conversions, read from PostgreSQL with one question for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use rust_decimal::Decimal;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use tributary_shared::commission::{
    self, CLICK, Number, PayIn, Rule, RuleSet, UplineOf, Uplines, Version,
};
use tributary_shared::customers::CustomerHash;
use tributary_shared::fraud::Settings;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use uuid::Uuid;

use super::attribute::{Model, Step, Terms};
use super::click_counts::ClickCount;
use super::judge::{FEW_ORDERS, Orders, Rate};
use super::position::Position;
use crate::reports::{self, Report};

/// A conversion as it was settled last.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Before {
    pub(super) id: Uuid,
    pub(super) tenant_id: TenantId,
    pub(super) order_id: String,
    pub(super) event: String,
    pub(super) accepted_at: DateTime<Utc>,
    pub(super) converted_at: DateTime<Utc>,
    pub(super) status: String,
    pub(super) amount: Decimal,
    pub(super) refunded: Decimal,
    pub(super) currency: String,
    pub(super) attribution: String,
    pub(super) path: Json<Value>,
    pub(super) click_id: Option<String>,
    pub(super) link_id: Option<LinkId>,
    pub(super) affiliate_id: Option<AffiliateId>,
    pub(super) program_id: Option<ProgramId>,
    pub(super) customer_id: Option<CustomerHash>,
    pub(super) new_customer: Option<bool>,
    pub(super) model: Option<String>,
    pub(super) rules_at: Option<DateTime<Utc>>,
    pub(super) looks: i16,
    /// 0: it has never been settled.
    pub(super) version: i64,
}

impl Before {
    pub(super) fn steps(&self) -> Vec<Step> {
        steps(&self.path.0)
    }
}

/// A commission as it stands.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Commission {
    pub(super) id: Uuid,
    pub(super) conversion_id: Uuid,
    pub(super) affiliate_id: AffiliateId,
    pub(super) program_id: ProgramId,
    pub(super) part: String,
    pub(super) currency: String,
    pub(super) gross: Decimal,
    pub(super) rule_id: i64,
    pub(super) rule_version: i32,
    pub(super) state: String,
    pub(super) hold_until: DateTime<Utc>,
    pub(super) pending: Decimal,
    pub(super) available: Decimal,
    pub(super) in_payout: Decimal,
    pub(super) paid: Decimal,
    pub(super) clawback: Decimal,
    pub(super) postings: i32,
    pub(super) version: i64,
}

impl Commission {
    pub(super) fn position(&self) -> Position {
        Position {
            pending: self.pending,
            available: self.available,
            in_payout: self.in_payout,
            paid: self.paid,
            clawback: self.clawback,
        }
    }
}

/// The latest decision of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Approve,
    Reject,
    Reinstate,
}

/// Whose a link is.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(super) struct Link {
    pub(super) tenant_id: TenantId,
    pub(super) program_id: ProgramId,
    pub(super) affiliate_id: AffiliateId,
}

/// Whose a coupon is.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Coupon {
    tenant_id: TenantId,
    /// In lower case.
    code: String,
    pub(super) program_id: ProgramId,
    pub(super) affiliate_id: AffiliateId,
    /// Orders from then on are nobody's by it.
    pub(super) ended_at: Option<DateTime<Utc>>,
}

/// What a program says of money.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) terms: Terms,
    pub(super) hold_seconds: i64,
    /// None: its currency is none of today's; nothing can be priced then.
    pub(super) pays: Option<commission::Program>,
    pub(super) fraud: Settings,
    pub(super) rules: Arc<RuleSet>,
}

/// A version of a rule.
#[derive(Debug, Clone, sqlx::FromRow)]
struct RuleRow {
    id: i64,
    program_id: ProgramId,
    name: String,
    version: i32,
    document: Json<Value>,
    active: bool,
    created_at: DateTime<Utc>,
}

/// Rules of programs as they were read last. Versions never change and never go, so their number and the highest
/// id say whether there is a newer one.
pub(super) type Rules = Cache<ProgramId, ((i64, i64), Arc<RuleSet>)>;

/// Most affiliates above one who get something: shared/migrations/postgres has the same.
const MAX_LEVELS: usize = 10;
/// Programs whose rules are kept in memory.
pub(super) const MAX_PROGRAMS: usize = 1000;

/// What rules and uplines ask of an affiliate, from some time on.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Affiliate {
    affiliate_id: AffiliateId,
    valid_from: DateTime<Utc>,
    pub(super) parent_id: Option<AffiliateId>,
    pub(super) email: Option<String>,
    pub(super) tier: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) tags: Vec<String>,
    pub(super) certifications: Vec<String>,
}

/// The order that a renewal goes back to, as it was settled last.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) converted_at: DateTime<Utc>,
    pub(super) model: Option<String>,
    pub(super) steps: Vec<Step>,
}

/// A renewal whose origin is looked for.
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) id: Uuid,
    pub(super) tenant: TenantId,
    /// A name of the order that it renews.
    pub(super) renews: Option<String>,
    pub(super) customer: Option<CustomerHash>,
    pub(super) at: DateTime<Utc>,
}

/// All of it, for some conversions.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) conversions: Vec<Before>,
    pub(super) reports: BTreeMap<Uuid, Vec<Report>>,
    /// Of conversions that are numbers of clicks.
    pub(super) clicks: BTreeMap<Uuid, ClickCount>,
    pub(super) commissions: BTreeMap<Uuid, Vec<Commission>>,
    pub(super) decisions: BTreeMap<Uuid, Decision>,
    pub(super) links: BTreeMap<LinkId, Link>,
    pub(super) coupons: BTreeMap<(TenantId, String), Coupon>,
    pub(super) programs: BTreeMap<ProgramId, Program>,
    /// The versions of each, in the order of time.
    affiliates: BTreeMap<AffiliateId, Vec<Affiliate>>,
    pub(super) erased: BTreeSet<(TenantId, CustomerHash)>,
    /// Of conversions that renew an order: that order.
    pub(super) origins: BTreeMap<Uuid, Origin>,
}

impl Known {
    /// The affiliate as it was at `at`; as it was at first where it is younger.
    pub(super) fn affiliate(&self, id: AffiliateId, at: DateTime<Utc>) -> Option<&Affiliate> {
        let versions = self.affiliates.get(&id)?;
        let later = versions.partition_point(|version| version.valid_from <= at);
        versions.get(later.saturating_sub(1))
    }

    /// His parent, its parent and so on, as it was at `at`. Nobody stands in it twice, so a circle ends.
    pub(super) fn above(&self, id: AffiliateId, at: DateTime<Utc>) -> Vec<AffiliateId> {
        let parent = |id: AffiliateId| self.affiliate(id, at)?.parent_id;
        let mut line = vec![id];
        while let Some(next) = line.last().and_then(|last| parent(*last))
            && line.len() <= MAX_LEVELS
            && !line.contains(&next)
        {
            line.push(next);
        }
        line.split_off(1)
    }
}

/// Locks the conversions, those that nobody else settles just now, and reads what was reported and decided of them.
pub(super) async fn conversions(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Known, sqlx::Error> {
    let conversions: Vec<Before> = sqlx::query_as(
        "SELECT id, tenant_id, order_id, event, accepted_at, converted_at, status, amount, refunded, currency, attribution, path,
                click_id, link_id, affiliate_id, program_id, customer_id, new_customer, model, rules_at, looks, version
         FROM conversions WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    )
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut known = Known {
        conversions,
        ..Known::default()
    };
    for report in reports::of(connection, ids).await? {
        let of = known.reports.entry(report.conversion_id).or_default();
        of.push(report);
    }
    if known.conversions.iter().any(|of| of.event == CLICK) {
        let counts: Vec<ClickCount> = sqlx::query_as(
            "SELECT conversion_id, program_id, affiliate_id, link_id, from_at, country, device, campaign, subs, clicks
             FROM click_counts WHERE conversion_id = ANY($1)",
        )
        .bind(ids)
        .fetch_all(&mut *connection)
        .await?;
        let by_id = |count: ClickCount| (count.conversion_id, count);
        known.clicks = counts.into_iter().map(by_id).collect();
    }
    let commissions: Vec<Commission> = sqlx::query_as(
        "SELECT id, conversion_id, affiliate_id, program_id, part, currency, gross, rule_id, rule_version, state, hold_until, pending, available,
                in_payout, paid, clawback, postings, version
         FROM commissions WHERE conversion_id = ANY($1) ORDER BY id",
    )
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    for commission in commissions {
        let of = known.commissions.entry(commission.conversion_id);
        of.or_default().push(commission);
    }
    let decisions: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT DISTINCT ON (conversion_id) conversion_id, decision FROM conversion_decisions
         WHERE conversion_id = ANY($1) ORDER BY conversion_id, id DESC",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    for (id, decision) in decisions {
        let decision = match decision.as_str() {
            "approve" => Decision::Approve,
            "reject" => Decision::Reject,
            _ => Decision::Reinstate,
        };
        known.decisions.insert(id, decision);
    }
    Ok(known)
}

/// The orders that these go back to: the one that is named, else the customer's first one that was credited to somebody.
pub(super) async fn origins(
    connection: &mut PgConnection,
    known: &mut Known,
    of: &[Renewal],
) -> Result<(), sqlx::Error> {
    type Row = (Uuid, DateTime<Utc>, Option<String>, Json<Value>);
    if of.is_empty() {
        return Ok(());
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT w.id, o.converted_at, o.model, o.path
         FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::timestamptz[]) AS w (id, tenant_id, renews, customer_id, at),
         LATERAL (
             SELECT 1 AS choice, c.converted_at, c.model, c.path, c.id FROM order_names n
             JOIN conversions c ON c.id = n.conversion_id
             WHERE n.tenant_id = w.tenant_id AND n.name = w.renews AND c.event <> 'renewal'
             UNION ALL
             SELECT 2, c.converted_at, c.model, c.path, c.id FROM conversions c
             WHERE c.tenant_id = w.tenant_id AND c.customer_id = w.customer_id AND c.event <> 'renewal'
               AND c.affiliate_id IS NOT NULL AND c.converted_at <= w.at
             ORDER BY 1, 2, 5 LIMIT 1) AS o",
    )
    .bind(of.iter().map(|o| o.id).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.tenant).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.renews.clone()).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.customer.map(Vec::from)).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.at).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let origin =
        |(id, converted_at, model, path): (Uuid, DateTime<Utc>, Option<String>, Json<Value>)| {
            let origin = Origin {
                converted_at,
                model,
                steps: steps(&path.0),
            };
            (id, origin)
        };
    known.origins = rows.into_iter().map(origin).collect();
    Ok(())
}

/// A path that was kept, as far as it can be read: older ones had another form.
fn steps(path: &Value) -> Vec<Step> {
    serde_json::from_value(path.clone()).unwrap_or_default()
}

/// Whose links, coupons and customers these are.
pub(super) async fn evidence(
    connection: &mut PgConnection,
    known: &mut Known,
    links: &BTreeSet<LinkId>,
    coupons: &BTreeSet<(TenantId, String)>,
    customers: &BTreeSet<(TenantId, CustomerHash)>,
) -> Result<(), sqlx::Error> {
    if !links.is_empty() {
        let rows: Vec<(LinkId, TenantId, ProgramId, AffiliateId)> = sqlx::query_as(
            "SELECT id, tenant_id, program_id, affiliate_id FROM links WHERE id = ANY($1)",
        )
        .bind(links.iter().copied().collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
        let link = |(id, tenant_id, program_id, affiliate_id)| {
            let link = Link {
                tenant_id,
                program_id,
                affiliate_id,
            };
            (id, link)
        };
        known.links = rows.into_iter().map(link).collect();
    }
    if !coupons.is_empty() {
        let (tenants, codes): (Vec<TenantId>, Vec<String>) = coupons.iter().cloned().unzip();
        let rows: Vec<Coupon> = sqlx::query_as(
            "SELECT c.tenant_id, lower(c.code) AS code, c.program_id, c.affiliate_id, c.ended_at
             FROM unnest($1::bigint[], $2::text[]) AS w (tenant_id, code)
             JOIN coupons c ON c.tenant_id = w.tenant_id AND lower(c.code) = lower(w.code)",
        )
        .bind(tenants)
        .bind(codes)
        .fetch_all(&mut *connection)
        .await?;
        let by_code = |coupon: Coupon| ((coupon.tenant_id, coupon.code.clone()), coupon);
        known.coupons = rows.into_iter().map(by_code).collect();
    }
    if !customers.is_empty() {
        let (tenants, hashes): (Vec<TenantId>, Vec<CustomerHash>) =
            customers.iter().copied().unzip();
        let rows: Vec<(TenantId, CustomerHash)> = sqlx::query_as(
            "SELECT tenant_id, customer_id FROM erasures
             WHERE (tenant_id, customer_id) IN (SELECT * FROM unnest($1::bigint[], $2::bytea[]))",
        )
        .bind(tenants)
        .bind(hashes)
        .fetch_all(connection)
        .await?;
        known.erased = rows.into_iter().collect();
    }
    Ok(())
}

#[derive(Debug, sqlx::FromRow)]
struct ProgramRow {
    id: ProgramId,
    currency: String,
    window_seconds: i64,
    hold_seconds: i64,
    model: String,
    pay_in: String,
    upline_percents: Vec<Decimal>,
    upline_of: String,
    fraud: Json<Value>,
    rule_count: i64,
    last_rule: i64,
}

impl ProgramRow {
    fn pays(&self) -> Option<commission::Program> {
        Some(commission::Program {
            currency: self.currency.parse().ok()?,
            pay_in: match self.pay_in.as_str() {
                "program" => PayIn::Program,
                _ => PayIn::Order,
            },
            uplines: Uplines {
                levels: self.upline_percents.iter().copied().map(Number).collect(),
                of: match self.upline_of.as_str() {
                    "order" => UplineOf::Order,
                    _ => UplineOf::Commission,
                },
            },
        })
    }
}

/// What these programs say.
pub(super) async fn programs(
    connection: &mut PgConnection,
    known: &mut Known,
    cache: &Rules,
    programs: &BTreeSet<ProgramId>,
) -> Result<(), sqlx::Error> {
    if programs.is_empty() {
        return Ok(());
    }
    let rows: Vec<ProgramRow> = sqlx::query_as(
        "SELECT id, currency, window_seconds, hold_seconds, model, pay_in, upline_percents, upline_of, fraud,
                (SELECT count(*) FROM commission_rules r WHERE r.program_id = p.id) AS rule_count,
                (SELECT coalesce(max(r.id), 0) FROM commission_rules r WHERE r.program_id = p.id) AS last_rule
         FROM programs p WHERE id = ANY($1)",
    )
    .bind(programs.iter().copied().collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    for row in &rows {
        let version = (row.rule_count, row.last_rule);
        let cached = cache.get(&row.id).filter(|(of, _)| *of == version);
        let rules = match cached {
            Some((_, rules)) => rules,
            None => {
                let rules = Arc::new(rules(connection, row.id, &row.currency).await?);
                cache.insert(row.id, (version, Arc::clone(&rules)));
                rules
            }
        };
        let program = Program {
            terms: Terms {
                window_seconds: row.window_seconds,
                model: row.model.parse().unwrap_or(Model::LastClick),
            },
            hold_seconds: row.hold_seconds,
            pays: row.pays(),
            fraud: serde_json::from_value(row.fraud.0.clone()).unwrap_or_default(),
            rules,
        };
        known.programs.insert(row.id, program);
    }
    Ok(())
}

/// All versions of a program's rules, as far as they can be read.
pub(super) async fn rules(
    connection: &mut PgConnection,
    of: ProgramId,
    currency: &str,
) -> Result<RuleSet, sqlx::Error> {
    let rows: Vec<RuleRow> = sqlx::query_as(
        "SELECT id, program_id, name, version, document, active, created_at FROM commission_rules WHERE program_id = $1",
    )
    .bind(of)
    .fetch_all(connection)
    .await?;
    let Ok(currency) = currency.parse() else {
        return Ok(RuleSet::default());
    };
    let version = |row: RuleRow| match Rule::read(&row.document.0, currency) {
        Ok(rule) => Some(Version {
            id: row.id,
            key: row.name,
            version: row.version,
            valid_from: row.created_at,
            active: row.active,
            rule,
        }),
        Err(problems) => {
            // It was checked when it was saved, by this version of the product or an older one.
            tracing::error!(rule = row.id, program = %row.program_id, ?problems, "a commission rule can't be read; it gives nothing");
            None
        }
    };
    Ok(RuleSet::new(rows.into_iter().filter_map(version)))
}

/// These affiliates, their parents, theirs and so on, as they were at these times: of each the versions from the one in force
/// at the first of them on to the last. One that is younger than all of them is known by its first version.
pub(super) async fn affiliates(
    connection: &mut PgConnection,
    known: &mut Known,
    wanted: &BTreeSet<(AffiliateId, DateTime<Utc>)>,
) -> Result<(), sqlx::Error> {
    let times = || wanted.iter().map(|(_, at)| *at);
    let (Some(first), Some(last)) = (times().min(), times().max()) else {
        return Ok(());
    };
    let ids: BTreeSet<AffiliateId> = wanted.iter().map(|(id, _)| *id).collect();
    let rows: Vec<Affiliate> = sqlx::query_as(
        "WITH RECURSIVE line AS (
             SELECT id, 0 AS level FROM unnest($1::bigint[]) AS w (id)
             UNION
             SELECT v.parent_id, level + 1 FROM line, affiliate_versions_between(line.id, $2, $3) v
             WHERE level < $4 AND v.parent_id IS NOT NULL)
         SELECT v.affiliate_id, v.valid_from, v.parent_id, v.email, v.tier, v.groups, v.tags, v.certifications
         FROM (SELECT DISTINCT id FROM line) AS l, affiliate_versions_between(l.id, $2, $3) v ORDER BY v.affiliate_id, v.valid_from",
    )
    .bind(ids.into_iter().collect::<Vec<_>>())
    .bind(first)
    .bind(last)
    .bind(i32::try_from(MAX_LEVELS).unwrap_or(i32::MAX))
    .fetch_all(connection)
    .await?;
    for row in rows {
        let versions = known.affiliates.entry(row.affiliate_id).or_default();
        versions.push(row);
    }
    Ok(())
}

/// Something that a tenant may have blocked.
#[derive(Debug)]
pub(super) struct Suspect {
    /// Whose it is, as the caller counts.
    pub(super) place: i64,
    pub(super) tenant: TenantId,
    pub(super) kind: &'static str,
    pub(super) value: String,
}

/// Which of these are blocked: the caller's places, with what and why.
pub(super) async fn blocked(
    connection: &mut PgConnection,
    of: &[Suspect],
) -> Result<Vec<(i64, String)>, sqlx::Error> {
    if of.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, String, String, String)> = sqlx::query_as(
        "WITH w AS (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS w (place, tenant_id, kind, value))
         SELECT w.place, b.kind, b.value, b.reason FROM w
         JOIN blocked b ON b.tenant_id = w.tenant_id AND b.kind = w.kind AND b.value = w.value WHERE w.kind <> 'address'
         UNION ALL
         SELECT w.place, b.kind, b.value, b.reason FROM w
         JOIN blocked b ON b.tenant_id = w.tenant_id AND b.kind = 'address' AND w.value::inet <<= b.value::inet
         WHERE w.kind = 'address' ORDER BY 1, 2, 3",
    )
    .bind(of.iter().map(|o| o.place).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.tenant).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.kind).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.value.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let text = |(place, kind, value, reason): (i64, String, String, String)| {
        let kind = kind.replace('_', " ");
        let because = if reason.is_empty() {
            String::new()
        } else {
            format!(" ({reason})")
        };
        (place, format!("{kind} {value} is blocked{because}"))
    };
    Ok(rows.into_iter().map(text).collect())
}

/// How many conversions came from each of these addresses within the hour before: (conversion, tenant, address, time).
pub(super) async fn from_addresses(
    connection: &mut PgConnection,
    of: &[(Uuid, TenantId, String, DateTime<Utc>)],
) -> Result<BTreeMap<Uuid, i64>, sqlx::Error> {
    if of.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT w.id, (SELECT count(DISTINCT r.conversion_id) FROM conversion_reports r WHERE r.tenant_id = w.tenant_id
             AND r.address = w.address::inet AND r.reported_at BETWEEN w.at - interval '1 hour' AND w.at)
         FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[]) AS w (id, tenant_id, address, at)",
    )
    .bind(of.iter().map(|o| o.0).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.1).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.2.as_str()).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.3).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Orders that are counted of an affiliate lately, and before: no more, so that a busy one costs no more.
const COUNTED: i64 = 1000;
const HOUR_SECONDS: i64 = 3600;
const WEEK_SECONDS: i64 = 7 * 86_400;

/// How many orders each of these affiliates had up to this conversion, and before: (conversion, affiliate, time).
pub(super) async fn rates(
    connection: &mut PgConnection,
    of: &[(Uuid, AffiliateId, DateTime<Utc>)],
) -> Result<BTreeMap<Uuid, Rate>, sqlx::Error> {
    type Row = (Uuid, i64, Option<i64>, i64, Option<i64>);
    if of.is_empty() {
        return Ok(BTreeMap::new());
    }
    // Before: only where lately there were more than a few.
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT w.id, h.orders, h.seconds, b.orders, b.seconds
         FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS w (id, affiliate_id, at),
              LATERAL (SELECT count(*) AS orders, extract(epoch FROM w.at - min(converted_at))::bigint AS seconds FROM (
                  SELECT converted_at FROM conversions c WHERE c.affiliate_id = w.affiliate_id AND c.event <> 'click'
                  AND c.converted_at > w.at - interval '1 hour' AND (c.converted_at, c.id) < (w.at, w.id)
                  ORDER BY c.converted_at DESC, c.id DESC LIMIT $4) x) AS h,
              LATERAL (SELECT count(*) AS orders, extract(epoch FROM w.at - interval '1 hour' - min(converted_at))::bigint AS seconds FROM (
                  SELECT converted_at FROM conversions c WHERE c.affiliate_id = w.affiliate_id AND c.event <> 'click'
                  AND c.converted_at > w.at - interval '1 hour' - interval '7 days' AND c.converted_at <= w.at - interval '1 hour'
                  ORDER BY c.converted_at DESC, c.id DESC LIMIT CASE WHEN h.orders >= $5 THEN $4 ELSE 0 END) x) AS b",
    )
    .bind(of.iter().map(|o| o.0).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.1).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.2).collect::<Vec<_>>())
    .bind(COUNTED)
    .bind(FEW_ORDERS)
    .fetch_all(connection)
    .await?;
    let orders = |count: i64, seconds: Option<i64>, all: i64| Orders {
        count,
        // Of more than are counted: the time that these took.
        seconds: match seconds {
            Some(seconds) if count >= COUNTED => seconds.clamp(1, all),
            _ => all,
        },
    };
    let rate = |(id, lately, took, before, before_took)| {
        let mut lately = orders(lately, took, HOUR_SECONDS);
        lately.count += 1; // itself
        let before = orders(before, before_took, WEEK_SECONDS);
        (id, Rate { lately, before })
    };
    Ok(rows.into_iter().map(rate).collect())
}

/// For each of these conversions whether an earlier one of its customer is known: (id, tenant, customer, time) → id.
pub(super) async fn returning(
    connection: &mut PgConnection,
    of: &[(Uuid, TenantId, CustomerHash, DateTime<Utc>)],
) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    if of.is_empty() {
        return Ok(BTreeSet::new());
    }
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT w.id FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::timestamptz[]) AS w (id, tenant_id, customer_id, at)
         WHERE EXISTS (SELECT 1 FROM conversions c WHERE c.tenant_id = w.tenant_id AND c.customer_id = w.customer_id
                       AND (c.converted_at, c.id) < (w.at, w.id))",
    )
    .bind(of.iter().map(|o| o.0).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.1).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.2).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.3).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().collect())
}
