//! What a program wants done about each sign of fraud. The signs themselves, with what they do where a program says
//! nothing, are in processor/src/settle/judge.rs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a signal does, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing.
    Off,
    /// The conversion is marked.
    Flag,
    /// Its commissions wait for a person's decision.
    Hold,
    /// It is rejected, until a person says otherwise.
    Reject,
}

/// A program's word about one signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// From which number on it is raised, for those signals that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
}

/// A program's settings by the signals' names.
pub type Settings = BTreeMap<String, Setting>;

/// Largest number of a signal.
pub const MAX_NUMBER: u32 = 1_000_000;

/// Every signal, with the largest number that it takes; none: it has no number.
pub const SIGNALS: [(&str, Option<u32>); 13] = [
    ("self_referral", None),
    ("fast_conversion", Some(MAX_NUMBER)),
    ("address_rate", Some(MAX_NUMBER)),
    ("checkout_hijack", Some(MAX_NUMBER)),
    ("country_mismatch", None),
    ("rate_anomaly", Some(MAX_NUMBER)),
    ("bot", None),
    // Seconds; a click's visitor is looked back for within a minute.
    ("duplicate", Some(60)),
    ("flooding", Some(MAX_NUMBER)),
    ("data_centre", None),
    ("cookie_stuffing", None),
    ("prefetch", None),
    ("blocked", None),
];

/// Everything that is wrong with settings: the signal, and what.
#[must_use]
pub fn check(settings: &Settings) -> Vec<(String, String)> {
    let wrong = |(name, setting): (&String, &Setting)| {
        let message = match SIGNALS.iter().find(|(signal, _)| signal == name) {
            None => {
                let known: Vec<&str> = SIGNALS.iter().map(|(signal, _)| *signal).collect();
                format!("is no signal; there are {}", known.join(", "))
            }
            Some((_, None)) if setting.number.is_some() => "has no number".to_owned(),
            Some((_, Some(most))) if setting.number.is_some_and(|n| !(1..=*most).contains(&n)) => {
                format!("must be 1 to {most}")
            }
            Some(_) => return None,
        };
        Some((name.clone(), message))
    };
    settings.iter().filter_map(wrong).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_checked_by_name_and_number() {
        let wrong = |settings| {
            let found = check(&serde_json::from_value(settings).unwrap());
            found.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert!(wrong(json!({})).is_empty());
        assert!(wrong(json!({"fast_conversion": {"action": "hold", "number": 10}, "bot": {"action": "off"}})).is_empty());
        assert_eq!(
            wrong(
                json!({"magic": {}, "bot": {"number": 3}, "address_rate": {"number": 0}, "duplicate": {"number": 61}})
            ),
            ["address_rate", "bot", "duplicate", "magic"]
        );
    }
}
