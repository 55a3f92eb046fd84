//! The edge index: what PostgreSQL says is in Redis, whatever happens to either.

use std::time::{Duration, Instant};

use prost::Message as _;
use redis::AsyncCommands as _;
use serde_json::json;
use tributary_admin_api::edge_index::{EdgeIndex, sync};
use tributary_shared::links::Link;
use tributary_shared::secrets::token_hash;
use tributary_shared::testing::Isolated;

use crate::harness::{Api, OWNER_KEY, eventually};

#[tokio::test]
async fn every_change_reaches_redis() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let link_key = format!("t:{}:link:{}", tenant.id, tenant.code);
    let code_key = format!("code:{}", tenant.code);
    let postback_key = format!("postback:{}", hex(&token_hash(&tenant.token)));
    api.published().await;
    let index = api.index().await;
    assert_eq!(
        index.keys().collect::<Vec<_>>(),
        [&code_key, &postback_key, &link_key]
    );
    assert_eq!(index[&code_key], tenant.id.to_string().as_bytes());
    assert_eq!(index[&postback_key], tenant.id.to_string().as_bytes());
    let wire = |id: i64| u64::try_from(id).unwrap();
    let expected = Link {
        link_id: wire(tenant.link),
        tenant_id: wire(tenant.id),
        program_id: wire(tenant.program),
        affiliate_id: wire(tenant.affiliate),
        destination: "https://shop.example/?c={click_id}".to_owned(),
        window_seconds: 2_592_000,
        ..Link::default()
    };
    assert_eq!(Link::decode(index[&link_key].as_slice()).unwrap(), expected);

    let path = format!("/v1/links/{}", tenant.link);
    let moved = api
        .patch(
            &tenant.admin,
            &path,
            json!({"destination": "https://new.example/"}),
        )
        .await;
    assert_eq!(moved.json()["destination"], "https://new.example/");
    api.published().await;
    let link = Link::decode(api.index().await[&link_key].as_slice()).unwrap();
    assert_eq!(link.destination, "https://new.example/");

    api.patch(&tenant.admin, &path, json!({"active": false}))
        .await;
    let revoke = format!(
        "/v1/tenants/{}/postback-tokens/{}",
        tenant.id, tenant.token_id
    );
    assert_eq!(api.delete(OWNER_KEY, &revoke).await.status, 204);
    api.published().await;
    assert!(api.index().await.is_empty());

    api.patch(&tenant.admin, &path, json!({"active": true}))
        .await;
    api.published().await;
    assert_eq!(
        api.index().await.keys().collect::<Vec<_>>(),
        [&code_key, &link_key]
    );
}

#[tokio::test]
async fn a_lost_index_comes_back_byte_for_byte() {
    let api = Api::start().await;
    for slug in ["one", "two", "three"] {
        api.tenant(slug).await;
    }
    api.published().await;
    let before = api.index().await;
    assert_eq!(before.len(), 9);
    // As after a FLUSHALL, for this test's keys.
    let prefix = &api.isolated.redis.redis_prefix;
    let mut redis = api.redis();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{prefix}*"))
        .query_async(&mut redis)
        .await
        .unwrap();
    let _: u64 = redis.del(keys).await.unwrap();
    assert!(api.index().await.is_empty());
    eventually("the relay wrote it again", async || {
        api.index().await == before
    })
    .await;
}

#[tokio::test]
async fn sync_writes_what_is_missing_and_removes_what_is_not_ours_to_serve() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    api.published().await;
    let right = api.index().await;
    let prefix = &api.isolated.redis.redis_prefix;
    let mut redis = api.redis();
    let link = format!("{prefix}t:{}:link:{}", tenant.id, tenant.code);
    let stale = [
        format!("{prefix}code:gone"),
        format!("{prefix}code:not a \0 code"),
        format!("{prefix}t:{}:link:{}", tenant.id + 1, tenant.code),
        format!("{prefix}t:x:link:gone"),
        format!("{prefix}postback:{}", "ab".repeat(32)),
        format!("{prefix}postback:odd"),
    ];
    for key in &stale {
        let () = redis.set(key, "1").await.unwrap();
    }
    let () = redis.set(&link, "damaged").await.unwrap();
    let other = format!("{prefix}cap:7");
    let () = redis.set(&other, "not the index's").await.unwrap();

    let index = EdgeIndex::new(&api.isolated.redis).unwrap();
    let report = sync(&api.pool, &index).await.unwrap();
    assert_eq!(
        (report.links, report.tokens, report.written, report.removed),
        (1, 1, 1, 6),
        "{report}"
    );
    assert_eq!(
        redis.get::<_, String>(&other).await.unwrap(),
        "not the index's"
    );
    let () = redis.del(&other).await.unwrap();
    assert_eq!(api.index().await, right);
    let again = sync(&api.pool, &index).await.unwrap();
    assert_eq!((again.written, again.removed), (0, 0), "{again}");
}

