//! What follows from all that was reported and decided of a conversion: who is credited, what it earns, and where the
//! money stands. Computed whole each time something new is known, and compared with what stands in PostgreSQL; the ledger gets
//! the difference. So it does not matter in which order things become known, nor how often.
//!
//! | file | |
//! |---|---|
//! | `order` | what all reports together say |
//! | `attribute` | who is credited, for which part |
//! | `judge` | what speaks against it |
//! | `price` | what that earns by the program's rules |
//! | `position` | where in the ledger that should stand |
//! | `load`, `write` | PostgreSQL, with one question or statement for many conversions |
//! | `look`, `around` | the shopper's other clicks, and those around them, from the facts |
//! | `clicks`, `click_counts` | the task that makes conversions of clicks that are paid for |
//! | `due` | the task that comes back to conversions when time has passed or somebody decided |

mod around;
mod attribute;
mod click_counts;
pub(crate) mod clicks;
pub(crate) mod due;
mod judge;
mod load;
mod look;
mod order;
pub(crate) mod position;
mod price;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use sqlx::PgConnection;
use tributary_shared::click_token;
use tributary_shared::clock::Clock;
use tributary_shared::customers::{CustomerHash, customer_hash};
use tributary_shared::fraud::Action;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use tributary_shared::reports::webhooks::RENEWAL;
use tributary_shared::secrets::KeyRing;
use uuid::Uuid;

pub use self::attribute::Model;
use self::attribute::{
    Attribution, ClickFacts, Evidence, Step, Terms, Touchpoint, Unattributed, attribute,
};
use self::judge::Verdict;
use self::load::{Before, Decision, Known, Renewal, Suspect};
use self::look::Found;
use self::order::Order;
use self::position::{Hold, after_refund};
use self::price::{Outcome, Priced, Pricing};
use self::write::{Commission, Conversion};
use crate::reports::{Report, Status};

/// Settles conversions.
#[derive(Debug, Clone)]
pub(crate) struct Settler {
    keys: KeyRing,
    pub(crate) clock: Clock,
    rules: Arc<load::Rules>,
}

/// A conversion on its way through the steps.
struct Case<'k> {
    before: &'k Before,
    order: Order<'k>,
    touchpoints: Vec<Touchpoint>,
    /// Why click ids that were named count for nothing.
    unusable: Option<Unattributed>,
    attribution: Result<Attribution, (Unattributed, Vec<Step>)>,
    verdict: Verdict,
    looks: i16,
}

impl Settler {
    pub(crate) fn new(keys: KeyRing, clock: Clock) -> Self {
        let rules = Arc::new(load::Rules::new(load::MAX_PROGRAMS));
        Self { keys, clock, rules }
    }

    /// Settles these conversions, in the caller's transaction. `found`: what the facts were just asked for; without it what
    /// was found earlier is used again. Returns each one's attribution.
    pub(crate) async fn settle(
        &self,
        connection: &mut PgConnection,
        ids: &[Uuid],
        found: Option<&Found>,
    ) -> Result<Vec<&'static str>, sqlx::Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.clock.now();
        let mut known = load::conversions(connection, ids).await?;
        let reports = std::mem::take(&mut known.reports);
        let clicks = std::mem::take(&mut known.clicks);
        let conversions = std::mem::take(&mut known.conversions);
        self.load_evidence(connection, &mut known, &reports).await?;
        let renewals = renewals(&conversions, &reports, &known);
        load::origins(connection, &mut known, &renewals).await?;

