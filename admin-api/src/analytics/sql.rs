//! The fixed fragments that questions are put together from. Nothing that a caller wrote becomes part
//! of a question's text: values are parameters, and dimensions and measures are enums.
//!
//! A rollup is a projection of `clicks`, and ClickHouse takes it by itself for a question whose every
//! expression is made of the projection's keys. So a question has one of three forms ([`Form`]), of
//! which the first two fit projections. Each is right whether ClickHouse takes one or not.

use std::ops::Range;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::About;
use super::terms::{Dimension, Granularity};
use crate::period::Period;
use tributary_shared::signals;

const CLICKS: &str = "(SELECT *, click_id FROM clicks WHERE tenant_id = {tenant:UInt64}
    AND outcome != 4
    AND received_at >= fromUnixTimestamp64Micro({from:Int64})
    AND received_at < fromUnixTimestamp64Micro({to:Int64})
    AND ({link:UInt64} = 0 OR link_id = {link:UInt64}))";
// The same, of a period that begins and ends with a quarter of an hour.
const QUARTERS: &str = "(SELECT * FROM clicks WHERE tenant_id = {tenant:UInt64}
    AND outcome != 4
    AND toStartOfFifteenMinutes(received_at) >= fromUnixTimestamp64Micro({from:Int64})
    AND toStartOfFifteenMinutes(received_at) < fromUnixTimestamp64Micro({to:Int64}))";
// The days of UTC that lie in the period whole ...
const DAYS: &str = "(SELECT * FROM clicks WHERE tenant_id = {tenant:UInt64}
    AND outcome != 4
    AND toStartOfDay(received_at) >= fromUnixTimestamp64Micro({first_day:Int64})
    AND toStartOfDay(received_at) < fromUnixTimestamp64Micro({last_day:Int64}))";
// ... and what of it lies before and after them.
const EDGES: &str = "(SELECT * FROM clicks WHERE tenant_id = {tenant:UInt64}
    AND outcome != 4
    AND (received_at >= fromUnixTimestamp64Micro({from:Int64})
         AND received_at < fromUnixTimestamp64Micro({first_day:Int64})
      OR received_at >= fromUnixTimestamp64Micro({last_day:Int64})
         AND received_at < fromUnixTimestamp64Micro({to:Int64})))";
// What was given back is no revenue, and what was rejected never was an order.
const CONVERSIONS: &str = "(SELECT * REPLACE (amount - refunded AS amount) FROM conversions FINAL WHERE tenant_id = {tenant:UInt64}
    AND accepted_at >= fromUnixTimestamp64Micro({from:Int64})
    AND accepted_at < fromUnixTimestamp64Micro({to:Int64})
    AND ({link:UInt64} = 0 OR link_id = {link:UInt64})
    AND status != 'rejected')";
// A rejected commission is owed to nobody.
const COMMISSIONS: &str = "(SELECT * FROM commissions FINAL WHERE tenant_id = {tenant:UInt64}
    AND created_at >= fromUnixTimestamp64Micro({from:Int64})
    AND created_at < fromUnixTimestamp64Micro({to:Int64})
    AND ({link:UInt64} = 0 OR link_id = {link:UInt64})
    AND state != 'rejected')";

// What customers bought from the period's begin on, whenever it ends ...
const SINCE: &str = "(SELECT * REPLACE (amount - refunded AS amount) FROM conversions FINAL WHERE tenant_id = {tenant:UInt64}
    AND customer_id != toFixedString('', 16)
    AND accepted_at >= fromUnixTimestamp64Micro({from:Int64})
    AND status != 'rejected')";
// ... and who had bought before. Any version of a conversion tells.
const EARLIER: &str = "(SELECT customer_id FROM conversions WHERE tenant_id = {tenant:UInt64}
    AND customer_id != toFixedString('', 16)
    AND accepted_at < fromUnixTimestamp64Micro({from:Int64}))";

const POSTBACKS: &str = "(SELECT * FROM postbacks FINAL WHERE tenant_id = {tenant:UInt64}
    AND received_at >= fromUnixTimestamp64Micro({from:Int64})
    AND received_at < fromUnixTimestamp64Micro({to:Int64}))";

const SOURCES: [(&str, &str); 9] = [
    ("$CLICKS", CLICKS),
    ("$QUARTERS", QUARTERS),
    ("$DAYS", DAYS),
    ("$EDGES", EDGES),
    ("$CONVERSIONS", CONVERSIONS),
    ("$COMMISSIONS", COMMISSIONS),
    ("$SINCE", SINCE),
    ("$EARLIER", EARLIER),
    ("$POSTBACKS", POSTBACKS),
];

