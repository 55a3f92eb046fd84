//! Clicks become facts, each once, whatever is killed in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tributary_shared::click_token::{ClickToken, Place};
use tributary_shared::clock::event_time;
use tributary_shared::events::{Click, Outcome, Topic};
use tributary_shared::ids::LinkId;
use uuid::Uuid;

use crate::support::{CLICK_PARTITIONS, Shop, World, apply, keys, message, wait_for, wait_until};

pub(crate) fn click(world: &World, shop: &Shop) -> Click {
    let now = world.now();
    Click {
        click_id: shop.click(now),
        received_at_us: now.timestamp_micros(),
        tenant_id: shop.tenant.to_wire(),
        program_id: shop.program.to_wire(),
        affiliate_id: shop.affiliate.to_wire(),
        link_id: shop.link.to_wire(),
        visitor_id: vec![1; 16],
        fingerprint: vec![2; 16],
        address: vec![203, 0, 113, 9],
        user_agent: "Mozilla/5.0 (Windows NT 6.1; rv:27.0) Gecko/20100101 Firefox/27.0".into(),
        referrer: "https://blog.example/".into(),
        sub_ids: vec!["s".into()],
        ..Click::default()
    }
}

async fn publish_clicks(world: &World, shop: &Shop, count: usize) {
    for _ in 0..count {
        world.publish_click(&click(world, shop)).await;
    }
}

/// The click, as if it had been received so many months (of 30 days) ago.
pub(crate) fn months_ago(months: i64, click: Click) -> Click {
    let at = event_time(click.received_at_us).unwrap() - TimeDelta::days(30 * months);
    let link = LinkId::from_wire(click.link_id).unwrap();
    Click {
        click_id: ClickToken::mint(&keys(), link, at).to_string(),
        received_at_us: at.timestamp_micros(),
        ..click
    }
}

/// All rows, and distinct click ids.
pub(crate) async fn stored(world: &World) -> (u64, u64) {
    let rows = world.fact_count("SELECT count() FROM clicks").await;
    let distinct = world
        .fact_count("SELECT uniqExact(click_id) FROM clicks")
        .await;
    (rows, distinct)
}

#[tokio::test]
async fn a_click_is_stored_with_what_is_known_of_it() {
    let world = World::create().await;
    let shop = world.shop("facts").await;
    let processor = world.processor(|_| {}).await;
    let person = click(&world, &shop);
    let bot = Click {
        user_agent: "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
            .into(),
        ..click(&world, &shop)
    };
    world.publish_click(&person).await;
    world.publish_click(&bot).await;
    wait_until(async || stored(&world).await == (2, 2)).await;
    let rows: Vec<(String, u64, String, String, String, u8, String)> = world
        .facts
        .query("SELECT click_id, tenant_id, toString(address), referrer, sub1, is_bot, bot_reason FROM clicks ORDER BY is_bot")
        .fetch_all()
        .await
        .unwrap();
    let expected = |click: &Click, is_bot: u8, reason: &str| {
        (
            click.click_id.clone(),
            shop.tenant.to_wire(),
            "::ffff:203.0.113.9".to_owned(),
            "https://blog.example/".to_owned(),
            "s".to_owned(),
            is_bot,
            reason.to_owned(),
        )
    };
    assert_eq!(
        rows,
        [expected(&person, 0, ""), expected(&bot, 1, "known_crawler")]
    );
    processor.stop().await;
}

#[tokio::test]
async fn a_processor_is_ready_once_it_reads_every_topic() {
    let world = World::create().await;
    let processor = world.processor(|_| {}).await;
    wait_until(async || processor.readiness().await.starts_with("HTTP/1.1 200")).await;
    processor.stop().await;
    let nowhere = "127.0.0.1:1".to_owned();
    let processor = world
        .processor(|config| config.kafka.kafka_brokers = nowhere)
        .await;
    wait_until(async || !processor.readiness().await.contains("schemas: ")).await;
    let answer = processor.readiness().await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    for topic in ["clicks: ", "conversions: ", "ledger: "] {
        assert!(answer.contains(topic), "{answer}");
    }
    processor.kill().await;
}

