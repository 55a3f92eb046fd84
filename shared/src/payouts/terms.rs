//! What a tenant says of its payouts' amounts, and what of a payout reaches the affiliate: pure.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::money::{Currency, Money};

/// Most fees of a tenant, and most minimums.
pub const MAX_TERMS: usize = 200;

/// What sending a payout costs the affiliate: percent and fixed together, at most `maximum`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fee {
    /// A kind of [`Method`](super::Method).
    pub method: String,
    /// ISO 4217.
    pub currency: String,
    #[serde(default)]
    pub percent: Decimal,
    #[serde(default)]
    pub fixed: Decimal,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Decimal>,
}

/// Minimums and fees. Of one method and currency the first fee counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// By currency: what has to be there before it is paid out.
    pub minimums: BTreeMap<String, Decimal>,
    pub fees: Vec<Fee>,
}

/// What becomes of a payout's amount; the three sum to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    pub fee: Decimal,
    /// Kept back as tax.
    pub withheld: Decimal,
    /// What is sent; above zero.
    pub net: Decimal,
}

impl Terms {
    /// What has to be there of this currency.
    #[must_use]
    pub fn minimum(&self, currency: Currency) -> Decimal {
        let minimum = self.minimums.get(currency.code());
        minimum.copied().unwrap_or_default()
    }

    /// Splits an amount; none when nothing would be left to send. Fee and tax are each rounded by the one rule; the tax is
    /// taken of the whole amount. `withholding_percent`: 0 to 100.
    #[must_use]
    pub fn split(
        &self,
        amount: Money,
        method: &str,
        withholding_percent: Decimal,
    ) -> Option<Split> {
        let currency = amount.currency();
        let fee = (self.fees.iter())
            .find(|fee| fee.method == method && fee.currency == currency.code())
            .map_or(Decimal::ZERO, |fee| {
                let fixed = fee.fixed.min(amount.amount());
                let exact = amount.amount() * fee.percent / Decimal::ONE_HUNDRED + fixed;
                let fee = fee.maximum.map_or(exact, |maximum| exact.min(maximum));
                currency.round(fee)
            });
        let withheld = amount.percent(withholding_percent).amount();
        let net = amount.amount() - fee - withheld;
        (net > Decimal::ZERO).then_some(Split { fee, withheld, net })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rust_decimal::dec;

    fn terms(percent: Decimal, fixed: Decimal, maximum: Option<Decimal>) -> Terms {
        Terms {
            minimums: BTreeMap::new(),
            fees: vec![Fee {
                method: "paypal".to_owned(),
                currency: "USD".to_owned(),
                percent,
                fixed,
                maximum,
            }],
        }
    }

    fn usd(amount: Decimal) -> Money {
        Money::new(amount, "USD".parse().unwrap()).unwrap()
    }

    #[test]
    fn fee_and_tax_are_taken_of_the_whole_amount() {
        let terms = terms(dec!(2), dec!(0.25), Some(dec!(1)));
        let split = |amount, method, tax| {
            let split = terms.split(usd(amount), method, tax)?;
            Some((split.fee, split.withheld, split.net))
        };
        // 2 % of 10.00 and 0.25; 30 % tax
        assert_eq!(
            split(dec!(10), "paypal", dec!(30)),
            Some((dec!(0.45), dec!(3), dec!(6.55)))
        );
        // 2 % of 12.25 is 0.245: with 0.25 half a cent goes up
        assert_eq!(
            split(dec!(12.25), "paypal", dec!(0)),
            Some((dec!(0.50), dec!(0), dec!(11.75)))
        );
        assert_eq!(
            split(dec!(1000), "paypal", dec!(0)),
            Some((dec!(1), dec!(0), dec!(999)))
        );
        assert_eq!(
            split(dec!(10), "bank", dec!(0)),
            Some((dec!(0), dec!(0), dec!(10)))
        );
        assert_eq!(split(dec!(0.25), "paypal", dec!(0)), None);
        assert_eq!(split(dec!(10), "paypal", dec!(100)), None);
    }

    #[test]
    fn terms_are_read_as_they_are_stored() {
        let fee: Fee = serde_json::from_str(
            r#"{"method": "paypal", "currency": "USD", "percent": "2", "fixed": "0.25"}"#,
        )
        .unwrap();
        assert_eq!(
            (fee.percent, fee.fixed, fee.maximum),
            (dec!(2), dec!(0.25), None)
        );
        let minimums: BTreeMap<String, Decimal> =
            serde_json::from_str(r#"{"USD": "50.00"}"#).unwrap();
        let terms = Terms {
            minimums,
            fees: vec![fee],
        };
        assert_eq!(terms.minimum("USD".parse().unwrap()), dec!(50));
        assert_eq!(terms.minimum("EUR".parse().unwrap()), dec!(0));
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole(
            cents in 1..100_000_000_i64, percent in 0..=1_000_000_i64, fixed in 0..10_000_i64, maximum in proptest::option::of(0..10_000_i64),
            tax in 0..=1_000_000_i64
        ) {
            let terms = terms(Decimal::new(percent, 4), Decimal::new(fixed, 2), maximum.map(|cents| Decimal::new(cents, 2)));
            let amount = Decimal::new(cents, 2);
            if let Some(split) = terms.split(usd(amount), "paypal", Decimal::new(tax, 4)) {
                prop_assert_eq!(split.fee + split.withheld + split.net, amount);
                prop_assert!(split.fee >= Decimal::ZERO && split.withheld >= Decimal::ZERO && split.net > Decimal::ZERO);
                for part in [split.fee, split.withheld, split.net] {
                    prop_assert!(part.normalize().scale() <= 2);
                }
            }
        }
    }
}
