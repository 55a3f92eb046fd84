//! Sixteen writers at once, each through what a reader of topic `conversions` does with what it holds, on orders of the same
//! affiliate: given up at random moments, begun again, told everything twice. The balance must be exact.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use prost::Message as _;
use rust_decimal::Decimal;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tributary_processor::ledger_command::{self, LedgerAction, LedgerCommand};
use tributary_processor::record;
use tributary_shared::config::{LogConfig, LogFormat};
use tributary_shared::engines;
use tributary_shared::events::{Conversion, OrderStatus};
use tributary_shared::ids::AffiliateId;

use crate::support::{Shop, World, keys, wait_for, wait_until};

const WRITERS: u64 = 16;
const ORDERS: u64 = 480;
/// Connections: one for each writer, and for who looks on.
const CONNECTIONS: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(90);

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    /// 0 to `sides` - 1.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A shop without a hold, whose affiliate stands under another; each has a coupon: what uses one needs no click.
struct Place {
    world: World,
    pool: PgPool,
    shop: Shop,
    above: AffiliateId,
    /// When the first order was reported.
    began: DateTime<Utc>,
}

impl Place {
    async fn create() -> Self {
        let world = World::create().await;
        let shop = world.shop("shop").await;
        let pool = engines::postgres::pool(&world.place.database, "test", CONNECTIONS).unwrap();
        sqlx::query("UPDATE programs SET hold_seconds = 0")
            .execute(&pool)
            .await
            .unwrap();
        let above: AffiliateId = sqlx::query_scalar(
            "INSERT INTO affiliates (tenant_id, name) VALUES ($1, 'above') RETURNING id",
        )
        .bind(shop.tenant)
        .fetch_one(&pool)
        .await
        .unwrap();
        sqlx::query("UPDATE affiliates SET parent_id = $1 WHERE id = $2")
            .bind(above)
            .bind(shop.affiliate)
            .execute(&pool)
            .await
            .unwrap();
        for (code, affiliate) in [("ABOVE", above), ("BELOW", shop.affiliate)] {
            sqlx::query("INSERT INTO coupons (tenant_id, code, program_id, affiliate_id) VALUES ($1, $2, $3, $4)")
                .bind(shop.tenant)
                .bind(code)
                .bind(shop.program)
                .bind(affiliate)
                .execute(&pool)
                .await
                .unwrap();
        }
        Self {
            began: world.now() - TimeDelta::days(1),
            world,
            pool,
            shop,
            above,
        }
    }

    /// A report of an order, so many minutes after the first.
    fn report(
        &self,
        order: u64,
        coupon: &str,
        minutes: i64,
        status: OrderStatus,
        amount: &str,
    ) -> Vec<u8> {
        let at = self.began + TimeDelta::minutes(minutes);
        Conversion {
            accepted_at_us: at.timestamp_micros(),
            tenant_id: self.shop.tenant.to_wire(),
            order_id: format!("order {order}"),
            event: "sale".to_owned(),
            currency: if amount.is_empty() { "" } else { "USD" }.to_owned(),
            amount: amount.to_owned(),
            coupon: coupon.to_owned(),
            status: status.into(),
            ..Conversion::default()
        }
        .encode_to_vec()
    }

    /// What a reader does with what it holds.
    async fn record(&self, messages: &[Vec<u8>]) {
        let stop = CancellationToken::new();
        let unread = Box::pin(record(self.pool.clone(), keys(), messages, stop)).await;
        assert_eq!(unread, Some(0), "messages that can't be read");
    }

    async fn available(&self, affiliate: AffiliateId) -> Decimal {
        let balance = sqlx::query_scalar(
            "SELECT balance FROM ledger_balances b JOIN ledger_accounts a ON a.id = b.account_id
             WHERE a.affiliate_id = $1 AND a.kind = 'available'",
        );
        let balance = balance.bind(affiliate).fetch_optional(&self.pool);
        balance.await.unwrap().unwrap_or_default()
    }

    /// `processor ledger check`.
    async fn is_in_order(&self) {
        let command = LedgerCommand {
            action: LedgerAction::Check,
            database: self.world.place.database.clone(),
            log: LogConfig {
                log_format: LogFormat::Text,
            },
        };
        let mut said = Vec::new();
        let checked = ledger_command::run(&command, &mut said).await;
        checked.unwrap_or_else(|error| panic!("{error}\n{}", String::from_utf8_lossy(&said)));
    }

