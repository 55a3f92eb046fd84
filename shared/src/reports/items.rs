//! What was bought, line by line: a JSON array, of which no digit passes through floating point.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{Text, as_text};
use super::refusal::BadItems;
use crate::events::OrderItem;
use crate::money::{Currency, Money};

/// Most items of one order.
pub const MAX_ITEMS: usize = 100;
/// Longest name of a product, in characters.
pub const MAX_PRODUCT_CHARS: usize = 128;
/// Longest name of a category, in characters.
pub const MAX_CATEGORY_CHARS: usize = 128;
/// Most pieces of one item.
pub const MAX_QUANTITY: u32 = 1_000_000;

/// One of the array. What is unknown is ignored.
#[derive(Debug, Deserialize)]
struct Item<'t> {
    #[serde(borrow)]
    product: Option<&'t RawValue>,
    #[serde(borrow)]
    category: Option<&'t RawValue>,
    #[serde(borrow)]
    quantity: Option<&'t RawValue>,
    #[serde(borrow)]
    amount: Option<&'t RawValue>,
}

/// Reads the items of an order in `currency`.
pub(super) fn items(text: &str, currency: Currency) -> Result<Vec<OrderItem>, BadItems> {
    let items: Vec<Item<'_>> =
        serde_json::from_str(text).map_err(|error| BadItems::Json(error.to_string()))?;
    if items.len() > MAX_ITEMS {
        return Err(BadItems::TooMany);
    }
    items
        .into_iter()
        .enumerate()
        .map(|(place, item)| item.read(place + 1, currency))
        .collect()
}

impl Item<'_> {
    fn read(self, place: usize, currency: Currency) -> Result<OrderItem, BadItems> {
        let bounded = |text: &str, max: usize| {
            text.chars().count() <= max && !text.chars().any(char::is_control)
        };
        let product = said(self.product).ok_or(BadItems::Product(place))?;
        if product.is_empty() || !bounded(&product, MAX_PRODUCT_CHARS) {
            return Err(BadItems::Product(place));
        }
        let category = said(self.category).ok_or(BadItems::Category(place))?;
        if !bounded(&category, MAX_CATEGORY_CHARS) {
            return Err(BadItems::Category(place));
        }
        let quantity = match &*said(self.quantity).ok_or(BadItems::Quantity(place))? {
            "" => 1,
            digits => digits
                .parse()
                .ok()
                .filter(|quantity| (1..=MAX_QUANTITY).contains(quantity))
                .ok_or(BadItems::Quantity(place))?,
        };
        let amount = said(self.amount).unwrap_or_default();
        let amount = Money::parse(&amount, currency.code())
            .map_err(|error| BadItems::Amount(place, error))?;
        Ok(OrderItem {
            product: product.into_owned(),
            category: category.into_owned(),
            quantity,
            amount: amount.amount().to_string(),
        })
    }
}

/// What a field says; empty: nothing. None: it is neither a string nor a number.
fn said(value: Option<&RawValue>) -> Option<Cow<'_, str>> {
    match value.map(as_text) {
        None | Some(Text::Null) => Some(Cow::Borrowed("")),
        Some(Text::Said(text)) => Some(text),
        Some(Text::Other(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<OrderItem>, String> {
        items(text, "USD".parse().unwrap()).map_err(|bad| bad.to_string())
    }

    #[test]
    fn items_are_read_with_their_quantity_and_exact_amount() {
        let read = read(
            r#"[{"product": "SKU-1", "category": "shoes", "quantity": 2, "amount": "39.8", "color": "red"},
                {"product": 4711, "amount": 9.99, "category": null}]"#,
        );
        let item = |product: &str, category: &str, quantity, amount: &str| OrderItem {
            product: product.to_owned(),
            category: category.to_owned(),
            quantity,
            amount: amount.to_owned(),
        };
        let expected = [
            item("SKU-1", "shoes", 2, "39.80"),
            item("4711", "", 1, "9.99"),
        ];
        assert_eq!(read.unwrap(), expected);
        assert_eq!(super::items("[]", "JPY".parse().unwrap()), Ok(Vec::new()));
    }

    #[test]
    fn bad_items_are_told_by_their_place() {
        let line = r#"{"product": "a", "amount": 1}"#;
        let many = |n| format!("[{}]", vec![line; n].join(","));
        assert_eq!(read(&many(100)).unwrap().len(), 100);
        let long = "x".repeat(129);
        for (text, why) in [
            (many(101), "at most 100"),
            ("{}".into(), "JSON array"),
            ("[1]".into(), "JSON array"),
            ("".into(), "JSON array"),
            (format!("[{line},{{}}]"), "item 2: product"),
            (
                format!(r#"[{{"product":"{long}","amount":1}}]"#),
                "item 1: product",
            ),
            (
                r#"[{"product":"a\n","amount":1}]"#.into(),
                "item 1: product",
            ),
            (
                format!(r#"[{{"product":"a","category":"{long}","amount":1}}]"#),
                "item 1: category",
            ),
            (
                r#"[{"product":"a","quantity":0,"amount":1}]"#.into(),
                "item 1: quantity",
            ),
            (
                r#"[{"product":"a","quantity":1.5,"amount":1}]"#.into(),
                "item 1: quantity",
            ),
            (
                r#"[{"product":"a","quantity":1000001,"amount":1}]"#.into(),
                "item 1: quantity",
            ),
            (r#"[{"product":"a"}]"#.into(), "item 1: amount"),
            (
                r#"[{"product":"a","amount":1.005}]"#.into(),
                "item 1: amount",
            ),
            (r#"[{"product":"a","amount":[]}]"#.into(), "item 1: amount"),
        ] {
            let refused = read(&text).unwrap_err();
            assert!(refused.contains(why), "{text:.80}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[\\[\\]{}\",:a-z0-9. é]{0,80}") {
            let _ = read(&text);
        }
    }
}
