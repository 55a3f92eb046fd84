//! The resolver with a real Redis, seen through a proxy that counts, holds and cuts.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tributary_shared::ids::LinkId;
use tributary_shared::links::{CapPeriod, Link};
use tributary_shared::testing;

use super::*;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);
const TENANT: TenantId = TenantId(7);

/// A part of Redis for one test.
struct Place {
    keys: EdgeKeys,
    redis: ConnectionManager,
    config: Config,
}

impl Place {
    async fn new() -> Self {
        let engines = testing::engines().await;
        let mut config = Config::parse_from([
            "redirector",
            "--click-token-keys",
            &format!("1:{}", "ab".repeat(32)),
            "--sealing-keys",
            &format!("1:{}", "ef".repeat(32)),
            "--fingerprint-key",
            &"cd".repeat(32),
        ]);
        config.redis.redis_url = engines.redis_url.clone();
        config.redis.redis_prefix = format!("resolve_{:016x}:", rand::random::<u64>());
        // Nothing here may pass because of the time to live, or fail because the machine is busy.
        config.link_cache_ttl_ms = 3_600_000;
        config.redis_timeout_ms = 10_000;
        let keys = EdgeKeys::new(&config.redis.redis_prefix);
        let redis = engines::redis::connect(&config.redis, PATIENCE).unwrap();
        let place = Self {
            keys,
            redis,
            config,
        };
        place.set(&place.keys.writer(), "somebody").await;
        place
    }

    async fn set(&self, key: &str, value: impl redis::ToSingleRedisArg + Send + Sync) {
        let () = self.redis.clone().set(key, value).await.unwrap();
    }

    async fn write_link(&self, tenant: TenantId, code: &str, destination: &str) {
        self.set(&self.keys.link(tenant, code), link(tenant, destination))
            .await;
    }

    async fn write_shared(&self, code: &str, destination: &str) {
        self.write_link(TENANT, code, destination).await;
        self.set(&self.keys.code(code), TENANT.0).await;
    }

    /// A resolver that follows changes.
    async fn resolver(&self) -> Arc<Resolver> {
        Self::start(&self.config).await
    }

    async fn through(&self, proxy: &Proxy) -> Arc<Resolver> {
        let mut config = self.config.clone();
        config.redis.redis_url = proxy.url();
        Self::start(&config).await
    }

    async fn start(config: &Config) -> Arc<Resolver> {
        let resolver = Arc::new(Resolver::start(config).unwrap());
        until(async || resolver.index.freshness.ttl() == config.link_cache_ttl()).await;
        let readiness = Readiness::waiting_for(&["redis"]);
        resolver.wait_until_reachable(&readiness).await;
        resolver
    }
}

fn link(tenant: TenantId, destination: &str) -> Vec<u8> {
    Link {
        link_id: 3,
        tenant_id: tenant.to_wire(),
        program_id: 4,
        affiliate_id: 5,
        destination: destination.to_owned(),
        window_seconds: 60,
        ..Link::default()
    }
    .encode_to_vec()
}

const UNKNOWN: &str = "unknown";
const UNAVAILABLE: &str = "unavailable";

/// Where a link leads.
fn leads_to(resolution: &Resolution<Arc<ActiveLink>>) -> String {
    match resolution {
        Resolution::Found(link) => {
            let mut destination = String::new();
            link.destination.render(&mut destination, |_| "");
            destination
        }
        Resolution::Unknown => UNKNOWN.to_owned(),
        Resolution::Unavailable => UNAVAILABLE.to_owned(),
    }
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.expect("it happens in time");
}

/// Stands between a resolver and Redis.
#[derive(Clone)]
struct Proxy(Arc<Wire>);

struct Wire {
    address: SocketAddr,
    /// What was sent to Redis, on all connections.
    sent: Mutex<Vec<u8>>,
    /// Answers are held while this is true, except on the connection that tells of changes.
    held: watch::Sender<bool>,
    /// Connections end when it changes; none is accepted while it is odd.
    cuts: watch::Sender<usize>,
    /// Bytes for the connection that tells of changes.
    say: watch::Sender<Vec<u8>>,
    accepted: AtomicUsize,
}