    /// Takes the turn of an affiliate, as who prices an order of his does.
    async fn turn(
        &self,
        connection: &mut PgConnection,
        affiliate: AffiliateId,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(format!("affiliate {} {affiliate}", self.shop.program))
            .execute(connection)
            .await
            .map(drop)
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

/// Has these recorded. Some of the time it is given up, wherever it is, and begun anew.
async fn write(place: &Place, messages: &[Vec<u8>], dice: &mut Dice) {
    loop {
        let patience = match dice.roll(3) {
            0 => Duration::from_millis(1 + dice.roll(60)),
            _ => PATIENCE,
        };
        let work = place.record(messages);
        if tokio::time::timeout(patience, work).await.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_writers_on_one_affiliate_end_in_the_exact_balance() {
    let place = Arc::new(Place::create().await);
    let mut dice = Dice(20_261_130);
    let mut queues: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 16];
    let mut cents: u64 = 0;
    for order in 0..ORDERS {
        // So that neither 10 % nor half of it is to be rounded.
        let worth = 20 * (1 + dice.roll(5_000));
        let text = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
        let mut reports = vec![place.report(order, "below", 0, OrderStatus::Unsaid, &text(worth))];
        let mut left = worth / 10;
        for step in 1..=dice.roll(3) {
            let minutes = i64::try_from(step * 120).unwrap();
            let (status, amount) = match dice.roll(4) {
                0 => (OrderStatus::Approved, String::new()),
                1 => (OrderStatus::Rejected, String::new()),
                _ => (OrderStatus::Refunded, text(worth / 2)),
            };
            match status {
                OrderStatus::Refunded => left = left.min(worth / 20),
                OrderStatus::Rejected => left = 0,
                _ => {}
            }
            reports.push(place.report(order, "", minutes, status, &amount));
            if status == OrderStatus::Rejected {
                break; // an approval after it would bring it back
            }
        }
        cents += left;
        for report in reports {
            for _ in 0..=dice.roll(2) {
                let writer = usize::try_from(dice.roll(WRITERS)).unwrap();
                let queue = &mut queues[writer];
                let at = usize::try_from(dice.roll(queue.len() as u64 + 1)).unwrap();
                queue.insert(at, report.clone());
            }
        }
    }

    // It comes back to conversions meanwhile: to look into the facts, and when the hold is over.
    let processor = place.world.processor(|_| {}).await;
    let mut writers = JoinSet::new();
    for (n, queue) in (1..).zip(queues) {
        let place = Arc::clone(&place);
        writers.spawn(async move {
            let mut dice = Dice(n);
            let mut rest = queue.as_slice();
            while !rest.is_empty() {
                let count = usize::try_from(1 + dice.roll(25)).unwrap().min(rest.len());
                let (batch, later) = rest.split_at(count);
                write(&place, batch, &mut dice).await;
                rest = later;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let left = "SELECT count(*) FROM conversions WHERE settle_at IS NOT NULL";
    wait_for(PATIENCE, async || place.number(left).await == 0).await;
    processor.stop().await;

    let owed = Decimal::from(cents) / Decimal::from(100);
    assert_eq!(place.available(place.shop.affiliate).await, owed);
    assert_eq!(
        place
            .number("SELECT count(*) FROM conversions")
            .await
            .unsigned_abs(),
        ORDERS
    );
    let elsewhere =
        "SELECT count(*) FROM ledger_balances b JOIN ledger_accounts a ON a.id = b.account_id
         WHERE kind <> 'available' AND balance <> 0";
    assert_eq!(place.number(elsewhere).await, 0);
    place.is_in_order().await;
}

/// Who waits for somebody's turn.
const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Somebody holds what the second order needs, and asks for what the first one took: PostgreSQL ends who waits for a second,
/// the writer unless the machine is very slow. Then it is done once more.
#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let place = Place::create().await;
    sqlx::query(
        r#"INSERT INTO commission_rules (tenant_id, program_id, version, document)
           VALUES ($1, $2, 2, '{"reward": {"kind": "percent", "percent": "10"}, "tiers": {
               "by": "orders", "period": "lifetime", "steps": [{"from": "100", "percent": "20"}]}}')"#,
    )
    .bind(place.shop.tenant)
    .bind(place.shop.program)
    .execute(&place.pool)
    .await
    .unwrap();
    // Orders are of the time when both versions were there already.
    let place = Place {
        began: place.world.now(),
        ..place
    };
    let (above, below) = (place.above, place.shop.affiliate);
    let mut orders: i64 = 0;
    let mut writer_was_ended = false;
    while !writer_was_ended {
        assert!(
            orders < 20,
            "the writer was never the one that PostgreSQL ended"
        );
        let report = |coupon: &str, minutes: i64| {
            let order = minutes.unsigned_abs();
            place.report(order, coupon, minutes, OrderStatus::Unsaid, "10.00")
        };
        let messages = [report("above", orders), report("below", orders + 1)];
        orders += 2;
        let writing = place.record(&messages);
        let mut connection = place.pool.acquire().await.unwrap();
        let mut other = connection.begin().await.unwrap();
        place.turn(&mut other, below).await.unwrap();
        let other_side = async {
            wait_until(async || place.number(WAITING).await > 0).await;
            let got = place.turn(&mut other, above).await.is_ok();
            other.rollback().await.unwrap();
            got
        };
        ((), writer_was_ended) = tokio::join!(writing, other_side);
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    // What was counted is told a moment later.
    wait_until(async || place.number(deadlocks).await > 0).await;
    let direct = "SELECT count(*) FROM commissions WHERE part = 'direct' AND pending = 1";
    assert_eq!(place.number(direct).await, orders);
    place.is_in_order().await;
}
