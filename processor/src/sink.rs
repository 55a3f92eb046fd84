//! Writes rows to one ClickHouse table until they are stored, each once.
//!
//! Invariants:
//! 1. A row is inserted only after [`Stored`] has said that the table does not hold it.
//! 2. What [`Stored`] knows is what the table holds: nobody else writes these rows (they come from
//!    Kafka partitions that are ours), and of our own inserts it knows all that have ended.
//! 3. While an insert may be under way of which we hear nothing, nothing is written: ours whose answer
//!    was lost, or, after partitions have moved, their former owner's. Such inserts are ended first,
//!    and what was known is forgotten.
//! 4. What is known is not relied on when it is older than [`TRUST`]: a process that was frozen may
//!    have lost its partitions without knowing it yet.
//!
//! None of it depends on an insert being stored whole. It is anyway, within one table partition: each
//! insert is one block.

use std::collections::BTreeSet;
use std::time::Duration;

use clickhouse::error::Error;
use clickhouse::{Client, RowOwned, RowWrite};
use metrics::Counter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tributary_shared::names;
use uuid::Uuid;

use crate::retry::{Retry, Stopped};

/// How long one insert may take to be sent, and to be answered.
const INSERT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one question to ClickHouse may take, in seconds.
const QUERY_TIMEOUT_SECONDS: &str = "30";
/// Bytes of rows that are held at most, by their own estimate, and one message's more.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// How long what is known of the table is relied on. Kafka gives a silent processor's partitions to
/// others after twice as long (session.timeout.ms).
const TRUST: Duration = Duration::from_secs(3);

/// A row of one fact table.
pub(crate) trait Fact: RowOwned + RowWrite {
    const TABLE: &'static str;

    /// Which table partition it belongs to: rows of two are never in one insert.
    fn table_partition(&self) -> i32;

    /// Roughly how much memory it takes.
    fn bytes(&self) -> usize;
}

/// What is known of the rows that a table holds.
pub(crate) trait Stored<F> {
    /// Removes the rows that are stored, and repetitions among them. Asks for what is not known.
    async fn keep_new(&mut self, client: &Client, rows: &mut Vec<F>) -> Result<(), Error>;

    /// `rows`, which were new, are stored.
    fn stored(&mut self, rows: &[F]);

    /// What was known may be wrong.
    fn forget(&mut self);
}

/// Makes rows ready to be stored.
pub(crate) trait Prepare<F> {
    /// Before each attempt: what was right for the first may not be for one that comes much later.
    async fn prepare(&mut self, rows: &mut [F]) -> Result<(), Stopped>;
}

/// For rows that need nothing.
pub(crate) struct AsTheyAre;

impl<F> Prepare<F> for AsTheyAre {
    async fn prepare(&mut self, _: &mut [F]) -> Result<(), Stopped> {
        Ok(())
    }
}

/// For a table that merges repetitions itself, and is read so: any row may be written again.
#[derive(Default)]
pub(crate) struct Repeatable;

impl<F> Stored<F> for Repeatable {
    async fn keep_new(&mut self, _: &Client, _: &mut Vec<F>) -> Result<(), Error> {
        Ok(())
    }

    fn stored(&mut self, _: &[F]) {}

    fn forget(&mut self) {}
}

/// Batches rows of one table and writes them.
pub(crate) struct Sink<F, S> {
    client: Client,
    /// Whether ClickHouse has taken rows of this shape: their types were compared with the table's.
    is_checked: bool,
    max_rows: usize,
    shutdown: CancellationToken,
    rows: Vec<F>,
    bytes: usize,
    known: S,
    /// When `known` was last known to be right.
    known_at: Instant,
    /// Partitions have moved, and their former owner's inserts may still be under way.
    took_over: bool,
    /// Inserts that may be under way, by query id.
    unheard: Vec<String>,
    written: Counter,
    skipped: Counter,
}

