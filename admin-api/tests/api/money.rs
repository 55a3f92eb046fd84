//! Conversions, commissions and balances, read from the ledger's database.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::harness::{Api, Tenant};

fn first() -> DateTime<Utc> {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// An order of `amount` that earned 10 %, as the processor would record it; none: not attributed.
pub(crate) async fn order(
    pool: &PgPool,
    tenant: &Tenant,
    number: i64,
    amount: &str,
    commission: Option<&str>,
) -> Uuid {
    let id = Uuid::from_u128(u128::try_from(1000 * tenant.id + number).unwrap());
    // Two at the same time each, so that pages have to end between equals.
    let at = first() + TimeDelta::minutes(number / 2);
    let mut transaction = pool.begin().await.unwrap();
    let attributed = commission.is_some();
    sqlx::query(
        "INSERT INTO conversions (id, tenant_id, order_id, event, amount, currency, accepted_at, converted_at,
                                  attribution, click_id, link_id, affiliate_id, program_id)
         VALUES ($1, $2, $3, 'sale', $4::numeric, 'USD', $5, $5, $6, $7, $8, $9, $10)",
    )
    .bind(id)
    .bind(tenant.id)
    .bind(format!("=order-{number}"))
    .bind(amount)
    .bind(at)
    .bind(if attributed { "click_token" } else { "no_click" })
    .bind(attributed.then_some("a-click"))
    .bind(attributed.then_some(tenant.link))
    .bind(attributed.then_some(tenant.affiliate))
    .bind(attributed.then_some(tenant.program))
    .execute(&mut *transaction)
    .await
    .unwrap();
    if let Some(commission) = commission {
        sqlx::query(
            "WITH m AS (
                INSERT INTO commissions (id, tenant_id, conversion_id, program_id, affiliate_id, link_id, rule_id,
                    rule_version, basis, gross, amount, pending, currency, state, hold_until, created_at)
                SELECT $1, $2, $1, $3, $4, $5, r.id, r.version, $6::numeric, $7::numeric, $7::numeric, $7::numeric, 'USD',
                       'pending', $8, $8
                FROM commission_rules r WHERE r.program_id = $3 ORDER BY r.id LIMIT 1 RETURNING id
             ), a AS (
                INSERT INTO ledger_accounts (tenant_id, affiliate_id, kind, currency)
                VALUES ($2, NULL, 'commission_expense', 'USD'), ($2, $4, 'pending', 'USD')
                ON CONFLICT (tenant_id, affiliate_id, kind, currency) DO UPDATE SET kind = excluded.kind
                RETURNING id, kind
             ), t AS (
                INSERT INTO ledger_transactions (tenant_id, operation_key, commission_id, posted_at)
                SELECT $2, 'commission:' || m.id || ':earned', m.id, $8 FROM m RETURNING id
             )
             INSERT INTO ledger_entries (tenant_id, transaction_id, account_id, amount, currency)
             SELECT $2, t.id, a.id, CASE a.kind WHEN 'pending' THEN $7::numeric ELSE -$7::numeric END, 'USD' FROM t, a",
        )
        .bind(id)
        .bind(tenant.id)
        .bind(tenant.program)
        .bind(tenant.affiliate)
        .bind(tenant.link)
        .bind(amount)
        .bind(commission)
        .bind(at)
        .execute(&mut *transaction)
        .await
        .unwrap();
    }
    transaction.commit().await.unwrap();
    id
}

pub(crate) async fn orders(api: &Api, tenant: &Tenant) {
    for number in 0..5 {
        order(&api.pool, tenant, number, "49.9", Some("4.99")).await;
    }
    order(&api.pool, tenant, 5, "10", None).await;
}

