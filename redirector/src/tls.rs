//! TLS: a certificate for each host from a folder, chosen by the name that the client asks for,
//! renewed without a restart.
//!
//! ```text
//! TLS_DIR/go.shop.example/cert.pem, key.pem    that host's; the chain, leaf first, and its key
//! TLS_DIR/_.shop.example/cert.pem, key.pem     every host one label below shop.example
//! TLS_DIR/default/cert.pem, key.pem            for any other name, and for clients that name none
//! ```
//!
//! Without `default`, a handshake for any other name is refused. The folder is looked through every
//! few seconds (`TLS_RELOAD_SECONDS`) and at SIGHUP. A pair that can't be used (half written, a key
//! that isn't the certificate's, another host's, expired) never replaces one that can: the old one is
//! served on, and an error says what to do.
//!
//! The cryptography is ring's: it builds in seconds with a C compiler alone, where aws-lc-rs takes
//! minutes. What it lacks, post-quantum key exchange, is one word in the workspace's `Cargo.toml` away.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::links::is_host;
use tributary_shared::names;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// How long a client may take over the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest certificate chain or key file, in bytes.
const MAX_PEM_BYTES: u64 = 256 * 1024;
/// Hosts that may have a certificate; more folders are an error.
const MAX_HOSTS: usize = 10_000;
/// The folder for every other name.
const DEFAULT: &str = "default";
/// What a wildcard's folder begins with.
const WILDCARD: &str = "_.";
/// What clients are offered, the better one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
const HTTP2: &[u8] = b"h2";

/// Why TLS can't be served at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the certificates' folder {0}: {1} (see TLS_DIR)")]
    Folder(PathBuf, io::Error),
    #[error(
        "no usable certificate in {0}: put cert.pem and key.pem into {0}/{{host}}/ or {0}/default/"
    )]
    NoCertificate(PathBuf),
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Why one pair of files is not used.
#[derive(Debug, thiserror::Error)]
enum BadPair {
    #[error("{0} can't be read: {1}; is it there, and may this process read it?")]
    Unreadable(&'static str, io::Error),
    #[error("{0} is longer than {MAX_PEM_BYTES} bytes; is it the right file?")]
    TooLong(&'static str),
    #[error("cert.pem holds no certificate in PEM form")]
    NoCertificate,
    #[error("key.pem holds no private key in PEM form (an encrypted one can't be used)")]
    NoKey,
    #[error("certificate and key don't fit: {0}; write both files of one issue")]
    Mismatch(rustls::Error),
    #[error("the certificate can't be read: {0}")]
    Certificate(String),
    #[error("the certificate is not for the host that its folder is named after: {0}")]
    OtherHost(rustls::Error),
    #[error("the certificate has expired; renew it")]
    Expired,
    #[error(
        "the folder's name is no host; name it go.shop.example, _.shop.example (for a wildcard) or default"
    )]
    Name,
}

/// A handshake that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the handshake took longer than {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("the handshake failed: {0}")]
    Failed(#[from] io::Error),
}

/// Does handshakes. Cheap to clone: runtimes share one configuration, and with it the keys of session
/// tickets, so a client may resume its session on any core.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
}

impl Tls {
    /// Reads the certificates of `folder`. Those that can't be used are logged and left out.
    ///
    /// # Errors
    /// When none can be used.
    pub(crate) fn new(folder: &Path, clock: Clock) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let certificates = Arc::new(Certificates {
            folder: folder.to_owned(),
            provider: Arc::clone(&provider),
            clock,
            table: RwLock::default(),
            seen: Mutex::default(),
        });
        certificates
            .reload()
            .map_err(|error| TlsError::Folder(folder.to_owned(), error))?;
        if certificates.table().is_empty() {
            return Err(TlsError::NoCertificate(folder.to_owned()));
        }
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        // Tickets, whose keys change every six hours; one a handshake is enough for a shopper.
        config.ticketer = ring::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        // Early data can be replayed, and a replayed click would count.
        config.max_early_data_size = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificates,
        })
    }

    /// Does the handshake on a new connection.
    ///
    /// # Errors
    /// When the client fails or takes too long; the stream is gone then.
    pub(crate) async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await;
        let (outcome, result) = match result {
            Ok(Ok(stream)) => ("completed", Ok(stream)),
            Ok(Err(error)) => ("failed", Err(HandshakeError::Failed(error))),
            Err(_) => ("timeout", Err(HandshakeError::Timeout)),
        };
        metrics::counter!(names::TLS_HANDSHAKES, "outcome" => outcome).increment(1);
        result
    }

    /// Keeps the certificates up to date until `shutdown`.
    pub(crate) async fn keep_current(self, every: Duration, shutdown: CancellationToken) {
        let hangup = signal(SignalKind::hangup());
        let mut hangup = hangup
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP can't be handled"))
            .ok();
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            let anew = tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(every) => false,
                _ = asked => true,
            };
            let certificates = Arc::clone(&self.certificates);
            let reload = move || {
                if anew {
                    certificates.forget();
                }
                certificates.reload()
            };
            match tokio::task::spawn_blocking(reload).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let folder = self.certificates.folder.display();
                    tracing::error!(%error, %folder, "the certificates' folder can't be read; those in use stay (see TLS_DIR)");
                }
                Err(error) => tracing::error!(%error, "certificates were not read again"),
            }
        }
    }
}

