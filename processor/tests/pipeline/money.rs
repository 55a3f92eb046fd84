//! What becomes of an order after its first report, and who is credited when no click is named: through Kafka into the
//! ledger, on real engines.

use chrono::TimeDelta;
use rust_decimal::{Decimal, dec};
use sqlx::PgPool;
use tributary_shared::events::{Click, Conversion, OrderStatus, Source};
use tributary_shared::ids::AffiliateId;

use crate::facts::click;
use crate::support::{Shop, World, wait_until};

/// The merchant's report of an order.
pub(crate) fn report(world: &World, shop: &Shop, order_id: &str, amount: &str) -> Conversion {
    Conversion {
        accepted_at_us: world.now().timestamp_micros(),
        tenant_id: shop.tenant.to_wire(),
        order_id: order_id.to_owned(),
        event: "sale".to_owned(),
        amount: amount.to_owned(),
        currency: if amount.is_empty() { "" } else { "USD" }.to_owned(),
        ..Conversion::default()
    }
}

pub(crate) fn saying(status: OrderStatus, report: Conversion) -> Conversion {
    Conversion {
        status: status.into(),
        ..report
    }
}

/// What stands in each account of an affiliate, by the balances that the database keeps.
pub(crate) async fn balances(pool: &PgPool, affiliate: AffiliateId) -> Vec<(String, Decimal)> {
    sqlx::query_as(
        "SELECT kind, balance FROM ledger_balances b JOIN ledger_accounts a ON a.id = b.account_id
         WHERE a.affiliate_id = $1 AND balance <> 0 ORDER BY kind",
    )
    .bind(affiliate)
    .fetch_all(pool)
    .await
    .unwrap()
}

pub(crate) fn is(expected: &[(&str, Decimal)]) -> Vec<(String, Decimal)> {
    let entry = |(kind, amount): &(&str, Decimal)| ((*kind).to_owned(), *amount);
    expected.iter().map(entry).collect()
}

pub(crate) async fn becomes(world: &World, affiliate: AffiliateId, expected: &[(&str, Decimal)]) {
    wait_until(async || balances(&world.pool, affiliate).await == is(expected)).await;
}

/// The ledger's own promises: it balances, and what is kept beside it is its sum.
pub(crate) async fn the_ledger_is_in_order(world: &World) {
    for (what, sql) in [
        (
            "a transaction that does not balance",
            "SELECT count(*) FROM (SELECT 1 FROM ledger_entries GROUP BY transaction_id, currency HAVING sum(amount) <> 0) x",
        ),
        (
            "a balance that is not the sum of its entries",
            "SELECT count(*) FROM ledger_balances b
             WHERE balance <> (SELECT sum(amount) FROM ledger_entries e WHERE e.account_id = b.account_id)",
        ),
        (
            "a commission that is not what was posted of it",
            "SELECT count(*) FROM commissions m WHERE m.amount <> (
                 SELECT coalesce(sum(e.amount), 0) FROM ledger_entries e JOIN ledger_transactions t ON t.id = e.transaction_id
                 JOIN ledger_accounts a ON a.id = e.account_id AND a.affiliate_id IS NOT NULL WHERE t.commission_id = m.id)",
        ),
    ] {
        assert_eq!(world.count(sql).await, 0, "{what}");
    }
}

