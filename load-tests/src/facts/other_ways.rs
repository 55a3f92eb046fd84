//! The bare transport of the same rows by others: ClickHouse's own Kafka table engine, and chafka. Neither
//! enriches, checks or counts once; both are given rows as they will stand in the table.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::BaseProducer;
use tributary_shared::engines::kafka::journal_producer;
use uuid::Uuid;

use super::transport::{Options, Place, Run, SEGMENT, failed, send};
use crate::Error;
use crate::peers::process::Process;

/// Rows of one message for the engine: some 300 KB.
const ROWS: u64 = 1_000;
const PARTITIONS: i32 = 4;
const ADMIN_WITHIN: Duration = Duration::from_secs(20);
/// What chafka skips in each message: the place of a schema's number.
const HEADER: [u8; 5] = [0; 5];
/// The table's columns that hold values, in order, and whether each is a number.
const COLUMNS: &str = "SELECT name, type, match(type, '^U?Int(8|16|32|64)$') FROM system.columns
    WHERE database = currentDatabase() AND table = 'clicks' AND default_kind != 'ALIAS' ORDER BY position FORMAT TSV";

struct Column {
    name: String,
    kind: String,
    is_number: bool,
}

impl Place {
    /// The last round's rows by a table of ClickHouse's Kafka engine.
    pub(super) async fn by_kafka_engine(&self, options: &Options) -> Result<Run, Error> {
        let topic = self.new_topic("rows").await?;
        let producer = self.producer()?;
        for segment in self.segments() {
            for from in (0..SEGMENT).step_by(usize::try_from(ROWS).unwrap_or(1)) {
                let rows = format!("SELECT * {} FORMAT RowBinary", part(*segment, from, ROWS));
                let rows = self.bytes(&rows).await?;
                if !rows.is_empty() {
                    send(&producer, &topic, segment.as_bytes(), &rows)?;
                }
            }
        }
        self.flush(&producer)?;
        let columns: Vec<String> = self
            .columns()
            .await?
            .iter()
            .map(|column| format!("{} {}", column.name, column.kind))
            .collect();
        let brokers = self.brokers();
        let messages = (options.batch_rows / ROWS).max(1);
        for statement in [
            "DROP TABLE IF EXISTS clicks_by_engine".to_owned(),
            "CREATE TABLE clicks_by_engine AS clicks".to_owned(),
            format!(
                "CREATE TABLE rows_in_kafka ({}) ENGINE = Kafka SETTINGS kafka_broker_list = '{brokers}', \
                 kafka_topic_list = '{topic}', kafka_group_name = '{topic}', kafka_format = 'RowBinary', \
                 kafka_max_block_size = {messages}, kafka_poll_max_batch_size = {messages}",
                columns.join(", "),
            ),
            "CREATE MATERIALIZED VIEW rows_to_clicks TO clicks_by_engine AS SELECT * FROM rows_in_kafka"
                .to_owned(),
        ] {
            self.ask(&statement, Vec::new()).await?;
        }
        let run = self
            .until_stored("clicks_by_engine", 0, options.clicks, None)
            .await;
        for table in ["rows_to_clicks", "rows_in_kafka", "clicks_by_engine"] {
            self.ask(&format!("DROP TABLE {table} SYNC"), Vec::new())
                .await?;
        }
        run
    }

    /// The last round's rows by chafka, into a table without rollups, of numbers and texts alone: other types
    /// it can't write.
    pub(super) async fn by_chafka(&self, chafka: &Path, options: &Options) -> Result<Run, Error> {
        let topic = self.new_topic("avro").await?;
        let columns = self.columns().await?;
        self.produce_avro(&topic, &columns).await?;
        let kind = |column: &Column| if column.is_number { "Int64" } else { "String" };
        let table: Vec<String> = columns
            .iter()
            .map(|column| format!("{} {}", column.name, kind(column)))
            .collect();
        // As the library doesn't listen for ClickHouse's own protocol until it is told to.
        for statement in [
            "SYSTEM START LISTEN TCP".to_owned(),
            "DROP TABLE IF EXISTS clicks_by_chafka".to_owned(),
            format!(
                "CREATE TABLE clicks_by_chafka ({}) ENGINE = MergeTree ORDER BY (tenant_id, received_at)",
                table.join(", ")
            ),
        ] {
            self.ask(&statement, Vec::new()).await?;
        }
        let port = self.number("SELECT getServerPort('tcp_port')").await?;
        let folder = std::env::temp_dir().join(&topic);
        std::fs::create_dir_all(&folder).map_err(Error::io("make a folder for chafka"))?;
        let (settings, schema) = (folder.join("chafka.toml"), folder.join("click.avsc"));
        let written = std::fs::write(&schema, avro_schema(&columns)).and_then(|()| {
            std::fs::write(
                &settings,
                format!(
                    "[ingesters.clicks]\ndecoder = \"avro\"\nkafka_broker = \"{}\"\ntopic = \"{topic}\"\n\
                     batch_size = {}\nbatch_timeout_seconds = 1\n\
                     clickhouse_url = \"tcp://default@127.0.0.1:{port}/{}?compression=lz4\"\n\
                     clickhouse_table = \"clicks_by_chafka\"\ncustom.schema_file = \"{}\"\n",
                    self.brokers(),
                    options.batch_rows,
                    self.database(),
                    schema.display(),
                ),
            )
        });
        written.map_err(Error::io("write chafka's settings"))?;
        let settings = settings.to_string_lossy().into_owned();
        let process = Process::start(chafka, "0,1", &["--config", &settings], &[])?;
        let run = self
            .until_stored("clicks_by_chafka", 0, options.clicks, Some(process.pid()))
            .await;
        drop(process);
        let _ = std::fs::remove_dir_all(folder);
        self.ask("DROP TABLE clicks_by_chafka SYNC", Vec::new())
            .await?;
        run
    }

