//! What only a click's neighbours in time tell: repeated clicks, and floods of them.
//!
//! Counted by the clicks' own times, in memory: each processor sees the clicks of its own partitions, and
//! begins anew when partitions move (they are read again, and would look like repetitions of themselves).
//! So these two signals can be missing on a click. What a journal sends again counts twice towards a flood,
//! which can then be told too early. The fraud rules, which decide about money, are to ask the stored
//! clicks instead.

use std::mem;

use ahash::{HashMap, RandomState};

/// A repetition comes within this time.
const DUPLICATE_MS: i64 = 10_000;
/// Clicks of one address and agent within a minute that a person may make.
const FLOOD_CLICKS: u32 = 20;
const FLOOD_MS: i64 = 60_000;
/// Entries of one table, two generations of each: about 100 MB all together.
const MAX_ENTRIES: usize = 500_000;

/// A table that forgets what was not touched for long, in two generations.
struct Recent<V> {
    young: HashMap<u64, V>,
    old: HashMap<u64, V>,
    /// When the young generation began.
    since_ms: i64,
    span_ms: i64,
}

impl<V: Copy + Default> Recent<V> {
    fn new(span_ms: i64) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            since_ms: 0,
            span_ms,
        }
    }

    /// The entry, which is the default when it is new.
    fn entry(&mut self, key: u64, now_ms: i64) -> &mut V {
        if now_ms - self.since_ms > self.span_ms || self.young.len() >= MAX_ENTRIES {
            self.old = mem::take(&mut self.young);
            self.since_ms = now_ms;
        }
        let old = &mut self.old;
        self.young
            .entry(key)
            .or_insert_with(|| old.remove(&key).unwrap_or_default())
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// Clicks of one source, from a moment on.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    from_ms: i64,
    clicks: u32,
}

/// The last minutes.
pub(crate) struct Windows {
    hasher: RandomState,
    /// When a visitor clicked a link last.
    last: Recent<i64>,
    sources: Recent<Count>,
}

impl Windows {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            last: Recent::new(DUPLICATE_MS),
            sources: Recent::new(FLOOD_MS),
        }
    }

    /// Whether `who` clicked `link` moments before `at_ms`.
    pub(crate) fn is_duplicate(&mut self, who: u64, link: u64, at_ms: i64) -> bool {
        let key = self.hasher.hash_one((who, link));
        let last = self.last.entry(key, at_ms);
        let since = at_ms - *last;
        *last = at_ms.max(*last);
        // The same moment is the same click, delivered twice.
        (1..=DUPLICATE_MS).contains(&since)
    }

    /// Whether this source clicks more than a person would.
    pub(crate) fn is_flood(&mut self, source: impl std::hash::Hash, at_ms: i64) -> bool {
        let key = self.hasher.hash_one(source);
        let count = self.sources.entry(key, at_ms);
        if (at_ms - count.from_ms).abs() > FLOOD_MS {
            *count = Count {
                from_ms: at_ms,
                clicks: 0,
            };
        }
        count.clicks = count.clicks.saturating_add(1);
        count.clicks > FLOOD_CLICKS
    }

    pub(crate) fn clear(&mut self) {
        self.last.clear();
        self.sources.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_within_moments_is_told() {
        let mut windows = Windows::new();
        let at = 1_763_000_000_000;
        assert!(!windows.is_duplicate(1, 7, at));
        assert!(!windows.is_duplicate(1, 7, at), "the same click again");
        assert!(!windows.is_duplicate(1, 8, at + 5), "another link");
        assert!(!windows.is_duplicate(2, 7, at + 5), "another visitor");
        assert!(windows.is_duplicate(1, 7, at + 5000));
        assert!(
            windows.is_duplicate(1, 7, at + 14_000),
            "after the last one"
        );
        assert!(!windows.is_duplicate(1, 7, at + 30_000));
        assert!(
            !windows.is_duplicate(1, 7, at + 1),
            "late, and the first of its time"
        );
    }

    #[test]
    fn a_flood_begins_after_what_a_person_may_make() {
        let mut windows = Windows::new();
        let at = 1_763_000_000_000;
        for n in 0..FLOOD_CLICKS {
            assert!(!windows.is_flood("a", at + i64::from(n)), "{n}");
        }
        assert!(windows.is_flood("a", at + 100));
        assert!(!windows.is_flood("b", at + 100));
        assert!(!windows.is_flood("a", at + FLOOD_MS + 200), "a new minute");
    }

    #[test]
    fn memory_has_a_bound() {
        let mut recent = Recent::<i64>::new(DUPLICATE_MS);
        for key in 0..3 * MAX_ENTRIES as u64 {
            *recent.entry(key, 1) = 5;
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * MAX_ENTRIES);
        assert_eq!(*recent.entry(3 * MAX_ENTRIES as u64 - 1, 1), 5);
    }
}
