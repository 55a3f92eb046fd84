//! Why a commission is what it is: steps that a person can read and a program can filter.
//!
//! Every number that decided something stands in a sentence: the rule and its version, what was
//! computed, and why another rule was not taken.

use std::fmt;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::choose::Version;
use super::rule::Scope;
use crate::money::Currency;

/// Most rules that an explanation says were passed over.
pub(super) const MAX_PASSED_OVER: usize = 50;

/// Most names of a scope that a sentence lists.
const MAX_LISTED: usize = 3;

/// One step of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub what: What,
    /// The rule that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
    /// The sentence.
    pub text: String,
}

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The affiliate's part of the order.
    Share,
    /// The rate by which currencies were converted.
    Rate,
    /// A rule that was not taken.
    PassedOver,
    /// The customer's earlier orders let the rule count.
    Recurring,
    Tier,
    Percent,
    Flat,
    Uplift,
    Minimum,
    Maximum,
    Cap,
    Bonus,
    Upline,
    /// The sum, and what it was rounded to.
    Rounded,
    /// Nothing was earned.
    Nothing,
}

impl Step {
    pub(super) fn new(what: What, text: String) -> Self {
        Self {
            what,
            rule: None,
            version: None,
            text,
        }
    }

    /// A step about a rule; `text` goes on after its name.
    pub(super) fn of(what: What, version: &Version, text: &str) -> Self {
        Self {
            what,
            rule: Some(version.id),
            version: Some(version.version),
            text: format!("{}{text}", name(version)),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `rule 12 version 3 for category shoes`.
pub(super) fn name(version: &Version) -> String {
    format!(
        "rule {} version {}{}",
        version.id,
        version.version,
        scope(&version.rule.document.scope)
    )
}

fn scope(scope: &Scope) -> String {
    let ids: Vec<String> = scope.affiliates.iter().map(ToString::to_string).collect();
    let lists = [
        ("affiliate", &ids),
        ("group", &scope.groups),
        ("tier", &scope.tiers),
        ("product", &scope.products),
        ("category", &scope.categories),
    ];
    let mut text = String::new();
    for (kind, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
        text.push_str(if text.is_empty() { " for " } else { ", " });
        text.push_str(kind);
        text.push(' ');
        text.push_str(&names[..names.len().min(MAX_LISTED)].join(" or "));
        if names.len() > MAX_LISTED {
            text.push_str(&format!(" or {} more", names.len() - MAX_LISTED));
        }
    }
    text
}

/// A number without zeros at its end.
pub(super) fn number(number: Decimal) -> String {
    number.normalize().to_string()
}

/// An exact amount, with at least the digits that its currency has: `4.792 EUR`, `5.00 EUR`.
pub(super) fn exact(amount: Decimal, currency: Currency) -> String {
    let mut amount = amount.normalize();
    if amount.scale() < currency.minor_digits() {
        amount.rescale(currency.minor_digits());
    }
    format!("{amount} {currency}")
}