        let mut cases: Vec<Case<'_>> = conversions
            .iter()
            .filter_map(|before| {
                let count = clicks.get(&before.id);
                let order = match count {
                    Some(count) => Order::of_clicks(count),
                    None => Order::of(reports.get(&before.id)?)?,
                };
                let (touchpoints, unusable) = match count {
                    Some(count) => (vec![count.touchpoint()], None),
                    None => self.touchpoints(before, &order, &known, found),
                };
                let looked = found.and_then(|found| found.of(before.id));
                let looks = looked.map_or(before.looks, |of| look::after(before.looks, of));
                Some(Case {
                    before,
                    order,
                    touchpoints,
                    unusable,
                    attribution: Err((Unattributed::NoClick, Vec::new())),
                    verdict: Verdict::CLEAR,
                    looks,
                })
            })
            .collect();
        let touched = cases.iter().flat_map(|case| &case.touchpoints);
        let programs: BTreeSet<ProgramId> = touched.map(|touch| touch.program_id).collect();
        load::programs(connection, &mut known, &self.rules, &programs).await?;
        for case in &mut cases {
            let origin = known.origins.get(&case.before.id);
            // The model stays the one by which it was shared out first, a renewal's that of the order that it renews.
            let renewed = origin.and_then(|origin| origin.model.as_deref());
            let model = case.before.model.as_deref().or(renewed);
            let model = model.and_then(|model| model.parse().ok());
            let terms = |program| {
                let terms = known.programs.get(&program)?.terms;
                Some(Terms {
                    model: model.unwrap_or(terms.model),
                    ..terms
                })
            };
            let at = origin.map_or(case.order.converted_at, |origin| origin.converted_at);
            let decided = attribute(&case.touchpoints, at, terms);
            case.attribution = decided.map_err(|(reason, path)| match reason {
                Unattributed::NoClick => (case.unusable.unwrap_or(reason), path),
                reason => (reason, path),
            });
        }
        load::affiliates(connection, &mut known, &affiliates_asked(&cases)).await?;
        let new_customers = new_customers(connection, &cases, &known).await?;

        judge_all(connection, &mut cases, &known).await?;

