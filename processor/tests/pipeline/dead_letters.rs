//! What could not be read is listed, shown and sent back by the command, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Headers as _;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tributary_processor::dead_letters_command::{self, CommandError};
use tributary_processor::{Cli, Tool};
use tributary_shared::engines::kafka;
use tributary_shared::events::{Click, Conversion, Topic};

use crate::facts::{click, stored};
use crate::support::{CLICK_PARTITIONS, World, message, wait_until};

/// What the command prints, and how it ends.
async fn command(world: &World, arguments: &str) -> (String, Result<(), CommandError>) {
    let kafka = &world.place.kafka;
    let arguments = format!("processor dead-letters {arguments}");
    let mut arguments: Vec<&str> = arguments.split(' ').collect();
    arguments.extend(["--kafka-brokers", &kafka.kafka_brokers]);
    arguments.extend(["--kafka-topic-prefix", &kafka.kafka_topic_prefix]);
    let Cli::Tool(tool) = Cli::try_parse_from(arguments).unwrap() else {
        panic!("not the service");
    };
    let Tool::DeadLetters(command) = *tool else {
        panic!("the command was asked for");
    };
    tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        let outcome = dead_letters_command::run(&command, &mut out, &CancellationToken::new());
        (String::from_utf8(out).unwrap(), outcome)
    })
    .await
    .unwrap()
}

/// What it prints when all is well.
async fn printed(world: &World, arguments: &str) -> String {
    let (text, outcome) = command(world, arguments).await;
    outcome.unwrap();
    println!("$ processor dead-letters {arguments}\n{text}");
    text
}

