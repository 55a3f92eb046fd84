//! Statements, year totals and exports, of a ledger that was written through its own constraints.

use chrono::{DateTime, Utc};
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::harness::{Answer, Api, Tenant};
use crate::money::order;

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Posts `moves` between an affiliate's accounts; what they leave over is charged to the tenant.
async fn post(
    pool: &PgPool,
    tenant: &Tenant,
    commission: Uuid,
    reason: &str,
    at: &str,
    moves: &[(&str, &str)],
) {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO ledger_accounts (tenant_id, affiliate_id, kind, currency)
         SELECT $1, $2, kind, 'USD' FROM unnest($3::text[]) kind ON CONFLICT DO NOTHING",
    )
    .bind(tenant.id)
    .bind(tenant.affiliate)
    .bind(moves.iter().map(|m| m.0).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await
    .unwrap();
    sqlx::query(
        "WITH t AS (
             INSERT INTO ledger_transactions (tenant_id, operation_key, commission_id, reason, posted_at)
             VALUES ($1, 'commission:' || $3 || ':' || $4 || ':' || $5, $3, $4, $5) RETURNING id),
         m AS (SELECT kind, amount FROM unnest($6::text[], $7::numeric[]) AS m (kind, amount))
         INSERT INTO ledger_entries (tenant_id, transaction_id, account_id, amount, currency)
         SELECT $1, t.id, a.id, m.amount, 'USD' FROM t, m JOIN ledger_accounts a
                ON a.tenant_id = $1 AND a.affiliate_id = $2 AND a.currency = 'USD' AND a.kind = m.kind
         UNION ALL
         SELECT $1, t.id, a.id, -s.amount, 'USD' FROM t, (SELECT sum(amount) AS amount FROM m) s, ledger_accounts a
         WHERE a.tenant_id = $1 AND a.kind = 'commission_expense' AND a.currency = 'USD' AND s.amount <> 0",
    )
    .bind(tenant.id)
    .bind(tenant.affiliate)
    .bind(commission)
    .bind(reason)
    .bind(time(at))
    .bind(moves.iter().map(|m| m.0).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.1.parse::<rust_decimal::Decimal>().unwrap()).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.commit().await.unwrap();
}

/// What a payout is about: whose, its number, currency, gross amount, fee, and what was withheld.
type Sum<'s> = (&'s Tenant, u128, &'s str, &'s str, &'s str, &'s str);

/// A payout that was drafted and came into each of `states` at its time.
async fn payout(
    pool: &PgPool,
    (tenant, number, currency, amount, fee, withheld): Sum<'_>,
    states: &[(&str, &str)],
) {
    let id = Uuid::from_u128(number);
    let (last, at) = states.last().unwrap();
    let closed = ["paid", "cancelled"].contains(last).then(|| time(at));
    sqlx::query(
        "WITH r AS (INSERT INTO payout_runs (tenant_id, requested_by) VALUES ($2, 'a test') RETURNING id)
         INSERT INTO payouts (id, tenant_id, run_id, affiliate_id, currency, state, amount, fee, withheld, method,
                              method_kind, reference, created_at, closed_at, booked)
         SELECT $1, $2, r.id, $3, $4, $5, $6::numeric, $7::numeric, $8::numeric, '\\x00', 'sepa', 'Payout ' || $9, $10, $11, $11 IS NOT NULL FROM r",
    )
    .bind(id)
    .bind(tenant.id)
    .bind(tenant.affiliate)
    .bind(currency)
    .bind(last)
    .bind(amount)
    .bind(fee)
    .bind(withheld)
    .bind(number.to_string())
    .bind(time(states[0].1))
    .bind(closed)
    .execute(pool)
    .await
    .unwrap();
    for (state, at) in states {
        event(pool, tenant, number, state, at).await;
    }
}

async fn event(pool: &PgPool, tenant: &Tenant, number: u128, state: &str, at: &str) {
    sqlx::query("INSERT INTO payout_events (tenant_id, payout_id, at, actor, state) VALUES ($1, $2, $3, 'a test', $4)")
        .bind(tenant.id)
        .bind(Uuid::from_u128(number))
        .bind(time(at))
        .bind(state)
        .execute(pool)
        .await
        .unwrap();
}

