//! A tenant sees only its own, on every route that the description names.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tributary_shared::clock::Clock;
use uuid::Uuid;

use crate::analytics::{click_with, insert, uuid};
use crate::harness::{Answer, Api, OWNER_KEY, Tenant};
use crate::{money, payout_files, payouts};

/// A stream of events, which has no end.
const LIVE: &str = "/v1/analytics/live";
const PAYOUT_FILES: &str = "/v1/payout-files";
/// One a tenant: who has none gets 404.
const SEPA_ACCOUNT: &str = "/v1/payout-accounts/sepa";
const MOMENT: Duration = Duration::from_millis(2500);

/// What a tenant has besides.
struct Made {
    click: String,
    order: Uuid,
    coupon: i64,
    blocked: i64,
    source: i64,
    payout: Uuid,
    run: i64,
    /// Not in a file yet.
    approved: Uuid,
    payout_file: i64,
}

/// Every operation with a path and a body that would work for `tenant`.
fn operations(tenant: &Tenant, made: &Made) -> Vec<(Method, String, Option<Value>)> {
    let Made {
        click,
        order,
        coupon,
        blocked,
        source,
        payout,
        run,
        approved,
        payout_file,
    } = made;
    let below = |what: &str| format!("/v1/tenants/{}/{what}", tenant.id);
    let Tenant {
        program,
        affiliate,
        link,
        token_id,
        admin_id,
        domain_id,
        publishable_id,
        ..
    } = tenant;
    let get = |path: String| (Method::GET, path, None);
    let post = |path: String, body| (Method::POST, path, Some(body));
    let patch = |path: String, body| (Method::PATCH, path, Some(body));
    let put = |path: String, body| (Method::PUT, path, Some(body));
    let delete = |path: String| (Method::DELETE, path, None);
    vec![
        post(
            "/v1/tenants".into(),
            json!({"slug": "another", "name": "Another"}),
        ),
        get("/v1/tenants".into()),
        post(below("api-keys"), json!({"name": "k", "role": "analyst"})),
        get(below("api-keys")),
        (Method::DELETE, below(&format!("api-keys/{admin_id}")), None),
        post(below("postback-tokens"), json!({"name": "t"})),
        get(below("postback-tokens")),
        (
            Method::DELETE,
            below(&format!("postback-tokens/{token_id}")),
            None,
        ),
        post(
            below("users"),
            json!({"email": "x@example.com", "password": "long enough", "role": "admin"}),
        ),
        get(below("users")),
        post(
            "/v1/sessions".into(),
            json!({"email": "x@example.com", "password": "wrong"}),
        ),
        (Method::DELETE, "/v1/sessions".into(), None),
        post(
            "/v1/programs".into(),
            json!({"name": "p", "currency": "USD", "commission_percent": "1", "window_seconds": 1, "hold_seconds": 0}),
        ),
        get("/v1/programs".into()),
        get(format!("/v1/programs/{program}")),
        patch(
            format!("/v1/programs/{program}"),
            json!({"window_seconds": 1}),
        ),
        get(format!("/v1/programs/{program}/rules")),
        (
            Method::PUT,
            format!("/v1/programs/{program}/rules/base"),
            Some(json!({"document": {"reward": {"kind": "percent", "percent": "99"}}})),
        ),
        post(
            format!("/v1/programs/{program}/preview"),
            json!({"affiliate_id": affiliate, "amount": "10"}),
        ),
        post(
            "/v1/exchange-rates".into(),
            json!({"base": "EUR", "quote": "USD", "rate": "1.1", "valid_from": "2026-01-01T00:00:00Z"}),
        ),
        get("/v1/exchange-rates".into()),
        post(
            "/v1/coupons".into(),
            json!({"code": "another", "program_id": program, "affiliate_id": affiliate}),
        ),
        post(
            "/v1/blocked".into(),
            json!({"kind": "address", "value": "203.0.113.0/24"}),
        ),
        get("/v1/blocked".into()),
        delete(format!("/v1/blocked/{blocked}")),
        get("/v1/coupons".into()),
        get(format!("/v1/coupons/{coupon}")),
        patch(format!("/v1/coupons/{coupon}"), json!({"active": false})),
        patch(
            format!("/v1/affiliates/{affiliate}"),
            json!({"name": "Renamed"}),
        ),
        get(format!("/v1/conversions/{order}")),
        post(
            format!("/v1/conversions/{order}/decisions"),
            json!({"decision": "reject", "reason": "envy"}),
        ),
        post(
            "/v1/conversions/decisions".into(),
            json!({"ids": [order], "decision": "reject", "reason": "envy"}),
        ),
        get(format!("/v1/commissions/{order}")),
        get(format!("/v1/ledger?affiliate_id={affiliate}")),
        get(format!("/v1/ledger?commission_id={order}")),
        get(format!("/v1/ledger?payout_id={payout}")),
        get("/v1/payout-terms".into()),
        put(
            "/v1/payout-terms".into(),
            json!({"schedule": "daily", "approvals": 0}),
        ),
        put(
            format!("/v1/affiliates/{affiliate}/payout-method"),
            json!({"kind": "manual", "note": "to me"}),
        ),
        get(format!("/v1/affiliates/{affiliate}/payout-method")),
        delete(format!("/v1/affiliates/{affiliate}/payout-method")),
        put(
            "/v1/payout-providers/paypal".into(),
            json!({"credentials": {"client_id": "a", "client_secret": "b"}}),
        ),
        get("/v1/payout-providers/paypal".into()),
        delete("/v1/payout-providers/paypal".into()),
        post("/v1/payout-runs".into(), json!({"currency": "USD"})),
        post("/v1/payout-runs".into(), json!({"affiliate_id": affiliate})),
        get("/v1/payout-runs".into()),
        get(format!("/v1/payout-runs/{run}")),
        get("/v1/payouts".into()),
        get(format!("/v1/payouts?affiliate_id={affiliate}")),
        get(format!("/v1/payouts/{payout}")),
        post(
            format!("/v1/payouts/{payout}/cancel"),
            json!({"reason": "envy"}),
        ),
        post(
            "/v1/payouts/actions".into(),
            json!({"ids": [payout], "action": "approve"}),
        ),
        get(SEPA_ACCOUNT.into()),
        (
            Method::PUT,
            SEPA_ACCOUNT.into(),
            Some(json!({"holder": "Mallory", "iban": "DE89370400440532013000"})),
        ),
        delete(SEPA_ACCOUNT.into()),
        post(
            PAYOUT_FILES.into(),
            json!({"format": "paypal_csv", "currency": "USD", "payout_ids": [approved]}),
        ),
        get(PAYOUT_FILES.into()),
        get(format!("{PAYOUT_FILES}/{payout_file}")),
        get(format!("{PAYOUT_FILES}/{payout_file}/content")),
        get("/v1/tenant".into()),
        patch("/v1/tenant".into(), json!({"name": "Renamed"})),
        post("/v1/domains".into(), json!({"host": "new.example"})),
        get("/v1/domains".into()),
        delete(format!("/v1/domains/{domain_id}")),
        post(
            "/v1/erasures".into(),
            json!({"visitor_id": "0123456789abcdef"}),
        ),
        get("/v1/erasures".into()),
        post(
            "/v1/publishable-keys".into(),
            json!({"name": "k", "origins": ["https://a.example"]}),
        ),
        get("/v1/publishable-keys".into()),
        patch(
            format!("/v1/publishable-keys/{publishable_id}"),
            json!({"origins": ["https://evil.example"]}),
        ),
        delete(format!("/v1/publishable-keys/{publishable_id}")),
        post(
            "/v1/sources".into(),
            json!({"name": "s", "kind": "stripe", "secret": "whsec_0123456789abcdef"}),
        ),
        get("/v1/sources".into()),
        patch(format!("/v1/sources/{source}"), json!({"name": "renamed"})),
        delete(format!("/v1/sources/{source}")),
        post("/v1/affiliates".into(), json!({"name": "a"})),
        get("/v1/affiliates".into()),
        get(format!("/v1/affiliates/{affiliate}")),
        get(format!("/v1/affiliates/{affiliate}/balance")),
        get(format!(
            "/v1/affiliates/{affiliate}/statement?from=2026-01-01&to=2026-01-31"
        )),
        get("/v1/tax-totals?year=2026".into()),
        get(format!("/v1/affiliates/{affiliate}/tax-totals")),
        post(
            "/v1/links".into(),
            json!({"program_id": program, "affiliate_id": affiliate, "destination": "https://a.example/"}),
        ),
        get("/v1/links".into()),
        get(format!("/v1/links/{link}")),
        (
            Method::PATCH,
            format!("/v1/links/{link}"),
            Some(json!({"active": false})),
        ),
        get("/v1/conversions".into()),
        get("/v1/commissions".into()),
        get("/v1/audit-log".into()),
        get("/v1/postbacks".into()),
        post("/v1/postbacks/test".into(), json!({"query": "order_id=A"})),
        post(
            "/v1/analytics/query".into(),
            json!({"measures": ["clicks", "revenue"], "dimensions": ["link", "affiliate", "program"], "other": true}),
        ),
        post(
            "/v1/analytics/query".into(),
            json!({"measures": ["clicks"], "dimensions": ["sub1", "country"], "granularity": "day"}),
        ),
        get("/v1/analytics/overview".into()),
        get("/v1/analytics/time-series".into()),
        get("/v1/analytics/breakdown?dimension=country".into()),
        get("/v1/analytics/funnel".into()),
        get("/v1/analytics/conversion-delay".into()),
        get("/v1/analytics/traffic-quality".into()),
        get("/v1/analytics/cohorts".into()),
        get("/v1/analytics/lifetime-value".into()),
        get("/v1/analytics/clicks".into()),
        get(format!("/v1/analytics/clicks/{click}")),
        get(LIVE.into()),
        get("/v1/analytics/by-day".into()),
        get("/v1/analytics/by-link".into()),
    ]
}

