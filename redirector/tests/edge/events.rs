//! Conversions from a page's script, over real sockets, Redis and Kafka.

use crate::support::{Edge, TENANT, click_id, forged_click_id, header, json};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tributary_shared::customers::customer_hash;
use tributary_shared::events::{Conversion, Source, Topic};
use tributary_shared::ids::conversion_id;

const SHOP: &str = "https://shop.example";

fn preflight(edge: &Edge, query: &str, origin: &str) -> RequestBuilder {
    let url = format!("http://{}/v1/events{query}", edge.address());
    edge.client
        .request(Method::OPTIONS, url)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "content-type")
}

#[tokio::test]
async fn a_conversion_is_taken_from_each_way_to_send_it() {
    let edge = Edge::start().await;
    let key = edge.publishable_key(&[SHOP, "http://localhost:3000"]).await;
    let (named, kept) = (click_id(), click_id());
    let order = |order_id: serde_json::Value| json!({"order_id": order_id, "amount": 49.9, "currency": "USD", "other": [1]});
    let post = |path: &str, kind: &str| {
        edge.post(path)
            .header("Content-Type", kind)
            .header("Origin", SHOP)
    };

    let mut beacon = order(json!("A"));
    beacon["key"] = json!(key);
    beacon["click_id"] = json!(named);
    beacon["customer_id"] = json!(4711);
    beacon["new_customer"] = json!(true);
    let mut text = order(json!("B"));
    text["customer_id"] = json!("4711");
    text["new_customer"] = json!("0");
    let requests = [
        post("/v1/events", "text/plain;charset=UTF-8").body(beacon.to_string()),
        post(&format!("/v1/events?key={key}"), "application/json")
            .header("Cookie", format!("aff_click={kept}"))
            .body(text.to_string()),
        post("/v1/events", "application/json")
            .bearer_auth(&key)
            .body(order(json!(1001)).to_string()),
        // Not a page's.
        edge.post("/v1/events")
            .bearer_auth(&key)
            .body(order(json!("D")).to_string()),
    ];
    for request in requests {
        let answer = request.send().await.unwrap();
        assert_eq!(header(&answer, "vary"), ["origin"]);
        assert_eq!(header(&answer, "cache-control"), ["no-store"]);
        let (status, body) = json(answer).await;
        assert_eq!(
            (status, &body["status"]),
            (200, &json!("accepted")),
            "{body}"
        );
    }

    let mut events = edge.events::<Conversion>(Topic::Conversions, 4).await;
    events.sort_by(|a, b| a.order_id.cmp(&b.order_id));
    let orders: Vec<_> = events
        .iter()
        .map(|e| (e.order_id.as_str(), e.click_id.as_str()))
        .collect();
    assert_eq!(
        orders,
        [("1001", ""), ("A", &*named), ("B", &*kept), ("D", "")]
    );
    let customers: Vec<_> = events
        .iter()
        .map(|e| (e.customer_id.as_slice(), e.new_customer))
        .collect();
    let hash = customer_hash(TENANT, "4711");
    assert_eq!(
        customers,
        [
            (&b""[..], None),
            (&hash[..], Some(true)),
            (&hash[..], Some(false)),
            (&b""[..], None)
        ]
    );
    for event in &events {
        assert_eq!(event.source(), Source::Event);
        assert_eq!(
            (event.amount.as_str(), event.tenant_id),
            ("49.90", TENANT.to_wire())
        );
        let id = conversion_id(TENANT, &event.order_id, "sale");
        assert_eq!(event.conversion_id, id.to_string());
    }
}