/// In January (Berlin's) three orders earn 4.99 each; one of them is approved and paid, and one refunded, in February.
async fn two_months(api: &Api, tenant: &Tenant) {
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(order(&api.pool, tenant, number, "49.9", Some("4.99")).await);
    }
    let pool = &api.pool;
    let approved = [("pending", "-4.99"), ("available", "4.99")];
    // In Berlin it is February already.
    post(
        pool,
        tenant,
        ids[0],
        "approved",
        "2026-01-31T23:30:00Z",
        &approved,
    )
    .await;
    post(
        pool,
        tenant,
        ids[1],
        "refunded",
        "2026-02-03T10:00:00Z",
        &[("pending", "-2.49")],
    )
    .await;
    let drafted = [("available", "-4.99"), ("in_payout", "4.99")];
    post(
        pool,
        tenant,
        ids[0],
        "payout",
        "2026-02-10T10:00:00Z",
        &drafted,
    )
    .await;
    payout(
        pool,
        (tenant, 1, "USD", "4.99", "0.25", "1.00"),
        &[
            ("draft", "2026-02-10T10:00:00Z"),
            ("sent", "2026-02-11T10:00:00Z"),
        ],
    )
    .await;
}

fn statement(tenant: &Tenant, from: &str, to: &str) -> String {
    format!(
        "/v1/affiliates/{}/statement?from={from}&to={to}",
        tenant.affiliate
    )
}

async fn get_as(api: &Api, key: &str, path: &str, accept: &str) -> Answer {
    api.send(api.request(key, Method::GET, path).header(ACCEPT, accept))
        .await
}

async fn bytes(api: &Api, key: &str, path: &str, accept: &str) -> Vec<u8> {
    let request = api.request(key, Method::GET, path).header(ACCEPT, accept);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{path} as {accept}");
    response.bytes().await.unwrap().to_vec()
}

