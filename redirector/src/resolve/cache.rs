//! What the edge remembers of the index: a bounded memory of what was found, a smaller one of what
//! was looked for in vain, and the look-ups under way.
//!
//! - Fresh is what was checked within the time to live, and after the last moment at which changes
//!   could have been missed ([`Freshness::doubt_all`]).
//! - Many who ask for one key make one look-up ([`Memory::join`]). It belongs to nobody who waits for
//!   it, so whoever gives up takes nothing with him.
//! - A look-up during which its key changed is answered to those who waited, and not remembered.
//! - Of what changed, the old value is kept aside for the case that Redis can't say to what
//!   (a link: better the old destination than none), or not kept (a token: it may be revoked).
//! - Who is pushed out: quick_cache runs a modified Clock-PRO, close to S3-FIFO. A newcomer enters a
//!   small queue (3 %) and moves to the main one only when asked for again, so that a scan of links
//!   that are asked for once pushes out its like. What was not found is remembered apart.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use smol_str::SmolStr;
use tokio::sync::watch;

/// How long "there is no such thing" is believed.
const UNKNOWN_TTL: Duration = Duration::from_millis(500);
/// Names that were looked for in vain and are remembered, of each kind.
const MAX_UNKNOWN: usize = 10_000;
/// Look-ups of one kind that may be under way.
const MAX_UNDER_WAY: usize = 10_000;
/// When something that is known to have changed was checked: never. Ticks begin later.
const CHANGED: u64 = 0;

/// A name within a tenant, or within what all share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    tenant: i64,
    name: SmolStr,
}

/// A [`Key`] to look for: nothing is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyRef<'k> {
    /// 0: what all share.
    pub(super) tenant: i64,
    pub(super) name: &'k str,
}

impl Key {
    pub(super) fn borrowed(&self) -> KeyRef<'_> {
        KeyRef {
            tenant: self.tenant,
            name: &self.name,
        }
    }
}

impl KeyRef<'_> {
    pub(super) fn owned(self) -> Key {
        Key {
            tenant: self.tenant,
            name: SmolStr::new(self.name),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrowed().hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self == key.borrowed()
    }
}

/// How long what was checked may be believed. Its ticks are microseconds since its own start.
pub(super) struct Freshness {
    started: Instant,
    ttl: AtomicU64,
    /// What was checked up to here must be checked again.
    doubted: AtomicU64,
}

impl Freshness {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            started: Instant::now(),
            ttl: AtomicU64::new(micros(ttl)),
            doubted: AtomicU64::new(CHANGED),
        }
    }

    pub(super) fn now(&self) -> u64 {
        CHANGED + 1 + micros(self.started.elapsed())
    }

    pub(super) fn set_ttl(&self, ttl: Duration) {
        self.ttl.store(micros(ttl), Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_micros(self.ttl.load(Ordering::Relaxed))
    }

    /// Everything in memory may have changed. Call [`Memory::doubt_all`] before it.
    pub(super) fn doubt_all(&self) {
        self.doubted.store(self.now(), Ordering::Relaxed);
    }

    fn is_fresh(&self, checked: u64, now: u64) -> bool {
        checked > self.doubted.load(Ordering::Relaxed)
            && now.saturating_sub(checked) < self.ttl.load(Ordering::Relaxed)
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Why a look-up gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    Unknown,
    /// Redis did not say.
    Failed,
}

/// What is remembered under a key.
#[derive(Debug, PartialEq)]
pub(super) enum Known<T> {
    Fresh(T),
    /// Was right once; nothing says that it has changed.
    Old(T),
    /// Has changed since.
    Changed(T),
    Unknown,
    Nothing,
}

/// What a look-up came to, once it has.
pub(super) type Answer<T> = watch::Receiver<Option<Result<T, Miss>>>;

/// How to go on after something was not fresh.
pub(super) enum Joined<T> {
    /// Somebody was faster.
    Known(Known<T>),
    /// Make this look-up, then [`Memory::finish`] it.
    Begin(Flight<T>, Answer<T>),
    /// It is under way.
    Wait(Answer<T>),
    /// Too many are.
    Full,
}

/// A look-up under way.
pub(super) struct Flight<T> {
    key: Key,
    number: u64,
    answer: watch::Sender<Option<Result<T, Miss>>>,
}

impl<T> Flight<T> {
    pub(super) fn key(&self) -> KeyRef<'_> {
        self.key.borrowed()
    }
}

/// The last look-up's number, and those under way with theirs.
type UnderWay<T> = (u64, HashMap<Key, (u64, Answer<T>), ahash::RandomState>);

#[derive(Clone)]
struct Entry<T> {
    value: T,
    checked: u64,
}

