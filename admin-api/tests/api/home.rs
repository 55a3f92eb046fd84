//! The page at `/`.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Api, OWNER_KEY};

#[tokio::test]
async fn the_page_shows_the_demo_tenant_or_the_one_that_signed_in() {
    let api = Api::start().await;
    let empty = api.get("", "/").await;
    assert_eq!(empty.status, 200);
    assert!(empty.text.contains("Sign in") && !empty.text.contains("Clicks by day"));

    api.tenant("demo").await;
    let tenant = api.tenant("ours").await;
    let user = json!({"email": "ana@example.com", "password": "correct horse", "role": "admin"});
    api.create(OWNER_KEY, &format!("/v1/tenants/{}/users", tenant.id), user)
        .await;
    let demo = api.get("", "/").await;
    assert!(
        demo.text.contains("demo tenant <code>demo</code>")
            && demo.text.contains("http://go.test/r/demo-1")
    );
    assert!(demo.text.contains("Clicks by day") && demo.text.contains("href=\"/docs\""));
    assert!(
        demo.header("content-security-policy")
            .starts_with("default-src 'none'; style-src 'sha256-")
    );
    assert_eq!(demo.header("x-content-type-options"), "nosniff");

    let sign_in = |password: &str, site: &str| {
        api.request("", Method::POST, "/sign-in")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", site.to_owned())
            .body(format!("email=ana%40example.com&password={password}"))
    };
    assert_eq!(
        api.send(sign_in("correct+horse", "cross-site"))
            .await
            .status,
        403
    );
    let wrong = api.send(sign_in("wrong", "same-origin")).await;
    assert_eq!(wrong.status, 401);
    assert!(
        wrong
            .text
            .contains("the e-mail address or the password is wrong")
    );
    let right = api.send(sign_in("correct+horse", "same-origin")).await;
    assert_eq!(
        (right.status.as_u16(), right.header("location")),
        (303, "/")
    );
    let cookie = right
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();

    let signed_in = |method, path| {
        api.request("", method, path)
            .header("cookie", cookie.clone())
    };
    let ours = api.send(signed_in(Method::GET, "/")).await;
    assert!(ours.text.contains("http://go.test/r/ours-1") && ours.text.contains("Sign out"));
    assert!(!ours.text.contains("demo-1"));
    let forged = signed_in(Method::POST, "/sign-out").header("sec-fetch-site", "cross-site");
    assert_eq!(api.send(forged).await.status, 403);
    let out = api
        .send(signed_in(Method::POST, "/sign-out").header("sec-fetch-site", "same-origin"))
        .await;
    assert_eq!(out.status, 303);
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert!(
        api.send(signed_in(Method::GET, "/"))
            .await
            .text
            .contains("demo-1")
    );
}
