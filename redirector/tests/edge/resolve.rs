//! Configuration reaches the edge: every redirector sees a change at once.

use std::time::{Duration, Instant};

use crate::support::{Edge, TENANT, header};

/// How often the link changes.
const ROUNDS: u32 = 20;
/// What a change may take before the test fails: machines that run tests are busy.
const LIMIT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn every_redirector_sees_a_change_at_once() {
    let first = Edge::start().await;
    let index = first.place.redis.clone();
    let second = Edge::start_with(|config| config.redis = index).await;
    let location = async |edge: &Edge| {
        let answer = edge.get("/r/demo").send().await.unwrap();
        let location = header(&answer, "location");
        location.first().map(|l| (*l).to_owned())
    };
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let new = format!("https://other.example/{round}");
        first.write_link("demo", TENANT, &new).await;
        let written = Instant::now();
        for edge in [&first, &second] {
            while location(edge).await.as_ref() != Some(&new) {
                assert!(written.elapsed() < LIMIT, "{:?}", written.elapsed());
            }
        }
        took.push(written.elapsed());
    }
    took.sort();
    println!(
        "a change was seen by both redirectors after {:?} (median), {:?} (most)",
        took[took.len() / 2],
        took[took.len() - 1]
    );
}
