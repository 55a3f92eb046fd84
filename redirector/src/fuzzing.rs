//! What must hold of any input from outside, one function for each fuzz target in `redirector/fuzz/`: it
//! panics where something doesn't. Compiled for the fuzzers and for tests, which run the checked-in
//! corpus through the same functions.
//!
//! Inputs of several parts are lines, so that a corpus can be read and written by hand.

#![expect(clippy::expect_used, reason = "a failure is what is looked for")]

mod webhooks;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::ready;
use std::iter::once;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use form_urlencoded::parse as pairs;
use http_body_util::Full;
use httparse::Status;
use hyper::body::{Body as _, Incoming};
use hyper::header::{COOKIE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tributary_shared::click_token::{self, ClickToken};
use tributary_shared::events::Outcome;
use tributary_shared::ids::{LinkId, TenantId};
use tributary_shared::links::Link;
use tributary_shared::secrets::KeyRing;
use tributary_shared::template::{MAX_RENDERED_BYTES, Template, Value};
use url::Url;
use uuid::Uuid;

use crate::client::{self, ForwardingHeader, TrustedProxies};
use crate::cookies::{CookieDomain, CookieWriter, click_id, visitor};
use crate::destination::{MAX_LOCATION_BYTES, location};
use crate::found::Found;
use crate::journal::record::{self, Record, Records, Seed};
use crate::journal::segment;
use crate::lane::read_head;
use crate::link::{ActiveLink, Compiler};
use crate::proxy_protocol;
use crate::query::{ClickQuery, MAX_VALUE_BYTES};
use crate::redirect::is_link;
use crate::route::Choice;
use crate::server::{MAX_HEADER_BYTES, MAX_HEADERS};
use crate::shopper::Shopper;

pub use webhooks::webhooks;

/// Bytes of a connection, or what stands behind `/r/` in a request.
pub fn path_and_query(input: &[u8]) {
    connection(input);
    let target = [b"GET /r/", input, b" HTTP/1.1\r\nHost: go.example\r\n\r\n"].concat();
    connection(&target);
    query(&String::from_utf8_lossy(input));
}

/// What the fast lane takes is one whole head, and hyper reads the same in it.
fn connection(bytes: &[u8]) {
    let proxies = TrustedProxies::new(Vec::new(), ForwardingHeader::XForwardedFor);
    let Ok(Some(head)) = read_head(bytes, &proxies) else {
        return;
    };
    assert!(head.length <= MAX_HEADER_BYTES);
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    assert!(head.path.starts_with('/') && plain(head.path) && is_link(head.path));
    assert!(head.query.is_none_or(plain));
    query(head.query.unwrap_or_default());

    // What follows it is the next request's, and less is not enough.
    let whole = &bytes[..head.length];
    let again = read_head(whole, &proxies);
    assert_eq!(
        format!("{again:?}"),
        format!("{:?}", Ok::<_, ()>(Some(&head)))
    );
    let cut = read_head(&whole[..whole.len() - 1], &proxies);
    assert!(matches!(cut, Ok(None)));

    let said = format!("{:?} {:?} {}", head.path, head.query, head.host);
    let said = format!("{said} {:?}", head.shopper);
    assert_eq!(by_hyper(whole, &proxies), [said]);
}

/// What hyper, set up as the edge has it, reads in a connection's bytes: its requests.
fn by_hyper(bytes: &[u8], proxies: &TrustedProxies) -> Vec<String> {
    let requests = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| {
        assert_eq!(request.method(), Method::GET);
        assert!(request.body().is_end_stream());
        let host = client::host(&request).expect("a host");
        let (uri, fields) = (request.uri(), request.headers().iter());
        let fields = fields.map(|(n, v)| (n.as_str().as_bytes(), v.as_bytes()));
        requests.borrow_mut().push(format!(
            "{:?} {:?} {} {:?}",
            uri.path(),
            uri.query(),
            host.expect("a host"),
            Shopper::read(fields, proxies)
        ));
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let stream = tokio::io::join(bytes, tokio::io::sink());
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .half_close(true) // the bytes' end is no farewell
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    at_once(connection).expect("an orderly connection");
    requests.into_inner()
}

/// What is read of a query stands in it, and is bounded.
fn query(raw: &str) {
    let read = ClickQuery::read(Some(raw));
    let again = ClickQuery::read(Some(raw));
    assert_eq!(format!("{read:?}"), format!("{again:?}"));
    for value in read.sub_ids().iter().chain(read.utm()) {
        assert!(value.len() <= MAX_VALUE_BYTES);
        let is_given = pairs(raw.as_bytes()).any(|(_, given)| given.starts_with(&**value));
        assert!(value.is_empty() || is_given, "{value}");
    }
    if let Some(url) = read.url() {
        assert!(!url.is_empty() && pairs(raw.as_bytes()).any(|p| p == ("url".into(), url.into())));
    }
    let stored = read.stored_sub_ids();
    assert!(stored.len() <= read.sub_ids().len() && stored.last().is_none_or(|s| !s.is_empty()));
}

/// A tenant's cookie domain, the request's host, and then its `Cookie` lines.
pub fn cookie(input: &[u8]) {
    static KEYS: LazyLock<KeyRing> = LazyLock::new(|| {
        let key = format!("1:{}", "ab".repeat(32));
        key.parse().expect("a key")
    });
    static TOKEN: LazyLock<ClickToken> =
        LazyLock::new(|| ClickToken::mint(&KEYS, LinkId(3), Default::default()));
    /// One that the keys above did sign: the corpus has it.
    const GENUINE: &str = "AY86XH0ueryN7wEjRWeJqwAAAAAAAAADAfyZRNEFrGCdArog";

    let mut lines = input.split(|b| *b == b'\n');
    let mut text = || String::from_utf8_lossy(lines.next().unwrap_or_default());
    let (domain, host) = (text(), text());
    let lines: Vec<&[u8]> = lines.collect();

    let of_tenant = CookieDomain::new(&domain);
    let of_host = of_tenant.as_ref().and_then(|domain| domain.of_host(&host));
    if of_host.is_some() {
        assert!(*host == *domain || host.ends_with(&format!(".{domain}")));
    }

    // A visitor is recognised in the form that we write only.
    let writer = CookieWriter::new(true);
    let visitor_id = visitor(lines.iter().copied());
    let mut visitor_cookie = String::new();
    writer.visitor(visitor_id.unwrap_or_default(), of_host, &mut visitor_cookie);
    if let Some(id) = visitor_id {
        let (pair, _) = visitor_cookie.split_once(';').expect("attributes");
        assert!(lines.iter().any(|line| contains(line, pair)));
        assert_eq!(visitor(once(pair.as_bytes())), Some(id));
    }

    // Nobody else makes a click id.
    let mut headers = HeaderMap::new();
    for line in &lines {
        if let Ok(line) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, line);
        }
    }
    if let Some(token) = click_id(&headers) {
        assert!(!token.contains([';', '\r', '\n']));
        assert!(
            lines
                .iter()
                .any(|line| contains(line, &format!("aff_click={token}")))
        );
        assert_eq!(click_token::verify(&KEYS, token).is_ok(), token == GENUINE);
    }

    let domain = of_host.map(|_| &*domain);
    let window = u32::try_from(input.len()).unwrap_or(u32::MAX);
    let mut click_cookie = String::new();
    writer.click(TOKEN.as_str(), window, of_host, &mut click_cookie);
    for set in [&click_cookie, &visitor_cookie] {
        is_one_cookie(set, domain);
    }
    let mut found = Found::new("https://shop.example/".to_owned()).expect("a location");
    found.set_cookie(|out| out.push_str(&click_cookie));
    found.set_cookie(|out| out.push_str(&visitor_cookie));
    is_one_answer(found);
}

