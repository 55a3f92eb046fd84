//! When payouts are drafted by themselves: pure.

use chrono::{DateTime, Datelike as _, Months, NaiveDate, Utc};
use chrono_tz::Tz;

/// How often a tenant pays out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schedule {
    Daily,
    /// On this day, 1 to 28.
    Monthly(u32),
}

/// The day whose run is to be made now, in the tenant's time zone; none: not before the next one. A day that was missed is
/// caught up, the latest one only. `scheduled_at`: when the tenant decided it so, which counts from the next day on;
/// `last`: the day of the latest run.
pub(super) fn due(
    schedule: Schedule,
    zone: Tz,
    scheduled_at: DateTime<Utc>,
    last: Option<NaiveDate>,
    now: DateTime<Utc>,
) -> Option<NaiveDate> {
    let today = now.with_timezone(&zone).date_naive();
    let day = match schedule {
        Schedule::Daily => today,
        Schedule::Monthly(day) => {
            let this_month = today.with_day(day)?;
            if this_month <= today {
                this_month
            } else {
                this_month.checked_sub_months(Months::new(1))?
            }
        }
    };
    let decided = scheduled_at.with_timezone(&zone).date_naive();
    (day > decided && last.is_none_or(|last| last < day)).then_some(day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    const BERLIN: Tz = chrono_tz::Europe::Berlin;

    #[test]
    fn a_day_begins_where_the_tenant_is() {
        let daily = |now, last: Option<&str>| {
            let since = at("2026-01-01T00:00:00Z");
            due(Schedule::Daily, BERLIN, since, last.map(day), at(now))
        };
        assert_eq!(daily("2026-03-01T22:59:59Z", Some("2026-03-01")), None);
        assert_eq!(
            daily("2026-03-01T23:00:00Z", Some("2026-03-01")),
            Some(day("2026-03-02"))
        );
        // Five days were missed: they are one.
        assert_eq!(
            daily("2026-03-07T12:00:00Z", Some("2026-03-01")),
            Some(day("2026-03-07"))
        );
        // Not on the day on which it was decided.
        assert_eq!(daily("2026-01-01T22:00:00Z", None), None);
        assert_eq!(daily("2026-01-01T23:00:00Z", None), Some(day("2026-01-02")));
    }

    #[test]
    fn a_month_has_one_run() {
        let monthly = |now, last: Option<&str>| {
            let since = at("2026-01-20T12:00:00Z");
            due(Schedule::Monthly(15), BERLIN, since, last.map(day), at(now))
        };
        // January's was over when it was decided.
        assert_eq!(monthly("2026-02-14T12:00:00Z", None), None);
        assert_eq!(
            monthly("2026-02-14T23:00:00Z", None),
            Some(day("2026-02-15"))
        );
        assert_eq!(monthly("2026-03-02T12:00:00Z", Some("2026-02-15")), None);
        // Missed, and made up for later.
        assert_eq!(
            monthly("2026-04-02T12:00:00Z", Some("2026-02-15")),
            Some(day("2026-03-15"))
        );
    }

    proptest! {
        /// Looked at every few hours, each month has exactly one run, on its day.
        #[test]
        fn every_month_is_paid_once(of_month in 1..=28_u32, hours in 1..20_i64, start in 0..1_000_000_i64) {
            let begin = at("2025-01-01T00:00:00Z") + chrono::TimeDelta::minutes(start);
            let mut runs: Vec<NaiveDate> = Vec::new();
            for step in 0..(400 * 24 / hours) {
                let now = begin + chrono::TimeDelta::hours(step * hours);
                let made = due(Schedule::Monthly(of_month), BERLIN, begin, runs.last().copied(), now);
                if let Some(made) = made {
                    prop_assert_eq!(made, now.with_timezone(&BERLIN).date_naive());
                    runs.push(made);
                }
            }
            prop_assert!((13..=14).contains(&runs.len()), "{:?}", runs);
            for pair in runs.windows(2) {
                prop_assert_eq!(pair[0].checked_add_months(Months::new(1)), Some(pair[1]));
            }
            prop_assert!(runs.iter().all(|run| run.day() == of_month));
        }
    }
}
