//! Clicks that are paid for as such: from Kafka through the facts into the ledger, on real engines.

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use rust_decimal::{Decimal, dec};
use serde_json::{Value, json};
use tributary_shared::events::{Click, FetchDest};

use crate::facts::{click, stored};
use crate::money::{becomes, the_ledger_is_in_order};
use crate::support::{Processor, Shop, World, wait_until};

/// Noon, two days ago: everything of that day is over.
fn noon(world: &World) -> DateTime<Utc> {
    let day = world.now().date_naive() - Days::new(2);
    day.and_time(NaiveTime::MIN).and_utc() + TimeDelta::hours(12)
}

/// A person's click of the shop's at a time, each person once.
fn person(world: &World, shop: &Shop, at: DateTime<Utc>, visitor: u8) -> Click {
    Click {
        click_id: shop.click(at),
        received_at_us: at.timestamp_micros(),
        visitor_id: vec![visitor; 16],
        fingerprint: vec![visitor; 16],
        address: vec![203, 0, 113, visitor],
        ..click(world, shop)
    }
}

fn seconds(at: DateTime<Utc>, seconds: u8) -> DateTime<Utc> {
    at + TimeDelta::seconds(i64::from(seconds))
}

/// A rule that pays for clicks, written at a time.
async fn pays(world: &World, shop: &Shop, written: DateTime<Utc>, flat: &str, more: Value) {
    let mut document = json!({"events": ["click"], "reward": {"kind": "flat", "flat": flat}});
    let more = more.as_object().unwrap().clone();
    document.as_object_mut().unwrap().extend(more);
    sqlx::query(
        "INSERT INTO commission_rules (tenant_id, program_id, name, version, document, created_at)
         SELECT $1, $2, 'cpc', coalesce(max(version), 0) + 1, $3, $4 FROM commission_rules WHERE program_id = $2 AND name = 'cpc'",
    )
    .bind(shop.tenant)
    .bind(shop.program)
    .bind(document)
    .bind(written)
    .execute(&world.pool)
    .await
    .unwrap();
}

async fn processor(world: &World) -> Processor {
    world
        .processor(|config| config.click_earnings_seconds = 1)
        .await
}

