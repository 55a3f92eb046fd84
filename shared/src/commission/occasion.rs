//! What a commission is computed of: an order, a lead or clicks, and who is credited.
//!
//! An order's amount is the truth, its items divide it: what the items leave over (postage) is a
//! line of its own, what they have too much (a discount on the whole order) is taken off each in
//! proportion. So the lines always sum to the order's amount, and the affiliates' parts of each
//! line to that line.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::price::PriceError;
use super::split::{Share, split};
use crate::ids::AffiliateId;
use crate::money::{Currency, Money};

/// The event of clicks that are paid for as such.
pub const CLICK: &str = "click";
/// The event that a rule is for when it says nothing else.
pub const SALE: &str = "sale";

/// Something that may earn commissions.
#[derive(Debug, Clone)]
pub struct Occasion {
    /// When it was accepted; decides windows, periods and which version of a rule is in force.
    pub at: DateTime<Utc>,
    /// `sale`, `lead`, `click` or the merchant's own.
    pub event: String,
    /// What the order is worth; none for clicks, and for leads without a value.
    pub amount: Option<Money>,
    /// What was bought; empty: one line.
    pub items: Vec<Item>,
    /// How many of it: 1, or the number of clicks that are priced together.
    pub count: u64,
    /// Empty: none. So with every text here.
    pub coupon: String,
    pub campaign: String,
    pub country: String,
    pub device: String,
    /// `sub1` to `sub5`.
    pub subs: [String; 5],
    pub customer: Customer,
    /// The part that the affiliate is credited with.
    pub share: Share,
}

impl Occasion {
    /// One of `event` at `at`, of which nothing else is known.
    #[must_use]
    pub fn new(at: DateTime<Utc>, event: &str, amount: Option<Money>) -> Self {
        Self {
            at,
            event: event.to_owned(),
            amount,
            items: Vec::new(),
            count: 1,
            coupon: String::new(),
            campaign: String::new(),
            country: String::new(),
            device: String::new(),
            subs: Default::default(),
            customer: Customer::default(),
            share: Share::whole(),
        }
    }
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub product: String,
    /// Empty: not said.
    pub category: String,
    pub quantity: u32,
    /// Of the whole line, in the order's currency.
    pub amount: Money,
}

/// Whose order it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Customer {
    /// Whether the merchant said who he is: only then can his history be known.
    pub identified: bool,
    /// Whether he is new to the merchant; none: not known.
    pub new: Option<bool>,
}

/// Who is credited, as rules look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affiliate {
    pub id: AffiliateId,
    /// Empty: none.
    pub tier: String,
    pub groups: Vec<String>,
    pub tags: Vec<String>,
    pub certifications: Vec<String>,
}

impl Affiliate {
    /// One of whom only the id is known.
    #[must_use]
    pub fn new(id: AffiliateId) -> Self {
        Self {
            id,
            tier: String::new(),
            groups: Vec::new(),
            tags: Vec::new(),
            certifications: Vec::new(),
        }
    }
}

/// An affiliate's part of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'o> {
    pub(super) product: &'o str,
    pub(super) category: &'o str,
    pub(super) quantity: u32,
    /// Whether it was bought; otherwise it is what the items leave over of the order's amount.
    pub(super) bought: bool,
    /// Of the order's currency; 0 where the occasion has no amount.
    pub(super) amount: Decimal,
}

/// The affiliate's part of each line of the occasion, at least one.
pub(super) fn lines(occasion: &Occasion) -> Result<Vec<Line<'_>>, PriceError> {
    let mut lines: Vec<Line<'_>> = occasion
        .items
        .iter()
        .map(|item| Line {
            product: &item.product,
            category: &item.category,
            quantity: item.quantity,
            bought: true,
            amount: Decimal::ZERO,
        })
        .collect();
    let rest = Line {
        product: "",
        category: "",
        quantity: 1,
        bought: lines.is_empty(),
        amount: Decimal::ZERO,
    };
    if let Some(order) = occasion.amount {
        let (amounts, left) = divide(order, &occasion.items)?;
        for (line, amount) in lines.iter_mut().zip(amounts) {
            line.amount = credited(occasion, amount, order.currency())?;
        }
        if lines.is_empty() || !left.is_zero() {
            lines.push(Line {
                amount: credited(occasion, left, order.currency())?,
                ..rest
            });
        }
    } else if lines.is_empty() {
        lines.push(rest);
    }
    Ok(lines)
}

