//! Drills: something is killed, or kept away, while shoppers click; afterwards every click id that a
//! shopper was given must stand in ClickHouse once, no connection may have been refused, and what was sent,
//! the clicks and each rollup beside them must agree.
//!
//! The launcher restarts what dies. To keep something away for longer, a drill locks `hold/NAME` beside
//! `run.json`; the launcher waits for the lock, and the kernel takes it away with the drill.
//!
//! | module | subject |
//! |---|---|
//! | `rounds` | the plan of the longest drill: whom it kills when, from a seed |
//! | `field` | what can be struck, and how one sees that it is back |
//! | `processors` | further processors beside the launcher's |
//! | `tally` | what was struck how often |

pub(crate) mod field;
mod processors;
mod rounds;
pub(crate) mod tally;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use clap::{Parser, ValueEnum};
use futures::future::try_join_all;
use nix::sys::signal::Signal;
use tributary_shared::clock::Clock;

use crate::Error;
use crate::load::{Live, Outcome, Pace, Requests, Settings, generate, outcome};
use crate::oracle::{self, Comparison, Run};
use crate::report::{aligned, grouped, table};
use crate::rollups::{self, Compared};
use crate::run_file::RunFile;
use crate::stores::ClickHouse;
use crate::target::Target;
use field::{Field, Victim};
use rounds::Round;
use tally::Tally;

/// Undisturbed load before the first fault and after each recovery, where no plan says otherwise.
const CALM: Duration = Duration::from_secs(3);
/// A request that waits for a redirector to come back is answered then; this is for one that never is.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Clocks of one machine agree; this is for a row that is written with a rounded time.
const SINCE_MARGIN: TimeDelta = TimeDelta::seconds(2);

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
    /// How often each drill of one victim kills or restarts it; Kafka is kept away once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub times: u32,
    /// Rounds of the drill `rounds`
    #[arg(long, env = "DRILL_ROUNDS", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// What the rounds are drawn from: the same seed, the same plan
    #[arg(long, env = "DRILL_SEED", default_value_t = 1)]
    pub seed: u64,
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
    /// Two, three, one processor, each killed or told to end in turn
    Processors,
    /// Processors, Kafka and ClickHouse killed at random moments, as `--seed` says
    Rounds,
}

/// One thing that the drill of processors does.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many processors run from now on.
    Run(usize),
    /// One of them gets a signal, and is started again.
    Strike(usize, Signal),
}

const STEPS: [Step; 14] = [
    Step::Run(2),
    Step::Strike(1, Signal::SIGKILL),
    Step::Strike(2, Signal::SIGTERM),
    Step::Strike(2, Signal::SIGKILL),
    Step::Strike(1, Signal::SIGTERM),
    Step::Run(3),
    Step::Strike(3, Signal::SIGKILL),
    Step::Strike(1, Signal::SIGTERM),
    Step::Strike(2, Signal::SIGKILL),
    Step::Strike(3, Signal::SIGTERM),
    Step::Strike(1, Signal::SIGKILL),
    Step::Run(1),
    Step::Strike(1, Signal::SIGKILL),
    Step::Strike(1, Signal::SIGTERM),
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(n) => write!(f, "processors: {n}"),
            Self::Strike(n, signal) => write!(f, "{signal} to processor {n}"),
        }
    }
}

/// What happens in a drill.
enum Faults {
    /// The same to the same victim, several times.
    Same {
        name: &'static str,
        signal: Signal,
        times: u32,
        /// How long the victim is kept from coming back.
        away: Option<Duration>,
    },
    /// As [`STEPS`] say.
    Processors,
    Rounds {
        seed: u64,
        rounds: Vec<Round>,
    },
}

