//! Clicks on their way to Kafka: handed to the producer's queue within the request, delivered by the
//! producer's own thread in batches, kept for as long as Kafka is away.
//!
//! What can be lost here: what is in the queue when the process is killed, and what comes once the
//! queue is full. The second is counted (`tributary_clicks_lost_total`) and logged as an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use metrics::Counter;
use prost::Message as _;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tributary_shared::engines::kafka;
use tributary_shared::events::{Click, Clicks, Topic, Topics};
use tributary_shared::names;
use tributary_shared::telemetry::Readiness;

use crate::Config;

/// How long clicks gather before they are sent.
const LINGER: Duration = Duration::from_millis(5);
/// How long the last clicks may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one question for the topic may take while starting.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// At most one line a second says that clicks are being lost.
const LOSS_LOG_EVERY_MS: i64 = 1000;

/// Where clicks are handed in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClickRecorder(Arc<Inner>);

struct Inner {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    accepted: Counter,
    queue_full: Counter,
    last_loss_logged_ms: AtomicI64,
}

/// Hears what became of each click.
struct Deliveries {
    delivered: Counter,
    refused: Counter,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.delivered.increment(1),
            // At shutdown what could not be flushed is purged; `flush` has counted it.
            Err((
                KafkaError::MessageProduction(
                    RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight,
                ),
                _,
            )) => {}
            Err((error, _)) => {
                self.refused.increment(1);
                tracing::error!(%error, "Kafka refused a click: it is lost");
            }
        }
    }
}

impl ClickRecorder {
    pub(crate) fn new(config: &Config) -> Result<Self, KafkaError> {
        let lost = |reason: &'static str| metrics::counter!(names::CLICKS_LOST, "reason" => reason);
        let deliveries = Deliveries {
            delivered: metrics::counter!(names::CLICKS_DELIVERED),
            refused: lost("refused"),
        };
        let settings = kafka::bulk_producer(
            &config.kafka,
            LINGER,
            config.click_queue_messages,
            config.click_queue_kib,
        );
        Ok(Self(Arc::new(Inner {
            producer: settings.create_with_context(deliveries)?,
            topic: Topics::new(&config.kafka.kafka_topic_prefix).name(Topic::Clicks),
            accepted: metrics::counter!(names::CLICKS_ACCEPTED),
            queue_full: lost("queue_full"),
            last_loss_logged_ms: AtomicI64::new(i64::MIN),
        })))
    }

    /// Takes a click. Never waits.
    pub(crate) fn record(&self, click: &Click) {
        let payload = Clicks {
            clicks: vec![click.clone()],
            segment_id: uuid::Uuid::new_v4().into_bytes().to_vec(),
            first_sequence: 0,
        }
        .encode_to_vec();
        let record = BaseRecord::<(), _>::to(&self.0.topic).payload(&payload);
        match self.0.producer.send(record) {
            Ok(()) => self.0.accepted.increment(1),
            Err((error, _)) => self.count_loss(click.received_at_us / 1000, &error),
        }
    }

    fn count_loss(&self, now_ms: i64, error: &KafkaError) {
        self.0.queue_full.increment(1);
        let last = self.0.last_loss_logged_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(last) >= LOSS_LOG_EVERY_MS {
            self.0.last_loss_logged_ms.store(now_ms, Ordering::Relaxed);
            tracing::error!(%error, "clicks are being lost: Kafka is behind and the queue is full");
        }
    }

    /// Returns once Kafka has answered for the topic.
    pub(crate) async fn wait_until_reachable(&self, readiness: &Readiness) {
        loop {
            let inner = Arc::clone(&self.0);
            let asked = tokio::task::spawn_blocking(move || {
                let metadata = inner
                    .producer
                    .client()
                    .fetch_metadata(Some(&inner.topic), METADATA_TIMEOUT)?;
                match metadata.topics().first().map(|t| t.partitions().len()) {
                    Some(1..) => Ok(()),
                    _ => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic)),
                }
            });
            match asked.await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => readiness.not_ready("kafka", error.to_string()),
                Err(stopped) => readiness.not_ready("kafka", stopped.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        readiness.ready("kafka");
    }

    /// Sends what is still queued; counts what could not be sent in time.
    pub(crate) async fn flush(&self) {
        let inner = Arc::clone(&self.0);
        let flushed =
            tokio::task::spawn_blocking(move || inner.producer.flush(FLUSH_TIMEOUT)).await;
        let left = self.0.producer.in_flight_count();
        if left > 0 {
            let left = u64::try_from(left).unwrap_or(0);
            metrics::counter!(names::CLICKS_LOST, "reason" => "shutdown").increment(left);
            tracing::error!(
                left,
                ?flushed,
                "clicks were lost: Kafka did not take them before the end"
            );
        }
    }
}
