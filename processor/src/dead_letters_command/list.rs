//! Prints the dead letters.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use rdkafka::Message as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tributary_shared::config::KafkaConfig;
use tributary_shared::events::{Topic, Topics};

use super::letter::{Letter, Redriven};
use super::topic_log::TopicLog;
use super::{CommandError, List};
use crate::table::STYLE;

/// Characters of a reason that the table shows; `show` and `--json` have all of it.
const REASON_CHARS: usize = 160;
/// The column of sizes.
const SIZE_COLUMN: usize = 5;

/// A dead letter as `--json` prints it.
#[derive(Serialize)]
struct Line<'l> {
    topic: &'static str,
    partition: i32,
    offset: i64,
    at: Option<String>,
    reason: &'l str,
    origin_topic: &'l str,
    origin_partition: Option<i32>,
    origin_offset: Option<i64>,
    segment_id: Option<&'l str>,
    sequence: Option<u32>,
    bytes: usize,
    redriven: bool,
}

/// What of a topic is printed.
#[derive(Default)]
struct Found {
    newest: VecDeque<Letter>,
    count: usize,
    redriven: Redriven,
}

impl List {
    pub(super) fn run(
        &self,
        kafka: &KafkaConfig,
        out: &mut impl Write,
        stop: &CancellationToken,
    ) -> Result<(), CommandError> {
        let mut table = Table::new();
        table.load_style(STYLE).set_header([
            "dead letter",
            "when",
            "reason",
            "came from",
            "segment, sequence",
            "bytes",
            "re-driven",
        ]);
        if std::io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        let mut summary = Vec::new();
        for topic in Topic::ALL {
            if self.topic.is_some_and(|only| only != topic) {
                continue;
            }
            let found = self.find(kafka, topic, stop)?;
            for letter in &found.newest {
                let redriven = found.redriven.contains(letter.place);
                if self.json {
                    let line = serde_json::to_string(&line(topic, letter, redriven));
                    writeln!(out, "{}", line.map_err(std::io::Error::other)?)?;
                } else {
                    table.add_row(row(topic, letter, redriven));
                }
            }
            summary.push(self.summary(topic, &found));
        }
        if self.json {
            return Ok(());
        }
        if table.row_count() > 0 {
            if let Some(column) = table.column_mut(SIZE_COLUMN) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            writeln!(out, "{table}\n")?;
        }
        Ok(writeln!(out, "{}", summary.join("\n"))?)
    }

    fn find(
        &self,
        kafka: &KafkaConfig,
        topic: Topic,
        stop: &CancellationToken,
    ) -> Result<Found, CommandError> {
        let name = Topics::new(&kafka.kafka_topic_prefix).dead_letter(topic);
        let mut found = Found::default();
        TopicLog::open(kafka, name)?.read(stop, |message| {
            let since = self
                .since
                .and_then(|since| u64::try_from(since.timestamp_millis()).ok());
            let written = message
                .timestamp()
                .to_millis()
                .and_then(|at| u64::try_from(at).ok());
            if found.redriven.learn(message) || (since.is_some() && written < since) {
                return Ok(());
            }
            found.count += 1;
            found.newest.push_back(Letter::read(message));
            if found.newest.len() > self.limit as usize {
                found.newest.pop_front();
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn summary(&self, topic: Topic, found: &Found) -> String {
        let since = self
            .since
            .map_or_else(String::new, |since| format!(" since {since}"));
        let (name, count, shown) = (topic.name(), found.count, found.newest.len());
        match count {
            0 => format!("{name}: no dead letters{since}"),
            1 => format!("{name}: 1 dead letter{since}"),
            _ if shown < count => {
                format!(
                    "{name}: {count} dead letters{since}, the newest {shown} are shown (see --limit)"
                )
            }
            _ => format!("{name}: {count} dead letters{since}"),
        }
    }
}

fn row(topic: Topic, letter: &Letter, redriven: bool) -> [String; 7] {
    let named = letter.segment_id.as_ref().zip(letter.sequence);
    let mut reason: String = letter.reason.chars().take(REASON_CHARS).collect();
    if reason.len() < letter.reason.len() {
        reason.push('…');
    }
    [
        format!("{} {}", topic.name(), letter.place),
        letter
            .at
            .map_or_else(String::new, |at| at.format("%F %T").to_string()),
        reason,
        letter.origin(),
        named.map_or_else(String::new, |(segment, sequence)| {
            format!("{segment} {sequence}")
        }),
        letter.bytes.to_string(),
        if redriven { "yes" } else { "no" }.to_owned(),
    ]
}

fn line(topic: Topic, letter: &Letter, redriven: bool) -> Line<'_> {
    Line {
        topic: topic.name(),
        partition: letter.place.partition,
        offset: letter.place.offset,
        at: letter.at.map(|at| at.to_rfc3339()),
        reason: &letter.reason,
        origin_topic: &letter.topic,
        origin_partition: letter.partition,
        origin_offset: letter.offset,
        segment_id: letter.segment_id.as_deref(),
        sequence: letter.sequence,
        bytes: letter.bytes,
        redriven,
    }
}
