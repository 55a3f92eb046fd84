//! What happens to each order: who brought it, what the shop says of it and when, how often and in which order that arrives.
//! The same for the same seed and number.

use super::market::{KINDS, Kind, Market};
use crate::dice::roll;
use crate::reckon::{Coin, JPY};

/// Between two reports of an order: so long that the same words are said anew.
const BETWEEN_REPORTS_US: i64 = 2 * 3_600 * 1_000_000;
/// Between two orders.
const BETWEEN_ORDERS_US: i64 = 2_000_003;
/// From the click to the order; what is shared out has another click before it.
pub(super) const CLICK_BEFORE_US: i64 = 600 * 1_000_000;
/// When a shop sends a report again that was not answered.
const SENT_AGAIN_US: i64 = 60 * 1_000_000;
/// How many others a message may pass, or let pass.
const DISPLACED: u64 = 4_000;

/// An order.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) nth: usize,
    /// Which of the market's programs.
    pub(super) program: usize,
    /// Which of the program's partners brought it.
    pub(super) partner: usize,
    /// Who led the shopper before, where the program shares out.
    pub(super) other: Option<usize>,
    pub(super) coin: Coin,
    /// When the first report was accepted.
    pub(super) at_us: i64,
    /// In the order in which they are said; the first says what it is worth.
    pub(super) reports: Vec<Report>,
}

/// Something that the shop says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) at_us: i64,
    pub(super) said: Said,
}

/// Amounts are in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Said {
    Worth(i128),
    /// Under a name or none.
    Refund(i128, Option<u8>),
    RefundAll,
    Approved,
    Rejected,
}

/// How much happens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    pub(super) seed: u64,
    /// When the first order was placed.
    pub(super) begin_us: i64,
    /// Of a hundred orders, those of which more is said than what they are worth.
    pub(super) eventful: u64,
}

impl Course {
    /// The n-th order of a market.
    pub(super) fn order(&self, market: &Market, nth: usize) -> Order {
        let dice = |what: &str, sides: usize| {
            let sides = u64::try_from(sides).unwrap_or(1).max(1);
            usize::try_from(roll(self.seed, what, nth) % sides).unwrap_or(0)
        };
        let kind = kind(roll(self.seed, "kind", nth) % 100);
        let of_kind: Vec<usize> = (0..market.programs.len())
            .filter(|place| market.programs[*place].kind == kind)
            .collect();
        let program = of_kind[dice("program", of_kind.len())];
        let partners = market.programs[program].partners.len();
        let partner = dice("partner", partners);
        let coin = kind.coins()[dice("coin", kind.coins().len())];
        let at_us = self.begin_us + i64::try_from(nth).unwrap_or(0) * BETWEEN_ORDERS_US;
        Order {
            nth,
            program,
            partner,
            other: (kind == Kind::Shared)
                .then(|| (partner + 1 + dice("other", partners - 1)) % partners),
            coin,
            at_us,
            reports: self.reports(nth, at_us, coin),
        }
    }

    fn reports(&self, nth: usize, at_us: i64, coin: Coin) -> Vec<Report> {
        let dice = |what: &str, sides: u64| roll(self.seed, what, nth) % sides;
        // Yen are so many as cents are.
        let unit = if coin == JPY { 20_000 } else { 100_000 };
        let worth = |what: &str| Said::Worth(i128::from(1 + dice(what, unit)));
        let mut said = vec![worth("worth")];
        let more = if dice("eventful", 100) < self.eventful {
            1 + dice("reports", 4)
        } else {
            0
        };
        for place in 0..more {
            let what = format!("report {place}");
            let refund = |most: u64| i128::from(1 + dice(&format!("{what} refund"), most));
            said.push(match dice(&what, 12) {
                0 | 1 => worth(&format!("{what} worth")),
                // Few amounts, so that some are said twice.
                2 => Said::Refund(500 * refund(20), None),
                3 | 4 => Said::Refund(refund(unit / 3), None),
                5 | 6 => {
                    let name = u8::try_from(dice(&format!("{what} name"), 2)).unwrap_or(0);
                    Said::Refund(refund(unit / 3), Some(name))
                }
                7 => Said::RefundAll,
                8..=10 => Said::Approved,
                _ => Said::Rejected,
            });
        }
        (0..)
            .zip(said)
            .map(|(place, said)| Report {
                at_us: at_us + place * BETWEEN_REPORTS_US,
                said,
            })
            .collect()
    }

    /// What is put into Kafka of an order, each with its place among all messages: some reports twice, many late or early.
    pub(super) fn messages(&self, order: &Order) -> Vec<(u64, Report)> {
        let mut messages = Vec::new();
        for (place, report) in order.reports.iter().enumerate() {
            let dice = |what: &str, sides: u64| {
                roll(self.seed, &format!("{what} {place}"), order.nth) % sides
            };
            let mut put = |what: &str, report: Report| {
                let on_time =
                    u64::try_from(order.nth).unwrap_or(0) + DISPLACED * (place as u64) / 4;
                messages.push((on_time + dice(what, DISPLACED), report));
            };
            put("place", *report);
            match dice("again", 10) {
                // Kafka delivered it twice.
                0 => put("place again", *report),
                // The shop was not answered, and sent it again.
                1 => put(
                    "place again",
                    Report {
                        at_us: report.at_us + SENT_AGAIN_US,
                        ..*report
                    },
                ),
                _ => {}
            }
        }
        messages
    }
}

fn kind(of_hundred: u64) -> Kind {
    let mut from = 0;
    for (kind, _, part) in KINDS {
        from += part;
        if of_hundred < from {
            return kind;
        }
    }
    Kind::Plain
}
