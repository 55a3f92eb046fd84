//! The engines of a measurement: links written to Redis, and clicks counted in Kafka.

use std::time::{Duration, Instant};

use clap::Parser;
use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tributary_shared::config::{KafkaConfig, RedisConfig};
use tributary_shared::engines::kafka;
use tributary_shared::events::{Clicks, Topic, Topics};
use tributary_shared::ids::TenantId;
use tributary_shared::links::{EdgeKeys, Link};

use super::servers::{REDIS_PREFIX, TOPIC_PREFIX};
use crate::Error;

/// Links written to Redis at once.
const BATCH: usize = 5_000;
/// Whose links they are.
const TENANT: TenantId = TenantId(1);
const WINDOW_SECONDS: u64 = 30 * 24 * 60 * 60;
/// How long one question to Kafka may take.
const KAFKA_WITHIN: Duration = Duration::from_secs(10);
/// How long the last clicks of a measurement may take to arrive.
const ARRIVE_WITHIN: Duration = Duration::from_secs(120);
/// Nothing more arrives once nothing has for so long.
const POLL: Duration = Duration::from_millis(100);

/// Where the engines are, from the environment.
#[derive(Debug, Parser)]
struct Addresses {
    #[command(flatten)]
    redis: RedisConfig,
    #[command(flatten)]
    kafka: KafkaConfig,
}

fn addresses() -> Addresses {
    let mut addresses = Addresses::parse_from(["peers"]);
    addresses.kafka.kafka_topic_prefix = TOPIC_PREFIX.to_owned();
    addresses
}

/// The code of the n-th link; all are equally long.
pub(crate) fn code(n: usize) -> Box<str> {
    format!("b{n:07}").into()
}

/// Writes `links` links to Redis, as the admin API would.
pub(crate) fn write_links(links: usize) -> Result<(), Error> {
    let failed = |source: redis::RedisError| Error::Unreadable {
        doing: "write links to Redis (REDIS_URL)".to_owned(),
        why: source.to_string(),
    };
    let client = redis::Client::open(addresses().redis.redis_url.as_str()).map_err(failed)?;
    let mut redis = client.get_connection().map_err(failed)?;
    let keys = EdgeKeys::new(REDIS_PREFIX);
    for start in (0..links).step_by(BATCH) {
        let mut pipe = redis::pipe();
        for n in start..(start + BATCH).min(links) {
            let (code, number) = (code(n), u64::try_from(n).unwrap_or(0));
            let link = Link {
                link_id: number + 1,
                tenant_id: TENANT.to_wire(),
                program_id: 1,
                affiliate_id: 1 + number % 1000,
                destination: format!(
                    "https://shop.example/product/{n}?click_id={{click_id}}&affiliate={{affiliate_id}}"
                ),
                window_seconds: WINDOW_SECONDS,
                ..Link::default()
            };
            pipe.set(keys.code(&code), TENANT.to_string()).ignore();
            pipe.set(keys.link(TENANT, &code), link.encode_to_vec())
                .ignore();
        }
        pipe.query::<()>(&mut redis).map_err(failed)?;
    }
    redis::cmd("SET")
        .arg(keys.writer())
        .arg("peers")
        .query::<()>(&mut redis)
        .map_err(failed)
}

/// Clicks that arrived in Kafka.
pub(crate) struct Arrivals {
    consumer: BaseConsumer,
    pub(crate) clicks: u64,
}

impl Arrivals {
    /// Makes the topics and counts what comes from now on.
    pub(crate) async fn watch() -> Result<Self, Error> {
        let config = addresses().kafka;
        kafka::create_topics(&config).await.map_err(failed)?;
        let consumer: BaseConsumer = kafka::consumer(&config, "peers").create().map_err(failed)?;
        let topic = Topics::new(TOPIC_PREFIX).name(Topic::Clicks);
        // A topic that was just made has no leaders for a moment.
        let began = Instant::now();
        let partitions = loop {
            match ends(&consumer, &topic) {
                Ok(partitions) => break partitions,
                Err(error) if began.elapsed() > KAFKA_WITHIN => return Err(failed(error)),
                Err(_) => std::thread::sleep(POLL),
            }
        };
        consumer.assign(&partitions).map_err(failed)?;
        Ok(Self {
            consumer,
            clicks: 0,
        })
    }

    /// Reads until `expected` clicks have arrived in all, and nothing more comes.
    pub(crate) fn until(&mut self, expected: u64) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let clicks = Clicks::decode(message.payload().unwrap_or_default());
                    let clicks = clicks.map_err(|error| Error::Unreadable {
                        doing: "read a click from Kafka".to_owned(),
                        why: error.to_string(),
                    })?;
                    // One without an id is of a code that could not be looked up: nobody was redirected.
                    let redirected = clicks.clicks.iter().filter(|c| !c.click_id.is_empty());
                    self.clicks += u64::try_from(redirected.count()).unwrap_or(0);
                }
                Some(Err(error)) => return Err(failed(error)),
                None if self.clicks >= expected => return Ok(()),
                None if began.elapsed() > ARRIVE_WITHIN => {
                    return Err(Error::Unreadable {
                        doing: "wait for the clicks in Kafka".to_owned(),
                        why: format!("{} of {expected} arrived", self.clicks),
                    });
                }
                None => {}
            }
        }
    }
}

/// Where each partition of a topic ends now.
fn ends(consumer: &BaseConsumer, topic: &str) -> Result<TopicPartitionList, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), KAFKA_WITHIN)?;
    let mut partitions = TopicPartitionList::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
    {
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), KAFKA_WITHIN)?;
        partitions.add_partition_offset(topic, partition.id(), Offset::Offset(end))?;
    }
    if partitions.count() == 0 {
        return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic));
    }
    Ok(partitions)
}

fn failed(error: KafkaError) -> Error {
    Error::Unreadable {
        doing: "use Kafka (KAFKA_BROKERS)".to_owned(),
        why: error.to_string(),
    }
}
