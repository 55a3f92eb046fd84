//! Reports of orders: the log of what became of them, and a trial of one.

use chrono::TimeDelta;
use serde_json::{Value, json};
use tributary_shared::click_token::ClickToken;
use tributary_shared::clock::Clock;
use tributary_shared::ids::{LinkId, TenantId, conversion_id};

use crate::analytics::{click_with, insert, uuid, with};
use crate::harness::{Api, Tenant};

async fn logged(api: &Api, tenant: &Tenant, number: u32, at: &str, more: Value) {
    let row = json!({"id": uuid(number), "received_at": at, "tenant_id": tenant.id, "door": "postback",
        "verdict": "taken", "conversion_id": uuid(9), "order_id": format!("A-{number}"), "event": "sale",
        "query": format!("order_id=A-{number}&x=Summer"), "address": "::ffff:203.0.113.9", "user_agent": "shop/1.0"});
    insert(api, "postbacks", with(row, more)).await;
}

#[tokio::test]
async fn the_log_of_reports_is_searched_and_read_page_by_page() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    // The log is kept for 90 days.
    let now = Clock::system().now();
    let day = |back| (now - TimeDelta::days(back)).format("%Y-%m-%d").to_string();
    let (first, later) = (day(5), day(3));
    let at = |time: &str| format!("{first}T{time}Z");
    let refused = json!({"verdict": "refused", "reason": "order_id_invalid", "message": "order_id must be short",
        "conversion_id": uuid(0), "door": "pixel", "address": "::", "click_id": "c"});
    logged(&api, &ours, 1, &at("10:00:00.000001"), json!({})).await;
    logged(&api, &ours, 2, &at("10:00:00.000002"), refused).await;
    logged(&api, &ours, 3, &at("10:00:00.000002"), json!({})).await;
    // Delivered again.
    logged(&api, &ours, 3, &at("10:00:00.000002"), json!({})).await;
    logged(&api, &ours, 4, &format!("{later}T10:00:00Z"), json!({})).await;
    logged(&api, &theirs, 5, &at("10:00:00"), json!({})).await;

    let path = |more: &str| format!("/v1/postbacks?from={first}&to={}{more}", day(4));
    let orders = async |more: &str| {
        let answer = api.get(&ours.analyst, &path(more)).await;
        assert_eq!(answer.status, 200, "{more}: {}", answer.text);
        let answer = answer.json();
        let items = answer["items"].as_array().unwrap().clone();
        let orders = items
            .iter()
            .map(|i| i["order_id"].as_str().unwrap().to_owned());
        (orders.collect::<Vec<_>>(), answer["next_cursor"].clone())
    };
    assert_eq!(orders("").await.0, ["A-3", "A-2", "A-1"]);
    for (filter, found) in [
        ("&verdict=refused", &["A-2"][..]),
        ("&reason=order_id_invalid", &["A-2"]),
        ("&door=postback", &["A-3", "A-1"]),
        ("&order_id=A-1", &["A-1"]),
        ("&click_id=c", &["A-2"]),
        ("&text=SUMMER", &["A-3", "A-2", "A-1"]),
        ("&text=must%20be", &["A-2"]),
        ("&text=%25", &[]),
        ("&verdict=taken&text=A-3", &["A-3"]),
    ] {
        assert_eq!(orders(filter).await.0, found, "{filter}");
    }
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for _ in 0..3 {
        let (page, next) = orders(&format!("&limit=1{cursor}")).await;
        all.extend(page);
        cursor = format!("&cursor={}", next.as_str().unwrap_or_default());
    }
    assert_eq!(
        (all, &*cursor),
        (
            ["A-3", "A-2", "A-1"].map(str::to_owned).to_vec(),
            "&cursor="
        )
    );

    let answer = api.get(&ours.analyst, &path("&order_id=A-2")).await.json();
    let line = &answer["items"][0];
    assert_eq!(
        (&line["conversion_id"], &line["address"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(line["received_at"], at("10:00:00.000002").as_str());
    let answer = api.get(&ours.analyst, &path("&order_id=A-3")).await.json();
    assert_eq!(answer["items"][0]["address"], "203.0.113.9");
    assert_eq!(answer["items"][0]["conversion_id"], uuid(9));
    let csv = api.request(&ours.analyst, reqwest::Method::GET, &path(""));
    let csv = api.send(csv.header("accept", "text/csv")).await;
    assert!(
        csv.text.starts_with("id,received_at,door,verdict,reason,"),
        "{}",
        csv.text
    );
    assert_eq!(csv.text.lines().count(), 4);
    for wrong in [
        "&verdict=lost",
        "&door=x",
        "&cursor=x",
        "&limit=0",
        "&reasons=x",
    ] {
        assert_eq!(
            api.get(&ours.analyst, &path(wrong)).await.status,
            400,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn a_report_is_tried_without_being_recorded() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let tried = async |tenant: &Tenant, body: Value| {
        let answer = api.post(&tenant.analyst, "/v1/postbacks/test", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let at = "2026-01-10T12:00:00Z";
    let more = json!({"click_random": "random-0--", "click_key": 1, "click_tag": "tag12345678"});
    click_with(&api, &ours, at, more).await;
    let clicks = "/v1/analytics/clicks?from=2026-01-10&to=2026-01-11";
    let clicks = api.get(&ours.analyst, clicks).await.json();
    let click_id = clicks["items"][0]["id"].as_str().unwrap();

    let query = format!(
        "https://go.example/postback?token=t&tid=A-1&payout=49.9&currency=USD&status=Hold&subid={click_id}"
    );
    let answer = tried(&ours, json!({"query": query})).await;
    let id = conversion_id(TenantId(ours.id), "A-1", "sale").to_string();
    assert_eq!(
        answer,
        json!({"verdict": "taken", "reason": null, "message": null,
            "parameters": [{"name": "click_id", "value": click_id}, {"name": "order_id", "value": "A-1"},
                {"name": "amount", "value": "49.9"}, {"name": "currency", "value": "USD"}, {"name": "status", "value": "Hold"}],
            "conversion_id": id, "amount": "49.90", "currency": "USD", "status": "pending", "event": "sale",
            "click": {"verdict": "known", "clicked_at": at, "link_id": ours.link, "affiliate_id": ours.affiliate,
                "program_id": ours.program},
            "names": [], "renews": "", "others": []})
    );
    // Another tenant's click is as good as none.
    let answer = tried(&theirs, json!({"query": query})).await;
    assert_eq!(answer["click"]["verdict"], "unknown");
    assert_eq!(answer["click"]["link_id"], Value::Null);

    let keys = format!("1:{}", "0f".repeat(32)).parse().unwrap();
    let forged = ClickToken::mint(&keys, LinkId(ours.link), Clock::system().now());
    let body =
        json!({"order_id": 1, "click_id": forged.as_str(), "status": "refunded"}).to_string();
    let answer = tried(&ours, json!({"door": "event", "body": body})).await;
    assert_eq!(
        (&answer["verdict"], &answer["amount"]),
        (&json!("taken"), &json!(""))
    );
    assert_eq!(answer["click"]["verdict"], "unknown");

    for (body, reason) in [
        (json!({"query": "order_id=A"}), "parameter_missing"),
        (json!({"query": "order_id=A&tid=B"}), "parameter_repeated"),
        (json!({"door": "event", "body": "x"}), "body_invalid"),
        (
            json!({"door": "pixel", "query": "order_id=A&amount=1&currency=USD&subid=x"}),
            "click_id_malformed",
        ),
    ] {
        let answer = tried(&ours, body).await;
        assert_eq!(
            (&answer["verdict"], &answer["reason"]),
            (&json!("refused"), &json!(reason))
        );
        assert_eq!(answer["conversion_id"], Value::Null);
        assert!(answer["message"].as_str().unwrap().len() > 10);
    }
    let wrong = api
        .post(&ours.analyst, "/v1/postbacks/test", json!({"door": "x"}))
        .await;
    assert_eq!(wrong.status, 422);
    let conversions = api.get(&ours.analyst, "/v1/conversions").await.json();
    assert_eq!(conversions["items"], json!([]));
}
