//! Where a commission's money stands in the ledger, and what has to move: pure.
//!
//! A commission is not posted once and then corrected by hand-written steps. It has a *target* that follows from what is
//! known now, and the ledger gets the difference. So the same knowledge, however it came, ends in the same
//! accounts; nothing known twice is posted twice; and a reversal of everything ends at zero.

use rust_decimal::Decimal;
use tributary_shared::money::Currency;

/// The accounts of an affiliate over which one commission is spread. The sum is what the commission is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Earned, in its hold.
    pub(crate) pending: Decimal,
    /// To be paid out.
    pub(crate) available: Decimal,
    /// In a payout that is under way.
    pub(crate) in_payout: Decimal,
    pub(crate) paid: Decimal,
    /// Never positive: what was paid, or is being paid, and was taken back since.
    pub(crate) clawback: Decimal,
}

/// Whether what is not paid yet may be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Held,
    Over,
}

impl Position {
    pub(crate) fn total(&self) -> Decimal {
        self.pending + self.available + self.in_payout + self.paid + self.clawback
    }

    /// Where a commission of `worth` should stand, of which some may be in a payout or paid already.
    pub(crate) fn target(&self, worth: Decimal, hold: Hold) -> Self {
        let gone = self.in_payout + self.paid;
        let rest = (worth - gone).max(Decimal::ZERO);
        let (pending, available) = match hold {
            Hold::Held => (rest, Decimal::ZERO),
            Hold::Over => (Decimal::ZERO, rest),
        };
        Self {
            pending,
            available,
            in_payout: self.in_payout,
            paid: self.paid,
            clawback: (worth - gone).min(Decimal::ZERO),
        }
    }

    /// What has to be posted to each account to get from here to `target`; nothing of nothing.
    pub(crate) fn moves(&self, target: &Self) -> Vec<(&'static str, Decimal)> {
        [
            ("pending", target.pending - self.pending),
            ("available", target.available - self.available),
            ("in_payout", target.in_payout - self.in_payout),
            ("paid", target.paid - self.paid),
            ("clawback", target.clawback - self.clawback),
        ]
        .into_iter()
        .filter(|(_, amount)| !amount.is_zero())
        .collect()
    }
}

