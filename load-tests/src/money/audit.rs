//! The simulation: reports of orders of every kind come through Kafka, many of them twice and out of order, while the processor
//! and PostgreSQL are killed at moments that the seed says. Then faults stop, the processor must come to an end with everything,
//! and every account must hold what the auditor reckoned from the stories alone.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::auditor::{Auditor, Owed, by_affiliate};
use super::books::{Books, Progress, Standing};
use super::scene::{Processor, Scene, make_schemas};
use crate::Error;
use crate::dice::roll;
use crate::drill::field::{Field, PROCESSOR, Victim};
use crate::drill::tally::Tally;
use crate::reckon::Coin;
use crate::report::{aligned, grouped, table};

const POSTGRES: &str = "postgres";
const LOOK_EVERY: Duration = Duration::from_millis(500);
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long nothing may move before what is missing counts as lost: longer than the processor's and PostgreSQL's pauses.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long all must have been done and still: what was published last may be on its way.
const STILL: Duration = Duration::from_secs(5);
/// Of a hundred orders those of which more is said than what they are worth.
const EVENTFUL: u64 = 40;

/// How much happens.
#[derive(Debug, Parser)]
pub(super) struct Options {
    /// Where the launcher writes PostgreSQL's process id
    #[arg(long, env = "TRIBUTARY_RUN_JSON", default_value = "data/run.json")]
    run: PathBuf,
    /// Conversions
    #[arg(long, env = "MONEY_CONVERSIONS", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=250_000))]
    conversions: u32,
    /// How often something is killed; every third time it is PostgreSQL, every sixth both
    #[arg(long, env = "MONEY_KILLS", default_value_t = 18, value_parser = clap::value_parser!(u16).range(0..=500))]
    kills: u16,
    /// What everything is drawn from: the same seed, the same orders and the same plan of kills
    #[arg(long, env = "MONEY_SEED", default_value_t = 1)]
    seed: u64,
    /// The processor that is audited, and whose `ledger check` is asked at the end
    #[arg(long, env, default_value = "target/release/processor")]
    processor: PathBuf,
}

/// Something is killed once so many thousandths of what is to be recorded are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Blow {
    thousandth: u64,
    victims: Vec<Victim>,
    /// After that, how long it is waited: a batch takes some hundred milliseconds.
    pause: Duration,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.victims.iter().map(Victim::to_string).collect();
        write!(
            f,
            "kill {} at {}.{} % and {} ms",
            names.join(" and "),
            self.thousandth / 10,
            self.thousandth % 10,
            self.pause.as_millis()
        )
    }
}

/// The plan of a seed, in the order of time.
fn plan(seed: u64, kills: usize) -> Vec<Blow> {
    let mut blows: Vec<Blow> = (0..kills)
        .map(|nth| {
            let (processor, postgres) = (Victim::Launched(PROCESSOR), Victim::Launched(POSTGRES));
            Blow {
                thousandth: 10 + roll(seed, "when", nth) % 940,
                victims: match nth % 6 {
                    2 => vec![postgres],
                    5 => vec![processor, postgres],
                    _ => vec![processor],
                },
                pause: Duration::from_millis(roll(seed, "pause", nth) % 800),
            }
        })
        .collect();
    blows.sort_by_key(|blow| blow.thousandth);
    blows
}

/// A line of the outcome.
struct Line {
    what: String,
    expected: usize,
    found: usize,
}

impl Line {
    fn new(what: &str, expected: usize, found: usize) -> Self {
        Self {
            what: what.to_owned(),
            expected,
            found,
        }
    }

    fn holds(&self) -> bool {
        self.expected == self.found
    }
}

