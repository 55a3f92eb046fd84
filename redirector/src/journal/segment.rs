//! One segment: a preallocated file in memory, or plain memory where there is no disk to have.
//!
//! One [`Writer`] appends, anybody who holds the [`Segment`] reads what was published. The two never
//! touch the same bytes: a writer writes behind `published` only, a reader reads before it only.

#![expect(
    unsafe_code,
    reason = "the kernel keeps what was written to a shared mapping when the process is killed; a mapping \
              is raw memory, and this file is the only one that touches it"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::time::Duration;

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FallocateFlags, fallocate};
use tributary_shared::click_token::Place;
use uuid::Uuid;

use super::Stream;
use super::record::{self, HEADER_BYTES as RECORD_HEADER_BYTES, Records, Seed};

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"TRIBJNL1";
/// Where the header holds how far Kafka has acknowledged. Eight bytes, so that they change at once.
const ACKNOWLEDGED_AT: usize = 32;

/// Bytes that are emptied without a pause, a seventh of a millisecond's work, and the pause after them.
const EMPTIED_AT_ONCE: usize = 512 * 1024;
const EMPTYING_PAUSE: Duration = Duration::from_micros(500);

/// What a segment's file is called: its id.
pub(super) const EXTENSION: &str = "segment";

/// A piece of the journal.
pub(super) struct Segment {
    pub(super) id: Uuid,
    pub(super) stream: Stream,
    map: MmapRaw,
    /// None: this segment is in plain memory and dies with the process.
    file: Option<(File, PathBuf)>,
    /// Bytes from the start that are whole records.
    published: AtomicUsize,
    /// Records before `published`.
    appended: AtomicU64,
    /// Nothing more will be written.
    sealed: AtomicBool,
    /// Bytes that are on the disk itself.
    synced: AtomicUsize,
    /// The disk has refused to sync; only Kafka can make it safe.
    unsyncable: AtomicBool,
    /// Bytes that Kafka has acknowledged.
    acknowledged: AtomicUsize,
}

/// Why a file is not a segment.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadSegment {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("nothing that counts was written to it")]
    Empty,
    #[error("its header is damaged")]
    Header,
}

impl Segment {
    /// A new one on disk. All its blocks are there when this returns, so writing to it can't meet
    /// a full disk.
    pub(super) fn create(
        folder: &Path,
        id: Uuid,
        stream: Stream,
        bytes: usize,
    ) -> io::Result<Self> {
        let path = folder.join(format!("{id}.{EXTENSION}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let prepared = Self::prepare(&file, bytes).inspect_err(|_| {
            let _ = std::fs::remove_file(&path); // best effort: an empty one is skipped later
        })?;
        let segment = Self::new(id, stream, prepared, Some((file, path)));
        segment.write_header();
        Ok(segment)
    }

    fn prepare(file: &File, bytes: usize) -> io::Result<MmapRaw> {
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        fallocate(file, FallocateFlags::empty(), 0, length)?;
        let map = MmapOptions::new().len(bytes).map_raw(file)?;
        // Faulting the pages in here is cheaper than one by one under a shopper's request. A kernel
        // before 5.14 can't, and does it then.
        let _ = map.advise(Advice::PopulateWrite);
        Ok(map)
    }

    /// The same file as a new segment: its blocks and pages are there already, which is most of what a
    /// segment costs. Kafka has all that it held. Takes some 20 ms, with pauses for those who share a CPU
    /// with it.
    pub(super) fn renew(self, id: Uuid) -> io::Result<Self> {
        let used = self.published();
        let Some((file, path)) = self.file else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // SAFETY: inside the mapping; whoever owns the segment is the only one who has it.
        unsafe {
            self.map.as_mut_ptr().cast::<u64>().write_volatile(0); // from here on it says that it is empty
            compiler_fence(Ordering::SeqCst);
            for from in (0..used).step_by(EMPTIED_AT_ONCE) {
                let length = EMPTIED_AT_ONCE.min(used - from);
                self.map.as_mut_ptr().add(from).write_bytes(0, length);
                std::thread::sleep(EMPTYING_PAUSE);
            }
        }
        let renewed = path.with_file_name(format!("{id}.{EXTENSION}"));
        std::fs::rename(&path, &renewed).inspect_err(|_| {
            let _ = std::fs::remove_file(&path); // best effort: an empty one is skipped later
        })?;
        let segment = Self::new(id, self.stream, self.map, Some((file, renewed)));
        segment.write_header();
        Ok(segment)
    }

