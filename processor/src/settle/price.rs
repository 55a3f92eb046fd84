//! What a conversion earns, by its program's rules: brings what is known into the form of `shared/src/commission`, and
//! what that says back.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::PgConnection;
use tributary_shared::commission::{
    self, Affiliate, CommissionKind, Customer, CustomerHistory, Figures, Item, Measure, Need,
    Needs, Occasion, Part, PriceError, RuleSet, SHARE_DIGITS, Share, Step, Version, needs, price,
};
use tributary_shared::ids::{AffiliateId, ProgramId};
use tributary_shared::money::{Currency, Money};
use uuid::Uuid;

use super::attribute::{Attribution, ClickFacts};
use super::load::{self, Before, Known};
use super::order::Order;
use crate::reports::{self, Status};

/// What somebody earns by a conversion.
#[derive(Debug, Clone)]
pub(super) struct Priced {
    pub(super) program_id: ProgramId,
    pub(super) affiliate_id: AffiliateId,
    /// `direct`, `upline 1`, `bonus NAME` ...
    pub(super) part: String,
    pub(super) currency: Currency,
    /// Before refunds.
    pub(super) gross: Decimal,
    /// What it was taken of.
    pub(super) basis: Decimal,
    pub(super) rule_id: i64,
    pub(super) rule_version: i32,
    pub(super) steps: Vec<Step>,
    /// What each rule gave.
    pub(super) parts: Vec<Value>,
    /// The rate by which something was converted.
    pub(super) rate: Option<Value>,
}

impl Priced {
    /// A commission that was earned once and is no longer.
    pub(super) fn no_longer(gone: &load::Commission, currency: Currency) -> Self {
        Self {
            program_id: gone.program_id,
            affiliate_id: gone.affiliate_id,
            part: gone.part.clone(),
            currency,
            gross: Decimal::ZERO,
            basis: Decimal::ZERO,
            rule_id: gone.rule_id,
            rule_version: gone.rule_version,
            steps: Vec::new(),
            parts: Vec::new(),
            rate: None,
        }
    }

    /// The commission's id: the same at each replay.
    pub(super) fn id(&self, conversion: Uuid) -> Uuid {
        let name = format!(
            "{}\n{}\n{}",
            self.affiliate_id,
            self.part,
            self.currency.code()
        );
        Uuid::new_v5(&conversion, name.as_bytes())
    }
}

/// What all earn by a conversion.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) commissions: Vec<Priced>,
    /// Why nobody earns anything, or less than expected.
    pub(super) note: Option<String>,
}

/// A conversion that is to be priced.
pub(super) struct Pricing<'k> {
    known: &'k Known,
    before: &'k Before,
    order: &'k Order<'k>,
    program_id: ProgramId,
    /// None: nothing can be priced.
    program: Option<(&'k load::Program, &'k commission::Program)>,
    /// Those in force.
    rules: Vec<&'k Version>,
    /// Who is credited with which part, and what has to be known for that: found out once, as conditions take their time.
    shares: Vec<(AffiliateId, Decimal, Result<Needs, PriceError>)>,
    occasion: Occasion,
}

impl<'k> Pricing<'k> {
    pub(super) fn of(
        known: &'k Known,
        before: &'k Before,
        order: &'k Order<'k>,
        attribution: &Attribution,
        new_customer: Option<bool>,
    ) -> Self {
        let leading = attribution.leading();
        let program = known.programs.get(&leading.program_id);
        let program = program.and_then(|program| Some((program, program.pays.as_ref()?)));
        let occasion = occasion(before, order, leading.facts.as_ref(), new_customer);
        let at = rules_at(before, order);
        let mut pricing = Self {
            known,
            before,
            order,
            program_id: leading.program_id,
            program,
            rules: program.map_or_else(Vec::new, |(program, _)| program.rules.at(at)),
            shares: Vec::new(),
            occasion,
        };
        if let Some((_, pays)) = program {
            let of = |(id, share)| {
                let affiliate = pricing.affiliate(id);
                let needs = needs(&pricing.rules, pays, &pricing.occasion, &affiliate);
                (id, share, needs)
            };
            pricing.shares = attribution.shares().into_iter().map(of).collect();
        }
        pricing
    }

    fn rules_at(&self) -> DateTime<Utc> {
        rules_at(self.before, self.order)
    }

    /// Whether what was earned before decides about what is earned now.
    pub(super) fn needs_history(&self) -> bool {
        let needs = self
            .shares
            .iter()
            .filter_map(|(.., needs)| needs.as_ref().ok());
        needs.flatten().any(looks_at_history)
    }