/// A `Set-Cookie` that says what we say, and nothing of anybody else's.
fn is_one_cookie(set: &str, domain: Option<&str>) {
    let mut attributes: Vec<&str> = set.split(';').skip(1).collect();
    let domain = domain.map(|domain| format!(" Domain={domain}"));
    attributes.retain(|a| !a.strip_prefix(" Max-Age=").is_some_and(is_number));
    attributes.retain(|a| Some(*a) != domain.as_deref());
    assert_eq!(
        attributes,
        [" Path=/", " Secure", " HttpOnly", " SameSite=Lax"]
    );
    assert!(set.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
}

fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}

/// A 302 ends where its head ends, and has the headers that we gave it.
fn is_one_answer(found: Found) {
    let mut bytes = Vec::new();
    found.write(&mut bytes, "Sat, 21 Nov 2026 15:00:00 GMT", true);
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut answer = httparse::Response::new(&mut fields);
    assert_eq!(answer.parse(&bytes), Ok(Status::Complete(bytes.len())));
    assert_eq!(answer.code, Some(302));
    let written: Vec<_> = answer.headers.iter().map(|f| (f.name, f.value)).collect();
    let by_hyper = found.into_answer();
    for (name, value) in by_hyper.headers() {
        assert!(written.contains(&(name.as_str(), value.as_bytes())));
    }
    // And length, date, connection.
    assert_eq!(written.len(), by_hyper.headers().len() + 3);
}