impl Drill {
    fn faults(self, options: &Options) -> Faults {
        let same = |name, signal| Faults::Same {
            name,
            signal,
            times: options.times,
            away: None,
        };
        match self {
            Self::RestartRedirector => same("redirector", Signal::SIGTERM),
            Self::KillRedirector => same("redirector", Signal::SIGKILL),
            Self::KillProcessor => same("processor", Signal::SIGKILL),
            Self::KillRedis => same("redis", Signal::SIGKILL),
            Self::KillKafka => same("kafka", Signal::SIGKILL),
            Self::KillClickhouse => same("clickhouse", Signal::SIGKILL),
            Self::KillPostgres => same("postgres", Signal::SIGKILL),
            Self::KafkaAway => Faults::Same {
                name: "kafka",
                signal: Signal::SIGKILL,
                times: 1,
                away: Some(Duration::from_secs(options.kafka_away_seconds)),
            },
            Self::Processors => Faults::Processors,
            Self::Rounds => Faults::Rounds {
                seed: options.seed,
                rounds: rounds::plan(options.seed, options.rounds.into()),
            },
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same {
                name,
                away: Some(_),
                ..
            } => write!(f, "{name} away"),
            Self::Same {
                name,
                signal: Signal::SIGKILL,
                ..
            } => write!(f, "kill -9 {name}"),
            Self::Same { name, .. } => write!(f, "restart {name}"),
            Self::Processors => f.write_str("processors"),
            Self::Rounds { seed, rounds } => write!(f, "{} rounds, seed {seed}", rounds.len()),
        }
    }
}

/// What a drill found.
struct Row {
    name: String,
    clicks: Comparison,
    rollups: Vec<Compared>,
    outcome: Outcome,
    tally: Tally,
    /// Clicks that further processors stored, where there were any.
    further: Option<u64>,
}

impl Row {
    /// Nothing lost, nothing twice, nobody refused, every figure the same three times; and something to
    /// say so about.
    fn holds(&self) -> bool {
        let Comparison {
            answered,
            lost,
            duplicated,
            unanswered,
            differing,
            ..
        } = self.clicks;
        answered > 0
            && lost == 0
            && duplicated == 0
            && differing == 0
            && u64::try_from(unanswered).is_ok_and(|n| n <= self.without_id())
            && self.outcome.refused == 0
            && !self.rollups.is_empty()
            && self.rollups.iter().all(Compared::holds)
            && self.further != Some(0)
    }

    /// Requests that were sent and gave no click id: more clicks than these can't be stored beside those
    /// that were answered.
    fn without_id(&self) -> u64 {
        let Outcome {
            cut,
            timed_out,
            malformed,
            ..
        } = self.outcome;
        cut + timed_out + malformed + self.outcome.others()
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
        let faults = drill.faults(&options);
        eprintln!("drill: {faults} ...");
        match perform(&faults, &options, &target, &clickhouse).await {
            Ok(row) => {
                eprintln!("drill: {faults}: {}", verdict(row.holds()));
                rows.push(row);
            }
            Err(error) => {
                // What was found before is not lost with it.
                print(&rows);
                return Err(error);
            }
        }
    }
    print(&rows);
    Ok(rows.iter().all(Row::holds))
}

async fn perform(
    faults: &Faults,
    options: &Options,
    target: &Target,
    clickhouse: &ClickHouse,
) -> Result<Row, Error> {
    let began = Clock::system().now();
    let since = began - SINCE_MARGIN;
    let mark = format!("drill-{}", began.timestamp_micros());
    let mut field = Field::new(&options.run)?;
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
        let requests = Requests::zipf(target.codes.clone(), target.address, &query, 1)
            .of_many(target.address, &query);
        let live = Arc::clone(&live);
        tokio::task::spawn_blocking(move || generate(&settings, &requests, &live))
    };
    // Whatever happens, the load ends before this returns.
    let disturbed = disturb(faults, &mut field, &live).await;
    live.stop.store(true, Ordering::Relaxed);
    let outcome = load
        .await
        .map_err(|panicked| Error::io("generate load")(std::io::Error::other(panicked)))??;
    let tally = disturbed?;
    let stored = field.processors.finish().await?;
    let run = Run {
        mark: &mark,
        since,
        answered: &outcome.clicks,
        links: &target.links,
    };
    let patience = Duration::from_secs(options.patience_seconds);
    Ok(Row {
        name: faults.to_string(),
        clicks: oracle::settle(clickhouse, run, patience).await?,
        rollups: rollups::compare_all(clickhouse).await?,
        outcome,
        tally,
        further: (!matches!(faults, Faults::Same { .. })).then_some(stored),
    })
}

