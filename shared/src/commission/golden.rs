//! Worked examples of every kind of rule, each computed by hand in words.

use serde_json::{Value, json};

use super::*;
use crate::ids::AffiliateId;
use crate::money::{Currency, Money};

/// What an example starts from and changes: affiliate 7 has sold for 100.00 EUR in a program in EUR
/// without uplines, and nothing was earned before.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) rules: Vec<Version>,
    pub(super) program: Program,
    pub(super) occasion: Occasion,
    pub(super) affiliate: Affiliate,
    pub(super) above: Vec<AffiliateId>,
    pub(super) figures: Figures,
}

pub(super) fn money(text: &str) -> Money {
    let (amount, currency) = text.split_once(' ').unwrap();
    Money::parse(amount, currency).unwrap()
}

fn currency(code: &str) -> Currency {
    code.parse().unwrap()
}

/// Rules 1, 2, ... with keys r1, r2, ..., each newer than the one before.
pub(super) fn versions(documents: &Value, program: Currency) -> Vec<Version> {
    let documents = documents.as_array().unwrap();
    (1..)
        .zip(documents)
        .map(|(id, document)| Version {
            id,
            key: format!("r{id}"),
            version: 1,
            valid_from: chrono::DateTime::from_timestamp(id, 0).unwrap(),
            active: true,
            rule: Rule::read(document, program).unwrap(),
        })
        .collect()
}

impl Given {
    pub(super) fn new(documents: &Value) -> Self {
        let mut figures = Figures {
            customer: Some(CustomerHistory::default()),
            affiliate_orders: Some(0),
            ..Figures::default()
        };
        for period in [
            Period::Month,
            Period::Quarter,
            Period::Year,
            Period::Lifetime,
        ] {
            for by in [Measure::Revenue, Measure::Orders, Measure::Clicks] {
                figures.volumes.insert((by, period), 0.into());
            }
            for id in 1..=documents.as_array().unwrap().len() {
                figures.earned.insert((format!("r{id}"), period), 0.into());
            }
        }
        let mut occasion = Occasion::new(
            "2026-03-15T12:00:00Z".parse().unwrap(),
            SALE,
            Some(money("100.00 EUR")),
        );
        occasion.customer.identified = true;
        Self {
            rules: versions(documents, currency("EUR")),
            program: Program {
                currency: currency("EUR"),
                pay_in: PayIn::Order,
                uplines: Uplines::none(),
            },
            occasion,
            affiliate: Affiliate::new(AffiliateId(7)),
            above: Vec::new(),
            figures,
        }
    }

    pub(super) fn price(&self) -> Result<Priced, PriceError> {
        let rules: Vec<&Version> = self.rules.iter().collect();
        price(
            &rules,
            &self.program,
            &self.occasion,
            &self.affiliate,
            &self.above,
            &self.figures,
        )
    }

    /// The figures that are needed, and no other.
    pub(super) fn only_needed(&self) -> Figures {
        let rules: Vec<&Version> = self.rules.iter().collect();
        let needs = needs(&rules, &self.program, &self.occasion, &self.affiliate).unwrap();
        let all = &self.figures;
        let mut figures = Figures::default();
        for need in needs {
            match need {
                Need::Volume { by, period } => {
                    let volume = all.volumes.get(&(by, period));
                    figures
                        .volumes
                        .extend(volume.map(|volume| ((by, period), *volume)));
                }
                Need::Earned { rule, period } => {
                    let key = (rule, period);
                    let earned = all.earned.get(&key).copied();
                    figures.earned.extend(earned.map(|earned| (key, earned)));
                }
                Need::Customer => figures.customer = all.customer,
                Need::AffiliateOrders => figures.affiliate_orders = all.affiliate_orders,
                Need::Rate { from, to } => {
                    let rate = all.rates.get(&(from, to));
                    figures.rates.extend(rate.map(|rate| ((from, to), *rate)));
                }
            }
        }
        figures
    }

    fn amount(&mut self, amount: &str) {
        self.occasion.amount = Some(money(amount));
    }

    /// An order of these items: product, category, quantity, amount.
    fn items(&mut self, items: &[(&str, &str, u32, &str)]) {
        self.occasion.items = items
            .iter()
            .map(|(product, category, quantity, amount)| Item {
                product: (*product).to_owned(),
                category: (*category).to_owned(),
                quantity: *quantity,
                amount: money(amount),
            })
            .collect();
    }

    fn clicks(&mut self, count: u64) {
        self.occasion.event = CLICK.to_owned();
        self.occasion.amount = None;
        self.occasion.count = count;
    }

    fn share(&mut self, weights: &[u64], index: usize) {
        self.occasion.share = Share::new(weights.to_vec(), index).unwrap();
    }

