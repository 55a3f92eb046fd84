//! Files of payouts, and the account that they are paid from. The payouts themselves are put into the database here.

use std::io::Write as _;
use std::process::{Command, Stdio};

use futures::future::join_all;
use reqwest::Method as Verb;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tributary_shared::sealing::SealingKeys;
use uuid::Uuid;

use crate::harness::{Answer, Api, OWNER_KEY, SEALING_KEYS, Tenant};

const IBAN: &str = "DE89370400440532013000";

fn sepa() -> Value {
    json!({"kind": "sepa", "holder": "Jürgen Größe", "iban": IBAN})
}

fn paypal() -> Value {
    json!({"kind": "paypal", "email": "ana@example.com"})
}

/// An approved payout of `amount` to an affiliate of its own.
pub(crate) async fn payout(
    api: &Api,
    tenant: &Tenant,
    number: u128,
    method: &Value,
    amount: &str,
    currency: &str,
) -> Uuid {
    let affiliate = api
        .create(
            &tenant.admin,
            "/v1/affiliates",
            json!({"name": format!("Partner {number}")}),
        )
        .await;
    let id = Uuid::from_u128(u128::try_from(tenant.id).unwrap() << 64 | number);
    let keys: SealingKeys = SEALING_KEYS.parse().unwrap();
    let sealed = keys.seal(
        &format!("payout:{id}:method"),
        method.to_string().as_bytes(),
    );
    sqlx::query(
        "WITH run AS (INSERT INTO payout_runs (tenant_id, requested_by) VALUES ($1, 'a test') RETURNING id)
         INSERT INTO payouts (id, tenant_id, run_id, affiliate_id, currency, state, amount, fee, method, method_kind, reference,
                              approved_by, created_at, approved_at)
         SELECT $2, $1, run.id, $3, $4, 'approved', $5::numeric, 0, $6, $7, 'Demo shop, payout 2026-11', '{Eva}',
                '2026-11-01'::timestamptz + make_interval(secs => $8), now() FROM run",
    )
    .bind(tenant.id)
    .bind(id)
    .bind(affiliate["id"].as_i64().unwrap())
    .bind(currency)
    .bind(amount)
    .bind(sealed)
    .bind(method["kind"].as_str().unwrap())
    .bind(f64::from(u32::try_from(number).unwrap()))
    .execute(&api.pool)
    .await
    .unwrap();
    id
}

