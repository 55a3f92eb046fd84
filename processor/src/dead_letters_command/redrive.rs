//! Sends dead letters back where they came from.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::Message as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio_util::sync::CancellationToken;
use tributary_shared::config::KafkaConfig;
use tributary_shared::engines::kafka;
use tributary_shared::events::Topics;

use super::letter::{Letter, Place, Redriven, marked, marker};
use super::topic_log::{Quiet, TopicLog, partitions_of};
use super::{CommandError, MAX_PICKED, Redrive};

/// How long Kafka may take over one transaction. Readers of the partitions that are written to wait for
/// its end, so after a crash they wait this long, and until the broker looks (every 10 s by default).
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long Kafka may take to end a former re-drive's transaction; the first one of all makes Kafka
/// create its own topic for them.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Dead letters that are sent in one transaction.
const BATCH: usize = 256;
/// Bytes of payloads after which a transaction is complete.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Dead letters that are named one by one in the answer; the others are only counted.
const MAX_NAMED: usize = 100;

impl Redrive {
    pub(super) fn run(
        &self,
        kafka: &KafkaConfig,
        out: &mut impl Write,
        stop: &CancellationToken,
    ) -> Result<(), CommandError> {
        if self.which.at.len() > MAX_PICKED {
            return Err(CommandError::TooMany);
        }
        let topics = Topics::new(&kafka.kafka_topic_prefix);
        let (origin, dead_letters) = (topics.name(self.topic), topics.dead_letter(self.topic));
        let partitions = partitions_of(kafka, &origin)?;
        partitions_of(kafka, &dead_letters)?;
        // From here on nobody else writes markers, so those that are read now stay all.
        let sender = if self.dry_run {
            None
        } else {
            Some(Sender::begin(kafka, &origin, &dead_letters)?)
        };
        let log = TopicLog::open(kafka, dead_letters)?;
        let mut redriven = Redriven::default();
        log.read(stop, |message| {
            redriven.learn(message);
            Ok(())
        })?;

        let mut work = Work {
            origin,
            partitions,
            redriven,
            picked: self.which.at.iter().copied().collect(),
            all: self.which.all,
            sender,
            batch: Vec::new(),
            batch_bytes: 0,
            sent: 0,
            before: 0,
            left_out: 0,
            out,
        };
        log.read(stop, |message| work.take(message))?;
        work.send()?;
        work.finish()
    }
}

/// A dead letter that is going back.
struct Returning {
    place: Place,
    partition: i32,
    message: OwnedMessage,
}

struct Work<'o, W> {
    origin: String,
    partitions: BTreeSet<i32>,
    redriven: Redriven,
    /// Those that were asked for and not met yet.
    picked: BTreeSet<Place>,
    all: bool,
    /// None: nothing is sent.
    sender: Option<Sender>,
    batch: Vec<Returning>,
    batch_bytes: usize,
    sent: usize,
    /// Sent back by an earlier command.
    before: usize,
    left_out: usize,
    out: &'o mut W,
}

impl<W: Write> Work<'_, W> {
    fn take(&mut self, message: &BorrowedMessage<'_>) -> Result<(), CommandError> {
        let place = Place::of(message);
        if !self.picked.remove(&place) && !self.all {
            return Ok(());
        }
        if marked(message).is_some() {
            return if self.all {
                Ok(())
            } else {
                self.leave_out(
                    place,
                    "it is no dead letter but says that one was re-driven",
                )
            };
        }
        if self.redriven.contains(place) {
            self.before += 1;
            return if self.all {
                Ok(())
            } else {
                self.leave_out(place, "it was re-driven before")
            };
        }
        let letter = Letter::read(message);
        if letter.topic != self.origin {
            let why = format!(
                "its header topic says {:?}, not {}",
                letter.topic, self.origin
            );
            return self.leave_out(place, &why);
        }
        // The same partition, or none: a segment's clicks must stay in one.
        let Some(partition) = letter.partition.filter(|n| self.partitions.contains(n)) else {
            let why = format!(
                "{} has no partition as in its header partition",
                self.origin
            );
            return self.leave_out(place, &why);
        };
        self.batch_bytes += letter.bytes;
        self.batch.push(Returning {
            place,
            partition,
            message: message.detach(),
        });
        if self.batch.len() >= BATCH || self.batch_bytes >= BATCH_BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), CommandError> {
        if let Some(sender) = &self.sender
            && !self.batch.is_empty()
        {
            sender.send(&self.batch)?;
        }
        let verb = if self.sender.is_some() {
            "was sent"
        } else {
            "would be sent"
        };
        for letter in self.batch.drain(..) {
            self.sent += 1;
            if self.sent <= MAX_NAMED {
                let (place, partition, origin) = (letter.place, letter.partition, &self.origin);
                writeln!(
                    self.out,
                    "{place} {verb} back to partition {partition} of {origin}"
                )?;
            }
        }
        self.batch_bytes = 0;
        Ok(())
    }

    fn leave_out(&mut self, place: Place, why: &str) -> Result<(), CommandError> {
        self.left_out += 1;
        if self.left_out <= MAX_NAMED {
            writeln!(self.out, "{place} is left out: {why}")?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), CommandError> {
        for place in std::mem::take(&mut self.picked) {
            self.leave_out(place, "there is no such dead letter")?;
        }
        let (sent, before) = (self.sent, self.before);
        match &self.sender {
            Some(_) => writeln!(self.out, "{sent} sent back, {before} were before")?,
            None => writeln!(
                self.out,
                "{sent} would be sent back, {before} were before; nothing was sent"
            )?,
        }
        match self.left_out {
            0 => Ok(()),
            count => Err(CommandError::LeftOut(count)),
        }
    }
}

