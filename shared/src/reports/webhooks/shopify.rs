//! Shopify's webhooks as reports of orders.
//!
//! | topic | |
//! |---|---|
//! | `orders/create`, `orders/paid` | a sale, pending: the money is there, the hold counts all the same |
//! | `orders/cancelled` | it is rejected |
//! | `refunds/create` | a refund by its own id: the sum of what was given back in money |
//!
//! The signature does not cover the topic, so the body decides as well: an order with `cancelled_at` is a cancelled one,
//! whatever the header says.
//!
//! The click is a cart attribute `click_id` (they become the order's `note_attributes`), else the parameter of that name in
//! the address on which the customer landed. An order that a subscription made by itself is a `renewal`: its
//! `source_name` begins with `subscription_contract`, or it has a tag `renewal` or `Subscription Recurring Order`. Shopify
//! promises neither; an order that is not recognised counts as a sale.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::json;
use url::form_urlencoded;

use super::loose::{Id, Maybe};
use super::{Draft, Kind, Nothing, RENEWAL, Said, bad};
use crate::reports::{
    MAX_CATEGORY_CHARS, MAX_ITEMS, MAX_PRODUCT_CHARS, MAX_QUANTITY, Parameter, Refusal,
};

const KIND: Kind = Kind::Shopify;

