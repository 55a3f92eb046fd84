//! A running admin API for one test, and short ways to ask it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use redis::aio::ConnectionManager;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tributary_admin_api::config::{Config, Engines};
use tributary_admin_api::edge_index::EdgeIndex;
use tributary_shared::clock::Clock;
use tributary_shared::testing::Isolated;

pub(crate) const OWNER_KEY: &str = "the-platform-owners-key-for-tests";
pub(crate) const SEALING_KEYS: &str =
    "1:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";
/// How long something may take that happens "a moment later".
const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration of an API on `isolated`.
pub(crate) fn config(isolated: &Isolated) -> Config {
    Config {
        engines: Engines {
            redis: isolated.redis.clone(),
            kafka: isolated.kafka.clone(),
            clickhouse: isolated.clickhouse.clone(),
            database: isolated.database.clone(),
        },
        owner_key: OWNER_KEY.into(),
        sealing_keys: SEALING_KEYS.parse().unwrap(),
        redirect_url: "http://go.test".to_owned(),
        demo_tenant: Some("demo".to_owned()),
        cookie_secure: false,
    }
}

/// The edge index of `isolated`, written beside a running API.
pub(crate) fn edge_index(isolated: &Isolated) -> EdgeIndex {
    EdgeIndex::new(&isolated.redis, &isolated.clickhouse, Clock::system()).unwrap()
}

