//! What is stored beside a click, what its tenant keeps of it, and the rollups.

use chrono::TimeDelta;
use tributary_shared::events::{Click, FetchDest};

use crate::facts::{click, stored};
use crate::support::{Shop, World, wait_until};

const PHONE: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Mobile Safari/537.36";

pub(crate) fn geography(name: &str) -> Option<std::path::PathBuf> {
    Some(
        format!(
            "{}/../shared/tests/data/{name}.mmdb",
            env!("CARGO_MANIFEST_DIR")
        )
        .into(),
    )
}

#[tokio::test]
async fn a_click_is_stored_with_its_origin_and_what_speaks_against_it() {
    let world = World::create().await;
    let shop = world.shop("enriched").await;
    let processor = world
        .processor(|config| {
            config.city_file = geography("places");
            config.network_file = geography("networks");
        })
        .await;
    let first = Click {
        user_agent: PHONE.into(),
        referrer: "https://www.google.de/search".into(),
        fetch_dest: FetchDest::Document.into(),
        ..click(&world, &shop)
    };
    // From a server's address, in a frame, again within moments.
    let at = world.now() + TimeDelta::milliseconds(500);
    let second = Click {
        click_id: shop.click(at),
        received_at_us: at.timestamp_micros(),
        address: vec![198, 51, 100, 1],
        referrer: String::new(),
        fetch_dest: FetchDest::Frame.into(),
        ..first.clone()
    };
    // One message: in order.
    world
        .publish_clicks(world.new_segment(), 0, &[first, second])
        .await;
    wait_until(async || stored(&world).await == (2, 2)).await;
    let rows: Vec<(String, String, u16)> = world
        .facts
        .query(
            "SELECT concatWithSeparator('|', country, region, city, network),
                    concatWithSeparator('|', device, os, browser, referrer_domain, channel), signals
             FROM clicks ORDER BY received_at",
        )
        .fetch_all()
        .await
        .unwrap();
    let row = |place: &str, origin: &str, signals| (place.to_owned(), origin.to_owned(), signals);
    assert_eq!(
        rows,
        [
            row(
                "DE|Bavaria|Munich|AS64496 Example Telecom",
                "mobile|Android|Chrome Mobile|google.de|search",
                0
            ),
            row(
                "AT|Vienna|Vienna|AS24940 Hetzner Online GmbH",
                "mobile|Android|Chrome Mobile||direct",
                0b1101 // duplicate, data centre, cookie stuffing
            ),
        ]
    );
    processor.stop().await;
}

async fn publish(world: &World, shop: &Shop, visitor: u8) {
    let click = Click {
        visitor_id: vec![visitor; 16],
        ..click(world, shop)
    };
    world.publish_click(&click).await;
}

async fn texts(world: &World, sql: &str) -> Vec<String> {
    world.facts.query(sql).fetch_all().await.unwrap()
}

#[tokio::test]
async fn an_address_is_kept_as_the_tenant_chose() {
    let world = World::create().await;
    let shops = [
        world.shop("whole").await,
        world.shop("truncated").await,
        world.shop("none").await,
    ];
    for shop in &shops {
        sqlx::query("UPDATE tenants SET address_kept = slug, click_days = 40 + id WHERE id = $1")
            .bind(shop.tenant)
            .execute(&world.pool)
            .await
            .unwrap();
    }
    let processor = world.processor(|_| {}).await;
    for shop in &shops {
        publish(&world, shop, 1).await;
    }
    wait_until(async || stored(&world).await == (3, 3)).await;
    let kept = texts(
        &world,
        "SELECT toString(address) FROM clicks ORDER BY tenant_id",
    )
    .await;
    assert_eq!(kept, ["::ffff:203.0.113.9", "::ffff:203.0.113.0", "::"]);
    let other_days = "SELECT count() FROM clicks WHERE keep_days != 40 + tenant_id";
    assert_eq!(world.fact_count(other_days).await, 0);
    processor.stop().await;
}

