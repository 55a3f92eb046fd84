//! Messages that can't be read: kept as they came, with the reason and where they stood, and
//! acknowledged there before the reader moves on.

use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio_util::sync::CancellationToken;
use tributary_shared::config::KafkaConfig;
use tributary_shared::engines::kafka;
use tributary_shared::events::{Topic, Topics};
use tributary_shared::names;

use crate::retry::{Stopped, until_done};

/// How long Kafka may take to acknowledge one.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes to the dead-letter topic of one topic.
pub(crate) struct DeadLetters {
    producer: FutureProducer,
    topic: String,
}

impl DeadLetters {
    pub(crate) fn new(config: &KafkaConfig, topic: Topic) -> Result<Self, KafkaError> {
        Ok(Self {
            producer: kafka::prompt_producer(config, KAFKA_TIMEOUT).create()?,
            topic: Topics::new(&config.kafka_topic_prefix).dead_letter(topic),
        })
    }

    /// Returns once Kafka holds the message.
    pub(crate) async fn keep(
        &self,
        message: &BorrowedMessage<'_>,
        reason: &str,
        shutdown: &CancellationToken,
    ) -> Result<(), Stopped> {
        tracing::error!(
            reason,
            topic = message.topic(),
            partition = message.partition(),
            offset = message.offset(),
            "a message can't be read; it is kept in {}",
            self.topic
        );
        until_done("kafka", shutdown, || self.publish(message, reason)).await?;
        metrics::counter!(names::DEAD_LETTERS, "topic" => self.topic.clone()).increment(1);
        Ok(())
    }

    async fn publish(&self, message: &BorrowedMessage<'_>, reason: &str) -> Result<(), KafkaError> {
        let (partition, offset) = (
            message.partition().to_string(),
            message.offset().to_string(),
        );
        let headers = [
            ("reason", reason),
            ("topic", message.topic()),
            ("partition", &partition),
            ("offset", &offset),
        ];
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(*value),
                })
            });
        let record = FutureRecord::to(&self.topic)
            .payload(message.payload().unwrap_or_default())
            .key(message.key().unwrap_or_default())
            .headers(headers);
        let delivery = self
            .producer
            .send_result(record)
            .map_err(|(error, _)| error)?;
        kafka::acknowledged(delivery).await
    }
}
