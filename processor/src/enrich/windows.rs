//! What only a click's neighbours in time tell: repeated clicks, and floods of them.
//!
//! Counted by the clicks' own times, in memory: each processor sees the clicks of its own partitions, and
//! begins anew when partitions move (they are read again, and would look like repetitions of themselves).
//! So these two signals can be missing on a click. What a journal sends again counts twice towards a flood,
//! which can then be told too early. The fraud rules, which decide about money, are to ask the stored
//! clicks instead.

use ahash::RandomState;

/// A repetition comes within this time.
const DUPLICATE_MS: i32 = 10_000;
/// Clicks of one address and agent within a minute that a person may make.
const FLOOD_CLICKS: u32 = 20;
const FLOOD_MS: i32 = 60_000;
/// Sets of one table, a cache line each: 16 MiB for 1.3 million entries.
const SETS: usize = 1 << 18;
const WAYS: usize = 5;

/// When a key was met, and how often.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    tag: u32,
    /// Milliseconds, without the high bits.
    at_ms: u32,
    /// 0: nothing stands here.
    times: u32,
}

impl Met {
    /// Time from this to `at_ms`; negative if that was before.
    fn until(&self, at_ms: i64) -> i32 {
        low(at_ms).wrapping_sub(self.at_ms).cast_signed()
    }
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Met; WAYS]);

/// A table of fixed size: one look costs one cache line, and of the keys of a line the one that was not
/// met for longest is forgotten first.
struct Recent {
    hasher: RandomState,
    sets: Box<[Set]>,
}

impl Recent {
    fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            sets: vec![Set::default(); SETS].into_boxed_slice(),
        }
    }

    /// The key's entry, empty if it is not known.
    fn entry(&mut self, key: impl std::hash::Hash, at_ms: i64) -> &mut Met {
        let hash = self.hasher.hash_one(key);
        let [a, b, c, d, place @ ..] = hash.to_be_bytes();
        let tag = u32::from_be_bytes([a, b, c, d]);
        let Set(ways) = &mut self.sets[u32::from_be_bytes(place) as usize % SETS];
        let known = ways.iter().position(|met| met.times > 0 && met.tag == tag);
        let oldest = || {
            let idle = |(_, met): &(usize, &Met)| (met.times == 0, met.until(at_ms));
            ways.iter().enumerate().max_by_key(idle)
        };
        let way = known.or_else(|| Some(oldest()?.0)).unwrap_or(0);
        if known.is_none() {
            ways[way] = Met {
                tag,
                ..Met::default()
            };
        }
        &mut ways[way]
    }

    fn clear(&mut self) {
        self.sets.fill(Set::default());
    }
}

/// The low bits of a time: differences of up to 24 days are right.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low bits are what is wanted"
)]
fn low(at_ms: i64) -> u32 {
    at_ms.cast_unsigned() as u32
}

/// The last minutes.
pub(crate) struct Windows {
    /// A visitor's last click on a link.
    last: Recent,
    /// Clicks of one source, from a moment on.
    sources: Recent,
}

impl Windows {
    pub(crate) fn new() -> Self {
        Self {
            last: Recent::new(),
            sources: Recent::new(),
        }
    }

    /// Whether `who` clicked `link` moments before `at_ms`.
    pub(crate) fn is_duplicate(&mut self, who: u64, link: u64, at_ms: i64) -> bool {
        let last = self.last.entry((who, link), at_ms);
        let since = last.until(at_ms);
        let is_known = last.times > 0;
        if !is_known || since > 0 {
            last.at_ms = low(at_ms);
        }
        last.times = 1;
        // The same moment is the same click, delivered twice.
        is_known && (1..=DUPLICATE_MS).contains(&since)
    }

    /// Whether this source clicks more than a person would.
    pub(crate) fn is_flood(&mut self, source: impl std::hash::Hash, at_ms: i64) -> bool {
        let source = self.sources.entry(source, at_ms);
        if source.times == 0 || source.until(at_ms).saturating_abs() > FLOOD_MS {
            source.at_ms = low(at_ms);
            source.times = 0;
        }
        source.times = source.times.saturating_add(1);
        source.times > FLOOD_CLICKS
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
        assert!(
            !windows.is_flood("a", at + i64::from(FLOOD_MS) + 200),
            "a new minute"
        );
    }

    #[test]
    fn of_too_many_the_latest_are_remembered() {
        let mut windows = Windows::new();
        let (many, at) = (4 * (SETS * WAYS) as u64, 1_763_000_000_000);
        let mut told = |who: u64| windows.is_duplicate(who, 1, at + 1 + who.cast_signed() / 1000);
        for who in 0..many {
            assert!(!told(who), "{who}");
        }
        let later = |who: u64| (1, at + 2 + who.cast_signed() / 1000);
        let mut again = |who: u64| {
            let (link, at) = later(who);
            windows.is_duplicate(who, link, at)
        };
        let lately = (many - 1000..many).filter(|who| again(*who)).count();
        assert!(lately > 990, "{lately}");
        assert!(!again(0));
    }
}
