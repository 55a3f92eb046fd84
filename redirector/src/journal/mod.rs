//! The journal: what was accepted, on local disk before anybody is answered, until Kafka has it.
//!
//! ```text
//! a runtime ── Lane::append ──▶ segment (mapped file) ── shipper thread ──▶ Kafka
//!                                  ▲                        │ acknowledged
//!              keeper thread ── prepares the next one, syncs ◀┘ to be used again
//! ```
//!
//! Invariants:
//! 1. A record is whole in a shared mapping when [`Lane::append`] returns. The kernel keeps it when
//!    the process is killed; the next redirector on this folder sends it.
//! 2. A segment has one writer and, in one process, one reader; its folder is locked by the process
//!    that owns it. Whoever gets the lock of another folder owns what is in it.
//! 3. A segment's file is removed, or emptied and used again under a new id, only after every record in
//!    it was acknowledged by Kafka; or put aside as damaged after every readable one was.
//! 4. `(segment id, sequence)` names a record for ever. What is sent again keeps its name and its
//!    partition, so that whoever counts recognises it.
//! 5. Nobody who appends waits for a disk: the next segment is prepared by the keeper, with all its
//!    blocks allocated; when it has none (full or read-only disk, bound reached) the lane goes on in
//!    plain memory, and when that is used up as well, the record is lost: counted, and logged loudly.
//!    The log of reports (stream 3) gives way to the others: it has [`keeper::LOG_SHARE`] of the disk, goes
//!    on in no memory, is not synced, and what finds no room there is its writer's to count.
//! 6. A stream that is answered for ("200, stored") waits for [`Lane::safe`]: synced, or acknowledged.
//!
//! On disk:
//!
//! ```text
//! JOURNAL_DIR/{run id}/lock              locked while the process lives
//! JOURNAL_DIR/{run id}/{segment id}.segment
//!     byte  0..8    "TRIBJNL1", written last; zeros: there is nothing in it
//!     byte  8..24   segment id: random for clicks, a UUIDv7 for the others
//!     byte 24       stream: 1 clicks, 2 conversions, 3 log of reports
//!     byte 28..32   CRC-32C of bytes 0..28
//!     byte 32..40   bytes that Kafka has acknowledged, little-endian; a hint that saves work
//!     byte 64..     records (record.rs), then zeros
//! JOURNAL_DIR/{run id}/{segment id}.damaged    for a person to look at
//! ```
//!
//! A machine that loses power loses what was not synced: see [`SyncPolicy`].

mod folder;
mod keeper;
pub(crate) mod record;
pub(crate) mod segment;
mod ship;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use tributary_shared::click_token::Place;
use tributary_shared::clock::Clock;
use tributary_shared::config::KafkaConfig;
use tributary_shared::events::Topic;
use tributary_shared::ids::new_uuid_v7;
use uuid::Uuid;

use keeper::Keeper;
use segment::{Segment, Writer};
use ship::Shipper;

/// What kind of records a segment holds, and so where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Payload: a `Click` as the first field of a `Clicks`, so that payloads in a row are a `Clicks`.
    Clicks,
    /// Payload: a `Conversion`.
    Conversions,
    /// Payload: a `PostbackLogged`.
    Postbacks,
}

impl Stream {
    const ALL: [Self; 3] = [Self::Clicks, Self::Conversions, Self::Postbacks];

    fn number(self) -> u8 {
        match self {
            Self::Clicks => 1,
            Self::Conversions => 2,
            Self::Postbacks => 3,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.number() == number)
    }

    /// The id of a new segment. That of clicks is a secret (`Place::random`), so nothing of it is a time;
    /// conversions are found in order by theirs.
    fn new_id(self, clock: &Clock) -> Uuid {
        match self {
            Self::Clicks => Uuid::new_v4(),
            Self::Conversions | Self::Postbacks => new_uuid_v7(clock.now()),
        }
    }

    fn topic(self) -> Topic {
        match self {
            Self::Clicks => Topic::Clicks,
            Self::Conversions => Topic::Conversions,
            Self::Postbacks => Topic::Postbacks,
        }
    }

