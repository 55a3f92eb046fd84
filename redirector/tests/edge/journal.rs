//! The journal as a whole: the redirector's own program, killed and started again; Kafka away; no disk.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Edge, TOKEN, events, wait_until};
use ahash::{HashMap, HashSet};
use tributary_shared::click_token::{self, Place};
use tributary_shared::events::{Click, Clicks, Conversion, Topic};
use uuid::Uuid;

const NOWHERE: &str = "127.0.0.1:1";

/// The redirector's program with an edge's engines. Killed when dropped.
struct Program {
    child: Child,
    address: String,
}

impl Program {
    async fn start(edge: &Edge, journal: &Path, brokers: &str) -> Self {
        let port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let (address, operations) = (port(), port());
        let child = Command::new(env!("CARGO_BIN_EXE_redirector"))
            .args(["--listen", &address, "--metrics-listen", &operations])
            .args(["--click-token-keys", &format!("1:{}", "ab".repeat(32))])
            .args(["--sealing-keys", &format!("1:{}", "ef".repeat(32))])
            .args(["--fingerprint-key", &"cd".repeat(32)])
            .args(["--workers", "2", "--journal-dir"])
            .arg(journal)
            .args(["--redis-url", &edge.place.redis.redis_url])
            .args(["--redis-prefix", &edge.place.redis.redis_prefix])
            .args(["--kafka-brokers", brokers])
            .args(["--kafka-topic-prefix", &edge.place.kafka.kafka_topic_prefix])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let program = Self { child, address };
        let ready = format!("http://{operations}/readyz");
        wait_until(async || {
            let answer = edge.client.get(&ready).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        program
    }

    /// Clicks `demo` and reads the click ids that shoppers were given.
    async fn click(&self, edge: &Edge, count: usize) -> Vec<String> {
        let url = format!("http://{}/r/demo", self.address);
        let mut ids = Vec::new();
        for _ in 0..count {
            let answer = edge.client.get(&url).send().await.unwrap();
            assert_eq!(answer.status(), 302);
            let location = answer.headers()["location"].to_str().unwrap();
            ids.push(location.split(['=', '&']).nth(1).unwrap().to_owned());
        }
        ids
    }

    fn kill(mut self) {
        self.child.kill().unwrap(); // SIGKILL
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sorted(ids: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut ids: Vec<String> = ids.into_iter().collect();
    ids.sort();
    ids
}

fn segments(journal: &Path) -> Vec<PathBuf> {
    let Ok(folders) = std::fs::read_dir(journal) else {
        return Vec::new();
    };
    folders
        .filter_map(|folder| std::fs::read_dir(folder.unwrap().path()).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e != "lock"))
        .collect()
}

/// The segment that clicks were written to.
fn written(journal: &Path) -> PathBuf {
    segments(journal)
        .into_iter()
        .find(|path| {
            let bytes = std::fs::read(path).unwrap();
            bytes[24] == 1 && bytes[64..].iter().any(|b| *b != 0)
        })
        .expect("one holds clicks")
}

#[tokio::test]
async fn a_killed_redirector_loses_no_click_and_its_successor_names_them_alike() {
    let edge = Edge::start().await;
    let journal = tempfile::tempdir().unwrap();
    let brokers = edge.place.kafka.kafka_brokers.clone();
    let mut answered = Vec::new();
    // Killed while Kafka takes clicks, and while it is away.
    for brokers in [brokers.as_str(), NOWHERE, brokers.as_str()] {
        let program = Program::start(&edge, journal.path(), brokers).await;
        answered.extend(program.click(&edge, 100).await);
        program.kill();
    }
    let last = Program::start(&edge, journal.path(), &brokers).await;
    let clicks = {
        let mut seen = HashMap::default();
        wait_until(async || {
            let messages: Vec<Clicks> = crate::support::so_far(&edge.place, Topic::Clicks).await;
            for message in messages {
                for (n, click) in (message.first_sequence..).zip(message.clicks) {
                    let name = (message.segment_id.clone(), n);
                    let id = click.click_id;
                    let place = Place {
                        segment: Uuid::from_slice(&name.0).unwrap(),
                        sequence: n,
                    };
                    let random = click_token::parts(&id).unwrap().random;
                    assert_eq!(random, place.random(), "made of its name");
                    let before = seen.insert(name, id.clone());
                    assert!(
                        before.is_none_or(|before| before == id),
                        "one name, two clicks"
                    );
                }
            }
            seen.len() >= answered.len()
        })
        .await;
        seen
    };
    assert_eq!(sorted(clicks.into_values()), sorted(answered));
    // What was sent is gone from the disk: the last one's own spare segments remain.
    wait_until(async || std::fs::read_dir(journal.path()).unwrap().count() == 1).await;
    drop(last);
}

#[tokio::test]
async fn while_kafka_is_away_the_journal_keeps_clicks_and_conversions() {
    let journal = tempfile::tempdir().unwrap();
    let folder = journal.path().to_owned();
    let mut away = Edge::start_with(|config| {
        config.kafka.kafka_brokers = NOWHERE.to_owned();
        config.journal_dir = folder.clone();
    })
    .await;
    for _ in 0..50 {
        assert_eq!(away.get("/r/demo").send().await.unwrap().status(), 302);
    }
    let path = format!("/postback?token={TOKEN}&order_id=A&amount=1&currency=USD");
    assert_eq!(away.get(&path).send().await.unwrap().status(), 200);
    away.stop().await;

    let place = away.place.clone();
    let _back = Edge::start_in(place.clone(), |config| config.journal_dir = folder).await;
    events::<Click>(&place, Topic::Clicks, 50).await;
    events::<Conversion>(&place, Topic::Conversions, 1).await;
}

#[tokio::test]
async fn without_a_disk_clicks_go_through_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().join("journal"); // under a file: can't be made
    let mut edge = Edge::start_with(|config| config.journal_dir = folder).await;
    for _ in 0..20 {
        assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
    }
    // No disk to be synced to: the conversion is answered once Kafka has it.
    let path = format!("/postback?token={TOKEN}&order_id=A&amount=1&currency=USD");
    assert_eq!(edge.get(&path).send().await.unwrap().status(), 200);
    edge.events::<Conversion>(Topic::Conversions, 1).await;
    edge.stop().await;
    edge.events::<Click>(Topic::Clicks, 20).await;
}

#[tokio::test]
async fn with_neither_disk_nor_kafka_the_redirect_works_and_the_loss_is_counted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().join("journal");
    let edge = Edge::start_with(|config| {
        config.journal_dir = folder;
        config.journal_memory_mib = 0;
        config.kafka.kafka_brokers = NOWHERE.to_owned();
    })
    .await;
    assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
    let path = format!("/postback?token={TOKEN}&order_id=A&amount=1&currency=USD");
    assert_eq!(edge.get(&path).send().await.unwrap().status(), 503);
    let (_, metrics) = edge.operations("/metrics").await;
    assert!(
        metrics.contains("tributary_journal_lost_total{stream=\"clicks\",reason=\"full\"}"),
        "{metrics}"
    );
}

#[tokio::test]
async fn damage_costs_the_damaged_record_and_a_torn_end_nothing() {
    let edge = Edge::start().await;
    let journal = tempfile::tempdir().unwrap();
    let program = Program::start(&edge, journal.path(), NOWHERE).await;
    let answered = program.click(&edge, 9).await;
    // One connection, so one worker, so one segment.
    program.kill();
    let path = written(journal.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes
        .windows(48)
        .position(|window| window == answered[4].as_bytes())
        .unwrap();
    bytes[middle] ^= 1;
    // A record whose writer was killed half way: a payload without a header that fits.
    let end = bytes
        .iter()
        .rposition(|b| *b != 0)
        .unwrap()
        .next_multiple_of(4)
        + 4;
    bytes[end + 12..end + 40].fill(7);
    std::fs::write(&path, bytes).unwrap();

    let _next = Program::start(&edge, journal.path(), &edge.place.kafka.kafka_brokers).await;
    let expected = answered.iter().filter(|id| **id != answered[4]).cloned();
    let clicks: Vec<Click> = edge.events(Topic::Clicks, 8).await;
    assert_eq!(
        sorted(clicks.into_iter().map(|c| c.click_id)),
        sorted(expected)
    );
    // A person can look at what was damaged.
    wait_until(async || {
        segments(journal.path())
            .iter()
            .any(|path| path.extension().is_some_and(|e| e == "damaged"))
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_no_segment_is_put_aside() {
    let edge = Edge::start().await;
    let journal = tempfile::tempdir().unwrap();
    let folder = journal.path().join("01900000-0000-7000-8000-000000000000");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("x.segment"), [7; 4096]).unwrap();
    std::fs::write(folder.join("y.segment"), [0; 4096]).unwrap();
    let program = Program::start(&edge, journal.path(), &edge.place.kafka.kafka_brokers).await;
    assert!(folder.join("x.damaged").exists());
    assert!(!folder.join("y.segment").exists());
    program.click(&edge, 1).await;
    edge.events::<Click>(Topic::Clicks, 1).await;
}

#[tokio::test]
async fn two_redirectors_share_a_folder() {
    let edge = Edge::start().await;
    let journal = tempfile::tempdir().unwrap();
    let brokers = edge.place.kafka.kafka_brokers.clone();
    let first = Program::start(&edge, journal.path(), &brokers).await;
    let second = Program::start(&edge, journal.path(), &brokers).await;
    let mut answered = first.click(&edge, 30).await;
    answered.extend(second.click(&edge, 30).await);
    first.kill();
    answered.extend(second.click(&edge, 30).await);
    let mut ids = HashSet::default();
    wait_until(async || {
        let clicks: Vec<Click> = crate::support::so_far(&edge.place, Topic::Clicks).await;
        ids.extend(clicks.into_iter().map(|click| click.click_id));
        ids.len() >= answered.len()
    })
    .await;
    assert_eq!(sorted(ids), sorted(answered));
}

#[tokio::test]
async fn with_sync_before_reply_each_click_waits_for_the_disk() {
    let mut edge = Edge::start_with(|config| config.journal_sync = "reply".parse().unwrap()).await;
    for _ in 0..20 {
        assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
    }
    edge.stop().await;
    edge.events::<Click>(Topic::Clicks, 20).await;
}
