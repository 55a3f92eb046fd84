//! What must be known besides the order: the affiliate's history, the customer's, and the rate.
//!
//! The rules are pure; whoever prices asks [`needs`] first, loads what it lists, and no more. A
//! figure is always of the time before the order. Its key is small and has an order, so that it can
//! be locked, loaded and logged in a fixed one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::choose::{Version, applicable};
use super::exchange::pair;
use super::occasion::{Affiliate, Occasion, lines};
use super::price::PriceError;
use super::program::{PayIn, Program};
use super::rule::{BonusFor, Document, Measure, Period};
use crate::money::Currency;

/// A figure that is needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Of the affiliate's orders in the program, in the period that holds the order.
    Volume { by: Measure, period: Period },
    /// What the affiliate earned by the rule of this key, all versions, in the period: the sum of
    /// [`super::Part::earned`].
    Earned { rule: String, period: Period },
    /// The customer's orders that were credited in the program.
    Customer,
    /// How many orders were credited to the affiliate in the program.
    AffiliateOrders,
    /// What one unit of `from` is in `to`.
    Rate { from: Currency, to: Currency },
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { by, period } => {
                let by = match by {
                    Measure::Revenue => "revenue",
                    Measure::Orders => "number of orders",
                    Measure::Clicks => "number of clicks",
                };
                write!(f, "the affiliate's {by} {}", period.name())
            }
            Self::Earned { rule, period } => {
                write!(
                    f,
                    "what the affiliate earned by rule {rule:?} {}",
                    period.name()
                )
            }
            Self::Customer => f.write_str("the customer's earlier orders"),
            Self::AffiliateOrders => f.write_str("the number of the affiliate's orders"),
            Self::Rate { from, to } => write!(f, "the rate from {from} to {to}"),
        }
    }
}

/// Everything that is needed, in order.
pub type Needs = BTreeSet<Need>;

/// What was loaded.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub volumes: BTreeMap<(Measure, Period), Decimal>,
    /// By the rule's key; in the program's currency.
    pub earned: BTreeMap<(String, Period), Decimal>,
    pub customer: Option<CustomerHistory>,
    pub affiliate_orders: Option<u64>,
    /// What one unit of the first is in the second.
    pub rates: BTreeMap<(Currency, Currency), Decimal>,
}

/// A customer's orders before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CustomerHistory {
    /// When the first of them was accepted; none: this is the first.
    pub first_order_at: Option<DateTime<Utc>>,
    pub orders: u64,
}

impl Figures {
    pub(super) fn volume(&self, by: Measure, period: Period) -> Result<Decimal, PriceError> {
        let volume = self.volumes.get(&(by, period)).copied();
        volume.ok_or(PriceError::Missing(Need::Volume { by, period }))
    }

    pub(super) fn earned(&self, rule: &str, period: Period) -> Result<Decimal, PriceError> {
        let rule = rule.to_owned();
        let key = (rule, period);
        self.earned.get(&key).copied().ok_or_else(|| {
            let (rule, period) = key;
            PriceError::Missing(Need::Earned { rule, period })
        })
    }

    pub(super) fn customer(&self) -> Result<CustomerHistory, PriceError> {
        self.customer.ok_or(PriceError::Missing(Need::Customer))
    }

    pub(super) fn affiliate_orders(&self) -> Result<u64, PriceError> {
        let orders = self.affiliate_orders;
        orders.ok_or(PriceError::Missing(Need::AffiliateOrders))
    }
}

/// What must be loaded before this is priced.
///
/// # Errors
/// The occasion is not one that can be priced.
pub fn needs(
    rules: &[&Version],
    program: &Program,
    occasion: &Occasion,
    affiliate: &Affiliate,
) -> Result<Needs, PriceError> {
    let lines = lines(occasion)?;
    let mut needs = Needs::new();
    for version in applicable(rules, occasion, affiliate, &lines).rules {
        let rule = &version.rule.document;
        let goal = rule.bonus.and_then(|bonus| bonus.volume);
        if let Some(tiers) = &rule.tiers {
            needs.insert(Need::Volume {
                by: tiers.by,
                period: tiers.period,
            });
        }
        if let Some(goal) = goal {
            needs.insert(Need::Volume {
                by: goal.by,
                period: goal.period,
            });
        }
        if let Some(cap) = rule.cap {
            needs.insert(Need::Earned {
                rule: version.key.clone(),
                period: cap.period,
            });
        }
        let bonus = rule.bonus.map(|bonus| bonus.occasion);
        if occasion.customer.identified
            && (rule.recurring.is_some() || bonus == Some(BonusFor::FirstOrderOfCustomer))
        {
            needs.insert(Need::Customer);
        }
        if bonus == Some(BonusFor::FirstOrderOfAffiliate) {
            needs.insert(Need::AffiliateOrders);
        }
        if let Some((from, to)) = pair(program, occasion)
            && (program.pay_in == PayIn::Program || has_amounts(rule))
        {
            needs.insert(Need::Rate { from, to });
        }
    }
    Ok(needs)
}

/// Whether something in the rule is in the program's currency and is paid or compared with orders.
fn has_amounts(rule: &Document) -> bool {
    rule.reward.flat.is_some()
        || rule.minimum.is_some()
        || rule.maximum.is_some()
        || rule.cap.is_some()
        || rule
            .bonus
            .and_then(|bonus| bonus.volume)
            .is_some_and(|goal| goal.by == Measure::Revenue)
}
