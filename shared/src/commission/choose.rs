//! Which rules are for an order, and which of them is taken: the most specific, then the one of the
//! highest priority, then the newest.
//!
//! Specific is, in this order: names the affiliate; names its group or tier; names the product;
//! names the category; is for the whole program. A rule that names the affiliate and a product comes
//! before one that names the affiliate alone. The choice does not depend on the order in which rules
//! are given.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::explain::{MAX_PASSED_OVER, Step, What, name};
use super::occasion::{Affiliate, Line, Occasion};
use super::rule::{Rule, Scope};

/// Most characters of a condition that a step quotes.
const MAX_QUOTED_CHARS: usize = 200;

/// One version of a rule, as it was saved.
#[derive(Debug, Clone)]
pub struct Version {
    /// Of this version.
    pub id: i64,
    /// The rule's name, the same for all its versions.
    pub key: String,
    pub version: i32,
    pub valid_from: DateTime<Utc>,
    /// Whether the rule is in use; an archived one gives nothing from then on.
    pub active: bool,
    pub rule: Rule,
}

/// All versions of all rules of a program.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    versions: BTreeMap<String, Vec<Version>>,
}

impl RuleSet {
    #[must_use]
    pub fn new(versions: impl IntoIterator<Item = Version>) -> Self {
        let mut set = Self::default();
        for version in versions {
            set.versions
                .entry(version.key.clone())
                .or_default()
                .push(version);
        }
        for versions in set.versions.values_mut() {
            versions.sort_by_key(|version| (version.valid_from, version.version, version.id));
        }
        set
    }

    /// All versions of each rule, in the order of time.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Vec<Version>> {
        self.versions.values()
    }

    /// The version of each rule that is in force at `at`: the latest that was valid by then, the
    /// earliest where none was (an order may be older than the first rule). Archived ones are left
    /// out.
    #[must_use]
    pub fn at(&self, at: DateTime<Utc>) -> Vec<&Version> {
        self.versions
            .values()
            .filter_map(|versions| {
                let later = versions.partition_point(|version| version.valid_from <= at);
                versions.get(later.saturating_sub(1))
            })
            .filter(|version| version.active)
            .collect()
    }
}

/// What decides between two rules; the greater one is taken.
type Rank = (u8, i32, DateTime<Utc>, i64);

fn rank(version: &Version) -> Rank {
    (
        specificity(&version.rule.document.scope),
        version.rule.document.priority,
        version.valid_from,
        version.id,
    )
}

fn specificity(scope: &Scope) -> u8 {
    let named = [
        !scope.affiliates.is_empty(),
        !scope.groups.is_empty() || !scope.tiers.is_empty(),
        !scope.products.is_empty(),
        !scope.categories.is_empty(),
    ];
    named
        .iter()
        .fold(0, |sum, named| sum * 2 + u8::from(*named))
}

/// Why `taken` comes before `other`.
pub(super) fn why_before(taken: &Version, other: &Version) -> String {
    let (a, b) = (rank(taken), rank(other));
    let reason = if a.0 != b.0 {
        "less specific than"
    } else if a.1 != b.1 {
        "of a lower priority than"
    } else {
        "older than"
    };
    format!("{reason} {}", name(taken))
}

/// The rules that are for an order, before anything is known of its history.
#[derive(Debug)]
pub(super) struct Applicable<'r> {
    /// The one that comes first is taken first.
    pub(super) rules: Vec<&'r Version>,
    /// Why others are not.
    pub(super) passed_over: PassedOver,
}

/// Steps about rules that were not taken, as many as a person would read.
#[derive(Debug, Default)]
pub(super) struct PassedOver {
    steps: Vec<Step>,
    more: usize,
}

impl PassedOver {
    pub(super) fn add(&mut self, version: &Version, why: &str) {
        if self.steps.len() < MAX_PASSED_OVER {
            let text = format!(" was passed over: {why}");
            self.steps.push(Step::of(What::PassedOver, version, &text));
        } else {
            self.more += 1;
        }
    }

    pub(super) fn into_steps(mut self) -> Vec<Step> {
        if self.more > 0 {
            let text = format!("{} more rules were passed over", self.more);
            self.steps.push(Step::new(What::PassedOver, text));
        }
        self.steps
    }
}

