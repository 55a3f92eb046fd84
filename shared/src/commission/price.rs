//! The arithmetic: from rules and an order to commissions.
//!
//! Of the rules for commissions one is taken for each line of the order; what a rule gives for its
//! lines is a part, and the parts are one direct commission. Each bonus is a commission of its own.
//! In a part: percent of the lines plus flat, then uplift, then minimum, maximum and cap. Everything
//! is exact until a commission is rounded, once, by [`Money::rounded`]. Whatever can't be computed
//! is an error; nothing panics.

use rust_decimal::{Decimal, RoundingStrategy};

use super::choose::{Applicable, PassedOver, Version, applicable, why_before};
use super::exchange::{Exchange, Rate};
use super::explain::{Step, What, exact, number};
use super::figures::{Figures, Need};
use super::occasion::{Affiliate, CLICK, Line, Occasion, lines};
use super::program::Program;
use super::rule::{BonusFor, Document, Goal, Kind, Measure, Per};
use super::split::SplitError;
use super::uplines::uplines;
use crate::ids::AffiliateId;
use crate::money::{Currency, Money, MoneyError};

/// Why something can't be priced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    #[error("there is no rate from {from} to {to}")]
    NoRate { from: Currency, to: Currency },
    #[error("{0} is needed and was not given")]
    Missing(Need),
    #[error("an item is in {item}, the order in {order}")]
    MixedCurrencies { order: Currency, item: Currency },
    #[error("the numbers are too large to be computed exactly")]
    TooLarge,
}

impl From<SplitError> for PriceError {
    fn from(_: SplitError) -> Self {
        Self::TooLarge
    }
}

impl From<MoneyError> for PriceError {
    fn from(_: MoneyError) -> Self {
        Self::TooLarge
    }
}

/// Which version of which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    pub id: i64,
    pub key: String,
    pub version: i32,
}

impl RuleRef {
    fn new(version: &Version) -> Self {
        Self {
            id: version.id,
            key: version.key.clone(),
            version: version.version,
        }
    }
}

/// Why somebody gets a commission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommissionKind {
    /// For what he was credited with.
    Direct,
    /// On top, by a rule of kind bonus; there may be several, one for each rule.
    Bonus,
    /// For what an affiliate below him was credited with, so many levels down.
    Upline(u8),
}

/// What somebody earned, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commission {
    pub kind: CommissionKind,
    pub affiliate: AffiliateId,
    /// More than nothing.
    pub amount: Money,
    /// What it was computed of, of the order's currency: the affiliate's part of the lines that a
    /// rule was taken for; for an upline what its percentage is of. None where there was no amount.
    pub basis: Option<Money>,
    /// The rule that gave most of it.
    pub rule: RuleRef,
    /// What each rule gave; the amounts sum to the commission's. Empty for an upline.
    pub parts: Vec<Part>,
    /// The rate by which something was converted.
    pub rate: Option<Rate>,
    pub steps: Vec<Step>,
}

/// What one rule gave of a commission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub rule: RuleRef,
    pub amount: Money,
    /// The same in the program's currency: what counts towards the rule's cap. None where the
    /// commission is in another currency and needed no rate; a rule with a cap always has it.
    pub earned: Option<Money>,
}

/// Everything that was earned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Priced {
    /// The direct one, then bonuses, then uplines.
    pub commissions: Vec<Commission>,
    /// Why there is not more: what came to nothing.
    pub left_out: Vec<Step>,
}