/// A running API. It stops when it is dropped.
pub(crate) struct Api {
    pub(crate) isolated: Isolated,
    pub(crate) pool: PgPool,
    pub(crate) client: reqwest::Client,
    pub(crate) base: String,
    pub(crate) operations: String,
    shutdown: CancellationToken,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// A tenant with one of everything.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) id: i64,
    pub(crate) admin: String,
    pub(crate) admin_id: i64,
    pub(crate) analyst: String,
    pub(crate) program: i64,
    pub(crate) affiliate: i64,
    pub(crate) link: i64,
    pub(crate) code: String,
    pub(crate) token: String,
    pub(crate) token_id: i64,
    pub(crate) domain: String,
    pub(crate) domain_id: i64,
    pub(crate) publishable: String,
    pub(crate) publishable_id: i64,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let isolated = Isolated::empty().await.unwrap();
        let api = Self::start_with(config(&isolated), isolated).await;
        api.wait_until_ready().await;
        api
    }

    /// Starts with a configuration of the test's own and doesn't wait for anything.
    pub(crate) async fn start_with(config: Config, isolated: Isolated) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let operations = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = |address: SocketAddr| format!("http://{address}");
        let (base, operations_url) = (
            url(listener.local_addr().unwrap()),
            url(operations.local_addr().unwrap()),
        );
        let shutdown = CancellationToken::new();
        tokio::spawn(tributary_admin_api::run(
            config,
            listener,
            operations,
            shutdown.clone(),
        ));
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            pool: isolated.pool().unwrap(),
            isolated,
            client,
            base,
            operations: operations_url,
            shutdown,
        }
    }

    async fn wait_until_ready(&self) {
        eventually("ready", async || {
            let url = format!("{}/readyz", self.operations);
            self.client
                .get(url)
                .send()
                .await
                .is_ok_and(|r| r.status().is_success())
        })
        .await;
    }

    pub(crate) fn request(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        if key.is_empty() {
            request
        } else {
            request.bearer_auth(key)
        }
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    pub(crate) async fn get(&self, key: &str, path: &str) -> Answer {
        self.send(self.request(key, Method::GET, path)).await
    }

    pub(crate) async fn post(&self, key: &str, path: &str, body: Value) -> Answer {
        self.send(self.request(key, Method::POST, path).json(&body))
            .await
    }

    pub(crate) async fn patch(&self, key: &str, path: &str, body: Value) -> Answer {
        self.send(self.request(key, Method::PATCH, path).json(&body))
            .await
    }

    pub(crate) async fn put(&self, key: &str, path: &str, body: Value) -> Answer {
        self.send(self.request(key, Method::PUT, path).json(&body))
            .await
    }

    pub(crate) async fn delete(&self, key: &str, path: &str) -> Answer {
        self.send(self.request(key, Method::DELETE, path)).await
    }

    /// Creates, and gives what was created.
    pub(crate) async fn create(&self, key: &str, path: &str, body: Value) -> Value {
        let answer = self.post(key, path, body).await;
        assert_eq!(
            answer.status,
            StatusCode::CREATED,
            "{path}: {}",
            answer.text
        );
        answer.json()
    }

    /// A tenant with one of everything, made through the API.
    pub(crate) async fn tenant(&self, slug: &str) -> Tenant {
        let tenant = self
            .create(
                OWNER_KEY,
                "/v1/tenants",
                json!({"slug": slug, "name": slug, "time_zone": "Europe/Berlin"}),
            )
            .await;
        let id = tenant["id"].as_i64().unwrap();
        let below = |what: &str| format!("/v1/tenants/{id}/{what}");
        let key = |role: &str| json!({"name": role, "role": role});
        let admin = self
            .create(OWNER_KEY, &below("api-keys"), key("admin"))
            .await;
        let analyst = self
            .create(OWNER_KEY, &below("api-keys"), key("analyst"))
            .await;
        let token = self
            .create(
                OWNER_KEY,
                &below("postback-tokens"),
                json!({"name": "shop"}),
            )
            .await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let number = |value: &Value| value["id"].as_i64().unwrap();
        let (admin_id, admin) = (number(&admin), text(&admin["key"]));
        let program = self
            .create(
                &admin,
                "/v1/programs",
                json!({"name": "Shoes", "currency": "USD", "commission_percent": "10",
                "window_seconds": 2_592_000, "hold_seconds": 1_209_600}),
            )
            .await;
        let affiliate = self
            .create(
                &admin,
                "/v1/affiliates",
                json!({"name": format!("Ana of {slug}")}),
            )
            .await;
        let (program, affiliate) = (number(&program), number(&affiliate));
        let link = self
            .create(&admin, "/v1/links", json!({"code": format!("{slug}-1"), "program_id": program, "affiliate_id": affiliate,
                "destination": "https://shop.example/?c={click_id}"}))
            .await;
        let domain = self
            .create(
                &admin,
                "/v1/domains",
                json!({"host": format!("go.{slug}.example")}),
            )
            .await;
        let publishable = self
            .create(
                &admin,
                "/v1/publishable-keys",
                json!({"name": "pages", "origins": [format!("https://{slug}.example")]}),
            )
            .await;
        Tenant {
            id,
            domain: text(&domain["host"]),
            domain_id: number(&domain),
            publishable: text(&publishable["key"]),
            publishable_id: number(&publishable),
            admin,
            admin_id,
            analyst: text(&analyst["key"]),
            program,
            affiliate,
            link: number(&link),
            code: text(&link["code"]),
            token: text(&token["token"]),
            token_id: number(&token),
        }
    }

    pub(crate) fn redis(&self) -> ConnectionManager {
        tributary_shared::engines::redis::connect(&self.isolated.redis, Duration::from_secs(5))
            .unwrap()
    }

    /// Every key of this test's edge index but the writer's claim, without the prefix.
    pub(crate) async fn index(&self) -> BTreeMap<String, Vec<u8>> {
        let prefix = &self.isolated.redis.redis_prefix;
        let mut redis = self.redis();
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{prefix}*"))
            .query_async(&mut redis)
            .await
            .unwrap();
        let mut index = BTreeMap::new();
        for key in keys {
            let value: Option<Vec<u8>> = redis::cmd("GET")
                .arg(&key)
                .query_async(&mut redis)
                .await
                .unwrap();
            let name = key.strip_prefix(prefix.as_str()).unwrap().to_owned();
            if let (Some(value), true) = (value, name != "index:writer") {
                index.insert(name, value);
            }
        }
        index
    }

    /// Waits until every change has reached Redis.
    pub(crate) async fn published(&self) {
        eventually("the outbox is empty", async || {
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM edge_outbox")
                .fetch_one(&self.pool)
                .await
                .unwrap();
            left == 0
        })
        .await;
    }
}

/// Waits until `holds`, and fails when it takes too long.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