#[tokio::test]
async fn an_order_is_approved_refunded_and_rejected_and_the_ledger_follows() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let visit: Click = click(&world, &shop);
    world.publish_click(&visit).await;
    let first = Conversion {
        click_id: visit.click_id.clone(),
        ..report(&world, &shop, "A", "100.00")
    };
    world.publish_conversion(&first).await;
    becomes(&world, shop.affiliate, &[("pending", dec!(10))]).await;

    let approved = saying(OrderStatus::Approved, report(&world, &shop, "A", ""));
    world.publish_conversion(&approved).await;
    // Not before the facts have been asked for the click.
    becomes(&world, shop.affiliate, &[("available", dec!(10))]).await;

    let refund = saying(OrderStatus::Refunded, report(&world, &shop, "A", "33.33"));
    for _ in 0..3 {
        world.publish_conversion(&refund).await;
    }
    becomes(&world, shop.affiliate, &[("available", dec!(6.67))]).await;
    let another = Conversion {
        report_id: "refund-2".into(),
        ..refund.clone()
    };
    world.publish_conversion(&another).await;
    becomes(&world, shop.affiliate, &[("available", dec!(3.33))]).await;
    let rejected = saying(OrderStatus::Rejected, report(&world, &shop, "A", ""));
    world.publish_conversion(&rejected).await;
    becomes(&world, shop.affiliate, &[]).await;

    let posted: Vec<(String, Decimal)> = sqlx::query_as(
        "SELECT reason, sum(amount) FROM ledger_explained WHERE affiliate_id IS NOT NULL
         GROUP BY operation_key, reason ORDER BY operation_key",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(
        posted,
        is(&[
            ("earned", dec!(10)),
            ("approved", dec!(0)),
            ("refunded", dec!(-3.33)),
            ("refunded", dec!(-3.34)),
            ("rejected", dec!(-3.33)),
        ])
    );
    let (state, status): (String, String) = sqlx::query_as(
        "SELECT m.state, c.status FROM commissions m JOIN conversions c ON c.id = m.conversion_id",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    assert_eq!((state.as_str(), status.as_str()), ("rejected", "rejected"));
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[tokio::test]
async fn whatever_the_order_of_reports_the_ledger_ends_the_same() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let visit: Click = click(&world, &shop);
    world.publish_click(&visit).await;
    let told = |order_id: &str| {
        let at = |seconds: i64, report: Conversion| Conversion {
            accepted_at_us: report.accepted_at_us + seconds * 1_000_000,
            ..report
        };
        let first = Conversion {
            click_id: visit.click_id.clone(),
            ..report(&world, &shop, order_id, "80.00")
        };
        let more = report(&world, &shop, order_id, "100.00");
        let refund = saying(
            OrderStatus::Refunded,
            report(&world, &shop, order_id, "20.00"),
        );
        let approved = saying(OrderStatus::Approved, report(&world, &shop, order_id, ""));
        [at(0, first), at(1, more), at(2, refund), at(3, approved)]
    };
    // All 24 orders of four reports.
    let mut orders = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| *c != a && *c != b) {
                orders.push([a, b, c, 6 - a - b - c]);
            }
        }
    }
    assert_eq!(orders.len(), 24);
    for (nth, order) in orders.iter().enumerate() {
        let reports = told(&format!("order-{nth}"));
        for place in order {
            world.publish_conversion(&reports[*place]).await;
        }
    }
    becomes(&world, shop.affiliate, &[("available", dec!(192))]).await;
    let each = "SELECT count(*) FROM commissions WHERE available = 8 AND amount = 8 AND gross = 10 AND state = 'approved'";
    assert_eq!(world.count(each).await, 24);
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[tokio::test]
async fn what_people_decide_counts_above_what_the_merchant_says() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let visit: Click = click(&world, &shop);
    world.publish_click(&visit).await;
    let order = Conversion {
        click_id: visit.click_id.clone(),
        ..report(&world, &shop, "A", "10.00")
    };
    world.publish_conversion(&order).await;
    becomes(&world, shop.affiliate, &[("pending", dec!(1))]).await;
    for (decision, expected) in [
        ("reject", [].as_slice()),
        ("reinstate", &[("pending", dec!(1))]),
        ("approve", &[("available", dec!(1))]),
    ] {
        let mut transaction = world.pool.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO conversion_decisions (tenant_id, conversion_id, decision, reason, decided_by, decided_at)
             SELECT tenant_id, id, $1, 'as the test says', 'a person', now() FROM conversions",
        )
        .bind(decision)
        .execute(&mut *transaction)
        .await
        .unwrap();
        sqlx::query("UPDATE conversions SET settle_at = now()")
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        becomes(&world, shop.affiliate, expected).await;
    }
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[tokio::test]
async fn a_visitor_is_known_by_his_clicks_a_coupon_by_its_code_and_a_browser_last() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let visit = Click {
        visitor_id: vec![3; 16],
        fingerprint: vec![4; 16],
        ..click(&world, &shop)
    };
    world.publish_click(&visit).await;
    sqlx::query("INSERT INTO coupons (tenant_id, code, program_id, affiliate_id) VALUES ($1, 'Ana-10', $2, $3)")
        .bind(shop.tenant)
        .bind(shop.program)
        .bind(shop.affiliate)
        .execute(&world.pool)
        .await
        .unwrap();
    let by_browser = |order_id: &str| Conversion {
        source: Source::Event.into(),
        ..report(&world, &shop, order_id, "10.00")
    };
    let reports = [
        Conversion {
            coupon: "ANA-10".into(),
            ..report(&world, &shop, "coupon", "10.00")
        },
        Conversion {
            coupon: "nobody's".into(),
            ..report(&world, &shop, "unknown coupon", "10.00")
        },
        Conversion {
            visitor_id: vec![3; 16],
            fingerprint: vec![9; 16],
            ..by_browser("visitor")
        },
        Conversion {
            visitor_id: vec![8; 16],
            fingerprint: vec![4; 16],
            ..by_browser("fingerprint")
        },
        Conversion {
            visitor_id: vec![8; 16],
            ..by_browser("stranger")
        },
    ];
    for report in &reports {
        world.publish_conversion(report).await;
    }
    wait_until(async || {
        world
            .count("SELECT count(*) FROM conversions WHERE looks = 100")
            .await
            == 5
    })
    .await;
    let told: Vec<(String, String, Option<i64>, Option<i32>)> = sqlx::query_as(
        "SELECT order_id, attribution, link_id, (path->0->>'confidence')::integer FROM conversions ORDER BY order_id",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let row = |order_id: &str, attribution: &str, link: Option<i64>, confidence: Option<i32>| {
        (
            order_id.to_owned(),
            attribution.to_owned(),
            link,
            confidence,
        )
    };
    let link = Some(shop.link.0);
    assert_eq!(
        told,
        [
            row("coupon", "coupon", None, Some(95)),
            row("fingerprint", "fingerprint", link, Some(40)),
            row("stranger", "no_click", None, None),
            row("unknown coupon", "no_click", None, None),
            row("visitor", "visitor", link, Some(90)),
        ]
    );
    becomes(&world, shop.affiliate, &[("pending", dec!(3))]).await;
    processor.stop().await;
}

