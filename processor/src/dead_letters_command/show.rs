//! Prints one dead letter whole.

use std::fmt::Debug;
use std::io::Write;

use prost::Message;
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use tokio_util::sync::CancellationToken;
use tributary_shared::config::KafkaConfig;
use tributary_shared::events::{Click, Conversion, LedgerEvent, PostbackLogged, Topic, Topics};

use super::letter::{Place, Redriven, headers, marked, printable, written_at};
use super::topic_log::TopicLog;
use super::{CommandError, Show};

/// `Clicks` with its clicks still encoded, so that one that can't be decoded is seen as far as it goes.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(bytes = "vec", repeated, tag = "1")]
    clicks: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    segment_id: Vec<u8>,
    #[prost(uint32, tag = "3")]
    first_sequence: u32,
}

impl Show {
    pub(super) fn run(
        &self,
        kafka: &KafkaConfig,
        out: &mut impl Write,
        stop: &CancellationToken,
    ) -> Result<(), CommandError> {
        let name = Topics::new(&kafka.kafka_topic_prefix).dead_letter(self.topic);
        let place = Place {
            partition: self.partition,
            offset: self.offset,
        };
        let mut found: Option<OwnedMessage> = None;
        let mut redriven = Redriven::default();
        TopicLog::open(kafka, name.clone())?.read_from(place, stop, |message| {
            if Place::of(message) == place {
                found = Some(message.detach());
            }
            redriven.learn(message);
            Ok(())
        })?;
        let Some(letter) = found else {
            return Err(CommandError::NoLetter { topic: name, place });
        };
        if let Some(marked) = marked(&letter) {
            writeln!(
                out,
                "{name} {place} is no dead letter: it says that {marked} was re-driven"
            )?;
            return Ok(());
        }
        let at = written_at(&letter).map_or_else(String::new, |at| at.to_rfc3339());
        let key = letter.key().unwrap_or_default();
        let payload = letter.payload().unwrap_or_default();
        writeln!(out, "dead letter  {name} {place}")?;
        writeln!(out, "when         {at}")?;
        writeln!(
            out,
            "re-driven    {}",
            if redriven.contains(place) {
                "yes"
            } else {
                "no"
            }
        )?;
        writeln!(out, "key          {}", printable(key))?;
        writeln!(out, "\nheaders")?;
        for (name, value) in headers(&letter) {
            writeln!(out, "  {name}: {value}")?;
        }
        writeln!(
            out,
            "\npayload, {} bytes\n{}",
            payload.len(),
            hex::encode(payload)
        )?;
        Ok(writeln!(
            out,
            "\ndecoded\n{}",
            decoded(self.topic, payload)
        )?)
    }
}

/// The payload by its topic's schema.
fn decoded(topic: Topic, payload: &[u8]) -> String {
    match topic {
        Topic::Conversions => as_far_as_it_goes::<Conversion>(payload).1,
        Topic::Ledger => as_far_as_it_goes::<LedgerEvent>(payload).1,
        Topic::Postbacks => as_far_as_it_goes::<PostbackLogged>(payload).1,
        Topic::Clicks => {
            let (message, _) = as_far_as_it_goes::<Envelope>(payload);
            let clicks = message
                .clicks
                .iter()
                .map(|click| as_far_as_it_goes::<Click>(click).1);
            let outside = Envelope {
                clicks: Vec::new(),
                ..message.clone()
            };
            let error = Envelope::decode(payload).err().map(undecodable);
            [format!(
                "segment_id: {}, first_sequence: {}, clicks: {}",
                hex::encode(outside.segment_id),
                outside.first_sequence,
                message.clicks.len()
            )]
            .into_iter()
            .chain(clicks)
            .chain(error)
            .collect::<Vec<_>>()
            .join("\n")
        }
    }
}

/// What can be decoded, and the same as text, with what is wrong with the rest.
fn as_far_as_it_goes<M: Message + Default + Debug>(bytes: &[u8]) -> (M, String) {
    let mut message = M::default();
    let outcome = message.merge(bytes); // keeps what comes before an error
    let mut text = bytes_as_hex(&format!("{message:#?}"));
    if let Err(error) = outcome {
        text = format!("{text}\n{}", undecodable(error));
    }
    (message, text)
}

fn undecodable(error: prost::DecodeError) -> String {
    format!("the rest can't be decoded: {error}")
}

/// Rust's own listing of a message, whose byte strings take a line for each byte, with those as hex.
/// A line that is only a small number and a comma is such a byte: text is in quotes.
fn bytes_as_hex(listing: &str) -> String {
    let mut text = String::new();
    let mut within = false;
    for line in listing.lines() {
        let number = line
            .trim()
            .strip_suffix(',')
            .and_then(|n| n.parse::<u8>().ok());
        match number {
            Some(byte) => text.push_str(&hex::encode([byte])),
            None if within => text.push_str(line.trim()),
            None => {
                text.push_str(if text.is_empty() { "" } else { "\n" });
                text.push_str(line);
            }
        }
        within = number.is_some();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_shared::events::Clicks;

    #[test]
    fn a_click_is_shown_as_far_as_it_goes() {
        let click = Click {
            click_id: "abc".into(),
            visitor_id: vec![1, 2, 255],
            ..Click::default()
        };
        let good = Clicks {
            clicks: vec![click.clone()],
            segment_id: vec![7; 16],
            first_sequence: 3,
        };
        let text = decoded(Topic::Clicks, &good.encode_to_vec());
        assert!(text.starts_with(&format!(
            "segment_id: {}, first_sequence: 3, clicks: 1",
            "07".repeat(16)
        )));
        assert!(text.contains("\n    visitor_id: [0102ff],\n"), "{text}");
        assert!(text.contains("click_id: \"abc\""), "{text}");
        assert!(!text.contains("decoded"), "{text}");

        let mut broken = click.encode_to_vec();
        broken.push(0xff);
        let bad = Envelope {
            clicks: vec![broken],
            segment_id: vec![7; 16],
            first_sequence: 3,
        };
        let text = decoded(Topic::Clicks, &bad.encode_to_vec());
        assert!(text.contains("click_id: \"abc\""), "{text}");
        assert!(text.contains("the rest can't be decoded: "), "{text}");
        assert!(decoded(Topic::Conversions, b"\xff").contains("the rest can't be decoded: "));
    }
}
