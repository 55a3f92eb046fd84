//! What speaks against a conversion: pure. A signal says its reason in words; a program says what each one does: nothing
//! (`off`), a mark (`flag`), waiting for a person (`hold`), or `reject`. The strongest of what was raised is the verdict.
//!
//! | signal | raised when | number | by default |
//! |---|---|---|---|
//! | `self_referral` | the customer is the credited affiliate, by his e-mail address | | hold |
//! | `fast_conversion` | the order came so soon after the click | 5 seconds | flag |
//! | `address_rate` | so many orders from one address within an hour | 10 | hold |
//! | `checkout_hijack` | the credited click came so shortly before the order, when another affiliate had led the shopper long before | 60 seconds | hold |
//! | `country_mismatch` | the order's address lies in another country than the click's; both are known | | flag |
//! | `rate_anomaly` | the affiliate has more than 20 orders within an hour, and so many times more than in an hour of the 7 days before | 10 times | flag |
//! | `bot` | the click is a known bot's | | hold |
//! | `duplicate` | the same visitor clicked the same link so shortly before | 10 seconds | flag |
//! | `flooding` | so many clicks of one address and browser on the link within a minute | 20 | hold |
//! | `data_centre`, `cookie_stuffing`, `prefetch` | the click carries that signal (shared/src/signals.rs) | | flag, hold, flag |
//! | `blocked` | the tenant blocked the affiliate, address, network, site, customer or e-mail domain | | reject |
//!
//! A program's settings: `{"fast_conversion": {"action": "hold", "number": 10}}`; what it does not name stays as above.

use serde::Serialize;
use tributary_shared::fraud::{Action, Settings};
use tributary_shared::signals;

use super::around::Around;

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
    /// Where the order came from and where the click did, where both are known.
    pub(crate) countries: Option<(String, String)>,
    pub(crate) rate: Rate,
    /// Of the credited click, as the column of the facts.
    pub(crate) click_signals: u16,
    /// The clicks around the credited one; none: they were not counted.
    pub(crate) around: Option<Around>,
    /// What of it the tenant blocked.
    pub(crate) blocked: Vec<String>,
}

/// How many orders an affiliate had lately, and before. Of many only the latest are counted, and over the time that they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Within the hour up to the order, itself among them.
    pub(crate) lately: Orders,
    /// In the 7 days before that hour.
    pub(crate) before: Orders,
}

/// A number of orders, and how long it took them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) count: i64,
    pub(crate) seconds: i64,
}