    fn volume(&mut self, by: Measure, period: Period, volume: &str) {
        let volume = volume.parse().unwrap();
        self.figures.volumes.insert((by, period), volume);
    }

    fn earned(&mut self, period: Period, earned: &str) {
        let earned = earned.parse().unwrap();
        self.figures
            .earned
            .insert(("r1".to_owned(), period), earned);
    }

    fn rate(&mut self, from: &str, to: &str, rate: &str) {
        let pair = (currency(from), currency(to));
        self.figures.rates.insert(pair, rate.parse().unwrap());
    }

    fn history(&mut self, orders: u64, first: &str) {
        self.figures.customer = Some(CustomerHistory {
            first_order_at: Some(first.parse().unwrap()),
            orders,
        });
    }
}

fn said(priced: Result<Priced, PriceError>) -> Vec<String> {
    match priced {
        Err(error) => vec![error.to_string()],
        Ok(priced) => priced
            .commissions
            .iter()
            .map(|commission| {
                let kind = match commission.kind {
                    CommissionKind::Direct => "direct".to_owned(),
                    CommissionKind::Bonus => "bonus".to_owned(),
                    CommissionKind::Upline(level) => format!("upline {level}"),
                };
                let (affiliate, amount) = (commission.affiliate, commission.amount);
                format!("{kind} to {affiliate}: {amount} by {}", commission.rule.key)
            })
            .collect(),
    }
}

fn example(by_hand: &str, rules: &Value, change: impl FnOnce(&mut Given), expected: &[&str]) {
    let mut given = Given::new(rules);
    change(&mut given);
    let priced = given.price();
    assert_eq!(said(priced.clone()), expected, "{by_hand}\n{priced:#?}");
    given.figures = given.only_needed();
    assert_eq!(given.price(), priced, "{by_hand}: needs are not all");
}

fn percent(percent: &str) -> Value {
    json!({"kind": "percent", "percent": percent})
}

fn flat(flat: &str) -> Value {
    json!({"kind": "flat", "flat": flat})
}

#[test]
fn percent_flat_and_hybrid() {
    let rule = |reward: Value| json!([{"reward": reward}]);
    example(
        "33.33 × 12.5 % = 4.16625, up to 4.17",
        &rule(percent("12.5")),
        |given| given.amount("33.33 EUR"),
        &["direct to 7: 4.17 EUR by r1"],
    );
    example(
        "500 × 12.5 % = 62.5, half goes up to 63",
        &rule(percent("12.5")),
        |given| given.amount("500 JPY"),
        &["direct to 7: 63 JPY by r1"],
    );
    example(
        "5 for the order",
        &rule(flat("5")),
        |_| {},
        &["direct to 7: 5.00 EUR by r1"],
    );
    example(
        "100 × 3 % = 3, and 1.50: 4.50",
        &rule(json!({"kind": "hybrid", "percent": "3", "flat": "1.5"})),
        |_| {},
        &["direct to 7: 4.50 EUR by r1"],
    );
    example("0 % is nothing", &rule(percent("0")), |_| {}, &[]);
}

#[test]
fn flat_per_line_and_per_piece() {
    let rule = |per: &str| json!([{"reward": {"kind": "flat", "flat": "0.5", "per": per}}]);
    let items: &[(&str, &str, u32, &str)] = &[("a", "", 3, "60 EUR"), ("b", "", 1, "30 EUR")];
    example(
        "two lines (postage of 10 is none) × 0.50",
        &rule("item"),
        |given| given.items(items),
        &["direct to 7: 1.00 EUR by r1"],
    );
    example(
        "3 + 1 pieces × 0.50",
        &rule("unit"),
        |given| given.items(items),
        &["direct to 7: 2.00 EUR by r1"],
    );
    example(
        "one order × 0.50",
        &rule("order"),
        |given| given.items(items),
        &["direct to 7: 0.50 EUR by r1"],
    );
    example(
        "an order without items is one line of one piece",
        &rule("unit"),
        |_| {},
        &["direct to 7: 0.50 EUR by r1"],
    );
}

#[test]
fn minimum_and_maximum() {
    let rule = json!([{"reward": percent("10"), "minimum": "2", "maximum": "15"}]);
    for (amount, expected, by_hand) in [
        ("10 EUR", "2.00 EUR", "10 × 10 % = 1, raised to 2"),
        ("100 EUR", "10.00 EUR", "100 × 10 % = 10, between the two"),
        ("200 EUR", "15.00 EUR", "200 × 10 % = 20, lowered to 15"),
    ] {
        let expected = format!("direct to 7: {expected} by r1");
        example(by_hand, &rule, |given| given.amount(amount), &[&expected]);
    }
    example(
        "0 × 10 % is nothing, which no minimum raises",
        &rule,
        |given| given.amount("0 EUR"),
        &[],
    );
}