    /// A message for each row.
    async fn produce_avro(&self, topic: &str, columns: &[Column]) -> Result<(), Error> {
        let producer = self.producer()?;
        let values: Vec<String> = columns
            .iter()
            .map(
                |Column {
                     name,
                     kind,
                     is_number,
                 }| match kind.as_str() {
                    _ if *is_number => format!("toInt64({name})"),
                    kind if kind.starts_with("FixedString") => format!("hex({name})"),
                    _ => format!("toString({name})"),
                },
            )
            .collect();
        for segment in self.segments() {
            let rows = format!(
                "SELECT {} {} FORMAT RowBinary",
                values.join(", "),
                part(*segment, 0, SEGMENT)
            );
            let rows = self.bytes(&rows).await?;
            let mut rest = rows.as_slice();
            while !rest.is_empty() {
                let record = avro(&mut rest, columns).ok_or_else(|| Error::Unreadable {
                    doing: "read rows from ClickHouse".to_owned(),
                    why: "a row is cut off".to_owned(),
                })?;
                send(&producer, topic, segment.as_bytes(), &record)?;
            }
        }
        self.flush(&producer)
    }

    async fn columns(&self) -> Result<Vec<Column>, Error> {
        let text = self.bytes(COLUMNS).await?;
        let text = String::from_utf8_lossy(&text);
        let column = |line: &str| {
            let mut fields = line.split('\t');
            Some(Column {
                name: fields.next()?.to_owned(),
                kind: fields.next()?.replace("\\'", "'"),
                is_number: fields.next()? == "1",
            })
        };
        Ok(text.lines().filter_map(column).collect())
    }

    fn producer(&self) -> Result<BaseProducer, Error> {
        journal_producer(self.kafka(), 64 << 20)
            .create()
            .map_err(failed)
    }

    async fn new_topic(&self, what: &str) -> Result<String, Error> {
        let topic = format!("facts-{what}-{}", Uuid::new_v4().simple());
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .create()
            .map_err(failed)?;
        let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(ADMIN_WITHIN));
        admin
            .create_topics([&new], &options)
            .await
            .map_err(failed)?;
        Ok(topic)
    }
}

fn part(segment: Uuid, from: u64, rows: u64) -> String {
    format!(
        "FROM clicks WHERE segment_id = '{segment}' AND segment_sequence >= {from} AND segment_sequence < {}",
        from + rows
    )
}

fn avro_schema(columns: &[Column]) -> String {
    let mut fields = String::new();
    for (place, column) in columns.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let kind = if column.is_number { "long" } else { "string" };
        // Writing to a String can't fail.
        let _ = write!(
            fields,
            r#"{comma}{{"name":"{}","type":"{kind}"}}"#,
            column.name
        );
    }
    format!(r#"{{"type":"record","name":"click","fields":[{fields}]}}"#)
}

/// Takes a row off `rest`: from `RowBinary` to Avro, which writes lengths and numbers in zigzag.
fn avro(rest: &mut &[u8], columns: &[Column]) -> Option<Vec<u8>> {
    let mut record = HEADER.to_vec();
    for column in columns {
        if column.is_number {
            let (number, after) = rest.split_first_chunk::<8>()?;
            *rest = after;
            zigzag(&mut record, i64::from_le_bytes(*number));
        } else {
            let (mut length, mut shift) = (0_usize, 0);
            loop {
                let (byte, after) = rest.split_first()?;
                *rest = after;
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let (text, after) = rest.split_at_checked(length)?;
            *rest = after;
            zigzag(&mut record, i64::try_from(length).ok()?);
            record.extend_from_slice(text);
        }
    }
    Some(record)
}

fn zigzag(record: &mut Vec<u8>, number: i64) {
    let mut left = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while left >= 0x80 {
        record.push(left.to_le_bytes()[0] | 0x80);
        left >>= 7;
    }
    record.push(left.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_avro() {
        let column = |name: &str, is_number| Column {
            name: name.to_owned(),
            kind: String::new(),
            is_number,
        };
        let columns = [column("n", true), column("text", false)];
        let mut rows = Vec::new();
        for (number, text) in [(-1_i64, "ab".to_owned()), (64, "x".repeat(200))] {
            rows.extend(number.to_le_bytes());
            match u8::try_from(text.len()).unwrap() {
                short @ ..0x80 => rows.push(short),
                long => rows.extend([long, 1]),
            }
            rows.extend(text.as_bytes());
        }
        let mut rest = rows.as_slice();
        let first = avro(&mut rest, &columns).unwrap();
        assert_eq!(first, [0, 0, 0, 0, 0, 1, 4, b'a', b'b']);
        let second = avro(&mut rest, &columns).unwrap();
        assert_eq!(second[5..9], [0x80, 1, 0x90, 3]);
        assert_eq!((second.len(), rest.len()), (209, 0));
        assert!(avro(&mut &rows[..5], &columns).is_none());
        assert!(avro_schema(&columns).contains(r#"{"name":"text","type":"string"}"#));
    }
}
