//! What is asked: `GET /r/CODE` with a browser's headers, for codes in the proportions of Zipf's law.

use std::net::SocketAddr;

use crate::dice::roll;

/// Draws that are made beforehand; a longer run uses them again.
const DRAWS: usize = 1 << 20;

/// The weight of the most popular code. The n-th has the n-th part of it: Zipf's law with exponent 1, in
/// whole numbers; with 100,000 codes the first takes some 8 % of the requests.
const FIRST_WEIGHT: u64 = 1 << 32;

/// What a browser sends beside the request line and `Host`.
pub const BROWSER_HEADERS: [(&str, &str); 4] = [
    (
        "User-Agent",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    ),
    ("Accept-Language", "en-US,en;q=0.8"),
    ("Referer", "https://blog.example/the-ten-best-knives"),
    ("Cookie", "aff_visitor=AZASNFZ4erwN7wEjRWeJqw"),
];

/// The requests of a run, in order.
#[derive(Debug)]
pub struct Requests {
    codes: Vec<Box<str>>,
    /// Places in `codes`, asked one after the other.
    order: Vec<u32>,
    /// Whether the order begins anew at its end.
    again: bool,
    /// What follows the code; requests take turns.
    tails: Vec<Vec<u8>>,
}

/// Visitors who click in turn, and the addresses that they share. Each agent meets each referrer.
const SHOPPERS: usize = 1_001;
const ADDRESSES: usize = 250;
const AGENTS: [&str; 4] = [
    BROWSER_HEADERS[0].1,
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
];
const REFERRERS: [&str; 5] = [
    BROWSER_HEADERS[2].1,
    "https://www.google.com/",
    "https://www.facebook.com/",
    "https://forum.example/t/1",
    "https://news.example/",
];

