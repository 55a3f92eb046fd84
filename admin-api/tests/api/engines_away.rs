//! What works while an engine is away.

use serde_json::json;
use tributary_shared::testing::Isolated;

use crate::harness::{Api, OWNER_KEY, config, eventually};

/// A port that nobody listens on.
async fn closed_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn without_clickhouse_all_but_analytics_works() {
    let isolated = Isolated::empty().await.unwrap();
    let mut config = config(&isolated);
    config.engines.clickhouse.clickhouse_url = format!("http://127.0.0.1:{}", closed_port().await);
    let api = Api::start_with(config, isolated).await;
    eventually("PostgreSQL is migrated", async || {
        api.get(OWNER_KEY, "/v1/tenants").await.status == 200
    })
    .await;
    let tenant = api.tenant("demo").await;
    api.published().await;
    assert_eq!(api.index().await.len(), 5);
    for path in [
        "/v1/analytics/by-day",
        "/v1/analytics/by-link",
        "/v1/analytics/overview",
        "/v1/analytics/clicks",
    ] {
        let answer = api.get(&tenant.admin, path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("retry-after")),
            (503, "5"),
            "{}",
            answer.text
        );
    }
    let page = api.get("", "/").await;
    assert_eq!(page.status, 200);
    assert!(
        page.text
            .contains("Analytics does not answer at the moment")
    );
    eventually("it says what it lacks", async || {
        let ready = api.client.get(format!("{}/readyz", api.operations));
        let ready = ready.send().await.unwrap();
        assert_eq!(ready.status(), 503);
        let missing = ready.text().await.unwrap();
        missing
            .lines()
            .any(|line| line.starts_with("schemas: ClickHouse"))
    })
    .await;
}

#[tokio::test]
async fn without_postgres_the_api_says_that_it_is_starting() {
    let isolated = Isolated::empty().await.unwrap();
    let mut config = config(&isolated);
    config.engines.database.database_url =
        format!("postgres://nobody@127.0.0.1:{}/none", closed_port().await).into();
    let api = Api::start_with(config, isolated).await;
    let answer = api
        .post(OWNER_KEY, "/v1/tenants", json!({"slug": "a", "name": "A"}))
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (503, "application/problem+json")
    );
    assert_eq!(api.get("", "/openapi.json").await.status, 200);
    let ready = api
        .client
        .get(format!("{}/readyz", api.operations))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), 503);
}