/// Prices an order for one affiliate. `rules` are those in force, of [`super::RuleSet::at`];
/// `above` the affiliates over him, his parent first.
///
/// # Errors
/// A figure is missing, or a number is too large.
pub fn price(
    rules: &[&Version],
    program: &Program,
    occasion: &Occasion,
    affiliate: &Affiliate,
    above: &[AffiliateId],
    figures: &Figures,
) -> Result<Priced, PriceError> {
    if occasion.share.is_nothing() {
        let text = format!("affiliate {} is credited with nothing", affiliate.id);
        return Ok(Priced {
            left_out: vec![Step::new(What::Nothing, text)],
            ..Priced::default()
        });
    }
    let lines = lines(occasion)?;
    let Applicable {
        rules,
        mut passed_over,
    } = applicable(rules, occasion, affiliate, &lines);
    let pricing = Pricing {
        occasion,
        affiliate,
        figures,
        exchange: Exchange::new(program, occasion, figures),
    };
    let mut recurring = Vec::new();
    let mut in_time = Vec::new();
    for version in rules {
        match pricing.recurs(version)? {
            Ok(step) => {
                recurring.extend(step);
                in_time.push(version);
            }
            Err(why) => passed_over.add(version, &why),
        }
    }
    let (bonuses, commissions): (Vec<&Version>, Vec<&Version>) = in_time
        .into_iter()
        .partition(|version| version.rule.document.kind == Kind::Bonus);
    let mut priced = Priced::default();
    pricing.direct(&commissions, &lines, recurring, passed_over, &mut priced)?;
    for version in bonuses {
        pricing.bonus(version, &lines, &mut priced)?;
    }
    uplines(program, &pricing.exchange, affiliate.id, above, &mut priced)?;
    Ok(priced)
}

struct Pricing<'a> {
    occasion: &'a Occasion,
    affiliate: &'a Affiliate,
    figures: &'a Figures,
    exchange: Exchange,
}

/// What a rule gives for its lines, exactly.
struct Exact<'v> {
    version: &'v Version,
    amount: Decimal,
    basis: Decimal,
    steps: Vec<Step>,
}

