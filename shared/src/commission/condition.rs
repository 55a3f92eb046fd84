//! Conditions: expressions in the Common Expression Language (CEL) that hold or don't.
//!
//! An expression is compiled and its types are checked when a rule is saved, so that a mistake is
//! told to who made it. One that fails all the same (a division by zero) does not hold, and the
//! explanation says why. Numbers are floating point here and nowhere else: they are compared, never
//! paid.

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::parser::PrattParser;
use cel::{Context, Env, IdedExpr, Value};
use chrono::DateTime;
use rust_decimal::prelude::ToPrimitive;
use serde::Serialize;

use super::expression::{MAX_DEPTH, Scalar, Type, type_of};
use super::occasion::{Affiliate, Customer, Item, Occasion};
use crate::ids::AffiliateId;
use crate::money::Money;

/// Longest expression, in characters.
pub const MAX_EXPRESSION_CHARS: usize = 1_000;

/// Most nodes that an expression may have once its loops are written out.
const MAX_NODES: usize = 2_000;

/// The functions of the standard; building them takes longer than most evaluations.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled condition.
#[derive(Clone)]
pub struct Condition {
    text: String,
    expression: Arc<IdedExpr>,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.text).finish()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Condition {
    /// Compiles an expression and checks all of it that can be checked without an order.
    ///
    /// # Errors
    /// Says what is wrong: its length, its syntax, a name, a type.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.chars().count() > MAX_EXPRESSION_CHARS {
            return Err(format!("must be at most {MAX_EXPRESSION_CHARS} characters"));
        }
        // Not the library's default parser: texts of a hundred characters have made that one take
        // gigabytes. This one reads each text once, and stops at a depth.
        let depth = u16::try_from(MAX_DEPTH).unwrap_or(u16::MAX);
        let expression = PrattParser::new()
            .max_recursion_depth(depth)
            .max_expression_node_count(MAX_NODES)
            .parse(text)
            .map_err(|errors| {
                errors.errors.first().map_or_else(
                    || "can't be read".to_owned(),
                    |error| match error.pos {
                        (line, column) if line > 0 => {
                            format!("line {line} column {column}: {}", error.msg)
                        }
                        _ => error.msg.clone(),
                    },
                )
            })?;
        match type_of(&expression)? {
            Type::One(Scalar::Bool) => {}
            _ => return Err("must be true or false, not a number, a text or a list".to_owned()),
        }
        let condition = Self {
            text: text.to_owned(),
            expression: Arc::new(expression),
        };
        let (occasion, affiliate) = sample();
        condition
            .holds(&occasion, &affiliate)
            .map_err(|why| format!("fails on a sample order: {why}"))?;
        Ok(condition)
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// Why it can't be told, in words.
    pub(super) fn holds(&self, occasion: &Occasion, affiliate: &Affiliate) -> Result<bool, String> {
        let context = context(occasion, affiliate).map_err(|error| error.to_string())?;
        match Value::resolve(&self.expression, &context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("it is neither true nor false".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[derive(Serialize)]
struct OrderFacts<'o> {
    amount: f64,
    currency: &'o str,
    event: &'o str,
    coupon: &'o str,
    items: i64,
}

#[derive(Serialize)]
struct CustomerFacts {
    new: bool,
    known: bool,
}

#[derive(Serialize)]
struct AffiliateFacts<'o> {
    id: i64,
    tier: &'o str,
    groups: &'o [String],
    tags: &'o [String],
    certifications: &'o [String],
}

/// The variables, as `expression::VARIABLES` lists them.
fn context<'v>(
    occasion: &'v Occasion,
    affiliate: &'v Affiliate,
) -> Result<Context<'v, 'v>, cel::SerializationError> {
    let mut context = Context::with_env(Arc::clone(&STANDARD));
    context.add_variable(
        "order",
        OrderFacts {
            amount: occasion
                .amount
                .and_then(|money| money.amount().to_f64())
                .unwrap_or_default(),
            currency: occasion.amount.map_or("", |money| money.currency().code()),
            event: &occasion.event,
            coupon: &occasion.coupon,
            items: occasion
                .items
                .iter()
                .map(|item| i64::from(item.quantity))
                .fold(0, i64::saturating_add),
        },
    )?;
    context.add_variable(
        "customer",
        CustomerFacts {
            new: occasion.customer.new == Some(true),
            known: occasion.customer.new.is_some(),
        },
    )?;
    context.add_variable(
        "affiliate",
        AffiliateFacts {
            id: affiliate.id.0,
            tier: &affiliate.tier,
            groups: &affiliate.groups,
            tags: &affiliate.tags,
            certifications: &affiliate.certifications,
        },
    )?;
    let of_items = |text: fn(&Item) -> &str| -> Vec<&str> {
        let texts = occasion.items.iter().map(text);
        texts.filter(|text| !text.is_empty()).collect()
    };
    context.add_variable("products", of_items(|item| &item.product))?;
    context.add_variable("categories", of_items(|item| &item.category))?;
    context.add_variable("campaign", &occasion.campaign)?;
    context.add_variable("country", &occasion.country)?;
    context.add_variable("device", &occasion.device)?;
    for (name, sub) in ["sub1", "sub2", "sub3", "sub4", "sub5"]
        .iter()
        .zip(&occasion.subs)
    {
        context.add_variable(*name, sub)?;
    }
    Ok(context)
}