impl Proxy {
    async fn new() -> Self {
        let url = testing::engines().await.redis_url.clone();
        let target = url.trim_start_matches("redis://").split('/').next();
        let target = target.unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Arc::new(Wire {
            address: listener.local_addr().unwrap(),
            sent: Mutex::default(),
            held: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
            say: watch::Sender::default(),
            accepted: AtomicUsize::new(0),
        });
        let proxy = Self(Arc::clone(&wire));
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                if wire.cuts.borrow().is_multiple_of(2) {
                    wire.accepted.fetch_add(1, Ordering::SeqCst);
                    let far = TcpStream::connect(&target).await.unwrap();
                    tokio::spawn(Arc::clone(&wire).forward(near, far));
                }
            }
        });
        proxy
    }

    fn url(&self) -> String {
        format!("redis://{}", self.0.address)
    }

    fn hold(&self, held: bool) {
        self.0.held.send_replace(held);
    }

    /// Ends all connections and accepts none until this is called again.
    fn cut_or_restore(&self) {
        self.0.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How often `text` was sent to Redis.
    fn count(&self, text: &str) -> usize {
        let sent = self.0.sent.lock().unwrap();
        sent.windows(text.len())
            .filter(|at| *at == text.as_bytes())
            .count()
    }
}

impl Wire {
    async fn forward(self: Arc<Self>, near: TcpStream, far: TcpStream) {
        let (mut from_edge, mut to_edge) = near.into_split();
        let (mut from_redis, mut to_redis) = far.into_split();
        let tells = watch::Sender::new(false);
        let mut cut = self.cuts.subscribe();
        let requests = async {
            let mut buffer = [0; 8192];
            while let Ok(read @ 1..) = from_edge.read(&mut buffer).await {
                self.sent.lock().unwrap().extend(&buffer[..read]);
                if buffer[..read].windows(8).any(|w| w == b"TRACKING") {
                    tells.send_replace(true);
                }
                to_redis.write_all(&buffer[..read]).await.unwrap();
            }
        };
        let answers = async {
            let mut buffer = [0; 8192];
            let mut held = self.held.subscribe();
            let mut say = self.say.subscribe();
            loop {
                let telling = *tells.borrow();
                tokio::select! {
                    read = from_redis.read(&mut buffer) => {
                        let Ok(read @ 1..) = read else { return };
                        if !telling {
                            held.wait_for(|held| !held).await.unwrap();
                        }
                        if to_edge.write_all(&buffer[..read]).await.is_err() { return }
                    }
                    Ok(()) = say.changed(), if telling => {
                        let words = say.borrow_and_update().clone();
                        to_edge.write_all(&words).await.unwrap();
                    }
                }
            }
        };
        tokio::select! {
            () = requests => {}
            () = answers => {}
            _ = cut.changed() => {}
        }
    }
}

#[tokio::test]
async fn a_code_is_looked_up_once_for_all_who_ask_for_it() {
    let (place, proxy) = (Place::new().await, Proxy::new().await);
    place.write_shared("popular", "https://a.example/").await;
    let resolver = place.through(&proxy).await;
    for (code, expected) in [("popular", "https://a.example/"), ("nosuch", UNKNOWN)] {
        // The first who asked gives up: its look-up goes on for the others.
        proxy.hold(true);
        let ask = || {
            let resolver = Arc::clone(&resolver);
            tokio::spawn(async move { leads_to(&resolver.link(Space::Shared, code).await) })
        };
        let first = ask();
        until(async || proxy.count(&place.keys.code(code)) == 1).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let others: Vec<_> = (0..500).map(|_| ask()).collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.hold(false);
        for other in others {
            assert_eq!(other.await.unwrap(), expected);
        }
        assert_eq!(proxy.count(&place.keys.code(code)), 1, "{code}");
    }
}

