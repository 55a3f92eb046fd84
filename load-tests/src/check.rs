//! The comparison of what was sent with what is stored, by the replay's own count.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::Error;
use crate::api::Program;
use crate::browser::Clicked;
use crate::orders::{Order, Orders};
use crate::plan::{Click, Plan};
use crate::progress::Progress;
use crate::reckon::{Coin, Sums, commission};
use crate::shop::Posted;
use crate::stores::{
    ClickHouse, Commission, Conversion, Facts, Ledger, LedgerOrders, StoredClick, StoredClicks,
};

/// How often it is asked whether everything is stored.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What was sent and how it was answered.
pub(crate) struct Sent<'r> {
    pub(crate) run: &'r str,
    pub(crate) since: DateTime<Utc>,
    pub(crate) program: &'r Program,
    pub(crate) plan: &'r Plan,
    pub(crate) clicked: &'r Clicked,
    pub(crate) orders: &'r Orders,
    pub(crate) posted: &'r Posted,
}

/// What is stored.
pub(crate) struct Found {
    pub(crate) clicks: StoredClicks,
    pub(crate) facts: Facts,
    pub(crate) ledger: LedgerOrders,
    pub(crate) api: Facts,
    pub(crate) before: Sums<i64>,
    pub(crate) after: Sums<i64>,
}

/// One line of the result.
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) expected: usize,
    /// How many are right.
    pub(crate) found: usize,
    pub(crate) differences: Vec<String>,
}

impl Line {
    pub(crate) fn holds(&self) -> bool {
        self.expected == self.found && self.differences.is_empty()
    }
}

/// What the orders in one currency add up to, in minor units.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) orders: usize,
    pub(crate) revenue: i128,
    pub(crate) own: i128,
    pub(crate) ledger: i128,
    pub(crate) clickhouse: i128,
}

pub(crate) struct Verdict {
    pub(crate) lines: Vec<Line>,
    pub(crate) totals: BTreeMap<Coin, Totals>,
}

impl Verdict {
    pub(crate) fn holds(&self) -> bool {
        self.lines.iter().all(Line::holds)
    }

    fn line(
        &mut self,
        what: impl Into<String>,
        expected: usize,
        found: usize,
        differences: Vec<String>,
    ) {
        self.lines.push(Line {
            what: what.into(),
            expected,
            found,
            differences,
        });
    }

    /// Looks at each of `items`; `wrong` says what is not as it should be.
    fn each<T>(
        &mut self,
        what: impl Into<String>,
        items: &[T],
        wrong: impl Fn(&T) -> Option<String>,
    ) {
        let differences: Vec<String> = items.iter().filter_map(wrong).collect();
        self.line(
            what,
            items.len(),
            items.len() - differences.len(),
            differences,
        );
    }
}

/// Returns when every click and order is stored, or when it has waited long enough. A store that
/// does not answer is asked again: it may be starting anew.
pub(crate) async fn wait_until_stored(
    sent: &Sent<'_>,
    clickhouse: &ClickHouse,
    ledger: &Ledger,
    limit: Duration,
) -> Result<(), Error> {
    let began = Instant::now();
    let ids = sent.clicked.ids();
    let accepted = accepted(sent).len();
    let progress = Progress::new("stored: clicks, orders, facts", ids.len() + 2 * accepted);
    loop {
        let asked = tokio::try_join!(
            clickhouse.count(&ids, sent.since),
            ledger.count_orders(sent.run),
            clickhouse.count_orders(sent.run),
        );
        let late = began.elapsed() > limit;
        match asked {
            Ok((clicks, (conversions, commissions), facts)) => {
                progress.at(clicks + conversions + facts.0);
                let complete = clicks >= ids.len()
                    && conversions >= accepted
                    && facts >= (conversions, commissions);
                if complete || late {
                    progress.finish();
                    return Ok(());
                }
            }
            Err(error) if late => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// An order that was accepted, its click, and the conversion's id that the merchant was told.
struct Accepted<'s> {
    order: &'s Order,
    click: &'s Click,
    id: &'s str,
    /// What the affiliate must get, in minor units.
    earned: i128,
}

fn accepted<'s>(sent: &Sent<'s>) -> Vec<Accepted<'s>> {
    let with_answers = sent.orders.good.iter().zip(&sent.posted.good);
    with_answers
        .filter_map(|(order, answer)| {
            let Some(Ok(id)) = answer else { return None };
            let click = &sent.plan.clicks[order.click];
            let percent = sent.program.percents.get(&click.link.program_id)?;
            let earned = commission(order.minor, *percent);
            Some(Accepted {
                order,
                click,
                id,
                earned,
            })
        })
        .collect()
}

