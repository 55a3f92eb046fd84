//! Analytics over real facts: days of the tenant's zone, people apart from bots, exact money.

use serde_json::{Value, json};

use crate::harness::{Api, Tenant};

/// A row of `table`, as JSON.
async fn insert(api: &Api, table: &str, row: Value) {
    let row = row.to_string().replace('?', "??");
    api.isolated
        .facts()
        .with_setting("date_time_input_format", "best_effort")
        .query(&format!("INSERT INTO {table} FORMAT JSONEachRow {row}"))
        .execute()
        .await
        .unwrap();
}

/// A click with what `more` says of it.
async fn click_with(api: &Api, tenant: &Tenant, at: &str, more: Value) {
    let row = json!({"received_at": at, "tenant_id": tenant.id, "program_id": tenant.program,
        "affiliate_id": tenant.affiliate, "link_id": tenant.link});
    insert(api, "clicks", with(row, more)).await;
}

async fn click(api: &Api, tenant: &Tenant, link: i64, at: &str, visitor: u64, is_bot: u8) {
    let more = json!({"link_id": link, "visitor_id": visitor, "is_bot": is_bot});
    click_with(api, tenant, at, more).await;
}

fn uuid(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

async fn conversion(
    api: &Api,
    tenant: &Tenant,
    number: u32,
    link: i64,
    at: &str,
    amount: (&str, &str),
    version: u64,
) {
    let row = json!({"conversion_id": uuid(number), "accepted_at": at, "tenant_id": tenant.id, "link_id": link,
        "affiliate_id": if link == 0 { 0 } else { tenant.affiliate }, "program_id": if link == 0 { 0 } else { tenant.program },
        "order_id": number.to_string(), "event": "sale", "amount": amount.0, "currency": amount.1, "version": version});
    insert(api, "conversions", row).await;
}

async fn commission(
    api: &Api,
    tenant: &Tenant,
    number: u32,
    at: &str,
    amount: (&str, &str),
    state: &str,
) {
    let row = json!({"commission_id": uuid(number), "conversion_id": uuid(number), "created_at": at,
        "tenant_id": tenant.id, "program_id": tenant.program, "affiliate_id": tenant.affiliate, "link_id": tenant.link,
        "amount": amount.0, "currency": amount.1, "state": state, "version": 1});
    insert(api, "commissions", row).await;
}

/// Two days in Berlin, where the first ends at 23:00 UTC.
async fn facts(api: &Api, ours: &Tenant, theirs: &Tenant) -> i64 {
    let second = api
        .create(&ours.admin, "/v1/links", json!({"code": "second", "program_id": ours.program, "affiliate_id": ours.affiliate, "destination": "https://a.example/"}))
        .await["id"]
        .as_i64()
        .unwrap();
    for (link, at, visitor, is_bot) in [
        (ours.link, "2026-01-10T22:59:59Z", 1, 0),
        (ours.link, "2026-01-10T23:00:00Z", 1, 0),
        (ours.link, "2026-01-11T12:00:00Z", 2, 0),
        (ours.link, "2026-01-11T12:00:01Z", 2, 0),
        (ours.link, "2026-01-11T13:00:00Z", 3, 1),
        (second, "2026-01-11T14:00:00Z", 0, 0),
        (second, "2026-01-13T14:00:00Z", 9, 0),
    ] {
        click(api, ours, link, at, visitor, is_bot).await;
    }
    click(api, theirs, theirs.link, "2026-01-11T12:00:00Z", 5, 0).await;
    // The first was corrected: only its latest version counts.
    conversion(
        api,
        ours,
        1,
        ours.link,
        "2026-01-11T15:00:00Z",
        ("99.0000", "USD"),
        1,
    )
    .await;
    conversion(
        api,
        ours,
        1,
        ours.link,
        "2026-01-11T15:00:00Z",
        ("100.1000", "USD"),
        2,
    )
    .await;
    conversion(
        api,
        ours,
        2,
        ours.link,
        "2026-01-11T16:00:00Z",
        ("0.2", "USD"),
        1,
    )
    .await;
    conversion(api, ours, 3, 0, "2026-01-11T16:00:00Z", ("500", "JPY"), 1).await;
    conversion(
        api,
        theirs,
        4,
        theirs.link,
        "2026-01-11T16:00:00Z",
        ("7", "USD"),
        1,
    )
    .await;
    commission(
        api,
        ours,
        1,
        "2026-01-11T15:00:00Z",
        ("10.01", "USD"),
        "pending",
    )
    .await;
    commission(
        api,
        ours,
        2,
        "2026-01-11T16:00:00Z",
        ("0.02", "USD"),
        "rejected",
    )
    .await;
    commission(
        api,
        theirs,
        4,
        "2026-01-11T16:00:00Z",
        ("0.70", "USD"),
        "pending",
    )
    .await;
    second
}

fn figures(
    clicks: u64,
    bots: u64,
    visitors: u64,
    conversions: u64,
    revenue: Value,
    commission: Value,
) -> Value {
    json!({"clicks": clicks, "bot_clicks": bots, "unique_visitors": visitors, "conversions": conversions,
           "revenue": revenue, "commission": commission})
}

fn with(mut value: Value, more: Value) -> Value {
    value
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    value
}

#[tokio::test]
async fn days_are_the_tenants_and_hold_its_facts_only() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let second = facts(&api, &ours, &theirs).await;
    let revenue =
        json!([{"amount": "500", "currency": "JPY"}, {"amount": "100.30", "currency": "USD"}]);
    let commission = json!([{"amount": "10.01", "currency": "USD"}]);
    let answer = api
        .get(
            &ours.analyst,
            "/v1/analytics/by-day?from=2026-01-10&to=2026-01-12",
        )
        .await;
    assert_eq!(
        answer.json(),
        json!({
            "from": "2026-01-09T23:00:00Z", "to": "2026-01-12T23:00:00Z", "time_zone": "Europe/Berlin",
            "items": [
                with(json!({"day": "2026-01-10"}), figures(1, 0, 1, 0, json!([]), json!([]))),
                with(json!({"day": "2026-01-11"}), figures(4, 1, 2, 3, revenue.clone(), commission.clone())),
                with(json!({"day": "2026-01-12"}), figures(0, 0, 0, 0, json!([]), json!([]))),
            ],
            "totals": figures(5, 1, 2, 3, revenue, commission),
        }),
        "{}",
        answer.text
    );
    let one = api
        .get(
            &ours.admin,
            &format!("/v1/analytics/by-day?from=2026-01-10&to=2026-01-12&link_id={second}"),
        )
        .await;
    assert_eq!(
        one.json()["totals"],
        figures(1, 0, 0, 0, json!([]), json!([]))
    );
    let exact = api
        .get(
            &ours.admin,
            "/v1/analytics/by-day?from=2026-01-11T12:00:01Z&to=2026-01-11T13:00:00Z",
        )
        .await;
    assert_eq!(exact.json()["totals"]["clicks"], 1);
    let csv = api.request(
        &ours.admin,
        reqwest::Method::GET,
        "/v1/analytics/by-day?from=2026-01-10&to=2026-01-12",
    );
    assert_eq!(
        api.send(csv.header("accept", "text/csv")).await.text,
        "day,clicks,bot_clicks,unique_visitors,conversions,revenue,commission\n\
         2026-01-10,1,0,1,0,,\n2026-01-11,4,1,2,3,500 JPY; 100.30 USD,10.01 USD\n2026-01-12,0,0,0,0,,\n"
    );
}

