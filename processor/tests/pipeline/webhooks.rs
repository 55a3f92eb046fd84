//! A subscription as Stripe tells of it: its first order, refunds that name nothing but a payment, and renewals, from the
//! webhooks' bodies into the ledger.

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::{Decimal, dec};
use serde_json::{Value, json};
use tributary_shared::customers::customer_hash;
use tributary_shared::events::{Conversion, Source};
use tributary_shared::reports::webhooks::{self, Kind, Said};

use crate::money::the_ledger_is_in_order;
use crate::support::{Shop, World, wait_until};

/// What the edge makes of an event of Stripe's that happened at `at`.
fn told(shop: &Shop, at: DateTime<Utc>, kind: &str, object: &Value) -> Conversion {
    let event = json!({"id": "evt", "type": kind, "created": at.timestamp(), "api_version": "2025-08-27.basil",
        "data": {"object": object}});
    let said = webhooks::read(Kind::Stripe, None, event.to_string().as_bytes()).unwrap();
    let Said::Orders(reports) = said else {
        panic!("{kind} says something of an order");
    };
    let check = reports[0].check_with(|_| Ok(()), shop.tenant, Source::Webhook, at);
    check.unwrap()
}

fn invoice(id: &str, reason: &str, amount: i64) -> Value {
    json!({"id": id, "billing_reason": reason, "amount_paid": amount, "currency": "usd", "customer": "cus_1",
        "parent": {"subscription_details": {"subscription": "sub_1", "metadata": {}}}})
}

fn paid(invoice: &str, payment: &str) -> Value {
    json!({"id": "inpay", "invoice": invoice, "payment": {"type": "payment_intent", "payment_intent": payment}})
}

fn refund(id: &str, payment: &str, amount: i64) -> Value {
    json!({"id": id, "amount": amount, "currency": "usd", "status": "succeeded", "payment_intent": payment})
}

async fn commissions(world: &World) -> Vec<(String, String, String, Decimal)> {
    sqlx::query_as(
        "SELECT c.order_id, c.event, c.attribution, m.amount FROM conversions c JOIN commissions m ON m.conversion_id = c.id
         ORDER BY c.converted_at",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_subscription_pays_recurring_commissions_less_what_was_given_back() {
    let world = World::create().await;
    let shop = world.shop("shop").await;
    // Renewals lie far outside the window; 20 % of a customer's first two orders, 10 % of later ones.
    sqlx::query("UPDATE programs SET window_seconds = 60")
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query(
        r#"INSERT INTO commission_rules (tenant_id, program_id, name, version, document) VALUES ($1, $2, 'twice', 1,
           '{"events": ["sale", "renewal"], "priority": 9, "reward": {"kind": "percent", "percent": "20"}, "recurring": {"orders": 2}}')"#,
    )
    .bind(shop.tenant)
    .bind(shop.program)
    .execute(&world.pool)
    .await
    .unwrap();
    let processor = world.processor(|_| {}).await;

    let begin = world.now();
    let at = |minutes: i64| begin + TimeDelta::minutes(minutes);
    let session = json!({"id": "cs_1", "mode": "subscription", "amount_total": 4990, "currency": "usd", "customer": "cus_1",
        "subscription": "sub_1", "invoice": "in_1", "metadata": {"click_id": shop.click(begin - TimeDelta::seconds(30))}});
    let by_postback = Conversion {
        accepted_at_us: at(30).timestamp_micros(),
        tenant_id: shop.tenant.to_wire(),
        order_id: "R-4".into(),
        event: "renewal".into(),
        amount: "10.00".into(),
        currency: "USD".into(),
        customer_id: customer_hash(shop.tenant, "cus_1").to_vec(),
        ..Conversion::default()
    };
    let told = |minutes, kind: &str, object: &Value| told(&shop, at(minutes), kind, object);
    let events = [
        by_postback,
        told(21, "refund.created", &refund("re_2", "pi_2", 500)),
        told(
            20,
            "invoice.paid",
            &invoice("in_3", "subscription_cycle", 2000),
        ),
        told(5, "refund.created", &refund("re_1", "pi_1", 1250)),
        told(
            10,
            "invoice.paid",
            &invoice("in_2", "subscription_cycle", 2000),
        ),
        told(0, "invoice_payment.paid", &paid("in_1", "pi_1")),
        told(0, "checkout.session.completed", &session),
        told(
            0,
            "invoice.paid",
            &invoice("in_1", "subscription_create", 4990),
        ),
        told(10, "invoice_payment.paid", &paid("in_2", "pi_2")),
        told(
            0,
            "charge.dispute.created",
            &refund("dp_9", "pi_of_nobody", 100),
        ),
    ];
    for event in events.iter().chain(&events) {
        world.publish_conversion(event).await;
    }
    let row = |order: &str, event: &str, amount| {
        let by = "click_token".to_owned();
        (order.to_owned(), event.to_owned(), by, amount)
    };
    let expected = [
        row("in_1", "sale", dec!(7.48)), // 9.98 of 49.90, of which 12.50 went back
        row("in_2", "renewal", dec!(3.00)), // 4.00 of 20.00, of which 5.00 went back
        row("in_3", "renewal", dec!(2.00)),
        row("R-4", "renewal", dec!(1.00)),
    ];
    wait_until(async || commissions(&world).await == expected).await;

    // A refund that failed gives nothing back.
    let failed = told(
        22,
        "refund.failed",
        &json!({"id": "re_2", "amount": 500, "currency": "usd", "status": "failed",
        "payment_intent": "pi_2"}),
    );
    world.publish_conversion(&failed).await;
    wait_until(async || commissions(&world).await[1].3 == dec!(4.00)).await;
    let waiting = "SELECT count(*) FROM waiting_reports";
    assert_eq!(
        world.count(waiting).await,
        1,
        "the dispute of nobody's payment"
    );
    assert_eq!(world.count("SELECT count(*) FROM conversions").await, 4);
    the_ledger_is_in_order(&world).await;
    processor.stop().await;
}
