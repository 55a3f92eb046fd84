//! The ledger's outbox → topic `ledger`. A row is deleted in the transaction that read it, after
//! Kafka has acknowledged it: a crash between the two sends it again, and never loses it.

use std::time::Duration;

use futures::future::try_join_all;
use prost::Message as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::postgres::PgListener;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tributary_shared::config::KafkaConfig;
use tributary_shared::engines::kafka;
use tributary_shared::events::{LedgerEvent, Topic, Topics, ledger_event};
use tributary_shared::ids::TenantId;
use tributary_shared::names;

use crate::RunError;
use crate::retry::{Stopped, until_done};

/// Rows that are sent together.
const BATCH_ROWS: i64 = 1000;
/// How often the outbox is looked at without having been told to.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// The PostgreSQL advisory lock of the one relay that works: "ledgrout" in ASCII.
const RELAY_LOCK: i64 = 0x6c65_6467_726f_7574;

/// Has what the ledger recorded published, with the caller's transaction.
pub(crate) async fn put(
    connection: &mut PgConnection,
    events: Vec<(TenantId, ledger_event::Event)>,
) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    let (tenants, payloads): (Vec<TenantId>, Vec<Vec<u8>>) = events
        .into_iter()
        .map(|(tenant, event)| (tenant, LedgerEvent { event: Some(event) }.encode_to_vec()))
        .unzip();
    sqlx::query(
        "INSERT INTO ledger_outbox (tenant_id, payload) SELECT * FROM unnest($1::bigint[], $2::bytea[])",
    )
    .bind(tenants)
    .bind(payloads)
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("PostgreSQL: {0}")]
    Postgres(#[from] sqlx::Error),
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
}

/// Sends what the ledger recorded.
pub(crate) struct Relay {
    pool: PgPool,
    producer: FutureProducer,
    topic: String,
}

impl Relay {
    pub(crate) fn new(pool: PgPool, producer: FutureProducer, config: &KafkaConfig) -> Self {
        Self {
            pool,
            producer,
            topic: Topics::new(&config.kafka_topic_prefix).name(Topic::Ledger),
        }
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let mut listener = None;
        loop {
            let sent = until_done("ledger outbox", &shutdown, || self.send_batch()).await;
            match sent {
                Err(Stopped) => return Ok(()),
                Ok(sent) if sent == BATCH_ROWS => {} // there is more
                Ok(_) => tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = self.news(&mut listener) => {}
                    () = tokio::time::sleep(POLL_EVERY) => {}
                },
            }
            if shutdown.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Returns when PostgreSQL says that there is something to send; never when it can't say.
    async fn news(&self, listener: &mut Option<PgListener>) {
        if listener.is_none() {
            let connected = async {
                let mut listener = PgListener::connect_with(&self.pool).await?;
                listener.listen("ledger_outbox").await?;
                Ok::<_, sqlx::Error>(listener)
            };
            *listener = connected.await.ok();
        }
        match listener {
            Some(connection) => {
                if connection.recv().await.is_err() {
                    *listener = None;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Sends a batch; how many rows it had.
    async fn send_batch(&self) -> Result<i64, RelayError> {
        let mut transaction = self.pool.begin().await?;
        let mine: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
            .bind(RELAY_LOCK)
            .fetch_one(&mut *transaction)
            .await?;
        if !mine {
            return Ok(0);
        }
        let rows: Vec<(i64, i64, Vec<u8>)> =
            sqlx::query_as("SELECT id, tenant_id, payload FROM ledger_outbox ORDER BY id LIMIT $1")
                .bind(BATCH_ROWS)
                .fetch_all(&mut *transaction)
                .await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let deliveries = rows.iter().map(|(_, tenant_id, payload)| {
            let key = tenant_id.to_string();
            let record = FutureRecord::to(&self.topic).payload(payload).key(&key);
            self.producer
                .send_result(record)
                .map_err(|(error, _)| error)
        });
        let deliveries = deliveries.collect::<Result<Vec<_>, KafkaError>>()?;
        try_join_all(deliveries.into_iter().map(kafka::acknowledged)).await?;
        let ids: Vec<i64> = rows.iter().map(|(id, ..)| *id).collect();
        sqlx::query("DELETE FROM ledger_outbox WHERE id = ANY($1)")
            .bind(&ids)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        metrics::counter!(names::LEDGER_EVENTS_PUBLISHED).increment(ids.len() as u64);
        Ok(i64::try_from(ids.len()).unwrap_or(BATCH_ROWS))
    }
}