impl Rate {
    /// Whether there are more than `times` as many orders lately as before in the same time; few are never too many.
    fn is_above(&self, times: i64) -> bool {
        let (lately, before) = (self.lately, self.before);
        let usual = times
            .saturating_mul(before.count)
            .saturating_mul(lately.seconds);
        lately.count > FEW_ORDERS && lately.count.saturating_mul(before.seconds) > usual
    }
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
/// Within this time a visitor's click on a link repeats the one before.
pub(super) const DUPLICATE_SECONDS: u32 = 10;
/// Clicks of one source on a link within a minute that people may make.
pub(super) const FLOOD_CLICKS: u32 = 20;
/// Orders within an hour that are no anomaly, whatever was before.
pub(super) const FEW_ORDERS: i64 = 20;

/// What a signal does in a program.
pub(super) fn action(settings: &Settings, signal: &str) -> Action {
    let said = settings.get(signal).and_then(|of| of.action);
    said.unwrap_or(match signal {
        "self_referral" | "address_rate" | "checkout_hijack" | "bot" | "flooding"
        | "cookie_stuffing" => Action::Hold,
        "blocked" => Action::Reject,
        _ => Action::Flag,
    })
}

/// Judges by a program's settings.
pub(crate) fn judge(settings: &Settings, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::CLEAR;
    let mut raise = |signal: &'static str, text: String| {
        let action = action(settings, signal);
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
        raise("self_referral", text.to_owned());
    }
    let least = number("fast_conversion", 5);
    if let Some(seconds) = evidence.seconds_since_click.filter(|s| *s < least) {
        let text = format!("the order came {seconds} s after the click; less than {least} s");
        raise("fast_conversion", text);
    }
    let most = number("address_rate", 10);
    if evidence.from_address > most {
        let text = format!(
            "{} orders from one address within an hour; more than {most}",
            evidence.from_address
        );
        raise("address_rate", text);
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
        raise("checkout_hijack", text);
    }
    if evidence.is_bot {
        raise("bot", "the click is a known bot's".to_owned());
    }
    if let Some((order, click)) = evidence.countries.as_ref().filter(|(o, c)| o != c) {
        let text = format!("the order came from {order}, the click from {click}");
        raise("country_mismatch", text);
    }
    let times = number("rate_anomaly", 10);
    if evidence.rate.is_above(times) {
        let Rate { lately, before } = evidence.rate;
        let text = format!(
            "{} orders of the affiliate within {} minutes, {} within {} hours before: more than {times} times as many in the same time",
            lately.count,
            lately.seconds.unsigned_abs().div_ceil(60),
            before.count,
            before.seconds.unsigned_abs().div_ceil(3600)
        );
        raise("rate_anomaly", text);
    }
    let mut marks = evidence.click_signals;
    if let Some(around) = evidence.around {
        // What a processor remembered gives way to what was counted.
        marks &= !(signals::DUPLICATE.mask() | signals::FLOODING.mask());
        let within = number("duplicate", DUPLICATE_SECONDS);
        if let Some(ms) = around.since_ms.filter(|ms| i64::from(*ms) <= within * 1000) {
            let seconds = ms.div_ceil(1000);
            let text = format!(
                "the same visitor had clicked the link {seconds} s before; within {within} s"
            );
            raise(signals::DUPLICATE.name, text);
        }
        let most = number("flooding", FLOOD_CLICKS);
        if i64::from(around.in_minute) > most {
            let text = format!(
                "{} clicks of one address and browser on the link within a minute; more than {most}",
                around.in_minute
            );
            raise(signals::FLOODING.name, text);
        }
    }
    for signal in signals::of(marks) {
        let text = format!("the click was marked: {}", signal.name);
        raise(signal.name, text);
    }
    if !evidence.blocked.is_empty() {
        raise("blocked", evidence.blocked.join(", "));
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

    /// Orders within an hour, and in the 7 days before.
    fn rate(lately: i64, before: i64) -> Rate {
        let orders = |count, seconds| Orders { count, seconds };
        Rate {
            lately: orders(lately, 3600),
            before: orders(before, 7 * 86_400),
        }
    }

    fn around(since_ms: Option<u32>, in_minute: u32) -> Evidence {
        Evidence {
            around: Some(Around {
                since_ms,
                in_minute,
            }),
            ..Evidence::default()
        }
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
            countries: Some(("DE".into(), "FR".into())),
            rate: rate(21, 0),
            click_signals,
            around: None,
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
            (around(Some(10_000), 1), Action::Flag, "duplicate"),
            (around(None, 21), Action::Hold, "flooding"),
            (
                Evidence {
                    countries: Some(("DE".into(), "FR".into())),
                    ..Evidence::default()
                },
                Action::Flag,
                "country_mismatch",
            ),
            (
                Evidence {
                    rate: rate(21, 0),
                    ..Evidence::default()
                },
                Action::Flag,
                "rate_anomaly",
            ),
            (
                Evidence {
                    // 5 an hour before.
                    rate: rate(51, 840),
                    ..Evidence::default()
                },
                Action::Flag,
                "rate_anomaly",
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
            around(Some(10_001), 20),
            // What was counted stands above what was marked.
            Evidence {
                click_signals: signals::DUPLICATE.mask() | signals::FLOODING.mask(),
                ..around(None, 1)
            },
            Evidence {
                countries: Some(("DE".into(), "DE".into())),
                ..Evidence::default()
            },
            Evidence {
                rate: rate(20, 0),
                ..Evidence::default()
            },
            Evidence {
                rate: rate(50, 840),
                ..Evidence::default()
            },
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