    /// What each affiliate earns, and those above him.
    pub(super) async fn price(self, connection: &mut PgConnection) -> Result<Outcome, sqlx::Error> {
        let mut outcome = Outcome::default();
        let Some((_, pays)) = self.program else {
            return Ok(outcome);
        };
        if self.order.currency.is_none() && self.order.clicks.is_none() {
            return Ok(outcome); // the merchant has not said yet what it is worth
        }
        let weights: Vec<u64> = self
            .shares
            .iter()
            .map(|(_, share, _)| millionths(*share))
            .collect();
        for (place, (id, _, needs)) in self.shares.iter().enumerate() {
            let affiliate = self.affiliate(*id);
            let occasion = Occasion {
                share: Share::new(weights.clone(), place).unwrap_or_else(|_| Share::whole()),
                ..self.occasion.clone()
            };
            let priced = match needs {
                Ok(needs) => {
                    let figures = self.figures(connection, needs, *id, pays.currency).await?;
                    price(
                        &self.rules,
                        pays,
                        &occasion,
                        &affiliate,
                        &self.known.above(*id, self.rules_at()),
                        &figures,
                    )
                }
                Err(error) => Err(error.clone()),
            };
            match priced {
                Ok(priced) => self.take(priced, &mut outcome),
                // Somebody has to give the rate; then it is settled again.
                Err(error) => outcome.note = Some(error.to_string()),
            }
        }
        Ok(outcome)
    }

    fn take(&self, priced: commission::Priced, outcome: &mut Outcome) {
        if priced.commissions.is_empty() && !priced.left_out.is_empty() {
            let why: Vec<&str> = priced
                .left_out
                .iter()
                .map(|step| step.text.as_str())
                .collect();
            outcome.note = Some(why.join("; "));
        }
        for commission in priced.commissions {
            let part = match commission.kind {
                CommissionKind::Direct => "direct".to_owned(),
                CommissionKind::Bonus => format!("bonus {}", commission.rule.key),
                CommissionKind::Upline(level) => format!("upline {level}"),
            };
            // Two affiliates who share an order may have the same one above them: he gets one commission.
            let same = |other: &&mut Priced| {
                other.affiliate_id == commission.affiliate && other.part == part
            };
            let basis = commission
                .basis
                .map_or(Decimal::ZERO, |basis| basis.amount());
            if let Some(other) = outcome.commissions.iter_mut().find(same) {
                other.gross += commission.amount.amount();
                other.basis += basis;
                other.steps.extend(commission.steps);
                continue;
            }
            outcome.commissions.push(Priced {
                program_id: self.program_id,
                affiliate_id: commission.affiliate,
                part,
                currency: commission.amount.currency(),
                gross: commission.amount.amount(),
                basis,
                rule_id: commission.rule.id,
                rule_version: commission.rule.version,
                steps: commission.steps,
                parts: commission.parts.iter().map(earned).collect(),
                rate: commission.rate.map(|rate| {
                    json!({"from": rate.from.code(), "to": rate.to.code(), "rate": rate.rate})
                }),
            });
        }
    }

    /// As he was when the rules were in force by which this is priced.
    fn affiliate(&self, id: AffiliateId) -> Affiliate {
        let Some(known) = self.known.affiliate(id, self.rules_at()) else {
            return Affiliate::new(id);
        };
        Affiliate {
            id,
            tier: known.tier.clone().unwrap_or_default(),
            groups: known.groups.clone(),
            tags: known.tags.clone(),
            certifications: known.certifications.clone(),
        }
    }

    /// What was before this order, of orders that count.
    async fn figures(
        &self,
        connection: &mut PgConnection,
        needs: &Needs,
        affiliate: AffiliateId,
        currency: Currency,
    ) -> Result<Figures, sqlx::Error> {
        let mut figures = Figures::default();
        if needs.iter().any(looks_at_history) {
            self.take_turns(connection, affiliate).await?;
        }
        for need in needs {
            match need {
                Need::Volume { by, period } => {
                    let (revenue, orders) = self
                        .volume(
                            connection,
                            affiliate,
                            currency,
                            period.start(self.occasion.at),
                        )
                        .await?;
                    let volume = match by {
                        Measure::Revenue => revenue,
                        Measure::Orders => Decimal::from(orders),
                        Measure::Clicks => {
                            let from = period.start(self.occasion.at);
                            self.clicks(connection, affiliate, from).await?
                        }
                    };
                    figures.volumes.insert((*by, *period), volume);
                }
                Need::AffiliateOrders => {
                    let (_, orders) = self.volume(connection, affiliate, currency, None).await?;
                    figures.affiliate_orders = Some(orders.unsigned_abs());
                }
                Need::Earned { rule, period } => {
                    let from = period.start(self.occasion.at);
                    let earned = self.earned(connection, affiliate, rule, from).await?;
                    figures.earned.insert((rule.clone(), *period), earned);
                }
                Need::Customer => figures.customer = Some(self.customer(connection).await?),
                Need::Rate { from, to } => {
                    if let Some(rate) = self.rate(connection, *from, *to).await? {
                        figures.rates.insert((*from, *to), rate);
                    }
                }
            }
        }
        Ok(figures)
    }