/// Picks the rules that are for an order of the affiliate. Those that are for other affiliates or
/// other events are no candidates, and not worth a word.
pub(super) fn applicable<'r>(
    rules: &[&'r Version],
    occasion: &Occasion,
    affiliate: &Affiliate,
    lines: &[Line<'_>],
) -> Applicable<'r> {
    let mut candidates: Vec<&Version> = rules
        .iter()
        .copied()
        .filter(|version| {
            let rule = &version.rule.document;
            rule.is_for(&occasion.event) && rule.scope.is_for(affiliate)
        })
        .collect();
    candidates.sort_by_key(|version| std::cmp::Reverse(rank(version)));
    let mut passed_over = PassedOver::default();
    candidates.retain(
        |version| match why_not(version, occasion, affiliate, lines) {
            None => true,
            Some(why) => {
                passed_over.add(version, &why);
                false
            }
        },
    );
    Applicable {
        rules: candidates,
        passed_over,
    }
}

fn why_not(
    version: &Version,
    occasion: &Occasion,
    affiliate: &Affiliate,
    lines: &[Line<'_>],
) -> Option<String> {
    let rule = &version.rule.document;
    if !lines.iter().any(|line| rule.scope.covers(line)) {
        return Some("nothing of the order is in its products and categories".to_owned());
    }
    if let Some(from) = rule.window.from.filter(|from| occasion.at < *from) {
        return Some(format!("it holds from {} on", from.to_rfc3339()));
    }
    if let Some(until) = rule.window.until.filter(|until| occasion.at >= *until) {
        return Some(format!("it held until {}", until.to_rfc3339()));
    }
    if !rule.campaigns.is_empty() && !rule.campaigns.contains(&occasion.campaign) {
        return Some(format!("it is not for campaign {:?}", occasion.campaign));
    }
    let condition = version.rule.condition.as_ref()?;
    match condition.holds(occasion, affiliate) {
        Ok(true) => None,
        Ok(false) => Some(format!("its condition {} is false", short(condition))),
        Err(why) => Some(format!(
            "its condition {} can't be told: {}",
            short(condition),
            short(&why)
        )),
    }
}

/// The beginning of a text, as much as a sentence bears.
fn short(text: &impl ToString) -> String {
    let text = text.to_string();
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn is_any<T: PartialEq>(list: &[T], matches: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

impl Scope {
    fn is_for(&self, affiliate: &Affiliate) -> bool {
        is_any(&self.affiliates, |id| *id == affiliate.id)
            && is_any(&self.groups, |group| affiliate.groups.contains(group))
            && is_any(&self.tiers, |tier| *tier == affiliate.tier)
    }

    pub(super) fn covers(&self, line: &Line<'_>) -> bool {
        is_any(&self.products, |product| product == line.product)
            && is_any(&self.categories, |category| category == line.category)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn version(id: i64, key: &str, version: i32, from: i64, active: bool) -> Version {
        let document = json!({"reward": {"kind": "percent", "percent": "1"}});
        Version {
            id,
            key: key.to_owned(),
            version,
            valid_from: DateTime::from_timestamp(from, 0).unwrap(),
            active,
            rule: Rule::read(&document, "EUR".parse().unwrap()).unwrap(),
        }
    }

    #[test]
    fn of_each_rule_the_version_in_force_is_taken() {
        let set = RuleSet::new([
            version(3, "a", 3, 300, false),
            version(1, "a", 1, 100, true),
            version(2, "a", 2, 200, true),
            version(9, "b", 1, 200, true),
        ]);
        let at = |seconds| -> Vec<i64> {
            let at = DateTime::from_timestamp(seconds, 0).unwrap();
            set.at(at).iter().map(|version| version.id).collect()
        };
        assert_eq!(at(50), [1, 9], "the earliest where none is valid yet");
        assert_eq!(at(199), [1, 9]);
        assert_eq!(at(200), [2, 9]);
        assert_eq!(at(300), [9], "rule a is archived");
        assert!(RuleSet::default().at(DateTime::UNIX_EPOCH).is_empty());
    }

    #[test]
    fn who_is_named_counts_more_than_what_is_named() {
        let specificity = |scope: Value| specificity(&serde_json::from_value(scope).unwrap());
        let order = [
            json!({}),
            json!({"categories": ["c"]}),
            json!({"products": ["p"]}),
            json!({"products": ["p"], "categories": ["c"]}),
            json!({"groups": ["g"]}),
            json!({"tiers": ["t"], "products": ["p"], "categories": ["c"]}),
            json!({"affiliates": [1]}),
            json!({"affiliates": [1], "categories": ["c"]}),
        ]
        .map(specificity);
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    }
}