/// What was counted: order ids without their numbers, clicks, and what they earned, in the order of time.
async fn counts(world: &World) -> Vec<(i64, Option<Decimal>)> {
    sqlx::query_as(
        "SELECT k.clicks, m.amount FROM click_counts k LEFT JOIN commissions m ON m.conversion_id = k.conversion_id AND m.part = 'direct'
         ORDER BY k.from_at, k.country, k.clicks",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn peoples_clicks_are_paid_for_exactly_late_ones_and_by_two_processors() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let noon = noon(&world);
    pays(&world, &shop, noon - TimeDelta::days(30), "0.02", json!({})).await;
    let fraud = r#"{"duplicate": {"action": "reject"}, "flooding": {"number": 3}}"#;
    sqlx::query("UPDATE programs SET fraud = $1::jsonb")
        .bind(fraud)
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO blocked (tenant_id, kind, value) VALUES ($1, 'address', '198.51.100.0/24'), ($1, 'referrer', 'bad.example')")
        .bind(shop.tenant)
        .execute(&world.pool)
        .await
        .unwrap();
    let processors = [processor(&world).await, processor(&world).await];

    let people: Vec<Click> = (1..=7)
        .map(|n| person(&world, &shop, seconds(noon, 10 * n), n))
        .collect();
    let bot = Click {
        user_agent: "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
            .into(),
        ..person(&world, &shop, noon, 20)
    };
    let again = person(&world, &shop, seconds(noon, 13), 1);
    let in_a_frame = Click {
        fetch_dest: FetchDest::Frame.into(),
        ..person(&world, &shop, noon, 21)
    };
    let from_blocked = Click {
        address: vec![198, 51, 100, 9],
        ..person(&world, &shop, noon, 22)
    };
    let of_blocked_site = Click {
        referrer: "https://bad.example/x".into(),
        ..person(&world, &shop, noon, 23)
    };
    // Four people behind one address within a minute; three of them may click.
    let crowd = (0..4).map(|n| Click {
        address: vec![203, 0, 113, 200],
        ..person(&world, &shop, seconds(noon, 100 + n), 100 + n)
    });
    let mut all = people.clone();
    all.extend([bot, again, in_a_frame, from_blocked, of_blocked_site]);
    all.extend(crowd);
    for click in &all {
        world.publish_click(click).await;
    }
    wait_until(async || stored(&world).await == (16, 16)).await;
    // Seven and three.
    becomes(&world, shop.affiliate, &[("pending", dec!(0.20))]).await;
    assert_eq!(counts(&world).await, [(10, Some(dec!(0.20)))]);
    let step: Option<String> = sqlx::query_scalar("SELECT steps->0->>'text' FROM commissions")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert!(
        step.as_ref().unwrap().contains("10 clicks at 0.02"),
        "{step:?}"
    );

    // A journal that was away sends the rest of that day.
    for n in 30..35 {
        let late = person(&world, &shop, seconds(noon, 200), n);
        world.publish_click(&late).await;
    }
    becomes(&world, shop.affiliate, &[("pending", dec!(0.30))]).await;
    assert_eq!(counts(&world).await, [(15, Some(dec!(0.30)))]);

    // They are no orders: the facts know the money, and no conversion.
    wait_until(async || {
        world
            .fact_count(
                "SELECT toUInt64(count()) FROM commissions FINAL WHERE toString(amount) = '0.3'",
            )
            .await
            == 1
    })
    .await;
    assert_eq!(world.fact_count("SELECT count() FROM conversions").await, 0);
    let (verdict, status): (String, String) =
        sqlx::query_as("SELECT verdict, status FROM conversions")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!((verdict.as_str(), status.as_str()), ("clear", "pending"));
    the_ledger_is_in_order(&world).await;
    for processor in processors {
        processor.stop().await;
    }
}

#[tokio::test]
async fn a_rule_counts_from_when_it_was_written_and_facts_that_are_lost_take_nothing_back() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let noon = noon(&world);
    let minute = |minutes: i64| noon + TimeDelta::minutes(minutes);
    // Nothing before 12:10, then 0.05, from 12:20 on another price for each country and a cap.
    pays(&world, &shop, minute(10), "0.05", json!({})).await;
    let cap = json!({"when": "country == ''", "cap": {"amount": "0.50", "period": "month"}});
    pays(&world, &shop, minute(20), "0.30", cap).await;
    let processor = processor(&world).await;
    for (at, visitor) in [(5, 1), (10, 2), (15, 3), (20, 4), (25, 5), (26, 6)] {
        world
            .publish_click(&person(&world, &shop, minute(at), visitor))
            .await;
    }
    wait_until(async || stored(&world).await == (6, 6)).await;
    // Two at 0.05; of three at 0.30 as much as the cap leaves of 0.50, which is the rule's over both prices.
    let expected = [(2, Some(dec!(0.10))), (3, Some(dec!(0.40)))];
    wait_until(async || counts(&world).await == expected).await;
    becomes(&world, shop.affiliate, &[("pending", dec!(0.50))]).await;

    // The facts lose clicks, and what was counted stays; with a later one they hold fewer still.
    let lose = format!(
        "ALTER TABLE clicks DELETE WHERE visitor_id != 0 AND toUnixTimestamp(received_at) > {} SETTINGS mutations_sync = 2",
        minute(12).timestamp()
    );
    world.facts.query(&lose).execute().await.unwrap();
    world
        .publish_click(&person(&world, &shop, minute(30), 7))
        .await;
    wait_until(async || stored(&world).await == (3, 3)).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(counts(&world).await, expected);
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}
