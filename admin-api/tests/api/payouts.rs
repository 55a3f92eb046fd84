//! What people do with payouts: terms, methods, runs, approvals, and what became of the money. Drafting and booking are the
//! processor's, and tested there.

use serde_json::{Value, json};
use sqlx::PgPool;
use tributary_shared::payouts::Method;
use tributary_shared::sealing::SealingKeys;
use uuid::Uuid;

use crate::harness::{Api, SEALING_KEYS, Tenant};
use crate::money;

/// A payout of one commission, as the processor would draft it: 100.00, of which 97.75 is sent.
pub(crate) async fn draft(pool: &PgPool, tenant: &Tenant, number: i64, currency: &str) -> Uuid {
    let id = Uuid::from_u128(u128::try_from(77_000 * tenant.id + number).unwrap());
    let keys: SealingKeys = SEALING_KEYS.parse().unwrap();
    let method = Method::Paypal {
        email: "ana@example.com".to_owned(),
    };
    let plain = serde_json::to_vec(&method).unwrap();
    let sealed = keys.seal(&format!("payout:{id}:method"), &plain);
    let order = money::order(pool, tenant, 500 + number, "1000", Some("100")).await;
    sqlx::query(
        "WITH r AS (INSERT INTO payout_runs (tenant_id, requested_by, done_at, drafted) VALUES ($2, 'ours', now(), 1) RETURNING id),
              p AS (INSERT INTO payouts (id, tenant_id, run_id, affiliate_id, currency, state, amount, fee, method, method_kind,
                                         reference, created_at)
                    SELECT $1, $2, r.id, $3, $4, 'draft', 100, 2.25, $5, 'paypal', 'ours, payout', '2026-02-01T00:00:00Z' FROM r
                    RETURNING id)
         INSERT INTO payout_items (tenant_id, payout_id, commission_id, amount) SELECT $2, p.id, $6, 100 FROM p",
    )
    .bind(id)
    .bind(tenant.id)
    .bind(tenant.affiliate)
    .bind(currency)
    .bind(sealed)
    .bind(order)
    .execute(pool)
    .await
    .unwrap();
    id
}

