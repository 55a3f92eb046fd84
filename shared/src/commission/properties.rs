//! What holds of every rule, order and history: thousands of each, drawn at random.

use proptest::prelude::*;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::golden::{Given, money};
use super::*;
use crate::ids::AffiliateId;
use crate::money::{Currency, MAX_AMOUNT, Money};

fn option(json: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![3 => Just(Value::Null), 1 => json]
}

fn name(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::sample::select(names).prop_map(Value::from)
}

fn percents() -> impl Strategy<Value = String> {
    (0..=1_000_000_i64).prop_map(|units| Decimal::new(units, 4).to_string())
}

fn amounts() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (1..100_000_i64).prop_map(|cents| Decimal::new(cents, 2).to_string()),
        1 => Just(MAX_AMOUNT.to_string()),
    ]
}

fn rewards() -> impl Strategy<Value = Value> {
    (
        0..3,
        percents(),
        amounts(),
        name(&["order", "item", "unit"]),
    )
        .prop_map(|(kind, percent, flat, per)| match kind {
            0 => json!({"kind": "percent", "percent": percent}),
            1 => json!({"kind": "flat", "flat": flat, "per": per}),
            _ => json!({"kind": "hybrid", "percent": percent, "flat": flat, "per": per}),
        })
}

fn few(one: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<Value>> {
    prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec(one, 1..3),
    ]
}

fn scopes() -> impl Strategy<Value = Value> {
    (
        few((7..9_i64).prop_map(Value::from)),
        few(name(&["g", "h"])),
        few(name(&["gold", "silver"])),
        few(name(&["p1", "p2"])),
        few(name(&["c1", "c2"])),
    )
        .prop_map(|(affiliates, groups, tiers, products, categories)| {
            json!({"affiliates": affiliates, "groups": groups, "tiers": tiers,
                   "products": products, "categories": categories})
        })
}

/// Documents that can be saved, with any of what a document can have.
fn documents() -> impl Strategy<Value = Value> {
    let period = || name(&["month", "quarter", "year", "lifetime"]);
    let by = || name(&["revenue", "orders"]);
    let goal = (by(), period(), 1..100_u32).prop_map(
        |(by, period, reaches)| json!({"by": by, "period": period, "reaches": reaches.to_string()}),
    );
    let bonus = prop_oneof![
        Just(Value::Null),
        name(&[
            "every_order",
            "first_order_of_customer",
            "first_order_of_affiliate"
        ])
        .prop_map(|occasion| json!({"for": occasion})),
        goal.prop_map(|goal| json!({"for": "volume_reached", "volume": goal})),
    ];
    let when = name(&[
        "order.amount > 50",
        "products[0] == 'p1'",
        "'c1' in categories || customer.new",
    ]);
    let cap = (amounts(), period())
        .prop_map(|(amount, period)| json!({"amount": amount, "period": period}));
    let recurring = (1..24_u32, 1..5_u32)
        .prop_map(|(months, orders)| json!({"months": months, "orders": orders}));
    let uplift = (name(&["gold", "silver"]), percents())
        .prop_map(|(tier, percent)| json!({"tier": tier, "percent": percent}));
    (
        (rewards(), scopes(), -2..3_i32, option(when), bonus),
        (
            option(amounts().prop_map(Value::from)),
            option(amounts().prop_map(Value::from)),
            option(cap),
            option(recurring),
        ),
        (
            by(),
            period(),
            any::<bool>(),
            percents(),
            amounts(),
            prop::collection::vec(uplift, 0..3),
        ),
    )
        .prop_map(
            |((reward, scope, priority, when, bonus), (minimum, maximum, cap, recurring), tier)| {
                let (by, period, has_tiers, percent, flat, uplift) = tier;
                let mut document = json!({"scope": scope, "priority": priority, "uplift": uplift});
                if !bonus.is_null() {
                    document["kind"] = "bonus".into();
                }
                if has_tiers {
                    let step = match reward["kind"].as_str() {
                        Some("flat") => json!({"from": "10", "flat": flat}),
                        _ => json!({"from": "10", "percent": percent}),
                    };
                    document["tiers"] = json!({"by": by, "period": period, "steps": [step]});
                }
                document["reward"] = reward;
                let fields = [
                    ("when", when),
                    ("bonus", bonus),
                    ("cap", cap),
                    ("recurring", recurring),
                ];
                for (field, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
                    document[field] = value;
                }
                let number =
                    |value: &Value| value.as_str().and_then(|text| text.parse::<Decimal>().ok());
                if number(&minimum).is_some() {
                    document["minimum"] = minimum.clone();
                }
                if number(&maximum).is_some_and(|maximum| {
                    number(&minimum).is_none_or(|minimum| minimum <= maximum)
                }) {
                    document["maximum"] = maximum;
                }
                document
            },
        )
}

