//! Money: exact decimals with a currency, and the one rule by which an amount is rounded.
//!
//! Rounding happens in one place, [`Money::rounded`], to the currency's minor unit, half away from
//! zero: 10 % of 12.25 USD is 1.23. An amount with more digits than its currency has is refused at
//! the door, never rounded silently.

use std::fmt;
use std::str::FromStr;

use rust_decimal::{Decimal, RoundingStrategy, dec};

/// The rounding rule: half away from zero, the one that invoices use.
pub const ROUNDING: RoundingStrategy = RoundingStrategy::MidpointAwayFromZero;

/// The largest amount that is taken; numeric(20, 4) holds a thousand times more, for sums.
pub const MAX_AMOUNT: Decimal = dec!(9_999_999_999_999);

/// Longest text that can be an amount.
const MAX_AMOUNT_CHARS: usize = 24;

/// Why something is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("currency must be an ISO 4217 code such as USD")]
    UnknownCurrency,
    #[error("amount must be a plain decimal number such as 49.90")]
    NotANumber,
    #[error("amount must not be negative")]
    Negative,
    #[error("amount must be at most {MAX_AMOUNT}")]
    TooLarge,
    #[error("amount has more than the {digits} decimal places that {currency} has")]
    TooPrecise { currency: Currency, digits: u32 },
}

/// An ISO 4217 currency that money can be held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

/// By the three letters, for who lists what is needed in a fixed order.
impl Ord for Currency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.code().cmp(other.code())
    }
}

impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Currency {
    /// Digits after the point: 2 for USD, 0 for JPY, 3 for KWD.
    #[must_use]
    pub fn minor_digits(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }

    /// The three letters.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(code: &str) -> Result<Self, MoneyError> {
        // Codes without a minor unit are metals, funds and test codes: nobody is paid in them.
        iso_currency::Currency::from_code(code)
            .filter(|c| c.exponent().is_some())
            .map(Self)
            .ok_or(MoneyError::UnknownCurrency)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount, never negative, never finer than its currency's minor unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Money {
    amount: Decimal,
    currency: Currency,
}

impl Money {
    /// Takes an amount as a person or a shop wrote it: digits and at most one point.
    ///
    /// # Errors
    /// Says what is wrong with the amount or the currency.
    pub fn parse(amount: &str, currency: &str) -> Result<Self, MoneyError> {
        let currency: Currency = currency.parse()?;
        let digits = amount.strip_prefix('-').unwrap_or(amount);
        let plain = !digits.is_empty()
            && amount.len() <= MAX_AMOUNT_CHARS
            && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            && digits.bytes().any(|b| b.is_ascii_digit());
        if !plain {
            return Err(MoneyError::NotANumber);
        }
        let amount = Decimal::from_str_exact(amount).map_err(|_| MoneyError::NotANumber)?;
        Self::new(amount, currency)
    }

    /// Checks an amount that is a number already.
    ///
    /// # Errors
    /// Says which bound it breaks.
    pub fn new(amount: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        let digits = currency.minor_digits();
        if amount.is_sign_negative() && !amount.is_zero() {
            return Err(MoneyError::Negative);
        }
        if amount > MAX_AMOUNT {
            return Err(MoneyError::TooLarge);
        }
        if amount.normalize().scale() > digits {
            return Err(MoneyError::TooPrecise { currency, digits });
        }
        let mut amount = amount.abs();
        amount.rescale(digits);
        Ok(Self { amount, currency })
    }

    /// `percent` per cent of this, rounded by [`ROUNDING`] to the minor unit. `percent` must lie
    /// between 0 and 100, which the rules' table enforces, so the result is never larger than this.
    #[must_use]
    pub fn percent(self, percent: Decimal) -> Self {
        let exact = self.amount * percent / Decimal::ONE_HUNDRED;
        Self {
            amount: to_minor_unit(exact, self.currency),
            currency: self.currency,
        }
    }

    /// `exact`, rounded by [`ROUNDING`] to the minor unit of `currency`: for sums that are rounded
    /// once, at their end.
    ///
    /// # Errors
    /// The amount is negative or too large.
    pub fn rounded(exact: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        if exact > MAX_AMOUNT {
            return Err(MoneyError::TooLarge);
        }
        Self::new(to_minor_unit(exact, currency), currency)
    }

    /// No money.
    #[must_use]
    pub fn zero(currency: Currency) -> Self {
        let mut amount = Decimal::ZERO;
        amount.rescale(currency.minor_digits());
        Self { amount, currency }
    }

    #[must_use]
    pub fn amount(self) -> Decimal {
        self.amount
    }

