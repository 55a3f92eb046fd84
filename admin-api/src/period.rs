//! The stretch of time that a question is about, in days of the tenant's own time zone.

use chrono::{
    DateTime, Datelike as _, Days, LocalResult, Months, NaiveDate, NaiveTime, TimeDelta,
    TimeZone as _, Utc,
};
use chrono_tz::Tz;

use crate::error::Problem;

/// Days of the period when the caller names none.
pub(crate) const DEFAULT_DAYS: u64 = 30;
/// Longest period, in days.
pub(crate) const MAX_DAYS: usize = 400;

/// How far back an earlier period lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// As many days as it has itself, or its exact length where it is not whole days.
    Days,
    /// As many months as it has itself, where it is whole months; else like days.
    Months,
    /// A year.
    Year,
}

/// From an instant up to, and without, another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Period {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub zone: Tz,
    /// Every day that it touches.
    pub days: Vec<NaiveDate>,
}

impl Period {
    /// Reads `from` and `to`: a date means that whole day in `zone`, an RFC 3339 time means itself.
    /// Without them it is the last 30 days, today included.
    pub(crate) fn read(
        from: Option<&str>,
        to: Option<&str>,
        zone: Tz,
        now: DateTime<Utc>,
    ) -> Result<Self, Problem> {
        let to = match to {
            Some(text) => end(text, zone)?,
            None => day_start(next_day(now.with_timezone(&zone).date_naive()), zone),
        };
        let last_day = last_day_before(to, zone);
        let from = match from {
            Some(text) => start(text, zone)?,
            None => day_start(
                last_day
                    .checked_sub_days(Days::new(DEFAULT_DAYS - 1))
                    .unwrap_or(last_day),
                zone,
            ),
        };
        if from >= to {
            return Err(Problem::bad_request("from must lie before to"));
        }
        let first_day = from.with_timezone(&zone).date_naive();
        let days: Vec<NaiveDate> = first_day
            .iter_days()
            .take_while(|day| *day <= last_day)
            .take(MAX_DAYS + 1)
            .collect();
        if days.len() > MAX_DAYS {
            return Err(Problem::bad_request(format!(
                "from and to may span at most {MAX_DAYS} days"
            )));
        }
        Ok(Self {
            from,
            to,
            zone,
            days,
        })
    }

    /// Whole days of `zone`, the last one included.
    pub(crate) fn whole_days(from: &str, to: &str, zone: Tz) -> Result<Self, Problem> {
        for (field, text) in [("from", from), ("to", to)] {
            if date(text).is_none() {
                let detail = format!("{field} must be a date such as 2026-01-31");
                return Err(Problem::bad_request(detail));
            }
        }
        Self::read(Some(from), Some(to), zone, DateTime::UNIX_EPOCH) // both are given: no moment is needed
    }

    /// The period that this one is compared with. Whole days stay whole days, whatever the clock did.
    pub(crate) fn before(&self, how: Before) -> Result<Self, Problem> {
        let too_early =
            || Problem::bad_request("the period that it is compared with lies too far back");
        let local = |at: DateTime<Utc>| at.with_timezone(&self.zone).naive_local();
        let (first, end) = (local(self.from).date(), local(self.to).date());
        let whole_days =
            day_start(first, self.zone) == self.from && day_start(end, self.zone) == self.to;
        let days = u64::try_from(end.signed_duration_since(first).num_days()).unwrap_or(0);
        let months = u32::try_from(
            (end.year() - first.year()) * 12 + i32::try_from(end.month()).unwrap_or(0)
                - i32::try_from(first.month()).unwrap_or(0),
        )
        .unwrap_or(0);
        let whole_months = whole_days && first.day() == 1 && end.day() == 1;
        let back = |day: NaiveDate| match how {
            Before::Year => day.checked_sub_months(Months::new(12)),
            Before::Months if whole_months => day.checked_sub_months(Months::new(months)),
            Before::Days | Before::Months => day.checked_sub_days(Days::new(days)),
        };
        let (from, to) = if whole_days {
            let back = |day| back(day).map(|day| day_start(day, self.zone));
            (back(first), back(end))
        } else if how == Before::Year {
            let year = |at: DateTime<Utc>| at.checked_sub_months(Months::new(12));
            (year(self.from), year(self.to))
        } else {
            let length = self.to - self.from;
            (self.from.checked_sub_signed(length), Some(self.from))
        };
        let (from, to) = from.zip(to).ok_or_else(too_early)?;
        let in_range = in_range(from.date_naive()) && from < to;
        in_range.then_some(()).ok_or_else(too_early)?;
        let days = (from.with_timezone(&self.zone).date_naive()).iter_days();
        let last_day = last_day_before(to, self.zone);
        Ok(Self {
            from,
            to,
            zone: self.zone,
            days: days.take_while(|day| *day <= last_day).collect(),
        })
    }
}

