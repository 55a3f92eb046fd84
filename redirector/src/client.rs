//! Who is asking: the client's address, believed from a forwarding header only when a trusted proxy
//! wrote it, and what the client says of itself, cut to a length that we store.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{AsHeaderName, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const SEC_GPC: HeaderName = HeaderName::from_static("sec-gpc");
const PREFETCH_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-purpose"),
    HeaderName::from_static("x-moz"),
];

/// Networks whose word on the client's address is taken.
pub(crate) struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// The client's address. Each proxy appends the address that it saw, so the list is read from
    /// its end for as long as its authors are trusted; what stands further left is hearsay.
    pub(crate) fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lists = headers.get_all(X_FORWARDED_FOR);
        let mut entries = lists
            .iter()
            .rev()
            .flat_map(|list| list.as_bytes().rsplit(|b| *b == b','));
        while self.trusts(client) {
            let Some(named) = entries.next().and_then(address) else {
                break;
            };
            client = named;
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// One entry: an address, perhaps with a port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let address = entry
        .parse::<IpAddr>()
        .or_else(|_| entry.parse::<std::net::SocketAddr>().map(|a| a.ip()))
        .ok()?;
    Some(address.to_canonical())
}

/// Whether the client asked not to be tracked (Global Privacy Control).
pub(crate) fn opted_out(headers: &HeaderMap) -> bool {
    headers.get(SEC_GPC).is_some_and(|v| v.as_bytes() == b"1")
}

/// Whether a browser only looks ahead, without a person having clicked.
pub(crate) fn is_prefetch(headers: &HeaderMap) -> bool {
    PREFETCH_HEADERS
        .iter()
        .filter_map(|name| headers.get(name))
        .any(|value| {
            let value = value.as_bytes().to_ascii_lowercase();
            // prefetch, prefetch;prerender, prerender, preview
            value.windows(3).any(|w| w == b"pre")
        })
}

/// Puts a header's text of at most `max_bytes` into `out`; empty when absent. Bytes that are no UTF-8
/// are replaced.
pub(crate) fn read(
    headers: &HeaderMap,
    name: impl AsHeaderName,
    max_bytes: usize,
    out: &mut String,
) {
    out.clear();
    if let Some(value) = headers.get(name) {
        out.push_str(cut(&String::from_utf8_lossy(value.as_bytes()), max_bytes));
    }
}

/// The longest beginning of `text` within `max_bytes` that ends between two characters.
pub(crate) fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn seen(trusted: &[&str], peer: &str, lists: &[&'static str]) -> String {
        let proxies = TrustedProxies::new(trusted.iter().map(|n| n.parse().unwrap()).collect());
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(list));
        }
        proxies
            .client_address(peer.parse().unwrap(), &headers)
            .to_string()
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
    fn looking_ahead_is_recognised() {
        let with = |name: HeaderName, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            is_prefetch(&headers)
        };
        assert!(with(PREFETCH_HEADERS[0].clone(), "prefetch;prerender"));
        assert!(with(PREFETCH_HEADERS[1].clone(), "prefetch"));
        assert!(with(PREFETCH_HEADERS[2].clone(), "preview"));
        assert!(with(PREFETCH_HEADERS[3].clone(), "Prefetch"));
        assert!(!with(PREFETCH_HEADERS[0].clone(), "navigate"));
        assert!(!is_prefetch(&HeaderMap::new()));
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("grüße", 3), "gr");
        assert_eq!(cut("grüße", 4), "grü");
        assert_eq!(cut("ab", 9), "ab");
    }
}