async fn pay_from_account(api: &Api, tenant: &Tenant) {
    let account =
        json!({"holder": "Demo & Söhne", "iban": "NL91 ABNA 0417 1643 00", "bic": "ABNANL2A"});
    let answer = api
        .put(&tenant.admin, "/v1/payout-accounts/sepa", account)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn states(api: &Api, tenant: &Tenant) -> Vec<String> {
    let query = "SELECT state FROM payouts WHERE tenant_id = $1 ORDER BY created_at, id";
    sqlx::query_scalar(query)
        .bind(tenant.id)
        .fetch_all(&api.pool)
        .await
        .unwrap()
}

async fn count(api: &Api, query: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {query}")))
        .fetch_one(&api.pool)
        .await
        .unwrap()
}

fn complaints(file: &str) -> String {
    let schema = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/pain.001.001.09.xsd"
    );
    let mut validator = Command::new("xmllint")
        .args(["--nonet", "--noout", "--schema", schema, "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("xmllint, which deploy/local/setup.sh installs");
    validator
        .stdin
        .take()
        .unwrap()
        .write_all(file.as_bytes())
        .unwrap();
    let done = validator.wait_with_output().unwrap();
    match done.status.success() {
        true => String::new(),
        false => String::from_utf8(done.stderr).unwrap(),
    }
}

fn wrong_fields(answer: &Answer) -> Vec<(String, String)> {
    assert_eq!(answer.status, 422, "{}", answer.text);
    let answer = answer.json();
    let errors = answer["errors"].as_array().unwrap();
    let text = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
    errors
        .iter()
        .map(|error| (text(error, "field"), text(error, "message")))
        .collect()
}

#[tokio::test]
async fn a_file_holds_what_was_approved_and_is_handed_out_as_it_was_made() {
    let api = Api::start().await;
    let (tenant, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let first = payout(&api, &tenant, 1, &sepa(), "12.50", "EUR").await;
    let second = payout(&api, &tenant, 2, &sepa(), "0.01", "EUR").await;
    payout(&api, &tenant, 3, &paypal(), "7", "EUR").await;
    payout(&api, &theirs, 4, &sepa(), "9", "EUR").await;
    let draft = payout(&api, &tenant, 5, &sepa(), "5", "EUR").await;
    sqlx::query("UPDATE payouts SET state = 'draft' WHERE id = $1")
        .bind(draft)
        .execute(&api.pool)
        .await
        .unwrap();
    let new = json!({"format": "sepa", "currency": "EUR"});
    let early = api
        .post(&tenant.admin, "/v1/payout-files", new.clone())
        .await;
    assert_eq!(early.status, 409, "{}", early.text);
    pay_from_account(&api, &tenant).await;

    let file = api
        .create(&tenant.admin, "/v1/payout-files", new.clone())
        .await;
    let path = format!("/v1/payout-files/{}", file["id"]);
    let name = file["name"].as_str().unwrap();
    assert_eq!(name, format!("payouts-{}.xml", file["id"]));
    assert_eq!(file["payouts"], 2);
    assert_eq!(file["total"], json!({"amount": "12.51", "currency": "EUR"}));
    assert_eq!(
        states(&api, &tenant).await,
        ["sent", "sent", "approved", "draft"]
    );
    assert_eq!(states(&api, &theirs).await, ["approved"]);
    let marked: Vec<(Uuid, String, String, String)> = sqlx::query_as(
        "SELECT p.id, p.provider_reference, e.state, e.text FROM payouts p JOIN payout_events e ON e.payout_id = p.id
         WHERE p.sent_at IS NOT NULL ORDER BY p.created_at",
    )
    .fetch_all(&api.pool)
    .await
    .unwrap();
    let expected = |id| {
        (
            id,
            name.to_owned(),
            "sent".to_owned(),
            format!("in the file {name}"),
        )
    };
    assert_eq!(marked, [expected(first), expected(second)]);

    let content = api.get(&tenant.admin, &format!("{path}/content")).await;
    assert_eq!(content.status, 200);
    assert_eq!(content.header("content-type"), "application/xml");
    assert_eq!(
        content.header("content-disposition"),
        format!("attachment; filename=\"{name}\"")
    );
    assert_eq!(complaints(&content.text), "");
    assert_eq!(
        hex::encode(Sha256::digest(&content.text)),
        file["sha256"].as_str().unwrap()
    );
    for part in [
        IBAN,
        "NL91ABNA0417164300",
        "Jurgen Grosse",
        &first.simple().to_string(),
        "<CtrlSum>12.51</CtrlSum>",
    ] {
        assert!(content.text.contains(part), "{part}: {}", content.text);
    }
    // The same bytes, whatever becomes of the account and the payouts.
    let account = json!({"holder": "Other", "iban": "GB29NWBK60161331926819"});
    api.put(&tenant.admin, "/v1/payout-accounts/sepa", account)
        .await;
    let later = api.get(&tenant.admin, &format!("{path}/content")).await;
    assert_eq!(later.text, content.text);

    let read = api.get(&tenant.analyst, &path).await.json();
    assert_eq!(
        read["lines"],
        json!([
            {"line": 1, "payout_id": first, "net": {"amount": "12.50", "currency": "EUR"}},
            {"line": 2, "payout_id": second, "net": {"amount": "0.01", "currency": "EUR"}},
        ])
    );
    let list = api.get(&tenant.analyst, "/v1/payout-files").await.json();
    assert_eq!(list["items"], json!([file]));
    assert_eq!(
        api.get(&tenant.analyst, &format!("{path}/content"))
            .await
            .status,
        403
    );
    assert_eq!(
        api.get(&theirs.admin, &format!("{path}/content"))
            .await
            .status,
        404
    );
    // Nothing is left for another one.
    assert_eq!(
        api.post(&tenant.admin, "/v1/payout-files", new)
            .await
            .status,
        409
    );
    assert_eq!(count(&api, "payout_files").await, 1);
}

#[tokio::test]
async fn account_numbers_are_sealed_and_files_are_kept() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    payout(&api, &tenant, 1, &sepa(), "12.50", "EUR").await;
    pay_from_account(&api, &tenant).await;
    api.create(
        &tenant.admin,
        "/v1/payout-files",
        json!({"format": "sepa", "currency": "EUR"}),
    )
    .await;
    for table in [
        "payout_files",
        "payout_accounts",
        "payouts",
        "payout_file_lines",
        "payout_events",
        "idempotency_keys",
    ] {
        let plain = format!(
            "{table} AS t WHERE t::text LIKE '%0532013000%' OR t::text LIKE '%0417164300%'"
        );
        assert_eq!(count(&api, &plain).await, 0, "{table}");
        let hex = |text: &str| hex::encode(text);
        let plain = format!(
            "{table} AS t WHERE t::text LIKE '%{}%' OR t::text LIKE '%{}%'",
            hex("0532013000"),
            hex("0417164300")
        );
        assert_eq!(count(&api, &plain).await, 0, "{table}");
    }
    for statement in [
        "UPDATE payout_files SET total = 1",
        "DELETE FROM payout_file_lines",
        "TRUNCATE payout_files CASCADE",
    ] {
        let refused = sqlx::query(statement).execute(&api.pool).await.unwrap_err();
        assert!(
            refused.to_string().contains("is kept"),
            "{statement}: {refused}"
        );
    }
}

#[tokio::test]
async fn named_payouts_must_fit() {
    let api = Api::start().await;
    let (tenant, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let good = payout(&api, &tenant, 1, &paypal(), "1", "USD").await;
    let sent = payout(&api, &tenant, 2, &paypal(), "1", "USD").await;
    let with_provider = payout(&api, &tenant, 3, &paypal(), "1", "USD").await;
    let by_bank = payout(&api, &tenant, 4, &sepa(), "1", "EUR").await;
    let euro = payout(&api, &tenant, 5, &paypal(), "1", "EUR").await;
    let foreign = payout(&api, &theirs, 6, &paypal(), "1", "USD").await;
    for (change, id) in [
        ("state = 'sent'", sent),
        ("provider = 'paypal'", with_provider),
    ] {
        let statement = format!("UPDATE payouts SET {change} WHERE id = $1");
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(id)
            .execute(&api.pool)
            .await
            .unwrap();
    }
    let make = async |ids: &[Uuid]| {
        let new = json!({"format": "paypal_csv", "currency": "USD", "payout_ids": ids});
        api.post(&tenant.admin, "/v1/payout-files", new).await
    };
    let all = [
        good,
        sent,
        with_provider,
        by_bank,
        euro,
        foreign,
        Uuid::nil(),
        good,
    ];
    let told = wrong_fields(&make(&all).await);
    let expected = [
        ("payout_ids[1]", "is sent, not approved"),
        ("payout_ids[2]", "is given to a provider"),
        ("payout_ids[3]", "is paid by sepa"),
        ("payout_ids[4]", "is in EUR"),
        ("payout_ids[5]", "there is no such payout"),
        ("payout_ids[6]", "there is no such payout"),
        ("payout_ids[7]", "stands in the list already"),
    ];
    assert_eq!(
        told,
        expected.map(|(field, message)| (field.to_owned(), message.to_owned()))
    );
    assert_eq!(count(&api, "payout_files").await, 0);
    assert_eq!(count(&api, "payout_events").await, 0);

    let file = make(&[good]).await.json();
    let content = api
        .get(
            &tenant.admin,
            &format!("/v1/payout-files/{}/content", file["id"]),
        )
        .await;
    let expected = format!(
        "ana@example.com,1.00,USD,{}-1,\"Demo shop, payout 2026-11\",PAYPAL\r\n",
        file["id"]
    );
    assert_eq!(content.text, expected);
    assert_eq!(content.header("content-type"), "text/csv; charset=utf-8");
    // Left out, all that fit: neither what a provider has nor what was sent.
    let new = json!({"format": "paypal_csv", "currency": "USD"});
    assert_eq!(
        api.post(&tenant.admin, "/v1/payout-files", new)
            .await
            .status,
        409
    );
}

#[tokio::test]
async fn a_request_that_makes_no_sense_names_its_fields() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    pay_from_account(&api, &tenant).await;
    for (new, field) in [
        (json!({"format": "sepa", "currency": "USD"}), "currency"),
        (
            json!({"format": "paypal_csv", "currency": "KWD"}),
            "currency",
        ),
        (json!({"format": "bank_csv", "currency": "usd"}), "currency"),
        (json!({"format": "cheque", "currency": "USD"}), "format"),
        (
            json!({"format": "bank_csv", "currency": "USD", "payout_ids": []}),
            "payout_ids",
        ),
        (
            json!({"format": "bank_csv", "currency": "USD", "payout_ids": vec![Uuid::nil(); 1001]}),
            "payout_ids",
        ),
        (
            json!({"format": "bank_csv", "currency": "USD", "execution_date": "2026-12-01"}),
            "execution_date",
        ),
        (
            json!({"format": "sepa", "currency": "EUR", "execution_date": "2020-01-01"}),
            "execution_date",
        ),
        (
            json!({"format": "sepa", "currency": "EUR", "execution_date": "2199-01-01"}),
            "execution_date",
        ),
    ] {
        let told = wrong_fields(
            &api.post(&tenant.admin, "/v1/payout-files", new.clone())
                .await,
        );
        assert_eq!(
            told.iter()
                .map(|(field, _)| field.as_str())
                .collect::<Vec<_>>(),
            [field],
            "{new}"
        );
    }
}

#[tokio::test]
async fn files_that_are_made_at_once_share_no_payout() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let bank = json!({"kind": "bank", "holder": "Ana", "account": "000123456789", "bank_code": "021000021", "bank_name": "First", "country": "US"});
    for number in 0..12 {
        payout(&api, &tenant, number, &bank, "1.234", "KWD").await;
    }
    let new = json!({"format": "bank_csv", "currency": "KWD"});
    let all =
        join_all((0..10).map(|_| api.post(&tenant.admin, "/v1/payout-files", new.clone()))).await;
    let made: Vec<_> = all.iter().filter(|answer| answer.status == 201).collect();
    assert!(
        all.iter()
            .all(|answer| answer.status == 201 || answer.status == 409),
        "{all:?}"
    );
    assert_eq!(made.len(), 1);
    assert_eq!(
        made[0].json()["total"],
        json!({"amount": "14.808", "currency": "KWD"})
    );
    assert_eq!(count(&api, "payout_file_lines").await, 12);
    assert_eq!(count(&api, "payout_events WHERE state = 'sent'").await, 12);
    let path = format!("/v1/payout-files/{}/content", made[0].json()["id"]);
    let content = api.get(&tenant.admin, &path).await;
    assert_eq!(content.text.lines().count(), 13);
    assert!(
        content.text.lines().nth(1).unwrap().ends_with(
            ",Ana,000123456789,021000021,First,US,1.234,KWD,\"Demo shop, payout 2026-11\""
        )
    );
}

#[tokio::test]
async fn the_same_key_makes_one_file() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    payout(&api, &tenant, 1, &paypal(), "500", "JPY").await;
    let new = json!({"format": "paypal_csv", "currency": "JPY"});
    let make = async || {
        let request = api.request(&tenant.admin, Verb::POST, "/v1/payout-files");
        api.send(request.header("idempotency-key", "november").json(&new))
            .await
    };
    let (first, again) = (make().await, make().await);
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(first.json(), again.json());
    assert_eq!(count(&api, "payout_files").await, 1);
}