    /// Bytes of a segment on disk. Some 60,000 clicks, a second of the heaviest load.
    fn segment_bytes(self) -> usize {
        match self {
            Self::Clicks => 16 * 1024 * 1024,
            Self::Conversions | Self::Postbacks => 1024 * 1024,
        }
    }

    /// Whether it gives way to the others: it has a share of the disk and none of the memory, nobody waits for
    /// it, and its losses are no alarm.
    fn gives_way(self) -> bool {
        self == Self::Postbacks
    }

    /// As a metric's label.
    fn label(self) -> &'static str {
        self.topic().name()
    }
}

/// When clicks are forced to the disk itself. A killed process loses nothing either way; this is
/// about a machine that loses power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// When the kernel sees fit, within half a minute.
    Never,
    /// Every so often: a power loss costs at most this much.
    Every(Duration),
    /// Before the shopper is answered.
    Reply,
}

/// Why a `JOURNAL_SYNC` can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write never, reply, or an interval from 1ms to 60000ms, for example 100ms")]
pub struct BadSyncPolicy;

impl FromStr for SyncPolicy {
    type Err = BadSyncPolicy;

    fn from_str(text: &str) -> Result<Self, BadSyncPolicy> {
        match text {
            "never" => Ok(Self::Never),
            "reply" => Ok(Self::Reply),
            _ => text
                .strip_suffix("ms")
                .and_then(|ms| ms.parse().ok())
                .filter(|ms| (1..=60_000).contains(ms))
                .map(|ms| Self::Every(Duration::from_millis(ms)))
                .ok_or(BadSyncPolicy),
        }
    }
}

/// The journal's settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) folder: PathBuf,
    /// Bytes of disk that it may take, what was left behind by others included.
    pub(crate) max_disk_bytes: usize,
    /// Bytes of plain memory while there is no disk to have.
    pub(crate) max_memory_bytes: usize,
    pub(crate) sync: SyncPolicy,
}

/// The journal of one process.
pub(crate) struct Journal {
    keeper: Arc<Keeper>,
    shipper: Shipper,
}

impl Journal {
    /// Opens the folder, takes over what others have left, and starts to send. Blocks for a moment.
    ///
    /// # Errors
    /// When the settings of Kafka can't be used. A disk that can't be used is no error: invariant 5.
    pub(crate) fn open(
        settings: &Settings,
        kafka: &KafkaConfig,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        let keeper = Keeper::start(settings, clock)?;
        let shipper = Shipper::start(kafka, Arc::clone(&keeper))?;
        Ok(Self { keeper, shipper })
    }

    /// A place to append records of one stream, for one thread at a time.
    pub(crate) fn lane(&self, stream: Stream) -> Lane {
        Lane {
            stream,
            writer: self.keeper.first_segment(stream),
            keeper: Arc::clone(&self.keeper),
        }
    }

    /// Waits until Kafka has everything or `limit` is over; what is left stays on disk for the next
    /// start. All lanes must be gone. Blocks.
    pub(crate) fn close(mut self, limit: Duration) {
        self.shipper.finish(limit);
        self.keeper.stop();
    }
}

impl Drop for Journal {
    /// Of a journal that was not closed, what Kafka doesn't have stays on disk.
    fn drop(&mut self) {
        self.shipper.end_by(Instant::now());
        self.keeper.stop_soon();
    }
}

