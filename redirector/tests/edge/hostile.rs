//! Clients that mean harm, or don't know what they do: whatever they send, they get a proper answer
//! or a closed connection, and the next shopper is served.

use std::time::{Duration, Instant};

use crate::support::{Edge, TENANT, TOKEN, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tributary_shared::events::{Click, Topic};

/// How long a client may be silent in these tests.
const HEADER_TIMEOUT: Duration = Duration::from_millis(400);
/// How long the server may take to end a connection.
const PATIENCE: Duration = Duration::from_secs(10);

async fn impatient() -> Edge {
    impatient_with(1_000).await
}

async fn impatient_with(max_connections: u32) -> Edge {
    Edge::start_with(|config| {
        config.header_timeout_ms = HEADER_TIMEOUT.as_millis().try_into().unwrap();
        config.max_connections = max_connections;
    })
    .await
}

/// Sends bytes and returns all that comes back until the server ends the connection; fails when it
/// doesn't.
async fn sent(edge: &Edge, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    let _ = stream.write_all(bytes).await; // it may be refused halfway
    until_closed(&mut stream).await
}

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _reset_or_not = ended.expect("the server ends the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The statuses of the answers in a stream.
fn statuses(answers: &str) -> Vec<&str> {
    answers
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| &answer[..3])
        .collect()
}

/// The status of a postback with these parameters.
async fn postback(edge: &Edge, parameters: &[(&str, &str)]) -> u16 {
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish();
    let request = edge.post("/postback").body(form);
    let form_type = "application/x-www-form-urlencoded";
    let answer = request.header("Content-Type", form_type).send().await;
    answer.unwrap().status().as_u16()
}

async fn still_serves(edge: &Edge) {
    assert_eq!(edge.get("/r/demo").send().await.unwrap().status(), 302);
}

#[tokio::test]
async fn slow_clients_are_ended() {
    let edge = impatient().await;
    // A header that arrives byte by byte: the time counts from its beginning.
    let began = Instant::now();
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    for byte in "GET /r/demo HTTP/1.1\r\nHost: x\r\nX: "
        .bytes()
        .cycle()
        .take(200)
    {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(statuses(&until_closed(&mut stream).await), [""; 0]);
    assert!(began.elapsed() < PATIENCE);

    // Nothing at all, half a line, and a connection that is kept after an answer.
    let kept = "GET /r/demo HTTP/1.1\r\nHost: x\r\n\r\n";
    for (bytes, answers) in [("", 0), ("GET /r/de", 0), (kept, 1)] {
        let began = Instant::now();
        let answer = sent(&edge, bytes.as_bytes()).await;
        assert_eq!(statuses(&answer).len(), answers, "{bytes:?}");
        assert!(began.elapsed() >= HEADER_TIMEOUT - Duration::from_millis(50));
    }

    // A body that doesn't come gets an answer in the end.
    let slow_body = "POST /postback HTTP/1.1\r\nHost: x\r\n\
        Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ntok";
    let answer = sent(&edge, slow_body.as_bytes()).await;
    assert!(statuses(&answer)[0].starts_with('4'), "{answer}");
    still_serves(&edge).await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let edge = impatient().await;
    let request =
        |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let long = "a".repeat(20_000);
    for too_large in [
        request("/r/demo", &format!("X: {long}\r\n")),
        request("/r/demo", &format!("{long}: x\r\n")),
        request("/r/demo", &"X: y\r\n".repeat(65)),
        request("/r/demo", &format!("Cookie: {long}\r\n")),
        request(&format!("/r/{long}"), ""),
        request(&format!("/r/demo?sub1={long}"), ""),
        format!("GET /r/demo{}", "a".repeat(1_000_000)),
        format!("{long} /r/demo HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let answer = sent(&edge, too_large.as_bytes()).await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(matches!(status, "431" | "414" | "400"), "{answer:?}");
    }
    let body = format!(
        "POST /postback HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: 20000\r\n\r\n{long}"
    );
    let answer = sent(&edge, body.as_bytes()).await;
    assert!(statuses(&answer)[0].starts_with('4'), "{answer}");
    still_serves(&edge).await;
}

/// Two readers that see different ends of a request can be made to mix up two clients. What could be
/// read in two ways gets one refusal, and nothing behind it an answer.
#[tokio::test]
async fn a_request_cannot_hide_in_another() {
    let edge = impatient().await;
    let hidden = "GET /r/hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = "POST /postback HTTP/1.1\r\nHost: x\r\n";
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5_0\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        " Content-Length: 5\r\n",
        "X: y\r\n Content-Length: 5\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Host: y\r\n",
        "X: y\rContent-Length: 5\r\n",
        "X\0: y\r\n",
        "X: a\0b\r\n",
        "X: a\x01b\r\n",
        "X: a\x7fb\r\n",
        "X(y): z\r\n",
        "X\r\n",
        ": y\r\n",
    ] {
        let answer = sent(
            &edge,
            format!("{post}{head}\r\n0\r\n\r\n{hidden}").as_bytes(),
        )
        .await;
        // With both lengths, chunked counts, as the RFC wants it, and the connection ends as well.
        let expected = if head.starts_with("Content-Length: 5\r\nT")
            || head.ends_with("d\r\nContent-Length: 5\r\n")
        {
            "401"
        } else {
            "400"
        };
        assert_eq!(statuses(&answer), [expected], "{head:?}: {answer}");
    }
    for (request, why) in [
        ("GET /r/demo HTTP/1.1\r\n\r\n", "no host"),
        ("GET /r/demo HTTP/1.1\r\nHost: a b\r\n\r\n", "no host name"),
        (
            "GET /r/demo HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "two hosts",
        ),
        ("GET  /r/demo HTTP/1.1\r\nHost: x\r\n\r\n", "two spaces"),
        ("GET /r/demo  HTTP/1.1\r\nHost: x\r\n\r\n", "two spaces"),
        ("GET /r/demo HTTP/1.2\r\nHost: x\r\n\r\n", "no such version"),
        ("GET /r/demo HTTP/2.0\r\nHost: x\r\n\r\n", "not in this way"),
        ("GET /r/demo http/1.1\r\nHost: x\r\n\r\n", "small letters"),
        ("GET /r/demo\r\nHost: x\r\n\r\n", "HTTP/0.9"),
        ("GET /r/demo\r\n\r\n", "HTTP/0.9"),
        ("G\0T /r/demo HTTP/1.1\r\nHost: x\r\n\r\n", "no method"),
        ("GET /r/de\0mo HTTP/1.1\r\nHost: x\r\n\r\n", "no path"),
        ("GET r/demo HTTP/1.1\r\nHost: x\r\n\r\n", "no path"),
        (
            "GET /r/demo?sub1=\"<> HTTP/1.1\r\nHost: x\r\n\r\n",
            "no query",
        ),
        (
            "\x16\x03\x01\x02\0\x01\0\x01\u{7f}\x03\x03\r\n\r\n",
            "TLS on the plain port",
        ),
    ] {
        let answer = sent(&edge, format!("{request}{hidden}").as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{why}: {request:?}: {answer}");
    }
    // HTTP/2 is for those who chose it in a handshake: its beginning ends a plain connection.
    let answer = sent(&edge, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(answer, "");
    still_serves(&edge).await;
}

#[tokio::test]
async fn odd_but_lawful_requests_are_served() {
    let edge = impatient().await;
    let close = "Host: x\r\nConnection: close\r\n\r\n";
    for (request, status) in [
        (format!("GET http://x/r/demo HTTP/1.1\r\n{close}"), "302"),
        (format!("\r\nGET /r/demo HTTP/1.1\r\n{close}"), "302"),
        (
            "GET /r/demo HTTP/1.1\nHost: x\nConnection: close\n\n".to_owned(),
            "302",
        ),
        (format!("GET /r/demo HTTP/1.1\r\nX:\r\n{close}"), "302"),
        (
            format!("GET /r/demo?%zz&sub1=%ff%fe&sub2=% HTTP/1.1\r\n{close}"),
            "302",
        ),
        (
            format!("GET /r/demo?a=b?c=d&sub1='{{}}|\\^`é HTTP/1.1\r\n{close}"),
            "302",
        ),
        (format!("GET /r/demo%00 HTTP/1.1\r\n{close}"), "404"),
        (format!("GET /r/..%2f..%2fetc HTTP/1.1\r\n{close}"), "404"),
        (format!("GET /r/../r/demo HTTP/1.1\r\n{close}"), "404"),
        (format!("GET /r//evil.example HTTP/1.1\r\n{close}"), "404"),
        (
            format!("GET //evil.example/r/demo HTTP/1.1\r\n{close}"),
            "404",
        ),
        (format!("GET /\\evil.example HTTP/1.1\r\n{close}"), "404"),
        (
            format!("GET /r/\\\\evil.example HTTP/1.1\r\n{close}"),
            "404",
        ),
        (
            format!("GET /r/https://evil.example HTTP/1.1\r\n{close}"),
            "404",
        ),
        (
            format!("GET /%2f%2fevil.example HTTP/1.1\r\n{close}"),
            "404",
        ),
        (format!("GET * HTTP/1.1\r\n{close}"), "404"),
        (format!("OPTIONS * HTTP/1.1\r\n{close}"), "404"),
        (
            format!("CONNECT evil.example:443 HTTP/1.1\r\n{close}"),
            "404",
        ),
        (format!("TRACE /r/demo HTTP/1.1\r\n{close}"), "405"),
        (format!("BREW /r/demo HTTP/1.1\r\n{close}"), "405"),
    ] {
        let answer = sent(&edge, request.as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{request:?}: {answer}");
        assert!(!answer.contains("evil"), "{request:?}: {answer}");
    }
    // HTTP/1.0 needs no host, and its connection ends with the answer.
    let answer = sent(&edge, b"GET /r/demo HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 302"), "{answer}");
    // Bytes that are no text.
    let bytes = b"GET /r/\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = sent(&edge, bytes).await;
    assert!(matches!(statuses(&answer)[..], ["400" | "404"]), "{answer}");
}

/// What a click brings along ends in the destination's query, and nowhere else.
#[tokio::test]
async fn a_sub_id_cannot_write_headers_or_change_the_host() {
    let edge = impatient().await;
    for sub in [
        "%0d%0aSet-Cookie:%20evil=1",
        "%0aLocation:%20https://evil.example",
        "%E5%98%8A%E5%98%8DSet-Cookie:%20evil=1", // bytes that once became CR LF
        "%00%01%7f",
        "&url=https://evil.example",
        "@evil.example",
        "%23%2f%2fevil.example",
        "{click_id}",
        "%7Bsub2%7D",
    ] {
        let answer = edge
            .get(&format!("/r/demo?sub1={sub}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 302, "{sub}");
        assert_eq!(header(&answer, "set-cookie").len(), 2, "{sub}");
        let location = header(&answer, "location");
        assert_eq!(location.len(), 1, "{sub}");
        let rest = location[0]
            .strip_prefix("https://shop.example/p?c=")
            .expect(sub);
        assert!(!rest.contains(['#', '@', '/', ' ', '{']), "{sub}: {rest}");
        assert_eq!(rest.matches('&').count(), 1, "{sub}: {rest}");
    }
}

#[tokio::test]
async fn forged_names_are_not_believed() {
    let edge = Edge::start_with(|config| {
        config.header_timeout_ms = HEADER_TIMEOUT.as_millis().try_into().unwrap();
        config.trusted_proxies.clear();
    })
    .await;
    let forged = "A".repeat(48);
    let answer = edge
        .get("/r/demo")
        .header(
            "Cookie",
            format!("aff_click={forged}; aff_visitor=../../etc; aff_visitor=x"),
        )
        .header("X-Forwarded-For", "203.0.113.9")
        .header("Forwarded", "for=203.0.113.9")
        .header("X-Real-IP", "203.0.113.9")
        .header("True-Client-IP", "203.0.113.9")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 302);
    assert!(!format!("{:?}", answer.headers()).contains(&forged));
    for click_id in [&forged[..], "{click_id}", "%00", "' OR 1=1 --", "null"] {
        let answer = postback(
            &edge,
            &[
                ("token", TOKEN),
                ("order_id", "1"),
                ("amount", "1.00"),
                ("currency", "USD"),
                ("click_id", click_id),
            ],
        )
        .await;
        assert_eq!(answer, 400, "{click_id}");
    }
    for token in [
        "",
        "trp_",
        "*",
        "trp_test\0",
        "trp_test ",
        &"t".repeat(10_000),
    ] {
        assert_eq!(postback(&edge, &[("token", token)]).await, 401, "{token}");
    }
    let click: Click = edge.events(Topic::Clicks, 1).await.remove(0);
    assert_eq!(click.address.as_ref(), [127, 0, 0, 1]);
    assert_eq!(click.visitor_id.len(), 16);
    assert_eq!(click.tenant_id, TENANT.to_wire());
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_answered_in_turn() {
    let edge = impatient().await;
    let mut requests = "GET /r/demo HTTP/1.1\r\nHost: x\r\n\r\n".repeat(999);
    requests.push_str("HEAD /r/demo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answers = sent(&edge, requests.as_bytes()).await;
    assert_eq!(statuses(&answers), ["302"; 1000]);
    edge.events::<Click>(Topic::Clicks, 999).await;
}

#[tokio::test]
async fn past_the_limit_connections_wait_for_their_turn() {
    let edge = impatient_with(2).await;
    let request = b"GET /r/demo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        stream.write_all(b"GET /r/demo HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut waiting = TcpStream::connect(edge.address()).await.unwrap();
    waiting.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    let early = timeout(HEADER_TIMEOUT / 4, waiting.read_exact(&mut answer)).await;
    assert!(early.is_err(), "it has to wait");
    drop(held.pop());
    let served = timeout(HEADER_TIMEOUT * 5, waiting.read_exact(&mut answer)).await;
    served.expect("it is served").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 302");
    drop((held, waiting));
    still_serves(&edge).await;
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing_behind() {
    // A place that isn't given back would soon be missing.
    let edge = impatient_with(5).await;
    let whole = b"POST /postback HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\ntoken=trp";
    for end in (0..whole.len()).step_by(7) {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        stream.write_all(&whole[..end]).await.unwrap();
        stream.set_zero_linger().unwrap(); // ends with a reset
        drop(stream);
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        stream.write_all(&whole[..end]).await.unwrap();
        drop(stream);
    }
    for _ in 0..20 {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        let request = b"GET /r/demo HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
    }
    still_serves(&edge).await;
}
