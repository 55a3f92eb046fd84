//! Who is asking, and for which host: the client's address, believed from a forwarding header only
//! when a trusted proxy wrote it, and what the client says of itself, cut to a length that we store.
//!
//! A proxy passes on the headers that it doesn't write itself. Of `X-Forwarded-For` and `Forwarded`
//! only the one that the trusted proxies write (`FORWARDING_HEADER`) is read; the other one may be a
//! forgery that came through, whether or not the first is there.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use hyper::header::HOST;
use hyper::{Request, Version};
use ipnet::IpNet;
use tributary_shared::links::MAX_HOST_CHARS;

/// The header in which trusted proxies name their client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ForwardingHeader {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// Networks whose word on the client's address is taken, and where they say it.
pub(crate) struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ForwardingHeader,
}

impl TrustedProxies {
    pub(crate) fn new(networks: Vec<IpNet>, header: ForwardingHeader) -> Self {
        Self { networks, header }
    }

    /// The client's address. Each proxy appends the address that it saw, so the list is read from
    /// its end for as long as its authors are trusted; what stands further left is hearsay. An entry
    /// that is no address (`unknown`, a hidden name) ends the search: its author is the client.
    pub(crate) fn client_address(&self, peer: IpAddr, lines: &[&[u8]]) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer; // the usual case: no header is looked at
        }
        let lines = lines.iter().rev();
        match self.header {
            ForwardingHeader::XForwardedFor => {
                let entries = lines.flat_map(|line| line.rsplit(|b| *b == b','));
                self.last_untrusted(peer, entries.map(node))
            }
            ForwardingHeader::Forwarded => {
                let elements = lines.flat_map(|line| rsplit_unquoted(line, b','));
                self.last_untrusted(peer, elements.map(forwarded_for))
            }
        }
    }

    /// The name of the header whose lines [`Self::client_address`] wants, in order.
    pub(crate) fn header_name(&self) -> &'static str {
        match self.header {
            ForwardingHeader::XForwardedFor => "x-forwarded-for",
            ForwardingHeader::Forwarded => "forwarded",
        }
    }

    /// Follows `entries` from a trusted peer to the first address that is not trusted.
    fn last_untrusted(
        &self,
        peer: IpAddr,
        mut entries: impl Iterator<Item = Option<IpAddr>>,
    ) -> IpAddr {
        let mut client = peer;
        while self.trusts(client) {
            let Some(named) = entries.next().flatten() else {
                break;
            };
            client = named;
        }
        client
    }

    /// Whether a canonical address is a trusted proxy's.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|n| n.contains(&address))
    }
}

/// The address of one element of `Forwarded`: the only `for=` among its pairs.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut values = rsplit_unquoted(element, b';').filter_map(|pair| {
        let (name, value) = pair.split_at_checked(pair.iter().position(|b| *b == b'=')?)?;
        let is_for = name.trim_ascii().eq_ignore_ascii_case(b"for");
        is_for.then_some(&value[1..])
    });
    let value = values.next()?.trim_ascii();
    if values.next().is_some() {
        return None;
    }
    let unquoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    node(unquoted.unwrap_or(value))
}

/// The parts of `text` between `separator`s outside of quoted strings, the last one first. Read from
/// the end, because that is what a trusted proxy wrote: quotes that stand open further left can't
/// swallow it.
fn rsplit_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let mut quoted = false;
        for (at, byte) in text.iter().enumerate().rev() {
            if *byte == b'"' {
                let backslashes = text[..at].iter().rev().take_while(|b| **b == b'\\');
                quoted ^= !quoted || backslashes.count() % 2 == 0;
            } else if *byte == separator && !quoted {
                rest = Some(&text[..at]);
                return Some(&text[at + 1..]);
            }
        }
        Some(text)
    })
}

/// One entry: an address, an IPv6 one perhaps in brackets, perhaps with a port (or a hidden one).
fn node(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim_ascii();
    let is_port = |port: &str| {
        let port = port.strip_prefix('_').unwrap_or(port);
        (1..=16).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let address = if let Some(bracketed) = entry.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return None;
        }
        IpAddr::V6(address.parse::<Ipv6Addr>().ok()?)
    } else if let Some((address, port)) = entry.split_once(':')
        && is_port(port)
    {
        IpAddr::V4(address.parse::<Ipv4Addr>().ok()?)
    } else {
        entry.parse::<IpAddr>().ok()?
    };
    Some(address.to_canonical())
}

