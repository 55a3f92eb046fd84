//! Dividing what can't be divided: parts by weight that sum to the whole, to the last unit.
//!
//! By the largest remainder: each part gets the units that are surely its own, and those that are
//! left over go one each to the largest remainders, of equal ones to the first. The same weights
//! always give the same parts.

use rust_decimal::Decimal;

use crate::money::Money;

/// Most parts that something is split into.
pub const MAX_PARTS: usize = 1_000;

/// Digits after the point in [`shares`].
pub const SHARE_DIGITS: u32 = 6;

/// Why something can't be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("there must be 1 to {MAX_PARTS} parts")]
    Parts,
    #[error("the part must be one of the parts")]
    NoSuchPart,
    #[error("the numbers are too large to be split exactly")]
    TooLarge,
}

/// Splits `total` by `weights`. Where every weight is 0 all count alike.
///
/// # Errors
/// There are no weights, or too many.
pub fn split(total: Money, weights: &[u64]) -> Result<Vec<Money>, SplitError> {
    let digits = total.currency().minor_digits();
    split_decimal(total.amount(), digits, weights)?
        .into_iter()
        .map(|part| Money::new(part, total.currency()).map_err(|_| SplitError::TooLarge))
        .collect()
}

/// Shares by `weights`, of [`SHARE_DIGITS`] digits, that sum to exactly 1.
///
/// # Errors
/// As [`split`].
pub fn shares(weights: &[u64]) -> Result<Vec<Decimal>, SplitError> {
    split_decimal(Decimal::ONE, SHARE_DIGITS, weights)
}

/// Splits a number that is not negative into parts of at least `digits` digits after the point.
fn split_decimal(total: Decimal, digits: u32, weights: &[u64]) -> Result<Vec<Decimal>, SplitError> {
    let mut total = total;
    if total.scale() < digits {
        total.rescale(digits);
        if total.scale() != digits {
            return Err(SplitError::TooLarge);
        }
    }
    let units = u128::try_from(total.mantissa()).map_err(|_| SplitError::TooLarge)?;
    split_units(units, weights)?
        .into_iter()
        .map(|part| {
            let part = i128::try_from(part).map_err(|_| SplitError::TooLarge)?;
            Decimal::try_from_i128_with_scale(part, total.scale()).map_err(|_| SplitError::TooLarge)
        })
        .collect()
}

fn split_units(units: u128, weights: &[u64]) -> Result<Vec<u128>, SplitError> {
    if weights.is_empty() || weights.len() > MAX_PARTS {
        return Err(SplitError::Parts);
    }
    let alike = weights.iter().all(|weight| *weight == 0);
    let weights: Vec<u128> = weights
        .iter()
        .map(|weight| if alike { 1 } else { u128::from(*weight) })
        .collect();
    let sum: u128 = weights.iter().sum();
    let mut parts = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    let mut left = units;
    for (index, weight) in weights.iter().enumerate() {
        let product = units.checked_mul(*weight).ok_or(SplitError::TooLarge)?;
        let part = product / sum;
        left -= part;
        parts.push(part);
        remainders.push((product % sum, index));
    }
    remainders.sort_by(|(a, at), (b, bt)| b.cmp(a).then(at.cmp(bt)));
    // Fewer units are left than there are parts with a remainder.
    for (_, index) in remainders {
        if left == 0 {
            break;
        }
        parts[index] += 1;
        left -= 1;
    }
    Ok(parts)
}

/// One affiliate's share of an order: which of the weights is its own.
///
/// It holds the weights of all, not a fraction of its own, so that what the affiliates get of each
/// amount sums to that amount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    weights: Vec<u64>,
    index: usize,
}

impl Share {
    /// The share of who has the order alone.
    #[must_use]
    pub fn whole() -> Self {
        Self {
            weights: vec![1],
            index: 0,
        }
    }

