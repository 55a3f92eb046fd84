//! A redirector of its own for each test, on the shared engines.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser as _;
use prost::Message as _;
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use redis::AsyncCommands as _;
use reqwest::{Client, RequestBuilder, Response, redirect};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tributary_redirector::{Config, Listeners, RunError, run};
use tributary_shared::click_token::ClickToken;
use tributary_shared::clock::Clock;
use tributary_shared::engines;
use tributary_shared::events::{Click, Clicks, Conversion, PostbackLogged, Topic, Topics};
use tributary_shared::ids::{LinkId, TenantId};
use tributary_shared::links::{
    Domain, EdgeKeys, Link, PUBLISHABLE_PREFIX, PublishableKey, SealedSecret, WEBHOOK_PREFIX,
    WebhookSource, webhook_purpose,
};
use tributary_shared::reports::webhooks::Kind;
use tributary_shared::sealing::SealingKeys;
use tributary_shared::secrets::{KeyRing, new_token, token_hash};
use tributary_shared::testing::Isolated;

/// How long anything asynchronous may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

const SEALING_KEYS: &str = "1:efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef";

pub(crate) const TENANT: TenantId = TenantId(7);
pub(crate) const TOKEN: &str = "trp_test";
pub(crate) const DESTINATION: &str = "https://shop.example/p?c={click_id}&s={sub1}";

pub(crate) fn keys() -> KeyRing {
    format!("1:{}", "ab".repeat(32)).parse().unwrap()
}

/// A running redirector with one link, `demo`, and one postback token.
pub(crate) struct Edge {
    pub(crate) place: Isolated,
    pub(crate) client: Client,
    address: SocketAddr,
    https: Option<SocketAddr>,
    operations: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), RunError>>>,
    _journal: TempDir,
}