prop_compose! {
    /// An order, whose it is, and a history; every figure is there.
    fn givens()(
        documents in prop::collection::vec(documents(), 0..6),
        currencies in (name(&["EUR", "USD", "JPY"]), name(&["EUR", "USD", "JPY"]), any::<bool>()),
        cents in prop_oneof![4 => 0..100_000_i64, 1 => Just(999_999_999_999_900_i64)],
        items in prop::collection::vec((name(&["p1", "p2", "p3"]), name(&["", "c1", "c2"]), 0..5_u32, 0..50_000_i64), 0..4),
        who in (name(&["gold", "silver", ""]), prop::collection::vec(name(&["g", "h"]), 0..2)),
        weights in prop::collection::vec(0..100_u64, 1..4),
        history in (0..5_u64, any::<Option<bool>>(), any::<bool>()),
        figures in (0..100_i64, 0..20_i64, 1..1_000_i64),
        above in prop::collection::vec(1..9_i64, 0..5),
    ) -> Given {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (program, order, in_order) = currencies;
        let (program, order): (Currency, Currency) = (text(&program).parse().unwrap(), text(&order).parse().unwrap());
        let mut given = Given::new(&json!([]));
        given.rules = (1..).zip(documents)
            .filter_map(|(id, document)| Some(Version {
                id,
                key: format!("r{id}"),
                version: 1,
                valid_from: "2026-01-01T00:00:00Z".parse().unwrap(),
                active: true,
                // An amount may have more digits than JPY has.
                rule: Rule::read(&document, program).ok()?,
            }))
            .collect();
        given.program.currency = program;
        given.program.pay_in = if in_order { PayIn::Order } else { PayIn::Program };
        given.program.uplines = Uplines::default();
        let money = |cents: i64| Money::rounded(Decimal::new(cents, 2), order).unwrap();
        given.occasion.amount = Some(money(cents));
        given.occasion.items = items.iter()
            .map(|(product, category, quantity, cents)| Item {
                product: text(product), category: text(category), quantity: *quantity, amount: money(*cents),
            })
            .collect();
        given.occasion.share = Share::new(weights, 0).unwrap();
        given.affiliate.tier = text(&who.0);
        given.affiliate.groups = who.1.iter().map(text).collect();
        given.above = above.into_iter().map(AffiliateId).collect();
        let (orders, new, identified) = history;
        given.occasion.customer = Customer { identified, new };
        given.figures.customer = Some(CustomerHistory {
            first_order_at: (orders > 0).then(|| "2025-06-01T00:00:00Z".parse().unwrap()),
            orders,
        });
        given.figures.affiliate_orders = Some(orders);
        let (volume, earned, rate) = figures;
        for value in given.figures.volumes.values_mut() {
            *value = volume.into();
        }
        for version in &given.rules {
            for period in [Period::Month, Period::Quarter, Period::Year, Period::Lifetime] {
                given.figures.earned.insert((version.key.clone(), period), earned.into());
            }
        }
        for pair in [(program, order), (order, program)] {
            given.figures.rates.insert(pair, Decimal::new(rate, 2));
        }
        given
    }
}

