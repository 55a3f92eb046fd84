//! From a click to its being visible: shoppers click at a constant rate, and ClickHouse is asked all the time
//! which clicks it shows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use clap::Parser;
use hdrhistogram::Histogram;
use tributary_shared::clock::Clock;

use crate::Error;
use crate::load::{Live, Pace, Requests, Settings, generate};
use crate::report::grouped;
use crate::run_file::RunFile;
use crate::stores::{BUCKET_MS, ClickHouse};
use crate::target::Target;

const ASK_EVERY: Duration = Duration::from_millis(50);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What is not visible by then will not be.
const VISIBLE_WITHIN: Duration = Duration::from_secs(60);
const LONGEST_MS: u64 = 120_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// How shoppers click.
#[derive(Debug, Parser)]
pub(super) struct Options {
    /// The running system's addresses, as the launcher wrote them
    #[arg(long, env = "TRIBUTARY_RUN_JSON", default_value = "data/run.json")]
    run: PathBuf,
    /// Clicks a second
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// Measures and prints Markdown.
///
/// # Errors
/// What kept it from being measured, or a click that never became visible.
pub(super) async fn run(options: &Options) -> Result<(), Error> {
    let system = RunFile::read(&options.run)?;
    let target = Target::of(&system).await?;
    let clickhouse = ClickHouse::new(&system)?;
    let began = Clock::system().now();
    let mark = format!("fresh-{}", began.timestamp_micros());
    let live = Arc::new(Live::default());
    let load = {
        let settings = Settings {
            address: target.address,
            connections: 64,
            pace: Pace::Open {
                per_second: options.rate,
            },
            duration: Some(Duration::from_secs(options.seconds)),
            answer_within: ANSWER_WITHIN,
            keep_ids: false,
        };
        let requests = Requests::zipf(target.codes, target.address, &format!("?sub1={mark}"), 1);
        let live = Arc::clone(&live);
        tokio::task::spawn_blocking(move || generate(&settings, &requests, &live))
    };
    let mut watch = Watch::new();
    while !load.is_finished() {
        watch.look(&clickhouse, &mark).await?;
        tokio::time::sleep(ASK_EVERY).await;
    }
    let outcome = load
        .await
        .map_err(|panicked| Error::io("generate load")(std::io::Error::other(panicked)))??;
    let ended = Instant::now();
    while watch.visible < outcome.answered() && ended.elapsed() < VISIBLE_WITHIN {
        watch.look(&clickhouse, &mark).await?;
        tokio::time::sleep(ASK_EVERY).await;
    }
    if watch.visible < outcome.answered() {
        return Err(Error::Unreadable {
            doing: "see every click in ClickHouse".to_owned(),
            why: format!("{} of {} are", watch.visible, outcome.answered()),
        });
    }
    let at = |quantile| watch.delays.value_at_quantile(quantile);
    println!(
        "\n| clicks answered | a second | visible after, p50 | p95 | p99 | longest |\n|---:|---:|---:|---:|---:|---:|\n\
         | {} | {} | {} ms | {} ms | **{} ms** | {} ms |",
        grouped(usize::try_from(outcome.answered()).unwrap_or(usize::MAX)),
        grouped(usize::try_from(outcome.per_second()).unwrap_or(usize::MAX)),
        at(0.5),
        at(0.95),
        at(0.99),
        watch.delays.max(),
    );
    Ok(())
}

/// What was visible when.
struct Watch {
    /// By the moment of the click, in buckets.
    seen: BTreeMap<i64, u64>,
    visible: u64,
    /// In milliseconds, from the beginning of a click's bucket until ClickHouse had answered with it.
    delays: Histogram<u64>,
}

impl Watch {
    #[expect(clippy::expect_used, reason = "the bounds are constants that it takes")]
    fn new() -> Self {
        Self {
            seen: BTreeMap::new(),
            visible: 0,
            delays: Histogram::new_with_bounds(1, LONGEST_MS, SIGNIFICANT_DIGITS)
                .expect("bounds are right"),
        }
    }

    async fn look(&mut self, clickhouse: &ClickHouse, mark: &str) -> Result<(), Error> {
        let longest = TimeDelta::milliseconds(LONGEST_MS.cast_signed());
        let since = Clock::system().now() - longest;
        let buckets = clickhouse.by_moment(mark, since).await?;
        let now = Clock::system().now().timestamp_millis();
        for (bucket, clicks) in buckets {
            let seen = self.seen.entry(bucket).or_default();
            let new = clicks.saturating_sub(*seen);
            if new == 0 {
                continue; // the histogram would take the time for one that it counts
            }
            *seen += new;
            self.visible += new;
            let delay = now.saturating_sub(bucket * BUCKET_MS).max(0);
            self.delays.saturating_record_n(delay.cast_unsigned(), new);
        }
        Ok(())
    }
}
