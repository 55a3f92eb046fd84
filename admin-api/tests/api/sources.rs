//! Sources of webhooks: made, changed, given to the edge, and tried.

use prost::Message as _;
use serde_json::{Value, json};
use tributary_shared::ids::{TenantId, conversion_id};
use tributary_shared::links::{WebhookSource, is_webhook_id, webhook_purpose};
use tributary_shared::reports::webhooks::Kind;
use tributary_shared::sealing::SealingKeys;

use crate::harness::{Api, SEALING_KEYS, Tenant};

const SECRET: &str = "whsec_0123456789abcdef";

async fn create(api: &Api, tenant: &Tenant, body: Value) -> Value {
    let answer = api.post(&tenant.admin, "/v1/sources", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()
}

fn public_id(source: &Value) -> String {
    let url = source["url"].as_str().unwrap();
    let (_, id) = url.rsplit_once("/webhooks/").unwrap();
    assert!(is_webhook_id(id), "{url}");
    id.to_owned()
}

/// What the edge has of a source: each secret with its end.
async fn at_the_edge(api: &Api, public_id: &str) -> Option<(WebhookSource, Vec<(String, i64)>)> {
    api.published().await;
    let index = api.index().await;
    let value = index.get(&format!("webhook:{public_id}"))?;
    let source = WebhookSource::decode(value.as_slice()).unwrap();
    let keys: SealingKeys = SEALING_KEYS.parse().unwrap();
    let purpose = webhook_purpose(public_id);
    let open = |sealed: &[u8]| String::from_utf8(keys.open(&purpose, sealed).unwrap()).unwrap();
    let secrets = source
        .secrets
        .iter()
        .map(|s| (open(&s.sealed), s.ends_at_s));
    let secrets = secrets.collect();
    Some((source, secrets))
}

#[tokio::test]
async fn a_source_is_made_given_to_the_edge_rotated_and_revoked() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let body = json!({"name": "Stripe", "kind": "stripe", "secret": SECRET});
    let source = create(&api, &tenant, body).await;
    let id = public_id(&source);
    assert_eq!(
        (&source["kind"], &source["old_secret_ends_at"]),
        (&json!("stripe"), &Value::Null)
    );
    let (edge, secrets) = at_the_edge(&api, &id).await.unwrap();
    assert_eq!(edge.tenant_id, u64::try_from(tenant.id).unwrap());
    assert_eq!(Kind::from_wire(edge.kind()), Some(Kind::Stripe));
    assert_eq!(secrets, [(SECRET.to_owned(), 0)]);

    let path = format!("/v1/sources/{}", source["id"]);
    let patch = async |body: Value| {
        let answer = api.patch(&tenant.admin, &path, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let rotated = patch(json!({"secret": "whsec_another_0123456789"})).await;
    assert!(rotated["old_secret_ends_at"].is_string());
    let (_, secrets) = at_the_edge(&api, &id).await.unwrap();
    assert_eq!(secrets[0], ("whsec_another_0123456789".to_owned(), 0));
    assert_eq!(secrets[1].0, SECRET);
    assert!(secrets[1].1 > 0);
    let renamed = patch(json!({"name": "Stripe, live"})).await;
    assert_eq!(renamed["old_secret_ends_at"], rotated["old_secret_ends_at"]);
    patch(json!({"secret": SECRET, "old_secret_hours": 0})).await;
    let (_, secrets) = at_the_edge(&api, &id).await.unwrap();
    assert_eq!(secrets, [(SECRET.to_owned(), 0)]);

    assert_eq!(api.delete(&tenant.admin, &path).await.status, 204);
    assert_eq!(api.delete(&tenant.admin, &path).await.status, 204);
    assert!(at_the_edge(&api, &id).await.is_none());
    let list = api.get(&tenant.admin, "/v1/sources").await;
    assert!(list.json()["items"][0]["revoked_at"].is_string());
    assert!(!list.text.contains("whsec_"), "{}", list.text);
    let stored: Vec<u8> = sqlx::query_scalar("SELECT secret FROM sources")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert!(!stored.windows(6).any(|part| part == b"whsec_"));
}

#[tokio::test]
async fn bad_sources_are_told_what_to_change() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    for (body, field) in [
        (
            json!({"name": "s", "kind": "stripe", "secret": "sk_live_0123456789"}),
            "secret",
        ),
        (
            json!({"name": "s", "kind": "shopify", "secret": "short"}),
            "secret",
        ),
        (
            json!({"name": "s", "kind": "shopify", "secret": "with spaces 0123456789"}),
            "secret",
        ),
        (json!({"name": "", "kind": "shopify"}), "name"),
    ] {
        let answer = api.post(&tenant.admin, "/v1/sources", body).await;
        assert_eq!(answer.status, 422, "{}", answer.text);
        assert_eq!(
            answer.json()["errors"][0]["field"],
            field,
            "{}",
            answer.text
        );
    }
    let unset = create(&api, &tenant, json!({"name": "s", "kind": "stripe"})).await;
    let (_, secrets) = at_the_edge(&api, &public_id(&unset)).await.unwrap();
    assert!(secrets[0].0.starts_with("unset_"));
    let path = format!("/v1/sources/{}", unset["id"]);
    for body in [
        json!({"old_secret_hours": 1}),
        json!({"secret": SECRET, "old_secret_hours": 73}),
        json!({"secret": "shpss_0123456789abcdef"}),
    ] {
        assert_eq!(api.patch(&tenant.admin, &path, body).await.status, 422);
    }
}

#[tokio::test]
async fn a_webhook_is_tried_without_a_signature_and_records_nothing() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let stripe = create(&api, &ours, json!({"name": "s", "kind": "stripe"})).await["id"].clone();
    let shopify = create(&api, &ours, json!({"name": "s", "kind": "shopify"})).await["id"].clone();
    let tried = async |body: Value| {
        let answer = api.post(&ours.analyst, "/v1/postbacks/test", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let renewal = json!({"id": "evt_1", "type": "invoice.paid", "data": {"object": {"id": "in_2", "amount_paid": 2000,
        "billing_reason": "subscription_cycle", "currency": "usd", "subscription": "sub_1"}}});
    let told = tried(json!({"source_id": stripe, "body": renewal.to_string()})).await;
    assert_eq!(
        (&told["verdict"], &told["event"]),
        (&json!("taken"), &json!("renewal")),
        "{told}"
    );
    assert_eq!(
        (&told["amount"], &told["renews"]),
        (&json!("20.00"), &json!("stripe:sub_1"))
    );
    assert_eq!(told["names"], json!(["stripe:in_2"]));
    let id = conversion_id(TenantId(ours.id), "in_2", "renewal").to_string();
    assert_eq!(told["conversion_id"], id);

    let refunds = json!({"id": "evt_2", "type": "charge.refunded", "api_version": "2022-08-01", "data": {"object": {"id": "ch_1",
        "payment_intent": "pi_1", "refunds": {"data": [{"id": "re_1", "amount": 100, "currency": "usd"},
        {"id": "re_2", "amount": 200, "currency": "usd"}]}}}});
    let told = tried(json!({"source_id": stripe, "body": refunds.to_string()})).await;
    assert_eq!(
        (&told["amount"], &told["others"][0]["amount"]),
        (&json!("1.00"), &json!("2.00"))
    );
    assert_eq!(told["conversion_id"], Value::Null);

    let order = json!({"id": 1, "currency": "USD", "total_price": "5"}).to_string();
    let told = tried(json!({"source_id": shopify, "topic": "orders/create", "body": order})).await;
    assert_eq!(told["amount"], "5.00", "{told}");
    let told = tried(json!({"source_id": shopify, "body": order})).await;
    assert_eq!(
        (&told["verdict"], &told["reason"]),
        (&json!("ignored"), &json!("event_ignored"))
    );
    let told = tried(json!({"source_id": stripe, "body": "nonsense"})).await;
    assert_eq!(told["reason"], "body_invalid");

    let foreign = json!({"source_id": stripe, "body": "{}"});
    let foreign = api.post(&theirs.admin, "/v1/postbacks/test", foreign).await;
    assert_eq!(foreign.status, 404);
    let recorded: i64 = sqlx::query_scalar("SELECT count(*) FROM conversions")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(recorded, 0);
}
