//! The rule document: what a tenant writes down, as JSON, and everything that can be wrong with it.
//!
//! Only `reward` is required: `{"reward": {"kind": "percent", "percent": "12.5"}}` is a whole rule.
//! Amounts are in the program's currency. Numbers that money is made of are texts, because a JSON
//! number is a floating point one to most of those who write it. An unknown field is refused: a
//! misspelt limit must not be taken for none.

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, Utc};
use rust_decimal::{Decimal, dec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition::Condition;
use super::occasion::{CLICK, SALE};
use crate::ids::AffiliateId;
use crate::money::{Currency, MAX_AMOUNT};
use crate::orders::is_event;

/// A document in which every field of a rule for commissions stands.
pub const EXAMPLE: &str = include_str!("example.json");

/// Longest name of a group, tier, product and the like, in characters.
pub(super) const MAX_NAME_CHARS: usize = 128;
/// Most names in one list.
pub(super) const MAX_NAMES: usize = 500;
/// Most steps of a tier, and most uplifts.
pub(super) const MAX_STEPS: usize = 20;
/// Highest percentage of an uplift; a commission's own is at most 100.
pub(super) const MAX_UPLIFT: Decimal = dec!(1_000);
/// Digits after the point of a percentage.
pub(super) const PERCENT_DIGITS: u32 = 4;
/// Digits after the point of a flat amount: a click may be worth less than a cent.
pub(super) const FLAT_DIGITS: u32 = 6;
/// Highest and lowest priority.
pub(super) const MAX_PRIORITY: i32 = 1_000_000;
/// Longest recurrence, in months.
pub(super) const MAX_MONTHS: u32 = 1_200;
/// Most orders that a recurrence counts, and that a volume is compared with.
pub(super) const MAX_ORDERS: u64 = 1_000_000_000;

/// Longest text of a number.
const MAX_NUMBER_CHARS: usize = 24;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where, such as `tiers.steps[1].percent`; empty: the document as a whole.
    pub path: String,
    pub message: String,
}

/// A decimal number as a text: `"12.5"`. Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub Decimal);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = text.len() <= MAX_NUMBER_CHARS
            && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            && text.bytes().any(|b| b.is_ascii_digit());
        Decimal::from_str_exact(&text)
            .ok()
            .filter(|_| plain)
            .map(Self)
            .ok_or_else(|| {
                serde::de::Error::custom("must be a plain decimal number such as \"12.5\"")
            })
    }
}

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    #[serde(default)]
    pub kind: Kind,
    /// The conversions it is for; `sale` when it does not say; empty: all, but no clicks.
    #[serde(default = "sale")]
    pub events: Vec<String>,
    #[serde(default)]
    pub scope: Scope,
    /// Among equally specific rules the highest is taken.
    #[serde(default)]
    pub priority: i32,
    /// An expression that must hold; see `condition`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(default)]
    pub window: Window,
    /// Names of campaigns; empty: any, and none.
    #[serde(default)]
    pub campaigns: Vec<String>,
    pub reward: Reward,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiers: Option<Tiers>,
    #[serde(default)]
    pub uplift: Vec<Uplift>,
    /// What is earned is raised to this, unless nothing is earned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<Cap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurring: Option<Recurring>,
    /// For `kind` `bonus`: what it is paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bonus: Option<Bonus>,
}

impl Document {
    pub(super) fn is_for(&self, event: &str) -> bool {
        match self.events.as_slice() {
            [] => event != CLICK,
            events => events.iter().any(|of| of == event),
        }
    }
}

fn sale() -> Vec<String> {
    vec![SALE.to_owned()]
}

/// Whether a rule is one of those of which one is taken, or is added to what that one gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Commission,
    Bonus,
}

/// Whom and what a rule is for; an empty list: any. All lists that are not empty must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scope {
    pub affiliates: Vec<AffiliateId>,
    pub groups: Vec<String>,
    pub tiers: Vec<String>,
    pub products: Vec<String>,
    pub categories: Vec<String>,
}

/// From when until before when a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// What is earned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    pub kind: RewardKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat: Option<Number>,
    /// What the flat amount is paid for; `order` (or click, lead) when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Per>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    Percent,
    Flat,
    /// Percent plus flat.
    Hybrid,
}

/// What a flat amount is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    #[default]
    Order,
    /// Each line of the order.
    Item,
    /// Each piece of each line.
    Unit,
}

/// Other rates from some volume on. The volume is what it was before this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tiers {
    pub by: Measure,
    pub period: Period,
    pub steps: Vec<TierStep>,
}

