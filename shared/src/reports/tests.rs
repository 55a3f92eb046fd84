//! What is taken, what is refused, and what a conversion then says.

use proptest::prelude::*;

use super::*;
use crate::click_token::ClickToken;
use crate::ids::LinkId;

const ORDER: &str = "order_id=A-1&amount=1&currency=USD";

fn keys(byte: &str) -> KeyRing {
    format!("1:{}", byte.repeat(32)).parse().unwrap()
}

fn at() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap()
}

fn check_from(source: Source, query: &str) -> Result<Conversion, &'static str> {
    let (report, _) = Report::from_form(query, b"", "key");
    let conversion = report.check(&keys("ab"), TenantId(7), source, at());
    conversion.map_err(|refusal| refusal.code())
}

fn check(query: &str) -> Result<Conversion, &'static str> {
    check_from(Source::Pixel, query)
}

/// Of an order, with more parameters.
fn with(more: &str) -> Result<Conversion, &'static str> {
    check(&format!("{ORDER}&{more}"))
}

fn of_json(body: &str) -> Result<Conversion, &'static str> {
    let (report, _) = Report::from_json(body.as_bytes(), "key").map_err(|r| r.code())?;
    let conversion = report.check(&keys("ab"), TenantId(7), Source::Event, at());
    conversion.map_err(|refusal| refusal.code())
}

#[test]
fn parameters_come_from_query_and_body_once() {
    let (report, token) = Report::from_form(
        "token=t&order_id=A%2F1",
        b"amount=1.50&currency=USD&x=1",
        "token",
    );
    assert_eq!(report.get(Parameter::OrderId), Some("A/1"));
    assert_eq!(report.get(Parameter::Amount), Some("1.50"));
    assert_eq!(token.as_deref(), Some("t"));
    assert_eq!(report.get(Parameter::ClickId), None);
    assert_eq!(
        report.received(),
        "order_id=A%2F1&amount=1.50&currency=USD&x=1"
    );

    let problem = |query| Report::from_form(query, b"token=t", "token").0.problem;
    assert_eq!(problem("token=u"), Some(Refusal::Repeated("token")));
    assert_eq!(problem("token="), None);
    let twice = problem("event=a&event=a");
    assert_eq!(twice, Some(Refusal::Repeated("event")));
    let (_, none) = Report::from_form("token=t", b"", "key");
    assert!(none.is_none(), "another door's credential is no credential");
}

#[test]
fn a_parameter_may_go_by_several_names_that_say_the_same() {
    let order = check("tid=A-1&payout=1&revenue=1&currency=USD").unwrap();
    assert_eq!(order, check(ORDER).unwrap());
    for name in Parameter::OrderId.names() {
        let order = check(&format!("{name}=A-1&amount=1&currency=USD"));
        assert_eq!(order.unwrap().order_id, "A-1", "{name}");
    }
    for more in [
        "payout=2",
        "amount=1",
        "txid=A-2",
        "revenue=1&revenue=1",
        "promo_code=A&coupon=B",
    ] {
        assert_eq!(with(more), Err("parameter_repeated"), "{more}");
    }
    let (report, _) = Report::from_form("amount=1&payout=2", b"", "key");
    let why = report.problem().unwrap().to_string();
    assert!(why.starts_with("amount and payout are names of the same"));
    assert!(with("Amount=2&sub_id=x").is_ok(), "unknown is ignored");
}

#[test]
fn a_conversion_says_what_was_reported_and_by_whom() {
    let click_id = ClickToken::mint(&keys("ab"), LinkId(3), at());
    let query = format!("order_id=A-1&amount=49.9&currency=USD&subid={click_id}");
    let expected = Conversion {
        conversion_id: conversion_id(TenantId(7), "A-1", "sale").to_string(),
        accepted_at_us: 1_700_000_000_000_001,
        tenant_id: 7,
        order_id: "A-1".to_owned(),
        event: "sale".to_owned(),
        amount: "49.90".to_owned(),
        currency: "USD".to_owned(),
        click_id: click_id.to_string(),
        source: Source::Pixel.into(),
        ..Conversion::default()
    };
    assert_eq!(check(&query), Ok(expected));
}