#[tokio::test]
async fn a_program_shares_out_over_all_who_led_to_the_order_even_when_their_clicks_come_late() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    sqlx::query("UPDATE programs SET model = 'linear'")
        .execute(&world.pool)
        .await
        .unwrap();
    let other: i64 = sqlx::query_scalar(
        "WITH a AS (INSERT INTO affiliates (tenant_id, name) VALUES ($1, 'b') RETURNING id)
         INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination)
         SELECT $1, $2, id, 'other', 'https://shop.example/' FROM a RETURNING affiliate_id",
    )
    .bind(shop.tenant)
    .bind(shop.program)
    .fetch_one(&world.pool)
    .await
    .unwrap();
    let link: i64 = sqlx::query_scalar("SELECT id FROM links WHERE code = 'other'")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let (other, link) = (AffiliateId(other), tributary_shared::ids::LinkId(link));
    let processor = world.processor(|_| {}).await;
    let theirs = Shop {
        affiliate: other,
        link,
        ..shop
    };
    let visitor = |shop: &Shop| Click {
        visitor_id: vec![7; 16],
        ..click(&world, shop)
    };
    let (first, last) = (visitor(&shop), visitor(&theirs));
    // The order comes before either click is stored.
    let order = Conversion {
        click_id: last.click_id.clone(),
        accepted_at_us: (world.now() - TimeDelta::seconds(2)).timestamp_micros(),
        ..report(&world, &shop, "A", "10.01")
    };
    world.publish_conversion(&order).await;
    becomes(&world, other, &[("pending", dec!(1))]).await;
    world.publish_click(&first).await;
    world.publish_click(&last).await;
    // 5.01 and 5.00 of the order: to whoever came first in the path falls the odd cent.
    becomes(&world, shop.affiliate, &[("pending", dec!(0.50))]).await;
    becomes(&world, other, &[("pending", dec!(0.50))]).await;
    let shares: Vec<Decimal> = sqlx::query_scalar(
        "SELECT (step->>'share')::numeric FROM conversions, jsonb_array_elements(path) AS step",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(shares, [dec!(0.5), dec!(0.5)]);
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

/// The next version of the program's rule of this name.
pub(crate) async fn rule(world: &World, shop: &Shop, name: &str, document: serde_json::Value) {
    sqlx::query(
        "INSERT INTO commission_rules (tenant_id, program_id, name, version, document, created_at)
         SELECT $1, $2, $3, coalesce(max(version), 0) + 1, $4, '2020-01-01' FROM commission_rules WHERE program_id = $2 AND name = $3",
    )
    .bind(shop.tenant)
    .bind(shop.program)
    .bind(name)
    .bind(document)
    .execute(&world.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn rules_look_at_the_order_its_items_the_affiliate_and_what_came_before() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    // The affiliate has a parent, who has one himself.
    let above: Vec<i64> = sqlx::query_scalar(
        "WITH top AS (INSERT INTO affiliates (tenant_id, name) VALUES ($1, 'top') RETURNING id),
              mid AS (INSERT INTO affiliates (tenant_id, name, parent_id) SELECT $1, 'mid', id FROM top RETURNING id)
         SELECT id FROM mid UNION ALL SELECT id FROM top",
    )
    .bind(shop.tenant)
    .fetch_all(&world.pool)
    .await
    .unwrap();
    sqlx::query("UPDATE affiliates SET parent_id = $1 WHERE id = $2")
        .bind(above[0])
        .bind(shop.affiliate)
        .execute(&world.pool)
        .await
        .unwrap();
    // And had them when the orders below came.
    sqlx::query(
        "INSERT INTO affiliate_versions SELECT tenant_id, id, '2020-01-01', parent_id, email, tier, groups, tags, certifications
         FROM affiliates",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    // From the second order of the month on 20 % in place of 10, shoes 50 %, and 5.00 for the first order.
    let tiers = serde_json::json!({"reward": {"kind": "percent", "percent": "10"},
        "tiers": {"by": "orders", "period": "month", "steps": [{"from": "1", "percent": "20"}]}});
    let shoes = serde_json::json!({"reward": {"kind": "percent", "percent": "50"}, "scope": {"categories": ["shoes"]}});
    let first = serde_json::json!({"kind": "bonus", "reward": {"kind": "flat", "flat": "5.00"}, "bonus": {"for": "first_order_of_affiliate"}});
    rule(&world, &shop, "base", tiers).await;
    rule(&world, &shop, "shoes", shoes).await;
    rule(&world, &shop, "welcome", first).await;
    let processor = world.processor(|_| {}).await;
    // In the middle of a month, so that both orders are in one.
    let day: chrono::DateTime<chrono::Utc> = "2026-06-15T12:00:00Z".parse().unwrap();
    let order = |order_id: &str, hour: i64, amount: &str| {
        let at = day + TimeDelta::hours(hour);
        Conversion {
            accepted_at_us: at.timestamp_micros(),
            click_id: shop.click(at - TimeDelta::minutes(1)),
            ..report(&world, &shop, order_id, amount)
        }
    };
    let shoes = Conversion {
        items: vec![
            tributary_shared::events::OrderItem {
                product: "boot".into(),
                category: "shoes".into(),
                quantity: 1,
                amount: "60.00".into(),
            },
            tributary_shared::events::OrderItem {
                product: "hat".into(),
                quantity: 1,
                amount: "40.00".into(),
                ..Default::default()
            },
        ],
        ..order("shoes", 2, "100.00")
    };
    world.publish_conversion(&shoes).await;
    // 30.00 of the boot and 10 % of the hat, and the first order's 5.00.
    becomes(&world, shop.affiliate, &[("pending", dec!(39))]).await;
    becomes(&world, AffiliateId(above[0]), &[("pending", dec!(3.40))]).await;
    becomes(&world, AffiliateId(above[1]), &[("pending", dec!(1.02))]).await;
    // An earlier order comes late: it is the first, at 10 %; the other becomes the second, at 20 % for the hat.
    world
        .publish_conversion(&order("earlier", 1, "10.00"))
        .await;
    becomes(&world, shop.affiliate, &[("pending", dec!(44))]).await;
    let earned: Vec<(String, String, Decimal)> = sqlx::query_as(
        "SELECT order_id, part, m.amount FROM commissions m JOIN conversions c ON c.id = m.conversion_id
         WHERE m.affiliate_id = $1 AND m.amount <> 0 ORDER BY 1, 2",
    )
    .bind(shop.affiliate)
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let row = |order: &str, part: &str, amount| (order.to_owned(), part.to_owned(), amount);
    assert_eq!(
        earned,
        [
            row("earlier", "bonus welcome", dec!(5)),
            row("earlier", "direct", dec!(1)),
            row("shoes", "direct", dec!(38)),
        ]
    );
    let why: Vec<String> = sqlx::query_scalar(
        "SELECT step->>'text' FROM commissions m JOIN conversions c ON c.id = m.conversion_id, jsonb_array_elements(m.steps) AS step
         WHERE order_id = 'shoes' AND part = 'direct' AND m.amount <> 0",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert!(
        why.iter().any(|step| step.contains("50 % of 60.00 USD")),
        "{why:?}"
    );
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[tokio::test]
async fn a_replay_says_what_another_model_would_pay_and_posts_it_once() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let processor = world.processor(|_| {}).await;
    let other: AffiliateId = sqlx::query_scalar(
        "WITH a AS (INSERT INTO affiliates (tenant_id, name) VALUES ($1, 'b') RETURNING id)
         INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination)
         SELECT $1, $2, id, 'other', 'https://shop.example/' FROM a RETURNING affiliate_id",
    )
    .bind(shop.tenant)
    .bind(shop.program)
    .fetch_one(&world.pool)
    .await
    .unwrap();
    let link: i64 = world
        .count("SELECT id FROM links WHERE code = 'other'")
        .await;
    let theirs = Shop {
        affiliate: other,
        link: tributary_shared::ids::LinkId(link),
        ..shop
    };
    let earlier = world.now() - TimeDelta::seconds(10);
    let first = Click {
        click_id: shop.click(earlier),
        received_at_us: earlier.timestamp_micros(),
        ..click(&world, &shop)
    };
    let last = click(&world, &theirs);
    world.publish_click(&first).await;
    world.publish_click(&last).await;
    let order = Conversion {
        click_id: last.click_id.clone(),
        ..report(&world, &shop, "A", "10.00")
    };
    world.publish_conversion(&order).await;
    wait_until(async || {
        world
            .count("SELECT count(*) FROM conversions WHERE looks = 100")
            .await
            == 1
    })
    .await;
    becomes(&world, other, &[("pending", dec!(1))]).await;

    let replay = async |dry: bool| {
        let keys = "1:abababababababababababababababababababababababababababababababab";
        let period = [
            "--from",
            "2020-01-01T00:00:00Z",
            "--to",
            "2100-01-01T00:00:00Z",
        ];
        let mut arguments = vec![
            "processor",
            "replay",
            "--model",
            "first_click",
            "--click-token-keys",
            keys,
        ];
        arguments.extend(period);
        let url = world.place.database.database_url.expose().to_owned();
        arguments.extend(["--database-url", &url]);
        arguments.extend(dry.then_some("--dry-run"));
        let Ok(tributary_processor::Cli::Tool(tool)) =
            tributary_processor::Cli::try_parse_from(arguments)
        else {
            panic!("a replay");
        };
        let tributary_processor::Tool::Replay(command) = *tool else {
            panic!("a replay");
        };
        let mut out = Vec::new();
        let stop = tokio_util::sync::CancellationToken::new();
        tributary_processor::replay_command::run(&command, &mut out, &stop)
            .await
            .unwrap();
        String::from_utf8(out).unwrap()
    };
    let said = replay(true).await;
    assert!(
        said.contains("+1") && said.contains("-1") && said.contains("nothing was written"),
        "{said}"
    );
    becomes(&world, other, &[("pending", dec!(1))]).await;
    let said = replay(false).await;
    assert!(said.contains("posted to the ledger"), "{said}");
    becomes(&world, shop.affiliate, &[("pending", dec!(1))]).await;
    becomes(&world, other, &[]).await;
    assert!(replay(false).await.contains("nothing changes"));
    // What is settled again later keeps the model of the replay.
    let refund = saying(OrderStatus::Refunded, report(&world, &shop, "A", "5.00"));
    world.publish_conversion(&refund).await;
    becomes(&world, shop.affiliate, &[("pending", dec!(0.50))]).await;
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[tokio::test]
async fn what_is_suspicious_waits_for_a_person_and_what_is_blocked_is_rejected() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    sqlx::query("UPDATE programs SET hold_seconds = 0")
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE affiliates SET email = 'Ana@partner.example'")
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO blocked (tenant_id, kind, value, reason) VALUES ($1, 'address', '198.51.100.0/24', 'as the test says')")
        .bind(shop.tenant)
        .execute(&world.pool)
        .await
        .unwrap();
    let processor = world.processor(|_| {}).await;
    let visit: Click = click(&world, &shop);
    world.publish_click(&visit).await;
    let order = |order_id: &str| Conversion {
        click_id: visit.click_id.clone(),
        ..report(&world, &shop, order_id, "10.00")
    };
    let own = Conversion {
        customer_id: tributary_shared::customers::customer_hash(shop.tenant, "ana@partner.example")
            .to_vec(),
        ..order("own")
    };
    let from_blocked = Conversion {
        address: vec![198, 51, 100, 7],
        ..order("blocked")
    };
    for order in [&order("good"), &own, &from_blocked] {
        world.publish_conversion(order).await;
    }
    // The good one's hold is over at once; the other waits, the third is worth nothing.
    becomes(
        &world,
        shop.affiliate,
        &[("available", dec!(1)), ("pending", dec!(1))],
    )
    .await;
    let judged: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
        "SELECT order_id, verdict, status, (SELECT string_agg(s->>'text', '; ') FROM jsonb_array_elements(signals) s
                WHERE s->>'action' <> 'flag') FROM conversions ORDER BY order_id",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let row = |order: &str, verdict: &str, status: &str, text: Option<&str>| {
        (
            order.to_owned(),
            verdict.to_owned(),
            status.to_owned(),
            text.map(str::to_owned),
        )
    };
    assert_eq!(
        judged,
        [
            row(
                "blocked",
                "reject",
                "rejected",
                Some("address 198.51.100.0/24 is blocked (as the test says)")
            ),
            row("good", "flag", "pending", None),
            row(
                "own",
                "hold",
                "pending",
                Some("the customer has the affiliate's own e-mail address")
            ),
        ]
    );
    processor.stop().await;
}