/// What stands in a step replaces what stands in the reward; below the first the reward holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierStep {
    pub from: Number,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat: Option<Number>,
}

/// What a volume counts: of one affiliate's orders in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// What it was credited with, in the program's currency.
    Revenue,
    /// How many it had a part in, leads and the like included; clicks are none.
    Orders,
    /// Clicks that were paid for as such.
    Clicks,
}

/// A calendar period in UTC, or all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    Month,
    Quarter,
    Year,
    Lifetime,
}

impl Period {
    /// When the period that holds `at` began; none: it never did.
    #[must_use]
    pub fn start(self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let month = match self {
            Self::Month => at.month(),
            Self::Quarter => (at.month() - 1) / 3 * 3 + 1,
            Self::Year => 1,
            Self::Lifetime => return None,
        };
        NaiveDate::from_ymd_opt(at.year(), month, 1).map(midnight)
    }

    /// When the next period begins; none: never.
    #[must_use]
    pub fn end(self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let months = match self {
            Self::Month => 1,
            Self::Quarter => 3,
            Self::Year => 12,
            Self::Lifetime => return None,
        };
        self.start(at)?.checked_add_months(Months::new(months))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Month => "this month",
            Self::Quarter => "this quarter",
            Self::Year => "this year",
            Self::Lifetime => "in all",
        }
    }
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// More for some affiliates: `percent` per cent of the commission on top. Exactly one of the four
/// names says for whom. Those that hold are added up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplift {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certification: Option<String>,
    pub percent: Number,
}

/// The most that an affiliate earns by this rule in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    pub amount: Number,
    pub period: Period,
}

/// An order counts only so long after the customer's first one, and only so many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recurring {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub months: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders: Option<u64>,
}

impl Recurring {
    /// Until before when orders count; none: for ever.
    pub(super) fn until(self, first: DateTime<Utc>) -> Option<DateTime<Utc>> {
        first.checked_add_months(Months::new(self.months?))
    }
}

/// What a bonus is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bonus {
    #[serde(rename = "for")]
    pub occasion: BonusFor,
    /// For `volume_reached`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Goal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BonusFor {
    EveryOrder,
    FirstOrderOfCustomer,
    FirstOrderOfAffiliate,
    /// The one order by which the volume gets there.
    VolumeReached,
}

/// A volume to get to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    pub by: Measure,
    pub period: Period,
    pub reaches: Number,
}

/// A document that was checked, with its condition compiled.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) document: Document,
    pub(super) condition: Option<Condition>,
}

impl Rule {
    /// Reads the rule of a program that pays in `currency`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(document: &Value, currency: Currency) -> Result<Self, Vec<Problem>> {
        let document: Document = serde_path_to_error::deserialize(document).map_err(|error| {
            let path = match error.path().to_string() {
                root if root == "." => String::new(),
                path => path,
            };
            vec![Problem {
                path,
                message: error.into_inner().to_string(),
            }]
        })?;
        let mut problems = Problems(Vec::new());
        let condition = document.when.as_deref().and_then(|text| {
            Condition::new(text)
                .map_err(|why| problems.add("when", why))
                .ok()
        });
        document.check(currency, &mut problems);
        if problems.0.is_empty() {
            Ok(Self {
                document,
                condition,
            })
        } else {
            Err(problems.0)
        }
    }

    /// What was written.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }
}