/// Does what the drill says.
async fn disturb(faults: &Faults, field: &mut Field, live: &Live) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    match faults {
        Faults::Same {
            name,
            signal,
            times,
            away,
        } => {
            for _ in 0..*times {
                tokio::time::sleep(CALM).await;
                strike_alone(name, *signal, *away, field, &mut tally).await?;
            }
        }
        Faults::Processors => {
            for step in STEPS {
                tokio::time::sleep(CALM).await;
                let took = take(step, field, &mut tally).await?;
                report(&step, took, live);
            }
        }
        Faults::Rounds { rounds, .. } => {
            for (n, round) in (1..).zip(rounds) {
                println!("round {n}: {round}");
            }
            tokio::time::sleep(CALM).await;
            for (n, round) in (1..).zip(rounds) {
                let took = play(round, field, &mut tally).await?;
                report(
                    &format!("round {n} of {}: {round}", rounds.len()),
                    took,
                    live,
                );
            }
        }
    }
    tokio::time::sleep(CALM).await;
    Ok(tally)
}

/// How it goes, for whoever watches.
fn report(what: &impl fmt::Display, took: Duration, live: &Live) {
    let answered = live.answered.load(Ordering::Relaxed);
    eprintln!(
        "drill: {what}: ready after {}; {} clicks answered so far",
        outcome::text(took),
        grouped(usize::try_from(answered).unwrap_or(usize::MAX))
    );
}

/// Strikes one of the launcher's children, keeps it away as long as it is said, and waits until it is back.
async fn strike_alone(
    name: &'static str,
    signal: Signal,
    away: Option<Duration>,
    field: &mut Field,
    tally: &mut Tally,
) -> Result<(), Error> {
    let victim = Victim::Launched(name);
    let hold = match away {
        Some(away) => Some((field.hold(name)?, away)),
        None => None,
    };
    let struck = Instant::now();
    tally.struck(victim, field.strike(victim, signal).await?);
    if let Some((lock, away)) = hold {
        tokio::time::sleep(away).await;
        drop(lock);
    }
    field.back(victim).await?;
    tally.back(victim, struck.elapsed());
    Ok(())
}

/// One step of the drill of processors; returns how long it took until all were ready.
async fn take(step: Step, field: &mut Field, tally: &mut Tally) -> Result<Duration, Error> {
    let began = Instant::now();
    match step {
        Step::Run(wanted) => field.processors.resize(wanted).await?,
        Step::Strike(n, signal) => {
            let victim = Victim::processor(n);
            tally.struck(victim, field.strike(victim, signal).await?);
            field.back(victim).await?;
            tally.back(victim, began.elapsed());
        }
    }
    Ok(began.elapsed())
}

/// One round; returns how long it took from the first blow until all were ready.
async fn play(round: &Round, field: &mut Field, tally: &mut Tally) -> Result<Duration, Error> {
    field.processors.resize(round.processors).await?;
    tokio::time::sleep(round.pause).await;
    let began = Instant::now();
    for victim in &round.victims {
        tally.struck(*victim, field.strike(*victim, Signal::SIGKILL).await?);
    }
    let mut last_blow = began;
    if let (Some(again), Some(first)) = (round.again, round.victims.first()) {
        field.restarted(*first).await?;
        tokio::time::sleep(again).await;
        last_blow = Instant::now();
        tally.struck(*first, field.strike(*first, Signal::SIGKILL).await?);
    }
    let field = &*field;
    let back = round.victims.iter().enumerate().map(async |(n, victim)| {
        field.back(*victim).await?;
        let blow = if n == 0 { last_blow } else { began };
        Ok::<_, Error>((*victim, blow.elapsed()))
    });
    for (victim, after) in try_join_all(back).await? {
        tally.back(victim, after);
    }
    Ok(began.elapsed())
}

fn verdict(holds: bool) -> &'static str {
    if holds { "ok" } else { "FAILED" }
}

