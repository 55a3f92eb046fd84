//! Rollups versus facts: each figure that stands beside the clicks must be what one counts from them.
//!
//! Over the whole table, because rollups don't hold a run's mark. Which rollups there are, and of what, the
//! table says itself, so that a new one is compared as well.

use std::collections::BTreeSet;

use crate::Error;
use crate::stores::{ClickHouse, Figures};

/// The column of a rollup that counts clicks.
const COUNT: &str = "count()";

/// What a comparison of one rollup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) rollup: String,
    /// Rows of the rollup.
    pub(crate) groups: usize,
    /// Clicks, by the rollup.
    pub(crate) rolled_up: u64,
    /// Clicks, by the facts.
    pub(crate) counted: u64,
    /// Rows that only one of the two has.
    pub(crate) differing: usize,
}

impl Compared {
    pub(crate) fn holds(&self) -> bool {
        self.groups > 0 && self.differing == 0 && self.rolled_up == self.counted
    }
}

/// Compares every rollup with the facts. Nothing may be written meanwhile.
pub(crate) async fn compare_all(clickhouse: &ClickHouse) -> Result<Vec<Compared>, Error> {
    let mut found = Vec::new();
    for rollup in clickhouse.rollups().await? {
        let rolled_up = clickhouse.rolled_up(&rollup).await?;
        let counted = clickhouse.counted(&rollup).await?;
        found.push(compare(rollup.name, &rolled_up, &counted));
    }
    Ok(found)
}

fn compare(rollup: String, rolled_up: &[Figures], counted: &[Figures]) -> Compared {
    let rows = |figures: &[Figures]| -> BTreeSet<String> {
        let row = |row: &Figures| serde_json::Value::from(row.clone()).to_string();
        figures.iter().map(row).collect()
    };
    let clicks = |figures: &[Figures]| {
        let count = |row: &Figures| row.get(COUNT).and_then(serde_json::Value::as_u64);
        figures.iter().filter_map(count).sum()
    };
    Compared {
        rollup,
        groups: rolled_up.len(),
        rolled_up: clicks(rolled_up),
        counted: clicks(counted),
        differing: rows(rolled_up).symmetric_difference(&rows(counted)).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(link: u64, clicks: u64) -> Figures {
        let pairs = [("link_id", link), (COUNT, clicks)];
        let pairs = pairs.map(|(name, n)| (name.to_owned(), n.into()));
        pairs.into_iter().collect()
    }

    #[test]
    fn the_same_rows_in_any_order_hold() {
        let found = compare(
            "by_link".to_owned(),
            &[row(1, 5), row(2, 7)],
            &[row(2, 7), row(1, 5)],
        );
        assert!(found.holds(), "{found:?}");
        assert_eq!((found.rolled_up, found.counted), (12, 12));
    }

    #[test]
    fn a_figure_that_differs_is_found_even_if_the_sums_agree() {
        let of = |rolled_up: &[Figures], counted: &[Figures]| {
            compare("by_link".to_owned(), rolled_up, counted)
        };
        let moved = of(&[row(1, 5), row(2, 7)], &[row(1, 6), row(2, 6)]);
        assert_eq!(
            (moved.rolled_up, moved.counted, moved.differing),
            (12, 12, 4)
        );
        for bad in [
            moved,
            of(&[row(1, 5)], &[row(1, 5), row(2, 7)]),
            of(&[row(1, 5), row(1, 5)], &[row(1, 5)]),
            of(&[], &[]),
        ] {
            assert!(!bad.holds(), "{bad:?}");
        }
    }
}