/// What is remembered of one kind of thing.
pub(super) struct Memory<T> {
    found: Cache<Key, Entry<T>>,
    /// Until when.
    unknown: Cache<Key, u64>,
    /// Whoever writes to the two above holds it.
    under_way: Mutex<UnderWay<T>>,
    keeps_changed: bool,
}

impl<T: Clone> Memory<T> {
    /// Remembers about `capacity` things; the old value of what has changed only if `keeps_changed`.
    pub(super) fn new(capacity: usize, keeps_changed: bool) -> Self {
        Self {
            found: Cache::new(capacity),
            unknown: Cache::new(MAX_UNKNOWN),
            under_way: Mutex::default(),
            keeps_changed,
        }
    }

    /// What is remembered and fresh.
    pub(super) fn fresh(&self, key: KeyRef<'_>, freshness: &Freshness) -> Option<T> {
        let entry = self.found.get(&key)?;
        freshness
            .is_fresh(entry.checked, freshness.now())
            .then_some(entry.value)
    }

    /// What is remembered.
    pub(super) fn recall(&self, key: KeyRef<'_>, freshness: &Freshness) -> Known<T> {
        let now = freshness.now();
        match self.found.get(&key) {
            Some(entry) if freshness.is_fresh(entry.checked, now) => Known::Fresh(entry.value),
            Some(entry) if entry.checked == CHANGED => Known::Changed(entry.value),
            Some(entry) => Known::Old(entry.value),
            None if self.unknown.get(&key).is_some_and(|until| now < until) => Known::Unknown,
            None => Known::Nothing,
        }
    }

    /// Begins or joins the look-up of `key`.
    pub(super) fn join(&self, key: KeyRef<'_>, freshness: &Freshness) -> Joined<T> {
        let mut under_way = self.under_way();
        match self.recall(key, freshness) {
            known @ (Known::Fresh(_) | Known::Unknown) => return Joined::Known(known),
            Known::Old(_) | Known::Changed(_) | Known::Nothing => {}
        }
        let (last, flights) = &mut *under_way;
        let key = key.owned();
        // One whose sender is gone was cut off: it will never answer.
        if let Some((_, answer)) = flights.get(&key)
            && answer.has_changed().is_ok()
        {
            return Joined::Wait(answer.clone());
        }
        if flights.len() >= MAX_UNDER_WAY {
            return Joined::Full;
        }
        *last += 1;
        let (sender, answer) = watch::channel(None);
        flights.insert(key.clone(), (*last, answer.clone()));
        let flight = Flight {
            key,
            number: *last,
            answer: sender,
        };
        Joined::Begin(flight, answer)
    }

    /// Remembers what a look-up came to, unless its key has changed meanwhile, and tells who waits.
    pub(super) fn finish(
        &self,
        flight: Flight<T>,
        outcome: Result<T, Miss>,
        freshness: &Freshness,
    ) {
        let mut under_way = self.under_way();
        let (_, flights) = &mut *under_way;
        let undisturbed = flights
            .get(&flight.key)
            .is_some_and(|(number, _)| *number == flight.number);
        if undisturbed {
            flights.remove(&flight.key);
            let now = freshness.now();
            match &outcome {
                Ok(value) => {
                    let value = value.clone();
                    let entry = Entry {
                        value,
                        checked: now,
                    };
                    self.found.insert(flight.key.clone(), entry);
                }
                Err(Miss::Unknown) => {
                    self.found.remove(&flight.key.borrowed());
                    let until = now.saturating_add(micros(UNKNOWN_TTL));
                    self.unknown.insert(flight.key.clone(), until);
                }
                Err(Miss::Failed) => {}
            }
        }
        drop(under_way);
        flight.answer.send_replace(Some(outcome));
    }

    /// `key` has changed, as far as what was found under it `depends` on the change.
    pub(super) fn changed(&self, key: KeyRef<'_>, depends: impl Fn(&T) -> bool) {
        let (_, flights) = &mut *self.under_way();
        flights.remove(&key.owned());
        self.unknown.remove(&key);
        let Some(entry) = self.found.peek(&key).filter(|entry| depends(&entry.value)) else {
            return;
        };
        if self.keeps_changed {
            let checked = CHANGED;
            let entry = Entry { checked, ..entry };
            // When it has been pushed out meanwhile, it stays out.
            let _ = self.found.replace(key.owned(), entry, true);
        } else {
            self.found.remove(&key);
        }
    }

    /// Anything may have changed; what was found is judged by [`Freshness::doubt_all`].
    pub(super) fn doubt_all(&self) {
        let (_, flights) = &mut *self.under_way();
        flights.clear();
        self.unknown.clear();
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay<T>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn key(name: &str) -> KeyRef<'_> {
        KeyRef { tenant: 0, name }
    }