/// An order on which an expression is tried when it is saved: nothing of it is empty.
fn sample() -> (Occasion, Affiliate) {
    let amount = Money::parse("59.90", "EUR").ok();
    let mut occasion = Occasion::new(DateTime::UNIX_EPOCH, super::SALE, amount);
    occasion.items = amount
        .map(|amount| Item {
            product: "product".to_owned(),
            category: "category".to_owned(),
            quantity: 2,
            amount,
        })
        .into_iter()
        .collect();
    occasion.coupon = "COUPON".to_owned();
    occasion.campaign = "campaign".to_owned();
    occasion.country = "DE".to_owned();
    occasion.device = "desktop".to_owned();
    occasion.subs = ["a", "b", "c", "d", "e"].map(str::to_owned);
    occasion.customer = Customer {
        identified: true,
        new: Some(true),
    };
    let mut affiliate = Affiliate::new(AffiliateId(1));
    affiliate.tier = "gold".to_owned();
    affiliate.groups = vec!["group".to_owned()];
    affiliate.tags = vec!["tag".to_owned()];
    affiliate.certifications = vec!["certification".to_owned()];
    (occasion, affiliate)
}

#[cfg(test)]
mod tests {
    use super::super::expression::VARIABLES;
    use super::*;
    use proptest::prelude::*;

