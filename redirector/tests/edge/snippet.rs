//! The script for merchants' pages: as it is served, and as Chromium runs it.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Edge, click_id, header};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tributary_shared::events::{Conversion, Source, Topic};

#[tokio::test]
async fn the_script_is_served_and_kept() {
    let edge = Edge::start().await;
    let answer = edge.get("/t.js").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        header(&answer, "content-type"),
        ["text/javascript; charset=utf-8"]
    );
    assert_eq!(header(&answer, "cache-control"), ["public, max-age=3600"]);
    let version = header(&answer, "etag")[0].to_owned();
    assert!(answer.text().await.unwrap().len() < 2048);

    let again = edge.get("/t.js").header("If-None-Match", &version);
    let answer = again.send().await.unwrap();
    assert_eq!(answer.status(), 304);
    assert_eq!(header(&answer, "etag"), [version]);
    assert_eq!(edge.post("/t.js").send().await.unwrap().status(), 405);
}

/// Where the browser is; the setting CHROMIUM names another.
const CHROMIUM: &str = "/usr/bin/chromium";
/// How long one visit may take.
const VISIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A shop's pages on every host that leads to 127.0.0.1. `/landing` reports order `{order}-1` before
/// the script is there and leads on to `next`; any other page reports `{order}-2`, and says in its
/// body's `data-out` what it saw.
async fn shop(edge: SocketAddr, key: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let page = page(edge, &key);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
                let answer = format!("{head}Content-Length: {}\r\n\r\n{page}", page.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

fn page(edge: SocketAddr, key: &str) -> String {
    const PAGE: &str = r#"<!doctype html><title>shop</title><body><script>
        const asked = new URLSearchParams(location.search), before = new Set(Object.getOwnPropertyNames(window))
        const landing = location.pathname == '/landing'
        if (asked.get('gpc')) Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })
        const warned = []
        console.warn = (...what) => warned.push(what.join(' '))
        window.tributary = window.tributary || function () { (tributary.q = tributary.q || []).push(arguments) }
        tributary('conversion', { order_id: asked.get('order') + (landing ? '-1' : '-2'), amount: 49.9, currency: 'USD' })
        const script = document.createElement('script')
        script.src = 'http://' + asked.get('edge') + ':EDGE/t.js'
        script.dataset.key = 'KEY'
        document.body.append(script)
        const image = new Image()
        image.onload = image.onerror = (e) => (image.became = e.type)
        image.src = 'http://' + asked.get('edge') + ':EDGE/pixel.gif?key=refused'
        setTimeout(() => {
            if (landing) return location.replace(asked.get('next'))
            const globals = Object.getOwnPropertyNames(window).filter((name) => !before.has(name))
            document.body.dataset.out = encodeURIComponent(JSON.stringify({
                globals, warned, image: [image.became, image.naturalWidth],
                cookie: document.cookie, storage: { ...localStorage } }))
        }, 1000)
        </script>"#;
    PAGE.replace("EDGE", &edge.port().to_string())
        .replace("KEY", key)
}

