//! Merchants' side of the edge, over real sockets, Redis and Kafka.

use crate::support::{Edge, TENANT, TOKEN, click_id, forged_click_id, json};
use tributary_shared::customers::customer_hash;
use tributary_shared::events::{Conversion, OrderStatus, Source, Topic};
use tributary_shared::ids::conversion_id;

#[tokio::test]
async fn a_conversion_is_taken_by_get_and_post() {
    let edge = Edge::start().await;
    let click_id = click_id();
    let query = format!("order_id=A-1&amount=49.9&currency=USD&click_id={click_id}");
    let expected = conversion_id(TENANT, "A-1", "sale").to_string();

    let get = edge
        .get(&format!("/postback?token={TOKEN}&{query}&unknown=x"))
        .send()
        .await
        .unwrap();
    let (status, body) = json(get).await;
    assert_eq!((status, body["status"].as_str()), (200, Some("accepted")));
    assert_eq!(body["conversion_id"], expected.as_str());

    let form = "application/x-www-form-urlencoded; charset=utf-8";
    let post = edge
        .post("/postback")
        .bearer_auth(TOKEN)
        .header("Content-Type", form);
    let (status, body) = json(post.body(query).send().await.unwrap()).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["conversion_id"], expected.as_str());

    for event in edge.events::<Conversion>(Topic::Conversions, 2).await {
        assert_eq!(event.conversion_id, expected);
        assert_eq!(event.tenant_id, TENANT.to_wire());
        assert_eq!(
            (event.order_id.as_str(), event.event.as_str()),
            ("A-1", "sale")
        );
        assert_eq!(
            (event.amount.as_str(), event.currency.as_str()),
            ("49.90", "USD")
        );
        assert_eq!(event.click_id, click_id);
        assert_eq!(event.source(), Source::Postback);
    }
}

#[tokio::test]
async fn a_conversion_without_a_click_is_taken() {
    let edge = Edge::start().await;
    let path = format!(
        "/postback?token={TOKEN}&order_id=B&event=lead&amount=0&currency=JPY&click_id=&customer_id=&new_customer="
    );
    assert_eq!(edge.get(&path).send().await.unwrap().status(), 200);
    let event: Conversion = edge.events(Topic::Conversions, 1).await.remove(0);
    assert_eq!(
        (
            event.click_id.as_str(),
            event.amount.as_str(),
            event.event.as_str()
        ),
        ("", "0", "lead")
    );
    assert_eq!((event.customer_id.len(), event.new_customer), (0, None));
}

#[tokio::test]
async fn a_customer_is_taken_and_only_his_hash_is_sent_on() {
    let edge = Edge::start().await;
    let path = format!(
        "/postback?token={TOKEN}&order_id=C&amount=1&currency=USD&customer_id=ana%40shop.example&new_customer=1"
    );
    assert_eq!(edge.get(&path).send().await.unwrap().status(), 200);
    let event: Conversion = edge.events(Topic::Conversions, 1).await.remove(0);
    assert_eq!(event.customer_id, customer_hash(TENANT, "ana@shop.example"));
    assert_eq!(event.new_customer, Some(true));
    assert!(!format!("{event:?}").contains("ana"));
}

#[tokio::test]
async fn what_becomes_of_an_order_is_told_by_the_fields_own_names() {
    let edge = Edge::start().await;
    let click_id = click_id();
    let items = r#"[{"product":"SKU-1","category":"shoes","quantity":2,"amount":"39.80"}]"#;
    let send = async |query: &[(&str, &str)]| {
        let mut form = form_urlencoded::Serializer::new(String::new());
        let form = form.extend_pairs(query).finish();
        let post = edge.post("/postback").bearer_auth(TOKEN).body(form);
        let (status, body) = json(post.send().await.unwrap()).await;
        assert_eq!(status, 200, "{body}");
        body["conversion_id"].as_str().unwrap().to_owned()
    };
    let first = send(&[
        ("transaction_id", &click_id),
        ("txid", "A-1"),
        ("payout", "39.8"),
        ("currency", "USD"),
        ("status", "hold"),
        ("promo_code", " Summer "),
        ("items", items),
        ("email", "ana@Shop.Example"),
        ("ip", "203.0.113.9"),
        ("user_agent", "Firefox"),
    ])
    .await;
    let refund = [("tid", "A-1"), ("status", "chargeback"), ("refund_id", "R")];
    assert_eq!(send(&refund).await, first);

    let events: Vec<Conversion> = edge.events(Topic::Conversions, 2).await;
    let (order, refund) = (&events[0], &events[1]);
    assert_eq!((&*order.click_id, &*order.amount), (&*click_id, "39.80"));
    assert_eq!(order.status(), OrderStatus::Pending);
    assert_eq!((&*order.coupon, order.items.len()), ("Summer", 1));
    assert_eq!(order.items[0].quantity, 2);
    assert_eq!(order.email_domain, "shop.example");
    assert_eq!(order.address, [203, 0, 113, 9]);
    assert_eq!(order.user_agent, "Firefox");
    assert_eq!((order.visitor_id.len(), order.fingerprint.len()), (0, 0));
    assert_eq!(refund.status(), OrderStatus::Refunded);
    assert_eq!((&*refund.amount, &*refund.report_id), ("", "R"));
    assert!(!format!("{events:?}").contains("ana"));
}

