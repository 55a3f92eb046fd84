//! A creating POST that is sent twice creates once.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Api, OWNER_KEY};
use crate::money;

async fn keyed(api: &Api, caller: &str, path: &str, key: &str, body: &Value) -> Answer {
    let request = api
        .request(caller, Method::POST, path)
        .header("idempotency-key", key.to_owned());
    api.send(request.json(body)).await
}

#[tokio::test]
async fn every_creating_post_is_answered_again_without_its_secret() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let below = |what: &str| format!("/v1/tenants/{}/{what}", tenant.id);
    let order = money::order(&api.pool, &tenant, 1, "50", None).await;
    let creations = [
        (
            OWNER_KEY,
            "/v1/tenants".to_owned(),
            json!({"slug": "again", "name": "Again"}),
            None,
        ),
        (
            &tenant.admin,
            below("api-keys"),
            json!({"name": "k", "role": "admin"}),
            Some("key"),
        ),
        (
            &tenant.admin,
            below("postback-tokens"),
            json!({"name": "k"}),
            Some("token"),
        ),
        (
            &tenant.admin,
            below("users"),
            json!({"email": "u@x", "password": "0123456789", "role": "admin"}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/programs".to_owned(),
            json!({"name": "p", "currency": "JPY", "commission_percent": "1.50", "window_seconds": 1, "hold_seconds": 0}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/affiliates".to_owned(),
            json!({"name": "a", "email": "a@b"}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/links".to_owned(),
            json!({"program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "https://a.example/"}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/domains".to_owned(),
            json!({"host": "again.example"}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/publishable-keys".to_owned(),
            json!({"name": "k", "origins": ["https://a.example"]}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/sources".to_owned(),
            json!({"name": "s", "kind": "stripe", "secret": "whsec_0123456789abcdef"}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/coupons".to_owned(),
            json!({"code": "ANA10", "program_id": tenant.program, "affiliate_id": tenant.affiliate}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/blocked".to_owned(),
            json!({"kind": "address", "value": "198.51.100.7"}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/exchange-rates".to_owned(),
            json!({"base": "EUR", "quote": "USD", "rate": "1.1", "valid_from": "2026-01-01T00:00:00Z"}),
            None,
        ),
        (
            &tenant.admin,
            format!("/v1/conversions/{order}/decisions"),
            json!({"decision": "approve", "reason": "checked"}),
            None,
        ),
        (
            &tenant.admin,
            "/v1/conversions/decisions".to_owned(),
            json!({"ids": [order], "decision": "reject", "reason": "a test"}),
            None,
        ),
    ];
    for (number, (caller, path, body, secret)) in creations.iter().enumerate() {
        let key = format!("key {number}");
        let first = keyed(&api, caller, path, &key, body).await;
        assert_eq!(
            (first.status.as_u16(), first.header("idempotent-replayed")),
            (201, ""),
            "{path} {}",
            first.text
        );
        let again = keyed(&api, caller, path, &key, body).await;
        assert_eq!(
            (again.status.as_u16(), again.header("idempotent-replayed")),
            (201, "true"),
            "{path}"
        );
        let mut expected = first.json();
        if let Some(secret) = secret {
            assert!(expected[secret].is_string());
            expected[secret] = Value::Null;
        }
        assert_eq!(again.json(), expected, "{path}");
        let mut other = body.clone();
        other["name"] = json!("other");
        other["email"] = json!("other@x");
        let other = keyed(&api, caller, path, &key, &other).await;
        assert_eq!(other.status, 422, "{path}: {}", other.text);
    }
    // The password's hash is not the stored fingerprint's only guard: it is keyed.
    let stored: Vec<(Vec<u8>, Value)> =
        sqlx::query_as("SELECT request_sha256, response FROM idempotency_keys")
            .fetch_all(&api.pool)
            .await
            .unwrap();
    assert_eq!(stored.len(), creations.len());
    let decisions: i64 = sqlx::query_scalar("SELECT count(*) FROM conversion_decisions")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(decisions, 2);
    assert!(stored.iter().all(|(_, response)| {
        !response
            .to_string()
            .replace("trk_pub_", "")
            .contains("trk_")
            || response["key"].is_null()
    }));
}

#[tokio::test]
async fn a_failed_request_stores_nothing_and_scopes_do_not_meet() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let taken = json!({"code": ours.code, "program_id": ours.program, "affiliate_id": ours.affiliate, "destination": "https://a.example/"});
    assert_eq!(
        keyed(&api, &ours.admin, "/v1/links", "k", &taken)
            .await
            .status,
        409
    );
    let body = json!({"name": "a"});
    let first = keyed(&api, &ours.admin, "/v1/affiliates", "k", &body).await;
    let other = keyed(&api, &theirs.admin, "/v1/affiliates", "k", &body).await;
    assert_eq!((first.status.as_u16(), other.status.as_u16()), (201, 201));
    assert_ne!(first.json()["id"], other.json()["id"]);
    assert_eq!(
        keyed(&api, &ours.admin, "/v1/affiliates", "", &body)
            .await
            .status,
        400
    );
    assert_eq!(
        keyed(&api, &ours.admin, "/v1/affiliates", &"k".repeat(256), &body)
            .await
            .status,
        400
    );
    // After a day the key is new again.
    sqlx::query("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
        .execute(&api.pool)
        .await
        .unwrap();
    let later = keyed(&api, &ours.admin, "/v1/affiliates", "k", &body).await;
    assert_eq!(
        (later.status.as_u16(), later.header("idempotent-replayed")),
        (201, "")
    );
}

#[tokio::test]
async fn twenty_at_once_create_one() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let body = json!({"name": "once"});
    let attempts = (0..20).map(|_| keyed(&api, &tenant.admin, "/v1/affiliates", "k", &body));
    let answers = futures::future::join_all(attempts).await;
    let new = answers
        .iter()
        .filter(|a| a.status == 201 && a.header("idempotent-replayed").is_empty())
        .count();
    assert_eq!(new, 1);
    assert!(
        answers.iter().all(|a| a.status == 201 || a.status == 409),
        "{answers:?}"
    );
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM affiliates WHERE name = 'once'")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(rows, 1);
}
