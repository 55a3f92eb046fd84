//! A tenant of its own for each test, and processors that can be stopped and killed.

use std::net::SocketAddr;
use std::slice;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Parser as _;
use clickhouse::Client;
use prost::Message as _;
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tributary_processor::{Config, RunError, run};
use tributary_shared::click_token::ClickToken;
use tributary_shared::clock::Clock;
use tributary_shared::engines::kafka;
use tributary_shared::events::{Click, Clicks, Conversion, Topic, Topics};
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId, new_uuid_v7};
use tributary_shared::sealing::SealingKeys;
use tributary_shared::secrets::KeyRing;
use tributary_shared::testing::Isolated;
use uuid::Uuid;

/// How long anything asynchronous may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Partitions of topic `clicks`.
pub(crate) const CLICK_PARTITIONS: i32 = 4;

const KEYS: &str = "1:abababababababababababababababababababababababababababababababab";

pub(crate) fn keys() -> KeyRing {
    KEYS.parse().unwrap()
}

pub(crate) fn sealing_keys() -> SealingKeys {
    KEYS.parse().unwrap()
}

/// A tenant with one program (10 %, a window of one hour, two weeks of hold), affiliate and link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shop {
    pub(crate) tenant: TenantId,
    pub(crate) program: ProgramId,
    pub(crate) affiliate: AffiliateId,
    pub(crate) link: LinkId,
}

impl Shop {
    /// A click on the shop's link at `at`.
    pub(crate) fn click(&self, at: DateTime<Utc>) -> String {
        ClickToken::mint(&keys(), self.link, at).to_string()
    }
}

/// A place on the shared engines.
pub(crate) struct World {
    pub(crate) place: Isolated,
    pub(crate) pool: PgPool,
    pub(crate) facts: Client,
    producer: FutureProducer,
    topics: Topics,
}

impl World {
    pub(crate) async fn create() -> Self {
        let place = Isolated::create().await.unwrap();
        Self {
            pool: place.pool().unwrap(),
            facts: place.facts(),
            producer: kafka::prompt_producer(&place.kafka, PATIENCE)
                .create()
                .unwrap(),
            topics: Topics::new(&place.kafka.kafka_topic_prefix),
            place,
        }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        Clock::system().now()
    }

    pub(crate) async fn shop(&self, slug: &str) -> Shop {
        let id = |sql: &'static str| sqlx::query_scalar::<_, i64>(sql);
        let tenant = id("INSERT INTO tenants (slug, name) VALUES ($1, $1) RETURNING id")
            .bind(slug)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        let program = id(
            "INSERT INTO programs (tenant_id, name, currency, window_seconds, hold_seconds)
             VALUES ($1, 'p', 'USD', 3600, 1209600) RETURNING id",
        )
        .bind(tenant)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        let affiliate =
            id("INSERT INTO affiliates (tenant_id, name) VALUES ($1, 'a') RETURNING id")
                .bind(tenant)
                .fetch_one(&self.pool)
                .await
                .unwrap();
        id(
            r#"INSERT INTO commission_rules (tenant_id, program_id, version, document)
            VALUES ($1, $2, 1, '{"events": [], "reward": {"kind": "percent", "percent": "10"}}') RETURNING id"#,
        )
        .bind(tenant)
        .bind(program)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        let link = id(
            "INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination)
             VALUES ($1, $2, $3, $4, 'https://shop.example/') RETURNING id",
        )
        .bind(tenant)
        .bind(program)
        .bind(affiliate)
        .bind(slug)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        Shop {
            tenant: TenantId(tenant),
            program: ProgramId(program),
            affiliate: AffiliateId(affiliate),
            link: LinkId(link),
        }
    }

    /// A new processor, all of whose settings but `adjust`'s are this place's.
    pub(crate) async fn processor(&self, adjust: impl FnOnce(&mut Config)) -> Processor {
        let keys = ["--click-token-keys", KEYS, "--sealing-keys", KEYS];
        let mut config = Config::parse_from(["processor"].into_iter().chain(keys));
        config.kafka = self.place.kafka.clone();
        config.clickhouse = self.place.clickhouse.clone();
        config.database = self.place.database.clone();
        config.kafka_group = self.place.name.clone();
        config.batch_ms = 50;
        adjust(&mut config);
        let operations = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        Processor {
            operations: operations.local_addr().unwrap(),
            task: tokio::spawn(run(config, operations, stop.clone())),
            stop,
        }
    }

    /// Puts a message on a topic, as Kafka acknowledged it.
    pub(crate) async fn publish(&self, topic: Topic, payload: &[u8]) {
        self.publish_keyed(topic, "", payload).await;
    }

    /// A click that is alone in its segment.
    pub(crate) async fn publish_click(&self, click: &Click) {
        let clicks = slice::from_ref(click);
        self.publish_clicks(self.new_segment(), 0, clicks).await;
    }

    /// One message, keyed so that a segment stays in its partition.
    pub(crate) async fn publish_clicks(&self, segment: Uuid, first: u32, clicks: &[Click]) {
        let payload = message(segment, first, clicks);
        self.publish_keyed(Topic::Clicks, &segment.to_string(), &payload)
            .await;
    }

