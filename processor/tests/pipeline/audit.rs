//! An auditor who knows nothing but the reports that were accepted, and adds up by himself, in cents, what each
//! affiliate is owed. Orders are made from a seed: updates, refunds, approvals and rejections, in any order, many of
//! them twice, while processors are killed and started again. The ledger must say the same to the cent.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use tributary_shared::events::{Click, Conversion, OrderStatus};
use tributary_shared::ids::AffiliateId;

use crate::facts::click;
use crate::money::the_ledger_is_in_order;
use crate::support::{Shop, World, wait_for};

/// Orders of one run.
const ORDERS: u64 = 400;
/// Times that a processor is killed.
const KILLS: usize = 6;
const SEED: u64 = 20_261_122;
/// How long it may take until the ledger is right.
const PATIENCE: Duration = Duration::from_secs(90);

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `sides` - 1.
    fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}

/// What a report says, in cents.
#[derive(Debug, Clone, Copy)]
enum Said {
    Worth(u64),
    Refund(u64),
    RefundAll,
    Approved,
    Rejected,
}

/// An order's reports in the order of their times.
fn reports(dice: &mut Dice) -> Vec<Said> {
    let mut said = vec![Said::Worth(1 + dice.roll(100_000))];
    for _ in 0..dice.roll(5) {
        said.push(match dice.roll(10) {
            0 | 1 => Said::Worth(1 + dice.roll(100_000)),
            2..=5 => Said::Refund(1 + dice.roll(30_000)),
            6 => Said::RefundAll,
            7 | 8 => Said::Approved,
            _ => Said::Rejected,
        });
    }
    said
}

/// What an affiliate earns of it at 10 per cent, in cents: the auditor's own sum.
fn earned(said: &[Said]) -> u64 {
    let (mut worth, mut refunded, mut all, mut rejected) = (0, 0, false, false);
    let mut refunds: Vec<u64> = Vec::new();
    for report in said {
        match report {
            Said::Worth(cents) => worth = *cents,
            // The same words are the same refund.
            Said::Refund(cents) if refunds.contains(cents) => {}
            Said::Refund(cents) => {
                refunds.push(*cents);
                refunded += *cents;
            }
            Said::RefundAll => all = true,
            Said::Approved => rejected = false,
            Said::Rejected => rejected = true,
        }
    }
    let half_up =
        |numerator: u64, denominator: u64| (2 * numerator + denominator) / (2 * denominator);
    let gross = half_up(worth, 10);
    if rejected || all || refunded >= worth {
        return 0;
    }
    gross - half_up(gross * refunded, worth)
}

fn message(shop: &Shop, click: &Click, nth: u64, at: DateTime<Utc>, said: Said) -> Conversion {
    let amount = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
    let (status, amount) = match said {
        Said::Worth(cents) => (OrderStatus::Unsaid, amount(cents)),
        Said::Refund(cents) => (OrderStatus::Refunded, amount(cents)),
        Said::RefundAll => (OrderStatus::Refunded, String::new()),
        Said::Approved => (OrderStatus::Approved, String::new()),
        Said::Rejected => (OrderStatus::Rejected, String::new()),
    };
    Conversion {
        accepted_at_us: at.timestamp_micros(),
        tenant_id: shop.tenant.to_wire(),
        order_id: format!("order {nth}"),
        event: "sale".to_owned(),
        currency: if amount.is_empty() { "" } else { "USD" }.to_owned(),
        amount,
        click_id: click.click_id.clone(),
        status: status.into(),
        ..Conversion::default()
    }
}