    fn begin(memory: &Memory<u32>, name: &str, freshness: &Freshness) -> Flight<u32> {
        match memory.join(key(name), freshness) {
            Joined::Begin(flight, _) => flight,
            _ => panic!("nobody asks for {name}"),
        }
    }

    fn learn(memory: &Memory<u32>, name: &str, freshness: &Freshness) {
        let flight = begin(memory, name, freshness);
        memory.finish(flight, Ok(1), freshness);
    }

    #[test]
    fn borrowed_and_owned_keys_are_alike() {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        for name in ["a", "a-code-that-does-not-stand-inline-in-its-key"] {
            let owned = key(name).owned();
            assert!(key(name).equivalent(&owned));
            assert_eq!(hasher.hash_one(key(name)), hasher.hash_one(&owned));
            assert!(!KeyRef { tenant: 1, name }.equivalent(&owned));
        }
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_in_use() {
        let freshness = Freshness::new(HOUR);
        let memory = Memory::new(1000, true);
        let hot: Vec<String> = (0..500).map(|n| format!("hot{n}")).collect();
        for name in &hot {
            learn(&memory, name, &freshness);
            memory.fresh(key(name), &freshness);
        }
        for n in 0..100_000 {
            learn(&memory, &format!("once{n}"), &freshness);
            // In use: each is asked for about once while ten memories full go by.
            if n % 20 == 0 {
                memory.fresh(key(&hot[n / 20 % hot.len()]), &freshness);
            }
            let flight = begin(&memory, &format!("guess{n}"), &freshness);
            memory.finish(flight, Err(Miss::Unknown), &freshness);
        }
        let left = |name: &&String| memory.fresh(key(name), &freshness).is_some();
        let left = hot.iter().filter(left).count();
        println!("{left} of {} are left", hot.len());
        assert!(left > 475, "{left} are left");
        assert!(memory.found.len() <= 1100 && memory.unknown.len() <= MAX_UNKNOWN + 100);
    }

    #[test]
    fn what_is_not_fresh_says_why() {
        let freshness = Freshness::new(HOUR);
        for keeps_changed in [true, false] {
            let memory = Memory::new(100, keeps_changed);
            learn(&memory, "a", &freshness);
            assert_eq!(memory.recall(key("a"), &freshness), Known::Fresh(1));
            memory.changed(key("a"), |value| *value == 2);
            assert_eq!(memory.recall(key("a"), &freshness), Known::Fresh(1));
            memory.doubt_all();
            freshness.doubt_all();
            assert_eq!(memory.recall(key("a"), &freshness), Known::Old(1));
            assert_eq!(memory.fresh(key("a"), &freshness), None);
            memory.changed(key("a"), |_| true);
            let expected = if keeps_changed {
                Known::Changed(1)
            } else {
                Known::Nothing
            };
            assert_eq!(memory.recall(key("a"), &freshness), expected);
            std::thread::sleep(Duration::from_micros(10));
            learn(&memory, "a", &freshness);
            assert_eq!(memory.recall(key("a"), &freshness), Known::Fresh(1));
            freshness.set_ttl(Duration::ZERO);
            assert_eq!(memory.recall(key("a"), &freshness), Known::Old(1));
            freshness.set_ttl(HOUR);
        }
    }

    #[test]
    fn what_was_asked_before_a_doubt_is_not_remembered() {
        let freshness = Freshness::new(HOUR);
        let memory = Memory::new(100, true);
        let flight = begin(&memory, "a", &freshness);
        memory.doubt_all();
        freshness.doubt_all();
        let second = begin(&memory, "a", &freshness);
        memory.finish(flight, Ok(1), &freshness);
        assert_eq!(memory.recall(key("a"), &freshness), Known::Nothing);
        std::thread::sleep(Duration::from_micros(10));
        memory.finish(second, Ok(2), &freshness);
        assert_eq!(memory.recall(key("a"), &freshness), Known::Fresh(2));
    }

    #[test]
    fn a_look_up_that_was_cut_off_holds_nobody() {
        let freshness = Freshness::new(HOUR);
        let memory = Memory::new(100, true);
        drop(begin(&memory, "a", &freshness));
        learn(&memory, "a", &freshness);
    }

    #[test]
    fn look_ups_under_way_are_bounded() {
        let freshness = Freshness::new(HOUR);
        let memory: Memory<u32> = Memory::new(100, true);
        let name = |n: usize| format!("n{n}");
        let flights: Vec<_> = (0..MAX_UNDER_WAY)
            .map(|n| begin(&memory, &name(n), &freshness))
            .collect();
        assert!(matches!(memory.join(key("more"), &freshness), Joined::Full));
        assert!(matches!(
            memory.join(key("n1"), &freshness),
            Joined::Wait(_)
        ));
        for flight in flights {
            memory.finish(flight, Err(Miss::Failed), &freshness);
        }
        learn(&memory, "more", &freshness);
    }
}
