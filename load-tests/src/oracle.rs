//! Sent versus stored: every click id that a shopper was given must stand in ClickHouse once.
//!
//! Clicks of a run carry its mark as `sub1`, so that one which nobody saw answered is found as well: a
//! redirector that is killed may have recorded a click whose answer was cut off. That is no fault.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::Error;
use crate::load::ClickId;
use crate::stores::ClickHouse;

/// How often it is asked how many are stored.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Once everything is there, so long nothing more may come: a second copy would come later.
const QUIET: Duration = Duration::from_secs(5);

/// The clicks of one run in the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'r> {
    pub(crate) mark: &'r str,
    /// None was received before.
    pub(crate) since: DateTime<Utc>,
    pub(crate) answered: &'r [ClickId],
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
                    let comparison = compare(run.answered, &rows);
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

/// Compares the ids that were answered with how often each id is stored.
fn compare(answered: &[ClickId], stored: &[(String, usize)]) -> Comparison {
    let mut times: HashMap<&[u8], usize> = HashMap::with_capacity(stored.len());
    for (id, n) in stored {
        *times.entry(id.as_bytes()).or_default() += n;
    }
    let mut comparison = Comparison {
        answered: answered.len(),
        ..Comparison::default()
    };
    let mut seen: HashMap<&[u8], usize> = HashMap::with_capacity(answered.len());
    for id in answered {
        *seen.entry(id).or_default() += 1;
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
    comparison.unanswered = times.keys().filter(|id| !seen.contains_key(*id)).count();
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ClickId {
        [n; crate::load::CLICK_ID_CHARS]
    }

    fn row(n: u8, times: usize) -> (String, usize) {
        (String::from_utf8(id(n).to_vec()).unwrap(), times)
    }

    #[test]
    fn each_answer_once_is_right() {
        let comparison = compare(&[id(b'a'), id(b'b')], &[row(b'b', 1), row(b'a', 1)]);
        let right = Comparison {
            answered: 2,
            stored: 2,
            ..Comparison::default()
        };
        assert_eq!(comparison, right);
    }

    #[test]
    fn what_is_missing_too_often_or_unknown_is_counted_apart() {
        let answered = [id(b'a'), id(b'b'), id(b'c')];
        let stored = [row(b'a', 3), row(b'b', 1), row(b'x', 1), row(b'y', 2)];
        let found = Comparison {
            answered: 3,
            stored: 2,
            lost: 1,
            duplicated: 3,
            unanswered: 2,
        };
        assert_eq!(compare(&answered, &stored), found);
    }

    #[test]
    fn an_id_given_to_two_shoppers_is_a_duplicate() {
        let comparison = compare(&[id(b'a'), id(b'a')], &[row(b'a', 1)]);
        assert_eq!((comparison.lost, comparison.duplicated), (0, 1));
        // Nobody there: all is lost.
        assert_eq!(compare(&[id(b'a')], &[]).lost, 1);
    }
}
