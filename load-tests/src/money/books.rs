//! What the ledger and the facts say, read straight from PostgreSQL and ClickHouse.

use std::collections::BTreeMap;

use clap::Parser;
use sqlx::PgPool;
use tributary_shared::config::{ClickHouseConfig, DatabaseConfig, KafkaConfig};
use tributary_shared::engines;

use super::auditor::{Account, Owed};
use crate::Error;
use crate::reckon::Coin;

/// Where the engines are, from the environment.
#[derive(Debug, Parser)]
pub(super) struct Addresses {
    #[command(flatten)]
    pub(super) kafka: KafkaConfig,
    #[command(flatten)]
    pub(super) clickhouse: ClickHouseConfig,
    #[command(flatten)]
    pub(super) database: DatabaseConfig,
}

impl Addresses {
    pub(super) fn from_environment() -> Self {
        Self::parse_from(["money"])
    }
}

/// Sessions of its own.
const CONNECTIONS: u32 = 2;

/// The ledger and the facts of one run, whose affiliates' names and orders' ids begin with its name.
pub(super) struct Books {
    pub(super) pool: PgPool,
    addresses: Addresses,
    run: String,
}

/// How far everything is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) reports: usize,
    pub(super) conversions: usize,
    /// Those that are due to be settled now, or that the facts were not asked for.
    pub(super) unsettled: usize,
    /// Messages that were not published.
    pub(super) unpublished: usize,
    /// Conversions in the facts.
    pub(super) facts: usize,
}

impl Progress {
    /// Whether so many conversions are through, and nothing is left to do.
    pub(super) fn is_done(&self, conversions: usize) -> bool {
        self.conversions == conversions
            && self.facts == conversions
            && self.unsettled == 0
            && self.unpublished == 0
    }
}

/// What stands in the two ledgers of each account.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Balances as they are kept.
    pub(super) balances: Owed,
    /// The sums of the entries.
    pub(super) entries: Owed,
    /// The facts' sums, for each affiliate and currency.
    pub(super) facts: BTreeMap<(i64, &'static str), i128>,
}

impl Books {
    pub(super) fn open(addresses: Addresses, run: &str) -> Result<Self, Error> {
        let pool = engines::postgres::pool(&addresses.database, "money", CONNECTIONS)
            .map_err(Error::postgres("opening the books"))?;
        Ok(Self {
            pool,
            addresses,
            run: run.to_owned(),
        })
    }

    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How many reports are recorded, of whomever.
    pub(super) async fn recorded(&self) -> Result<u64, Error> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM conversion_reports")
            .fetch_one(&self.pool)
            .await
            .map_err(Error::postgres("counting reports"))?;
        Ok(count.unsigned_abs())
    }

    pub(super) async fn progress(&self) -> Result<Progress, Error> {
        let (reports, conversions, unsettled, unpublished): (i64, i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM conversion_reports r JOIN conversions c ON c.id = r.conversion_id WHERE starts_with(c.order_id, $1)),
                    count(*), count(*) FILTER (WHERE looks < 100 OR settle_at <= now() + interval '2 minutes'),
                    (SELECT count(*) FROM ledger_outbox)
             FROM conversions WHERE starts_with(order_id, $1)",
        )
        .bind(&self.run)
        .fetch_one(&self.pool)
        .await
        .map_err(Error::postgres("asking how far it is"))?;
        let facts = self.facts_count("conversions FINAL").await?;
        let count = |n: i64| usize::try_from(n).unwrap_or(0);
        Ok(Progress {
            reports: count(reports),
            conversions: count(conversions),
            unsettled: count(unsettled),
            unpublished: count(unpublished),
            facts,
        })
    }

    /// Conversions of the run in the facts, by the table's rows as they count.
    async fn facts_count(&self, table: &str) -> Result<usize, Error> {
        let count = self
            .number(&format!(
                "SELECT count() FROM {table} WHERE startsWith(order_id, '{}')",
                self.run
            ))
            .await?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// One number from ClickHouse.
    pub(super) async fn number(&self, question: &str) -> Result<u64, Error> {
        let facts = engines::clickhouse::client(&self.addresses.clickhouse);
        let number = facts.query(question).fetch_one::<u64>().await;
        number.map_err(|error| unanswered(question, &error.to_string()))
    }

    pub(super) async fn standing(&self, programs: &[i64]) -> Result<Standing, Error> {
        let balances = self
            .accounts(
                "SELECT a.affiliate_id, a.currency, a.kind, b.balance::text FROM ledger_balances b
                 JOIN ledger_accounts a ON a.id = b.account_id JOIN affiliates f ON f.id = a.affiliate_id
                 WHERE starts_with(f.name, $1) AND b.balance <> 0",
            )
            .await?;
        let entries = self
            .accounts(
                "SELECT a.affiliate_id, a.currency, a.kind, sum(e.amount)::text FROM ledger_entries e
                 JOIN ledger_accounts a ON a.id = e.account_id JOIN affiliates f ON f.id = a.affiliate_id
                 WHERE starts_with(f.name, $1) GROUP BY a.id HAVING sum(e.amount) <> 0",
            )
            .await?;
        let facts = engines::clickhouse::client(&self.addresses.clickhouse);
        let question = "SELECT affiliate_id, toString(currency), toString(sum(amount)) AS total FROM commissions FINAL
             WHERE program_id IN ? GROUP BY affiliate_id, currency HAVING sum(amount) != 0";
        let rows: Vec<(u64, String, String)> = facts
            .query(question)
            .bind(programs)
            .fetch_all()
            .await
            .map_err(|error| unanswered(question, &error.to_string()))?;
        let mut sums = BTreeMap::new();
        for (affiliate, currency, amount) in rows {
            let (code, minor) = minor(&currency, &amount)?;
            sums.insert((affiliate.cast_signed(), code), minor);
        }
        Ok(Standing {
            balances,
            entries,
            facts: sums,
        })
    }

    async fn accounts(&self, question: &'static str) -> Result<Owed, Error> {
        let rows: Vec<(i64, String, String, String)> = sqlx::query_as(question)
            .bind(&self.run)
            .fetch_all(&self.pool)
            .await
            .map_err(Error::postgres("reading the ledger"))?;
        let mut accounts = Owed::new();
        for (affiliate, currency, kind, amount) in rows {
            let (code, minor) = minor(&currency, &amount)?;
            let kind = match kind.as_str() {
                "pending" => "pending",
                "available" => "available",
                _ => "another account", // nothing is paid here
            };
            let account: Account = (affiliate, code, kind);
            accounts.insert(account, minor);
        }
        Ok(accounts)
    }
}

fn minor(currency: &str, amount: &str) -> Result<(&'static str, i128), Error> {
    let coin = Coin::of(currency);
    coin.and_then(|coin| Some((coin.code, coin.minor(amount)?)))
        .ok_or_else(|| Error::Unreadable {
            doing: "read an amount of the ledger".to_owned(),
            why: format!("{amount} {currency} is no whole number of minor units"),
        })
}

fn unanswered(question: &str, why: &str) -> Error {
    Error::Unreadable {
        doing: format!("ask ClickHouse: {question}"),
        why: why.to_owned(),
    }
}