/// Opens an address in a browser that has never been anywhere, and returns what the last page saw.
async fn visit(address: String) -> Value {
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| CHROMIUM.to_owned());
    let profile = std::env::temp_dir().join(format!("tributary-{}", uuid::Uuid::new_v4()));
    let mut command = Command::new(&browser);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args(["--disable-quic", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync"])
        .args(["--virtual-time-budget=8000", "--dump-dom"])
        .arg("--host-resolver-rules=MAP *.example 127.0.0.1, MAP *.co.uk 127.0.0.1")
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(&address)
        .stderr(Stdio::null());
    let visited = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(VISIT_TIMEOUT, visited).await;
    let output = output.expect("the visit ends").unwrap();
    let output = output.unwrap_or_else(|error| panic!("cannot start {browser}: {error}"));
    let _ = std::fs::remove_dir_all(&profile);
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    let out = page.split("data-out=\"").nth(1);
    let out = out.unwrap_or_else(|| panic!("{address}: {page}"));
    let out = out.split('"').next().unwrap();
    let pair = format!("o={out}");
    let (_, out) = form_urlencoded::parse(pair.as_bytes()).next().unwrap();
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
#[ignore = "needs Chromium; run it with -- --ignored"]
async fn chromium_keeps_the_click_and_reports_the_order() {
    let edge = Edge::start().await;
    // The key must name the shop's origins, and the shop's pages the key.
    let key = edge.publishable_key(&[]).await;
    let shop = shop(edge.address(), key.clone()).await;
    let port = shop.port();
    let origins = [
        format!("http://www.shop.example:{port}"),
        format!("http://pay.shop.example:{port}"),
        format!("http://www.shop.co.uk:{port}"),
        format!("http://pay.shop.co.uk:{port}"),
        format!("http://localhost:{port}"),
    ];
    let origins: Vec<&str> = origins.iter().map(String::as_str).collect();
    edge.write_publishable(&key, &origins).await;

    let clicks: Vec<String> = (0..5).map(|_| click_id()).collect();
    let tour = |order: &str, from: &str, to: &str, edge: &str, click: &str, rest: &str| {
        let asked = format!("order={order}&edge={edge}{rest}");
        let next = format!("http://{to}:{port}/thanks?{asked}");
        let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        visit(format!(
            "http://{from}:{port}/landing?click_id={click}&{asked}&next={next}"
        ))
    };

    // Two hosts of one shop, and the script from a third.
    let seen = tour(
        "A",
        "www.shop.example",
        "pay.shop.example",
        "go.shop.example",
        &clicks[0],
        "",
    )
    .await;
    assert_eq!(seen["cookie"], format!("aff_click_id={}", clicks[0]));
    assert_eq!(seen["storage"], serde_json::json!({}));
    assert_eq!(seen["globals"], serde_json::json!(["tributary"]));
    assert_eq!(seen["warned"], serde_json::json!([]));
    // A refused image breaks no page.
    assert_eq!(seen["image"], serde_json::json!(["load", 1]));

    // Below a public suffix of two labels.
    let seen = tour(
        "B",
        "www.shop.co.uk",
        "pay.shop.co.uk",
        "go.shop.co.uk",
        &clicks[1],
        "",
    )
    .await;
    assert_eq!(seen["cookie"], format!("aff_click_id={}", clicks[1]));

    // Another site's script.
    let seen = tour("C", "localhost", "localhost", "127.0.0.1", &clicks[2], "").await;
    assert_eq!(seen["cookie"], format!("aff_click_id={}", clicks[2]));

    // A shopper who opted out is not remembered.
    let seen = tour(
        "D",
        "localhost",
        "localhost",
        "127.0.0.1",
        &clicks[3],
        "&gpc=1",
    )
    .await;
    assert_eq!(
        (&seen["cookie"], &seen["storage"]),
        (&"".into(), &serde_json::json!({}))
    );

    // A page that is not the tenant's.
    let seen = tour("E", "127.0.0.1", "127.0.0.1", "localhost", &clicks[4], "").await;
    assert_eq!(seen["cookie"], format!("aff_click_id={}", clicks[4]));

    let mut events = edge.events::<Conversion>(Topic::Conversions, 8).await;
    events.sort_by(|a, b| a.order_id.cmp(&b.order_id));
    let orders: Vec<_> = events
        .iter()
        .map(|e| (e.order_id.as_str(), e.click_id.as_str()))
        .collect();
    let expected = [
        ("A-1", &*clicks[0]),
        ("A-2", &clicks[0]),
        ("B-1", &clicks[1]),
        ("B-2", &clicks[1]),
        ("C-1", &clicks[2]),
        ("C-2", &clicks[2]),
        ("D-1", &clicks[3]),
        ("D-2", ""),
    ];
    assert_eq!(orders, expected);
    assert!(events.iter().all(|e| e.source() == Source::Event));
}