/// Writes messages and their markers, in transactions.
struct Sender {
    producer: FutureProducer<Quiet>,
    origin: String,
    dead_letters: String,
}

impl Sender {
    /// Ends what another re-drive of the topic has under way: it can't send anything any more.
    fn begin(kafka: &KafkaConfig, origin: &str, dead_letters: &str) -> Result<Self, KafkaError> {
        let producer: FutureProducer<Quiet> = kafka::prompt_producer(kafka, TRANSACTION_TIMEOUT)
            .set("transactional.id", format!("{dead_letters}-redrive"))
            .set(
                "transaction.timeout.ms",
                TRANSACTION_TIMEOUT.as_millis().to_string(),
            )
            .create_with_context(Quiet)?;
        producer.init_transactions(BEGIN_TIMEOUT)?;
        Ok(Self {
            producer,
            origin: origin.to_owned(),
            dead_letters: dead_letters.to_owned(),
        })
    }

    /// All of them with their markers, or none.
    fn send(&self, letters: &[Returning]) -> Result<(), CommandError> {
        let begun = self.producer.begin_transaction();
        let outcome = begun
            .map_err(CommandError::NotCommitted)
            .and_then(|()| self.send_all(letters))
            .and_then(|()| {
                let committed = self.producer.commit_transaction(TRANSACTION_TIMEOUT);
                committed.map_err(CommandError::NotCommitted)
            });
        outcome.map_err(|error| {
            // Fatal is that another producer has taken the transactional id.
            if let Some((_, why)) = self.producer.client().fatal_error() {
                return CommandError::Overtaken(why);
            }
            // Where it can't be ended now, its timeout or the next re-drive ends it.
            let _ = self.producer.abort_transaction(TRANSACTION_TIMEOUT);
            error
        })
    }

    /// Returns once Kafka has acknowledged each.
    fn send_all(&self, letters: &[Returning]) -> Result<(), CommandError> {
        let mut deliveries = Vec::with_capacity(letters.len());
        for Returning {
            place,
            partition,
            message,
        } in letters
        {
            let not_sent = |error| CommandError::NotSent {
                place: *place,
                error,
            };
            let from = OwnedHeaders::new().insert(Header {
                key: "redriven_from",
                value: Some(&place.to_string()),
            });
            let letter = FutureRecord {
                topic: &self.origin,
                partition: Some(*partition),
                payload: message.payload(),
                // A message that had no key became a dead letter with an empty one.
                key: message.key().filter(|key| !key.is_empty()),
                timestamp: None,
                headers: Some(from),
            };
            let marker = FutureRecord::<[u8], [u8]> {
                topic: &self.dead_letters,
                partition: Some(place.partition),
                payload: None,
                key: None,
                timestamp: None,
                headers: Some(marker(*place)),
            };
            for record in [letter, marker] {
                let sent = self.producer.send_result(record);
                deliveries.push((place, sent.map_err(|(error, _)| not_sent(error))?));
            }
        }
        for (place, delivery) in deliveries {
            block_on(kafka::acknowledged(delivery)).map_err(|error| CommandError::NotSent {
                place: *place,
                error,
            })?;
        }
        Ok(())
    }
}
