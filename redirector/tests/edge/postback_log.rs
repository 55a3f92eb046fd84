//! The tenant's log of reports, over real sockets, Redis and Kafka.

use futures::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tributary_shared::engines::kafka;
use tributary_shared::events::postback_logged::{Door, Verdict};
use tributary_shared::events::{Conversion, PostbackLogged, Topic, Topics};
use tributary_shared::secrets::new_token;
use tributary_shared::testing::Isolated;

use crate::support::{Edge, TENANT, TOKEN, events, forged_click_id, wait_until};

const SHOP: &str = "https://shop.example";
const ORDER: &str = "order_id=A&amount=1&currency=USD";

#[tokio::test]
async fn every_report_of_a_known_author_is_logged_with_its_verdict() {
    let edge = Edge::start().await;
    let key = edge.publishable_key(&[SHOP]).await;
    let (other, forged) = (new_token("trk_pub_"), forged_click_id());
    let get = async |path: String, status: u16| {
        let get = edge.get(&path).header("User-Agent", "shop/1.0");
        let get = get.header("X-Forwarded-For", "203.0.113.9");
        assert_eq!(get.send().await.unwrap().status(), status, "{path}");
    };
    let token = format!("token={TOKEN}");
    get(
        format!("/postback?{token}&{ORDER}&status=Confirmed&customer_id=ana&x=y"),
        200,
    )
    .await;
    get(format!("/postback?{token}&{ORDER}&subid={forged}"), 400).await;
    get(format!("/postback?token=nobodys&{ORDER}"), 401).await;
    get(format!("/pixel.gif?key={key}&{ORDER}"), 200).await;
    get(format!("/pixel.gif?key={other}&{ORDER}"), 401).await;
    for (origin, body, status) in [
        (SHOP, "{\"order_id\":\"a@b.example\"}", 400),
        (SHOP, "nonsense", 400),
        ("https://evil.example", "{}", 403),
    ] {
        let post = edge.post("/v1/events").bearer_auth(&key);
        let post = post.header("Origin", origin).header("Sec-GPC", "1");
        assert_eq!(post.body(body).send().await.unwrap().status(), status);
    }
    let form = "application/x-www-form-urlencoded";
    let post = edge.post(&format!("/postback?{token}"));
    let post = post.header("Content-Type", form).body("x".repeat(20_000));
    assert_eq!(post.send().await.unwrap().status(), 413);

    let mut logged: Vec<PostbackLogged> = edge.events(Topic::Postbacks, 7).await;
    logged.sort_by_key(|line| line.received_at_us);
    let lines: Vec<_> = logged.iter().map(|l| (l.door(), &*l.reason)).collect();
    assert_eq!(
        lines,
        [
            (Door::Postback, ""),
            (Door::Postback, "click_id_foreign"),
            (Door::Pixel, ""),
            (Door::Event, "parameter_missing"),
            (Door::Event, "body_invalid"),
            (Door::Event, "origin_unknown"),
            (Door::Postback, "body_too_large"),
        ]
    );
    for line in &logged {
        assert_eq!(line.tenant_id, TENANT.to_wire());
        assert_eq!(line.verdict() == Verdict::Taken, line.reason.is_empty());
        assert_eq!(line.message.is_empty(), line.reason.is_empty());
        assert_eq!(line.conversion_id.is_empty(), !line.reason.is_empty());
    }
    let taken = &logged[0];
    assert_eq!(
        taken.query,
        "order_id=A&amount=1&currency=USD&status=Confirmed&customer_id=*&x=y"
    );
    assert_eq!((&*taken.order_id, &*taken.event), ("A", "sale"));
    assert_eq!(
        (&*taken.status, &*taken.user_agent),
        ("approved", "shop/1.0")
    );
    assert_eq!(taken.address, [203, 0, 113, 9]);
    assert_eq!(logged[1].click_id, forged);
    // A shopper's browser leaves no address, and nothing of itself where it wants no tracking.
    assert_eq!(
        (logged[2].address.len(), &*logged[2].user_agent),
        (0, "shop/1.0")
    );
    assert_eq!(
        (logged[3].query.as_str(), &*logged[3].user_agent),
        ("order_id=*", "")
    );
    let all = format!("{logged:?}");
    assert!(!all.contains(TOKEN) && !all.contains(&key), "{all}");
}

#[tokio::test]
async fn a_flood_of_refused_reports_is_counted_and_not_logged_whole() {
    let edge = Edge::start().await;
    let flood = (0..600).map(|_| edge.get(&format!("/postback?token={TOKEN}")).send());
    for answer in join_all(flood).await {
        assert_eq!(answer.unwrap().status(), 400);
    }
    let (_, metrics) = edge.operations("/metrics").await;
    assert!(metrics.contains("tributary_postbacks_unlogged_total{reason=\"rate\"}"));
}

#[tokio::test]
async fn while_kafka_is_away_the_log_gives_way_and_orders_do_not() {
    let mut edge = Edge::start_with(|config| {
        config.kafka.kafka_brokers = "127.0.0.1:1".to_owned();
        config.workers = Some(1);
        config.journal_max_mib = 64; // of which the log has 2
    })
    .await;
    let filler = "x".repeat(2000);
    for batch in 0..12 {
        let orders = (0..100).map(|n| {
            let query = format!("order_id={batch}-{n}&amount=1&currency=USD&x={filler}");
            edge.get(&format!("/postback?token={TOKEN}&{query}")).send()
        });
        for answer in join_all(orders).await {
            assert_eq!(answer.unwrap().status(), 200);
        }
    }
    let (_, metrics) = edge.operations("/metrics").await;
    assert!(metrics.contains("tributary_postbacks_unlogged_total{reason=\"journal\"}"));
    edge.stop().await;
}

/// As after the redirector was brought up to date before the admin API.
#[tokio::test]
async fn a_log_without_its_topic_holds_nothing_up() {
    let place = Isolated::empty().await.unwrap();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &place.kafka.kafka_brokers)
        .create()
        .unwrap();
    let topics = Topics::new(&place.kafka.kafka_topic_prefix);
    let old = [topics.name(Topic::Clicks), topics.name(Topic::Conversions)];
    let old = old
        .iter()
        .map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1)));
    let (old, options): (Vec<_>, _) = (old.collect(), AdminOptions::new());
    let created = admin.create_topics(&old, &options).await.unwrap();
    assert!(created.iter().all(Result::is_ok));

    let edge = Edge::start_in(place.clone(), |_| {}).await;
    wait_until(async || edge.operations("/readyz").await.0 == 200).await;
    let path = format!("/postback?token={TOKEN}&{ORDER}");
    for _ in 0..3 {
        assert_eq!(edge.get(&path).send().await.unwrap().status(), 200);
    }
    events::<Conversion>(&place, Topic::Conversions, 3).await;
    kafka::create_topics(&place.kafka).await.unwrap();
    events::<PostbackLogged>(&place, Topic::Postbacks, 3).await;
}
