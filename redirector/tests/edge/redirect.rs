//! Shoppers' side of the edge, over real sockets, Redis and Kafka.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::{Edge, TENANT, header, keys, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tributary_shared::click_token::verify;
use tributary_shared::events::{Click, Outcome, Topic};
use tributary_shared::ids::LinkId;

#[tokio::test]
async fn a_click_is_redirected_and_recorded() {
    let edge = Edge::start().await;
    let answer = edge
        .get("/r/demo?sub1=a%20b&sub3=c")
        .header("User-Agent", "Firefox")
        .header("Referer", "https://blog.example/post")
        .header("Accept-Language", "de")
        .header("X-Forwarded-For", "203.0.113.9")
        .send()
        .await
        .unwrap();

    assert_eq!(answer.status(), 302);
    assert_eq!(header(&answer, "cache-control"), ["no-store"]);
    assert_eq!(header(&answer, "x-robots-tag"), ["noindex"]);
    assert_eq!(header(&answer, "referrer-policy").len(), 1);
    let cookies = header(&answer, "set-cookie");
    let token = cookies[0]
        .strip_prefix("aff_click=")
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    assert!(cookies[0].ends_with("; Max-Age=3600; Path=/; Secure; HttpOnly; SameSite=Lax"));
    assert!(cookies[1].starts_with("aff_visitor="));
    assert_eq!(
        header(&answer, "location"),
        [format!("https://shop.example/p?c={token}&s=a%20b")]
    );
    assert_eq!(verify(&keys(), token).unwrap().link, LinkId(3));

    let click: Click = edge.events(Topic::Clicks, 1).await.remove(0);
    assert_eq!(click.click_id, token);
    assert_eq!((click.tenant_id, click.program_id), (TENANT.to_wire(), 4));
    assert_eq!((click.affiliate_id, click.link_id), (5, 3));
    assert_eq!(
        click.address.as_ref(),
        Ipv4Addr::new(203, 0, 113, 9).octets()
    );
    assert_eq!(click.user_agent, "Firefox");
    assert_eq!(click.referrer, "https://blog.example/post");
    assert_eq!(click.accept_language, "de");
    assert_eq!(click.sub_ids, ["a b", "", "c"]);
    assert_eq!((click.visitor_id.len(), click.fingerprint.len()), (16, 16));
    assert!(!click.privacy_opt_out);
}

#[tokio::test]
async fn a_visitor_is_recognised_by_the_cookie() {
    let edge = Edge::start().await;
    let first = edge.get("/r/demo").send().await.unwrap();
    let cookie = header(&first, "set-cookie")[1]
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let second = edge
        .get("/r/demo")
        .header("Cookie", &cookie)
        .send()
        .await
        .unwrap();
    assert!(header(&second, "set-cookie")[1].starts_with(&cookie));
    // A cookie that is not of our form is replaced, not believed.
    edge.get("/r/demo")
        .header("Cookie", "aff_visitor=x")
        .send()
        .await
        .unwrap();
    let clicks: Vec<Click> = edge.events(Topic::Clicks, 3).await;
    let mut visitors: Vec<_> = clicks.iter().map(|c| c.visitor_id.clone()).collect();
    visitors.sort();
    visitors.dedup();
    assert_eq!(visitors.len(), 2);
}

#[tokio::test]
async fn what_is_no_click_leaves_nothing_behind() {
    let edge = Edge::start().await;
    let head = edge
        .client
        .head(format!("http://{}/r/demo", edge.address()))
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 302);
    assert_eq!(header(&head, "location"), ["https://shop.example/p?c=&s="]);
    assert!(header(&head, "set-cookie").is_empty());
    let prefetch = edge
        .get("/r/demo")
        .header("Sec-Purpose", "prefetch")
        .send()
        .await
        .unwrap();
    assert_eq!(prefetch.status(), 503);
    assert_eq!(header(&prefetch, "cache-control"), ["no-store"]);
    for path in [
        "/",
        "/r/",
        "/r/none",
        "/r/demo/x",
        "/r/a%20b",
        "/favicon.ico",
        "/r/%ff",
    ] {
        let answer = edge.get(path).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert!(
            answer.text().await.unwrap().contains("does not exist"),
            "{path}"
        );
    }
    let long = edge
        .get(&format!("/r/{}", "a".repeat(5000)))
        .send()
        .await
        .unwrap();
    assert_eq!(long.status(), 404);
    let wrong = edge.post("/r/demo").send().await.unwrap();
    assert_eq!(
        (wrong.status().as_u16(), header(&wrong, "allow")),
        (405, vec!["GET, HEAD"])
    );
    edge.get("/r/demo").send().await.unwrap();
    edge.events::<Click>(Topic::Clicks, 1).await;
}

