//! Drills: something is killed, or kept away, while shoppers click; afterwards every click id that a
//! shopper was given must stand in ClickHouse once, and no connection may have been refused.
//!
//! The launcher restarts what dies. To keep something away for longer, a drill locks `hold/NAME` beside
//! `run.json`; the launcher waits for the lock, and the kernel takes it away with the drill.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use clap::{Parser, ValueEnum};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tributary_shared::clock::Clock;

use crate::Error;
use crate::load::{Live, Outcome, Pace, Requests, Settings, generate, outcome};
use crate::oracle::{self, Comparison, Run};
use crate::report::{aligned, grouped, table};
use crate::run_file::{Pids, RunFile};
use crate::stores::ClickHouse;
use crate::target::Target;

/// Undisturbed load before the first fault and after each recovery.
const CALM: Duration = Duration::from_secs(3);
/// How long the launcher may take to bring something back.
const BACK_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A request that waits for a redirector to come back is answered then; this is for one that never is.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Clocks of one machine agree; this is for a row that is written with a rounded time.
const SINCE_MARGIN: TimeDelta = TimeDelta::seconds(2);
/// Where the launcher looks for holds, beside `run.json`.
const HOLD_FOLDER: &str = "hold";

/// Kills and withholds processes under load and checks that no click is lost or counted twice.
#[derive(Debug, Clone, Parser)]
#[command(name = "drill", version)]
pub struct Options {
    /// The running system's addresses and pids, as the launcher wrote them
    #[arg(long, env = "TRIBUTARY_RUN_JSON", default_value = "data/run.json")]
    pub run: PathBuf,
    /// Only these drills, in this order
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Drill>,
    /// Clicks a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Connections kept open
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// How often each drill kills or restarts; Kafka is kept away once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub times: u32,
    /// How long Kafka is kept away, in seconds
    #[arg(long, env, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub kafka_away_seconds: u64,
    /// How long nothing more may have been stored before what is missing counts as lost, in seconds
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u64).range(6..=3600))]
    pub patience_seconds: u64,
}

/// One drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Drill {
    RestartRedirector,
    KillRedirector,
    KillProcessor,
    KillRedis,
    KillKafka,
    KillClickhouse,
    KillPostgres,
    KafkaAway,
}

impl Drill {
    /// What it happens to, as in `run.json`, the logs and the holds.
    fn victim(self) -> &'static str {
        match self {
            Self::RestartRedirector | Self::KillRedirector => "redirector",
            Self::KillProcessor => "processor",
            Self::KillRedis => "redis",
            Self::KillKafka | Self::KafkaAway => "kafka",
            Self::KillClickhouse => "clickhouse",
            Self::KillPostgres => "postgres",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::RestartRedirector => Signal::SIGTERM,
            _ => Signal::SIGKILL,
        }
    }

    fn times(self, options: &Options) -> u32 {
        match self {
            Self::KafkaAway => 1,
            _ => options.times,
        }
    }

    /// How long the victim is kept from coming back.
    fn away(self, options: &Options) -> Option<Duration> {
        (self == Self::KafkaAway).then(|| Duration::from_secs(options.kafka_away_seconds))
    }
}

impl fmt::Display for Drill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RestartRedirector => f.write_str("restart redirector"),
            Self::KafkaAway => f.write_str("kafka away"),
            drill => write!(f, "kill -9 {}", drill.victim()),
        }
    }
}

/// What a drill found.
struct Row {
    drill: Drill,
    clicks: Comparison,
    outcome: Outcome,
    /// The longest time between a fault and the victim's being ready again.
    back_after: Duration,
}

impl Row {
    /// Nothing lost, nothing twice, nobody refused, and something to say so about.
    fn holds(&self) -> bool {
        let Comparison {
            answered,
            lost,
            duplicated,
            ..
        } = self.clicks;
        answered > 0 && lost == 0 && duplicated == 0 && self.outcome.refused == 0
    }
}

/// Drills one after the other. True when each of them went as it should.
///
/// # Errors
/// What kept a drill from being done; a lost click is no error.
pub async fn run(options: Options) -> Result<bool, Error> {
    let drills = if options.only.is_empty() {
        Drill::value_variants().to_vec()
    } else {
        options.only.clone()
    };
    let system = RunFile::read(&options.run)?;
    let target = Target::of(&system).await?;
    let clickhouse = ClickHouse::new(&system)?;
    println!(
        "{} clicks a second over {} connections to {}.",
        grouped(usize::try_from(options.rate).unwrap_or(usize::MAX)),
        options.connections,
        target.address
    );
    let mut rows = Vec::new();
    for drill in drills {
        eprintln!("drill: {drill} ...");
        let row = perform(drill, &options, &target, &clickhouse).await?;
        eprintln!("drill: {drill}: {}", verdict(&row));
        rows.push(row);
    }
    print(&rows);
    Ok(rows.iter().all(Row::holds))
}

