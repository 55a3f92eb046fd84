//! What a tenant keeps of its clicks, and whom it has erased.

use serde_json::{Value, json};
use tributary_shared::customers::customer_hash;
use tributary_shared::ids::TenantId;

use crate::harness::Api;

#[tokio::test]
async fn a_tenant_chooses_what_is_kept() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let settings = api.get(&tenant.admin, "/v1/tenant").await.json();
    assert_eq!(settings["address_kept"], "whole");
    assert_eq!(settings["click_days"], 1095);

    let change = json!({"address_kept": "truncated", "click_days": 90});
    let changed = api.patch(&tenant.admin, "/v1/tenant", change).await.json();
    assert_eq!(changed["address_kept"], "truncated");
    assert_eq!(changed["click_days"], 90);
    let change = json!({"name": "Ours"});
    let changed = api.patch(&tenant.admin, "/v1/tenant", change).await.json();
    assert_eq!(
        (&changed["address_kept"], &changed["click_days"]),
        (&json!("truncated"), &json!(90))
    );

    for wrong in [
        json!({"address_kept": "half"}),
        json!({"click_days": 0}),
        json!({"click_days": 3651}),
        json!({"click_days": null, "name": ""}),
    ] {
        let answer = api.patch(&tenant.admin, "/v1/tenant", wrong.clone()).await;
        assert!(answer.status.is_client_error(), "{wrong}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_visitor_is_erased_once_by_either_name() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let erase = async |visitor: &str| {
        let body = json!({"visitor_id": visitor});
        api.create(&tenant.admin, "/v1/erasures", body).await
    };
    let first = erase("0808080808080808").await;
    assert_eq!(first["visitor_id"], "0808080808080808");
    assert_eq!(first["erased_at"], Value::Null);
    // The same visitor, by the cookie in his browser: 16 bytes of 8.
    let again = erase("CAgICAgICAgICAgICAgICA").await;
    assert_eq!(again["id"], first["id"]);
    let list = api.get(&tenant.admin, "/v1/erasures").await.json();
    assert_eq!(list["items"], json!([first]));
    let body = json!({"visitor_id": "0000000000000000"});
    let nobody = api.post(&tenant.admin, "/v1/erasures", body).await;
    assert!(
        nobody.text.contains("16 hexadecimal digits"),
        "{}",
        nobody.text
    );
}

#[tokio::test]
async fn a_customer_is_erased_once_and_only_his_hash_is_kept() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let body = json!({"customer_id": "ana@shop.example"});
    let first = api.create(&ours.admin, "/v1/erasures", body.clone()).await;
    let hash = hex::encode(customer_hash(TenantId(ours.id), "ana@shop.example"));
    assert_eq!(
        (&first["customer_hash"], &first["visitor_id"]),
        (&json!(hash), &Value::Null)
    );
    let again = api.create(&ours.admin, "/v1/erasures", body.clone()).await;
    assert_eq!(again["id"], first["id"]);
    // The same words are another customer of another tenant.
    let other = api.create(&theirs.admin, "/v1/erasures", body).await;
    assert_ne!(other["customer_hash"], first["customer_hash"]);
    let list = api.get(&ours.admin, "/v1/erasures").await.json();
    assert_eq!(list["items"], json!([first]));
    for (wrong, why) in [
        (json!({}), "either visitor_id or customer_id"),
        (
            json!({"customer_id": "a", "visitor_id": "0808080808080808"}),
            "either visitor_id or customer_id",
        ),
        (json!({"customer_id": ""}), "1 to 128 characters"),
        (json!({"customer_id": "a\nb"}), "1 to 128 characters"),
        (
            json!({"customer_id": "x".repeat(129)}),
            "1 to 128 characters",
        ),
    ] {
        let answer = api.post(&ours.admin, "/v1/erasures", wrong.clone()).await;
        assert_eq!(answer.status, 422, "{wrong}: {}", answer.text);
        assert!(answer.text.contains(why), "{wrong}: {}", answer.text);
    }
}
