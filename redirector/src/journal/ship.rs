//! The shipper: one thread that reads segments and gives their records to Kafka, in batches, in order,
//! idempotently, until everything is acknowledged.
//!
//! Clicks of one segment go to one partition, cut into messages of many clicks. When Kafka refuses a
//! message, or the producer breaks, everything behind the last acknowledgement is sent again under
//! the same names: repeated, never skipped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};
use prost::Message as _;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use tributary_shared::config::KafkaConfig;
use tributary_shared::engines::kafka;
use tributary_shared::events::{Clicks, Conversion, PostbackLogged, Topics};
use tributary_shared::names;

use super::keeper::Keeper;
use super::record::Record;
use super::segment::{HEADER_BYTES, Segment};
use super::{JournalError, Stream};

/// How long records gather before they are sent.
const TICK: Duration = Duration::from_millis(10);
/// Bytes of clicks in one message, about; below Kafka's usual limit of 1 MB.
const MESSAGE_BYTES: usize = 128 * 1024;
/// Bytes that may be with the producer, unacknowledged. The rest waits in the journal.
const MAX_IN_FLIGHT_BYTES: usize = 32 * 1024 * 1024;
/// How long one question for a topic's partitions may take.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a topic of the log that is not there yet is looked for.
const LOG_TOPIC_EVERY: Duration = Duration::from_secs(10);
/// Pause after Kafka has refused something.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Without an acknowledgement for this long, Kafka is said to be away.
const AWAY_AFTER: Duration = Duration::from_secs(5);

/// The shipper's thread.
pub(super) struct Shipper {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
#[derive(Default)]
struct Orders {
    /// When to end, whatever is left.
    until: Mutex<Option<Instant>>,
}

impl Shipper {
    pub(super) fn start(config: &KafkaConfig, keeper: Arc<Keeper>) -> Result<Self, JournalError> {
        let orders = Arc::<Orders>::default();
        let mut work = Work {
            producer: producer(config)?,
            config: config.clone(),
            topics: Topics::new(&config.kafka_topic_prefix),
            keeper,
            partitions: None,
            takes_log: false,
            asked_for_log: None,
            segments: Vec::new(),
            in_flight_bytes: 0,
            refused: false,
            last_progress: Instant::now(),
            away: false,
            message: Vec::with_capacity(2 * MESSAGE_BYTES),
            counts: Counts::new(),
        };
        let thread = thread::Builder::new().name("shipper".into()).spawn({
            let orders = Arc::clone(&orders);
            move || work.run(&orders)
        })?;
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }

    /// Lets it send what is left for at most `limit`, and ends it.
    pub(super) fn finish(&mut self, limit: Duration) {
        self.end_by(Instant::now() + limit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it can only have panicked, and said so
        }
    }

    /// Tells it to end by then, and doesn't wait.
    pub(super) fn end_by(&self, until: Instant) {
        let orders = self.orders.until.lock();
        *orders.unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

struct Counts {
    accepted: Counter,
    delivered: Counter,
    waiting: Gauge,
}

impl Counts {
    fn new() -> Self {
        Self {
            accepted: metrics::counter!(names::CLICKS_ACCEPTED),
            delivered: metrics::counter!(names::CLICKS_DELIVERED),
            waiting: metrics::gauge!(names::JOURNAL_WAITING_BYTES),
        }
    }
}

/// Collects what became of each message; drained by the one thread that polls.
#[derive(Default)]
struct Deliveries(Mutex<Vec<(Sent, Result<(), KafkaError>)>>);

/// Names a message: which segment, up to which byte, how many records and bytes.
struct Sent {
    segment: Arc<Segment>,
    end: usize,
    records: u64,
    bytes: usize,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        let mut deliveries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        deliveries.push((*sent, outcome));
    }
}

fn producer(config: &KafkaConfig) -> Result<BaseProducer<Deliveries>, KafkaError> {
    kafka::journal_producer(config, MAX_IN_FLIGHT_BYTES).create_with_context(Deliveries::default())
}

/// A segment on its way.
struct Shipment {
    segment: Arc<Segment>,
    /// Bytes that were given to the producer.
    sent: usize,
    /// Ends of messages that are with the producer, in order, and whether Kafka has them.
    in_flight: VecDeque<(usize, bool)>,
    /// Records that were counted as accepted; a segment of another process was counted there.
    counted: u64,
    /// One more than the highest sequence that was given to the producer; none before the first.
    expected: Option<u32>,
    /// Records that should be there and are not.
    missing: u64,
    damaged: bool,
}

impl Shipment {
    fn new(segment: Arc<Segment>) -> Self {
        Self {
            sent: segment.acknowledged(),
            in_flight: VecDeque::new(),
            counted: 0,
            expected: (segment.acknowledged() == HEADER_BYTES).then_some(0),
            missing: 0,
            damaged: false,
            segment,
        }
    }

