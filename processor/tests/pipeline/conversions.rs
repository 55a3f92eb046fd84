//! Conversions become money, each order once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use rust_decimal::{Decimal, dec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tributary_shared::customers::customer_hash;
use tributary_shared::events::{Click, Conversion, Topic};

use crate::facts::click;
use crate::support::{Shop, World, apply, wait_until};

fn order(world: &World, shop: &Shop, order_id: &str, amount: &str, click_id: &str) -> Conversion {
    Conversion {
        conversion_id: String::new(),
        accepted_at_us: world.now().timestamp_micros(),
        tenant_id: shop.tenant.to_wire(),
        order_id: order_id.to_owned(),
        event: "sale".to_owned(),
        amount: amount.to_owned(),
        currency: "USD".to_owned(),
        click_id: click_id.to_owned(),
        ..Conversion::default()
    }
}

const RECORDED: &str = "SELECT count(*) FROM conversions";

#[tokio::test]
async fn an_order_is_credited_priced_and_posted_once_however_often_it_is_delivered() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processors = [world.processor(|_| {}).await, world.processor(|_| {}).await];
    let click = shop.click(world.now());
    let event = order(&world, &shop, "A-1", "12.25", &click);
    for _ in 0..5 {
        world.publish_conversion(&event).await;
    }
    // What was said earlier and arrives later: the last word counts.
    world
        .publish_conversion(&Conversion {
            amount: "99.00".into(),
            accepted_at_us: event.accepted_at_us - 1_000_000,
            ..event.clone()
        })
        .await;
    let lead = Conversion {
        event: "lead".into(),
        amount: "1.00".into(),
        ..event
    };
    world.publish_conversion(&lead).await;
    wait_until(async || world.count(RECORDED).await == 2).await;
    // Everything is delivered again to another group.
    let again = world
        .processor(|config| config.kafka_group.push_str("-again"))
        .await;
    wait_until(async || world.count("SELECT count(*) FROM ledger_outbox").await == 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let explained: Vec<(String, Decimal, String, String, i32, Decimal, String)> = sqlx::query_as(
        "SELECT account, amount, order_id, event, rule_version, basis, path->0->>'click_id' FROM ledger_explained
         ORDER BY event, account",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let entry = |account: &str, amount, event: &str, basis| {
        (
            account.to_owned(),
            amount,
            "A-1".to_owned(),
            event.to_owned(),
            1,
            basis,
            click.clone(),
        )
    };
    assert_eq!(
        explained,
        [
            entry("commission_expense", dec!(-0.1000), "lead", dec!(1.0000)),
            entry("pending", dec!(0.1000), "lead", dec!(1.0000)),
            entry("commission_expense", dec!(-1.2300), "sale", dec!(12.2500)),
            entry("pending", dec!(1.2300), "sale", dec!(12.2500)),
        ]
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM commissions WHERE state = 'pending'")
            .await,
        2
    );

    wait_until(async || {
        world
            .fact_count("SELECT count() FROM commissions FINAL")
            .await
            == 2
    })
    .await;
    let facts: Vec<(String, String, u64)> = world
        .facts
        .query("SELECT event, toString(amount), link_id FROM conversions FINAL ORDER BY event")
        .fetch_all()
        .await
        .unwrap();
    let link = shop.link.to_wire();
    assert_eq!(
        facts,
        [
            ("lead".into(), "1".into(), link),
            ("sale".into(), "12.25".into(), link)
        ]
    );
    for processor in processors.into_iter().chain([again]) {
        processor.stop().await;
    }
}

