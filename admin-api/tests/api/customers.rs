//! Who came back and what he was worth, checked against figures made by hand.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use tributary_shared::clock::Clock;

use crate::analytics::{insert, uuid, with};
use crate::harness::{Api, Tenant};

/// A conversion of a customer (a letter), brought by a click.
async fn bought(api: &Api, tenant: &Tenant, number: u32, customer: &str, at: &str, more: Value) {
    let row = json!({"conversion_id": uuid(number), "accepted_at": at, "tenant_id": tenant.id, "link_id": tenant.link,
        "affiliate_id": tenant.affiliate, "program_id": tenant.program, "order_id": number.to_string(), "event": "sale",
        "currency": "USD", "attribution": "click_token", "customer_id": customer.repeat(16), "version": 1});
    insert(api, "conversions", with(row, more)).await;
}

/// The second affiliate's id. January begins in Berlin at 23:00 UTC of the day before.
async fn history(api: &Api, ours: &Tenant, theirs: &Tenant) -> i64 {
    let bob = api
        .create(&ours.admin, "/v1/affiliates", json!({"name": "Bob"}))
        .await["id"]
        .as_i64()
        .unwrap();
    let organic =
        json!({"attribution": "no_click", "affiliate_id": 0, "program_id": 0, "link_id": 0});
    let unknown = |amount: &str| with(organic.clone(), json!({"amount": amount}));
    let new = |amount: &str| json!({"amount": amount, "is_new": true});
    for (number, customer, at, more) in [
        // Corrected: the last version counts.
        (1, "a", "2019-12-31T23:30:00Z", new("99")),
        (
            1,
            "a",
            "2019-12-31T23:30:00Z",
            with(new("20.20"), json!({"version": 2})),
        ),
        (
            2,
            "a",
            "2020-01-20T12:00:00Z",
            json!({"amount": "5", "currency": "EUR"}),
        ),
        // Nobody brought this one, but he is Ana's customer.
        (3, "a", "2020-03-10T12:00:00Z", unknown("7")),
        (4, "a", "2022-01-01T12:00:00Z", json!({"amount": "1"})),
        (
            5,
            "b",
            "2020-01-31T22:59:59Z",
            json!({"amount": "100", "currency": "JPY", "is_new": false}),
        ),
        (6, "b", "2020-02-01T12:00:00Z", json!({"amount": "1"})),
        (
            7,
            "c",
            "2020-02-10T12:00:00Z",
            with(new("50"), json!({"affiliate_id": bob})),
        ),
        // He began in December.
        (8, "d", "2019-12-31T22:59:59Z", json!({"amount": "3"})),
        (9, "d", "2020-01-15T12:00:00Z", json!({"amount": "4"})),
        // He began by no click of ours.
        (10, "e", "2020-01-05T12:00:00Z", unknown("11")),
        (11, "e", "2020-02-05T12:00:00Z", json!({"amount": "12"})),
        // Nobody knows whose these are.
        (12, "\0", "2020-01-06T12:00:00Z", json!({"amount": "999"})),
    ] {
        bought(api, ours, number, customer, at, more).await;
    }
    for (number, at) in [(20, "2018-05-01T12:00:00Z"), (21, "2020-01-10T12:00:00Z")] {
        bought(api, theirs, number, "a", at, json!({"amount": "1000"})).await;
    }
    bob
}

fn money(amounts: &[(&str, &str)]) -> Value {
    let amount =
        |(currency, amount): &(&str, &str)| json!({"amount": amount, "currency": currency});
    amounts.iter().map(amount).collect()
}

async fn csv(api: &Api, key: &str, path: &str) -> String {
    let request = api.request(key, Method::GET, path);
    api.send(request.header("accept", "text/csv")).await.text
}

