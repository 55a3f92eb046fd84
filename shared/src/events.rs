//! The events on Kafka, one schema file per topic in `shared/proto`, and the topics' names.

#![allow(clippy::doc_markdown, missing_debug_implementations)]

include!(concat!(env!("OUT_DIR"), "/tributary.v1.rs"));

/// A topic with events of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    Clicks,
    Conversions,
    Ledger,
    Postbacks,
}

impl Topic {
    pub const ALL: [Self; 4] = [
        Self::Clicks,
        Self::Conversions,
        Self::Ledger,
        Self::Postbacks,
    ];

    /// Its name without a prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clicks => "clicks",
            Self::Conversions => "conversions",
            Self::Ledger => "ledger",
            Self::Postbacks => "postbacks",
        }
    }
}

/// Names the topics of one installation.
#[derive(Debug, Clone)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// The topic's name in Kafka.
    #[must_use]
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    /// Where messages go that can't be read: the original bytes, with the reason and the origin in
    /// the headers `reason`, `topic`, `partition` and `offset`. Of a message with several clicks only
    /// those that can't be read, each in a message of its own with the headers `segment_id` and `sequence`.
    /// Beside them stand markers: no payload, and the header `redriven` with the partition:offset, in
    /// this topic, of a dead letter that was sent back.
    #[must_use]
    pub fn dead_letter(&self, topic: Topic) -> String {
        format!("{}{}.dead-letter", self.prefix, topic.name())
    }
}
