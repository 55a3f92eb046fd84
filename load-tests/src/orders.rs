//! The merchant's side of a replay: which clicks become orders, of what amount, told how often; and
//! postbacks that must be refused. The same seed gives the same orders.

use crate::dice::roll;
use crate::options::Share;
use crate::plan::Plan;
use crate::reckon::{Coin, EUR, JPY, KWD, USD};

#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) good: Vec<Order>,
    pub(crate) bad: Vec<BadOrder>,
}

/// An order that must be credited once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) order_id: String,
    /// Which click of the plan it belongs to.
    pub(crate) click: usize,
    pub(crate) coin: Coin,
    pub(crate) minor: i128,
    /// The amount as the merchant writes it: 49.90, 49.9, 49.
    pub(crate) amount: String,
    pub(crate) via: Via,
    pub(crate) deliveries: Deliveries,
}

/// How a postback travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Get,
    Form,
    /// A form, with the token in the Authorization header.
    FormWithBearer,
}

/// How often it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deliveries {
    Once,
    /// One after the other, as a merchant retries.
    Repeated(usize),
    /// All at the same time.
    AtOnce(usize),
}

/// A postback that must be refused.
#[derive(Debug)]
pub(crate) struct BadOrder {
    pub(crate) order_id: String,
    pub(crate) flaw: Flaw,
    pub(crate) via: Via,
    /// Which click of the plan it claims.
    pub(crate) click: usize,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A field has this value instead.
    Value(&'static str, &'static str),
    /// A field is left out.
    Missing(&'static str),
    /// A click id of the right form that nobody issued.
    ForgedClick,
    /// A click id that was cut on its way.
    CutClick,
    WrongToken,
    NoToken,
}

pub(crate) const BAD: [Flaw; 16] = [
    Flaw::Missing("amount"),
    Flaw::Value("amount", ""),
    Flaw::Value("amount", "-49.90"),
    Flaw::Value("amount", "a lot"),
    Flaw::Value("amount", "1e3"),
    Flaw::Value("amount", "49,90"),
    Flaw::Value("amount", "49.905"),
    Flaw::Value("amount", "99999999999999999"),
    Flaw::Missing("currency"),
    Flaw::Value("currency", "ZZZ"),
    Flaw::Value("currency", "usd"),
    Flaw::Missing("order_id"),
    Flaw::ForgedClick,
    Flaw::CutClick,
    Flaw::WrongToken,
    Flaw::NoToken,
];

/// Chooses among the clicks of people. `run` stands in every order id, so that two replays don't meet.
pub(crate) fn plan(plan: &Plan, seed: u64, share: Share, run: &str) -> Orders {
    let mut people: Vec<usize> = (0..plan.clicks.len())
        .filter(|at| !plan.clicks[*at].is_bot)
        .collect();
    people.sort_by_key(|at| roll(seed, "chosen", plan.clicks[*at].request.line));
    let bad = BAD
        .iter()
        .zip(people.iter().rev())
        .zip([Via::Get, Via::Form].into_iter().cycle())
        .enumerate()
        .map(|(n, ((flaw, click), via))| BadOrder {
            order_id: format!("{run}-bad{n}"),
            flaw: *flaw,
            via,
            click: *click,
        })
        .collect();
    people.truncate(share.of(plan.clicks.len()));
    let good = people
        .into_iter()
        .map(|click| {
            let line = plan.clicks[click].request.line;
            let dice = |what, sides| roll(seed, what, line) % sides;
            order(format!("{run}-{line}"), click, dice)
        })
        .collect();
    Orders { good, bad }
}

fn order(order_id: String, click: usize, dice: impl Fn(&'static str, u64) -> u64) -> Order {
    let coin = match dice("currency", 20) {
        0..=13 => USD,
        14..=16 => EUR,
        17..=18 => JPY,
        _ => KWD,
    };
    let minor = i128::from(match dice("size", 100) {
        // A tenth of these ends in half a minor unit.
        0..=39 => 10 * dice("awkward", 5_000) + 5,
        40..=45 => 1 + dice("tiny", 9),
        46..=48 => 1_000_000 + dice("large", 9_000_000),
        _ => 100 + dice("plain", 50_000),
    });
    let mut amount = coin.text(minor);
    if dice("zeros", 4) == 0 && amount.contains('.') {
        amount.truncate(amount.trim_end_matches('0').trim_end_matches('.').len());
    }
    let via = match dice("via", 3) {
        0 => Via::Get,
        1 => Via::Form,
        _ => Via::FormWithBearer,
    };
    let deliveries = match dice("deliveries", 10) {
        0 => Deliveries::AtOnce(3),
        1 => Deliveries::Repeated(2),
        2 => Deliveries::Repeated(3),
        _ => Deliveries::Once,
    };
    Order {
        order_id,
        click,
        coin,
        minor,
        amount,
        via,
        deliveries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Link, Program};

    fn real(seed: u64, limit: usize) -> (Plan, Orders) {
        let link = Link {
            id: 1,
            url: String::new(),
            program_id: 1,
            affiliate_id: 1,
            destination: String::new(),
            active: true,
        };
        let program = Program {
            links: vec![link],
            percents: [(1, 100_000)].into(),
        };
        let labels = crate::agents::Labels::read(None).unwrap();
        let mut requests = crate::access_log::read(None).unwrap();
        requests.truncate(limit);
        let clicks = crate::plan::plan(requests, &program, &labels).unwrap();
        let orders = plan(&clicks, seed, "3%".parse().unwrap(), "run");
        (clicks, orders)
    }

    #[test]
    fn the_same_seed_gives_the_same_orders() {
        let (_, one) = real(2015, 10_000);
        let (_, again) = real(2015, 10_000);
        let (_, other) = real(2016, 10_000);
        assert_eq!(one.good.len(), 300);
        assert_eq!(one.good, again.good);
        assert_ne!(one.good, other.good);
        // Written down once: a change of the plan is seen.
        let first: Vec<String> = one.good[..3]
            .iter()
            .map(|o| format!("{} {} {}", o.order_id, o.amount, o.coin.code))
            .collect();
        assert_eq!(
            first,
            [
                "run-2304 223.65 USD",
                "run-9466 83.81 USD",
                "run-4153 6439 JPY"
            ]
        );
    }

    #[test]
    fn orders_are_of_people_and_of_every_kind() {
        let (clicks, orders) = real(2015, 10_000);
        assert!(orders.good.iter().all(|o| !clicks.clicks[o.click].is_bot));
        let ids: std::collections::HashSet<_> = orders.good.iter().map(|o| &o.order_id).collect();
        assert_eq!(ids.len(), orders.good.len());
        let some = |wanted: &dyn Fn(&Order) -> bool| assert!(orders.good.iter().any(wanted));
        for coin in [USD, EUR, JPY, KWD] {
            some(&|o| o.coin == coin);
        }
        for via in [Via::Get, Via::Form, Via::FormWithBearer] {
            some(&|o| o.via == via);
        }
        some(&|o| o.deliveries == Deliveries::AtOnce(3));
        some(&|o| o.deliveries == Deliveries::Repeated(2));
        some(&|o| o.minor < 5); // a commission of nothing
        some(&|o| o.minor % 10 == 5 && o.minor > 10);
        assert!(
            orders
                .good
                .iter()
                .all(|o| o.coin.minor(&o.amount) == Some(o.minor))
        );
        assert_eq!(orders.bad.len(), BAD.len());
    }

    #[test]
    fn a_short_replay_has_fewer_orders() {
        assert_eq!(real(2015, 100).1.good.len(), 3);
        assert_eq!(real(2015, 3).1.good.len(), 0);
    }
}