impl Edge {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// `adjust` changes the settings; it may take engines away.
    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let edge = Self::start_unready(adjust).await;
        wait_until(async || edge.operations("/readyz").await.0 == 200).await;
        edge
    }

    pub(crate) async fn start_unready(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::launch(Isolated::create().await.unwrap(), adjust).await
    }

    /// On engines that another test's edge has used.
    pub(crate) async fn start_in(place: Isolated, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::launch(place, adjust).await
    }

    async fn launch(place: Isolated, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::parse_from([
            "redirector",
            "--click-token-keys",
            &format!("1:{}", "ab".repeat(32)),
            "--sealing-keys",
            SEALING_KEYS,
            "--fingerprint-key",
            &"cd".repeat(32),
            "--trusted-proxies",
            "127.0.0.1/32",
        ]);
        config.redis = place.redis.clone();
        config.kafka = place.kafka.clone();
        let journal = tempfile::tempdir().unwrap();
        config.journal_dir = journal.path().to_owned();
        config.workers = Some(2);
        adjust(&mut config);
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = match &config.tls_dir {
            Some(_) => Some(TcpListener::bind("127.0.0.1:0").await.unwrap()),
            None => None,
        };
        let operations = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let edge = Self {
            client: Client::builder()
                .redirect(redirect::Policy::none())
                .build()
                .unwrap(),
            address: http.local_addr().unwrap(),
            operations: operations.local_addr().unwrap(),
            https: https.as_ref().map(|https| https.local_addr().unwrap()),
            task: Some(tokio::spawn(run(
                config,
                Listeners {
                    http,
                    https,
                    operations,
                },
                stop.clone(),
            ))),
            stop,
            place,
            _journal: journal,
        };
        edge.write_link("demo", TENANT, DESTINATION).await;
        edge.write_token(TOKEN).await;
        edge.complete_index().await;
        edge
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves TLS; only where `tls_dir` is set.
    pub(crate) fn https(&self) -> SocketAddr {
        self.https.expect("it serves TLS")
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{path}", self.address))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("http://{}{path}", self.address))
    }

    /// Status and body of a path on the operations listener.
    pub(crate) async fn operations(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.operations);
        let answer = self.client.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Asks it to stop and waits for the end.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        let task = self.task.take().expect("it is stopped once");
        let ended = tokio::time::timeout(PATIENCE, task).await;
        ended.expect("it stops in time").unwrap().unwrap();
    }

    async fn redis(&self) -> redis::aio::ConnectionManager {
        engines::redis::connect(&self.place.redis, PATIENCE).unwrap()
    }

    /// A link of the tenant.
    pub(crate) fn link(&self, destination: &str) -> Link {
        Link {
            link_id: 3,
            tenant_id: TENANT.to_wire(),
            program_id: 4,
            affiliate_id: 5,
            destination: destination.to_owned(),
            window_seconds: 3600,
            ..Link::default()
        }
    }

    /// Puts a link where admin-api would put it.
    pub(crate) async fn write_link(&self, code: &str, tenant: TenantId, destination: &str) {
        self.put(code, tenant, &self.link(destination)).await;
    }

    pub(crate) async fn put_link(&self, code: &str, link: &Link) {
        self.put(code, TENANT, link).await;
    }

    async fn put(&self, code: &str, tenant: TenantId, link: &Link) {
        let keys = EdgeKeys::new(&self.place.redis.redis_prefix);
        let mut redis = self.redis().await;
        let () = redis.set(keys.code(code), tenant.0).await.unwrap();
        let () = redis
            .set(keys.link(tenant, code), link.encode_to_vec())
            .await
            .unwrap();
    }

    pub(crate) async fn put_domain(&self, host: &str, domain: &Domain) {
        let key = EdgeKeys::new(&self.place.redis.redis_prefix).domain(host);
        let () = self
            .redis()
            .await
            .set(key, domain.encode_to_vec())
            .await
            .unwrap();
    }

    /// Says that everything is written, as admin-api says it.
    pub(crate) async fn complete_index(&self) {
        let writer = EdgeKeys::new(&self.place.redis.redis_prefix).writer();
        let () = self.redis().await.set(writer, "somebody").await.unwrap();
    }

    /// What a Redis that was restarted holds.
    pub(crate) async fn empty_redis(&self) {
        let keys = EdgeKeys::new(&self.place.redis.redis_prefix);
        let gone = [keys.writer(), keys.code("demo"), keys.link(TENANT, "demo")];
        let () = self.redis().await.del(&gone).await.unwrap();
    }

    pub(crate) async fn remove_link(&self, code: &str) {
        let keys = EdgeKeys::new(&self.place.redis.redis_prefix);
        let () = self.redis().await.del(keys.code(code)).await.unwrap();
    }

    async fn write_token(&self, token: &str) {
        let key = EdgeKeys::new(&self.place.redis.redis_prefix).postback(&token_hash(token));
        let () = self.redis().await.set(key, TENANT.0).await.unwrap();
    }

    /// A new publishable key for pages of `origins`.
    pub(crate) async fn publishable_key(&self, origins: &[&str]) -> String {
        let key = new_token(PUBLISHABLE_PREFIX);
        self.write_publishable(&key, origins).await;
        key
    }

    pub(crate) async fn write_publishable(&self, key: &str, origins: &[&str]) {
        let value = PublishableKey {
            tenant_id: TENANT.to_wire(),
            origins: origins.iter().map(|o| (*o).to_owned()).collect(),
        };
        let name = EdgeKeys::new(&self.place.redis.redis_prefix).publishable(key);
        let () = self
            .redis()
            .await
            .set(name, value.encode_to_vec())
            .await
            .unwrap();
    }

    /// A new source of webhooks with these secrets, each with its end.
    pub(crate) async fn webhook_source(&self, kind: Kind, secrets: &[(&str, i64)]) -> String {
        let id = new_token(WEBHOOK_PREFIX);
        let keys: SealingKeys = SEALING_KEYS.parse().unwrap();
        let secret = |(secret, ends_at_s): &(&str, i64)| SealedSecret {
            sealed: keys.seal(&webhook_purpose(&id), secret.as_bytes()),
            ends_at_s: *ends_at_s,
        };
        let value = WebhookSource {
            tenant_id: TENANT.to_wire(),
            kind: kind.to_wire().into(),
            secrets: secrets.iter().map(secret).collect(),
        };
        let name = EdgeKeys::new(&self.place.redis.redis_prefix).webhook(&id);
        let value = value.encode_to_vec();
        let () = self.redis().await.set(name, value).await.unwrap();
        id
    }

    pub(crate) async fn remove_webhook_source(&self, id: &str) {
        let name = EdgeKeys::new(&self.place.redis.redis_prefix).webhook(id);
        let () = self.redis().await.del(name).await.unwrap();
    }

    /// The first `count` events on a topic; fails when there are more or fewer.
    pub(crate) async fn events<M: Event>(&self, topic: Topic, count: usize) -> Vec<M> {
        events(&self.place, topic, count).await
    }
}

