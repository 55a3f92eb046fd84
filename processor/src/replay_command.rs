//! `processor replay`: settles conversions of the past again, by another model or by today's rules, and says what that
//! makes of each affiliate's earnings. It does what the service does with every conversion, by the same code; so without
//! `--dry-run` the ledger gets the differences as new entries, and a second run of the same finds nothing to do.

use std::collections::BTreeMap;
use std::io::{self, Write};

use chrono::{DateTime, Utc};
use clap::Parser;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use rust_decimal::Decimal;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::config::{DatabaseConfig, LogConfig};
use tributary_shared::engines;
use tributary_shared::ids::{AffiliateId, ProgramId};
use tributary_shared::secrets::KeyRing;
use uuid::Uuid;

use crate::settle::{Model, Settler};
use crate::table::STYLE;

/// Conversions that are settled together.
const AT_ONCE: i64 = 500;

/// Settles conversions of the past again and reports what changes for each affiliate
#[derive(Debug, Clone, Parser)]
pub struct ReplayCommand {
    /// Conversions from this time on, as 2026-01-31T12:00:00Z
    #[arg(long, value_parser = time)]
    pub from: DateTime<Utc>,
    /// Up to, and without, this time
    #[arg(long, value_parser = time)]
    pub to: DateTime<Utc>,
    /// Only those of this program, by its id
    #[arg(long)]
    pub program: Option<i64>,
    /// Shared out by this model: last_click, first_click, linear, time_decay or position_based [default: as they were]
    #[arg(long)]
    pub model: Option<Model>,
    /// Priced by the rules of this time [default: of the time of each order]
    #[arg(long, value_parser = time)]
    pub rules_of: Option<DateTime<Utc>>,
    /// Only say what would change; conversions that are looked at can't change meanwhile
    #[arg(long)]
    pub dry_run: bool,
    /// Keys that sign click tokens, as id:hex,id:hex; the same as the redirector's
    #[arg(long, env, hide_env_values = true)]
    pub click_token_keys: KeyRing,
    #[command(flatten)]
    pub database: DatabaseConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

/// Why it did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(
        "PostgreSQL does not do what was asked: {0}; what was reported so far is done (see DATABASE_URL)"
    )]
    Postgres(#[from] sqlx::Error),
    #[error("--from must be before --to")]
    Period,
    #[error("stopped as asked; what was settled so far stays so, run it again for the rest")]
    Stopped,
    #[error("cannot go on: {0}")]
    Output(#[from] io::Error),
}

/// What one affiliate earns in one currency, before and after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Change {
    before: Decimal,
    after: Decimal,
}

type Changes = BTreeMap<(AffiliateId, String), Change>;

/// Does what the command says and writes the answer to `out`.
///
/// # Errors
/// When PostgreSQL is away or refuses.
pub async fn run(
    command: &ReplayCommand,
    out: &mut impl Write,
    stop: &CancellationToken,
) -> Result<(), ReplayError> {
    if command.from >= command.to {
        return Err(ReplayError::Period);
    }
    let pool = engines::postgres::pool(&command.database, "replay", 2)?;
    let settler = Settler::new(command.click_token_keys.clone(), Clock::system());
    let mut changes = Changes::new();
    let mut dry = match command.dry_run {
        true => Some(pool.begin().await?),
        false => None,
    };
    let progress = progress(count(&pool, command).await?);
    let mut after = (command.from, Uuid::nil());
    let mut conversions = 0_u64;
    loop {
        let ids = next(&pool, command, after).await?;
        let Some(last) = ids.last().copied() else {
            break;
        };
        let only: Vec<Uuid> = ids.iter().map(|(id, _)| *id).collect();
        match &mut dry {
            Some(transaction) => again(transaction, command, &settler, &only, &mut changes).await?,
            None => {
                let mut transaction = pool.begin().await?;
                again(&mut transaction, command, &settler, &only, &mut changes).await?;
                transaction.commit().await?;
            }
        }
        after = (last.1, last.0);
        conversions += only.len() as u64;
        progress.inc(only.len() as u64);
        if stop.is_cancelled() {
            progress.finish_and_clear();
            return Err(ReplayError::Stopped);
        }
    }
    progress.finish_and_clear();
    if let Some(transaction) = dry {
        transaction.rollback().await?;
    }
    report(command, conversions, &changes, out)?;
    Ok(())
}