#[tokio::test]
async fn what_changes_while_it_is_looked_up_is_looked_up_again() {
    let (place, proxy) = (Place::new().await, Proxy::new().await);
    place.write_shared("raced", "https://old.example/").await;
    place.write_shared("witness", "https://w.example/").await;
    let resolver = place.through(&proxy).await;
    resolver.link(Space::Shared, "witness").await;
    assert!(resolver.in_memory(Space::Shared, "witness").is_some());

    // Redis has answered with the old value, but the answer is on its way when the change is told.
    proxy.hold(true);
    let asking = Arc::clone(&resolver);
    let asking = tokio::spawn(async move { leads_to(&asking.link(Space::Shared, "raced").await) });
    until(async || proxy.count(&place.keys.code("raced")) == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    place
        .write_link(TENANT, "raced", "https://new.example/")
        .await;
    place
        .write_link(TENANT, "witness", "https://v.example/")
        .await;
    until(async || resolver.in_memory(Space::Shared, "witness").is_none()).await;
    proxy.hold(false);
    assert_eq!(asking.await.unwrap(), "https://old.example/");

    assert!(resolver.in_memory(Space::Shared, "raced").is_none());
    let now = resolver.link(Space::Shared, "raced").await;
    assert_eq!(leads_to(&now), "https://new.example/");
}

#[tokio::test]
async fn a_change_takes_exactly_what_depends_on_it_out_of_memory() {
    let place = Place::new().await;
    let other = TenantId(8);
    let own = Space::Tenant(TENANT);
    for code in ["a", "b", "last"] {
        place.write_shared(code, "https://a.example/").await;
        place.write_link(other, code, "https://o.example/").await;
    }
    let resolver = place.resolver().await;
    let all = [
        (Space::Shared, "a"),
        (own, "a"),
        (Space::Tenant(other), "a"),
        (Space::Shared, "b"),
        (own, "b"),
    ];
    // Asks for everything, makes a change, and returns what is still fresh after it.
    let after = async |key: String, value: Vec<u8>| -> Vec<(Space, &str)> {
        for (space, code) in all.into_iter().chain([(Space::Shared, "last")]) {
            resolver.link(space, code).await;
        }
        place.set(&key, value).await;
        // Changes are told in the order in which they were made.
        place.write_shared("last", "https://a.example/").await;
        until(async || resolver.in_memory(Space::Shared, "last").is_none()).await;
        all.into_iter()
            .filter(|(space, code)| resolver.in_memory(*space, code).is_some())
            .collect()
    };
    let keys = &place.keys;
    let value = link(TENANT, "https://c.example/");
    assert_eq!(after(keys.code("a"), b"7".to_vec()).await, all[1..]);
    assert_eq!(after(keys.link(TENANT, "a"), value).await, all[2..]);
    let value = link(other, "https://c.example/");
    let without_others = [all[0], all[1], all[3], all[4]];
    assert_eq!(after(keys.link(other, "a"), value).await, without_others);
    for key in [
        keys.writer(),
        keys.cap(LinkId(3), "total"),
        keys.domain("a.b"),
    ] {
        assert_eq!(after(key, b"1".to_vec()).await, all);
    }
}

#[tokio::test]
async fn what_was_not_there_is_found_as_soon_as_it_is() {
    let place = Place::new().await;
    let resolver = place.resolver().await;
    let (token, key) = ("trp_x", tributary_shared::secrets::new_token("trk_pub_"));
    assert!(matches!(
        resolver.tenant_of(token).await,
        Resolution::Unknown
    ));
    assert!(matches!(
        resolver.publishable(&key).await,
        Resolution::Unknown
    ));
    assert!(matches!(
        resolver.domain("go.a.example").await,
        Resolution::Unknown
    ));
    assert_eq!(
        leads_to(&resolver.link(Space::Shared, "new").await),
        UNKNOWN
    );
    assert_eq!(
        leads_to(&resolver.link(Space::Tenant(TENANT), "new").await),
        UNKNOWN
    );

    let domain = Domain {
        tenant_id: 7,
        fallback_url: String::from("https://a.example/"),
    };
    let publishable = PublishableKey {
        tenant_id: 7,
        origins: vec![String::from("https://a.example")],
    };
    let keys = &place.keys;
    place.set(&keys.postback(&token_hash(token)), 7).await;
    place
        .set(&keys.publishable(&key), publishable.encode_to_vec())
        .await;
    place
        .set(&keys.domain("go.a.example"), domain.encode_to_vec())
        .await;
    place.write_shared("new", "https://a.example/").await;
    let started = Instant::now();
    until(async || {
        matches!(resolver.tenant_of(token).await, Resolution::Found(TENANT))
            && matches!(resolver.publishable(&key).await, Resolution::Found(k) if *k == publishable)
            && matches!(resolver.domain("go.a.example").await, Resolution::Found(d) if *d == domain)
            && leads_to(&resolver.link(Space::Shared, "new").await) == "https://a.example/"
            && leads_to(&resolver.link(Space::Tenant(TENANT), "new").await) == "https://a.example/"
    })
    .await;
    println!(
        "everything new was found {:?} after it was written",
        started.elapsed()
    );
    assert!(resolver.domain_in_memory("go.a.example").is_some());

    // What is revoked ends, and an unreadable value is as good as none.
    let () = place
        .redis
        .clone()
        .del(keys.postback(&token_hash(token)))
        .await
        .unwrap();
    place.set(&keys.publishable(&key), b"\xff").await;
    place.set(&keys.domain("go.a.example"), b"").await;
    until(async || {
        matches!(resolver.tenant_of(token).await, Resolution::Unknown)
            && matches!(resolver.publishable(&key).await, Resolution::Unknown)
            && matches!(resolver.domain("go.a.example").await, Resolution::Unknown)
    })
    .await;
}

#[tokio::test]
async fn names_that_can_not_be_keys_ask_nobody() {
    let (place, proxy) = (Place::new().await, Proxy::new().await);
    let resolver = place.through(&proxy).await;
    for name in ["", "a b", "ä", "a:b", &"x".repeat(300)] {
        assert_eq!(leads_to(&resolver.link(Space::Shared, name).await), UNKNOWN);
        assert!(matches!(resolver.domain(name).await, Resolution::Unknown));
        assert!(matches!(
            resolver.publishable(name).await,
            Resolution::Unknown
        ));
    }
    assert_eq!(proxy.count("MGET") + proxy.count("EVAL"), 0);
}

#[tokio::test]
async fn a_change_that_was_missed_is_seen_once_redis_is_back() {
    let (place, proxy) = (Place::new().await, Proxy::new().await);
    place.write_shared("demo", "https://old.example/").await;
    let mut config = place.config.clone();
    config.redis.redis_url = proxy.url();
    config.redis_timeout_ms = 100;
    let resolver = Place::start(&config).await;
    let ask = async || leads_to(&resolver.link(Space::Shared, "demo").await);
    assert_eq!(ask().await, "https://old.example/");

    proxy.cut_or_restore();
    until(async || resolver.index.freshness.ttl() < config.link_cache_ttl()).await;
    place
        .write_link(TENANT, "demo", "https://new.example/")
        .await;
    // However old, once even the short time to live is over.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..20 {
        assert_eq!(ask().await, "https://old.example/");
    }
    assert_eq!(
        leads_to(&resolver.link(Space::Shared, "none").await),
        UNAVAILABLE
    );
    proxy.cut_or_restore();
    until(async || ask().await == "https://new.example/").await;
    until(async || resolver.index.freshness.ttl() == config.link_cache_ttl()).await;
}