/// Everything that is wrong with a document; nothing: it can be saved.
#[must_use]
pub fn check(document: &Value, currency: Currency) -> Vec<Problem> {
    Rule::read(document, currency).err().unwrap_or_default()
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem {
            path: path.into(),
            message: message.into(),
        });
    }

    fn names(&mut self, path: &str, names: &[String]) {
        if names.len() > MAX_NAMES {
            self.add(path, format!("must be at most {MAX_NAMES}"));
        }
        for (index, name) in names.iter().enumerate() {
            self.name(&format!("{path}[{index}]"), name);
        }
    }

    fn name(&mut self, path: &str, name: &str) {
        if !(1..=MAX_NAME_CHARS).contains(&name.chars().count())
            || name.chars().any(char::is_control)
        {
            self.add(
                path,
                format!("must be 1 to {MAX_NAME_CHARS} characters, none a control character"),
            );
        }
    }

    fn number(&mut self, path: &str, number: Number, most: Decimal, digits: u32) {
        if number.0 > most {
            self.add(path, format!("must be at most {most}"));
        }
        if number.0.normalize().scale() > digits {
            self.add(path, format!("must have at most {digits} decimal places"));
        }
    }

    fn percent(&mut self, path: &str, percent: Number) {
        self.number(path, percent, Decimal::ONE_HUNDRED, PERCENT_DIGITS);
    }

    /// An amount that a commission is compared with, so no finer than commissions are.
    fn bound(&mut self, path: &str, amount: Number, currency: Currency) {
        self.number(path, amount, MAX_AMOUNT, currency.minor_digits());
        if amount.0.is_zero() {
            self.add(path, "must be more than 0");
        }
    }

    fn volume(&mut self, path: &str, volume: Number, by: Measure, currency: Currency) {
        match by {
            Measure::Revenue => self.number(path, volume, MAX_AMOUNT, currency.minor_digits()),
            Measure::Orders | Measure::Clicks => {
                self.number(path, volume, Decimal::from(MAX_ORDERS), 0);
            }
        }
    }

    /// That percent and flat are there as the kind wants them; `all`: both of them.
    fn rates(
        &mut self,
        path: &str,
        kind: RewardKind,
        all: bool,
        percent: Option<Number>,
        flat: Option<Number>,
    ) {
        let wants_percent = kind != RewardKind::Flat;
        let wants_flat = kind != RewardKind::Percent;
        let each = [
            ("percent", wants_percent, percent.is_some()),
            ("flat", wants_flat, flat.is_some()),
        ];
        for (field, wanted, given) in each {
            if given && !wanted {
                self.add(format!("{path}.{field}"), "is not of this kind of reward");
            }
            if all && wanted && !given {
                self.add(
                    format!("{path}.{field}"),
                    "is required for this kind of reward",
                );
            }
        }
        if !all && percent.is_none() && flat.is_none() {
            self.add(path, "must have percent or flat");
        }
        if let Some(percent) = percent {
            self.percent(&format!("{path}.percent"), percent);
        }
        if let Some(flat) = flat {
            self.number(&format!("{path}.flat"), flat, MAX_AMOUNT, FLAT_DIGITS);
        }
    }
}

impl Document {
    fn check(&self, currency: Currency, problems: &mut Problems) {
        if self.events.len() > MAX_NAMES {
            problems.add("events", format!("must be at most {MAX_NAMES}"));
        }
        for (index, event) in self.events.iter().enumerate() {
            if !is_event(event) {
                problems.add(format!("events[{index}]"), "must be 1 to 32 of a-z 0-9 _");
            }
        }
        let is_for_clicks = |event: &String| event == CLICK;
        if !self.events.is_empty()
            && self.events.iter().all(is_for_clicks)
            && self.reward.kind != RewardKind::Flat
        {
            problems.add(
                "reward.kind",
                "must be flat for clicks, which have no amount",
            );
        }
        if self.priority.unsigned_abs() > MAX_PRIORITY.unsigned_abs() {
            problems.add(
                "priority",
                format!("must be -{MAX_PRIORITY} to {MAX_PRIORITY}"),
            );
        }
        if let (Some(from), Some(until)) = (self.window.from, self.window.until)
            && from >= until
        {
            problems.add("window.until", "must be after from");
        }
        problems.names("campaigns", &self.campaigns);
        self.scope.check(problems);
        let reward = &self.reward;
        problems.rates("reward", reward.kind, true, reward.percent, reward.flat);
        if reward.per.is_some() && reward.flat.is_none() {
            problems.add("reward.per", "is only of a flat amount");
        }
        self.check_tiers(currency, problems);
        self.check_uplift(problems);
        self.check_bounds(currency, problems);
        self.check_bonus(currency, problems);
        if let Some(recurring) = self.recurring {
            if recurring.months.is_none() && recurring.orders.is_none() {
                problems.add("recurring", "must have months or orders");
            }
            if recurring
                .months
                .is_some_and(|months| !(1..=MAX_MONTHS).contains(&months))
            {
                problems.add("recurring.months", format!("must be 1 to {MAX_MONTHS}"));
            }
            if recurring
                .orders
                .is_some_and(|orders| !(1..=MAX_ORDERS).contains(&orders))
            {
                problems.add("recurring.orders", format!("must be 1 to {MAX_ORDERS}"));
            }
        }
    }

    fn check_tiers(&self, currency: Currency, problems: &mut Problems) {
        let Some(tiers) = &self.tiers else { return };
        if !(1..=MAX_STEPS).contains(&tiers.steps.len()) {
            problems.add("tiers.steps", format!("must be 1 to {MAX_STEPS}"));
        }
        for (index, step) in tiers.steps.iter().enumerate() {
            let path = format!("tiers.steps[{index}]");
            problems.rates(&path, self.reward.kind, false, step.percent, step.flat);
            problems.volume(&format!("{path}.from"), step.from, tiers.by, currency);
            if index > 0 && step.from <= tiers.steps[index - 1].from {
                problems.add(
                    format!("{path}.from"),
                    "must be more than that of the step before",
                );
            }
        }
    }