    #[must_use]
    pub fn currency(self) -> Currency {
        self.currency
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.amount.is_zero()
    }
}

fn to_minor_unit(exact: Decimal, currency: Currency) -> Decimal {
    let mut amount = exact.round_dp_with_strategy(currency.minor_digits(), ROUNDING);
    amount.rescale(currency.minor_digits());
    amount
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount, self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usd(amount: &str) -> Money {
        Money::parse(amount, "USD").unwrap()
    }

    #[test]
    fn amounts_are_taken_or_refused_with_the_reason() {
        let refused = |amount: &str, currency: &str| Money::parse(amount, currency).unwrap_err();
        assert_eq!(usd("49.9").to_string(), "49.90 USD");
        assert_eq!(usd("0").to_string(), "0.00 USD");
        assert_eq!(usd("-0").to_string(), "0.00 USD");
        assert_eq!(Money::parse("500", "JPY").unwrap().to_string(), "500 JPY");
        assert_eq!(usd("10.5000").to_string(), "10.50 USD");
        for text in [
            "", ".", "-", "1e3", "1,50", "١", "NaN", " 1", "+1", "0x1", "1.2.3", "1_0",
        ] {
            assert_eq!(refused(text, "USD"), MoneyError::NotANumber, "{text:?}");
        }
        assert_eq!(refused(&"9".repeat(25), "USD"), MoneyError::NotANumber);
        assert_eq!(refused("-0.01", "USD"), MoneyError::Negative);
        assert_eq!(refused("10000000000000", "USD"), MoneyError::TooLarge);
        assert!(matches!(
            refused("1.005", "USD"),
            MoneyError::TooPrecise { digits: 2, .. }
        ));
        assert!(matches!(
            refused("1.5", "JPY"),
            MoneyError::TooPrecise { digits: 0, .. }
        ));
        for code in ["", "usd", "US", "XXX", "XAU", "ABC", "USDX"] {
            assert_eq!(refused("1", code), MoneyError::UnknownCurrency, "{code:?}");
        }
    }

    #[test]
    fn half_a_cent_goes_up() {
        let cases = [
            ("12.25", dec!(10), "1.23 USD"),
            ("12.24", dec!(10), "1.22 USD"),
            ("0.05", dec!(10), "0.01 USD"),
            ("0.04", dec!(10), "0.00 USD"),
            ("100", dec!(12.3456), "12.35 USD"),
            ("99.99", dec!(100), "99.99 USD"),
            ("99.99", dec!(0), "0.00 USD"),
        ];
        for (amount, percent, expected) in cases {
            assert_eq!(usd(amount).percent(percent).to_string(), expected);
        }
    }

    #[test]
    fn a_sum_is_rounded_by_the_same_rule() {
        let rounded = |exact, currency: &str| {
            Money::rounded(exact, currency.parse().unwrap()).map(|money| money.to_string())
        };
        assert_eq!(rounded(dec!(4.792), "EUR").unwrap(), "4.79 EUR");
        assert_eq!(rounded(dec!(4.795), "EUR").unwrap(), "4.80 EUR");
        assert_eq!(rounded(dec!(0.5), "JPY").unwrap(), "1 JPY");
        assert_eq!(rounded(dec!(-1), "EUR"), Err(MoneyError::Negative));
        assert_eq!(rounded(Decimal::MAX, "EUR"), Err(MoneyError::TooLarge));
        assert_eq!(Money::zero("KWD".parse().unwrap()).to_string(), "0.000 KWD");
    }

    proptest! {
        /// Against whole-number arithmetic that shares nothing with Decimal.
        #[test]
        fn a_percentage_is_exact(cents in 0..999_999_999_999_i128, hundredths in 0..=1_000_000_i128) {
            let money = Money::new(Decimal::from_i128_with_scale(cents, 2), "USD".parse().unwrap()).unwrap();
            let percent = Decimal::from_i128_with_scale(hundredths, 4);
            let part = money.percent(percent);
            // cents * percent / 100, half up: (2·cents·h + 10^6) / (2·10^6)
            let expected = (2 * cents * hundredths + 1_000_000) / 2_000_000;
            prop_assert_eq!(part.amount(), Decimal::from_i128_with_scale(expected, 2));
            prop_assert!(part.amount() <= money.amount());
        }

        #[test]
        fn no_text_is_taken_that_is_not_written_back_as_the_same_number(text in "[-+0-9.eE_ ]{0,26}") {
            if let Ok(money) = Money::parse(&text, "KWD") {
                prop_assert_eq!(money.amount(), text.parse::<Decimal>().unwrap().abs());
            }
        }
    }
}
