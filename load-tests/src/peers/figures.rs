//! Figures of repeated measurements, in whole numbers, as rows of a Markdown table.

use std::time::Duration;

use crate::report::grouped;

/// How a figure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A plain number.
    Count,
    /// Nanoseconds, written as microseconds with two digits.
    Nanos,
    /// Hundredths, written as a ratio.
    Hundredths,
}

impl Unit {
    pub(crate) fn text(self, value: u64) -> String {
        match self {
            Self::Count => grouped(usize::try_from(value).unwrap_or(usize::MAX)),
            Self::Nanos => format!("{}.{:02}", value / 1000, value % 1000 / 10),
            Self::Hundredths => format!("{}.{:02}", value / 100, value % 100),
        }
    }
}

/// Least, median and most of some values; of an even number the lower one of the middle.
pub(crate) fn spread(values: &[u64]) -> [u64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |n: usize| sorted.get(n).copied().unwrap_or_default();
    let last = sorted.len().saturating_sub(1);
    [at(0), at(last / 2), at(last)]
}

/// The median.
pub(crate) fn median(values: &[u64]) -> u64 {
    spread(values)[1]
}

/// Pair by pair, how many hundredths of `b` are in `a`.
pub(crate) fn ratios(a: &[u64], b: &[u64]) -> Vec<u64> {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| a * 100 / (*b).max(1)).collect()
}

/// A duration shared out to `n`, in nanoseconds.
pub(crate) fn per(duration: Duration, n: u64) -> u64 {
    let nanos = duration.as_nanos() / u128::from(n.max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    per(duration, 1)
}

/// A table's head: what, and least, median, most.
pub(crate) fn head() {
    println!("| | least | median | most |\n|---|---:|---:|---:|");
}

/// A row under [`head`].
pub(crate) fn row(what: &str, unit: Unit, values: &[u64]) {
    let [least, median, most] = spread(values).map(|value| unit.text(value));
    println!("| {what} | {least} | {median} | {most} |");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_in_whole_numbers() {
        assert_eq!(Unit::Nanos.text(18_219), "18.21");
        assert_eq!(Unit::Nanos.text(9), "0.00");
        assert_eq!(Unit::Hundredths.text(173), "1.73");
        assert_eq!(Unit::Count.text(37_123), "37,123");
    }

    #[test]
    fn the_median_is_a_value_that_occurred() {
        assert_eq!(spread(&[3, 1, 2]), [1, 2, 3]);
        assert_eq!(spread(&[4, 1, 3, 2]), [1, 2, 4]);
        assert_eq!(spread(&[]), [0, 0, 0]);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        assert_eq!(ratios(&[18, 10], &[10, 20]), [180, 50]);
        assert_eq!(ratios(&[1], &[0]), [100]);
        assert_eq!(per(Duration::from_micros(100), 8), 12_500);
        assert_eq!(per(Duration::from_secs(1), 0), 1_000_000_000);
    }
}
