//! From Kafka to facts and money.
//!
//! Thirteen tasks, each the owner of one step; a message's way through the files:
//!
//! | task | reads | through | writes |
//! |---|---|---|---|
//! | clicks | topic `clicks` | `clicks`, `enrich`, `unresolved`, `tenants`, `segments`, `sink` | ClickHouse `clicks` |
//! | conversions | topic `conversions` | `conversions`, `reports`, `settle`, `ledger` | PostgreSQL |
//! | click earnings | ClickHouse `clicks` | `settle` | PostgreSQL |
//! | due, twice | PostgreSQL `conversions`, ClickHouse `clicks` | `settle`, `ledger` | PostgreSQL |
//! | outbox | PostgreSQL `ledger_outbox` | `outbox` | topic `ledger` |
//! | erase | PostgreSQL `erasures`, `tenants` | `erase` | ClickHouse `clicks` |
//! | ledger facts | topic `ledger` | `ledger_facts`, `sink` | ClickHouse `conversions`, `commissions` |
//! | postbacks | topic `postbacks` | `postbacks`, `sink` | ClickHouse `postbacks` |
//! | schedule, drafts, bookings, sending | PostgreSQL `payout_terms`, `payout_runs`, `payouts` | `payouts`, `ledger` | PostgreSQL, providers |
//!
//! `consume` drives the four readers, `dead_letter` keeps what can't be read, `retry` is what
//! happens when an engine is away. `dead_letters_command` lists what was kept and sends it back,
//! `replay_command` settles the past again, `ledger_command` holds the ledger against itself.

mod cli;
mod clicks;
mod config;
mod consume;
mod conversions;
mod dead_letter;
pub mod dead_letters_command;
mod enrich;
mod erase;
mod lag;
mod ledger;
pub mod ledger_command;
mod ledger_facts;
mod order_names;
mod outbox;
mod payouts;
mod postbacks;
pub mod replay_command;
mod reports;
mod retry;
mod segments;
mod settle;
mod sink;
mod table;
mod tenants;
mod unresolved;

use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::FutureProducer;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::engines::{self, kafka};
use tributary_shared::events::{Click, Topic};
use tributary_shared::migrations;
use tributary_shared::secrets::KeyRing;
use tributary_shared::telemetry::{self, Readiness, serve_operations};

pub use cli::{Cli, Tool};
pub use config::Config;
pub use enrich::{AgentsError, EnrichError};
pub use settle::Model;

use crate::clicks::Clicks;
use crate::consume::{Reader, Stage};
use crate::conversions::Conversions;
use crate::dead_letter::DeadLetters;
use crate::enrich::{Countries, Enricher};
use crate::erase::Eraser;
use crate::ledger_facts::{ErasedCustomers, LedgerFacts};
use crate::outbox::Relay;
use crate::payouts::Providers;
use crate::postbacks::Postbacks;
use crate::settle::Settler;
use crate::settle::clicks::ClickEarnings;
use crate::settle::due::{Due, Purpose};
use crate::sink::Sink;
use crate::tenants::Tenants;

/// Connections to PostgreSQL: one for each task that uses it, five that listen, and some for those that send payouts.
const POSTGRES_CONNECTIONS: u32 = 21;