#[tokio::test]
async fn a_redis_that_was_emptied_is_checked_against() {
    let (place, proxy) = (Place::new().await, Proxy::new().await);
    place.write_shared("demo", "https://a.example/").await;
    let resolver = place.through(&proxy).await;
    resolver.link(Space::Shared, "demo").await;
    assert!(resolver.in_memory(Space::Shared, "demo").is_some());
    // As Redis 7 says it of FLUSHALL: the real one would empty the other tests' keys as well.
    proxy
        .0
        .say
        .send_replace(b">2\r\n$10\r\ninvalidate\r\n_\r\n".to_vec());
    until(async || resolver.in_memory(Space::Shared, "demo").is_none()).await;
    resolver.link(Space::Shared, "demo").await;
    assert!(resolver.in_memory(Space::Shared, "demo").is_some());

    // Key by key, as an index that is lost: what was known is served, the rest is not denied.
    let () = place
        .redis
        .clone()
        .del(&[place.keys.writer(), place.keys.code("demo")])
        .await
        .unwrap();
    until(async || resolver.in_memory(Space::Shared, "demo").is_none()).await;
    assert_eq!(
        leads_to(&resolver.link(Space::Shared, "demo").await),
        "https://a.example/"
    );
    assert_eq!(
        leads_to(&resolver.link(Space::Shared, "none").await),
        UNAVAILABLE
    );
    place.set(&place.keys.writer(), "somebody").await;
    assert_eq!(
        leads_to(&resolver.link(Space::Shared, "demo").await),
        UNKNOWN
    );
}