impl Requests {
    /// Draws among `codes`, the first the most popular, without end; the same for the same seed.
    /// `query` follows the code, with its `?`; it may be empty.
    #[must_use]
    pub fn zipf(codes: Vec<Box<str>>, host: SocketAddr, query: &str, seed: u64) -> Self {
        let weights = (1..).take(codes.len()).map(|n| FIRST_WEIGHT / n);
        let sums: Vec<u64> = weights
            .scan(0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let total = sums.last().copied().unwrap_or(1).max(1);
        let draw = |n| {
            let drawn = roll(seed, "code", n) % total;
            u32::try_from(sums.partition_point(|sum| *sum <= drawn)).unwrap_or(u32::MAX)
        };
        let order = if codes.is_empty() {
            Vec::new()
        } else {
            (0..DRAWS).map(draw).collect()
        };
        Self::new(codes, order, true, host, query)
    }

    /// Each code once.
    #[must_use]
    pub fn once(codes: Vec<Box<str>>, host: SocketAddr) -> Self {
        let order = (0..).take(codes.len()).collect();
        Self::new(codes, order, false, host, "")
    }

    fn new(
        codes: Vec<Box<str>>,
        order: Vec<u32>,
        again: bool,
        host: SocketAddr,
        query: &str,
    ) -> Self {
        Self {
            codes,
            order,
            again,
            tails: vec![tail(host, query, &BROWSER_HEADERS)],
        }
    }

    /// The same requests, by many shoppers in turn instead of one: other visitors, addresses (believed of who is
    /// trusted to forward), browsers and referrers.
    #[must_use]
    pub fn of_many(mut self, host: SocketAddr, query: &str) -> Self {
        let shopper = |n: usize| {
            let visitor = format!("aff_visitor=AZASNFZ4erwN7wEjR{n:04}w");
            let address = format!("198.51.100.{}", n % ADDRESSES);
            let headers = [
                ("User-Agent", AGENTS[n % AGENTS.len()]),
                ("Accept-Language", "en-US,en;q=0.8"),
                ("Referer", REFERRERS[n % REFERRERS.len()]),
                ("X-Forwarded-For", address.as_str()),
                ("Cookie", visitor.as_str()),
            ];
            tail(host, query, &headers)
        };
        self.tails = (0..SHOPPERS).map(shopper).collect();
        self
    }

    /// How many there are; none: without end.
    pub(crate) fn len(&self) -> Option<u64> {
        let len = u64::try_from(self.order.len()).unwrap_or(u64::MAX);
        (!self.again || len == 0).then_some(len)
    }

    /// Replaces `out` by the n-th request, and says which code it asks for. Nothing past the end.
    pub(crate) fn write(&self, n: u64, out: &mut Vec<u8>) -> u32 {
        out.clear();
        let len = u64::try_from(self.order.len()).unwrap_or(u64::MAX);
        let at = n.checked_rem(len).filter(|_| self.again || n < len);
        let place = at
            .and_then(|at| self.order.get(usize::try_from(at).ok()?))
            .copied()
            .unwrap_or(u32::MAX);
        let code = usize::try_from(place).ok().and_then(|n| self.codes.get(n));
        if let Some(code) = code {
            out.extend_from_slice(b"GET /r/");
            out.extend_from_slice(code.as_bytes());
            let turn = usize::try_from(n)
                .unwrap_or(0)
                .checked_rem(self.tails.len());
            let tail = turn.and_then(|turn| self.tails.get(turn));
            out.extend_from_slice(tail.map_or(&[], Vec::as_slice));
        }
        place
    }
}

/// What follows a request's code.
fn tail(host: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut tail = format!("{query} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        tail.extend([name, ": ", value, "\r\n"]);
    }
    tail.push_str("\r\n");
    tail.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(n: usize) -> Vec<Box<str>> {
        (0..n).map(|n| format!("c{n}").into()).collect()
    }

    fn host() -> SocketAddr {
        "127.0.0.1:8080".parse().unwrap()
    }

    #[test]
    fn popularity_falls_as_zipf_says() {
        let requests = Requests::zipf(codes(1000), host(), "", 7);
        let mut counts = vec![0_usize; 1000];
        for code in &requests.order {
            counts[*code as usize] += 1;
        }
        // The harmonic number of 1000 is 7.485: the first takes a 7.485th, the tenth a tenth of that.
        let first = DRAWS * 1000 / 7485;
        assert!(counts[0].abs_diff(first) < first / 50, "{}", counts[0]);
        assert!(
            counts[9].abs_diff(first / 10) < first / 200,
            "{}",
            counts[9]
        );
        assert!(counts.iter().all(|count| *count > 0));
    }

    #[test]
    fn a_request_is_what_a_browser_would_send() {
        let requests = Requests::zipf(codes(1), host(), "?sub1=x", 7);
        let mut out = b"old".to_vec();
        requests.write(u64::MAX, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("GET /r/c0?sub1=x HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: "),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n"), "{text}");
        assert_eq!(requests.len(), None);
    }

    #[test]
    fn many_shoppers_take_turns() {
        let requests = Requests::zipf(codes(3), host(), "?sub1=x", 7).of_many(host(), "?sub1=x");
        let text = |n| {
            let mut out = Vec::new();
            requests.write(n, &mut out);
            String::from_utf8(out).unwrap()
        };
        let line = |n, name: &str| {
            let text = text(n);
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.to_owned()
        };
        assert!(text(5).contains("?sub1=x HTTP/1.1\r\n"), "{}", text(5));
        assert!(text(5).ends_with("\r\n\r\n"));
        for name in ["Cookie", "User-Agent", "Referer", "X-Forwarded-For"] {
            assert_ne!(line(0, name), line(1, name));
        }
        let whole = u64::try_from(SHOPPERS).unwrap();
        assert_eq!(line(2, "Cookie"), line(2 + whole, "Cookie"));
        let visitors: std::collections::BTreeSet<String> =
            (0..whole).map(|n| line(n, "Cookie")).collect();
        assert_eq!(visitors.len(), SHOPPERS);
    }

    #[test]
    fn each_once_ends() {
        let requests = Requests::once(codes(3), host());
        assert_eq!(requests.len(), Some(3));
        let mut out = Vec::new();
        assert_eq!(requests.write(2, &mut out), 2);
        assert!(out.starts_with(b"GET /r/c2 HTTP"));
        requests.write(3, &mut out);
        assert!(out.is_empty());
        assert_eq!(Requests::zipf(Vec::new(), host(), "", 1).len(), Some(0));
    }
}