#[tokio::test]
async fn an_auditor_who_knows_the_reports_alone_comes_to_the_same_cent() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    sqlx::query("UPDATE programs SET hold_seconds = 0")
        .execute(&world.pool)
        .await
        .unwrap();
    let mut clicks = Vec::new();
    for code in ["a", "b", "c"] {
        let (affiliate, link): (AffiliateId, i64) = sqlx::query_as(
            "WITH a AS (INSERT INTO affiliates (tenant_id, name) VALUES ($1, $3) RETURNING id)
             INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination)
             SELECT $1, $2, id, $3, 'https://shop.example/' FROM a RETURNING affiliate_id, id",
        )
        .bind(shop.tenant)
        .bind(shop.program)
        .bind(code)
        .fetch_one(&world.pool)
        .await
        .unwrap();
        let shop = Shop {
            affiliate,
            link: tributary_shared::ids::LinkId(link),
            ..shop
        };
        // Each affiliate's clicks are another visitor's: an order is all of one affiliate's.
        let click = Click {
            visitor_id: vec![u8::try_from(link % 200).unwrap() + 1; 16],
            fingerprint: Vec::new(),
            ..click(&world, &shop)
        };
        world.publish_click(&click).await;
        clicks.push((affiliate, click));
    }

    let mut dice = Dice(SEED);
    let begin = world.now();
    let mut expected: BTreeMap<AffiliateId, u64> = BTreeMap::new();
    let mut messages = Vec::new();
    for nth in 0..ORDERS {
        let (affiliate, click) = &clicks[usize::try_from(dice.roll(3)).unwrap()];
        let said = reports(&mut dice);
        *expected.entry(*affiliate).or_default() += earned(&said);
        for (place, said) in said.into_iter().enumerate() {
            // So far apart that the same words are said anew.
            let at = begin + TimeDelta::hours(2 * i64::try_from(place).unwrap());
            let again = at + TimeDelta::minutes(1);
            messages.push(message(&shop, click, nth, at, said));
            match dice.roll(6) {
                0 => messages.push(message(&shop, click, nth, at, said)), // Kafka delivered it twice
                1 => messages.push(message(&shop, click, nth, again, said)), // the shop sent it again
                _ => {}
            }
        }
    }
    for place in (1..messages.len()).rev() {
        let other = usize::try_from(dice.roll(place as u64 + 1)).unwrap();
        messages.swap(place, other);
    }

    let mut processor = world.processor(|_| {}).await;
    let between = messages.len() / (KILLS + 1);
    for (nth, message) in messages.iter().enumerate() {
        world.publish_conversion(message).await;
        if nth % between == between - 1 {
            tokio::time::sleep(Duration::from_millis(dice.roll(800))).await;
            processor.kill().await;
            processor = world.processor(|_| {}).await;
        }
    }
    let owed = async || -> BTreeMap<AffiliateId, u64> {
        let rows: Vec<(AffiliateId, Decimal)> = sqlx::query_as(
            "SELECT affiliate_id, balance FROM ledger_balances b JOIN ledger_accounts a ON a.id = b.account_id
             WHERE kind = 'available'",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap();
        let cents = |amount: Decimal| {
            let mut amount = amount;
            amount.rescale(2);
            u64::try_from(amount.mantissa()).unwrap()
        };
        rows.into_iter()
            .map(|(affiliate, amount)| (affiliate, cents(amount)))
            .collect()
    };
    wait_for(PATIENCE, async || {
        owed().await == expected
            && world
                .count("SELECT count(*) FROM conversions WHERE settle_at IS NOT NULL")
                .await
                == 0
    })
    .await;
    let open = "SELECT count(*) FROM ledger_balances b JOIN ledger_accounts a ON a.id = b.account_id WHERE kind <> 'available' AND balance <> 0";
    assert_eq!(world.count(open).await, 0);
    let recorded = world.count("SELECT count(*) FROM conversions").await;
    assert_eq!(recorded.unsigned_abs(), ORDERS);
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[test]
fn the_auditor_adds_up_as_a_person_would() {
    use Said::{Approved, Refund, RefundAll, Rejected, Worth};
    for (said, cents) in [
        (vec![Worth(1225)], 123),                          // 122.5 cents, half up
        (vec![Worth(1000), Worth(2000)], 200),             // the last word
        (vec![Worth(3000), Refund(1000)], 200),            // a third goes back
        (vec![Worth(1000), Refund(333)], 67),              // 33.3 cents go back as 33
        (vec![Worth(1000), Refund(300), Refund(300)], 70), // one refund, told twice
        (vec![Worth(1000), Refund(600), Refund(700)], 0),  // more than all
        (vec![Worth(1000), RefundAll], 0),
        (vec![Worth(1000), Rejected], 0),
        (vec![Worth(1000), Rejected, Approved], 100),
    ] {
        assert_eq!(earned(&said), cents, "{said:?}");
    }
}