    /// Kafka has the message that ends at `end`; moves the mark over everything without a gap.
    fn acknowledged(&mut self, end: usize) {
        for (sent, done) in &mut self.in_flight {
            *done |= *sent == end;
        }
        while let Some((end, true)) = self.in_flight.front().copied() {
            self.in_flight.pop_front();
            self.segment.acknowledge(end);
        }
    }

    /// Everything that is not acknowledged is to be sent again.
    fn rewind(&mut self) {
        self.in_flight.clear();
        self.sent = self.segment.acknowledged();
    }

    fn is_done(&self) -> bool {
        // Sealed is looked at first: what is published afterwards is the last of it.
        self.segment.is_sealed()
            && self.in_flight.is_empty()
            && self.sent >= self.segment.published()
    }
}

struct Work {
    producer: BaseProducer<Deliveries>,
    config: KafkaConfig,
    topics: Topics,
    keeper: Arc<Keeper>,
    /// How many partitions the topic of clicks has, once Kafka has said so.
    partitions: Option<u32>,
    /// Whether the topic of the log is there. A message to none would be refused, and with it what is on its
    /// way to the others.
    takes_log: bool,
    asked_for_log: Option<Instant>,
    segments: Vec<Shipment>,
    in_flight_bytes: usize,
    refused: bool,
    last_progress: Instant,
    away: bool,
    message: Vec<u8>,
    counts: Counts,
}

/// The producer takes no more at present.
struct Full;

impl Work {
    fn run(&mut self, orders: &Orders) {
        loop {
            let until = *orders.until.lock().unwrap_or_else(PoisonError::into_inner);
            let opened = self.keeper.opened();
            self.segments.extend(opened.into_iter().map(Shipment::new));
            if self.refused {
                self.start_over();
            }
            self.count_accepted();
            if self.partitions.is_none() && !self.segments.iter().all(Shipment::is_done) {
                self.partitions = self.partitions_of(Stream::Clicks);
            }
            if self.partitions.is_some() {
                self.look_for_log();
                self.send();
            }
            thread::sleep(TICK); // not `poll(TICK)`, which spins through its last millisecond
            self.hear();
            self.retire();
            self.watch();
            if let Some(until) = until {
                // Opened before the lanes ended, perhaps after the look above.
                let all = self.segments.is_empty() && self.keeper.nothing_opened();
                if all || Instant::now() >= until {
                    return self.end();
                }
            }
        }
    }

    /// How many partitions a topic has; none: it is not there, or Kafka does not answer.
    fn partitions_of(&self, stream: Stream) -> Option<u32> {
        let topic = self.topics.name(stream.topic());
        let asked = self
            .producer
            .client()
            .fetch_metadata(Some(&topic), METADATA_TIMEOUT);
        let asked = asked.ok()?;
        let topic = asked.topics().first().filter(|t| t.error().is_none())?;
        let partitions = u32::try_from(topic.partitions().len()).ok();
        partitions.filter(|n| *n > 0)
    }

    /// Looks for the topic of the log while there is something to be sent to it.
    fn look_for_log(&mut self) {
        let waits = self
            .segments
            .iter()
            .any(|s| s.segment.stream == Stream::Postbacks && s.segment.unsent() > 0);
        let asked = self.asked_for_log;
        if !self.takes_log && waits && asked.is_none_or(|at| at.elapsed() >= LOG_TOPIC_EVERY) {
            self.asked_for_log = Some(Instant::now());
            self.takes_log = self.partitions_of(Stream::Postbacks).is_some();
        }
    }

    fn count_accepted(&mut self) {
        let mut waiting = 0;
        for shipment in &mut self.segments {
            let segment = &shipment.segment;
            if segment.stream == Stream::Clicks {
                let appended = segment.appended();
                self.counts.accepted.increment(appended - shipment.counted);
                shipment.counted = appended;
            }
            waiting += segment.unsent();
        }
        #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
        self.counts.waiting.set(waiting as f64);
    }