#[tokio::test]
async fn a_change_is_seen_by_every_edge_at_once() {
    let place = Place::new().await;
    place.write_shared("demo", "https://example.com/0").await;
    let edges = [place.resolver().await, place.resolver().await];
    let mut took = Vec::new();
    for round in 1..=50 {
        for edge in &edges {
            edge.link(Space::Shared, "demo").await;
        }
        let new = format!("https://example.com/{round}");
        let started = Instant::now();
        place.write_link(TENANT, "demo", &new).await;
        for edge in &edges {
            while leads_to(&edge.link(Space::Shared, "demo").await) != new {
                tokio::task::yield_now().await;
                assert!(started.elapsed() < Duration::from_secs(2));
            }
        }
        took.push(started.elapsed());
    }
    took.sort();
    println!(
        "a change was seen by both edges after {:?} (median), {:?} (most)",
        took[25], took[49]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edges_together_let_through_exactly_what_the_cap_says() {
    let place = Place::new().await;
    let now = chrono::DateTime::from_timestamp(1_772_000_000, 0).unwrap();
    let mut edges = Vec::new();
    for _ in 0..4 {
        edges.push(place.resolver().await);
    }
    for (period, name) in [(CapPeriod::Total, "total"), (CapPeriod::Day, "20260225")] {
        let takes: Vec<_> = (0..800)
            .map(|n| {
                let edge = Arc::clone(&edges[n % 4]);
                tokio::spawn(async move { edge.take(LinkId(9), 137, period, now).await })
            })
            .collect();
        let mut counts = [0; 3];
        for take in takes {
            counts[take.await.unwrap() as usize] += 1;
        }
        assert_eq!(counts, [137, 663, 0], "allowed, reached, unknown");
        let key = place.keys.cap(LinkId(9), name);
        let (counted, expires): (u64, i64) = redis::pipe()
            .get(&key)
            .ttl(&key)
            .query_async(&mut place.redis.clone())
            .await
            .unwrap();
        assert_eq!(counted, 137);
        match period {
            CapPeriod::Total => assert_eq!(expires, -1),
            CapPeriod::Day => assert!((172_000..=172_800).contains(&expires), "{expires}"),
        }
    }
}

#[tokio::test]
async fn a_cap_that_is_reached_costs_nothing_until_it_is_raised() {
    let (place, proxy) = (Place::new().await, Proxy::new().await);
    let resolver = place.through(&proxy).await;
    let now = chrono::DateTime::from_timestamp(1_772_000_000, 0).unwrap();
    let take = async |cap| resolver.take(LinkId(9), cap, CapPeriod::Day, now).await;
    assert_eq!(take(1).await, CapAnswer::Allowed);
    for _ in 0..5 {
        assert_eq!(take(1).await, CapAnswer::Reached);
    }
    assert_eq!(proxy.count(&place.keys.cap(LinkId(9), "20260225")), 2);
    assert_eq!(take(2).await, CapAnswer::Allowed);
    assert_eq!(take(2).await, CapAnswer::Reached);
    let tomorrow = now + chrono::TimeDelta::days(1);
    let next = resolver.take(LinkId(9), 2, CapPeriod::Day, tomorrow).await;
    assert_eq!(next, CapAnswer::Allowed);

    // One link's broken counter is not Redis' failure.
    place.set(&place.keys.cap(LinkId(8), "total"), "x").await;
    let broken = resolver.take(LinkId(8), 2, CapPeriod::Total, now).await;
    assert_eq!(broken, CapAnswer::Unknown);
    assert_eq!(take(3).await, CapAnswer::Allowed);
}

#[tokio::test]
async fn without_redis_a_cap_is_unknown_and_nobody_waits() {
    let mut place = Place::new().await;
    place.config.redis.redis_url = String::from("redis://127.0.0.1:1");
    place.config.redis_timeout_ms = 50;
    let resolver = Resolver::start(&place.config).unwrap();
    let now = chrono::DateTime::from_timestamp(1_772_000_000, 0).unwrap();
    let started = Instant::now();
    for _ in 0..100 {
        let answer = resolver.take(LinkId(9), 5, CapPeriod::Total, now).await;
        assert_eq!(answer, CapAnswer::Unknown);
        assert_eq!(
            leads_to(&resolver.link(Space::Shared, "a").await),
            UNAVAILABLE
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
}

/// Where in the sorted `took` the `n`th of a thousand stands.
fn quantile(took: &mut [Duration], n: usize) -> Duration {
    took.sort();
    took[took.len() * n / 1000]
}

#[tokio::test]
#[ignore = "prints figures: cargo test --release --workspace --lib -- --ignored --nocapture resolve::"]
async fn how_long_a_miss_takes() {
    let place = Place::new().await;
    let resolver = place.resolver().await;
    for n in 0..5000 {
        place
            .write_shared(&format!("c{n}"), "https://shop.example/p?c={click_id}")
            .await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut redis = place.redis.clone();
    for name in ["shared", "tenant's", "two questions"] {
        let mut took = Vec::new();
        for n in 0..5000 {
            let code = format!("c{n}");
            let started = Instant::now();
            if name == "two questions" {
                let index = &resolver.index;
                let _: (Option<String>, Option<String>) = redis
                    .mget(&[index.keys.code(&code), index.keys.writer()])
                    .await
                    .unwrap();
                let _: (Option<Vec<u8>>, Option<String>) = redis
                    .mget(&[index.keys.link(TENANT, &code), index.keys.writer()])
                    .await
                    .unwrap();
            } else {
                let space = match name {
                    "shared" => Space::Shared,
                    _ => Space::Tenant(TENANT),
                };
                assert!(matches!(
                    resolver.link(space, &code).await,
                    Resolution::Found(_)
                ));
            }
            took.push(started.elapsed());
        }
        let [median, p99, p999] = [500, 990, 999].map(|n| quantile(&mut took, n));
        println!("{name}: median {median:?}, p99 {p99:?}, p99.9 {p999:?}");
    }
    let started = Instant::now();
    let rounds = 2_000_000_u32;
    for _ in 0..rounds {
        assert!(resolver.in_memory(Space::Shared, "c7").is_some());
    }
    println!("in memory: {:?} each", started.elapsed() / rounds);
}

#[test]
#[ignore = "prints figures: cargo test --release --workspace --lib -- --ignored --nocapture resolve::"]
fn how_much_memory_a_million_links_take() {
    const LINKS: u64 = 1_000_000;
    let rss = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    };
    let freshness = Freshness::new(Duration::from_secs(3600));
    let compiler = Compiler::new();
    let one = Arc::new(
        compiler
            .compile(&link(TENANT, "https://a.example/"), TENANT)
            .unwrap(),
    );
    let remember = |memory: &Memory<Arc<ActiveLink>>, n: u64, value: Arc<ActiveLink>| {
        // Eight characters, each code another.
        let code = format!("{n:08x}");
        if let Joined::Begin(flight, _) = memory.join(shared(&code), &freshness) {
            memory.finish(flight, Ok(value), &freshness);
        }
    };
    let (before, memory) = (rss(), Memory::new(1_000_000, true));
    for n in 0..LINKS {
        remember(&memory, n, Arc::clone(&one));
    }
    let of_the_memory = (rss() - before) / LINKS;
    let (before, full) = (rss(), Memory::new(1_000_000, true));
    for n in 0..LINKS {
        let link = Link {
            link_id: n + 1,
            tenant_id: 7,
            program_id: 4,
            affiliate_id: n % 5000 + 1,
            destination: format!(
                "https://shop{}.example/product/{n}?click={{click_id}}",
                n % 100
            ),
            window_seconds: 60,
            ..Link::default()
        };
        let value = compiler.compile(&link.encode_to_vec(), TENANT).unwrap();
        remember(&full, n, Arc::new(value));
    }
    let in_all = (rss() - before) / LINKS;
    println!("a link takes {in_all} bytes, of which the memory itself {of_the_memory}");
}
