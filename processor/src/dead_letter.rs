//! Messages, and parts of messages, that can't be read: kept as they came, with the reason and where
//! they stood, and acknowledged there before the reader moves on.

use std::fmt::Display;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
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

/// Parts of one message that wait for Kafka's acknowledgement at once.
const MAX_IN_FLIGHT: usize = 256;

/// What can never be read, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) reason: String,
    /// None: the whole message.
    pub(crate) part: Option<Part>,
}

impl Unreadable {
    pub(crate) fn message(reason: impl Display) -> Self {
        Self {
            reason: reason.to_string(),
            part: None,
        }
    }
}

/// A part of a message, whose other parts could be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// As a message of its own.
    pub(crate) payload: Vec<u8>,
    /// Says which part it is.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// Writes to the dead-letter topic of one topic.
pub(crate) struct DeadLetters {
    producer: FutureProducer,
    topic: String,
}

impl DeadLetters {
    pub(crate) fn new(producer: FutureProducer, config: &KafkaConfig, topic: Topic) -> Self {
        Self {
            producer,
            topic: Topics::new(&config.kafka_topic_prefix).dead_letter(topic),
        }
    }

    /// Returns once Kafka holds all of it.
    pub(crate) async fn keep(
        &self,
        message: &BorrowedMessage<'_>,
        unreadable: Vec<Unreadable>,
        shutdown: &CancellationToken,
    ) -> Result<(), Stopped> {
        stream::iter(unreadable)
            .map(|what| self.keep_one(message, what, shutdown))
            .buffer_unordered(MAX_IN_FLIGHT)
            .try_collect()
            .await
    }

    async fn keep_one(
        &self,
        message: &BorrowedMessage<'_>,
        what: Unreadable,
        shutdown: &CancellationToken,
    ) -> Result<(), Stopped> {
        tracing::error!(
            reason = what.reason,
            topic = message.topic(),
            partition = message.partition(),
            offset = message.offset(),
            "a message, or a part of one, can't be read; it is kept in {}",
            self.topic
        );
        until_done("kafka", shutdown, || self.publish(message, &what)).await?;
        metrics::counter!(names::DEAD_LETTERS, "topic" => self.topic.clone()).increment(1);
        Ok(())
    }

    async fn publish(
        &self,
        message: &BorrowedMessage<'_>,
        what: &Unreadable,
    ) -> Result<(), KafkaError> {
        let (partition, offset) = (
            message.partition().to_string(),
            message.offset().to_string(),
        );
        let mut headers = vec![
            ("reason", what.reason.as_str()),
            ("topic", message.topic()),
            ("partition", &partition),
            ("offset", &offset),
        ];
        let mut payload = message.payload().unwrap_or_default();
        if let Some(part) = &what.part {
            payload = &part.payload;
            headers.extend(
                part.headers
                    .iter()
                    .map(|(key, value)| (*key, value.as_str())),
            );
        }
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(*value),
                })
            });
        let record = FutureRecord::to(&self.topic)
            .payload(payload)
            .key(message.key().unwrap_or_default())
            .headers(headers);
        let delivery = self
            .producer
            .send_result(record)
            .map_err(|(error, _)| error)?;
        kafka::acknowledged(delivery).await
    }
}