    /// Gives the producer what there is, oldest segments first.
    fn send(&mut self) {
        for at in 0..self.segments.len() {
            let sent = match self.segments[at].segment.stream {
                Stream::Clicks => self.send_clicks(at),
                Stream::Conversions => self.send_each(at, |payload| {
                    // Everything about one order stays in one partition, in order.
                    let conversion = Conversion::decode(payload).ok()?;
                    Some(format!("{}\n{}", conversion.tenant_id, conversion.order_id))
                }),
                Stream::Postbacks if !self.takes_log => Ok(()),
                Stream::Postbacks => self.send_each(at, |payload| {
                    let logged = PostbackLogged::decode(payload).ok()?;
                    Some(logged.tenant_id.to_string())
                }),
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn send_clicks(&mut self, at: usize) -> Result<(), Full> {
        let segment = Arc::clone(&self.segments[at].segment);
        let mut records = segment.records_from(self.segments[at].sent);
        let mut waiting = records.next();
        while let Some(first) = waiting {
            self.message.clear();
            let mut last = first;
            let mut count = 0;
            // One message holds records that follow one another without a gap.
            while let Some(record) = waiting
                && record.sequence - first.sequence == count
                && self.message.len() < MESSAGE_BYTES
            {
                self.message.extend_from_slice(record.payload);
                last = record;
                count += 1;
                waiting = records.next();
            }
            let rest = Clicks {
                clicks: Vec::new(),
                segment_id: segment.id.as_bytes().to_vec(),
                first_sequence: first.sequence,
            };
            self.message.extend(rest.encode_to_vec());
            let message = std::mem::take(&mut self.message);
            let given = self.give(at, first, last, &message, None);
            self.message = message;
            given?;
        }
        self.note_damage(at, records.damaged());
        Ok(())
    }

    /// Sends each record as a message of its own, keyed by what `key` reads in it.
    fn send_each(&mut self, at: usize, key: impl Fn(&[u8]) -> Option<String>) -> Result<(), Full> {
        let segment = Arc::clone(&self.segments[at].segment);
        let mut records = segment.records_from(self.segments[at].sent);
        for record in records.by_ref() {
            let key = key(record.payload).unwrap_or_default();
            self.give(at, record, record, record.payload, Some(&key))?;
        }
        self.note_damage(at, records.damaged());
        Ok(())
    }

    /// Gives the producer one message that holds the records `first` to `last`.
    fn give(
        &mut self,
        at: usize,
        first: Record<'_>,
        last: Record<'_>,
        payload: &[u8],
        key: Option<&str>,
    ) -> Result<(), Full> {
        if self.in_flight_bytes + payload.len() > MAX_IN_FLIGHT_BYTES {
            return Err(Full);
        }
        let shipment = &mut self.segments[at];
        let topic = self.topics.name(shipment.segment.stream.topic());
        let sent = Box::new(Sent {
            segment: Arc::clone(&shipment.segment),
            end: last.end,
            records: u64::from(last.sequence - first.sequence) + 1,
            bytes: payload.len(),
        });
        let mut record = BaseRecord::with_opaque_to(&topic, sent).payload(payload);
        match key {
            Some(key) => record = record.key(key),
            None => record = record.partition(partition(&shipment.segment, self.partitions)),
        }
        match self.producer.send(record) {
            Ok(()) => {}
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                return Err(Full);
            }
            Err((error, _)) => {
                tracing::error!(%error, "Kafka's client takes no message; trying again");
                self.refused = true;
                return Err(Full);
            }
        }
        if let Some(expected) = shipment.expected {
            shipment.missing += u64::from(first.sequence.saturating_sub(expected));
        }
        shipment.expected = shipment.expected.max(Some(last.sequence + 1));
        shipment.sent = last.end;
        shipment.in_flight.push_back((last.end, false));
        self.in_flight_bytes += payload.len();
        Ok(())
    }

    /// All records of a segment were given; what is left in it is empty, torn or damaged.
    fn note_damage(&mut self, at: usize, damaged: bool) {
        let shipment = &mut self.segments[at];
        if shipment.segment.was_found() {
            shipment.damaged |= damaged;
            shipment.sent = shipment.segment.published();
        }
    }

    /// Takes in what Kafka has answered.
    fn hear(&mut self) {
        let answers = {
            let answers = &self.producer.context().0;
            let count = || answers.lock().unwrap_or_else(PoisonError::into_inner).len();
            // One call hears of one batch of messages.
            let mut heard = count();
            loop {
                self.producer.poll(Duration::ZERO);
                let now = count();
                if now == heard {
                    break;
                }
                heard = now;
            }
            std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let mut heard = false;
        for (sent, outcome) in answers {
            self.in_flight_bytes -= sent.bytes;
            match outcome {
                Ok(()) => {
                    heard = true;
                    if sent.segment.stream == Stream::Clicks {
                        self.counts.delivered.increment(sent.records);
                    }
                    let shipment = self
                        .segments
                        .iter_mut()
                        .find(|s| Arc::ptr_eq(&s.segment, &sent.segment));
                    if let Some(shipment) = shipment {
                        shipment.acknowledged(sent.end);
                    }
                }
                Err(error) => {
                    if !self.refused {
                        tracing::error!(%error, "Kafka refused a message; it is sent again");
                    }
                    self.refused = true;
                }
            }
        }
        if heard {
            self.last_progress = Instant::now();
            self.keeper.progress().notify_waiters();
        }
    }

    /// After a refusal: waits until nothing is on its way, then sends again what has no
    /// acknowledgement.
    fn start_over(&mut self) {
        thread::sleep(REFUSED_PAUSE);
        self.producer
            .purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
        let patience = Instant::now() + REFUSED_PAUSE;
        while self.producer.in_flight_count() > 0 && Instant::now() < patience {
            thread::sleep(TICK);
            self.hear();
        }
        if self.producer.client().fatal_error().is_some() || self.producer.in_flight_count() > 0 {
            match producer(&self.config) {
                Ok(producer) => self.producer = producer,
                Err(error) => {
                    tracing::error!(%error, "there is no producer; trying again");
                    return;
                }
            }
        }
        self.hear();
        self.in_flight_bytes = 0;
        self.refused = false;
        self.segments.iter_mut().for_each(Shipment::rewind);
    }

    /// Lets go of segments that Kafka has whole.
    fn retire(&mut self) {
        for shipment in self.segments.extract_if(.., |shipment| shipment.is_done()) {
            let Shipment {
                segment, missing, ..
            } = shipment;
            if missing > 0 {
                metrics::counter!(names::JOURNAL_LOST, "stream" => segment.stream.label(), "reason" => "damaged")
                    .increment(missing);
                tracing::error!(path = ?segment.path(), records = missing,
                    "a segment of the journal was damaged: these records are lost; its file was put aside");
            } else if shipment.damaged {
                tracing::warn!(path = ?segment.path(),
                    "the last record of a segment was torn: its click was never answered");
            }
            self.keeper.release(segment, missing > 0);
        }
    }

    fn watch(&mut self) {
        let takes_log = self.takes_log;
        let mut shipments = self.segments.iter();
        let waits = |s: &Shipment| s.segment.stream != Stream::Postbacks || takes_log;
        let idle =
            self.in_flight_bytes == 0 && shipments.all(|s| s.segment.unsent() == 0 || !waits(s));
        if idle {
            self.last_progress = Instant::now();
        }
        let away = self.last_progress.elapsed() >= AWAY_AFTER;
        if away != self.away {
            self.away = away;
            if away {
                tracing::warn!("Kafka does not answer; the journal keeps what is accepted");
            } else {
                tracing::info!("Kafka answers again");
            }
        }
    }

    /// Says what is left.
    fn end(&mut self) {
        self.hear();
        self.retire();
        let (mut kept, mut lost) = (0, 0);
        for shipment in &self.segments {
            let from = shipment.segment.acknowledged();
            let left = shipment.segment.records_from(from).count() as u64;
            if shipment.segment.on_disk() {
                kept += left;
            } else {
                lost += left;
                metrics::counter!(names::JOURNAL_LOST, "stream" => shipment.segment.stream.label(), "reason" => "shutdown")
                    .increment(left);
            }
        }
        if kept > 0 {
            tracing::warn!(
                records = kept,
                "left in the journal for the next redirector on this folder"
            );
        }
        if lost > 0 {
            tracing::error!(
                records = lost,
                "lost: Kafka did not take them, and the journal had no disk"
            );
        }
    }
}

/// Where a segment's clicks go: the same whenever it is sent.
fn partition(segment: &Segment, partitions: Option<u32>) -> i32 {
    let partitions = u128::from(partitions.unwrap_or(1));
    i32::try_from(segment.id.as_u128() % partitions).unwrap_or(0)
}
