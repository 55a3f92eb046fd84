//! Time, as a value that tests can hold still.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};

/// Where "now" comes from. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `at` until [`Clock::advance`] moves it, for tests.
    #[must_use]
    pub fn manual(at: DateTime<Utc>) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(
            at.timestamp_micros(),
        ))))
    }

    /// Now, to the microsecond.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that asks")]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            Source::System => {
                let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
                let micros = since_1970.map_or(0, |time| time.as_micros()); // the clock is set wrong
                let micros = i64::try_from(micros).unwrap_or(i64::MAX);
                from_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
            }
            Source::Manual(micros) => {
                from_micros(micros.load(Ordering::SeqCst)).unwrap_or(DateTime::<Utc>::MAX_UTC)
            }
        }
    }

    /// Moves a manual clock. The machine's clock moves by itself and ignores this.
    pub fn advance(&self, by: TimeDelta) {
        if let (Source::Manual(micros), Some(by)) = (&self.0, by.num_microseconds()) {
            micros.fetch_add(by, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Source::System => f.write_str("Clock::system"),
            Source::Manual(_) => f.write_str("Clock::manual"),
        }
    }
}

/// The time of `micros` microseconds since 1970; none when a calendar can't hold it.
#[must_use]
pub fn from_micros(micros: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
}

/// The time of an event, from the microseconds since 1970 that it carries. None when it lies outside
/// 2020 to 2199: nothing happened then, and ClickHouse could not hold all of it.
#[must_use]
pub fn event_time(micros: i64) -> Option<DateTime<Utc>> {
    from_micros(micros).filter(|at| (2020..2200).contains(&at.year()))
}
