//! What events of the documented shapes come to. The bodies are our own, cut to the fields that say something and a few
//! that don't.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::click_token::ClickToken;
use crate::customers::customer_hash;
use crate::events::{Conversion, OrderStatus, Source};
use crate::ids::{LinkId, TenantId, conversion_id};
use crate::secrets::KeyRing;

const CREATED: i64 = 1_763_000_000;

/// Always the same click.
fn click() -> String {
    static CLICK: LazyLock<String> = LazyLock::new(|| {
        let keys: KeyRing = format!("1:{}", "ab".repeat(32)).parse().unwrap();
        let at = DateTime::from_timestamp(CREATED - 60, 0).unwrap();
        ClickToken::mint(&keys, LinkId(3), at).to_string()
    });
    CLICK.clone()
}

/// A minute after it happened.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(CREATED + 60, 0).unwrap()
}

fn conversions(said: Said) -> Vec<Conversion> {
    let Said::Orders(reports) = said else {
        panic!("it says something of an order: {said:?}");
    };
    let check = |report: &Report<'_>| {
        let checked = report.check_with(|_| Ok(()), TenantId(7), Source::Webhook, now());
        checked.unwrap()
    };
    reports.iter().map(check).collect()
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"id": "evt_1", "object": "event", "type": kind, "created": CREATED, "livemode": true,
        "api_version": "2025-08-27.basil", "data": {"object": object, "previous_attributes": {}}})
}

fn stripe(event: &Value) -> Said {
    read(Kind::Stripe, None, event.to_string().as_bytes()).unwrap()
}

/// What a single event of Stripe's reports.
fn one(kind: &str, object: &Value) -> Conversion {
    conversions(stripe(&event(kind, object))).remove(0)
}

fn nothing(said: Said) -> Nothing {
    match said {
        Said::Nothing(_, why) => why,
        Said::Orders(reports) => panic!("it says nothing of an order: {reports:?}"),
    }
}

fn of_stripe(kind: &str, object: &Value) -> Nothing {
    nothing(stripe(&event(kind, object)))
}

fn shopify(topic: &str, body: &Value) -> Said {
    read(Kind::Shopify, Some(topic), body.to_string().as_bytes()).unwrap()
}

fn session() -> Value {
    json!({"id": "cs_1", "object": "checkout.session", "mode": "payment", "payment_status": "paid",
        "amount_total": 4990, "currency": "usd", "client_reference_id": null, "customer": "cus_1",
        "customer_details": {"email": "ana@Shop.example", "name": "Ana", "tax_ids": []},
        "metadata": {"click_id": click(), "cart": "17"}, "payment_intent": "pi_1", "subscription": null, "invoice": null,
        "discounts": [{"coupon": null, "promotion_code": "promo_1"}, {"coupon": "SUMMER10", "promotion_code": null}]})
}

fn invoice() -> Value {
    json!({"id": "in_2", "object": "invoice", "billing_reason": "subscription_cycle", "amount_paid": 2000, "currency": "eur",
        "customer": "cus_1", "customer_email": "ana@shop.example", "metadata": {}, "discounts": ["di_1"],
        "parent": {"type": "subscription_details", "subscription_details": {
            "subscription": "sub_1", "metadata": {"click_id": click(), "order_id": "A-1"}}},
        "payments": {"data": [{"payment": {"type": "payment_intent", "payment_intent": "pi_2"}}]}})
}

