//! What a program says about all its commissions: its currency, which one it pays in, its uplines.

use rust_decimal::{Decimal, dec};
use serde::{Deserialize, Serialize};

use super::rule::{Number, PERCENT_DIGITS, Problem};
use crate::money::Currency;

/// Most levels of uplines.
pub(super) const MAX_LEVELS: usize = 10;

/// The settings of a program that pricing looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What its rules' amounts are in.
    pub currency: Currency,
    pub pay_in: PayIn,
    pub uplines: Uplines,
}

/// Which currency a commission is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayIn {
    /// The order's; the rule's amounts are converted.
    #[default]
    Order,
    /// The program's; the order's amounts are converted first.
    Program,
}

/// What the affiliates above the one who is credited get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplines {
    /// Per cent, from the direct parent upwards.
    pub levels: Vec<Number>,
    #[serde(default)]
    pub of: UplineOf,
}

/// What an upline's percentage is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UplineOf {
    /// The direct commission.
    #[default]
    Commission,
    /// The part of the order that the direct commission was computed of.
    Order,
}

impl Default for Uplines {
    /// 10, 3 and 1 per cent of the direct commission.
    fn default() -> Self {
        Self {
            levels: [dec!(10), dec!(3), dec!(1)].map(Number).to_vec(),
            of: UplineOf::Commission,
        }
    }
}

impl Uplines {
    /// Of a program in which nobody gets anything for another's orders.
    #[must_use]
    pub fn none() -> Self {
        Self {
            levels: Vec::new(),
            of: UplineOf::Commission,
        }
    }

    /// Everything that is wrong with them.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |path: String, message: String| problems.push(Problem { path, message });
        if self.levels.len() > MAX_LEVELS {
            add("levels".to_owned(), format!("must be at most {MAX_LEVELS}"));
        }
        for (index, level) in self.levels.iter().enumerate() {
            if level.0 > Decimal::ONE_HUNDRED || level.0.normalize().scale() > PERCENT_DIGITS {
                add(
                    format!("levels[{index}]"),
                    format!("must be at most 100, with at most {PERCENT_DIGITS} decimal places"),
                );
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplines_are_checked() {
        assert_eq!(Uplines::default().check(), []);
        let uplines: Uplines =
            serde_json::from_str(r#"{"levels": ["101", "1.00001", "5"], "of": "order"}"#).unwrap();
        let paths: Vec<String> = uplines.check().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["levels[0]", "levels[1]"]);
        assert!(serde_json::from_str::<Uplines>(r#"{"levels": [10]}"#).is_err());
    }
}