/// An RFC 3339 time.
pub(crate) fn instant(field: &str, text: &str) -> Result<DateTime<Utc>, Problem> {
    // A plus sign that was not percent-encoded arrives as a space.
    let text = text.replace(' ', "+");
    DateTime::parse_from_rfc3339(&text)
        .ok()
        .map(|time| time.with_timezone(&Utc))
        .filter(|time| in_range(time.date_naive()))
        .ok_or_else(|| {
            Problem::bad_request(format!(
                "{field} must be an RFC 3339 time such as 2026-01-31T12:00:00Z"
            ))
        })
}

fn date(text: &str) -> Option<NaiveDate> {
    (text.len() == 10)
        .then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())?
        .filter(|date| in_range(*date))
}

/// What every engine's calendar can hold.
fn in_range(date: NaiveDate) -> bool {
    (2000..2100).contains(&date.year())
}

fn start(text: &str, zone: Tz) -> Result<DateTime<Utc>, Problem> {
    match date(text) {
        Some(day) => Ok(day_start(day, zone)),
        None => instant("from", text).map_err(|_| neither("from")),
    }
}

fn end(text: &str, zone: Tz) -> Result<DateTime<Utc>, Problem> {
    match date(text) {
        Some(day) => Ok(day_start(next_day(day), zone)),
        None => instant("to", text).map_err(|_| neither("to")),
    }
}

fn neither(field: &str) -> Problem {
    Problem::bad_request(format!(
        "{field} must be a date such as 2026-01-31 or an RFC 3339 time such as 2026-01-31T12:00:00Z"
    ))
}

fn next_day(day: NaiveDate) -> NaiveDate {
    day.succ_opt().unwrap_or(day)
}

fn last_day_before(instant: DateTime<Utc>, zone: Tz) -> NaiveDate {
    (instant - TimeDelta::microseconds(1))
        .with_timezone(&zone)
        .date_naive()
}