fn print(rows: &[Row]) {
    let count = |n: u64| grouped(usize::try_from(n).unwrap_or(usize::MAX));
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
        "figures",
        "differing",
        "longest wait",
        "back after",
        "",
    ]);
    for row in rows {
        let (clicks, load) = (&row.clicks, &row.outcome);
        lines.add_row([
            row.name.clone(),
            grouped(clicks.answered),
            grouped(clicks.stored),
            grouped(clicks.lost),
            grouped(clicks.duplicated),
            count(load.refused),
            count(load.cut + load.timed_out + load.not_sent),
            grouped(clicks.unanswered),
            count(load.others() + load.malformed),
            grouped(clicks.figures),
            grouped(clicks.differing),
            outcome::text(load.longest()),
            outcome::text(row.tally.longest()),
            verdict(row.holds()).to_owned(),
        ]);
    }
    println!("\n{}", aligned(lines, 1..=12));
    println!(
        "\nanswered: 302s that arrived whole; stored, lost: whether ClickHouse has their click ids. cut: requests \
         whose connection ended before the whole answer;\nunanswered: stored clicks among those. figures: clicks of \
         one link in one minute, as answered and as ClickHouse counts them.\nlongest wait: of any request, from when \
         it was due."
    );

    let mut lines = table([
        "drill",
        "rollup",
        "rows",
        "clicks by it",
        "clicks by the facts",
        "rows differing",
        "",
    ]);
    for row in rows {
        for rollup in &row.rollups {
            lines.add_row([
                row.name.clone(),
                rollup.rollup.clone(),
                grouped(rollup.groups),
                count(rollup.rolled_up),
                count(rollup.counted),
                grouped(rollup.differing),
                verdict(rollup.holds()).to_owned(),
            ]);
        }
    }
    println!("\n{}", aligned(lines, 2..=5));
    println!("\nOver the whole table, clicks of earlier drills included.");

    let mut lines = table([
        "drill",
        "victim",
        "struck",
        "before it was ready",
        "back after, at most",
    ]);
    for row in rows {
        for (kind, blows) in row.tally.kinds() {
            lines.add_row([
                row.name.clone(),
                kind.to_owned(),
                grouped(blows.times),
                grouped(blows.unready),
                outcome::text(blows.longest),
            ]);
        }
    }
    println!("\n{}", aligned(lines, 2..=4));
    for row in rows {
        if let Some(stored) = row.further {
            println!(
                "\n{}: processors beside the launcher's stored {} of the clicks, at least.",
                row.name,
                count(stored)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            name: String::new(),
            clicks: Comparison {
                answered: 10,
                ..Comparison::default()
            },
            rollups: vec![Compared {
                rollup: "by_link".to_owned(),
                groups: 1,
                rolled_up: 10,
                counted: 10,
                differing: 0,
            }],
            outcome: Outcome::new(Pace::Closed),
            tally: Tally::default(),
            further: None,
        }
    }

    #[test]
    fn a_row_holds_only_if_something_was_answered_and_nothing_is_amiss() {
        assert!(row().holds());
        let amiss: [fn(&mut Row); 9] = [
            |row| row.clicks.answered = 0,
            |row| row.clicks.lost = 1,
            |row| row.clicks.duplicated = 1,
            |row| row.clicks.differing = 1,
            |row| row.clicks.unanswered = 1,
            |row| row.outcome.refused = 1,
            |row| row.rollups.clear(),
            |row| row.rollups[0].differing = 1,
            |row| row.further = Some(0),
        ];
        for (n, spoil) in amiss.iter().enumerate() {
            let mut row = row();
            spoil(&mut row);
            assert!(!row.holds(), "{n}");
        }
        // As many clicks as requests were cut off may be stored beside those that were answered.
        let mut cut = row();
        cut.clicks.unanswered = 1;
        cut.outcome.cut = 1;
        assert!(cut.holds());
    }

    #[test]
    fn drills_are_named_on_the_command_line() {
        let options = Options::parse_from([
            "drill",
            "--only",
            "kafka-away,kill-redirector,rounds",
            "--rounds",
            "3",
            "--seed",
            "9",
        ]);
        let drills = [Drill::KafkaAway, Drill::KillRedirector, Drill::Rounds];
        assert_eq!(options.only, drills);
        let names = drills.map(|drill| drill.faults(&options).to_string());
        assert_eq!(
            names,
            ["kafka away", "kill -9 redirector", "3 rounds, seed 9"]
        );
        let restart = Drill::RestartRedirector.faults(&options);
        assert_eq!(restart.to_string(), "restart redirector");
        assert!(Options::try_parse_from(["drill", "--rounds", "0"]).is_err());
    }

    #[test]
    fn the_drill_of_processors_goes_from_two_to_three_to_one_and_strikes_only_who_runs() {
        let mut running = 1;
        let mut numbers = Vec::new();
        for step in STEPS {
            match step {
                Step::Run(n) => {
                    running = n;
                    numbers.push(n);
                }
                Step::Strike(n, _) => assert!(n <= running, "{step}"),
            }
        }
        assert_eq!(numbers, [2, 3, 1]);
    }
}