/// A peer's address, and then lines of the header in which a proxy names its client; or a stream that
/// begins with a PROXY header.
pub fn forwarding_headers(input: &[u8]) {
    proxy_header(input);

    let mut lines = input.split(|b| *b == b'\n');
    let peer = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let proxy = IpAddr::from([10, 0, 0, 1]);
    let peer = peer.and_then(|peer| peer.parse().ok()).unwrap_or(proxy);
    let mut lines: Vec<&[u8]> = lines.collect();

    // What a trusted proxy writes behind whatever came to it, and what came may be quoted in that.
    let came = lines.last().copied().unwrap_or_default();
    let mut quoted = b"for=203.0.113.77;host=\"".to_vec();
    for byte in came {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    let v4 = IpAddr::from([203, 0, 113, 77]);
    let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77]);
    let by_header: [(_, &[(&[u8], _)]); 2] = [
        (ForwardingHeader::XForwardedFor, &[(b"203.0.113.77", v4)]),
        (
            ForwardingHeader::Forwarded,
            &[
                (b"for=203.0.113.77;proto=https", v4),
                (b"proto=https; For=\"[2001:db8::77]:4711\"", v6),
                (&quoted, v4),
            ],
        ),
    ];
    for (header, appended) in by_header {
        let strict = TrustedProxies::new(Vec::new(), header);
        assert_eq!(strict.client_address(peer, &lines), peer.to_canonical());

        let networks = ["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"];
        let networks = networks.map(|network| network.parse().expect("a network"));
        let proxies = TrustedProxies::new(networks.into(), header);
        let client = proxies.client_address(peer, &lines);
        assert_eq!(client, client.to_canonical());
        if client != peer.to_canonical() {
            assert!(proxies.trusts(peer.to_canonical()), "{peer} named {client}");
            assert!(lines.iter().any(|line| stands_in(client, line)), "{client}");
        }

        for (element, address) in appended {
            lines.push(element);
            assert_eq!(proxies.client_address(proxy, &lines), *address);
            lines.pop();
            let joined = [came, b", ", element].concat();
            assert_eq!(proxies.client_address(proxy, &[&joined]), *address);
        }
    }
}

/// Whether `line` holds `address`, wherever and in whichever of its forms.
fn stands_in(address: IpAddr, line: &[u8]) -> bool {
    let of_address = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b'.' | b':');
    line.split(|b| !of_address(b))
        .filter_map(|word| std::str::from_utf8(word).ok())
        .flat_map(|word| once(word).chain(word.rsplit_once(':').map(|(word, _)| word)))
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .any(|named| named.to_canonical() == address)
}

/// A PROXY header is read to its end and not a byte further, and names whom it holds.
fn proxy_header(input: &[u8]) {
    let mut rest = input;
    let Ok(named) = at_once(proxy_protocol::read(&mut rest)) else {
        return;
    };
    let header = &input[..input.len() - rest.len()];
    let mut alone = header;
    let again = at_once(proxy_protocol::read(&mut alone));
    assert_eq!(again.expect("the same"), named);
    let mut short = &header[..header.len() - 1];
    assert!(at_once(proxy_protocol::read(&mut short)).is_err());

    if header.starts_with(b"PROXY ") {
        let line = header.strip_suffix(b"\r\n").expect("a line");
        assert!(header.len() <= 107 && !line.contains(&b'\n'));
        assert!(named.is_none_or(|named| stands_in(named.to_canonical(), line)));
    } else {
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        assert_eq!(header.len(), 16 + length);
        let held = match named {
            None => true,
            Some(IpAddr::V4(v4)) => header[16..].starts_with(&v4.octets()),
            Some(IpAddr::V6(v6)) => header[16..].starts_with(&v6.octets()),
        };
        assert!(held);
    }
}