    fn check_uplift(&self, problems: &mut Problems) {
        if self.uplift.len() > MAX_STEPS {
            problems.add("uplift", format!("must be at most {MAX_STEPS}"));
        }
        for (index, uplift) in self.uplift.iter().enumerate() {
            let path = format!("uplift[{index}]");
            let names = [
                ("tier", &uplift.tier),
                ("group", &uplift.group),
                ("tag", &uplift.tag),
                ("certification", &uplift.certification),
            ];
            if names.iter().filter(|(_, name)| name.is_some()).count() != 1 {
                problems.add(
                    &path,
                    "must have exactly one of tier, group, tag and certification",
                );
            }
            for (field, name) in names {
                if let Some(name) = name {
                    problems.name(&format!("{path}.{field}"), name);
                }
            }
            let path = format!("{path}.percent");
            problems.number(&path, uplift.percent, MAX_UPLIFT, PERCENT_DIGITS);
        }
    }

    fn check_bounds(&self, currency: Currency, problems: &mut Problems) {
        if let Some(minimum) = self.minimum {
            problems.bound("minimum", minimum, currency);
        }
        if let Some(maximum) = self.maximum {
            problems.bound("maximum", maximum, currency);
            if self.minimum.is_some_and(|minimum| minimum > maximum) {
                problems.add("maximum", "must not be less than minimum");
            }
        }
        if let Some(cap) = self.cap {
            problems.bound("cap.amount", cap.amount, currency);
        }
    }

    fn check_bonus(&self, currency: Currency, problems: &mut Problems) {
        match (self.kind, self.bonus) {
            (Kind::Commission, Some(_)) => problems.add("bonus", "is only of kind bonus"),
            (Kind::Bonus, None) => problems.add("bonus", "is required for kind bonus"),
            (Kind::Commission, None) => {}
            (Kind::Bonus, Some(bonus)) => match (bonus.occasion, bonus.volume) {
                (BonusFor::VolumeReached, Some(goal)) => {
                    problems.volume("bonus.volume.reaches", goal.reaches, goal.by, currency);
                    if goal.reaches.0.is_zero() {
                        problems.add("bonus.volume.reaches", "must be more than 0");
                    }
                }
                (BonusFor::VolumeReached, None) => {
                    problems.add("bonus.volume", "is required for volume_reached");
                }
                (_, Some(_)) => problems.add("bonus.volume", "is only of volume_reached"),
                (_, None) => {}
            },
        }
    }
}