fn order() -> Value {
    json!({"id": 450_789_469_u64, "test": false, "currency": "USD", "total_price": "398.00", "name": "#1001",
        "created_at": "2025-11-13T02:13:19-00:00", "updated_at": "2025-11-13T02:13:20Z", "cancelled_at": null,
        "source_name": "web", "tags": "vip, imported", "landing_site": "/products/a?x=1&click_id=nobodys#top",
        "note_attributes": [{"name": "click_id", "value": click()}, {"name": "gift", "value": 1}, "odd"],
        "discount_codes": [{"code": "TEN", "amount": "10.00", "type": "fixed_amount"}],
        "customer": {"id": 207_119_551, "orders_count": 1, "email": "ana@shop.example"}, "email": "ana@shop.example",
        "browser_ip": "203.0.113.9", "client_details": {"user_agent": "Firefox"},
        "line_items": [
            {"sku": "IPOD", "product_id": 632_910_392, "quantity": 2, "price": "199.00", "title": "IPod",
                "discount_allocations": [{"amount": "5.00"}, {"amount": "5.00"}]},
            {"sku": "", "product_id": 7, "product_type": "bags", "quantity": 1, "price": "10.00"}]})
}

#[test]
fn a_checkout_is_a_sale_that_waits_for_its_hold() {
    let sale = one("checkout.session.completed", &session());
    let expected = Conversion {
        conversion_id: conversion_id(TenantId(7), "pi_1", "sale").to_string(),
        accepted_at_us: CREATED * 1_000_000,
        tenant_id: 7,
        order_id: "pi_1".into(),
        event: "sale".into(),
        amount: "49.90".into(),
        currency: "USD".into(),
        click_id: click(),
        source: Source::Webhook.into(),
        customer_id: customer_hash(TenantId(7), "cus_1").to_vec(),
        status: OrderStatus::Pending.into(),
        coupon: "SUMMER10".into(),
        email_domain: "shop.example".into(),
        names: vec!["stripe:pi_1".into()],
        ..Conversion::default()
    };
    assert_eq!(sale, expected);
    let failed = one("checkout.session.async_payment_failed", &session());
    assert_eq!(failed.status(), OrderStatus::Rejected);
    assert_eq!(failed.conversion_id, sale.conversion_id);
}

#[test]
fn what_a_merchant_notes_comes_first() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut session = session();
        change(&mut session);
        one("checkout.session.completed", &session)
    };
    let noted = with(&|s| s["metadata"] = json!({"order_id": "A-1", "coupon": "ANA10"}));
    assert_eq!((&*noted.order_id, &*noted.coupon), ("A-1", "ANA10"));
    assert_eq!(noted.names, ["stripe:pi_1"]);
    assert_eq!(noted.click_id, "");
    let referred = with(&|s| {
        s["metadata"] = json!({});
        s["client_reference_id"] = json!(click());
    });
    assert_eq!(referred.click_id, click());
    // What can't be used is left out; the order counts.
    let odd = with(&|s| {
        s["metadata"] = json!({"order_id": "x".repeat(200), "coupon": "y".repeat(65), "click_id": "{click_id}"});
        s["client_reference_id"] = json!("user-42");
        s["customer_details"] = json!("none");
        s["customer"] = json!({"id": "cus_2", "object": "customer"});
        s["discounts"] = json!([{"promotion_code": {"code": "TEN"}, "coupon": {"id": "c"}}]);
    });
    assert_eq!((&*odd.order_id, &*odd.click_id), ("pi_1", ""));
    assert_eq!((&*odd.coupon, &*odd.email_domain), ("TEN", ""));
    assert_eq!(odd.customer_id, customer_hash(TenantId(7), "cus_2"));
    let free = with(&|s| {
        s["payment_intent"] = Value::Null;
        s["amount_total"] = json!(0);
    });
    assert_eq!((&*free.order_id, &*free.amount), ("cs_1", "0.00"));
    let setup = json!({"id": "cs_2", "mode": "setup"});
    let setup = of_stripe("checkout.session.completed", &setup);
    assert_eq!(setup, Nothing::NoMoney);
}

