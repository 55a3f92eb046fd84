//! An order's whole story, what people decide about it, and the ledger's entries.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Api, OWNER_KEY, Tenant};
use crate::money;

async fn reported(api: &Api, tenant: &Tenant, order: Uuid) {
    sqlx::query(
        "INSERT INTO conversion_reports (id, words, tenant_id, conversion_id, reported_at, source, status, report_id, amount, currency,
                                         address, user_agent, email_domain)
         VALUES ($1, $1, $2, $1, '2026-01-01T00:00:00Z', 'postback', 'pending', 'r-1', 49.9, 'USD', '203.0.113.7', 'curl', 'mail.example')",
    )
    .bind(order)
    .bind(tenant.id)
    .execute(&api.pool)
    .await
    .unwrap();
}

/// Nothing is due until somebody says something.
async fn at_rest(api: &Api) {
    sqlx::query("UPDATE conversions SET settle_at = NULL")
        .execute(&api.pool)
        .await
        .unwrap();
}

async fn due(api: &Api) -> Vec<Uuid> {
    sqlx::query_scalar(
        "SELECT id FROM conversions WHERE settle_at <= now() + interval '1 minute' ORDER BY id",
    )
    .fetch_all(&api.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn an_order_tells_its_whole_story() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let order = money::order(&api.pool, &tenant, 0, "49.9", Some("4.99")).await;
    reported(&api, &tenant, order).await;
    let path = json!([{"click_id": "a-click", "at": "2025-12-31T00:00:00Z", "program_id": tenant.program, "affiliate_id": tenant.affiliate,
        "link_id": tenant.link, "evidence": "click_token", "confidence": 100, "share": "1"}]);
    let items = json!([{"product": "SKU-1", "quantity": 2, "amount": "49.90"}]);
    sqlx::query("UPDATE conversions SET path = $1, items = $2, model = 'last_click'")
        .bind(&path)
        .bind(&items)
        .execute(&api.pool)
        .await
        .unwrap();
    let steps = json!([{"what": "percent", "rule": 1, "version": 1, "text": "10 % of 49.90 USD = 4.99 USD"}]);
    sqlx::query("UPDATE commissions SET steps = $1")
        .bind(&steps)
        .execute(&api.pool)
        .await
        .unwrap();
    let decision = json!({"decision": "approve", "reason": " checked with the shop "});
    let decided = api
        .create(
            &tenant.admin,
            &format!("/v1/conversions/{order}/decisions"),
            decision,
        )
        .await;

    let answer = api
        .get(&tenant.analyst, &format!("/v1/conversions/{order}"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for hidden in ["203.0.113.7", "curl", "mail.example"] {
        assert!(!answer.text.contains(hidden), "{}", answer.text);
    }
    let story = answer.json();
    assert_eq!(
        (
            &story["order_id"],
            &story["amount"],
            &story["path"],
            &story["items"]
        ),
        (&json!("=order-0"), &json!("49.90"), &path, &items)
    );
    assert_eq!(
        story["reports"],
        json!([{"reported_at": "2026-01-01T00:00:00Z", "source": "postback", "status": "pending", "amount": "49.90",
            "currency": "USD", "report_id": "r-1"}])
    );
    assert_eq!(story["decisions"], json!([decided]));
    assert_eq!(decided["reason"], "checked with the shop");
    assert_eq!(
        decided["decided_by"],
        format!("API key {} (admin)", tenant.admin_id)
    );
    let commission = &story["commissions"][0];
    assert_eq!(
        (&commission["amount"], &commission["steps"]),
        (&json!("4.99"), &steps)
    );
    assert_eq!(
        commission["position"],
        json!({"pending": "4.99", "available": "0.00", "in_payout": "0.00", "paid": "0.00", "clawback": "0.00"})
    );
    let mut entries: Vec<String> = (commission["ledger"].as_array().unwrap().iter())
        .map(|entry| {
            format!(
                "{} {} {}",
                entry["account"], entry["amount"], entry["reason"]
            )
            .replace('"', "")
        })
        .collect();
    entries.sort_unstable();
    assert_eq!(
        entries,
        ["commission_expense -4.99 earned", "pending 4.99 earned"]
    );
    // By itself it says the same.
    let alone = api
        .get(
            &tenant.analyst,
            &format!("/v1/commissions/{}", commission["id"].as_str().unwrap()),
        )
        .await;
    assert_eq!(&alone.json(), commission);
}

#[tokio::test]
async fn a_decision_is_kept_and_its_order_settled_again() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let mut orders = Vec::new();
    for number in 0..4 {
        orders.push(money::order(&api.pool, &ours, number, "49.9", Some("4.99")).await);
    }
    orders.sort_unstable();
    let foreign = money::order(&api.pool, &theirs, 0, "49.9", Some("4.99")).await;
    at_rest(&api).await;
    let many = async |ids: &[Uuid]| {
        let body = json!({"ids": ids, "decision": "reject", "reason": "a test of the shop's"});
        api.post(&ours.admin, "/v1/conversions/decisions", body)
            .await
    };
    // One that is not ours: nothing is decided about any.
    let refused = many(&[orders[0], foreign]).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert_eq!(refused.json()["errors"][0]["field"], "ids[1]");
    assert!(due(&api).await.is_empty());
    let count = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM conversion_decisions")
            .fetch_one(&api.pool)
            .await
            .unwrap()
    };
    assert_eq!(count().await, 0);
    // Twice in the list is once.
    let done = many(&[orders[1], orders[0], orders[1]]).await;
    assert_eq!(done.status, 201, "{}", done.text);
    assert_eq!(done.json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(due(&api).await, orders[..2]);

    at_rest(&api).await;
    let path = format!("/v1/conversions/{}/decisions", orders[2]);
    let body = json!({"decision": "reinstate", "reason": "ä".repeat(1000)});
    let request = api
        .request(OWNER_KEY, Method::POST, &path)
        .header("x-tenant-id", ours.id)
        .json(&body);
    let made = api.send(request).await;
    assert_eq!(
        (made.status.as_u16(), &made.json()["decided_by"]),
        (201, &json!("the platform owner")),
        "{}",
        made.text
    );
    assert_eq!(due(&api).await, [orders[2]]);
    assert_eq!(count().await, 3);
    for bad in [
        json!({"decision": "reinstate", "reason": "x".repeat(1001)}),
        json!({"decision": "forget", "reason": "x"}),
        json!({"decision": "approve"}),
    ] {
        assert_eq!(api.post(&ours.admin, &path, bad).await.status, 422);
    }
    let too_many: Vec<Uuid> = (0..501).map(Uuid::from_u128).collect();
    assert_eq!(many(&too_many).await.status, 422);
    assert_eq!(many(&[]).await.status, 422);
    // A person is known by his address.
    let user = json!({"email": "judge@example.com", "password": "long enough", "role": "admin"});
    api.create(&ours.admin, &format!("/v1/tenants/{}/users", ours.id), user)
        .await;
    let login = json!({"email": "judge@example.com", "password": "long enough"});
    let session = api.create("", "/v1/sessions", login).await;
    let body = json!({"decision": "approve", "reason": "seen"});
    let made = api
        .create(session["token"].as_str().unwrap(), &path, body)
        .await;
    assert_eq!(made["decided_by"], "judge@example.com");
}

#[tokio::test]
async fn conversions_are_found_by_what_became_of_them() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    money::orders(&api, &tenant).await;
    sqlx::query(
        "UPDATE conversions SET status = 'approved' WHERE order_id IN ('=order-1', '=order-5')",
    )
    .execute(&api.pool)
    .await
    .unwrap();
    let found = async |query: &str| {
        let page = api
            .get(&tenant.analyst, &format!("/v1/conversions?{query}"))
            .await;
        assert_eq!(page.status, 200, "{}", page.text);
        let items = page.json()["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|item| item["order_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(found("status=approved").await, ["=order-5", "=order-1"]);
    assert_eq!(found("attribution=no_click").await, ["=order-5"]);
    assert_eq!(
        found("status=approved&attribution=click_token").await,
        ["=order-1"]
    );
    assert_eq!(found("order_id=%3Dorder-3").await, ["=order-3"]);
    assert_eq!(
        found(&format!("program_id={}", tenant.program)).await.len(),
        5
    );
    assert!(
        found(&format!("program_id={}", tenant.program + 1))
            .await
            .is_empty()
    );
    assert_eq!(
        found(&format!(
            "affiliate_id={}&link_id={}&limit=200",
            tenant.affiliate, tenant.link
        ))
        .await
        .len(),
        5
    );
}

#[tokio::test]
async fn the_ledger_is_read_by_affiliate_and_by_commission() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    money::orders(&api, &tenant).await;
    let mut seen: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!(
            "/v1/ledger?affiliate_id={}&limit=2{cursor}",
            tenant.affiliate
        );
        let page = api.get(&tenant.analyst, &path).await;
        assert_eq!(page.status, 200, "{}", page.text);
        seen.extend(page.json()["items"].as_array().unwrap().clone());
        match page.json()["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    for (number, entry) in seen.iter().enumerate() {
        assert_eq!(
            (&entry["account"], &entry["amount"]),
            (&json!("pending"), &json!("4.99"))
        );
        assert_eq!(entry["order_id"], format!("=order-{number}"));
    }
    let commission = seen[3]["commission_id"].as_str().unwrap();
    let path = format!("/v1/ledger?commission_id={commission}");
    let both = api.get(&tenant.analyst, &path).await.json();
    let mut amounts: Vec<String> = (both["items"].as_array().unwrap().iter())
        .map(|entry| entry["amount"].as_str().unwrap().to_owned())
        .collect();
    amounts.sort_unstable();
    assert_eq!(amounts, ["-4.99", "4.99"]);
    let times = "from=2026-01-01T00:01:00Z&to=2026-01-01T00:02:00Z";
    let path = format!("/v1/ledger?affiliate_id={}&{times}", tenant.affiliate);
    let request = api
        .request(&tenant.analyst, Method::GET, &path)
        .header("accept", "text/csv");
    let csv = api.send(request).await.text;
    let lines: Vec<&str> = csv.lines().collect();
    assert!(
        lines[0]
            .starts_with("id,posted_at,operation_key,reason,account,affiliate_id,amount,currency"),
        "{csv}"
    );
    assert_eq!(lines.len(), 3, "{csv}");
}
