//! What a price and a verdict rest on is that of the order's time: who the affiliate was, which clicks lay around the credited
//! one, where the order came from, how many orders there were.

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::{Decimal, dec};
use tributary_shared::events::{Click, Conversion, OrderStatus};
use tributary_shared::ids::AffiliateId;

use crate::enriched::geography;
use crate::facts::{click, stored};
use crate::money::{becomes, report, rule, saying, the_ledger_is_in_order};
use crate::support::{Processor, Shop, World, wait_until};

/// An order by a click of this moment.
fn order(world: &World, shop: &Shop, order_id: &str, amount: &str) -> Conversion {
    Conversion {
        click_id: shop.click(world.now()),
        ..report(world, shop, order_id, amount)
    }
}

async fn execute(world: &World, sql: &'static str) {
    sqlx::query(sql).execute(&world.pool).await.unwrap();
}

async fn new_affiliate(world: &World, shop: &Shop, name: &str) -> AffiliateId {
    sqlx::query_scalar("INSERT INTO affiliates (tenant_id, name) VALUES ($1, $2) RETURNING id")
        .bind(shop.tenant)
        .bind(name)
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

async fn set_parent(world: &World, of: AffiliateId, parent: AffiliateId) {
    sqlx::query("UPDATE affiliates SET parent_id = $2 WHERE id = $1")
        .bind(of)
        .bind(parent)
        .execute(&world.pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_order_is_priced_by_the_affiliate_of_its_time() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let gold = serde_json::json!({"scope": {"tiers": ["gold"]}, "reward": {"kind": "percent", "percent": "20"}});
    rule(&world, &shop, "gold", gold).await;
    let processor = world.processor(|_| {}).await;
    world
        .publish_conversion(&order(&world, &shop, "A", "100.00"))
        .await;
    becomes(&world, shop.affiliate, &[("pending", dec!(10))]).await;
    execute(&world, "UPDATE affiliates SET tier = 'gold'").await;
    world
        .publish_conversion(&order(&world, &shop, "B", "100.00"))
        .await;
    becomes(&world, shop.affiliate, &[("pending", dec!(30))]).await;
    // Settled again, the first one still is an order of before.
    let refund = saying(OrderStatus::Refunded, report(&world, &shop, "A", "50.00"));
    world.publish_conversion(&refund).await;
    becomes(&world, shop.affiliate, &[("pending", dec!(25))]).await;
    let kept = "SELECT count(*) FROM affiliate_versions WHERE tier IS NULL OR tier = 'gold'";
    assert_eq!(world.count(kept).await, 2);
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[tokio::test]
async fn uplines_stay_those_of_the_orders_time_and_a_circle_of_parents_ends() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let (mid, top) = (
        new_affiliate(&world, &shop, "mid").await,
        new_affiliate(&world, &shop, "top").await,
    );
    set_parent(&world, shop.affiliate, mid).await;
    set_parent(&world, mid, top).await;
    let processor = world.processor(|_| {}).await;
    world
        .publish_conversion(&order(&world, &shop, "A", "100.00"))
        .await;
    becomes(&world, mid, &[("pending", dec!(1))]).await;
    becomes(&world, top, &[("pending", dec!(0.30))]).await;
    // Everybody moves: straight to the top, which now stands below him.
    set_parent(&world, shop.affiliate, top).await;
    set_parent(&world, top, shop.affiliate).await;
    let refund = saying(OrderStatus::Refunded, report(&world, &shop, "A", "50.00"));
    world.publish_conversion(&refund).await;
    becomes(&world, mid, &[("pending", dec!(0.50))]).await;
    becomes(&world, top, &[("pending", dec!(0.15))]).await;
    world
        .publish_conversion(&order(&world, &shop, "B", "100.00"))
        .await;
    becomes(&world, top, &[("pending", dec!(1.15))]).await;
    becomes(&world, mid, &[("pending", dec!(0.50))]).await;
    becomes(&world, shop.affiliate, &[("pending", dec!(15))]).await;
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

/// The signals of an order once it was looked into, with their actions and reasons.
async fn signals(world: &World, order_id: &str) -> Vec<(String, String, String)> {
    wait_until(async || {
        let looked: Option<i64> = sqlx::query_scalar(
            "SELECT count(*) FROM conversions WHERE order_id = $1 AND looks = 100",
        )
        .bind(order_id)
        .fetch_one(&world.pool)
        .await
        .unwrap();
        looked == Some(1)
    })
    .await;
    sqlx::query_as(
        "SELECT s->>'signal', s->>'action', s->>'text' FROM conversions, jsonb_array_elements(signals) AS s
         WHERE order_id = $1 ORDER BY 1",
    )
    .bind(order_id)
    .fetch_all(&world.pool)
    .await
    .unwrap()
}

fn raised(signal: &str, action: &str, text: &str) -> (String, String, String) {
    (signal.to_owned(), action.to_owned(), text.to_owned())
}

/// A click of the shop's at a time, by a visitor, from an address.
fn visit(world: &World, shop: &Shop, at: DateTime<Utc>, visitor: u8, address: [u8; 4]) -> Click {
    Click {
        click_id: shop.click(at),
        received_at_us: at.timestamp_micros(),
        visitor_id: vec![visitor; 16],
        fingerprint: vec![visitor; 16],
        address: address.to_vec(),
        ..click(world, shop)
    }
}

async fn no_longer_remembered(world: &World, processor: Processor) -> Processor {
    processor.stop().await;
    world.processor(|_| {}).await
}

#[tokio::test]
async fn repeated_clicks_and_floods_are_counted_from_the_facts_whoever_saw_them() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let mut processor = world.processor(|_| {}).await;
    let start = world.now() - TimeDelta::minutes(10);
    let at = |seconds: i64| start + TimeDelta::seconds(seconds);
    // One visitor twice within 4 s; 22 visitors behind one address within 44 s; each seen by a processor of its own.
    let first = visit(&world, &shop, at(0), 1, [203, 0, 113, 1]);
    let second = visit(&world, &shop, at(4), 1, [203, 0, 113, 1]);
    let crowd: Vec<Click> = (0..22_u8)
        .map(|n| {
            visit(
                &world,
                &shop,
                at(100 + 2 * i64::from(n)),
                50 + n,
                [203, 0, 113, 2],
            )
        })
        .collect();
    world.publish_click(&first).await;
    world
        .publish_clicks(world.new_segment(), 0, &crowd[..11])
        .await;
    wait_until(async || stored(&world).await == (12, 12)).await;
    processor = no_longer_remembered(&world, processor).await;
    world.publish_click(&second).await;
    world
        .publish_clicks(world.new_segment(), 0, &crowd[11..])
        .await;
    wait_until(async || stored(&world).await == (24, 24)).await;
    let marked = world
        .fact_count("SELECT count() FROM clicks WHERE signals != 0")
        .await;
    assert_eq!(marked, 0, "neither processor could tell by itself");

    let by = |order_id: &str, click: &Click| Conversion {
        click_id: click.click_id.clone(),
        ..report(&world, &shop, order_id, "10.00")
    };
    world.publish_conversion(&by("first", &first)).await;
    world.publish_conversion(&by("second", &second)).await;
    world.publish_conversion(&by("twentieth", &crowd[19])).await;
    world.publish_conversion(&by("last", &crowd[21])).await;
    assert_eq!(signals(&world, "first").await, []);
    assert_eq!(
        signals(&world, "second").await,
        [raised(
            "duplicate",
            "flag",
            "the same visitor had clicked the link 4 s before; within 10 s"
        )]
    );
    assert_eq!(signals(&world, "twentieth").await, []);
    assert_eq!(
        signals(&world, "last").await,
        [raised(
            "flooding",
            "hold",
            "22 clicks of one address and browser on the link within a minute; more than 20"
        )]
    );

    // A program sets its own numbers, and what was counted is still known when an order is settled again.
    execute(
        &world,
        r#"UPDATE programs SET fraud = '{"duplicate": {"number": 3}, "flooding": {"number": 22}}'"#,
    )
    .await;
    execute(
        &world,
        "UPDATE conversions SET settle_at = now(), verdict = 'hold'",
    )
    .await;
    wait_until(async || {
        world
            .count("SELECT count(*) FROM conversions WHERE verdict = 'clear'")
            .await
            == 4
    })
    .await;
    processor.stop().await;
}

#[tokio::test]
async fn an_order_from_another_country_than_its_click_is_marked() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world
        .processor(|config| config.city_file = geography("places"))
        .await;
    let visit = visit(
        &world,
        &shop,
        world.now() - TimeDelta::minutes(10),
        1,
        [203, 0, 113, 9],
    );
    world.publish_click(&visit).await;
    let from = |order_id: &str, address: &[u8]| Conversion {
        click_id: visit.click_id.clone(),
        address: address.to_vec(),
        ..report(&world, &shop, order_id, "10.00")
    };
    world
        .publish_conversion(&from("same", &[203, 0, 113, 77]))
        .await;
    world
        .publish_conversion(&from("other", &[198, 51, 100, 1]))
        .await;
    world.publish_conversion(&from("unsaid", &[])).await;
    world
        .publish_conversion(&from("nowhere", &[192, 0, 2, 1]))
        .await;
    let expected = raised(
        "country_mismatch",
        "flag",
        "the order came from AT, the click from DE",
    );
    assert_eq!(
        signals(&world, "other").await,
        std::slice::from_ref(&expected)
    );
    for quiet in ["same", "unsaid", "nowhere"] {
        assert_eq!(signals(&world, quiet).await, [], "{quiet}");
    }
    // The address goes, the verdict stays.
    execute(&world, "UPDATE conversion_reports SET address = NULL").await;
    execute(
        &world,
        "UPDATE conversions SET settle_at = now(), signals = '[]' WHERE order_id = 'other'",
    )
    .await;
    wait_until(async || signals(&world, "other").await == [expected.clone()]).await;
    processor.stop().await;
}

#[tokio::test]
async fn many_more_orders_than_usual_are_marked_and_stay_so() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    // 22 orders, one a minute; of the week before there is one.
    let start = world.now() - TimeDelta::hours(3);
    let at = |minutes: i64, order_id: String| {
        let at = start + TimeDelta::minutes(minutes);
        Conversion {
            accepted_at_us: at.timestamp_micros(),
            click_id: shop.click(at - TimeDelta::minutes(5)),
            ..report(&world, &shop, &order_id, "1.00")
        }
    };
    world.publish_conversion(&at(-3000, "old".into())).await;
    for minute in 0..22 {
        world
            .publish_conversion(&at(minute, format!("order-{minute}")))
            .await;
    }
    let judged = async |world: &World| -> Vec<(String, String)> {
        sqlx::query_as(
            "SELECT order_id, s->>'text' FROM conversions, jsonb_array_elements(signals) AS s
             WHERE s->>'signal' = 'rate_anomaly' ORDER BY converted_at",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap()
    };
    let text = |orders: u32| {
        format!(
            "{orders} orders of the affiliate within 60 minutes, 1 within 168 hours before: more than 10 times as many in the same time"
        )
    };
    let expected = [
        ("order-20".to_owned(), text(21)),
        ("order-21".to_owned(), text(22)),
    ];
    let looked = "SELECT count(*) FROM conversions WHERE looks = 100";
    wait_until(async || world.count(looked).await == 23).await;
    // Whenever they are settled again.
    let settled = "SELECT count(*) FROM conversions WHERE settle_at > now() OR settle_at IS NULL";
    for _ in 0..2 {
        execute(
            &world,
            "UPDATE conversions SET settle_at = now(), signals = '[]'",
        )
        .await;
        wait_until(async || world.count(settled).await == 23).await;
        assert_eq!(judged(&world).await, expected);
    }
    let earned: Decimal = sqlx::query_scalar("SELECT sum(amount) FROM commissions")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(earned, dec!(2.30), "a mark takes nothing away");
    processor.stop().await;
}