#[test]
fn a_subscription_begins_once_and_is_renewed_by_each_later_invoice() {
    let mut checkout = session();
    checkout["mode"] = json!("subscription");
    checkout["payment_intent"] = Value::Null;
    checkout["subscription"] = json!("sub_1");
    checkout["invoice"] = json!("in_1");
    let checkout = one("checkout.session.completed", &checkout);
    let mut first = invoice();
    first["id"] = json!("in_1");
    first["billing_reason"] = json!("subscription_create");
    first["parent"]["subscription_details"]["metadata"] = json!({"click_id": click()});
    let begun = one("invoice.paid", &first);
    assert_eq!(begun.conversion_id, checkout.conversion_id);
    assert_eq!((&*begun.event, &*begun.order_id), ("sale", "in_1"));
    assert_eq!(begun.names, ["stripe:in_1", "stripe:pi_2", "stripe:sub_1"]);
    assert_eq!(checkout.names, ["stripe:in_1", "stripe:sub_1"]);

    let renewed = one("invoice.paid", &invoice());
    assert_eq!((&*renewed.event, &*renewed.order_id), ("renewal", "in_2"));
    assert_eq!((&*renewed.amount, &*renewed.currency), ("20.00", "EUR"));
    assert_eq!(renewed.click_id, click());
    assert_eq!(renewed.names, ["stripe:in_2", "stripe:pi_2"]);
    assert_eq!(renewed.renews, "stripe:sub_1");

    // As API versions before 2025-03-31 tell it.
    let mut older = invoice();
    let details = older["parent"]["subscription_details"].take();
    older["subscription_details"] = json!({"metadata": details["metadata"]});
    older["subscription"] = json!("sub_1");
    older["parent"] = Value::Null;
    older["payments"] = Value::Null;
    older["payment_intent"] = json!("pi_2");
    assert_eq!(one("invoice.paid", &older), renewed);

    let mut free = invoice();
    free["amount_paid"] = json!(0);
    assert_eq!(of_stripe("invoice.paid", &free), Nothing::NoMoney);
    let alone = json!({"id": "in_9", "billing_reason": "manual", "amount_paid": 100, "currency": "usd", "metadata": {}});
    assert_eq!(of_stripe("invoice.paid", &alone), Nothing::NoSubscription);
    let mut noted = alone;
    noted["metadata"] = json!({"order_id": "B-1"});
    assert_eq!(one("invoice.paid", &noted).order_id, "B-1");
}

#[test]
fn a_payment_is_tied_to_its_invoice() {
    let paid = json!({"id": "inpay_1", "invoice": "in_2", "payment": {"type": "payment_intent", "payment_intent": "pi_2"}});
    let tied = one("invoice_payment.paid", &paid);
    assert_eq!(tied.names, ["stripe:in_2", "stripe:pi_2"]);
    assert_eq!(
        (&*tied.order_id, &*tied.event, &*tied.conversion_id),
        ("", "", "")
    );
    assert_eq!((tied.status(), &*tied.amount), (OrderStatus::Unsaid, ""));
    let alone = json!({"invoice": "in_2", "payment": {"type": "out_of_band"}});
    assert_eq!(of_stripe("invoice_payment.paid", &alone), Nothing::Type);
}

#[test]
fn refunds_go_by_their_own_ids_and_disputes_as_well() {
    let refund = |kind: &str, status: &str, id: &str| {
        let body = json!({"id": id, "amount": 1250, "currency": "usd", "status": status, "payment_intent": "pi_1", "charge": "ch_1"});
        let refund = one(kind, &body);
        assert_eq!(refund.status(), OrderStatus::Refunded);
        assert_eq!(refund.report_id, id);
        assert_eq!(refund.names, ["stripe:pi_1", "stripe:ch_1"]);
        assert_eq!(refund.order_id, "");
        refund.amount
    };
    assert_eq!(refund("refund.created", "pending", "re_1"), "12.50");
    assert_eq!(refund("refund.updated", "succeeded", "re_1"), "12.50");
    assert_eq!(refund("refund.failed", "failed", "re_1"), "0.00");
    assert_eq!(refund("refund.updated", "canceled", "re_1"), "0.00");
    let dispute = "charge.dispute.created";
    assert_eq!(refund(dispute, "needs_response", "dp_1"), "12.50");
    let closed = "charge.dispute.closed";
    assert_eq!(refund(closed, "lost", "dp_1"), "12.50");
    assert_eq!(refund(closed, "won", "dp_1"), "0.00");
    assert_eq!(refund(closed, "warning_closed", "dp_1"), "0.00");
    let inquiry = json!({"id": "dp_2", "amount": 1250, "status": "warning_needs_response"});
    assert_eq!(of_stripe(dispute, &inquiry), Nothing::NoMoney);
}