        // In the order of time: what an order earns may depend on those before it, which must be written by then.
        cases.sort_by_key(|case| (case.order.converted_at, case.before.id));
        let mut settled = Vec::with_capacity(cases.len());
        let mut unwritten: Vec<Conversion<'_>> = Vec::new();
        let mut moved = Vec::new();
        for case in &cases {
            let is_new = new_customers.get(&case.before.id).copied().flatten();
            let priced = match &case.attribution {
                Ok(attribution) => {
                    let pricing =
                        Pricing::of(&known, case.before, &case.order, attribution, is_new);
                    if pricing.needs_history() {
                        write(connection, &mut unwritten, &known, ids, now).await?;
                    }
                    pricing.price(connection).await?
                }
                Err(_) => Outcome::default(),
            };
            let before = known.commissions.get(&case.before.id).map(Vec::as_slice);
            let conversion = conclude(
                case,
                priced,
                before.unwrap_or_default(),
                &known,
                is_new,
                now,
            );
            settled.push(conversion.attribution);
            if case.before.event != RENEWAL && conversion.is_shared_out_otherwise() {
                let customer = conversion.customer_id;
                moved.push((case.before.id, case.before.tenant_id, customer));
            }
            unwritten.push(conversion);
        }
        write(connection, &mut unwritten, &known, ids, now).await?;
        // After all is written: a renewal may be among these.
        write::renewals(connection, &moved, now).await?;
        Ok(settled)
    }

    async fn load_evidence(
        &self,
        connection: &mut PgConnection,
        known: &mut Known,
        reports: &BTreeMap<Uuid, Vec<Report>>,
    ) -> Result<(), sqlx::Error> {
        let (mut links, mut coupons, mut customers) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for report in reports.values().flatten() {
            let click = report.click_id.as_deref();
            let verified = click.and_then(|id| click_token::verify(&self.keys, id).ok());
            links.extend(verified.map(|click| click.link));
            coupons.extend(
                report
                    .coupon
                    .as_ref()
                    .map(|code| (report.tenant_id, code.to_lowercase())),
            );
            customers.extend(report.customer_id.map(|id| (report.tenant_id, id)));
        }
        load::evidence(connection, known, &links, &coupons, &customers).await
    }

    /// All that may have led to the order, and why click ids that it names are none of it.
    fn touchpoints(
        &self,
        before: &Before,
        order: &Order<'_>,
        known: &Known,
        found: Option<&Found>,
    ) -> (Vec<Touchpoint>, Option<Unattributed>) {
        // A renewal is credited as the order was that it renews, years later as well.
        if let Some(origin) = known.origins.get(&before.id) {
            let steps = origin.steps.iter();
            return (steps.map(|step| step.touchpoint.clone()).collect(), None);
        }
        let tenant = before.tenant_id;
        let found = found.and_then(|found| found.of(before.id));
        // What is not looked for now was found before.
        let kept = || before.steps().into_iter().map(|step| step.touchpoint);
        let clicks: BTreeMap<String, ClickFacts> = match found {
            Some(found) => found.named.clone(),
            None => kept()
                .filter_map(|touch| touch.click_id.zip(touch.facts))
                .collect(),
        };
        let mut touchpoints = Vec::new();
        let mut unusable = None;
        for id in &order.click_ids {
            match self.clicked(id, tenant, known) {
                Ok(touch) => touchpoints.push(Touchpoint {
                    facts: clicks.get(*id).cloned(),
                    ..touch
                }),
                Err(reason) => unusable = unusable.or(Some(reason)),
            }
        }
        let coupon = order.coupon.map(|code| (tenant, code.to_lowercase()));
        let coupon = coupon.and_then(|key| known.coupons.get(&key));
        let in_use = |of: &&load::Coupon| of.ended_at.is_none_or(|end| order.converted_at < end);
        if let Some(coupon) = coupon.filter(in_use) {
            touchpoints.push(Touchpoint {
                click_id: None,
                at: order.converted_at,
                program_id: coupon.program_id,
                affiliate_id: coupon.affiliate_id,
                link_id: None,
                evidence: Evidence::Coupon,
                facts: None,
            });
        }
        match found {
            Some(found) => touchpoints.extend(found.touchpoints.iter().cloned()),
            None => touchpoints.extend(kept().filter(|touch| touch.evidence > Evidence::Coupon)),
        }
        (touchpoints, unusable)
    }

    fn clicked(
        &self,
        id: &str,
        tenant: TenantId,
        known: &Known,
    ) -> Result<Touchpoint, Unattributed> {
        let click = click_token::verify(&self.keys, id).map_err(|_| Unattributed::BadClickToken)?;
        let link = known
            .links
            .get(&click.link)
            .ok_or(Unattributed::UnknownLink)?;
        if link.tenant_id != tenant {
            return Err(Unattributed::OtherTenant);
        }
        Ok(Touchpoint {
            click_id: Some(id.to_owned()),
            at: click.at,
            program_id: link.program_id,
            affiliate_id: link.affiliate_id,
            link_id: Some(click.link),
            evidence: Evidence::ClickToken,
            facts: None,
        })
    }
}

/// Those of the conversions that renew an order.
fn renewals(
    conversions: &[Before],
    reports: &BTreeMap<Uuid, Vec<Report>>,
    known: &Known,
) -> Vec<Renewal> {
    let renewal = |before: &Before| {
        let reports = reports.get(&before.id)?;
        let customer = reports.iter().find_map(|report| report.customer_id);
        let is_known = |of: &CustomerHash| !known.erased.contains(&(before.tenant_id, *of));
        Some(Renewal {
            id: before.id,
            tenant: before.tenant_id,
            renews: reports.iter().find_map(|report| report.renews.clone()),
            customer: customer.filter(is_known),
            at: reports.iter().map(|report| report.reported_at).min()?,
        })
    };
    let renew = conversions.iter().filter(|before| before.event == RENEWAL);
    renew.filter_map(renewal).collect()
}

