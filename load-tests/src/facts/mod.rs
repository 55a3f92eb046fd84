//! What the facts cost: from Kafka into ClickHouse, beside the same rows straight from memory.
//!
//! In rounds, so that a machine that changes its pace changes both: clicks are put into Kafka, a processor is
//! started and measured until they are stored; then the stored rows, encoded beforehand, are inserted
//! into a table of the same schema by as many at once, and nothing else.

mod generator;
mod transport;

use std::path::PathBuf;

use clap::Parser;

use crate::Error;
use crate::peers::figures::{self, Unit};

/// What is measured.
#[derive(Debug, Parser)]
#[command(name = "facts", version)]
pub struct Options {
    /// Clicks of one round
    #[arg(long, env, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub clicks: u64,
    /// Rounds
    #[arg(long, env, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub rounds: u64,
    /// Rows that are written at once, by both
    #[arg(long, env, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=500_000))]
    pub batch_rows: u64,
    /// The processor that is measured
    #[arg(long, env, default_value = "target/release/processor")]
    pub processor: PathBuf,
}

/// Measures and prints Markdown.
///
/// # Errors
/// What kept it from being measured.
pub async fn run(options: &Options) -> Result<(), Error> {
    let mut place = transport::Place::prepare().await?;
    let mut processed = Vec::new();
    let mut direct = Vec::new();
    for round in 0..options.rounds {
        eprintln!("facts: round {} of {}", round + 1, options.rounds);
        processed.push(place.processed(options).await?);
        direct.push(place.direct(options).await?);
    }
    let rates =
        |runs: &[transport::Run]| -> Vec<u64> { runs.iter().map(|run| run.rate()).collect() };
    let per_cpu: Vec<u64> = processed
        .iter()
        .map(transport::Run::per_cpu_second)
        .collect();
    let memory: Vec<u64> = processed.iter().map(|run| run.memory_kib / 1024).collect();
    let (through, straight) = (rates(&processed), rates(&direct));
    figures::head();
    figures::row("Kafka to ClickHouse, clicks/s", Unit::Count, &through);
    figures::row("the same rows from memory, rows/s", Unit::Count, &straight);
    figures::row(
        "**the first to the second**",
        Unit::Hundredths,
        &figures::ratios(&through, &straight),
    );
    figures::row(
        "clicks a second of processor CPU, all threads",
        Unit::Count,
        &per_cpu,
    );
    figures::row("processor, most memory, MiB", Unit::Count, &memory);
    figures::row(
        "bytes a click on disk",
        Unit::Count,
        &[place.bytes_per_click().await?],
    );
    Ok(())
}