#[tokio::test]
async fn a_bad_postback_says_why_and_leaves_nothing_behind() {
    let edge = Edge::start().await;
    let forged = forged_click_id();
    let token = format!("token={TOKEN}");
    let money = "amount=1&currency=USD";
    let cases = [
        (String::new(), 401, "token_missing"),
        (
            format!("token=wrong&order_id=A&{money}"),
            401,
            "token_unknown",
        ),
        (format!("{token}&{money}"), 400, "parameter_missing"),
        (
            format!("{token}&order_id=A&currency=USD"),
            400,
            "parameter_missing",
        ),
        (
            format!("{token}&order_id=A&amount=1"),
            400,
            "parameter_missing",
        ),
        (
            format!("{token}&order_id=A&amount=-1&currency=USD"),
            400,
            "amount_invalid",
        ),
        (
            format!("{token}&order_id=A&amount=ten&currency=USD"),
            400,
            "amount_invalid",
        ),
        (
            format!("{token}&order_id=A&amount=NaN&currency=USD"),
            400,
            "amount_invalid",
        ),
        (
            format!("{token}&order_id=A&amount=1.001&currency=USD"),
            400,
            "amount_invalid",
        ),
        (
            format!("{token}&order_id=A&amount=1&currency=WAT"),
            400,
            "currency_unknown",
        ),
        (
            format!("{token}&order_id=A&{money}&amount=2"),
            400,
            "parameter_repeated",
        ),
        (
            format!("{token}&order_id=A%0A&{money}"),
            400,
            "order_id_invalid",
        ),
        (
            format!("{token}&order_id={}&{money}", "x".repeat(129)),
            400,
            "order_id_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&event=Big%20Sale"),
            400,
            "event_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&customer_id=a%00"),
            400,
            "customer_id_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&customer_id={}", "x".repeat(129)),
            400,
            "customer_id_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&new_customer=maybe"),
            400,
            "new_customer_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&payout=2"),
            400,
            "parameter_repeated",
        ),
        (
            format!("{token}&order_id=A&{money}&status=paid"),
            400,
            "status_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&refund_id=%00"),
            400,
            "report_id_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&coupon={}", "x".repeat(65)),
            400,
            "coupon_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&items=[1]"),
            400,
            "items_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&email=ana"),
            400,
            "email_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&ip=ana"),
            400,
            "ip_invalid",
        ),
        (
            format!("{token}&order_id=A&{money}&click_id=%7Bclick_id%7D"),
            400,
            "click_id_malformed",
        ),
        (
            format!("{token}&order_id=A&{money}&click_id={forged}"),
            400,
            "click_id_foreign",
        ),
    ];
    for (query, status, error) in cases {
        let (got, body) = json(
            edge.get(&format!("/postback?{query}"))
                .send()
                .await
                .unwrap(),
        )
        .await;
        assert_eq!(
            (got, body["error"].as_str()),
            (status, Some(error)),
            "{query}: {body}"
        );
        assert!(
            body["message"].as_str().unwrap().len() > 10,
            "{query}: {body}"
        );
    }

    let post = |kind: &'static str, body: String| {
        edge.post(&format!("/postback?{token}"))
            .header("Content-Type", kind)
            .body(body)
            .send()
    };
    let (status, body) = json(post("application/json", "{}".into()).await.unwrap()).await;
    assert_eq!((status, body["error"].as_str()), (415, Some("body_type")));
    let form = "application/x-www-form-urlencoded";
    let (status, body) = json(post(form, "x".repeat(20_000)).await.unwrap()).await;
    assert_eq!(
        (status, body["error"].as_str()),
        (413, Some("body_too_large"))
    );
    let put = edge
        .client
        .put(format!("http://{}/postback", edge.address()));
    assert_eq!(put.send().await.unwrap().status(), 405);

    let good = edge
        .get(&format!("/postback?{token}&order_id=A&{money}"))
        .send()
        .await
        .unwrap();
    assert_eq!(good.status(), 200);
    edge.events::<Conversion>(Topic::Conversions, 1).await;
}
