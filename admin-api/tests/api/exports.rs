//! Whole lists as CSV: complete, in bounded memory, and so many at once.

use std::process::{Child, Command, Stdio};

use reqwest::header::ACCEPT;
use reqwest::{Method, Response, StatusCode};
use sqlx::PgPool;

use crate::harness::{Api, OWNER_KEY, SEALING_KEYS, Tenant, eventually};
use crate::money::{self, order};

/// Entries of the ledger that the big export has.
const ENTRIES: i64 = 200_000;
/// So many are written by one statement.
const BATCH: i64 = 20_000;
/// What the export may add to the process's memory, in KiB: the lines are more than twice as much.
const MEMORY_KIB: u64 = 24 * 1024;

#[tokio::test]
async fn a_whole_list_is_what_its_pages_are() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    money::orders(&api, &ours).await;
    money::orders(&api, &theirs).await;
    let table = async |path: &str| {
        let request = api.request(&ours.analyst, Method::GET, path);
        api.send(request.header(ACCEPT, "text/csv")).await
    };
    for (list, lines) in [("conversions", 6), ("commissions", 5)] {
        let whole = table(&format!("/v1/{list}?all=true")).await;
        assert_eq!(whole.header("content-type"), "text/csv; charset=utf-8");
        assert_eq!(whole.text.lines().count(), 1 + lines, "{list}");
        let page = table(&format!("/v1/{list}?limit=200")).await;
        assert_eq!(whole.text, page.text, "{list}");
    }
    // The whole ledger, both sides; of an affiliate, one.
    let whole = table("/v1/ledger?all=true").await;
    assert_eq!(whole.text.lines().count(), 1 + 10);
    let page = table(&format!("/v1/ledger?affiliate_id={}", ours.affiliate)).await;
    let whole = table(&format!(
        "/v1/ledger?affiliate_id={}&all=true",
        ours.affiliate
    ))
    .await;
    assert_eq!(whole.text, page.text);
    assert_eq!(
        table("/v1/commissions?all=true&from=2030-01-01T00:00:00Z")
            .await
            .text,
        ""
    );
}

/// The admin API's own program beside a test's API. Killed when dropped.
struct Program {
    child: Child,
    address: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    async fn start(api: &Api) -> Self {
        let port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let (address, operations) = (port(), port());
        let place = &api.isolated;
        let child = Command::new(env!("CARGO_BIN_EXE_admin-api"))
            .args(["--listen", &address, "--metrics-listen", &operations])
            .args(["--owner-key", OWNER_KEY, "--sealing-keys", SEALING_KEYS])
            .args(["--redis-url", &place.redis.redis_url])
            .args(["--redis-prefix", &place.redis.redis_prefix])
            .args(["--kafka-brokers", &place.kafka.kafka_brokers])
            .args(["--kafka-topic-prefix", &place.kafka.kafka_topic_prefix])
            .args(["--clickhouse-url", &place.clickhouse.clickhouse_url])
            .args([
                "--clickhouse-database",
                &place.clickhouse.clickhouse_database,
            ])
            .args(["--database-url", place.database.database_url.expose()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let program = Self { child, address };
        let ready = format!("http://{operations}/readyz");
        eventually("the program is ready", async || {
            let answer = api.client.get(&ready).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        program
    }

    async fn export(&self, api: &Api, tenant: &Tenant, path: &str) -> Response {
        let request = api.client.get(format!("http://{}{path}", self.address));
        let request = request
            .bearer_auth(&tenant.analyst)
            .header(ACCEPT, "text/csv");
        request.send().await.unwrap()
    }

    /// The most memory that it ever had, in KiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// Posts about one commission, again and again: what was pending becomes available, and pending again.
async fn many_entries(pool: &PgPool, tenant: &Tenant) {
    let id = order(pool, tenant, 1, "50", Some("5")).await;
    // A statement may not take longer than the pool allows.
    for part in 0..ENTRIES / BATCH {
        sqlx::query(
            "WITH a AS (
                 INSERT INTO ledger_accounts (tenant_id, affiliate_id, kind, currency)
                 VALUES ($1, $2, 'available', 'USD'), ($1, $2, 'pending', 'USD')
                 ON CONFLICT (tenant_id, affiliate_id, kind, currency) DO UPDATE SET kind = excluded.kind RETURNING id, kind),
             t AS (
                 INSERT INTO ledger_transactions (tenant_id, operation_key, commission_id, reason, posted_at)
                 SELECT $1, 'test:' || n, $3, 'changed', timestamptz '2026-03-01T12:00:00Z' + n * interval '1 second'
                 FROM generate_series($4::bigint + 1, $4 + $5) n RETURNING id)
             INSERT INTO ledger_entries (tenant_id, transaction_id, account_id, amount, currency)
             SELECT $1, t.id, a.id, CASE WHEN (a.kind = 'pending') = (t.id % 2 = 0) THEN 1 ELSE -1 END, 'USD' FROM t, a",
        )
        .bind(tenant.id)
        .bind(tenant.affiliate)
        .bind(id)
        .bind(part * BATCH / 2)
        .bind(BATCH / 2)
        .execute(pool)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_long_list_is_sent_in_bounded_memory_and_given_up_with_its_reader() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    many_entries(&api.pool, &tenant).await;
    let program = Program::start(&api).await;
    let before = program.peak();
    let statement = format!(
        "/v1/affiliates/{}/statement?from=2026-01-01&to=2026-12-31",
        tenant.affiliate
    );
    for (path, lines) in [
        ("/v1/ledger?all=true", ENTRIES + 2 + 1),
        (&statement, ENTRIES / 2 + 1 + 3),
    ] {
        let mut response = program.export(&api, &tenant, path).await;
        assert_eq!(response.status(), 200, "{path}");
        let (mut found, mut bytes) = (0, 0);
        while let Some(chunk) = response.chunk().await.unwrap() {
            found += chunk.iter().filter(|byte| **byte == b'\n').count();
            bytes += chunk.len();
        }
        assert_eq!(i64::try_from(found).unwrap(), lines, "{path}");
        let grown = program.peak() - before;
        println!("{path}: {bytes} bytes, {grown} KiB more memory");
        assert!(grown < MEMORY_KIB, "{path}: {grown} KiB for {bytes} bytes");
    }

    // Who does not read holds a place, and nothing more; who goes away makes room.
    let first = program.export(&api, &tenant, "/v1/ledger?all=true").await;
    let second = program.export(&api, &tenant, "/v1/ledger?all=true").await;
    let third = program.export(&api, &tenant, "/v1/ledger?all=true").await;
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(third.headers()["retry-after"], "30");
    assert!(program.peak() - before < MEMORY_KIB);
    drop((first, second));
    eventually("there is room again", async || {
        let next = program
            .export(&api, &tenant, "/v1/commissions?all=true")
            .await;
        next.status() == 200
    })
    .await;
}