    /// Whoever else prices an order of this affiliate, or of this customer, waits for the end of this transaction: each must
    /// see what the other wrote.
    async fn take_turns(
        &self,
        connection: &mut PgConnection,
        affiliate: AffiliateId,
    ) -> Result<(), sqlx::Error> {
        let customer = self.order.customer_id.map(hex::encode).unwrap_or_default();
        let names = [
            format!("affiliate {} {affiliate}", self.program_id),
            format!("customer {} {customer}", self.program_id),
        ];
        for name in names.iter().take(if customer.is_empty() { 1 } else { 2 }) {
            sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
                .bind(name)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// Revenue, in the program's currency, and number of the affiliate's orders before this one.
    async fn volume(
        &self,
        connection: &mut PgConnection,
        affiliate: AffiliateId,
        currency: Currency,
        from: Option<DateTime<Utc>>,
    ) -> Result<(Decimal, i64), sqlx::Error> {
        sqlx::query_as(
            "SELECT coalesce(sum(m.basis * (c.amount - c.refunded) / nullif(c.amount, 0) * CASE WHEN c.currency = $7 THEN 1 ELSE coalesce((
                        SELECT rate FROM exchange_rates x WHERE x.tenant_id = c.tenant_id AND x.base = c.currency AND x.quote = $7
                        ORDER BY x.valid_from > c.converted_at, abs(extract(epoch FROM x.valid_from - c.converted_at)) LIMIT 1), 0) END), 0),
                    count(*) FILTER (WHERE c.event <> 'click')
             FROM commissions m JOIN conversions c ON c.id = m.conversion_id
             WHERE m.tenant_id = $1 AND m.affiliate_id = $2 AND m.program_id = $3 AND m.part = 'direct' AND m.state <> 'rejected'
               AND ($4::timestamptz IS NULL OR (c.converted_at >= $4 AND m.created_at >= $4))
               AND (c.converted_at, c.id) < ($5, $6)",
        )
        .bind(self.before.tenant_id)
        .bind(affiliate)
        .bind(self.program_id)
        .bind(from)
        .bind(self.order.converted_at)
        .bind(self.before.id)
        .bind(currency.code())
        .fetch_one(connection)
        .await
    }

    /// The affiliate's clicks that are paid for before these.
    async fn clicks(
        &self,
        connection: &mut PgConnection,
        affiliate: AffiliateId,
        from: Option<DateTime<Utc>>,
    ) -> Result<Decimal, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT coalesce(sum(k.clicks), 0) FROM click_counts k JOIN conversions c ON c.id = k.conversion_id
             WHERE k.tenant_id = $1 AND k.affiliate_id = $2 AND k.program_id = $3 AND c.status <> 'rejected'
               AND ($4::timestamptz IS NULL OR k.from_at >= $4) AND (k.from_at, k.conversion_id) < ($5, $6)",
        )
        .bind(self.before.tenant_id)
        .bind(affiliate)
        .bind(self.program_id)
        .bind(from)
        .bind(self.order.converted_at)
        .bind(self.before.id)
        .fetch_one(connection)
        .await
    }

    /// What the affiliate earned by a rule before this order.
    async fn earned(
        &self,
        connection: &mut PgConnection,
        affiliate: AffiliateId,
        rule: &str,
        from: Option<DateTime<Utc>>,
    ) -> Result<Decimal, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT coalesce(sum((given.rule->>'earned')::numeric), 0)
             FROM commissions m JOIN conversions c ON c.id = m.conversion_id, jsonb_array_elements(m.parts) AS given (rule)
             WHERE m.tenant_id = $1 AND m.affiliate_id = $2 AND m.program_id = $3 AND m.state <> 'rejected' AND given.rule->>'rule' = $4
               AND ($5::timestamptz IS NULL OR (c.converted_at >= $5 AND m.created_at >= $5))
               AND (c.converted_at, c.id) < ($6, $7)",
        )
        .bind(self.before.tenant_id)
        .bind(affiliate)
        .bind(self.program_id)
        .bind(rule)
        .bind(from)
        .bind(self.order.converted_at)
        .bind(self.before.id)
        .fetch_one(connection)
        .await
    }

    /// The customer's orders in the program before this one.
    async fn customer(
        &self,
        connection: &mut PgConnection,
    ) -> Result<CustomerHistory, sqlx::Error> {
        let (first_order_at, orders): (Option<DateTime<Utc>>, i64) = sqlx::query_as(
            "SELECT min(converted_at), count(*) FROM conversions
             WHERE tenant_id = $1 AND customer_id = $2 AND program_id = $3 AND status NOT IN ('rejected', 'lead')
               AND (converted_at, id) < ($4, $5)",
        )
        .bind(self.before.tenant_id)
        .bind(self.order.customer_id)
        .bind(self.program_id)
        .bind(self.order.converted_at)
        .bind(self.before.id)
        .fetch_one(connection)
        .await?;
        Ok(CustomerHistory {
            first_order_at,
            orders: orders.unsigned_abs(),
        })
    }

    /// The rate at the time of the order; the first there is where it is older than all.
    async fn rate(
        &self,
        connection: &mut PgConnection,
        from: Currency,
        to: Currency,
    ) -> Result<Option<Decimal>, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT rate FROM exchange_rates WHERE tenant_id = $1 AND base = $2 AND quote = $3
             ORDER BY valid_from > $4, abs(extract(epoch FROM valid_from - $4)) LIMIT 1",
        )
        .bind(self.before.tenant_id)
        .bind(from.code())
        .bind(to.code())
        .bind(self.order.converted_at)
        .fetch_optional(connection)
        .await
    }
}