#[test]
fn tiers_by_volume() {
    let rule = json!([{
        "reward": percent("5"),
        "tiers": {"by": "revenue", "period": "month", "steps": [
            {"from": "1000", "percent": "8"}, {"from": "5000", "percent": "10"}]},
    }]);
    for (volume, expected, by_hand) in [
        ("999.99", "5.00 EUR", "below the first step: 100 × 5 %"),
        (
            "1000",
            "8.00 EUR",
            "exactly 1000 before this order: 100 × 8 %",
        ),
        (
            "4999.99",
            "8.00 EUR",
            "this order would reach 5000, the next one has 10 %",
        ),
        ("5000", "10.00 EUR", "100 × 10 %"),
    ] {
        let expected = format!("direct to 7: {expected} by r1");
        let volume = |given: &mut Given| given.volume(Measure::Revenue, Period::Month, volume);
        example(by_hand, &rule, volume, &[&expected]);
    }
    example(
        "ten orders this year: flat 3 instead of 2, and still 1 % of 100",
        &json!([{
            "reward": {"kind": "hybrid", "percent": "1", "flat": "2"},
            "tiers": {"by": "orders", "period": "year", "steps": [{"from": "10", "flat": "3"}]},
        }]),
        |given| given.volume(Measure::Orders, Period::Year, "10"),
        &["direct to 7: 4.00 EUR by r1"],
    );
}

#[test]
fn recurring() {
    let rules = json!([
        {"reward": percent("2")},
        {"reward": percent("10"), "priority": 1, "recurring": {"months": 12, "orders": 3}},
    ]);
    example(
        "the customer's first order: 10 %",
        &rules,
        |_| {},
        &["direct to 7: 10.00 EUR by r2"],
    );
    example(
        "his third, a day before a year is over: 10 %",
        &rules,
        |given| given.history(2, "2025-03-16T12:00:00Z"),
        &["direct to 7: 10.00 EUR by r2"],
    );
    example(
        "his third, exactly a year after the first: the rule that goes on, 2 %",
        &rules,
        |given| given.history(2, "2025-03-15T12:00:00Z"),
        &["direct to 7: 2.00 EUR by r1"],
    );
    example(
        "his fourth: 2 %",
        &rules,
        |given| given.history(3, "2026-03-01T12:00:00Z"),
        &["direct to 7: 2.00 EUR by r1"],
    );
    example(
        "nobody knows who the customer is: it counts as a first order, 10 %",
        &rules,
        |given| given.occasion.customer.identified = false,
        &["direct to 7: 10.00 EUR by r2"],
    );
}

#[test]
fn rates_of_products_and_categories() {
    let rules = json!([
        {"reward": percent("5")},
        {"reward": percent("8"), "scope": {"categories": ["shoes"]}},
        {"reward": percent("20"), "scope": {"products": ["boot"]}},
    ]);
    example(
        "boot 50 × 20 % = 10; shoe 59.90 × 8 % = 4.792; sock 30.10 × 5 % = 1.505; postage 10 × 5 % = 0.5: 16.797",
        &rules,
        |given| {
            given.amount("150 EUR");
            given.items(&[
                ("boot", "shoes", 1, "50 EUR"),
                ("sneaker", "shoes", 1, "59.90 EUR"),
                ("sock", "socks", 5, "30.10 EUR"),
            ]);
        },
        &["direct to 7: 16.80 EUR by r3"],
    );
    example(
        "half the price off the order: boot 25 × 20 % = 5, shoe 25 × 8 % = 2",
        &rules,
        |given| {
            given.amount("50 EUR");
            given.items(&[("boot", "shoes", 1, "50 EUR"), ("x", "shoes", 1, "50 EUR")]);
        },
        &["direct to 7: 7.00 EUR by r3"],
    );
    example(
        "only shoes earn anything: 60 × 8 %; nothing for the 40 that are left",
        &json!([{"reward": percent("8"), "scope": {"categories": ["shoes"]}}]),
        |given| given.items(&[("x", "shoes", 1, "60 EUR")]),
        &["direct to 7: 4.80 EUR by r1"],
    );
}

