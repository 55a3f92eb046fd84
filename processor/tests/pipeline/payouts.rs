//! From a commission whose hold is over to money that was paid, or taken back: on real engines. What people do over the admin
//! API is done here by the same statements' effect, a change of the payout's state.

use std::collections::BTreeMap;
use std::time::Duration;

use rust_decimal::{Decimal, dec};
use tributary_processor::{Cli, Tool, ledger_command};
use tributary_shared::events::{Click, Conversion, OrderStatus};
use tributary_shared::ids::AffiliateId;
use tributary_shared::payouts::Method;
use uuid::Uuid;

use crate::facts::click;
use crate::money::{balances, is, report, saying};
use crate::support::{Shop, World, sealing_keys, wait_for};

/// How long anything may take: settling, drafting and booking follow one another.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until an affiliate's accounts hold this; says what they hold when they never do.
async fn becomes(world: &World, affiliate: AffiliateId, expected: &[(&str, Decimal)]) {
    let begun = std::time::Instant::now();
    loop {
        let now = balances(&world.pool, affiliate).await;
        if now == is(expected) {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{now:?} does not become {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_until(condition: impl AsyncFnMut() -> bool) {
    wait_for(PATIENCE, condition).await;
}

/// A world in which orders earn at once, and an affiliate who can be paid.
async fn world() -> (World, Shop) {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    sqlx::query("UPDATE programs SET hold_seconds = 0")
        .execute(&world.pool)
        .await
        .unwrap();
    can_be_paid(&world, shop.affiliate).await;
    (world, shop)
}

async fn can_be_paid(world: &World, affiliate: AffiliateId) {
    let method = Method::Bank {
        holder: "Ana".to_owned(),
        account: "1234567890".to_owned(),
        bank_code: "021000021".to_owned(),
        bank_name: "Bank".to_owned(),
        country: "US".to_owned(),
    };
    let plain = serde_json::to_vec(&method).unwrap();
    let sealed = sealing_keys().seal(&format!("affiliate:{affiliate}:payout_method"), &plain);
    sqlx::query("UPDATE affiliates SET payout_method = $2 WHERE id = $1")
        .bind(affiliate)
        .bind(sealed)
        .execute(&world.pool)
        .await
        .unwrap();
}

/// Somebody asks for payouts; what the run says once it is done.
async fn run(world: &World, shop: &Shop) -> (i32, serde_json::Value) {
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO payout_runs (tenant_id, requested_by) VALUES ($1, 'ana@example.com') RETURNING id",
    )
    .bind(shop.tenant)
    .fetch_one(&world.pool)
    .await
    .unwrap();
    done(world, id).await
}

async fn done(world: &World, run: i64) -> (i32, serde_json::Value) {
    let mut said = None;
    wait_until(async || {
        said = sqlx::query_as(
            "SELECT drafted, left_out FROM payout_runs WHERE id = $1 AND done_at IS NOT NULL",
        )
        .bind(run)
        .fetch_optional(&world.pool)
        .await
        .unwrap();
        said.is_some()
    })
    .await;
    said.unwrap()
}

/// All payouts that are not over become this.
async fn all_become(world: &World, state: &str) {
    sqlx::query(
        "UPDATE payouts SET state = $1, closed_at = CASE WHEN $1 IN ('paid', 'cancelled') THEN now() END
         WHERE state NOT IN ('paid', 'cancelled')",
    )
    .bind(state)
    .execute(&world.pool)
    .await
    .unwrap();
}

/// What `processor ledger check` says, which is that the ledger is in order.
async fn the_ledger_is_in_order(world: &World) {
    let url = world.place.database.database_url.expose().to_owned();
    let arguments = ["processor", "ledger", "check", "--database-url", &url];
    let Ok(Cli::Tool(tool)) = Cli::try_parse_from(arguments) else {
        panic!("a tool");
    };
    let Tool::Ledger(command) = *tool else {
        panic!("the ledger's");
    };
    let mut out = Vec::new();
    let checked = ledger_command::run(&command, &mut out).await;
    let said = String::from_utf8(out).unwrap();
    assert!(checked.is_ok(), "{said}");
    assert!(
        said.contains("payouts that are the sum of their items"),
        "{said}"
    );
}

#[tokio::test]
async fn what_is_available_is_paid_and_what_is_taken_back_is_owed() {
    let (world, shop) = world().await;
    sqlx::query(
        r#"INSERT INTO payout_terms (tenant_id, approvals, fees) VALUES ($1, 1, '[{"method": "bank", "currency": "USD", "fixed": "1.50"}]')"#,
    )
    .bind(shop.tenant)
    .execute(&world.pool)
    .await
    .unwrap();
    sqlx::query("UPDATE affiliates SET withholding_percent = 10")
        .execute(&world.pool)
        .await
        .unwrap();
    let processor = world.processor(|_| {}).await;
    let visit: Click = click(&world, &shop);
    world.publish_click(&visit).await;
    let order = |order_id: &str| Conversion {
        click_id: visit.click_id.clone(),
        ..report(&world, &shop, order_id, "100.00")
    };
    let affiliate = shop.affiliate;
    world.publish_conversion(&order("A")).await;
    becomes(&world, affiliate, &[("available", dec!(10))]).await;

    let (drafted, left_out) = run(&world, &shop).await;
    assert_eq!((drafted, left_out), (1, serde_json::json!({})));
    assert_eq!(
        balances(&world.pool, affiliate).await,
        is(&[("in_payout", dec!(10))])
    );
    let payout: (String, Decimal, Decimal, Decimal, Decimal, String) =
        sqlx::query_as("SELECT state, amount, fee, withheld, net, method_kind FROM payouts")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    let (draft, bank) = ("draft".to_owned(), "bank".to_owned());
    assert_eq!(
        payout,
        (draft, dec!(10), dec!(1.50), dec!(1), dec!(7.50), bank)
    );
    the_ledger_is_in_order(&world).await;
    // What lies between moves no money.
    for state in ["approved", "sent"] {
        all_become(&world, state).await;
        the_ledger_is_in_order(&world).await;
    }
    // The one before is not over.
    world.publish_conversion(&order("B")).await;
    let more = [("available", dec!(10)), ("in_payout", dec!(10))];
    becomes(&world, affiliate, &more).await;
    let (drafted, left_out) = run(&world, &shop).await;
    assert_eq!(
        (drafted, left_out),
        (0, serde_json::json!({"open_payout": 1}))
    );

    all_become(&world, "paid").await;
    let paid = [("available", dec!(10)), ("paid", dec!(10))];
    becomes(&world, affiliate, &paid).await;
    the_ledger_is_in_order(&world).await;
    let discharged: Vec<(String, Decimal, bool)> = sqlx::query_as(
        "SELECT account, amount, payout_id IS NOT NULL FROM ledger_explained
         WHERE affiliate_id IS NULL AND commission_id IS NULL ORDER BY account",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let line = |account: &str, amount| (account.to_owned(), amount, true);
    assert_eq!(
        discharged,
        [
            line("payout_fees", dec!(1.50)),
            line("payouts", dec!(-10)),
            line("payouts_sent", dec!(7.50)),
            line("tax_withheld", dec!(1)),
        ]
    );
    // From an entry of the affiliate's one query leads to order and payout.
    let led = "SELECT count(*) FROM ledger_explained WHERE account = 'paid' AND order_id = 'A' AND payout_state = 'paid'";
    assert_eq!(world.count(led).await, 1);
    let facts = "SELECT count() FROM commissions FINAL WHERE state = 'paid'";
    wait_until(async || world.fact_count(facts).await == 1).await;

    // Half of A comes back after it was paid, and B with it: a debt.
    for (order_id, amount) in [("A", "50.00"), ("B", "100.00")] {
        let refund = saying(
            OrderStatus::Refunded,
            report(&world, &shop, order_id, amount),
        );
        world.publish_conversion(&refund).await;
    }
    let owing = [("clawback", dec!(-5)), ("paid", dec!(10))];
    becomes(&world, affiliate, &owing).await;
    let (drafted, left_out) = run(&world, &shop).await;
    assert_eq!(
        (drafted, left_out),
        (0, serde_json::json!({"negative_balance": 1}))
    );
    // The next orders settle it.
    world.publish_conversion(&order("C")).await;
    let due = [
        ("available", dec!(10)),
        ("clawback", dec!(-5)),
        ("paid", dec!(10)),
    ];
    becomes(&world, affiliate, &due).await;
    assert_eq!(run(&world, &shop).await.0, 1);
    let on_its_way = [("in_payout", dec!(5)), ("paid", dec!(10))];
    becomes(&world, affiliate, &on_its_way).await;
    all_become(&world, "paid").await;
    becomes(&world, affiliate, &[("paid", dec!(15))]).await;
    the_ledger_is_in_order(&world).await;
    let stand: Vec<(String, Decimal, String)> = sqlx::query_as(
        "SELECT c.order_id, m.paid, m.state FROM commissions m JOIN conversions c ON c.id = m.conversion_id ORDER BY 1",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let stands = |order: &str, paid, state: &str| (order.to_owned(), paid, state.to_owned());
    assert_eq!(
        stand,
        [
            stands("A", dec!(5), "paid"),
            stands("B", dec!(0), "rejected"),
            stands("C", dec!(10), "paid"),
        ]
    );
    processor.stop().await;
}

#[tokio::test]
async fn a_cancelled_payout_gives_back_what_was_not_taken_back() {
    let (world, shop) = world().await;
    let processor = world.processor(|_| {}).await;
    let visit: Click = click(&world, &shop);
    world.publish_click(&visit).await;
    let order = Conversion {
        click_id: visit.click_id.clone(),
        ..report(&world, &shop, "A", "100.00")
    };
    let affiliate = shop.affiliate;
    world.publish_conversion(&order).await;
    becomes(&world, affiliate, &[("available", dec!(10))]).await;
    // Not below the minimum, and not to nowhere.
    sqlx::query(
        r#"INSERT INTO payout_terms (tenant_id, minimums) VALUES ($1, '{"USD": "10.01"}')"#,
    )
    .bind(shop.tenant)
    .execute(&world.pool)
    .await
    .unwrap();
    let left_out = run(&world, &shop).await.1;
    assert_eq!(left_out, serde_json::json!({"below_minimum": 1}));
    sqlx::query(r#"UPDATE payout_terms SET minimums = '{"USD": "10.00"}'"#)
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE affiliates SET payout_method = NULL")
        .execute(&world.pool)
        .await
        .unwrap();
    let left_out = run(&world, &shop).await.1;
    assert_eq!(left_out, serde_json::json!({"no_method": 1}));
    can_be_paid(&world, affiliate).await;
    assert_eq!(run(&world, &shop).await.0, 1);

    let refund = saying(OrderStatus::Refunded, report(&world, &shop, "A", "50.00"));
    world.publish_conversion(&refund).await;
    let owing = [("clawback", dec!(-5)), ("in_payout", dec!(10))];
    becomes(&world, affiliate, &owing).await;
    all_become(&world, "cancelled").await;
    becomes(&world, affiliate, &[("available", dec!(5))]).await;
    the_ledger_is_in_order(&world).await;
    let at_rest = "SELECT count(*) FROM conversions WHERE settle_at IS NOT NULL";
    wait_until(async || world.count(at_rest).await == 0).await;
    becomes(&world, affiliate, &[("available", dec!(5))]).await;
    sqlx::query("UPDATE payout_terms SET minimums = '{}'")
        .execute(&world.pool)
        .await
        .unwrap();
    assert_eq!(run(&world, &shop).await.0, 1);
    becomes(&world, affiliate, &[("in_payout", dec!(5))]).await;
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[tokio::test]
async fn runs_at_once_and_a_schedule_that_all_processors_see_make_one_payout() {
    let (world, shop) = world().await;
    let processors = [world.processor(|_| {}).await, world.processor(|_| {}).await];
    let visit: Click = click(&world, &shop);
    world.publish_click(&visit).await;
    let order = Conversion {
        click_id: visit.click_id.clone(),
        ..report(&world, &shop, "A", "100.00")
    };
    world.publish_conversion(&order).await;
    becomes(&world, shop.affiliate, &[("available", dec!(10))]).await;
    let runs: Vec<i64> = sqlx::query_scalar(
        "INSERT INTO payout_runs (tenant_id, requested_by) SELECT $1, 'ana' FROM generate_series(1, 4) RETURNING id",
    )
    .bind(shop.tenant)
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let mut drafted = 0;
    for run in runs {
        drafted += done(&world, run).await.0;
    }
    let payouts = "SELECT count(*) FROM payouts";
    assert_eq!((drafted, world.count(payouts).await), (1, 1));
    all_become(&world, "cancelled").await;
    let rests = "SELECT count(*) FROM conversions WHERE settle_at IS NOT NULL";
    becomes(&world, shop.affiliate, &[("available", dec!(10))]).await;
    wait_until(async || world.count(rests).await == 0).await;

    // Every day, decided three days ago; nobody has to approve.
    sqlx::query(
        "INSERT INTO payout_terms (tenant_id, schedule, approvals, scheduled_at) VALUES ($1, 'daily', 0, now() - interval '3 days')",
    )
    .bind(shop.tenant)
    .execute(&world.pool)
    .await
    .unwrap();
    becomes(&world, shop.affiliate, &[("in_payout", dec!(10))]).await;
    let approved: (String, Vec<String>) =
        sqlx::query_as("SELECT state, approved_by FROM payouts WHERE state <> 'cancelled'")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    let by = vec!["the schedule".to_owned()];
    assert_eq!(approved, ("approved".to_owned(), by));
    // Midnight may lie between.
    let days = world
        .count("SELECT count(*) FROM payout_runs WHERE due_on IS NOT NULL")
        .await;
    assert!((1..=2).contains(&days), "{days}");
    the_ledger_is_in_order(&world).await;
    for processor in processors {
        processor.stop().await;
    }
}

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[tokio::test]
async fn whoever_is_killed_no_cent_is_paid_twice() {
    const ORDERS: u64 = 240;
    const KILLS: u64 = 8;
    let (world, shop) = world().await;
    sqlx::query("INSERT INTO payout_terms (tenant_id, approvals) VALUES ($1, 0)")
        .bind(shop.tenant)
        .execute(&world.pool)
        .await
        .unwrap();
    let mut affiliates = vec![(shop.affiliate, click(&world, &shop))];
    for code in ["x", "y"] {
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
        can_be_paid(&world, affiliate).await;
        let theirs = Shop {
            affiliate,
            link: tributary_shared::ids::LinkId(link),
            ..shop
        };
        let visitor = vec![u8::try_from(link % 200).unwrap() + 1; 16];
        let click = Click {
            visitor_id: visitor,
            fingerprint: Vec::new(),
            ..click(&world, &theirs)
        };
        affiliates.push((affiliate, click));
    }
    for (_, click) in &affiliates {
        world.publish_click(click).await;
    }

    let mut dice = Dice(20_261_201);
    let mut processors = [
        Some(world.processor(|_| {}).await),
        Some(world.processor(|_| {}).await),
    ];
    // What each is worth in the end, by hand: a tenth of what was not given back.
    let mut earned: BTreeMap<AffiliateId, Decimal> = BTreeMap::new();
    let mut open: Vec<(String, usize, u64)> = Vec::new();
    for nth in 0..ORDERS {
        let whose = usize::try_from(dice.roll(3)).unwrap();
        let (affiliate, click) = &affiliates[whose];
        let tens = 1 + dice.roll(40);
        let order_id = format!("order {nth}");
        let order = Conversion {
            click_id: click.click_id.clone(),
            ..report(&world, &shop, &order_id, &format!("{}.00", tens * 10))
        };
        world.publish_conversion(&order).await;
        *earned.entry(*affiliate).or_default() += Decimal::from(tens);
        open.push((order_id, whose, tens));
        // An earlier order comes back, whole or by half.
        if dice.roll(3) == 0 {
            let place = usize::try_from(dice.roll(open.len() as u64)).unwrap();
            let (order_id, whose, tens) = open.swap_remove(place);
            let by_half = dice.roll(2) == 0;
            let back = if by_half { tens * 5 } else { tens * 10 };
            let back = report(&world, &shop, &order_id, &format!("{back}.00"));
            let refund = saying(OrderStatus::Refunded, back);
            world.publish_conversion(&refund).await;
            let lost = Decimal::from(tens) / Decimal::from(if by_half { 2 } else { 1 });
            *earned.entry(affiliates[whose].0).or_default() -= lost;
        }
        if dice.roll(4) == 0 {
            sqlx::query("INSERT INTO payout_runs (tenant_id, requested_by) VALUES ($1, 'ana')")
                .bind(shop.tenant)
                .execute(&world.pool)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(dice.roll(700))).await;
        }
        if dice.roll(3) == 0 {
            let state = if dice.roll(3) == 0 {
                "cancelled"
            } else {
                "paid"
            };
            all_become(&world, state).await;
        }
        if nth % (ORDERS / KILLS) == ORDERS / KILLS - 1 {
            tokio::time::sleep(Duration::from_millis(dice.roll(600))).await;
            let which = &mut processors[usize::try_from(dice.roll(2)).unwrap()];
            if let Some(processor) = which.take() {
                processor.kill().await;
            }
            *which = Some(world.processor(|_| {}).await);
        }
    }
    // It comes to rest: everything is settled, then paid.
    let unsettled = "SELECT count(*) FROM conversions WHERE settle_at IS NOT NULL";
    let recorded = "SELECT count(*) FROM conversions WHERE version > 0";
    wait_for(PATIENCE, async || {
        world.count(recorded).await.unsigned_abs() == ORDERS && world.count(unsettled).await == 0
    })
    .await;
    let worth = async || -> BTreeMap<AffiliateId, Decimal> {
        let rows: Vec<(AffiliateId, Decimal)> = sqlx::query_as(
            "SELECT affiliate_id, sum(balance) FROM ledger_balances b JOIN ledger_accounts a ON a.id = b.account_id GROUP BY 1",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap();
        rows.into_iter().collect()
    };
    wait_for(PATIENCE, async || worth().await == earned).await;
    for _ in 0..2 {
        all_become(&world, "paid").await;
        wait_until(async || {
            world
                .count("SELECT count(*) FROM payouts WHERE NOT booked")
                .await
                == 0
        })
        .await;
        wait_until(async || world.count(unsettled).await == 0).await;
        run(&world, &shop).await;
    }
    all_become(&world, "paid").await;
    wait_until(async || {
        world
            .count("SELECT count(*) FROM payouts WHERE NOT booked")
            .await
            == 0
    })
    .await;
    // A refund that nobody could settle yet may remain as a debt; nothing else does.
    let paid: Vec<(AffiliateId, Decimal)> = sqlx::query_as(
        "SELECT affiliate_id, sum(amount) FROM payouts WHERE state = 'paid' GROUP BY affiliate_id",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let owed: Vec<(AffiliateId, Decimal)> = sqlx::query_as(
        "SELECT affiliate_id, sum(clawback) FROM commissions WHERE clawback <> 0 GROUP BY affiliate_id",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let mut ends: BTreeMap<AffiliateId, Decimal> = BTreeMap::new();
    for (affiliate, amount) in paid.into_iter().chain(owed) {
        *ends.entry(affiliate).or_default() += amount;
    }
    assert_eq!(ends, earned);
    the_ledger_is_in_order(&world).await;
    let cancelled: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM payouts WHERE state = 'cancelled'")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    assert!(!cancelled.is_empty());
    for processor in processors.into_iter().flatten() {
        processor.stop().await;
    }
}
