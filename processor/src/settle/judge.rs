//! What speaks against a conversion: pure. A signal says its reason in words; a program says what each one does: nothing
//! (`off`), a mark (`flag`), waiting for a person (`hold`), or `reject`. The strongest of what was raised is the verdict.
//!
//! | signal | raised when | number | by default |
//! |---|---|---|---|
//! | `self_referral` | the customer is the credited affiliate, by his e-mail address | | hold |
//! | `fast_conversion` | the order came so soon after the click | 5 seconds | flag |
//! | `address_rate` | so many orders from one address within an hour | 10 | hold |
//! | `checkout_hijack` | the credited click came so shortly before the order, when another affiliate had led the shopper long before | 60 seconds | hold |
//! | `bot` | the click is a known bot's | | hold |
//! | `duplicate`, `flooding`, `data_centre`, `cookie_stuffing`, `prefetch` | the click carries that signal (shared/src/signals.rs) | | flag, hold, flag, hold, flag |
//! | `blocked` | the tenant blocked the affiliate, address, network, site, customer or e-mail domain | | reject |
//!
//! A program's settings: `{"fast_conversion": {"action": "hold", "number": 10}}`; what it does not name stays as above.

use serde::Serialize;
use tributary_shared::fraud::{Action, Settings};
use tributary_shared::signals;

/// A signal that was raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Raised {
    signal: &'static str,
    action: Action,
    /// Why, for people.
    text: String,
}

/// What is known of a conversion that may speak against it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// From the credited click to the order.
    pub(crate) seconds_since_click: Option<i64>,
    /// From the other affiliate's click to the credited one.
    pub(crate) seconds_since_others: Option<i64>,
    pub(crate) is_own: bool,
    /// Orders from its address within the hour before it, itself among them.
    pub(crate) from_address: i64,
    pub(crate) is_bot: bool,
    /// Of the credited click, as the column of the facts.
    pub(crate) click_signals: u16,
    /// What of it the tenant blocked.
    pub(crate) blocked: Vec<String>,
}

/// What was concluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: Action,
    pub(crate) signals: Vec<Raised>,
}

impl Verdict {
    pub(crate) const CLEAR: Self = Self {
        action: Action::Off,
        signals: Vec::new(),
    };

    /// As the column `verdict` holds it.
    pub(crate) fn as_str(&self) -> &'static str {
        match self.action {
            Action::Off => "clear",
            Action::Flag => "flag",
            Action::Hold => "hold",
            Action::Reject => "reject",
        }
    }
}

/// How long before the credited click another affiliate's must lie for the latter to have been pushed aside.
const LONG_BEFORE_SECONDS: i64 = 600;

