//! In which periods a program pays for clicks, and what of a click its rules look at then.
//!
//! Clicks are counted and priced together, so whatever decides their price must be the same for all of a count: a period is
//! a day of UTC, cut where a rule for clicks is written, archived, begins or ends. A rule counts from when it was written on:
//! clicks of before earn nothing by it.

use std::collections::BTreeSet;

use chrono::{DateTime, Days, NaiveTime, Utc};

use super::choose::{RuleSet, Version};
use super::occasion::CLICK;

/// What conditions and lists of campaigns may look at of a click.
pub const CLICK_FACTS: [&str; 8] = [
    "country", "device", "campaign", "sub1", "sub2", "sub3", "sub4", "sub5",
];

/// A time in which clicks are paid for by the same rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClickPeriod {
    pub from: DateTime<Utc>,
    /// It does not belong to the period.
    pub to: DateTime<Utc>,
    /// What the rules look at, of [`CLICK_FACTS`]: clicks that differ in it are counted apart.
    pub by: BTreeSet<&'static str>,
}

impl RuleSet {
    /// The periods of the day of UTC that holds `at`, those in which some rule pays for clicks.
    #[must_use]
    pub fn click_periods(&self, at: DateTime<Utc>) -> Vec<ClickPeriod> {
        let day = at.date_naive();
        let start = day.and_time(NaiveTime::MIN).and_utc();
        let Some(end) = start.checked_add_days(Days::new(1)) else {
            return Vec::new();
        };
        let mut bounds = BTreeSet::from([start, end]);
        let of_clicks = self.rules().filter(|of| of.iter().any(is_for_clicks));
        for version in of_clicks.flatten() {
            let window = version.rule.document.window;
            let times = [Some(version.valid_from), window.from, window.until];
            bounds.extend(
                times
                    .into_iter()
                    .flatten()
                    .filter(|at| *at > start && *at < end),
            );
        }
        let bounds: Vec<DateTime<Utc>> = bounds.into_iter().collect();
        let period = |(from, to): (&DateTime<Utc>, &DateTime<Utc>)| {
            let rules: Vec<&Version> = self.pay_for_clicks(*from).collect();
            let looked_at = |name: &&str| rules.iter().any(|version| looks_at(version, name));
            (!rules.is_empty()).then(|| ClickPeriod {
                from: *from,
                to: *to,
                by: CLICK_FACTS.into_iter().filter(looked_at).collect(),
            })
        };
        let pairs = bounds.iter().zip(bounds.iter().skip(1));
        pairs.filter_map(period).collect()
    }

    fn pay_for_clicks(&self, at: DateTime<Utc>) -> impl Iterator<Item = &Version> {
        let in_force = move |version: &&Version| {
            let window = version.rule.document.window;
            is_for_clicks(version)
                && version.valid_from <= at
                && window.from.is_none_or(|from| from <= at)
                && window.until.is_none_or(|until| at < until)
        };
        self.at(at).into_iter().filter(in_force)
    }
}

fn is_for_clicks(version: &Version) -> bool {
    version.rule.document.is_for(CLICK)
}

/// Whether a rule may look at this of a click. A name that stands in a condition as a text counts too: clicks are then counted
/// apart for nothing, which changes no sum.
fn looks_at(version: &Version, name: &str) -> bool {
    let rule = &version.rule.document;
    let is_part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let in_condition = |text: &String| text.split(|c| !is_part_of_name(c)).any(|word| word == name);
    (name == "campaign" && !rule.campaigns.is_empty())
        || rule.when.as_ref().is_some_and(in_condition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commission::Rule;
    use serde_json::{Value, json};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn version(key: &str, number: i32, from: &str, active: bool, document: Value) -> Version {
        Version {
            id: i64::from(number),
            key: key.to_owned(),
            version: number,
            valid_from: at(from),
            active,
            rule: Rule::read(&document, "EUR".parse().unwrap()).unwrap(),
        }
    }

    fn clicks(more: Value) -> Value {
        let mut document = json!({"events": ["click"], "reward": {"kind": "flat", "flat": "0.02"}});
        let more = more.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(more);
        document
    }

    /// From, to, and by what, of a day.
    fn told(rules: &RuleSet, day: &str) -> Vec<(String, String, Vec<&'static str>)> {
        let hour = |at: DateTime<Utc>| at.format("%dT%H").to_string();
        let periods = rules.click_periods(at(day));
        let row = |p: ClickPeriod| (hour(p.from), hour(p.to), p.by.into_iter().collect());
        periods.into_iter().map(row).collect()
    }

    fn row(from: &str, to: &str, by: &[&'static str]) -> (String, String, Vec<&'static str>) {
        (from.to_owned(), to.to_owned(), by.to_vec())
    }

    #[test]
    fn a_rule_pays_from_when_it_was_written_until_it_is_archived() {
        let rules = RuleSet::new([
            version("cpc", 1, "2026-03-02T09:00:00Z", true, clicks(json!({}))),
            version("cpc", 2, "2026-03-03T18:00:00Z", false, clicks(json!({}))),
        ]);
        assert_eq!(told(&rules, "2026-03-01T12:00:00Z"), []);
        assert_eq!(
            told(&rules, "2026-03-02T00:00:00Z"),
            [row("02T09", "03T00", &[])]
        );
        assert_eq!(
            told(&rules, "2026-03-03T23:59:59Z"),
            [row("03T00", "03T18", &[])]
        );
        assert_eq!(told(&rules, "2026-03-04T12:00:00Z"), []);
        assert_eq!(
            RuleSet::default().click_periods(at("2026-03-02T00:00:00Z")),
            []
        );
    }

    #[test]
    fn a_day_is_cut_where_prices_change_and_by_what_they_depend_on() {
        let sale = json!({"reward": {"kind": "percent", "percent": "5"}, "when": "sub1 == 'x'"});
        let rules = RuleSet::new([
            version("cpc", 1, "2026-01-01T00:00:00Z", true, clicks(json!({}))),
            version(
                "cpc",
                2,
                "2026-03-02T15:00:00Z",
                true,
                clicks(json!({"when": "country in ['DE'] && sub2 != ''"})),
            ),
            version(
                "promo",
                1,
                "2026-01-01T00:00:00Z",
                true,
                clicks(json!({"campaigns": ["spring"],
                "window": {"from": "2026-03-02T06:00:00Z", "until": "2026-03-02T07:00:00Z"}})),
            ),
            // No business of clicks.
            version("base", 1, "2026-03-02T20:00:00Z", true, sale),
        ]);
        assert_eq!(
            told(&rules, "2026-03-02T12:00:00Z"),
            [
                row("02T00", "02T06", &[]),
                row("02T06", "02T07", &["campaign"]),
                row("02T07", "02T15", &[]),
                row("02T15", "03T00", &["country", "sub2"]),
            ]
        );
    }
}
