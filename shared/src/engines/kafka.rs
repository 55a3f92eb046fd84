//! Kafka: producers and consumers whose settings keep what was accepted.
//!
//! Every producer is idempotent, so librdkafka's own retries neither repeat nor reorder. Consumers
//! never store an offset by themselves: the processor commits what it has finished.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::future_producer::DeliveryFuture;

use crate::config::KafkaConfig;
use crate::events::{Topic, Topics};

/// How long a request to create topics may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Days of clicks and conversions that can be replayed.
const RETENTION_MS: &str = "1209600000"; // 14 days
/// "As the broker's own default says."
const BROKER_DEFAULT_REPLICATION: i32 = -1;

fn client(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.kafka_brokers)
        .set("client.id", "tributary")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.nagle.disable", "true");
    client
}

/// A producer for large messages that are kept elsewhere until they are acknowledged: sent at once,
/// never given up, `max_bytes` at most in its queue.
#[must_use]
pub fn journal_producer(config: &KafkaConfig, max_bytes: usize) -> ClientConfig {
    let mut client = client(config);
    client
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        .set("batch.size", "1000000")
        .set("message.timeout.ms", "0") // never gives up
        .set(
            "queue.buffering.max.kbytes",
            (max_bytes / 1024 + 1024).to_string(),
        );
    client
}

/// A producer for messages that somebody waits for: sent at once, given up after `timeout`.
#[must_use]
pub fn prompt_producer(config: &KafkaConfig, timeout: Duration) -> ClientConfig {
    let mut client = client(config);
    client
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        .set("message.timeout.ms", timeout.as_millis().to_string());
    client
}

/// A consumer of `group`. It begins at the start of a topic that the group has not read yet.
#[must_use]
pub fn consumer(config: &KafkaConfig, group: &str) -> ClientConfig {
    let mut client = client(config);
    client
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        // A re-drive that was cut off is seen by nobody (processor/src/dead_letters_command).
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.message.max.bytes", "4000000")
        .set("queued.max.messages.kbytes", "65536")
        // How much waits: processor/src/lag.rs.
        .set("statistics.interval.ms", "5000")
        // What a processor that was killed holds is taken over after this long.
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "2000")
        // And what one holds that does not ask any more, after this long: processor/src/consume.rs.
        .set("max.poll.interval.ms", "60000");
    client
}

/// Waits for Kafka's word on a message that was handed to a producer.
///
/// # Errors
/// When Kafka refused it or did not answer in time. It may be stored all the same.
pub async fn acknowledged(delivery: DeliveryFuture) -> Result<(), KafkaError> {
    match delivery.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled), // the producer was dropped
    }
}

/// Creates the topics that are not there yet.
///
/// # Errors
/// When Kafka does not answer in time or refuses.
pub async fn create_topics(config: &KafkaConfig) -> Result<(), KafkaError> {
    let admin: AdminClient<DefaultClientContext> = client(config).create()?;
    let topics = Topics::new(&config.kafka_topic_prefix);
    let wanted: Vec<(String, i32)> = Topic::ALL
        .iter()
        .flat_map(|topic| {
            [
                (topics.name(*topic), partitions(*topic)),
                (topics.dead_letter(*topic), 1),
            ]
        })
        .collect();
    let new: Vec<NewTopic<'_>> = wanted
        .iter()
        .map(|(name, partitions)| {
            NewTopic::new(
                name,
                *partitions,
                TopicReplication::Fixed(BROKER_DEFAULT_REPLICATION),
            )
            .set("retention.ms", RETENTION_MS)
        })
        .collect();
    let options = AdminOptions::new()
        .operation_timeout(Some(ADMIN_TIMEOUT))
        .request_timeout(Some(ADMIN_TIMEOUT));
    for result in admin.create_topics(&new, &options).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                tracing::error!(topic, %code, "Kafka refused to create a topic");
                return Err(KafkaError::AdminOp(code));
            }
        }
    }
    Ok(())
}

/// How many processors can share the reading of a topic.
fn partitions(topic: Topic) -> i32 {
    match topic {
        Topic::Clicks | Topic::Conversions => 4,
        // The ledger's order is its tenants' order; it is small.
        Topic::Ledger => 2,
        Topic::Postbacks => 2,
    }
}