/// Why it can't be said which host a request is for. Each is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHost {
    #[error("the request has several Host headers")]
    Several,
    #[error("the request has no Host header")]
    Absent,
    #[error("the request's host is not a host name or address")]
    Malformed,
}

/// The host that a request is for, as keys hold it: lower case, without port and trailing dot; an
/// IPv6 address in brackets. None when an old client (HTTP/1.0) names none.
///
/// A host in the request's address (HTTP/2, or a request as if to a proxy) counts more than the
/// header, as RFC 9112, section 3.2.2 says.
pub(crate) fn host<B>(request: &Request<B>) -> Result<Option<Cow<'_, str>>, BadHost> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(BadHost::Several);
    }
    let authority = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => header.to_str().map_err(|_| BadHost::Malformed)?,
        (None, None) if request.version() < Version::HTTP_11 => return Ok(None),
        (None, None) => return Err(BadHost::Absent),
    };
    normal_host(authority).map(Some).ok_or(BadHost::Malformed)
}

/// The host of `host[:port]` in normal form, as [`host`] answers it; none when that is not what it is.
pub(crate) fn normal_host(authority: &str) -> Option<Cow<'_, str>> {
    let (host, port) = if authority.starts_with('[') {
        let (host, port) = authority.split_at(authority.find(']')? + 1);
        host.get(1..host.len() - 1)?.parse::<Ipv6Addr>().ok()?;
        (host, port)
    } else {
        let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
        let host = host.strip_suffix('.').unwrap_or(host);
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if !(1..=MAX_HOST_CHARS).contains(&host.len()) || !host.bytes().all(known) {
            return None;
        }
        (host, port)
    };
    // A port may be empty, but not left out after its colon's place was taken by something else.
    let digits = match port.as_bytes() {
        [] => port,
        [b':', ..] => &port[1..],
        _ => return None,
    };
    if digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// The longest beginning of `text` within `max_bytes` that ends between two characters.