/// A link's destination, a click's query, and then the hosts that its program allows `?url=` to lead to.
pub fn templates(input: &[u8]) {
    /// Shared, because it takes long to make.
    static COMPILER: LazyLock<Compiler> = LazyLock::new(Compiler::new);
    const TOKEN: &str = "AZpL-_tokenOf48characters0123456789abcdefghijklm";

    let mut lines = input.split(|b| *b == b'\n').map(String::from_utf8_lossy);
    let mut line = || lines.next().unwrap_or_default();
    let (destination, query) = (line(), line());
    // More than a link may name make it unreadable.
    let hosts: Vec<String> = lines.take(10).map(|host| host.into_owned()).collect();
    let Ok(template) = Template::parse(&destination) else {
        return;
    };

    // What a macro is filled in with changes nothing before it.
    let rendered = |value: &str| {
        let mut rendered = String::new();
        template.render(&mut rendered, |_| Value::Text(value));
        assert!(rendered.len() <= MAX_RENDERED_BYTES);
        Place::of(&rendered)
    };
    let home = rendered("x");
    assert_eq!(rendered(&query), home);
    let fixed = destination.split('{').next().unwrap_or_default();

    let link = |pass_query: bool| -> ActiveLink {
        let link = Link {
            link_id: 3,
            tenant_id: 7,
            affiliate_id: 5,
            destination: destination.to_string(),
            fallback_url: destination.to_string(),
            override_hosts: hosts.clone(),
            pass_query,
            ..Link::default()
        };
        let compiled = COMPILER.compile(&link.encode_to_vec(), TenantId(7));
        compiled.expect("a link with a good destination")
    };
    let (plain, passing) = (link(false), link(true));
    let query = ClickQuery::read(Some(&query));
    let sent = |link: &ActiveLink, choice: &Choice<'_>| {
        let sent = location(link, choice, &query, TOKEN).expect("a place to go to");
        assert!(sent.len() <= MAX_LOCATION_BYTES);
        is_one_answer(Found::new(sent.clone()).expect("a header's text"));
        sent
    };

    let fallback = sent(&passing, &Choice::fallback(&passing, Outcome::Expired));
    assert!(Place::of(&fallback) == home && fallback.starts_with(fixed));

    let before = sent(&plain, &Choice::plain(&plain));
    let place = Place::of(&before);
    let overridden = before != fallback;
    if overridden {
        let asked = query.url().expect("somewhere to go instead");
        assert!(
            matches!(&*place.scheme, "http" | "https") && place.port.is_none(),
            "{asked}"
        );
        assert!(
            hosts.iter().any(|host| is_of(&place.host, host)),
            "{asked} led to {before}"
        );
    } else {
        assert!(place == home);
    }

    // Parameters that are passed on stand behind the destination's own, and forge no click id.
    let after = sent(&passing, &Choice::plain(&passing));
    assert!(Place::of(&after) == place);
    let (own, all) = (parameters(&before), parameters(&after));
    let passed_on = all
        .strip_prefix(&*own)
        .expect("the destination's own first");
    assert!(
        passed_on
            .iter()
            .all(|(name, _)| name != "click_id" && name != "url")
    );
    if overridden {
        assert!(
            all.iter()
                .all(|(name, value)| name != "click_id" || value == TOKEN)
        );
    }
}

/// Where a URL leads, as browsers read it.
#[derive(Debug, PartialEq)]
struct Place {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Place {
    fn of(location: &str) -> Self {
        assert!(location.bytes().all(|b| b.is_ascii_graphic()), "{location}");
        let url = Url::parse(location).expect("a URL");
        assert!(
            url.username().is_empty() && url.password().is_none(),
            "{location}"
        );
        Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str().expect("a host").to_owned(),
            port: url.port(),
        }
    }
}

fn parameters(location: &str) -> Vec<(String, String)> {
    let url = Url::parse(location).expect("a URL");
    url.query_pairs().into_owned().collect()
}

/// Whether a program that allows `allowed` allows `host`.
fn is_of(host: &str, allowed: &str) -> bool {
    let allowed = allowed.to_ascii_lowercase();
    match allowed.strip_prefix("*.") {
        Some(parent) => host
            .strip_suffix(parent)
            .is_some_and(|sub| sub.len() > 1 && sub.ends_with('.')),
        None => host == allowed,
    }
}