/// Who is credited, as of which times: when it was ordered, for the judgement; of the rules, for the price.
fn affiliates_asked(cases: &[Case<'_>]) -> BTreeSet<(AffiliateId, DateTime<Utc>)> {
    let mut asked = BTreeSet::new();
    for case in cases {
        let times = [
            case.order.converted_at,
            price::rules_at(case.before, &case.order),
        ];
        for (affiliate, _) in case.attribution.iter().flat_map(Attribution::shares) {
            asked.extend(times.map(|at| (affiliate, at)));
        }
    }
    asked
}

/// Judges what is credited to somebody: there is nothing to win by the rest.
async fn judge_all(
    connection: &mut PgConnection,
    cases: &mut [Case<'_>],
    known: &Known,
) -> Result<(), sqlx::Error> {
    let mut suspects: Vec<Suspect> = Vec::new();
    let (mut addresses, mut credited) = (Vec::new(), Vec::new());
    for (place, case) in cases.iter().enumerate() {
        let Ok(attribution) = &case.attribution else {
            continue;
        };
        let (tenant, order) = (case.before.tenant_id, &case.order);
        let address = order
            .address
            .map(|address| address.to_canonical().to_string());
        let customer = order.customer_id.map(hex::encode);
        let values = [
            (
                "affiliate",
                Some(attribution.leading().affiliate_id.to_string()),
            ),
            ("address", address.clone()),
            ("customer", customer),
            ("email_domain", order.email_domain.map(str::to_owned)),
        ];
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        suspects.extend(values.into_iter().filter_map(|(kind, value)| {
            Some(Suspect {
                place,
                tenant,
                kind,
                value: value?,
            })
        }));
        let at = order.converted_at;
        addresses.extend(address.map(|address| (case.before.id, tenant, address, at)));
        if order.clicks.is_none() {
            credited.push((case.before.id, attribution.leading().affiliate_id, at));
        }
    }
    let blocked = load::blocked(connection, &suspects).await?;
    let from_addresses = load::from_addresses(connection, &addresses).await?;
    let rates = load::rates(connection, &credited).await?;
    for (place, case) in cases.iter_mut().enumerate() {
        let Ok(attribution) = &case.attribution else {
            continue;
        };
        let leading = attribution.leading();
        let Some(program) = known.programs.get(&leading.program_id) else {
            continue;
        };
        let mine = blocked
            .iter()
            .filter(|(of, _)| usize::try_from(*of) == Ok(place));
        let facts = leading.facts.as_ref();
        let of_click = facts.map(|facts| facts.blocked.clone()).unwrap_or_default();
        let is_click = leading.evidence != Evidence::Coupon && case.order.clicks.is_none();
        let order_from = case.order.country.map(str::to_owned);
        let click_from = facts.map(|facts| facts.country.clone());
        let others = attribution.path.iter().map(|step| &step.touchpoint);
        let others = others.filter(|t| t.affiliate_id != leading.affiliate_id && t.at < leading.at);
        let evidence = judge::Evidence {
            seconds_since_click: is_click
                .then(|| (case.order.converted_at - leading.at).num_seconds()),
            seconds_since_others: others.map(|t| (leading.at - t.at).num_seconds()).min(),
            is_own: is_own(case, leading.affiliate_id, known),
            from_address: from_addresses.get(&case.before.id).copied().unwrap_or(0),
            is_bot: facts.is_some_and(|facts| facts.is_bot),
            countries: order_from.zip(click_from.filter(|of| !of.is_empty())),
            rate: rates.get(&case.before.id).copied().unwrap_or_default(),
            click_signals: facts.map_or(0, |facts| facts.signals),
            around: facts.and_then(|facts| facts.around),
            blocked: mine.map(|(_, text)| text.clone()).chain(of_click).collect(),
        };
        case.verdict = judge::judge(&program.fraud, &evidence);
    }
    Ok(())
}

/// Whether the customer is called as the affiliate's e-mail address.
fn is_own(case: &Case<'_>, affiliate: AffiliateId, known: &Known) -> bool {
    let affiliate = known.affiliate(affiliate, case.order.converted_at);
    let email = affiliate.and_then(|of| of.email.as_deref());
    case.order
        .customer_id
        .zip(email)
        .is_some_and(|(customer, email)| {
            let hash = |name: &str| customer_hash(case.before.tenant_id, name);
            customer == hash(email) || customer == hash(&email.to_lowercase())
        })
}

/// Whose orders these are, and whether he is new: the merchant's word, else whether no earlier conversion of his is known.
async fn new_customers(
    connection: &mut PgConnection,
    cases: &[Case<'_>],
    known: &Known,
) -> Result<BTreeMap<Uuid, Option<bool>>, sqlx::Error> {
    let of = |case: &Case<'_>| {
        let customer = customer(case, known)?;
        let (id, tenant) = (case.before.id, case.before.tenant_id);
        Some((id, tenant, customer, case.order.converted_at))
    };
    let whose: Vec<_> = cases.iter().filter_map(of).collect();
    // Before anybody is asked for: two orders of one customer may be settled together.
    write::customers(connection, &whose).await?;
    let returning = load::returning(connection, &whose).await?;
    let whose: BTreeSet<Uuid> = whose.into_iter().map(|(id, ..)| id).collect();
    let is_new = |case: &Case<'_>| {
        let id = case.before.id;
        let told = whose.contains(&id).then(|| !returning.contains(&id));
        // Of one who was erased since it stays what it was: he was paid for by it.
        let is_new = case.order.new_customer.or(told);
        (id, is_new.or(case.before.new_customer))
    };
    Ok(cases.iter().map(is_new).collect())
}

/// The customer, unless he was erased. One that is recorded already stays until `erase` has found his clicks by him.
fn customer(case: &Case<'_>, known: &Known) -> Option<CustomerHash> {
    let customer = case.order.customer_id?;
    let erased = known.erased.contains(&(case.before.tenant_id, customer));
    (!erased || case.before.customer_id == Some(customer)).then_some(customer)
}

/// Writes what was decided so far, and has settled again what depends on it.
async fn write(
    connection: &mut PgConnection,
    unwritten: &mut Vec<Conversion<'_>>,
    known: &Known,
    settled: &[Uuid],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    write::write(connection, unwritten, now).await?;
    let looks_back = |of: &&Conversion<'_>| {
        let program = of.program_id.and_then(|id| known.programs.get(&id));
        program.is_some_and(|program| price::looks_back(&program.rules, of.converted_at))
    };
    let of: Vec<&Conversion<'_>> = unwritten.iter().filter(looks_back).collect();
    write::later(connection, &of, settled).await?;
    unwritten.clear();
    Ok(())
}

