//! Money in whole minor units. It shares nothing with the product's arithmetic: no decimals, no
//! common library, its own table of currencies.

use std::collections::BTreeMap;

/// The currencies that the replay's orders are in, and how many digits their minor unit has.
pub(crate) const USD: Coin = Coin {
    code: "USD",
    digits: 2,
};
pub(crate) const EUR: Coin = Coin {
    code: "EUR",
    digits: 2,
};
pub(crate) const JPY: Coin = Coin {
    code: "JPY",
    digits: 0,
};
pub(crate) const KWD: Coin = Coin {
    code: "KWD",
    digits: 3,
};

/// A percentage is kept in ten-thousandths of a per cent.
const PERCENT_DIGITS: u32 = 4;
const WHOLE: i128 = 100 * 10_i128.pow(PERCENT_DIGITS);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Coin {
    pub(crate) code: &'static str,
    pub(crate) digits: u32,
}

/// Sums of minor units, by something and currency.
pub(crate) type Sums<K> = BTreeMap<(K, String), i128>;

impl Coin {
    pub(crate) fn of(code: &str) -> Option<Self> {
        [USD, EUR, JPY, KWD]
            .into_iter()
            .find(|coin| coin.code == code)
    }

    /// `1234` cents as `12.34`.
    pub(crate) fn text(self, minor: i128) -> String {
        let sign = if minor < 0 { "-" } else { "" };
        let minor = minor.unsigned_abs();
        let unit = 10_u128.pow(self.digits);
        if self.digits == 0 {
            return format!("{sign}{minor}");
        }
        let width = usize::try_from(self.digits).unwrap_or(0);
        format!("{sign}{}.{:0width$}", minor / unit, minor % unit)
    }

    /// `12.34` or `12.3400` as 1234 cents; none where it is no whole number of minor units.
    pub(crate) fn minor(self, text: &str) -> Option<i128> {
        scaled(text, self.digits)
    }
}

/// A percentage such as `12.5`, in ten-thousandths of a per cent.
pub(crate) fn percent(text: &str) -> Option<i128> {
    scaled(text, PERCENT_DIGITS)
}

/// `percent` of `minor`, rounded half away from zero.
pub(crate) fn commission(minor: i128, percent: i128) -> i128 {
    let exact = minor * percent;
    let (whole, rest) = (exact / WHOLE, exact % WHOLE);
    whole
        + if 2 * rest.abs() >= WHOLE {
            exact.signum()
        } else {
            0
        }
}

/// A plain decimal as a whole number of 10^-digits.
fn scaled(text: &str, digits: u32) -> Option<i128> {
    let (negative, number) = match text.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, text),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(part) {
        return None;
    }
    let width = usize::try_from(digits).ok()?;
    let part = part.trim_end_matches('0');
    if part.len() > width {
        return None;
    }
    let minor: i128 = format!("{whole}{part:0<width$}").parse().ok()?;
    Some(if negative { -minor } else { minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand.
    #[test]
    fn half_a_minor_unit_goes_away_from_zero() {
        let of = |coin: Coin, amount: &str, rate: &str| {
            coin.text(commission(
                coin.minor(amount).unwrap(),
                percent(rate).unwrap(),
            ))
        };
        assert_eq!(of(USD, "12.25", "10"), "1.23"); // 1.225
        assert_eq!(of(USD, "12.24", "10"), "1.22"); // 1.224
        assert_eq!(of(USD, "0.05", "10"), "0.01"); // 0.005
        assert_eq!(of(USD, "0.04", "10"), "0.00"); // 0.004
        assert_eq!(of(USD, "33.33", "33.3333"), "11.11"); // 11.10998889
        assert_eq!(of(EUR, "19.99", "7.5"), "1.50"); // 1.49925
        assert_eq!(of(EUR, "0.20", "2.5"), "0.01"); // 0.005
        assert_eq!(of(JPY, "1235", "10"), "124"); // 123.5
        assert_eq!(of(JPY, "1234", "10"), "123"); // 123.4
        assert_eq!(of(KWD, "1.005", "10"), "0.101"); // 0.1005
        assert_eq!(of(USD, "99.99", "100"), "99.99");
        assert_eq!(of(USD, "99.99", "0"), "0.00");
        assert_eq!(of(USD, "-12.25", "10"), "-1.23");
    }

    #[test]
    fn amounts_are_whole_minor_units() {
        assert_eq!(USD.minor("12"), Some(1200));
        assert_eq!(USD.minor("12.3"), Some(1230));
        assert_eq!(USD.minor("12.3400"), Some(1234));
        assert_eq!(USD.minor("-0.05"), Some(-5));
        assert_eq!(JPY.minor("500.0000"), Some(500));
        assert_eq!(KWD.minor("0.125"), Some(125));
        for text in ["", "-", ".5", "1.005", "1e3", "+1", "1,5", "--1", "1.-5"] {
            assert_eq!(USD.minor(text), None, "{text}");
        }
        assert_eq!(USD.text(-5), "-0.05");
        assert_eq!(JPY.text(7), "7");
        assert_eq!(percent("12.3456"), Some(123_456));
        assert_eq!(percent("10.0000"), Some(100_000));
    }
}