#[test]
fn the_most_specific_then_the_highest_priority_then_the_newest() {
    let rules = json!([
        {"reward": percent("1"), "priority": 9},
        {"reward": percent("2"), "scope": {"categories": ["c"]}, "priority": 8},
        {"reward": percent("3"), "scope": {"products": ["p"]}, "priority": 7},
        {"reward": percent("4"), "scope": {"groups": ["g"]}, "priority": 6},
        {"reward": percent("5"), "scope": {"tiers": ["gold"]}, "priority": 5},
        {"reward": percent("6"), "scope": {"affiliates": [7]}},
        {"reward": percent("7"), "scope": {"affiliates": [8]}},
    ]);
    let given = |given: &mut Given| {
        given.items(&[("p", "c", 1, "100 EUR")]);
        given.affiliate.groups = vec!["g".to_owned()];
        given.affiliate.tier = "gold".to_owned();
    };
    let without = |last: usize| Value::from(rules.as_array().unwrap()[..last].to_vec());
    for (last, expected, by_hand) in [
        (7, "6.00 EUR by r6", "the affiliate is named"),
        (
            5,
            "4.00 EUR by r4",
            "group and tier are equal, the group's has priority 6",
        ),
        (3, "3.00 EUR by r3", "the product is named"),
        (2, "2.00 EUR by r2", "the category is named"),
        (1, "1.00 EUR by r1", "what is left"),
    ] {
        example(
            by_hand,
            &without(last),
            given,
            &[&format!("direct to 7: {expected}")],
        );
    }
    example(
        "of two alike the newer is taken",
        &json!([{"reward": percent("1")}, {"reward": percent("2")}]),
        |_| {},
        &["direct to 7: 2.00 EUR by r2"],
    );
}

#[test]
fn conditions_windows_and_campaigns() {
    let rules = json!([
        {"reward": percent("1")},
        {"reward": percent("9"), "priority": 3, "when": "order.amount > 100 || country == 'AT'"},
        {"reward": percent("8"), "priority": 2, "campaigns": ["spring"]},
        {"reward": percent("7"), "priority": 1,
         "window": {"from": "2026-04-01T00:00:00Z", "until": "2026-05-01T00:00:00Z"}},
    ]);
    example(
        "none of them holds: 1 %",
        &rules,
        |_| {},
        &["direct to 7: 1.00 EUR by r1"],
    );
    example(
        "from Austria: 9 %",
        &rules,
        |given| given.occasion.country = "AT".to_owned(),
        &["direct to 7: 9.00 EUR by r2"],
    );
    example(
        "of the campaign: 8 %",
        &rules,
        |given| given.occasion.campaign = "spring".to_owned(),
        &["direct to 7: 8.00 EUR by r3"],
    );
    example(
        "the first moment of April: 7 %",
        &rules,
        |given| given.occasion.at = "2026-04-01T00:00:00Z".parse().unwrap(),
        &["direct to 7: 7.00 EUR by r4"],
    );
    example(
        "the first moment of May: 1 %",
        &rules,
        |given| given.occasion.at = "2026-05-01T00:00:00Z".parse().unwrap(),
        &["direct to 7: 1.00 EUR by r1"],
    );
    example(
        "a condition that fails (there is no first product) does not hold: 1 %",
        &json!([{"reward": percent("1")}, {"reward": percent("9"), "when": "products[0] == 'x'"}]),
        |_| {},
        &["direct to 7: 1.00 EUR by r1"],
    );
}

#[test]
fn bonuses() {
    let bonus = |what: Value| json!([{"reward": percent("10")}, {"kind": "bonus", "reward": flat("5"), "bonus": what}]);
    let both: &[&str] = &["direct to 7: 10.00 EUR by r1", "bonus to 7: 5.00 EUR by r2"];
    let direct: &[&str] = &["direct to 7: 10.00 EUR by r1"];
    let customer = bonus(json!({"for": "first_order_of_customer"}));
    example(
        "the customer's first order: 10 and 5",
        &customer,
        |_| {},
        both,
    );
    example(
        "his second: 10",
        &customer,
        |given| given.history(1, "2026-03-01T00:00:00Z"),
        direct,
    );
    example(
        "nobody knows who he is: 10",
        &customer,
        |given| given.occasion.customer = Customer::default(),
        direct,
    );
    let affiliate = bonus(json!({"for": "first_order_of_affiliate"}));
    example(
        "the affiliate's first order: 10 and 5",
        &affiliate,
        |_| {},
        both,
    );
    example(
        "his second: 10",
        &affiliate,
        |given| given.figures.affiliate_orders = Some(1),
        direct,
    );
    let volume = bonus(json!({
        "for": "volume_reached", "volume": {"by": "revenue", "period": "quarter", "reaches": "1000"}}));
    for (before, expected, by_hand) in [
        ("899.99", direct, "899.99 + 100 = 999.99, not yet"),
        ("900", both, "900 + 100 = 1000, reached by this order"),
        ("999.99", both, "999.99 + 100, crossed by this order"),
        ("1000", direct, "it was reached before"),
    ] {
        let before = |given: &mut Given| given.volume(Measure::Revenue, Period::Quarter, before);
        example(by_hand, &volume, before, expected);
    }
    example(
        "the tenth order: 9 before this one",
        &bonus(json!({
            "for": "volume_reached", "volume": {"by": "orders", "period": "lifetime", "reaches": "10"}})),
        |given| given.volume(Measure::Orders, Period::Lifetime, "9"),
        both,
    );
    example(
        "a bonus of the campaign, 2 % of 100, beside the 10",
        &json!([
            {"reward": percent("10")},
            {"kind": "bonus", "reward": percent("2"), "campaigns": ["spring"], "bonus": {"for": "every_order"}},
        ]),
        |given| given.occasion.campaign = "spring".to_owned(),
        &["direct to 7: 10.00 EUR by r1", "bonus to 7: 2.00 EUR by r2"],
    );
}

