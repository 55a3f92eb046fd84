//! What came of a run: counts and latencies, as a table for people and CSV for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Answered, Pace};
use crate::report::grouped;

/// Latencies are told apart to a thousandth, up to ten minutes; longer ones count as that.
const SIGNIFICANT_DIGITS: u8 = 3;
const LONGEST_NANOS: u64 = 600_000_000_000;

/// The first line of the CSV.
pub const CSV_HEADER: &str = "pace,seconds,sent,answered_302,other_statuses,per_second,\
    p50_us,p90_us,p99_us,p999_us,max_us,refused,cut,timed_out,malformed,not_connected,closed,not_sent";

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    pace: Pace,
    pub took: Duration,
    /// Requests that were written, or begun to be.
    pub sent: u64,
    /// Whole answers, by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections that were refused.
    pub refused: u64,
    /// Attempts to connect that ended otherwise.
    pub not_connected: u64,
    /// Requests whose connection was lost before the whole answer.
    pub cut: u64,
    pub timed_out: u64,
    /// Answers that can't be understood.
    pub malformed: u64,
    /// Connections that the server closed between two requests.
    pub closed: u64,
    /// Requests that were due and could not be sent in time.
    pub not_sent: u64,
    pub clicks: Vec<Answered>,
    nanos: Option<Histogram<u64>>,
}

impl Outcome {
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace,
            took: Duration::ZERO,
            sent: 0,
            statuses: BTreeMap::new(),
            refused: 0,
            not_connected: 0,
            cut: 0,
            timed_out: 0,
            malformed: 0,
            closed: 0,
            not_sent: 0,
            clicks: Vec::new(),
            // The bounds are constants that it takes: there is always one.
            nanos: Histogram::new_with_bounds(1, LONGEST_NANOS, SIGNIFICANT_DIGITS).ok(),
        }
    }

    pub(crate) fn latency(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(histogram) = &mut self.nanos {
            histogram.saturating_record(nanos);
        }
    }

    pub(crate) fn status(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }

    /// 302s with a click id.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.statuses.get(&302).copied().unwrap_or(0)
    }

    /// Whole answers with another status.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.statuses.values().sum::<u64>() - self.answered()
    }

    /// Whether every request was answered by a 302.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.answered() == self.sent && self.refused == 0 && self.not_sent == 0
    }

    /// Answers a second.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let answers: u64 = self.statuses.values().sum();
        let per_second = u128::from(answers) * 1_000_000_000 / self.took.as_nanos().max(1);
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }

    /// The latency that a part of the answers, between 0 and 1, did not exceed.
    #[must_use]
    pub fn at(&self, quantile: f64) -> Duration {
        let nanos = self.nanos.as_ref();
        Duration::from_nanos(nanos.map_or(0, |nanos| nanos.value_at_quantile(quantile)))
    }

    /// The longest latency.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.nanos.as_ref().map_or(0, Histogram::max))
    }

    /// For a person.
    #[must_use]
    pub fn table(&self) -> String {
        let pace = match self.pace {
            Pace::Open { per_second } => format!("{} a second", grouped_u64(per_second.into())),
            Pace::Closed => "as fast as answered".to_owned(),
        };
        let mut text = format!(
            "{pace}: {} requests in {}, {} answers a second\n",
            grouped_u64(self.sent),
            text(self.took),
            grouped_u64(self.per_second()),
        );
        let mut line = |name: &str, value: String| {
            // Writing to a String can't fail.
            let _ = writeln!(text, "  {name:<28} {value:>14}");
        };
        for (status, count) in &self.statuses {
            line(&format!("status {status}"), grouped_u64(*count));
        }
        for (name, count) in self.troubles() {
            if count > 0 {
                line(name, grouped_u64(count));
            }
        }
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            line(name, self::text(self.at(quantile)));
        }
        line("longest", self::text(self.longest()));
        text
    }

    fn troubles(&self) -> [(&'static str, u64); 7] {
        [
            ("connections refused", self.refused),
            ("requests cut", self.cut),
            ("requests timed out", self.timed_out),
            ("answers malformed", self.malformed),
            ("connections not made", self.not_connected),
            ("connections closed", self.closed),
            ("requests not sent in time", self.not_sent),
        ]
    }

    /// A line under [`CSV_HEADER`].
    #[must_use]
    pub fn csv(&self) -> String {
        let pace = match self.pace {
            Pace::Open { per_second } => per_second.to_string(),
            Pace::Closed => "closed".to_owned(),
        };
        let millis = self.took.as_millis();
        let mut line = format!(
            "{pace},{}.{:03},{},{},{},{}",
            millis / 1000,
            millis % 1000,
            self.sent,
            self.answered(),
            self.others(),
            self.per_second()
        );
        for quantile in [0.5, 0.9, 0.99, 0.999] {
            let _ = write!(line, ",{}", self.at(quantile).as_micros());
        }
        let _ = write!(line, ",{}", self.longest().as_micros());
        for (_, count) in self.troubles() {
            let _ = write!(line, ",{count}");
        }
        line
    }
}

fn grouped_u64(n: u64) -> String {
    grouped(usize::try_from(n).unwrap_or(usize::MAX))
}

/// A duration in microseconds, milliseconds or seconds, whichever it takes to see it.
#[must_use]
pub fn text(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000_000 => format!("{}.{:01} ms", micros / 1000, micros % 1000 / 100),
        _ => format!(
            "{}.{:01} s",
            micros / 1_000_000,
            micros % 1_000_000 / 100_000
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_csv_has_a_value_for_each_column() {
        let mut outcome = Outcome::new(Pace::Open { per_second: 1000 });
        outcome.took = Duration::from_millis(1500);
        outcome.sent = 4;
        outcome.cut = 1;
        for (status, micros) in [(302, 100), (302, 200), (503, 90_000)] {
            outcome.status(status);
            outcome.latency(Duration::from_micros(micros));
        }
        let line = outcome.csv();
        assert_eq!(line.split(',').count(), CSV_HEADER.split(',').count());
        assert!(line.starts_with("1000,1.500,4,2,1,2,200,"), "{line}");
        assert!(line.ends_with(",0,1,0,0,0,0,0"), "{line}");
        assert!(!outcome.is_clean());
        assert!(outcome.table().contains("requests cut"));
    }

    #[test]
    fn durations_are_written_in_a_fitting_unit() {
        assert_eq!(text(Duration::from_micros(999)), "999 µs");
        assert_eq!(text(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(text(Duration::from_millis(12_345)), "12.3 s");
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_the_longest() {
        let mut outcome = Outcome::new(Pace::Closed);
        outcome.latency(Duration::from_secs(10_000));
        assert!(outcome.longest() >= Duration::from_secs(600));
    }
}