/// Longest text of all lines of an order, in bytes; of a longer one they are left out. A record of the journal has 64 KiB.
const MAX_ITEMS_BYTES: usize = 16 * 1024;
/// How the source of orders that a subscription makes begins.
const RENEWAL_SOURCE: &str = "subscription_contract";
/// Tags of such orders, in lower case.
const RENEWAL_TAGS: [&str; 2] = [RENEWAL, "subscription recurring order"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Order {
    id: Maybe<Id>,
    test: Maybe<bool>,
    currency: Maybe<String>,
    total_price: Maybe<String>,
    created_at: Maybe<String>,
    updated_at: Maybe<String>,
    cancelled_at: Maybe<String>,
    source_name: Maybe<String>,
    tags: Maybe<String>,
    landing_site: Maybe<String>,
    note_attributes: Maybe<Vec<Maybe<Attribute>>>,
    discount_codes: Maybe<Vec<Maybe<DiscountCode>>>,
    line_items: Maybe<Vec<Maybe<Line>>>,
    customer: Maybe<Customer>,
    email: Maybe<String>,
    contact_email: Maybe<String>,
    browser_ip: Maybe<String>,
    client_details: Maybe<ClientDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Attribute {
    name: Maybe<String>,
    value: Maybe<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DiscountCode {
    code: Maybe<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    sku: Maybe<String>,
    product_id: Maybe<Id>,
    product_type: Maybe<String>,
    title: Maybe<String>,
    quantity: Maybe<u32>,
    /// Of one piece.
    price: Maybe<String>,
    discount_allocations: Maybe<Vec<Maybe<Allocation>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Allocation {
    amount: Maybe<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Customer {
    id: Maybe<Id>,
    orders_count: Maybe<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClientDetails {
    user_agent: Maybe<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refund {
    id: Maybe<Id>,
    order_id: Maybe<Id>,
    created_at: Maybe<String>,
    transactions: Maybe<Vec<Maybe<Transaction>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Transaction {
    kind: Maybe<String>,
    status: Maybe<String>,
    amount: Maybe<String>,
    currency: Maybe<String>,
    amount_set: Maybe<AmountSet>,
}

/// The same amount in the shop's currency, which is the order's, where the customer paid in another.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AmountSet {
    shop_money: Maybe<ShopMoney>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShopMoney {
    amount: Maybe<String>,
    currency_code: Maybe<String>,
}

/// Reads a webhook.
pub(super) fn read(topic: &str, body: &[u8]) -> Result<Said, Refusal> {
    match topic {
        "orders/create" | "orders/paid" | "orders/cancelled" => {
            let order = serde_json::from_slice(body).map_err(|error| bad(KIND, &error))?;
            Ok(read_order(topic, &order))
        }
        "refunds/create" => {
            let refund = serde_json::from_slice(body).map_err(|error| bad(KIND, &error))?;
            Ok(read_refund(topic, &refund))
        }
        _ => Ok(Draft::new(topic, "", None).nothing(Nothing::Type)),
    }
}

fn read_order(topic: &str, order: &Order) -> Said {
    let id = order.id.text().unwrap_or_default();
    let cancelled = order.cancelled_at.text();
    let times = [cancelled, order.updated_at.text(), order.created_at.text()];
    let mut draft = Draft::new(topic, &id, times.into_iter().flatten().find_map(moment));
    if order.test.get() == Some(&true) {
        return draft.nothing(Nothing::TestOrder);
    }
    draft.say(Parameter::OrderId, Some(id.as_str()));
    draft.name(KIND, Some(&id));
    if is_renewal(order) {
        draft.say(Parameter::Event, Some(RENEWAL));
    }
    let status = match cancelled {
        Some(_) => "rejected",
        None => "pending",
    };
    draft.say(Parameter::Status, Some(status));
    draft.say(Parameter::Amount, order.total_price.text());
    draft.say(Parameter::Currency, order.currency.text());
    let attribute = |name: &str| {
        let mut attributes = order.note_attributes.each();
        let found = attributes.find(|attribute| attribute.name.text() == Some(name));
        found.and_then(|attribute| attribute.value.text())
    };
    let landed = order.landing_site.text().and_then(click_of_address);
    draft.say_first(
        Parameter::ClickId,
        [attribute("click_id"), landed.as_deref()],
    );
    let codes = order.discount_codes.each().map(|code| code.code.text());
    draft.say_first(
        Parameter::Coupon,
        [attribute("coupon")].into_iter().chain(codes),
    );
    draft.say(Parameter::Items, items(order));
    if let Some(customer) = order.customer.get() {
        draft.say(Parameter::CustomerId, customer.id.text());
        let is_new = customer.orders_count.get().map(|count| *count <= 1);
        draft.say(Parameter::NewCustomer, is_new.map(|new| new.to_string()));
    }
    let emails = [order.email.text(), order.contact_email.text()];
    draft.say_first(Parameter::Email, emails);
    draft.say(Parameter::Ip, order.browser_ip.text());
    let client = order.client_details.get();
    let agent = client.and_then(|client| client.user_agent.text());
    draft.say(Parameter::UserAgent, agent);
    draft.order()
}

fn read_refund(topic: &str, refund: &Refund) -> Said {
    let id = refund.id.text().unwrap_or_default();
    let at = refund.created_at.text().and_then(moment);
    let mut draft = Draft::new(topic, &id, at);
    let mut currency = None;
    let mut sum = Decimal::ZERO;
    for transaction in refund.transactions.each() {
        let done = (transaction.kind.text(), transaction.status.text());
        if done != (Some("refund"), Some("success")) {
            continue;
        }
        let shop = transaction.amount_set.get();
        let shop = shop.and_then(|set| set.shop_money.get());
        let (amount, of) = match shop {
            Some(money) => (&money.amount, &money.currency_code),
            None => (&transaction.amount, &transaction.currency),
        };
        currency = currency.or(of.text());
        let amount = amount.text().and_then(decimal);
        sum = sum.saturating_add(amount.unwrap_or_default());
    }
    if sum.is_zero() {
        return draft.nothing(Nothing::NoMoney); // goods were put back on the shelf
    }
    draft.name(KIND, refund.order_id.text().as_deref());
    draft.say(Parameter::ReportId, Some(id));
    draft.say(Parameter::Status, Some("refunded"));
    draft.say(Parameter::Amount, Some(sum.to_string()));
    draft.say(Parameter::Currency, currency);
    draft.order()
}

fn is_renewal(order: &Order) -> bool {
    let source = order.source_name.text().unwrap_or_default();
    let mut tags = order.tags.text().unwrap_or_default().split(',');
    source.starts_with(RENEWAL_SOURCE)
        || tags.any(|tag| RENEWAL_TAGS.contains(&tag.trim().to_lowercase().as_str()))
}

/// The click id in the address of a page, relative or not.
fn click_of_address(address: &str) -> Option<String> {
    let (_, query) = address.split_once('?')?;
    let query = query.split('#').next()?;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find_map(|(name, value)| (name == "click_id").then(|| value.into_owned()))
}

/// The lines of an order as a report has them; none where one can't be told: lines that are missing would be
/// taken for postage.
fn items(order: &Order) -> Option<String> {
    let lines: Vec<&Line> = order.line_items.each().collect();
    if lines.is_empty() || lines.len() > MAX_ITEMS {
        return None;
    }
    let bought = lines.iter().filter(|line| line.quantity.get() != Some(&0));
    let items: Option<Vec<serde_json::Value>> = bought.map(|line| item(line)).collect();
    let items = items.filter(|items| !items.is_empty())?;
    Some(serde_json::Value::Array(items).to_string()).filter(|text| text.len() <= MAX_ITEMS_BYTES)
}

fn item(line: &Line) -> Option<serde_json::Value> {
    let product = line.sku.text().map(str::to_owned);
    let product = product.or_else(|| line.product_id.text());
    let product = product.or_else(|| line.title.text().map(str::to_owned))?;
    let quantity = line.quantity.get().copied().unwrap_or(1);
    let pieces = line.price.text().and_then(decimal)?;
    let off = line.discount_allocations.each();
    let off = off.filter_map(|off| off.amount.text().and_then(decimal));
    let amount = pieces
        .checked_mul(quantity.into())?
        .checked_sub(off.fold(Decimal::ZERO, Decimal::saturating_add))?
        .max(Decimal::ZERO);
    let category = line.product_type.text().unwrap_or_default();
    Some(json!({
        "product": cut(&product, MAX_PRODUCT_CHARS),
        "category": cut(category, MAX_CATEGORY_CHARS),
        "quantity": quantity.min(MAX_QUANTITY),
        "amount": amount.to_string(),
    }))
}

/// The beginning of a text, without control characters.
fn cut(text: &str, max_chars: usize) -> String {
    let chars = text.chars().filter(|c| !c.is_control());
    chars.take(max_chars).collect()
}

fn decimal(text: &str) -> Option<Decimal> {
    text.parse().ok()
}

fn moment(text: &str) -> Option<DateTime<Utc>> {
    let moment = DateTime::parse_from_rfc3339(text).ok()?;
    Some(moment.to_utc())
}