/// Of which time the rules are by which a conversion is priced, and the affiliates as they look at them.
pub(super) fn rules_at(before: &Before, order: &Order<'_>) -> DateTime<Utc> {
    before.rules_at.unwrap_or(order.converted_at)
}

fn looks_at_history(need: &Need) -> bool {
    !matches!(need, Need::Rate { .. })
}

/// Whether the rules in force let orders depend on those before them.
pub(super) fn looks_back(rules: &RuleSet, at: DateTime<Utc>) -> bool {
    rules.at(at).iter().any(|version| {
        let rule = version.rule.document();
        rule.tiers.is_some()
            || rule.cap.is_some()
            || rule.recurring.is_some()
            || rule.bonus.is_some()
    })
}

/// What rules look at, of all who share the order.
fn occasion(
    before: &Before,
    order: &Order<'_>,
    click: Option<&ClickFacts>,
    new_customer: Option<bool>,
) -> Occasion {
    let amount = order
        .currency
        .and_then(|currency| Money::new(order.amount, currency).ok());
    // A lead earns as a lead until it becomes more.
    let event = match order.status {
        Status::Lead => "lead",
        _ => before.event.as_str(),
    };
    let item = |item: &reports::Item| {
        Some(Item {
            product: item.product.clone(),
            category: item.category.clone(),
            quantity: item.quantity,
            amount: Money::new(item.amount, order.currency?).ok()?,
        })
    };
    let occasion = Occasion {
        items: order.items.iter().filter_map(item).collect(),
        coupon: order.coupon.unwrap_or_default().to_owned(),
        count: order.clicks.unwrap_or(1),
        customer: Customer {
            identified: order.customer_id.is_some(),
            new: new_customer,
        },
        ..Occasion::new(order.converted_at, event, amount)
    };
    match click {
        Some(click) => Occasion {
            campaign: click.campaign.clone(),
            country: click.country.clone(),
            device: click.device.clone(),
            subs: click.subs.clone(),
            ..occasion
        },
        None => occasion,
    }
}

/// A share as a whole number, of which all of an order have the same sum.
fn millionths(share: Decimal) -> u64 {
    let mut share = share;
    share.rescale(SHARE_DIGITS);
    u64::try_from(share.mantissa()).unwrap_or(0)
}

fn earned(part: &Part) -> Value {
    json!({"rule": part.rule.key, "id": part.rule.id, "version": part.rule.version, "amount": part.amount.amount(),
        "earned": part.earned.map(Money::amount)})
}