pub(crate) fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shopper::Shopper;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    const X_FORWARDED_FOR: &str = "X-Forwarded-For";
    const FORWARDED: &str = "Forwarded";

    fn seen_in(
        header: ForwardingHeader,
        trusted: &[&str],
        peer: &str,
        fields: &[(&str, &str)],
    ) -> String {
        let networks = trusted.iter().map(|n| n.parse().unwrap()).collect();
        let proxies = TrustedProxies::new(networks, header);
        let fields = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        let lines = Shopper::read(fields, &proxies).forwarding;
        proxies
            .client_address(peer.parse().unwrap(), &lines)
            .to_string()
    }

    fn seen(trusted: &[&str], peer: &str, lists: &[&str]) -> String {
        let fields: Vec<_> = lists.iter().map(|l| (X_FORWARDED_FOR, *l)).collect();
        seen_in(ForwardingHeader::XForwardedFor, trusted, peer, &fields)
    }

    /// As seen behind the proxies 10.0.0.0/8 that write `Forwarded`.
    fn forwarded(lists: &[&str]) -> String {
        let fields: Vec<_> = lists.iter().map(|l| (FORWARDED, *l)).collect();
        seen_in(
            ForwardingHeader::Forwarded,
            &["10.0.0.0/8"],
            "10.0.0.1",
            &fields,
        )
    }

    #[test]
    fn a_forwarded_address_is_believed_only_from_a_trusted_proxy() {
        let proxies = ["10.0.0.0/8", "::1/128"];
        // Nobody is trusted: the header is the client's own invention.
        assert_eq!(seen(&[], "192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(seen(&proxies, "192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(seen(&proxies, "10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        // Two proxies in a row, and a forged entry left of the truth.
        assert_eq!(
            seen(&proxies, "10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"]),
            "203.0.113.9"
        );
        assert_eq!(
            seen(&proxies, "10.0.0.1", &["1.1.1.1", "203.0.113.9,10.0.0.2"]),
            "203.0.113.9"
        );
    }

    #[test]
    fn odd_entries_end_the_search() {
        let proxies = ["10.0.0.0/8"];
        assert_eq!(seen(&proxies, "10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(
            seen(&proxies, "10.0.0.1", &["203.0.113.9, unknown"]),
            "10.0.0.1"
        );
        assert_eq!(
            seen(&proxies, "10.0.0.1", &["203.0.113.9:4711"]),
            "203.0.113.9"
        );
        assert_eq!(
            seen(&proxies, "10.0.0.1", &["[2001:db8::1]:80"]),
            "2001:db8::1"
        );
        assert_eq!(
            seen(&proxies, "::ffff:10.0.0.1", &["2001:db8::2"]),
            "2001:db8::2"
        );
        assert_eq!(
            seen(&proxies, "10.0.0.1", &["10.0.0.3, 10.0.0.2"]),
            "10.0.0.3"
        );
    }

    #[test]
    fn forwarded_is_read_in_all_its_forms() {
        for (list, client) in [
            ("for=203.0.113.9", "203.0.113.9"),
            (
                "For=203.0.113.9;proto=https;by=10.0.0.1;host=a.b",
                "203.0.113.9",
            ),
            ("proto=http; FOR = \"203.0.113.9:4711\"", "203.0.113.9"),
            ("for=203.0.113.9:_hidden", "203.0.113.9"),
            ("for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=\"[2001:db8:cafe::17]\"", "2001:db8:cafe::17"),
            ("for=\"[::ffff:203.0.113.9]\"", "203.0.113.9"),
            ("for=1.1.1.1, for=203.0.113.9, for=10.0.0.2", "203.0.113.9"),
            (
                "for=1.1.1.1,for=203.0.113.9;ext=\"a,b;for=2.2.2.2\"",
                "203.0.113.9",
            ),
            (
                "for=203.0.113.9;ext=\"\\\"for=2.2.2.2, for=3.3.3.3\"",
                "203.0.113.9",
            ),
            // What a client left open doesn't swallow what the proxy wrote behind it.
            ("for=\"1.1.1.1, for=203.0.113.9", "203.0.113.9"),
            ("for=\"1.1.1.1\\, for=\"[2001:db8::1]:80\"", "2001:db8::1"),
        ] {
            assert_eq!(forwarded(&[list]), client, "{list}");
        }
        assert_eq!(
            forwarded(&["for=1.1.1.1, for=203.0.113.9", "for=10.0.0.2"]),
            "203.0.113.9"
        );
    }

    #[test]
    fn what_is_no_address_in_forwarded_ends_the_search() {
        for list in [
            "",
            "for=unknown",
            "for=_hidden",
            "for=203.0.113.9, for=_SEVKISEK;proto=http",
            "by=203.0.113.9",
            "for=203.0.113.9;for=203.0.113.8",
            "for=",
            "for",
            "for=\"",
            "for=\"203.0.113.9",
            "for=[2001:db8::1",
            "for=[2001:db8::1]x",
            "for=\"[203.0.113.9]\"",
            "for=203.0.113.9:",
            "for=203.0.113.9 1",
            "203.0.113.9",
            "for=203.0.113.9,",
        ] {
            assert_eq!(forwarded(&[list]), "10.0.0.1", "{list}");
        }
        assert_eq!(
            forwarded(&["for=203.0.113.9", "for=_x, for=10.0.0.2"]),
            "10.0.0.2"
        );
    }

    #[test]
    fn only_the_header_that_the_proxies_write_is_read() {
        let both = [
            (X_FORWARDED_FOR, "203.0.113.9"),
            (FORWARDED, "for=198.51.100.1"),
        ];
        let of = |header, fields: &[_]| seen_in(header, &["10.0.0.0/8"], "10.0.0.1", fields);
        assert_eq!(of(ForwardingHeader::XForwardedFor, &both), "203.0.113.9");
        assert_eq!(of(ForwardingHeader::Forwarded, &both), "198.51.100.1");
        assert_eq!(of(ForwardingHeader::XForwardedFor, &both[1..]), "10.0.0.1");
        assert_eq!(of(ForwardingHeader::Forwarded, &both[..1]), "10.0.0.1");
    }

    fn host_of(uri: &str, version: Version, hosts: &[&[u8]]) -> Result<Option<String>, BadHost> {
        let mut request = Request::builder().uri(uri).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let request = request.body(()).unwrap();
        host(&request).map(|host| host.map(Cow::into_owned))
    }

    #[test]
    fn a_host_is_read_in_normal_form() {
        for (named, expected) in [
            ("go.shop.example", "go.shop.example"),
            ("Go.SHOP.example:8443", "go.shop.example"),
            ("go.shop.example.", "go.shop.example"),
            ("go.shop.example.:80", "go.shop.example"),
            ("go.shop.example:", "go.shop.example"),
            ("localhost:8080", "localhost"),
            ("127.0.0.1:8080", "127.0.0.1"),
            ("[::1]:8080", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
        ] {
            let found = host_of("/r/demo", Version::HTTP_11, &[named.as_bytes()]);
            assert_eq!(found, Ok(Some(expected.to_owned())), "{named}");
        }
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        let long = "a".repeat(MAX_HOST_CHARS + 1);
        for named in [
            &b""[..],
            b".",
            b":80",
            b"a b",
            b"a/b",
            b"u@a.b",
            b"a.b:80:80",
            b"a.b:x",
            b"a.b:123456",
            b"a.b:+80",
            b"a,b",
            b"::1",
            b"[::1",
            b"[::1]80",
            b"[a.b]",
            b"[]",
            b"[",
            b"a.b\xff",
            b"a%2eb",
            b"a.b#",
            b"a.b?",
            b"a\tb",
            long.as_bytes(),
        ] {
            let found = host_of("/r/demo", Version::HTTP_11, &[named]);
            assert_eq!(found, Err(BadHost::Malformed), "{}", named.escape_ascii());
        }
        let several: [&[u8]; 2] = [b"a.b", b"a.b"];
        assert_eq!(
            host_of("/", Version::HTTP_11, &several),
            Err(BadHost::Several)
        );
        assert_eq!(host_of("/", Version::HTTP_11, &[]), Err(BadHost::Absent));
        assert_eq!(host_of("/", Version::HTTP_2, &[]), Err(BadHost::Absent));
        assert_eq!(host_of("/", Version::HTTP_10, &[]), Ok(None));
    }

    #[test]
    fn the_address_counts_more_than_the_header() {
        let named = |uri| host_of(uri, Version::HTTP_11, &[b"b.example"]);
        assert_eq!(
            named("http://A.example:80/r/x"),
            Ok(Some("a.example".into()))
        );
        assert_eq!(named("http://u@a.example/r/x"), Err(BadHost::Malformed));
        let http2 = host_of("https://a.example/r/x", Version::HTTP_2, &[]);
        assert_eq!(http2, Ok(Some("a.example".into())));
    }

    proptest! {
        #[test]
        fn no_header_is_too_odd(
            lists in proptest::collection::vec("[\\x20-\\x7e]{0,40}|[for=\",;\\\\\\[\\]:.0-9 ]{0,40}", 0..4),
        ) {
            let lists: Vec<_> = lists.iter().map(String::as_str).collect();
            let _ = (forwarded(&lists), seen(&["10.0.0.0/8"], "10.0.0.1", &lists));
        }

        /// Whatever a client sends along, the address that the proxy appended is the one believed.
        #[test]
        fn a_prefix_changes_nothing(prefix in "[\\x20-\\x7e]{0,60}", quoted in any::<bool>()) {
            let own = if quoted { "for=\"[2001:db8::9]:4711\"" } else { "proto=http;for=\"2001:db8::9\"" };
            prop_assert_eq!(forwarded(&[&format!("{prefix}, {own}")]), "2001:db8::9");
            prop_assert_eq!(forwarded(&[&prefix, own]), "2001:db8::9");
            let list = format!("{prefix},2001:db8::9");
            prop_assert_eq!(seen(&["10.0.0.0/8"], "10.0.0.1", &[&list]), "2001:db8::9");
        }

        #[test]
        fn no_host_is_too_odd(named in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&named) {
                let found = host_of("/", Version::HTTP_11, &[value.as_bytes()]);
                if let Ok(Some(found)) = found {
                    prop_assert!(!found.is_empty() && found.len() <= MAX_HOST_CHARS);
                    prop_assert!(!found.bytes().any(|b| b.is_ascii_uppercase()));
                }
            }
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("grüße", 3), "gr");
        assert_eq!(cut("grüße", 4), "grü");
        assert_eq!(cut("ab", 9), "ab");
    }
}
