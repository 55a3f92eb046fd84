//! `processor ledger`: holds the ledger against itself. Balances and commissions' positions are kept beside the entries;
//! the entries are the truth. `check` says where they differ, `rebuild` makes the balances anew from the entries.

use std::io::{self, Write};

use clap::{Parser, Subcommand};
use comfy_table::{CellAlignment, Table};
use tributary_shared::config::{DatabaseConfig, LogConfig};
use tributary_shared::engines;

use crate::table::STYLE;

/// Compares what is kept beside the ledger's entries with the entries, or makes it anew
#[derive(Debug, Clone, Parser)]
pub struct LedgerCommand {
    #[command(subcommand)]
    pub action: LedgerAction,
    #[command(flatten)]
    pub database: DatabaseConfig,
    #[command(flatten)]
    pub log: LogConfig,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum LedgerAction {
    /// Says what does not agree; its exit code is not 0 when anything does not
    Check,
    /// Makes all balances anew from the entries; postings wait meanwhile
    Rebuild,
}

/// Why it did not do what it was asked, or what it found.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("PostgreSQL does not do what was asked: {0} (see DATABASE_URL)")]
    Postgres(#[from] sqlx::Error),
    #[error(
        "{0} things do not agree, as printed above; `processor ledger rebuild` mends balances, the others need a person"
    )]
    Differs(i64),
    #[error("cannot go on: {0}")]
    Output(#[from] io::Error),
}

/// What must be, and how many are not so.
const CHECKS: [(&str, &str); 8] = [
    (
        "transactions that sum to zero",
        "SELECT count(*), count(*) FILTER (WHERE wrong) FROM (
             SELECT bool_or(sum <> 0) AS wrong FROM (
                 SELECT transaction_id, sum(amount) FROM ledger_entries GROUP BY transaction_id, currency) s GROUP BY transaction_id) t",
    ),
    (
        "balances that are the sum of their entries",
        "SELECT count(*), count(*) FILTER (WHERE balance IS DISTINCT FROM sum) FROM (
             SELECT a.id, sum(e.amount) FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id
             WHERE a.affiliate_id IS NOT NULL GROUP BY a.id) s FULL JOIN ledger_balances b ON b.account_id = s.id",
    ),
    (
        "commissions that stand where their entries say",
        "SELECT count(*), count(*) FILTER (WHERE (m.pending, m.available, m.in_payout, m.paid, m.clawback) IS DISTINCT FROM
                    (coalesce(s.pending, 0), coalesce(s.available, 0), coalesce(s.in_payout, 0), coalesce(s.paid, 0), coalesce(s.clawback, 0)))
         FROM commissions m LEFT JOIN (
             SELECT t.commission_id, sum(e.amount) FILTER (WHERE a.kind = 'pending') AS pending,
                    sum(e.amount) FILTER (WHERE a.kind = 'available') AS available,
                    sum(e.amount) FILTER (WHERE a.kind = 'in_payout') AS in_payout,
                    sum(e.amount) FILTER (WHERE a.kind = 'paid') AS paid,
                    sum(e.amount) FILTER (WHERE a.kind = 'clawback') AS clawback
             FROM ledger_entries e JOIN ledger_transactions t ON t.id = e.transaction_id
             JOIN ledger_accounts a ON a.id = e.account_id GROUP BY t.commission_id) s ON s.commission_id = m.id",
    ),
    (
        "commissions whose postings are all there",
        "SELECT count(*), count(*) FILTER (WHERE m.postings <> coalesce(s.postings, 0)) FROM commissions m LEFT JOIN (
             SELECT commission_id, count(*) AS postings FROM ledger_transactions GROUP BY commission_id) s ON s.commission_id = m.id",
    ),
    (
        "payouts that are the sum of their items",
        "SELECT count(*), count(*) FILTER (WHERE p.amount IS DISTINCT FROM s.sum) FROM payouts p LEFT JOIN (
             SELECT payout_id, sum(amount) FROM payout_items GROUP BY payout_id) s ON s.payout_id = p.id",
    ),
    (
        "commissions of which as much is in payouts as the open ones say",
        "SELECT count(*), count(*) FILTER (WHERE m.in_payout <> coalesce(s.sum, 0)) FROM commissions m LEFT JOIN (
             SELECT i.commission_id, sum(i.amount) FROM payout_items i JOIN payouts p ON p.id = i.payout_id WHERE NOT p.booked
             GROUP BY i.commission_id) s ON s.commission_id = m.id",
    ),
    (
        "commissions of which as much is paid as the paid ones say",
        "SELECT count(*), count(*) FILTER (WHERE m.paid <> coalesce(s.sum, 0)) FROM commissions m LEFT JOIN (
             SELECT i.commission_id, sum(i.amount) FROM payout_items i JOIN payouts p ON p.id = i.payout_id
             WHERE p.booked AND p.state = 'paid' GROUP BY i.commission_id) s ON s.commission_id = m.id",
    ),
    (
        "paid payouts that the ledger has as sent, fee and tax",
        "SELECT count(*), count(*) FILTER (WHERE (p.amount, p.net, p.fee, p.withheld) IS DISTINCT FROM
                    (s.amount, s.net, coalesce(s.fee, 0), coalesce(s.withheld, 0)))
         FROM payouts p LEFT JOIN (
             SELECT t.payout_id, -sum(e.amount) FILTER (WHERE a.kind = 'payouts') AS amount,
                    sum(e.amount) FILTER (WHERE a.kind = 'payouts_sent') AS net,
                    sum(e.amount) FILTER (WHERE a.kind = 'payout_fees') AS fee,
                    sum(e.amount) FILTER (WHERE a.kind = 'tax_withheld') AS withheld
             FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id JOIN ledger_accounts a ON a.id = e.account_id
             WHERE t.payout_id IS NOT NULL AND t.commission_id IS NULL GROUP BY t.payout_id) s ON s.payout_id = p.id
         WHERE p.booked AND p.state = 'paid'",
    ),
];

/// Does what the command says and writes the answer to `out`.
///
/// # Errors
/// When PostgreSQL is away, and when something does not agree.
pub async fn run(command: &LedgerCommand, out: &mut impl Write) -> Result<(), LedgerError> {
    let pool = engines::postgres::pool(&command.database, "ledger-command", 1)?;
    let mut transaction = pool.begin().await?;
    if matches!(command.action, LedgerAction::Rebuild) {
        sqlx::query("LOCK TABLE ledger_entries IN SHARE MODE")
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM ledger_balances")
            .execute(&mut *transaction)
            .await?;
        let made = sqlx::query(
            "INSERT INTO ledger_balances SELECT e.account_id, sum(e.amount) FROM ledger_entries e
             JOIN ledger_accounts a ON a.id = e.account_id AND a.affiliate_id IS NOT NULL GROUP BY e.account_id",
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        writeln!(out, "{} balances made anew.", made.rows_affected())?;
        return Ok(());
    }
    // All questions see the same moment.
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *transaction)
        .await?;
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_header(["what must be", "looked at", "not so"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut wrong = 0;
    for (what, sql) in CHECKS {
        let (all, not_so): (i64, i64) = sqlx::query_as(sql).fetch_one(&mut *transaction).await?;
        wrong += not_so;
        table.add_row([what.to_owned(), all.to_string(), not_so.to_string()]);
    }
    writeln!(out, "{table}")?;
    if wrong > 0 {
        return Err(LedgerError::Differs(wrong));
    }
    writeln!(out, "The ledger is in order.")?;
    Ok(())
}