    fn holds(text: &str) -> bool {
        let (occasion, affiliate) = sample();
        Condition::new(text)
            .unwrap_or_else(|why| panic!("{text}: {why}"))
            .holds(&occasion, &affiliate)
            .unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    fn refused(text: &str) -> String {
        Condition::new(text).expect_err(text)
    }

    #[test]
    fn every_variable_can_be_asked_for() {
        for text in [
            "order.amount >= 59.9 && order.amount < 60",
            "order.currency == 'EUR' && order.event == \"sale\" && order.coupon.startsWith('COU')",
            "order.items == 2",
            "customer.known && customer.new",
            "products == ['product'] && 'category' in categories",
            "categories.exists(c, c.contains('teg'))",
            "categories.filter(c, c != '').size() == 1",
            "size(products.map(p, p.size())) == 1",
            "products.all(p, p.endsWith('ct')) && products.exists_one(p, p == 'product')",
            "sub1 == 'a' && sub2 == 'b' && sub3 == 'c' && sub4 == 'd' && sub5 == 'e'",
            "country in ['DE', 'AT'] && device != 'mobile' && campaign == 'campaign'",
            "affiliate.id == 1 && affiliate.tier == 'gold' && 'group' in affiliate.groups",
            "'tag' in affiliate.tags && 'certification' in affiliate.certifications",
            "order.amount / double(order.items) > 20.0",
            "(customer.new ? order.amount : 0.0) > 10",
            "!(order.amount > 100) || products[0] == 'x'",
            "has(order.coupon) && [1, 2] != []",
        ] {
            assert!(holds(text), "{text}");
        }
        assert!(!holds("order.amount > 100 || country == 'US'"));
    }

    /// The list that expressions are checked by is the list that they are evaluated with.
    #[test]
    fn what_is_a_variable_to_the_checker_is_one_to_the_evaluation() {
        let (occasion, affiliate) = sample();
        for (name, _) in VARIABLES {
            let expression = PrattParser::new().parse(name).unwrap();
            let context = context(&occasion, &affiliate).unwrap();
            assert!(Value::resolve(&expression, &context).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_mistake_is_told_when_the_rule_is_saved() {
        for (text, told) in [
            ("", "line 1 column 1"),
            ("order.amount >", "line 1 column"),
            ("order.amount > 1 order", "line 1 column 18"),
            ("total > 1", "there is no variable \"total\""),
            ("order.total > 1", "but order.amount, order.currency"),
            ("order == 1", "there is no variable \"order\", but"),
            ("order.amount", "must be true or false"),
            ("order.amount > '1'", "> takes two numbers or two texts"),
            ("customer.new && (order.amount > 1 || country)", "|| takes"),
            (
                "country == 1",
                "== takes two of a kind, not a text and a whole number",
            ),
            ("country in 'DE'", "in takes a value and a list"),
            ("country in [1]", "in takes"),
            ("order.amount * 2 > 1.0", "2.0 is a decimal one"),
            ("country.matches('D.*')", "there is no matches here"),
            ("country.size == 1", "there is no variable \"country.size\""),
            ("'a'.size == 1", "nothing has a field \"size\" here"),
            ("[1] + ['a'] == []", "two lists of a kind"),
            ("products[5] == 'x'", "fails on a sample order"),
            ("1 / 0 == 1", "fails on a sample order"),
            ("null == null", "null"),
            ("{'a': 1} == {}", "{…}"),
            (
                "products.all(p, categories.all(c, c == p))",
                "a loop in a loop",
            ),
            ("country.all(c, true)", "only a list"),
        ] {
            let why = refused(text);
            assert!(why.contains(told), "{text}: {why}");
        }
        let long = format!("country == '{}'", "x".repeat(MAX_EXPRESSION_CHARS));
        assert_eq!(refused(&long), "must be at most 1000 characters");
    }

    /// Texts that took the library's other parser down, and others that are deep.
    #[test]
    fn a_text_that_is_meant_to_break_the_parser_does_not() {
        for text in [
            "!!(!!!!!!(!!!!(((((!!(!!(!!!!((".repeat(30),
            format!(
                ">{}?[{}{}l\0?(-",
                "{".repeat(63),
                "(".repeat(11),
                "{".repeat(26)
            ),
            "[".repeat(1_000),
            "(".repeat(1_000),
            "{".repeat(1_000),
            "-!".repeat(500),
            format!("{}1", "1?".repeat(499)),
            format!("true{}", "?true:true".repeat(99)),
            format!("{}true", "true?true:".repeat(99)),
            format!("1{} == 1", "+1".repeat(490)),
            format!("country{}", ".a".repeat(490)),
            format!("country{}", "[0]".repeat(330)),
            format!("products{}", ".filter(p, true)".repeat(60)),
            format!("{}true{}", "products.all(p, ".repeat(50), ")".repeat(50)),
            "a(".repeat(500),
            "'\\".to_owned(),
            "\"\"\"".to_owned(),
        ] {
            assert!(Condition::new(&text).is_err(), "{text}");
        }
        // Many conditions beside each other are not deep.
        let wide = vec!["order.items > 1"; 50].join(" && ");
        assert!(holds(&wide));
    }

    #[test]
    fn an_expression_that_fails_on_an_order_says_why() {
        let condition = Condition::new("products[0] == 'x'").unwrap();
        let mut occasion = sample().0;
        occasion.items.clear();
        let why = condition
            .holds(&occasion, &Affiliate::new(AffiliateId(1)))
            .unwrap_err();
        assert!(why.contains("out of bounds"), "{why}");
    }

    /// Pieces of expressions in any order: most are wrong, some are right.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "order.amount",
            "order.items",
            "products",
            "categories",
            "country",
            "customer.new",
            "affiliate.id",
            "9223372036854775807",
            "-9223372036854775808",
            "1e308",
            "0",
            "0.0",
            "1u",
            "'a'",
            "\"é",
            "b'a'",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            ".",
            "?",
            ":",
            "!",
            "-",
            "+",
            "*",
            "/",
            "%",
            "&&",
            "||",
            "==",
            "!=",
            "<",
            ">=",
            " in ",
            "size(",
            ".exists(x,",
            ".map(x,",
            "x",
            ".filter(x, x",
            "int(",
            "double(",
            "has(",
            "true",
            "null",
            "\\",
            "\0",
            "ü",
            "// ",
        ]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    /// Expressions that are mostly right in their form, so that many are evaluated.
    fn expressions() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "order.amount",
            "order.items",
            "products",
            "country",
            "customer.new",
            "1",
            "0",
            "-9223372036854775808",
            "9223372036854775807",
            "1.5",
            "1e308",
            "'a'",
            "true",
            "[]",
        ])
        .prop_map(str::to_owned);
        leaf.prop_recursive(6, 40, 3, |inner| {
            let operator = prop::sample::select(vec![
                "+", "-", "*", "/", "%", "==", "!=", "<", "<=", "&&", "||", " in ",
            ]);
            prop_oneof![
                (inner.clone(), operator, inner.clone())
                    .prop_map(|(a, o, b)| format!("({a} {o} {b})")),
                inner.clone().prop_map(|a| format!("!{a}")),
                inner.clone().prop_map(|a| format!("-({a})")),
                inner.clone().prop_map(|a| format!("int({a})")),
                inner.clone().prop_map(|a| format!("double({a})")),
                inner
                    .clone()
                    .prop_map(|a| format!("products.exists(p, {a})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
                (inner.clone(), inner.clone(), inner)
                    .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn no_text_makes_it_panic(text in prop_oneof![any::<String>(), pieces(), expressions()]) {
            let mut empty = sample().0;
            empty.items.clear();
            let affiliate = Affiliate::new(AffiliateId(i64::MAX));
            if let Ok(condition) = Condition::new(&text) {
                let _ = condition.holds(&empty, &affiliate);
            }
            // Whatever passes the types is evaluated even where the sample would refuse it.
            if let Ok(expression) = PrattParser::new().max_recursion_depth(40).parse(&text)
                && type_of(&expression).is_ok()
            {
                let _ = Value::resolve(&expression, &context(&empty, &affiliate).unwrap());
            }
        }
    }
}
