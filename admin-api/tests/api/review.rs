//! What who decides is shown, clicks that are paid for among orders, and the log of who changed what.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Api, Tenant};
use crate::money;

/// A report of an order, with what it shares with others.
async fn reported(api: &Api, tenant: &Tenant, order: Uuid, address: &str, domain: &str) {
    sqlx::query(
        "INSERT INTO conversion_reports (id, words, tenant_id, conversion_id, reported_at, source, amount, currency, address,
                                         country, visitor_id, fingerprint, customer_id, email_domain)
         VALUES ($1, $1, $2, $1, '2026-01-01T00:00:00Z', 'postback', 49.9, 'USD', $3::inet, 'DE', decode($4, 'hex'), decode($5, 'hex'),
                 decode($5, 'hex'), $6)",
    )
    .bind(order)
    .bind(tenant.id)
    .bind(address)
    // The first half of a visitor cookie differs from browser to browser, the last half is who he is.
    .bind(format!("{}{}", order.simple().to_string().split_off(16), "07".repeat(8)))
    .bind(order.simple().to_string())
    .bind(domain)
    .execute(&api.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn who_decides_is_shown_the_grounds() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let mut orders = Vec::new();
    for number in 0..4 {
        orders.push(money::order(&api.pool, &ours, number, "49.9", Some("4.99")).await);
    }
    let foreign = money::order(&api.pool, &theirs, 0, "49.9", Some("4.99")).await;
    reported(&api, &ours, orders[0], "203.0.113.7", "mail.example").await;
    reported(&api, &ours, orders[1], "203.0.113.7", "other.example").await;
    reported(&api, &ours, orders[2], "203.0.113.8", "mail.example").await;
    reported(&api, &theirs, foreign, "203.0.113.7", "mail.example").await;
    let path = json!([{"click_id": "a-click", "at": "2025-12-31T23:55:00Z", "share": "1"}]);
    sqlx::query("UPDATE conversions SET path = $1, verdict = 'hold' WHERE id = $2")
        .bind(path)
        .bind(orders[0])
        .execute(&api.pool)
        .await
        .unwrap();
    let evidence = async |key: &str| -> Value {
        let answer = api
            .get(key, &format!("/v1/conversions/{}", orders[0]))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["evidence"].clone()
    };
    let told = evidence(&ours.admin).await;
    assert_eq!(
        (
            &told["seconds_since_click"],
            &told["order_address"],
            &told["order_country"],
            &told["click_address"]
        ),
        (
            &json!(300),
            &json!("203.0.113.7"),
            &json!("DE"),
            &json!(null)
        )
    );
    let siblings: Vec<(String, String)> = (told["siblings"].as_array().unwrap().iter())
        .map(|of| {
            let text = |name: &str| of[name].as_str().unwrap().to_owned();
            (text("shares"), text("order_id"))
        })
        .collect();
    let is = |shares: &str, order: &str| (shares.to_owned(), order.to_owned());
    assert_eq!(
        siblings,
        [
            is("address", "=order-1"),
            is("visitor", "=order-2"),
            is("visitor", "=order-1"),
            is("email_domain", "=order-2"),
        ]
    );
    assert_eq!(told["siblings"][0]["status"], "pending");
    // Who only reads sees no address; of one that the tenant does not keep whole nobody sees all.
    let told = evidence(&ours.analyst).await;
    assert_eq!(
        (&told["order_address"], &told["order_country"]),
        (&json!(null), &json!("DE"))
    );
    for (kept, shown) in [("truncated", json!("203.0.113.0")), ("none", json!(null))] {
        sqlx::query("UPDATE tenants SET address_kept = $1")
            .bind(kept)
            .execute(&api.pool)
            .await
            .unwrap();
        assert_eq!(evidence(&ours.admin).await["order_address"], shown);
    }
    let waiting = "/v1/conversions?verdict=hold&undecided=true";
    let queue = api.get(&ours.analyst, waiting).await.json();
    assert_eq!(queue["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn clicks_that_are_paid_for_stand_apart_from_orders() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let order = money::order(&api.pool, &tenant, 0, "49.9", Some("4.99")).await;
    let clicks = money::order(&api.pool, &tenant, 1, "0", Some("2.74")).await;
    sqlx::query("UPDATE conversions SET event = 'click' WHERE id = $1")
        .bind(clicks)
        .execute(&api.pool)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO click_counts VALUES ($1, $2, $3, $4, $5, '2026-01-01', '', '', '', '{\"\",\"\",\"\",\"\",\"\"}', 137, now())",
    )
    .bind(clicks)
    .bind(tenant.id)
    .bind(tenant.program)
    .bind(tenant.affiliate)
    .bind(tenant.link)
    .execute(&api.pool)
    .await
    .unwrap();
    let listed = async |query: &str| -> Vec<Value> {
        let page = api
            .get(&tenant.analyst, &format!("/v1/conversions{query}"))
            .await;
        let items = page.json()["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["id"].clone()).collect()
    };
    assert_eq!(listed("").await, [json!(order)]);
    assert_eq!(listed("?event=sale").await, [json!(order)]);
    assert_eq!(listed("?event=click").await, [json!(clicks)]);
    let story = api
        .get(&tenant.analyst, &format!("/v1/conversions/{clicks}"))
        .await;
    assert_eq!(story.json()["clicks"], 137);
}

/// The log as (actor, action, kind, id, before, after), newest first.
async fn log(api: &Api, key: &str, query: &str) -> Vec<Value> {
    let page = api.get(key, &format!("/v1/audit-log{query}")).await;
    assert_eq!(page.status, 200, "{}", page.text);
    page.json()["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn who_changed_what_is_written_down_and_stays() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let before = log(&api, &ours.admin, "").await.len();
    let program = format!("/v1/programs/{}", ours.program);
    let patch = async |body: Value| {
        let request = api
            .request(&ours.admin, Method::PATCH, &program)
            .json(&body);
        assert_eq!(api.send(request).await.status, 200);
    };
    let fraud = json!({"bot": {"action": "reject"}});
    patch(json!({"fraud": fraud})).await;
    patch(json!({"fraud": fraud})).await; // which changes nothing
    let document = json!({"reward": {"kind": "percent", "percent": "7"}});
    let rule = api
        .request(&ours.admin, Method::PUT, &format!("{program}/rules/base"))
        .json(&json!({"document": document}));
    assert_eq!(api.send(rule).await.status, 200);
    let blocked = api
        .create(
            &ours.admin,
            "/v1/blocked",
            json!({"kind": "address", "value": "203.0.113.0/24"}),
        )
        .await;
    let entry = format!("/v1/blocked/{}", blocked["id"]);
    let gone = api.request(&ours.admin, Method::DELETE, &entry);
    assert_eq!(api.send(gone).await.status, 204);
    let order = money::order(&api.pool, &ours, 0, "49.9", Some("4.99")).await;
    let decision = json!({"decision": "reject", "reason": "a test"});
    api.create(
        &ours.admin,
        &format!("/v1/conversions/{order}/decisions"),
        decision,
    )
    .await;

    let entries = log(&api, &ours.analyst, "").await;
    let new = entries.len() - before;
    let told: Vec<(String, String)> = (entries[..new].iter())
        .map(|of| {
            let text = |name: &str| of[name].as_str().unwrap().to_owned();
            (
                text("action"),
                format!("{} {}", text("entity_kind"), text("entity_id")),
            )
        })
        .collect();
    let is = |action: &str, what: String| (action.to_owned(), what);
    assert_eq!(
        told,
        [
            is("decided", format!("conversion {order}")),
            is("deleted", format!("blocked {}", blocked["id"])),
            is("created", format!("blocked {}", blocked["id"])),
            is("changed", format!("rule {}/base", ours.program)),
            is("changed", format!("program {}", ours.program)),
        ]
    );
    let who = format!("API key {} (admin)", ours.admin_id);
    assert!(entries[..new].iter().all(|of| of["actor"] == json!(who)));
    assert_eq!(
        (&entries[4]["before"], &entries[4]["after"]),
        (&json!({"fraud": {}}), &json!({"fraud": fraud}))
    );
    assert_eq!(entries[3]["after"]["document"], document);
    assert_eq!(
        (&entries[2]["before"], &entries[2]["after"]),
        (&json!(null), &blocked)
    );
    assert_eq!(
        entries[0]["after"],
        json!({"decision": "reject", "reason": "a test"})
    );

    let of_rules = log(
        &api,
        &ours.analyst,
        "?entity_kind=rule&action=changed&limit=1",
    )
    .await;
    assert_eq!(of_rules, [entries[3].clone()]);
    assert!(
        log(&api, &ours.analyst, "?to=2026-01-01T00:00:00Z")
            .await
            .is_empty()
    );
    assert_eq!(
        api.get(&ours.analyst, "/v1/audit-log?action=undone")
            .await
            .status,
        400
    );
    let theirs = log(&api, &theirs.admin, "").await;
    assert!(
        theirs
            .iter()
            .all(|of| of["entity_id"] != json!(ours.program.to_string()))
    );
    for sql in [
        "UPDATE audit_log SET actor = 'nobody'",
        "DELETE FROM audit_log",
    ] {
        assert!(sqlx::query(sql).execute(&api.pool).await.is_err(), "{sql}");
    }
}