/// Somebody who can sign in, and does.
async fn person(api: &Api, tenant: &Tenant, email: &str) -> String {
    let user = json!({"email": email, "password": "long enough", "role": "admin"});
    let users = format!("/v1/tenants/{}/users", tenant.id);
    api.create(&tenant.admin, &users, user).await;
    let login = json!({"email": email, "password": "long enough"});
    let session = api.create("", "/v1/sessions", login).await;
    session["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn terms_are_kept_as_they_were_said() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let read = api.get(&tenant.analyst, "/v1/payout-terms").await.json();
    assert_eq!(
        read,
        json!({"schedule": "on_request", "day_of_month": 1, "approvals": 1, "minimums": {}, "fees": [], "updated_at": null})
    );
    let terms = json!({"schedule": "monthly", "day_of_month": 15, "approvals": 2, "minimums": {"USD": "50", "JPY": "5000"},
        "fees": [{"method": "paypal", "currency": "USD", "percent": "2", "fixed": "0.25", "maximum": "20"}]});
    let put = api
        .put(&tenant.admin, "/v1/payout-terms", terms.clone())
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    let mut read = api.get(&tenant.analyst, "/v1/payout-terms").await.json();
    assert!(read["updated_at"].take().is_string());
    assert_eq!(
        read,
        json!({"schedule": "monthly", "day_of_month": 15, "approvals": 2, "minimums": {"USD": "50.00", "JPY": "5000"},
            "fees": [{"method": "paypal", "currency": "USD", "percent": "2", "fixed": "0.25", "maximum": "20.00"}], "updated_at": null})
    );
    // Another minimum does not move the schedule's beginning; another day does.
    let scheduled_at = async || -> chrono::DateTime<chrono::Utc> {
        sqlx::query_scalar("SELECT scheduled_at FROM payout_terms")
            .fetch_one(&api.pool)
            .await
            .unwrap()
    };
    let first = scheduled_at().await;
    let with = |field: &str, value: Value| {
        let mut terms = terms.clone();
        terms[field] = value;
        terms
    };
    let other = with("minimums", json!({}));
    api.put(&tenant.admin, "/v1/payout-terms", other).await;
    assert_eq!(scheduled_at().await, first);
    let other = with("day_of_month", json!(16));
    api.put(&tenant.admin, "/v1/payout-terms", other).await;
    assert!(scheduled_at().await > first);
    for (field, bad) in [
        ("schedule", json!("hourly")),
        ("day_of_month", json!(29)),
        ("approvals", json!(3)),
        ("minimums", json!({"USD": "-1"})),
        ("minimums", json!({"usd": "1"})),
        ("minimums", json!({"JPY": "1.5"})),
        ("fees", json!([{"method": "cash", "currency": "USD"}])),
        (
            "fees",
            json!([{"method": "paypal", "currency": "USD", "percent": "101"}]),
        ),
        (
            "fees",
            json!([{"method": "paypal", "currency": "USD"}, {"method": "paypal", "currency": "USD"}]),
        ),
    ] {
        let refused = api
            .put(&tenant.admin, "/v1/payout-terms", with(field, bad))
            .await;
        assert_eq!(refused.status, 422, "{field}: {}", refused.text);
        let named = refused.json()["errors"][0]["field"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(named.starts_with(field), "{field}: {named}");
    }
}

#[tokio::test]
async fn what_is_secret_is_stored_sealed_and_never_shown() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let path = format!("/v1/affiliates/{}/payout-method", tenant.affiliate);
    assert_eq!(api.get(&tenant.admin, &path).await.status, 404);
    let iban = "DE89370400440532013000";
    let method = json!({"kind": "sepa", "holder": "Ana Schmidt", "iban": iban});
    let put = api.put(&tenant.admin, &path, method).await;
    assert_eq!(put.status, 200, "{}", put.text);
    let read = api.get(&tenant.analyst, &path).await;
    assert_eq!(
        read.json(),
        json!({"kind": "sepa", "account": "…3000", "holder": "Ana Schmidt"})
    );
    assert!(!put.text.contains("3704") && !read.text.contains("3704"));
    let stored: Vec<u8> = sqlx::query_scalar("SELECT payout_method FROM affiliates WHERE id = $1")
        .bind(tenant.affiliate)
        .fetch_one(&api.pool)
        .await
        .unwrap();
    assert!(!String::from_utf8_lossy(&stored).contains("3704"));
    for bad in [
        json!({"kind": "cash"}),
        json!({"kind": "sepa", "holder": "", "iban": iban}),
        json!({"kind": "paypal", "email": "nobody"}),
        json!({"kind": "paypal", "email": "a@b.example", "iban": iban}),
        json!({"kind": "stripe_connect", "account": "cus_1"}),
    ] {
        let refused = api.put(&tenant.admin, &path, bad).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
    }
    assert_eq!(api.delete(&tenant.admin, &path).await.status, 204);
    assert_eq!(api.delete(&tenant.admin, &path).await.status, 404);

    let provider = "/v1/payout-providers/stripe_connect";
    assert_eq!(api.get(&tenant.admin, provider).await.status, 404);
    let credentials = json!({"credentials": {"secret_key": "sk_live_secret"}});
    let put = api.put(&tenant.admin, provider, credentials.clone()).await;
    assert_eq!(put.status, 200, "{}", put.text);
    let read = api.get(&tenant.analyst, provider).await;
    assert_eq!(read.json()["kind"], "stripe_connect");
    assert!(!put.text.contains("sk_live") && !read.text.contains("sk_live"));
    let keys: SealingKeys = SEALING_KEYS.parse().unwrap();
    let stored: Vec<u8> = sqlx::query_scalar("SELECT credentials FROM payout_providers")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    let purpose = format!("payout_provider:{}:stripe_connect", tenant.id);
    assert_eq!(
        keys.open(&purpose, &stored).unwrap(),
        br#"{"secret_key":"sk_live_secret"}"#
    );
    // While payouts are with it, nobody takes the account away or puts another in its place unawares.
    let payout = draft(&api.pool, &tenant, 1, "USD").await;
    sqlx::query("UPDATE payouts SET state = 'sent', provider = 'stripe_connect', method_kind = 'stripe_connect', sent_at = now()")
        .execute(&api.pool)
        .await
        .unwrap();
    assert_eq!(api.delete(&tenant.admin, provider).await.status, 409);
    let again = api.put(&tenant.admin, provider, credentials.clone()).await;
    assert_eq!(again.status, 409, "{}", again.text);
    let mut same = credentials;
    same["same_account"] = json!(true);
    assert_eq!(api.put(&tenant.admin, provider, same).await.status, 200);
    for (action, body) in [("pay", json!({})), ("fail", json!({"reason": "x"}))] {
        let path = format!("/v1/payouts/{payout}/{action}");
        let refused = api.post(&tenant.admin, &path, body).await;
        assert_eq!(refused.status, 409, "{}", refused.text);
        assert!(
            refused.text.contains("with its provider"),
            "{}",
            refused.text
        );
    }
    for bad in [
        json!({"credentials": {}}),
        json!({"credentials": {"secret_key": 5}}),
        json!({"credentials": {"secret_key": "x", "other": "y"}}),
    ] {
        assert_eq!(api.put(&tenant.admin, provider, bad).await.status, 422);
    }
    assert_eq!(
        api.get(&tenant.admin, "/v1/payout-providers/cash")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn two_people_approve_and_one_of_them_can_not_be_both() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let terms = json!({"schedule": "on_request", "approvals": 2});
    api.put(&tenant.admin, "/v1/payout-terms", terms).await;
    let id = draft(&api.pool, &tenant, 1, "USD").await;
    let path = format!("/v1/payouts/{id}/approve");
    let (ana, ben) = (
        person(&api, &tenant, "ana@example.com").await,
        person(&api, &tenant, "ben@example.com").await,
    );
    let by_key = api.post(&tenant.admin, &path, json!({})).await;
    assert_eq!(by_key.status, 409, "{}", by_key.text);
    let first = api
        .post(&ana, &path, json!({"reason": "looks right"}))
        .await;
    assert_eq!(
        (first.status.as_u16(), &first.json()["state"]),
        (200, &json!("draft")),
        "{}",
        first.text
    );
    let again = api.post(&ana, &path, json!({})).await;
    assert_eq!(again.status, 409);
    assert!(again.text.contains("another person"), "{}", again.text);
    let second = api.post(&ben, &path, json!({})).await.json();
    assert_eq!(second["state"], "approved");
    assert_eq!(
        second["approved_by"],
        json!(["ana@example.com", "ben@example.com"])
    );
    let story = api
        .get(&tenant.analyst, &format!("/v1/payouts/{id}"))
        .await
        .json();
    let events: Vec<String> = (story["events"].as_array().unwrap().iter())
        .map(|event| {
            format!("{} {} {}", event["actor"], event["state"], event["text"]).replace('"', "")
        })
        .collect();
    assert_eq!(
        events,
        [
            "ana@example.com draft approved by 1 of 2; looks right",
            "ben@example.com approved "
        ]
    );
    assert_eq!(
        story["to"],
        json!({"kind": "paypal", "account": "a…@example.com", "holder": null})
    );
    assert_eq!(
        (&story["item_count"], &story["items"][0]["amount"]),
        (&json!(1), &json!("100.00"))
    );
    assert_eq!(
        (&story["amount"], &story["fee"], &story["net"]),
        (&json!("100.00"), &json!("2.25"), &json!("97.75"))
    );
}

#[tokio::test]
async fn a_payout_goes_through_its_states_and_no_others() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let id = draft(&api.pool, &tenant, 1, "USD").await;
    let act = async |action: &str, body: Value| {
        let path = format!("/v1/payouts/{id}/{action}");
        api.post(&tenant.admin, &path, body).await
    };
    let why = || json!({"reason": "the bank says so"});
    let refused = async |action: &str, body: Value| {
        let answer = act(action, body).await;
        assert_eq!(answer.status, 409, "{action}: {}", answer.text);
    };
    let becomes = async |action: &str, body: Value, state: &str| {
        let answer = act(action, body).await;
        assert_eq!(answer.status, 200, "{action}: {}", answer.text);
        assert_eq!(answer.json()["state"], state, "{action}");
        answer.json()
    };
    for action in ["send", "pay", "retry"] {
        refused(action, json!({})).await;
    }
    refused("fail", why()).await;
    becomes("approve", json!({}), "approved").await;
    refused("approve", json!({})).await;
    let sent = becomes("send", json!({"reference": "file 7"}), "sent").await;
    assert_eq!(
        (&sent["provider"], &sent["provider_reference"]),
        (&json!(null), &json!("file 7"))
    );
    refused("cancel", why()).await;
    assert_eq!(act("fail", json!({})).await.status, 422);
    let failed = becomes("fail", why(), "failed").await;
    assert_eq!(failed["failure"], "the bank says so");
    let retried = becomes("retry", json!({}), "approved").await;
    assert_eq!(
        (
            &retried["attempt"],
            &retried["sent_at"],
            &retried["failure"]
        ),
        (&json!(1), &json!(null), &json!(null))
    );
    becomes("send", json!({}), "sent").await;
    let paid = becomes("pay", json!({}), "paid").await;
    assert!(paid["closed_at"].is_string() && paid["booked"] == json!(false));
    for action in ["approve", "send", "pay", "retry"] {
        refused(action, json!({})).await;
    }
    for action in ["fail", "cancel"] {
        refused(action, why()).await;
    }
    assert_eq!(act("forget", json!({})).await.status, 404);

    // With many: all of them or none.
    let others = [
        draft(&api.pool, &tenant, 2, "EUR").await,
        draft(&api.pool, &tenant, 3, "GBP").await,
    ];
    let many = async |ids: Vec<Uuid>| {
        let body = json!({"ids": ids, "action": "cancel", "reason": "drafted by mistake"});
        api.post(&tenant.admin, "/v1/payouts/actions", body).await
    };
    let none = many(vec![others[0], id, others[1]]).await;
    assert_eq!(none.status, 422, "{}", none.text);
    assert_eq!(none.json()["errors"][0]["field"], "ids[1]");
    let count = async |query: &str| {
        let list = api
            .get(&tenant.analyst, &format!("/v1/payouts{query}"))
            .await;
        assert_eq!(list.status, 200, "{}", list.text);
        list.json()["items"].as_array().unwrap().len()
    };
    assert_eq!(count("?state=draft").await, 2);
    let done = many(others.to_vec()).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert_eq!(count("?state=cancelled&currency=EUR").await, 1);
    assert_eq!(
        count(&format!(
            "?affiliate_id={}&method=paypal&limit=2",
            tenant.affiliate
        ))
        .await,
        2
    );
    assert_eq!(count("?state=draft").await, 0);
    assert_eq!(many(vec![]).await.status, 422);
    assert_eq!(
        many((0..501).map(Uuid::from_u128).collect()).await.status,
        422
    );
    assert_eq!(
        api.get(&tenant.admin, "/v1/payouts?state=lost")
            .await
            .status,
        400
    );
    let csv = api
        .request(&tenant.admin, reqwest::Method::GET, "/v1/payouts")
        .header("accept", "text/csv");
    let csv = api.send(csv).await;
    assert_eq!(csv.text.lines().count(), 4, "{}", csv.text);
    assert!(csv.text.starts_with(
        "id,run_id,affiliate_id,currency,state,amount,fee,withheld,net,method,reference"
    ));
}

#[tokio::test]
async fn what_was_given_to_a_provider_long_ago_is_told_by_a_person() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let id = draft(&api.pool, &tenant, 1, "USD").await;
    sqlx::query("UPDATE payouts SET state = 'sent', provider = 'paypal', sent_at = now() - interval '26 days'")
        .execute(&api.pool)
        .await
        .unwrap();
    let path = format!("/v1/payouts/{id}/pay");
    let paid = api
        .post(&tenant.admin, &path, json!({"reference": "seen at PayPal"}))
        .await;
    assert_eq!(paid.status, 200, "{}", paid.text);
}