#[tokio::test]
async fn an_order_that_nobody_brought_is_recorded_with_the_reason() {
    let world = World::create().await;
    let (shop, other) = (world.shop("shop").await, world.shop("other").await);
    let processor = world.processor(|_| {}).await;
    let now = world.now();
    let unknown_link = Shop {
        link: tributary_shared::ids::LinkId(9999),
        ..shop
    };
    let cases = [
        ("none", String::new(), "no_click"),
        ("forged", "x".repeat(48), "bad_click_token"),
        (
            "late",
            shop.click(now - TimeDelta::hours(2)),
            "outside_window",
        ),
        ("foreign", other.click(now), "other_tenant"),
        ("gone", unknown_link.click(now), "unknown_link"),
        (
            "good",
            shop.click(now - TimeDelta::minutes(59)),
            "click_token",
        ),
    ];
    for (order_id, click_id, _) in &cases {
        world
            .publish_conversion(&order(&world, &shop, order_id, "10", click_id))
            .await;
    }
    wait_until(async || world.count(RECORDED).await == 6).await;
    for (order_id, _, attribution) in &cases {
        let recorded: String =
            sqlx::query_scalar("SELECT attribution FROM conversions WHERE order_id = $1")
                .bind(order_id)
                .fetch_one(&world.pool)
                .await
                .unwrap();
        assert_eq!(recorded, *attribution, "{order_id}");
    }
    assert_eq!(world.count("SELECT count(*) FROM commissions").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM ledger_entries").await, 2);
    processor.stop().await;
}

#[tokio::test]
async fn what_comes_to_nothing_is_no_commission_and_says_why() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let click = shop.click(world.now());
    world
        .publish_conversion(&order(&world, &shop, "Z", "0.04", &click))
        .await;
    wait_until(async || world.count(RECORDED).await == 1).await;
    let note: String =
        sqlx::query_scalar("SELECT note FROM conversions WHERE affiliate_id IS NOT NULL")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert!(note.contains("0.004 USD"), "{note}");
    assert_eq!(world.count("SELECT count(*) FROM commissions").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM ledger_entries").await, 0);
    processor.stop().await;
}

#[tokio::test]
async fn what_is_no_conversion_becomes_a_dead_letter() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let good = order(&world, &shop, "good", "1", "");
    let bad = [
        Conversion {
            amount: "-1".into(),
            ..good.clone()
        },
        Conversion {
            currency: "WAT".into(),
            ..good.clone()
        },
        Conversion {
            tenant_id: 4711,
            ..good.clone()
        },
        Conversion {
            order_id: "x".repeat(200),
            ..good.clone()
        },
    ];
    world.publish(Topic::Conversions, b"\xff").await;
    for event in &bad {
        world.publish_conversion(event).await;
    }
    world.publish_conversion(&good).await;
    wait_until(async || world.count(RECORDED).await == 1).await;
    let letters = world.dead_letters(Topic::Conversions, 5).await;
    let mut reasons: Vec<String> = letters.into_iter().map(|(reason, _)| reason).collect();
    reasons.sort();
    assert_eq!(
        reasons[..4],
        [
            "amount must not be negative",
            "currency must be an ISO 4217 code such as USD",
            "not a Conversion: failed to decode Protobuf message: invalid varint",
            "order_id is missing or out of bounds",
        ]
    );
    assert_eq!(reasons[4], "there is no tenant 4711");
    processor.stop().await;
}

#[tokio::test]
async fn the_database_itself_keeps_the_ledger_in_order() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let click = shop.click(world.now());
    world
        .publish_conversion(&order(&world, &shop, "A", "10", &click))
        .await;
    wait_until(async || world.count("SELECT count(*) FROM ledger_entries").await == 2).await;
    processor.stop().await;
    for (refused, because) in [
        (
            "UPDATE ledger_entries SET amount = amount * 2",
            "append-only",
        ),
        ("DELETE FROM ledger_entries", "append-only"),
        ("TRUNCATE ledger_entries", "append-only"),
        (
            "UPDATE ledger_transactions SET posted_at = now()",
            "append-only",
        ),
        (
            "INSERT INTO ledger_entries (tenant_id, transaction_id, account_id, amount, currency)
             SELECT tenant_id, transaction_id, account_id, 1, currency FROM ledger_entries LIMIT 1",
            "does not sum to zero",
        ),
        (
            "INSERT INTO ledger_entries (tenant_id, transaction_id, account_id, amount, currency)
             SELECT tenant_id, transaction_id, account_id, amount, 'EUR' FROM ledger_entries",
            "foreign key",
        ),
        (
            "INSERT INTO ledger_transactions (tenant_id, operation_key, commission_id, posted_at)
             SELECT tenant_id, operation_key, commission_id, now() FROM ledger_transactions",
            "duplicate key",
        ),
    ] {
        let error = sqlx::query(refused)
            .execute(&world.pool)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(because), "{refused}: {error}");
    }
}

/// Order, customer and whether he was new, as ClickHouse has them.
async fn customers(world: &World) -> Vec<(String, String, String)> {
    let sql = "SELECT order_id, lower(hex(customer_id)), toString(is_new) FROM conversions FINAL ORDER BY order_id";
    let sql = sql.replace("toString(is_new)", "ifNull(toString(is_new), '')");
    world.facts.query(&sql).fetch_all().await.unwrap()
}

