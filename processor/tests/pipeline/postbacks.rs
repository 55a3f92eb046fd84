//! Topic `postbacks` to the log of reports.

use prost::Message as _;
use tributary_shared::events::postback_logged::{Door, Verdict};
use tributary_shared::events::{PostbackLogged, Topic};

use crate::support::{World, wait_until};

#[tokio::test]
async fn each_report_stands_in_the_log_once() {
    let world = World::create().await;
    let logged = PostbackLogged {
        id: world.new_segment().to_string(),
        received_at_us: world.now().timestamp_micros(),
        tenant_id: 7,
        door: Door::Pixel.into(),
        verdict: Verdict::Refused.into(),
        reason: "order_id_invalid".to_owned(),
        query: "order_id=".to_owned(),
        ..PostbackLogged::default()
    };
    let again = logged.encode_to_vec();
    let other = PostbackLogged {
        id: world.new_segment().to_string(),
        verdict: Verdict::Taken.into(),
        conversion_id: world.new_segment().to_string(),
        ..logged
    };
    world.publish(Topic::Postbacks, &again).await;
    let processor = world.processor(|_| {}).await;
    let lines = async || {
        let lines = "SELECT concat(door, ' ', verdict, ' ', toString(conversion_id = toUUID('00000000-0000-0000-0000-000000000000')))
             FROM postbacks FINAL WHERE tenant_id = 7 ORDER BY verdict";
        world
            .facts
            .query(lines)
            .fetch_all::<String>()
            .await
            .unwrap()
    };
    wait_until(async || lines().await.len() == 1).await;
    world.publish(Topic::Postbacks, &again).await;
    world.publish(Topic::Postbacks, b"\xff").await;
    world
        .publish(Topic::Postbacks, &other.encode_to_vec())
        .await;
    wait_until(async || lines().await.len() > 1).await;
    world.dead_letters(Topic::Postbacks, 1).await;
    assert_eq!(lines().await, ["pixel refused 1", "pixel taken 0"]);
    processor.stop().await;
}
