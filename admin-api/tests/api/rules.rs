//! What affiliates earn: programs, commission rules, coupons, exchange rates, and who stands above whom.

use serde_json::{Value, json};

use crate::harness::{Answer, Api, Tenant};
use crate::money;

fn percent(percent: &str) -> Value {
    json!({"document": {"reward": {"kind": "percent", "percent": percent}}})
}

fn rules(tenant: &Tenant, rest: &str) -> String {
    format!("/v1/programs/{}/rules{rest}", tenant.program)
}

/// The fields that were refused.
fn refused(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 422, "{}", answer.text);
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    errors
        .iter()
        .map(|error| error["field"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_program_says_how_it_shares_out_and_pays() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let path = format!("/v1/programs/{}", tenant.program);
    let shown = |program: &Value| {
        ["model", "pay_in", "upline_percents", "upline_of"].map(|field| program[field].clone())
    };
    let program = api.get(&tenant.analyst, &path).await.json();
    assert_eq!(
        shown(&program),
        [
            json!("last_click"),
            json!("order"),
            json!(["10", "3", "1"]),
            json!("commission")
        ]
    );
    let new = json!({"name": "p", "currency": "EUR", "commission_percent": "5", "window_seconds": 60, "hold_seconds": 0,
        "model": "time_decay", "pay_in": "program", "upline_percents": [], "upline_of": "order"});
    let program = api.create(&tenant.admin, "/v1/programs", new).await;
    assert_eq!(
        shown(&program),
        [
            json!("time_decay"),
            json!("program"),
            json!([]),
            json!("order")
        ]
    );
    let change = json!({"model": "linear", "upline_percents": ["2.50"]});
    let program = api.patch(&tenant.admin, &path, change).await;
    assert_eq!(program.status, 200, "{}", program.text);
    assert_eq!(
        shown(&program.json()),
        [
            json!("linear"),
            json!("order"),
            json!(["2.5"]),
            json!("commission")
        ]
    );
}

#[tokio::test]
async fn a_rule_has_versions_and_none_changes() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let put = async |name: &str, body: Value| {
        let answer = api
            .put(&tenant.admin, &rules(&tenant, &format!("/{name}")), body)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let first = put("gold%20shoes", percent("12")).await;
    assert_eq!(
        (&first["name"], &first["version"], &first["active"]),
        (&json!("gold shoes"), &json!(1), &json!(true))
    );
    assert_eq!(put("gold%20shoes", percent("12")).await, first, "unchanged");
    let second = put("gold%20shoes", percent("13")).await;
    assert_eq!(second["version"], 2);
    let out = json!({"document": second["document"], "active": false});
    assert_eq!(put("gold%20shoes", out).await["version"], 3);

    let list = async |query: &str| {
        let page = api.get(&tenant.analyst, &rules(&tenant, query)).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let items = page.json()["items"].as_array().unwrap().clone();
        let named = items
            .iter()
            .map(|rule| format!("{} {} {}", rule["name"], rule["version"], rule["active"]));
        named.collect::<Vec<_>>()
    };
    assert_eq!(
        list("").await,
        [r#""base" 1 true"#, r#""gold shoes" 3 false"#]
    );
    assert_eq!(
        list("?name=gold+shoes").await,
        [
            r#""gold shoes" 1 true"#,
            r#""gold shoes" 2 true"#,
            r#""gold shoes" 3 false"#
        ]
    );
    // What the program shows is what base gives, where that is a percentage.
    let shown = async || {
        api.get(&tenant.analyst, &format!("/v1/programs/{}", tenant.program))
            .await
            .json()["commission_percent"]
            .clone()
    };
    put("base", percent("7.50")).await;
    assert_eq!(shown().await, "7.5");
    put(
        "base",
        json!({"document": {"reward": {"kind": "flat", "flat": "3.00"}}}),
    )
    .await;
    assert_eq!(shown().await, Value::Null);
    let programs = api.get(&tenant.analyst, "/v1/programs").await.json();
    assert_eq!(programs["items"][0]["commission_percent"], Value::Null);

    let wrong = json!({"document": {"when": "order.amount >", "reward": {"kind": "percent", "percent": "101"}, "minimum": "1.001"}});
    let answer = api.put(&tenant.admin, &rules(&tenant, "/bad"), wrong).await;
    assert_eq!(
        refused(&answer),
        [
            "document.when",
            "document.reward.percent",
            "document.minimum"
        ]
    );
    let unknown = json!({"document": {"reward": {"kind": "flat", "flat": "1"}, "max": "3"}});
    assert_eq!(
        refused(
            &api.put(&tenant.admin, &rules(&tenant, "/bad"), unknown)
                .await
        ),
        ["document.max"]
    );
    let long = rules(&tenant, &format!("/{}", "x".repeat(65)));
    assert_eq!(
        refused(&api.put(&tenant.admin, &long, percent("1")).await),
        ["name"]
    );
}

#[tokio::test]
async fn versions_that_are_written_at_once_get_numbers_of_their_own() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let path = rules(&tenant, "/busy");
    let puts = (1..=10).map(|n| api.put(&tenant.admin, &path, percent(&n.to_string())));
    let answers = futures::future::join_all(puts).await;
    let mut versions: Vec<i64> = answers
        .iter()
        .map(|a| a.json()["version"].as_i64().unwrap())
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_preview_prices_an_order_that_nobody_placed() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let parent = api
        .create(&tenant.admin, "/v1/affiliates", json!({"name": "above"}))
        .await;
    let ana = format!("/v1/affiliates/{}", tenant.affiliate);
    let raised = api
        .patch(
            &tenant.admin,
            &ana,
            json!({"parent_id": parent["id"], "tier": "gold"}),
        )
        .await;
    assert_eq!(raised.status, 200, "{}", raised.text);
    let path = format!("/v1/programs/{}/preview", tenant.program);
    let ask = async |body: Value| {
        let answer = api.post(&tenant.analyst, &path, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let earned = |preview: &Value| {
        let commissions = preview["commissions"].as_array().unwrap();
        let one = |c: &Value| {
            format!(
                "{} {} {} {}",
                c["part"], c["rule"]["name"], c["amount"], c["affiliate_id"]
            )
            .replace('"', "")
        };
        commissions.iter().map(one).collect::<Vec<_>>()
    };
    let plain = ask(json!({"affiliate_id": tenant.affiliate, "amount": "80"})).await;
    let expected = [
        format!("direct base 8.00 {}", tenant.affiliate),
        format!("upline 1 base 0.80 {}", parent["id"]),
    ];
    assert_eq!(earned(&plain), expected);
    let steps = plain["commissions"][0]["steps"].to_string();
    assert!(
        steps.contains("10 %") && steps.contains("8.00 USD"),
        "{steps}"
    );

    // One that is being written, beside the others; it is not kept.
    let tried = json!({"affiliate_id": tenant.affiliate, "amount": "80.00", "country": "DE",
        "items": [{"product": "a", "category": "shoes", "amount": "70.00"}],
        "figures": {"revenue": "1200.00"},
        "rule": {"name": "shoes", "document": {"scope": {"tiers": ["gold"], "categories": ["shoes"]}, "when": "country == 'DE'",
            "reward": {"kind": "percent", "percent": "15"},
            "tiers": {"by": "revenue", "period": "month", "steps": [{"from": "1000", "percent": "20"}]}}}});
    let preview = ask(tried.clone()).await;
    assert_eq!(preview["commissions"][0]["amount"], "15.00", "{preview}"); // 20 % of 70, 10 % of the rest
    let parts = preview["commissions"][0]["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    let mut in_place = tried;
    in_place["rule"]["name"] = json!("base");
    let preview = ask(in_place).await;
    assert_eq!(preview["commissions"][0]["amount"], "14.00", "{preview}");
    let saved = api.get(&tenant.analyst, &rules(&tenant, "")).await.json();
    assert_eq!(saved["items"].as_array().unwrap().len(), 1);
    let nothing = ask(
        json!({"affiliate_id": tenant.affiliate, "amount": "80", "rule": {"name": "base",
        "document": {"events": ["lead"], "reward": {"kind": "flat", "flat": "1"}}}}),
    )
    .await;
    assert_eq!(nothing["commissions"], json!([]));
    assert!(
        nothing["left_out"]
            .to_string()
            .contains("no rule is for this"),
        "{nothing}"
    );

    let wrong = json!({"affiliate_id": 999_999, "amount": "-1", "event": "A", "subs": ["", "", "", "", "", ""],
        "figures": {"earned": "x"}, "items": [{"product": "a", "amount": "1.001", "quantity": 0}],
        "rule": {"document": {"reward": {"kind": "percent", "percent": "101"}}}});
    assert_eq!(
        refused(&api.post(&tenant.analyst, &path, wrong).await),
        [
            "event",
            "amount",
            "items[0].quantity",
            "items[0].amount",
            "subs",
            "figures.earned",
            "rule.document.reward.percent",
            "affiliate_id"
        ]
    );
}

#[tokio::test]
async fn a_rate_that_was_missing_lets_orders_be_settled_again() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let flat = json!({"document": {"reward": {"kind": "flat", "flat": "2.00"}}});
    assert_eq!(
        api.put(&tenant.admin, &rules(&tenant, "/base"), flat)
            .await
            .status,
        200
    );
    let path = format!("/v1/programs/{}/preview", tenant.program);
    let question = json!({"affiliate_id": tenant.affiliate, "amount": "80", "currency": "EUR"});
    assert_eq!(
        refused(&api.post(&tenant.admin, &path, question.clone()).await),
        ["currency"]
    );

    let waiting = money::order(&api.pool, &tenant, 1, "10", None).await;
    let other = money::order(&api.pool, &tenant, 2, "10", None).await;
    sqlx::query("UPDATE conversions SET settle_at = NULL, note = CASE WHEN id = $1 THEN 'there is no rate from USD to EUR' END")
        .bind(waiting)
        .execute(&api.pool)
        .await
        .unwrap();
    let rate = |quote: &str| json!({"base": "USD", "quote": quote, "rate": "0.9000", "valid_from": "2026-01-01T00:00:00Z"});
    api.create(&tenant.admin, "/v1/exchange-rates", rate("GBP"))
        .await;
    let due = async || -> Vec<uuid::Uuid> {
        sqlx::query_scalar("SELECT id FROM conversions WHERE settle_at IS NOT NULL")
            .fetch_all(&api.pool)
            .await
            .unwrap()
    };
    assert!(due().await.is_empty());
    let made = api
        .create(&tenant.admin, "/v1/exchange-rates", rate("EUR"))
        .await;
    assert_eq!(made["rate"], "0.9");
    assert_eq!(due().await, [waiting], "and not {other}");
    let again = api
        .post(&tenant.admin, "/v1/exchange-rates", rate("EUR"))
        .await;
    assert_eq!(
        (again.status.as_u16(), &again.json()["errors"][0]["field"]),
        (409, &json!("valid_from"))
    );
    let list = api
        .get(&tenant.analyst, "/v1/exchange-rates?quote=EUR")
        .await
        .json();
    assert_eq!(list["items"], json!([made]));
    let priced = api.post(&tenant.admin, &path, question).await.json();
    assert_eq!(
        (
            &priced["commissions"][0]["amount"],
            &priced["commissions"][0]["currency"]
        ),
        (&json!("1.80"), &json!("EUR")),
        "{priced}"
    );
    assert_eq!(
        priced["commissions"][0]["rate"],
        json!({"from": "USD", "to": "EUR", "rate": "0.9"})
    );
}

#[tokio::test]
async fn a_coupon_is_unique_and_goes_out_of_use() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let coupon = |tenant: &Tenant, code: &str| json!({"code": code, "program_id": tenant.program, "affiliate_id": tenant.affiliate});
    let made = api
        .create(&ours.admin, "/v1/coupons", coupon(&ours, " Ana 10% "))
        .await;
    assert_eq!(
        (&made["code"], &made["active"]),
        (&json!("Ana 10%"), &json!(true))
    );
    let taken = api
        .post(&ours.admin, "/v1/coupons", coupon(&ours, "ANA 10%"))
        .await;
    assert_eq!(
        (taken.status.as_u16(), &taken.json()["errors"][0]["field"]),
        (409, &json!("code"))
    );
    api.create(&theirs.admin, "/v1/coupons", coupon(&theirs, "ANA 10%"))
        .await;
    let mixed = json!({"code": "x", "program_id": ours.program, "affiliate_id": theirs.affiliate});
    assert_eq!(
        refused(&api.post(&ours.admin, "/v1/coupons", mixed).await),
        ["affiliate_id"]
    );
    let path = format!("/v1/coupons/{}", made["id"]);
    let off = api
        .patch(&ours.admin, &path, json!({"active": false}))
        .await;
    assert_eq!(
        (off.status.as_u16(), &off.json()["active"]),
        (200, &json!(false))
    );
    assert_eq!(api.get(&ours.analyst, &path).await.json(), off.json());
    let found = api
        .get(&ours.analyst, "/v1/coupons?code=ana+10%25")
        .await
        .json();
    assert_eq!(found["items"], json!([off.json()]));
    assert_eq!(api.delete(&ours.admin, &path).await.status, 405);
}

#[tokio::test]
async fn nobody_stands_above_himself() {
    let api = Api::start().await;
    let (tenant, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let mut line: Vec<i64> = Vec::new();
    for number in 0..4 {
        let new = json!({"name": format!("a{number}"), "parent_id": line.last(), "groups": ["g"], "certifications": ["c"]});
        let made = api.create(&tenant.admin, "/v1/affiliates", new).await;
        assert_eq!(made["parent_id"], json!(line.last()));
        line.push(made["id"].as_i64().unwrap());
    }
    let move_to = async |affiliate: i64, parent: Value| {
        api.patch(
            &tenant.admin,
            &format!("/v1/affiliates/{affiliate}"),
            json!({"parent_id": parent}),
        )
        .await
    };
    for parent in [line[3], line[1], line[0], theirs.affiliate, 0] {
        assert_eq!(
            refused(&move_to(line[0], json!(parent)).await),
            ["parent_id"],
            "{parent}"
        );
    }
    let foreign = json!({"name": "x", "parent_id": theirs.affiliate});
    assert_eq!(
        refused(&api.post(&tenant.admin, "/v1/affiliates", foreign).await),
        ["parent_id"]
    );
    // What is left out stays; null takes away.
    let path = format!("/v1/affiliates/{}", line[3]);
    let change = json!({"tier": "gold", "tags": ["vip"], "email": "a@example.com"});
    let changed = api.patch(&tenant.admin, &path, change).await.json();
    assert_eq!(changed["parent_id"], line[2]);
    assert_eq!(
        (&changed["tier"], &changed["groups"], &changed["tags"]),
        (&json!("gold"), &json!(["g"]), &json!(["vip"]))
    );
    let changed = api
        .patch(
            &tenant.admin,
            &path,
            json!({"tier": null, "parent_id": null}),
        )
        .await
        .json();
    assert_eq!(
        (&changed["tier"], &changed["parent_id"], &changed["email"]),
        (&Value::Null, &Value::Null, &json!("a@example.com"))
    );
    // Two changes at once that would make a circle together: one of them is refused.
    for _ in 0..5 {
        assert_eq!(move_to(line[0], Value::Null).await.status, 200);
        assert_eq!(move_to(line[3], Value::Null).await.status, 200);
        let (one, other) = tokio::join!(
            move_to(line[0], json!(line[3])),
            move_to(line[3], json!(line[0]))
        );
        let mut both = [one.status.as_u16(), other.status.as_u16()];
        both.sort_unstable();
        assert_eq!(both, [200, 422], "{} {}", one.text, other.text);
    }
}