/// The first instant of `day`. Where the clock skips midnight the day begins when it lands.
fn day_start(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    // No zone ever skipped more than a day: 96 quarters of an hour.
    (0..=96)
        .map(|quarters| midnight + TimeDelta::minutes(15 * quarters))
        .find_map(|local| match zone.from_local_datetime(&local) {
            LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => {
                Some(time.with_timezone(&Utc))
            }
            LocalResult::None => None,
        })
        .unwrap_or_else(|| midnight.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: Option<&str>, to: Option<&str>, zone: Tz) -> Result<Period, Problem> {
        Period::read(from, to, zone, "2026-03-31T23:30:00Z".parse().unwrap())
    }

    #[test]
    fn without_dates_it_is_the_last_thirty_days_of_the_zone() {
        let period = read(None, None, Tz::Europe__Berlin).unwrap();
        assert_eq!(period.days.len(), 30);
        assert_eq!(period.days[29].to_string(), "2026-04-01"); // half past one in Berlin
        assert_eq!(period.to.to_string(), "2026-04-01 22:00:00 UTC"); // summer time
        assert_eq!(period.from.to_string(), "2026-03-02 23:00:00 UTC"); // winter time
    }

    #[test]
    fn dates_are_whole_days_and_times_are_themselves() {
        let period = read(Some("2026-01-01"), Some("2026-01-02"), Tz::Asia__Tokyo).unwrap();
        assert_eq!(period.from.to_string(), "2025-12-31 15:00:00 UTC");
        assert_eq!(period.to.to_string(), "2026-01-02 15:00:00 UTC");
        assert_eq!(period.days.len(), 2);
        let exact = read(
            Some("2026-01-01T00:00:00 02:00"),
            Some("2026-01-01T00:00:00Z"),
            Tz::UTC,
        )
        .unwrap();
        assert_eq!((exact.to - exact.from).num_hours(), 2);
        assert_eq!(exact.days, [NaiveDate::from_ymd_opt(2025, 12, 31).unwrap()]);
    }

    #[test]
    fn a_midnight_that_is_skipped_begins_later() {
        // In 2018 São Paulo went from 23:59:59 to 01:00:00.
        let day = NaiveDate::from_ymd_opt(2018, 11, 4).unwrap();
        assert_eq!(
            day_start(day, Tz::America__Sao_Paulo).to_string(),
            "2018-11-04 03:00:00 UTC"
        );
        // Apia had no 30 December 2011.
        let day = NaiveDate::from_ymd_opt(2011, 12, 30).unwrap();
        assert_eq!(
            day_start(day, Tz::Pacific__Apia).to_string(),
            "2011-12-30 10:00:00 UTC"
        );
    }

    #[test]
    fn an_earlier_period_has_the_same_days_or_months() {
        let before = |from, to, how| {
            let period = read(Some(from), Some(to), Tz::Europe__Berlin).unwrap();
            let before = period.before(how).unwrap();
            format!("{} {} {}", before.from, before.to, before.days.len())
        };
        // The clock goes forward on 29 March.
        assert_eq!(
            before("2026-03-29", "2026-03-30", Before::Days),
            "2026-03-26 23:00:00 UTC 2026-03-28 23:00:00 UTC 2"
        );
        assert_eq!(
            before("2026-03-01", "2026-03-31", Before::Months),
            "2026-01-31 23:00:00 UTC 2026-02-28 23:00:00 UTC 28"
        );
        assert_eq!(
            before("2026-03-02", "2026-03-31", Before::Months),
            before("2026-03-02", "2026-03-31", Before::Days)
        );
        assert_eq!(
            before("2026-01-01", "2026-03-31", Before::Year),
            "2024-12-31 23:00:00 UTC 2025-03-31 22:00:00 UTC 90"
        );
        assert_eq!(
            before("2026-01-01T10:00:00Z", "2026-01-01T11:30:00Z", Before::Days),
            "2026-01-01 08:30:00 UTC 2026-01-01 10:00:00 UTC 1"
        );
        let early = read(Some("2000-01-01"), Some("2000-01-02"), Tz::UTC).unwrap();
        assert!(early.before(Before::Year).is_err());
    }

    #[test]
    fn bad_periods_are_refused() {
        for (from, to) in [
            (Some("2026-01-02"), Some("2026-01-01")),
            (Some("2026-1-2"), None),
            (Some("yesterday"), None),
            (Some("1026-01-01"), None),
            (Some("2024-01-01"), Some("2026-01-01")),
            (Some("+99999-01-01T00:00:00Z"), None),
            (None, Some("")),
        ] {
            assert!(read(from, to, Tz::UTC).is_err(), "{from:?} {to:?}");
        }
        assert_eq!(
            read(Some("2025-01-01"), Some("2026-02-04"), Tz::UTC)
                .unwrap()
                .days
                .len(),
            400
        );
        assert!(read(Some("2025-01-01"), Some("2026-02-05"), Tz::UTC).is_err());
    }
}
