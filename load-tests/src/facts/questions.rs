//! The dashboard's questions, asked over HTTP while ClickHouse holds more and more clicks of the same 90 days.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, TimeDelta, Utc};
use clap::Parser;
use tributary_shared::clock::Clock;

use crate::Error;
use crate::api::Api;
use crate::load::outcome::text;
use crate::report::{aligned, grouped, table};
use crate::run_file::RunFile;
use crate::stores::ClickHouse;

use super::transport::per_second;

const CLICKS: &str = include_str!("clicks.sql");
const CONVERSIONS: &str = include_str!("conversions.sql");
/// Days that the clicks are spread over, and days that a question is about.
const DAYS: u64 = 90;
const ASKED_DAYS: u64 = 30;
/// Clicks that are made by one insert.
const CHUNK: u64 = 1_000_000;
/// How long ClickHouse may merge parts before it is asked all the same.
const MERGED_WITHIN: Duration = Duration::from_secs(900);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pages of single clicks that are turned.
const PAGES: u64 = 10;

/// The questions, each with `from` and `to` still to come.
const QUESTIONS: [(&str, &str); 9] = [
    (
        "overview, with the period before",
        "/v1/analytics/overview?",
    ),
    ("time series by day", "/v1/analytics/time-series?"),
    ("top links", "/v1/analytics/breakdown?dimension=link&"),
    (
        "top affiliates",
        "/v1/analytics/breakdown?dimension=affiliate&",
    ),
    ("countries", "/v1/analytics/breakdown?dimension=country&"),
    ("devices", "/v1/analytics/breakdown?dimension=device&"),
    (
        "referrers",
        "/v1/analytics/breakdown?dimension=referrer_domain&",
    ),
    ("funnel", "/v1/analytics/funnel?"),
    ("traffic quality", "/v1/analytics/traffic-quality?"),
];

/// How many clicks, and how often is asked.
#[derive(Debug, Parser)]
pub(super) struct Options {
    /// The running system's addresses, as the launcher wrote them
    #[arg(long, env = "TRIBUTARY_RUN_JSON", default_value = "data/run.json")]
    run: PathBuf,
    /// Clicks that there are when the questions are asked, growing
    #[arg(long, value_delimiter = ',', default_value = "10000000,100000000")]
    clicks: Vec<u64>,
    /// How often each question is asked, each time about other days
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=58))]
    times: u64,
}

/// A question's times, sorted.
struct Answered {
    question: &'static str,
    times: Vec<Duration>,
}

impl Answered {
    fn at(&self, percent: usize) -> Duration {
        let place = (self.times.len() * percent).div_ceil(100).max(1) - 1;
        self.times.get(place).copied().unwrap_or_default()
    }
}

/// Measures and prints Markdown.
///
/// # Errors
/// What kept it from being measured.
pub(super) async fn run(options: &Options) -> Result<(), Error> {
    let system = RunFile::read(&options.run)?;
    let clickhouse = ClickHouse::new(&system)?;
    let api = Api::new(&system)?;
    let tenant = api.tenant().await?;
    let end = Clock::system().now();
    for clicks in &options.clicks {
        let there = u64::try_from(clickhouse.all_clicks().await?).unwrap_or(u64::MAX);
        if there < *clicks {
            fill(&clickhouse, tenant, there..*clicks, end).await?;
        }
        let bytes = clickhouse.bytes_per_click().await?;
        println!(
            "\n{} clicks, of which {} the tenant's; {bytes} bytes each on disk, rollups included:\n",
            grouped(usize::try_from(*clicks).unwrap_or(usize::MAX)),
            grouped(clickhouse.clicks_of(tenant).await?),
        );
        let mut lines = table(["question about 30 days", "p50", "p95"]);
        for answered in ask(&api, options.times, end).await? {
            lines.add_row([
                answered.question.to_owned(),
                text(answered.at(50)),
                text(answered.at(95)),
            ]);
        }
        println!("{}", aligned(lines, 1..=2));
    }
    Ok(())
}

/// Puts clicks there in addition to those that are there, and the orders that they led to.
async fn fill(
    clickhouse: &ClickHouse,
    tenant: u64,
    clicks: std::ops::Range<u64>,
    end: DateTime<Utc>,
) -> Result<(), Error> {
    let began = Instant::now();
    let all = clicks.end - clicks.start;
    for first in (0..all).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
        let values = [
            ("$FIRST", first),
            ("$COUNT", CHUNK.min(all - first)),
            ("$SALT", clicks.start),
            ("$ALL", all),
            ("$DAYS", DAYS),
            ("$TENANT", tenant),
            ("$END_MS", end.timestamp_millis().unsigned_abs()),
        ];
        let fill = |sql: String, (name, value): (&str, u64)| sql.replace(name, &value.to_string());
        let sql = values.into_iter().fold(CLICKS.to_owned(), fill);
        clickhouse.execute(&sql).await?;
        let done = (first + CHUNK).min(all);
        eprint!(
            "\rfacts: {} of {} million clicks made, {} a second ",
            done / 1_000_000,
            all / 1_000_000,
            grouped(usize::try_from(per_second(done, began.elapsed())).unwrap_or(0)),
        );
    }
    clickhouse.execute("TRUNCATE TABLE conversions").await?;
    clickhouse.execute(CONVERSIONS).await?;
    eprintln!("\nfacts: ClickHouse merges ...");
    let began = Instant::now();
    while clickhouse.merges().await? > 0 && began.elapsed() < MERGED_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn ask(api: &Api, times: u64, end: DateTime<Utc>) -> Result<Vec<Answered>, Error> {
    let mut all = Vec::new();
    for (question, path) in QUESTIONS {
        let mut taken = Vec::new();
        for days in 0..times {
            let to = end.date_naive() - Days::new(1 + days);
            let from = to - Days::new(ASKED_DAYS - 1);
            let began = Instant::now();
            api.ask(&format!("{path}from={from}&to={to}")).await?;
            taken.push(began.elapsed());
        }
        taken.sort_unstable();
        all.push(Answered {
            question,
            times: taken,
        });
    }
    for (question, filter) in [
        ("single clicks, a page of 50", ""),
        ("single clicks of one country, a page of 50", "&country=SE"),
    ] {
        let mut taken = Vec::new();
        for days in 0..times.div_ceil(PAGES) {
            let to = end - TimeDelta::days(1 + days.cast_signed());
            let from = to - TimeDelta::days(ASKED_DAYS.cast_signed());
            let path = format!(
                "/v1/analytics/clicks?from={}&to={}{filter}&limit=50",
                from.format("%FT%TZ"),
                to.format("%FT%TZ")
            );
            taken.extend(api.turn_pages(&path, PAGES).await?);
        }
        taken.sort_unstable();
        all.push(Answered {
            question,
            times: taken,
        });
    }
    Ok(all)
}