async fn perform(
    drill: Drill,
    options: &Options,
    target: &Target,
    clickhouse: &ClickHouse,
) -> Result<Row, Error> {
    let began = Clock::system().now();
    let since = began - SINCE_MARGIN;
    let mark = format!("drill-{}", began.timestamp_micros());
    let live = Arc::new(Live::default());
    let load = {
        let settings = Settings {
            address: target.address,
            connections: options.connections,
            pace: Pace::Open {
                per_second: options.rate,
            },
            duration: None,
            answer_within: ANSWER_WITHIN,
            keep_ids: true,
        };
        let query = format!("?sub1={mark}");
        let requests = Requests::zipf(target.codes.clone(), target.address, &query, 1);
        let live = Arc::clone(&live);
        tokio::task::spawn_blocking(move || generate(&settings, &requests, &live))
    };
    // Whatever happens, the load ends before this returns.
    let disturbed = disturb(drill, options).await;
    live.stop.store(true, Ordering::Relaxed);
    let outcome = load
        .await
        .map_err(|panicked| Error::io("generate load")(std::io::Error::other(panicked)))??;
    let back_after = disturbed?;
    let run = Run {
        mark: &mark,
        since,
        answered: &outcome.click_ids,
    };
    let patience = Duration::from_secs(options.patience_seconds);
    Ok(Row {
        drill,
        clicks: oracle::settle(clickhouse, run, patience).await?,
        outcome,
        back_after,
    })
}

/// Does to the victim what the drill says; returns how long it was gone at most.
async fn disturb(drill: Drill, options: &Options) -> Result<Duration, Error> {
    let name = drill.victim();
    let mut longest = Duration::ZERO;
    for _ in 0..drill.times(options) {
        tokio::time::sleep(CALM).await;
        let pid = Pids::read(&options.run)?
            .of(name)
            .ok_or(Error::NotUp { name })?;
        let hold = match drill.away(options) {
            Some(away) => Some((hold(&options.run, name)?, away)),
            None => None,
        };
        let struck = Instant::now();
        kill(Pid::from_raw(pid), drill.signal())
            .map_err(|error| Error::io(format!("send a signal to {name}"))(error.into()))?;
        if let Some((lock, away)) = hold {
            tokio::time::sleep(away).await;
            drop(lock);
        }
        until_back(&options.run, name, pid).await?;
        longest = longest.max(struck.elapsed());
    }
    tokio::time::sleep(CALM).await;
    Ok(longest)
}

/// Keeps the launcher from restarting `name` while the file is open.
fn hold(run: &Path, name: &'static str) -> Result<File, Error> {
    let folder = run.parent().unwrap_or(Path::new(".")).join(HOLD_FOLDER);
    let locked = || {
        std::fs::create_dir_all(&folder)?;
        let file = File::create(folder.join(name))?;
        file.lock()?;
        Ok(file)
    };
    locked().map_err(Error::io(format!("hold {name} in {}", folder.display())))
}

/// Returns when the launcher has another process of that name, and it is ready.
async fn until_back(run: &Path, name: &'static str, killed: i32) -> Result<(), Error> {
    let began = Instant::now();
    while began.elapsed() < BACK_WITHIN {
        let now = Pids::read(run)?.of(name);
        if now.is_some_and(|pid| pid != killed) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Error::NotBack {
        name,
        seconds: BACK_WITHIN.as_secs(),
    })
}

fn verdict(row: &Row) -> &'static str {
    if row.holds() { "ok" } else { "FAILED" }
}

fn print(rows: &[Row]) {
    let mut lines = table([
        "drill",
        "answered",
        "stored",
        "lost",
        "duplicated",
        "refused",
        "cut",
        "unanswered",
        "not 302",
        "longest wait",
        "back after",
        "",
    ]);
    for row in rows {
        let count = |n: u64| grouped(usize::try_from(n).unwrap_or(usize::MAX));
        let (clicks, load) = (&row.clicks, &row.outcome);
        lines.add_row([
            row.drill.to_string(),
            grouped(clicks.answered),
            grouped(clicks.stored),
            grouped(clicks.lost),
            grouped(clicks.duplicated),
            count(load.refused),
            count(load.cut + load.timed_out + load.not_sent),
            grouped(clicks.unanswered),
            count(load.others() + load.malformed),
            outcome::text(load.longest()),
            outcome::text(row.back_after),
            verdict(row).to_owned(),
        ]);
    }
    println!("\n{}", aligned(lines, 1..=10));
    println!(
        "\nanswered: 302s that arrived whole; stored, lost: whether ClickHouse has their click ids. cut: requests \
         whose connection ended before the whole answer;\nunanswered: stored clicks among those. longest wait: of \
         any request, from when it was due."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_comes_back_while_the_hold_is_held() {
        let folder = std::env::temp_dir().join(format!("tributary-hold-{}", std::process::id()));
        let run = folder.join("run.json");
        let held = hold(&run, "kafka").unwrap();
        let look = File::open(folder.join(HOLD_FOLDER).join("kafka")).unwrap();
        assert!(look.try_lock_shared().is_err());
        drop(held);
        assert!(look.try_lock_shared().is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_row_holds_only_if_something_was_answered_and_nothing_is_amiss() {
        let row = |answered, lost, duplicated, refused| {
            let mut outcome = Outcome::new(Pace::Closed);
            outcome.refused = refused;
            Row {
                drill: Drill::KillKafka,
                clicks: Comparison {
                    answered,
                    lost,
                    duplicated,
                    ..Comparison::default()
                },
                outcome,
                back_after: Duration::ZERO,
            }
        };
        assert!(row(10, 0, 0, 0).holds());
        for bad in [
            row(0, 0, 0, 0),
            row(10, 1, 0, 0),
            row(10, 0, 1, 0),
            row(10, 0, 0, 1),
        ] {
            assert!(!bad.holds());
        }
    }

    #[test]
    fn drills_are_named_on_the_command_line() {
        let options = Options::parse_from(["drill", "--only", "kafka-away,kill-redirector"]);
        assert_eq!(options.only, [Drill::KafkaAway, Drill::KillRedirector]);
        assert_eq!(Drill::KillRedirector.to_string(), "kill -9 redirector");
    }
}