pub(crate) fn compare(sent: &Sent<'_>, found: &Found) -> Verdict {
    let mut verdict = Verdict {
        lines: Vec::new(),
        totals: BTreeMap::new(),
    };
    compare_clicks(&mut verdict, sent, &found.clicks);
    compare_answers(&mut verdict, sent);
    let accepted = accepted(sent);
    let stores = [
        ("PostgreSQL", &found.ledger.facts),
        ("the admin API", &found.api),
        ("ClickHouse", &found.facts),
    ];
    for (name, facts) in stores {
        compare_conversions(&mut verdict, sent.run, name, &accepted, &facts.conversions);
    }
    for (name, facts) in stores {
        compare_commissions(&mut verdict, sent.run, name, &accepted, facts);
    }
    compare_ledger(&mut verdict, &accepted, &found.ledger);
    compare_balances(&mut verdict, &accepted, found);
    add_up(&mut verdict, &accepted, found);
    verdict
}

fn compare_clicks(verdict: &mut Verdict, sent: &Sent<'_>, stored: &StoredClicks) {
    let plan = sent.plan;
    let name = |at: usize| format!("line {}", plan.clicks[at].request.line);
    let problems = sent
        .clicked
        .problems
        .iter()
        .map(|(at, why)| format!("{}: {why}", name(*at)));
    let ids = sent.clicked.ids();
    verdict.line(
        "clicks answered by the right 302",
        plan.clicks.len(),
        ids.len(),
        problems.collect(),
    );

    let different: HashSet<&str> = ids.iter().copied().collect();
    verdict.line(
        "click ids, each another",
        ids.len(),
        different.len(),
        Vec::new(),
    );

    let mut rows: HashMap<&str, Vec<&StoredClick>> = HashMap::new();
    for row in &stored.asked {
        rows.entry(&row.click_id).or_default().push(row);
    }
    let mut pairs: Vec<(&Click, &StoredClick)> = Vec::with_capacity(ids.len());
    let mut differences = Vec::new();
    for (at, id) in sent.clicked.click_ids.iter().enumerate() {
        let Some(id) = id else { continue };
        match rows.get(id.as_str()).map_or(&[][..], Vec::as_slice) {
            [row] => pairs.push((&plan.clicks[at], row)),
            rows => differences.push(format!(
                "{}: click {id} is stored {} times",
                name(at),
                rows.len()
            )),
        }
    }
    verdict.line("  stored once", ids.len(), pairs.len(), differences);

    let strangers = stored
        .marked
        .iter()
        .filter(|row| !different.contains(row.click_id.as_str()));
    let strangers: Vec<String> = strangers
        .map(|row| {
            format!(
                "line {}: click {} is stored but was not accepted",
                row.sub2, row.click_id
            )
        })
        .collect();
    verdict.line(
        "  stored but never accepted",
        0,
        strangers.len(),
        Vec::new(),
    );
    verdict.line(
        "  stored with the run's mark",
        ids.len(),
        stored.marked.len(),
        strangers,
    );

    let differs = |click: &Click, what: &str, sent: &str, found: &str| {
        (sent != found).then(|| {
            format!(
                "line {}: {what} {sent:?} is stored as {found:?}",
                click.request.line
            )
        })
    };
    verdict.each("  link, program and affiliate", &pairs, |(click, row)| {
        let link = &click.link;
        let sent = format!("{}, {}, {}", link.id, link.program_id, link.affiliate_id);
        let found = format!("{}, {}, {}", row.link_id, row.program_id, row.affiliate_id);
        differs(click, "link, program, affiliate", &sent, &found)
    });
    verdict.each("  address", &pairs, |(click, row)| {
        let sent = match click.request.address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let same = row.address.parse::<Ipv6Addr>() == Ok(sent);
        (!same).then(|| {
            format!(
                "line {}: address {sent} is stored as {}",
                click.request.line, row.address
            )
        })
    });
    let text = |bytes: &Option<Vec<u8>>| {
        String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
    };
    verdict.each("  User-Agent", &pairs, |(click, row)| {
        differs(
            click,
            "User-Agent",
            &text(&click.request.agent),
            &row.user_agent,
        )
    });
    verdict.each("  referrer", &pairs, |(click, row)| {
        differs(
            click,
            "referrer",
            &text(&click.request.referrer),
            &row.referrer,
        )
    });
    compare_visitors(verdict, &pairs);
    compare_bots(verdict, &pairs);
}

