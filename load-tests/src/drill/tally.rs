//! Whom a drill struck, how often, and how long each kind of victim was away.

use std::collections::BTreeMap;
use std::time::Duration;

use super::field::Victim;

/// By kind of victim.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, Blows>);

/// What one kind of victim went through.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blows {
    pub(crate) times: usize,
    /// Of those, how many came before it was ready.
    pub(crate) unready: usize,
    /// The longest time between its last blow and its being ready again.
    pub(crate) longest: Duration,
}

impl Tally {
    pub(crate) fn struck(&mut self, victim: Victim, ready: bool) {
        let blows = self.0.entry(victim.kind()).or_default();
        blows.times += 1;
        blows.unready += usize::from(!ready);
    }

    pub(crate) fn back(&mut self, victim: Victim, after: Duration) {
        let blows = self.0.entry(victim.kind()).or_default();
        blows.longest = blows.longest.max(after);
    }

    pub(crate) fn longest(&self) -> Duration {
        let longest = self.0.values().map(|blows| blows.longest).max();
        longest.unwrap_or_default()
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = (&'static str, Blows)> {
        self.0.iter().map(|(kind, blows)| (*kind, *blows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_one_kind() {
        let mut tally = Tally::default();
        for (victim, ready, seconds) in [
            (Victim::processor(1), true, 7),
            (Victim::processor(3), false, 2),
            (Victim::Launched("kafka"), true, 9),
        ] {
            tally.struck(victim, ready);
            tally.back(victim, Duration::from_secs(seconds));
        }
        let blows = |times, unready, seconds| Blows {
            times,
            unready,
            longest: Duration::from_secs(seconds),
        };
        let kinds: Vec<_> = tally.kinds().collect();
        assert_eq!(
            kinds,
            [("kafka", blows(1, 0, 9)), ("processor", blows(2, 1, 7))]
        );
        assert_eq!(tally.longest(), Duration::from_secs(9));
    }
}