#[tokio::test]
async fn a_statement_tells_what_was_earned_and_paid_in_the_tenants_days() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    two_months(&api, &tenant).await;
    let february = statement(&tenant, "2026-02-01", "2026-02-28");
    let answer = api.get(&tenant.analyst, &february).await.json();
    assert_eq!(
        (
            &answer["tenant"],
            &answer["affiliate"],
            &answer["time_zone"],
            &answer["final"]
        ),
        (
            &json!("ours"),
            &json!("Ana of ours"),
            &json!("Europe/Berlin"),
            &json!(true)
        )
    );
    let usd = &answer["currencies"][0];
    let accounts = |pending: &str, available: &str, in_payout: &str| json!({"pending": pending, "available": available, "in_payout": in_payout, "clawback": "0.00", "paid": "0.00"});
    assert_eq!(usd["opening"], accounts("14.97", "0.00", "0.00"));
    assert_eq!(usd["closing"], accounts("7.49", "0.00", "4.99"));
    let reasons: Vec<&Value> = usd["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["reason"])
        .collect();
    assert_eq!(reasons, ["approved", "refunded", "payout"]);
    // Those of one commission stand together, before the next one's.
    let told: Vec<[&Value; 3]> = usd["movements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| [&m["order_id"], &m["reason"], &m["pending"]])
        .collect();
    assert_eq!(
        told,
        [
            ["=order-0", "approved", "-4.99"],
            ["=order-0", "payout", "0.00"],
            ["=order-1", "refunded", "-2.49"],
        ]
    );
    let movement = &usd["movements"][0];
    assert_eq!(
        (
            &movement["program"],
            &movement["part"],
            &movement["basis"],
            &movement["event"]
        ),
        (
            &json!("Shoes"),
            &json!("direct"),
            &json!("49.90"),
            &json!("sale")
        )
    );
    assert_eq!(
        usd["payouts"],
        json!([{"id": Uuid::from_u128(1), "at": "2026-02-11T10:00:00Z", "state": "sent", "method": "sepa",
            "reference": "Payout 1", "gross": "4.99", "fee": "0.25", "withheld": "1.00", "net": "3.74"}])
    );
    let january = api
        .get(
            &tenant.admin,
            &statement(&tenant, "2026-01-01", "2026-01-31"),
        )
        .await
        .json();
    assert_eq!(january["currencies"][0]["closing"], usd["opening"]);
    assert_eq!(
        january["currencies"][0]["movements"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(january["currencies"][0]["payouts"], json!([]));
    // Before anything was earned there is nothing to tell.
    let before = api
        .get(
            &tenant.admin,
            &statement(&tenant, "2025-01-01", "2025-12-31"),
        )
        .await
        .json();
    assert_eq!(before["currencies"], json!([]));

    let table = get_as(&api, &tenant.analyst, &february, "text/csv").await;
    assert_eq!(table.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(
        table.header("content-disposition"),
        format!(
            "attachment; filename=\"statement-{}-2026-02-01-2026-02-28.csv\"",
            tenant.affiliate
        )
    );
    let lines: Vec<&str> = table.text.lines().collect();
    assert!(lines[0].starts_with("record,currency,at,commission_id,order_id,event,program"));
    let records: Vec<&str> = lines[1..]
        .iter()
        .map(|line| line.split(',').next().unwrap())
        .collect();
    assert_eq!(
        records,
        [
            "opening", "movement", "movement", "movement", "payout", "closing"
        ]
    );
    assert!(
        lines[2].contains("'=order-0,sale,Shoes,,direct,49.90,approved,-4.99,4.99,"),
        "{}",
        lines[2]
    );

    let paper = api
        .request(&tenant.analyst, Method::GET, &february)
        .header(ACCEPT, "application/pdf");
    let paper = paper.send().await.unwrap();
    assert_eq!(paper.headers()["content-type"], "application/pdf");
    let paper = paper.bytes().await.unwrap();
    assert!(paper.starts_with(b"%PDF-1.7") && paper.ends_with(b"%%EOF"));
}

#[tokio::test]
async fn a_past_statement_never_changes() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    two_months(&api, &tenant).await;
    let key = &tenant.analyst;
    let formats = ["application/json", "text/csv", "application/pdf"];
    let february = statement(&tenant, "2026-02-01", "2026-02-28");
    let mut before = Vec::new();
    for format in formats {
        before.push(bytes(&api, key, &february, format).await);
    }
    // The payout is paid, an order is refunded, another one earns.
    let paid = [("in_payout", "-4.99"), ("paid", "4.99")];
    let first = Uuid::from_u128(u128::try_from(1000 * tenant.id).unwrap());
    post(
        &api.pool,
        &tenant,
        first,
        "paid",
        "2026-03-02T10:00:00Z",
        &paid,
    )
    .await;
    post(
        &api.pool,
        &tenant,
        first,
        "refunded",
        "2026-03-03T10:00:00Z",
        &[("clawback", "-4.99")],
    )
    .await;
    sqlx::query("UPDATE payouts SET state = 'paid', closed_at = '2026-03-02T10:00:00Z', booked = true, sent_at = now()")
        .execute(&api.pool)
        .await
        .unwrap();
    event(&api.pool, &tenant, 1, "paid", "2026-03-02T10:00:00Z").await;
    order(&api.pool, &tenant, 200_000, "100", Some("10")).await;
    for (format, before) in formats.into_iter().zip(before) {
        let now = bytes(&api, key, &february, format).await;
        assert!(now == before, "{format}");
    }
    let march = api
        .get(key, &statement(&tenant, "2026-03-01", "2026-03-31"))
        .await
        .json();
    let usd = &march["currencies"][0];
    let closing = json!({"pending": "17.49", "available": "0.00", "in_payout": "0.00", "clawback": "-4.99", "paid": "4.99"});
    assert_eq!(usd["closing"], closing);
    assert_eq!(usd["payouts"][0]["state"], "paid");
}

#[tokio::test]
async fn a_statement_that_does_not_add_up_is_not_given_out() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    two_months(&api, &tenant).await;
    let path = statement(&tenant, "2026-02-01", "2026-02-28");
    sqlx::query("UPDATE ledger_balances SET balance = balance + 0.0001")
        .execute(&api.pool)
        .await
        .unwrap();
    for format in ["application/json", "text/csv", "application/pdf"] {
        let answer = get_as(&api, &tenant.admin, &path, format).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{format}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
}

#[tokio::test]
async fn year_totals_are_what_was_paid_in_the_tenants_year() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let other = api.tenant("theirs").await;
    let pool = &api.pool;
    // In Berlin it is 2026 from 23:00 UTC on.
    let moments = [
        (1, "USD", "100.00", "2025-12-31T22:59:59Z"),
        (2, "USD", "400.00", "2025-12-31T23:00:00Z"),
        (3, "USD", "200.00", "2026-12-31T22:59:59Z"),
        (4, "USD", "50.00", "2026-12-31T23:00:00Z"),
        (5, "EUR", "700.00", "2026-06-01T12:00:00Z"),
    ];
    for (number, currency, amount, at) in moments {
        payout(
            pool,
            (&tenant, number, currency, amount, "1.50", "10.00"),
            &[("paid", at)],
        )
        .await;
    }
    payout(
        pool,
        (&tenant, 6, "USD", "900", "0", "0"),
        &[("cancelled", "2026-06-01T12:00:00Z")],
    )
    .await;
    payout(
        pool,
        (&tenant, 7, "USD", "900", "0", "0"),
        &[("sent", "2026-06-01T12:00:00Z")],
    )
    .await;
    payout(
        pool,
        (&other, 8, "USD", "900", "0", "0"),
        &[("paid", "2026-06-01T12:00:00Z")],
    )
    .await;
    let total = |year: i32,
                 currency: &str,
                 payouts: i32,
                 [gross, fees, withheld, net]: [&str; 4]| {
        json!({"year": year, "affiliate_id": tenant.affiliate, "name": "Ana of ours", "email": null, "currency": currency,
            "payouts": payouts, "gross": gross, "fees": fees, "withheld": withheld, "net": net})
    };
    let eur = total(2026, "EUR", 1, ["700.00", "1.50", "10.00", "688.50"]);
    let usd = total(2026, "USD", 2, ["600.00", "3.00", "20.00", "577.00"]);
    let get = async |path: &str| api.get(&tenant.admin, path).await.json();
    assert_eq!(
        get("/v1/tax-totals?year=2026").await["items"],
        json!([eur, usd])
    );
    let threshold = async |least: &str| {
        get(&format!(
            "/v1/tax-totals?year=2026&currency=USD&at_least={least}"
        ))
        .await["items"]
            .clone()
    };
    assert_eq!(threshold("600.00").await, json!([usd]));
    assert_eq!(threshold("600.01").await, json!([]));
    // By pages of one.
    let page = get("/v1/tax-totals?year=2026&limit=1").await;
    assert_eq!(page["items"], json!([eur]));
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = get(&format!("/v1/tax-totals?year=2026&limit=1&cursor={cursor}")).await;
    assert_eq!(
        (&page["items"], &page["next_cursor"]),
        (&json!([usd]), &Value::Null)
    );

    let own = format!("/v1/affiliates/{}/tax-totals", tenant.affiliate);
    let years = get(&own).await;
    let years: Vec<(&Value, &Value)> = years["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (&item["year"], &item["gross"]))
        .collect();
    let expected = [
        (2026, "700.00"),
        (2025, "100.00"),
        (2026, "600.00"),
        (2027, "50.00"),
    ];
    assert_eq!(json!(years), json!(expected));
    assert_eq!(
        get(&format!("{own}?year=2026")).await["items"],
        json!([eur, usd])
    );
    let table = get_as(
        &api,
        &tenant.admin,
        "/v1/tax-totals?year=2026&all=true",
        "text/csv",
    )
    .await;
    assert_eq!(
        table.text,
        format!(
            "year,affiliate_id,name,email,currency,payouts,gross,fees,withheld,net\n\
             2026,{0},Ana of ours,,EUR,1,700.00,1.50,10.00,688.50\n2026,{0},Ana of ours,,USD,2,600.00,3.00,20.00,577.00\n",
            tenant.affiliate
        )
    );
}