    /// A new one in plain memory.
    pub(super) fn in_memory(id: Uuid, stream: Stream, bytes: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(bytes).map_anon()?;
        Ok(Self::new(id, stream, map.into(), None))
    }

    fn new(id: Uuid, stream: Stream, map: MmapRaw, file: Option<(File, PathBuf)>) -> Self {
        Self {
            id,
            stream,
            map,
            published: AtomicUsize::new(HEADER_BYTES),
            appended: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            synced: AtomicUsize::new(0),
            unsyncable: AtomicBool::new(file.is_none()),
            acknowledged: AtomicUsize::new(HEADER_BYTES),
            file,
        }
    }

    /// One that a process has left behind, sealed at its last whole record. Damage is reported by
    /// [`super::record::Records`] to whoever reads it.
    pub(super) fn open(path: &Path) -> Result<Self, BadSegment> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < HEADER_BYTES as u64 {
            return Err(BadSegment::Empty);
        }
        let map = MmapOptions::new().map_raw(&file)?;
        // SAFETY: the mapping is at least this long, and nobody writes to it: the folder's lock is held.
        let header = unsafe { std::slice::from_raw_parts(map.as_ptr(), HEADER_BYTES) };
        if header[..MAGIC.len()].iter().all(|b| *b == 0) {
            return Err(BadSegment::Empty);
        }
        let whole = map.len();
        let header = read_header(header, whole).ok_or(BadSegment::Header)?;
        let file = Some((file, path.to_owned()));
        let segment = Self::new(header.id, header.stream, map, file);
        segment.published.store(whole, Ordering::Relaxed);
        segment.sealed.store(true, Ordering::Relaxed);
        segment
            .acknowledged
            .store(header.acknowledged, Ordering::Relaxed);
        Ok(segment)
    }

    fn write_header(&self) {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..24].copy_from_slice(self.id.as_bytes());
        header[24] = self.stream.number();
        let crc = crc32c::crc32c(&header[..28]);
        header[28..32].copy_from_slice(&crc.to_le_bytes());
        header[ACKNOWLEDGED_AT..ACKNOWLEDGED_AT + 8]
            .copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        // SAFETY: the mapping is longer than a header, and nobody else has it yet.
        unsafe {
            let (magic, rest) = header.split_at(MAGIC.len());
            let start = self.map.as_mut_ptr();
            std::ptr::copy_nonoverlapping(rest.as_ptr(), start.add(MAGIC.len()), rest.len());
            compiler_fence(Ordering::SeqCst); // a process that is killed in between leaves it empty
            std::ptr::copy_nonoverlapping(magic.as_ptr(), start, MAGIC.len());
        };
    }

    /// Bytes of disk or memory that it takes.
    pub(super) fn size(&self) -> usize {
        self.map.len()
    }

    pub(super) fn on_disk(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(_, path)| path.as_path())
    }

    pub(super) fn published(&self) -> usize {
        self.published.load(Ordering::Acquire)
    }

    /// Records that were ever appended.
    pub(super) fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// Whether it came from another process: no writer, and its end has to be found.
    pub(super) fn was_found(&self) -> bool {
        self.published() == self.size() && self.appended() == 0
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Everything up to `end`, which must have been published.
    fn bytes(&self, end: usize) -> &[u8] {
        assert!(
            end <= self.published(),
            "unpublished bytes are the writer's"
        );
        // SAFETY: inside the mapping; published bytes are never written again but for the eight of
        // the header that `acknowledge` writes, and no reader looks at the header.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), end) }
    }

    /// The published records from `from` on, a place where one begins.
    pub(super) fn records_from(&self, from: usize) -> Records<'_> {
        Records::new(Seed::new(self.id), self.bytes(self.published()), from)
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Kafka has everything up to `end`. Kept in the header for the one who finds the segment.
    pub(super) fn acknowledge(&self, end: usize) {
        self.acknowledged.store(end, Ordering::Release);
        if self.on_disk() {
            let bytes = (end as u64).to_le_bytes();
            // SAFETY: inside the mapping, whose header only the one shipper writes to.
            unsafe {
                let at = self.map.as_mut_ptr().add(ACKNOWLEDGED_AT);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
            }
        }
    }

    /// Bytes of records that Kafka has not acknowledged; of a segment that was found, all behind the mark.
    pub(super) fn unsent(&self) -> usize {
        self.published() - self.acknowledged()
    }

    /// Whether what lies before `end` survives the machine: on its disk, or with Kafka.
    pub(super) fn is_safe(&self, end: usize) -> bool {
        self.synced.load(Ordering::Acquire) >= end || self.acknowledged() >= end
    }

    /// Whether waiting for the disk can help.
    pub(super) fn can_sync(&self) -> bool {
        !self.unsyncable.load(Ordering::Relaxed)
    }

    /// Waits for the disk. Nothing to do for a segment in memory.
    pub(super) fn sync(&self) -> io::Result<()> {
        let Some((file, _)) = &self.file else {
            return Ok(());
        };
        let end = self.published();
        let from = self.synced.load(Ordering::Relaxed);
        if from >= end || !self.can_sync() {
            return Ok(());
        }
        let synced = self
            .map
            .flush_range(from, end - from)
            .and_then(|()| file.sync_data());
        match synced {
            Ok(()) => self.synced.store(end, Ordering::Release),
            // What the kernel could not write it may drop: a later success would mean nothing.
            Err(_) => self.unsyncable.store(true, Ordering::Relaxed),
        }
        synced
    }

    /// Takes its file away. What it held is with Kafka.
    pub(super) fn remove(&self) -> io::Result<()> {
        match &self.file {
            Some((_, path)) => std::fs::remove_file(path),
            None => Ok(()),
        }
    }

    /// Puts its file aside for a person to look at.
    pub(super) fn set_aside(&self) -> io::Result<()> {
        match &self.file {
            Some((_, path)) => std::fs::rename(path, path.with_extension("damaged")),
            None => Ok(()),
        }
    }
}