#[test]
fn caps() {
    let rule = json!([{"reward": percent("10"), "cap": {"amount": "50", "period": "month"}}]);
    for (earned, expected, by_hand) in [
        (
            "40",
            &["direct to 7: 10.00 EUR by r1"][..],
            "40 + 10 is just 50",
        ),
        (
            "45.50",
            &["direct to 7: 4.50 EUR by r1"][..],
            "only 4.50 are left of 50",
        ),
        ("50", &[][..], "nothing is left"),
        ("60", &[][..], "the cap was lowered: nothing is left"),
    ] {
        example(
            by_hand,
            &rule,
            |given| given.earned(Period::Month, earned),
            expected,
        );
    }
}

#[test]
fn caps_of_every_period() {
    for (name, period) in [
        ("quarter", Period::Quarter),
        ("year", Period::Year),
        ("lifetime", Period::Lifetime),
    ] {
        example(
            "10 % of 100 = 10, but 12.34 of 20 were earned: 7.66 are left",
            &json!([{"reward": percent("10"), "cap": {"amount": "20", "period": name}}]),
            |given| given.earned(period, "12.34"),
            &["direct to 7: 7.66 EUR by r1"],
        );
    }
}

#[test]
fn uplifts() {
    let rule = json!([{"reward": percent("10"), "uplift": [
        {"tier": "gold", "percent": "10"},
        {"certification": "expert", "percent": "5"},
        {"tag": "vip", "percent": "100"},
        {"group": "agencies", "percent": "1"},
    ]}]);
    example(
        "10, and 10 % of it more for gold: 11",
        &rule,
        |given| given.affiliate.tier = "gold".to_owned(),
        &["direct to 7: 11.00 EUR by r1"],
    );
    example(
        "10, and 10 + 5 + 1 % of it more: 11.60",
        &rule,
        |given| {
            given.affiliate.tier = "gold".to_owned();
            given.affiliate.certifications = vec!["expert".to_owned()];
            given.affiliate.groups = vec!["agencies".to_owned()];
        },
        &["direct to 7: 11.60 EUR by r1"],
    );
    example(
        "10 twice for the tag",
        &rule,
        |given| given.affiliate.tags = vec!["vip".to_owned()],
        &["direct to 7: 20.00 EUR by r1"],
    );
    example(
        "10 twice for the tag is 20, of which 15 is the most",
        &json!([{"reward": percent("10"), "maximum": "15", "uplift": [{"tag": "vip", "percent": "100"}]}]),
        |given| given.affiliate.tags = vec!["vip".to_owned()],
        &["direct to 7: 15.00 EUR by r1"],
    );
    example(
        "10 for everybody else",
        &rule,
        |_| {},
        &["direct to 7: 10.00 EUR by r1"],
    );
}

#[test]
fn uplines_of_three_levels() {
    let rules = json!([
        {"reward": percent("10")},
        {"kind": "bonus", "reward": flat("5"), "bonus": {"for": "every_order"}},
    ]);
    let above = [3, 2, 1, 9].map(AffiliateId).to_vec();
    example(
        "10 % of 100 = 10; of that 10, 3 and 1 %: 1.00, 0.30, 0.10; the fourth gets nothing, nor anybody of the bonus",
        &rules,
        |given| {
            given.program.uplines = Uplines::default();
            given.above.clone_from(&above);
        },
        &[
            "direct to 7: 10.00 EUR by r1",
            "bonus to 7: 5.00 EUR by r2",
            "upline 1 to 3: 1.00 EUR by r1",
            "upline 2 to 2: 0.30 EUR by r1",
            "upline 3 to 1: 0.10 EUR by r1",
        ],
    );
    example(
        "2 and 0.5 % of the order of 100",
        &json!([{"reward": percent("10")}]),
        |given| {
            given.program.uplines =
                serde_json::from_value(json!({"levels": ["2", "0.5"], "of": "order"})).unwrap();
            given.above.clone_from(&above);
        },
        &[
            "direct to 7: 10.00 EUR by r1",
            "upline 1 to 3: 2.00 EUR by r1",
            "upline 2 to 2: 0.50 EUR by r1",
        ],
    );
    example(
        "who stands above himself gets no upline: 3 % of 10 for the one over him",
        &json!([{"reward": percent("10")}]),
        |given| {
            given.program.uplines = Uplines::default();
            given.above = vec![AffiliateId(7), AffiliateId(3), AffiliateId(3)];
        },
        &[
            "direct to 7: 10.00 EUR by r1",
            "upline 2 to 3: 0.30 EUR by r1",
        ],
    );
    example(
        "1 % of 0.10 is nothing",
        &json!([{"reward": percent("10")}]),
        |given| {
            given.amount("1 EUR");
            given.program.uplines = Uplines::default();
            given.above = above;
        },
        &[
            "direct to 7: 0.10 EUR by r1",
            "upline 1 to 3: 0.01 EUR by r1",
        ],
    );
}

