//! The engines for real: each answers, a killed one comes back, nothing outlives its launcher.

#![allow(clippy::unwrap_used)] // The helpers below are tests' code too, which clippy can't know.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tributary_local::engines::{Addresses, EngineOptions, start};

/// Longer than any start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run_json(data: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&std::fs::read(data.join("run.json")).ok()?).ok()
}

fn engine_pids(data: &Path) -> Option<Vec<i32>> {
    let run = run_json(data)?;
    let engines = ["redis", "kafka", "clickhouse", "postgres"];
    engines
        .iter()
        .map(|engine| run["engines"][engine]["pid"].as_i64()?.try_into().ok())
        .collect()
}

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// A zombie is gone: it only waits for its parent to take notice.
fn is_gone(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        stat.rsplit(") ").next().unwrap().starts_with('Z')
    })
}

fn descendants(pid: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        let child = child.parse().unwrap();
        found.insert(child);
        found.extend(descendants(child));
    }
    found
}

fn ask(address: &str, question: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(question.as_bytes()).ok()?;
    let mut answer = [0; 200];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[test]
fn four_engines_answer_a_killed_one_returns_and_stop_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let engines = start(folder.path(), EngineOptions::default()).unwrap();

    let redis = engines.redis_url.strip_prefix("redis://").unwrap();
    assert_eq!(ask(redis, "PING\r\n").unwrap(), "+PONG\r\n");
    let clickhouse = engines.clickhouse_url.strip_prefix("http://").unwrap();
    let database = &engines.clickhouse_database;
    let exists = format!("GET /?query=EXISTS+DATABASE+{database} HTTP/1.0\r\n\r\n");
    let answer = ask(clickhouse, &exists).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
    assert!(TcpStream::connect(&engines.kafka_brokers).is_ok());
    let one_row = Command::new("psql")
        .args(["-XAtc", "SELECT current_user", &engines.database_url])
        .output()
        .unwrap();
    assert_eq!(one_row.stdout, b"tributary\n", "{one_row:?}");

    let pids = engine_pids(folder.path()).unwrap();
    kill_hard(pids[0]);
    let pids = eventually("Redis is back under another id", || {
        engine_pids(folder.path()).filter(|now| now[0] != pids[0])
    });
    assert_eq!(ask(redis, "PING\r\n").unwrap(), "+PONG\r\n", "on its port");

    engines.stop();
    for pid in pids {
        assert!(is_gone(pid), "{pid} is still there");
    }
    assert!(run_json(folder.path()).is_none());
}

#[test]
fn given_addresses_start_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let given = |name: &str| Some(format!("{name}://somewhere.example"));
    let options = EngineOptions {
        redis_url: given("redis"),
        kafka_brokers: given("kafka"),
        clickhouse_url: given("http"),
        clickhouse_database: String::from("elsewhere"),
        database_url: given("postgres"),
        ..EngineOptions::default()
    };
    let engines = start(folder.path(), options).unwrap();
    let expected = Addresses {
        redis_url: String::from("redis://somewhere.example"),
        kafka_brokers: String::from("kafka://somewhere.example"),
        clickhouse_url: String::from("http://somewhere.example"),
        clickhouse_database: String::from("elsewhere"),
        database_url: String::from("postgres://somewhere.example"),
    };
    assert_eq!(*engines, expected);
    let run = run_json(folder.path()).unwrap();
    assert!(run["engines"]["kafka"]["pid"].is_null());
}

/// The launcher, without what the test run's own launcher put into the environment.
fn launcher_exec(data: &Path, command: &[&str]) -> Command {
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_tributary-local"));
    launcher
        .arg("exec")
        .arg("--data")
        .arg(data)
        .arg("--")
        .args(command)
        .stderr(Stdio::null());
    for variable in [
        "REDIS_URL",
        "KAFKA_BROKERS",
        "CLICKHOUSE_URL",
        "CLICKHOUSE_DATABASE",
        "DATABASE_URL",
    ] {
        launcher.env_remove(variable);
    }
    launcher
}

#[test]
fn nothing_outlives_a_killed_launcher_and_the_next_one_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = launcher_exec(folder.path(), &["sleep", "600"])
        .spawn()
        .unwrap();
    let pid = i32::try_from(launcher.id()).unwrap();
    let engines = eventually("all engines are up", || engine_pids(folder.path()));

    // A second one finds the first and uses its engines.
    let beside = launcher_exec(folder.path(), &["sh", "-c", "echo $REDIS_URL"])
        .output()
        .unwrap();
    let run = run_json(folder.path()).unwrap();
    let redis_url = run["engines"]["redis"]["url"].as_str().unwrap();
    assert_eq!(String::from_utf8_lossy(&beside.stdout).trim(), redis_url);
    assert_eq!(engine_pids(folder.path()).unwrap(), engines);

    // The four engines, PostgreSQL's own processes, and the command.
    let family = eventually("the command runs", || {
        Some(descendants(pid)).filter(|family| family.len() > 5)
    });
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    eventually("all of its descendants are gone", || {
        family.iter().all(|pid| is_gone(*pid)).then_some(())
    });

    let next = launcher_exec(folder.path(), &["sh", "-c", "exit 7"])
        .status()
        .unwrap();
    assert_eq!(
        next.code(),
        Some(7),
        "the command's status is the launcher's"
    );
    assert!(run_json(folder.path()).is_none());
}
