//! What everybody must own in the end, reckoned from the orders' stories alone, in whole minor units and millionths of
//! them. It shares no code with the product.

use std::collections::{BTreeMap, HashMap};

use super::market::{Kind, Market, Program};
use super::story::{Order, Report, Said};
use crate::reckon::{Coin, EUR, JPY, USD};

/// An affiliate's account: whose, of which currency, `pending` or `available`.
pub(super) type Account = (i64, &'static str, &'static str);

/// What each account must hold, in minor units; accounts of nothing are left out.
pub(super) type Owed = BTreeMap<Account, i128>;

/// Millionths of a minor unit.
const MILLION: i128 = 1_000_000;
/// Within it the same words are the same report.
const HOUR_US: i64 = 3_600 * 1_000_000;
/// Uplines' percentages, the parent's first.
const UPLINES: [i128; 3] = [10, 3, 1];

/// What the shop's reports come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    worth: i128,
    refunded: i128,
    rejected: bool,
    approved: bool,
}

/// Adds up the reports of an order, given in the order of their times.
fn sum(reports: &[Report]) -> Sum {
    let mut said: HashMap<Said, i64> = HashMap::new();
    let mut unnamed: Vec<i128> = Vec::new();
    let mut named: BTreeMap<u8, i128> = BTreeMap::new();
    let mut all = false;
    let mut sum = Sum {
        worth: 0,
        refunded: 0,
        rejected: false,
        approved: false,
    };
    for report in reports {
        let before = said.insert(report.said, report.at_us);
        if before.is_some_and(|before| report.at_us - before <= HOUR_US) {
            continue;
        }
        match report.said {
            Said::Worth(minor) => sum.worth = minor,
            Said::Refund(minor, Some(name)) => {
                named.insert(name, minor);
            }
            Said::Refund(minor, None) if unnamed.contains(&minor) => {}
            Said::Refund(minor, None) => unnamed.push(minor),
            Said::RefundAll => all = true,
            Said::Approved => (sum.approved, sum.rejected) = (true, false),
            Said::Rejected => (sum.approved, sum.rejected) = (false, true),
        }
    }
    let refunds = unnamed.iter().sum::<i128>() + named.values().sum::<i128>();
    sum.refunded = if all {
        sum.worth
    } else {
        refunds.min(sum.worth)
    };
    sum
}

/// Half a unit goes up; nothing here is below zero.
fn rounded(millionths: i128) -> i128 {
    (millionths + MILLION / 2) / MILLION
}

/// In millionths, which ten-thousandths of a per cent are.
fn percent(minor: i128, ten_thousandths: i128) -> i128 {
    minor * ten_thousandths
}

/// What is left of a commission after the order's refunds, which go back as they are rounded.
fn left(gross: i128, sum: &Sum) -> i128 {
    if sum.rejected || sum.refunded >= sum.worth {
        return 0;
    }
    let twice = 2 * gross * sum.refunded + sum.worth;
    (gross - twice / (2 * sum.worth)).max(0)
}

/// What one order gives before refunds by its program's kind: the coin and minor units.
fn gross(kind: Kind, worth: i128, coin: Coin, before: &Before) -> (Coin, i128) {
    match kind {
        Kind::Plain => {
            let of_hundred = if worth >= 50_000 { 12 } else { 10 };
            (USD, rounded(percent(worth, of_hundred * 10_000)))
        }
        Kind::Euro => {
            // 0.50 EUR and 20 EUR in the order's coin: 1.1 dollars or 160.55 yen for one.
            let (flat, most) = match coin {
                EUR => (50 * MILLION, 2_000 * MILLION),
                USD => (55 * MILLION, 2_200 * MILLION),
                _ => (80_275_000, 3_211 * MILLION),
            };
            (coin, rounded((percent(worth, 50_000) + flat).min(most)))
        }
        Kind::InDollars => {
            // A cent of a euro is 1.1 cents, a yen 0.67.
            let hundredths = match coin {
                EUR => 110,
                JPY => 67,
                _ => 100,
            };
            (USD, rounded(worth * hundredths * 75_000 / 100))
        }
        Kind::Held | Kind::Shared => (USD, rounded(percent(worth, 100_000))),
        Kind::Tiers => {
            let of_hundred = match before.orders {
                0..10 => 5,
                10..25 => 8,
                _ => 10,
            };
            (USD, rounded(percent(worth, of_hundred * 10_000)))
        }
        Kind::Volume => {
            let of_hundred = if before.revenue >= 200_000 { 9 } else { 5 };
            (USD, rounded(percent(worth, of_hundred * 10_000)))
        }
        Kind::Capped => {
            let left = (10_000 - before.earned).max(0) * MILLION;
            (USD, rounded(percent(worth, 100_000).min(left)))
        }
    }
}

