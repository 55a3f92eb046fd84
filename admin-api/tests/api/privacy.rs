//! What a tenant keeps of its clicks, and whom it has erased.

use serde_json::{Value, json};

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