/// The differences are counted by agent: one verdict on an agent is one mistake.
fn compare_bots(verdict: &mut Verdict, pairs: &[(&Click, &StoredClick)]) {
    for (what, bots, other) in [
        ("bots, known as such", true, "a person"),
        ("people, known as such", false, "a bot"),
    ] {
        let mut mistaken: BTreeMap<&str, usize> = BTreeMap::new();
        let mut expected = 0;
        for (_, row) in pairs.iter().filter(|(click, _)| click.is_bot == bots) {
            expected += 1;
            if (row.is_bot != 0) != bots {
                *mistaken.entry(&row.user_agent).or_default() += 1;
            }
        }
        let found = expected - mistaken.values().sum::<usize>();
        let differences = mistaken
            .iter()
            .map(|(agent, clicks)| format!("taken for {other} ({clicks} clicks): {agent:?}"))
            .collect();
        verdict.line(what, expected, found, differences);
    }
}

/// Two clicks have the same stored visitor exactly when the same visitor made them.
fn compare_visitors(verdict: &mut Verdict, pairs: &[(&Click, &StoredClick)]) {
    let mut names: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let mut owners: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (click, row) in pairs {
        names
            .entry(click.visitor)
            .or_default()
            .insert(&row.visitor_id);
        owners
            .entry(&row.visitor_id)
            .or_default()
            .insert(click.visitor);
    }
    let split = names.values().filter(|names| names.len() > 1);
    let split = split.map(|names| format!("one visitor is stored as several: {names:?}"));
    let merged = owners.iter().filter(|(_, owners)| owners.len() > 1);
    let merged =
        merged.map(|(name, owners)| format!("{} visitors are stored as one: {name}", owners.len()));
    verdict.line(
        "visitors",
        names.len(),
        owners.len(),
        split.chain(merged).collect(),
    );
}

fn compare_answers(verdict: &mut Verdict, sent: &Sent<'_>) {
    let good = sent.orders.good.iter().zip(&sent.posted.good);
    let differences: Vec<String> = good
        .filter_map(|(order, answer)| match answer {
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(format!("order {}: {why}", order.order_id)),
            None => Some(format!("order {}: its click had failed", order.order_id)),
        })
        .collect();
    let expected = sent.orders.good.len();
    verdict.line(
        "orders accepted",
        expected,
        expected - differences.len(),
        differences,
    );
    let postbacks = sent.orders.bad.iter().zip(&sent.posted.bad);
    let differences: Vec<String> = postbacks
        .filter_map(|(order, answer)| {
            Some(format!(
                "postback {}: {}",
                order.order_id,
                answer.as_ref().err()?
            ))
        })
        .collect();
    let expected = sent.orders.bad.len();
    verdict.line(
        "bad postbacks refused with a reason",
        expected,
        expected - differences.len(),
        differences,
    );
}