async fn count(pool: &PgPool, command: &ReplayCommand) -> Result<u64, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM conversions WHERE converted_at >= $1 AND converted_at < $2
         AND ($3::bigint IS NULL OR program_id = $3)",
    )
    .bind(command.from)
    .bind(command.to)
    .bind(command.program.map(ProgramId))
    .fetch_one(pool)
    .await?;
    Ok(count.unsigned_abs())
}

/// The next conversions behind this one, in the order of time: what earlier ones earn may decide about later ones.
async fn next(
    pool: &PgPool,
    command: &ReplayCommand,
    after: (DateTime<Utc>, Uuid),
) -> Result<Vec<(Uuid, DateTime<Utc>)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, converted_at FROM conversions WHERE (converted_at, id) > ($1, $2) AND converted_at < $3
         AND ($4::bigint IS NULL OR program_id = $4) ORDER BY converted_at, id LIMIT $5",
    )
    .bind(after.0)
    .bind(after.1)
    .bind(command.to)
    .bind(command.program.map(ProgramId))
    .bind(AT_ONCE)
    .fetch_all(pool)
    .await
}

async fn again(
    connection: &mut PgConnection,
    command: &ReplayCommand,
    settler: &Settler,
    ids: &[Uuid],
    changes: &mut Changes,
) -> Result<(), sqlx::Error> {
    for (key, amount) in earned(connection, ids).await? {
        changes.entry(key).or_default().before += amount;
    }
    sqlx::query("UPDATE conversions SET model = coalesce($2, model), rules_at = coalesce($3, rules_at) WHERE id = ANY($1)")
        .bind(ids)
        .bind(command.model.map(Model::as_str))
        .bind(command.rules_of)
        .execute(&mut *connection)
        .await?;
    settler.settle(connection, ids, None).await?;
    for (key, amount) in earned(connection, ids).await? {
        changes.entry(key).or_default().after += amount;
    }
    Ok(())
}

async fn earned(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<((AffiliateId, String), Decimal)>, sqlx::Error> {
    let rows: Vec<(AffiliateId, String, Decimal)> = sqlx::query_as(
        "SELECT affiliate_id, currency, sum(amount) FROM commissions WHERE conversion_id = ANY($1) GROUP BY 1, 2",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, currency, sum)| ((id, currency), sum))
        .collect())
}

fn progress(conversions: u64) -> ProgressBar {
    let style = "{bar:40} {pos} of {len} conversions, {eta} left";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(conversions).with_style(style)
}

fn report(
    command: &ReplayCommand,
    conversions: u64,
    changes: &Changes,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_header(["affiliate", "currency", "before", "after", "difference"]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let different = changes
        .iter()
        .filter(|(_, change)| change.before != change.after);
    let mut affiliates = 0;
    for ((affiliate, currency), change) in different {
        affiliates += 1;
        let amount = |amount: Decimal| amount.normalize().to_string();
        table.add_row([
            affiliate.to_string(),
            currency.clone(),
            amount(change.before),
            amount(change.after),
            format!("{:+}", (change.after - change.before).normalize()),
        ]);
    }
    if affiliates > 0 {
        writeln!(out, "{table}")?;
    }
    let outcome = match (affiliates, command.dry_run) {
        (0, _) => "nothing changes",
        (_, true) => "this would change; nothing was written",
        (_, false) => "this was posted to the ledger",
    };
    writeln!(out, "{conversions} conversions settled again: {outcome}.")
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|error| format!("{error}; write it as 2026-01-31T12:00:00Z"))
}
