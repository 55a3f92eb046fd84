//! Reads a topic from its beginning to what is its end now, without a consumer group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;
use tributary_shared::config::KafkaConfig;
use tributary_shared::engines::kafka;

use super::CommandError;
use super::letter::Place;

/// How long a question about a topic may take.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come while something must.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether to stop.
const POLL: Duration = Duration::from_millis(100);
/// How often a line says how far it is where there is no terminal for a bar.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// A name that a consumer must have. Nobody joins this group, and nothing is committed to it.
const NO_GROUP: &str = "tributary-dead-letters-command";

/// A topic, as far as it went when it was opened.
#[derive(Debug)]
pub(super) struct TopicLog<'c> {
    config: &'c KafkaConfig,
    topic: String,
    /// Of each partition that holds something, the first offset and the one after the last.
    bounds: BTreeMap<i32, (i64, i64)>,
}

impl<'c> TopicLog<'c> {
    pub(super) fn open(config: &'c KafkaConfig, topic: String) -> Result<Self, CommandError> {
        let consumer = consumer(config)?;
        let mut bounds = BTreeMap::new();
        for partition in partitions(&consumer, &topic)? {
            let (first, end) = bounds_of(&consumer, &topic, partition)?;
            if first < end {
                bounds.insert(partition, (first, end));
            }
        }
        Ok(Self {
            config,
            topic,
            bounds,
        })
    }

    /// Gives each message to `take`, those of a partition in their order.
    pub(super) fn read(
        &self,
        stop: &CancellationToken,
        take: impl FnMut(&BorrowedMessage<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        self.read_bounds(&self.bounds, stop, take)
    }

    /// Gives the message at `place` and those after it in its partition to `take`; none when Kafka
    /// holds nothing there.
    pub(super) fn read_from(
        &self,
        place: Place,
        stop: &CancellationToken,
        take: impl FnMut(&BorrowedMessage<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let held = self.bounds.get(&place.partition);
        let Some((_, end)) = held.filter(|(first, end)| (*first..*end).contains(&place.offset))
        else {
            return Ok(());
        };
        let bounds = BTreeMap::from([(place.partition, (place.offset, *end))]);
        self.read_bounds(&bounds, stop, take)
    }

    fn read_bounds(
        &self,
        bounds: &BTreeMap<i32, (i64, i64)>,
        stop: &CancellationToken,
        mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let consumer = consumer(self.config)?;
        let mut list = TopicPartitionList::new();
        for (partition, (first, _)) in bounds {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*first))?;
        }
        consumer.assign(&list)?;
        let mut unfinished: BTreeSet<i32> = bounds.keys().copied().collect();
        let mut progress = Progress::new(&self.topic, bounds);
        let mut heard = Instant::now();
        let mut said = String::new();
        while !unfinished.is_empty() {
            if stop.is_cancelled() {
                return Err(CommandError::Stopped);
            }
            if heard.elapsed() > PATIENCE {
                return Err(CommandError::Silent {
                    topic: self.topic.clone(),
                    seconds: PATIENCE.as_secs(),
                    said,
                });
            }
            match consumer.poll(POLL) {
                None => {}
                // The end may be no message: a transaction's own record stands there.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unfinished.remove(&partition);
                }
                Some(Err(error)) => {
                    said = format!(" ({error})");
                    std::thread::sleep(POLL);
                }
                Some(Ok(message)) => {
                    let at = Place::of(&message);
                    let end = bounds.get(&at.partition).map_or(0, |(_, end)| *end);
                    if at.offset < end {
                        take(&message)?;
                        progress.one_more();
                    }
                    if at.offset + 1 >= end {
                        unfinished.remove(&at.partition);
                    }
                    heard = Instant::now(); // what was done with it took its own time
                }
            }
        }
        progress.bar.finish_and_clear();
        Ok(())
    }
}

/// The numbers of a topic's partitions.
pub(super) fn partitions_of(
    config: &KafkaConfig,
    topic: &str,
) -> Result<BTreeSet<i32>, CommandError> {
    partitions(&consumer(config)?, topic)
}

fn partitions(consumer: &BaseConsumer<Quiet>, topic: &str) -> Result<BTreeSet<i32>, CommandError> {
    let metadata = consumer.fetch_metadata(Some(topic), KAFKA_TIMEOUT)?;
    let known = metadata.topics().iter().find(|known| known.name() == topic);
    let partitions: BTreeSet<i32> = known
        .into_iter()
        .flat_map(|known| known.partitions().iter().map(|partition| partition.id()))
        .collect();
    if partitions.is_empty() {
        return Err(CommandError::NoTopic(topic.to_owned()));
    }
    Ok(partitions)
}

/// A partition's first offset, and the one after its last. Asked for again while it has no leader: one
/// that was made a moment ago, or whose broker went away.
fn bounds_of(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), KafkaError> {
    let began = Instant::now();
    loop {
        match consumer.fetch_watermarks(topic, partition, KAFKA_TIMEOUT) {
            Err(error) if began.elapsed() < KAFKA_TIMEOUT => {
                tracing::debug!(%error, topic, partition, "Kafka is asked again");
                std::thread::sleep(POLL);
            }
            outcome => return outcome,
        }
    }
}

fn consumer(config: &KafkaConfig) -> Result<BaseConsumer<Quiet>, KafkaError> {
    kafka::consumer(config, NO_GROUP)
        .set("enable.partition.eof", "true")
        .create_with_context(Quiet)
}

/// What librdkafka says while Kafka is away is many lines a second. Here one error at the end says it.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}

/// How far the reading is: a bar on a terminal, otherwise a line now and then.
struct Progress {
    bar: ProgressBar,
    topic: String,
    last_line: Instant,
}

impl Progress {
    fn new(topic: &str, bounds: &BTreeMap<i32, (i64, i64)>) -> Self {
        let total: i64 = bounds.values().map(|(first, end)| end - first).sum();
        let style =
            ProgressStyle::with_template("{msg} {bar:32} {human_pos} / {human_len}  {elapsed}");
        Self {
            bar: ProgressBar::new(u64::try_from(total).unwrap_or(0))
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(topic.to_owned()),
            topic: topic.to_owned(),
            last_line: Instant::now(),
        }
    }

    fn one_more(&mut self) {
        self.bar.inc(1);
        if self.bar.is_hidden() && self.last_line.elapsed() > LINE_EVERY {
            self.last_line = Instant::now();
            let (read, total) = (self.bar.position(), self.bar.length());
            tracing::info!(topic = self.topic, read, total, "reading");
        }
    }
}