#[tokio::test]
async fn a_customer_goes_with_his_conversions_until_he_is_erased() {
    let world = World::create().await;
    let (shop, other) = (world.shop("shop").await, world.shop("other").await);
    let processor = world.processor(|_| {}).await;
    let stored = async |count| {
        let stored = "SELECT count() FROM conversions FINAL";
        wait_until(async || world.fact_count(stored).await == count).await;
    };
    let hash = |shop: &Shop, name: &str| customer_hash(shop.tenant, name).to_vec();
    let bought = async |shop: &Shop, order_id: &str, name: &str, click_id: &str| {
        let conversion = Conversion {
            customer_id: hash(shop, name),
            ..order(&world, shop, order_id, "10", click_id)
        };
        world.publish_conversion(&conversion).await;
    };
    let clicked: Click = click(&world, &shop);
    world.publish_click(&clicked).await;
    bought(&shop, "1", "ana", &clicked.click_id).await;
    stored(1).await;
    bought(&shop, "2", "ana", "").await;
    bought(&other, "3", "ana", "").await;
    // The merchant's word counts before ours.
    let returning = Conversion {
        customer_id: hash(&shop, "bob"),
        new_customer: Some(false),
        ..order(&world, &shop, "4", "10", "")
    };
    world.publish_conversion(&returning).await;
    world
        .publish_conversion(&order(&world, &shop, "5", "10", ""))
        .await;
    stored(5).await;
    let row = |order_id: &str, hash: &[u8], is_new: &str| {
        (order_id.to_owned(), hex::encode(hash), is_new.to_owned())
    };
    let (ana, nobody) = (hash(&shop, "ana"), vec![0; 16]);
    let (others, bob) = (hash(&other, "ana"), hash(&shop, "bob"));
    assert_ne!(ana, others);
    assert_eq!(
        customers(&world).await,
        [
            row("1", &ana, "true"),
            row("2", &ana, "false"),
            row("3", &others, "true"),
            row("4", &bob, "false"),
            row("5", &nobody, ""),
        ]
    );
    let clicked_at = "SELECT toUInt64(toUnixTimestamp64Milli(clicked_at)) FROM conversions FINAL WHERE order_id = '1'";
    let clicked_ms = u64::try_from(clicked.received_at_us).unwrap() / 1000;
    assert_eq!(world.fact_count(clicked_at).await, clicked_ms);
    // A later version takes the place of the one before.
    let changed = "INSERT INTO conversions SELECT * REPLACE (2 AS version, 12 AS amount) FROM conversions WHERE order_id = '1'";
    world.facts.query(changed).execute().await.unwrap();
    let sum = "SELECT toUInt64(sum(amount)) FROM conversions FINAL";
    assert_eq!(world.fact_count(sum).await, 52);

    // Asked for a while ago: every processor knows of it.
    sqlx::query(
        "INSERT INTO erasures (tenant_id, customer_id, requested_at) VALUES ($1, $2, now() - interval '2 minutes')",
    )
    .bind(shop.tenant)
    .bind(&ana)
    .execute(&world.pool)
    .await
    .unwrap();
    let done =
        "SELECT count(*) FROM erasures WHERE customer_id IS NOT NULL AND erased_at IS NOT NULL";
    wait_until(async || world.count(done).await == 1).await;
    let visitor =
        "SELECT count(*) FROM erasures WHERE visitor_id = '0101010101010101' AND erased_at IS NULL";
    assert_eq!(world.count(visitor).await, 1, "his visitor is to follow");
    let left = [
        row("1", &nobody, "true"),
        row("2", &nobody, "false"),
        row("3", &others, "true"),
        row("4", &bob, "false"),
        row("5", &nobody, ""),
    ];
    assert_eq!(customers(&world).await, left);
    let recorded = "SELECT count(*) FROM conversions WHERE customer_id IS NOT NULL";
    assert_eq!(world.count(recorded).await, 2);
    assert_eq!(world.fact_count(sum).await, 52, "money stays");
    processor.stop().await;

    // What he buys later, and what the ledger had told before, delivered again.
    let again = world
        .processor(|config| config.kafka_group.push_str("-again"))
        .await;
    bought(&shop, "6", "ana", "").await;
    stored(6).await;
    let later = row("6", &nobody, "");
    assert_eq!(customers(&world).await, [&left[..], &[later]].concat());
    assert_eq!(world.count(recorded).await, 2);
    let of_any_version = "SELECT count() FROM conversions WHERE lower(hex(customer_id)) = ?";
    let of_any_version = world.facts.query(of_any_version).bind(hex::encode(&ana));
    assert_eq!(of_any_version.fetch_one::<u64>().await.unwrap(), 0);
    again.stop().await;
}

/// Forwards to ClickHouse, and while it is shut takes no inserts.
async fn clickhouse_that_can_be_shut(url: &str) -> (String, Arc<AtomicBool>) {
    let target = url.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let shut = Arc::new(AtomicBool::new(true));
    let is_shut = Arc::clone(&shut);
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(forward(near, far, Arc::clone(&is_shut)));
        }
    });
    (proxy, shut)
}