/// The one who appends to a segment.
pub(super) struct Writer {
    segment: Arc<Segment>,
    seed: Seed,
    end: usize,
    sequence: u32,
}

impl Writer {
    /// Of a new segment, once.
    pub(super) fn new(segment: Arc<Segment>) -> Self {
        Self {
            end: segment.published(),
            seed: Seed::new(segment.id),
            segment,
            sequence: 0,
        }
    }

    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Whether a record with a payload of `length` has room.
    pub(super) fn fits(&self, length: usize) -> bool {
        self.segment.size() - self.end >= record::whole_bytes(length)
    }

    /// Where the next record will stand.
    pub(super) fn next_place(&self) -> Place {
        Place {
            segment: self.segment.id,
            sequence: self.sequence,
        }
    }

    /// Appends a record of `length` bytes that `fill` writes, and answers where it ends. When this
    /// returns the record survives the process.
    pub(super) fn append(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) -> usize {
        let whole = record::whole_bytes(length);
        assert!(self.fits(length), "the caller has asked");
        // SAFETY: inside the mapping, behind what was published; `self` is the only writer.
        let out = unsafe {
            std::slice::from_raw_parts_mut(self.segment.map.as_mut_ptr().add(self.end), whole)
        };
        let (header, rest) = out.split_at_mut(RECORD_HEADER_BYTES);
        let payload = &mut rest[..length];
        fill(payload);
        record::write_header(header, self.seed, self.sequence, payload);
        self.end += whole;
        self.sequence += 1;
        let segment = &*self.segment;
        segment
            .appended
            .store(u64::from(self.sequence), Ordering::Relaxed);
        segment.published.store(self.end, Ordering::Release);
        self.end
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.segment.sealed.store(true, Ordering::Release);
    }
}

