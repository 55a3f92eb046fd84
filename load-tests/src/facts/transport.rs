//! Clicks through the processor, and the same rows without it.
//!
//! In rounds, so that a machine that changes its pace changes both: clicks are put into Kafka, a processor is
//! started and measured until they are stored; then the stored rows, encoded beforehand, are inserted
//! into a table of the same schema by as many at once, and nothing else.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use reqwest::Client;
use reqwest::header::CONTENT_LENGTH;
use tributary_shared::clock::Clock;
use tributary_shared::config::{ClickHouseConfig, DatabaseConfig, KafkaConfig};
use tributary_shared::engines;
use tributary_shared::events::{Topic, Topics};
use tributary_shared::ids::new_uuid_v7;
use tributary_shared::migrations;
use tributary_shared::secrets::KeyRing;
use uuid::Uuid;

use super::generator::{TENANTS, message};
use crate::Error;
use crate::peers::figures::{self, Unit};
use crate::peers::process::{Process, cpu_time, free_address, memory_kib};

const KEYS: &str = "1:abababababababababababababababababababababababababababababababab";
/// Clicks of one message and of one segment, as a busy redirector makes them.
const MESSAGE: u64 = 250;
pub(super) const SEGMENT: u64 = 50_000;
/// Time between two clicks of a segment.
const STEP_US: i64 = 50;
/// How long storing one round may take.
const STORED_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const FLUSH_WITHIN: Duration = Duration::from_secs(60);

/// How much is measured.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Clicks of one round
    #[arg(long, env, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub clicks: u64,
    /// Rounds
    #[arg(long, env, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub rounds: u64,
    /// Rows that are written at once, by both
    #[arg(long, env, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=500_000))]
    pub batch_rows: u64,
    /// The processor that is measured
    #[arg(long, env, default_value = "target/release/processor")]
    pub processor: PathBuf,
    /// The program chafka, to be measured beside it
    #[arg(long, env)]
    pub chafka: Option<PathBuf>,
}

/// Measures and prints Markdown.
///
/// # Errors
/// What kept it from being measured.
pub(super) async fn run(options: &Options) -> Result<(), Error> {
    let mut place = Place::prepare().await?;
    let mut processed = Vec::new();
    let mut direct = Vec::new();
    let mut by_engine = Vec::new();
    let mut by_chafka = Vec::new();
    for round in 0..options.rounds {
        eprintln!("facts: round {} of {}", round + 1, options.rounds);
        processed.push(place.processed(options).await?);
        direct.push(place.direct(options).await?);
        by_engine.push(place.by_kafka_engine(options).await?);
        if let Some(chafka) = &options.chafka {
            by_chafka.push(place.by_chafka(chafka, options).await?);
        }
    }
    let rates = |runs: &[Run]| -> Vec<u64> { runs.iter().map(|run| run.rate()).collect() };
    let per_cpu = |runs: &[Run]| -> Vec<u64> { runs.iter().map(Run::per_cpu_second).collect() };
    let memory: Vec<u64> = processed.iter().map(|run| run.memory_kib / 1024).collect();
    let (through, straight) = (rates(&processed), rates(&direct));
    figures::head();
    figures::row("Kafka to ClickHouse, clicks/s", Unit::Count, &through);
    figures::row("the same rows from memory, rows/s", Unit::Count, &straight);
    figures::row(
        "**the first to the second**",
        Unit::Hundredths,
        &figures::ratios(&through, &straight),
    );
    figures::row(
        "clicks a second of processor CPU, all threads",
        Unit::Count,
        &per_cpu(&processed),
    );
    figures::row(
        "ClickHouse's Kafka engine, bare, rows/s",
        Unit::Count,
        &rates(&by_engine),
    );
    if !by_chafka.is_empty() {
        figures::row("chafka, bare, rows/s", Unit::Count, &rates(&by_chafka));
        figures::row(
            "chafka, rows a second of its CPU",
            Unit::Count,
            &per_cpu(&by_chafka),
        );
    }
    figures::row("processor, most memory, MiB", Unit::Count, &memory);
    figures::row(
        "bytes a click on disk",
        Unit::Count,
        &[place.bytes_per_click().await?],
    );
    Ok(())
}

/// Where the engines are, from the environment.
#[derive(Debug, Parser)]
struct Addresses {
    #[command(flatten)]
    kafka: KafkaConfig,
    #[command(flatten)]
    clickhouse: ClickHouseConfig,
    #[command(flatten)]
    database: DatabaseConfig,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    clicks: u64,
    took: Duration,
    cpu: Duration,
    pub(crate) memory_kib: u64,
}

impl Run {
    /// Clicks a second.
    pub(crate) fn rate(&self) -> u64 {
        per_second(self.clicks, self.took)
    }

    pub(crate) fn per_cpu_second(&self) -> u64 {
        per_second(self.clicks, self.cpu)
    }
}