/// Whether a client chose HTTP/2 in its handshake.
pub(crate) fn speaks_http2<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

/// A certificate in use.
#[derive(Debug, Clone)]
struct Entry {
    key: Arc<CertifiedKey>,
    /// Seconds since 1970.
    expires_at_s: i64,
}

/// By the name of the folder.
type Table = HashMap<String, Entry>;

/// What tells a file that was replaced: device, inode, size, change of contents and of anything.
type FileStamp = (u64, u64, u64, (i64, i64), (i64, i64));
/// Of certificate and key; none where there is no file.
type PairStamp = [Option<FileStamp>; 2];

/// The certificates of a folder.
struct Certificates {
    folder: PathBuf,
    provider: Arc<CryptoProvider>,
    clock: Clock,
    /// In use. Held for the length of a look-up only.
    table: RwLock<Arc<Table>>,
    /// What each host's files looked like when they were read last, and whether they were usable.
    seen: Mutex<HashMap<String, (PairStamp, bool)>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates").field(&self.folder).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let entry = choose(&self.table(), hello.server_name())?.key.clone();
        Some(entry)
    }
}

/// The certificate for a name: the host's own, its wildcard's, the default one.
fn choose<'t>(table: &'t Table, name: Option<&str>) -> Option<&'t Entry> {
    let for_name = name.and_then(|name| {
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        table.get(name.as_ref()).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            table.get(&format!("{WILDCARD}{parent}"))
        })
    });
    for_name.or_else(|| table.get(DEFAULT))
}

impl Certificates {
    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads every pair at the next [`Certificates::reload`], changed or not.
    fn forget(&self) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Reads the pairs that changed since the last time. Blocks.
    ///
    /// # Errors
    /// When the folder itself can't be read; then nothing has changed.
    fn reload(&self) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.table();
        let mut new = Table::new();
        let mut looked_at = HashMap::new();
        let mut unusable = 0_u32;
        for host in hosts(&self.folder)? {
            let folder = self.folder.join(&host);
            // The stamp is taken first: files that change meanwhile are read again next time.
            let stamp = ["cert.pem", "key.pem"].map(|file| stamp(&folder.join(file)));
            let in_use = old.get(&host);
            let usable = match seen.get(&host) {
                Some((known, usable)) if *known == stamp => {
                    if let Some(in_use) = in_use {
                        new.insert(host.clone(), in_use.clone());
                    }
                    *usable
                }
                _ => self.take_in(&host, &folder, in_use, &mut new),
            };
            unusable += u32::from(!usable);
            looked_at.insert(host, (stamp, usable));
        }
        for host in old.keys().filter(|host| !new.contains_key(*host)) {
            tracing::warn!(%host, "certificate was taken away");
            gauge(host, 0);
        }
        metrics::gauge!(names::TLS_CERTIFICATES_UNUSABLE).set(unusable);
        *seen = looked_at;
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }

    /// Reads a pair into `table`, or keeps the one in use. Whether it was usable.
    fn take_in(
        &self,
        host: &str,
        folder: &Path,
        in_use: Option<&Entry>,
        table: &mut Table,
    ) -> bool {
        let read = self.read(host, folder, in_use);
        let usable = read.is_ok();
        match (read, in_use) {
            (Ok(entry), _) => {
                tracing::info!(%host, expires_at_s = entry.expires_at_s, "certificate is in use");
                gauge(host, entry.expires_at_s);
                table.insert(host.to_owned(), entry);
            }
            (Err(error), Some(in_use)) => {
                let folder = folder.display();
                tracing::error!(%error, %folder, "a new certificate can't be used; the one before it is served on");
                table.insert(host.to_owned(), in_use.clone());
            }
            (Err(error), None) => {
                let folder = folder.display();
                tracing::error!(%error, %folder, "a certificate can't be used, and none is served for this host");
            }
        }
        usable
    }

    fn read(&self, host: &str, folder: &Path, in_use: Option<&Entry>) -> Result<Entry, BadPair> {
        let named = match host.strip_prefix(WILDCARD) {
            _ if host == DEFAULT => None,
            Some(parent) if is_host(parent) => Some(format!("any.{parent}")),
            None if is_host(host) => Some(host.to_owned()),
            _ => return Err(BadPair::Name),
        };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&contents(folder, "cert.pem")?)
                .collect::<Result<_, _>>()
                .map_err(|_| BadPair::NoCertificate)?;
        let leaf = chain.first().ok_or(BadPair::NoCertificate)?.clone();
        let key = PrivateKeyDer::from_pem_slice(&contents(folder, "key.pem")?)
            .map_err(|_| BadPair::NoKey)?;
        let key = CertifiedKey::from_der(chain, key, &self.provider).map_err(BadPair::Mismatch)?;
        let unreadable = |error: &dyn std::fmt::Display| BadPair::Certificate(error.to_string());
        if let Some(named) = named {
            let certificate = ParsedCertificate::try_from(&leaf).map_err(|e| unreadable(&e))?;
            let name = ServerName::try_from(named).map_err(|_| BadPair::Name)?;
            verify_server_name(&certificate, &name).map_err(BadPair::OtherHost)?;
        }
        let expires_at_s = expiry(&leaf).map_err(|e| unreadable(&e))?;
        let now = self.clock.now().timestamp();
        if expires_at_s <= now {
            if in_use.is_some_and(|in_use| in_use.expires_at_s > now) {
                return Err(BadPair::Expired);
            }
            // Still better than another host's, or none: clients say what is wrong with it.
            tracing::error!(%host, "the certificate has expired; renew it");
        }
        Ok(Entry {
            key: Arc::new(key),
            expires_at_s,
        })
    }
}

