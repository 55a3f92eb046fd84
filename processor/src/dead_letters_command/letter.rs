//! A message of a dead-letter topic: a dead letter, or the marker of one that was sent back.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rangemap::RangeInclusiveSet;
use rdkafka::Message;
use rdkafka::message::{Header, Headers as _, OwnedHeaders};

/// The header of a marker.
const REDRIVEN: &str = "redriven";

/// Where a message stands in its topic, written as partition:offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}

impl Place {
    pub(super) fn of(message: &impl Message) -> Self {
        Self {
            partition: message.partition(),
            offset: message.offset(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = text.split_once(':').and_then(|(partition, offset)| {
            Some(Self {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        });
        place
            .filter(|place| place.partition >= 0 && place.offset >= 0)
            .ok_or("it must be PARTITION:OFFSET, such as 0:12")
    }
}

/// What a dead letter says of itself.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) place: Place,
    pub(super) at: Option<DateTime<Utc>>,
    pub(super) reason: String,
    pub(super) topic: String,
    pub(super) partition: Option<i32>,
    pub(super) offset: Option<i64>,
    pub(super) segment_id: Option<String>,
    pub(super) sequence: Option<u32>,
    pub(super) bytes: usize,
}

impl Letter {
    pub(super) fn read(message: &impl Message) -> Self {
        Self {
            place: Place::of(message),
            at: written_at(message),
            reason: header(message, "reason").unwrap_or_default(),
            topic: header(message, "topic").unwrap_or_default(),
            partition: number(message, "partition"),
            offset: number(message, "offset"),
            segment_id: header(message, "segment_id"),
            sequence: number(message, "sequence"),
            bytes: message.payload().map_or(0, <[u8]>::len),
        }
    }

    /// Topic, partition and offset that it came from; what is not known is a question mark.
    pub(super) fn origin(&self) -> String {
        let or_unknown = |number: Option<String>| number.unwrap_or_else(|| "?".to_owned());
        let partition = or_unknown(self.partition.map(|n| n.to_string()));
        let offset = or_unknown(self.offset.map(|n| n.to_string()));
        format!("{} {partition}:{offset}", self.topic)
    }
}

/// The dead letter that the message marks as sent back; none when it is no marker.
pub(super) fn marked(message: &impl Message) -> Option<Place> {
    header(message, REDRIVEN)?.parse().ok()
}

pub(super) fn marker(place: Place) -> OwnedHeaders {
    OwnedHeaders::new().insert(Header {
        key: REDRIVEN,
        value: Some(&place.to_string()),
    })
}

/// When Kafka was given the message.
pub(super) fn written_at(message: &impl Message) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(message.timestamp().to_millis()?)
}

/// All headers, for a person to read.
pub(super) fn headers(message: &impl Message) -> Vec<(String, String)> {
    let headers = message.headers().into_iter().flat_map(|h| h.iter());
    headers
        .map(|header| {
            (
                printable(header.key.as_bytes()),
                printable(header.value.unwrap_or_default()),
            )
        })
        .collect()
}

/// Text that can't do anything to a terminal: a dead letter may hold whatever somebody sent.
pub(super) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::is_control, "\u{fffd}")
}

fn header(message: &impl Message, name: &str) -> Option<String> {
    let mut headers = message.headers()?.iter();
    headers
        .find(|header| header.key == name)
        .map(|header| printable(header.value.unwrap_or_default()))
}

fn number<N: FromStr>(message: &impl Message, name: &str) -> Option<N> {
    header(message, name)?.parse().ok()
}

/// Which dead letters were sent back. As ranges: those of one `--all` stand together, so it stays
/// small however many they are.
#[derive(Debug, Default)]
pub(super) struct Redriven(BTreeMap<i32, RangeInclusiveSet<i64>>);

impl Redriven {
    /// Remembers what the message marks; false when it is no marker.
    pub(super) fn learn(&mut self, message: &impl Message) -> bool {
        let Some(place) = marked(message) else {
            return false;
        };
        let offsets = self.0.entry(place.partition).or_default();
        offsets.insert(place.offset..=place.offset);
        true
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        let offsets = self.0.get(&place.partition);
        offsets.is_some_and(|offsets| offsets.contains(&place.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = Place {
            partition: 3,
            offset: 12,
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in ["", "3", ":", "3:", "a:1", "-1:2", "1:-2", "1:2:3"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(
            printable(b"a\x1b[2Jb\n\xff"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}"
        );
    }
}
