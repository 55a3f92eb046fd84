//! The API's description: checked in, served, and readable with Swagger UI.

use std::path::Path;

use crate::harness::Api;

/// `UPDATE_OPENAPI=1 cargo test -p tributary-admin-api --release openapi` writes the file again.
#[test]
fn the_description_is_checked_in() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let described = tributary_admin_api::openapi_json();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&file, &described).unwrap();
    }
    let checked_in = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        checked_in == described,
        "openapi.json is out of date: run the test with UPDATE_OPENAPI=1"
    );
    assert!(described.contains(r#""openapi": "3.1.0""#));
}

#[tokio::test]
async fn the_description_and_its_pages_are_served() {
    let api = Api::start().await;
    let description = api.get("", "/openapi.json").await;
    assert_eq!(description.text, tributary_admin_api::openapi_json());
    assert_eq!(description.header("content-type"), "application/json");
    let redirect = api.get("", "/docs").await;
    assert_eq!(redirect.status, 303);
    let page = api.get("", "/docs/").await;
    assert_eq!(page.status, 200);
    // The policy allows no inline script, so the page must not need one.
    assert!(!page.text.contains("<script>"), "{}", page.text);
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'self'")
    );
    let start = api.get("", "/docs/swagger-initializer.js").await;
    assert!(start.text.contains("/openapi.json"), "{}", start.text);
    assert_eq!(api.get("", "/docs/swagger-ui-bundle.js").await.status, 200);
}
