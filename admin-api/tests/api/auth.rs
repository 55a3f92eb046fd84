//! Keys, sessions and passwords.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Api, OWNER_KEY};

#[tokio::test]
async fn a_revoked_key_stops_working_at_once() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let path = format!("/v1/tenants/{}/api-keys", tenant.id);
    let keys = api.get(&tenant.analyst, &path).await;
    assert!(
        !keys.text.contains(&tenant.admin),
        "a key is shown once only"
    );
    let revoke = format!("{path}/{}", tenant.admin_id);
    assert_eq!(api.delete(OWNER_KEY, &revoke).await.status, 204);
    assert_eq!(api.delete(OWNER_KEY, &revoke).await.status, 204);
    assert_eq!(
        api.delete(OWNER_KEY, &format!("{path}/999999"))
            .await
            .status,
        404
    );
    assert_eq!(api.get(&tenant.admin, "/v1/links").await.status, 401);
    assert_eq!(api.get(&tenant.analyst, "/v1/links").await.status, 200);
}

#[tokio::test]
async fn a_session_lasts_until_it_is_ended_or_expires() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let user = json!({"email": "Ana@Example.com", "password": "correct horse", "role": "analyst"});
    api.create(OWNER_KEY, &format!("/v1/tenants/{}/users", tenant.id), user)
        .await;
    let form = json!({"email": "ana@example.com", "password": "correct horse"});
    let answer = api.post("", "/v1/sessions", form.clone()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let session = answer.json();
    let token = session["token"].as_str().unwrap();
    assert_eq!(
        (&session["tenant_id"], &session["role"]),
        (&json!(tenant.id), &json!("analyst"))
    );
    let cookie = answer.header("set-cookie").to_owned();
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=43200"),
        "{cookie}"
    );

    assert_eq!(api.get(token, "/v1/links").await.status, 200);
    let by_cookie = |method| {
        api.request("", method, "/v1/links")
            .header("cookie", cookie.clone())
    };
    assert_eq!(api.send(by_cookie(Method::GET)).await.status, 200);
    assert_eq!(
        api.post(token, "/v1/affiliates", json!({"name": "x"}))
            .await
            .status,
        403
    );
    // Another site can make a browser send the cookie, but not hide where it came from.
    let forged = api
        .request("", Method::DELETE, "/v1/sessions")
        .header("cookie", cookie.clone());
    assert_eq!(
        api.send(forged.header("origin", "https://evil.example"))
            .await
            .status,
        403
    );

    assert_eq!(api.delete(token, "/v1/sessions").await.status, 204);
    assert_eq!(api.get(token, "/v1/links").await.status, 401);
    assert_eq!(api.delete(token, "/v1/sessions").await.status, 401);

    let session = api.create("", "/v1/sessions", form).await;
    sqlx::query("UPDATE sessions SET expires_at = now() - interval '1 second'")
        .execute(&api.pool)
        .await
        .unwrap();
    assert_eq!(
        api.get(session["token"].as_str().unwrap(), "/v1/links")
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_then_slowed() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let user = json!({"email": "ana@example.com", "password": "correct horse", "role": "admin"});
    api.create(OWNER_KEY, &format!("/v1/tenants/{}/users", tenant.id), user)
        .await;
    let attempt = async |email: &str, password: &str| {
        api.post(
            "",
            "/v1/sessions",
            json!({"email": email, "password": password}),
        )
        .await
    };
    let unknown = attempt("nobody@example.com", "correct horse").await;
    let wrong = attempt("ana@example.com", "wrong").await;
    assert_eq!((unknown.status.as_u16(), wrong.status.as_u16()), (401, 401));
    assert_eq!(unknown.text, wrong.text);
    for _ in 0..5 {
        assert_eq!(attempt("ana@example.com", "wrong").await.status, 401);
    }
    let slowed = attempt("ANA@example.com", "correct horse").await;
    assert_eq!(slowed.status, 429);
    assert!(!slowed.header("retry-after").is_empty());
    assert_eq!(attempt("\0@example.com", "x").await.status, 401);
}