impl<F: Fact, S: Stored<F> + Default> Sink<F, S>
where
    F: for<'a> clickhouse::Row<Value<'a> = F>,
{
    /// Writes at most `max_rows` at once (and the rest of a message), and goes on trying until `shutdown`.
    pub(crate) fn new((client, max_rows, shutdown): (Client, u32, CancellationToken)) -> Self {
        Self {
            client: client.with_setting("max_execution_time", QUERY_TIMEOUT_SECONDS),
            is_checked: false,
            max_rows: max_rows as usize,
            shutdown,
            rows: Vec::new(),
            bytes: 0,
            known: S::default(),
            known_at: Instant::now(),
            took_over: true,
            unheard: Vec::new(),
            written: metrics::counter!(names::FACTS_WRITTEN, "table" => F::TABLE),
            skipped: metrics::counter!(names::FACTS_SKIPPED, "table" => F::TABLE),
        }
    }

    pub(crate) fn add(&mut self, row: F) {
        self.bytes += row.bytes();
        self.rows.push(row);
    }

    /// What is held, to be completed before it is written.
    pub(crate) fn rows_mut(&mut self) -> &mut [F] {
        &mut self.rows
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= self.max_rows || self.bytes >= MAX_BATCH_BYTES
    }

    /// Partitions have moved: nothing that is held or known can be relied on.
    pub(crate) fn forget(&mut self) {
        self.rows.clear();
        self.bytes = 0;
        self.known.forget();
        self.took_over = true;
    }

    /// Writes what is held; returns once it is stored.
    pub(crate) async fn write(&mut self, prepare: &mut impl Prepare<F>) -> Result<(), Stopped> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let shutdown = self.shutdown.clone();
        let mut retry = Retry::new("clickhouse", &shutdown);
        loop {
            prepare.prepare(&mut self.rows).await?;
            match self.attempt().await {
                Ok(()) => break,
                Err(error) => retry.after(error).await?,
            }
        }
        self.bytes = 0;
        Ok(())
    }

    /// Inserts what is held and not stored. After a failure it can simply be made again.
    async fn attempt(&mut self) -> Result<(), Error> {
        self.end_unheard().await?;
        if self.known_at.elapsed() > TRUST {
            self.known.forget();
        }
        let asked_at = Instant::now();
        let held = self.rows.len();
        self.known.keep_new(&self.client, &mut self.rows).await?;
        self.skipped.increment((held - self.rows.len()) as u64);

        self.rows.sort_by_key(F::table_partition);
        while let Some(first) = self.rows.first() {
            let partition = first.table_partition();
            let end = self
                .rows
                .partition_point(|row| row.table_partition() <= partition);
            self.insert(end).await?;
            self.known.stored(&self.rows[..end]);
            self.rows.drain(..end);
            self.written.increment(end as u64);
        }
        self.known_at = asked_at;
        Ok(())
    }

    /// Inserts the first `count` rows.
    async fn insert(&mut self, count: usize) -> Result<(), Error> {
        let query = format!("{}{}", query_prefix::<F>(), Uuid::new_v4());
        // Comparing each value with its column's type costs as much as encoding it.
        let client = self.client.clone().with_validation(!self.is_checked);
        let insert = client
            .insert::<F>(F::TABLE)
            .await?
            .with_timeouts(Some(INSERT_TIMEOUT), Some(INSERT_TIMEOUT));
        let mut insert = insert.with_setting("query_id", query.as_str());
        self.unheard.push(query);
        for row in &self.rows[..count] {
            insert.write(row).await?;
        }
        insert.end().await?;
        self.is_checked = true;
        self.unheard.clear();
        Ok(())
    }

    /// Ends the inserts that may be under way; fails while one of them still is.
    async fn end_unheard(&mut self) -> Result<(), Error> {
        if self.took_over {
            let running: Vec<String> = self
                .client
                .query(
                    "SELECT query_id FROM system.processes
                     WHERE current_database = currentDatabase() AND startsWith(query_id, ?)",
                )
                .bind(query_prefix::<F>())
                .fetch_all()
                .await?;
            // Another processor's insert may be among them; it makes that again.
            self.unheard.extend(running);
            self.took_over = false;
        }
        if self.unheard.is_empty() {
            return Ok(());
        }
        self.known.forget();
        self.client
            .query("KILL QUERY WHERE query_id IN ? ASYNC")
            .bind(&self.unheard)
            .execute()
            .await?;
        let running: BTreeSet<String> = self
            .client
            .query("SELECT query_id FROM system.processes WHERE query_id IN ?")
            .bind(&self.unheard)
            .fetch_all::<String>()
            .await?
            .into_iter()
            .collect();
        self.unheard.retain(|query| running.contains(query));
        if self.unheard.is_empty() {
            Ok(())
        } else {
            Err(Error::TimedOut)
        }
    }
}

/// What the query ids of all inserts into the table begin with.
fn query_prefix<F: Fact>() -> String {
    format!("tributary-{}-", F::TABLE)
}
