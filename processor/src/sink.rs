//! Writes facts to one ClickHouse table, each message once.
//!
//! Invariants:
//! 1. A batch is one insert of one block into one table partition, so it is stored whole or not at
//!    all, and each row carries the Kafka position that it came from.
//! 2. Rows of a Kafka partition are written in the order of their offsets. With 1, the highest
//!    stored offset says exactly what is stored.
//! 3. A Kafka partition is written to only after its highest stored offset was asked for, since the
//!    last time that partitions moved; messages up to it are skipped.
//! 4. After an insert whose outcome is unknown nothing is written before that insert has ended and
//!    the table was asked whether it took effect.

use std::time::Duration;

use ahash::HashMap;
use clickhouse::{Client, RowOwned, RowWrite};
use metrics::Counter;
use tokio_util::sync::CancellationToken;
use tributary_shared::names;
use uuid::Uuid;

use crate::consume::{Failure, Position, Reader};
use crate::retry::{Retry, Stopped, until_done};

/// How long one insert may take to be sent, and to be answered.
const INSERT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one question to ClickHouse may take, in seconds.
const QUERY_TIMEOUT_SECONDS: &str = "30";
/// Bytes of rows that are held at most, by their own estimate.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// A row of one fact table.
pub(crate) trait Fact: RowOwned + RowWrite {
    const TABLE: &'static str;

    /// Which table partition it belongs to: rows of two are never in one batch.
    fn table_partition(&self) -> i32;

    /// Roughly how much memory it takes.
    fn bytes(&self) -> usize;
}

/// Batches rows of one table and writes them.
pub(crate) struct Sink<F> {
    client: Client,
    max_rows: usize,
    shutdown: CancellationToken,
    rows: Vec<F>,
    bytes: usize,
    /// The last position in `rows` of each Kafka partition.
    held: HashMap<i32, i64>,
    /// The highest stored offset of each Kafka partition; -1 when none is stored.
    stored: HashMap<i32, i64>,
    /// The last insert of `rows`, while its outcome is unknown.
    uncertain: Option<Uuid>,
    written: Counter,
    skipped: Counter,
}

impl<F: Fact> Sink<F>
where
    F: for<'a> clickhouse::Row<Value<'a> = F>,
{
    /// Writes at most `max_rows` at once, and goes on trying until `shutdown`.
    pub(crate) fn new((client, max_rows, shutdown): (Client, u32, CancellationToken)) -> Self {
        Self {
            client: client.with_setting("max_execution_time", QUERY_TIMEOUT_SECONDS),
            max_rows: max_rows as usize,
            shutdown,
            rows: Vec::new(),
            bytes: 0,
            held: HashMap::default(),
            stored: HashMap::default(),
            uncertain: None,
            written: metrics::counter!(names::FACTS_WRITTEN, "table" => F::TABLE),
            skipped: metrics::counter!(names::FACTS_SKIPPED, "table" => F::TABLE),
        }
    }

    /// Adds a row, unless the message at this position was stored before.
    pub(crate) async fn add(
        &mut self,
        row: F,
        at: Position,
        reader: &Reader,
    ) -> Result<(), Failure> {
        if at.offset <= self.stored_up_to(at.partition, reader).await? {
            self.skipped.increment(1);
            return Ok(());
        }
        if self
            .rows
            .first()
            .is_some_and(|first| first.table_partition() != row.table_partition())
        {
            self.write().await?;
        }
        self.bytes += row.bytes();
        self.rows.push(row);
        self.held.insert(at.partition, at.offset);
        Ok(())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= self.max_rows || self.bytes >= MAX_BATCH_BYTES
    }

    /// Partitions have moved: nothing that is held or known can be relied on.
    pub(crate) fn forget(&mut self) {
        self.rows.clear();
        self.bytes = 0;
        self.held.clear();
        self.stored.clear();
        self.uncertain = None;
    }

    async fn stored_up_to(&mut self, partition: i32, reader: &Reader) -> Result<i64, Failure> {
        if let Some(stored) = self.stored.get(&partition) {
            return Ok(*stored);
        }
        let stored = until_done("clickhouse", &self.shutdown, || self.highest(partition)).await?;
        let end = until_done("kafka", &self.shutdown, || reader.end_of(partition)).await?;
        if stored >= end {
            return Err(Failure::Fatal(format!(
                "{} holds rows up to offset {stored} of {}/{partition}, which ends at {end}: Kafka's data was \
                 lost or replaced. Restore it, or give ClickHouse a new database (CLICKHOUSE_DATABASE)",
                F::TABLE,
                reader.topic(),
            )));
        }
        self.stored.insert(partition, stored);
        Ok(stored)
    }

    /// The highest stored offset of a partition, -1 when there is none.
    async fn highest(&self, partition: i32) -> Result<i64, clickhouse::error::Error> {
        // Word for word what the projection of `clicks` holds (count() beside it would read the table).
        let query = format!(
            "SELECT max(kafka_offset) FROM {} WHERE kafka_partition = ? GROUP BY kafka_partition",
            F::TABLE
        );
        let highest = self.client.query(&query).bind(partition).fetch_optional();
        Ok(highest.await?.unwrap_or(-1))
    }

    /// Writes what is held; returns once it is stored.
    pub(crate) async fn write(&mut self) -> Result<(), Stopped> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let shutdown = self.shutdown.clone();
        let mut retry = Retry::new("clickhouse", &shutdown);
        while let Err(error) = self.attempt().await {
            retry.after(error).await?;
        }
        self.written.increment(self.rows.len() as u64);
        self.rows.clear();
        self.bytes = 0;
        self.stored.extend(self.held.drain());
        Ok(())
    }

    /// Inserts what is held, unless the attempt before this one turns out to have done it.
    async fn attempt(&mut self) -> Result<(), clickhouse::error::Error> {
        if let Some(query) = self.uncertain {
            let stored = self.took_effect(query).await?;
            self.uncertain = None;
            if stored {
                return Ok(());
            }
        }
        let query = Uuid::new_v4();
        self.uncertain = Some(query);
        self.insert(query).await?;
        self.uncertain = None;
        Ok(())
    }

    async fn insert(&self, query: Uuid) -> Result<(), clickhouse::error::Error> {
        let mut insert = self
            .client
            .insert::<F>(F::TABLE)
            .await?
            .with_timeouts(Some(INSERT_TIMEOUT), Some(INSERT_TIMEOUT))
            .with_setting("query_id", query.to_string());
        for row in &self.rows {
            insert.write(row).await?;
        }
        insert.end().await
    }

    /// Whether an insert that failed from our point of view stored what is held. Ends it first, and
    /// fails while it still runs.
    async fn took_effect(&self, query: Uuid) -> Result<bool, clickhouse::error::Error> {
        let query = query.to_string();
        self.client
            .query("KILL QUERY WHERE query_id = ? ASYNC")
            .bind(&query)
            .execute()
            .await?;
        let running: u64 = self
            .client
            .query("SELECT count() FROM system.processes WHERE query_id = ?")
            .bind(&query)
            .fetch_one()
            .await?;
        if running > 0 {
            return Err(clickhouse::error::Error::TimedOut);
        }
        // Invariant 1: when one row of the batch is stored, all of it is.
        match self.held.iter().next() {
            Some((partition, offset)) => Ok(self.highest(*partition).await? >= *offset),
            None => Ok(true),
        }
    }
}
