//! How many conversions a second of its CPU a processor settles: reports are put into Kafka, and measured is from there until
//! each was attributed, judged, priced and posted, looked into, and published. Everything that the process does meanwhile counts.
//!
//! In rounds; each also counts how many empty transactions PostgreSQL does, so that a machine that changes its pace changes both.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;

use super::auditor::by_affiliate;
use super::books::Books;
use super::scene::{Processor, Scene, make_schemas};
use crate::Error;
use crate::facts::transport::per_second;
use crate::peers::figures::{self, Unit};
use crate::peers::process::{cpu_time, cpu_time_of_family, memory_kib};
use crate::run_file::Pids;

/// How long one round may take.
const DONE_WITHIN: Duration = Duration::from_secs(900);
/// The questions cost PostgreSQL something, too.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For how long empty transactions are counted.
const EMPTY_FOR: Duration = Duration::from_secs(2);
/// Of a hundred orders those with more than one report.
const EVENTFUL: u64 = 10;

/// How much is measured.
#[derive(Debug, Parser)]
pub(super) struct Options {
    /// Conversions of one round
    #[arg(long, env, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    conversions: u32,
    /// Rounds
    #[arg(long, env, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// The processor that is measured
    #[arg(long, env, default_value = "target/release/processor")]
    processor: PathBuf,
    /// Where the launcher wrote PostgreSQL's process id
    #[arg(long, env = "TRIBUTARY_RUN_JSON", default_value = "data/run.json")]
    run: PathBuf,
}

/// One round.
#[derive(Debug, Clone, Copy)]
struct Round {
    conversions: u64,
    reports: u64,
    took: Duration,
    cpu: Duration,
    postgres: Duration,
    memory_kib: u64,
    /// Empty transactions a second, and such that insert one row.
    empty: u64,
    one_row: u64,
}

/// Measures and prints Markdown.
///
/// # Errors
/// What kept it from being measured, or a ledger that is not the auditor's.
pub(super) async fn run(options: &Options) -> Result<(), Error> {
    make_schemas().await?;
    let mut rounds = Vec::new();
    for nth in 0..options.rounds {
        eprintln!("money: round {} of {}", nth + 1, options.rounds);
        rounds.push(round(options, nth).await?);
    }
    print(&rounds);
    Ok(())
}

fn print(rounds: &[Round]) {
    let each = |value: fn(&Round) -> u64| -> Vec<u64> { rounds.iter().map(value).collect() };
    let wall = each(|r| per_second(r.conversions, r.took));
    let (empty, one_row) = (each(|r| r.empty), each(|r| r.one_row));
    figures::head();
    let row = |what, values: &[u64]| figures::row(what, Unit::Count, values);
    row("conversions of a round", &each(|r| r.conversions));
    row("reports of a round", &each(|r| r.reports));
    row(
        "**conversions a second of processor CPU, all threads**",
        &each(|r| per_second(r.conversions, r.cpu)),
    );
    row("conversions/s", &wall);
    row(
        "conversions a second of PostgreSQL's CPU, all processes",
        &each(|r| per_second(r.conversions, r.postgres)),
    );
    row("empty transactions/s, one session", &empty);
    row("transactions of one inserted row/s, one session", &one_row);
    let ratio = |what, of: &[u64]| {
        figures::row(what, Unit::Hundredths, &figures::ratios(of, &wall));
    };
    ratio("empty transactions in the time of one conversion", &empty);
    ratio("transactions of one row in that time", &one_row);
    row(
        "processor, most memory, MiB",
        &each(|r| r.memory_kib / 1024),
    );
}

async fn round(options: &Options, nth: u64) -> Result<Round, Error> {
    let conversions = usize::try_from(options.conversions).unwrap_or(usize::MAX);
    let mut scene = Scene::set("speed", nth + 1, conversions, EVENTFUL).await?;
    let processor = Processor::start(&options.processor).await?;
    let pid = processor.pid();
    scene.clicks_are_stored().await?;
    let (empty, one_row) = empty_transactions(&scene.books).await?;
    let postgres = Pids::read(&options.run)?
        .of("postgres")
        .and_then(|pid| u32::try_from(pid).ok())
        .ok_or(Error::NotUp { name: "postgres" })?;

    let cpu = cpu_time(pid)?;
    let postgres_cpu = cpu_time_of_family(postgres)?;
    let began = Instant::now();
    let mut reports = 0;
    for (order, click) in &scene.orders {
        for report in &order.reports {
            scene.sender.report(&scene.market, order, report, click)?;
            reports += 1;
        }
    }
    scene.sender.flush()?;
    let mut memory = 0;
    loop {
        let progress = scene.books.progress().await?;
        memory = memory_kib(pid, "VmRSS")?.max(memory);
        if progress.reports == reports && progress.is_done(conversions) {
            break;
        }
        in_time(began)?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let round = Round {
        conversions: conversions as u64,
        reports: reports as u64,
        took: began.elapsed(),
        cpu: cpu_time(pid)?.saturating_sub(cpu),
        postgres: cpu_time_of_family(postgres)?.saturating_sub(postgres_cpu),
        memory_kib: memory,
        empty,
        one_row,
    };
    drop(processor);
    let owed = scene.audited().owed;
    let standing = scene.books.standing(&scene.programs()).await?;
    if standing.balances == owed && standing.facts == by_affiliate(&owed) {
        return Ok(round);
    }
    Err(Error::Unreadable {
        doing: "compare the ledger with the auditor's".to_owned(),
        why: "they differ; `money audit` says where".to_owned(),
    })
}

fn in_time(began: Instant) -> Result<(), Error> {
    if began.elapsed() < DONE_WITHIN {
        return Ok(());
    }
    Err(Error::Unreadable {
        doing: "settle the conversions".to_owned(),
        why: format!("it is not done after {} s", DONE_WITHIN.as_secs()),
    })
}

/// How many a second there are of `BEGIN; COMMIT`, and of such that insert one row.
async fn empty_transactions(books: &Books) -> Result<(u64, u64), Error> {
    let failed = || Error::postgres("doing empty transactions");
    let mut connection = books.pool.acquire().await.map_err(failed())?;
    sqlx::query("CREATE TABLE IF NOT EXISTS money_speed (number bigint)")
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    let mut rates = [0; 2];
    for (rate, insert) in rates.iter_mut().zip([false, true]) {
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < EMPTY_FOR {
            let mut transaction = sqlx::Connection::begin(&mut *connection)
                .await
                .map_err(failed())?;
            if insert {
                sqlx::query("INSERT INTO money_speed VALUES ($1)")
                    .bind(1_i64)
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed())?;
            }
            transaction.commit().await.map_err(failed())?;
            count += 1;
        }
        *rate = per_second(count, began.elapsed());
    }
    Ok((rates[0], rates[1]))
}