impl Scope {
    fn check(&self, problems: &mut Problems) {
        if self.affiliates.len() > MAX_NAMES {
            problems.add("scope.affiliates", format!("must be at most {MAX_NAMES}"));
        }
        problems.names("scope.groups", &self.groups);
        problems.names("scope.tiers", &self.tiers);
        problems.names("scope.products", &self.products);
        problems.names("scope.categories", &self.categories);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn problems(document: &Value) -> Vec<(String, String)> {
        check(document, "EUR".parse().unwrap())
            .into_iter()
            .map(|problem| (problem.path, problem.message))
            .collect()
    }

    #[test]
    fn the_simplest_document_is_a_rule() {
        let rule = Rule::read(
            &json!({"reward": {"kind": "percent", "percent": "12.5"}}),
            "EUR".parse().unwrap(),
        )
        .unwrap();
        assert_eq!(rule.document().events, ["sale"]);
        assert_eq!(rule.document().reward.percent, Some(Number(dec!(12.5))));
    }

    #[test]
    fn the_example_is_a_rule() {
        let example: Value = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(problems(&example), []);
        let rule = Rule::read(&example, "EUR".parse().unwrap()).unwrap();
        assert_eq!(serde_json::to_value(rule.document()).unwrap(), example);
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_place() {
        for (document, path, message) in [
            (json!([]), "", "invalid"),
            (json!({}), "", "missing field `reward`"),
            (
                json!({"reward": {"kind": "percent", "percent": 12.5}}),
                "reward.percent",
                "expected a string",
            ),
            (
                json!({"reward": {"kind": "percent", "percent": "1e1"}}),
                "reward.percent",
                "plain decimal",
            ),
            (
                json!({"reward": {"kind": "percent", "percent": "-1"}}),
                "reward.percent",
                "plain decimal",
            ),
            (
                json!({"reward": {"kind": "magic"}}),
                "reward.kind",
                "unknown variant",
            ),
            (
                json!({"reward": {"kind": "flat", "flat": "1"}, "max": "3"}),
                "max",
                "unknown field",
            ),
        ] {
            let found = problems(&document);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, path, "{found:?}");
            assert!(found[0].1.contains(message), "{found:?}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let found = problems(&json!({
            "events": ["Sale"],
            "when": "order.amount >",
            "window": {"from": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
            "scope": {"groups": [""]},
            "reward": {"kind": "percent", "percent": "101", "flat": "1.0000001"},
            "tiers": {"by": "orders", "period": "month", "steps": [
                {"from": "10", "percent": "1"}, {"from": "9.5"}]},
            "uplift": [{"percent": "10"}, {"tier": "gold", "tag": "x", "percent": "1001"}],
            "minimum": "2", "maximum": "1.001",
            "cap": {"amount": "0", "period": "month"},
            "recurring": {},
            "bonus": {"for": "every_order"},
        }));
        let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "when",
                "events[0]",
                "window.until",
                "scope.groups[0]",
                "reward.flat",
                "reward.percent",
                "reward.flat",
                "tiers.steps[1]",
                "tiers.steps[1].from",
                "tiers.steps[1].from",
                "uplift[0]",
                "uplift[1]",
                "uplift[1].percent",
                "maximum",
                "maximum",
                "cap.amount",
                "bonus",
                "recurring",
            ]
        );
    }

    #[test]
    fn a_document_is_written_back_as_it_was_meant() {
        let written = json!({
            "kind": "bonus",
            "events": ["sale", "lead"],
            "scope": {"affiliates": [7], "groups": ["a"], "tiers": [], "products": [], "categories": []},
            "priority": -3,
            "when": "order.amount > 10",
            "window": {"from": "2026-01-01T00:00:00Z"},
            "campaigns": ["summer"],
            "reward": {"kind": "hybrid", "percent": "1.50", "flat": "0.000001", "per": "unit"},
            "uplift": [{"tag": "x", "percent": "10"}],
            "bonus": {"for": "volume_reached", "volume": {"by": "revenue", "period": "year", "reaches": "1000"}},
        });
        let rule = Rule::read(&written, "EUR".parse().unwrap()).unwrap();
        assert_eq!(serde_json::to_value(rule.document()).unwrap(), written);
    }

    #[test]
    fn periods_are_calendar_periods_in_utc() {
        let at: DateTime<Utc> = "2026-11-30T23:59:59Z".parse().unwrap();
        let day = |period: Period| {
            (
                period.start(at).map(|start| start.date_naive().to_string()),
                period.end(at).map(|end| end.date_naive().to_string()),
            )
        };
        let days = |start: &str, end: &str| (Some(start.to_owned()), Some(end.to_owned()));
        assert_eq!(day(Period::Month), days("2026-11-01", "2026-12-01"));
        assert_eq!(day(Period::Quarter), days("2026-10-01", "2027-01-01"));
        assert_eq!(day(Period::Year), days("2026-01-01", "2027-01-01"));
        assert_eq!(day(Period::Lifetime), (None, None));
    }

    /// JSON of any form, much of it under the names that documents have.
    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[0-9.]{0,30}".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            prop::sample::select(vec![
                "percent",
                "flat",
                "hybrid",
                "order",
                "unit",
                "month",
                "lifetime",
                "revenue",
                "orders",
                "bonus",
                "volume_reached",
                "79228162514264337593543950335",
                "0.0000000000000000000001",
                "order.amount > 1",
                "2026-01-01T00:00:00Z",
            ])
            .prop_map(Value::from),
        ];
        let names = prop::sample::select(vec![
            "kind",
            "events",
            "scope",
            "affiliates",
            "priority",
            "when",
            "window",
            "from",
            "until",
            "reward",
            "percent",
            "flat",
            "per",
            "tiers",
            "by",
            "period",
            "steps",
            "uplift",
            "tier",
            "minimum",
            "maximum",
            "cap",
            "amount",
            "recurring",
            "months",
            "orders",
            "bonus",
            "for",
            "volume",
            "reaches",
            "x",
        ]);
        leaf.prop_recursive(4, 60, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_document_makes_it_panic(document in anything(), currency in prop::sample::select(vec!["EUR", "JPY", "KWD"])) {
            let currency: Currency = currency.parse().unwrap();
            if let Ok(rule) = Rule::read(&document, currency) {
                let written = serde_json::to_value(rule.document()).unwrap();
                prop_assert_eq!(check(&written, currency), vec![]);
            }
        }
    }
}