/// The keys of each rollup by days, besides tenant, day and whether it was a bot.
const BY_DAYS: [&[Dimension]; 4] = [
    &[
        Dimension::Program,
        Dimension::Affiliate,
        Dimension::Link,
        Dimension::Outcome,
    ],
    &[
        Dimension::Program,
        Dimension::Country,
        Dimension::Device,
        Dimension::Os,
        Dimension::Browser,
        Dimension::Channel,
        Dimension::Outcome,
    ],
    &[
        Dimension::Program,
        Dimension::ReferrerDomain,
        Dimension::Outcome,
    ],
    &[
        Dimension::Program,
        Dimension::Affiliate,
        Dimension::BotReason,
        Dimension::Outcome,
    ],
];
/// The same of the rollup by quarters of an hour ...
const BY_QUARTERS: &[Dimension] = &[Dimension::Program, Dimension::Outcome];
/// ... and of the one that counts visitors. One of each program would hold too many of too few.
const VISITORS_BY_QUARTERS: &[Dimension] = &[Dimension::Outcome];

const QUARTER_SECONDS: i64 = 15 * 60;

/// `sql` with the tables, of one tenant and period, in place of their names.
pub(super) fn with_sources(sql: &str) -> String {
    SOURCES.iter().fold(sql.to_owned(), |sql, (name, source)| {
        sql.replace(name, source)
    })
}

/// The days of UTC that lie in `period` whole. Where there are none, both ends are the period's end.
pub(super) fn whole_days(period: &Period) -> Range<DateTime<Utc>> {
    let midnight = |at: DateTime<Utc>| at.date_naive().and_time(NaiveTime::MIN).and_utc();
    let start = match midnight(period.from) {
        first if first == period.from => first,
        before => before + TimeDelta::days(1),
    };
    let end = midnight(period.to);
    if start < end {
        start..end
    } else {
        period.to..period.to
    }
}

/// Which rows a question about clicks reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By quarters of an hour; visitors are counted.
    Quarters,
    /// By days of UTC, and single clicks of the hours before and after them. Visitors are not counted:
    /// who came on both sides would count twice.
    Days { edges: bool },
    /// Single clicks.
    Rows,
}

impl Form {
    /// The form that suits a question over `dimensions` (those of its filters included).
    pub(super) fn of(
        about: About<'_>,
        dimensions: &[Dimension],
        granularity: Granularity,
        visitors: bool,
    ) -> Self {
        let period = about.period;
        if about.link.is_some() {
            return Self::Rows; // the only source that looks at it
        }
        let within = |keys: &[Dimension]| dimensions.iter().all(|d| keys.contains(d));
        let on_quarters = |at: DateTime<Utc>| {
            at.timestamp().rem_euclid(QUARTER_SECONDS) == 0 && at.timestamp_subsec_nanos() == 0
        };
        let by_quarters = if visitors {
            VISITORS_BY_QUARTERS
        } else {
            BY_QUARTERS
        };
        if within(by_quarters) && on_quarters(period.from) && on_quarters(period.to) {
            return Self::Quarters;
        }
        let whole = whole_days(period);
        let days_of_utc = match granularity {
            Granularity::None => true,
            Granularity::QuarterHour | Granularity::Hour => false,
            Granularity::Day | Granularity::Week | Granularity::Month => period.zone == Tz::UTC,
        };
        let one_fits = BY_DAYS.iter().any(|keys| within(keys));
        if one_fits && days_of_utc && !visitors && whole.start < whole.end {
            let edges = whole != (period.from..period.to);
            return Self::Days { edges };
        }
        Self::Rows
    }

    /// Its sources, with the expression that stands for a click's time in each.
    pub(super) fn sources(self) -> &'static [(&'static str, &'static str)] {
        const QUARTER: &str = "toStartOfFifteenMinutes(received_at)";
        match self {
            Self::Quarters => &[("$QUARTERS", QUARTER)],
            Self::Days { edges: false } => &[("$DAYS", "toStartOfDay(received_at)")],
            Self::Days { edges: true } => {
                &[("$DAYS", "toStartOfDay(received_at)"), ("$EDGES", QUARTER)]
            }
            Self::Rows => &[("$CLICKS", QUARTER)],
        }
    }
}

/// The bucket that `time` falls in: days since 1970 where buckets are days or more, else seconds.
pub(super) fn bucket(granularity: Granularity, time: &str) -> String {
    match granularity {
        Granularity::None => "toInt64(0)".to_owned(),
        Granularity::QuarterHour => format!("toInt64(toUnixTimestamp({time}))"),
        Granularity::Hour => {
            format!("toInt64(toUnixTimestamp(toStartOfHour({time}, {{zone:String}})))")
        }
        Granularity::Day => format!("toInt64(toDate({time}, {{zone:String}}))"),
        Granularity::Week => format!("toInt64(toMonday({time}, {{zone:String}}))"),
        Granularity::Month => format!("toInt64(toStartOfMonth({time}, {{zone:String}}))"),
    }
}