#[tokio::test]
async fn a_payout_that_failed_and_was_approved_again_goes_into_a_later_file() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let id = payout(&api, &tenant, 1, &paypal(), "1", "USD").await;
    let new = json!({"format": "paypal_csv", "currency": "USD"});
    let first = api
        .create(&tenant.admin, "/v1/payout-files", new.clone())
        .await;
    for state in ["failed", "approved"] {
        sqlx::query("UPDATE payouts SET state = $2 WHERE id = $1")
            .bind(id)
            .bind(state)
            .execute(&api.pool)
            .await
            .unwrap();
    }
    let second = api.create(&tenant.admin, "/v1/payout-files", new).await;
    let files: Vec<i64> =
        sqlx::query_scalar("SELECT file_id FROM payout_file_lines WHERE payout_id = $1 ORDER BY 1")
            .bind(id)
            .fetch_all(&api.pool)
            .await
            .unwrap();
    assert_eq!(json!(files), json!([first["id"], second["id"]]));
}

#[tokio::test]
async fn a_payment_that_a_file_cannot_carry_stops_it_and_is_named() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    pay_from_account(&api, &tenant).await;
    let good = payout(&api, &tenant, 1, &sepa(), "1", "EUR").await;
    let bad = json!({"kind": "sepa", "holder": "Ana", "iban": "DE00"});
    let bad = payout(&api, &tenant, 2, &bad, "1", "EUR").await;
    let new = json!({"format": "sepa", "currency": "EUR"});
    let refused = api
        .post(&tenant.admin, "/v1/payout-files", new.clone())
        .await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains(&bad.to_string()), "{}", refused.text);
    assert_eq!(states(&api, &tenant).await, ["approved", "approved"]);
    // A method that was sealed for another payout is not opened.
    sqlx::query(
        "UPDATE payouts SET method = (SELECT method FROM payouts WHERE id = $2) WHERE id = $1",
    )
    .bind(bad)
    .bind(good)
    .execute(&api.pool)
    .await
    .unwrap();
    assert_eq!(
        api.post(&tenant.admin, "/v1/payout-files", new)
            .await
            .status,
        500
    );
    assert_eq!(states(&api, &tenant).await, ["approved", "approved"]);
    let new = json!({"format": "sepa", "currency": "EUR", "payout_ids": [good]});
    api.create(&tenant.admin, "/v1/payout-files", new).await;
    assert_eq!(states(&api, &tenant).await, ["sent", "approved"]);
}