/// What a segment's header says.
pub(crate) struct Header {
    pub(crate) id: Uuid,
    pub(super) stream: Stream,
    /// Where the first record that Kafka has not acknowledged begins.
    pub(crate) acknowledged: usize,
}

/// Reads the header of a segment of `size` bytes. None: it is damaged.
pub(crate) fn read_header(header: &[u8], size: usize) -> Option<Header> {
    let mut crc = [0; 4];
    crc.copy_from_slice(&header[28..32]);
    let whole =
        header.starts_with(MAGIC) && crc32c::crc32c(&header[..28]) == u32::from_le_bytes(crc);
    let mut known = [0; 8];
    known.copy_from_slice(&header[ACKNOWLEDGED_AT..ACKNOWLEDGED_AT + 8]);
    // A hint that can't be true is worth nothing: everything is sent again.
    let acknowledged = usize::try_from(u64::from_le_bytes(known))
        .ok()
        .filter(|at| (HEADER_BYTES..=size).contains(at) && at % record::ALIGNMENT == 0)
        .unwrap_or(HEADER_BYTES);
    let header = Header {
        id: Uuid::from_slice(&header[8..24]).ok()?,
        stream: Stream::from_number(header[24])?,
        acknowledged,
    };
    whole.then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 64 * 1024;

    fn append(segment: Segment, payload: &[u8], times: usize) -> Segment {
        let mut writer = Writer::new(Arc::new(segment));
        for _ in 0..times {
            writer.append(payload.len(), |out| out.copy_from_slice(payload));
        }
        let segment = Arc::clone(writer.segment());
        drop(writer);
        Arc::into_inner(segment).unwrap()
    }

    fn payloads(segment: &Segment) -> Vec<Vec<u8>> {
        let mut records = segment.records_from(HEADER_BYTES);
        let payloads = records.by_ref().map(|r| r.payload.to_vec()).collect();
        assert!(!records.damaged());
        payloads
    }

    #[test]
    fn a_renewed_segment_holds_nothing_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let segment = Segment::create(folder.path(), old, Stream::Clicks, BYTES).unwrap();
        let segment = append(segment, b"an old and long one", 100);
        segment.acknowledge(segment.published());
        let segment = segment.renew(new).unwrap();
        assert_eq!((segment.id, segment.appended()), (new, 0));
        assert!(!segment.is_sealed() && segment.unsent() == 0);
        drop(append(segment, b"new", 2)); // as a killed process leaves it

        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
        let path = folder.path().join(format!("{new}.{EXTENSION}"));
        let found = Segment::open(&path).unwrap();
        assert_eq!((found.id, found.acknowledged()), (new, HEADER_BYTES));
        assert_eq!(payloads(&found), [b"new", b"new"]);
    }

    #[test]
    fn a_segment_whose_renewal_was_cut_off_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let id = Uuid::from_u128(1);
        let segment = Segment::create(folder.path(), id, Stream::Clicks, BYTES).unwrap();
        let segment = append(segment, b"an old one", 3);
        let path = segment.path().unwrap().to_owned();
        drop(segment);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..MAGIC.len()].fill(0);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Segment::open(&path), Err(BadSegment::Empty)));
    }

    #[test]
    fn a_segment_in_memory_is_not_renewed() {
        let segment = Segment::in_memory(Uuid::nil(), Stream::Clicks, BYTES).unwrap();
        assert!(segment.renew(Uuid::max()).is_err());
    }
}