fn credited(
    occasion: &Occasion,
    amount: Decimal,
    currency: Currency,
) -> Result<Decimal, PriceError> {
    Ok(occasion.share.of(amount, currency.minor_digits())?)
}

/// What each item has of the order's amount, and what they leave over.
fn divide(order: Money, items: &[Item]) -> Result<(Vec<Decimal>, Decimal), PriceError> {
    let mut sum = Decimal::ZERO;
    for item in items {
        if item.amount.currency() != order.currency() {
            return Err(PriceError::MixedCurrencies {
                order: order.currency(),
                item: item.amount.currency(),
            });
        }
        sum = sum
            .checked_add(item.amount.amount())
            .ok_or(PriceError::TooLarge)?;
    }
    let amounts = items.iter().map(|item| item.amount.amount());
    if sum <= order.amount() {
        return Ok((amounts.collect(), order.amount() - sum));
    }
    // Amounts of one currency have the same number of digits.
    let weights = amounts
        .map(|amount| u64::try_from(amount.mantissa()).map_err(|_| PriceError::TooLarge))
        .collect::<Result<Vec<_>, _>>()?;
    let cut = split(order, &weights)?;
    Ok((cut.into_iter().map(Money::amount).collect(), Decimal::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rust_decimal::dec;

    fn order(amount: &str, items: &[&str]) -> Occasion {
        let mut occasion = Occasion::new(
            DateTime::UNIX_EPOCH,
            SALE,
            Some(Money::parse(amount, "EUR").unwrap()),
        );
        occasion.items = items
            .iter()
            .map(|amount| Item {
                product: "p".to_owned(),
                category: String::new(),
                quantity: 1,
                amount: Money::parse(amount, "EUR").unwrap(),
            })
            .collect();
        occasion
    }

    fn amounts(occasion: &Occasion) -> Vec<(Decimal, bool)> {
        lines(occasion)
            .unwrap()
            .iter()
            .map(|line| (line.amount, line.bought))
            .collect()
    }

    #[test]
    fn the_orders_amount_is_the_truth() {
        assert_eq!(amounts(&order("50", &[])), [(dec!(50.00), true)]);
        // Postage of 5 is a line that nobody bought.
        assert_eq!(
            amounts(&order("50", &["45"])),
            [(dec!(45.00), true), (dec!(5.00), false)]
        );
        // A discount of half the order halves each line.
        assert_eq!(
            amounts(&order("50", &["60", "40"])),
            [(dec!(30.00), true), (dec!(20.00), true)]
        );
        assert_eq!(amounts(&order("0", &["60"])), [(dec!(0.00), true)]);
    }

    #[test]
    fn an_item_in_another_currency_is_refused() {
        let mut occasion = order("50", &["50"]);
        occasion.items[0].amount = Money::parse("50", "USD").unwrap();
        assert!(matches!(
            lines(&occasion),
            Err(PriceError::MixedCurrencies { .. })
        ));
    }

    proptest! {
        #[test]
        fn the_affiliates_parts_of_all_lines_sum_to_the_order(
            cents in 0..10_000_000_i64,
            items in prop::collection::vec(0..1_000_000_i64, 0..6),
            weights in prop::collection::vec(0..1_000_u64, 1..6),
        ) {
            let mut occasion = order("0", &[]);
            let money = |cents| Money::new(Decimal::new(cents, 2), "EUR".parse().unwrap()).unwrap();
            occasion.amount = Some(money(cents));
            occasion.items = items
                .into_iter()
                .map(|cents| Item { product: "p".to_owned(), category: String::new(), quantity: 1, amount: money(cents) })
                .collect();
            let mut sum = Decimal::ZERO;
            for index in 0..weights.len() {
                occasion.share = Share::new(weights.clone(), index).unwrap();
                sum += lines(&occasion).unwrap().iter().map(|line| line.amount).sum::<Decimal>();
            }
            prop_assert_eq!(sum, Decimal::new(cents, 2));
        }
    }
}
