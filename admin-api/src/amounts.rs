//! Money as the API writes it: a decimal string with its currency's digits, never a float.

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use tributary_shared::money::Currency;
use utoipa::ToSchema;

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Amount {
    /// Decimal, in major units, with as many decimals as the currency has.
    #[schema(examples("1234.50"))]
    pub amount: String,
    /// ISO 4217.
    #[schema(examples("USD"))]
    pub currency: String,
}

impl Amount {
    pub(crate) fn new(amount: Decimal, currency: &str) -> Self {
        Self {
            amount: text(amount, currency),
            currency: currency.to_owned(),
        }
    }
}

/// `amount` with its currency's decimals; with all of its own where it has more.
pub(crate) fn text(amount: Decimal, currency: &str) -> String {
    let mut amount = amount.normalize();
    let digits = currency
        .parse::<Currency>()
        .map_or(0, Currency::minor_digits);
    if amount.scale() < digits {
        amount.rescale(digits);
    }
    amount.to_string()
}

/// A percentage as short as it can be: `10`, `12.5`.
pub(crate) fn percent(percent: Decimal) -> String {
    percent.normalize().to_string()
}

/// The same, for a field.
pub(crate) fn serialize_percent<S: Serializer>(
    value: &Decimal,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&percent(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_their_currencys_digits() {
        let written = |amount: &str, currency| text(amount.parse().unwrap(), currency);
        assert_eq!(written("12.5000", "USD"), "12.50");
        assert_eq!(written("12.0000", "JPY"), "12");
        assert_eq!(written("0.0000", "KWD"), "0.000");
        assert_eq!(written("-3", "EUR"), "-3.00");
        assert_eq!(written("100", "JPY"), "100");
        assert_eq!(written("1.2345", "USD"), "1.2345");
        assert_eq!(percent("10.0000".parse().unwrap()), "10");
    }
}
