//! Sent versus stored: every click id that a shopper was given must stand in ClickHouse once, and what
//! ClickHouse counts by link and minute must be what was sent.
//!
//! Clicks of a run carry its mark as `sub1`, so that one which nobody saw answered is found as well: a
//! redirector that is killed may have recorded a click whose answer was cut off. That is no fault.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::Error;
use crate::load::Answered;
use crate::stores::{ClickHouse, LinkMinute, TimesStored};

/// How often it is asked how many are stored.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Once everything is there, so long nothing more may come: a second copy would come later.
const QUIET: Duration = Duration::from_secs(5);
/// A click id begins with 48 bits of time, in milliseconds: so many characters of base64url.
const TIME_CHARS: usize = 8;
const MILLIS_PER_MINUTE: i64 = 60_000;

/// The clicks of one run in the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'r> {
    pub(crate) mark: &'r str,
    /// None was received before.
    pub(crate) since: DateTime<Utc>,
    pub(crate) answered: &'r [Answered],
    /// The links' ids, in the order of the codes that were asked for.
    pub(crate) links: &'r [i64],
}

/// What a comparison found, in clicks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Comparison {
    pub(crate) answered: usize,
    /// Of those, how many are stored.
    pub(crate) stored: usize,
    /// Of those, how many are not.
    pub(crate) lost: usize,
    /// Rows too many, and answers that repeated an id.
    pub(crate) duplicated: usize,
    /// Stored, and nobody saw the answer.
    pub(crate) unanswered: usize,
    /// Figures (clicks of one link in one minute) that were compared.
    pub(crate) figures: usize,
    /// Of those, how many ClickHouse counts otherwise.
    pub(crate) differing: usize,
}