/// Simulates and audits, and prints what was found. True when every cent is where it should be.
///
/// # Errors
/// What kept it from being done; a difference that was found is no error.
pub(super) async fn run(options: &Options) -> Result<bool, Error> {
    let began = Instant::now();
    make_schemas().await?;
    let conversions = usize::try_from(options.conversions).unwrap_or(usize::MAX);
    let mut scene = Scene::set("audit", options.seed, conversions, EVENTFUL).await?;
    let processor = Processor::start(&options.processor).await?;
    scene.clicks_are_stored().await?;

    let before = scene.books.recorded().await?;
    let mut messages = Vec::new();
    for (place, (order, _)) in scene.orders.iter().enumerate() {
        let of_order = scene.course.messages(order).into_iter();
        messages.extend(of_order.map(|(when, report)| (when, place, report)));
    }
    messages.sort_by_key(|(when, place, _)| (*when, *place));
    for (_, place, report) in &messages {
        let (order, click) = &scene.orders[*place];
        scene.sender.report(&scene.market, order, report, click)?;
    }
    scene.sender.flush()?;
    // One that Kafka has twice is one report.
    let mut reports: Vec<(usize, i64)> = messages
        .iter()
        .map(|(_, place, report)| (*place, report.at_us))
        .collect();
    reports.sort_unstable();
    reports.dedup();
    println!(
        "Seed {}: {} conversions of {} programs, {} messages of {} reports, {} times something is killed.",
        options.seed,
        grouped(conversions),
        scene.market.programs.len(),
        grouped(messages.len()),
        grouped(reports.len()),
        options.kills,
    );

    let mut field = Field::new(&options.run)?;
    let mut tally = Tally::default();
    let blows = plan(options.seed, options.kills.into());
    let processor = strike_all(
        &blows,
        &scene.books,
        before..before + reports.len() as u64,
        processor,
        &mut field,
        &mut tally,
    )
    .await?;
    eprintln!("money: no more faults; waiting until everything is settled and published");
    let progress = wait_until_done(&scene.books, conversions).await?;
    drop(processor);
    let auditor = scene.audited();
    let standing = scene.books.standing(&scene.programs()).await?;
    let mut lines = compare(&auditor, &progress, &standing);
    lines.push(Line::new(
        "reports, each once",
        reports.len(),
        progress.reports,
    ));
    lines.push(ledger_check(options).await?);
    print(&auditor, &standing, &lines, &tally);
    println!("\nIt took {} s.", began.elapsed().as_secs());
    Ok(lines.iter().all(Line::holds) && auditor.orders > 0)
}

/// Strikes as planned, by how much is recorded: `reports` goes from what was before to all.
async fn strike_all(
    blows: &[Blow],
    books: &Books,
    reports: Range<u64>,
    mut processor: Processor,
    field: &mut Field,
    tally: &mut Tally,
) -> Result<Processor, Error> {
    for (nth, blow) in (1..).zip(blows) {
        let expected = reports.end - reports.start;
        let least = reports.start + expected * blow.thousandth / 1000;
        let mut last = (0, Instant::now());
        let mut told = Instant::now();
        loop {
            // Between a blow and the return PostgreSQL does not answer.
            let recorded = books.recorded().await.unwrap_or(last.0).max(reports.start);
            if recorded >= least {
                break;
            }
            if recorded > last.0 {
                last = (recorded, Instant::now());
            }
            if last.1.elapsed() > PATIENCE {
                return Err(stuck(&format!(
                    "{} of {expected} reports are recorded",
                    recorded - reports.start
                )));
            }
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                eprintln!(
                    "money: {} of {expected} reports recorded",
                    recorded - reports.start
                );
            }
            tokio::time::sleep(LOOK_EVERY / 5).await;
        }
        tokio::time::sleep(blow.pause).await;
        let began = Instant::now();
        let postgres = Victim::Launched(POSTGRES);
        if blow.victims.contains(&postgres) {
            tally.struck(postgres, field.strike(postgres, Signal::SIGKILL).await?);
        }
        let ours = Victim::Launched(PROCESSOR);
        if blow.victims.contains(&ours) {
            tally.struck(ours, true);
            processor = processor.kill_and_start().await?;
            tally.back(ours, began.elapsed());
        }
        if blow.victims.contains(&postgres) {
            field.back(postgres).await?;
            tally.back(postgres, began.elapsed());
        }
        eprintln!(
            "money: {nth} of {}: {blow}; back after {} ms",
            blows.len(),
            began.elapsed().as_millis()
        );
    }
    Ok(processor)
}

fn stuck(why: &str) -> Error {
    Error::Unreadable {
        doing: "come to an end".to_owned(),
        why: format!("{why}, and nothing moved for {} s", PATIENCE.as_secs()),
    }
}