/// Each accepted order is one conversion, credited to its click's link; no other order left one.
fn compare_conversions(
    verdict: &mut Verdict,
    run: &str,
    store: &str,
    accepted: &[Accepted<'_>],
    stored: &[Conversion],
) {
    let prefix = format!("{run}-");
    let mut by_order: BTreeMap<&str, Vec<&Conversion>> = BTreeMap::new();
    for conversion in stored.iter().filter(|c| c.order_id.starts_with(&prefix)) {
        by_order
            .entry(&conversion.order_id)
            .or_default()
            .push(conversion);
    }
    let mut right = 0;
    let mut differences = Vec::new();
    for Accepted {
        order, click, id, ..
    } in accepted
    {
        let found = by_order.remove(order.order_id.as_str()).unwrap_or_default();
        let [one] = found.as_slice() else {
            differences.push(format!(
                "{store}: order {} is {} conversions",
                order.order_id,
                found.len()
            ));
            continue;
        };
        let as_sent = one.id == *id
            && one.link_id == Some(click.link.id)
            && one.affiliate_id == Some(click.link.affiliate_id)
            && one.currency == order.coin.code
            && order.coin.minor(&one.amount) == Some(order.minor);
        if as_sent {
            right += 1;
        } else {
            differences.push(format!(
                "{store}: order {} ({} {}, link {}, affiliate {}, conversion {id}) is stored as {one:?}",
                order.order_id, order.amount, order.coin.code, click.link.id, click.link.affiliate_id
            ));
        }
    }
    let left = by_order
        .keys()
        .map(|order| format!("{store}: order {order} was not accepted and is stored"));
    differences.extend(left);
    verdict.line(
        format!("conversions in {store}, one an order"),
        accepted.len(),
        right,
        differences,
    );
}

/// Each accepted order has earned its affiliate one commission of the right amount, or none of nothing.
fn compare_commissions(
    verdict: &mut Verdict,
    run: &str,
    store: &str,
    accepted: &[Accepted<'_>],
    facts: &Facts,
) {
    let mut by_conversion: BTreeMap<&str, Vec<&Commission>> = BTreeMap::new();
    for commission in &facts.commissions {
        by_conversion
            .entry(&commission.conversion_id)
            .or_default()
            .push(commission);
    }
    verdict.each(
        format!("commissions in {store}, exact"),
        accepted,
        |Accepted {
             order,
             click,
             id,
             earned,
         }| {
            let found = by_conversion.get(id).map_or(&[][..], Vec::as_slice);
            let right = |one: &Commission| {
                one.affiliate_id == click.link.affiliate_id
                    && one.link_id == click.link.id
                    && one.currency == order.coin.code
                    && order.coin.minor(&one.amount) == Some(*earned)
            };
            match found {
                [] if *earned == 0 => None, // what comes to nothing is no commission
                [one] if *earned != 0 && right(one) => None,
                _ => Some(format!(
                    "{store}: order {} of {} {} earns affiliate {} {}; stored: {found:?}",
                    order.order_id,
                    order.amount,
                    order.coin.code,
                    click.link.affiliate_id,
                    order.coin.text(*earned)
                )),
            }
        },
    );
    // A commission may not hang on a conversion of this run that nobody accepted.
    let prefix = format!("{run}-");
    let known: HashSet<&str> = accepted.iter().map(|a| a.id).collect();
    let of_run = facts
        .conversions
        .iter()
        .filter(|c| c.order_id.starts_with(&prefix));
    let strangers: Vec<String> = of_run
        .filter(|c| !known.contains(c.id.as_str()) && by_conversion.contains_key(c.id.as_str()))
        .map(|c| {
            format!(
                "{store}: order {} was not accepted and has earned a commission",
                c.order_id
            )
        })
        .collect();
    if let Some(line) = verdict.lines.last_mut() {
        line.differences.extend(strangers);
    }
}

/// The entries of each commission sum to zero, and the affiliate's side is what it has earned.
fn compare_ledger(verdict: &mut Verdict, accepted: &[Accepted<'_>], ledger: &LedgerOrders) {
    let mut by_conversion: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for entry in &ledger.entries {
        by_conversion
            .entry(&entry.conversion_id)
            .or_default()
            .push(entry);
    }
    verdict.each(
        "ledger entries, balanced and exact",
        accepted,
        |Accepted {
             order,
             click,
             id,
             earned,
         }| {
            let entries = by_conversion.get(id).map_or(&[][..], Vec::as_slice);
            let mut sum = Some(0);
            let mut owed = Some(0);
            for entry in entries {
                let amount = (entry.currency == order.coin.code)
                    .then(|| order.coin.minor(&entry.amount))
                    .flatten();
                let add = |to: Option<i128>| Some(to? + amount?);
                sum = add(sum);
                let to_affiliate =
                    matches!(entry.account.as_str(), "pending" | "available" | "paid")
                        && entry.affiliate_id == Some(click.link.affiliate_id);
                if to_affiliate {
                    owed = add(owed);
                }
            }
            let one_commission = entries
                .iter()
                .all(|e| e.commission_id == entries[0].commission_id);
            (sum != Some(0) || owed != Some(*earned) || !one_commission).then(|| {
                let order_id = &order.order_id;
                format!(
                    "ledger: order {order_id} earns {}; entries: {entries:?}",
                    order.coin.text(*earned)
                )
            })
        },
    );
}

/// What each affiliate's balance grew by is the sum of what it has earned.
fn compare_balances(verdict: &mut Verdict, accepted: &[Accepted<'_>], found: &Found) {
    let mut earned: Sums<i64> = Sums::new();
    for Accepted {
        order,
        click,
        earned: amount,
        ..
    } in accepted
    {
        *earned
            .entry((click.link.affiliate_id, order.coin.code.to_owned()))
            .or_default() += amount;
    }
    let keys: BTreeSet<_> = earned.keys().chain(found.after.keys()).cloned().collect();
    let keys: Vec<_> = keys.into_iter().collect();
    verdict.each("balances, by affiliate and currency", &keys, |key| {
        let of = |sums: &Sums<i64>| sums.get(key).copied().unwrap_or(0);
        let (grew, own) = (of(&found.after) - of(&found.before), of(&earned));
        let text = |minor: i128| {
            Coin::of(&key.1).map_or_else(|| minor.to_string(), |coin| coin.text(minor))
        };
        (grew != own).then(|| {
            format!(
                "the balance of affiliate {} grew by {} {} instead of {}",
                key.0,
                text(grew),
                key.1,
                text(own)
            )
        })
    });
}

fn add_up(verdict: &mut Verdict, accepted: &[Accepted<'_>], found: &Found) {
    let mut coins: HashMap<&str, Coin> = HashMap::new();
    for Accepted {
        order, id, earned, ..
    } in accepted
    {
        coins.insert(id, order.coin);
        let totals = verdict.totals.entry(order.coin).or_default();
        totals.orders += 1;
        totals.revenue += order.minor;
        totals.own += earned;
    }
    let mut add = |conversion: &str, amount: &str, to: fn(&mut Totals) -> &mut i128| {
        let Some(coin) = coins.get(conversion) else {
            return;
        };
        *to(verdict.totals.entry(*coin).or_default()) += coin.minor(amount).unwrap_or(0);
    };
    for entry in found
        .ledger
        .entries
        .iter()
        .filter(|e| e.account != "commission_expense")
    {
        add(&entry.conversion_id, &entry.amount, |totals| {
            &mut totals.ledger
        });
    }
    for commission in &found.facts.commissions {
        add(&commission.conversion_id, &commission.amount, |totals| {
            &mut totals.clickhouse
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Link;
    use crate::orders::{BAD, BadOrder, Deliveries, Via};
    use crate::reckon::USD;
    use crate::stores::Entry;

    const RUN: &str = "r1";
    const ID: &str = "0f7c5ad1-2f0b-5e2c-9a55-0d5d1c3f0a11";

    const LOG: &[u8] =
        br#"192.0.2.1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 1 "-" "Firefox"
192.0.2.2 - - [17/May/2015:10:05:04 +0000] "GET / HTTP/1.1" 200 1 "http://b.example/" "-"
"#;

    /// Two clicks, of a person and of a bot, and an order of 12.25 USD that earns 1.23.
    struct World {
        program: Program,
        plan: Plan,
        clicked: Clicked,
        orders: Orders,
        posted: Posted,
        found: Found,
    }

    fn row(id: char, last: u8, user_agent: &str, referrer: &str) -> StoredClick {
        StoredClick {
            click_id: id.to_string().repeat(48),
            link_id: 5,
            program_id: 1,
            affiliate_id: 7,
            visitor_id: format!("visitor {last}"),
            address: format!("::ffff:192.0.2.{last}"),
            user_agent: user_agent.to_owned(),
            referrer: referrer.to_owned(),
            sub2: last.to_string(),
            is_bot: u8::from(user_agent.is_empty()),
        }
    }

    fn facts() -> Facts {
        Facts {
            conversions: vec![Conversion {
                id: ID.into(),
                order_id: format!("{RUN}-1"),
                link_id: Some(5),
                affiliate_id: Some(7),
                amount: "12.2500".into(),
                currency: "USD".into(),
            }],
            commissions: vec![Commission {
                conversion_id: ID.into(),
                link_id: 5,
                affiliate_id: 7,
                amount: "1.23".into(),
                currency: "USD".into(),
            }],
        }
    }

    fn entry(account: &str, affiliate_id: Option<i64>, amount: &str) -> Entry {
        Entry {
            commission_id: "c".into(),
            conversion_id: ID.into(),
            account: account.into(),
            affiliate_id,
            amount: amount.into(),
            currency: "USD".into(),
        }
    }

    fn orders() -> Orders {
        let good = Order {
            order_id: format!("{RUN}-1"),
            click: 0,
            coin: USD,
            minor: 1225,
            amount: "12.25".into(),
            via: Via::Get,
            deliveries: Deliveries::Once,
        };
        let bad = BadOrder {
            order_id: format!("{RUN}-bad0"),
            flaw: BAD[0],
            via: Via::Get,
            click: 0,
        };
        Orders {
            good: vec![good],
            bad: vec![bad],
        }
    }

    impl World {
        fn new() -> Self {
            let link = Link {
                id: 5,
                url: "http://127.0.0.1:1/r/x".into(),
                program_id: 1,
                affiliate_id: 7,
                destination: "https://shop.example/".into(),
                active: true,
            };
            let program = Program {
                links: vec![link],
                percents: [(1, 100_000)].into(),
            };
            let labels = crate::agents::Labels::parse("person\tFirefox\nbot\t-").unwrap();
            let requests = crate::access_log::parse_all(LOG).unwrap();
            let plan = crate::plan::plan(requests, &program, &labels).unwrap();
            let rows = vec![
                row('a', 1, "Firefox", ""),
                row('b', 2, "", "http://b.example/"),
            ];
            Self {
                program,
                plan,
                clicked: Clicked {
                    click_ids: rows.iter().map(|row| Some(row.click_id.clone())).collect(),
                    problems: Vec::new(),
                    latencies: Vec::new(),
                    took: Duration::ZERO,
                },
                orders: orders(),
                posted: Posted {
                    good: vec![Some(Ok(ID.into()))],
                    bad: vec![Ok("400".into())],
                },
                found: Found {
                    clicks: StoredClicks {
                        asked: rows.clone(),
                        marked: rows,
                    },
                    facts: facts(),
                    ledger: LedgerOrders {
                        facts: facts(),
                        entries: vec![
                            entry("commission_expense", None, "-1.23"),
                            entry("pending", Some(7), "1.23"),
                        ],
                    },
                    api: facts(),
                    before: [((7, "USD".into()), 100)].into(),
                    after: [((7, "USD".into()), 223)].into(),
                },
            }
        }

        fn verdict(&self) -> Verdict {
            let sent = Sent {
                run: RUN,
                since: DateTime::UNIX_EPOCH,
                program: &self.program,
                plan: &self.plan,
                clicked: &self.clicked,
                orders: &self.orders,
                posted: &self.posted,
            };
            compare(&sent, &self.found)
        }
    }

    #[test]
    fn a_whole_world_holds() {
        let verdict = World::new().verdict();
        assert!(verdict.holds());
        let usd = verdict.totals[&USD];
        assert_eq!((usd.orders, usd.revenue), (1, 1225));
        assert_eq!((usd.own, usd.ledger, usd.clickhouse), (123, 123, 123));
    }

    /// What is spoilt, by the line of the result that must say so.
    type Mistake = (&'static str, fn(&mut World));

    const MISTAKES: [Mistake; 23] = [
        ("clicks answered by the right 302", |w| {
            w.clicked.click_ids[1] = None
        }),
        ("click ids, each another", |w| {
            w.clicked.click_ids[1] = w.clicked.click_ids[0].clone()
        }),
        ("  stored once", |w| drop(w.found.clicks.asked.pop())),
        ("  stored once", |w| {
            w.found.clicks.asked.push(w.found.clicks.asked[0].clone())
        }),
        ("  stored but never accepted", |w| {
            w.found.clicks.marked[0].click_id = "c".repeat(48)
        }),
        ("  stored with the run's mark", |w| {
            drop(w.found.clicks.marked.pop())
        }),
        ("  link, program and affiliate", |w| {
            w.found.clicks.asked[0].affiliate_id = 8
        }),
        ("  address", |w| {
            w.found.clicks.asked[0].address = "::ffff:192.0.2.9".into()
        }),
        ("  User-Agent", |w| {
            w.found.clicks.asked[0].user_agent.push('x')
        }),
        ("  referrer", |w| w.found.clicks.asked[1].referrer.clear()),
        ("visitors", |w| {
            w.found.clicks.asked[1].visitor_id = "visitor 1".into()
        }),
        ("bots, known as such", |w| {
            w.found.clicks.asked[1].is_bot = 0
        }),
        ("people, known as such", |w| {
            w.found.clicks.asked[0].is_bot = 1
        }),
        ("orders accepted", |w| {
            w.posted.good[0] = Some(Err("503".into()))
        }),
        ("bad postbacks refused with a reason", |w| {
            w.posted.bad[0] = Err("200".into())
        }),
        ("conversions in PostgreSQL, one an order", |w| {
            let mut left = w.found.api.conversions[0].clone();
            left.order_id = format!("{RUN}-bad0");
            w.found.ledger.facts.conversions.push(left);
        }),
        ("conversions in the admin API, one an order", |w| {
            w.found.api.conversions[0].link_id = Some(6)
        }),
        ("conversions in ClickHouse, one an order", |w| {
            w.found.facts.conversions[0].amount = "12.26".into()
        }),
        ("commissions in PostgreSQL, exact", |w| {
            w.found.ledger.facts.commissions[0].amount = "1.22".into()
        }),
        ("commissions in ClickHouse, exact", |w| {
            w.found.facts.commissions.clear()
        }),
        ("ledger entries, balanced and exact", |w| {
            w.found.ledger.entries[0].amount = "-1.22".into()
        }),
        ("ledger entries, balanced and exact", |w| {
            w.found.ledger.entries[1].affiliate_id = Some(8)
        }),
        ("balances, by affiliate and currency", |w| {
            w.found.after.extend([((8, "USD".into()), 1)])
        }),
    ];

    #[test]
    fn every_mistake_is_found() {
        for (line, mistake) in MISTAKES {
            let mut world = World::new();
            mistake(&mut world);
            let verdict = world.verdict();
            let failed: Vec<&str> = verdict
                .lines
                .iter()
                .filter(|line| !line.holds())
                .map(|line| line.what.as_str())
                .collect();
            assert!(failed.contains(&line), "{line}: {failed:?}");
        }
    }
}
