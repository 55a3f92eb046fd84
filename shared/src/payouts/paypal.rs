//! What PayPal takes, in files and over its API alike.

use rust_decimal::Decimal;

use crate::money::{Currency, Money};

/// Currencies that PayPal holds and sends, by its list.
const CURRENCIES: [&str; 24] = [
    "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "ILS", "JPY",
    "MXN", "MYR", "NOK", "NZD", "PHP", "PLN", "SEK", "SGD", "THB", "TWD", "USD",
];
/// Those of which it takes whole amounts only, whatever ISO 4217 says.
const WHOLE: [&str; 3] = ["HUF", "JPY", "TWD"];

/// Whether PayPal can be asked to send it at all.
#[must_use]
pub fn takes(currency: Currency) -> bool {
    CURRENCIES.contains(&currency.code())
}

/// `money` as PayPal reads it, such as `12.50`.
///
/// # Errors
/// Says why PayPal can't send exactly this.
pub fn amount(money: Money) -> Result<String, String> {
    let currency = money.currency();
    if !takes(currency) {
        return Err(format!("PayPal does not send {currency}"));
    }
    if !WHOLE.contains(&currency.code()) {
        return Ok(money.amount().to_string());
    }
    match money.amount().normalize() {
        whole if whole.scale() == 0 && whole > Decimal::ZERO => Ok(whole.to_string()),
        _ => Err(format!(
            "PayPal sends whole {currency} only, and this is {money}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_digits_that_paypal_takes() {
        let written = |text: &str, currency: &str| amount(Money::parse(text, currency).unwrap());
        assert_eq!(written("12.5", "USD").unwrap(), "12.50");
        assert_eq!(written("500", "JPY").unwrap(), "500");
        assert_eq!(written("500.00", "HUF").unwrap(), "500");
        assert_eq!(written("1000", "TWD").unwrap(), "1000");
        assert!(
            written("500.50", "HUF")
                .unwrap_err()
                .contains("whole HUF only")
        );
        assert!(
            written("1.000", "KWD")
                .unwrap_err()
                .contains("does not send KWD")
        );
    }
}