#[tokio::test]
async fn runs_are_asked_for_once_and_few_at_a_time() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let ask = async |key: &str, body: Value| {
        let request = api
            .request(&tenant.admin, reqwest::Method::POST, "/v1/payout-runs")
            .header("idempotency-key", key)
            .json(&body);
        api.send(request).await
    };
    let one = json!({"affiliate_id": tenant.affiliate, "currency": "USD"});
    let first = ask("a", one.clone()).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(ask("a", one).await.json()["id"], first.json()["id"]);
    assert_eq!(
        first.json()["requested_by"],
        format!("API key {} (admin)", tenant.admin_id)
    );
    for bad in [json!({"affiliate_id": 999_999}), json!({"currency": "XXX"})] {
        assert_eq!(ask("b", bad).await.status, 422);
    }
    for number in 1..10 {
        assert_eq!(ask(&format!("more {number}"), json!({})).await.status, 201);
    }
    let refused = ask("too many", json!({})).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    let list = api
        .get(&tenant.analyst, "/v1/payout-runs?limit=3")
        .await
        .json();
    let ids: Vec<i64> = (list["items"].as_array().unwrap().iter())
        .map(|run| run["id"].as_i64().unwrap())
        .collect();
    assert!(ids.len() == 3 && ids[0] > ids[1] && ids[1] > ids[2]);
    let next = list["next_cursor"].as_str().unwrap();
    let rest = api
        .get(&tenant.analyst, &format!("/v1/payout-runs?cursor={next}"))
        .await
        .json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 7);
    let path = format!("/v1/payout-runs/{}", ids[0]);
    assert_eq!(api.get(&tenant.analyst, &path).await.json()["id"], ids[0]);
}
