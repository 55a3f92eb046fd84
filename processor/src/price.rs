//! What is earned: a pure decision over the order, the program's rule and the time.

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use tributary_shared::money::Money;

/// A version of a program's commission rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) id: i64,
    pub(crate) version: i32,
    /// 0 to 100.
    pub(crate) percent: Decimal,
    /// How long the commission is held back for refunds.
    pub(crate) hold_seconds: i64,
}

/// What a rule makes of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Price {
    pub(crate) commission: Money,
    pub(crate) hold_until: DateTime<Utc>,
}

/// Prices an order accepted at `accepted_at`.
pub(crate) fn price(order: Money, rule: &Rule, accepted_at: DateTime<Utc>) -> Price {
    Price {
        commission: order.percent(rule.percent),
        hold_until: accepted_at + TimeDelta::seconds(rule.hold_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_decimal::dec;

    #[test]
    fn a_percentage_is_held_from_the_time_of_the_order() {
        let rule = Rule {
            id: 1,
            version: 3,
            percent: dec!(12.5),
            hold_seconds: 86_400,
        };
        let accepted_at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let priced = price(Money::parse("33.33", "EUR").unwrap(), &rule, accepted_at);
        assert_eq!(priced.commission.to_string(), "4.17 EUR");
        assert_eq!(priced.hold_until.timestamp(), 1_700_086_400);
    }
}
