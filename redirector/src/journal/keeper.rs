//! Keeps the disk ready: prepares segments ahead, syncs, takes over what others left, and keeps count
//! of the room. Its thread is the one that waits for the disk, so that nobody else does.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use metrics::{Counter, Gauge};
use tokio::sync::Notify;
use tributary_shared::clock::Clock;
use tributary_shared::ids::new_uuid_v7;
use tributary_shared::names;

use super::folder::Folder;
use super::segment::{BadSegment, Segment, Writer};
use super::{Settings, Stream, SyncPolicy};

/// Bytes of a segment in plain memory: small, so that the way back to the disk is short.
const MEMORY_SEGMENT_BYTES: usize = 1024 * 1024;
/// Of the disk a stream that gives way takes at most one part in so many.
pub(super) const LOG_SHARE: usize = 32;
/// How long a disk that could not be used is left alone.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// How often folders of dead redirectors are looked for.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(10);
/// At most this often a line says that the disk can't be used, or that records are being lost.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// What the lanes, the shipper and the keeper's own thread share.
pub(super) struct Keeper {
    settings: Settings,
    clock: Clock,
    state: Mutex<State>,
    work: Condvar,
    progress: Notify,
    disk_bytes: Gauge,
    in_memory: Counter,
}

#[derive(Default)]
struct State {
    lanes: [usize; 3],
    spares: [VecDeque<Segment>; 3],
    /// Segments of ours that Kafka has whole, to be used again; at most one per lane.
    used: [Vec<Segment>; 3],
    /// Segments with unacknowledged records, oldest first.
    live: Vec<Arc<Segment>>,
    /// Segments that the shipper does not know yet.
    opened: Vec<Arc<Segment>>,
    /// Folders of the dead, with the segments in them that are not sent yet.
    inherited: Vec<(Folder, usize)>,
    own: Option<Folder>,
    disk_bytes: usize,
    memory_bytes: usize,
    sync_wanted: bool,
    stopping: bool,
    last_loss_logged: Option<Instant>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Takes over what was left behind, prepares the first segments and starts the thread.
    pub(super) fn start(settings: &Settings, clock: Clock) -> io::Result<Arc<Self>> {
        let keeper = Arc::new(Self {
            settings: settings.clone(),
            clock,
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Notify::new(),
            disk_bytes: metrics::gauge!(names::JOURNAL_DISK_BYTES),
            in_memory: metrics::counter!(names::JOURNAL_MEMORY_SEGMENTS),
        });
        keeper.look_around();
        let thread = thread::Builder::new().name("journal".into()).spawn({
            let keeper = Arc::clone(&keeper);
            move || keeper.work()
        })?;
        keeper.state().thread = Some(thread);
        Ok(keeper)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sync_policy(&self) -> SyncPolicy {
        self.settings.sync
    }

    /// Notified after each sync and each acknowledgement.
    pub(super) fn progress(&self) -> &Notify {
        &self.progress
    }

    /// Somebody waits for the disk.
    pub(super) fn sync_soon(&self) {
        let mut state = self.state();
        if !state.sync_wanted {
            state.sync_wanted = true;
            self.work.notify_one();
        }
    }

    /// The first segment of a new lane. Waits for the disk: there are no shoppers yet.
    pub(super) fn first_segment(&self, stream: Stream) -> Option<Writer> {
        self.state().lanes[index(stream)] += 1;
        let spare = self.prepare(stream).ok();
        if let Some(spare) = spare {
            self.state().spares[index(stream)].push_back(spare);
        }
        self.next_segment(stream)
    }

    /// A segment to write to: a prepared one, else one in memory, else none.
    pub(super) fn next_segment(&self, stream: Stream) -> Option<Writer> {
        let mut state = self.state();
        let segment = match state.spares[index(stream)].pop_front() {
            Some(spare) => spare,
            None if stream.gives_way() => return None,
            None => self.memory_segment(&mut state, stream)?,
        };
        let segment = Arc::new(segment);
        state.live.push(Arc::clone(&segment));
        state.opened.push(Arc::clone(&segment));
        self.work.notify_one();
        Some(Writer::new(segment))
    }

    fn memory_segment(&self, state: &mut State, stream: Stream) -> Option<Segment> {
        let room = self.settings.max_memory_bytes - state.memory_bytes;
        if state.stopping || room < MEMORY_SEGMENT_BYTES {
            return None;
        }
        let id = stream.new_id(&self.clock);
        let segment = Segment::in_memory(id, stream, MEMORY_SEGMENT_BYTES).ok()?;
        state.memory_bytes += MEMORY_SEGMENT_BYTES;
        self.in_memory.increment(1);
        Some(segment)
    }

    /// A record found no room.
    pub(super) fn count_loss(&self, stream: Stream) {
        if stream.gives_way() {
            return; // its writer counts
        }
        metrics::counter!(names::JOURNAL_LOST, "stream" => stream.label(), "reason" => "full")
            .increment(1);
        let mut state = self.state();
        if due(&mut state.last_loss_logged, LOG_EVERY) {
            tracing::error!(
                stream = stream.label(),
                disk_bytes = state.disk_bytes,
                memory_bytes = state.memory_bytes,
                "records are being lost: the journal has reached its bound or has no disk, and Kafka does not \
                 take them; bring Kafka back, or give the journal room (JOURNAL_DIR, JOURNAL_MAX_MIB)"
            );
        }
    }

    /// Segments that were opened since the last call.
    pub(super) fn opened(&self) -> Vec<Arc<Segment>> {
        std::mem::take(&mut self.state().opened)
    }

    pub(super) fn nothing_opened(&self) -> bool {
        self.state().opened.is_empty()
    }

    /// Kafka has all of a sealed segment: it is used again, or removed. A damaged one is kept for a
    /// person.
    pub(super) fn release(&self, segment: Arc<Segment>, damaged: bool) {
        let mut state = self.state();
        state.live.retain(|live| !Arc::ptr_eq(live, &segment));
        let at = index(segment.stream);
        let own = state.own.as_ref().map(Folder::path);
        let reusable = !damaged
            && segment.path().is_some_and(|path| path.parent() == own)
            && state.used[at].len() < state.lanes[at];
        let segment = match Arc::try_unwrap(segment) {
            Ok(segment) if reusable => {
                state.used[at].push(segment);
                self.work.notify_one();
                return;
            }
            Ok(segment) => Arc::new(segment),
            Err(held) => held, // somebody is just letting go of it
        };
        drop(state);
        let done = if damaged {
            segment.set_aside()
        } else {
            segment.remove()
        };
        if let Err(error) = done {
            // It will be sent again after a restart, and recognised.
            tracing::warn!(%error, path = ?segment.path(), "a sent segment can't be removed");
        }
        let mut state = self.state();
        self.give_back(&mut state, &segment);
        let folder = segment.path().and_then(|path| path.parent());
        if let Some(at) = state
            .inherited
            .iter()
            .position(|(inherited, _)| Some(inherited.path()) == folder)
        {
            state.inherited[at].1 -= 1;
            if state.inherited[at].1 == 0 {
                let (folder, _) = state.inherited.swap_remove(at);
                remove(folder);
            }
        }
        self.work.notify_one();
    }

    fn give_back(&self, state: &mut State, segment: &Segment) {
        if segment.on_disk() {
            self.disk_given_back(state, segment.size());
        } else {
            state.memory_bytes -= segment.size();
        }
    }

    fn disk_given_back(&self, state: &mut State, bytes: usize) {
        state.disk_bytes -= bytes;
        self.disk_bytes.set(gauge(state.disk_bytes));
    }

    /// Tells the thread to end.
    pub(super) fn stop_soon(&self) {
        self.state().stopping = true;
        self.work.notify_one();
    }

    /// Ends the thread and removes what nobody used. Segments that Kafka does not have stay.
    pub(super) fn stop(&self) {
        self.stop_soon();
        let thread = self.state().thread.take();
        if let Some(thread) = thread {
            let _ = thread.join(); // it can only have panicked, and said so
        }
        let mut state = self.state();
        let spares = std::mem::take(&mut state.spares).into_iter().flatten();
        let used = std::mem::take(&mut state.used).into_iter().flatten();
        for unneeded in spares.chain(used) {
            let _ = unneeded.remove(); // left behind, it is found empty, or sent, by the next one
        }
        state.inherited.clear();
        if let Some(own) = state.own.take() {
            remove(own);
        }
    }

    fn work(&self) {
        let mut looked = Instant::now();
        let mut synced = Instant::now();
        let mut disk_failed = None::<Instant>;
        let mut last_error_logged = None;
        loop {
            let every = match self.settings.sync {
                SyncPolicy::Every(interval) => interval,
                SyncPolicy::Never | SyncPolicy::Reply => DISK_PAUSE,
            };
            let sync_wanted = {
                let state = self.state();
                let (mut state, _) = self
                    .work
                    .wait_timeout_while(state, every.min(DISK_PAUSE), |state| {
                        let prepares = disk_failed.is_none() && self.missing(state).is_some();
                        !(state.stopping || state.sync_wanted || prepares)
                    })
                    .unwrap_or_else(PoisonError::into_inner);
                if state.stopping {
                    return;
                }
                std::mem::take(&mut state.sync_wanted)
            };
            let by_time =
                matches!(self.settings.sync, SyncPolicy::Every(_)) && synced.elapsed() >= every;
            if sync_wanted || by_time {
                synced = Instant::now();
                self.sync();
            }
            if disk_failed.is_some_and(|at| at.elapsed() >= DISK_PAUSE) {
                disk_failed = None;
            }
            let wanted = self.missing(&self.state());
            if let (None, Some(stream)) = (disk_failed, wanted) {
                match self.prepare(stream) {
                    Ok(spare) => self.state().spares[index(stream)].push_back(spare),
                    Err(error) => {
                        disk_failed = Some(Instant::now());
                        if due(&mut last_error_logged, LOG_EVERY * 10) {
                            tracing::error!(
                                %error, folder = %self.settings.folder.display(),
                                "the journal can't have another segment: what is accepted now waits in memory \
                                 and would not survive this process (see JOURNAL_DIR, JOURNAL_MAX_MIB)"
                            );
                        }
                    }
                }
            }
            if looked.elapsed() >= LOOK_AROUND_EVERY {
                looked = Instant::now();
                self.look_around();
            }
        }
    }

    /// An empty segment on disk.
    fn prepare(&self, stream: Stream) -> io::Result<Segment> {
        let bytes = stream.segment_bytes();
        let id = stream.new_id(&self.clock);
        let used = self.state().used[index(stream)].pop();
        if let Some(used) = used {
            return used
                .renew(id)
                .inspect_err(|_| self.disk_given_back(&mut self.state(), bytes));
        }
        let folder = {
            let mut state = self.state();
            let room = self
                .settings
                .max_disk_bytes
                .saturating_sub(state.disk_bytes);
            if room < bytes {
                return Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    format!(
                        "its bound of {} MiB is reached",
                        self.settings.max_disk_bytes >> 20
                    ),
                ));
            }
            let folder = match &state.own {
                Some(own) if own.path().exists() => own.path().to_owned(),
                _ => {
                    let run = new_uuid_v7(self.clock.now());
                    let own = Folder::create(&self.settings.folder, run)?;
                    let path = own.path().to_owned();
                    state.own = Some(own);
                    path
                }
            };
            state.disk_bytes += bytes;
            self.disk_bytes.set(gauge(state.disk_bytes));
            folder
        };
        Segment::create(&folder, id, stream, bytes)
            .inspect_err(|_| self.disk_given_back(&mut self.state(), bytes))
    }

    /// A stream that lacks a spare: one per lane, so that no two lanes wait for the same. One that gives way
    /// lacks none once it has its share of the disk.
    fn missing(&self, state: &State) -> Option<Stream> {
        let has_its_share = |stream: Stream| {
            let live = state.live.iter().filter(|live| live.stream == stream);
            let bytes: usize = live.map(|live| live.size()).sum();
            bytes + stream.segment_bytes() > self.settings.max_disk_bytes / LOG_SHARE
        };
        Stream::ALL.into_iter().find(|stream| {
            let at = index(*stream);
            state.spares[at].len() < state.lanes[at]
                && !(stream.gives_way() && has_its_share(*stream))
        })
    }

    fn sync(&self) {
        let mut live = self.state().live.clone();
        live.retain(|segment| !segment.stream.gives_way());
        for segment in live {
            if let Err(error) = segment.sync() {
                // Who waits for it is told "not stored"; the bytes are still in the page cache.
                tracing::error!(%error, path = ?segment.path(), "the disk does not take the journal");
            }
        }
        self.progress.notify_waiters();
    }

    /// Takes over the folders of redirectors that are gone.
    fn look_around(&self) {
        match Folder::left_behind(&self.settings.folder) {
            Ok(folders) => folders.into_iter().for_each(|folder| self.inherit(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // made with the first segment
            Err(error) => {
                tracing::warn!(%error, "the journal's folder can't be read; trying again");
            }
        }
    }

    fn inherit(&self, folder: Folder) {
        let paths = folder.segments().unwrap_or_default();
        let mut segments = Vec::new();
        for path in paths {
            match Segment::open(&path) {
                Ok(segment) => segments.push(Arc::new(segment)),
                Err(BadSegment::Empty) => {
                    let _ = fs::remove_file(&path); // if not now, then by the next one
                }
                Err(error) => {
                    tracing::error!(%error, path = %path.display(),
                        "this is no segment of a journal; it was put aside for you to look at");
                    let _ = fs::rename(&path, path.with_extension("damaged"));
                }
            }
        }
        if segments.is_empty() {
            remove(folder);
            return;
        }
        tracing::info!(folder = %folder.path().display(), segments = segments.len(),
            "sending what another redirector has left behind");
        let mut state = self.state();
        state.disk_bytes += segments.iter().map(|s| s.size()).sum::<usize>();
        state.inherited.push((folder, segments.len()));
        state.opened.extend(segments.iter().map(Arc::clone));
        state.live.extend(segments);
    }
}

fn remove(folder: Folder) {
    let path = folder.path().to_owned();
    if let Err(error) = folder.remove_if_empty() {
        tracing::warn!(%error, path = %path.display(), "a folder of the journal can't be removed");
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Clicks => 0,
        Stream::Conversions => 1,
        Stream::Postbacks => 2,
    }
}

fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge of bytes; metrics are floats"
)]
fn gauge(bytes: usize) -> f64 {
    bytes as f64
}