/// Whether a POST to it changes nothing.
fn only_asks(path: &str) -> bool {
    path == "/v1/analytics/query" || path == "/v1/postbacks/test" || path.ends_with("/preview")
}

/// Whether `path` is one of `template`, such as `/v1/links/{id}`.
fn matches(template: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let parts = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let (template, path) = (parts(template), parts(path));
    template.len() == path.len()
        && template
            .iter()
            .zip(&path)
            .all(|(t, p)| t == p || t.starts_with('{'))
}

async fn ask(
    api: &Api,
    key: &str,
    (method, path, body): &(Method, String, Option<Value>),
) -> Answer {
    let mut request = api.request(key, method.clone(), path);
    if let Some(body) = body {
        request = request.json(body);
    }
    if path != LIVE {
        return api.send(request).await;
    }
    // It has no end: what comes within a moment counts.
    let mut response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let mut text = String::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(MOMENT, response.chunk()).await {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    Answer {
        status,
        headers,
        text,
    }
}

#[tokio::test]
async fn every_operation_refuses_strangers_and_readers_and_hides_other_tenants() {
    let api = Api::start().await;
    let ours = api.tenant("ours").await;
    let theirs = api.tenant("theirs").await;

    let description: Value = serde_json::from_str(&tributary_admin_api::openapi_json()).unwrap();
    // Every text of our click says whose it is.
    let texts = [
        "country",
        "region",
        "city",
        "network",
        "user_agent",
        "device",
        "os",
        "browser",
        "referrer",
        "referrer_domain",
        "channel",
        "sub1",
        "utm_source",
        "bot_reason",
    ];
    let mut texts: serde_json::Map<_, _> = texts
        .iter()
        .map(|column| ((*column).to_owned(), json!("ours")))
        .collect();
    // Its id has digits, like every path below that is about us.
    texts.insert("click_random".to_owned(), json!("0123456789"));
    let now = Clock::system().now().to_rfc3339();
    click_with(&api, &ours, &now, Value::Object(texts)).await;
    let report = json!({"id": uuid(1), "received_at": now, "tenant_id": ours.id, "order_id": "ours", "query": "ours"});
    insert(&api, "postbacks", report).await;
    let clicks = api.get(&ours.analyst, "/v1/analytics/clicks").await.json();
    let click = clicks["items"][0]["id"].as_str().unwrap();
    let order = money::order(&api.pool, &ours, 1, "50", Some("5")).await;
    let coupon =
        json!({"code": "of ours", "program_id": ours.program, "affiliate_id": ours.affiliate});
    let coupon = api.create(&ours.admin, "/v1/coupons", coupon).await;
    let blocked = json!({"kind": "email_domain", "value": "ours.example"});
    let blocked = api.create(&ours.admin, "/v1/blocked", blocked).await;
    let id = |of: &Value| of["id"].as_i64().unwrap();
    let payout = payouts::draft(&api.pool, &ours, 1, "USD").await;
    let run = sqlx::query_scalar("SELECT min(id) FROM payout_runs")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    let account = json!({"holder": "ours", "iban": "DE89370400440532013000"});
    api.put(&ours.admin, SEPA_ACCOUNT, account).await;
    let method = json!({"kind": "paypal", "email": "ours@ours.example"});
    payout_files::payout(&api, &ours, 1, &method, "7", "USD").await;
    let file = json!({"format": "paypal_csv", "currency": "USD"});
    let file = api.create(&ours.admin, PAYOUT_FILES, file).await;
    let source = json!({"name": "shop of ours", "kind": "shopify"});
    let source = api.create(&ours.admin, "/v1/sources", source).await;
    let made = Made {
        click: click.to_owned(),
        order,
        coupon: id(&coupon),
        blocked: id(&blocked),
        source: id(&source),
        payout,
        run,
        approved: payout_files::payout(&api, &ours, 2, &method, "8", "USD").await,
        payout_file: id(&file),
    };
    let all = operations(&ours, &made);
    for (template, methods) in description["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            assert!(
                all.iter()
                    .any(|(m, path, _)| m.as_str().eq_ignore_ascii_case(method)
                        && matches(template, path)),
                "{method} {template} is not in this test's table"
            );
        }
    }

    for operation in &all {
        let (method, path, _) = operation;
        let name = format!("{method} {path}");
        if path != "/v1/sessions" {
            assert_eq!(
                ask(&api, "", operation).await.status,
                401,
                "{name} without a key"
            );
            assert_eq!(
                ask(&api, "trk_unknown", operation).await.status,
                401,
                "{name} with an unknown key"
            );
            if *method != Method::GET && !only_asks(path) {
                let status = ask(&api, &ours.analyst, operation).await.status;
                assert_eq!(status, 403, "{name} by an analyst");
            }
        }
        // Their key, our ids.
        let answer = ask(&api, &theirs.admin, operation).await;
        let about_us = (path.split('?').next().unwrap_or_default())
            .trim_start_matches("/v1")
            .contains(|c: char| c.is_ascii_digit());
        if about_us {
            assert_eq!(
                answer.status, 404,
                "{name} by another tenant: {}",
                answer.text
            );
        } else if path == "/v1/tenants" {
            assert_eq!(answer.status, 403, "{name} by a member");
        } else if *method == Method::POST
            && ([
                "/v1/links",
                "/v1/coupons",
                "/v1/conversions/decisions",
                "/v1/payouts/actions",
                PAYOUT_FILES,
            ]
            .contains(&path.as_str())
                || path == "/v1/payout-runs"
                    && operation
                        .2
                        .as_ref()
                        .is_some_and(|body| body["affiliate_id"].is_i64()))
        {
            assert_eq!(
                answer.status, 422,
                "{name} over what is another tenant's: {}",
                answer.text
            );
        } else if *method == Method::GET && path == SEPA_ACCOUNT {
            assert_eq!(answer.status, 404, "{name}: {}", answer.text);
        } else if *method == Method::GET || only_asks(path) {
            assert_eq!(answer.status, 200, "{name}: {}", answer.text);
            assert!(
                !answer.text.contains("ours"),
                "{name} shows ours: {}",
                answer.text
            );
            if path.starts_with("/v1/ledger") || path.starts_with("/v1/payouts") {
                assert_eq!(answer.json()["items"], json!([]), "{name}");
            }
        }
        // Naming our tenant doesn't help them.
        let (method, path, body) = operation;
        if !path.starts_with("/v1/tenants") && !path.starts_with("/v1/sessions") {
            let mut request = api
                .request(&theirs.admin, method.clone(), path)
                .header("x-tenant-id", ours.id);
            if let Some(body) = body {
                request = request.json(body);
            }
            assert_eq!(api.send(request).await.status, 404, "{name} in our name");
        }
    }
    // Nothing of ours was touched.
    let link = api
        .get(&ours.admin, &format!("/v1/links/{}", ours.link))
        .await
        .json();
    assert_eq!(link["active"], true);
    let program = format!("/v1/programs/{}", ours.program);
    let program = api.get(&ours.admin, &program).await.json();
    assert_eq!(program["window_seconds"], 2_592_000);
    assert_eq!(program["commission_percent"], "10");
    let decided: i64 = sqlx::query_scalar("SELECT count(*) FROM conversion_decisions")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(decided, 0);
    let payout = format!("/v1/payouts/{payout}");
    let payout = api.get(&ours.admin, &payout).await.json();
    assert_eq!(payout["state"], "draft");
    let terms = api.get(&ours.admin, "/v1/payout-terms").await.json();
    assert_eq!(terms["updated_at"], Value::Null);
    let coupons = api.get(&ours.admin, "/v1/coupons").await.json();
    assert_eq!(coupons["items"][0]["active"], true);
    let blocked = api.get(&ours.admin, "/v1/blocked").await.json();
    assert_eq!(blocked["items"][0]["value"], "ours.example");
    let account = api.get(&ours.admin, SEPA_ACCOUNT).await.json();
    assert_eq!(account["holder"], "ours");
    let state: String = sqlx::query_scalar("SELECT state FROM payouts WHERE id = $1")
        .bind(made.approved)
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert_eq!(state, "approved");
    let affiliate = format!("/v1/affiliates/{}", ours.affiliate);
    let affiliate = api.get(&ours.admin, &affiliate).await.json();
    assert_eq!(affiliate["name"], "Ana of ours");
    let domains = api.get(&ours.admin, "/v1/domains").await.json();
    assert_eq!(domains["items"][0]["host"], ours.domain.as_str());
    let keys = api.get(&ours.admin, "/v1/publishable-keys").await.json();
    assert_eq!(keys["items"][0]["origins"][0], "https://ours.example");
    assert_eq!(keys["items"][0]["revoked_at"], Value::Null);
    let sources = api.get(&ours.admin, "/v1/sources").await.json();
    assert_eq!(sources["items"][0]["name"], "shop of ours");
    assert_eq!(sources["items"][0]["revoked_at"], Value::Null);
    let tenant = api.get(&ours.admin, "/v1/tenant").await.json();
    assert_eq!(tenant["name"], "ours");
    assert_eq!(
        api.get(&ours.admin, "/v1/links").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn the_owner_acts_for_the_tenant_that_it_names() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let named = |id: &str| {
        api.request(OWNER_KEY, Method::GET, "/v1/links")
            .header("x-tenant-id", id.to_owned())
    };
    assert_eq!(api.get(OWNER_KEY, "/v1/links").await.status, 400);
    assert_eq!(api.send(named("seven")).await.status, 400);
    assert_eq!(api.send(named("999999")).await.status, 404);
    let links = api.send(named(&tenant.id.to_string())).await.json();
    assert_eq!(links["items"][0]["code"], tenant.code.as_str());
    assert_eq!(links["items"][0]["url"], "http://go.test/r/ours-1");
}