#[test]
fn a_status_that_settles_an_order_needs_no_amount() {
    let alone = |status: &str| check(&format!("order_id=A-1&status={status}"));
    for (status, meant) in [
        ("approved", OrderStatus::Approved),
        ("Confirmed", OrderStatus::Approved),
        ("declined", OrderStatus::Rejected),
        ("CHARGEBACK", OrderStatus::Refunded),
    ] {
        let settled = alone(status).unwrap();
        assert_eq!(settled.status(), meant, "{status}");
        assert_eq!((&*settled.amount, &*settled.currency), ("", ""));
        let whole = with(&format!("status={status}")).unwrap();
        assert_eq!((&*whole.amount, &*whole.currency), ("1.00", "USD"));
        assert_eq!(whole.conversion_id, settled.conversion_id);
    }
    for status in ["lead", "pending", "hold", ""] {
        assert_eq!(alone(status), Err("parameter_missing"), "{status}");
    }
    assert_eq!(with("status=hold").unwrap().status(), OrderStatus::Pending);
    assert_eq!(with("status=").unwrap().status(), OrderStatus::Unsaid);
    assert_eq!(alone("paid"), Err("status_invalid"));
    let order = "order_id=A-1&status=refunded";
    let more = |more: &str| check(&format!("{order}&{more}"));
    assert_eq!(more("amount=5"), Err("parameter_missing"));
    assert_eq!(more("currency=WAT"), Err("currency_unknown"));
    assert_eq!(more("currency=USD").unwrap().currency, "");
    assert_eq!(more("items=[]&currency=USD"), Err("parameter_missing"));
}

