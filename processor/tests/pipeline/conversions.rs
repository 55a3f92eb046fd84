//! Conversions become money, each order once.

use std::time::Duration;

use chrono::TimeDelta;
use rust_decimal::{Decimal, dec};
use tributary_shared::events::{Conversion, Topic};

use crate::support::{Shop, World, wait_until};

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
    // A repetition that says something else: the first word counts.
    world
        .publish_conversion(&Conversion {
            amount: "99.00".into(),
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
async fn a_commission_of_nothing_needs_no_posting() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let click = shop.click(world.now());
    world
        .publish_conversion(&order(&world, &shop, "Z", "0.04", &click))
        .await;
    wait_until(async || {
        world
            .count("SELECT count(*) FROM commissions WHERE amount = 0")
            .await
            == 1
    })
    .await;
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
