//! Load balancers in front of the edge: the PROXY protocol, forwarding headers, shares of
//! connections.

use std::net::IpAddr;

use crate::support::{Edge, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tributary_redirector::ForwardingHeader;
use tributary_shared::events::{Click, Topic};

const REQUEST: &str = "GET /r/demo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";

/// Sends bytes and returns what comes back until the connection ends.
async fn sent(edge: &Edge, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await; // it may end with a reset
    String::from_utf8_lossy(&answer).into_owned()
}

async fn addresses(edge: &Edge, count: usize) -> Vec<String> {
    let clicks: Vec<Click> = edge.events(Topic::Clicks, count).await;
    let mut addresses: Vec<String> = clicks
        .iter()
        .map(|click| match click.address.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(&click.address[..]).unwrap()).to_string(),
            _ => IpAddr::from(<[u8; 16]>::try_from(&click.address[..]).unwrap()).to_string(),
        })
        .collect();
    addresses.sort();
    addresses
}

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let edge = Edge::start_with(|config| config.proxy_protocol = true).await;
    let v1 = format!("PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n{REQUEST}\r\n");
    assert!(sent(&edge, v1.as_bytes()).await.starts_with("HTTP/1.1 302"));
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    let source: std::net::Ipv6Addr = "2001:db8::9".parse().unwrap();
    v2.extend(source.octets());
    v2.extend([0; 20]);
    // The client is not a trusted proxy: what it forwards is its own invention.
    v2.extend(format!("{REQUEST}X-Forwarded-For: 1.1.1.1\r\n\r\n").as_bytes());
    assert!(sent(&edge, &v2).await.starts_with("HTTP/1.1 302"));
    // The balancer's health check speaks for itself.
    let local = format!("PROXY UNKNOWN\r\n{REQUEST}\r\n");
    assert!(
        sent(&edge, local.as_bytes())
            .await
            .starts_with("HTTP/1.1 302")
    );
    assert_eq!(
        addresses(&edge, 3).await,
        ["127.0.0.1", "2001:db8::9", "203.0.113.9"]
    );

    // No header, or none that can be read: no answer.
    for bytes in [
        &format!("{REQUEST}\r\n"),
        "PROXY TCP4 nonsense\r\n\r\n",
        "PROXY ",
    ] {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{bytes:?}");
    }
    wait_until(async || {
        let (_, metrics) = edge.operations("/metrics").await;
        metrics.contains("tributary_connections_refused_total{reason=\"proxy_header\"}")
    })
    .await;
}

#[tokio::test]
async fn a_proxy_header_from_anybody_else_is_refused() {
    let edge = Edge::start_with(|config| {
        config.proxy_protocol = true;
        config.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    })
    .await;
    let forged = format!("PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n{REQUEST}\r\n");
    assert_eq!(sent(&edge, forged.as_bytes()).await, "");
}

#[tokio::test]
async fn without_proxy_protocol_its_header_is_no_request() {
    let edge = Edge::start().await;
    let header = format!("PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n{REQUEST}\r\n");
    assert!(
        sent(&edge, header.as_bytes())
            .await
            .starts_with("HTTP/1.1 400")
    );
}

#[tokio::test]
async fn the_header_that_proxies_write_is_the_one_that_is_read() {
    let edge = Edge::start_with(|config| {
        config.forwarding_header = ForwardingHeader::Forwarded;
    })
    .await;
    for headers in [
        "Forwarded: for=1.1.1.1, for=\"[2001:db8::9]:4711\";proto=https\r\n",
        "Forwarded: for=203.0.113.9\r\nX-Forwarded-For: 1.1.1.1\r\n",
        "X-Forwarded-For: 1.1.1.1\r\n",
    ] {
        let request = format!("{REQUEST}{headers}\r\n");
        assert!(
            sent(&edge, request.as_bytes())
                .await
                .starts_with("HTTP/1.1 302")
        );
    }
    assert_eq!(
        addresses(&edge, 3).await,
        ["127.0.0.1", "2001:db8::9", "203.0.113.9"]
    );
}

#[tokio::test]
async fn an_address_has_its_share_of_connections() {
    let edge = Edge::start_with(|config| {
        config.proxy_protocol = true;
        config.max_connections_per_address = 2;
    })
    .await;
    let hold = async |client: &str| {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        let header = format!("PROXY TCP4 {client} 10.0.0.1 4711 80\r\n");
        let request = format!("{header}GET /r/demo HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        let answered = stream.read_exact(&mut answer).await.is_ok();
        answered.then_some(stream)
    };
    let first = hold("203.0.113.9").await.unwrap();
    let _second = hold("203.0.113.9").await.unwrap();
    assert!(hold("203.0.113.9").await.is_none());
    let _other = hold("203.0.113.10").await.unwrap();
    // Trusted proxies speak for everybody.
    let mut trusted = Vec::new();
    for _ in 0..5 {
        trusted.push(hold("127.0.0.1").await.unwrap());
    }
    drop(first);
    wait_until(async || hold("203.0.113.9").await.is_some()).await;
}