/// Judges by a program's settings.
pub(crate) fn judge(settings: &Settings, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::CLEAR;
    let mut raise = |signal: &'static str, by_default: Action, text: String| {
        let action = settings
            .get(signal)
            .and_then(|of| of.action)
            .unwrap_or(by_default);
        if action != Action::Off {
            verdict.action = verdict.action.max(action);
            verdict.signals.push(Raised {
                signal,
                action,
                text,
            });
        }
    };
    let number = |signal: &str, by_default: u32| {
        let number = settings.get(signal).and_then(|of| of.number);
        i64::from(number.unwrap_or(by_default))
    };
    if evidence.is_own {
        let text = "the customer has the affiliate's own e-mail address";
        raise("self_referral", Action::Hold, text.to_owned());
    }
    let least = number("fast_conversion", 5);
    if let Some(seconds) = evidence.seconds_since_click.filter(|s| *s < least) {
        let text = format!("the order came {seconds} s after the click; less than {least} s");
        raise("fast_conversion", Action::Flag, text);
    }
    let most = number("address_rate", 10);
    if evidence.from_address > most {
        let text = format!(
            "{} orders from one address within an hour; more than {most}",
            evidence.from_address
        );
        raise("address_rate", Action::Hold, text);
    }
    let least = number("checkout_hijack", 60);
    if let (Some(since), Some(others)) =
        (evidence.seconds_since_click, evidence.seconds_since_others)
        && since < least
        && others >= LONG_BEFORE_SECONDS
    {
        let text = format!(
            "the credited click came {since} s before the order, {others} s after another affiliate's"
        );
        raise("checkout_hijack", Action::Hold, text);
    }
    if evidence.is_bot {
        raise("bot", Action::Hold, "the click is a known bot's".to_owned());
    }
    for signal in signals::of(evidence.click_signals) {
        let by_default = match signal {
            signals::FLOODING | signals::COOKIE_STUFFING => Action::Hold,
            _ => Action::Flag,
        };
        let text = format!("the click was marked: {}", signal.name);
        raise(signal.name, by_default, text);
    }
    if !evidence.blocked.is_empty() {
        raise("blocked", Action::Reject, evidence.blocked.join(", "));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tributary_shared::fraud;

    fn raised(settings: serde_json::Value, evidence: &Evidence) -> (Action, Vec<&'static str>) {
        let verdict = judge(&serde_json::from_value(settings).unwrap(), evidence);
        let names = verdict.signals.iter().map(|raised| raised.signal).collect();
        (verdict.action, names)
    }

    /// What a program may set is what there is.
    #[test]
    fn every_signal_has_its_setting() {
        let click_signals = signals::ALL
            .iter()
            .fold(0, |bits, signal| bits | signal.mask());
        let all = Evidence {
            seconds_since_click: Some(0),
            seconds_since_others: Some(600),
            is_own: true,
            from_address: 11,
            is_bot: true,
            click_signals,
            blocked: vec!["x".into()],
        };
        let mut raised = raised(json!({}), &all).1;
        let mut settable: Vec<&str> = fraud::SIGNALS.iter().map(|(name, _)| *name).collect();
        raised.sort_unstable();
        settable.sort_unstable();
        assert_eq!(raised, settable);
    }

    #[test]
    fn nothing_speaks_against_an_ordinary_order() {
        let evidence = Evidence {
            seconds_since_click: Some(300),
            seconds_since_others: Some(86_400),
            from_address: 1,
            ..Evidence::default()
        };
        assert_eq!(judge(&Settings::new(), &evidence), Verdict::CLEAR);
        assert_eq!(
            judge(&Settings::new(), &Evidence::default()),
            Verdict::CLEAR
        );
    }

    #[test]
    fn each_signal_is_raised_at_its_number_and_the_strongest_decides() {
        let cases = [
            (
                Evidence {
                    is_own: true,
                    ..Evidence::default()
                },
                Action::Hold,
                "self_referral",
            ),
            (
                Evidence {
                    seconds_since_click: Some(4),
                    ..Evidence::default()
                },
                Action::Flag,
                "fast_conversion",
            ),
            (
                Evidence {
                    from_address: 11,
                    ..Evidence::default()
                },
                Action::Hold,
                "address_rate",
            ),
            (
                Evidence {
                    seconds_since_click: Some(59),
                    seconds_since_others: Some(600),
                    ..Evidence::default()
                },
                Action::Hold,
                "checkout_hijack",
            ),
            (
                Evidence {
                    is_bot: true,
                    ..Evidence::default()
                },
                Action::Hold,
                "bot",
            ),
            (
                Evidence {
                    click_signals: signals::DUPLICATE.mask(),
                    ..Evidence::default()
                },
                Action::Flag,
                "duplicate",
            ),
            (
                Evidence {
                    click_signals: signals::FLOODING.mask(),
                    ..Evidence::default()
                },
                Action::Hold,
                "flooding",
            ),
            (
                Evidence {
                    click_signals: signals::DATA_CENTRE.mask(),
                    ..Evidence::default()
                },
                Action::Flag,
                "data_centre",
            ),
            (
                Evidence {
                    click_signals: signals::COOKIE_STUFFING.mask(),
                    ..Evidence::default()
                },
                Action::Hold,
                "cookie_stuffing",
            ),
            (
                Evidence {
                    click_signals: signals::PREFETCH.mask(),
                    ..Evidence::default()
                },
                Action::Flag,
                "prefetch",
            ),
            (
                Evidence {
                    blocked: vec!["x".into()],
                    ..Evidence::default()
                },
                Action::Reject,
                "blocked",
            ),
        ];
        for (evidence, action, signal) in cases {
            assert_eq!(raised(json!({}), &evidence), (action, vec![signal]));
            assert_eq!(
                raised(json!({signal: {"action": "off"}}), &evidence),
                (Action::Off, vec![])
            );
            assert_eq!(
                raised(json!({signal: {"action": "reject"}}), &evidence),
                (Action::Reject, vec![signal])
            );
        }
        for quiet in [
            Evidence {
                seconds_since_click: Some(5),
                ..Evidence::default()
            },
            Evidence {
                from_address: 10,
                ..Evidence::default()
            },
            Evidence {
                seconds_since_click: Some(60),
                seconds_since_others: Some(600),
                ..Evidence::default()
            },
            Evidence {
                seconds_since_click: Some(50),
                seconds_since_others: Some(599),
                ..Evidence::default()
            },
        ] {
            assert_eq!(raised(json!({}), &quiet).0, Action::Off, "{quiet:?}");
        }
        let both = Evidence {
            seconds_since_click: Some(9),
            is_bot: true,
            ..Evidence::default()
        };
        let strict = json!({"fast_conversion": {"number": 10, "action": "reject"}});
        assert_eq!(
            raised(strict, &both),
            (Action::Reject, vec!["fast_conversion", "bot"])
        );
    }
}
