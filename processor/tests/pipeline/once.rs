//! A redirector's journal sends clicks again; each is stored once.

use std::collections::BTreeMap;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tributary_shared::events::Click;
use uuid::Uuid;

use crate::facts::{click, months_ago, stored};
use crate::support::{CLICK_PARTITIONS, Shop, World, wait_until};

/// The clicks of one segment, as a redirector has them on disk.
struct Segment {
    id: Uuid,
    clicks: Vec<Click>,
}

impl Segment {
    /// Every fifth click is a month older: most messages are of two months.
    fn of(count: i64, world: &World, shop: &Shop) -> Self {
        let month = |n| i64::from(n % 5 == 0);
        Self {
            id: world.new_segment(),
            clicks: (0..count)
                .map(|n| months_ago(month(n), click(world, shop)))
                .collect(),
        }
    }

    /// Sends `range` in messages of at most `size`, but not those whose number `skip` names.
    async fn send(
        &self,
        world: &World,
        range: std::ops::Range<usize>,
        size: usize,
        skip: impl Fn(usize) -> bool,
    ) {
        let start = range.start;
        for (number, clicks) in self.clicks[range].chunks(size).enumerate() {
            if !skip(number) {
                let first = u32::try_from(start + number * size).unwrap();
                world.publish_clicks(self.id, first, clicks).await;
            }
        }
    }
}

#[tokio::test]
async fn each_click_is_stored_once_however_a_journal_sends_it() {
    const CLICKS: usize = 150;
    const NONE: fn(usize) -> bool = |_| false;
    let world = World::create().await;
    let shop = world.shop("journal").await;
    let count = i64::try_from(CLICKS).unwrap();
    let segments: Vec<Segment> = (0..6).map(|_| Segment::of(count, &world, &shop)).collect();
    let total = (segments.len() * CLICKS) as u64;

    // At first some messages are missing, as Kafka refused them, and some come twice.
    let first = world.processor(|config| config.batch_rows = 20).await;
    for segment in &segments {
        segment.send(&world, 0..90, 7, |n| n % 4 == 1).await;
        segment.send(&world, 30..60, 11, NONE).await;
    }
    wait_until(async || stored(&world).await.0 > 200).await;
    first.kill().await;

    // The redirectors were killed as well: others send what they find, cut otherwise, to two processors.
    let second = world.processor(|config| config.batch_rows = 33).await;
    let third = world.processor(|config| config.batch_rows = 50).await;
    for segment in &segments {
        segment.send(&world, 45..120, 13, |n| n == 2).await;
        segment.send(&world, 0..CLICKS, 29, |n| n == 1).await;
    }
    second.kill().await;
    for segment in segments.iter().rev() {
        segment.send(&world, 20..70, 3, NONE).await;
        segment.send(&world, 0..CLICKS, CLICKS, NONE).await;
    }
    wait_until(async || stored(&world).await.1 == total).await;
    third.stop().await;

    // Much later everything is sent again, and Kafka delivers it all from its beginning.
    for segment in &segments {
        segment.send(&world, 0..CLICKS, 31, NONE).await;
    }
    let again = world
        .processor(|config| config.kafka_group.push_str("-again"))
        .await;
    let marks: u64 = CLICK_PARTITIONS.try_into().unwrap();
    world.publish_marks(&click(&world, &shop)).await;
    wait_until(async || stored(&world).await.0 >= total + marks).await;
    again.stop().await;

    let rows: Vec<(String, u32, String)> = world
        .facts
        .query("SELECT toString(segment_id), segment_sequence, click_id FROM clicks")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(rows.len() as u64, total + marks);
    let rows: BTreeMap<(String, u32), String> =
        rows.into_iter().map(|(s, n, id)| ((s, n), id)).collect();
    for segment in &segments {
        for (n, click) in (0..).zip(&segment.clicks) {
            assert_eq!(
                rows.get(&(segment.id.to_string(), n)),
                Some(&click.click_id)
            );
        }
    }
}

/// A processor that was frozen, or killed while ClickHouse goes on, leaves an insert under way: it would
/// end after the partition's next owner has stored the same click.
#[tokio::test]
async fn an_insert_that_a_former_owner_left_is_ended_first() {
    let world = World::create().await;
    let shop = world.shop("left").await;
    let segment = Segment::of(1, &world, &shop);
    let clickhouse = &world.place.clickhouse;
    let address = clickhouse.clickhouse_url.trim_start_matches("http://");
    let mut left = TcpStream::connect(address.trim_end_matches('/'))
        .await
        .unwrap();
    let head = format!(
        "POST /?database={}&query_id=tributary-clicks-{}&query=INSERT%20INTO%20clicks%20(segment_id,code)%20FORMAT%20CSV \
         HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n",
        clickhouse.clickhouse_database, segment.id
    );
    // ClickHouse begins with an insert when more than 256 KiB of it have come.
    let rows = format!("{},{}\n", segment.id, "x".repeat(300_000));
    let begin = format!("{head}{:x}\r\n{rows}\r\n", rows.len());
    left.write_all(begin.as_bytes()).await.unwrap();
    let running = async |condition: &str| {
        let processes = "SELECT count() FROM system.processes WHERE query_id =";
        let query = format!("{processes} 'tributary-clicks-{}' {condition}", segment.id);
        world.fact_count(&query).await
    };
    wait_until(async || running("").await == 1).await;

    let processor = world.processor(|_| {}).await;
    segment.send(&world, 0..1, 1, |_| false).await;
    wait_until(async || running("AND is_cancelled").await == 1).await;
    assert_eq!(stored(&world).await, (0, 0), "it may still take effect");
    left.write_all(b"0\r\n\r\n").await.unwrap();
    wait_until(async || stored(&world).await.0 > 0).await;
    processor.stop().await;
    assert_eq!(running("").await, 0);
    let ids: Vec<String> = world
        .facts
        .query("SELECT click_id FROM clicks")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(ids, [segment.clicks[0].click_id.clone()]);
}

/// Where the question reads, and how much.
#[tokio::test]
async fn what_is_stored_is_asked_of_the_projection() {
    let world = World::create().await;
    world
        .facts
        .query(
            "INSERT INTO clicks (segment_id, segment_sequence, received_at)
             SELECT toUUID('01900000-0000-7000-8000-000000000000'), number, now() FROM numbers(100000)
             UNION ALL
             SELECT toUUID('01900000-0000-7000-8000-000000000001'), number + if(number < 50, 0, 7), now() FROM numbers(100)",
        )
        .execute()
        .await
        .unwrap();
    let question = include_str!("../../src/stored_names.sql");
    let ids: Vec<Uuid> = vec!["01900000-0000-7000-8000-000000000001".parse().unwrap()];
    let plan: Vec<String> = world
        .facts
        .query(&format!("EXPLAIN indexes = 1 {question}"))
        .bind(&ids)
        .fetch_all()
        .await
        .unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("ReadFromMergeTree (segments)"), "{plan}");
    assert!(plan.contains("segment_id in 1-element set"), "{plan}");

    let ranges: (String, String) = world
        .facts
        .query(&format!(
            "SELECT toString(first), toString(after) FROM ({question})"
        ))
        .bind(&ids)
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(ranges, ("[0,57]".into(), "[50,107]".into()));
}
