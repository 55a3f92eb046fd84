//! What a person reads at the end.

use std::time::Duration;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

use crate::check::{Sent, Verdict};

/// A line under the head, and no other.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// How many differences of one kind are printed.
const SHOWN: usize = 5;

pub(crate) fn print(sent: &Sent<'_>, verdict: &Verdict) {
    let mut lines = table(["what", "expected", "found", ""]);
    for line in &verdict.lines {
        let outcome = if line.holds() { "ok" } else { "DIFFERS" };
        let (expected, found) = (grouped(line.expected), grouped(line.found));
        lines.add_row([line.what.clone(), expected, found, outcome.to_owned()]);
    }
    println!("\n{}", aligned(lines, 1..=2));

    let mut totals = table([
        "currency",
        "orders",
        "revenue",
        "commission, own",
        "in the ledger",
        "in ClickHouse",
    ]);
    for (coin, sum) in &verdict.totals {
        let text = |minor| coin.text(minor);
        totals.add_row([
            coin.code.to_owned(),
            grouped(sum.orders),
            text(sum.revenue),
            text(sum.own),
            text(sum.ledger),
            text(sum.clickhouse),
        ]);
    }
    println!("\n{}", aligned(totals, 1..=5));

    let took = sent.clicked.took;
    let per_second = u128::try_from(sent.clicked.latencies.len()).unwrap_or(0) * 1_000_000
        / took.as_micros().max(1);
    let at = |per_mille| milliseconds(percentile(&sent.clicked.latencies, per_mille));
    println!(
        "\nClicks took {} s, {per_second} a second. A redirect, as the client saw it while all of this ran on one \
         machine:\np50 {}, p90 {}, p99 {}, p99.9 {}, longest {}.",
        took.as_millis() / 1000,
        at(500),
        at(900),
        at(990),
        at(999),
        at(1000),
    );

    for line in verdict.lines.iter().filter(|line| !line.holds()) {
        println!(
            "\nDIFFERS: {} ({} of {})",
            line.what.trim(),
            line.found,
            line.expected
        );
        for difference in line.differences.iter().take(SHOWN) {
            println!("  {difference}");
        }
        if line.differences.len() > SHOWN {
            println!("  and {} more", line.differences.len() - SHOWN);
        }
    }
    let outcome = if verdict.holds() {
        "Everything is as it was sent."
    } else {
        "Something differs."
    };
    println!("\n{outcome}");
}

pub(crate) fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(head);
    table
}

pub(crate) fn aligned(mut table: Table, numbers: std::ops::RangeInclusive<usize>) -> Table {
    for column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The least value that so many thousandths of `sorted` don't exceed.
fn percentile(sorted: &[Duration], per_mille: usize) -> Duration {
    let rank = (sorted.len() * per_mille).div_ceil(1000);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn milliseconds(duration: Duration) -> String {
    let micros = duration.as_micros();
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

/// `12345` as `12,345`.
pub(crate) fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=1000).map(Duration::from_micros).collect();
        let at = |per_mille| percentile(&sorted, per_mille).as_micros();
        assert_eq!((at(500), at(990), at(999), at(1000)), (500, 990, 999, 1000));
        assert_eq!(percentile(&sorted[..1], 500).as_micros(), 1);
        assert_eq!(percentile(&[], 500), Duration::ZERO);
        assert_eq!(milliseconds(Duration::from_micros(12_345)), "12.34 ms");
    }
}