/// Waits until everything is stored, or until nothing more has come for `patience`, and compares. A
/// store that does not answer is asked again: it may be starting anew.
pub(crate) async fn settle(
    clickhouse: &ClickHouse,
    run: Run<'_>,
    patience: Duration,
) -> Result<Comparison, Error> {
    let mut last = 0;
    let mut changed = Instant::now();
    loop {
        match clickhouse.count_marked(run.mark, run.since).await {
            Ok(rows) => {
                if rows != last {
                    last = rows;
                    changed = Instant::now();
                }
                let complete = rows >= run.answered.len();
                let unchanged = changed.elapsed();
                if unchanged >= patience || (complete && unchanged >= QUIET) {
                    let rows = clickhouse.times_stored(run.mark, run.since).await?;
                    let counted = clickhouse.by_link_and_minute(run.mark, run.since).await?;
                    let comparison = compare(run, &rows, &counted);
                    // As many rows as answers need not be the same clicks.
                    if comparison.lost == 0 || unchanged >= patience {
                        return Ok(comparison);
                    }
                }
            }
            Err(error) if changed.elapsed() >= patience => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Compares what was answered with how often each id is stored, and with what ClickHouse counts.
fn compare(run: Run<'_>, stored: &[TimesStored], counted: &[LinkMinute]) -> Comparison {
    let mut times: HashMap<&[u8], usize> = HashMap::with_capacity(stored.len());
    for row in stored {
        *times.entry(row.click_id.as_bytes()).or_default() += row.n;
    }
    let mut comparison = Comparison {
        answered: run.answered.len(),
        ..Comparison::default()
    };
    let mut expected: Counts = BTreeMap::new();
    let mut seen: HashMap<&[u8], usize> = HashMap::with_capacity(run.answered.len());
    for click in run.answered {
        *seen.entry(&click.id).or_default() += 1;
        let link = usize::try_from(click.code)
            .ok()
            .and_then(|n| run.links.get(n));
        *expected
            .entry((link.copied(), minute(&click.id)))
            .or_default() += 1;
    }
    comparison.duplicated = times.values().map(|n| n.saturating_sub(1)).sum();
    for (id, answers) in &seen {
        comparison.duplicated += answers - 1;
        if times.contains_key(id) {
            comparison.stored += answers;
        } else {
            comparison.lost += answers;
        }
    }
    for row in stored {
        let id = row.click_id.as_bytes();
        if !seen.contains_key(id) {
            comparison.unanswered += 1;
            *expected.entry((Some(row.link_id), minute(id))).or_default() += 1;
        }
    }
    let found: Counts = counted
        .iter()
        .map(|row| ((Some(row.link_id), Some(row.minute)), row.n))
        .collect();
    comparison.figures = expected.len();
    comparison.differing = differing(&expected, &found);
    comparison
}

/// Clicks by link and minute; a key without them is one that nobody should have.
type Counts = BTreeMap<(Option<i64>, Option<i64>), usize>;

/// How many figures stand otherwise, or at all, in one of the two only.
fn differing(expected: &Counts, found: &Counts) -> usize {
    let missing_or_other = expected
        .iter()
        .filter(|(key, n)| found.get(key) != Some(n))
        .count();
    let unexpected = found.keys().filter(|key| !expected.contains_key(key));
    missing_or_other + unexpected.count()
}

/// The minute, counted from 1970 on, in which the click with this id was received.
fn minute(id: &[u8]) -> Option<i64> {
    let millis = id.get(..TIME_CHARS)?.iter().try_fold(0, |sum, character| {
        Some(sum * 64 + sixty_fourth(*character)?)
    })?;
    Some(millis / MILLIS_PER_MINUTE)
}

/// A digit of base64url.
fn sixty_fourth(character: u8) -> Option<i64> {
    let digit = match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(i64::from(digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::ClickId;

    const LINKS: [i64; 2] = [70, 71];

    fn id(n: u8) -> ClickId {
        [n; crate::load::CLICK_ID_CHARS]
    }

    fn click(n: u8, code: u32) -> Answered {
        Answered { id: id(n), code }
    }

    fn row(n: u8, link_id: i64, times: usize) -> TimesStored {
        TimesStored {
            click_id: String::from_utf8(id(n).to_vec()).unwrap(),
            link_id,
            n: times,
        }
    }

    fn count(n: u8, link_id: i64, clicks: usize) -> LinkMinute {
        LinkMinute {
            link_id,
            minute: minute(&id(n)).unwrap(),
            n: clicks,
        }
    }

    fn compared(
        answered: &[Answered],
        stored: &[TimesStored],
        counted: &[LinkMinute],
    ) -> Comparison {
        let run = Run {
            mark: "",
            since: DateTime::UNIX_EPOCH,
            answered,
            links: &LINKS,
        };
        compare(run, stored, counted)
    }

    #[test]
    fn each_answer_once_is_right() {
        let comparison = compared(
            &[click(b'a', 0), click(b'b', 1)],
            &[row(b'b', 71, 1), row(b'a', 70, 1)],
            &[count(b'a', 70, 1), count(b'b', 71, 1)],
        );
        let right = Comparison {
            answered: 2,
            stored: 2,
            figures: 2,
            ..Comparison::default()
        };
        assert_eq!(comparison, right);
    }

    #[test]
    fn what_is_missing_too_often_or_unknown_is_counted_apart() {
        let answered = [click(b'a', 0), click(b'b', 0), click(b'c', 0)];
        let stored = [
            row(b'a', 70, 3),
            row(b'b', 70, 1),
            row(b'x', 70, 1),
            row(b'y', 71, 2),
        ];
        let counted = [
            count(b'a', 70, 3),
            count(b'b', 70, 1),
            count(b'x', 70, 1),
            count(b'y', 71, 2),
        ];
        let found = Comparison {
            answered: 3,
            stored: 2,
            lost: 1,
            duplicated: 3,
            unanswered: 2,
            figures: 5,
            // Each of the three times too many or too few: a, c and y.
            differing: 3,
        };
        assert_eq!(compared(&answered, &stored, &counted), found);
    }

    #[test]
    fn an_id_given_to_two_shoppers_is_a_duplicate() {
        let answered = [click(b'a', 0), click(b'a', 0)];
        let comparison = compared(&answered, &[row(b'a', 70, 1)], &[count(b'a', 70, 1)]);
        assert_eq!((comparison.lost, comparison.duplicated), (0, 1));
        // Nobody there: all is lost.
        assert_eq!(compared(&[click(b'a', 0)], &[], &[]).lost, 1);
    }

    #[test]
    fn a_click_under_another_link_or_minute_is_found() {
        let answered = [click(b'a', 0)];
        let elsewhere = compared(&answered, &[row(b'a', 71, 1)], &[count(b'a', 71, 1)]);
        assert_eq!(
            (elsewhere.lost, elsewhere.duplicated, elsewhere.differing),
            (0, 0, 2)
        );
        let later = compared(&answered, &[row(b'a', 70, 1)], &[count(b'b', 70, 1)]);
        assert_eq!(later.differing, 2);
        // A code that nobody gave an id to: no row can be right.
        let unknown = compared(
            &[click(b'a', 2)],
            &[row(b'a', 70, 1)],
            &[count(b'a', 70, 1)],
        );
        assert_eq!(unknown.differing, 2);
    }

    #[test]
    fn a_click_id_says_its_minute() {
        // From a UUIDv7 of 2026-11-22T00:02:10.512Z.
        let millis: i64 = 1_795_305_730_512;
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let text: Vec<u8> = (0..8)
            .rev()
            .map(|n| alphabet[usize::try_from((millis >> (6 * n)) & 63).unwrap()])
            .collect();
        assert_eq!(minute(&text), Some(29_921_762));
        assert_eq!(minute(b"AAAAAA=="), None);
        assert_eq!(minute(b"AAAA"), None);
    }
}