/// A segment's file; or what to write into one and how to damage it.
pub fn journal_records(input: &[u8]) {
    let header = input.get(..segment::HEADER_BYTES);
    let header = header.and_then(|header| segment::read_header(header, input.len()));
    let (id, from) = header.map_or((Uuid::nil(), 0), |h| (h.id, h.acknowledged));
    assert!(from <= input.len());
    read(Seed::new(id), input, from);
    damaged(input);
}

/// Reads the records, and checks that they are whole, in order and in place, and that whatever else
/// stands there is noticed.
fn read(seed: Seed, bytes: &[u8], from: usize) -> Vec<Record<'_>> {
    let mut records = Records::new(seed, bytes, from);
    let mut found: Vec<Record<'_>> = Vec::new();
    let (mut end, mut stray) = (from, false);
    for record in records.by_ref() {
        let at = start(bytes, &record);
        assert!(at >= end && record.end <= bytes.len());
        assert!(
            found
                .last()
                .is_none_or(|last| last.sequence < record.sequence)
        );
        let mut header = [0; record::HEADER_BYTES];
        record::write_header(&mut header, seed, record.sequence, record.payload);
        assert!(bytes[at..].starts_with(&header));
        stray |= bytes[end..at].iter().any(|b| *b != 0);
        end = record.end;
        found.push(record);
    }
    stray |= bytes[end..].iter().any(|b| *b != 0);
    assert_eq!(records.damaged(), stray);
    found
}

/// Where in `bytes` a record that was read there begins.
fn start(bytes: &[u8], record: &Record<'_>) -> usize {
    record.payload.as_ptr().addr() - bytes.as_ptr().addr() - record::HEADER_BYTES
}

/// Writes records, damages some bytes, and expects every record back that was not touched.
///
/// The input's first byte says how often it is damaged, four bytes each time say how, and the lines
/// that follow are payloads.
fn damaged(input: &[u8]) {
    let Some((damages, rest)) = input.split_first() else {
        return;
    };
    let (damages, payloads) = rest.split_at(rest.len().min(usize::from(damages % 8) * 4));
    let payloads: Vec<&[u8]> = payloads
        .split(|b| *b == b'\n')
        .filter(|payload| !payload.is_empty())
        .collect();
    // As nobody outside knows a segment's id, so that no payload can hold a record of it.
    let seed = Seed::new(Uuid::from_u128(u128::from(crc32c::crc32c(input))));
    let mut written = record::written(seed, &payloads);
    written.resize(written.len() + 64, 0);
    let before = read(seed, &written, 0);
    assert!(before.iter().map(|record| record.payload).eq(payloads));

    let mut after = written.clone();
    for damage in damages.chunks_exact(4) {
        let at = usize::from(u16::from_be_bytes([damage[0], damage[1]])) % after.len();
        match damage[2] {
            0 => after[at..]
                .iter_mut()
                .take(damage[3].into())
                .for_each(|b| *b = 0),
            _ => after[at] ^= damage[3],
        }
    }
    let found = read(seed, &after, 0);
    let untouched = |record: &Record<'_>| {
        let at = start(&written, record);
        let whole = at..at + record::HEADER_BYTES + record.payload.len();
        after[whole.clone()] == written[whole]
    };
    let expected: Vec<_> = before.iter().copied().filter(untouched).collect();
    assert_eq!(found, expected);

    // Whoever goes on behind any of them finds the rest.
    for (n, record) in found.iter().enumerate() {
        assert_eq!(read(seed, &after, record.end), found[n + 1..]);
    }
}

/// The result of a future that waits for nobody.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("memory is always there"),
    }
}

fn contains(line: &[u8], text: &str) -> bool {
    line.windows(text.len()).any(|part| part == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was once found stays found, without a fuzzer.
    #[test]
    fn the_corpus_holds() {
        let targets = [
            ("path_and_query", path_and_query as fn(&[u8])),
            ("cookie", cookie),
            ("forwarding_headers", forwarding_headers),
            ("templates", templates),
            ("journal_records", journal_records),
            ("webhooks", webhooks),
        ];
        for (name, target) in targets {
            let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            let mut inputs = 0;
            for input in std::fs::read_dir(folder).unwrap() {
                let path = input.unwrap().path();
                println!("{}", path.display()); // shown when it fails
                target(&std::fs::read(&path).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "{name}");
        }
    }
}
