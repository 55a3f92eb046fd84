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

    /// Where it stands once a payout has taken all that is available and what is owed back, and the payout's part of it:
    /// negative when that is a debt.
    pub(crate) fn drafted(&self) -> (Self, Decimal) {
        let part = self.available + self.clawback;
        let drafted = Self {
            available: Decimal::ZERO,
            in_payout: self.in_payout + part,
            clawback: Decimal::ZERO,
            ..*self
        };
        (drafted, part)
    }

    /// Where it stands once a payout that holds `part` of it is paid.
    pub(crate) fn paid_out(&self, part: Decimal) -> Self {
        Self {
            in_payout: self.in_payout - part,
            paid: self.paid + part,
            ..*self
        }
    }

    /// Where it stands once a payout that holds `part` of it was cancelled: that is to be paid again, less what was taken
    /// back meanwhile.
    pub(crate) fn returned(&self, part: Decimal) -> Self {
        let open = self.available + self.clawback + part;
        Self {
            available: open.max(Decimal::ZERO),
            in_payout: self.in_payout - part,
            clawback: open.min(Decimal::ZERO),
            ..*self
        }
    }

    /// How a commission that stands like this is called. `gross`: before refunds; `before`: how it was called until now.
    pub(crate) fn state(
        &self,
        gross: Decimal,
        rejected: bool,
        hold: Hold,
        before: Option<&str>,
    ) -> &'static str {
        let gone = self.in_payout + self.paid;
        let open = self.pending + self.available;
        if self.total().is_zero() && (!gross.is_zero() || rejected) {
            // A debt that was settled since leaves nothing in the accounts; it was clawed back all the same.
            return if gone.is_zero() && before != Some("clawed_back") {
                "rejected"
            } else {
                "clawed_back"
            };
        }
        if open.is_zero() && self.paid > Decimal::ZERO && self.in_payout <= Decimal::ZERO {
            return "paid";
        }
        match hold {
            Hold::Held if gone.is_zero() => "pending",
            _ => "approved",
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
    fn a_payout_takes_what_is_available_and_what_is_owed_back() {
        let available = NOTHING.target(dec!(10), Hold::Over);
        let (drafted, part) = available.drafted();
        assert_eq!((drafted.in_payout, part), (dec!(10), dec!(10)));
        assert_eq!(drafted.returned(part), available);
        // A refund while it is under way, which a cancelled payout has no more to claim.
        let refunded = drafted.target(dec!(7), Hold::Over);
        assert_eq!(
            (refunded.clawback, refunded.returned(part).available),
            (dec!(-3), dec!(7))
        );
        let owing = refunded.paid_out(part);
        let (drafted, debt) = owing.drafted();
        assert_eq!((debt, drafted.in_payout), (dec!(-3), dec!(-3)));
        assert_eq!(
            drafted.paid_out(debt),
            Position {
                paid: dec!(7),
                ..NOTHING
            }
        );
        assert_eq!(drafted.returned(debt), owing);
    }

    #[test]
    fn a_commission_is_called_by_where_it_stands() {
        let called = |at: &Position, before| at.state(dec!(10), false, Hold::Over, before);
        let available = NOTHING.target(dec!(10), Hold::Over);
        let (drafted, part) = available.drafted();
        assert_eq!(called(&available, None), "approved");
        assert_eq!(called(&drafted, None), "approved");
        let paid = drafted.paid_out(part);
        assert_eq!(called(&paid, None), "paid");
        let rejected = paid.target(dec!(0), Hold::Over);
        assert_eq!(called(&rejected, None), "clawed_back");
        let (settling, debt) = rejected.drafted();
        assert_eq!(called(&settling, Some("clawed_back")), "clawed_back");
        assert_eq!(
            called(&settling.paid_out(debt), Some("clawed_back")),
            "clawed_back"
        );
        assert_eq!(called(&NOTHING, None), "rejected");
        // In part: it stays paid while what is owed back is on its way.
        let partly = paid.target(dec!(7), Hold::Over).drafted().0;
        assert_eq!(called(&partly, None), "paid");
        let held = NOTHING.target(dec!(10), Hold::Held);
        assert_eq!(held.state(dec!(10), false, Hold::Held, None), "pending");
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

        /// Settlements and a payout's steps in any order: what it is worth is what it was settled at last, and nothing is
        /// made nor lost between the accounts.
        #[test]
        fn payouts_and_settlements_may_come_in_any_order(steps in proptest::collection::vec((0..6_u8, 0..10_000_i64), 1..40)) {
            let cents = |n: i64| Decimal::new(n, 2);
            let (mut at, mut worth) = (NOTHING, Decimal::ZERO);
            let (mut part, mut sent): (Option<Decimal>, Decimal) = (None, Decimal::ZERO);
            for (step, number) in steps {
                let before = at;
                match (step, part) {
                    (0, _) => { worth = cents(number); at = at.target(worth, Hold::Held); }
                    (1, _) => { worth = cents(number); at = at.target(worth, Hold::Over); }
                    (2 | 3, None) => {
                        let (drafted, took) = at.drafted();
                        at = drafted;
                        part = (!took.is_zero()).then_some(took);
                        prop_assert!(at.available.is_zero() && at.clawback.is_zero());
                    }
                    (4, Some(held)) => { at = at.paid_out(held); sent += held; part = None; }
                    (5, Some(held)) => { at = at.returned(held); part = None; }
                    _ => {}
                }
                prop_assert_eq!(at.total(), worth);
                prop_assert_eq!(at.in_payout, part.unwrap_or_default());
                prop_assert_eq!(at.paid, sent);
                prop_assert!(at.clawback <= Decimal::ZERO && at.pending >= Decimal::ZERO && at.available >= Decimal::ZERO);
                let moved: Decimal = before.moves(&at).iter().map(|(_, amount)| *amount).sum();
                prop_assert_eq!(moved, at.total() - before.total());
            }
            // Everything is reversed: the open payout comes back, the debt is settled, and nothing is left.
            if let Some(held) = part {
                at = at.returned(held);
            }
            at = at.target(Decimal::ZERO, Hold::Over);
            let (drafted, took) = at.drafted();
            prop_assert_eq!(took, -sent);
            prop_assert_eq!(drafted.paid_out(took), NOTHING);
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