fn within_bounds(given: &Given, commission: &Commission) -> Result<(), TestCaseError> {
    let same_currency = commission.amount.currency() == given.program.currency;
    for part in &commission.parts {
        let version = given
            .rules
            .iter()
            .find(|version| version.id == part.rule.id);
        let rule = version.unwrap().rule.document();
        let amount = part.amount.amount();
        if let (Some(maximum), true) = (rule.maximum, same_currency) {
            prop_assert!(amount <= maximum.0);
        }
        if let (Some(cap), true) = (rule.cap, same_currency) {
            let earned = given.figures.earned[&(part.rule.key.clone(), cap.period)];
            prop_assert!(amount <= (cap.amount.0 - earned).max(Decimal::ZERO));
        }
        if let (Some(minimum), None, true) = (rule.minimum, rule.cap, same_currency)
            && commission.parts.len() == 1
        {
            prop_assert!(amount >= minimum.0);
        }
        if let (Some(earned), true) = (part.earned, same_currency) {
            prop_assert_eq!(earned, part.amount);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// An error may say that a number is too large; nothing else can go wrong here.
    #[test]
    fn commissions_keep_to_their_bounds_whatever_is_given(given in givens()) {
        let priced = match given.price() {
            Ok(priced) => priced,
            Err(error) => {
                prop_assert_eq!(error, PriceError::TooLarge);
                return Ok(());
            }
        };
        for commission in &priced.commissions {
            prop_assert!(commission.amount.amount() > Decimal::ZERO);
            prop_assert!(!commission.steps.is_empty());
            if !commission.parts.is_empty() {
                let sum: Decimal = commission.parts.iter().map(|part| part.amount.amount()).sum();
                prop_assert_eq!(sum, commission.amount.amount());
                prop_assert!(commission.parts.iter().any(|part| part.rule == commission.rule));
            }
            within_bounds(&given, commission)?;
        }
        let direct = priced.commissions.iter().filter(|c| c.kind == CommissionKind::Direct).count();
        prop_assert!(direct <= 1);
    }

    #[test]
    fn the_order_of_the_rules_and_the_figures_that_are_not_needed_change_nothing(
        given in givens(),
        turn in 0..6_usize,
    ) {
        let first = given.price();
        let mut other = given;
        other.figures = other.only_needed();
        other.rules.reverse();
        let turn = turn.min(other.rules.len());
        other.rules.rotate_left(turn);
        prop_assert_eq!(first, other.price());
    }

    #[test]
    fn what_the_affiliates_of_an_order_are_paid_of_sums_to_the_order(
        cents in 0..10_000_000_i64,
        weights in prop::collection::vec(0..1_000_u64, 1..6),
        items in prop::collection::vec(0..1_000_000_i64, 0..4),
    ) {
        let mut given = Given::new(&json!([{"reward": {"kind": "hybrid", "percent": "100", "flat": "7.77"}}]));
        let euro = |cents| Money::new(Decimal::new(cents, 2), money("0 EUR").currency()).unwrap();
        given.occasion.amount = Some(euro(cents));
        given.occasion.items = items
            .into_iter()
            .map(|cents| Item { product: "p".to_owned(), category: String::new(), quantity: 1, amount: euro(cents) })
            .collect();
        let (mut basis, mut paid) = (Decimal::ZERO, Decimal::ZERO);
        for index in 0..weights.len() {
            given.occasion.share = Share::new(weights.clone(), index).unwrap();
            for commission in given.price().unwrap().commissions {
                basis += commission.basis.unwrap().amount();
                paid += commission.amount.amount();
            }
        }
        prop_assert_eq!(basis, Decimal::new(cents, 2));
        prop_assert_eq!(paid, Decimal::new(cents + 777, 2));
    }

    /// What the processor paid before there were rules of other kinds.
    #[test]
    fn a_plain_percentage_is_that_of_the_money(
        cents in 0..999_999_999_999_999_i64,
        ten_thousandths in 0..=1_000_000_i64,
        currency in prop::sample::select(vec!["EUR", "JPY", "KWD"]),
    ) {
        let order = Money::rounded(Decimal::new(cents, 3), currency.parse().unwrap()).unwrap();
        let percent = Decimal::new(ten_thousandths, 4);
        let mut given = Given::new(&json!([{"reward": {"kind": "percent", "percent": percent.to_string()}}]));
        given.occasion.amount = Some(order);
        given.program.uplines = Uplines::none();
        let paid = given.price().unwrap().commissions.first().map(|commission| commission.amount);
        let expected = order.percent(percent);
        prop_assert_eq!(paid, Some(expected).filter(|expected| !expected.is_zero()));
    }
}