fn gauge(host: &str, expires_at_s: i64) {
    metrics::gauge!(names::TLS_CERTIFICATE_EXPIRES, "host" => host.to_owned())
        .set(expires_at_s as f64);
}

/// The names of the folders, sorted. Hidden ones are not ours (Kubernetes keeps `..data` beside).
fn hosts(folder: &Path) -> io::Result<Vec<String>> {
    let mut hosts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_dir() {
            hosts.push(name);
        }
        if hosts.len() > MAX_HOSTS {
            let message = format!("it holds more than {MAX_HOSTS} folders");
            return Err(io::Error::other(message));
        }
    }
    hosts.sort_unstable();
    Ok(hosts)
}

fn stamp(file: &Path) -> Option<FileStamp> {
    let of = |m: Metadata| {
        (
            m.dev(),
            m.ino(),
            m.size(),
            (m.mtime(), m.mtime_nsec()),
            (m.ctime(), m.ctime_nsec()),
        )
    };
    fs::metadata(file).ok().map(of)
}

fn contents(folder: &Path, file: &'static str) -> Result<Vec<u8>, BadPair> {
    let mut contents = Vec::new();
    let read = fs::File::open(folder.join(file))
        .and_then(|open| open.take(MAX_PEM_BYTES + 1).read_to_end(&mut contents))
        .map_err(|error| BadPair::Unreadable(file, error))?;
    if read as u64 > MAX_PEM_BYTES {
        return Err(BadPair::TooLong(file));
    }
    Ok(contents)
}