/// Its own commission stays, but it now stands before one whose volume it adds to.
#[tokio::test]
async fn an_order_that_turns_out_to_be_older_counts_for_those_after_it() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    sqlx::query("UPDATE programs SET hold_seconds = 0")
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query(
        r#"INSERT INTO commission_rules (tenant_id, program_id, name, version, document)
           VALUES ($1, $2, 'volume', 1, '{"priority": 1, "reward": {"kind": "percent", "percent": "10"}, "tiers": {
               "by": "revenue", "period": "lifetime", "steps": [{"from": "1000", "percent": "20"}]}}')"#,
    )
    .bind(shop.tenant)
    .bind(shop.program)
    .execute(&world.pool)
    .await
    .unwrap();
    // Who uses it needs no click.
    sqlx::query(
        "INSERT INTO coupons (tenant_id, code, program_id, affiliate_id) VALUES ($1, 'C', $2, $3)",
    )
    .bind(shop.tenant)
    .bind(shop.program)
    .bind(shop.affiliate)
    .execute(&world.pool)
    .await
    .unwrap();
    let processor = world.processor(|_| {}).await;
    let now = world.now();
    let ago = |minutes: i64, order_id: &str, amount: &str| Conversion {
        accepted_at_us: (now - TimeDelta::minutes(minutes)).timestamp_micros(),
        coupon: "C".into(),
        ..report(&world, &shop, order_id, amount)
    };
    // 10 % of 900, of 50 and, with 950 before it, of 200.
    world.publish_conversion(&ago(100, "first", "900.00")).await;
    world.publish_conversion(&ago(40, "middle", "50.00")).await;
    world.publish_conversion(&ago(10, "moved", "200.00")).await;
    becomes(&world, shop.affiliate, &[("available", dec!(115))]).await;
    // It was placed before the one in the middle, which has 1,100 before it now: 20 % of 50.
    world.publish_conversion(&ago(70, "moved", "150.00")).await;
    becomes(&world, shop.affiliate, &[("available", dec!(120))]).await;
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}

#[tokio::test]
async fn an_affiliate_earns_by_a_rule_up_to_its_cap() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    let capped = serde_json::json!({"priority": 1, "reward": {"kind": "percent", "percent": "10"},
        "cap": {"amount": "15", "period": "lifetime"}});
    rule(&world, &shop, "capped", capped).await;
    let visit: Click = click(&world, &shop);
    world.publish_click(&visit).await;
    let processor = world.processor(|_| {}).await;
    for order_id in ["first", "second", "third"] {
        let order = Conversion {
            click_id: visit.click_id.clone(),
            ..report(&world, &shop, order_id, "100.00")
        };
        world.publish_conversion(&order).await;
    }
    // 10, what is left of 15, and nothing.
    becomes(&world, shop.affiliate, &[("pending", dec!(15))]).await;
    let earned = "SELECT count(*) FROM commissions WHERE amount IN (10, 5)";
    assert_eq!(world.count(earned).await, 2);
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}