#[tokio::test]
async fn the_account_is_checked_and_shown_by_its_end() {
    let api = Api::start().await;
    let (tenant, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let path = "/v1/payout-accounts/sepa";
    assert_eq!(api.get(&tenant.admin, path).await.status, 404);
    let wrong = json!({"holder": "\u{1f600}", "iban": "DE89370400440532013001", "bic": "x"});
    let told = wrong_fields(&api.put(&tenant.admin, path, wrong).await);
    assert_eq!(
        told.iter()
            .map(|(field, _)| field.as_str())
            .collect::<Vec<_>>(),
        ["holder", "iban", "bic"]
    );
    pay_from_account(&api, &tenant).await;
    let shown = api.get(&tenant.analyst, path).await;
    assert_eq!(shown.json()["iban"], "…4300");
    assert_eq!(shown.json()["holder"], "Demo & Söhne");
    assert!(!shown.text.contains("0417164300"));
    assert_eq!(api.get(&theirs.admin, path).await.status, 404);
    assert_eq!(api.delete(&theirs.admin, path).await.status, 404);
    // Sealed for its tenant: moved to another one it can't be opened.
    sqlx::query("INSERT INTO payout_accounts SELECT $2, kind, holder, iban, bic, updated_at FROM payout_accounts WHERE tenant_id = $1")
        .bind(tenant.id)
        .bind(theirs.id)
        .execute(&api.pool)
        .await
        .unwrap();
    assert_eq!(api.get(&theirs.admin, path).await.status, 500);
    let owner = api
        .request(OWNER_KEY, Verb::DELETE, path)
        .header("x-tenant-id", tenant.id);
    assert_eq!(api.send(owner).await.status, 204);
    assert_eq!(api.get(&tenant.admin, path).await.status, 404);
}