/// What is to be written of a conversion.
fn conclude<'k>(
    case: &'k Case<'k>,
    priced: Outcome,
    commissions: &'k [load::Commission],
    known: &Known,
    new_customer: Option<bool>,
    now: DateTime<Utc>,
) -> Conversion<'k> {
    let Case { before, order, .. } = case;
    let status = match known.decisions.get(&before.id) {
        Some(Decision::Reject) => Status::Rejected,
        Some(Decision::Approve) if order.status != Status::Refunded => Status::Approved,
        Some(Decision::Reinstate) if order.status == Status::Rejected => Status::Pending,
        None if case.verdict.action == Action::Reject => Status::Rejected,
        _ => order.status,
    };
    let waits_for_a_person =
        case.verdict.action >= Action::Hold && !known.decisions.contains_key(&before.id);
    let leading = case.attribution.as_ref().ok().map(Attribution::leading);
    let program = leading.and_then(|touch| known.programs.get(&touch.program_id));
    let hold_until =
        order.converted_at + TimeDelta::seconds(program.map_or(0, |program| program.hold_seconds));
    let looked = case.looks >= look::DONE;
    let over = looked && !waits_for_a_person && (status == Status::Approved || hold_until <= now);
    let hold = if over { Hold::Over } else { Hold::Held };
    let next_look = look::next(case.looks, order.converted_at, now);
    let end_of_hold = (program.is_some()
        && !over
        && !waits_for_a_person
        && !matches!(status, Status::Rejected | Status::Refunded))
    .then_some(hold_until.max(now));
    let settle_at = match (next_look, end_of_hold) {
        (Some(look), _) => Some(look),
        (None, end) => end,
    };
    Conversion {
        before,
        status,
        amount: order.amount,
        refunded: order.refunded,
        currency: order.currency,
        converted_at: order.converted_at,
        attribution: match &case.attribution {
            Ok(attribution) => attribution.leading().evidence.as_str(),
            Err((reason, _)) => reason.as_str(),
        },
        model: match &case.attribution {
            Ok(attribution) => Some(attribution.model.as_str()),
            Err(_) => before.model.as_deref(),
        },
        path: match &case.attribution {
            Ok(attribution) => &attribution.path,
            Err((_, path)) => path,
        },
        click_id: leading
            .and_then(|touch| touch.click_id.as_deref())
            .or_else(|| order.click_ids.first().copied()),
        link_id: leading.and_then(|touch| touch.link_id),
        affiliate_id: leading.map(|touch| touch.affiliate_id),
        program_id: leading.map(|touch| touch.program_id),
        customer_id: customer(case, known),
        new_customer,
        coupon: order.coupon,
        items: order.items,
        note: priced.note.or_else(|| order.note.map(str::to_owned)),
        verdict: &case.verdict,
        settle_at,
        looks: case.looks,
        commissions: stand(
            case,
            priced.commissions,
            commissions,
            status,
            hold,
            hold_until,
        ),
    }
}