/// What an affiliate's earlier orders of the program come to, of those that are worth something.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    orders: u64,
    earned: i128,
    /// Less what was given back.
    revenue: i128,
}

/// Adds up order after order.
#[derive(Debug)]
pub(super) struct Auditor<'m> {
    market: &'m Market,
    before: BTreeMap<(usize, usize), Before>,
    pub(super) owed: Owed,
    /// What all orders were worth by their last words, in each coin, before refunds.
    pub(super) revenue: BTreeMap<&'static str, i128>,
    pub(super) orders: usize,
}

impl<'m> Auditor<'m> {
    pub(super) fn new(market: &'m Market) -> Self {
        Self {
            market,
            before: BTreeMap::new(),
            owed: Owed::new(),
            revenue: BTreeMap::new(),
            orders: 0,
        }
    }

    /// Takes the next order, in the order of time. At the end every hold but the long one is over.
    pub(super) fn take(&mut self, order: &Order) {
        let program = &self.market.programs[order.program];
        let sum = sum(&order.reports);
        self.orders += 1;
        *self.revenue.entry(order.coin.code).or_default() += sum.worth;
        let account = if program.kind == Kind::Held && !sum.approved {
            "pending"
        } else {
            "available"
        };
        for (partner, worth) in credited(order, sum.worth) {
            let before = self.before.entry((order.program, partner)).or_default();
            let (coin, gross) = gross(program.kind, worth, order.coin, before);
            let net = left(gross, &sum);
            if net > 0 {
                before.orders += 1;
                before.earned += gross;
                before.revenue += sum.worth - sum.refunded;
            }
            self.owe(program, partner, coin, account, net);
            if program.kind == Kind::Plain {
                let mut above = program.partners[partner].parent;
                for of_hundred in UPLINES {
                    let Some(partner) = above else { break };
                    let upline = rounded(percent(gross, of_hundred * 10_000));
                    self.owe(program, partner, coin, account, left(upline, &sum));
                    above = program.partners[partner].parent;
                }
            }
        }
    }

    fn owe(
        &mut self,
        program: &Program,
        partner: usize,
        coin: Coin,
        account: &'static str,
        net: i128,
    ) {
        if net > 0 {
            let key = (program.partners[partner].affiliate, coin.code, account);
            *self.owed.entry(key).or_default() += net;
        }
    }
}