/// Why there can be no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot use the Kafka settings: {0} (see KAFKA_BROKERS)")]
    Kafka(#[from] KafkaError),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Disk that so many lanes of clicks, one of conversions and one of the log take at least, in MiB: of each
/// the segment that is written to and the next.
pub(crate) fn needed_mib(click_lanes: usize) -> usize {
    let clicks = click_lanes * Stream::Clicks.segment_bytes();
    let orders = Stream::Conversions.segment_bytes() + Stream::Postbacks.segment_bytes();
    2 * (clicks + orders) / (1024 * 1024)
}

/// Where one thread appends.
pub(crate) struct Lane {
    stream: Stream,
    writer: Option<Writer>,
    keeper: Arc<Keeper>,
}

/// The record was lost: neither disk nor memory had room. It has been counted and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

impl Lane {
    /// Appends a record whose payload of `length` bytes `fill` writes. Never waits. When this returns
    /// `Ok`, the record survives the process (or, where there is no disk, waits in memory for Kafka).
    pub(crate) fn append(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Appended<'_>, Lost> {
        debug_assert!(length <= record::MAX_PAYLOAD_BYTES);
        self.make_room(length);
        match &mut self.writer {
            Some(writer) if writer.fits(length) => {
                let end = writer.append(length, fill);
                Ok(Appended { lane: self, end })
            }
            _ => {
                self.keeper.count_loss(self.stream);
                Err(Lost)
            }
        }
    }

    /// Where the next record will stand, if its payload has at most `room` bytes. None: there is no room for it.
    pub(crate) fn next_place(&mut self, room: usize) -> Option<Place> {
        self.make_room(room);
        let writer = self.writer.as_ref()?;
        writer.fits(room).then(|| writer.next_place())
    }

    /// Goes on to the next segment when a payload of `length` bytes does not fit into this one.
    fn make_room(&mut self, length: usize) {
        if !self
            .writer
            .as_ref()
            .is_some_and(|writer| writer.fits(length))
        {
            self.writer = None; // seals it
            self.writer = self.keeper.next_segment(self.stream);
        }
    }

    /// Whether shoppers wait for the disk before they are answered.
    pub(crate) fn syncs_before_reply(&self) -> bool {
        self.keeper.sync_policy() == SyncPolicy::Reply
    }
}

/// A record that was just appended.
pub(crate) struct Appended<'l> {
    lane: &'l Lane,
    end: usize,
}

impl Appended<'_> {
    /// What its owner waits for when it must survive the machine, too.
    pub(crate) fn safety(&self) -> Option<Safety> {
        let writer = self.lane.writer.as_ref()?;
        Some(Safety {
            segment: Arc::clone(writer.segment()),
            keeper: Arc::clone(&self.lane.keeper),
            end: self.end,
        })
    }
}

/// A record's way to safety.
pub(crate) struct Safety {
    segment: Arc<Segment>,
    keeper: Arc<Keeper>,
    end: usize,
}

impl Safety {
    /// Returns true once the record is on the disk itself or with Kafka, false after `limit`. It may
    /// still be stored later.
    pub(crate) async fn within(self, limit: Duration) -> bool {
        let safe = async {
            loop {
                let progress = self.keeper.progress().notified();
                tokio::pin!(progress);
                progress.as_mut().enable(); // progress between the look and the wait is not missed
                if self.segment.is_safe(self.end) {
                    return;
                }
                if self.segment.can_sync() {
                    self.keeper.sync_soon();
                }
                progress.await;
            }
        };
        tokio::time::timeout(limit, safe).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In segments of plain memory, which are small.
    #[test]
    fn a_record_stands_where_its_lane_said() {
        let settings = Settings {
            folder: PathBuf::new(),
            max_disk_bytes: 0,
            max_memory_bytes: 8 * 1024 * 1024,
            sync: SyncPolicy::Never,
        };
        let keeper = Keeper::start(&settings, Clock::system()).unwrap();
        let mut lane = Lane {
            stream: Stream::Clicks,
            writer: keeper.first_segment(Stream::Clicks),
            keeper: Arc::clone(&keeper),
        };
        let mut segments = std::collections::HashSet::new();
        for length in (0..4000).map(|n| 200 + n % 1000) {
            let said = lane.next_place(4096).unwrap();
            lane.append(length, |out| out.fill(7)).unwrap();
            let segment = lane.writer.as_ref().unwrap().segment();
            let last = segment.appended() - 1;
            assert_eq!((said.segment, u64::from(said.sequence)), (segment.id, last));
            segments.insert(said.segment);
        }
        assert!(segments.len() > 2, "{}", segments.len());
        assert_eq!(
            segments.iter().next().unwrap().get_version_num(),
            4,
            "no time in it"
        );
        drop(lane);
        keeper.stop();
    }
}
