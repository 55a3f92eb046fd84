//! What the edge does with a click, as it is set and read back: links, programs, the tenant, domains
//! and publishable keys.

use serde_json::{Value, json};
use tributary_shared::links::is_publishable_key;

use crate::harness::{Api, OWNER_KEY};

#[tokio::test]
async fn a_links_settings_are_read_back_and_cleared_by_null() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let settings = json!({
        "routing": {
            "variants": [{"destination": "https://a.example/", "weight": 70}, {"destination": "https://b.example/", "weight": 30}],
            "routes": [{
                "countries": ["DE"], "devices": ["mobile"], "systems": ["ios"], "languages": ["de", "pt-br"],
                "schedule": {"time_zone": "Europe/Berlin", "days": ["monday"], "from_minute": 1320, "to_minute": 60,
                             "starts_at": "2026-01-01T00:00:00Z", "ends_at": null},
                "variants": [{"destination": "https://c.example/?s={sub1}", "weight": 1}],
            }],
        },
        "pass_query": true, "expires_at": "2030-01-01T00:00:00Z",
        "click_cap": 5, "click_cap_period": "day", "fallback_url": "https://over.example/",
    });
    let mut new = settings.clone();
    new["program_id"] = json!(tenant.program);
    new["affiliate_id"] = json!(tenant.affiliate);
    new["destination"] = json!("https://shop.example/");
    let created = api.create(&tenant.admin, "/v1/links", new).await;
    let path = format!("/v1/links/{}", created["id"]);
    let read = api.get(&tenant.admin, &path).await.json();
    assert_eq!(read, created);
    for (field, value) in settings.as_object().unwrap() {
        assert_eq!(&read[field], value, "{field}");
    }
    let csv = api
        .send(
            api.request(&tenant.admin, reqwest::Method::GET, "/v1/links")
                .header("accept", "text/csv"),
        )
        .await;
    assert_eq!(csv.status, 200, "{}", csv.text);
    assert_eq!(csv.text.lines().count(), 3, "{}", csv.text);

    // What a change does not name stays.
    let change = json!({"click_cap": null, "active": false});
    let mut expected = read;
    expected["click_cap"] = Value::Null;
    expected["active"] = json!(false);
    assert_eq!(
        api.patch(&tenant.admin, &path, change).await.json(),
        expected
    );
    let change = json!({"routing": null, "expires_at": null, "fallback_url": null, "pass_query": false, "click_cap_period": "total"});
    let bare = api.patch(&tenant.admin, &path, change).await.json();
    assert_eq!(bare["routing"], json!({"variants": [], "routes": []}));
    for field in ["expires_at", "fallback_url", "click_cap"] {
        assert_eq!(bare[field], Value::Null, "{field}");
    }
    // As a link that says nothing of it.
    let plain = api
        .get(&tenant.admin, &format!("/v1/links/{}", tenant.link))
        .await
        .json();
    for field in [
        "routing",
        "pass_query",
        "expires_at",
        "click_cap",
        "click_cap_period",
        "fallback_url",
    ] {
        assert_eq!(bare[field], plain[field], "{field}");
    }
    // A bad change changes nothing.
    let bad = json!({"pass_query": true, "routing": {"variants": [{"destination": "https://a.example/", "weight": 0}]}});
    assert_eq!(api.patch(&tenant.admin, &path, bad).await.status, 422);
    assert_eq!(api.get(&tenant.admin, &path).await.json(), bare);
}

#[tokio::test]
async fn program_and_tenant_are_changed_field_by_field() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let path = format!("/v1/programs/{}", tenant.program);
    let mut expected = api.get(&tenant.admin, &path).await.json();
    assert_eq!(expected["override_hosts"], json!([]));
    for change in [
        json!({"override_hosts": ["shop.example", "*.shop.example"]}),
        json!({"name": "Boots", "window_seconds": 60}),
        json!({"hold_seconds": 0}),
        json!({}),
    ] {
        for (field, value) in change.as_object().unwrap() {
            expected[field] = value.clone();
        }
        let answer = api.patch(&tenant.admin, &path, change).await;
        assert_eq!(answer.json(), expected, "{}", answer.text);
    }
    let missing = api
        .patch(&tenant.admin, "/v1/programs/999999", json!({"name": "x"}))
        .await;
    assert_eq!(missing.status, 404);

    let mut expected = api.get(&tenant.analyst, "/v1/tenant").await.json();
    assert_eq!(
        (&expected["slug"], &expected["fallback_url"]),
        (&json!("ours"), &Value::Null)
    );
    for change in [
        json!({"fallback_url": "https://shop.example/", "cookie_domain": "shop.example"}),
        json!({"name": "Ours, Inc.", "time_zone": "UTC"}),
        json!({"cookie_domain": null}),
    ] {
        for (field, value) in change.as_object().unwrap() {
            expected[field] = value.clone();
        }
        let answer = api.patch(&tenant.admin, "/v1/tenant", change).await;
        assert_eq!(answer.json(), expected, "{}", answer.text);
    }
    let by_owner = api
        .request(OWNER_KEY, reqwest::Method::GET, "/v1/tenant")
        .header("x-tenant-id", tenant.id);
    assert_eq!(api.send(by_owner).await.json(), expected);
    let listed = api.get(OWNER_KEY, "/v1/tenants?slug=ours").await.json();
    assert_eq!(listed["items"][0], expected);
}

#[tokio::test]
async fn a_publishable_key_is_shown_changed_and_revoked() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    assert!(is_publishable_key(&tenant.publishable));
    let path = format!("/v1/publishable-keys/{}", tenant.publishable_id);
    let origins = json!(["https://www.ours.example", "http://localhost:3000"]);
    let changed = api
        .patch(&tenant.admin, &path, json!({"origins": origins}))
        .await
        .json();
    assert_eq!(
        (&changed["origins"], &changed["name"]),
        (&origins, &json!("pages"))
    );
    let bad = json!({"origins": ["https://ours.example/"]});
    assert_eq!(api.patch(&tenant.admin, &path, bad).await.status, 422);
    assert_eq!(api.delete(&tenant.admin, &path).await.status, 204);
    let revoked = |list: &Value| list["items"][0]["revoked_at"].clone();
    let first = revoked(&api.get(&tenant.admin, "/v1/publishable-keys").await.json());
    assert!(first.is_string());
    assert_eq!(api.delete(&tenant.admin, &path).await.status, 204);
    let list = api.get(&tenant.admin, "/v1/publishable-keys").await.json();
    assert_eq!(revoked(&list), first);
    assert_eq!(list["items"][0]["key"], tenant.publishable.as_str());
}

#[tokio::test]
async fn a_tenant_has_a_hundred_domains_at_most() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    sqlx::query("INSERT INTO domains (tenant_id, host) SELECT $1, 'd' || n || '.example' FROM generate_series(1, 98) n")
        .bind(tenant.id)
        .execute(&api.pool)
        .await
        .unwrap();
    let add = |host: &str| {
        let body = json!({"host": host});
        let (api, admin) = (&api, &tenant.admin);
        async move { api.post(admin, "/v1/domains", body).await.status }
    };
    let both = tokio::join!(add("one.example"), add("two.example"));
    let mut both = [both.0.as_u16(), both.1.as_u16()];
    both.sort_unstable();
    assert_eq!(both, [201, 409]);
}