/// Changes, rebuilds from nothing and writers that die, all at once. When all is quiet, Redis holds
/// what PostgreSQL says, and nothing that was changed meanwhile has come back.
#[tokio::test]
async fn nothing_is_resurrected_by_rebuilds_and_dying_writers() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    for number in 0..600 {
        sqlx::query(
            "WITH l AS (INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination)
                        VALUES ($1, $2, $3, $4, 'https://a.example/0') RETURNING id)
             INSERT INTO edge_outbox (kind, entity_id) SELECT 'link', id FROM l",
        )
        .bind(tenant.id)
        .bind(tenant.program)
        .bind(tenant.affiliate)
        .bind(format!("stress-{number}"))
        .execute(&api.pool)
        .await
        .unwrap();
    }
    let until = Instant::now() + Duration::from_secs(4);
    let change = async || {
        let pool = api.isolated.pool().unwrap();
        let mut changes = 0;
        while Instant::now() < until {
            changes += 1;
            sqlx::query(
                "WITH l AS (UPDATE links SET active = random() < 0.5, destination = 'https://a.example/' || $1::text
                            WHERE id = (SELECT id FROM links WHERE code LIKE 'stress-%' ORDER BY random() LIMIT 1)
                            RETURNING id)
                 INSERT INTO edge_outbox (kind, entity_id) SELECT 'link', id FROM l",
            )
            .bind(changes.to_string())
            .execute(&pool)
            .await
            .unwrap();
        }
        assert!(changes > 50, "only {changes} changes");
    };
    let rebuild = async || {
        let pool = api.isolated.pool().unwrap();
        let index = EdgeIndex::new(&api.isolated.redis).unwrap();
        let mut cut_off = 0;
        while Instant::now() < until {
            cut_off += u32::from(sync(&pool, &index).await.is_err());
        }
        assert!(cut_off > 0, "no rebuild was cut off");
    };
    let kill = async || {
        // Some live long enough for a whole rebuild, some are cut off early.
        let lifetimes = (1..).map(|number| Duration::from_millis(number * 337 % 1500));
        for lifetime in lifetimes.take_while(|_| Instant::now() < until) {
            tokio::time::sleep(lifetime).await;
            sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_locks
                 WHERE locktype = 'advisory' AND granted AND objsubid = 1
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            .execute(&api.pool)
            .await
            .unwrap();
        }
    };
    tokio::join!(change(), change(), rebuild(), rebuild(), kill());
    api.published().await;

    let expected: Vec<(String, String)> =
        sqlx::query_as("SELECT code, destination FROM links WHERE active ORDER BY code")
            .fetch_all(&api.pool)
            .await
            .unwrap();
    let held = async || -> Vec<(String, String)> {
        let index = api.index().await;
        let start = format!("t:{}:link:", tenant.id);
        let mut links: Vec<(String, String)> = index
            .iter()
            .filter_map(|(key, value)| {
                Some((
                    key.strip_prefix(&start)?.to_owned(),
                    Link::decode(value.as_slice()).unwrap().destination,
                ))
            })
            .collect();
        links.sort();
        let codes = index.keys().filter(|key| key.starts_with("code:")).count();
        assert_eq!(codes, links.len());
        links
    };
    // The last writer may have been killed in a rebuild; the relay takes over within seconds.
    let mut expected = expected;
    expected.sort();
    eventually("Redis holds what PostgreSQL says", async || {
        held().await == expected
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(held().await, expected);
}

#[tokio::test]
async fn a_sync_needs_no_relay_and_pages_through_many_links() {
    let isolated = Isolated::create().await.unwrap();
    let pool = isolated.pool().unwrap();
    for statement in [
        "INSERT INTO tenants (slug, name) VALUES ('many', 'Many')",
        "INSERT INTO programs (tenant_id, name, currency, window_seconds, hold_seconds) VALUES (1, 'p', 'USD', 1, 0)",
        "INSERT INTO affiliates (tenant_id, name) VALUES (1, 'a')",
        "INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination, active)
         SELECT 1, 1, 1, 'c' || n, 'https://a.example/' || n, n % 10 <> 0 FROM generate_series(1, 12000) n",
        "INSERT INTO postback_tokens (tenant_id, name, prefix, sha256)
         SELECT 1, 't', 'trp_', sha256(n::text::bytea) FROM generate_series(1, 1200) n",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let report = sync(&pool, &EdgeIndex::new(&isolated.redis).unwrap())
        .await
        .unwrap();
    assert_eq!(
        (report.links, report.tokens, report.written),
        (10_800, 1200, 2 * 10_800 + 1200),
        "{report}"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