/// The columns of `dimensions`, with commas.
pub(super) fn columns(dimensions: &[Dimension]) -> String {
    let columns: Vec<_> = dimensions.iter().map(|d| d.column()).collect();
    columns.join(", ")
}

/// One number for a combination of `dimensions`' values: short to name again, whatever the values are.
pub(super) fn key(dimensions: &[Dimension]) -> String {
    format!("sipHash64({})", columns(dimensions))
}

/// The values of `dimensions` as texts.
pub(super) fn texts(dimensions: &[Dimension]) -> String {
    let texts: Vec<_> = dimensions
        .iter()
        .map(|d| format!("toString({})", d.column()))
        .collect();
    format!("[{}]", texts.join(", "))
}

/// A click's score, as `tributary_shared::signals::score` reckons it.
pub(super) fn score() -> String {
    let weights: Vec<_> = signals::ALL
        .iter()
        .map(|s| format!("bitTest(signals, {}) * {}", s.bit, s.weight))
        .collect();
    format!("least(100, {})", weights.join(" + "))
}

/// Whether `sql` reads through the door only.
#[cfg(test)]
pub(super) fn names_no_table(sql: &str) -> bool {
    let mut sources = sql.split("FROM ").skip(1);
    sources.all(|source| source.starts_with('$') || source.starts_with('('))
        && !sql.contains("JOIN")
        && !sql.contains('?')
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_shared::ids::{LinkId, TenantId};

    fn period(from: &str, to: &str, zone: Tz) -> Period {
        let now = "2026-03-31T23:30:00Z".parse().unwrap();
        Period::read(Some(from), Some(to), zone, now).unwrap()
    }

    #[test]
    fn every_source_is_one_tenants() {
        for (_, source) in SOURCES {
            assert!(
                source.contains("WHERE tenant_id = {tenant:UInt64}\n    AND "),
                "{source}"
            );
            // An OR without parentheses would let other tenants in.
            let outside = source.rsplit_once(')').unwrap().0;
            let (mut depth, mut open_or) = (0_i32, false);
            for (at, letter) in outside.char_indices() {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                open_or |= depth == 1 && outside[at..].starts_with(" OR ");
            }
            assert!(!open_or, "{source}");
        }
    }

    #[test]
    fn a_question_takes_the_rollup_that_it_fits() {
        let berlin = period("2026-01-10", "2026-01-12", Tz::Europe__Berlin);
        let utc = period("2026-01-10", "2026-01-12", Tz::UTC);
        let odd = period("2026-01-10T00:00:01Z", "2026-01-12T00:00:00Z", Tz::UTC);
        let short = period("2026-01-10T01:00:00Z", "2026-01-10T02:00:01Z", Tz::UTC);
        let (none, day) = (Granularity::None, Granularity::Day);
        let country = &[Dimension::Country, Dimension::Device][..];
        for (period, dimensions, granularity, visitors, form) in [
            (&berlin, &[][..], day, true, Form::Quarters),
            (&berlin, &[Dimension::Outcome], day, true, Form::Quarters),
            (&berlin, &[Dimension::Program], day, true, Form::Rows),
            (&berlin, &[Dimension::Program], day, false, Form::Quarters),
            (&odd, &[], none, true, Form::Rows),
            (&odd, &[], none, false, Form::Days { edges: true }),
            (&short, &[], none, false, Form::Rows),
            (&berlin, country, none, false, Form::Days { edges: true }),
            (&berlin, country, day, false, Form::Rows),
            (&berlin, country, none, true, Form::Rows),
            (&utc, country, day, false, Form::Days { edges: false }),
            (
                &utc,
                &[Dimension::Country, Dimension::Link],
                none,
                false,
                Form::Rows,
            ),
            (&utc, &[Dimension::Sub1], none, false, Form::Rows),
        ] {
            let about = |link| About {
                tenant: TenantId(1),
                period,
                link,
            };
            let found = Form::of(about(None), dimensions, granularity, visitors);
            assert_eq!(found, form, "{dimensions:?} {granularity:?} {visitors}");
            let of_link = about(Some(LinkId(1)));
            let found = Form::of(of_link, dimensions, granularity, visitors);
            assert_eq!(found, Form::Rows);
        }
        let whole = whole_days(&berlin);
        assert_eq!(whole.start.to_string(), "2026-01-10 00:00:00 UTC");
        assert_eq!(whole.end.to_string(), "2026-01-12 00:00:00 UTC");
    }
}