/// When a certificate expires, in seconds since 1970.
fn expiry(certificate: &CertificateDer<'_>) -> Result<i64, x509_cert::der::Error> {
    let certificate = Certificate::from_der(certificate)?;
    let validity = certificate.tbs_certificate().validity();
    let seconds = validity.not_after.to_unix_duration().as_secs();
    Ok(i64::try_from(seconds).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};
    use tempfile::TempDir;

    const NOW: i64 = 1_800_000_000;

    fn clock() -> Clock {
        Clock::manual(DateTime::<Utc>::from_timestamp(NOW, 0).unwrap())
    }

    /// A certificate for `names` with its key, as PEM, that expires at `expires_at_s`.
    fn issue(names: &[&str], expires_at_s: i64) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        let since_1970 = Duration::from_secs(expires_at_s.try_into().unwrap());
        parameters.not_after = (std::time::UNIX_EPOCH + since_1970).into();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn put(folder: &TempDir, host: &str, (certificate, key): &(String, String)) {
        let folder = folder.path().join(host);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cert.pem"), certificate).unwrap();
        fs::write(folder.join("key.pem"), key).unwrap();
    }

    fn chosen(tls: &Tls, name: Option<&str>) -> Option<i64> {
        choose(&tls.certificates.table(), name).map(|entry| entry.expires_at_s - NOW)
    }

    fn reload(tls: &Tls) {
        tls.certificates.reload().unwrap();
    }

    #[test]
    fn a_certificate_is_chosen_by_name() {
        let folder = TempDir::new().unwrap();
        put(
            &folder,
            "go.shop.example",
            &issue(&["go.shop.example"], NOW + 1),
        );
        put(
            &folder,
            "_.shop.example",
            &issue(&["*.shop.example"], NOW + 2),
        );
        let tls = Tls::new(folder.path(), clock()).unwrap();
        let of = |name| chosen(&tls, name);
        assert_eq!(of(Some("go.shop.example")), Some(1));
        assert_eq!(of(Some("GO.shop.EXAMPLE")), Some(1));
        assert_eq!(of(Some("my.shop.example")), Some(2));
        assert_eq!(of(Some("a.b.shop.example")), None);
        assert_eq!(of(Some("shop.example")), None);
        assert_eq!(of(Some("_.shop.example")), Some(2));
        assert_eq!(of(None), None);

        put(&folder, "default", &issue(&["whatever.example"], NOW + 3));
        reload(&tls);
        assert_eq!(of(Some("go.shop.example")), Some(1));
        assert_eq!(of(Some("shop.example")), Some(3));
        assert_eq!(of(None), Some(3));

        fs::remove_dir_all(folder.path().join("go.shop.example")).unwrap();
        reload(&tls);
        assert_eq!(of(Some("go.shop.example")), Some(2));
    }

    #[test]
    fn what_cannot_be_used_never_replaces_what_can() {
        let host = "go.shop.example";
        let folder = TempDir::new().unwrap();
        let good = issue(&[host], NOW + 10);
        put(&folder, host, &good);
        let tls = Tls::new(folder.path(), clock()).unwrap();
        let next = issue(&[host], NOW + 20);
        let bad = [
            (next.0.clone(), good.1.clone()), // the key was not written yet
            (String::new(), next.1.clone()),
            ("nonsense".to_owned(), next.1.clone()),
            (next.0.clone(), String::new()),
            (next.0.replace('M', "N"), next.1.clone()),
            (next.1.clone(), next.0.clone()),
            issue(&["other.example"], NOW + 30),
            issue(&["*.example"], NOW + 30),
            issue(&[host], NOW - 1),
            ("x".repeat(300_000), next.1.clone()),
        ];
        for pair in &bad {
            put(&folder, host, pair);
            reload(&tls);
            assert_eq!(chosen(&tls, Some(host)), Some(10), "{pair:?}");
            // And is not forgotten by looking again.
            tls.certificates.forget();
            reload(&tls);
            assert_eq!(chosen(&tls, Some(host)), Some(10), "{pair:?}");
        }
        fs::remove_file(folder.path().join(host).join("key.pem")).unwrap();
        reload(&tls);
        assert_eq!(chosen(&tls, Some(host)), Some(10));
        put(&folder, host, &next);
        reload(&tls);
        assert_eq!(chosen(&tls, Some(host)), Some(20));

        // A folder that is gone for a moment takes nothing away.
        let path = folder.path().to_owned();
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        assert!(tls.certificates.reload().is_err());
        assert_eq!(chosen(&tls, Some(host)), Some(20));
        fs::rename(&aside, &path).unwrap();
    }

    #[test]
    fn without_any_certificate_it_does_not_start() {
        let folder = TempDir::new().unwrap();
        let refused = |folder: &Path| Tls::new(folder, clock()).err().unwrap();
        assert!(matches!(
            refused(&folder.path().join("x")),
            TlsError::Folder(..)
        ));
        assert!(matches!(refused(folder.path()), TlsError::NoCertificate(_)));
        put(&folder, "no_host", &issue(&["a.b"], NOW + 1));
        put(&folder, "..data", &issue(&["a.b"], NOW + 1));
        put(&folder, "_.b", &issue(&["*.b"], NOW + 1));
        assert!(matches!(refused(folder.path()), TlsError::NoCertificate(_)));
        // One that has expired is better than none.
        put(&folder, "a.example", &issue(&["a.example"], NOW - 1));
        let tls = Tls::new(folder.path(), clock()).unwrap();
        assert_eq!(chosen(&tls, Some("a.example")), Some(-1));
    }
}