/// Waits until nothing is left to do, or nothing moves any more: then what is missing is found by the comparison.
async fn wait_until_done(books: &Books, conversions: usize) -> Result<Progress, Error> {
    let mut last = (Progress::default(), Instant::now());
    let mut told = Instant::now();
    loop {
        let progress = books.progress().await?;
        let is_done = progress.is_done(conversions);
        if is_done && last.0 == progress && last.1.elapsed() > STILL {
            return Ok(progress);
        }
        if last.0 != progress {
            last = (progress, Instant::now());
        }
        if last.1.elapsed() > PATIENCE {
            eprintln!("money: nothing moves any more: {progress:?}");
            return Ok(progress);
        }
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            eprintln!(
                "money: {} of {conversions} conversions, {} to be settled, {} messages to be published, {} in the facts",
                progress.conversions, progress.unsettled, progress.unpublished, progress.facts
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How many of `found` are as they should be; those that should not be count against it.
fn right<K: Ord, V: PartialEq>(expected: &BTreeMap<K, V>, found: &BTreeMap<K, V>) -> usize {
    let right = expected
        .iter()
        .filter(|(key, value)| found.get(key) == Some(value))
        .count();
    let foreign = found
        .keys()
        .filter(|key| !expected.contains_key(key))
        .count();
    right.saturating_sub(foreign)
}

fn compare(auditor: &Auditor<'_>, progress: &Progress, standing: &Standing) -> Vec<Line> {
    let owed = &auditor.owed;
    let sums = by_affiliate(owed);
    vec![
        Line::new(
            "conversions, each once",
            auditor.orders,
            progress.conversions,
        ),
        Line::new(
            "conversions in the facts, each once",
            auditor.orders,
            progress.facts,
        ),
        Line::new("to be settled yet", 0, progress.unsettled),
        Line::new("to be published yet", 0, progress.unpublished),
        Line::new(
            "accounts whose balance is the auditor's",
            owed.len(),
            right(owed, &standing.balances),
        ),
        Line::new(
            "accounts whose entries are the auditor's",
            owed.len(),
            right(owed, &standing.entries),
        ),
        Line::new(
            "affiliates' sums in the facts",
            sums.len(),
            right(&sums, &standing.facts),
        ),
    ]
}

/// `processor ledger check`: its exit code says whether the ledger agrees with itself.
async fn ledger_check(options: &Options) -> Result<Line, Error> {
    let output = Command::new(&options.processor)
        .args(["ledger", "check"])
        .output()
        .await
        .map_err(Error::io(format!("start {}", options.processor.display())))?;
    print!("\n{}", String::from_utf8_lossy(&output.stdout));
    let wrong = usize::from(!output.status.success());
    if wrong > 0 {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(Line::new("`processor ledger check` that fails", 0, wrong))
}

fn print(auditor: &Auditor<'_>, standing: &Standing, lines: &[Line], tally: &Tally) {
    let mut outcome = table(["what", "expected", "found", ""]);
    for line in lines {
        let verdict = if line.holds() { "ok" } else { "DIFFERS" };
        let (expected, found) = (grouped(line.expected), grouped(line.found));
        outcome.add_row([line.what.clone(), expected, found, verdict.to_owned()]);
    }
    println!("\n{}", aligned(outcome, 1..=2));

    let mut totals = table(["currency", "account", "auditor", "balances", "entries"]);
    let sum = |owed: &Owed, currency: &str, kind: &str| -> i128 {
        let of = owed
            .iter()
            .filter(|((_, c, k), _)| *c == currency && *k == kind);
        of.map(|(_, minor)| *minor).sum()
    };
    for currency in auditor.revenue.keys() {
        for kind in ["pending", "available"] {
            let text = |owed| {
                let minor = sum(owed, currency, kind);
                Coin::of(currency).map_or_else(String::new, |coin| coin.text(minor))
            };
            totals.add_row([
                (*currency).to_owned(),
                kind.to_owned(),
                text(&auditor.owed),
                text(&standing.balances),
                text(&standing.entries),
            ]);
        }
    }
    println!("\n{}", aligned(totals, 2..=4));

    for (account, minor) in auditor
        .owed
        .iter()
        .filter(|(account, minor)| standing.balances.get(account) != Some(minor))
        .take(SHOWN)
    {
        println!(
            "DIFFERS: {account:?} should be {minor}, is {:?}",
            standing.balances.get(account)
        );
    }

    let mut blows = table([
        "killed",
        "times",
        "before it was ready",
        "back after, at most",
    ]);
    for (kind, of) in tally.kinds() {
        blows.add_row([
            kind.to_owned(),
            grouped(of.times),
            grouped(of.unready),
            format!("{} ms", of.longest.as_millis()),
        ]);
    }
    println!("\n{}", aligned(blows, 1..=3));
}

/// Differences that are printed one by one.
const SHOWN: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_the_seeds_and_strikes_both() {
        let blows = plan(7, 18);
        assert_eq!(blows, plan(7, 18));
        assert_ne!(blows, plan(8, 18));
        let of = |name| {
            let victim = Victim::Launched(name);
            blows
                .iter()
                .filter(|blow| blow.victims.contains(&victim))
                .count()
        };
        assert_eq!((of(PROCESSOR), of(POSTGRES)), (15, 6));
        assert!(blows.is_sorted_by_key(|blow| blow.thousandth));
    }

    #[test]
    fn what_is_missing_wrong_or_foreign_is_not_right() {
        let owed = BTreeMap::from([(1, 10), (2, 20)]);
        assert_eq!(right(&owed, &owed), 2);
        assert_eq!(right(&owed, &BTreeMap::from([(1, 10)])), 1);
        assert_eq!(right(&owed, &BTreeMap::from([(1, 10), (2, 21)])), 1);
        assert_eq!(right(&owed, &BTreeMap::from([(1, 10), (2, 20), (3, 1)])), 1);
    }
}