/// Each refund once, whichever events an endpoint of that API version gets.
#[test]
fn older_versions_tell_of_refunds_by_the_charge() {
    let charge = json!({"id": "ch_1", "amount": 5000, "amount_refunded": 1500, "currency": "usd", "payment_intent": "pi_1",
        "invoice": "in_2", "refunds": {"object": "list", "data": [
            {"id": "re_2", "amount": 500, "currency": "usd", "status": "succeeded", "payment_intent": "pi_1"},
            {"id": "re_1", "amount": 1000, "currency": "usd", "status": "succeeded", "payment_intent": "pi_1"}]}});
    let refunded = |version: &str| {
        let mut event = event("charge.refunded", &charge);
        event["api_version"] = json!(version);
        stripe(&event)
    };
    let amounts = |said: Said| -> Vec<(String, String)> {
        let refunds = conversions(said).into_iter();
        refunds
            .map(|refund| (refund.report_id, refund.amount))
            .collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        pairs.iter().map(pair).collect()
    };
    let listed = pairs(&[("re_2", "5.00"), ("re_1", "10.00")]);
    assert_eq!(amounts(refunded("2022-08-01")), listed);
    assert_eq!(amounts(refunded("2023-10-16")), pairs(&[("ch_1", "15.00")]));
    let names = &conversions(refunded("2023-10-16"))[0].names;
    assert_eq!(names, &["stripe:pi_1", "stripe:ch_1", "stripe:in_2"]);
    assert_eq!(
        nothing(refunded("2024-10-28.acacia")),
        Nothing::ToldElsewhere
    );
    let update = json!({"id": "re_1", "amount": 1000, "currency": "usd", "status": "succeeded", "charge": "ch_1"});
    let mut update = event("charge.refund.updated", &update);
    update["api_version"] = json!("2023-10-16");
    assert_eq!(nothing(stripe(&update)), Nothing::ToldElsewhere);
    update["api_version"] = json!("2022-08-01");
    assert_eq!(amounts(stripe(&update)), pairs(&[("re_1", "10.00")]));
}

#[test]
fn amounts_are_in_the_smallest_units_as_stripe_counts_them() {
    for (currency, minor, amount) in [
        ("usd", 1_i64, "0.01"),
        ("jpy", 4990, "4990"),
        ("kwd", 49_990, "49.990"),
        ("isk", 4900, "49"),
        ("ugx", 500, "5"),
        ("mga", 500, "500.00"),
        ("eur", 999_999_999_999, "9999999999.99"),
    ] {
        let mut session = session();
        session["currency"] = json!(currency);
        session["amount_total"] = json!(minor);
        let sale = one("checkout.session.completed", &session);
        assert_eq!(sale.amount, amount, "{currency}");
    }
    for (field, value, code) in [
        ("amount_total", json!(-1), "amount_invalid"),
        ("amount_total", json!(i64::MAX), "amount_invalid"),
        ("amount_total", json!(1.5), "parameter_missing"),
        ("amount_total", Value::Null, "parameter_missing"),
        ("currency", json!("wat"), "currency_unknown"),
    ] {
        let mut session = session();
        session[field] = value;
        let Said::Orders(reports) = stripe(&event("checkout.session.completed", &session)) else {
            panic!("it is an order");
        };
        let refused = reports[0].check_with(|_| Ok(()), TenantId(7), Source::Webhook, now());
        assert_eq!(refused.unwrap_err().code(), code, "{field}");
    }
}

