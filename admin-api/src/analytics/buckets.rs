//! The stretches of time that an answer is cut into, in its time zone.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Timelike as _};
use chrono_tz::Tz;

use super::figures::ByPlace;
use super::terms::Granularity;
use crate::period::Period;

/// The buckets of `period`, as `sql::bucket` numbers them.
pub(super) fn buckets(period: &Period, granularity: Granularity) -> Vec<i64> {
    let step = |seconds: i64| {
        let local = period.from.with_timezone(&period.zone);
        let into = i64::from(local.minute() * 60 + local.second()).rem_euclid(seconds);
        let first = period.from.timestamp() - into;
        let end = period.to.timestamp() + i64::from(period.to.timestamp_subsec_nanos() > 0);
        let step = usize::try_from(seconds).unwrap_or(1);
        (first..end).step_by(step).collect()
    };
    let days = |start: fn(NaiveDate) -> NaiveDate| {
        let mut days: Vec<_> = period.days.iter().map(|d| day_number(start(*d))).collect();
        days.dedup();
        days
    };
    match granularity {
        Granularity::None => vec![0],
        Granularity::QuarterHour => step(15 * 60),
        Granularity::Hour => step(60 * 60),
        Granularity::Day => days(|day| day),
        Granularity::Week => days(|day| {
            let since_monday = i64::from(day.weekday().num_days_from_monday());
            day - TimeDelta::days(since_monday)
        }),
        Granularity::Month => days(|day| day.with_day(1).unwrap_or(day)),
    }
}

/// `buckets`, and any that only the facts know: no fact is ever left out.
pub(super) fn with_found(buckets: Vec<i64>, cells: &ByPlace) -> Vec<i64> {
    let found = cells.keys().map(|(bucket, _)| *bucket);
    let all: BTreeSet<i64> = buckets.into_iter().chain(found).collect();
    all.into_iter().collect()
}

/// A day's number, from 1970 on.
pub(super) fn day_number(day: NaiveDate) -> i64 {
    day.signed_duration_since(NaiveDate::default()).num_days()
}

pub(super) fn written(granularity: Granularity, bucket: i64, zone: Tz) -> Option<String> {
    match granularity {
        Granularity::None => None,
        Granularity::QuarterHour | Granularity::Hour => {
            let time = DateTime::from_timestamp(bucket, 0)?.with_timezone(&zone);
            Some(time.to_rfc3339())
        }
        Granularity::Day | Granularity::Week | Granularity::Month => {
            let day = NaiveDate::default() + TimeDelta::days(bucket);
            Some(day.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(from: &str, to: &str, zone: Tz) -> Period {
        let now = "2026-03-31T23:30:00Z".parse().unwrap();
        Period::read(Some(from), Some(to), zone, now).unwrap()
    }

    fn times(period: &Period, granularity: Granularity) -> Vec<String> {
        let write = |bucket| written(granularity, bucket, period.zone).unwrap();
        buckets(period, granularity)
            .into_iter()
            .map(write)
            .collect()
    }

    #[test]
    fn buckets_are_the_zones() {
        let spring = period("2026-03-29", "2026-03-29", Tz::Europe__Berlin);
        let hours = times(&spring, Granularity::Hour);
        assert_eq!(hours.len(), 23);
        assert_eq!(hours[1], "2026-03-29T01:00:00+01:00");
        assert_eq!(hours[2], "2026-03-29T03:00:00+02:00");
        assert_eq!(times(&spring, Granularity::QuarterHour).len(), 92);
        let kolkata = period("2026-01-01", "2026-01-01", Tz::Asia__Kolkata);
        assert_eq!(
            times(&kolkata, Granularity::Hour)[0],
            "2026-01-01T00:00:00+05:30"
        );
        let winter = period("2026-01-31", "2026-03-01", Tz::UTC);
        assert_eq!(
            times(&winter, Granularity::Month),
            ["2026-01-01", "2026-02-01", "2026-03-01"]
        );
        assert_eq!(
            times(&winter, Granularity::Week)[..2],
            ["2026-01-26", "2026-02-02"]
        );
        assert_eq!(times(&winter, Granularity::Day).len(), 30);
        let part = period("2026-01-01T10:20:00Z", "2026-01-01T11:00:01Z", Tz::UTC);
        assert_eq!(
            times(&part, Granularity::Hour),
            ["2026-01-01T10:00:00+00:00", "2026-01-01T11:00:00+00:00"]
        );
    }
}