    /// One click, alone in its segment, into each partition. Once they are stored, all that was published
    /// before them has been read.
    pub(crate) async fn publish_marks(&self, click: &Click) {
        for partition in 0..CLICK_PARTITIONS {
            let payload = message(self.new_segment(), 0, slice::from_ref(click));
            let topic = self.topics.name(Topic::Clicks);
            let record = FutureRecord::<(), _>::to(&topic)
                .payload(&payload)
                .partition(partition);
            let delivery = self.producer.send_result(record).unwrap();
            kafka::acknowledged(delivery).await.unwrap();
        }
    }

    pub(crate) fn new_segment(&self) -> Uuid {
        new_uuid_v7(self.now())
    }

    /// Keyed as the redirector keys it: everything about one order is in one partition.
    pub(crate) async fn publish_conversion(&self, conversion: &Conversion) {
        let key = format!("{}\n{}", conversion.tenant_id, conversion.order_id);
        let payload = conversion.encode_to_vec();
        self.publish_keyed(Topic::Conversions, &key, &payload).await;
    }

    /// An empty key is none.
    async fn publish_keyed(&self, topic: Topic, key: &str, payload: &[u8]) {
        let topic = self.topics.name(topic);
        let record = FutureRecord::to(&topic).payload(payload);
        let record = if key.is_empty() {
            record
        } else {
            record.key(key)
        };
        let delivery = self.producer.send_result(record).unwrap();
        kafka::acknowledged(delivery).await.unwrap();
    }

    /// A dead letter as the processor keeps it, said to come from this partition of its topic.
    pub(crate) async fn publish_dead_letter(&self, topic: Topic, partition: i32, payload: &[u8]) {
        let (origin, dead_letters) = (self.topics.name(topic), self.topics.dead_letter(topic));
        let headers = [
            ("reason", "as the test says"),
            ("topic", &origin),
            ("partition", &partition.to_string()),
            ("offset", "7"),
        ];
        let headers = headers.map(|(key, value)| Header {
            key,
            value: Some(value),
        });
        let headers = headers
            .into_iter()
            .fold(OwnedHeaders::new(), OwnedHeaders::insert);
        let record = FutureRecord::<(), _>::to(&dead_letters)
            .payload(payload)
            .headers(headers);
        let delivery = self.producer.send_result(record).unwrap();
        kafka::acknowledged(delivery).await.unwrap();
    }

    /// The first `count` dead letters of a topic: reason and payload.
    pub(crate) async fn dead_letters(&self, topic: Topic, count: usize) -> Vec<(String, Vec<u8>)> {
        let (kafka, name) = (self.place.kafka.clone(), self.topics.dead_letter(topic));
        let messages = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", &kafka.kafka_brokers)
                .set("group.id", format!("{name}-reader"))
                .set("auto.offset.reset", "earliest")
                .create()
                .unwrap();
            consumer.subscribe(&[&name]).unwrap();
            let deadline = std::time::Instant::now() + PATIENCE;
            let mut messages: Vec<OwnedMessage> = Vec::new();
            while messages.len() < count && std::time::Instant::now() < deadline {
                // It also returns without a message, for events of its own.
                let message = consumer.poll(Duration::from_millis(100));
                messages.extend(message.map(|message| message.unwrap().detach()));
            }
            assert_eq!(messages.len(), count, "dead letters");
            messages
        })
        .await
        .unwrap();
        let letter = |message: OwnedMessage| {
            let headers = message.headers().unwrap();
            let reason = headers
                .iter()
                .find(|h| h.key == "reason")
                .unwrap()
                .value
                .unwrap();
            assert!(headers.iter().any(|h| h.key == "offset"));
            (
                String::from_utf8(reason.to_vec()).unwrap(),
                message.payload().unwrap().to_vec(),
            )
        };
        messages.into_iter().map(letter).collect()
    }

    /// One number from PostgreSQL.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// One number from ClickHouse.
    pub(crate) async fn fact_count(&self, sql: &str) -> u64 {
        self.facts.query(sql).fetch_one().await.unwrap()
    }
}

/// What a redirector sends.
pub(crate) fn message(segment: Uuid, first: u32, clicks: &[Click]) -> Vec<u8> {
    Clicks {
        clicks: clicks.to_vec(),
        segment_id: segment.as_bytes().to_vec(),
        first_sequence: first,
    }
    .encode_to_vec()
}

/// A running processor.
pub(crate) struct Processor {
    operations: SocketAddr,
    task: JoinHandle<Result<(), RunError>>,
    stop: CancellationToken,
}

impl Processor {
    /// Asks it to stop and waits for the end.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("it stops in time").unwrap().unwrap();
    }

    /// What `/readyz` answers, head and body.
    pub(crate) async fn readiness(&self) -> String {
        let mut stream = TcpStream::connect(self.operations).await.unwrap();
        let request = b"GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Ends it wherever it is: nothing is finished, flushed or committed.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Runs the statements of one of ClickHouse's migrations.
pub(crate) async fn apply(facts: &Client, migration: &str) {
    for statement in migration.split(";\n").filter(|s| !s.trim().is_empty()) {
        let statement = statement.replace('?', "??");
        facts.query(&statement).execute().await.unwrap();
    }
}

/// Waits until `condition` holds; fails when it takes too long.
pub(crate) async fn wait_until(condition: impl AsyncFnMut() -> bool) {
    wait_for(PATIENCE, condition).await;
}

/// The same for what takes its time.
pub(crate) async fn wait_for(patience: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, waiting)
        .await
        .expect("it happens in time");
}