/// Added up over an affiliate's accounts.
pub(super) fn by_affiliate(owed: &Owed) -> BTreeMap<(i64, &'static str), i128> {
    let mut sums: BTreeMap<(i64, &'static str), i128> = BTreeMap::new();
    for ((affiliate, currency, _), minor) in owed {
        *sums.entry((*affiliate, *currency)).or_default() += *minor;
    }
    sums
}

/// Who is credited with which part of the order's worth: half each where there are two, the odd cent to who came first.
fn credited(order: &Order, worth: i128) -> Vec<(usize, i128)> {
    match order.other {
        Some(other) => vec![(other, (worth + 1) / 2), (order.partner, worth / 2)],
        None => vec![(order.partner, worth)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::market::Partner;

    fn said(said: &[(i64, Said)]) -> Vec<Report> {
        let report = |(hour, said): &(i64, Said)| Report {
            at_us: hour * HOUR_US,
            said: *said,
        };
        said.iter().map(report).collect()
    }

    #[test]
    fn reports_come_to_what_a_person_would_say() {
        use Said::{Approved, Refund, RefundAll, Rejected, Worth};
        let of = |reports: &[(i64, Said)]| {
            let sum = sum(&said(reports));
            (sum.worth, sum.refunded, sum.rejected)
        };
        assert_eq!(of(&[(0, Worth(1000)), (2, Worth(2000))]), (2000, 0, false));
        let twice = [
            (0, Worth(1000)),
            (2, Refund(300, None)),
            (4, Refund(300, None)),
        ];
        assert_eq!(of(&twice), (1000, 300, false));
        let named = [
            (0, Worth(1000)),
            (2, Refund(300, Some(1))),
            (4, Refund(300, Some(0))),
            (6, Refund(100, Some(1))),
        ];
        assert_eq!(of(&named), (1000, 400, false));
        assert_eq!(
            of(&[(0, Worth(1000)), (2, Refund(1001, None))]),
            (1000, 1000, false)
        );
        assert_eq!(of(&[(0, Worth(1000)), (2, RefundAll)]), (1000, 1000, false));
        let again = [
            (0, Worth(1000)),
            (2, Rejected),
            (4, Approved),
            (6, Rejected),
        ];
        assert_eq!(of(&again), (1000, 0, true));
        // The same words within the hour are a repetition.
        let soon = [
            (0, Worth(1000)),
            (2, Rejected),
            (3, Approved),
            (3, Rejected),
        ];
        assert_eq!(of(&soon), (1000, 0, false));
    }

    /// Each kind by hand.
    #[test]
    fn commissions_are_what_a_person_would_reckon() {
        let none = Before::default();
        let of = |kind, worth, coin| gross(kind, worth, coin, &none).1;
        assert_eq!(of(Kind::Plain, 1_225, USD), 123); // 122.5
        assert_eq!(of(Kind::Plain, 50_000, USD), 6_000); // 12 %
        assert_eq!(of(Kind::Plain, 49_999, USD), 5_000); // 4999.9
        assert_eq!(of(Kind::Euro, 1_000, EUR), 100); // 50 + 50
        assert_eq!(of(Kind::Euro, 1_000, USD), 105); // 50 + 55
        assert_eq!(of(Kind::Euro, 1_001, JPY), 130); // 50.05 + 80.275 = 130.325
        assert_eq!(of(Kind::Euro, 100_000, EUR), 2_000); // the most
        assert_eq!(of(Kind::Euro, 100_000, JPY), 3_211);
        assert_eq!(of(Kind::InDollars, 1_000, EUR), 83); // 1100 × 7.5 % = 82.5
        assert_eq!(of(Kind::InDollars, 1_000, JPY), 50); // 670 × 7.5 % = 50.25
        assert_eq!(of(Kind::InDollars, 1_000, USD), 75);
        let many = |orders, earned| Before {
            orders,
            earned,
            revenue: 0,
        };
        let tier = |orders| gross(Kind::Tiers, 1_000, USD, &many(orders, 0)).1;
        assert_eq!([tier(9), tier(10), tier(24), tier(25)], [50, 80, 80, 100]);
        let capped = |earned| gross(Kind::Capped, 5_000, USD, &many(0, earned)).1;
        assert_eq!([capped(0), capped(9_600), capped(10_000)], [500, 400, 0]);
        let volume = |revenue| {
            let before = Before {
                revenue,
                ..Before::default()
            };
            gross(Kind::Volume, 1_000, USD, &before).1
        };
        assert_eq!([volume(199_999), volume(200_000)], [50, 90]);
        let refunded = |worth, refunded| Sum {
            worth,
            refunded,
            rejected: false,
            approved: false,
        };
        assert_eq!(left(100, &refunded(1_000, 333)), 67); // 33.3 go back as 33
        assert_eq!(left(300, &refunded(3_000, 1_000)), 200);
        assert_eq!(left(1, &refunded(100, 50)), 0); // 0.5 goes back as 1
        assert_eq!(left(100, &refunded(1_000, 1_000)), 0);
    }

    #[test]
    fn an_order_pays_those_above_and_both_who_share_it() {
        let partner = |affiliate, parent| Partner {
            affiliate,
            link: affiliate,
            parent,
        };
        let market = |kind| Market {
            tenant: 1,
            programs: vec![Program {
                kind,
                id: 1,
                partners: vec![
                    partner(10, None),
                    partner(11, Some(0)),
                    partner(12, Some(1)),
                ],
            }],
        };
        let order = |other| Order {
            nth: 0,
            program: 0,
            partner: 2,
            other,
            coin: USD,
            at_us: 0,
            reports: said(&[(0, Said::Worth(10_001))]),
        };
        let plain = market(Kind::Plain);
        let mut auditor = Auditor::new(&plain);
        auditor.take(&order(None));
        let owed = |affiliate, minor| ((affiliate, "USD", "available"), minor);
        // 1000.1; 10 % of 1000; 3 % of 1000.
        let expected = Owed::from([owed(12, 1_000), owed(11, 100), owed(10, 30)]);
        assert_eq!(auditor.owed, expected);
        let shared = market(Kind::Shared);
        let mut auditor = Auditor::new(&shared);
        auditor.take(&order(Some(0)));
        // 10 % of 5001 and of 5000.
        assert_eq!(auditor.owed, Owed::from([owed(10, 500), owed(12, 500)]));
    }
}