#[test]
fn uplines_of_any_number_of_levels_in_any_currency() {
    let rules = json!([{"reward": percent("10")}]);
    let above = [6, 5, 4, 3, 2, 1].map(AffiliateId).to_vec();
    example(
        "10 % of 250 = 25; of that 10, 5, 3, 2 and 1 %: 2.50, 1.25, 0.75, 0.50, 0.25; the sixth gets nothing",
        &rules,
        |given| {
            given.amount("250 EUR");
            given.program.uplines =
                serde_json::from_value(json!({"levels": ["10", "5", "3", "2", "1"]})).unwrap();
            given.above.clone_from(&above);
        },
        &[
            "direct to 7: 25.00 EUR by r1",
            "upline 1 to 6: 2.50 EUR by r1",
            "upline 2 to 5: 1.25 EUR by r1",
            "upline 3 to 4: 0.75 EUR by r1",
            "upline 4 to 3: 0.50 EUR by r1",
            "upline 5 to 2: 0.25 EUR by r1",
        ],
    );
    example(
        "10 % of 4999 JPY = 499.9, 500 in whole ones; of these 10, 3 and 1 %: 50, 15, 5",
        &rules,
        |given| {
            given.amount("4999 JPY");
            given.program.uplines = Uplines::default();
            given.above.clone_from(&above);
        },
        &[
            "direct to 7: 500 JPY by r1",
            "upline 1 to 6: 50 JPY by r1",
            "upline 2 to 5: 15 JPY by r1",
            "upline 3 to 4: 5 JPY by r1",
        ],
    );
    example(
        "5000 JPY × 0.0062 = 31 EUR, × 10 % = 3.10; of that 0.31, 0.093 = 0.09, 0.031 = 0.03",
        &rules,
        |given| {
            given.program.pay_in = PayIn::Program;
            given.amount("5000 JPY");
            given.rate("JPY", "EUR", "0.0062");
            given.program.uplines = Uplines::default();
            given.above = above;
        },
        &[
            "direct to 7: 3.10 EUR by r1",
            "upline 1 to 6: 0.31 EUR by r1",
            "upline 2 to 5: 0.09 EUR by r1",
            "upline 3 to 4: 0.03 EUR by r1",
        ],
    );
}

#[test]
fn several_currencies() {
    let hybrid = json!([{"reward": {"kind": "hybrid", "percent": "10", "flat": "2"}}]);
    example(
        "paid in the order's: 100 USD × 10 % = 10, 2 EUR × 1.1 = 2.20",
        &hybrid,
        |given| {
            given.amount("100 USD");
            given.rate("EUR", "USD", "1.1");
        },
        &["direct to 7: 12.20 USD by r1"],
    );
    example(
        "paid in the program's: 100 USD × 0.9 = 90 EUR, × 10 % = 9, and 2 EUR",
        &hybrid,
        |given| {
            given.program.pay_in = PayIn::Program;
            given.amount("100 USD");
            given.rate("USD", "EUR", "0.9");
        },
        &["direct to 7: 11.00 EUR by r1"],
    );
    example(
        "the rate is needed for the flat amount",
        &hybrid,
        |given| given.amount("100 USD"),
        &["there is no rate from EUR to USD"],
    );
    example(
        "and the other way where the program's is paid",
        &hybrid,
        |given| {
            given.program.pay_in = PayIn::Program;
            given.amount("100 USD");
            given.rate("EUR", "USD", "1.1");
        },
        &["there is no rate from USD to EUR"],
    );
    example(
        "a percentage of the order's own currency needs none",
        &json!([{"reward": percent("10")}]),
        |given| given.amount("100 USD"),
        &["direct to 7: 10.00 USD by r1"],
    );
    example(
        "10 % of 20000 JPY = 2000; at most 10 EUR × 160.55 = 1605.5 JPY, which is 1605 in whole ones",
        &json!([{"reward": percent("10"), "maximum": "10"}]),
        |given| {
            given.amount("20000 JPY");
            given.rate("EUR", "JPY", "160.55");
        },
        &["direct to 7: 1605 JPY by r1"],
    );
    example(
        "10 % of 10 USD = 1; at least 2 EUR × 1.1 = 2.20 USD",
        &json!([{"reward": percent("10"), "minimum": "2"}]),
        |given| {
            given.amount("10 USD");
            given.rate("EUR", "USD", "1.1");
        },
        &["direct to 7: 2.20 USD by r1"],
    );
    example(
        "10 % of 100 USD = 10; of 50 EUR 45 were earned, so 5 EUR × 1.1 = 5.50 USD are left",
        &json!([{"reward": percent("10"), "cap": {"amount": "50", "period": "month"}}]),
        |given| {
            given.amount("100 USD");
            given.rate("EUR", "USD", "1.1");
            given.earned(Period::Month, "45");
        },
        &["direct to 7: 5.50 USD by r1"],
    );
    example(
        "110 USD / 1.1 = 100 EUR: 900 + 100 reaches 1000 EUR; 5 EUR × 1.1 = 5.50 USD",
        &json!([{"kind": "bonus", "reward": flat("5"), "bonus": {
            "for": "volume_reached", "volume": {"by": "revenue", "period": "month", "reaches": "1000"}}}]),
        |given| {
            given.amount("110 USD");
            given.rate("EUR", "USD", "1.1");
            given.volume(Measure::Revenue, Period::Month, "900");
        },
        &["bonus to 7: 5.50 USD by r1"],
    );
}

