//! Analytics over real facts: days of the tenant's zone, people apart from bots, exact money.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tributary_shared::click_token::ClickToken;
use tributary_shared::clock::Clock;
use tributary_shared::ids::LinkId;
use tributary_shared::signals;

use crate::harness::{Answer, Api, Tenant};

/// A row of `table`, as JSON.
pub(crate) async fn insert(api: &Api, table: &str, row: Value) {
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
pub(crate) async fn click_with(api: &Api, tenant: &Tenant, at: &str, more: Value) {
    let row = json!({"received_at": at, "tenant_id": tenant.id, "program_id": tenant.program,
        "affiliate_id": tenant.affiliate, "link_id": tenant.link});
    insert(api, "clicks", with(row, more)).await;
}

async fn click(api: &Api, tenant: &Tenant, link: i64, at: &str, visitor: u64, is_bot: u8) {
    let more = json!({"link_id": link, "visitor_id": visitor, "is_bot": is_bot});
    click_with(api, tenant, at, more).await;
}

pub(crate) fn uuid(number: u32) -> String {
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

pub(crate) fn with(mut value: Value, more: Value) -> Value {
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

/// Clicks of two days, and one of the two days before.
async fn varied(api: &Api, ours: &Tenant, theirs: &Tenant) {
    for (at, more) in [
        (
            "2026-01-08T10:00:00Z",
            json!({"country": "US", "device": "mobile", "visitor_id": 4}),
        ),
        (
            "2026-01-10T10:00:00Z",
            json!({"country": "DE", "device": "mobile", "visitor_id": 1, "sub1": "it's \\ ?"}),
        ),
        (
            "2026-01-10T10:20:00Z",
            json!({"country": "DE", "device": "desktop", "visitor_id": 1, "outcome": 1}),
        ),
        (
            "2026-01-11T10:00:00Z",
            json!({"country": "US", "device": "mobile", "visitor_id": 2}),
        ),
        (
            "2026-01-11T11:00:00Z",
            json!({"country": "FR", "device": "mobile", "visitor_id": 3, "is_bot": 1, "bot_reason": "crawler"}),
        ),
        // Not resolved by the edge: not counted.
        (
            "2026-01-11T12:00:00Z",
            json!({"country": "DE", "device": "mobile", "visitor_id": 5, "outcome": 4}),
        ),
    ] {
        click_with(api, ours, at, more).await;
    }
    let more = json!({"country": "XX", "device": "mobile", "visitor_id": 9});
    click_with(api, theirs, "2026-01-10T10:00:00Z", more).await;
}

async fn asked(api: &Api, key: &str, question: Value) -> Value {
    let answer = api.post(key, "/v1/analytics/query", question).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// One measure of each row.
fn column(answer: &Value, measure: &str) -> Vec<Value> {
    let rows = answer["items"].as_array().unwrap();
    rows.iter()
        .map(|row| row["measures"][measure].clone())
        .collect()
}

#[tokio::test]
async fn one_question_combines_measures_dimensions_and_filters() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    varied(&api, &ours, &theirs).await;
    let ask = async |question: Value| {
        let period = json!({"from": "2026-01-10", "to": "2026-01-11"});
        asked(&api, &ours.analyst, with(period, question)).await
    };

    let top = ask(json!({"measures": ["clicks", "bot_clicks", "unique_visitors", "bot_rate"], "dimensions": ["country"],
        "limit": 1, "other": true, "compare": "previous_period"})).await;
    let measured = |clicks: u64, bots: u64, visitors: u64, rate: Value| json!({"clicks": clicks, "bot_clicks": bots, "unique_visitors": visitors, "bot_rate": rate});
    assert_eq!(
        top,
        json!({
            "from": "2026-01-09T23:00:00Z", "to": "2026-01-11T23:00:00Z", "time_zone": "Europe/Berlin",
            "compared_with": {"from": "2026-01-07T23:00:00Z", "to": "2026-01-09T23:00:00Z"},
            "items": [
                {"time": null, "other": false, "dimensions": {"country": "DE"}, "names": {},
                 "measures": measured(2, 0, 1, json!("0")), "previous": measured(0, 0, 0, json!(null))},
                {"time": null, "other": true, "dimensions": {"country": null}, "names": {},
                 "measures": measured(1, 1, 1, json!("0.5")), "previous": measured(1, 0, 1, json!("0"))},
            ],
        })
    );

    let days = ask(json!({"measures": ["clicks"], "granularity": "day", "from": "2026-01-09", "to": "2026-01-12"})).await;
    assert_eq!(column(&days, "clicks"), [0, 2, 1, 0]);
    assert_eq!(days["items"][1]["time"], "2026-01-10");
    let hours = ask(json!({"measures": ["clicks", "unique_visitors"], "granularity": "hour", "time_zone": "Asia/Kolkata"})).await;
    assert_eq!(column(&hours, "clicks").len(), 48);
    let busy = &hours["items"][15];
    assert_eq!(
        (&busy["time"], &busy["measures"]),
        (
            &json!("2026-01-10T15:00:00+05:30"),
            &json!({"clicks": 2, "unique_visitors": 1})
        )
    );
    let weeks = ask(json!({"measures": ["clicks"], "granularity": "week", "dimensions": ["device"], "from": "2026-01-01"})).await;
    assert_eq!(weeks["items"].as_array().unwrap().len(), 4, "{weeks}");

    for (filters, clicks) in [
        (json!([{"dimension": "country", "in": ["DE", "FR"]}]), 2),
        (
            json!([{"dimension": "country", "in": ["DE"]}, {"dimension": "device", "not_in": ["desktop"]}]),
            1,
        ),
        (json!([{"dimension": "sub1", "in": ["it's \\ ?"]}]), 1),
        (
            json!([{"dimension": "sub1", "in": vec![r"\'".repeat(250); 30]}]),
            0,
        ), // as long as it escaped gets
        (json!([{"dimension": "outcome", "in": ["expired"]}]), 1),
        (
            json!([{"dimension": "link", "in": [ours.link, theirs.link]}]),
            3,
        ),
        (
            json!([{"dimension": "link", "in": [theirs.link.to_string()]}]),
            0,
        ),
        (json!([{"dimension": "bot_reason", "not_in": [""]}]), 0),
    ] {
        let answer = ask(json!({"measures": ["clicks"], "filters": filters})).await;
        assert_eq!(column(&answer, "clicks"), [clicks], "{filters}");
    }
    let nobody = asked(&api, &theirs.admin, json!({"measures": ["clicks"], "dimensions": ["country"], "from": "2026-01-01", "to": "2026-01-31"})).await;
    assert_eq!(nobody["items"].as_array().unwrap().len(), 1);
    assert_eq!(nobody["items"][0]["dimensions"]["country"], "XX");

    let csv = api
        .request(&ours.admin, Method::POST, "/v1/analytics/query")
        .header("accept", "text/csv")
        .json(&json!({"measures": ["clicks"], "dimensions": ["country", "device"], "from": "2026-01-10", "to": "2026-01-11", "limit": 2, "other": true}));
    assert_eq!(
        api.send(csv).await.text,
        "time,other,dimensions.country,dimensions.device,measures.clicks\n,false,DE,desktop,1\n,false,DE,mobile,1\n,true,,,1\n"
    );
}

#[tokio::test]
async fn money_is_told_by_program_affiliate_and_link() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    facts(&api, &ours, &theirs).await;
    let answer = asked(
        &api,
        &ours.analyst,
        json!({"measures": ["clicks", "conversions", "revenue", "commission", "conversion_rate", "earnings_per_click", "average_order_value"],
            "dimensions": ["affiliate"], "from": "2026-01-10", "to": "2026-01-12", "order_by": "revenue", "order_currency": "USD", "limit": 1, "other": true}),
    )
    .await;
    let usd = |amount: &str| json!([{"amount": amount, "currency": "USD"}]);
    let jpy = json!([{"amount": "500", "currency": "JPY"}]);
    assert_eq!(
        answer["items"],
        json!([
            {"time": null, "other": false, "dimensions": {"affiliate": ours.affiliate}, "names": {"affiliate": "Ana of ours"},
             "measures": {"clicks": 5, "conversions": 2, "revenue": usd("100.30"), "commission": usd("10.01"),
                "conversion_rate": "0.4", "earnings_per_click": usd("2.002"), "average_order_value": usd("50.15")}},
            {"time": null, "other": true, "dimensions": {"affiliate": null}, "names": {"affiliate": null},
             "measures": {"clicks": 0, "conversions": 1, "revenue": jpy, "commission": [],
                "conversion_rate": null, "earnings_per_click": [], "average_order_value": jpy}},
        ])
    );
    let overview = api
        .get(
            &ours.analyst,
            "/v1/analytics/overview?from=2026-01-10&to=2026-01-12",
        )
        .await
        .json();
    assert_eq!(
        overview["totals"]["revenue"],
        json!([jpy[0], usd("100.30")[0]])
    );
    assert_eq!(overview["totals"]["clicks"], 5);
    assert_eq!(overview["previous"]["clicks"], 0);
    assert_eq!(overview["compared_with"]["from"], "2026-01-06T23:00:00Z");
    let series = api
        .get(
            &ours.analyst,
            "/v1/analytics/time-series?from=2026-01-10&to=2026-01-12",
        )
        .await
        .json();
    assert_eq!(column(&series, "clicks"), [1, 4, 0]);
    assert_eq!(column(&series, "conversions"), [0, 3, 0]);
    let links = api
        .get(
            &ours.analyst,
            "/v1/analytics/breakdown?dimension=link&from=2026-01-10&to=2026-01-12",
        )
        .await
        .json();
    assert_eq!(links["items"][0]["names"]["link"], "ours-1");
    assert_eq!(column(&links, "clicks"), [4, 1, 0]);
}

#[tokio::test]
async fn clicks_become_leads_and_sales_after_a_while() {
    let api = Api::start().await;
    let ours = api.tenant("ours").await;
    for second in 0..4 {
        click(
            &api,
            &ours,
            ours.link,
            &format!("2026-01-10T10:00:0{second}Z"),
            second,
            0,
        )
        .await;
    }
    let keys = format!("1:{}", "0f".repeat(32)).parse().unwrap();
    let clicked = "2026-01-10T10:00:00Z".parse().unwrap();
    let token = ClickToken::mint(&keys, LinkId(ours.link), clicked);
    for (number, event, at, click_id, attribution) in [
        (
            1,
            "lead",
            "2026-01-10T10:00:30Z",
            token.as_str(),
            "click_token",
        ),
        (
            2,
            "lead",
            "2026-01-10T10:30:00Z",
            token.as_str(),
            "click_token",
        ),
        (
            3,
            "sale",
            "2026-01-12T10:00:00Z",
            token.as_str(),
            "click_token",
        ),
        (
            4,
            "install",
            "2026-01-10T10:00:40Z",
            token.as_str(),
            "click_token",
        ),
        (5, "sale", "2026-01-10T10:00:00Z", "", "no_click"),
    ] {
        let row = json!({"conversion_id": uuid(number), "accepted_at": at, "tenant_id": ours.id, "link_id": ours.link, "click_id": click_id,
            "order_id": number.to_string(), "event": event, "amount": "1", "currency": "USD", "version": 1, "attribution": attribution});
        insert(&api, "conversions", row).await;
    }
    let period = "from=2026-01-10&to=2026-01-12";
    let funnel = api
        .get(&ours.analyst, &format!("/v1/analytics/funnel?{period}"))
        .await;
    assert_eq!(
        funnel.json(),
        json!({
            "steps": [
                {"step": "click", "count": 4, "of_clicks": "1", "of_previous": null},
                {"step": "lead", "count": 2, "of_clicks": "0.5", "of_previous": "0.5"},
                {"step": "sale", "count": 1, "of_clicks": "0.25", "of_previous": "0.5"},
            ],
            "other_events": [{"event": "install", "number": 1}],
        }),
        "{}",
        funnel.text
    );
    let delay = api
        .get(
            &ours.analyst,
            &format!(
                "/v1/analytics/conversion-delay?{period}&link_id={}",
                ours.link
            ),
        )
        .await
        .json();
    assert_eq!(
        (&delay["conversions"], &delay["p99"]),
        (&json!(4), &json!(172_800))
    );
    let counts: Vec<_> = delay["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["conversions"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [2, 0, 1, 0, 1, 0, 0], "{delay}");
    let empty = api
        .get(
            &ours.analyst,
            "/v1/analytics/conversion-delay?from=2026-02-01&to=2026-02-02",
        )
        .await
        .json();
    assert_eq!(
        (&empty["conversions"], &empty["median"]),
        (&json!(0), &json!(null))
    );
}

#[tokio::test]
async fn bots_and_signals_are_reported_by_affiliate() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let (duplicate, prefetch) = (signals::DUPLICATE.mask(), signals::PREFETCH.mask());
    // In Berlin's days: the first and the last lie on the edges of the days of UTC.
    for (at, more) in [
        ("2026-01-09T23:30:00Z", json!({"signals": duplicate})),
        (
            "2026-01-10T12:00:00Z",
            json!({"signals": duplicate | prefetch}),
        ),
        ("2026-01-10T12:00:00Z", json!({})),
        (
            "2026-01-11T22:30:00Z",
            json!({"is_bot": 1, "bot_reason": "crawler", "signals": prefetch}),
        ),
        ("2026-01-11T23:30:00Z", json!({"signals": duplicate})),
    ] {
        click_with(&api, &ours, at, more).await;
    }
    click_with(
        &api,
        &theirs,
        "2026-01-10T12:00:00Z",
        json!({"signals": duplicate}),
    )
    .await;
    let path = "/v1/analytics/traffic-quality?from=2026-01-10&to=2026-01-11";
    let quality = api.get(&ours.analyst, path).await;
    let quality = (quality.text.clone(), quality.json());
    assert_eq!(
        quality.1["bots"],
        json!([{"reason": "crawler", "clicks": 1}]),
        "{}",
        quality.0
    );
    assert_eq!(quality.1["bot_rate"], "0.25");
    assert_eq!(
        quality.1["signals"][0],
        json!({"signal": "duplicate", "weight": 30, "clicks": 2, "bot_clicks": 0})
    );
    assert_eq!(
        quality.1["signals"][4],
        json!({"signal": "prefetch", "weight": 40, "clicks": 1, "bot_clicks": 1})
    );
    // (30 + 70 + 0) / 3
    assert_eq!(
        quality.1["items"],
        json!([{"affiliate_id": ours.affiliate, "affiliate_name": "Ana of ours", "clicks": 3, "bot_clicks": 1,
                "suspicious_clicks": 2, "bot_rate": "0.25", "average_score": "33.33"}])
    );
}

#[tokio::test]
async fn clicks_are_listed_page_by_page_and_found_by_their_id() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    for (number, (at, country)) in [
        ("2026-01-10T10:00:00.001Z", "DE"),
        ("2026-01-10T10:00:00.002Z", "DE"),
        ("2026-01-10T10:00:00.002Z", "US"),
        ("2026-01-11T09:00:00Z", "US"),
    ]
    .into_iter()
    .enumerate()
    {
        let more = json!({"country": country, "click_random": "0123456789", "click_key": 1,
            "click_tag": format!("tag1234567{number}"), "visitor_id": 255, "signals": signals::DUPLICATE.mask()});
        click_with(&api, &ours, at, more).await;
    }
    let page = async |more: &str| -> Answer {
        let path = format!("/v1/analytics/clicks?from=2026-01-10&to=2026-01-11{more}");
        api.get(&ours.analyst, &path).await
    };
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = page(&format!("&limit=1{cursor}")).await.json();
        found.extend(answer["items"].as_array().unwrap().clone());
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        assert!(found.len() < 10);
    }
    let countries: Vec<_> = found
        .iter()
        .map(|c| c["country"].as_str().unwrap())
        .collect();
    assert_eq!(countries, ["US", "US", "DE", "DE"]);
    let click = &found[2];
    assert_eq!(click["received_at"], "2026-01-10T10:00:00.002Z");
    assert_eq!(
        (&click["visitor_id"], &click["score"]),
        (&json!("00000000000000ff"), &json!(30))
    );
    assert_eq!(
        (&click["signals"], &click["outcome"]),
        (&json!(["duplicate"]), &json!("destination"))
    );
    assert!(click.get("address").is_none());
    assert_eq!(
        page("&country=DE&signal=duplicate&is_bot=false&visitor_id=00000000000000ff")
            .await
            .json()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(page("&signal=prefetch").await.json()["items"], json!([]));

    let path = format!("/v1/analytics/clicks/{}", click["id"].as_str().unwrap());
    assert_eq!(&api.get(&ours.analyst, &path).await.json(), click);
    assert_eq!(api.get(&theirs.admin, &path).await.status, 404);
    let csv = api.request(
        &ours.admin,
        Method::GET,
        "/v1/analytics/clicks?from=2026-01-10&to=2026-01-11&limit=1",
    );
    let csv = api.send(csv.header("accept", "text/csv")).await;
    assert!(
        csv.text.starts_with("id,received_at,program_id,"),
        "{}",
        csv.text
    );
    assert!(!csv.header("next-cursor").is_empty());
}

/// What a stream says until it has said `wanted`, or ends.
async fn until(stream: &mut reqwest::Response, wanted: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(wanted) {
            match stream.chunk().await.unwrap() {
                Some(chunk) => text.push_str(std::str::from_utf8(&chunk).unwrap()),
                None => break,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading)
        .await
        .unwrap();
    text
}

#[tokio::test]
async fn new_clicks_are_shown_as_they_come() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let open = async |key: &str| {
        let request = api.request(key, Method::GET, "/v1/analytics/live");
        request.send().await.unwrap()
    };
    let now = || Clock::system().now().to_rfc3339();
    click_with(&api, &ours, &now(), json!({"sub1": "before"})).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut stream = open(&ours.analyst).await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    until(&mut stream, "following").await;
    click_with(&api, &theirs, &now(), json!({"sub1": "theirs"})).await;
    click_with(
        &api,
        &ours,
        &now(),
        json!({"sub1": "first", "click_random": "0123456789"}),
    )
    .await;
    let said = until(&mut stream, "\n\n").await;
    assert!(said.starts_with("event: click\nid: "), "{said}");
    assert!(said.contains(r#""sub1":"first""#), "{said}");
    // It is not shown again, and what came before and theirs is not shown at all.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    click_with(
        &api,
        &ours,
        &now(),
        json!({"sub1": "second", "click_random": "9876543210"}),
    )
    .await;
    let said = until(&mut stream, "\n\n").await;
    assert_eq!(said.matches("event: click").count(), 1, "{said}");
    assert!(said.contains(r#""sub1":"second""#), "{said}");

    let mut more = Vec::new();
    for _ in 0..4 {
        more.push(open(&ours.admin).await);
        assert_eq!(more.last().unwrap().status(), 200);
    }
    assert_eq!(open(&ours.admin).await.status(), 429);
    assert_eq!(open(&theirs.admin).await.status(), 200);
    // Whose key is revoked is shown no more.
    let path = format!("/v1/tenants/{}/api-keys/{}", ours.id, ours.admin_id);
    assert_eq!(api.delete(&ours.admin, &path).await.status, 204);
    for stream in &mut more {
        until(stream, "never").await;
    }
}

/// A question runs for ten seconds at most, and no longer than somebody waits for its answer.
#[tokio::test]
async fn a_slow_question_ends() {
    let api = Api::start().await;
    let ours = api.tenant("ours").await;
    // Each click takes a while to read; those of different months are not read at once.
    for month in 1..=12 {
        let at = format!("2025-{month:02}-10T10:00:00Z");
        click_with(&api, &ours, &at, json!({"country": "DE"})).await;
    }
    for sql in [
        "RENAME TABLE clicks TO quick",
        "CREATE VIEW clicks AS SELECT * FROM quick WHERE sleepEachRow(2.5) = 0",
    ] {
        api.isolated.facts().query(sql).execute().await.unwrap();
    }
    let running = async || {
        let sql = "SELECT count() FROM system.processes WHERE current_database = ? AND query_id LIKE 'analytics-%'";
        let running = api.isolated.facts().query(sql).bind(&api.isolated.name);
        running.fetch_one::<u64>().await.unwrap()
    };
    let becomes = async |number: u64| {
        // A click that is being read is read to its end first.
        for _ in 0..120 {
            if running().await == number {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    };
    let ask = || {
        let year = json!({"measures": ["clicks"], "from": "2025-01-01", "to": "2025-12-31"});
        let request = api.request(&ours.admin, Method::POST, "/v1/analytics/query");
        request.json(&year)
    };
    let asking = tokio::spawn(ask().send());
    assert!(becomes(1).await, "it runs");
    asking.abort();
    assert!(becomes(0).await, "it ends with its client");

    let slow = api.send(ask()).await;
    assert_eq!(slow.status, 503, "{}", slow.text);
    assert!(slow.text.contains("ask about fewer days"), "{}", slow.text);
    assert!(becomes(0).await);
}
