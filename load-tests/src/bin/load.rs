//! Sends clicks to a redirector at a constant rate, or as fast as it answers, and says how long they took.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tributary_load_tests::load::{
    Answered, Live, Outcome, Pace, Requests, Settings, generate, outcome,
};
use tributary_load_tests::{Error, Target};

/// Sends clicks at a constant rate, or as fast as they are answered.
#[derive(Debug, Parser)]
#[command(name = "load", version)]
struct Options {
    /// The running system's addresses, as the launcher wrote them
    #[arg(long, env = "TRIBUTARY_RUN_JSON", default_value = "data/run.json")]
    run: PathBuf,
    /// Another redirector than the running system's; needs --codes
    #[arg(long, requires = "codes")]
    address: Option<SocketAddr>,
    /// Codes to ask for, the most popular first [default: the demo's links]
    #[arg(long, value_delimiter = ',')]
    codes: Vec<String>,
    /// Clicks a second, whatever the server does
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Ask again as soon as answered, instead of at a rate
    #[arg(long, conflicts_with = "rate")]
    closed: bool,
    /// How long, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Connections kept open
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// How long an answer may take, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// What follows each code, such as ?sub1=mark
    #[arg(long, default_value = "")]
    query: String,
    /// Which codes are drawn: the same seed, the same order
    #[arg(long, default_value_t = 2015)]
    seed: u64,
    /// Write the click ids that were received to this file, a line each
    #[arg(long)]
    ids: Option<PathBuf>,
    /// Write the figures to this file as CSV
    #[arg(long)]
    csv: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(outcome) if outcome.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<Outcome, Error> {
    let target = match options.address {
        Some(address) => Target {
            address,
            links: Vec::new(),
            codes: Vec::new(),
        },
        None => Target::of_running(&options.run).await?,
    };
    let codes = if options.codes.is_empty() {
        target.codes
    } else {
        options.codes.into_iter().map(String::into).collect()
    };
    let requests = Requests::zipf(codes, target.address, &options.query, options.seed);
    let settings = Settings {
        address: target.address,
        connections: options.connections,
        pace: if options.closed {
            Pace::Closed
        } else {
            Pace::Open {
                per_second: options.rate,
            }
        },
        duration: Some(Duration::from_secs(options.seconds)),
        answer_within: Duration::from_secs(options.timeout),
        keep_ids: options.ids.is_some(),
    };
    let outcome = generate(&settings, &requests, &Live::default())?;
    print!("{}", outcome.table());
    if let Some(path) = &options.ids {
        write(path, &lines(&outcome.clicks))?;
    }
    if let Some(path) = &options.csv {
        let csv = format!("{}\n{}\n", outcome::CSV_HEADER, outcome.csv());
        write(path, csv.as_bytes())?;
    }
    Ok(outcome)
}

fn lines(clicks: &[Answered]) -> Vec<u8> {
    clicks
        .iter()
        .flat_map(|click| [&click.id, &b"\n"[..]])
        .flatten()
        .copied()
        .collect()
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let written = std::fs::File::create(path).and_then(|mut file| file.write_all(content));
    written.map_err(|error| Error::Input {
        path: path.to_owned(),
        why: error.to_string(),
    })
}