#[tokio::test]
async fn a_shopper_who_opted_out_is_redirected_and_not_described() {
    let edge = Edge::start().await;
    let answer = edge
        .get("/r/demo")
        .header("Sec-GPC", "1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(header(&answer, "set-cookie").len(), 1);
    let click: Click = edge.events(Topic::Clicks, 1).await.remove(0);
    assert!(click.privacy_opt_out);
    assert!(
        click.address.is_empty() && click.fingerprint.is_empty() && click.visitor_id.is_empty()
    );
}

#[tokio::test]
async fn a_changed_link_is_followed_and_a_removed_one_ends() {
    let edge = Edge::start_with(|config| config.link_cache_ttl_ms = 50).await;
    edge.get("/r/demo").send().await.unwrap();
    edge.write_link("demo", TENANT, "https://other.example/")
        .await;
    wait_until(async || {
        let answer = edge.get("/r/demo").send().await.unwrap();
        header(&answer, "location") == ["https://other.example/"]
    })
    .await;
    edge.remove_link("demo").await;
    wait_until(async || edge.get("/r/demo").send().await.unwrap().status() == 404).await;
    // And a new one works soon after it was looked for in vain.
    edge.write_link("demo", TENANT, "https://new.example/")
        .await;
    wait_until(async || edge.get("/r/demo").send().await.unwrap().status() == 302).await;
}

#[tokio::test]
async fn an_unreadable_link_is_unknown() {
    let edge = Edge::start().await;
    edge.write_link("evil", TENANT, "javascript:alert(1)").await;
    assert_eq!(edge.get("/r/evil").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_redis_that_came_back_empty_is_not_believed() {
    let edge = Edge::start_with(|config| config.link_cache_ttl_ms = 1).await;
    assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
    edge.empty_redis().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
    assert_eq!(edge.get("/r/other").send().await.unwrap().status(), 503);
    edge.complete_index().await;
    wait_until(async || edge.get("/r/demo").send().await.unwrap().status() == 404).await;
}

/// Forwards to Redis until it is told to cut every connection and refuse new ones.
async fn redis_that_can_be_cut(url: &str) -> (String, tokio::task::JoinHandle<()>) {
    let target = url
        .trim_start_matches("redis://")
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("redis://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(&target).await.unwrap();
            connections.spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (proxy, task)
}

#[tokio::test]
async fn without_redis_what_is_in_memory_is_served() {
    let engines = tributary_shared::testing::engines().await;
    let (proxy, redis) = redis_that_can_be_cut(&engines.redis_url).await;
    let edge = Edge::start_with(|config| {
        config.redis.redis_url = proxy;
        config.link_cache_ttl_ms = 1;
    })
    .await;
    assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
    redis.abort();
    let _ = redis.await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    for _ in 0..5 {
        assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
    }
    let unknown = edge.get("/r/other").send().await.unwrap();
    assert_eq!(unknown.status(), 503);
    assert_eq!(header(&unknown, "retry-after"), ["2"]);
    // Nobody was redirected, but somebody clicked: the processor finds out on what.
    let clicks: Vec<Click> = edge.events(Topic::Clicks, 7).await;
    let unresolved: Vec<_> = clicks
        .iter()
        .filter(|click| click.outcome() == Outcome::Unresolved)
        .collect();
    assert_eq!(unresolved.len(), 1);
    assert_eq!(unresolved[0].code, "other");
    assert_eq!((unresolved[0].link_id, &*unresolved[0].click_id), (0, ""));
}

#[tokio::test]
async fn at_the_end_every_click_has_reached_kafka() {
    let mut edge = Edge::start().await;
    for _ in 0..200 {
        assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
    }
    edge.stop().await;
    edge.events::<Click>(Topic::Clicks, 200).await;
}

#[tokio::test]
async fn a_redirector_without_engines_says_so() {
    let edge = Edge::start_unready(|config| {
        config.redis.redis_url = "redis://127.0.0.1:1".to_owned();
        config.kafka.kafka_brokers = "127.0.0.1:1".to_owned();
    })
    .await;
    wait_until(async || {
        let (status, missing) = edge.operations("/readyz").await;
        status == 503 && missing.contains("redis: ")
    })
    .await;
    assert_eq!(edge.operations("/healthz").await.0, 200);
    assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 503);
    let (_, metrics) = edge.operations("/metrics").await;
    assert!(
        metrics.contains("tributary_http_requests_total"),
        "{metrics}"
    );
}

/// Sends bytes as they are and returns the first line of the answer.
async fn raw(edge: &Edge, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.contains(&b'\n') {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend(&buffer[..read]),
        }
    }
    String::from_utf8_lossy(&answer)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn odd_requests_are_answered_with_an_error() {
    let edge = Edge::start().await;
    let long_header = format!(
        "GET /r/demo HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    let many_headers = format!(
        "GET /r/demo HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    let long_path = format!("GET /r/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(20_000));
    let cases: [(&[u8], &str); 5] = [
        (long_header.as_bytes(), "HTTP/1.1 431"),
        (many_headers.as_bytes(), "HTTP/1.1 431"),
        (long_path.as_bytes(), "HTTP/1.1 431"),
        (b"nonsense\r\n\r\n", "HTTP/1.1 400"),
        (
            b"GET /r/demo HTTP/1.1\r\nHost: x\r\nUser-Agent: \xff\xfe\r\nCookie: \x80\xff\r\n\r\n",
            "HTTP/1.1 302",
        ),
    ];
    for (request, expected) in cases {
        let answer = raw(&edge, request).await;
        assert!(
            answer.starts_with(expected),
            "{answer:?} instead of {expected}"
        );
    }
    let click: Click = edge.events(Topic::Clicks, 1).await.remove(0);
    assert_eq!(click.user_agent, "\u{fffd}\u{fffd}");
}
