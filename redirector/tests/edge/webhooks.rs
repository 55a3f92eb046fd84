//! Webhooks of Stripe and Shopify at the edge, over real sockets, Redis and Kafka.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Response;
use serde_json::{Value, json};
use tributary_shared::clock::Clock;
use tributary_shared::events::postback_logged::{Door, Verdict};
use tributary_shared::events::{Conversion, OrderStatus, PostbackLogged, Source, Topic};
use tributary_shared::ids::conversion_id;
use tributary_shared::links::WEBHOOK_PREFIX;
use tributary_shared::reports::webhooks::{Kind, MAX_WEBHOOK_BYTES, sign};
use tributary_shared::secrets::new_token;

use crate::support::{Edge, TENANT, click_id, json as read, wait_until};

const SECRET: &str = "whsec_0123456789";

fn now() -> DateTime<Utc> {
    Clock::system().now()
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"id": "evt_1", "type": kind, "created": now().timestamp() - 30, "api_version": "2025-08-27.basil",
        "data": {"object": object}})
}

fn checkout(click_id: &str) -> Value {
    let session = json!({"id": "cs_1", "mode": "payment", "amount_total": 4990, "currency": "usd", "customer": "cus_1",
        "payment_intent": "pi_1", "metadata": {"click_id": click_id}, "customer_details": {"email": "ana@shop.example"}});
    event("checkout.session.completed", &session)
}

/// Sends a body with this signature.
async fn send(edge: &Edge, source: &str, signature: &str, body: &str) -> Response {
    let post = edge.post(&format!("/webhooks/{source}"));
    let post = post.header("Stripe-Signature", signature);
    let post = post.header("Content-Type", "application/json; charset=utf-8");
    post.body(body.to_owned()).send().await.unwrap()
}

/// Sends an event as Stripe signs it now.
async fn stripe(edge: &Edge, source: &str, event: &Value) -> (u16, Value) {
    let body = event.to_string();
    let signature = sign(Kind::Stripe, SECRET.as_bytes(), body.as_bytes(), now());
    read(send(edge, source, &signature, &body).await).await
}

#[tokio::test]
async fn a_signed_webhook_is_a_conversion_and_once_however_often_it_comes() {
    let edge = Edge::start().await;
    let source = edge.webhook_source(Kind::Stripe, &[(SECRET, 0)]).await;
    let click_id = click_id();
    let sale = checkout(&click_id);
    let expected = conversion_id(TENANT, "pi_1", "sale").to_string();
    for _ in 0..2 {
        let (status, body) = stripe(&edge, &source, &sale).await;
        assert_eq!(
            (status, &body["status"]),
            (200, &json!("accepted")),
            "{body}"
        );
        assert_eq!(body["conversion_ids"], json!([expected]));
    }
    let refund = json!({"id": "re_1", "amount": 990, "currency": "usd", "status": "succeeded", "payment_intent": "pi_1"});
    let (status, body) = stripe(&edge, &source, &event("refund.created", &refund)).await;
    assert_eq!(
        (status, &body["conversion_ids"]),
        (200, &json!([])),
        "{body}"
    );

    let mut events: Vec<Conversion> = edge.events(Topic::Conversions, 3).await;
    events.sort_by_key(|event| event.report_id.clone());
    assert_eq!(events[0], events[1], "a repetition is the same to the byte");
    let (order, refund) = (&events[0], &events[2]);
    assert_eq!(order.conversion_id, expected);
    assert_eq!((&*order.amount, &*order.click_id), ("49.90", &*click_id));
    assert_eq!(order.source(), Source::Webhook);
    assert_eq!(order.tenant_id, TENANT.to_wire());
    assert_eq!((order.address.len(), order.visitor_id.len()), (0, 0));
    assert_eq!((&*refund.order_id, &*refund.report_id), ("", "re_1"));
    assert_eq!(refund.names, ["stripe:pi_1"]);
    assert_eq!(refund.status(), OrderStatus::Refunded);
    assert!(!format!("{events:?}").contains("ana"));
}

#[tokio::test]
async fn nothing_but_the_right_signature_is_believed() {
    let edge = Edge::start().await;
    let source = edge.webhook_source(Kind::Stripe, &[(SECRET, 0)]).await;
    let body = checkout("").to_string();
    let signed = |secret: &str, body: &str, minutes: i64| {
        let at = now() - TimeDelta::minutes(minutes);
        sign(Kind::Stripe, secret.as_bytes(), body.as_bytes(), at)
    };
    for (signature, reason) in [
        (String::new(), "signature_missing"),
        ("t=1,v1=00".to_owned(), "signature_missing"),
        (signed("whsec_another", &body, 0), "signature_wrong"),
        (signed(SECRET, "{}", 0), "signature_wrong"),
        (signed(SECRET, &body, 6), "signature_stale"),
        (signed(SECRET, &body, -6), "signature_stale"),
    ] {
        let (status, answer) = read(send(&edge, &source, &signature, &body).await).await;
        assert_eq!(
            (status, &answer["error"]),
            (401, &json!(reason)),
            "{answer}"
        );
    }
    let right = signed(SECRET, &body, 0);
    for unknown in [new_token(WEBHOOK_PREFIX), "x".to_owned(), String::new()] {
        let (status, answer) = read(send(&edge, &unknown, &right, &body).await).await;
        assert_eq!((status, &answer["error"]), (404, &json!("source_unknown")));
    }
    let get = edge.get(&format!("/webhooks/{source}")).send().await;
    assert_eq!(get.unwrap().status(), 405);
    let large = "x".repeat(MAX_WEBHOOK_BYTES + 1);
    let large = send(&edge, &source, &right, &large).await;
    assert_eq!(large.status(), 413);
    let odd = signed(SECRET, "nonsense", 0);
    let (status, answer) = read(send(&edge, &source, &odd, "nonsense").await).await;
    assert_eq!((status, &answer["error"]), (400, &json!("body_invalid")));
    // Only now: none of the above got further.
    assert_eq!(send(&edge, &source, &right, &body).await.status(), 200);
    edge.events::<Conversion>(Topic::Conversions, 1).await;
}

