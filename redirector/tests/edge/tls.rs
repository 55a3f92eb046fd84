//! TLS over real sockets: certificates by name, renewed while it runs; HTTP/1.1 and HTTP/2.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, version,
};

use crate::support::{Edge, wait_until};

const GO: &str = "go.shop.example";
const CLICK: &str = "click.other.example";

/// Certificates in a folder, as an admin puts them there.
struct Folder {
    folder: TempDir,
    issued: Vec<CertificateDer<'static>>,
}

impl Folder {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            issued: Vec::new(),
        }
    }

    /// Issues a certificate for `name` into the folder `host`; returns its number.
    fn issue(&mut self, host: &str, name: &str) -> usize {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        self.write(host, &certificate.pem(), &key.serialize_pem());
        let der = CertificateDer::from_pem_slice(certificate.pem().as_bytes());
        self.issued.push(der.unwrap());
        self.issued.len() - 1
    }

    fn write(&self, host: &str, certificate: &str, key: &str) {
        let folder = self.folder.path().join(host);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cert.pem"), certificate).unwrap();
        fs::write(folder.join("key.pem"), key).unwrap();
    }

    /// A client that trusts everything issued here.
    fn client(
        &self,
        protocols: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for certificate in &self.issued {
            roots.add(certificate.clone()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        config
    }

    async fn start(&self) -> Edge {
        let folder = self.folder.path().to_owned();
        Edge::start_with(|config| {
            config.tls_dir = Some(folder);
            config.tls_reload_seconds = 1;
        })
        .await
    }

    /// Which certificate is served for a name.
    async fn served(&self, edge: &Edge, name: &str) -> io::Result<usize> {
        let stream = connect(edge, self.client(&[], &[&version::TLS13]), name).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        Ok(self.issued.iter().position(|c| *c == chain[0]).unwrap())
    }
}

async fn connect(
    edge: &Edge,
    config: ClientConfig,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(edge.https()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

fn request(host: &str, path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://{host}{path}"))
        .header("Host", host)
        .body(Empty::new())
        .unwrap()
}

#[tokio::test]
async fn each_host_has_its_certificate_and_others_are_refused() {
    let mut folder = Folder::new();
    let go = folder.issue(GO, GO);
    let click = folder.issue(CLICK, CLICK);
    let edge = folder.start().await;
    assert_eq!(folder.served(&edge, GO).await.unwrap(), go);
    assert_eq!(folder.served(&edge, CLICK).await.unwrap(), click);
    assert!(folder.served(&edge, "no.example").await.is_err());
    // A client that names nobody.
    let mut unnamed = folder.client(&[], &[&version::TLS13]);
    unnamed.enable_sni = false;
    assert!(connect(&edge, unnamed.clone(), GO).await.is_err());

    let default = folder.issue("default", "no.example");
    let wildcard = folder.issue("_.other.example", "*.other.example");
    wait_until(async || matches!(folder.served(&edge, "no.example").await, Ok(n) if n == default))
        .await;
    assert_eq!(
        folder.served(&edge, "a.other.example").await.unwrap(),
        wildcard
    );
    assert_eq!(folder.served(&edge, CLICK).await.unwrap(), click);
    let (_, metrics) = edge.operations("/metrics").await;
    assert!(
        metrics.contains("tributary_tls_certificate_expires_seconds{host=\"go.shop.example\"}")
    );
}

#[tokio::test]
async fn a_renewed_certificate_is_served_and_a_bad_one_is_not() {
    let mut folder = Folder::new();
    let first = folder.issue(GO, GO);
    let edge = folder.start().await;
    assert_eq!(folder.served(&edge, GO).await.unwrap(), first);

    // A connection that is open lives on.
    let open = connect(&edge, folder.client(&[b"h2"], &[&version::TLS13]), GO)
        .await
        .unwrap();
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(open))
        .await
        .unwrap();
    tokio::spawn(connection);
    let second = folder.issue(GO, GO);
    wait_until(async || folder.served(&edge, GO).await.unwrap() == second).await;
    let answer = requests.send_request(request(GO, "/r/demo")).await.unwrap();
    assert_eq!(answer.status(), 302);

    folder.write(
        GO,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "",
    );
    wait_until(async || {
        let (_, metrics) = edge.operations("/metrics").await;
        metrics.contains("tributary_tls_certificates_unusable 1")
    })
    .await;
    assert_eq!(folder.served(&edge, GO).await.unwrap(), second);
    let third = folder.issue(GO, GO);
    wait_until(async || folder.served(&edge, GO).await.unwrap() == third).await;
}

#[tokio::test]
async fn sighup_reads_certificates_at_once() {
    // Whatever else this process does, the signal doesn't end it.
    let _handled = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
    let mut folder = Folder::new();
    folder.issue(GO, GO);
    let path = folder.folder.path().to_owned();
    let edge = Edge::start_with(|config| {
        config.tls_dir = Some(path);
        config.tls_reload_seconds = 86_400;
    })
    .await;
    let second = folder.issue(GO, GO);
    wait_until(async || {
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
        folder.served(&edge, GO).await.unwrap() == second
    })
    .await;
}

#[tokio::test]
async fn both_protocols_are_served_and_sessions_resumed() {
    let mut folder = Folder::new();
    folder.issue(GO, GO);
    let edge = folder.start().await;
    for version in [&version::TLS12, &version::TLS13] {
        let config = folder.client(&[b"http/1.1"], &[version]);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = connect(&edge, config.clone(), GO).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
            let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let answer = requests.send_request(request(GO, "/r/demo")).await.unwrap();
            assert_eq!(answer.status(), 302);
        }
    }
    // Without a choice it is HTTP/1.1; of something else there is none.
    let stream = connect(&edge, folder.client(&[], &[&version::TLS13]), GO)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    let other = folder.client(&[b"spdy/3"], &[&version::TLS13]);
    assert!(connect(&edge, other, GO).await.is_err());

    let both = folder.client(&[b"h2", b"http/1.1"], &[&version::TLS13]);
    let stream = connect(&edge, both, GO).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let answers: Vec<_> = (0..250)
        .map(|_| requests.send_request(request(GO, "/r/demo")))
        .collect();
    for answer in answers {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 302);
        assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 2);
        assert!(
            answer
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .is_empty()
        );
    }
    drop(requests);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_unused_http2_connection_is_ended() {
    let mut folder = Folder::new();
    folder.issue(GO, GO);
    let path = folder.folder.path().to_owned();
    let edge = Edge::start_with(|config| {
        config.tls_dir = Some(path);
        config.header_timeout_ms = 500;
    })
    .await;
    let config = folder.client(&[b"h2"], &[&version::TLS13]);
    let stream = connect(&edge, config.clone(), GO).await.unwrap();
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let answer = requests.send_request(request(GO, "/r/demo")).await.unwrap();
        assert_eq!(answer.status(), 302); // in use for longer than the timeout
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), connection).await;
    ended.expect("it is ended").unwrap().unwrap();

    // Nor may a client take its time over the beginning.
    let mut stream = connect(&edge, config, GO).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn a_plain_request_is_no_handshake() {
    let mut folder = Folder::new();
    folder.issue(GO, GO);
    let edge = folder.start().await;
    let mut stream = TcpStream::connect(edge.https()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(folder.served(&edge, GO).await.unwrap(), 0);
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Sends frames behind the beginning of an HTTP/2 connection, and returns whether the server ended it.
async fn ends(edge: &Edge, folder: &Folder, frames: &[u8]) -> bool {
    let config = folder.client(&[b"h2"], &[&version::TLS13]);
    let mut stream = connect(edge, config, GO).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frames);
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .is_ok()
}

#[tokio::test]
async fn http2_floods_end_the_connection_and_nothing_else() {
    let mut folder = Folder::new();
    folder.issue(GO, GO);
    let edge = folder.start().await;
    // GET, https, /, and an authority, in HPACK's static table and one literal.
    let mut headers = vec![0x82, 0x87, 0x84, 0x41, 3];
    headers.extend(b"a.b");
    let mut rapid_reset = Vec::new();
    for n in 0..500 {
        rapid_reset.extend(frame(1, 5, 2 * n + 1, &headers));
        rapid_reset.extend(frame(3, 0, 2 * n + 1, &[0, 0, 0, 8]));
    }
    assert!(ends(&edge, &folder, &rapid_reset).await);
    let mut continuation = frame(1, 1, 1, &headers);
    for _ in 0..20_000 {
        continuation.extend(frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']));
    }
    assert!(ends(&edge, &folder, &continuation).await);
    assert!(ends(&edge, &folder, &frame(1, 5, 2, &headers)).await); // an even stream
    assert!(ends(&edge, &folder, &frame(0, 0, 0, &[0; 20_000])).await); // too large
    assert!(ends(&edge, &folder, &frame(8, 0, 0, &[0; 4])).await); // no window
    assert!(ends(&edge, &folder, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await);

    // Too many header fields are an answer, not the end.
    let config = folder.client(&[b"h2"], &[&version::TLS13]);
    let stream = connect(&edge, config, GO).await.unwrap();
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut large = request(GO, "/r/demo");
    let long = "x".repeat(20_000).parse().unwrap();
    large.headers_mut().insert("x-long", long);
    if let Ok(answer) = requests.send_request(large).await {
        assert_eq!(answer.status(), 431);
    }
    let answer = requests.send_request(request(GO, "/r/demo")).await.unwrap();
    assert_eq!(answer.status(), 302);
}
