//! Reads one topic as a member of a consumer group and drives a [`Stage`] with it.
//!
//! An offset is committed only after the stage has finished everything up to it, so a crash repeats
//! messages and never skips one; a stage recognises what it has done before. When partitions move
//! between processors, what the stage holds unfinished is dropped: the new owner reads it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer,
};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tributary_shared::config::KafkaConfig;
use tributary_shared::engines::kafka;
use tributary_shared::events::{Topic, Topics};

use crate::dead_letter::DeadLetters;
use crate::retry::Stopped;

/// How long Kafka may take to say where a partition ends.
const WATERMARK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stage did not take a message.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It can never be read: keep it aside, with this reason.
    Poison(String),
    /// The process is stopping.
    Stopped,
    /// A person must act; the line says what to do.
    Fatal(String),
}

impl From<Stopped> for Failure {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Where a message stands in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// Does something with each message of a topic.
pub(crate) trait Stage {
    /// Takes one message; may keep it until [`Stage::finish`].
    async fn take(&mut self, payload: &[u8], at: Position, reader: &Reader) -> Result<(), Failure>;

    /// Whether enough is held that it should be finished now.
    fn is_full(&self) -> bool {
        false
    }

    /// Makes everything that was taken permanent.
    async fn finish(&mut self) -> Result<(), Stopped>;

    /// Forgets what was taken and not finished, and what it knew of partitions.
    fn forget(&mut self);
}

/// Counts rebalances: what was known of partitions before one means nothing after it.
struct Rebalances(Arc<AtomicU64>);

impl ClientContext for Rebalances {}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        match rebalance {
            Rebalance::Assign(list) => tracing::info!(count = list.count(), "partitions assigned"),
            Rebalance::Revoke(list) => tracing::info!(count = list.count(), "partitions revoked"),
            Rebalance::Error(error) => tracing::warn!(%error, "partitions could not be shared out"),
        }
    }
}

/// The reading end of one topic.
pub(crate) struct Reader {
    consumer: Arc<StreamConsumer<Rebalances>>,
    topic: String,
    rebalances: Arc<AtomicU64>,
}

impl Reader {
    pub(crate) fn new(config: &KafkaConfig, group: &str, topic: Topic) -> Result<Self, KafkaError> {
        let rebalances = Arc::new(AtomicU64::new(0));
        let topic = Topics::new(&config.kafka_topic_prefix).name(topic);
        let consumer: StreamConsumer<Rebalances> = kafka::consumer(config, group)
            .create_with_context(Rebalances(Arc::clone(&rebalances)))?;
        consumer.subscribe(&[&topic])?;
        Ok(Self {
            consumer: Arc::new(consumer),
            topic,
            rebalances,
        })
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The offset after the partition's last message.
    pub(crate) async fn end_of(&self, partition: i32) -> Result<i64, KafkaError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        let asked = tokio::task::spawn_blocking(move || {
            consumer.fetch_watermarks(&topic, partition, WATERMARK_TIMEOUT)
        });
        let (_, end) = asked.await.map_err(|_| KafkaError::Canceled)??;
        Ok(end)
    }

    /// Feeds the stage until `shutdown`. What the stage holds is finished at least every `max_age`.
    ///
    /// # Errors
    /// The line for the person who must act.
    pub(crate) async fn drive<S: Stage>(
        &self,
        stage: &mut S,
        dead_letters: &DeadLetters,
        max_age: Duration,
        shutdown: &CancellationToken,
    ) -> Result<(), String> {
        let mut progress = Progress::default();
        let mut generation = 0;
        loop {
            let received = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = progress.due() => {
                    if self.finish(stage, &mut progress).await.is_err() {
                        break;
                    }
                    continue;
                }
                received = self.consumer.recv() => received,
            };
            // Before the message: it may be the first of a newly assigned partition.
            let now = self.rebalances.load(Ordering::SeqCst);
            if now != generation {
                generation = now;
                stage.forget();
                progress = Progress::default();
            }
            let message = match received {
                Ok(message) => message,
                Err(error) => {
                    tracing::warn!(%error, topic = self.topic, "reading again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match self.take(stage, &message, dead_letters, shutdown).await {
                Ok(()) => progress.took(&message, max_age),
                Err(Failure::Stopped) => break,
                Err(Failure::Poison(reason) | Failure::Fatal(reason)) => return Err(reason),
            }
            if stage.is_full() && self.finish(stage, &mut progress).await.is_err() {
                break;
            }
        }
        // One more try; what does not succeed is read again after the next start.
        let _ = self.finish(stage, &mut progress).await;
        Ok(())
    }

    async fn take<S: Stage>(
        &self,
        stage: &mut S,
        message: &BorrowedMessage<'_>,
        dead_letters: &DeadLetters,
        shutdown: &CancellationToken,
    ) -> Result<(), Failure> {
        let at = Position {
            partition: message.partition(),
            offset: message.offset(),
        };
        let payload = message.payload().unwrap_or_default();
        match stage.take(payload, at, self).await {
            Err(Failure::Poison(reason)) => {
                dead_letters.keep(message, &reason, shutdown).await?;
                Ok(())
            }
            taken => taken,
        }
    }

    async fn finish<S: Stage>(
        &self,
        stage: &mut S,
        progress: &mut Progress,
    ) -> Result<(), Stopped> {
        stage.finish().await?;
        let Some(offsets) = progress.offsets(&self.topic) else {
            return Ok(());
        };
        // A commit that fails costs a repetition, which the stage recognises.
        if let Err(error) = self.consumer.commit(&offsets, CommitMode::Async) {
            tracing::warn!(%error, topic = self.topic, "offsets were not committed");
        }
        *progress = Progress::default();
        Ok(())
    }
}

/// What was taken since the last commit.
#[derive(Default)]
struct Progress {
    next: BTreeMap<i32, i64>,
    deadline: Option<Instant>,
}

impl Progress {
    fn took(&mut self, message: &BorrowedMessage<'_>, max_age: Duration) {
        self.next.insert(message.partition(), message.offset() + 1);
        self.deadline
            .get_or_insert_with(|| Instant::now() + max_age);
    }

    /// Returns when what was taken has waited long enough; never while nothing was.
    async fn due(&self) {
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }

    fn offsets(&self, topic: &str) -> Option<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, next) in &self.next {
            list.add_partition_offset(topic, *partition, Offset::Offset(*next))
                .ok()?;
        }
        (list.count() > 0).then_some(list)
    }
}