async fn forward(mut near: TcpStream, mut far: TcpStream, is_shut: Arc<AtomicBool>) {
    let (mut request, mut answer) = ([0; 65536], [0; 65536]);
    loop {
        tokio::select! {
            read = near.read(&mut request) => {
                let read = read.unwrap_or(0);
                let is_insert = request[..read].windows(6).any(|w| w == b"INSERT");
                let refused = is_insert && is_shut.load(Ordering::SeqCst);
                if read == 0 || refused || far.write_all(&request[..read]).await.is_err() {
                    return;
                }
            }
            read = far.read(&mut answer) => {
                let read = read.unwrap_or(0);
                if read == 0 || near.write_all(&answer[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What waits for ClickHouse is not stored as it was when the waiting began.
#[tokio::test]
async fn a_customer_is_erased_from_what_waits_to_be_stored() {
    let world = World::create().await;
    let shop = world.shop("waiting").await;
    let url = &world.place.clickhouse.clickhouse_url;
    let (proxy, shut) = clickhouse_that_can_be_shut(url).await;
    let processor = world
        .processor(|config| config.clickhouse.clickhouse_url = proxy)
        .await;
    let hash = customer_hash(shop.tenant, "ana").to_vec();
    let bought = Conversion {
        customer_id: hash.clone(),
        ..order(&world, &shop, "1", "10", "")
    };
    world.publish_conversion(&bought).await;
    let told = "SELECT count(*) FROM conversions WHERE NOT EXISTS (SELECT 1 FROM ledger_outbox)";
    wait_until(async || world.count(told).await == 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await; // it is tried a few times
    sqlx::query("INSERT INTO erasures (tenant_id, customer_id) VALUES ($1, $2)")
        .bind(shop.tenant)
        .bind(&hash)
        .execute(&world.pool)
        .await
        .unwrap();
    shut.store(false, Ordering::SeqCst);
    wait_until(async || !customers(&world).await.is_empty()).await;
    let nobody = "0".repeat(32);
    let stored = ("1".to_owned(), nobody, "true".to_owned());
    assert_eq!(customers(&world).await, [stored]);
    processor.stop().await;
}

/// Conversions and commissions that were stored before their tables got their present order and columns.
#[tokio::test]
async fn older_conversions_are_taken_into_the_new_tables() {
    let world = World::create().await;
    let shop = world.shop("older").await;
    let old = format!("{}_old", world.place.clickhouse.clickhouse_database);
    let create = format!("CREATE DATABASE {old}");
    world.facts.query(&create).execute().await.unwrap();
    let facts = world.facts.clone().with_database(&old);
    let first = include_str!("../../../shared/migrations/clickhouse/0001_facts.sql");
    apply(&facts, first).await;
    let click_id = shop.click(world.now());
    for version in [1, 2] {
        facts
            .query(
                "INSERT INTO conversions (conversion_id, accepted_at, tenant_id, click_id, attribution, amount, version)
                 SELECT toUUID('01901266-7678-7abc-8dee-0123456789ab'), toDateTime64('2026-01-02 03:04:05.678901', 6, 'UTC'),
                        1, ?, 'click_token', 10 * ?, ?",
            )
            .bind(&click_id)
            .bind(version)
            .bind(version)
            .execute()
            .await
            .unwrap();
        facts
            .query(
                "INSERT INTO commissions (commission_id, created_at, tenant_id, amount, state, version)
                 SELECT toUUID('01901266-7678-7abc-8dee-0123456789ac'), toDateTime64('2026-01-02 03:04:05.678901', 6, 'UTC'),
                        1, 1.5, if(? = 1, 'pending', 'paid'), ?",
            )
            .bind(version)
            .bind(version)
            .execute()
            .await
            .unwrap();
    }
    for migration in [
        include_str!("../../../shared/migrations/clickhouse/0006_conversions_next.sql"),
        include_str!("../../../shared/migrations/clickhouse/0007_conversions_drop.sql"),
        include_str!("../../../shared/migrations/clickhouse/0008_conversions_rename.sql"),
    ] {
        // Cut short and begun again.
        apply(&facts, migration).await;
        apply(&facts, migration).await;
    }
    let clicked_at = (tributary_shared::click_token::verify(&crate::support::keys(), &click_id))
        .unwrap()
        .at;
    let conversions: Vec<(String, String, i64, String)> = facts
        .query(
            "SELECT toString(accepted_at), toString(amount), toUnixTimestamp64Milli(clicked_at), hex(customer_id)
             FROM conversions FINAL",
        )
        .fetch_all()
        .await
        .unwrap();
    let (time, nobody) = ("2026-01-02 03:04:05.678901", "0".repeat(32));
    let clicked_ms = clicked_at.timestamp_millis();
    let expected = (time.to_owned(), "20".to_owned(), clicked_ms, nobody);
    assert_eq!(conversions, [expected]);
    let commissions: Vec<(String, String, String)> = facts
        .query("SELECT toString(created_at), toString(amount), state FROM commissions FINAL")
        .fetch_all()
        .await
        .unwrap();
    let expected = [time, "1.5", "paid"].map(str::to_owned);
    assert_eq!(commissions, [expected.into()]);
    let drop = format!("DROP DATABASE {old}");
    world.facts.query(&drop).execute().await.unwrap();
}