/// What a message on a topic holds.
pub(crate) trait Event: Sized + Send + 'static {
    fn read(payload: &[u8]) -> Vec<Self>;
}

impl Event for Click {
    fn read(payload: &[u8]) -> Vec<Self> {
        Clicks::decode(payload).unwrap().clicks
    }
}

impl Event for Clicks {
    fn read(payload: &[u8]) -> Vec<Self> {
        vec![Self::decode(payload).unwrap()]
    }
}

impl Event for Conversion {
    fn read(payload: &[u8]) -> Vec<Self> {
        vec![Self::decode(payload).unwrap()]
    }
}

impl Event for PostbackLogged {
    fn read(payload: &[u8]) -> Vec<Self> {
        vec![Self::decode(payload).unwrap()]
    }
}

/// The first `count` events on a topic; fails when there are more or fewer.
pub(crate) async fn events<M: Event>(place: &Isolated, topic: Topic, count: usize) -> Vec<M> {
    let brokers = place.kafka.kafka_brokers.clone();
    let topic = Topics::new(&place.kafka.kafka_topic_prefix).name(topic);
    tokio::task::spawn_blocking(move || {
        let events = read(&brokers, &topic, count);
        assert_eq!(events.len(), count, "events on {topic}");
        events
    })
    .await
    .unwrap()
}

/// What is on a topic at present.
pub(crate) async fn so_far<M: Event>(place: &Isolated, topic: Topic) -> Vec<M> {
    let brokers = place.kafka.kafka_brokers.clone();
    let topic = Topics::new(&place.kafka.kafka_topic_prefix).name(topic);
    tokio::task::spawn_blocking(move || read(&brokers, &topic, 1))
        .await
        .unwrap()
}

fn read<M: Event>(brokers: &str, topic: &str, count: usize) -> Vec<M> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", format!("{topic}-reader"))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut events = Vec::new();
    // Once enough are there, a moment longer: one too many is a failure as well.
    let mut last_look = false;
    while !last_look && std::time::Instant::now() < deadline {
        last_look = events.len() >= count && consumer.assignment().unwrap().count() > 0;
        while let Some(message) = consumer.poll(Duration::from_millis(500)) {
            match message {
                Ok(message) => events.extend(M::read(message.payload().unwrap())),
                // A topic that was made a moment ago: Kafka does not know it everywhere yet.
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err(error) => panic!("{error}"),
            }
            last_look = false;
        }
    }
    events
}

/// A click of the link `demo`.
pub(crate) fn click_id() -> String {
    ClickToken::mint(&keys(), LinkId(3), Clock::system().now()).to_string()
}

/// What has the form of a click id, and was not issued here.
pub(crate) fn forged_click_id() -> String {
    let mut forged = click_id();
    forged.replace_range(40..41, if &forged[40..41] == "A" { "B" } else { "A" });
    forged
}

/// An answer's status and its JSON.
pub(crate) async fn json(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let body = answer.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

/// A header's values.
pub(crate) fn header<'r>(answer: &'r Response, name: &str) -> Vec<&'r str> {
    let values = answer.headers().get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

/// Waits until `condition` holds; fails when it takes too long.
pub(crate) async fn wait_until(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("it happens in time");
}