    /// The share of the one at `index` of `weights`.
    ///
    /// # Errors
    /// There are no weights or too many, or none at `index`.
    pub fn new(weights: Vec<u64>, index: usize) -> Result<Self, SplitError> {
        if weights.is_empty() || weights.len() > MAX_PARTS {
            return Err(SplitError::Parts);
        }
        if index >= weights.len() {
            return Err(SplitError::NoSuchPart);
        }
        Ok(Self { weights, index })
    }

    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.weights.len() == 1
    }

    /// Whether others have all of it.
    pub(super) fn is_nothing(&self) -> bool {
        self.weights[self.index] == 0 && self.weights.iter().any(|weight| *weight > 0)
    }

    /// The share as a number; those of all affiliates of an order sum to exactly 1.
    ///
    /// # Errors
    /// As [`shares`].
    pub fn fraction(&self) -> Result<Decimal, SplitError> {
        Ok(shares(&self.weights)?[self.index])
    }

    /// This share of `total`, in units of at least `digits` digits after the point.
    pub(super) fn of(&self, total: Decimal, digits: u32) -> Result<Decimal, SplitError> {
        if self.is_whole() {
            return Ok(total);
        }
        Ok(split_decimal(total, digits, &self.weights)?[self.index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rust_decimal::dec;

    fn parts(amount: &str, currency: &str, weights: &[u64]) -> Vec<String> {
        split(Money::parse(amount, currency).unwrap(), weights)
            .unwrap()
            .into_iter()
            .map(|part| part.to_string())
            .collect()
    }

    #[test]
    fn what_is_left_over_goes_to_the_largest_remainder_then_to_the_first() {
        // 3.333 each: a cent is left, all remainders are equal.
        assert_eq!(
            parts("10.00", "EUR", &[1, 1, 1]),
            ["3.34 EUR", "3.33 EUR", "3.33 EUR"]
        );
        // 16.67 (16.666…), 33.33 (33.333…), 50.00: the cent goes to .666.
        assert_eq!(
            parts("100.00", "EUR", &[1, 2, 3]),
            ["16.67 EUR", "33.33 EUR", "50.00 EUR"]
        );
        assert_eq!(parts("1", "JPY", &[0, 0]), ["1 JPY", "0 JPY"]);
        assert_eq!(parts("1", "KWD", &[0, 5]), ["0.000 KWD", "1.000 KWD"]);
        assert_eq!(
            split(Money::parse("1", "EUR").unwrap(), &[]),
            Err(SplitError::Parts)
        );
        assert_eq!(
            shares(&[1, 1, 1]).unwrap(),
            [dec!(0.333334), dec!(0.333333), dec!(0.333333)]
        );
        assert_eq!(Share::new(vec![1], 1), Err(SplitError::NoSuchPart));
    }

    proptest! {
        #[test]
        fn parts_sum_to_the_whole_and_each_is_within_a_unit_of_its_due(
            cents in 0..=999_999_999_999_900_i128,
            weights in prop::collection::vec(prop_oneof![0..10_u64, any::<u64>()], 1..40),
        ) {
            let total = Money::new(Decimal::from_i128_with_scale(cents, 2), "EUR".parse().unwrap()).unwrap();
            let parts = split(total, &weights).unwrap();
            prop_assert_eq!(parts.iter().map(|part| part.amount()).sum::<Decimal>(), total.amount());
            prop_assert_eq!(&parts, &split(total, &weights).unwrap());
            let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
            for (part, weight) in parts.iter().zip(&weights) {
                let units = part.amount().mantissa().unsigned_abs();
                let all = total.amount().mantissa().unsigned_abs() * u128::from(*weight);
                let due = all.checked_div(sum).unwrap_or(units);
                prop_assert!(units == due || units == due + 1);
            }
        }

        #[test]
        fn shares_sum_to_one(weights in prop::collection::vec(any::<u64>(), 1..100)) {
            prop_assert_eq!(shares(&weights).unwrap().iter().sum::<Decimal>(), Decimal::ONE);
            let each = (0..weights.len())
                .map(|index| Share::new(weights.clone(), index).unwrap().fraction().unwrap())
                .sum::<Decimal>();
            prop_assert_eq!(each, Decimal::ONE);
        }
    }
}
