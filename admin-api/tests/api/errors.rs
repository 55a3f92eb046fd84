//! What is said of a bad request, word for word.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::json;

use crate::analytics::with;
use crate::harness::{Answer, Api, OWNER_KEY};

fn told(report: &mut String, what: &str, answer: &Answer) {
    assert_eq!(
        answer.header("content-type"),
        "application/problem+json",
        "{what}: {}",
        answer.text
    );
    assert_eq!(answer.json()["status"], answer.status.as_u16(), "{what}");
    writeln!(report, "{what}\n  {}", answer.text).unwrap();
}

#[tokio::test]
async fn bad_requests_are_told_what_to_change() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let key = tenant.admin.as_str();
    let mut report = String::new();

    let json_posts = [
        ("/v1/programs", json!({})),
        (
            "/v1/programs",
            json!({"name": " ", "currency": "usd", "commission_percent": "100.1", "window_seconds": 0, "hold_seconds": -1}),
        ),
        (
            "/v1/programs",
            json!({"name": "p", "currency": "USD", "commission_percent": 10, "window_seconds": 1, "hold_seconds": 0}),
        ),
        (
            "/v1/programs",
            json!({"name": "p", "currency": "USD", "commission_percent": "1", "window_seconds": 1.5, "hold_seconds": 0}),
        ),
        (
            "/v1/programs",
            json!({"name": "p", "currency": "USD", "commission_percent": "1", "window_seconds": 1, "hold_seconds": 0, "color": "red"}),
        ),
        (
            "/v1/programs",
            json!({"name": "p\u{0}", "currency": "XXX", "commission_percent": "1.00001", "window_seconds": 31_622_401, "hold_seconds": 0}),
        ),
        (
            "/v1/affiliates",
            json!({"name": "x".repeat(201), "email": "nobody"}),
        ),
        ("/v1/affiliates", json!([1])),
        (
            "/v1/links",
            json!({"code": "a b", "program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "ftp://a.example"}),
        ),
        (
            "/v1/links",
            json!({"code": tenant.code, "program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "https://a.example/"}),
        ),
        (
            "/v1/links",
            json!({"program_id": 999_999, "affiliate_id": -1, "destination": "https://a.example/?x={gclid}"}),
        ),
        (
            "/v1/links",
            json!({"program_id": 999_999, "affiliate_id": -1, "destination": "https://a.example/"}),
        ),
        (
            "/v1/programs",
            json!({"name": "p", "currency": "USD", "commission_percent": "1", "window_seconds": 1, "hold_seconds": 0, "override_hosts": ["shop.example", "*"]}),
        ),
        (
            "/v1/links",
            json!({"routing": {"routes": [{"countries": ["UK"], "languages": ["de-AT"], "variants": []}], "variants": [{"destination": "ftp://x", "weight": 0}]},
                "program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "https://a.example/"}),
        ),
        (
            "/v1/links",
            json!({"routing": {"routes": [{"devices": ["desktop", "phone"], "variants": []}]},
                "program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "https://a.example/"}),
        ),
        (
            "/v1/links",
            json!({"routing": {"routes": [{"countries": ["DE"]}]},
                "program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "https://a.example/"}),
        ),
        (
            "/v1/links",
            json!({"routing": {"routes": [{"schedule": {"time_zone": "Mars", "from_minute": 1440, "to_minute": 1441,
                "starts_at": "2026-01-02T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"}, "variants": [{"destination": "https://a.example/"}]}]},
                "program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "https://a.example/"}),
        ),
        (
            "/v1/links",
            json!({"click_cap": 0, "fallback_url": "https://a.example/{click_id}", "expires_at": "1970-01-01T00:00:00Z",
                "program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "https://a.example/"}),
        ),
        (
            "/v1/links",
            json!({"click_cap_period": "hour", "program_id": tenant.program, "affiliate_id": tenant.affiliate, "destination": "https://a.example/"}),
        ),
        ("/v1/domains", json!({"host": "Go.shop.example:443"})),
        ("/v1/domains", json!({"host": "go.test"})),
        ("/v1/domains", json!({"host": tenant.domain})),
        ("/v1/publishable-keys", json!({"name": "", "origins": []})),
        (
            "/v1/programs",
            json!({"name": "p", "currency": "USD", "commission_percent": "1", "window_seconds": 1, "hold_seconds": 0,
                "model": "coin", "upline_percents": ["101"]}),
        ),
        (
            "/v1/programs",
            json!({"name": "p", "currency": "USD", "commission_percent": "1", "window_seconds": 1, "hold_seconds": 0,
                "upline_percents": ["1", "101"]}),
        ),
        (
            "/v1/affiliates",
            json!({"name": "a", "tier": " ", "groups": ["g", "g"], "tags": vec!["t"; 51]}),
        ),
        ("/v1/affiliates", json!({"name": "a", "parent_id": 999_999})),
        (
            "/v1/coupons",
            json!({"code": "A\tB", "program_id": tenant.program, "affiliate_id": tenant.affiliate}),
        ),
        (
            "/v1/coupons",
            json!({"code": "A", "program_id": 999_999, "affiliate_id": -1}),
        ),
        (
            "/v1/exchange-rates",
            json!({"base": "USD", "quote": "USD", "rate": "0", "valid_from": "1970-01-01T00:00:00Z"}),
        ),
        (
            "/v1/payout-files",
            json!({"format": "sepa", "currency": "USD", "payout_ids": []}),
        ),
        (
            "/v1/payout-files",
            json!({"format": "paypal_csv", "currency": "KWD", "execution_date": "2026-12-01"}),
        ),
        (
            "/v1/payout-files",
            json!({"format": "sepa", "currency": "EUR"}),
        ),
        (
            "/v1/payout-files",
            json!({"format": "bank_csv", "currency": "EUR"}),
        ),
        (
            "/v1/payout-files",
            json!({"format": "bank_csv", "currency": "EUR", "payout_ids": ["0199f3a4-5b6c-7d8e-9f01-23456789abcd"]}),
        ),
        (
            "/v1/conversions/decisions",
            json!({"ids": [], "decision": "reject", "reason": ""}),
        ),
        (
            "/v1/conversions/decisions",
            json!({"ids": ["0199f3a4-5b6c-7d8e-9f01-23456789abcd"], "decision": "reject", "reason": "a test"}),
        ),
        (
            "/v1/conversions/decisions",
            json!({"ids": ["order 7"], "decision": "forget", "reason": "a test"}),
        ),
        (
            "/v1/publishable-keys",
            json!({"name": "k", "origins": ["https://a.example", "https://a.example/path"]}),
        ),
    ];
    for (path, body) in json_posts {
        let mut shown = body.to_string();
        shown.truncate(150);
        told(
            &mut report,
            &format!("POST {path} {shown}"),
            &api.post(key, path, body).await,
        );
    }
    told(
        &mut report,
        "PATCH /v1/tenant",
        &api.patch(
            key,
            "/v1/tenant",
            json!({"fallback_url": "/gone", "cookie_domain": "example", "time_zone": "Moon", "name": ""}),
        )
        .await,
    );
    let owner_posts = [
        json!({"slug": "Ours!", "name": "", "time_zone": "Moon"}),
        json!({"slug": "ours", "name": "Ours"}),
    ];
    for body in owner_posts {
        told(
            &mut report,
            &format!("POST /v1/tenants {body}"),
            &api.post(OWNER_KEY, "/v1/tenants", body).await,
        );
    }

    for body in [
        "",
        "{",
        "{\"name\":\"a\"} x",
        "nul",
        "{\"name\":\"\\ud800\"}",
    ] {
        let request = api
            .request(key, Method::POST, "/v1/affiliates")
            .header("content-type", "application/json");
        told(
            &mut report,
            &format!("POST /v1/affiliates {body}"),
            &api.send(request.body(body)).await,
        );
    }
    let form = api
        .request(key, Method::POST, "/v1/affiliates")
        .body("name=a");
    told(
        &mut report,
        "POST /v1/affiliates without a content type",
        &api.send(form).await,
    );
    let large = json!({"name": "x".repeat(70_000)});
    told(
        &mut report,
        "POST /v1/affiliates with 70 kB",
        &api.post(key, "/v1/affiliates", large).await,
    );

    let days = json!({"measures": ["clicks"], "from": "2026-01-01", "to": "2026-01-31"});
    let questions = [
        json!({"measures": []}),
        json!({"measures": ["clicks", "clicks"]}),
        json!({"measures": ["hits"]}),
        json!({"measures": ["clicks"], "table": "clicks"}),
        json!({"measures": ["clicks"], "dimensions": ["country", "os", "device", "browser"]}),
        json!({"measures": ["clicks", "revenue", "conversion_rate"], "dimensions": ["country", "link"]}),
        json!({"measures": ["commission"], "filters": [{"dimension": "sub1", "in": ["a"]}]}),
        json!({"measures": ["clicks"], "filters": [{"dimension": "country"}]}),
        json!({"measures": ["clicks"], "filters": [{"dimension": "country", "in": []}]}),
        json!({"measures": ["clicks"], "filters": [{"dimension": "link", "in": ["x"]}]}),
        json!({"measures": ["clicks"], "filters": [{"dimension": "outcome", "not_in": [4]}]}),
        json!({"measures": ["clicks"], "filters": [{"dimension": "country", "in": vec!["DE"; 201]}]}),
        json!({"measures": ["clicks"], "filters": [{"dimension": "sub1", "in": ["x".repeat(513)]}]}),
        json!({"measures": ["clicks"], "filters": [{"dimension": "sub1", "in": vec!["'".repeat(400); 41]}]}),
        json!({"measures": ["clicks"], "filters": vec![json!({"dimension": "sub1", "in": ["x"]}); 11]}),
        json!({"measures": ["clicks"], "dimensions": ["link"], "limit": 1001}),
        json!({"measures": ["clicks", "bot_rate"], "dimensions": ["link"], "order_by": "bot_rate"}),
        json!({"measures": ["revenue"], "dimensions": ["link"], "order_by": "revenue"}),
        json!({"measures": ["clicks"], "dimensions": ["link"], "order_currency": "EUR"}),
        json!({"measures": ["clicks"], "time_zone": "Mars"}),
        json!({"measures": ["clicks"], "from": "2025-01-01", "to": "2026-02-01", "granularity": "quarter_hour"}),
        json!({"measures": ["clicks"], "from": "2026-01-01", "to": "2026-01-31", "granularity": "hour",
            "dimensions": ["link"], "limit": 50, "other": true}),
        json!({"measures": ["clicks"], "from": "2000-01-01", "to": "2000-01-31", "compare": "previous_year"}),
        with(days, json!({"granularity": "minute"})),
    ];
    for question in questions {
        let answer = api.post(key, "/v1/analytics/query", question.clone()).await;
        let question = question.to_string();
        let shown: String = question.chars().take(150).collect();
        told(
            &mut report,
            &format!("POST /v1/analytics/query {shown}"),
            &answer,
        );
    }

    let gets = [
        "/v1/links/0",
        "/v1/links/-1",
        "/v1/links/x",
        "/v1/links/99999999999999999999",
        "/v1/links/999999",
        "/v1/programs/999999",
        "/v1/affiliates/999999/balance",
        "/v1/links?limit=0",
        "/v1/links?limit=ten",
        "/v1/links?cursor=abc",
        "/v1/links?page=2",
        "/v1/links?code=%00",
        "/v1/conversions?from=yesterday",
        "/v1/conversions?link_id=x",
        "/v1/conversions?status=lost",
        "/v1/conversions?attribution=luck",
        "/v1/conversions/7",
        "/v1/conversions/0199f3a4-5b6c-7d8e-9f01-23456789abcd",
        "/v1/commissions/0199f3a4-5b6c-7d8e-9f01-23456789abcd",
        "/v1/programs/999999/rules",
        "/v1/ledger",
        "/v1/ledger?commission_id=7",
        "/v1/commissions?cursor=aTE",
        "/v1/commissions?all=true",
        "/v1/affiliates/999999/statement?from=2026-01-01&to=2026-01-31",
        "/v1/affiliates/999999/tax-totals",
        "/v1/tax-totals",
        "/v1/tax-totals?year=1999",
        "/v1/tax-totals?year=2026&at_least=600.00",
        "/v1/tax-totals?year=2026&currency=usd",
        "/v1/tax-totals?year=2026&currency=JPY&at_least=0.5",
        "/v1/analytics/by-day?from=2026-02-02&to=2026-02-01",
        "/v1/analytics/by-day?from=2024-01-01&to=2026-01-01",
        "/v1/analytics/by-day?link_id=0",
        "/v1/analytics/by-link?limit=201",
        "/v1/analytics/overview?compare=yesterday",
        "/v1/analytics/breakdown",
        "/v1/analytics/breakdown?dimension=address",
        "/v1/analytics/funnel?program_id=-1",
        "/v1/analytics/clicks?signal=odd",
        "/v1/analytics/clicks?visitor_id=+1",
        "/v1/analytics/clicks?limit=201",
        "/v1/analytics/clicks?cursor=aTE",
        "/v1/analytics/clicks/not-a-click",
        "/v1/nothing",
        "/nothing",
        "/v1/tenants/x/users",
        "/v1/links/%ff",
    ];
    for path in gets {
        told(
            &mut report,
            &format!("GET {path}"),
            &api.get(key, path).await,
        );
    }
    for days in [
        "",
        "?from=2026-01-01",
        "?from=2026-01-01T00:00:00Z&to=2026-01-31",
        "?from=2026-02-01&to=2026-01-31",
        "?from=2025-01-01&to=2026-12-31",
    ] {
        let path = format!("/v1/affiliates/{}/statement{days}", tenant.affiliate);
        told(
            &mut report,
            &format!("GET /v1/affiliates/{{id}}/statement{days}"),
            &api.get(key, &path).await,
        );
    }
    let request = api.request(key, Method::GET, "/v1/ledger?all=true&limit=5");
    told(
        &mut report,
        "GET /v1/ledger?all=true&limit=5 as CSV",
        &api.send(request.header("accept", "text/csv")).await,
    );
    told(
        &mut report,
        "DELETE /v1/links",
        &api.delete(key, "/v1/links").await,
    );
    told(
        &mut report,
        "GET /v1/links without a key",
        &api.get("", "/v1/links").await,
    );
    told(
        &mut report,
        "PATCH /v1/links/{id}",
        &api.patch(
            key,
            &format!("/v1/links/{}", tenant.link),
            json!({"code": "new"}),
        )
        .await,
    );

    insta::assert_snapshot!(report);
}