#[test]
fn what_says_nothing_of_an_order_is_told_apart_from_what_is_no_event() {
    assert_eq!(of_stripe("customer.created", &json!({})), Nothing::Type);
    assert_eq!(
        nothing(shopify("products/update", &json!({}))),
        Nothing::Type
    );
    assert_eq!(nothing(shopify("", &json!({}))), Nothing::Type);
    for body in [
        "",
        "[]",
        "{}",
        "{\"id\":\"evt_1\",\"type\":\"invoice.paid\",\"data\":{\"object\":7}}",
    ] {
        let refused = read(Kind::Stripe, None, body.as_bytes()).unwrap_err();
        assert_eq!(refused.code(), "body_invalid", "{body}");
    }
    let refused = read(Kind::Shopify, Some("orders/create"), b"nonsense").unwrap_err();
    assert!(refused.to_string().contains("no webhook of shopify"));
}

#[test]
fn an_event_that_comes_again_is_the_same_report_unless_it_is_very_late() {
    let said = stripe(&event("checkout.session.completed", &session()));
    let Said::Orders(reports) = said else {
        panic!("it is an order");
    };
    let at = |seconds: i64| {
        let now = DateTime::from_timestamp(CREATED + seconds, 0).unwrap();
        let checked = reports[0].check_with(|_| Ok(()), TenantId(7), Source::Webhook, now);
        checked.unwrap().accepted_at_us
    };
    assert_eq!(at(1), CREATED * 1_000_000);
    assert_eq!(at(3 * 86_400), at(1));
    assert_eq!(
        at(-1),
        (CREATED - 1) * 1_000_000,
        "nothing is from the future"
    );
    assert_eq!(at(30 * 86_400), (CREATED + 30 * 86_400) * 1_000_000);
}

#[test]
fn an_order_of_a_shop_is_a_sale_with_its_lines() {
    let sale = conversions(shopify("orders/create", &order())).remove(0);
    assert_eq!((&*sale.order_id, &*sale.event), ("450789469", "sale"));
    assert_eq!((&*sale.amount, &*sale.currency), ("398.00", "USD"));
    assert_eq!(sale.status(), OrderStatus::Pending);
    assert_eq!((sale.click_id.clone(), &*sale.coupon), (click(), "TEN"));
    assert_eq!(sale.new_customer, Some(true));
    assert_eq!(sale.customer_id, customer_hash(TenantId(7), "207119551"));
    assert_eq!(sale.address, [203, 0, 113, 9]);
    assert_eq!(sale.names, ["shopify:450789469"]);
    let items: Vec<_> = sale
        .items
        .iter()
        .map(|i| (&*i.product, &*i.category, i.quantity, &*i.amount))
        .collect();
    assert_eq!(
        items,
        [("IPOD", "", 2, "388.00"), ("7", "bags", 1, "10.00")]
    );
    assert_eq!(sale.accepted_at_us, 1_763_000_000 * 1_000_000);

    let mut cancelled = order();
    cancelled["cancelled_at"] = json!("2025-11-13T02:14:00Z");
    let rejected = conversions(shopify("orders/cancelled", &cancelled)).remove(0);
    assert_eq!(rejected.status(), OrderStatus::Rejected);
    assert_eq!(rejected.conversion_id, sale.conversion_id);
    assert!(rejected.accepted_at_us > sale.accepted_at_us);
    let forged_topic = conversions(shopify("orders/paid", &cancelled)).remove(0);
    assert_eq!(forged_topic, rejected);
    let not_cancelled = conversions(shopify("orders/cancelled", &order())).remove(0);
    assert_eq!(not_cancelled, sale);
}