/// Each commission as it should stand: those that are earned now, and those that were and are no longer.
fn stand(
    case: &Case<'_>,
    priced: Vec<Priced>,
    before: &[load::Commission],
    status: Status,
    hold: Hold,
    hold_until: DateTime<Utc>,
) -> Vec<Commission> {
    let order = &case.order;
    let mut left: Vec<&load::Commission> = before.iter().collect();
    let mut standing: Vec<Commission> = Vec::with_capacity(priced.len());
    for priced in priced {
        let same = |c: &&load::Commission| {
            c.affiliate_id == priced.affiliate_id
                && c.part == priced.part
                && c.currency == priced.currency.code()
        };
        let before = left
            .iter()
            .position(same)
            .map(|place| left.swap_remove(place));
        let worth = match status {
            Status::Rejected => Decimal::ZERO,
            _ => after_refund(priced.gross, order.amount, order.refunded, priced.currency),
        };
        let position = before.map(load::Commission::position).unwrap_or_default();
        let target = position.target(worth, hold);
        standing.push(Commission {
            before: before.cloned(),
            state: target.state(
                priced.gross,
                status == Status::Rejected,
                hold,
                called(before),
            ),
            reason: reason(before, status, order.refunded, worth),
            hold_until,
            position,
            target,
            priced,
        });
    }
    for gone in left {
        let Ok(currency) = gone.currency.parse() else {
            continue; // it was written by us, from a currency
        };
        let position = gone.position();
        let target = position.target(Decimal::ZERO, hold);
        standing.push(Commission {
            state: target.state(gone.gross, true, hold, called(Some(gone))),
            reason: "changed",
            hold_until: gone.hold_until,
            position,
            target,
            priced: Priced::no_longer(gone, currency),
            before: Some(gone.clone()),
        });
    }
    standing
}

fn called(before: Option<&load::Commission>) -> Option<&str> {
    before.map(|before| before.state.as_str())
}

/// Why the ledger gets a posting, if it gets one.
fn reason(
    before: Option<&load::Commission>,
    status: Status,
    refunded: Decimal,
    worth: Decimal,
) -> &'static str {
    let Some(before) = before else {
        return "earned";
    };
    let was = before.position().total();
    match status {
        _ if was == worth => "approved",
        Status::Rejected => "rejected",
        _ if before.state == "rejected" => "reinstated",
        _ if worth < was && !refunded.is_zero() => "refunded",
        _ => "changed",
    }
}

/// The ids of links that click tokens name, for whoever asks the facts about them.
fn link_of(id: &str) -> Option<LinkId> {
    LinkId::from_wire(click_token::parts(id)?.link)
}