/// How long Kafka may take to acknowledge a message; less than PostgreSQL's patience with a transaction.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the processor stopped without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen: {0}; another program may hold the port (see METRICS_LISTEN)")]
    Listen(#[from] std::io::Error),
    #[error("cannot use the PostgreSQL settings: {0} (see DATABASE_URL)")]
    Postgres(#[from] sqlx::Error),
    #[error("cannot use the Kafka settings: {0} (see KAFKA_BROKERS)")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Enrich(#[from] EnrichError),
    #[error("{0}")]
    Fatal(String),
}

/// Works until `shutdown`, then finishes what it holds.
///
/// # Errors
/// When a setting can't be used, or when a person must act. An engine that is away is no error.
pub async fn run(
    config: Config,
    operations: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    telemetry::metrics(); // counters that are made earlier count for nobody
    let readiness = Readiness::waiting_for(&[
        "schemas",
        Topic::Clicks.name(),
        Topic::Conversions.name(),
        Topic::Ledger.name(),
        Topic::Postbacks.name(),
    ]);
    let operations_stop = CancellationToken::new();
    let _stop_operations = operations_stop.clone().drop_guard();
    tokio::spawn(serve_operations(
        operations,
        readiness.clone(),
        operations_stop,
    ));

    let pool = engines::postgres::pool(&config.database, "processor", POSTGRES_CONNECTIONS)?;
    let clickhouse = engines::clickhouse::client(&config.clickhouse);
    let current = migrations::wait_until_current(&pool, &clickhouse);
    if shutdown.run_until_cancelled(current).await.is_none() {
        return Ok(());
    }
    readiness.ready("schemas");

    // One task that fails stops the others: a processor that does half its work hides it.
    let stop = shutdown.child_token();
    let sink_client = || (clickhouse.clone(), config.batch_rows, stop.clone());
    let enricher = Enricher::new(&config, &stop)?;
    let countries = enricher.places.countries();
    let clicks = Clicks {
        sink: Sink::new(sink_client()),
        enricher,
        tenants: Tenants::default(),
        pool: pool.clone(),
        shutdown: stop.clone(),
        click: Click::default(),
    };
    let settler = Settler::new(config.click_token_keys.clone(), Clock::system());
    let conversions = Conversions::new(pool.clone(), settler.clone(), countries, stop.clone());
    let ledger_facts = LedgerFacts {
        conversions: Sink::new(sink_client()),
        commissions: Sink::new(sink_client()),
        erased: ErasedCustomers {
            pool: pool.clone(),
            shutdown: stop.clone(),
        },
    };
    let postbacks = Postbacks {
        sink: Sink::new(sink_client()),
    };
    // One for all: each has a thread that looks around even while nothing is sent.
    let producer: FutureProducer = kafka::prompt_producer(&config.kafka, KAFKA_TIMEOUT).create()?;
    let relay = Relay::new(pool.clone(), producer.clone(), &config.kafka);
    let max_age = config.batch_age();
    let reading = |topic: Topic| {
        let group = config.group(topic.name());
        Ok::<_, KafkaError>(Reading {
            reader: Reader::new(&config.kafka, &group, topic, readiness.clone())?,
            dead_letters: DeadLetters::new(producer.clone(), &config.kafka, topic),
            max_age,
            stop: stop.clone(),
        })
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(reading(Topic::Clicks)?.drive(clicks));
    tasks.spawn(reading(Topic::Conversions)?.drive(conversions));
    tasks.spawn(reading(Topic::Ledger)?.drive(ledger_facts));
    tasks.spawn(reading(Topic::Postbacks)?.drive(postbacks));
    tasks.spawn(relay.run(stop.clone()));
    for purpose in [Purpose::Look, Purpose::Time] {
        let due = Due {
            pool: pool.clone(),
            facts: clickhouse.clone(),
            settler: settler.clone(),
            purpose,
        };
        tasks.spawn(due.run(stop.clone()));
    }
    let providers =
        Providers::new(&config.providers).map_err(|e| RunError::Fatal(e.to_string()))?;
    payouts::start(
        &mut tasks,
        &pool,
        &config.sealing.sealing_keys,
        providers,
        &stop,
    );
    let click_earnings = ClickEarnings {
        pool: pool.clone(),
        facts: clickhouse.clone(),
        clock: settler.clock.clone(),
        every: Duration::from_secs(config.click_earnings_seconds),
    };
    tasks.spawn(click_earnings.run(stop.clone()));
    tasks.spawn(Eraser::new(pool.clone(), clickhouse.clone()).run(stop.clone()));
    tracing::info!("processor works");

    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        stop.cancel();
        let ended = ended.unwrap_or_else(|panic| Err(RunError::Fatal(panic.to_string())));
        outcome = outcome.and(ended);
    }
    pool.close().await;
    tracing::info!("processor stopped");
    outcome
}

/// Records and settles reports as the reader of topic `conversions` does with what it holds, until PostgreSQL has them. Returns how
/// many of them can't be read; none when `shutdown` came first. With it, tests are many writers at once.
pub async fn record(
    pool: PgPool,
    keys: KeyRing,
    messages: &[Vec<u8>],
    shutdown: CancellationToken,
) -> Option<usize> {
    let settler = Settler::new(keys, Clock::system());
    let mut stage = Conversions::new(pool, settler, Countries::default(), shutdown);
    let mut unread = 0;
    for message in messages {
        unread += stage.take(message).await.ok()?.len();
    }
    stage.finish().await.ok()?;
    Some(unread)
}

/// One topic's reading end.
struct Reading {
    reader: Reader,
    dead_letters: DeadLetters,
    max_age: Duration,
    stop: CancellationToken,
}

impl Reading {
    async fn drive<S: Stage>(self, mut stage: S) -> Result<(), RunError> {
        self.reader
            .drive(&mut stage, &self.dead_letters, self.max_age, &self.stop)
            .await;
        Ok(())
    }
}