#[test]
fn refunds_coupons_and_items_are_taken() {
    let refund = with("status=refund&refund_id=R-7&event=sale").unwrap();
    assert_eq!(refund.report_id, "R-7");
    assert_eq!(with("report_id=a%0A"), Err("report_id_invalid"));
    let long = format!("refund_id={}", "x".repeat(129));
    assert_eq!(with(&long), Err("report_id_invalid"));

    let coupon = |code: &str| with(&format!("promo_code={code}")).map(|c| c.coupon);
    assert_eq!(coupon("+Summer+10+"), Ok("Summer 10".to_owned()));
    assert_eq!(coupon("+"), Ok(String::new()));
    assert_eq!(
        coupon(&"%C3%BC".repeat(64)).map(|c| c.chars().count()),
        Ok(64)
    );
    assert_eq!(coupon(&"x".repeat(65)), Err("coupon_invalid"));
    assert_eq!(coupon("a%00b"), Err("coupon_invalid"));

    let items = with(r#"items=[{"product":"a","amount":"1","quantity":"3"}]"#).unwrap();
    assert_eq!(items.items[0].quantity, 3);
    assert_eq!(items.items[0].amount, "1.00");
    assert_eq!(with("items=a"), Err("items_invalid"));
}

#[test]
fn a_customer_is_told_by_his_hash_and_domain_alone() {
    let ana = with("customer_id=ana%40Shop.example&new_customer=0").unwrap();
    let hash = customer_hash(TenantId(7), "ana@Shop.example");
    assert_eq!(ana.customer_id, hash);
    assert_eq!(ana.email_domain, "shop.example");
    assert_eq!(ana.new_customer, Some(false));
    let named = with("customer_id=ana%40shop.example&email=a%40b.example").unwrap();
    assert_eq!(named.email_domain, "b.example");
    assert_eq!(with("customer_id=C-7").unwrap().email_domain, "");
    let nobody = with("customer_id=&new_customer=").unwrap();
    assert_eq!((nobody.customer_id.len(), nobody.new_customer), (0, None));
    let alone = with("new_customer=true").unwrap();
    assert_eq!(
        (alone.customer_id.len(), alone.new_customer),
        (0, Some(true))
    );
    for (more, code) in [
        ("customer_id=a%0A", "customer_id_invalid"),
        ("customer_id=a&customer_id=b", "parameter_repeated"),
        ("new_customer=yes", "new_customer_invalid"),
        ("email=ana", "email_invalid"),
    ] {
        assert_eq!(with(more), Err(code), "{more}");
    }
    let long = format!("customer_id={}", "x".repeat(129));
    assert_eq!(with(&long), Err("customer_id_invalid"));
}

#[test]
fn a_shopper_is_believed_of_a_merchants_server_only() {
    let more = format!("{ORDER}&ip=203.0.113.9&user_agent={}", "x".repeat(600));
    let told = check_from(Source::Postback, &more).unwrap();
    assert_eq!(told.address, [203, 0, 113, 9]);
    assert_eq!(told.user_agent.len(), MAX_USER_AGENT_BYTES);
    let mapped = format!("{ORDER}&ip=::ffff:203.0.113.9");
    let mapped = check_from(Source::Postback, &mapped).unwrap();
    assert_eq!(mapped.address, told.address);
    let v6 = check_from(Source::Postback, &format!("{ORDER}&ip=2001:db8::1"));
    assert_eq!(v6.unwrap().address.len(), 16);
    let bad = check_from(Source::Postback, &format!("{ORDER}&ip=shop.example"));
    assert_eq!(bad, Err("ip_invalid"));
    for source in [Source::Pixel, Source::Event] {
        let ignored = check_from(source, &more).unwrap();
        assert_eq!((ignored.address.len(), ignored.user_agent.len()), (0, 0));
    }
}

#[test]
fn a_bad_click_id_is_told_apart_from_a_foreign_one_and_from_none() {
    let foreign = ClickToken::mint(&keys("cd"), LinkId(3), at());
    let of = |click_id: &str| with(&format!("transaction_id={click_id}"));
    assert_eq!(of(foreign.as_str()), Err("click_id_foreign"));
    assert_eq!(of("%7Bclick_id%7D"), Err("click_id_malformed"));
    assert_eq!(of("").unwrap().click_id, "");
}

#[test]
fn numbers_in_json_are_taken_as_they_are_written() {
    let amount = |json: &str| {
        let body = format!("{{\"amount\":{json}}}");
        let (report, _) = Report::from_json(body.as_bytes(), "key").ok()?;
        report.get(Parameter::Amount).map(str::to_owned)
    };
    for (json, text) in [
        ("49.90", "49.90"),
        ("\"49.90\"", "49.90"),
        ("9999999999999.123", "9999999999999.123"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("-1", "-1"),
        ("1e2", "1e2"),
        (" \"\\u0031\" ", "1"),
    ] {
        assert_eq!(amount(json).as_deref(), Some(text), "{json}");
    }
    for json in ["null", "\"\"", "true", "[1]", "{}", "01", "NaN"] {
        assert_eq!(amount(json), None, "{json}");
    }
}

#[test]
fn what_is_no_report_in_json_says_why() {
    let why = |body: &str| match Report::from_json(body.as_bytes(), "key") {
        Ok((report, _)) => report.problem.unwrap().to_string(),
        Err(refusal) => refusal.to_string(),
    };
    assert!(why("").contains("EOF"));
    assert!(why("[]").contains("JSON object"));
    assert!(why("{\"amount\":1,\"amount\":2}").contains("duplicate field `amount`"));
    assert!(why("{\"order_id\":true}").contains("order_id is neither"));
    assert!(why("{\"key\":[]}").contains("key is neither"));
    assert!(why("{\"amount\":1,\"payout\":2}").contains("amount and payout"));
}

#[test]
fn json_is_read_by_the_same_rules() {
    let body = r#"{"event":"le\u0061d","x":[{"y":1}],"tid":1001,"click_id":"","revenue":5.5,"currency":"USD",
        "n\u0065w_customer":true,"items":[{"product":1,"amount":5.5}],"customer_id":4711,"ip":"::1"}"#;
    let conversion = of_json(body).unwrap();
    assert_eq!(
        (&*conversion.event, &*conversion.order_id),
        ("lead", "1001")
    );
    assert_eq!((&*conversion.amount, conversion.items.len()), ("5.50", 1));
    assert_eq!(conversion.new_customer, Some(true));
    let (report, key) = Report::from_json(br#"{"key":"k","a":1,"email":"x"}"#, "key").unwrap();
    assert_eq!(key.as_deref(), Some("k"));
    assert_eq!(report.received(), "a=1&email=*");
    assert_eq!(of_json(r#"{"order_id":1}"#), Err("parameter_missing"));
    assert_eq!(of_json(r#"{"items":{}}"#), Err("body_invalid"));
}

#[test]
fn a_remembered_click_counts_where_none_was_named() {
    let (mut report, _) = Report::from_form("subid=named", b"", "key");
    report.remember_click(Some("kept"));
    assert_eq!(report.get(Parameter::ClickId), Some("named"));
    let mut report = Report::default();
    report.remember_click(None);
    assert_eq!(report.get(Parameter::ClickId), None);
    report.remember_click(Some("kept"));
    assert_eq!(report.get(Parameter::ClickId), Some("kept"));
}

proptest! {
    #[test]
    fn no_query_is_too_odd(query in "[ -~\u{e9}%&=+]{0,120}") {
        let _ = check(&query);
        let _ = check(&format!("order_id={query}&amount={query}&currency=USD"));
        let _ = check_from(Source::Postback, &format!("{ORDER}&email={query}&ip={query}&coupon={query}&items={query}"));
    }

    #[test]
    fn no_body_is_too_odd(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Report::from_json(&body, "key").map(|(report, _)| report.received().len());
    }
}