#[tokio::test]
async fn secrets_are_replaced_without_a_gap() {
    let edge = Edge::start().await;
    let in_an_hour = now().timestamp() + 3600;
    let a_minute_ago = now().timestamp() - 60;
    let new = ("whsec_new_0123456789", 0);
    let both = edge
        .webhook_source(Kind::Stripe, &[new, (SECRET, in_an_hour)])
        .await;
    let one = edge
        .webhook_source(Kind::Stripe, &[new, (SECRET, a_minute_ago)])
        .await;
    let nothing = event("customer.created", &json!({}));
    assert_eq!(stripe(&edge, &both, &nothing).await.0, 200);
    assert_eq!(stripe(&edge, &one, &nothing).await.0, 401);
    let body = nothing.to_string();
    for source in [&both, &one] {
        let signature = sign(Kind::Stripe, new.0.as_bytes(), body.as_bytes(), now());
        assert_eq!(send(&edge, source, &signature, &body).await.status(), 200);
    }
    // The edge hears of a source that is gone, as of any other change.
    edge.remove_webhook_source(&both).await;
    wait_until(async || stripe(&edge, &both, &nothing).await.0 == 404).await;
}

#[tokio::test]
async fn what_became_of_each_webhook_stands_in_the_log() {
    let edge = Edge::start().await;
    let source = edge.webhook_source(Kind::Stripe, &[(SECRET, 0)]).await;
    let (_, taken) = stripe(&edge, &source, &checkout("")).await;
    let (status, ignored) = stripe(&edge, &source, &event("customer.created", &json!({}))).await;
    assert_eq!(
        (status, &ignored["reason"]),
        (200, &json!("event_ignored")),
        "{ignored}"
    );
    let bad = json!({"id": "cs_2", "mode": "payment", "payment_intent": "pi_2", "amount_total": -1, "currency": "usd"});
    let (status, refused) =
        stripe(&edge, &source, &event("checkout.session.completed", &bad)).await;
    assert_eq!((status, &refused["error"]), (400, &json!("amount_invalid")));
    send(&edge, &source, "", "{}").await;
    stripe(&edge, &new_token(WEBHOOK_PREFIX), &checkout("")).await;

    let mut logged: Vec<PostbackLogged> = edge.events(Topic::Postbacks, 4).await;
    logged.sort_by_key(|line| line.received_at_us);
    let lines: Vec<_> = logged.iter().map(|l| (l.verdict(), &*l.reason)).collect();
    assert_eq!(
        lines,
        [
            (Verdict::Taken, ""),
            (Verdict::Ignored, "event_ignored"),
            (Verdict::Refused, "amount_invalid"),
            (Verdict::Refused, "signature_missing"),
        ]
    );
    assert!(logged.iter().all(|line| line.door() == Door::Webhook));
    assert!(logged.iter().all(|line| line.tenant_id == TENANT.to_wire()));
    assert_eq!(json!([logged[0].conversion_id]), taken["conversion_ids"]);
    assert!(
        logged[0]
            .query
            .starts_with("webhook=checkout.session.completed&id=evt_1")
    );
    assert!(logged[1].query.contains("customer.created"));
    assert!(!format!("{logged:?}").contains("ana"));
}

#[tokio::test]
async fn a_shops_webhooks_are_taken_by_their_topic() {
    let edge = Edge::start().await;
    let source = edge
        .webhook_source(Kind::Shopify, &[("shpss_0123456789", 0)])
        .await;
    let shopify = async |topic: &str, body: Value| {
        let body = body.to_string();
        let signature = sign(Kind::Shopify, b"shpss_0123456789", body.as_bytes(), now());
        let post = edge.post(&format!("/webhooks/{source}"));
        let post = post.header("X-Shopify-Topic", topic);
        let post = post.header("X-Shopify-Hmac-Sha256", signature);
        read(post.body(body).send().await.unwrap()).await
    };
    let order = json!({"id": 450_789_469, "currency": "USD", "total_price": "398.00", "updated_at": now().to_rfc3339(),
        "line_items": [{"sku": "IPOD", "quantity": 2, "price": "199.00"}]});
    let (status, body) = shopify("orders/create", order).await;
    assert_eq!(status, 200, "{body}");
    let expected = conversion_id(TENANT, "450789469", "sale").to_string();
    assert_eq!(body["conversion_ids"], json!([expected]));
    let (status, body) = shopify("carts/update", json!({})).await;
    assert_eq!((status, &body["status"]), (200, &json!("ignored")));
    let event: Conversion = edge.events(Topic::Conversions, 1).await.remove(0);
    assert_eq!((&*event.amount, event.items.len()), ("398.00", 1));
}

#[tokio::test]
async fn without_a_place_to_keep_it_a_webhook_is_sent_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().join("journal");
    let edge = Edge::start_with(|config| {
        config.kafka.kafka_brokers = "127.0.0.1:1".to_owned();
        config.journal_dir = folder;
        config.journal_memory_mib = 0;
    })
    .await;
    let source = edge.webhook_source(Kind::Stripe, &[(SECRET, 0)]).await;
    let (status, body) = stripe(&edge, &source, &checkout("")).await;
    assert_eq!(
        (status, &body["error"]),
        (503, &json!("not_stored")),
        "{body}"
    );
}