#[test]
fn a_shops_renewals_clicks_and_test_orders_are_recognised() {
    let with = |field: &str, value: Value| {
        let mut order = order();
        order[field] = value;
        shopify("orders/create", &order)
    };
    let event = |field: &str, value: Value| conversions(with(field, value)).remove(0).event;
    assert_eq!(
        event("source_name", json!("subscription_contract_checkout_one")),
        "renewal"
    );
    assert_eq!(
        event("tags", json!("a, Subscription Recurring Order")),
        "renewal"
    );
    assert_eq!(event("tags", json!("renewals")), "sale");
    assert_eq!(nothing(with("test", json!(true))), Nothing::TestOrder);
    let mut landed = order();
    landed["note_attributes"] = json!([]);
    landed["landing_site"] = json!(format!("/?utm_source=x&click_id={}", click()));
    let landed = conversions(shopify("orders/create", &landed)).remove(0);
    assert_eq!(landed.click_id, click());
    let too_many = json!(vec![order()["line_items"][0].clone(); 101]);
    assert!(
        conversions(with("line_items", too_many))[0]
            .items
            .is_empty()
    );
    let guest = conversions(with("customer", Value::Null)).remove(0);
    assert_eq!((guest.customer_id.len(), guest.new_customer), (0, None));
}

#[test]
fn a_shops_refund_is_the_money_that_went_back() {
    let refund = |transactions: Value| {
        let body = json!({"id": 509_562_969, "order_id": 450_789_469, "created_at": "2025-11-13T02:15:00Z",
            "note": "wrong size", "refund_line_items": [], "transactions": transactions});
        shopify("refunds/create", &body)
    };
    let paid = |kind: &str, status: &str, amount: &str| json!({"kind": kind, "status": status, "amount": amount, "currency": "USD"});
    let said = refund(json!([
        paid("refund", "success", "10.00"),
        paid("refund", "success", "2.50"),
        paid("refund", "failure", "1.00"),
        paid("sale", "success", "3.00"),
    ]));
    let back = conversions(said).remove(0);
    assert_eq!(
        (&*back.report_id, &*back.amount, &*back.currency),
        ("509562969", "12.50", "USD")
    );
    assert_eq!(back.status(), OrderStatus::Refunded);
    assert_eq!(
        (back.names, back.order_id),
        (vec!["shopify:450789469".to_owned()], String::new())
    );
    let mut abroad = paid("refund", "success", "9.00");
    abroad["currency"] = json!("EUR");
    abroad["amount_set"] = json!({"shop_money": {"amount": "10.10", "currency_code": "USD"}});
    let abroad = conversions(refund(json!([abroad]))).remove(0);
    assert_eq!((&*abroad.amount, &*abroad.currency), ("10.10", "USD"));
    assert_eq!(nothing(refund(json!([]))), Nothing::NoMoney);
}

#[test]
fn the_log_shows_no_customer() {
    let Said::Orders(reports) = stripe(&event("checkout.session.completed", &session())) else {
        panic!("it is an order");
    };
    let received = reports[0].received();
    assert!(
        received.starts_with("webhook=checkout.session.completed&id=evt_1&order_id=pi_1"),
        "{received}"
    );
    assert!(
        !received.contains("ana") && !received.contains("cus_1"),
        "{received}"
    );
}

proptest! {
    #[test]
    fn no_body_is_too_odd(body in "[\\[\\]{}\",:a-z0-9.\\\\ \u{e9}-]{0,200}", topic in "(orders/create|refunds/create|x)") {
        let _ = read(Kind::Stripe, None, body.as_bytes());
        let _ = read(Kind::Shopify, Some(&topic), body.as_bytes());
        let object = format!(r#"{{"id":"e","type":"invoice.paid","data":{{"object":{body}}}}}"#);
        let _ = read(Kind::Stripe, None, object.as_bytes());
    }
}
