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
use rdkafka::statistics::Statistics;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tributary_shared::config::KafkaConfig;
use tributary_shared::engines::kafka;
use tributary_shared::events::{Topic, Topics};
use tributary_shared::telemetry::Readiness;

use crate::dead_letter::{DeadLetters, Unreadable};
use crate::lag::Lag;
use crate::retry::Stopped;

/// How long a stage may take for what it holds. Kafka gives the partitions of a reader that does not ask for
/// longer to others (max.poll.interval.ms, in shared), who would store the same again beside it.
const PATIENCE: Duration = Duration::from_secs(45);
/// Pause after Kafka could not be read from.
const READ_PAUSE: Duration = Duration::from_millis(100);

/// Does something with each message of a topic.
pub(crate) trait Stage {
    /// Takes one message; may keep it until [`Stage::finish`]. Returns what of it can never be read.
    async fn take(&mut self, payload: &[u8]) -> Result<Vec<Unreadable>, Stopped>;

    /// Whether enough is held that it should be finished now.
    fn is_full(&self) -> bool {
        false
    }

    /// Makes everything that was taken permanent.
    async fn finish(&mut self) -> Result<(), Stopped>;

    /// Forgets what was taken and not finished, and what it knew of partitions.
    fn forget(&mut self);
}

/// Counts rebalances: what was known of partitions before one means nothing after it. The first one
/// that gives partitions, or says that others have them all, makes the topic ready.
struct Rebalances {
    count: Arc<AtomicU64>,
    topic: Topic,
    readiness: Readiness,
    lag: Lag,
}

impl ClientContext for Rebalances {
    fn stats(&self, statistics: Statistics) {
        self.lag.learn(&statistics);
    }
}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let topic = self.topic.name();
        match rebalance {
            Rebalance::Assign(list) => {
                tracing::info!(topic, count = list.count(), "partitions assigned");
                self.readiness.ready(topic);
            }
            Rebalance::Revoke(list) => {
                tracing::info!(topic, count = list.count(), "partitions revoked");
            }
            Rebalance::Error(error) => {
                tracing::warn!(topic, %error, "partitions could not be shared out");
            }
        }
    }
}

/// The reading end of one topic.
pub(crate) struct Reader {
    consumer: Arc<StreamConsumer<Rebalances>>,
    topic: String,
    rebalances: Arc<AtomicU64>,
    lag: Lag,
}

impl Reader {
    pub(crate) fn new(
        config: &KafkaConfig,
        group: &str,
        topic: Topic,
        readiness: Readiness,
    ) -> Result<Self, KafkaError> {
        let rebalances = Arc::new(AtomicU64::new(0));
        let lag = Lag::new(topic);
        let context = Rebalances {
            count: Arc::clone(&rebalances),
            topic,
            readiness,
            lag: lag.clone(),
        };
        let consumer: StreamConsumer<Rebalances> =
            kafka::consumer(config, group).create_with_context(context)?;
        let topic = Topics::new(&config.kafka_topic_prefix).name(topic);
        consumer.subscribe(&[&topic])?;
        Ok(Self {
            consumer: Arc::new(consumer),
            topic,
            rebalances,
            lag,
        })
    }

    /// Feeds the stage until `shutdown`. What the stage holds is finished at least every `max_age`.
    pub(crate) async fn drive<S: Stage>(
        &self,
        stage: &mut S,
        dead_letters: &DeadLetters,
        max_age: Duration,
        shutdown: &CancellationToken,
    ) {
        let mut progress = Progress::default();
        let mut generation = 0;
        loop {
            let turn = tokio::select! {
                biased;
                () = shutdown.cancelled() => Turn::Stop,
                () = progress.due() => Turn::Due,
                received = self.consumer.recv() => Turn::Received(received),
            };
            progress.asked = Instant::now();
            // Partitions move only while `recv` is polled, so from here to the next turn they stay.
            // What was taken before a move is the new owner's: it must not be written here any more.
            let now = self.rebalances.load(Ordering::SeqCst);
            if now != generation {
                generation = now;
                stage.forget();
                progress = Progress::default();
            }
            let finished = match turn {
                Turn::Stop => break,
                Turn::Due => self.finish(stage, &mut progress).await,
                Turn::Received(Err(error)) => {
                    tracing::warn!(%error, topic = self.topic, "reading again");
                    tokio::time::sleep(READ_PAUSE).await;
                    Ok(())
                }
                Turn::Received(Ok(message)) => {
                    self.lag.took(&message);
                    match take(stage, &message, dead_letters, shutdown).await {
                        Ok(()) => progress.took(&message, max_age),
                        Err(Stopped) => break,
                    }
                    if stage.is_full() {
                        self.finish(stage, &mut progress).await
                    } else {
                        Ok(())
                    }
                }
            };
            if finished == Err(Stopped) {
                break;
            }
        }
        // One more try; what does not succeed is read again after the next start.
        let _ = self.finish(stage, &mut progress).await;
    }

    async fn finish<S: Stage>(
        &self,
        stage: &mut S,
        progress: &mut Progress,
    ) -> Result<(), Stopped> {
        let Ok(finished) = timeout_at(progress.asked + PATIENCE, stage.finish()).await else {
            tracing::warn!(
                topic = self.topic,
                "what was taken could not be finished; it is read again"
            );
            self.begin_again(stage, progress);
            return Ok(());
        };
        finished?;
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

    /// Leaves the group and joins it again: reading goes on behind what was finished.
    fn begin_again<S: Stage>(&self, stage: &mut S, progress: &mut Progress) {
        stage.forget();
        *progress = Progress::default();
        self.consumer.unsubscribe();
        if let Err(error) = self.consumer.subscribe(&[&self.topic]) {
            tracing::error!(%error, topic = self.topic, "cannot join the group again");
        }
    }
}

/// Hands a message to the stage, and what the stage could not read to the dead letters.
async fn take<S: Stage>(
    stage: &mut S,
    message: &BorrowedMessage<'_>,
    dead_letters: &DeadLetters,
    shutdown: &CancellationToken,
) -> Result<(), Stopped> {
    let unreadable = stage.take(message.payload().unwrap_or_default()).await?;
    dead_letters.keep(message, unreadable, shutdown).await
}

/// What a reader does next.
enum Turn<'m> {
    Stop,
    /// What was taken has waited long enough.
    Due,
    Received(Result<BorrowedMessage<'m>, KafkaError>),
}

/// What was taken since the last commit.
struct Progress {
    next: BTreeMap<i32, i64>,
    deadline: Option<Instant>,
    /// When Kafka was asked last.
    asked: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            next: BTreeMap::new(),
            deadline: None,
            asked: Instant::now(),
        }
    }
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