#[tokio::test]
async fn each_click_is_stored_once_however_often_processors_are_killed() {
    let world = World::create().await;
    let shop = world.shop("killed").await;
    for round in 1..=4_u64 {
        publish_clicks(&world, &shop, 60).await;
        // Small batches: a kill finds some stored and not committed, others held.
        let processor = world.processor(|config| config.batch_rows = 7).await;
        wait_until(async || stored(&world).await.0 > (round - 1) * 60 + 10).await;
        processor.kill().await;
    }
    let processor = world.processor(|_| {}).await;
    wait_until(async || stored(&world).await.1 == 240).await;
    processor.stop().await;

    // Everything delivered again, as to a group whose offsets were lost.
    let again = world
        .processor(|config| config.kafka_group.push_str("-again"))
        .await;
    publish_clicks(&world, &shop, 1).await;
    wait_until(async || stored(&world).await.1 == 241).await;
    again.stop().await;
    assert_eq!(stored(&world).await, (241, 241));
}

#[tokio::test]
async fn each_click_is_stored_once_when_processors_come_and_go() {
    let world = World::create().await;
    let shop = world.shop("shared").await;
    let first = world.processor(|config| config.batch_rows = 9).await;
    publish_clicks(&world, &shop, 100).await;
    let second = world.processor(|config| config.batch_rows = 11).await;
    publish_clicks(&world, &shop, 100).await;
    first.stop().await;
    publish_clicks(&world, &shop, 100).await;
    wait_until(async || stored(&world).await.1 == 300).await;
    second.stop().await;
    assert_eq!(stored(&world).await, (300, 300));
}

/// Forwards to ClickHouse, and swallows the answers to the first `count` inserts.
async fn clickhouse_that_forgets_to_answer(url: &str, count: u32) -> (String, Arc<AtomicU32>) {
    let target = url.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let left = Arc::new(AtomicU32::new(count));
    let swallow = Arc::clone(&left);
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(forward(near, far, Arc::clone(&swallow)));
        }
    });
    (proxy, left)
}