#[tokio::test]
async fn a_bad_event_says_why_and_leaves_nothing_behind() {
    let edge = Edge::start().await;
    let key = edge.publishable_key(&[SHOP]).await;
    let other = tributary_shared::secrets::new_token("trk_pub_");
    let good = json!({"key": key, "order_id": "A", "amount": "1", "currency": "USD"});
    let with = |name: &str, value: serde_json::Value| {
        let mut event = good.clone();
        event[name] = value;
        event.to_string()
    };
    let huge = "x".repeat(20_000);
    for (body, status, error) in [
        (String::new(), 400, "body_invalid"),
        ("order_id=A&amount=1".to_owned(), 400, "body_invalid"),
        ("[]".to_owned(), 400, "body_invalid"),
        (with("amount", json!({})), 400, "body_invalid"),
        (with("order_id", json!(huge)), 413, "body_too_large"),
        (with("key", json!(null)), 401, "key_missing"),
        (with("key", json!(other)), 401, "key_unknown"),
        (with("order_id", json!("")), 400, "parameter_missing"),
        (with("order_id", json!("a\nb")), 400, "order_id_invalid"),
        (with("event", json!("Sale")), 400, "event_invalid"),
        (
            with("customer_id", json!("a\u{7f}")),
            400,
            "customer_id_invalid",
        ),
        (with("customer_id", json!(true)), 400, "body_invalid"),
        (
            with("new_customer", json!("new")),
            400,
            "new_customer_invalid",
        ),
        (with("new_customer", json!([1])), 400, "body_invalid"),
        (with("amount", json!(-1)), 400, "amount_invalid"),
        (with("amount", json!(0.1 + 0.2)), 400, "amount_invalid"),
        (with("currency", json!("WAT")), 400, "currency_unknown"),
        (
            with("click_id", json!("{click_id}")),
            400,
            "click_id_malformed",
        ),
        (
            with("click_id", json!(forged_click_id())),
            400,
            "click_id_foreign",
        ),
    ] {
        let request = edge
            .post("/v1/events")
            .header("Origin", SHOP)
            .body(body.clone());
        let (got, answer) = json(request.send().await.unwrap()).await;
        let refused = (got, answer["error"].as_str());
        assert_eq!(refused, (status, Some(error)), "{body:.100}: {answer}");
        assert!(answer["message"].as_str().unwrap().len() > 10);
    }
    let form = edge
        .post("/v1/events")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("order_id=A&key={key}"));
    let (status, body) = json(form.send().await.unwrap()).await;
    assert_eq!((status, &body["error"]), (415, &json!("body_type")));
    let get = edge.get("/v1/events").send().await.unwrap();
    assert_eq!(get.status(), 405);
    edge.events::<Conversion>(Topic::Conversions, 0).await;
}

#[tokio::test]
async fn only_pages_of_the_tenant_report_and_read_the_answer() {
    let edge = Edge::start().await;
    let key = edge.publishable_key(&[SHOP]).await;
    let event = json!({"key": key, "order_id": "A", "amount": "1", "currency": "USD"});
    let allowed = "access-control-allow-origin";
    let with_cookies = "access-control-allow-credentials";

    for origin in ["https://evil.example", "http://shop.example", "null"] {
        let post = edge.post("/v1/events").header("Origin", origin);
        let answer = post.body(event.to_string()).send().await.unwrap();
        assert_eq!(header(&answer, allowed), [""; 0]);
        assert_eq!(header(&answer, "vary"), ["origin"]);
        let (status, body) = json(answer).await;
        assert_eq!((status, &body["error"]), (403, &json!("origin_unknown")));
        assert!(body["message"].as_str().unwrap().starts_with(origin));

        let asked = preflight(&edge, &format!("?key={key}"), origin);
        let answer = asked.send().await.unwrap();
        assert_eq!(header(&answer, allowed), [""; 0]);
        assert_eq!(answer.status(), 403);
    }

    let answer = preflight(&edge, &format!("?key={key}"), SHOP);
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(header(&answer, allowed), [SHOP]);
    assert_eq!(header(&answer, with_cookies), ["true"]);
    assert_eq!(header(&answer, "access-control-allow-methods"), ["POST"]);
    let headers = header(&answer, "access-control-allow-headers");
    assert_eq!(headers, ["authorization, content-type"]);
    assert_eq!(header(&answer, "vary"), ["origin"]);

    // Whose page it is can't be told yet: without cookies, and the report is judged all the same.
    let answer = preflight(&edge, "", "https://evil.example");
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(header(&answer, allowed), ["*"]);
    assert_eq!(header(&answer, with_cookies), [""; 0]);

    // The tenant's page reads refusals as well.
    for body in [event.to_string(), "{}".to_owned(), "nonsense".to_owned()] {
        let post = edge.post(&format!("/v1/events?key={key}"));
        let post = post.header("Origin", SHOP).body(body);
        let answer = post.send().await.unwrap();
        assert_eq!(header(&answer, allowed), [SHOP]);
        assert_eq!(header(&answer, with_cookies), ["true"]);
    }
    edge.events::<Conversion>(Topic::Conversions, 1).await;
}

#[tokio::test]
async fn a_flood_by_one_key_is_held_back_without_hurting_another() {
    let edge = Edge::start_with(|config| config.events_per_second = 2.try_into().unwrap()).await;
    let (flooding, other) = (
        edge.publishable_key(&[SHOP]).await,
        edge.publishable_key(&[SHOP]).await,
    );
    let event = json!({"order_id": "A", "amount": "1", "currency": "USD"}).to_string();
    let send = |key: &str| {
        edge.post("/v1/events")
            .bearer_auth(key)
            .body(event.clone())
            .send()
    };

    let mut held_back = None;
    for _ in 0..100 {
        let answer = send(&flooding).await.unwrap();
        if answer.status() != 200 {
            held_back = Some(answer);
            break;
        }
    }
    let answer = held_back.expect("there is a bound");
    assert_eq!(header(&answer, "retry-after"), ["1"]);
    let (status, body) = json(answer).await;
    assert_eq!((status, &body["error"]), (429, &json!("too_many")));
    assert_eq!(send(&other).await.unwrap().status(), 200);
}