pub(crate) fn per_second(count: u64, duration: Duration) -> u64 {
    let micros = duration.as_micros().max(1);
    u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

pub(crate) fn failed(error: KafkaError) -> Error {
    Error::Unreadable {
        doing: "use Kafka (KAFKA_BROKERS)".to_owned(),
        why: error.to_string(),
    }
}

/// Hands a message to the producer, once it has room.
pub(crate) fn send(
    producer: &BaseProducer,
    topic: &str,
    key: &[u8],
    payload: &[u8],
) -> Result<(), Error> {
    let mut record = BaseRecord::to(topic).payload(payload).key(key);
    while let Err((error, again)) = producer.send(record) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
            return Err(failed(error));
        }
        record = again;
        producer.poll(LOOK_EVERY);
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

/// The engines, with everything that the product makes there.
pub(crate) struct Place {
    addresses: Addresses,
    http: Client,
    keys: KeyRing,
    made: u64,
    /// Of the last round.
    segments: Vec<Uuid>,
}

impl Place {
    pub(crate) async fn prepare() -> Result<Self, Error> {
        let addresses = Addresses::parse_from(["facts"]);
        let failed = |doing: &str, why: String| Error::Unreadable {
            doing: doing.to_owned(),
            why,
        };
        let pool = engines::postgres::pool(&addresses.database, "facts", 2)
            .map_err(|error| failed("use PostgreSQL (DATABASE_URL)", error.to_string()))?;
        let facts = engines::clickhouse::client(&addresses.clickhouse);
        let database = &addresses.clickhouse.clickhouse_database;
        migrations::apply(&pool, &facts, database, &addresses.kafka)
            .await
            .map_err(|error| failed("make the schemas", error.to_string()))?;
        sqlx::query(
            "INSERT INTO tenants (id, slug, name) OVERRIDING SYSTEM VALUE
             SELECT n, 'tenant-' || n, 'tenant' FROM generate_series(1, $1) n ON CONFLICT DO NOTHING",
        )
        .bind(i64::try_from(TENANTS).unwrap_or(1))
        .execute(&pool)
        .await
        .map_err(|error| failed("make tenants", error.to_string()))?;
        let keys = KEYS
            .parse()
            .map_err(|_| failed("read the keys", KEYS.to_owned()))?;
        let place = Self {
            addresses,
            http: Client::new(),
            keys,
            made: 0,
            segments: Vec::new(),
        };
        place
            .ask(
                "CREATE TABLE IF NOT EXISTS clicks_direct AS clicks",
                Vec::new(),
            )
            .await?;
        Ok(place)
    }

    /// A round through Kafka and the processor.
    pub(crate) async fn processed(&mut self, options: &Options) -> Result<Run, Error> {
        let stored = self.count("clicks").await?;
        self.produce(options.clicks)?;
        let operations = free_address()?;
        let environment = [
            ("CLICK_TOKEN_KEYS", KEYS.to_owned()),
            ("SEALING_KEYS", KEYS.to_owned()),
            ("METRICS_LISTEN", operations.to_string()),
            ("BATCH_ROWS", options.batch_rows.to_string()),
            ("RUST_LOG", "warn".to_owned()),
        ];
        let mut processor = Process::start(&options.processor, "0,1", &[], &environment)?;
        let pid = processor.pid();
        processor.serves(operations, "/healthz")?;
        self.until_stored("clicks", stored, options.clicks, Some(pid))
            .await
    }

    /// Waits until so many clicks more than `before` stand in the table. Measured is from when the first was
    /// there: joining a group takes seconds in which nothing is done.
    pub(super) async fn until_stored(
        &self,
        table: &str,
        before: u64,
        clicks: u64,
        pid: Option<u32>,
    ) -> Result<Run, Error> {
        let cpu_time = || pid.map_or(Ok(Duration::ZERO), cpu_time);
        let began = Instant::now();
        let (mut first, mut memory) = (None, 0);
        loop {
            let now = self.count(table).await? - before;
            if let Some(pid) = pid {
                memory = memory_kib(pid, "VmRSS")?.max(memory);
            }
            let (already, since, cpu) = match first {
                None if now == 0 && began.elapsed() < STORED_WITHIN => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                None => *first.insert((now, Instant::now(), cpu_time()?)),
                Some(first) => first,
            };
            if now >= clicks {
                return Ok(Run {
                    clicks: now - already,
                    took: since.elapsed(),
                    cpu: cpu_time()?.saturating_sub(cpu),
                    memory_kib: memory,
                });
            }
            if began.elapsed() > STORED_WITHIN {
                return Err(Error::Unreadable {
                    doing: format!("wait until the clicks are in {table}"),
                    why: format!("{now} of {clicks} are"),
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The last round's rows from memory.
    pub(crate) async fn direct(&mut self, options: &Options) -> Result<Run, Error> {
        self.ask("TRUNCATE TABLE clicks_direct", Vec::new()).await?;
        let mut batches = Vec::new();
        for segment in &self.segments {
            let rows = usize::try_from(options.batch_rows).unwrap_or(1);
            for from in (0..SEGMENT).step_by(rows) {
                let rows = format!(
                    "SELECT * FROM clicks WHERE segment_id = '{segment}' AND segment_sequence >= {from}
                     AND segment_sequence < {} FORMAT RowBinary",
                    from + options.batch_rows,
                );
                batches.push(self.bytes(&rows).await?);
            }
        }
        batches.retain(|batch| !batch.is_empty());
        let began = Instant::now();
        for batch in batches {
            self.ask("INSERT INTO clicks_direct FORMAT RowBinary", batch)
                .await?;
        }
        Ok(Run {
            clicks: options.clicks,
            took: began.elapsed(),
            cpu: Duration::ZERO,
            memory_kib: 0,
        })
    }

    /// Of all parts, with their rollups, after ClickHouse has merged what it wants to.
    pub(crate) async fn bytes_per_click(&self) -> Result<u64, Error> {
        self.ask("OPTIMIZE TABLE clicks FINAL", Vec::new()).await?;
        let bytes = "SELECT intDiv(sum(bytes_on_disk), sum(rows)) FROM system.parts
             WHERE active AND database = currentDatabase() AND table = 'clicks'";
        self.number(bytes).await
    }

    fn produce(&mut self, clicks: u64) -> Result<(), Error> {
        let producer: BaseProducer =
            engines::kafka::journal_producer(&self.addresses.kafka, 64 << 20)
                .create()
                .map_err(failed)?;
        let topic = Topics::new(&self.addresses.kafka.kafka_topic_prefix).name(Topic::Clicks);
        let end = self.made + clicks;
        self.segments.clear();
        while self.made < end {
            let now = Clock::system().now();
            let segment = new_uuid_v7(now);
            self.segments.push(segment);
            let upto = (self.made + SEGMENT).min(end);
            let first = self.made;
            while self.made < upto {
                let clicks = self.made..(self.made + MESSAGE).min(upto);
                let sequence = u32::try_from(clicks.start - first).unwrap_or(0);
                let at = now.timestamp_micros() + i64::from(sequence) * STEP_US;
                self.made = clicks.end;
                let payload = message(
                    &self.keys,
                    *segment.as_bytes(),
                    sequence,
                    clicks,
                    at,
                    STEP_US,
                );
                send(&producer, &topic, segment.as_bytes(), &payload)?;
            }
        }
        self.flush(&producer)
    }

    pub(super) fn flush(&self, producer: &BaseProducer) -> Result<(), Error> {
        producer.flush(FLUSH_WITHIN).map_err(failed)
    }

    pub(super) fn segments(&self) -> &[Uuid] {
        &self.segments
    }

    pub(super) fn kafka(&self) -> &KafkaConfig {
        &self.addresses.kafka
    }

    pub(super) fn brokers(&self) -> &str {
        &self.addresses.kafka.kafka_brokers
    }

    pub(super) fn database(&self) -> &str {
        &self.addresses.clickhouse.clickhouse_database
    }

    async fn count(&self, table: &str) -> Result<u64, Error> {
        self.number(&format!("SELECT count() FROM {table}")).await
    }

    pub(super) async fn number(&self, question: &str) -> Result<u64, Error> {
        let text = self.bytes(question).await?;
        let text = String::from_utf8_lossy(&text);
        text.trim().parse().map_err(|_| Error::Unreadable {
            doing: format!("ask ClickHouse: {question}"),
            why: text.into_owned(),
        })
    }

    pub(super) async fn bytes(&self, question: &str) -> Result<Vec<u8>, Error> {
        self.ask(question, Vec::new()).await
    }

    pub(super) async fn ask(&self, query: &str, body: Vec<u8>) -> Result<Vec<u8>, Error> {
        let doing = || format!("ask ClickHouse: {query}");
        let failed = |source| Error::Http {
            doing: doing(),
            source,
        };
        let clickhouse = &self.addresses.clickhouse;
        let parameters = form_urlencoded::Serializer::new(String::new())
            .append_pair("database", &clickhouse.clickhouse_database)
            .append_pair("query", query)
            .finish();
        let url = format!(
            "{}/?{parameters}",
            clickhouse.clickhouse_url.trim_end_matches('/')
        );
        let answer = self
            .http
            .post(url)
            .header(CONTENT_LENGTH, body.len())
            .body(body)
            .send()
            .await
            .map_err(failed)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(failed)?.to_vec();
        if status.is_success() {
            return Ok(body);
        }
        Err(Error::Answer {
            doing: doing(),
            status: status.as_u16(),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}