#[test]
fn clicks_and_leads() {
    let rules = json!([
        {"events": ["click"], "reward": flat("0.0125")},
        {"events": ["lead", "signup"], "reward": flat("3")},
        {"reward": percent("10")},
    ]);
    example(
        "1000 clicks × 0.0125",
        &rules,
        |given| given.clicks(1_000),
        &["direct to 7: 12.50 EUR by r1"],
    );
    example(
        "one click of 0.0125 rounds to a cent",
        &rules,
        |given| given.clicks(1),
        &["direct to 7: 0.01 EUR by r1"],
    );
    let tiers = json!([{"events": ["click"], "reward": flat("0.01"),
        "tiers": {"by": "clicks", "period": "month", "steps": [{"from": "5000", "flat": "0.02"}]},
        "cap": {"amount": "100", "period": "month"}}]);
    for (before, expected, by_hand) in [
        ("4999", "10.00 EUR", "4999 clicks before: 1000 × 0.01"),
        ("5000", "20.00 EUR", "5000 clicks before: 1000 × 0.02"),
    ] {
        let given = |given: &mut Given| {
            given.clicks(1_000);
            given.volume(Measure::Clicks, Period::Month, before);
        };
        let expected = format!("direct to 7: {expected} by r1");
        example(by_hand, &tiers, given, &[&expected]);
    }
    example(
        "a lead without a value: 3",
        &rules,
        |given| {
            given.occasion.event = "lead".to_owned();
            given.occasion.amount = None;
        },
        &["direct to 7: 3.00 EUR by r2"],
    );
    example(
        "no rule is for downloads",
        &rules,
        |given| given.occasion.event = "download".to_owned(),
        &[],
    );
}

#[test]
fn an_order_of_several_affiliates() {
    let rules = json!([{"reward": {"kind": "hybrid", "percent": "10", "flat": "1"}}]);
    for (index, expected, by_hand) in [
        (
            0,
            "3.67 EUR",
            "33.34 × 10 % = 3.334, and 0.34 of 1.00: 3.674",
        ),
        (
            1,
            "3.66 EUR",
            "33.33 × 10 % = 3.333, and 0.33 of 1.00: 3.663",
        ),
        (2, "3.66 EUR", "the same"),
    ] {
        let expected = format!("direct to 7: {expected} by r1");
        let share = |given: &mut Given| given.share(&[1, 1, 1], index);
        example(by_hand, &rules, share, &[&expected]);
    }
    example(
        "two of five: 40 × 10 %, and 0.40",
        &rules,
        |given| given.share(&[2, 3], 0),
        &["direct to 7: 4.40 EUR by r1"],
    );
    for (what, bonus, by_hand) in [
        (
            "first_order_of_customer",
            "1.67 EUR",
            "5 among three: 1.67, 1.67, 1.66",
        ),
        (
            "first_order_of_affiliate",
            "5.00 EUR",
            "the first order of this affiliate, of no other",
        ),
    ] {
        let rules = json!([{"kind": "bonus", "reward": flat("5"), "bonus": {"for": what}}]);
        let expected = format!("bonus to 7: {bonus} by r1");
        let share = |given: &mut Given| given.share(&[1, 1, 1], 0);
        example(by_hand, &rules, share, &[&expected]);
    }
    example("none of it", &rules, |given| given.share(&[0, 1], 0), &[]);
}