#[tokio::test]
async fn an_erased_visitor_is_in_no_fact_and_every_count_stays() {
    let world = World::create().await;
    let shop = world.shop("erased").await;
    let neighbour = world.shop("neighbour").await;
    let processor = world.processor(|_| {}).await;
    publish(&world, &shop, 1).await;
    publish(&world, &shop, 2).await;
    publish(&world, &neighbour, 1).await;
    wait_until(async || stored(&world).await == (3, 3)).await;
    // Asked for a while ago: every processor knows of it.
    sqlx::query(
        "INSERT INTO erasures (tenant_id, visitor_id, requested_at)
         VALUES ($1, '0101010101010101', now() - interval '2 minutes')",
    )
    .bind(shop.tenant)
    .execute(&world.pool)
    .await
    .unwrap();
    let done = "SELECT count(*) FROM erasures WHERE erased_at IS NOT NULL";
    wait_until(async || world.count(done).await == 1).await;
    let left = |tenant| {
        format!(
            "SELECT concat(hex(visitor_id), ' ', toString(address), ' ', sub1) FROM clicks
             WHERE tenant_id = {tenant} ORDER BY visitor_id"
        )
    };
    assert_eq!(
        texts(&world, &left(shop.tenant)).await,
        ["00 :: ", "0202020202020202 ::ffff:203.0.113.9 s"]
    );
    assert_eq!(
        texts(&world, &left(neighbour.tenant)).await,
        ["0101010101010101 ::ffff:203.0.113.9 s"]
    );

    // What comes later, to a processor that has read what was chosen.
    processor.stop().await;
    let processor = world.processor(|_| {}).await;
    publish(&world, &shop, 1).await;
    wait_until(async || stored(&world).await == (4, 4)).await;
    assert_eq!(
        texts(&world, &left(shop.tenant)).await,
        ["00 :: ", "00 :: ", "0202020202020202 ::ffff:203.0.113.9 s"]
    );
    processor.stop().await;
}

#[tokio::test]
async fn a_changed_retention_reaches_the_clicks_that_are_stored() {
    let world = World::create().await;
    let shop = world.shop("retention").await;
    let processor = world.processor(|_| {}).await;
    publish(&world, &shop, 1).await;
    let old = crate::facts::months_ago(3, click(&world, &shop));
    world.publish_click(&old).await;
    wait_until(async || stored(&world).await == (2, 2)).await;
    sqlx::query("UPDATE tenants SET click_days = 60, click_days_set_at = now() - interval '2 minutes' WHERE id = $1")
        .bind(shop.tenant)
        .execute(&world.pool)
        .await
        .unwrap();
    wait_until(async || {
        world
            .count("SELECT click_days_applied::bigint FROM tenants")
            .await
            == 60
    })
    .await;
    // ClickHouse removes what is too old when it merges.
    world
        .facts
        .query("OPTIMIZE TABLE clicks FINAL")
        .execute()
        .await
        .unwrap();
    wait_until(async || stored(&world).await == (1, 1)).await;
    processor.stop().await;
}

const VISITORS: &str = "count(), uniqCombined64If(12)(visitor_id, visitor_id != 0 AND is_bot = 0)";

/// Each rollup, asked with and without what was summed beforehand.
#[tokio::test]
async fn rollups_say_what_the_facts_say() {
    let world = World::create().await;
    let shop = world.shop("rollups").await;
    let processor = world.processor(|config| config.batch_rows = 20).await;
    for n in 0..100_u8 {
        publish(&world, &shop, n % 7 + 1).await;
    }
    wait_until(async || stored(&world).await == (100, 100)).await;
    processor.stop().await;
    compare_rollups(&world, &shop).await;

    // Without one of the visitors.
    world
        .facts
        .query("ALTER TABLE clicks UPDATE visitor_id = 0, address = toIPv6('::') WHERE visitor_id = 0x0303030303030303")
        .with_setting("mutations_sync", "2")
        .execute()
        .await
        .unwrap();
    compare_rollups(&world, &shop).await;
    let visitors = format!(
        "SELECT toString(sum(number)) FROM (SELECT {VISITORS} AS number, is_bot FROM clicks WHERE tenant_id = {} GROUP BY is_bot)",
        shop.tenant
    )
    .replace("count(), ", "");
    assert_eq!(texts(&world, &visitors).await, ["6"]);
}

async fn compare_rollups(world: &World, shop: &Shop) {
    for (rollup, keys, measures) in [
        ("visitors", "toStartOfFifteenMinutes(received_at)", VISITORS),
        (
            "by_time",
            "toStartOfFifteenMinutes(received_at), program_id",
            "count()",
        ),
        ("by_link", "toStartOfDay(received_at), link_id", "count()"),
        (
            "by_place",
            "toStartOfDay(received_at), country, device, os, browser, channel",
            "count()",
        ),
        (
            "by_referrer",
            "toStartOfDay(received_at), referrer_domain",
            "count()",
        ),
        (
            "by_signal",
            "toStartOfDay(received_at), affiliate_id, bot_reason, signals",
            "count()",
        ),
    ] {
        let question = format!(
            "SELECT toString(tuple({keys}, is_bot, {measures})) FROM clicks
             WHERE tenant_id = {} AND outcome != 4 GROUP BY {keys}, is_bot ORDER BY ALL",
            shop.tenant
        );
        let plan = texts(world, &format!("EXPLAIN {question}"))
            .await
            .join("\n");
        assert!(plan.contains(&format!("({rollup})")), "{rollup}: {plan}");
        let summed = texts(world, &question).await;
        let counted = texts(
            world,
            &format!("{question} SETTINGS optimize_use_projections = 0"),
        )
        .await;
        assert!(!counted.is_empty());
        assert_eq!(summed, counted, "{rollup}");
    }
}