#[tokio::test]
async fn cohorts_are_the_tenants_customers_in_its_own_months() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let bob = history(&api, &ours, &theirs).await;
    let path = "/v1/analytics/cohorts?from=2020-01-01&to=2020-02-29";
    let answer = api.get(&ours.analyst, path).await.json();
    assert_eq!(answer["from"], "2019-12-31T23:00:00Z", "{answer}");
    assert_eq!(answer["time_zone"], "Europe/Berlin");
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items.len(), 48, "two cohorts, each for 24 months");
    let period = |cohort: &str, of: (u64, u64), period: u64, time: &str, active: (u64, &str)| {
        json!({"cohort": cohort, "customers": of.0, "new_customers": of.1, "period": period, "time": time,
               "active_customers": active.0, "retention": active.1, "conversions": active.0, "revenue": []})
    };
    let january = |number, time, active| period("2020-01-01", (2, 1), number, time, active);
    let first = json!({"conversions": 3, "revenue": money(&[("EUR", "5.00"), ("JPY", "100"), ("USD", "20.20")])});
    let usd = |amount| json!({"revenue": money(&[("USD", amount)])});
    assert_eq!(
        items[..4],
        [
            with(january(0, "2020-01-01", (2, "1")), first),
            with(january(1, "2020-02-01", (1, "0.5")), usd("1.00")),
            with(january(2, "2020-03-01", (1, "0.5")), usd("7.00")),
            january(3, "2020-04-01", (0, "0")),
        ]
    );
    assert_eq!(items[23], january(23, "2021-12-01", (0, "0")));
    let february = period("2020-02-01", (1, 1), 0, "2020-02-01", (1, "1"));
    assert_eq!(items[24], with(february, usd("50.00")));

    let of_bob = api
        .get(&ours.admin, &format!("{path}&affiliate_id={bob}"))
        .await
        .json();
    assert_eq!(of_bob["items"][0]["customers"], 0);
    assert_eq!(of_bob["items"][0]["retention"], Value::Null);
    assert_eq!(of_bob["items"][24]["customers"], 1);

    let weeks = "/v1/analytics/cohorts?granularity=week&from=2020-01-27&to=2020-02-02";
    let weeks = api.get(&ours.admin, weeks).await.json();
    assert_eq!(
        (
            &weeks["items"][0]["cohort"],
            &weeks["items"][0]["conversions"]
        ),
        (&json!("2020-01-27"), &json!(2))
    );
    // Without a begin: twelve whole months.
    let whole = api
        .get(&ours.admin, "/v1/analytics/cohorts?to=2020-01-15")
        .await
        .json();
    assert_eq!(whole["from"], "2019-01-31T23:00:00Z");
    assert_eq!(whole["items"][10 * 24]["customers"], 1, "December: {whole}");

    let table = csv(&api, &ours.admin, path).await;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "cohort,customers,new_customers,period,time,active_customers,retention,conversions,revenue",
            "2020-01-01,2,1,0,2020-01-01,2,1,3,5.00 EUR; 100 JPY; 20.20 USD",
        ]
    );
    let theirs = api.get(&theirs.admin, path).await.json();
    assert_eq!(theirs["items"][0]["customers"], 0, "he began in 2018");
}