async fn listed(world: &World, topic: Topic) -> Vec<Value> {
    let text = printed(world, &format!("list --json --topic {}", topic.name())).await;
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The dead letters that messages of topic `clicks` say they come from, and how often, by partition.
async fn redriven_from(world: &World) -> BTreeMap<(i32, String), u32> {
    let config = world.place.kafka.clone();
    let topic = format!("{}clicks", config.kafka_topic_prefix);
    tokio::task::spawn_blocking(move || {
        let mut consumer = kafka::consumer(&config, "nobody");
        let consumer: BaseConsumer = consumer
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        let mut unfinished: BTreeSet<i32> = (0..CLICK_PARTITIONS).collect();
        for partition in &unfinished {
            list.add_partition_offset(&topic, *partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut found = BTreeMap::new();
        while !unfinished.is_empty() {
            match consumer
                .poll(Duration::from_secs(20))
                .expect("Kafka answers")
            {
                Err(KafkaError::PartitionEOF(partition)) => {
                    unfinished.remove(&partition);
                }
                message => {
                    let message = message.unwrap();
                    let header = message.headers().map(|headers| headers.get(0));
                    if let Some(header) = header.filter(|header| header.key == "redriven_from") {
                        let from = String::from_utf8(header.value.unwrap().to_vec()).unwrap();
                        *found.entry((message.partition(), from)).or_default() += 1;
                    }
                }
            }
        }
        found
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn dead_letters_are_listed_and_shown() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let nothing = printed(&world, "list").await;
    assert_eq!(
        nothing,
        "clicks: no dead letters\nconversions: no dead letters\nledger: no dead letters\npostbacks: no dead letters\n"
    );

    let processor = world.processor(|_| {}).await;
    let segment = world.new_segment();
    let bad = Click {
        tenant_id: 0,
        ..click(&world, &shop)
    };
    let clicks = [click(&world, &shop), bad];
    world.publish_clicks(segment, 40, &clicks).await;
    world.publish(Topic::Conversions, b"\xff").await;
    let conversion = Conversion {
        order_id: "A\n1".into(),
        ..Conversion::default()
    };
    world.publish_conversion(&conversion).await;
    world.dead_letters(Topic::Clicks, 1).await;
    world.dead_letters(Topic::Conversions, 2).await;
    processor.stop().await;

    let table = printed(&world, "list").await;
    assert!(table.contains("tenant_id is missing"), "{table}");
    assert!(table.contains(&format!("{segment} 41")), "{table}");
    assert!(table.ends_with(
        "clicks: 1 dead letter\nconversions: 2 dead letters\nledger: no dead letters\npostbacks: no dead letters\n"
    ));
    let [letter] = listed(&world, Topic::Clicks).await.try_into().unwrap();
    assert_eq!(letter["reason"], "tenant_id is missing");
    assert_eq!(
        letter["origin_topic"],
        format!("{}clicks", world.place.kafka.kafka_topic_prefix)
    );
    assert!((0..4).contains(&letter["origin_partition"].as_i64().unwrap()));
    assert_eq!(letter["origin_offset"], 0);
    assert_eq!(
        (&letter["sequence"], &letter["redriven"]),
        (&41.into(), &false.into())
    );

    let one = printed(&world, "list --limit 1 --topic conversions").await;
    assert!(
        one.contains("2 dead letters, the newest 1 are shown"),
        "{one}"
    );
    let late = printed(&world, "list --topic clicks --since 2199-01-01T00:00:00Z").await;
    assert!(
        late.starts_with("clicks: no dead letters since 2199"),
        "{late}"
    );

    let shown = printed(&world, "show clicks 0 0").await;
    assert!(
        shown.contains("  reason: tenant_id is missing\n"),
        "{shown}"
    );
    assert!(shown.contains("outcome: Destination"), "{shown}");
    assert!(shown.contains(&hex(segment.as_bytes())), "{shown}");
    let (_, missing) = command(&world, "show clicks 0 1").await;
    assert!(
        matches!(missing, Err(CommandError::NoLetter { .. })),
        "{missing:?}"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn dead_letters_are_sent_back_once() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let segment = world.new_segment();
    // Readable now, as after a fix; and one that still is not.
    for (sequence, partition) in [(0, 3), (1, 3)] {
        let payload = message(segment, sequence, &[click(&world, &shop)]);
        world
            .publish_dead_letter(Topic::Clicks, partition, &payload)
            .await;
    }
    world.publish_dead_letter(Topic::Clicks, 1, b"\xff").await;

    let dry = printed(&world, "redrive --topic clicks --all --dry-run").await;
    assert!(
        dry.ends_with("3 would be sent back, 0 were before; nothing was sent\n"),
        "{dry}"
    );
    assert_eq!(redriven_from(&world).await, BTreeMap::new());

    let picked = printed(&world, "redrive --topic clicks --at 0:1").await;
    assert!(picked.ends_with("1 sent back, 0 were before\n"), "{picked}");
    wait_until(async || stored(&world).await == (1, 1)).await;
    let (again, outcome) = command(&world, "redrive --topic clicks --at 0:1 0:99").await;
    assert!(
        again.starts_with("0:1 is left out: it was re-driven before\n0:99 is left out"),
        "{again}"
    );
    assert!(matches!(outcome, Err(CommandError::LeftOut(2))));

    let all = printed(&world, "redrive --topic clicks --all").await;
    assert!(all.ends_with("2 sent back, 1 were before\n"), "{all}");
    wait_until(async || stored(&world).await == (2, 2)).await;
    let partitions: Vec<i32> = redriven_from(&world)
        .await
        .into_keys()
        .map(|(partition, _)| partition)
        .collect();
    assert_eq!(
        partitions,
        [1, 3, 3],
        "in the partitions that they came from"
    );

    // What is unreadable still is a dead letter again, one that was not sent back.
    wait_until(async || listed(&world, Topic::Clicks).await.len() == 4).await;
    let letters = listed(&world, Topic::Clicks).await;
    let redriven: Vec<bool> = letters.iter().map(|l| l["redriven"] == true).collect();
    assert_eq!(redriven, [true, true, true, false]);
    assert_eq!(letters[3]["origin_partition"], 1);
    let last = letters[3]["offset"].as_i64().unwrap();
    printed(&world, "list --topic clicks").await;
    assert!(
        printed(&world, "show clicks 0 0")
            .await
            .contains("re-driven    yes")
    );

    let rest = printed(&world, &format!("redrive --topic clicks --at 0:{last}")).await;
    assert!(rest.ends_with("1 sent back, 0 were before\n"), "{rest}");
    wait_until(async || listed(&world, Topic::Clicks).await.len() == 5).await;
    processor.stop().await;
    let nothing = printed(&world, "redrive --topic clicks --all --dry-run").await;
    assert!(
        nothing.ends_with("1 would be sent back, 4 were before; nothing was sent\n"),
        "{nothing}"
    );
    let found = redriven_from(&world).await;
    let expected = [
        (3, "0:0".to_owned()),
        (3, "0:1".to_owned()),
        (1, "0:2".to_owned()),
        (1, format!("0:{last}")),
    ];
    assert_eq!(found, expected.map(|from| (from, 1)).into());
    assert_eq!(stored(&world).await, (2, 2));
}

#[tokio::test]
async fn dead_letters_are_sent_back_once_by_two_people_at_once() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let payload = message(world.new_segment(), 0, &[click(&world, &shop)]);
    let count = 700; // more than two transactions
    let letters = (0..count).map(|_| world.publish_dead_letter(Topic::Clicks, 2, &payload));
    futures::future::join_all(letters).await;
    let redrive = || command(&world, "redrive --topic clicks --all");
    let late = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        redrive().await
    };
    // The one that is overtaken ends with an error; the other knows what it had sent. While Kafka hands the transactional id
    // over it may also answer a commit with an error of its own, which says to run the command again.
    let (one, other) = tokio::join!(redrive(), late);
    println!("{:?}\n{:?}", one.1, other.1);
    for outcome in [&one.1, &other.1] {
        assert!(matches!(
            outcome,
            Ok(()) | Err(CommandError::Overtaken(_) | CommandError::NotCommitted(_))
        ));
    }
    assert!(one.1.is_ok() || other.1.is_ok());
    let nothing = printed(&world, "redrive --topic clicks --all").await;
    assert_eq!(nothing, format!("0 sent back, {count} were before\n"));
    let found = redriven_from(&world).await;
    assert_eq!(found.len(), count);
    assert!(
        found
            .iter()
            .all(|((partition, _), times)| (*partition, *times) == (2, 1))
    );
}

#[tokio::test]
async fn dead_letters_without_a_way_back_are_left_out() {
    let world = World::create().await;
    let conversion = Conversion::default().encode_to_vec();
    world
        .publish_dead_letter(Topic::Conversions, 99, &conversion)
        .await;
    world
        .publish_dead_letter(Topic::Conversions, 0, &conversion)
        .await;
    let (text, outcome) = command(&world, "redrive --topic conversions --all").await;
    assert!(text.starts_with("0:0 is left out: "), "{text}");
    assert!(text.ends_with("1 sent back, 0 were before\n"), "{text}");
    assert!(matches!(outcome, Err(CommandError::LeftOut(1))));
    // The marker itself is nothing to send.
    let (_, marker) = command(&world, "redrive --topic conversions --at 0:2").await;
    assert!(matches!(marker, Err(CommandError::LeftOut(1))));
    assert!(
        printed(&world, "show conversions 0 2")
            .await
            .contains("it says that 0:1 was re-driven")
    );
}