/// What is left of `gross` when `refunded` of `amount` was given back: the refund takes its proportion, rounded as
/// everything is; a refund of everything leaves nothing.
pub(crate) fn after_refund(
    gross: Decimal,
    amount: Decimal,
    refunded: Decimal,
    currency: Currency,
) -> Decimal {
    if refunded.is_zero() {
        return gross;
    }
    if refunded >= amount {
        return Decimal::ZERO;
    }
    // A product beyond what a Decimal holds can't be an amount of money that was accepted: both are bounded.
    let back = (gross.checked_mul(refunded))
        .and_then(|product| product.checked_div(amount))
        .map_or(gross, |exact| currency.round(exact));
    (gross - back).max(Decimal::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rust_decimal::dec;

    const NOTHING: Position = Position {
        pending: Decimal::ZERO,
        available: Decimal::ZERO,
        in_payout: Decimal::ZERO,
        paid: Decimal::ZERO,
        clawback: Decimal::ZERO,
    };

    #[test]
    fn a_commission_is_held_then_available() {
        let held = NOTHING.target(dec!(10), Hold::Held);
        assert_eq!(NOTHING.moves(&held), [("pending", dec!(10))]);
        let over = held.target(dec!(10), Hold::Over);
        assert_eq!(
            held.moves(&over),
            [("pending", dec!(-10)), ("available", dec!(10))]
        );
        assert!(over.moves(&over.target(dec!(10), Hold::Over)).is_empty());
    }

    #[test]
    fn what_is_paid_and_taken_back_becomes_a_debt() {
        let paid = Position {
            paid: dec!(10),
            ..NOTHING
        };
        let debt = paid.target(dec!(7), Hold::Over);
        assert_eq!(paid.moves(&debt), [("clawback", dec!(-3))]);
        // The debt was settled in a later payout.
        let settled = Position {
            paid: dec!(7),
            ..NOTHING
        };
        assert!(
            settled
                .moves(&settled.target(dec!(7), Hold::Over))
                .is_empty()
        );
        // The refund was a mistake.
        assert_eq!(
            debt.moves(&debt.target(dec!(10), Hold::Over)),
            [("clawback", dec!(3))]
        );
        assert_eq!(settled.target(dec!(10), Hold::Over).available, dec!(3));
    }

    #[test]
    fn a_refund_takes_its_proportion() {
        let eur = "EUR".parse().unwrap();
        let left = |gross, refunded| after_refund(gross, dec!(30), refunded, eur);
        assert_eq!(left(dec!(3.00), dec!(0)), dec!(3.00));
        assert_eq!(left(dec!(3.00), dec!(10)), dec!(2.00));
        assert_eq!(left(dec!(1.00), dec!(10)), dec!(0.67)); // 0.333 goes back as 0.33
        assert_eq!(left(dec!(1.00), dec!(30)), dec!(0));
        assert_eq!(after_refund(dec!(5), dec!(0), dec!(0), eur), dec!(5));
    }

    proptest! {
        #[test]
        fn a_target_is_worth_what_it_should_be(
            worth in 0..10_000_i64, in_payout in 0..5000_i64, paid in 0..5000_i64, before in 0..10_000_i64, held in any::<bool>()
        ) {
            let cents = |n: i64| Decimal::new(n, 2);
            let now = Position { in_payout: cents(in_payout), paid: cents(paid), ..NOTHING }.target(cents(before), Hold::Over);
            let hold = if held { Hold::Held } else { Hold::Over };
            let target = now.target(cents(worth), hold);
            prop_assert_eq!(target.total(), cents(worth));
            let moved: Decimal = now.moves(&target).iter().map(|(_, amount)| *amount).sum();
            prop_assert_eq!(moved, target.total() - now.total());
            prop_assert!(target.clawback <= Decimal::ZERO && target.pending >= Decimal::ZERO && target.available >= Decimal::ZERO);
            prop_assert!(target.clawback.is_zero() || (target.pending + target.available).is_zero());
            prop_assert!(target.moves(&target.target(cents(worth), hold)).is_empty());
        }

        /// Whatever happened to it, all accounts add up to nothing, and what was not paid is in none of them.
        #[test]
        fn a_reversal_of_everything_returns_to_zero(steps in proptest::collection::vec((0..10_000_i64, any::<bool>()), 0..8), paid in any::<bool>()) {
            let mut now = NOTHING;
            let mut posted = Decimal::ZERO;
            for (worth, held) in steps {
                let target = now.target(Decimal::new(worth, 2), if held { Hold::Held } else { Hold::Over });
                posted += now.moves(&target).iter().map(|(_, amount)| *amount).sum::<Decimal>();
                now = target;
                if paid {
                    // A payout takes what is available.
                    now = Position { available: Decimal::ZERO, paid: now.paid + now.available, ..now };
                }
            }
            let zero = now.target(Decimal::ZERO, Hold::Over);
            posted += now.moves(&zero).iter().map(|(_, amount)| *amount).sum::<Decimal>();
            prop_assert_eq!(posted, Decimal::ZERO);
            prop_assert_eq!((zero.pending, zero.available), (Decimal::ZERO, Decimal::ZERO));
            prop_assert_eq!(zero.clawback, -zero.paid);
            prop_assert!(paid || zero == NOTHING);
            prop_assert!(zero.moves(&zero.target(Decimal::ZERO, Hold::Over)).is_empty());
        }

        #[test]
        fn refunds_never_leave_more_nor_less_than_nothing(gross in 0..100_000_i64, amount in 1..100_000_i64, refunded in 0..100_000_i64) {
            let cents = |n: i64| Decimal::new(n, 2);
            let left = after_refund(cents(gross), cents(amount), cents(refunded.min(amount)), "EUR".parse().unwrap());
            prop_assert!(left >= Decimal::ZERO && left <= cents(gross));
        }
    }
}