#[tokio::test]
async fn customers_are_worth_what_they_bought_by_then() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let bob = history(&api, &ours, &theirs).await;
    let path = "/v1/analytics/lifetime-value?from=2020-01-01&to=2020-02-29";
    let answer = api.get(&ours.analyst, path).await.json();
    let worth =
        |customers: u64, conversions: u64, revenue: &[(&str, &str)], each: &[(&str, &str)]| {
            json!({"customers": customers, "conversions": conversions, "revenue": money(revenue),
               "revenue_per_customer": money(each)})
        };
    let of_ana = |conversions, usd, each| {
        let revenue = [("EUR", "5.00"), ("JPY", "100"), ("USD", usd)];
        let each = [("EUR", "2.50"), ("JPY", "50"), ("USD", each)];
        worth(2, conversions, &revenue, &each)
    };
    let fifty = worth(1, 1, &[("USD", "50.00")], &[("USD", "50.00")]);
    assert_eq!(
        answer["items"],
        json!([
            {"affiliate_id": ours.affiliate, "affiliate_name": "Ana of ours", "customers": 2, "new_customers": 1,
             "after_30_days": of_ana(4, "21.20", "10.60"), "after_90_days": of_ana(5, "28.20", "14.10"),
             "after_365_days": of_ana(5, "28.20", "14.10"), "to_date": of_ana(6, "29.20", "14.60")},
            {"affiliate_id": bob, "affiliate_name": "Bob", "customers": 1, "new_customers": 1, "after_30_days": fifty,
             "after_90_days": fifty, "after_365_days": fifty, "to_date": fifty},
        ]),
        "{answer}"
    );
    let totals = &answer["totals"];
    assert_eq!(
        (&totals["customers"], &totals["affiliate_id"]),
        (&json!(3), &Value::Null)
    );
    let all = [("EUR", "5.00"), ("JPY", "100"), ("USD", "79.20")];
    let each = [("EUR", "1.6667"), ("JPY", "33.3333"), ("USD", "26.40")];
    assert_eq!(totals["to_date"], worth(3, 7, &all, &each));
    // Whoever is not listed counts in all.
    let top = api
        .get(&ours.admin, &format!("{path}&limit=1"))
        .await
        .json();
    assert_eq!(top["items"].as_array().unwrap().len(), 1);
    assert_eq!(top["totals"], *totals);
    let of_bob = api
        .get(&ours.admin, &format!("{path}&affiliate_id={bob}"))
        .await
        .json();
    assert_eq!(of_bob["totals"]["to_date"], fifty);

    let table = csv(&api, &ours.admin, path).await;
    assert!(
        table.starts_with(
            "affiliate_id,affiliate_name,customers,new_customers,after_30_days.customers,"
        ),
        "{table}"
    );
    assert!(table.contains("; 29.20 USD,"), "{table}");

    // Of somebody who began ten days ago it is too early to tell.
    let lately = (Clock::system().now() - TimeDelta::days(10)).to_rfc3339();
    bought(&api, &ours, 30, "r", &lately, json!({"amount": "8"})).await;
    let recent = api
        .get(&ours.admin, "/v1/analytics/lifetime-value")
        .await
        .json();
    assert_eq!(recent["totals"]["after_30_days"], worth(0, 0, &[], &[]));
    let to_date = worth(1, 1, &[("USD", "8.00")], &[("USD", "8.00")]);
    assert_eq!(recent["items"][0]["to_date"], to_date);
}

#[tokio::test]
async fn questions_about_customers_have_limits() {
    let api = Api::start().await;
    let ours = api.tenant("ours").await;
    for (path, why) in [
        (
            "cohorts?granularity=week&from=2020-01-01&to=2020-12-31",
            "at most 24",
        ),
        ("cohorts?granularity=day", "granularity"),
        ("cohorts?from=2018-01-01&to=2020-12-31", "at most 400 days"),
        ("cohorts?affiliate_id=0", "affiliate_id is a positive"),
        (
            "lifetime-value?from=2018-01-01&to=2020-12-31",
            "at most 400 days",
        ),
        ("lifetime-value?limit=201", "limit must be 1 to 200"),
        ("lifetime-value?link_id=-1", "link_id is a positive"),
        ("lifetime-value?customer=a", "customer"),
    ] {
        let answer = api.get(&ours.admin, &format!("/v1/analytics/{path}")).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        assert!(answer.text.contains(why), "{path}: {}", answer.text);
    }
    let nothing = api
        .get(&ours.admin, "/v1/analytics/lifetime-value")
        .await
        .json();
    assert_eq!(nothing["items"], json!([]));
    assert_eq!(nothing["totals"]["customers"], 0);
    assert_eq!(nothing["totals"]["to_date"]["conversions"], 0);
}