#[tokio::test]
async fn links_come_with_names_and_what_was_not_attributed_stands_apart() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let second = facts(&api, &ours, &theirs).await;
    let answer = api
        .get(
            &ours.analyst,
            "/v1/analytics/by-link?from=2026-01-10&to=2026-01-12",
        )
        .await;
    let named = |id: Value, code: Value| json!({"link_id": id, "code": code, "program_id": ours.program, "affiliate_id": ours.affiliate, "affiliate_name": "Ana of ours"});
    let usd = |amount: &str| json!([{"amount": amount, "currency": "USD"}]);
    let nameless = json!({"link_id": null, "code": null, "program_id": null, "affiliate_id": null, "affiliate_name": null});
    assert_eq!(
        answer.json()["items"],
        json!([
            with(
                named(json!(ours.link), json!("ours-1")),
                figures(4, 1, 2, 2, usd("100.30"), usd("10.01"))
            ),
            with(
                named(json!(second), json!("second")),
                figures(1, 0, 0, 0, json!([]), json!([]))
            ),
            with(
                nameless,
                figures(
                    0,
                    0,
                    0,
                    1,
                    json!([{"amount": "500", "currency": "JPY"}]),
                    json!([])
                )
            ),
        ]),
        "{}",
        answer.text
    );
    assert_eq!(answer.json()["totals"]["clicks"], 5);
    let top = api
        .get(
            &ours.admin,
            "/v1/analytics/by-link?from=2026-01-10&to=2026-01-12&limit=1",
        )
        .await
        .json();
    assert_eq!(
        top["items"].as_array().unwrap().len(),
        2,
        "the first link, and what was not attributed"
    );
}
