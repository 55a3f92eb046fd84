//! The edge index: what PostgreSQL says is in Redis, whatever happens to either.

use std::cell::Cell;
use std::time::{Duration, Instant};

use prost::Message as _;
use redis::AsyncCommands as _;
use serde_json::json;
use tributary_admin_api::edge_index::sync;
use tributary_shared::links::{CapPeriod, Domain, Link, PublishableKey, Route, Schedule, Variant};
use tributary_shared::secrets::token_hash;
use tributary_shared::testing::Isolated;

use crate::harness::{Api, OWNER_KEY, edge_index, eventually};

#[tokio::test]
async fn every_change_reaches_redis() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let link_key = format!("t:{}:link:{}", tenant.id, tenant.code);
    let code_key = format!("code:{}", tenant.code);
    let postback_key = format!("postback:{}", hex(&token_hash(&tenant.token)));
    let domain_key = format!("domain:{}", tenant.domain);
    let publishable_key = format!("publishable:{}", tenant.publishable);
    api.published().await;
    let index = api.index().await;
    assert_eq!(
        index.keys().collect::<Vec<_>>(),
        [
            &code_key,
            &domain_key,
            &postback_key,
            &publishable_key,
            &link_key
        ]
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
    let expected = Domain {
        tenant_id: wire(tenant.id),
        fallback_url: String::new(),
    };
    assert_eq!(
        Domain::decode(index[&domain_key].as_slice()).unwrap(),
        expected
    );
    let expected = PublishableKey {
        tenant_id: wire(tenant.id),
        origins: vec!["https://ours.example".to_owned()],
    };
    assert_eq!(
        PublishableKey::decode(index[&publishable_key].as_slice()).unwrap(),
        expected
    );

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
    for path in [
        format!("/v1/domains/{}", tenant.domain_id),
        format!("/v1/publishable-keys/{}", tenant.publishable_id),
    ] {
        assert_eq!(api.delete(&tenant.admin, &path).await.status, 204, "{path}");
    }
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
async fn the_edge_reads_all_that_a_link_says() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let path = format!("/v1/links/{}", tenant.link);
    let full = json!({
        "routing": {
            "variants": [{"destination": "https://a.example/", "weight": 3}],
            "routes": [{"countries": ["DE"], "schedule": {"days": ["tuesday"], "from_minute": 5, "to_minute": 6},
                        "variants": [{"destination": "https://b.example/"}]}],
        },
        "pass_query": true, "expires_at": "2030-01-01T00:00:00Z",
        "click_cap": 7, "click_cap_period": "day", "fallback_url": "https://over.example/",
    });
    let program = format!("/v1/programs/{}", tenant.program);
    let changes = [
        (path.as_str(), full),
        (
            program.as_str(),
            json!({"window_seconds": 60, "override_hosts": ["*.shop.example"]}),
        ),
        (
            "/v1/tenant",
            json!({"fallback_url": "https://ours.example/", "cookie_domain": "ours.example"}),
        ),
    ];
    for (path, change) in changes {
        let answer = api.patch(&tenant.admin, path, change).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    api.published().await;
    let variant = |destination: &str, weight| Variant {
        destination: destination.to_owned(),
        weight,
    };
    let wire = |id: i64| u64::try_from(id).unwrap();
    let expected = Link {
        link_id: wire(tenant.link),
        tenant_id: wire(tenant.id),
        program_id: wire(tenant.program),
        affiliate_id: wire(tenant.affiliate),
        destination: "https://shop.example/?c={click_id}".to_owned(),
        window_seconds: 60,
        variants: vec![variant("https://a.example/", 3)],
        routes: vec![Route {
            countries: vec!["DE".to_owned()],
            schedule: Some(Schedule {
                time_zone: "UTC".to_owned(),
                days: 2,
                from_minute: 5,
                to_minute: 6,
                ..Schedule::default()
            }),
            variants: vec![variant("https://b.example/", 1)],
            ..Route::default()
        }],
        pass_query: true,
        override_hosts: vec!["*.shop.example".to_owned()],
        expires_at_s: 1_893_456_000,
        click_cap: 7,
        cap_period: CapPeriod::Day.into(),
        fallback_url: "https://over.example/".to_owned(),
        cookie_domain: "ours.example".to_owned(),
    };
    let held = async || {
        let index = api.index().await;
        let link = format!("t:{}:link:{}", tenant.id, tenant.code);
        let domain = format!("domain:{}", tenant.domain);
        (
            Link::decode(index[&link].as_slice()).unwrap(),
            Domain::decode(index[&domain].as_slice()).unwrap(),
        )
    };
    let (link, domain) = held().await;
    assert_eq!(link, expected);
    assert_eq!(domain.fallback_url, "https://ours.example/");

    // What is taken away is gone from the edge; the tenant's fallback takes the link's place.
    let nothing =
        json!({"routing": null, "expires_at": null, "click_cap": null, "fallback_url": null});
    assert_eq!(api.patch(&tenant.admin, &path, nothing).await.status, 200);
    api.published().await;
    let (link, _) = held().await;
    assert_eq!((link.variants.len(), link.routes.len()), (0, 0));
    assert_eq!((link.expires_at_s, link.click_cap), (0, 0));
    assert_eq!(link.fallback_url, "https://ours.example/");
    let nothing = json!({"fallback_url": null, "cookie_domain": null});
    api.patch(&tenant.admin, "/v1/tenant", nothing).await;
    api.published().await;
    let (link, domain) = held().await;
    assert_eq!((link.fallback_url, link.cookie_domain), Default::default());
    assert_eq!(domain.fallback_url, "");
}

#[tokio::test]
async fn one_row_stands_for_all_links_of_a_program_and_does_not_hold_up_others() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    sqlx::query(
        "INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination)
         SELECT $1, $2, $3, 'many-' || n, 'https://a.example/' FROM generate_series(1, 20000) n",
    )
    .bind(tenant.id)
    .bind(tenant.program)
    .bind(tenant.affiliate)
    .execute(&api.pool)
    .await
    .unwrap();
    sync(&api.pool, &edge_index(&api.isolated)).await.unwrap();
    let program = format!("/v1/programs/{}", tenant.program);
    let started = Instant::now();
    let change = json!({"override_hosts": ["shop.example"]});
    assert_eq!(api.patch(&tenant.admin, &program, change).await.status, 200);
    // While thousands of links are written, the change of one is there at once.
    let key = format!(
        "{}t:{}:link:{}",
        api.isolated.redis.redis_prefix, tenant.id, tenant.code
    );
    let path = format!("/v1/links/{}", tenant.link);
    let change = json!({"destination": "https://urgent.example/"});
    api.patch(&tenant.admin, &path, change).await;
    let changed = Instant::now();
    let mut redis = api.redis();
    loop {
        let value: Vec<u8> = redis.get(&key).await.unwrap();
        if Link::decode(value.as_slice()).unwrap().destination == "https://urgent.example/" {
            break;
        }
        assert!(changed.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let urgent = changed.elapsed();
    api.published().await;
    println!(
        "one link after {urgent:?}, 20,000 after {:?}",
        started.elapsed()
    );
    let index = api.index().await;
    let links: Vec<Link> = index
        .iter()
        .filter(|(name, _)| name.contains(":link:"))
        .map(|(_, value)| Link::decode(value.as_slice()).unwrap())
        .collect();
    assert_eq!(links.len(), 20_001);
    assert!(
        links
            .iter()
            .all(|link| link.override_hosts == ["shop.example"])
    );
}

#[tokio::test]
async fn a_host_that_moves_to_another_tenant_is_that_tenants() {
    let api = Api::start().await;
    let (ours, theirs) = (api.tenant("ours").await, api.tenant("theirs").await);
    let taken = api
        .post(&theirs.admin, "/v1/domains", json!({"host": ours.domain}))
        .await;
    assert_eq!(taken.status, 409, "{}", taken.text);
    let path = format!("/v1/domains/{}", ours.domain_id);
    assert_eq!(api.delete(&ours.admin, &path).await.status, 204);
    assert_eq!(api.delete(&ours.admin, &path).await.status, 404);
    api.create(&theirs.admin, "/v1/domains", json!({"host": ours.domain}))
        .await;
    api.published().await;
    let index = api.index().await;
    let domain = Domain::decode(index[&format!("domain:{}", ours.domain)].as_slice()).unwrap();
    assert_eq!(domain.tenant_id, u64::try_from(theirs.id).unwrap());
}

/// The counters are the edges' own: a rebuild leaves those that are there alone, and counts those that
/// were lost again from the facts.
#[tokio::test]
async fn lost_counters_of_click_caps_are_counted_again() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    let facts = api.isolated.facts();
    let mut links = Vec::new();
    for (code, cap, period) in [
        ("total", json!(100), "total"),
        ("daily", json!(100), "day"),
        ("live", json!(100), "total"),
        ("free", json!(null), "total"),
    ] {
        let link = json!({"code": code, "program_id": tenant.program, "affiliate_id": tenant.affiliate,
            "destination": "https://a.example/", "click_cap": cap, "click_cap_period": period});
        let link = api.create(&tenant.admin, "/v1/links", link).await;
        links.push(link["id"].as_i64().unwrap());
    }
    let [total, daily, live, free] = links[..] else {
        panic!()
    };
    sqlx::query(
        "UPDATE links SET capped_since = now() - interval '3 days' WHERE click_cap IS NOT NULL",
    )
    .execute(&api.pool)
    .await
    .unwrap();
    api.published().await;
    // Per link: 3 that count now, 2 of two days ago, and a bot's, an expired one and an old one, which don't.
    for link in &links {
        for (age, is_bot, outcome, number) in [
            ("0 SECOND", 0, 0, 3),
            ("2 DAY", 0, 0, 2),
            ("0 SECOND", 1, 0, 1),
            ("0 SECOND", 0, 1, 1),
            ("4 DAY", 0, 0, 1),
        ] {
            let insert = format!(
                "INSERT INTO clicks (received_at, tenant_id, program_id, affiliate_id, link_id, is_bot, outcome)
                 SELECT now64(3) - INTERVAL {age}, {}, {}, {}, {link}, {is_bot}, {outcome}
                 FROM numbers({number})",
                tenant.id, tenant.program, tenant.affiliate
            );
            facts.query(&insert).execute().await.unwrap();
        }
    }
    let prefix = &api.isolated.redis.redis_prefix;
    let key = |link: i64, period: &str| format!("{prefix}cap:{link}:{period}");
    let mut redis = api.redis();
    let () = redis.set(key(live, "total"), 41).await.unwrap();
    let report = sync(&api.pool, &edge_index(&api.isolated)).await.unwrap();
    assert_eq!(report.counters, Some(2), "{report}");
    let today: String = sqlx::query_scalar("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
        .fetch_one(&api.pool)
        .await
        .unwrap();
    let counter = async |link, period: &str| -> Option<u64> {
        api.redis().get(key(link, period)).await.unwrap()
    };
    assert_eq!(counter(total, "total").await, Some(5));
    assert_eq!(counter(daily, &today).await, Some(3));
    assert_eq!(counter(live, "total").await, Some(41));
    assert_eq!(counter(free, "total").await, None);
    let ttl: i64 = redis.ttl(key(daily, &today)).await.unwrap();
    assert!((172_000..=172_800).contains(&ttl), "{ttl}");
    assert_eq!(redis.ttl::<_, i64>(key(total, "total")).await.unwrap(), -1);
    let again = sync(&api.pool, &edge_index(&api.isolated)).await.unwrap();
    assert_eq!(
        (again.counters, again.written, again.removed),
        (Some(0), 0, 0)
    );

    // The relay does the same when it finds Redis empty.
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{prefix}*"))
        .query_async(&mut redis)
        .await
        .unwrap();
    let _: u64 = redis.del(keys).await.unwrap();
    eventually("the relay restored the counter", async || {
        counter(total, "total").await == Some(5)
    })
    .await;
    eventually("the capped link is back", async || {
        api.index().await.contains_key("code:total")
    })
    .await;
}

#[tokio::test]
async fn a_change_is_in_redis_within_a_moment() {
    let api = Api::start().await;
    let tenant = api.tenant("ours").await;
    api.published().await;
    let path = format!("/v1/links/{}", tenant.link);
    let key = format!(
        "{}t:{}:link:{}",
        api.isolated.redis.redis_prefix, tenant.id, tenant.code
    );
    let mut redis = api.redis();
    let mut delays = Vec::new();
    for number in 0..40 {
        let destination = format!("https://a.example/{number}");
        api.patch(&tenant.admin, &path, json!({"destination": destination}))
            .await;
        let changed = Instant::now();
        loop {
            let value: Vec<u8> = redis.get(&key).await.unwrap();
            if Link::decode(value.as_slice()).unwrap().destination == destination {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        delays.push(changed.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    delays.sort();
    println!(
        "a change is in Redis after {:?} (median), {:?} (slowest of 40)",
        delays[20], delays[39]
    );
    // Far below the second after which the relay would look without being told.
    assert!(delays[20] < Duration::from_millis(300), "{delays:?}");
}

#[tokio::test]
async fn a_lost_index_comes_back_byte_for_byte() {
    let api = Api::start().await;
    for slug in ["one", "two", "three"] {
        api.tenant(slug).await;
    }
    api.published().await;
    let before = api.index().await;
    assert_eq!(before.len(), 15);
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
        format!("{prefix}domain:gone.example"),
        format!("{prefix}domain:NOT a host"),
        format!("{prefix}publishable:trk_pub_{}", "x".repeat(32)),
        format!("{prefix}publishable:odd"),
        format!("{prefix}webhook:trw_{}", "x".repeat(32)),
        format!("{prefix}webhook:odd"),
    ];
    for key in &stale {
        let () = redis.set(key, "1").await.unwrap();
    }
    let () = redis.set(&link, "damaged").await.unwrap();
    let other = format!("{prefix}cap:7:total");
    let () = redis.set(&other, "not the index's").await.unwrap();

    let index = edge_index(&api.isolated);
    let report = sync(&api.pool, &index).await.unwrap();
    assert_eq!(
        (report.links, report.tokens, report.written, report.removed),
        (1, 1, 1, 12),
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
    assert_eq!((again.publishable_keys, again.domains), (1, 1), "{again}");
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
    // Long enough for some of everything, and until both rebuilds were cut off.
    let started = Instant::now();
    let cut_off = [Cell::new(0), Cell::new(0)];
    let goes_on = || {
        let lasted = started.elapsed();
        lasted < Duration::from_secs(4)
            || lasted < Duration::from_secs(60) && cut_off.iter().any(|times| times.get() == 0)
    };
    let change = async || {
        let pool = api.isolated.pool().unwrap();
        let mut changes = 0;
        while goes_on() {
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
    let rebuild = async |cut_off: &Cell<u32>| {
        let pool = api.isolated.pool().unwrap();
        let index = edge_index(&api.isolated);
        while goes_on() {
            if sync(&pool, &index).await.is_err() {
                cut_off.set(cut_off.get() + 1);
            }
        }
        assert!(cut_off.get() > 0, "no rebuild was cut off");
    };
    let kill = async || {
        // Some live long enough for a whole rebuild, some are cut off early.
        let lifetimes = (1..).map(|number| Duration::from_millis(number * 337 % 1500));
        for lifetime in lifetimes.take_while(|_| goes_on()) {
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
    let change_all = async || {
        let pool = api.isolated.pool().unwrap();
        while goes_on() {
            sqlx::query(
                "WITH p AS (UPDATE programs SET window_seconds = window_seconds + 1 WHERE id = $1 RETURNING id)
                 INSERT INTO edge_outbox (kind, entity_id) SELECT 'program', id FROM p",
            )
            .bind(tenant.program)
            .execute(&pool)
            .await
            .unwrap();
            sqlx::query(
                "WITH d AS (INSERT INTO domains (tenant_id, host) VALUES ($1, 'comes.and.goes')
                            ON CONFLICT (host) DO NOTHING RETURNING host)
                 INSERT INTO edge_outbox (kind, host) SELECT 'domain', host FROM d",
            )
            .bind(tenant.id)
            .execute(&pool)
            .await
            .unwrap();
            // Rare enough that rebuilds get their turn at the lock.
            tokio::time::sleep(Duration::from_millis(300)).await;
            sqlx::query(
                "WITH d AS (DELETE FROM domains WHERE host = 'comes.and.goes' RETURNING host)
                 INSERT INTO edge_outbox (kind, host) SELECT 'domain', host FROM d",
            )
            .execute(&pool)
            .await
            .unwrap();
        }
    };
    tokio::join!(
        change(),
        change(),
        change_all(),
        rebuild(&cut_off[0]),
        rebuild(&cut_off[1]),
        kill()
    );
    api.published().await;
    let window: i64 = sqlx::query_scalar("SELECT window_seconds FROM programs")
        .fetch_one(&api.pool)
        .await
        .unwrap();

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
                let link = Link::decode(value.as_slice());
                Some((key.strip_prefix(&start)?.to_owned(), link.unwrap()))
            })
            .map(|(code, link)| {
                let current = link.window_seconds == u64::try_from(window).unwrap();
                (
                    code,
                    if current {
                        link.destination
                    } else {
                        "old window".to_owned()
                    },
                )
            })
            .collect();
        links.sort();
        let codes = index.keys().filter(|key| key.starts_with("code:")).count();
        assert_eq!(codes, links.len());
        assert!(!index.contains_key("domain:comes.and.goes"));
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
    let report = sync(&pool, &edge_index(&isolated)).await.unwrap();
    assert_eq!(
        (report.links, report.tokens, report.written),
        (10_800, 1200, 2 * 10_800 + 1200),
        "{report}"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