impl Pricing<'_> {
    /// Whether the customer's earlier orders let a rule count: a step that says so, or why not.
    fn recurs(&self, version: &Version) -> Result<Result<Option<Step>, String>, PriceError> {
        let Some(recurring) = version.rule.document.recurring else {
            return Ok(Ok(None));
        };
        let step = |text: String| Ok(Ok(Some(Step::of(What::Recurring, version, &text))));
        if !self.occasion.customer.identified {
            return step(
                ": the customer is not known, so this counts as the first order".to_owned(),
            );
        }
        let history = self.figures.customer()?;
        let nth = history.orders.saturating_add(1);
        if let Some(most) = recurring.orders.filter(|most| nth > *most) {
            return Ok(Err(format!(
                "it counts {most} orders of a customer, this is number {nth}"
            )));
        }
        if let Some(first) = history.first_order_at
            && let Some(until) = recurring.until(first)
            && self.occasion.at >= until
        {
            return Ok(Err(format!(
                "it counted this customer's orders until {}",
                until.to_rfc3339()
            )));
        }
        step(format!(
            ": this is order {nth} of the customer, which counts"
        ))
    }

    fn direct(
        &self,
        rules: &[&Version],
        lines: &[Line<'_>],
        mut steps: Vec<Step>,
        mut passed_over: PassedOver,
        priced: &mut Priced,
    ) -> Result<(), PriceError> {
        self.exchange.begin();
        // Of each line the first rule that covers it.
        let taken: Vec<Option<usize>> = lines
            .iter()
            .map(|line| rules.iter().position(|version| covers(version, line)))
            .collect();
        let mut parts = Vec::new();
        for (index, version) in rules.iter().enumerate() {
            let its: Vec<&Line<'_>> = lines
                .iter()
                .zip(&taken)
                .filter(|(_, taken)| **taken == Some(index))
                .map(|(line, _)| line)
                .collect();
            if its.is_empty() {
                let before = lines
                    .iter()
                    .zip(&taken)
                    .find(|(line, _)| covers(version, line))
                    .and_then(|(_, taken)| rules.get((*taken)?));
                let why = before.map_or_else(String::new, |taken| why_before(taken, version));
                passed_over.add(version, &why);
            } else {
                parts.push(self.exact(version, &its)?);
            }
        }
        steps.splice(0..0, self.share()?);
        let passed_over = passed_over.into_steps();
        if parts.is_empty() {
            steps.extend(passed_over);
            let text = "no rule is for this, so nothing is earned".to_owned();
            steps.push(Step::new(What::Nothing, text));
            priced.left_out.extend(steps);
            return Ok(());
        }
        self.finish(CommissionKind::Direct, parts, steps, passed_over, priced)
    }

    fn bonus(
        &self,
        version: &Version,
        lines: &[Line<'_>],
        priced: &mut Priced,
    ) -> Result<(), PriceError> {
        self.exchange.begin();
        let Some(bonus) = version.rule.document.bonus else {
            return Ok(());
        };
        let reason = match bonus.occasion {
            BonusFor::EveryOrder => Ok("this counts".to_owned()),
            BonusFor::FirstOrderOfCustomer => self.first_of_customer()?,
            BonusFor::FirstOrderOfAffiliate => match self.figures.affiliate_orders()? {
                0 => Ok("this is the affiliate's first order".to_owned()),
                orders => Err(format!("the affiliate has {orders} orders already")),
            },
            BonusFor::VolumeReached => match bonus.volume {
                Some(goal) => self.reaches(goal, lines)?,
                None => Err("it names no volume".to_owned()),
            },
        };
        match reason {
            Ok(why) => {
                let its: Vec<&Line<'_>> =
                    lines.iter().filter(|line| covers(version, line)).collect();
                let mut steps = self.share()?;
                steps.push(Step::of(What::Bonus, version, &format!(": {why}")));
                let part = self.exact(version, &its)?;
                self.finish(CommissionKind::Bonus, vec![part], steps, Vec::new(), priced)
            }
            Err(why) => {
                let text = format!(" gives no bonus: {why}");
                priced.left_out.push(Step::of(What::Bonus, version, &text));
                Ok(())
            }
        }
    }

    fn first_of_customer(&self) -> Result<Result<String, String>, PriceError> {
        if !self.occasion.customer.identified {
            return Ok(if self.occasion.customer.new == Some(true) {
                Ok("the merchant says that the customer is new".to_owned())
            } else {
                Err("it is not known whether this is the customer's first order".to_owned())
            });
        }
        Ok(match self.figures.customer()?.orders {
            0 => Ok("this is the customer's first order".to_owned()),
            orders => Err(format!("the customer has {orders} orders already")),
        })
    }

    /// Whether this order is the one by which a volume gets there.
    fn reaches(
        &self,
        goal: Goal,
        lines: &[Line<'_>],
    ) -> Result<Result<String, String>, PriceError> {
        let before = self.figures.volume(goal.by, goal.period)?;
        let more = match goal.by {
            Measure::Revenue => self.exchange.order_to_program(basis(lines.iter())?)?,
            Measure::Orders if self.occasion.event == CLICK => Decimal::ZERO,
            Measure::Orders => Decimal::ONE,
            Measure::Clicks if self.occasion.event == CLICK => Decimal::from(self.occasion.count),
            Measure::Clicks => Decimal::ZERO,
        };
        let after = before.checked_add(more).ok_or(PriceError::TooLarge)?;
        let reached = goal.reaches.0;
        let text = format!(
            "the volume {} goes from {} to {}, and {} is to be reached",
            goal.period.name(),
            number(before),
            number(after),
            number(reached)
        );
        Ok(if before < reached && after >= reached {
            Ok(text)
        } else {
            Err(text)
        })
    }

    /// What a rule gives for its lines.
    fn exact<'v>(
        &self,
        version: &'v Version,
        lines: &[&Line<'_>],
    ) -> Result<Exact<'v>, PriceError> {
        let rule = &version.rule.document;
        let mut part = Exact {
            version,
            amount: Decimal::ZERO,
            basis: basis(lines.iter().copied())?,
            steps: Vec::new(),
        };
        let (percent, flat) = self.rates(&mut part)?;
        if let Some(percent) = percent {
            self.add_percent(&mut part, percent)?;
        }
        if let Some(flat) = flat {
            self.add_flat(&mut part, flat, lines)?;
        }
        self.uplift(rule, &mut part)?;
        self.bound(rule, &mut part)?;
        self.cap(rule, &mut part)?;
        Ok(part)
    }

    /// Percent and flat, by the volume where the rule has tiers.
    fn rates(
        &self,
        part: &mut Exact<'_>,
    ) -> Result<(Option<Decimal>, Option<Decimal>), PriceError> {
        let rule = &part.version.rule.document;
        let (mut percent, mut flat) = (rule.reward.percent, rule.reward.flat);
        if let Some(tiers) = &rule.tiers {
            let volume = self.figures.volume(tiers.by, tiers.period)?;
            let step = tiers.steps.iter().rfind(|step| step.from.0 <= volume);
            let period = tiers.period.name();
            let volume = number(volume);
            part.step(
                What::Tier,
                &match step {
                    Some(step) => format!(
                        ": the volume {period} was {volume}, so the step from {} on holds",
                        number(step.from.0)
                    ),
                    None => format!(": the volume {period} was {volume}, below the first step"),
                },
            );
            if let Some(step) = step {
                percent = step.percent.or(percent);
                flat = step.flat.or(flat);
            }
        }
        Ok((percent.map(|p| p.0), flat.map(|f| f.0)))
    }

    fn add_percent(&self, part: &mut Exact<'_>, percent: Decimal) -> Result<(), PriceError> {
        let pay = self.exchange.pay;
        let basis = self.exchange.order_to_pay(part.basis)?;
        let given = per_cent(basis, percent)?;
        part.add(given)?;
        part.step(
            What::Percent,
            &format!(
                ": {} % of {} = {}",
                number(percent),
                exact(basis, pay),
                exact(given, pay)
            ),
        );
        Ok(())
    }

    fn add_flat(
        &self,
        part: &mut Exact<'_>,
        flat: Decimal,
        lines: &[&Line<'_>],
    ) -> Result<(), PriceError> {
        let pay = self.exchange.pay;
        let bought = lines.iter().filter(|line| line.bought);
        let pieces: u64 = match part.version.rule.document.reward.per.unwrap_or_default() {
            Per::Order => u64::from(bought.count() > 0),
            Per::Item => bought.map(|_| 1).sum(),
            Per::Unit => bought.map(|line| u64::from(line.quantity)).sum(),
        };
        let times = pieces
            .checked_mul(self.occasion.count)
            .ok_or(PriceError::TooLarge)?;
        let all = flat
            .checked_mul(Decimal::from(times))
            .ok_or(PriceError::TooLarge)?;
        // Split before it is converted, so that the affiliates' parts sum to the whole.
        let currency = self.exchange.program;
        let credited = if is_of_the_affiliate(&part.version.rule.document) {
            all
        } else {
            self.occasion.share.of(all, currency.minor_digits())?
        };
        let given = self.exchange.program_to_pay(credited)?;
        part.add(given)?;
        let mut text = match self.occasion.event.as_str() {
            CLICK => format!(": {times} clicks at {}", exact(flat, currency)),
            _ => format!(": {times} × {}", exact(flat, currency)),
        };
        if credited != all {
            text.push_str(&format!(
                ", of which {} is credited,",
                exact(credited, currency)
            ));
        }
        text.push_str(&format!(" = {}", exact(given, pay)));
        part.step(What::Flat, &text);
        Ok(())
    }

    fn uplift(&self, rule: &Document, part: &mut Exact<'_>) -> Result<(), PriceError> {
        let who = self.affiliate;
        let mut sum = Decimal::ZERO;
        let mut names = Vec::new();
        for uplift in &rule.uplift {
            let holds = [
                ("tier", &uplift.tier, std::slice::from_ref(&who.tier)),
                ("group", &uplift.group, &who.groups),
                ("tag", &uplift.tag, &who.tags),
                ("certification", &uplift.certification, &who.certifications),
            ]
            .into_iter()
            .find_map(|(kind, name, of)| {
                let name = name.as_ref().filter(|name| of.contains(name))?;
                Some(format!("{kind} {name}"))
            });
            if let Some(name) = holds {
                sum = sum
                    .checked_add(uplift.percent.0)
                    .ok_or(PriceError::TooLarge)?;
                names.push(name);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        let more = per_cent(part.amount, sum)?;
        part.add(more)?;
        let pay = self.exchange.pay;
        let text = format!(
            ": {} % more for {} = {}",
            number(sum),
            names.join(" and "),
            exact(part.amount, pay)
        );
        part.step(What::Uplift, &text);
        Ok(())
    }

    /// Minimum and maximum. Nothing stays nothing.
    fn bound(&self, rule: &Document, part: &mut Exact<'_>) -> Result<(), PriceError> {
        let pay = self.exchange.pay;
        if part.amount.is_zero() {
            return Ok(());
        }
        if let Some(minimum) = rule.minimum {
            let least = Money::rounded(self.exchange.program_to_pay(minimum.0)?, pay)?.amount();
            if part.amount < least {
                let text = format!(
                    ": {} is less than the minimum of {}",
                    exact(part.amount, pay),
                    exact(least, pay)
                );
                part.amount = least;
                part.step(What::Minimum, &text);
            }
        }
        if let Some(maximum) = rule.maximum {
            let most = self.at_most(maximum.0)?;
            if part.amount > most {
                let text = format!(
                    ": {} is more than the maximum of {}",
                    exact(part.amount, pay),
                    exact(most, pay)
                );
                part.amount = most;
                part.step(What::Maximum, &text);
            }
        }
        Ok(())
    }

    fn cap(&self, rule: &Document, part: &mut Exact<'_>) -> Result<(), PriceError> {
        let Some(cap) = rule.cap else { return Ok(()) };
        let pay = self.exchange.pay;
        let earned = self.figures.earned(&part.version.key, cap.period)?;
        let left = cap
            .amount
            .0
            .checked_sub(earned)
            .ok_or(PriceError::TooLarge)?;
        let left = self.at_most(left.max(Decimal::ZERO))?;
        if part.amount > left {
            let text = format!(
                ": {} is cut to {}, because {} of at most {} {} was earned already",
                exact(part.amount, pay),
                exact(left, pay),
                number(earned),
                exact(cap.amount.0, self.exchange.program),
                cap.period.name()
            );
            part.amount = left;
            part.step(What::Cap, &text);
        }
        Ok(())
    }

    /// A bound of the program's currency in the one that is paid in, rounded so that what keeps to
    /// it before it is rounded keeps to it after.
    fn at_most(&self, bound: Decimal) -> Result<Decimal, PriceError> {
        let digits = self.exchange.pay.minor_digits();
        let bound = self.exchange.program_to_pay(bound)?;
        Ok(bound.round_dp_with_strategy(digits, RoundingStrategy::ToZero))
    }

    /// What the affiliate has of an order that others have a part in.
    fn share(&self) -> Result<Vec<Step>, PriceError> {
        if self.occasion.share.is_whole() {
            return Ok(Vec::new());
        }
        let share = number(self.occasion.share.fraction()?);
        let text = match self.occasion.amount {
            Some(amount) => format!(
                "affiliate {} is credited with {share} of {amount}",
                self.affiliate.id
            ),
            None => format!("affiliate {} is credited with {share}", self.affiliate.id),
        };
        Ok(vec![Step::new(What::Share, text)])
    }

    /// Makes a commission of its parts, rounding it once.
    fn finish(
        &self,
        kind: CommissionKind,
        exact_parts: Vec<Exact<'_>>,
        mut steps: Vec<Step>,
        passed_over: Vec<Step>,
        priced: &mut Priced,
    ) -> Result<(), PriceError> {
        let pay = self.exchange.pay;
        let add = |a: Decimal, b: Decimal| a.checked_add(b).ok_or(PriceError::TooLarge);
        let (mut sum, mut basis) = (Decimal::ZERO, Decimal::ZERO);
        let mut parts = Vec::with_capacity(exact_parts.len());
        let mut leading: Option<(Decimal, RuleRef)> = None;
        for part in exact_parts {
            // The part is what the rounded sum grows by, so that the parts sum to the commission.
            let before = Money::rounded(sum, pay)?;
            sum = add(sum, part.amount)?;
            basis = add(basis, part.basis)?;
            let grown = Money::rounded(sum, pay)?.amount() - before.amount();
            let rule = RuleRef::new(part.version);
            parts.push(Part {
                rule: rule.clone(),
                amount: Money::new(grown, pay)?,
                earned: self.exchange.pay_to_program(grown)?,
            });
            if leading.as_ref().is_none_or(|(most, _)| part.amount > *most) {
                leading = Some((part.amount, rule));
            }
            steps.extend(part.steps);
        }
        let amount = Money::rounded(sum, pay)?;
        let rate = self.exchange.used();
        if let Some(rate) = rate {
            steps.push(Step::new(What::Rate, format!("converted by {rate}")));
        }
        if parts.len() > 1 || sum != amount.amount() {
            let text = format!("the sum of {} is rounded to {amount}", exact(sum, pay));
            steps.push(Step::new(What::Rounded, text));
        }
        steps.extend(passed_over);
        let Some((_, rule)) = leading.filter(|_| !amount.is_zero()) else {
            let text = "that comes to nothing".to_owned();
            steps.push(Step::new(What::Nothing, text));
            priced.left_out.extend(steps);
            return Ok(());
        };
        let basis = self
            .occasion
            .amount
            .map(|order| Money::new(basis, order.currency()));
        priced.commissions.push(Commission {
            kind,
            affiliate: self.affiliate.id,
            amount,
            basis: basis.transpose()?,
            rule,
            parts,
            rate,
            steps,
        });
        Ok(())
    }
}

impl Exact<'_> {
    fn add(&mut self, amount: Decimal) -> Result<(), PriceError> {
        self.amount = self
            .amount
            .checked_add(amount)
            .ok_or(PriceError::TooLarge)?;
        Ok(())
    }

    fn step(&mut self, what: What, text: &str) {
        self.steps.push(Step::of(what, self.version, text));
    }
}

fn covers(version: &Version, line: &Line<'_>) -> bool {
    version.rule.document.scope.covers(line)
}

/// Whether what is paid is for the affiliate's own history. Nobody has a part in that, so a flat
/// amount is paid whole.
fn is_of_the_affiliate(rule: &Document) -> bool {
    rule.bonus.is_some_and(|bonus| {
        matches!(
            bonus.occasion,
            BonusFor::FirstOrderOfAffiliate | BonusFor::VolumeReached
        )
    })
}

fn basis<'l, 'o: 'l>(mut lines: impl Iterator<Item = &'l Line<'o>>) -> Result<Decimal, PriceError> {
    lines
        .try_fold(Decimal::ZERO, |sum, line| sum.checked_add(line.amount))
        .ok_or(PriceError::TooLarge)
}

/// `percent` per cent of `amount`, exactly.
pub(super) fn per_cent(amount: Decimal, percent: Decimal) -> Result<Decimal, PriceError> {
    amount
        .checked_mul(percent)
        .and_then(|hundredfold| hundredfold.checked_div(Decimal::ONE_HUNDRED))
        .ok_or(PriceError::TooLarge)
}