async fn forward(mut near: TcpStream, mut far: TcpStream, swallow: Arc<AtomicU32>) {
    let (mut request, mut answer) = ([0; 65536], [0; 65536]);
    let mut is_insert = false;
    loop {
        tokio::select! {
            read = near.read(&mut request) => match read {
                Ok(read @ 1..) => {
                    is_insert |= request[..read].windows(6).any(|w| w == b"INSERT");
                    if far.write_all(&request[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = far.read(&mut answer) => match read {
                Ok(read @ 1..) => {
                    let some_left = |left: u32| left.checked_sub(1);
                    if is_insert && swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, some_left).is_ok() {
                        return; // the insert took effect, and nobody hears of it
                    }
                    is_insert = false;
                    if near.write_all(&answer[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}

/// A ClickHouse that is there only while the gate is open.
async fn clickhouse_behind_a_gate(url: &str) -> (String, watch::Sender<bool>) {
    let target = url.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let (gate, is_open) = watch::channel(true);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(&target).await.unwrap();
            let mut is_open = is_open.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = is_open.wait_for(|open| !open) => {}
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                }
            });
        }
    });
    (proxy, gate)
}

/// A processor waits for 45 s, and a group takes its time.
const LETS_GO_WITHIN: Duration = Duration::from_secs(120);

/// One that waits for ClickHouse lets go of its partitions before Kafka takes them from it.
#[tokio::test]
async fn a_processor_that_can_not_finish_makes_room_for_another() {
    let world = World::create().await;
    let shop = world.shop("room").await;
    let url = &world.place.clickhouse.clickhouse_url;
    let (proxy, gate) = clickhouse_behind_a_gate(url).await;
    let stuck = world
        .processor(|config| config.clickhouse.clickhouse_url = proxy)
        .await;
    world.publish_marks(&click(&world, &shop)).await;
    let marks = u64::from(CLICK_PARTITIONS.unsigned_abs());
    wait_until(async || stored(&world).await.0 == marks).await;
    gate.send(false).unwrap();
    publish_clicks(&world, &shop, 30).await;
    let other = world.processor(|_| {}).await;
    wait_for(LETS_GO_WITHIN, async || stored(&world).await.0 > marks).await;
    gate.send(true).unwrap();
    let all = (marks + 30, 1 + 30); // the marks are one click
    wait_until(async || stored(&world).await == all).await;
    for processor in [stuck, other] {
        processor.stop().await;
    }
    assert_eq!(stored(&world).await, all);
}

#[tokio::test]
async fn an_insert_whose_answer_is_lost_is_not_made_twice() {
    let world = World::create().await;
    let shop = world.shop("unheard").await;
    let (proxy, left) =
        clickhouse_that_forgets_to_answer(&world.place.clickhouse.clickhouse_url, 3).await;
    let processor = world
        .processor(|config| {
            config.clickhouse.clickhouse_url = proxy;
            config.batch_rows = 10;
        })
        .await;
    // Messages of two months: a batch is two inserts, and either may stay unheard.
    let segment = world.new_segment();
    for first in (0..100).step_by(5) {
        let clicks: Vec<Click> = (0..5)
            .map(|n| months_ago(n % 2, click(&world, &shop)))
            .collect();
        world.publish_clicks(segment, first, &clicks).await;
    }
    wait_until(async || stored(&world).await.1 == 100).await;
    processor.stop().await;
    assert_eq!(left.load(Ordering::SeqCst), 0, "answers were swallowed");
    assert_eq!(stored(&world).await, (100, 100));
}

#[tokio::test]
async fn a_processor_that_stops_over_an_unheard_insert_does_not_make_it_twice() {
    let world = World::create().await;
    let shop = world.shop("stopping").await;
    let url = &world.place.clickhouse.clickhouse_url;
    let (proxy, _) = clickhouse_that_forgets_to_answer(url, u32::MAX).await;
    for round in 1..=4_u64 {
        publish_clicks(&world, &shop, 30).await;
        let deaf = proxy.clone();
        let processor = world
            .processor(|config| {
                config.clickhouse.clickhouse_url = deaf;
                config.batch_rows = 5;
            })
            .await;
        wait_until(async || stored(&world).await.0 > (round - 1) * 30).await;
        processor.stop().await;
    }
    let processor = world.processor(|_| {}).await;
    wait_until(async || stored(&world).await.1 == 120).await;
    processor.stop().await;
    assert_eq!(stored(&world).await, (120, 120));
}

#[tokio::test]
async fn what_is_no_click_becomes_a_dead_letter_and_holds_nothing_up() {
    let world = World::create().await;
    let shop = world.shop("poison").await;
    let processor = world.processor(|_| {}).await;
    world.publish(Topic::Clicks, b"\xff\xff not protobuf").await;
    world.publish(Topic::Clicks, b"").await;
    publish_clicks(&world, &shop, 5).await;
    wait_until(async || stored(&world).await == (5, 5)).await;
    let letters = world.dead_letters(Topic::Clicks, 2).await;
    let mut reasons: Vec<&str> = letters.iter().map(|(reason, _)| reason.as_str()).collect();
    reasons.sort_unstable();
    assert!(reasons[0].starts_with("not a Clicks: "), "{reasons:?}");
    assert_eq!(reasons[1], "segment_id is missing or out of bounds");
    assert!(
        letters
            .iter()
            .any(|(_, payload)| payload == b"\xff\xff not protobuf")
    );
    processor.stop().await;
}

#[tokio::test]
async fn a_bad_click_leaves_its_siblings_alone() {
    let world = World::create().await;
    let shop = world.shop("siblings").await;
    let processor = world.processor(|_| {}).await;
    let good = || click(&world, &shop);
    let nobodys = Click {
        tenant_id: 0,
        ..good()
    };
    let segment = world.new_segment();
    let clicks = [good(), nobodys.clone(), good(), good()];
    world.publish_clicks(segment, 40, &clicks).await;
    wait_until(async || stored(&world).await == (3, 3)).await;
    let sequences: Vec<u32> = world
        .facts
        .query("SELECT segment_sequence FROM clicks ORDER BY segment_sequence")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(sequences, [40, 42, 43]);
    assert_eq!(
        world.dead_letters(Topic::Clicks, 1).await,
        [(
            "tenant_id is missing".to_owned(),
            message(segment, 41, &[nobodys])
        )]
    );
    processor.stop().await;
}

#[tokio::test]
async fn an_unresolved_click_is_stored_under_its_link() {
    let world = World::create().await;
    let shop = world.shop("here").await;
    let unresolved = |code: &str| Click {
        received_at_us: world.now().timestamp_micros(),
        outcome: Outcome::Unresolved as i32,
        code: code.to_owned(),
        host: "go.shop.example".to_owned(),
        utm_source: "mail".to_owned(),
        ..Click::default()
    };
    let clicks = [
        unresolved("here"),
        unresolved("nowhere"),
        click(&world, &shop),
    ];
    let processor = world.processor(|_| {}).await;
    world.publish_clicks(world.new_segment(), 0, &clicks).await;
    wait_until(async || stored(&world).await.0 == 3).await;
    let rows: Vec<(u8, u64, u64, u64, u64, String, String)> = world
        .facts
        .query(
            "SELECT outcome, tenant_id, program_id, affiliate_id, link_id, code, utm_source FROM clicks
             ORDER BY segment_sequence",
        )
        .fetch_all()
        .await
        .unwrap();
    let ids = (
        shop.tenant.to_wire(),
        shop.program.to_wire(),
        shop.affiliate.to_wire(),
        shop.link.to_wire(),
    );
    let row = |outcome: u8, ids: (u64, u64, u64, u64), code: &str, utm: &str| {
        let (code, utm) = (code.to_owned(), utm.to_owned());
        (outcome, ids.0, ids.1, ids.2, ids.3, code, utm)
    };
    assert_eq!(
        rows,
        [
            row(4, ids, "here", "mail"),
            row(4, (0, 0, 0, 0), "nowhere", "mail"),
            row(0, ids, "", ""),
        ]
    );
    processor.stop().await;
}

#[tokio::test]
async fn a_kafka_that_begins_anew_loses_nothing() {
    let world = World::create().await;
    let shop = world.shop("lost").await;
    let processor = world.processor(|_| {}).await;
    let (before, after) = (click(&world, &shop), click(&world, &shop));
    let segment = world.new_segment();
    world
        .publish_clicks(segment, 0, std::slice::from_ref(&before))
        .await;
    wait_until(async || stored(&world).await == (1, 1)).await;
    processor.stop().await;
    // The same facts beside topics that begin at offset 0 again; a redirector repeats what it is unsure of.
    let new = World::create().await;
    let facts = world.place.clickhouse.clone();
    let processor = new.processor(|config| config.clickhouse = facts).await;
    new.publish_clicks(segment, 0, &[before, after]).await;
    wait_until(async || stored(&world).await.1 == 2).await;
    processor.stop().await;
    assert_eq!(stored(&world).await, (2, 2));
}

/// What the redirector makes of a click's name and what ClickHouse does are the same bytes.
#[tokio::test]
async fn a_click_id_is_put_together_from_the_clicks_name() {
    let world = World::create().await;
    let shop = world.shop("names").await;
    let processor = world.processor(|_| {}).await;
    let mut expected = Vec::new();
    for segment in (0..20).map(|_| Uuid::new_v4()) {
        let named = |sequence| {
            let (click, place) = (click(&world, &shop), Place { segment, sequence });
            let at = event_time(click.received_at_us).unwrap();
            Click {
                click_id: ClickToken::of(&keys(), shop.link, at, place).to_string(),
                ..click
            }
        };
        // Of another place, and of none.
        let clicks = [named(70_000), named(70_001), named(7), click(&world, &shop)];
        world.publish_clicks(segment, 70_000, &clicks).await;
        for (click, is_named) in clicks.iter().zip([1_u8, 1, 0, 0]) {
            expected.push((click.click_id.clone(), is_named));
        }
    }
    wait_until(async || stored(&world).await.0 == 80).await;
    let mut rows: Vec<(String, u8)> = world
        .facts
        .query("SELECT click_id, click_random = toFixedString('', 10) FROM clicks")
        .fetch_all()
        .await
        .unwrap();
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected);
    processor.stop().await;
}

/// Clicks that were stored before their table got its present order and columns.
#[tokio::test]
async fn older_clicks_are_taken_into_the_new_table() {
    let world = World::create().await;
    let shop = world.shop("older").await;
    let old = format!("{}_old", world.place.clickhouse.clickhouse_database);
    let create = format!("CREATE DATABASE {old}");
    world.facts.query(&create).execute().await.unwrap();
    let facts = world.facts.clone().with_database(&old);
    apply(
        &facts,
        include_str!("../../../shared/migrations/clickhouse/0001_facts.sql"),
    )
    .await;
    apply(
        &facts,
        include_str!("../../../shared/migrations/clickhouse/0002_clicks_once.sql"),
    )
    .await;
    let click = click(&world, &shop);
    facts
        .query(
            "INSERT INTO clicks (click_id, received_at, tenant_id, link_id, visitor_id, fingerprint, outcome)
             VALUES (?, fromUnixTimestamp64Micro(?), 1, ?, '01901266-7678-7abc-8dee-0123456789ab', 'abcdefghijklmnop', 0),
                    ('', fromUnixTimestamp64Micro(?), 0, 0, '00000000-0000-0000-0000-000000000000', '', 4)",
        )
        .bind(&click.click_id)
        .bind(click.received_at_us)
        .bind(click.link_id)
        .bind(click.received_at_us)
        .execute()
        .await
        .unwrap();
    for migration in [
        include_str!("../../../shared/migrations/clickhouse/0003_clicks_next.sql"),
        include_str!("../../../shared/migrations/clickhouse/0004_clicks_drop.sql"),
        include_str!("../../../shared/migrations/clickhouse/0005_clicks_rename.sql"),
        include_str!("../../../shared/migrations/clickhouse/0009_clicks_next.sql"),
        include_str!("../../../shared/migrations/clickhouse/0010_clicks_drop.sql"),
        include_str!("../../../shared/migrations/clickhouse/0011_clicks_rename.sql"),
    ] {
        // Cut short and begun again.
        apply(&facts, migration).await;
        apply(&facts, migration).await;
    }
    let fingerprint: u64 = facts
        .query("SELECT fingerprint FROM clicks WHERE outcome = 0")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(fingerprint.to_le_bytes(), *b"abcdef\0\0");
    let rows: Vec<(String, String, u8)> = facts
        .query("SELECT click_id, lower(hex(visitor_id)), outcome FROM clicks ORDER BY outcome")
        .fetch_all()
        .await
        .unwrap();
    let row = |id: &str, visitor: &str, outcome| (id.to_owned(), visitor.to_owned(), outcome);
    assert_eq!(
        rows,
        [
            row(&click.click_id, "8dee0123456789ab", 0),
            row("", "00", 4)
        ]
    );
    let drop = format!("DROP DATABASE {old}");
    world.facts.query(&drop).execute().await.unwrap();
}
