//! An affiliate's accounts, and whether a statement of them adds up: pure.

use std::ops::{Add, AddAssign};

use rust_decimal::Decimal;

use super::Section;

/// What stands in each of an affiliate's accounts in one currency, or what was added to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Accounts {
    pub pending: Decimal,
    pub available: Decimal,
    pub in_payout: Decimal,
    /// Never positive in sum: what was paid and taken back since.
    pub clawback: Decimal,
    pub paid: Decimal,
}

impl Accounts {
    /// What the affiliate is owed: all but what was paid.
    pub(crate) fn owed(&self) -> Decimal {
        self.pending + self.available + self.in_payout + self.clawback
    }

    /// Each with its name in the ledger.
    pub(crate) fn named(&self) -> [(&'static str, Decimal); 5] {
        [
            ("pending", self.pending),
            ("available", self.available),
            ("in_payout", self.in_payout),
            ("clawback", self.clawback),
            ("paid", self.paid),
        ]
    }

    /// The account of that name in the ledger; none: an affiliate has no such account.
    pub(crate) fn account(&mut self, name: &str) -> Option<&mut Decimal> {
        match name {
            "pending" => Some(&mut self.pending),
            "available" => Some(&mut self.available),
            "in_payout" => Some(&mut self.in_payout),
            "clawback" => Some(&mut self.clawback),
            "paid" => Some(&mut self.paid),
            _ => None,
        }
    }
}

impl Add for Accounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            pending: self.pending + other.pending,
            available: self.available + other.available,
            in_payout: self.in_payout + other.in_payout,
            clawback: self.clawback + other.clawback,
            paid: self.paid + other.paid,
        }
    }
}

impl AddAssign for Accounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Why a statement must not be given out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("{account} {currency}: {what} are {found}, not {expected}")]
    Sum {
        currency: String,
        account: &'static str,
        what: &'static str,
        expected: Decimal,
        found: Decimal,
    },
    #[error("an affiliate has an account {0:?}, of which no statement knows")]
    UnknownAccount(String),
    #[error("a posting in {0}, in which the affiliate has no account")]
    UnknownCurrency(String),
}

/// Holds `found` against `expected`, account by account.
pub(crate) fn same(
    currency: &str,
    what: &'static str,
    expected: &Accounts,
    found: &Accounts,
) -> Result<(), Wrong> {
    for ((account, expected), (_, found)) in expected.named().into_iter().zip(found.named()) {
        if expected != found {
            return Err(Wrong::Sum {
                currency: currency.to_owned(),
                account,
                what,
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// Whether opening balances and movements are the closing balances, and the movements that are listed are all that
/// happened, where all are listed.
pub(crate) fn adds_up(section: &Section) -> Result<(), Wrong> {
    let sum =
        |amounts: &mut dyn Iterator<Item = Accounts>| amounts.fold(Accounts::default(), Add::add);
    let changes = sum(&mut section.changes.iter().map(|change| change.amounts));
    let currency = &section.currency;
    same(
        currency,
        "opening balances and movements",
        &section.closing,
        &(section.opening + changes),
    )?;
    if section.movements_left_out() > 0 {
        return Ok(());
    }
    let movements = sum(&mut section.movements.iter().map(|movement| movement.amounts));
    same(
        currency,
        "the movements that are listed",
        &changes,
        &movements,
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Movement};
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;
    use rust_decimal::dec;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    fn movement(reason: &str, amounts: Accounts) -> Movement {
        Movement {
            posted_at: DateTime::UNIX_EPOCH,
            currency: "USD".to_owned(),
            commission_id: Uuid::nil(),
            order_id: String::new(),
            event: String::new(),
            program: String::new(),
            product: None,
            part: String::new(),
            reason: reason.to_owned(),
            basis: Decimal::ZERO,
            amounts,
        }
    }

    /// A section as the database would sum it up.
    fn section(opening: Accounts, movements: Vec<Movement>) -> Section {
        let mut closing = opening;
        let mut changes: BTreeMap<String, Change> = BTreeMap::new();
        for movement in &movements {
            closing += movement.amounts;
            let change = changes
                .entry(movement.reason.clone())
                .or_insert_with(|| Change {
                    reason: movement.reason.clone(),
                    postings: 0,
                    amounts: Accounts::default(),
                });
            change.postings += 1;
            change.amounts += movement.amounts;
        }
        Section {
            currency: "USD".to_owned(),
            opening,
            closing,
            changes: changes.into_values().collect(),
            movements,
            ..Section::default()
        }
    }

    fn accounts() -> impl Strategy<Value = Accounts> {
        let amount = || (-1_000_000_i64..1_000_000).prop_map(|units| Decimal::new(units, 4));
        (amount(), amount(), amount(), amount(), amount()).prop_map(
            |(pending, available, in_payout, clawback, paid)| Accounts {
                pending,
                available,
                in_payout,
                clawback,
                paid,
            },
        )
    }

    fn movements() -> impl Strategy<Value = Vec<Movement>> {
        let reasons = prop::sample::select(vec!["earned", "approved", "refunded", "paid"]);
        prop::collection::vec((reasons, accounts()), 0..30).prop_map(|all| {
            all.into_iter()
                .map(|(reason, amounts)| movement(reason, amounts))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn opening_and_movements_are_closing(opening in accounts(), movements in movements()) {
            prop_assert_eq!(adds_up(&section(opening, movements)), Ok(()));
        }

        #[test]
        fn the_smallest_difference_anywhere_is_seen(opening in accounts(), movements in movements(), account in 0..5_usize, at in 0..4_usize) {
            let (name, _) = opening.named()[account];
            let mut wrong = section(opening, movements);
            let place = match at {
                0 => &mut wrong.opening,
                1 => &mut wrong.closing,
                2 if !wrong.changes.is_empty() => &mut wrong.changes[0].amounts,
                3 if !wrong.movements.is_empty() => &mut wrong.movements[0].amounts,
                _ => &mut wrong.closing,
            };
            *place.account(name).unwrap() += dec!(0.0001);
            prop_assert!(adds_up(&wrong).is_err());
        }
    }

    #[test]
    fn what_is_not_listed_counts_all_the_same() {
        let earned = Accounts {
            pending: dec!(5),
            ..Accounts::default()
        };
        let all = vec![movement("earned", earned), movement("earned", earned)];
        let mut long = section(Accounts::default(), all);
        long.movements.pop();
        assert_eq!(long.movements_left_out(), 1);
        assert_eq!(adds_up(&long), Ok(()));
        long.closing.pending = dec!(5);
        let wrong = adds_up(&long).unwrap_err().to_string();
        assert_eq!(
            wrong,
            "pending USD: opening balances and movements are 10, not 5"
        );
    }

    #[test]
    fn what_is_owed_is_less_by_a_debt_and_without_what_was_paid() {
        let accounts = Accounts {
            pending: dec!(1),
            available: dec!(2),
            in_payout: dec!(4),
            clawback: dec!(-0.5),
            paid: dec!(100),
        };
        assert_eq!(accounts.owed(), dec!(6.5));
    }
}
