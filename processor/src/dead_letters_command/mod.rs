//! `processor dead-letters`: what could not be read, for a person to look at and to send back.
//!
//! It reads the dead-letter topics by hand: it joins no consumer group and commits nothing, so it can
//! run at any time beside any number of processors. It keeps nothing of its own. That a dead letter
//! was sent back stands in the dead-letter topic itself, as a marker: a message without payload whose
//! header `redriven` names the dead letter as partition:offset.
//!
//! Message and marker are written in one Kafka transaction. So they are both there or neither, whatever
//! is killed in between: processors read what is committed only (`engines/kafka.rs`). All re-drives
//! of a topic use one transactional id, so of two people who re-drive at once the later one ends the
//! earlier one's work, and reads its markers before it goes on. Should a message come twice all the
//! same (its original was read again and became a second dead letter, say), nothing is counted twice: a
//! click is counted once by its segment and sequence (`segments`), a report by its id (`reports`),
//! and the ledger's facts are replaced by the highest version (`ledger_facts`).
//!
//! A message goes back to the partition that it came from, so that a segment's clicks stay in one
//! (`segments` depends on it). One that is unreadable still becomes a dead letter again, a new one, whose
//! origin is the message that was sent back.
//!
//! Dead letters, and markers with them, are kept as long as what they came from: 14 days
//! (`engines/kafka.rs`). A marker is younger than its dead letter, so Kafka never removes it first.

mod letter;
mod list;
mod redrive;
mod show;
mod topic_log;

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};
use rdkafka::error::KafkaError;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tributary_shared::config::{KafkaConfig, LogConfig};
use tributary_shared::events::Topic;

pub use letter::Place;

/// Dead letters that `--at` names at most.
const MAX_PICKED: usize = 1000;

/// Lists messages that could not be read, shows them, and sends them back
#[derive(Debug, Clone, Parser)]
pub struct DeadLettersCommand {
    #[command(subcommand)]
    pub action: Action,
    #[command(flatten)]
    pub kafka: KafkaConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

/// What is to be done with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    List(List),
    Show(Show),
    Redrive(Redrive),
}

/// Prints the dead letters, the newest last
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only those of clicks, conversions or ledger
    #[arg(long, value_parser = topic)]
    pub topic: Option<Topic>,
    /// The newest of each topic, so many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Only those that were written at this time or later, as 2026-01-31T12:00:00Z
    #[arg(long, value_parser = time)]
    pub since: Option<DateTime<Utc>>,
    /// One JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Prints one dead letter whole: headers, bytes, and what can be decoded of them
#[derive(Debug, Clone, Args)]
pub struct Show {
    /// clicks, conversions or ledger
    #[arg(value_parser = topic)]
    pub topic: Topic,
    /// Where it stands in the dead-letter topic, as `list` prints it
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,
}

/// Sends dead letters back where they came from, each once
#[derive(Debug, Clone, Args)]
pub struct Redrive {
    /// clicks, conversions or ledger
    #[arg(long, value_parser = topic)]
    pub topic: Topic,
    #[command(flatten)]
    pub which: Which,
    /// Only say what would be sent
    #[arg(long)]
    pub dry_run: bool,
}

/// Which dead letters are sent back.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// All that were not sent back before
    #[arg(long)]
    pub all: bool,
    /// These, as PARTITION:OFFSET in the dead-letter topic, up to 1000
    #[arg(long, num_args = 1.., value_name = "PARTITION:OFFSET")]
    pub at: Vec<Place>,
}

/// Why the command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("Kafka does not do what was asked: {0}; is it there (see KAFKA_BROKERS)?")]
    Kafka(#[from] KafkaError),
    #[error(
        "Kafka has no topic {0}; admin-api creates it when it starts (see KAFKA_TOPIC_PREFIX, KAFKA_BROKERS)"
    )]
    NoTopic(String),
    #[error(
        "Kafka has sent nothing of {topic} for {seconds} s{said}; look at its log and try again"
    )]
    Silent {
        topic: String,
        seconds: u64,
        said: String,
    },
    #[error(
        "there is no dead letter {place} in {topic}; `processor dead-letters list` prints what is there"
    )]
    NoLetter { topic: String, place: Place },
    #[error("more than {MAX_PICKED} dead letters are named; name fewer at once, or use --all")]
    TooMany,
    #[error(
        "somebody else began to re-drive this topic, so nothing more is sent here; let them finish ({0})"
    )]
    Overtaken(String),
    #[error(
        "{place} was not sent back, nor those after it: {error}; run the command again, it leaves out \
         what was sent back"
    )]
    NotSent { place: Place, error: KafkaError },
    #[error(
        "those that are not reported above may not be sent back: {0}; run the command again, it leaves \
         out what was"
    )]
    NotCommitted(KafkaError),
    #[error("{0} dead letters were left out, for the reasons printed above")]
    LeftOut(usize),
    #[error("stopped as asked; what was reported as sent back is, and nothing else")]
    Stopped,
    #[error("cannot go on: {0}")]
    Output(#[from] io::Error),
    #[error("cannot go on: {0}")]
    Panic(#[from] JoinError),
}

/// Does what the command says and writes the answer to `out`. It blocks: it belongs on a thread where
/// that harms nobody.
///
/// # Errors
/// When Kafka is away, refuses, or holds nothing of the kind; see the error's text.
pub fn run(
    command: &DeadLettersCommand,
    out: &mut impl Write,
    stop: &CancellationToken,
) -> Result<(), CommandError> {
    match &command.action {
        Action::List(list) => list.run(&command.kafka, out, stop),
        Action::Show(show) => show.run(&command.kafka, out, stop),
        Action::Redrive(redrive) => redrive.run(&command.kafka, out, stop),
    }
}

fn topic(text: &str) -> Result<Topic, &'static str> {
    let mut topics = Topic::ALL.into_iter();
    topics
        .find(|topic| topic.name() == text)
        .ok_or("it must be clicks, conversions or ledger")
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|error| format!("{error}; write it as 2026-01-31T12:00:00Z"))
}