#[tokio::test]
async fn lists_page_through_everything_once_and_filter() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    orders(&api, &ours).await;
    orders(&api, &theirs).await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api
            .get(&ours.analyst, &format!("/v1/conversions?limit=2{cursor}"))
            .await
            .json();
        let items = page["items"].as_array().unwrap().clone();
        seen.extend(
            items
                .iter()
                .map(|item| item["order_id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(
        seen,
        [
            "=order-5", "=order-4", "=order-3", "=order-2", "=order-1", "=order-0"
        ]
    );

    let count = async |query: String| {
        let list = api.get(&ours.admin, &query).await;
        assert_eq!(list.status, 200, "{}", list.text);
        list.json()["items"].as_array().unwrap().len()
    };
    assert_eq!(
        count("/v1/conversions?from=2026-01-01T00:01:00Z&to=2026-01-01T00:02:00Z".into()).await,
        2
    );
    assert_eq!(
        count("/v1/conversions?from=2026-01-01T02:01:00+02:00".into()).await,
        4
    );
    assert_eq!(
        count(format!("/v1/conversions?link_id={}", ours.link)).await,
        5
    );
    assert_eq!(
        count(format!("/v1/conversions?affiliate_id={}", theirs.affiliate)).await,
        0
    );
    assert_eq!(
        count(format!(
            "/v1/commissions?affiliate_id={}&to=2026-01-01T00:01:00Z",
            ours.affiliate
        ))
        .await,
        2
    );
}

#[tokio::test]
async fn a_commission_explains_itself_and_the_balance_is_its_sum() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    orders(&api, &tenant).await;
    let list = api
        .get(&tenant.analyst, "/v1/commissions?limit=1")
        .await
        .json();
    let mut item = list["items"][0].clone();
    assert!(item["rule"]["id"].take().is_i64() && item["conversion_id"] == item["id"]);
    item["id"].take();
    item["conversion_id"].take();
    assert_eq!(
        item,
        json!({"id": null, "conversion_id": null, "order_id": "=order-4", "program_id": tenant.program,
            "affiliate_id": tenant.affiliate, "link_id": tenant.link,
            "part": "direct", "rule": {"id": null, "version": 1}, "basis": "49.90", "gross": "4.99", "amount": "4.99",
            "currency": "USD", "state": "pending", "hold_until": "2026-01-01T00:02:00Z", "created_at": "2026-01-01T00:02:00Z"})
    );
    let path = format!("/v1/affiliates/{}/balance", tenant.affiliate);
    assert_eq!(
        api.get(&tenant.analyst, &path).await.json(),
        json!({"affiliate_id": tenant.affiliate,
            "balances": [{"currency": "USD", "pending": "24.95", "available": "0.00", "in_payout": "0.00", "paid": "0.00", "clawback": "0.00"}]})
    );
    // From any entry one query leads to everything behind it.
    let explained: Vec<Value> =
        sqlx::query_scalar("SELECT to_jsonb(e) FROM ledger_explained e WHERE account = 'pending'")
            .fetch_all(&api.pool)
            .await
            .unwrap();
    assert_eq!(explained.len(), 5);
    for row in explained {
        for field in [
            "conversion_id",
            "order_id",
            "rule_id",
            "rule_version",
            "basis",
            "steps",
            "click_id",
            "path",
            "commission_id",
        ] {
            assert!(!row[field].is_null(), "{field} of {row}");
        }
    }
    let page = api
        .client
        .get(format!("{}/", api.base))
        .bearer_auth(&tenant.admin)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        page.contains("=order-4")
            && page.contains("4.99 USD")
            && page.contains("no click was named"),
        "{page}"
    );
}

#[tokio::test]
async fn lists_can_be_had_as_csv() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    orders(&api, &tenant).await;
    let csv = |path: &str| {
        api.request(&tenant.admin, reqwest::Method::GET, path)
            .header("accept", "text/csv")
    };
    let answer = api.send(csv("/v1/commissions?limit=2")).await;
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    assert!(!answer.header("next-cursor").is_empty());
    let lines: Vec<&str> = answer.text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("id,conversion_id,order_id,program_id,affiliate_id,link_id,part,rule.id,rule.version,basis,gross,amount"));
    // What a spreadsheet would run as a formula is text.
    assert!(lines[1].contains(",'=order-4,"), "{}", lines[1]);
    assert_eq!(api.send(csv("/v1/links")).await.text.lines().count(), 2);
}