#[test]
fn a_figure_that_was_not_loaded_is_an_error_not_a_zero() {
    example(
        "the cap can't be told",
        &json!([{"reward": percent("10"), "cap": {"amount": "50", "period": "month"}}]),
        |given| given.figures.earned.clear(),
        &["what the affiliate earned by rule \"r1\" this month is needed and was not given"],
    );
}

#[test]
fn an_explanation_reads_like_an_invoice() {
    let mut given = Given::new(&json!([
        {"reward": percent("5")},
        {"reward": percent("8"), "scope": {"categories": ["shoes"]}, "maximum": "4"},
        {"reward": percent("9"), "priority": -1},
        {"reward": percent("50"), "when": "order.amount > 1000"},
        {"reward": percent("60"), "when": "order.items < 2 && products[1] == 'x'"},
        {"reward": percent("70"), "scope": {"affiliates": [8]}},
    ]));
    given.items(&[("sneaker", "shoes", 1, "59.90 EUR")]);
    given.amount("59.90 EUR");
    let priced = given.price().unwrap();
    let steps: Vec<String> = priced.commissions[0]
        .steps
        .iter()
        .map(Step::to_string)
        .collect();
    assert_eq!(
        steps,
        [
            "rule 2 version 1 for category shoes: 8 % of 59.90 EUR = 4.792 EUR",
            "rule 2 version 1 for category shoes: 4.792 EUR is more than the maximum of 4.00 EUR",
            "rule 5 version 1 was passed over: its condition order.items < 2 && products[1] == 'x' can't be told: Index out of bounds: Int(1)",
            "rule 4 version 1 was passed over: its condition order.amount > 1000 is false",
            "rule 1 version 1 was passed over: less specific than rule 2 version 1 for category shoes",
            "rule 3 version 1 was passed over: less specific than rule 2 version 1 for category shoes",
        ]
    );
    assert_eq!(
        serde_json::to_value(&priced.commissions[0].steps[0]).unwrap(),
        json!({"what": "percent", "rule": 2, "version": 1, "text": steps[0]})
    );
}

#[test]
fn an_explanation_of_a_split_order_in_two_currencies_says_all_numbers() {
    let mut given = Given::new(&json!([
        {"reward": {"kind": "hybrid", "percent": "10", "flat": "1"}, "recurring": {"orders": 2},
         "tiers": {"by": "orders", "period": "month", "steps": [{"from": "5", "percent": "12.50"}]},
         "uplift": [{"tag": "vip", "percent": "10"}], "cap": {"amount": "100", "period": "year"}},
        {"reward": percent("9")},
        {"reward": percent("8"), "recurring": {"months": 1}},
        {"kind": "bonus", "reward": flat("5"), "bonus": {"for": "first_order_of_customer"}},
    ]));
    given.rules[0].valid_from = given.rules[3].valid_from;
    given.amount("100 USD");
    given.rate("EUR", "USD", "1.1");
    given.share(&[1, 2], 0);
    given.history(1, "2026-01-01T00:00:00Z");
    given.volume(Measure::Orders, Period::Month, "7");
    given.earned(Period::Year, "97.5");
    given.affiliate.tags = vec!["vip".to_owned()];
    let priced = given.price().unwrap();
    let commission = &priced.commissions[0];
    let steps: Vec<String> = commission.steps.iter().map(Step::to_string).collect();
    assert_eq!(
        steps,
        [
            "affiliate 7 is credited with 0.333333 of 100.00 USD",
            "rule 1 version 1: this is order 2 of the customer, which counts",
            "rule 1 version 1: the volume this month was 7, so the step from 5 on holds",
            "rule 1 version 1: 12.5 % of 33.33 USD = 4.16625 USD",
            "rule 1 version 1: 1 × 1.00 EUR, of which 0.33 EUR is credited, = 0.363 USD",
            "rule 1 version 1: 10 % more for tag vip = 4.982175 USD",
            "rule 1 version 1: 4.982175 USD is cut to 2.75 USD, because 97.5 of at most 100.00 EUR this year was earned already",
            "converted by 1 EUR = 1.1 USD",
            "rule 3 version 1 was passed over: it counted this customer's orders until 2026-02-01T00:00:00+00:00",
            "rule 2 version 1 was passed over: older than rule 1 version 1",
        ]
    );
    assert_eq!(commission.amount.to_string(), "2.75 USD");
    assert_eq!(commission.parts[0].earned.unwrap().to_string(), "2.50 EUR");
    assert_eq!(commission.basis.unwrap().to_string(), "33.33 USD");
    assert_eq!(commission.rate.unwrap().to_string(), "1 EUR = 1.1 USD");
    let left_out: Vec<String> = priced.left_out.iter().map(Step::to_string).collect();
    assert_eq!(
        left_out,
        ["rule 4 version 1 gives no bonus: the customer has 1 orders already"]
    );
}
